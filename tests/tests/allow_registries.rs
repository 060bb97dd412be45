//! `--allow-registries`: a node takes images from where its own flags say, whatever the coordinator wants.

use std::time::Duration;

use anyhow::{Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{condition, is_not_ready, is_ready, policy, status, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::images::Recipe;
use drop_tests::node::NodeSpec;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_pulls_only_from_registries_and_paths_that_it_allows() -> Result<()> {
    let mut cluster = Cluster::builder()
        .node(NodeSpec::new("open"))
        .start()
        .await?;
    let allowed = format!("docker.io,{}", cluster.image("team"));
    let strict = NodeSpec::new("strict").agent_args(&["--allow-registries", &allowed]);
    cluster.add_node(strict).await?;
    cluster.apply(&policy("fast", "")).await?;
    // The path ends at a segment: another team whose name only begins alike is outside.
    for (name, repository) in [("ours", "team/app"), ("theirs", "team-b/app")] {
        cluster
            .push(repository, "v1", &Recipe::layers(&[1_000]))
            .await?;
        let image = cluster.image(repository);
        cluster
            .apply(&yaml(name, &image, "v1", "policyRef: {name: fast}"))
            .await?;
    }
    cluster.until("ours", SOON, is_ready).await?;
    cluster
        .until("theirs", SOON, |theirs: &CachedImage| {
            is_not_ready(theirs, "ErrImagePull")?;
            let status = status(theirs);
            ensure!(status.cached_nodes == ["open"], "{status:?}");
            ensure!(status.nodes.len() == 1, "{:?}", status.nodes);
            let (_, _, message) = condition(theirs, "Ready");
            for text in [&message, &status.nodes[0].message] {
                ensure!(
                    text.contains("node strict") && text.contains("--allow-registries"),
                    "{text}"
                );
            }
            Ok(())
        })
        .await?;
    let log = cluster.proxy.log();
    let asked = log.repository("team-b/app").node("strict");
    ensure!(asked.count() == 0, "{}", asked.table());
    ensure!(
        log.repository("team/app").node("strict").count() > 0,
        "{}",
        log.table()
    );
    Ok(())
}
