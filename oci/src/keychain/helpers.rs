//! The docker command line's configuration file, with the helper programs (`docker-credential-*`) that it names.
//!
//! For programs that run beside a person's own docker configuration; no Secret in a cluster makes anything run here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::pattern::{Pattern, is_docker_hub};
use super::program::{self, Call, Limits, ProgramError};
use super::{Keychain, KeychainError, docker};
use crate::{Credential, Reference};

/// What a helper is asked for Docker Hub.
const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";

/// User name with which a helper says that its secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// What a helper writes for a server that it does not know; no failure.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// A docker configuration file. No `Debug`: it holds secrets.
pub struct DockerConfig {
    keychain: Keychain,
    /// Helper by registry host.
    helpers: Vec<(Pattern, String)>,
    /// The helper for all other registries.
    store: Option<String>,
    search_path: Option<OsString>,
    limits: Limits,
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl DockerConfig {
    /// Reads the content of a `config.json`.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeychainError> {
        let config = docker::Config::parse(bytes)?;
        let keychain = config.keychain()?;
        Ok(Self {
            keychain,
            helpers: patterns(config.cred_helpers.unwrap_or_default())?,
            store: config.creds_store.filter(|name| !name.is_empty()),
            search_path: None,
            limits: Limits::default(),
        })
    }

    /// Looks for helpers in these folders (`:` between them) instead of `PATH`, and bounds them otherwise than by default.
    #[must_use]
    pub fn with_helpers_from(mut self, search_path: OsString, limits: Limits) -> Self {
        self.search_path = Some(search_path);
        self.limits = limits;
        self
    }

    /// All to try for this image: what its helper knows, then the logins in the file, nobody at last. A helper that fails
    /// takes none of the others away.
    pub async fn lookup(&self, reference: &Reference) -> (Vec<Credential>, Option<ProgramError>) {
        let mut credentials = self.keychain.lookup(reference);
        let Some(helper) = self.helper_of(reference) else {
            return (credentials, None);
        };
        match self.ask(helper, reference).await {
            Ok(Some(credential)) => {
                credentials.insert(0, credential);
                (credentials, None)
            }
            Ok(None) => (credentials, None),
            Err(error) => (credentials, Some(error)),
        }
    }

    fn helper_of(&self, reference: &Reference) -> Option<&str> {
        let is_for = |pattern: &Pattern| {
            pattern.matches(reference) || (is_docker_hub(reference) && pattern.is_docker_hub())
        };
        let own = self.helpers.iter().find(|(pattern, _)| is_for(pattern));
        own.map(|(_, name)| name.as_str())
            .or(self.store.as_deref())
            .filter(|name| !name.is_empty())
    }

    async fn ask(
        &self,
        helper: &str,
        reference: &Reference,
    ) -> Result<Option<Credential>, ProgramError> {
        let program = PathBuf::from(format!("docker-credential-{helper}"));
        let unusable = |problem| ProgramError::Answer {
            program: program.clone(),
            problem,
        };
        // With a slash in it a name would be a path, and could run anything.
        if helper.contains('/') {
            return Err(unusable("its name contains a slash"));
        }
        let server = if is_docker_hub(reference) {
            DOCKER_HUB_SERVER
        } else {
            reference.host()
        };
        let call = Call {
            program: Path::new(&program),
            args: &["get".to_owned()],
            env: self
                .search_path
                .iter()
                .map(|path| ("PATH".into(), path.clone()))
                .collect(),
            input: server.as_bytes(),
        };
        let answer = program::run(call, self.limits).await?;
        if !answer.status.success() {
            if answer.stdout.trim_ascii() == NOT_FOUND.as_bytes() {
                return Ok(None);
            }
            let status = answer.status;
            return Err(ProgramError::Failed { program, status });
        }
        let answer: Answer = serde_json::from_slice(&answer.stdout)
            .map_err(|_| unusable("not JSON with Username and Secret"))?;
        Ok(Some(answer.credential()))
    }
}

impl Answer {
    fn credential(self) -> Credential {
        if self.username == TOKEN_USER {
            return Credential::IdentityToken(self.secret);
        }
        Credential::Basic {
            username: self.username,
            password: self.secret,
        }
    }
}

/// Most specific first, as logins are.
fn patterns(helpers: BTreeMap<String, String>) -> Result<Vec<(Pattern, String)>, KeychainError> {
    let mut patterns = Vec::new();
    for (location, name) in helpers {
        let Some(pattern) = Pattern::parse(&location) else {
            return Err(KeychainError::Location {
                location: super::pattern::without_userinfo(&location),
            });
        };
        patterns.push((pattern, name));
    }
    patterns.sort_by(|a, b| b.0.cmp(&a.0));
    Ok(patterns)
}
