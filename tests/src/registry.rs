//! A real registry on a free port: the storage behind the proxies, or one that wants passwords, tokens or certificates.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hyper::Method;
use tokio::net::TcpStream;

use crate::images::{Blob, MANIFEST_TYPES};
use crate::process::{Process, Program};
use crate::token_server::{ISSUER, SERVICE, TokenServer};
use crate::{http, parts, ports};

/// A file for [`Setup::passwords`]: `htpasswd -nbB me correct-horse`.
pub const HTPASSWD: &str = "me:$2y$05$7ubPtiLDjV.c7Cu9kTgch.6v4kZkejCkmYoV.yzqyiIAkXumLTORW\n";

/// The registry's process and address.
#[derive(Debug)]
pub struct Registry {
    process: Process,
    address: String,
}

/// Which registry, and how it is to be reached.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    version: Version,
    /// Loopback, unless it is said.
    ip: Option<IpAddr>,
    is_logged: bool,
    /// Further sections of the configuration, as YAML.
    more: Vec<String>,
    /// The `http` section's further fields, as YAML in one line.
    http: Vec<String>,
}

/// Which program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// Debian's docker-registry 2.8: gives all tags at once, in no order.
    #[default]
    Two,
    /// Distribution 3: pages.
    Three,
}

impl Setup {
    /// Open to everybody, over plain HTTP.
    #[must_use]
    pub fn new(version: Version) -> Self {
        Self {
            version,
            ..Self::default()
        }
    }

    /// Wants a user name and a password from `file` (htpasswd, bcrypt).
    #[must_use]
    pub fn passwords(mut self, file: &Path) -> Self {
        self.more.push(format!(
            "auth: {{htpasswd: {{realm: drop-tests, path: '{}'}}}}\n",
            file.display()
        ));
        self
    }

    /// Wants tokens of a token server.
    #[must_use]
    pub fn tokens(mut self, server: &TokenServer) -> Self {
        self.more.push(format!(
            "auth: {{token: {{realm: '{}', service: '{SERVICE}', issuer: '{ISSUER}', rootcertbundle: '{}'}}}}\n",
            server.realm(),
            server.certificate().display()
        ));
        self
    }

    /// Speaks TLS with this certificate and key; wants client certificates of `clients` if that is given.
    #[must_use]
    pub fn tls(mut self, certificate: &Path, key: &Path, clients: Option<&Path>) -> Self {
        let clients = clients.map(|file| format!(", clientcas: ['{}']", file.display()));
        self.http.push(format!(
            ", tls: {{certificate: '{}', key: '{}'{}}}",
            certificate.display(),
            key.display(),
            clients.unwrap_or_default()
        ));
        self
    }

    /// Listens on another address of this machine than loopback.
    #[must_use]
    pub fn on(mut self, ip: IpAddr) -> Self {
        self.ip = Some(ip);
        self
    }

    /// Logs each request: see [`Registry::requests`].
    #[must_use]
    pub fn logged(mut self) -> Self {
        self.is_logged = true;
        self
    }

    /// Gives at most so many tags a page (version 3).
    #[must_use]
    pub fn tags_a_page(mut self, most: usize) -> Self {
        self.more.push(format!("tags: {{maxtags: {most}}}\n"));
        self
    }

    /// Starts it with its storage in `folder`.
    pub async fn start(&self, folder: &Path) -> Result<Registry> {
        std::fs::create_dir_all(folder).context("create the registry's folder")?;
        let ip = self.ip.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let address = SocketAddr::new(ip, ports::free()?).to_string();
        let config = folder.join("registry.yaml");
        let text = format!(
            "version: 0.1
log: {{level: warn, accesslog: {{disabled: {}}}}}
storage: {{filesystem: {{rootdirectory: '{}'}}, delete: {{enabled: true}}}}
http: {{addr: '{address}'{}}}
{}",
            !self.is_logged,
            folder.join("storage").display(),
            self.http.concat(),
            self.more.concat()
        );
        std::fs::write(&config, text).context("write the registry's configuration")?;
        let path = match self.version {
            Version::Two => parts::installed("docker-registry")?,
            Version::Three => parts::distribution()?,
        };
        let program = Program::new("registry", path, folder)
            .env("OTEL_TRACES_EXPORTER", "none")
            .arg("serve")
            .arg(config);
        let mut process = Process::start(program)?;
        process
            .wait_ready(Duration::from_secs(20), async || {
                TcpStream::connect(&address)
                    .await
                    .map(drop)
                    .context("connect")
            })
            .await?;
        Ok(Registry { process, address })
    }
}

