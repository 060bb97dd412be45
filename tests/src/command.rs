//! A program that runs to its end: what it wrote and how it ended. Nothing is left of it when it takes too long.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// A program that ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Ended {
    /// Its output, or an error with all it wrote when it did not exit with 0.
    pub fn success(self) -> Result<String> {
        ensure!(self.code == Some(0), "{self:?}");
        Ok(self.stdout)
    }

    /// Both streams.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A program to run. It inherits nothing from the environment but `PATH`.
#[derive(Debug)]
pub struct Command {
    command: tokio::process::Command,
    stdin: Vec<u8>,
}

impl Command {
    /// The program at `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let mut command = tokio::process::Command::new(path);
        command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        Self {
            command,
            stdin: Vec::new(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives it this standard input; otherwise it has an empty one.
    #[must_use]
    pub fn stdin(mut self, text: &str) -> Self {
        text.as_bytes().clone_into(&mut self.stdin);
        self
    }

    /// Runs it to its end. An error when that takes longer than `within`.
    pub async fn run(mut self, within: Duration) -> Result<Ended> {
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("start {:?}", self.command))?;
        let mut stdin = child.stdin.take().context("it has no standard input")?;
        let ending = async {
            // A program that refuses its arguments ends without reading.
            let _ = stdin.write_all(&self.stdin).await;
            drop(stdin);
            child.wait_with_output().await
        };
        let output = timeout(within, ending)
            .await
            .with_context(|| format!("did not end within {within:?}: {:?}", self.command))?
            .context("wait for its end")?;
        Ok(Ended {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}
