//! The certificate that is served now, and the tasks that keep it current. A connection keeps the one that it began with.

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::identity::authority::Authority;
use crate::identity::store::{Error, Store};
use crate::identity::{Standing, rotation, set};

/// Wait after a failure to agree on the authorities.
const RETRY: Duration = Duration::from_secs(2);
/// How often files are read: they are small, and a mounted Secret changes behind a symbolic link.
const FILES_INTERVAL: Duration = Duration::from_secs(2);

/// What is served now; `None` before the first certificate is there. Clones share it.
#[derive(Clone)]
pub struct Serving(Arc<watch::Sender<Option<Arc<CertifiedKey>>>>);

impl Default for Serving {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().clone()
    }
}

impl Serving {
    /// A TLS configuration whose certificate follows.
    pub fn config(&self) -> anyhow::Result<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .context("TLS versions")?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Agents connect once in a long while, and anew each time.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Waits until there is a certificate.
    pub async fn ready(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }

    fn serve(&self, key: CertifiedKey) {
        self.0.send_replace(Some(Arc::new(key)));
    }
}

/// Serves certificates of the coordinator's own authorities, for ever.
#[derive(Debug)]
pub struct Own {
    /// DNS names, the most telling one first.
    pub names: Vec<String>,
    /// Of an authority.
    pub lifetime: Duration,
}

impl Own {
    /// Makes, rotates, publishes and serves.
    pub async fn keep(
        self,
        store: Store,
        serving: Serving,
        standing: Arc<watch::Sender<Standing>>,
    ) -> anyhow::Result<()> {
        let mut changes = pin!(store.changes());
        let mut published = Vec::new();
        let mut signed_by: Option<Authority> = None;
        let mut trouble: Option<String> = None;
        loop {
            match store.agree(Timestamp::now(), self.lifetime).await {
                Ok(agreed) => {
                    published = agreed;
                    trouble = None;
                }
                Err(error) => {
                    let text = error.to_string();
                    // Once per cause: the rest is the same news again.
                    if trouble.as_ref() != Some(&text) {
                        warn!(
                            class = error.class(),
                            error = text,
                            "certificate authorities are not kept, will retry"
                        );
                    }
                    trouble = Some(text);
                }
            }
            let now = Timestamp::now();
            let signer = rotation::signer(&published, now);
            let state = match (signer, &trouble) {
                (None, Some(trouble)) => Err(trouble.clone()),
                _ => Ok(()),
            };
            if let Some(signer) = signer
                && signed_by.as_ref() != Some(signer)
            {
                serving.serve(self.certificate(signer, now)?);
                info!(name = self.names.first(), expires = %signer.expires, "serves a new certificate");
                signed_by = Some(signer.clone());
            }
            set(&standing, |s| &mut s.certificate, &state);
            let wait = if trouble.is_some() {
                RETRY
            } else {
                rotation::next_look(&published, now)
            };
            // Dropped, it loses nothing: a change wakes, and the next look finds it anyway.
            let _ = tokio::time::timeout(wait, changed(&mut changes)).await;
        }
    }

    fn certificate(&self, signer: &Authority, now: Timestamp) -> anyhow::Result<CertifiedKey> {
        let (certificate, key) = signer
            .sign(&self.names, now)
            .context("sign a certificate")?;
        CertifiedKey::from_der(vec![certificate], key, &default_provider())
            .context("use a certificate of our own")
    }
}

/// Waits until what is stored may have changed. Without the right to watch, that is never.
async fn changed(changes: &mut (impl Stream<Item = Result<(), Error>> + Unpin)) {
    while let Some(change) = changes.next().await {
        match change {
            Ok(()) => return,
            Err(error) => warn!(
                class = error.class(),
                error = %error,
                "changes of the certificate authorities are seen late, will retry"
            ),
        }
    }
}

/// Serves the certificate of two files, as cert-manager and others keep them.
#[derive(Debug)]
pub struct Files {
    certificate: PathBuf,
    key: PathBuf,
    served: (Vec<u8>, Vec<u8>),
}

impl Files {
    /// Reads them once and serves them; an error names the flag.
    pub fn open(certificate: &Path, key: &Path, serving: &Serving) -> anyhow::Result<Self> {
        let mut files = Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            served: (Vec::new(), Vec::new()),
        };
        files.look(serving)?;
        Ok(files)
    }

    /// Follows their changes for ever. While they cannot be used, the last good ones are served.
    pub async fn follow(mut self, serving: Serving) -> anyhow::Result<()> {
        let mut is_failing = false;
        loop {
            tokio::time::sleep(FILES_INTERVAL).await;
            match self.look(&serving) {
                Ok(()) => is_failing = false,
                Err(error) => {
                    if !is_failing {
                        warn!(
                            error = format!("{error:#}"),
                            "certificate files cannot be used, serves the former ones"
                        );
                    }
                    is_failing = true;
                }
            }
        }
    }

    fn look(&mut self, serving: &Serving) -> anyhow::Result<()> {
        let read = |flag: &str, path: &Path| {
            std::fs::read(path).with_context(|| format!("{flag} {}", path.display()))
        };
        let certificate = read("--tls-cert-file", &self.certificate)?;
        let key = read("--tls-key-file", &self.key)?;
        if (&certificate, &key) == (&self.served.0, &self.served.1) {
            return Ok(());
        }
        serving.serve(self.pair(&certificate, &key)?);
        info!(file = %self.certificate.display(), "serves a new certificate");
        self.served = (certificate, key);
        Ok(())
    }

    fn pair(&self, certificate: &[u8], key: &[u8]) -> anyhow::Result<CertifiedKey> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
        let place = || format!("--tls-cert-file {}", self.certificate.display());
        let chain = chain.with_context(place)?;
        anyhow::ensure!(!chain.is_empty(), "{} holds no certificate", place());
        let place = || format!("--tls-key-file {}", self.key.display());
        let key = PrivateKeyDer::from_pem_slice(key).with_context(place)?;
        CertifiedKey::from_der(chain, key, &default_provider()).with_context(|| {
            format!(
                "--tls-cert-file {} and --tls-key-file {} are no pair",
                self.certificate.display(),
                self.key.display()
            )
        })
    }
}
