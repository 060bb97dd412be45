//! Events: one per image and transition, never per node.

use std::time::Duration;

use anyhow::{Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{condition, is_ready, policy, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::images::Recipe;
use drop_tests::wait;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;

/// Type, reason and note of each Event about the object, in any order.
async fn events(cluster: &Cluster, name: &str) -> Result<Vec<(String, String, String)>> {
    let api: Api<Event> = Api::all(cluster.client());
    let about =
        |event: &Event| event.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(name);
    let list = api.list(&ListParams::default()).await?;
    let found = list.items.into_iter().filter(about).map(|event| {
        (
            event.type_.unwrap_or_default(),
            event.reason.unwrap_or_default(),
            event.note.unwrap_or_default(),
        )
    });
    Ok(found.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_tells_of_its_transitions_once_and_not_per_node() -> Result<()> {
    let cluster = Cluster::builder().nodes(3).start().await?;
    cluster
        .push("good", "v1", &Recipe::layers(&[100_000]))
        .await?;
    let spec = "policyRef: {name: open}";
    let objects = [
        policy("open", ""),
        yaml("good", &cluster.image("good"), "v1", spec),
        yaml("bad", &cluster.image("bad"), "v1", spec),
    ];
    cluster.apply(&objects.concat()).await?;
    cluster
        .until::<CachedImage>("good", Duration::from_secs(30), is_ready)
        .await?;
    // The first failure is called by its own name for a while; then it is a back-off.
    cluster
        .until("bad", Duration::from_secs(30), |image: &CachedImage| {
            let (_, reason, _) = condition(image, "Ready");
            ensure!(reason == "ImagePullBackOff", "{reason}");
            Ok(())
        })
        .await?;
    let told = wait::until("the events", Duration::from_secs(10), async || {
        let bad = events(&cluster, "bad").await?;
        ensure!(
            bad.iter()
                .any(|(_, reason, _)| reason == "ImagePullBackOff"),
            "{bad:?}"
        );
        Ok(bad)
    })
    .await?;
    for reason in ["ErrImagePull", "ImagePullBackOff"] {
        let same: Vec<_> = told.iter().filter(|(_, r, _)| r == reason).collect();
        ensure!(same.len() == 1, "{told:?}");
        ensure!(
            same[0].0 == "Warning" && same[0].2.contains("image not found"),
            "{same:?}"
        );
    }
    let good = events(&cluster, "good").await?;
    let cached: Vec<_> = good
        .iter()
        .filter(|(_, reason, _)| reason == "Cached")
        .collect();
    ensure!(cached.len() == 1 && cached[0].0 == "Normal", "{good:?}");
    ensure!(
        good.len() <= 2,
        "PullStarted and Cached at the most: {good:?}"
    );
    Ok(())
}
