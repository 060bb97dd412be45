//! The benchmark's side of the swarm: starts the process and gives it orders.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_tests::wait;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{Order, Report};

/// The swarm's process. Dropped: killed. It also ends when this program does, with its standard input.
#[derive(Debug)]
pub(crate) struct Swarm {
    _process: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Swarm {
    /// Starts agents that connect to the coordinator at `url`.
    pub(crate) fn start(agents: usize, url: &str, secrets: &Path) -> Result<Self> {
        let me = std::env::current_exe().context("find the running program")?;
        let mut process = Command::new(me)
            .args([
                "swarm",
                "--agents",
                &agents.to_string(),
                "--coordinator",
                url,
                "--secrets",
            ])
            .arg(secrets)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start the swarm")?;
        let orders = process.stdin.take().context("no way to the swarm")?;
        let answers = process.stdout.take().context("no way from the swarm")?;
        Ok(Self {
            _process: process,
            orders,
            answers: BufReader::new(answers).lines(),
        })
    }

    /// What it saw since the last reset.
    pub(crate) async fn report(&mut self) -> Result<Report> {
        self.order(Order::Report).await
    }

    /// Pulls and latencies count from now on.
    pub(crate) async fn reset(&mut self) -> Result<()> {
        self.order(Order::Reset).await.map(drop)
    }

    /// All sessions end at once.
    pub(crate) async fn hang_up(&mut self) -> Result<()> {
        self.order(Order::HangUp).await.map(drop)
    }

    /// Every runtime loses one image, evenly over this time.
    pub(crate) async fn lose(&mut self, over: Duration) -> Result<()> {
        let millis = u64::try_from(over.as_millis()).unwrap_or(u64::MAX);
        self.order(Order::Lose { millis }).await.map(drop)
    }

    /// Waits until it reports what `enough` wants.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        within: Duration,
        enough: impl Fn(&Report) -> bool,
    ) -> Result<Report> {
        wait::until(what, within, async || {
            let report = self.report().await?;
            ensure!(enough(&report), "{report:?}");
            Ok(report)
        })
        .await
    }

    async fn order(&mut self, order: Order) -> Result<Report> {
        let mut line = serde_json::to_string(&order)?;
        line.push('\n');
        self.orders
            .write_all(line.as_bytes())
            .await
            .context("the swarm takes no orders")?;
        let answer = self.answers.next_line().await.context("read an answer")?;
        serde_json::from_str(&answer.context("the swarm ended")?).context("parse an answer")
    }
}
