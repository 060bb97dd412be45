//! What both daemons share: logging, admin HTTP, signals, task supervision.
//!
//! Nothing here knows what an image is. A capability that only one of the daemons has does not belong here.

pub mod admin;
pub mod bind;
pub mod limits;
pub mod logging;
pub mod series;
pub mod signals;
pub mod supervise;

/// Makes ring the TLS provider of the process. The first call wins; TLS without one would panic.
pub fn install_crypto_provider() {
    // A second call finds the same provider in place.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
