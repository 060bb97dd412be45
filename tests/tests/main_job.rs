//! The main job: a CachedImage lands on real nodes, and its status says so truthfully.

use std::time::Duration;

use anyhow::{Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{is_ready, status, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::images::Recipe;

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
