//! skopeo, a client of registries that we did not write: it brings images to registries and says what is there.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::process::Command;

use crate::parts;

/// A place that skopeo reads or writes: an image, and how to get at it.
#[derive(Clone, Debug)]
pub struct Place {
    image: String,
    login: Option<String>,
    certificates: Option<String>,
}

impl Place {
    /// `host/repository:tag` of a registry, TLS or not, whatever its certificate.
    #[must_use]
    pub fn new(image: &str) -> Self {
        Self {
            image: image.to_owned(),
            login: None,
            certificates: None,
        }
    }

    /// Logs in with `user:password`.
    #[must_use]
    pub fn login(mut self, user_and_password: &str) -> Self {
        self.login = Some(user_and_password.to_owned());
        self
    }

    /// Takes client certificates (`*.cert`, `*.key`) from this folder.
    #[must_use]
    pub fn certificates(mut self, folder: &Path) -> Self {
        self.certificates = Some(folder.display().to_string());
        self
    }

    fn flags(&self, side: &str) -> Vec<String> {
        let mut flags = vec![format!("--{side}tls-verify=false")];
        flags.extend(
            self.login
                .iter()
                .map(|login| format!("--{side}creds={login}")),
        );
        let folders = self.certificates.iter();
        flags.extend(folders.map(|folder| format!("--{side}cert-dir={folder}")));
        flags
    }
}

/// Copies an image with all its platforms. `format` converts it on the way: `oci` or `v2s2`.
pub async fn copy(from: &Place, to: &Place, format: Option<&str>) -> Result<()> {
    let mut arguments = vec!["copy".to_owned(), "--all".to_owned()];
    arguments.extend(from.flags("src-"));
    arguments.extend(to.flags("dest-"));
    match format {
        Some(format) => arguments.push(format!("--format={format}")),
        None => arguments.push("--preserve-digests".to_owned()),
    }
    arguments.extend([&from.image, &to.image].map(|image| format!("docker://{image}")));
    run(&arguments).await.map(drop)
}

/// The digest of what a tag names.
pub async fn digest(place: &Place) -> Result<String> {
    let mut arguments = vec!["inspect".to_owned(), "--no-tags".to_owned()];
    arguments.extend(place.flags(""));
    arguments.extend([
        "--format={{.Digest}}".to_owned(),
        format!("docker://{}", place.image),
    ]);
    Ok(run(&arguments).await?.trim().to_owned())
}

/// All tags of a repository.
pub async fn tags(place: &Place) -> Result<Vec<String>> {
    let mut arguments = vec!["list-tags".to_owned()];
    arguments.extend(place.flags(""));
    arguments.push(format!("docker://{}", place.image));
    let listed: Listed = serde_json::from_str(&run(&arguments).await?).context("parse the tags")?;
    Ok(listed.tags)
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "Tags")]
    tags: Vec<String>,
}

async fn run(arguments: &[String]) -> Result<String> {
    let output = Command::new(parts::installed("skopeo")?)
        .arg("--insecure-policy")
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await
        .context("run skopeo")?;
    ensure!(
        output.status.success(),
        "skopeo {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
