//! How this node logs in at a registry: with what came with the grant, then with what programs on the node hand out.
//!
//! The programs are the kubelet's credential-provider plugins, and only asked if the flags name them: they run as we do, with
//! our rights. What they give is cached as long as they say, in memory.

mod attempts;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use drop_oci::keychain::Limits;
use drop_oci::keychain::plugins::{ConfigError, Plugins};
use drop_oci::{Credential, Reference};
use k8s_cri::v1::AuthConfig;
use tokio::sync::Mutex;
use tracing::warn;

pub use attempts::{Attempts, Next};

/// The node's credential providers. Cheap to clone; clones share one cache.
#[derive(Clone, Default)]
pub struct Providers {
    plugins: Option<Arc<Mutex<Plugins>>>,
}

/// No secret reaches a log through here.
impl fmt::Debug for Providers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Providers(..)")
    }
}

/// Why the providers' configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// As the flag says it.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not a configuration.
    #[error("{}: {source}", path.display())]
    Config {
        /// As the flag says it.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
}

impl Providers {
    /// Reads the kubelet's `CredentialProviderConfig`; the programs are in `folder`.
    pub fn read(path: &Path, folder: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        let plugins = Plugins::from_config(&text, folder, Limits::default()).map_err(|source| {
            Error::Config {
                path: path.to_owned(),
                source,
            }
        })?;
        Ok(Self {
            plugins: Some(Arc::new(Mutex::new(plugins))),
        })
    }

    /// All to try for this image before nobody, in order.
    pub async fn logins(
        &self,
        reference: &str,
        granted: Vec<drop_proto::Credential>,
    ) -> Vec<Credential> {
        let mut logins: Vec<Credential> = granted.into_iter().map(received).collect();
        let (Some(plugins), Ok(parsed)) = (&self.plugins, reference.parse::<Reference>()) else {
            return logins;
        };
        // Held while a program runs: pulls that come meanwhile find its answer in the cache.
        let (more, errors) = plugins.lock().await.lookup(&parsed, Instant::now()).await;
        for error in errors {
            warn!(image = reference, class = error.class(), error = %error, "a credential provider gave nothing");
        }
        logins.extend(more);
        logins
    }
}

fn received(message: drop_proto::Credential) -> Credential {
    if !message.registry_token.is_empty() {
        return Credential::RegistryToken(message.registry_token);
    }
    if !message.identity_token.is_empty() {
        return Credential::IdentityToken(message.identity_token);
    }
    Credential::Basic {
        username: message.username,
        password: message.password,
    }
}

/// As the runtime takes it. Its type prints what it holds: it is made for the call and never logged.
#[must_use]
pub fn auth_config(login: Credential) -> Option<AuthConfig> {
    let empty = AuthConfig::default;
    match login {
        Credential::Anonymous => None,
        Credential::Basic { username, password } => Some(AuthConfig {
            username,
            password,
            ..empty()
        }),
        Credential::IdentityToken(identity_token) => Some(AuthConfig {
            identity_token,
            ..empty()
        }),
        Credential::RegistryToken(registry_token) => Some(AuthConfig {
            registry_token,
            ..empty()
        }),
    }
}
