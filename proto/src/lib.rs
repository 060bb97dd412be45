//! The protocol between coordinator and agents: the messages and the service of `coordinator.proto`, whose comments are the
//! protocol document.
//!
//! The generated structs are plain data, so the state machines on both sides take and return them as they are.

mod class;
mod codec;
mod credential;

pub use class::Scope;

/// Largest message that an agent accepts. A complete Desired of 10,000 references of 255 bytes fits three times.
pub const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;

/// Largest message that the coordinator accepts. An agent cuts what is longer; a small limit keeps what a hostile one can make
/// the coordinator unpack small, too.
pub const MAX_AGENT_MESSAGE_BYTES: usize = 1024 * 1024;

// prost and tonic write this code; its documentation is the proto file's.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]
mod generated {
    tonic::include_proto!("drop.v1");
}

pub use generated::*;
