//! The main job: a CachedImage lands on real nodes, its status says so truthfully, and edits are followed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{
    condition, is_current, is_not_ready, is_ready, is_ready_on, policy, status, yaml,
    yaml_of_digest,
};
use drop_tests::cluster::Cluster;
use drop_tests::coordinator::USER;
use drop_tests::history::History;
use drop_tests::images::Recipe;
use drop_tests::wait;

/// Generous: the machine may be slow.
const SOON: Duration = Duration::from_secs(60);
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

#[tokio::test(flavor = "multi_thread")]
async fn an_image_lands_on_one_node() -> Result<()> {
    let cluster = Cluster::builder().nodes(1).start().await?;
    let digest = cluster
        .push("team/app", "v1", &Recipe::layers(&[1_000_000]))
        .await?;
    cluster
        .apply(&yaml("app", &cluster.image("team/app"), "v1", ""))
        .await?;
    let app: CachedImage = cluster
        .until("app", Duration::from_secs(20), is_ready)
        .await?;
    let status = status(&app);
    ensure!(status.ready.as_deref() == Some("1/1"), "{status:?}");
    ensure!(status.resolved_digest == Some(digest), "{status:?}");
    ensure!(status.cached_nodes == ["node-1"], "{status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn six_images_on_three_nodes_cost_few_writes_and_none_at_rest_or_after_a_restart()
-> Result<()> {
    let mut cluster = Cluster::builder().nodes(3).start().await?;
    let mut expected = Vec::new();
    for number in 1..=6 {
        let (name, repository) = (format!("app-{number}"), format!("team/app-{number}"));
        let recipe = Recipe::layers(&[400_000, 100_000 * number]);
        cluster.push(&repository, "v1", &recipe).await?;
        let digest = cluster.registry.digest(&repository, "v1").await?;
        let image = cluster.image(&repository);
        let document = match number {
            6 => yaml_of_digest(&name, &image, &digest, ""),
            _ => yaml(&name, &image, "v1", ""),
        };
        cluster.apply(&document).await?;
        expected.push((name, digest));
    }

    // The built-in policy: one node after the other, 10 s between two nodes.
    for (name, digest) in &expected {
        let image: CachedImage = cluster
            .until(name, Duration::from_secs(180), |image| {
                is_ready_on(image, &NODES)
            })
            .await?;
        let resolved = status(&image).resolved_digest;
        ensure!(resolved.as_ref() == Some(digest), "{name}: {resolved:?}");
    }
    for (name, _) in &expected {
        let writes = writes(&cluster, name)?;
        ensure!(writes <= 6, "{name}: {writes} writes until Ready");
    }
    let requests = cluster.proxy.log().count();
    nothing_is_written_for(&cluster, &expected, Duration::from_secs(60))
        .await
        .context("at rest")?;

    cluster.coordinator.kill();
    cluster.coordinator.restart().await?;
    wait::until("all agents to be back", SOON, async || {
        let sessions = cluster
            .coordinator
            .metrics()
            .await?
            .value("drop_sessions", &[]);
        ensure!(sessions == Some(3.0), "{sessions:?} sessions");
        Ok(())
    })
    .await?;
    // Longer than the grace in which a silent node keeps what it reported before the restart.
    nothing_is_written_for(&cluster, &expected, Duration::from_secs(40))
        .await
        .context("after a restart")?;
    ensure!(
        cluster.proxy.log().count() == requests,
        "the registry was asked again:\n{}",
        cluster.proxy.log().after(requests).table()
    );
    Ok(())
}

/// Writes of any kind to one image by the coordinator.
fn writes(cluster: &Cluster, name: &str) -> Result<usize> {
    let audit = cluster.control_plane.audit()?;
    Ok(audit.object("cachedimages", name).by(USER).writes().count())
}

async fn nothing_is_written_for(
    cluster: &Cluster,
    images: &[(String, String)],
    long: Duration,
) -> Result<()> {
    let now = || -> Result<Vec<usize>> {
        images
            .iter()
            .map(|(name, _)| writes(cluster, name))
            .collect()
    };
    let before = now()?;
    wait::holds("no status write", long, async || {
        let after = now()?;
        ensure!(
            after == before,
            "writes by image went from {before:?} to {after:?}"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn row_4_resolved_digest_is_what_the_registry_says() -> Result<()> {
    let cluster = Cluster::builder().nodes(1).start().await?;
    let single = Recipe::layers(&[100_000]);
    let index = single
        .clone()
        .platform("linux/amd64")
        .platform("linux/arm64");
    cluster.push("team/single", "v1", &single).await?;
    cluster.push("team/index", "v1", &index).await?;
    cluster.push("team/present", "v1", &single).await?;
    let present = cluster.image("team/present");
    cluster
        .pull_beside(&format!("{present}:v1"), &["node-1"])
        .await?;

    cluster.apply(&policy("fast", "")).await?;
    for (name, repository, spec) in [
        ("single", "team/single", "policyRef: {name: fast}"),
        ("index", "team/index", "policyRef: {name: fast}"),
        (
            "present",
            "team/present",
            "policyRef: {name: fast}, imagePullPolicy: IfNotPresent",
        ),
        (
            "never",
            "team/present",
            "policyRef: {name: fast}, imagePullPolicy: Never",
        ),
    ] {
        let image = cluster.image(repository);
        cluster.apply(&yaml(name, &image, "v1", spec)).await?;
        let ready: CachedImage = cluster.until(name, SOON, is_ready).await?;
        let (resolved, digest) = (
            status(&ready).resolved_digest,
            cluster.registry.digest(repository, "v1").await?,
        );
        ensure!(
            resolved.as_deref() == Some(&*digest),
            "{name}: {resolved:?} is not {digest}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn row_2_tag_and_digest_edits_are_pulled() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).start().await?;
    let recipe = Recipe::layers(&[200_000]);
    let one = cluster.push("team/app", "v1", &recipe).await?;
    let two = cluster.push("team/app", "v2", &recipe).await?;
    let three = cluster.push("team/app", "v3", &recipe).await?;
    let (image, spec) = (cluster.image("team/app"), "policyRef: {name: fast}");
    cluster.apply(&policy("fast", "")).await?;
    cluster.apply(&yaml("app", &image, "v1", spec)).await?;
    let first: CachedImage = cluster
        .until("app", SOON, |app| is_ready_on(app, &NODES[..2]))
        .await?;
    ensure!(status(&first).resolved_digest == Some(one.clone()));

    let history = History::start(&cluster.client(), "app").await?;
    for (step, document, reference, asked, digest) in [
        (
            "tag to tag",
            yaml("app", &image, "v2", spec),
            format!("{image}:v2"),
            "v2",
            &two,
        ),
        (
            "tag to digest",
            yaml_of_digest("app", &image, &three, spec),
            format!("{image}@{three}"),
            &*three,
            &three,
        ),
        (
            // The runtimes hold the digest already, but a pod that names the tag would not find it.
            "digest to tag",
            yaml("app", &image, "v3", spec),
            format!("{image}:v3"),
            "v3",
            &three,
        ),
        (
            "back to the first tag",
            yaml("app", &image, "v1", spec),
            format!("{image}:v1"),
            "v1",
            &one,
        ),
    ] {
        let mark = cluster.proxy.log().count();
        cluster.apply(&document).await.context(step)?;
        let app: CachedImage = cluster
            .until("app", SOON, |app| is_ready_on(app, &NODES[..2]))
            .await
            .context(step)?;
        let resolved = status(&app).resolved_digest;
        ensure!(resolved.as_ref() == Some(digest), "{step}: {resolved:?}");
        let holders = cluster.holders(&reference, digest).await?;
        ensure!(
            holders == NODES[..2],
            "{step}: only {holders:?} hold {reference}"
        );
        let log = cluster
            .proxy
            .log()
            .after(mark)
            .reference("team/app", asked)
            .method("HEAD");
        ensure!(log.count() > 0, "{step}: nobody asked for {asked}");
        // Nothing of the former reference counts, not even for a moment.
        for version in history.up_to(&app).await? {
            let (was, seen) = (version.metadata.generation, status(&version));
            if was == app.metadata.generation && is_current(&version).is_ok() {
                ensure!(
                    seen.resolved_digest
                        .as_ref()
                        .is_none_or(|seen| seen == digest),
                    "{step}: {seen:?}"
                );
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_of_the_selector_the_pull_policy_and_the_policy_act_at_once() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).start().await?;
    cluster.nodes[0].label("pool", Some("a")).await?;
    cluster.nodes[1].label("pool", Some("b")).await?;
    cluster
        .push("team/app", "v1", &Recipe::layers(&[100_000]))
        .await?;
    let image = cluster.image("team/app");
    let app = |spec: &str| {
        yaml(
            "app",
            &image,
            "v1",
            &format!("{spec}, policyRef: {{name: p}}"),
        )
    };
    let in_pool = |pool: &str| format!("nodeSelector: {{pool: {pool}}}");
    cluster.apply(&policy("p", "")).await?;

    cluster
        .apply(&app("imagePullPolicy: Never, nodeSelector: {pool: a}"))
        .await?;
    let refused: CachedImage = cluster
        .until("app", SOON, |app| is_not_ready(app, "ErrImageNeverPull"))
        .await?;
    let never = condition(&refused, "Ready").2;
    ensure!(never.contains("0/1 nodes ready"), "{never}");
    cluster
        .apply(&app(
            "imagePullPolicy: IfNotPresent, nodeSelector: {pool: a}",
        ))
        .await?;
    cluster
        .until("app", SOON, |app| is_ready_on(app, &["node-1"]))
        .await?;

    // IfNotPresent to Always: the tag moved meanwhile, and now that matters.
    let moved = cluster
        .push("team/app", "v1", &Recipe::layers(&[100_000]))
        .await?;
    cluster
        .apply(&app("imagePullPolicy: Always, nodeSelector: {pool: a}"))
        .await?;
    cluster
        .until("app", SOON, |app| {
            is_ready_on(app, &["node-1"])?;
            let resolved = status(app).resolved_digest;
            ensure!(resolved.as_ref() == Some(&moved), "still {resolved:?}");
            Ok(())
        })
        .await?;
    ensure!(cluster.holders(&format!("{image}:v1"), &moved).await? == ["node-1"]);

    cluster.apply(&app(&in_pool("b"))).await?;
    cluster
        .until("app", SOON, |app| is_ready_on(app, &["node-2"]))
        .await?;
    cluster.apply(&app("nodeSelector: {}")).await?;
    cluster
        .until("app", SOON, |app| is_ready_on(app, &NODES[..2]))
        .await?;

    cluster
        .apply(&policy(
            "p",
            "maxConcurrentNodes: 100, minDelayBetweenPulls: 0s, nodeSelector: {pool: a}",
        ))
        .await?;
    cluster
        .until("app", SOON, |app| is_ready_on(app, &["node-1"]))
        .await?;
    Ok(())
}
