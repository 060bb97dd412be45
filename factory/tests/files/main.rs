//! `image-factory` as a user runs it: files in, files out, what it said and its exit code. No network, no cluster.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod crashes;
mod golden;
mod kargo;
mod refusals;
mod scale;
mod workshop;
