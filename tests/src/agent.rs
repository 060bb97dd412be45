//! The agent of one node as a process.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Process, Program};
use crate::scrape::{Scrape, scrape};
use crate::{http, parts, ports, wait};

/// An agent's process.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    metrics: String,
    health: String,
}

impl Agent {
    /// Starts `drop-agent run` and waits until it lives (its runtime and its coordinator may be missing). `args` come last
    /// and so win over the defaults. How full this machine's disk is does not matter unless they say so.
    pub async fn start(
        folder: &Path,
        node: &str,
        coordinator: &str,
        runtime: &str,
        args: &[String],
    ) -> Result<Self> {
        std::fs::create_dir_all(folder).context("create the agent's folder")?;
        let (metrics, health) = (ports::address()?, ports::address()?);
        let program = Program::new("agent", parts::built("drop-agent")?, folder)
            .args([
                "run",
                "--node-name",
                node,
                "--coordinator",
                coordinator,
                "--runtime-endpoint",
                runtime,
            ])
            .args([
                "--metrics-bind-address",
                &metrics,
                "--health-probe-bind-address",
                &health,
            ])
            // The testbed's plaintext is on loopback only.
            .args(
                coordinator
                    .starts_with("http://")
                    .then_some("--insecure-plaintext"),
            )
            .args(["--disk-high-percent", "100", "--disk-default-need", "0"])
            .args(args);
        let mut agent = Self {
            process: Process::start(program)?,
            metrics,
            health,
        };
        agent.wait_alive().await?;
        Ok(agent)
    }

    /// `127.0.0.1:port` of the metrics.
    #[must_use]
    pub fn metrics_address(&self) -> &str {
        &self.metrics
    }

    /// Its metrics now.
    pub async fn metrics(&self) -> Result<Scrape> {
        scrape(&self.metrics).await
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again with the same flags.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.restart()?;
        self.wait_alive().await
    }

    /// Waits until `/readyz` says yes.
    pub async fn wait_ready(&self, within: Duration) -> Result<()> {
        let url = format!("http://{}/readyz", self.health);
        wait::until("the agent to be ready", within, async || {
            http::get(&url).await?.success().map(drop)
        })
        .await
    }

    /// What `/readyz` says.
    pub async fn readiness(&self) -> Result<String> {
        let url = format!("http://{}/readyz", self.health);
        Ok(http::get(&url).await?.text())
    }

    /// Its process: signals, pause, log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// All it logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    async fn wait_alive(&mut self) -> Result<()> {
        let url = format!("http://{}/healthz", self.health);
        self.process
            .wait_ready(Duration::from_secs(20), async || {
                http::get(&url).await?.success().map(drop)
            })
            .await
    }
}
