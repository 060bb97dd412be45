//! What drop knows of images in registries: what a text names, who may read it, which tags to take.
//!
//! It knows no cluster. References, keychains and selection are pure; only programs that hand out credentials are run.

pub mod credential;
pub mod keychain;
pub mod reference;
pub mod select;

pub use credential::Credential;
pub use keychain::Keychain;
pub use reference::{Reference, ReferenceError};
