//! Many agents in one process: the agent's own session code and its own state machine, each with a connection of its own to
//! the coordinator. Only the runtime is simulated: a list, and pulls that take no time.
//!
//! It is a process apart from the benchmark and from the coordinator, so that memory and processor time of each are its own.
//! It reads orders from standard input, one JSON value a line, and answers each with one line.

mod agent;
mod control;
mod tally;

use std::sync::Arc;

use anyhow::{Context, Result};
use drop_agent::session::place::{Place, endpoint};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::broadcast;
use tokio::task::JoinSet;

use crate::args::SwarmArgs;
use crate::secrets::trust;

pub(crate) use control::Swarm;
pub(crate) use tally::Report;

use agent::Agent;
use tally::Tally;

/// What the swarm is told.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
enum Order {
    /// Say what has happened since the last reset.
    Report,
    /// Forget pulls and grant latencies.
    Reset,
    /// Every agent drops its session at once, and connects anew.
    HangUp,
    /// Every runtime loses one image, one agent after the other, over so many milliseconds.
    Lose { millis: u64 },
}

/// The name of the agent with this number, from 0.
pub(crate) fn node_name(number: usize) -> String {
    format!("node-{number:05}")
}

/// Runs until standard input ends.
pub(crate) async fn run(args: &SwarmArgs) -> Result<()> {
    drop_daemon::install_crypto_provider();
    drop_daemon::limits::raise_open_files();
    let tally = Arc::new(Tally::new(args.agents));
    let (orders, _) = broadcast::channel(16);
    let mut tasks = JoinSet::new();
    for number in 0..args.agents {
        let place = Place {
            endpoint: endpoint(&args.coordinator)?,
            trust: trust(&args.secrets, &node_name(number)),
        };
        let agent = Agent::new(number, Arc::clone(&tally), orders.subscribe());
        tasks.spawn(agent.run(place));
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut answers = tokio::io::stdout();
    while let Some(line) = lines.next_line().await.context("read an order")? {
        let order: Order = serde_json::from_str(&line).with_context(|| format!("order {line}"))?;
        match order {
            Order::Report => {}
            Order::Reset => tally.reset(),
            Order::HangUp | Order::Lose { .. } => {
                orders.send(order).context("no agent is left")?;
            }
        }
        let mut answer = serde_json::to_vec(&tally.report())?;
        answer.push(b'\n');
        answers.write_all(&answer).await.context("answer")?;
        answers.flush().await.context("answer")?;
    }
    Ok(())
}
