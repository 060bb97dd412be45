//! Names as long and as odd as they may be, all the way to a real runtime.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{is_ready, policy, status, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::images::Recipe;
use drop_tests::wait;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;

const WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn row_1_images_without_a_true_binary_become_ready() -> Result<()> {
    let mut cluster = Cluster::builder().nodes(1).start().await?;
    // One layer with one file of random bytes: nothing in it can be run.
    let digest = cluster
        .push("data/only", "v1", &Recipe::layers(&[5_000]))
        .await?;
    let image = cluster.image("data/only");
    cluster.apply(&yaml("data", &image, "v1", "")).await?;
    let data: CachedImage = cluster.until("data", WITHIN, is_ready).await?;
    ensure!(status(&data).cached_nodes == ["node-1"], "{data:?}");
    let cri = cluster.node("node-1")?.containerd()?.cri();
    ensure!(cri.digests(&format!("{image}:v1")).await? == [digest]);
    let pods: Api<Pod> = Api::all(cluster.client());
    let pods = pods.list(&ListParams::default()).await?.items;
    ensure!(pods.is_empty(), "a pod was made to pull an image: {pods:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn row_13_names_over_63_characters_work() -> Result<()> {
    let mut cluster = Cluster::builder().nodes(1).start().await?;
    cluster.apply(&policy("quick", "")).await?;
    let host = cluster.proxy.host();
    let long = |letter: char, length: usize| letter.to_string().repeat(length);

    // A repository that makes `spec.image` 255 characters long, and one that makes the whole reference so long.
    let path = |length: usize| long('p', length - host.len() - 1);
    let (tag_64, tag_128) = (long('t', 64), long('T', 128));
    let odd = "my.team/app_one/two--three/four__five.six-7";
    let cases = [
        ("of-200-", 200, "plain/app".to_owned(), "v1".to_owned()),
        ("of-253-", 253, "plain/app-2".to_owned(), "v1".to_owned()),
        (
            "dots.in.names.",
            63,
            odd.to_owned(),
            "1.2.3-rc_1".to_owned(),
        ),
        ("image-255-", 20, path(255), tag_64.clone()),
        ("reference-255-", 20, path(252), "v1".to_owned()),
        ("tag-64-", 70, "plain/tags".to_owned(), tag_64),
        ("tag-128-", 70, "plain/tags".to_owned(), tag_128),
        ("short", 5, "a".to_owned(), "b".to_owned()),
    ];
    let mut expected = Vec::new();
    for (prefix, length, repository, tag) in cases {
        let name = format!("{prefix}{}", long('n', length - prefix.len()));
        let image = cluster.image(&repository);
        let digest = cluster
            .push(&repository, &tag, &Recipe::layers(&[1_000]))
            .await?;
        cluster
            .apply(&yaml(&name, &image, &tag, "policyRef: {name: quick}"))
            .await?;
        expected.push((name, format!("{image}:{tag}"), digest));
    }
    // By digest alone, of a single manifest and of an index.
    let platforms = ["linux/amd64", "linux/arm64"].map(str::to_owned);
    let small = Recipe::layers(&[1_000]);
    let index = small
        .push_index(&cluster.registry, odd, "index", &platforms)
        .await?;
    let single = cluster
        .push(odd, "single", &Recipe::layers(&[1_000]))
        .await?;
    for (name, digest) in [("by-digest-single", single), ("by-digest-index", index)] {
        let image = cluster.image(odd);
        let extra = format!("digest: \"{digest}\", policyRef: {{name: quick}}");
        cluster.apply(&yaml(name, &image, "", &extra)).await?;
        expected.push((name.to_owned(), format!("{image}@{digest}"), digest));
    }

    let cri = cluster.node("node-1")?.containerd()?.cri();
    for (name, reference, digest) in &expected {
        let ready: CachedImage = cluster.until(name, WITHIN, is_ready).await?;
        let status = status(&ready);
        ensure!(
            status.resolved_digest.as_ref() == Some(digest),
            "{name}: {status:?}"
        );
        let held = cri.digests(reference).await?;
        ensure!(held.contains(digest), "{reference}: {held:?}");
    }
    // Events are named after their object, and names have an end.
    let events: Api<Event> = Api::all(cluster.client());
    for (name, ..) in &expected {
        wait::until(format!("the Event Cached of {name}"), WITHIN, async || {
            let all = events.list(&ListParams::default()).await?.items;
            all.iter()
                .find(|event| {
                    let of = event
                        .regarding
                        .as_ref()
                        .and_then(|object| object.name.as_ref());
                    of == Some(name) && event.reason.as_deref() == Some("Cached")
                })
                .map(drop)
                .context("not there")
        })
        .await?;
    }
    ensure!(!cluster.coordinator.log().contains("panicked"));
    Ok(())
}
