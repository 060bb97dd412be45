//! The kubelet's credential-provider plugins: programs on the node that hand out short-lived logins of a cloud's registry.
//!
//! Reads the kubelet's own configuration and speaks its v1 protocol (KEP-2133), without tokens of service accounts: those would
//! need the right to mint them. What a plugin gave is kept as long as it said; the cache and the protocol are pure.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::pattern::Pattern;
use super::program::{self, Call, Limits, ProgramError};
use super::{Keychain, SourceError};
use crate::{Credential, Reference};

mod cache;
mod config;
mod protocol;

use cache::Cache;
pub use config::ConfigError;

/// All configured plugins and what they gave. No `Debug`: it holds secrets.
pub struct Plugins {
    plugins: Vec<Plugin>,
    limits: Limits,
}

/// One configured plugin.
struct Plugin {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(OsString, OsString)>,
    images: Vec<Pattern>,
    default_cache: Duration,
    needs_service_account: bool,
    cache: Cache,
}

/// Why a plugin gave nothing for an image.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// It could not be run, or failed.
    #[error("credential provider {plugin} for {repository}")]
    Program {
        /// Its name in the configuration.
        plugin: String,
        /// The image, without tag.
        repository: String,
        /// What happened.
        #[source]
        source: ProgramError,
    },
    /// It answered with a login that cannot be used.
    #[error("credential provider {0}")]
    Login(SourceError),
    /// It works only for a pod's service account.
    #[error(
        "credential provider {plugin} needs a pod's service account token (tokenAttributes), which drop does not have: use an \
         image pull secret for {repository}"
    )]
    ServiceAccount {
        /// Its name in the configuration.
        plugin: String,
        /// The image, without tag.
        repository: String,
    },
}

impl PluginError {
    /// One stable word for metrics and conditions.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Program { source, .. } => source.class(),
            Self::Login(_) => "bad_answer",
            Self::ServiceAccount { .. } => "service_account",
        }
    }
}

impl Plugins {
    /// Reads a `CredentialProviderConfig` (YAML or JSON); the programs are in `folder`.
    pub fn from_config(text: &str, folder: &Path, limits: Limits) -> Result<Self, ConfigError> {
        let plugins = config::parse(text, folder)?;
        Ok(Self { plugins, limits })
    }

    /// The logins that the plugins for this image have, most specific first; nobody is not among them. A plugin that fails
    /// takes nothing from the others.
    pub async fn lookup(
        &mut self,
        reference: &Reference,
        now: Instant,
    ) -> (Vec<Credential>, Vec<PluginError>) {
        let mut keychains = Vec::new();
        let mut errors = Vec::new();
        for plugin in self.plugins.iter_mut().filter(|p| p.is_for(reference)) {
            match plugin.keychain(reference, now, self.limits).await {
                Ok(keychain) => keychains.push((plugin.name.clone(), Ok(keychain))),
                Err(error) => errors.push(error),
            }
        }
        let (keychain, _) = Keychain::gather(keychains);
        (keychain.matching(reference), errors)
    }
}

impl Plugin {
    fn is_for(&self, reference: &Reference) -> bool {
        self.images.iter().any(|image| image.matches(reference))
    }

    async fn keychain(
        &mut self,
        reference: &Reference,
        now: Instant,
        limits: Limits,
    ) -> Result<Keychain, PluginError> {
        if self.needs_service_account {
            return Err(PluginError::ServiceAccount {
                plugin: self.name.clone(),
                repository: reference.repository_name(),
            });
        }
        if let Some(keychain) = self.cache.get(reference, now) {
            return Ok(keychain.clone());
        }
        let answer = self.ask(reference, limits).await?;
        let keychain = answer
            .keychain()
            .map_err(|error| PluginError::Login(self.named(error)))?;
        let lifetime = answer.lifetime().unwrap_or(self.default_cache);
        self.cache
            .insert(answer.scope(), reference, keychain.clone(), now, lifetime);
        Ok(keychain)
    }

    async fn ask(
        &self,
        reference: &Reference,
        limits: Limits,
    ) -> Result<protocol::Response, PluginError> {
        let call = Call {
            program: &self.program,
            args: &self.args,
            env: self.env.clone(),
            input: &protocol::request(reference),
        };
        let failed = |source| PluginError::Program {
            plugin: self.name.clone(),
            repository: reference.repository_name(),
            source,
        };
        let answer = program::run(call, limits).await.map_err(failed)?;
        if !answer.status.success() {
            return Err(failed(ProgramError::Failed {
                program: self.program.clone(),
                status: answer.status,
            }));
        }
        protocol::Response::parse(&answer.stdout).map_err(|problem| {
            failed(ProgramError::Answer {
                program: self.program.clone(),
                problem,
            })
        })
    }

    fn named(&self, error: super::KeychainError) -> SourceError {
        SourceError {
            name: self.name.clone(),
            error,
        }
    }
}
