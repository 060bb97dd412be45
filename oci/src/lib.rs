//! Image references as registries and runtimes understand them.
//!
//! Says what a text names and what its canonical form is. It opens no connection and knows no cluster.

pub mod credential;
pub mod reference;

pub use credential::Credential;
pub use reference::{Reference, ReferenceError};
