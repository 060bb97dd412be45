//! Which credentials to try for an image, and in which order.
//!
//! Matches as the kubelet does (`pkg/credentialprovider/keyring.go` of Kubernetes): whoever can pull as a pod can be pulled for
//! by drop. Pure: Secrets and files come in as bytes. Programs that hand out credentials are in [`helpers`] and [`plugins`].
//! No type here that holds a secret has `Debug`, and no error quotes what it read.

use std::collections::BTreeMap;

use crate::{Credential, Reference};

mod docker;
pub mod helpers;
mod pattern;
pub mod plugins;
mod program;

use pattern::Pattern;
pub use program::{Limits, ProgramError};

/// Secret type whose `.dockerconfigjson` is a docker configuration.
pub const DOCKER_CONFIG_JSON: &str = "kubernetes.io/dockerconfigjson";

/// Secret type whose `.dockercfg` is the list of logins of such a configuration alone.
pub const DOCKERCFG: &str = "kubernetes.io/dockercfg";

/// Logins by the place that they are for.
///
/// ```compile_fail
/// println!("{:?}", drop_oci::Keychain::default());
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keychain {
    /// The most specific place first: reverse order of the text, as the kubelet tries them.
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq)]
struct Entry {
    pattern: Pattern,
    credential: Credential,
}

/// A Kubernetes Secret as far as it matters here. No `Debug`: it holds secrets.
pub struct SecretData<'a> {
    /// Its `type`.
    pub kind: &'a str,
    /// Its `data`, decoded.
    pub values: BTreeMap<&'a str, &'a [u8]>,
}

/// Where the login of one registry stands in a Secret that is not a docker configuration.
pub struct BasicKeys<'a> {
    /// The registry: a host, or a URL with or without path.
    pub location: &'a str,
    /// Key of the user name.
    pub username: &'a str,
    /// Key of the password.
    pub password: &'a str,
}

/// Why a Secret or a file gives no logins. Says where, and never what stands there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeychainError {
    /// Not JSON.
    #[error("is not JSON at line {line}, column {column}")]
    Json {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// JSON of another shape.
    #[error(
        "has a value of the wrong type at line {line}, column {column}: a docker configuration is \
         {{\"auths\": {{\"registry.example.com\": {{\"username\": ..., \"password\": ...}}}}}}"
    )]
    Shape {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// `auth` cannot be read.
    #[error("has an auth for {location:?} that is not the base64 of username:password")]
    Auth {
        /// Which login.
        location: String,
    },
    /// Not a place where an image can be.
    #[error("has a login for {location:?}, which is not a registry host")]
    Location {
        /// What stands there, without user and password.
        location: String,
    },
    /// A Secret without the key that its type, or the user, names.
    #[error("has no key {key:?}")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// User name or password are not text.
    #[error("has a value in {key:?} that is not UTF-8")]
    Text {
        /// The key.
        key: String,
    },
    /// A Secret of another type.
    #[error("is of type {kind:?}: write {DOCKER_CONFIG_JSON} or {DOCKERCFG}")]
    Kind {
        /// Its type.
        kind: String,
    },
}

impl KeychainError {
    /// One stable word for metrics and conditions.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::MissingKey { .. } => "missing_key",
            Self::Kind { .. } => "wrong_type",
            Self::Json { .. }
            | Self::Shape { .. }
            | Self::Auth { .. }
            | Self::Location { .. }
            | Self::Text { .. } => "invalid",
        }
    }
}

/// A source of logins that gives none, by its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} {error}")]
pub struct SourceError {
    /// What the user calls it, such as `Secret drop-system/regcred`.
    pub name: String,
    /// What is wrong with it.
    pub error: KeychainError,
}

impl Keychain {
    /// Reads `.dockerconfigjson`. Helpers that it names are ignored, as the kubelet does.
    pub fn from_docker_config_json(bytes: &[u8]) -> Result<Self, KeychainError> {
        docker::Config::parse(bytes)?.keychain()
    }

