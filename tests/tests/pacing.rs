//! The limits of a PullPolicy and the order of pulls, as the registry saw them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{is_not_ready, is_ready, policy, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::images::Recipe;
use drop_tests::node::NodeSpec;
use drop_tests::proxy::{Fault, Kind, Log};

const SOON: Duration = Duration::from_secs(90);
/// One image's layer, and what the registry sends of all layers in a second: pulls are long enough to meet each other.
const SIZE: usize = 1_000_000;
const RATE: u64 = 2_000_000;

/// A cluster whose registry is slow.
async fn slow_registry(nodes: usize) -> Result<Cluster> {
    let cluster = Cluster::builder().nodes(nodes).start().await?;
    cluster.proxy.inject(Fault::rate(RATE).on(Kind::Blob));
    Ok(cluster)
}

/// Applies images under a policy of their own, waits until all are Ready, and gives what the registry was asked for them.
async fn wave(cluster: &Cluster, name: &str, limits: &str, images: usize) -> Result<Log> {
    let names: Vec<String> = (1..=images)
        .map(|number| format!("{name}-{number}"))
        .collect();
    let mut yamls = policy(name, limits);
    for image in &names {
        cluster.push(image, "v1", &Recipe::layers(&[SIZE])).await?;
        let spec = format!("policyRef: {{name: {name}}}");
        yamls.push_str(&yaml(image, &cluster.image(image), "v1", &spec));
    }
    let mark = cluster.proxy.log().count();
    cluster.apply(&yamls).await?;
    for image in &names {
        cluster.until::<CachedImage>(image, SOON, is_ready).await?;
    }
    Ok(cluster.proxy.log().after(mark))
}

#[tokio::test(flavor = "multi_thread")]
async fn max_concurrent_nodes_bounds_the_nodes_that_pull_at_once() -> Result<()> {
    let cluster = slow_registry(4).await?;
    // The first pull of an image is a probe: it runs alone. The other three nodes could then pull at once.
    for (name, limit, most) in [("one", 1, 1), ("two", 2, 2), ("many", 100, 3)] {
        let limits = format!("maxConcurrentNodes: {limit}, minDelayBetweenPulls: 0s");
        let log = wave(&cluster, name, &limits, 1).await?;
        ensure!(
            log.pulls().len() == 4,
            "each node pulls once:\n{}",
            log.table()
        );
        ensure!(
            log.most_nodes_at_once() == most,
            "{} nodes at once under {limits}:\n{}",
            log.most_nodes_at_once(),
            log.table()
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn max_concurrent_pulls_counts_over_all_images_of_the_policy() -> Result<()> {
    let cluster = slow_registry(2).await?;
    let free = "maxConcurrentNodes: 100, minDelayBetweenPulls: 0s";
    for (name, limits, most) in [
        ("one", format!("{free}, maxConcurrentPulls: 1"), 1),
        ("free", free.to_owned(), 2),
    ] {
        let log = wave(&cluster, name, &limits, 2).await?;
        ensure!(
            log.pulls().len() == 4,
            "each node pulls each image once:\n{}",
            log.table()
        );
        ensure!(
            log.most_pulls_at_once() == most,
            "{} pulls at once under {limits}:\n{}",
            log.most_pulls_at_once(),
            log.table()
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn row_5_min_delay_holds_with_one_node_at_a_time() -> Result<()> {
    let cluster = Cluster::builder().nodes(3).start().await?;
    for (name, limit) in [("one", 1), ("free", 3)] {
        let limits = format!("maxConcurrentNodes: {limit}, minDelayBetweenPulls: 2s");
        let pulls = wave(&cluster, name, &limits, 2).await?.pulls();
        ensure!(pulls.len() == 6, "{pulls:?}");
        for pair in pulls.windows(2).filter(|pair| pair[0].node != pair[1].node) {
            let gap = pair[1].start.saturating_sub(pair[0].start);
            // The delay is between grants; a containerd needs a moment until it asks, and not always the same one.
            ensure!(
                gap >= Duration::from_millis(1_700),
                "{gap:?} under {limits}: {pulls:#?}"
            );
        }
    }

    // It is a delay between nodes: the next image on the same node does not wait for the hour.
    cluster.nodes[0].label("pool", Some("solo")).await?;
    let limits = "minDelayBetweenPulls: 1h, nodeSelector: {pool: solo}";
    let pulls = wave(&cluster, "solo", limits, 3).await?.pulls();
    ensure!(pulls.len() == 3, "{pulls:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn row_6_priority_decides_the_order_and_equal_ones_go_by_name() -> Result<()> {
    let cluster = Cluster::builder()
        .node(NodeSpec::new("node-1").label("pool", "solo"))
        .node(NodeSpec::new("node-2").label("pool", "pair"))
        .node(NodeSpec::new("node-3").label("pool", "pair"))
        .start()
        .await?;
    cluster.proxy.inject(Fault::rate(RATE).on(Kind::Blob));
    for pool in ["solo", "pair"] {
        // Names and times of creation say the opposite of the priorities.
        let images = [
            ("a-late", Some(10)),
            ("m-2", Some(0)),
            ("m-1", None),
            ("z-early", Some(-10)),
        ];
        let nowhere = "maxConcurrentNodes: 1, minDelayBetweenPulls: 0s, nodeSelector: {pool: none}";
        let mut yamls = policy(pool, nowhere);
        for (image, priority) in images {
            let name = format!("{image}-{pool}");
            cluster.push(&name, "v1", &Recipe::layers(&[SIZE])).await?;
            let priority = priority.map_or(String::new(), |value| format!(", priority: {value}"));
            let spec = format!("policyRef: {{name: {pool}}}{priority}");
            yamls.push_str(&yaml(&name, &cluster.image(&name), "v1", &spec));
        }
        let mark = cluster.proxy.log().count();
        cluster.apply(&yamls).await?;
        for (image, _) in images {
            cluster
                .until::<CachedImage>(&format!("{image}-{pool}"), SOON, |object| {
                    is_not_ready(object, "NoMatchingNodes")
                })
                .await?;
        }
        // All are wanted from one moment to the next.
        let here = nowhere.replace("none", pool);
        cluster.apply(&policy(pool, &here)).await?;
        for (image, _) in images {
            cluster
                .until::<CachedImage>(&format!("{image}-{pool}"), SOON, is_ready)
                .await?;
        }
        let log = cluster.proxy.log().after(mark);
        let pulls = log.pulls();
        let order = turns(pulls.iter().map(|pull| pull.repository.as_str()));
        let expected = ["z-early", "m-1", "m-2", "a-late"].map(|image| format!("{image}-{pool}"));
        ensure!(order == expected, "{order:?}:\n{}", log.table());
        ensure!(log.most_nodes_at_once() == 1, "{}", log.table());
        let nodes: BTreeSet<&str> = pulls.iter().map(|pull| pull.node.as_str()).collect();
        ensure!(
            pulls.len() == nodes.len() * images.len(),
            "each node pulls each image once: {pulls:?}"
        );
    }
    Ok(())
}

/// Neighbours that are equal count once.
fn turns<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut turns: Vec<&str> = names.collect();
    turns.dedup();
    turns
}
