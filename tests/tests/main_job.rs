//! The main job: a CachedImage lands on real nodes, and its status says so truthfully.

use std::time::Duration;

use anyhow::{Result, ensure};
use drop_api::{CachedImage, CachedImageStatus, Phase};
use drop_tests::cluster::Cluster;
use drop_tests::images::Recipe;

fn status(image: &CachedImage) -> CachedImageStatus {
    image.status.clone().unwrap_or_default()
}

fn ready(image: &CachedImage) -> Result<()> {
    let status = status(image);
    ensure!(status.phase == Some(Phase::Ready), "phase {:?}", status.phase);
    ensure!(Some(status.observed_generation) == image.metadata.generation, "status of an older spec");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_lands_on_one_node() -> Result<()> {
    let cluster = Cluster::builder().nodes(1).start().await?;
    let digest = cluster.push("team/app", "v1", &Recipe::layers(&[1_000_000])).await?;
    let image = cluster.image("team/app");
    cluster
        .apply(&format!(
            "apiVersion: drop.corewire.io/v1alpha1\nkind: CachedImage\nmetadata: {{name: app}}\nspec: {{image: \"{image}\", tag: v1}}\n"
        ))
        .await?;
    let app: CachedImage = cluster.until("app", Duration::from_secs(20), ready).await?;
    let status = status(&app);
    ensure!(status.ready.as_deref() == Some("1/1"), "{status:?}");
    ensure!(status.resolved_digest == Some(digest), "{status:?}");
    ensure!(status.cached_nodes == ["node-1"], "{status:?}");
    Ok(())
}