    /// Reads `.dockercfg`.
    pub fn from_dockercfg(bytes: &[u8]) -> Result<Self, KeychainError> {
        docker::Config::parse_legacy(bytes)?.keychain()
    }

    /// One login for one registry. An empty user name or password is sent as it is.
    pub fn from_basic(
        location: &str,
        username: &str,
        password: &str,
    ) -> Result<Self, KeychainError> {
        let credential = Credential::Basic {
            username: username.to_owned(),
            password: password.to_owned(),
        };
        Ok(Self::of([Entry::new(location, credential)?]))
    }

    /// Reads an image pull secret, as `imagePullSecrets` names it.
    pub fn from_pull_secret(secret: &SecretData<'_>) -> Result<Self, KeychainError> {
        match secret.kind {
            DOCKER_CONFIG_JSON => Self::from_docker_config_json(secret.bytes(".dockerconfigjson")?),
            DOCKERCFG => Self::from_dockercfg(secret.bytes(".dockercfg")?),
            kind => Err(KeychainError::Kind {
                kind: kind.to_owned(),
            }),
        }
    }

    /// Reads a Secret with a user name and a password for one registry; an image pull secret does as well.
    pub fn from_registry_secret(
        secret: &SecretData<'_>,
        keys: &BasicKeys<'_>,
    ) -> Result<Self, KeychainError> {
        if matches!(secret.kind, DOCKER_CONFIG_JSON | DOCKERCFG) {
            return Self::from_pull_secret(secret);
        }
        let username = secret.text(keys.username)?;
        let password = secret.text(keys.password)?;
        Self::from_basic(keys.location, username, password)
    }

    /// Joins sources in the order in which they are to be tried. One that cannot be read hides no other.
    #[must_use]
    pub fn gather(
        sources: impl IntoIterator<Item = (String, Result<Self, KeychainError>)>,
    ) -> (Self, Vec<SourceError>) {
        let mut entries = Vec::new();
        let mut errors = Vec::new();
        for (name, source) in sources {
            match source {
                Ok(keychain) => entries.extend(keychain.entries),
                Err(error) => errors.push(SourceError { name, error }),
            }
        }
        (Self::of(entries), errors)
    }

    /// All to try for this image, one after the other: logins for the longest path first, nobody at last.
    #[must_use]
    pub fn lookup(&self, reference: &Reference) -> Vec<Credential> {
        let mut credentials = self.matching(reference);
        credentials.push(Credential::Anonymous);
        credentials
    }

    /// The logins for this image, each once. None for an image that this keychain does not know.
    #[must_use]
    pub fn matching(&self, reference: &Reference) -> Vec<Credential> {
        let mut found = self.select(|pattern| pattern.matches(reference));
        if found.is_empty() && pattern::is_docker_hub(reference) {
            found = self.select(Pattern::is_docker_hub);
        }
        found
    }

    fn of(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        // Stable: of two logins for the same place the one that came first is tried first.
        entries.sort_by(|a, b| b.pattern.cmp(&a.pattern));
        Self { entries }
    }

    fn select(&self, is_for: impl Fn(&Pattern) -> bool) -> Vec<Credential> {
        let mut found = Vec::new();
        for entry in &self.entries {
            if is_for(&entry.pattern) && !found.contains(&entry.credential) {
                found.push(entry.credential.clone());
            }
        }
        found
    }
}

impl Entry {
    fn new(location: &str, credential: Credential) -> Result<Self, KeychainError> {
        let pattern = Pattern::parse(location).ok_or_else(|| KeychainError::Location {
            location: pattern::without_userinfo(location),
        })?;
        Ok(Self {
            pattern,
            credential,
        })
    }
}

impl<'a> SecretData<'a> {
    fn bytes(&self, key: &str) -> Result<&'a [u8], KeychainError> {
        let value = self.values.get(key).copied();
        value.ok_or_else(|| KeychainError::MissingKey {
            key: key.to_owned(),
        })
    }

    fn text(&self, key: &str) -> Result<&'a str, KeychainError> {
        std::str::from_utf8(self.bytes(key)?).map_err(|_| KeychainError::Text {
            key: key.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests;
