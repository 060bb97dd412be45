//! Images of other platforms: none is refused without a pull that the runtime would have taken.

use anyhow::{Context, Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{condition, is_not_ready, is_ready, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::images::{Blob, Recipe, this_platform};
use serde_json::{Value, json};

use crate::{BY_FAST, SOON, cluster, log_since, other_platform, small};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const REPOSITORY: &str = "team/app";

/// Stores an index with one image, built for a platform and said to be for another, or for none.
async fn push_index(cluster: &Cluster, tag: &str, built: &str, said: Option<&str>) -> Result<()> {
    let recipe = Recipe::layers(&[10_000]);
    let image = recipe
        .push_one(&cluster.registry, REPOSITORY, "", built)
        .await?;
    let parts: Vec<&str> = said.unwrap_or_default().split('/').collect();
    let platform = match parts[..] {
        [os, architecture] => json!({"os": os, "architecture": architecture}),
        [os, architecture, variant] => {
            json!({"os": os, "architecture": architecture, "variant": variant})
        }
        _ => Value::Null,
    };
    let mut entry =
        json!({"mediaType": MANIFEST, "digest": image.digest, "size": image.bytes.len()});
    if !platform.is_null() {
        entry["platform"] = platform;
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
    let index = Blob::new(index.to_string());
    let stored = cluster
        .registry
        .push_manifest(REPOSITORY, tag, INDEX, &index);
    stored.await
}

/// What this machine's processor is called by kernels, what its predecessor is called, and a variant of its own.
fn relatives() -> Result<(&'static str, &'static str, &'static str)> {
    match this_platform().as_str() {
        "linux/amd64" => Ok(("linux/x86_64", "linux/386", "linux/amd64/v4")),
        "linux/arm64" => Ok(("linux/aarch64", "linux/arm/v7", "linux/arm64/v9.5")),
        other => anyhow::bail!("this test knows amd64 and arm64, and not {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_another_platform_is_said_without_a_pull() -> Result<()> {
    let cluster = cluster(2).await?;
    let recipe = small().platform(other_platform());
    cluster.push(REPOSITORY, "single", &recipe).await?;
    push_index(&cluster, "index", other_platform(), Some(other_platform())).await?;
    push_index(&cluster, "unsaid", other_platform(), None).await?;
    let image = cluster.image(REPOSITORY);
    for tag in ["single", "index", "unsaid"] {
        cluster.apply(&yaml(tag, &image, tag, BY_FAST)).await?;
    }
    for tag in ["single", "index", "unsaid"] {
        let app: CachedImage = cluster
            .until(tag, SOON, |app| is_not_ready(app, "ImagePullBackOff"))
            .await?;
        let (_, _, message) = condition(&app, "Ready");
        ensure!(
            message == "no image for this node's platform; 0/2 nodes ready",
            "{tag}: {message}"
        );
    }
    let log = log_since(&cluster, 0).await?;
    ensure!(log.of_nodes().count() == 0, "{}", log.table());
    // The runtime says the same of what is in an index. A single image it would take, to find out at the start of a pod that it
    // does not run.
    for tag in ["index", "unsaid"] {
        let node = cluster.nodes.first().context("no node")?;
        let pulled = node.cri().pull(&format!("{image}:{tag}")).await;
        ensure!(pulled.is_err(), "the runtime took {tag}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_runtime_takes_for_its_platform_is_never_refused() -> Result<()> {
    let cluster = cluster(1).await?;
    let (alias, predecessor, variant) = relatives()?;
    let own = this_platform();
    for (tag, built, said) in [
        ("alias", own.as_str(), Some(alias)),
        ("predecessor", predecessor, Some(predecessor)),
        ("unsaid", own.as_str(), None),
        ("variant", own.as_str(), Some(variant)),
    ] {
        push_index(&cluster, tag, built, said).await?;
    }
    let image = cluster.image(REPOSITORY);
    let tags = ["alias", "predecessor", "unsaid", "variant"];
    for tag in tags {
        cluster.apply(&yaml(tag, &image, tag, BY_FAST)).await?;
    }
    for tag in tags {
        let node = cluster.nodes.first().context("no node")?;
        let taken = node.cri().pull(&format!("{image}:{tag}")).await;
        // Of a variant, runtimes think differently; then what the node said is told.
        let reason = "ImagePullBackOff";
        cluster
            .until(tag, SOON, |app: &CachedImage| match &taken {
                Ok(_) => is_ready(app),
                Err(_) => is_not_ready(app, reason),
            })
            .await?;
        ensure!(taken.is_ok() || tag == "variant", "{tag}: {taken:?}");
    }
    let log = cluster.proxy.log().of_nodes();
    for tag in tags {
        let asked = log.reference(REPOSITORY, tag);
        ensure!(asked.count() > 0, "{tag}: {}", log.table());
    }
    Ok(())
}
