//! Each part is killed, told to stop or cut off in the middle of its work: nothing is lost, nothing is done twice.

mod rollouts;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{
    counts_agree, has_reason, is_cached_on, is_ready, policy, status, yaml,
};
use drop_tests::cluster::Cluster;
use drop_tests::history::History;
use drop_tests::images::Recipe;
use drop_tests::proxy::{End, Fault, FaultId, Kind};
use drop_tests::wait;

const LARGE: usize = 60_000_000;
/// Slow enough to be caught in the middle, fast enough to end by itself if a test forgets it.
const SLOW: u64 = 4_000_000;
const SOON: Duration = Duration::from_secs(60);

/// Pushes `large` (60 MB) and `small`, wants the small one, waits until it is there, then wants the large one slowly and waits
/// until its download is well on its way on node-1.
async fn in_the_middle_of_a_pull(cluster: &mut Cluster) -> Result<FaultId> {
    cluster
        .push("small", "v1", &Recipe::layers(&[100_000]))
        .await?;
    cluster
        .push("large", "v1", &Recipe::layers(&[LARGE]))
        .await?;
    let spec =
        "failureBackoff: {initial: 2s, max: 10s}, maxConcurrentNodes: 10, minDelayBetweenPulls: 0s";
    cluster.apply(&policy("fast", spec)).await?;
    let fast = "policyRef: {name: fast}";
    cluster
        .apply(&yaml("small", &cluster.image("small"), "v1", fast))
        .await?;
    cluster.until("small", SOON, is_ready).await?;
    let slow = cluster
        .proxy
        .inject(Fault::rate(SLOW).on(Kind::Blob).repository("large"));
    cluster
        .apply(&yaml("large", &cluster.image("large"), "v1", fast))
        .await?;
    let containerd = cluster.node("node-1")?.containerd()?;
    wait::until("8 MB to be there", SOON, async || {
        let bytes = containerd.partial_bytes();
        ensure!(bytes > 8_000_000, "{bytes} bytes are");
        Ok(())
    })
    .await?;
    Ok(slow)
}

