//! A status says what the runtimes hold, at each moment: rows 9, 10 and 14 of the contract's section 9.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{
    condition, counts_agree, is_cached_on, is_ready, policy, status, yaml,
};
use drop_tests::cluster::Cluster;
use drop_tests::history::History;
use drop_tests::images::Recipe;
use drop_tests::proxy::{Fault, Kind};
use drop_tests::wait;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn row_9_images_removed_by_the_kubelet_come_back() -> Result<()> {
    let mut cluster = Cluster::builder()
        .nodes(3)
        .agent_args(&["--list-interval", "2s"])
        .start()
        .await?;
    cluster
        .push("app", "v1", &Recipe::layers(&[2_000_000]))
        .await?;
    let image = cluster.image("app");
    let fast = "policyRef: {name: fast}";
    cluster.apply(&policy("fast", "")).await?;
    cluster.apply(&yaml("app", &image, "v1", fast)).await?;
    cluster
        .apply(&yaml(
            "same",
            &image,
            "v1",
            &format!("imagePullPolicy: IfNotPresent, {fast}"),
        ))
        .await?;
    cluster.until("app", SOON, is_ready).await?;
    cluster.until("same", SOON, is_ready).await?;
    let before = cluster.proxy.log().count();

    // What comes back comes slowly, so that the status has to say that it is missing.
    let slow = cluster.proxy.inject(Fault::rate(500_000).on(Kind::Blob));
    let containerd = cluster.node("node-2")?.containerd()?;
    containerd.cri().remove(&format!("{image}:v1")).await?;
    for name in ["app", "same"] {
        cluster
            .until(name, SOON, |app: &CachedImage| {
                is_cached_on(app, &["node-1", "node-3"])?;
                ensure!(condition(app, "Ready").0 == "False", "still Ready");
                Ok(())
            })
            .await?;
    }
    cluster.proxy.remove(slow);
    for name in ["app", "same"] {
        let app: CachedImage = cluster.until(name, SOON, is_ready).await?;
        is_cached_on(&app, &["node-1", "node-2", "node-3"])?;
    }

    let log = cluster.proxy.log().after(before);
    ensure!(log.nodes().iter().eq(["node-2"]), "{}", log.table());
    ensure!(log.pulls().len() == 1, "{}", log.table());
    let held = cluster
        .node("node-2")?
        .containerd()?
        .cri()
        .digests(&format!("{image}:v1"))
        .await?;
    let wanted = cluster.registry.digest("app", "v1").await?;
    ensure!(held == [wanted], "{held:?}");
    let lost = cluster.node("node-2")?.agent()?.metrics().await?;
    ensure!(
        lost.value("drop_images_lost_total", &[]) == Some(1.0),
        "{}",
        lost.text
    );
    let lost = cluster.coordinator.metrics().await?;
    ensure!(
        lost.value("drop_images_lost_total", &[]) == Some(1.0),
        "{}",
        lost.text
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn row_10_ready_stays_true_while_a_repull_fails() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).start().await?;
    cluster
        .push("app", "v1", &Recipe::layers(&[100_000]))
        .await?;
    let spec = "repullInterval: 4s, failureBackoff: {initial: 1s, max: 2s}, maxConcurrentNodes: 10, minDelayBetweenPulls: 0s";
    cluster.apply(&policy("again", spec)).await?;
    let again = "policyRef: {name: again}";
    cluster
        .apply(&yaml("app", &cluster.image("app"), "v1", again))
        .await?;
    let first: CachedImage = cluster.until("app", SOON, is_ready).await?;

    let history = History::start(&cluster.client(), "app").await?;
    let broken = cluster.proxy.inject(Fault::status(500).on(Kind::Manifest));
    let moved = cluster
        .push("app", "v1", &Recipe::layers(&[100_000]))
        .await?;
    cluster
        .until("app", SOON, |app: &CachedImage| {
            is_ready(app)?;
            let (word, reason, message) = condition(app, "Ready");
            ensure!((word.as_str(), reason.as_str()) == ("True", "Cached"));
            ensure!(message.contains("500 Internal Server Error"), "{message}");
            ensure!(
                status(app).consecutive_failures > 0,
                "no failure is counted"
            );
            Ok(())
        })
        .await?;
    let failing: CachedImage = cluster.get("app").await?;
    ensure!(status(&failing).resolved_digest == status(&first).resolved_digest);
    is_cached_on(&failing, &["node-1", "node-2"])?;

    cluster.proxy.remove(broken);
    // Where only words change, the status is written within a minute.
    let renewed: CachedImage = cluster
        .until("app", 2 * SOON, |app: &CachedImage| {
            is_ready(app)?;
            ensure!(
                status(app).resolved_digest.as_ref() == Some(&moved),
                "the tag has moved"
            );
            ensure!(
                status(app).consecutive_failures == 0,
                "failures are still counted"
            );
            let message = condition(app, "Ready").2;
            ensure!(message == "Image cached on all 2 target nodes", "{message}");
            Ok(())
        })
        .await?;
    is_cached_on(&renewed, &["node-1", "node-2"])?;
    let ready = history.ready();
    ensure!(
        ready == [("True".to_owned(), "Cached".to_owned())],
        "{ready:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn row_14_concurrent_completions_lose_no_node() -> Result<()> {
    const IMAGES: [&str; 4] = ["a", "b", "c", "d"];
    let mut cluster = Cluster::builder().nodes(5).start().await?;
    cluster.apply(&policy("fast", "")).await?;
    let mut histories = Vec::new();
    for name in IMAGES {
        cluster
            .push(name, "v1", &Recipe::layers(&[200_000]))
            .await?;
        histories.push((name, History::of(&cluster.client(), name)));
    }
    for name in IMAGES {
        cluster
            .apply(&yaml(
                name,
                &cluster.image(name),
                "v1",
                "policyRef: {name: fast}",
            ))
            .await?;
    }
    let all = ["node-1", "node-2", "node-3", "node-4", "node-5"];
    for name in IMAGES {
        let image: CachedImage = cluster.until(name, SOON, is_ready).await?;
        is_cached_on(&image, &all)?;
    }
    // All five lose two images at once and get them back at once.
    for node in all {
        let references = ["a", "b"].map(|name| format!("{}:v1", cluster.image(name)));
        let cri = cluster.node(node)?.containerd()?.cri();
        for reference in references {
            cri.remove(&reference).await?;
        }
        cluster.node(node)?.agent()?.kill();
    }
    for node in all {
        cluster.node(node)?.agent()?.restart().await?;
    }
    for name in ["a", "b"] {
        let reference = format!("{}:v1", cluster.image(name));
        for node in all {
            let cri = cluster.node(node)?.containerd()?.cri();
            wait::until("the image to come back", SOON, async || {
                ensure!(
                    cri.image(&reference).await?.is_some(),
                    "{node} lacks {reference}"
                );
                Ok(())
            })
            .await?;
        }
    }
    for name in IMAGES {
        let image: CachedImage = cluster.until(name, SOON, is_ready).await?;
        is_cached_on(&image, &all)?;
    }
    for (name, history) in histories {
        for status in history.statuses() {
            counts_agree(&status).with_context(|| format!("image {name}"))?;
        }
    }
    Ok(())
}
