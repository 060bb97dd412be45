//! Who serves sessions, and who opens them.
//!
//! The coordinator proves itself by a certificate: of its own authority, which it makes and rotates (`rotation` decides when,
//! `authority` makes them, `store` keeps them in a Secret and publishes them in a ConfigMap), or of files that somebody else
//! keeps current. `serving` holds what is served now. An agent proves itself by a ServiceAccount token: `token` judges what
//! the API server says of it, `review` asks. Nothing here knows what a session says.

pub mod authority;
pub mod review;
pub mod rotation;
pub mod serving;
pub mod store;
pub mod token;

use tokio::sync::watch;

/// Whether sessions can be served and their agents known. Errors are for people: what is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// There is a certificate to serve.
    pub certificate: Result<(), String>,
    /// The API server answers whose tokens are.
    pub reviews: Result<(), String>,
}

impl Standing {
    /// Neither is needed: sessions are plaintext, and agents are believed.
    #[must_use]
    pub fn plaintext() -> Self {
        Self {
            certificate: Ok(()),
            reviews: Ok(()),
        }
    }

    /// Both are yet to be had.
    #[must_use]
    pub fn starting() -> Self {
        Self {
            certificate: Err("there is no certificate for sessions yet".to_owned()),
            reviews: Err("the right to review tokens is not known yet".to_owned()),
        }
    }

    /// What is wrong first.
    pub fn check(&self) -> Result<(), String> {
        self.certificate.clone()?;
        self.reviews.clone()
    }
}

/// Changes one half of the standing, and wakes nobody if it is as it was.
fn set(
    standing: &watch::Sender<Standing>,
    half: impl Fn(&mut Standing) -> &mut Result<(), String>,
    state: &Result<(), String>,
) -> bool {
    standing.send_if_modified(|standing| {
        let half = half(standing);
        let changed = half != state;
        half.clone_from(state);
        changed
    })
}
