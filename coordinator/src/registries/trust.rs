//! Whom registries are trusted by: the system's authorities and those of a file, which is followed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use drop_oci::transport::{Limits, Options, OptionsError};
use drop_oci::{Client, Hosts, Transport};
use tokio::sync::watch;
use tracing::{info, warn};

/// Requests under way to one host at a time.
const PER_HOST: usize = 16;
/// A node that waits for the answer could have pulled meanwhile.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the file is read: it is small, and a mounted ConfigMap changes behind a symbolic link.
const FILE_INTERVAL: Duration = Duration::from_secs(2);

/// A file of authorities (PEM), and what it said last.
pub struct Authorities {
    file: Option<PathBuf>,
    pem: Option<Vec<u8>>,
    /// Pauses that hosts asked for hold whoever is trusted.
    hosts: Arc<Hosts>,
}

impl Authorities {
    /// Those of the system, and of a file if there is one. An error names the flag, and says what to do.
    pub fn open(file: Option<&Path>) -> anyhow::Result<Self> {
        let limits = Limits {
            concurrency: PER_HOST,
            ..Limits::default()
        };
        Ok(Self {
            file: file.map(Path::to_owned),
            pem: file.map(read).transpose()?,
            hosts: Hosts::new(limits),
        })
    }

    /// A client that trusts them. It has no connections and no logins yet.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let options = Options {
            ca_bundle: self.pem.clone(),
            connect_timeout: CONNECT_TIMEOUT,
            timeout: ATTEMPT_TIMEOUT,
            user_agent: concat!("drop-coordinator/", env!("CARGO_PKG_VERSION")).to_owned(),
            ..Options::default()
        };
        let transport = Transport::new(&options, Arc::clone(&self.hosts));
        let transport = transport.map_err(|error| match (&self.file, error) {
            (Some(file), error @ OptionsError::CaBundle(_)) => {
                anyhow::Error::new(error).context(flag(file))
            }
            (_, error) => anyhow::Error::new(error).context(
                "registries cannot be asked (install ca-certificates, give --registry-ca-file, or let nodes ask with \
                 --resolve-tags=false)",
            ),
        })?;
        Ok(Client::new(transport))
    }

    /// Follows the file's changes for ever. While it cannot be used, those that were trusted last are.
    pub(super) async fn follow(mut self, clients: &watch::Sender<Client>) -> anyhow::Result<()> {
        let mut trouble: Option<String> = None;
        loop {
            tokio::time::sleep(FILE_INTERVAL).await;
            match self.look() {
                Ok(None) => trouble = None,
                Ok(Some(client)) => {
                    trouble = None;
                    clients.send_replace(client);
                    info!("trusts other authorities at registries");
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    // Once per cause: the rest is the same news again.
                    if trouble.as_ref() != Some(&text) {
                        warn!(
                            error = text,
                            "authorities of registries cannot be read, the former ones hold"
                        );
                    }
                    trouble = Some(text);
                }
            }
        }
    }

    /// A new client if the file says something new that can be used.
    fn look(&mut self) -> anyhow::Result<Option<Client>> {
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let pem = Some(read(file)?);
        if pem == self.pem {
            return Ok(None);
        }
        let former = std::mem::replace(&mut self.pem, pem);
        match self.client() {
            Ok(client) => Ok(Some(client)),
            Err(error) => {
                self.pem = former;
                Err(error)
            }
        }
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| {
        format!(
            "{} cannot be read: mount the PEM file there, or leave the flag out",
            flag(file)
        )
    })
}

fn flag(file: &Path) -> String {
    format!("--registry-ca-file {}", file.display())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate() -> String {
        let params = CertificateParams::new(vec!["r.io".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn a_file_that_changes_is_followed_and_one_that_breaks_changes_nothing() {
        drop_daemon::install_crypto_provider();
        let folder = std::env::temp_dir().join(format!("drop-trust-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("ca.crt");
        let refusal = |file: &Path| {
            let opened = Authorities::open(Some(file));
            let made = opened.and_then(|authorities| authorities.client().map(drop));
            format!("{:#}", made.unwrap_err())
        };
        let missing = refusal(&file);
        assert!(
            missing.contains("--registry-ca-file") && missing.contains("mount the PEM file"),
            "{missing}"
        );
        std::fs::write(&file, "no certificate").unwrap();
        let odd = refusal(&file);
        assert!(
            odd.contains("--registry-ca-file") && odd.contains("BEGIN CERTIFICATE"),
            "{odd}"
        );

        std::fs::write(&file, certificate()).unwrap();
        let mut authorities = Authorities::open(Some(&file)).unwrap();
        assert!(authorities.look().unwrap().is_none(), "nothing is new");
        let second = certificate();
        std::fs::write(&file, &second).unwrap();
        assert!(authorities.look().unwrap().is_some());
        assert!(authorities.look().unwrap().is_none());
        std::fs::write(&file, "half a cert").unwrap();
        assert!(authorities.look().is_err());
        std::fs::write(&file, &second).unwrap();
        assert!(authorities.look().unwrap().is_none(), "the former one held");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
