//! imagePullPolicy and repullInterval: who asks the registry, how often, and what the status says meanwhile.

use std::time::Duration;

use anyhow::{Result, ensure};
use drop_api::{CachedImage, NodeState};
use drop_tests::cached_image::{
    condition, is_not_ready, is_ready, is_ready_on, policy, status, yaml,
};
use drop_tests::cluster::Cluster;
use drop_tests::history::History;
use drop_tests::images::Recipe;
use drop_tests::proxy::{Fault, Kind, Log};
use drop_tests::wait;

const SOON: Duration = Duration::from_secs(60);
/// How long to look for something that must not happen.
const WHILE: Duration = Duration::from_secs(3);
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// Three nodes that list their images often, and the policy `fast`.
async fn three_nodes() -> Result<Cluster> {
    let cluster = Cluster::builder()
        .nodes(3)
        .agent_args(&["--list-interval", "1s"])
        .start()
        .await?;
    cluster.apply(&policy("fast", "")).await?;
    Ok(cluster)
}

fn small() -> Recipe {
    Recipe::layers(&[200_000])
}

fn spec(pull_policy: &str) -> String {
    format!("policyRef: {{name: fast}}, imagePullPolicy: {pull_policy}")
}

/// What the registry was asked since `mark`, when that has been all for a while.
async fn log_since(cluster: &Cluster, mark: usize) -> Result<Log> {
    let count = cluster.proxy.log().count();
    wait::holds("nobody asks the registry", WHILE, async || {
        let log = cluster.proxy.log();
        ensure!(log.count() == count, "{}", log.after(mark).table());
        Ok(())
    })
    .await?;
    Ok(cluster.proxy.log().after(mark))
}

