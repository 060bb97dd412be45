//! What the kubelet and a plugin say to each other: `credentialprovider.kubelet.k8s.io/v1`, JSON both ways.

use std::collections::BTreeMap;
use std::time::Duration;

use drop_duration::GoDuration;
use serde::Deserialize;
use serde_json::json;

use super::super::{Entry, Keychain, KeychainError};
use crate::{Credential, Reference};

/// The one version that is spoken.
pub(super) const API_VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

/// For which other images an answer is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Scope {
    /// All tags of the repository.
    Image,
    /// All of the host.
    Registry,
    /// All that the plugin is asked for.
    Global,
}

/// What a plugin answers. No `Debug`: it holds secrets.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Response {
    api_version: String,
    kind: String,
    cache_key_type: Scope,
    cache_duration: Option<GoDuration>,
    auth: Option<BTreeMap<String, Login>>,
}

#[derive(Deserialize)]
struct Login {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// Asks for the logins of an image. Tag and digest are left out, as by the kubelet.
pub(super) fn request(reference: &Reference) -> Vec<u8> {
    let request = json!({
        "apiVersion": API_VERSION,
        "kind": "CredentialProviderRequest",
        "image": reference.repository_name(),
    });
    request.to_string().into_bytes()
}

impl Response {
    /// Says what is wrong with an answer, and quotes nothing of it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let response: Self = serde_json::from_slice(bytes).map_err(
            |_| "not a CredentialProviderResponse with cacheKeyType Image, Registry or Global",
        )?;
        if response.api_version != API_VERSION {
            return Err("its apiVersion is not credentialprovider.kubelet.k8s.io/v1");
        }
        if response.kind != "CredentialProviderResponse" {
            return Err("its kind is not CredentialProviderResponse");
        }
        Ok(response)
    }

    pub(super) const fn scope(&self) -> Scope {
        self.cache_key_type
    }

    /// For how long the answer is good, if it says so. Zero: for this one question.
    pub(super) fn lifetime(&self) -> Option<Duration> {
        self.cache_duration.map(GoDuration::get)
    }

    pub(super) fn keychain(&self) -> Result<Keychain, KeychainError> {
        let entries = self.auth.iter().flatten().map(|(location, login)| {
            let credential = Credential::Basic {
                username: login.username.clone(),
                password: login.password.clone(),
            };
            Entry::new(location, credential)
        });
        Ok(Keychain::of(entries.collect::<Result<Vec<_>, _>>()?))
    }
}
