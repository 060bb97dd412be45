//! The cluster's registry once more, behind a door: the same images, for whoever logs in.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::coordinator::NAMESPACE;
use crate::proxy::{Kind, Log, Proxy};
use crate::registry::{HTPASSWD, Registry, Setup, Version};
use crate::token_server::TokenServer;

/// The password of user `me`.
pub const RIGHT: &str = "correct-horse";
/// Another one.
pub const WRONG: &str = "battery-staple";

/// A registry that asks for a login. Dropped: gone.
pub struct Guarded {
    /// Its host.
    pub proxy: Proxy,
    _registry: Registry,
}

impl Guarded {
    /// One that checks passwords itself.
    pub async fn passwords(cluster: &Cluster) -> Result<Self> {
        let folder = storage(cluster, "guarded")?;
        let file = folder.join("htpasswd");
        std::fs::write(&file, HTPASSWD).context("write the passwords")?;
        Self::start(&folder, Setup::new(Version::Two).passwords(&file)).await
    }

    /// One that takes the tokens of a server.
    pub async fn tokens(cluster: &Cluster) -> Result<(Self, TokenServer)> {
        let folder = storage(cluster, "guarded")?;
        let server = TokenServer::start(&folder, 300).await?;
        let guarded = Self::start(&folder, Setup::new(Version::Two).tokens(&server)).await?;
        Ok((guarded, server))
    }

    async fn start(folder: &Path, setup: Setup) -> Result<Self> {
        let registry = setup.start(folder).await?;
        let proxy = Proxy::start(registry.address()).await?;
        Ok(Self {
            proxy,
            _registry: registry,
        })
    }

    /// `spec.image` of a repository.
    #[must_use]
    pub fn image(&self, repository: &str) -> String {
        format!("{}/{repository}", self.proxy.host())
    }

    /// Requests with a password that was refused. One pull with a wrong one is several: containerd repeats it at once.
    #[must_use]
    pub fn refused_requests(&self) -> Log {
        let log = self.proxy.log();
        log.filter(|exchange| {
            exchange.authorized && exchange.status == 401 && exchange.kind == Kind::Manifest
        })
    }

    /// Pulls with a password that was refused: the repetitions within one are one.
    #[must_use]
    pub fn refused_logins(&self) -> usize {
        self.refused_requests().pulls().len()
    }
}

/// A new folder of the cluster's whose storage is that of its registry.
pub fn storage(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let folder = cluster.folder().join(name);
    std::fs::create_dir_all(&folder).context("create a registry's folder")?;
    symlink(
        cluster.folder().join("registry/storage"),
        folder.join("storage"),
    )
    .context("share the storage")?;
    Ok(folder)
}

/// A dockerconfigjson Secret: place and password of each login of user `me`.
#[must_use]
pub fn secret(name: &str, logins: &[(&str, &str)]) -> String {
    let auths: serde_json::Map<String, Value> = logins
        .iter()
        .map(|(place, password)| {
            let login = json!({"username": "me", "password": password});
            ((*place).to_owned(), login)
        })
        .collect();
    typed_secret(
        name,
        ("kubernetes.io/dockerconfigjson", ".dockerconfigjson"),
        &json!({ "auths": auths }),
    )
}

/// A Secret of some type, with one key.
#[must_use]
pub fn typed_secret(name: &str, (kind, key): (&str, &str), content: &Value) -> String {
    let text = json!(content.to_string());
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\ntype: {kind}\nstringData: {{{key}: {text}}}\n"
    )
}

/// The part of a CachedImage's spec that names these Secrets, under policy `fast`.
#[must_use]
pub fn with(secrets: &[&str]) -> String {
    let names: Vec<String> = secrets
        .iter()
        .map(|name| format!("{{name: {name}}}"))
        .collect();
    format!(
        "policyRef: {{name: fast}}, imagePullSecrets: [{}]",
        names.join(", ")
    )
}
