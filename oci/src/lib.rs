//! What drop knows of images in registries: what a text names, who may read it, what a registry says of it at a pace that the
//! registry bears, which tags to take.
//!
//! It knows no cluster. Decisions are pure and in files of their own. What opens connections is [`transport`], and whoever uses
//! it installs rustls's `ring` provider first, once in its `main`; what runs programs is [`keychain`].

pub mod client;
pub mod credential;
pub mod digest;
pub mod error;
pub mod facts;
mod flight;
pub mod keychain;
pub mod metrics;
pub mod redact;
pub mod reference;
pub mod select;
pub mod transport;

pub use client::{Client, Repository};
pub use credential::Credential;
pub use error::{Error, Failure};
pub use facts::{Facts, ImageFacts};
pub use keychain::Keychain;
pub use reference::{Reference, ReferenceError};
pub use transport::{Hosts, Transport};