#[tokio::test(flavor = "multi_thread")]
async fn if_not_present_makes_no_request_where_the_reference_is_present() -> Result<()> {
    let cluster = three_nodes().await?;
    let held = cluster.push("team/app", "v1", &small()).await?;
    let image = cluster.image("team/app");
    cluster
        .pull_beside(&format!("{image}:v1"), &NODES[..2])
        .await?;
    // Whatever the digest: the tag has moved since.
    let moved = cluster.push("team/app", "v1", &small()).await?;

    let mark = cluster.proxy.log().count();
    let pool = "nodeSelector: {pool: a}";
    for node in &cluster.nodes[..2] {
        node.label("pool", Some("a")).await?;
    }
    let held_everywhere = format!("{}, {pool}", spec("IfNotPresent"));
    cluster
        .apply(&yaml("app", &image, "v1", &held_everywhere))
        .await?;
    let app: CachedImage = cluster
        .until("app", SOON, |app| is_ready_on(app, &NODES[..2]))
        .await?;
    ensure!(status(&app).resolved_digest.as_ref() == Some(&held));
    let log = log_since(&cluster, mark).await?;
    ensure!(log.count() == 0, "{}", log.table());

    // The node that lacks it pulls, and it alone.
    cluster
        .apply(&yaml("app", &image, "v1", &spec("IfNotPresent")))
        .await?;
    cluster
        .until("app", SOON, |app| is_ready_on(app, &NODES))
        .await?;
    let log = log_since(&cluster, mark).await?;
    ensure!(log.nodes().iter().eq(["node-3"]), "{}", log.table());
    ensure!(log.pulls().len() == 1, "{}", log.table());
    ensure!(cluster.holders(&format!("{image}:v1"), &moved).await? == ["node-3"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn always_asks_once_in_the_whole_cluster_for_a_tag_that_all_nodes_hold() -> Result<()> {
    let cluster = three_nodes().await?;
    let digest = cluster.push("team/app", "v1", &small()).await?;
    let image = cluster.image("team/app");
    cluster.pull_beside(&format!("{image}:v1"), &NODES).await?;

    let mark = cluster.proxy.log().count();
    cluster
        .apply(&yaml("app", &image, "v1", &spec("Always")))
        .await?;
    let app: CachedImage = cluster
        .until("app", SOON, |app| is_ready_on(app, &NODES))
        .await?;
    ensure!(status(&app).resolved_digest.as_ref() == Some(&digest));
    let log = log_since(&cluster, mark).await?;
    ensure!(log.of_nodes().count() == 0, "{}", log.table());
    let manifests = log.manifests();
    ensure!(
        manifests.count() == 1 && manifests.method("HEAD").count() == 1,
        "{}",
        log.table()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn always_pulls_only_where_the_digest_differs() -> Result<()> {
    let cluster = three_nodes().await?;
    let image = cluster.image("team/app");
    let reference = format!("{image}:v1");
    cluster.push("team/app", "v1", &small()).await?;
    cluster.pull_beside(&reference, &["node-2"]).await?;
    let newest = cluster.push("team/app", "v1", &small()).await?;
    cluster
        .pull_beside(&reference, &["node-1", "node-3"])
        .await?;

    let mark = cluster.proxy.log().count();
    cluster
        .apply(&yaml("app", &image, "v1", &spec("Always")))
        .await?;
    let app: CachedImage = cluster
        .until("app", SOON, |app| is_ready_on(app, &NODES))
        .await?;
    ensure!(status(&app).resolved_digest.as_ref() == Some(&newest));
    ensure!(cluster.holders(&reference, &newest).await? == NODES);
    let log = log_since(&cluster, mark).await?;
    ensure!(log.nodes().iter().eq(["node-2"]), "{}", log.table());
    ensure!(log.pulls().len() == 1, "{}", log.table());
    let checks = log.of_coordinator().method("HEAD");
    ensure!(checks.count() == 1, "{}", log.table());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn never_reports_what_is_there_and_never_asks() -> Result<()> {
    let cluster = three_nodes().await?;
    cluster.push("team/app", "v1", &small()).await?;
    let image = cluster.image("team/app");
    let reference = format!("{image}:v1");
    cluster.pull_beside(&reference, &NODES[..2]).await?;

    let mark = cluster.proxy.log().count();
    cluster
        .apply(&yaml("app", &image, "v1", &spec("Never")))
        .await?;
    let app: CachedImage = cluster
        .until("app", SOON, |app| {
            is_not_ready(app, "ErrImageNeverPull")?;
            let ready = status(app).ready;
            ensure!(ready.as_deref() == Some("2/3"), "{ready:?}");
            Ok(())
        })
        .await?;
    let status = status(&app);
    ensure!(status.cached_nodes == NODES[..2], "{status:?}");
    ensure!(status.nodes.len() == 1, "{status:?}");
    let exception = &status.nodes[0];
    ensure!(
        exception.node == "node-3" && exception.state == NodeState::Failed,
        "{exception:?}"
    );
    ensure!(
        exception.reason == "ErrImageNeverPull" && exception.next_retry.is_none(),
        "{exception:?}"
    );
    // What to do about it.
    ensure!(exception.message.contains("load it"), "{exception:?}");
    let log = log_since(&cluster, mark).await?;
    ensure!(log.count() == 0, "{}", log.table());

    // Somebody loads it there, and that is reported.
    cluster.pull_beside(&reference, &["node-3"]).await?;
    cluster
        .until("app", SOON, |app| is_ready_on(app, &NODES))
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn row_10_a_repull_brings_a_moved_tag_to_every_node_while_ready_stays_true() -> Result<()> {
    let cluster = three_nodes().await?;
    cluster
        .apply(&policy(
            "repull",
            "maxConcurrentNodes: 100, minDelayBetweenPulls: 0s, repullInterval: 5s",
        ))
        .await?;
    cluster.push("team/app", "v1", &small()).await?;
    let image = cluster.image("team/app");
    cluster
        .apply(&yaml("app", &image, "v1", "policyRef: {name: repull}"))
        .await?;
    cluster
        .until::<CachedImage>("app", SOON, |app| is_ready_on(app, &NODES))
        .await?;

    let history = History::start(&cluster.client(), "app").await?;
    // Slow enough that the nodes differ for a while, and that this is worth a status.
    cluster.proxy.inject(Fault::rate(1_000_000).on(Kind::Blob));
    let moved = cluster
        .push("team/app", "v1", &Recipe::layers(&[2_000_000]))
        .await?;
    let reference = format!("{image}:v1");
    wait::until("the moved tag on every node", SOON, async || {
        let holders = cluster.holders(&reference, &moved).await?;
        ensure!(holders == NODES, "only on {holders:?}");
        Ok(())
    })
    .await?;
    let app = cluster
        .until("app", SOON, |app| {
            is_ready(app)?;
            let message = condition(app, "Ready").2;
            ensure!(message == "Image cached on all 3 target nodes", "{message}");
            ensure!(status(app).resolved_digest.as_ref() == Some(&moved));
            Ok(())
        })
        .await?;
    let versions = history.up_to(&app).await?;
    for version in &versions {
        is_ready_on(version, &NODES)?;
        let (word, reason, message) = condition(version, "Ready");
        ensure!(
            word == "True" && reason == "Cached",
            "{word} {reason}: {message}"
        );
    }
    let told: Vec<String> = versions
        .iter()
        .map(|version| condition(version, "Ready").2)
        .collect();
    ensure!(
        told.iter()
            .any(|message| message.contains("/3 nodes on the newest digest")),
        "nobody was told: {told:#?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_stays_costs_one_request_an_interval_in_the_whole_cluster() -> Result<()> {
    let cluster = three_nodes().await?;
    let interval = Duration::from_secs(3);
    cluster.push("team/app", "v1", &small()).await?;
    cluster
        .apply(&yaml(
            "app",
            &cluster.image("team/app"),
            "v1",
            &spec("Always"),
        ))
        .await?;
    cluster
        .until::<CachedImage>("app", SOON, |app| is_ready_on(app, &NODES))
        .await?;

    let open = "maxConcurrentNodes: 100, minDelayBetweenPulls: 0s";
    cluster
        .apply(&policy("fast", &format!("{open}, repullInterval: 3s")))
        .await?;
    let mark = cluster.proxy.log().count();
    wait::until("four checks", SOON, async || {
        let log = cluster.proxy.log().after(mark);
        ensure!(log.count() >= 4, "{}", log.table());
        Ok(())
    })
    .await?;
    let log = cluster.proxy.log().after(mark);
    ensure!(
        log.method("HEAD").manifests().count() == log.count(),
        "something was pulled:\n{}",
        log.table()
    );
    for pair in log.exchanges().windows(2) {
        let gap = pair[1].at.saturating_sub(pair[0].at);
        // A containerd needs a moment until it asks, and not always the same one.
        ensure!(
            gap + Duration::from_millis(500) >= interval,
            "{gap:?}:\n{}",
            log.table()
        );
    }
    // Without an interval it is never checked again.
    cluster.apply(&policy("fast", open)).await?;
    let mark = cluster.proxy.log().count();
    wait::holds("at most a check under way", 2 * interval, async || {
        let log = cluster.proxy.log().after(mark);
        ensure!(log.count() <= 1, "{}", log.table());
        Ok(())
    })
    .await?;
    Ok(())
}
