//! drop-coordinator: computes desired images and pacing tokens, and writes status.
//!
//! `core` decides; `run` wires it to the world. One folder is one capability, with what it decides and what it does in
//! separate files.

pub mod args;
pub mod cached_image;
pub mod clock;
pub mod core;
pub mod credentials;
pub mod errands;
pub mod identity;
pub mod image;
pub mod index;
pub mod lead;
pub mod lease;
pub mod logins;
pub mod machine;
pub mod metrics;
pub mod node_set;
pub mod objects;
pub mod pacing;
pub mod plan;
pub mod registries;
pub mod report;
pub mod rights;
pub mod run;
pub mod session;
pub mod watch;
