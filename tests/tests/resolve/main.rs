//! The coordinator asks registries itself: what that costs there, what nodes are spared, and which registries it asks how.

mod platforms;
mod tls;
mod ways;

use std::time::Duration;

use anyhow::{Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{
    condition, is_not_ready, is_ready, is_ready_on, policy, status, yaml, yaml_of_digest,
};
use drop_tests::cluster::Cluster;
use drop_tests::images::{Recipe, this_platform};
use drop_tests::node::NodeSpec;
use drop_tests::proxy::{Fault, Log};
use drop_tests::wait;

const SOON: Duration = Duration::from_secs(60);
/// How long to look for something that must not happen.
const WHILE: Duration = Duration::from_secs(3);
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
const BY_FAST: &str = "policyRef: {name: fast}";

async fn cluster(nodes: usize) -> Result<Cluster> {
    let cluster = Cluster::builder()
        .nodes(nodes)
        .agent_args(&["--list-interval", "1s"])
        .start()
        .await?;
    cluster.apply(&policy("fast", "")).await?;
    Ok(cluster)
}

fn small() -> Recipe {
    Recipe::layers(&[200_000])
}

/// One that this machine does not run.
fn other_platform() -> &'static str {
    if this_platform() == "linux/s390x" {
        "linux/ppc64le"
    } else {
        "linux/s390x"
    }
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
async fn twenty_tags_that_three_nodes_hold_cost_twenty_heads_and_nothing_else() -> Result<()> {
    let cluster = cluster(3).await?;
    let image = cluster.image("team/app");
    let tags: Vec<String> = (0..20).map(|tag| format!("v{tag}")).collect();
    for tag in &tags {
        cluster
            .push("team/app", tag, &Recipe::layers(&[1_000]))
            .await?;
        cluster
            .pull_beside(&format!("{image}:{tag}"), &NODES)
            .await?;
    }

    let mark = cluster.proxy.log().count();
    let all: String = tags
        .iter()
        .map(|tag| yaml(tag, &image, tag, BY_FAST))
        .collect();
    cluster.apply(&all).await?;
    for tag in &tags {
        cluster
            .until::<CachedImage>(tag, SOON, |image| is_ready_on(image, &NODES))
            .await?;
    }
    let log = log_since(&cluster, mark).await?;
    ensure!(log.of_nodes().count() == 0, "{}", log.table());
    let manifests = log.manifests();
    let heads = manifests.method("HEAD").count();
    ensure!(heads == 20 && manifests.count() == 20, "{}", log.table());
    // Whether the registry wants a login is asked once.
    ensure!(log.count() <= 21, "{}", log.table());
    let metrics = cluster.coordinator.metrics().await?;
    let host = cluster.proxy.host();
    let labels = [("host", host.as_str()), ("method", "HEAD"), ("code", "200")];
    let counted = metrics.value("drop_registry_requests_total", &labels);
    ensure!(counted == Some(20.0), "{}", metrics.text);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_costs_one_head_and_one_pull_on_each_node() -> Result<()> {
    let cluster = cluster(3).await?;
    let image = cluster.image("team/app");
    cluster.push("team/app", "v1", &small()).await?;
    cluster.pull_beside(&format!("{image}:v1"), &NODES).await?;
    let moved = cluster.push("team/app", "v1", &small()).await?;

    let mark = cluster.proxy.log().count();
    cluster.apply(&yaml("app", &image, "v1", BY_FAST)).await?;
    let app = cluster
        .until("app", SOON, |app: &CachedImage| is_ready_on(app, &NODES))
        .await?;
    ensure!(status(&app).resolved_digest.as_ref() == Some(&moved));
    ensure!(cluster.holders(&format!("{image}:v1"), &moved).await? == NODES);
    let log = log_since(&cluster, mark).await?;
    let heads = log.of_coordinator().method("HEAD");
    ensure!(heads.count() == 1, "{}", log.table());
    ensure!(
        log.pulls().len() == 3 && log.nodes().len() == 3,
        "{}",
        log.table()
    );
    // Manifest and configuration, once for all nodes.
    let gets = log.of_coordinator().method("GET");
    ensure!(
        gets.blobs().count() == 1 && gets.manifests().count() == 1,
        "{}",
        log.table()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_does_not_exist_is_said_without_a_pull() -> Result<()> {
    let cluster = cluster(2).await?;
    let image = cluster.image("team/app");
    let missing = format!("sha256:{}", "a".repeat(64));
    cluster.apply(&yaml("tag", &image, "v1", BY_FAST)).await?;
    cluster
        .apply(&yaml_of_digest("digest", &image, &missing, BY_FAST))
        .await?;
    for name in ["tag", "digest"] {
        let object: CachedImage = cluster
            .until(name, SOON, |image| is_not_ready(image, "ImagePullBackOff"))
            .await?;
        let (_, _, message) = condition(&object, "Ready");
        ensure!(message == "image not found; 0/2 nodes ready", "{message}");
        let status = status(&object);
        ensure!(
            status.nodes_failed == 2 && status.consecutive_failures == 1,
            "{status:?}"
        );
        let told = |node: &drop_api::NodeException| node.attempts == 1 && node.next_retry.is_some();
        ensure!(status.nodes.iter().all(told), "{status:?}");
    }
    let log = log_since(&cluster, 0).await?;
    ensure!(log.of_nodes().count() == 0, "{}", log.table());

    // It is pushed, and an edit asks at once.
    cluster.push("team/app", "v1", &small()).await?;
    let edited = format!("{BY_FAST}, nodeSelector: {{kubernetes.io/os: linux}}");
    for node in &cluster.nodes {
        node.label("kubernetes.io/os", Some("linux")).await?;
    }
    cluster.apply(&yaml("tag", &image, "v1", &edited)).await?;
    cluster
        .until::<CachedImage>("tag", SOON, |image| is_ready_on(image, &NODES[..2]))
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_nodes_reach_the_registry_one_of_them_is_the_source() -> Result<()> {
    let cluster = cluster(3).await?;
    let digest = cluster.push("team/app", "v1", &small()).await?;
    cluster.proxy.inject(Fault::status(503).for_coordinator());
    cluster
        .apply(&yaml("app", &cluster.image("team/app"), "v1", BY_FAST))
        .await?;
    let why = format!(
        "the coordinator cannot reach {0}, a node checks the tag: {0} answered 503",
        cluster.proxy.host()
    );
    let app: CachedImage = cluster
        .until("app", SOON, |app| {
            is_ready_on(app, &NODES)?;
            let (_, _, message) = condition(app, "Ready");
            ensure!(message.ends_with(&why), "{message}");
            Ok(())
        })
        .await?;
    ensure!(status(&app).resolved_digest.as_ref() == Some(&digest));
    let log = log_since(&cluster, 0).await?;
    ensure!(log.pulls().len() == 3, "{}", log.table());
    let asked = log.of_coordinator().count();
    // Three attempts at each request of one question.
    ensure!((1..=6).contains(&asked), "{}", log.table());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_coordinator_waits_as_long_as_the_host_says_and_so_do_nodes() -> Result<()> {
    let cluster = cluster(2).await?;
    cluster.push("team/app", "v1", &small()).await?;
    let fault = Fault::status(429).header("Retry-After", "8");
    cluster.proxy.inject(fault.for_coordinator().times(1));
    cluster
        .apply(&yaml("app", &cluster.image("team/app"), "v1", BY_FAST))
        .await?;
    let app: CachedImage = cluster
        .until("app", SOON, |app| is_not_ready(app, "RegistryUnavailable"))
        .await?;
    let (_, _, message) = condition(&app, "Ready");
    let words = format!("throttled by {}, next try at ", cluster.proxy.host());
    ensure!(message.starts_with(&words), "{message}");
    cluster.until::<CachedImage>("app", SOON, is_ready).await?;
    let log = cluster.proxy.log();
    let [first, second, ..] = log.exchanges() else {
        anyhow::bail!("{}", log.table());
    };
    let metrics = cluster.coordinator.metrics().await?;
    let host = cluster.proxy.host();
    let counted = metrics.value("drop_registry_throttled_total", &[("host", &host)]);
    ensure!(counted == Some(1.0), "{}", metrics.text);
    let gap = second.at.saturating_sub(first.at);
    ensure!(gap >= Duration::from_secs(7), "{}", log.table());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_admission_knows_the_image_s_size() -> Result<()> {
    let limits = ["--disk-high-percent=80", "--disk-default-need=1M"];
    let cluster = Cluster::builder()
        .node(NodeSpec::new("small").disk(64).agent_args(&limits))
        .start()
        .await?;
    cluster
        .push("app", "v1", &Recipe::layers(&[40_000_000]))
        .await?;
    cluster.apply(&policy("fast", "")).await?;
    cluster
        .apply(&yaml("app", &cluster.image("app"), "v1", BY_FAST))
        .await?;
    let app: CachedImage = cluster
        .until("app", SOON, |app| is_not_ready(app, "InsufficientDisk"))
        .await?;
    let (_, _, message) = condition(&app, "Ready");
    let need = message.split_once("needs ").map_or("", |(_, need)| need);
    let need: f64 = need.split(' ').next().unwrap_or_default().parse()?;
    ensure!(need >= 40.0, "{message}");
    let log = log_since(&cluster, 0).await?;
    ensure!(log.of_nodes().count() == 0, "{}", log.table());
    Ok(())
}
