//! New versions of both programs: which of them is rolled out first does not matter. What versions say to each other that the
//! other one does not know is a matter of `bad_input`.

use std::time::Duration;

use anyhow::{Result, ensure};
use drop_tests::cached_image::{counts_agree, is_ready, status};
use drop_tests::cluster::Cluster;
use drop_tests::history::History;

use crate::{SOON, in_the_middle_of_a_pull, pulls_of_large};

/// What is rolled out.
#[derive(Clone, Copy)]
enum Part {
    Coordinator,
    Agents,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_of_the_coordinator_before_the_agents_repeats_no_pull() -> Result<()> {
    roll_out([Part::Coordinator, Part::Agents]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_of_the_agents_before_the_coordinator_repeats_no_pull() -> Result<()> {
    roll_out([Part::Agents, Part::Coordinator]).await
}

/// In the middle of a wave each process is told to stop, and the next one starts when it has ended.
async fn roll_out(order: [Part; 2]) -> Result<()> {
    let mut cluster = Cluster::builder()
        .nodes(2)
        .agent_args(&["--shutdown-grace", "60s"])
        .start()
        .await?;
    let slow = in_the_middle_of_a_pull(&mut cluster).await?;
    let small = History::start(&cluster.client(), "small").await?;
    let large = History::start(&cluster.client(), "large").await?;
    let small_requests = cluster.proxy.log().repository("small").of_nodes().count();
    let small_before = status(&cluster.get("small").await?);
    for part in order {
        match part {
            Part::Coordinator => roll_coordinator(&mut cluster).await?,
            Part::Agents => roll_agents(&mut cluster).await?,
        }
    }
    cluster.proxy.remove(slow);
    cluster.until("large", SOON, is_ready).await?;

    let log = cluster.proxy.log();
    ensure!(pulls_of_large(&cluster) == (2, 2), "{}", log.table());
    ensure!(
        log.repository("small").of_nodes().count() == small_requests,
        "{}",
        log.repository("small").table()
    );
    for status in small.statuses() {
        ensure!(status == small_before, "an image at rest: {status:?}");
    }
    for status in large.statuses() {
        ensure!(status.nodes_failed == 0, "{status:?}");
        counts_agree(&status)?;
    }
    Ok(())
}

async fn roll_coordinator(cluster: &mut Cluster) -> Result<()> {
    let process = cluster.coordinator.process();
    let ended = process.terminate(Duration::from_secs(20)).await?;
    ensure!(ended.success(), "{ended}\n{}", process.log());
    cluster.coordinator.restart().await
}

async fn roll_agents(cluster: &mut Cluster) -> Result<()> {
    for node in ["node-1", "node-2"] {
        let agent = cluster.node(node)?.agent()?;
        let ended = agent.process().terminate(Duration::from_secs(45)).await?;
        ensure!(ended.success(), "{ended}\n{}", agent.log());
        cluster.node(node)?.agent()?.restart().await?;
    }
    Ok(())
}
