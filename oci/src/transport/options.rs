//! How registries are reached: whom to trust, who we are, how long to wait.

use std::time::Duration;

use reqwest::{Certificate, ClientBuilder, Identity};

use crate::error::quote;

/// One set of options makes one [`super::Transport`]. No `Debug`: it may hold a private key.
#[derive(Clone)]
pub struct Options {
    /// Certificates (PEM, one or more) of authorities to trust in addition to the system's.
    pub ca_bundle: Option<Vec<u8>>,
    /// Certificate chain and private key (PEM, in one text) by which we prove who we are.
    pub client_certificate: Option<Vec<u8>>,
    /// Trust any certificate for any name. Everything else stays as it is.
    pub skip_verify: bool,
    /// Longest time to a connection, TLS included.
    pub connect_timeout: Duration,
    /// Longest time for one attempt, to the last byte of the answer.
    pub timeout: Duration,
    /// What registries see in their logs.
    pub user_agent: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ca_bundle: None,
            client_certificate: None,
            skip_verify: false,
            connect_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(30),
            user_agent: concat!("drop/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Options that cannot be met. Each is a sentence for the person who wrote them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Not PEM, or no certificate in it.
    #[error(
        "the CA bundle holds no certificate that can be read ({0}): give PEM with BEGIN CERTIFICATE"
    )]
    CaBundle(String),
    /// Not PEM, or half of it.
    #[error(
        "the client certificate cannot be read ({0}): give PEM with the certificate chain and its private key"
    )]
    ClientCertificate(String),
    /// Anything else, such as a machine without any trusted authority.
    #[error("no HTTP client can be made: {0}")]
    Client(String),
}

impl Options {
    /// Checks what the user gave and starts a client with it. Proxies are the environment's (`HTTPS_PROXY`, `NO_PROXY`, ...).
    pub(super) fn client(&self) -> Result<ClientBuilder, OptionsError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(&self.user_agent)
            .connect_timeout(self.connect_timeout)
            .redirect(super::redirect::policy())
            .referer(false)
            // One memory of retries is enough: ours, which the pace of each host bounds.
            .retry(reqwest::retry::never());
        if let Some(pem) = &self.ca_bundle {
            let certificates = Certificate::from_pem_bundle(pem)
                .map_err(|error| OptionsError::CaBundle(chain(&error)))?;
            if certificates.is_empty() {
                return Err(OptionsError::CaBundle("no PEM block".to_owned()));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        if let Some(pem) = &self.client_certificate {
            let identity = Identity::from_pem(pem)
                .map_err(|error| OptionsError::ClientCertificate(chain(&error)))?;
            builder = builder.identity(identity);
        }
        if self.skip_verify {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        Ok(builder)
    }
}

/// The error and its causes in one sentence, without secrets.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    quote(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_certificate_and_a_certificate_without_key_are_refused_with_a_sentence() {
        for pem in [
            "",
            "certificate",
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----",
        ] {
            let options = Options {
                ca_bundle: Some(pem.into()),
                ..Options::default()
            };
            let refusal = options.client().err().map(|error| error.to_string());
            assert!(
                refusal
                    .as_ref()
                    .is_some_and(|text| text.contains("BEGIN CERTIFICATE")),
                "{pem}: {refusal:?}"
            );
            let options = Options {
                client_certificate: Some(pem.into()),
                ..Options::default()
            };
            let refusal = options.client().err().map(|error| error.to_string());
            assert!(
                refusal
                    .as_ref()
                    .is_some_and(|text| text.contains("private key")),
                "{pem}: {refusal:?}"
            );
        }
    }
}
