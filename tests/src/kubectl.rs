//! The real kubectl, as a user at a terminal runs it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::command::{Command, Ended};
use crate::control_plane::ControlPlane;
use crate::parts;

/// The first call downloads the cluster's whole API description.
const PATIENCE: Duration = Duration::from_secs(60);

/// kubectl with an administrator's rights.
#[derive(Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Kubectl {
    /// One for this cluster. What it caches goes to `folder`.
    pub fn new(control_plane: &ControlPlane, folder: &Path) -> Result<Self> {
        Ok(Self {
            program: parts::kubernetes("kubectl")?,
            kubeconfig: control_plane.kubeconfig().to_owned(),
            cache: folder.join("kubectl"),
        })
    }

    /// Runs it.
    pub async fn run(&self, args: &[&str]) -> Result<Ended> {
        Command::new(&self.program)
            .args([Path::new("--kubeconfig"), &self.kubeconfig])
            .args([Path::new("--cache-dir"), &self.cache])
            .args(args)
            .env("HOME", &self.cache)
            .run(PATIENCE)
            .await
    }

    /// Its output; anything but exit code 0 is an error.
    pub async fn output(&self, args: &[&str]) -> Result<String> {
        self.run(args).await?.success()
    }

    /// Applies a file or a folder as `kubectl apply` does, and returns its warnings.
    pub async fn apply(&self, path: &Path, options: &[&str]) -> Result<String> {
        let path = path.display().to_string();
        let ended = self
            .run(&[&["apply", "--filename", &path], options].concat())
            .await?;
        let warnings = ended.stderr.clone();
        ended.success().map(|_| warnings)
    }
}
