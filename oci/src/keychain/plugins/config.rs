//! The kubelet's `CredentialProviderConfig`: which plugin is asked for which images.
//!
//! Refuses what the kubelet refuses, so that a file which the node runs with is a file which drop runs with.

use std::collections::BTreeSet;
use std::path::Path;

use drop_duration::GoDuration;
use serde::Deserialize;

use super::super::pattern::Pattern;
use super::{Cache, Plugin, protocol};

/// The one version that is read.
const API_VERSION: &str = "kubelet.config.k8s.io/v1";

/// Why a configuration cannot be used. Quotes no values of environment variables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not YAML of the right shape.
    #[error("not a CredentialProviderConfig: see line {line}")]
    Shape {
        /// From 1; 0 if unknown.
        line: u64,
    },
    /// Another kind or version.
    #[error("is {found}: write apiVersion: {API_VERSION} and kind: CredentialProviderConfig")]
    Kind {
        /// What it says it is.
        found: String,
    },
    /// No provider at all.
    #[error("names no providers: write at least one")]
    Empty,
    /// A provider that the kubelet refuses as well.
    #[error("provider {name:?} {problem}")]
    Provider {
        /// Its name.
        name: String,
        /// What is wrong, and what to write.
        problem: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Vec<Provider>,
}

/// No `Debug`: the environment may hold secrets.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Provider {
    name: String,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    match_images: Vec<String>,
    default_cache_duration: Option<GoDuration>,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    token_attributes: Option<TokenAttributes>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenAttributes {
    require_service_account: Option<bool>,
}

pub(super) fn parse(text: &str, folder: &Path) -> Result<Vec<Plugin>, ConfigError> {
    let config: Config = serde_saphyr::from_str(text).map_err(|error| ConfigError::Shape {
        line: error.location().map_or(0, |location| location.line()),
    })?;
    if config.api_version != API_VERSION || config.kind != "CredentialProviderConfig" {
        return Err(ConfigError::Kind {
            found: format!("{} {}", config.api_version, config.kind),
        });
    }
    if config.providers.is_empty() {
        return Err(ConfigError::Empty);
    }
    let mut names = BTreeSet::new();
    let mut plugins = Vec::new();
    for provider in config.providers {
        let name = provider.name.clone();
        if !names.insert(name.clone()) {
            let problem = "stands there twice";
            return Err(ConfigError::Provider { name, problem });
        }
        let plugin = provider.plugin(folder);
        plugins.push(plugin.map_err(|problem| ConfigError::Provider { name, problem })?);
    }
    Ok(plugins)
}

impl Provider {
    fn plugin(self, folder: &Path) -> Result<Plugin, &'static str> {
        if self.name.is_empty() || self.name.contains(['/', ' ']) {
            return Err("is no name of a program: write it without slash and space");
        }
        if self.name == "." || self.name == ".." {
            return Err("is a folder, not a program");
        }
        if self.api_version != protocol::API_VERSION {
            return Err("speaks another version: write credentialprovider.kubelet.k8s.io/v1");
        }
        if self.match_images.is_empty() {
            return Err("has no matchImages: write at least one");
        }
        let images = self.match_images.iter().map(|image| Pattern::parse(image));
        let Some(images) = images.collect() else {
            return Err("has a matchImages entry that is no registry host");
        };
        let Some(default_cache) = self.default_cache_duration else {
            return Err("has no defaultCacheDuration: write one, such as 12h");
        };
        let env = self.env.unwrap_or_default().into_iter();
        Ok(Plugin {
            program: folder.join(&self.name),
            name: self.name,
            args: self.args.unwrap_or_default(),
            env: env.map(|v| (v.name.into(), v.value.into())).collect(),
            images,
            default_cache: default_cache.get(),
            needs_service_account: self
                .token_attributes
                .is_some_and(|attributes| attributes.require_service_account == Some(true)),
            cache: Cache::default(),
        })
    }
}