/// How often the large image's pull was begun, and how often the transfer of its layer came to its end.
fn pulls_of_large(cluster: &Cluster) -> (usize, usize) {
    let log = cluster.proxy.log().repository("large");
    let ended = log
        .blobs()
        .filter(|request| request.bytes > 1_000_000 && request.end == End::Complete);
    (log.pulls().len(), ended.count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_coordinator_interrupts_no_pull_and_repeats_none() -> Result<()> {
    let mut cluster = Cluster::builder().nodes(1).start().await?;
    let slow = in_the_middle_of_a_pull(&mut cluster).await?;
    let (large, small) = (
        History::start(&cluster.client(), "large").await?,
        History::start(&cluster.client(), "small").await?,
    );
    let small_requests = cluster.proxy.log().repository("small").count();
    let small_before = status(&cluster.get("small").await?);

    cluster.coordinator.kill();
    cluster.coordinator.restart().await?;
    cluster.proxy.remove(slow);
    cluster.until("large", SOON, is_ready).await?;

    let log = cluster.proxy.log();
    ensure!(
        pulls_of_large(&cluster) == (1, 1),
        "{}",
        log.repository("large").table()
    );
    ensure!(
        log.repository("small").count() == small_requests,
        "{}",
        log.repository("small").table()
    );
    ensure!(status(&cluster.get("small").await?) == small_before);
    for status in small.statuses() {
        ensure!(
            status == small_before,
            "the status of an image at rest changed: {status:?}"
        );
    }
    for status in large.statuses() {
        ensure!(
            status.consecutive_failures == 0 && status.nodes_failed == 0,
            "{status:?}"
        );
        counts_agree(&status)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agents_pull_is_begun_once_more_by_the_next_agent() -> Result<()> {
    let mut cluster = Cluster::builder().nodes(1).start().await?;
    let slow = in_the_middle_of_a_pull(&mut cluster).await?;
    let large = History::start(&cluster.client(), "large").await?;
    let small_requests = cluster.proxy.log().repository("small").count();

    cluster.node("node-1")?.agent()?.kill();
    cluster.node("node-1")?.agent()?.restart().await?;
    cluster.proxy.remove(slow);
    let ready: CachedImage = cluster.until("large", SOON, is_ready).await?;

    let log = cluster.proxy.log();
    ensure!(
        pulls_of_large(&cluster) == (2, 1),
        "{}",
        log.repository("large").table()
    );
    ensure!(
        log.repository("small").count() == small_requests,
        "{}",
        log.repository("small").table()
    );
    ensure!(status(&ready).consecutive_failures == 0);
    for status in large.statuses() {
        ensure!(
            status.nodes_pulling <= 1 && status.nodes_targeted == 1,
            "{status:?}"
        );
        counts_agree(&status)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_containerd_resumes_its_download() -> Result<()> {
    let mut cluster = Cluster::builder().nodes(1).start().await?;
    let slow = in_the_middle_of_a_pull(&mut cluster).await?;
    let large = History::start(&cluster.client(), "large").await?;
    let reference = format!("{}:v1", cluster.image("large"));

    cluster.node("node-1")?.containerd()?.kill();
    let agent = cluster.node("node-1")?.agent()?;
    let metrics = wait::until("the pull to fail", SOON, async || {
        let metrics = agent.metrics().await?;
        let failed = metrics.of("drop_pull_errors_total").len();
        ensure!(failed > 0, "no pull has failed");
        Ok(metrics)
    })
    .await?;
    let labels = [("image", reference.as_str()), ("class", "runtime")];
    ensure!(
        metrics.value("drop_pull_errors_total", &labels) == Some(1.0),
        "{}",
        metrics.text
    );
    cluster.node("node-1")?.containerd()?.restart().await?;
    cluster.proxy.remove(slow);
    let ready: CachedImage = cluster.until("large", SOON, is_ready).await?;
    let small: CachedImage = cluster.get("small").await?;
    is_ready(&small)?;

    let log = cluster.proxy.log().repository("large").blobs();
    let resumed = log.filter(|request| request.range.is_some() && request.status == 206);
    ensure!(resumed.count() > 0, "{}", log.table());
    ensure!(
        log.bytes() < LARGE as u64 * 3 / 2,
        "fetched {} bytes:\n{}",
        log.bytes(),
        log.table()
    );
    ensure!(status(&ready).consecutive_failures == 0);
    for status in large.statuses() {
        ensure!(status.consecutive_failures <= 1, "{status:?}");
        counts_agree(&status)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_told_to_stop_finishes_its_pull_and_starts_no_other() -> Result<()> {
    let mut cluster = Cluster::builder()
        .nodes(1)
        .coordinator_args(&["--agent-grace", "2s"])
        .agent_args(&["--shutdown-grace", "60s"])
        .start()
        .await?;
    in_the_middle_of_a_pull(&mut cluster).await?;
    cluster
        .push("next", "v1", &Recipe::layers(&[100_000]))
        .await?;
    cluster
        .apply(&yaml(
            "next",
            &cluster.image("next"),
            "v1",
            "policyRef: {name: fast}",
        ))
        .await?;
    cluster
        .until("next", SOON, |next: &CachedImage| {
            ensure!(status(next).nodes_waiting == 1, "it does not wait");
            Ok(())
        })
        .await?;

    let agent = cluster.node("node-1")?.agent()?;
    let ended = agent.process().terminate(Duration::from_secs(45)).await?;
    ensure!(ended.success(), "{ended}\n{}", agent.log());
    ensure!(
        pulls_of_large(&cluster) == (1, 1),
        "{}",
        cluster.proxy.log().table()
    );
    let next = cluster.proxy.log().repository("next").of_nodes();
    ensure!(next.count() == 0, "{}", cluster.proxy.log().table());
    cluster
        .until("next", SOON, |next: &CachedImage| {
            has_reason(next, "AgentNotConnected")
        })
        .await?;

    cluster.node("node-1")?.agent()?.restart().await?;
    cluster.until("next", SOON, is_ready).await?;
    cluster.until("large", SOON, is_ready).await?;
    ensure!(
        pulls_of_large(&cluster) == (1, 1),
        "{}",
        cluster.proxy.log().table()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_told_to_stop_ends_in_time_and_interrupts_no_pull() -> Result<()> {
    let mut cluster = Cluster::builder().nodes(2).start().await?;
    let slow = in_the_middle_of_a_pull(&mut cluster).await?;
    let process = cluster.coordinator.process();
    let ended = process.terminate(Duration::from_secs(20)).await?;
    ensure!(ended.success(), "{ended}\n{}", process.log());
    cluster.proxy.remove(slow);
    wait::until("the pulls to end without a coordinator", SOON, async || {
        let (_, whole) = pulls_of_large(&cluster);
        ensure!(whole >= 1, "{whole} have");
        Ok(())
    })
    .await?;
    cluster.coordinator.restart().await?;
    cluster.until("large", SOON, is_ready).await?;
    ensure!(
        pulls_of_large(&cluster) == (2, 2),
        "{}",
        cluster.proxy.log().table()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_in_the_middle_of_a_wave_loses_nothing() -> Result<()> {
    const AWAY: Duration = Duration::from_secs(60);
    let mut cluster = Cluster::builder().nodes(3).start().await?;
    cluster
        .push("wave", "v1", &Recipe::layers(&[20_000_000]))
        .await?;
    cluster.proxy.inject(Fault::rate(5_000_000).on(Kind::Blob));
    cluster
        .apply(&policy(
            "one",
            "maxConcurrentNodes: 1, minDelayBetweenPulls: 0s",
        ))
        .await?;
    cluster
        .apply(&yaml(
            "wave",
            &cluster.image("wave"),
            "v1",
            "policyRef: {name: one}",
        ))
        .await?;
    cluster
        .until("wave", SOON, |wave: &CachedImage| {
            ensure!(
                status(wave).nodes_ready == 1,
                "{:?} are ready",
                status(wave).ready
            );
            Ok(())
        })
        .await?;
    let pid = cluster
        .coordinator
        .process()
        .pid()
        .context("no coordinator")?;

    cluster.control_plane.stop_api();
    let coordinator = cluster.coordinator.process();
    wait::holds("the coordinator runs", AWAY, async || {
        ensure!(coordinator.running(), "it ended:\n{}", coordinator.log());
        Ok(())
    })
    .await?;
    let log = cluster.proxy.log();
    ensure!(
        log.filter(|request| request.end != End::Complete).count() == 0,
        "{}",
        log.table()
    );
    cluster.control_plane.start_api().await?;

    let ready: CachedImage = cluster.until("wave", SOON, is_ready).await?;
    is_cached_on(&ready, &["node-1", "node-2", "node-3"])?;
    ensure!(status(&ready).consecutive_failures == 0);
    let log = cluster.proxy.log();
    ensure!(
        log.pulls().len() == 3 && log.nodes().len() == 3,
        "{}",
        log.table()
    );
    ensure!(
        cluster.coordinator.process().pid() == Some(pid) && cluster.coordinator.process().running()
    );

    // And what is wanted next is served as before.
    cluster
        .push("next", "v1", &Recipe::layers(&[1_000]))
        .await?;
    cluster
        .apply(&yaml(
            "next",
            &cluster.image("next"),
            "v1",
            "policyRef: {name: one}",
        ))
        .await?;
    cluster.until("next", SOON, is_ready).await?;
    Ok(())
}
