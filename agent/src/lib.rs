//! drop-agent: pulls images through the node's CRI socket and says what the runtime holds.
//!
//! [`node`] decides, and only it: a pure state machine that is told what happened and answers what to do. Everything else
//! here carries out its outputs: [`runtime`] speaks CRI, [`session`] speaks with the coordinator, [`run`] ties them together,
//! [`bake`] does the same on a machine without a cluster.

pub mod args;
pub mod bake;
pub mod classify;
pub mod logins;
pub mod metrics;
pub mod node;
pub mod run;
pub mod runtime;
pub mod session;
