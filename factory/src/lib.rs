//! The image factory: which images we build, which images those are built on, and what has to be rebuilt when one moves.
//!
//! images.yaml is the source of truth, the state files keep what was found out, Kargo Warehouses come out. No cluster.
//! All decisions are pure functions of texts and a clock; files are touched in [`folder`], registries in [`resolve`].

pub mod args;
pub mod check;
pub mod delay;
pub mod diff;
pub mod dockerfile;
pub mod enrollment;
pub mod folder;
pub mod naming;
pub mod plan;
pub mod problem;
pub mod resolve;
pub mod run;
pub mod state;
pub mod sync;
pub mod warehouse;
pub mod yaml;