impl Registry {
    /// Starts an open one with its storage in `folder`.
    pub async fn start(folder: &Path) -> Result<Self> {
        Setup::default().start(folder).await
    }

    /// `127.0.0.1:port` of the registry itself, behind all proxies: what is pushed and asked here is in no proxy's log.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it was asked so far, if it logs that, in the order in which it answered.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.process
            .log()
            .lines()
            .filter_map(Request::read)
            .collect()
    }

    /// Its process, to stop and restart it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Uploads a blob unless it is there.
    pub async fn push_blob(&self, repository: &str, blob: &Blob) -> Result<()> {
        let base = format!("http://{}/v2/{repository}/blobs", self.address);
        let there = http::send(
            Method::HEAD,
            &format!("{base}/{}", blob.digest),
            &[],
            Bytes::new(),
        )
        .await?;
        if there.status.is_success() {
            return Ok(());
        }
        let upload = http::send(Method::POST, &format!("{base}/uploads/"), &[], Bytes::new())
            .await?
            .success()?;
        let location = upload.header("location").to_owned();
        let separator = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{separator}digest={}", blob.digest);
        let typed = [("content-type", "application/octet-stream")];
        http::send(Method::PUT, &url, &typed, blob.bytes.clone())
            .await?
            .success()
            .context("upload a blob")?;
        Ok(())
    }

    /// Stores a manifest or an index under a tag or its own digest.
    pub async fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        manifest: &Blob,
    ) -> Result<()> {
        let url = self.manifest_url(repository, reference);
        let typed = [("content-type", media_type)];
        http::send(Method::PUT, &url, &typed, manifest.bytes.clone())
            .await?
            .success()
            .context("store a manifest")?;
        Ok(())
    }

    /// Lets a tag name what `from` (a tag or digest) names: how a tag moves.
    pub async fn tag(&self, repository: &str, from: &str, tag: &str) -> Result<()> {
        let found = http::send(
            Method::GET,
            &self.manifest_url(repository, from),
            &[accept()],
            Bytes::new(),
        )
        .await?;
        let found = found
            .success()
            .with_context(|| format!("read {repository}:{from}"))?;
        let media_type = found.header("content-type").to_owned();
        self.push_manifest(repository, tag, &media_type, &Blob::new(found.body))
            .await
    }

    /// The digest that a registry's HEAD gives for a tag.
    pub async fn digest(&self, repository: &str, tag: &str) -> Result<String> {
        let url = self.manifest_url(repository, tag);
        let found = http::send(Method::HEAD, &url, &[accept()], Bytes::new())
            .await?
            .success()?;
        let digest = found.header("docker-content-digest");
        ensure!(!digest.is_empty(), "{url}: no docker-content-digest");
        Ok(digest.to_owned())
    }

    /// Removes a manifest by digest, and so each tag that names it.
    pub async fn delete(&self, repository: &str, digest: &str) -> Result<()> {
        let url = self.manifest_url(repository, digest);
        http::send(Method::DELETE, &url, &[], Bytes::new())
            .await?
            .success()
            .map(drop)
    }

    fn manifest_url(&self, repository: &str, reference: &str) -> String {
        format!(
            "http://{}/v2/{repository}/manifests/{reference}",
            self.address
        )
    }
}

/// A request as the registry logs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client: `drop-coordinator/0.1.0`, `containerd/1.6.20`.
    pub agent: String,
    /// Such as `HEAD /v2/app/manifests/v1`.
    pub asked: String,
    /// The status answered.
    pub status: u16,
}

impl Request {
    /// Apache's combined form: `... "HEAD /v2/ HTTP/2.0" 200 2 "referer" "agent"`.
    fn read(line: &str) -> Option<Self> {
        let quoted: Vec<&str> = line.split('"').collect();
        let [_, asked, result, _, _, agent, ..] = quoted[..] else {
            return None;
        };
        let (asked, _) = asked.rsplit_once(" HTTP/")?;
        Some(Self {
            agent: agent.to_owned(),
            asked: asked.to_owned(),
            status: result.split_whitespace().next()?.parse().ok()?,
        })
    }
}

fn accept() -> (&'static str, &'static str) {
    ("accept", MANIFEST_TYPES)
}
