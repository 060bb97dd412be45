//! Kubeconfig files for any user of the testbed's cluster, and clients from them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::certificates::Authority;

/// Writes a kubeconfig for the user in these groups, with a certificate of its own, to `folder`; once, as others may be reading
/// it by the second time.
pub fn write(
    folder: &Path,
    authority: &Authority,
    url: &str,
    (user, groups): (&str, &[&str]),
) -> Result<PathBuf> {
    let name: String = [&[user], groups]
        .concat()
        .join("-")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let path = folder.join(format!("{name}.kubeconfig"));
    if path.exists() {
        return Ok(path);
    }
    let (certificate, key) = authority.identify(&name, user, groups)?;
    let text = format!(
        "apiVersion: v1
kind: Config
clusters: [{{name: drop, cluster: {{server: '{url}', certificate-authority: '{ca}'}}}}]
users: [{{name: user, user: {{client-certificate: '{certificate}', client-key: '{key}'}}}}]
contexts: [{{name: drop, context: {{cluster: drop, user: user}}}}]
current-context: drop
",
        ca = authority.certificate().display(),
        certificate = certificate.display(),
        key = key.display(),
    );
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// A client of the cluster and user in `kubeconfig`.
pub async fn connect(kubeconfig: &Path) -> Result<Client> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
