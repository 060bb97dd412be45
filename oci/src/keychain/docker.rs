//! The docker configuration: a file of the docker command line, and what image pull secrets contain.

use std::collections::BTreeMap;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::pattern::without_userinfo;
use super::{Entry, Keychain, KeychainError};
use crate::Credential;

/// As lenient as Go's decoder, with which the kubelet reads `auth`.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// What is read of it. No `Debug`: it holds secrets.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config {
    auths: Option<BTreeMap<String, Option<Login>>>,
    pub(super) cred_helpers: Option<BTreeMap<String, String>>,
    pub(super) creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Login {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// `auth` is not base64 of a user name and a password.
struct BadAuth;

impl Config {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, KeychainError> {
        read(bytes)
    }

    pub(super) fn parse_legacy(bytes: &[u8]) -> Result<Self, KeychainError> {
        Ok(Self {
            auths: read(bytes)?,
            cred_helpers: None,
            creds_store: None,
        })
    }

    /// The logins that stand in the file itself.
    pub(super) fn keychain(&self) -> Result<Keychain, KeychainError> {
        let mut entries = Vec::new();
        for (location, login) in self.auths.iter().flatten() {
            let credential = login.as_ref().map_or(Ok(None), Login::credential);
            let credential = credential.map_err(|BadAuth| KeychainError::Auth {
                location: without_userinfo(location),
            })?;
            if let Some(credential) = credential {
                entries.push(Entry::new(location, credential)?);
            }
        }
        Ok(Keychain::of(entries))
    }
}

impl Login {
    /// None for an empty login, which docker leaves where a helper keeps the secret.
    fn credential(&self) -> Result<Option<Credential>, BadAuth> {
        if let Some(token) = filled(self.registrytoken.as_ref()) {
            return Ok(Some(Credential::RegistryToken(token)));
        }
        if let Some(token) = filled(self.identitytoken.as_ref()) {
            return Ok(Some(Credential::IdentityToken(token)));
        }
        let (username, password) = match filled(self.auth.as_ref()) {
            Some(auth) => decode(&auth).ok_or(BadAuth)?,
            None => (
                self.username.clone().unwrap_or_default(),
                self.password.clone().unwrap_or_default(),
            ),
        };
        if username.is_empty() && password.is_empty() {
            return Ok(None);
        }
        Ok(Some(Credential::Basic { username, password }))
    }
}

fn filled(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).cloned()
}

/// Base64 of `username:password`; the password may contain colons.
fn decode(auth: &str) -> Option<(String, String)> {
    let auth: String = auth.split_ascii_whitespace().collect();
    let text = String::from_utf8(BASE64.decode(auth).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}

/// Reads JSON. Only the place of a mistake is kept: the parser's own message quotes the value that it did not expect.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, KeychainError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        if error.is_data() {
            KeychainError::Shape { line, column }
        } else {
            KeychainError::Json { line, column }
        }
    })
}
