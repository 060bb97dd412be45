//! The metrics of the contract, as a real Prometheus scrapes them.

use std::time::Duration;

use anyhow::{Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{is_ready, policy, status, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::images::Recipe;
use drop_tests::node::NodeSpec;
use drop_tests::prometheus::{Prometheus, complaints};
use drop_tests::scrape::Sample;
use drop_tests::wait;
use kube::Api;
use kube::api::DeleteParams;

const WITHIN: Duration = Duration::from_secs(60);

/// The metrics of the contract that belong to CachedImage and PullPolicy.
const OF_THE_CONTRACT: [&str; 8] = [
    "drop_images_cached_total",
    "drop_pull_errors_total",
    "drop_pull_duration_seconds_bucket",
    "drop_active_pulls",
    "drop_nodes_targeted",
    "drop_nodes_cached",
    "drop_consecutive_failures",
    "drop_reconcile_total",
];

/// Ours in addition, by the job that shows it.
const OURS: [&str; 12] = [
    "drop_grants{job='coordinator',state='out'}",
    "drop_grants{job='coordinator',state='waiting'}",
    "drop_sessions{job='coordinator'}",
    "drop_status_writes_total{job='coordinator',result='success'}",
    "drop_images_lost_total{job='coordinator'}",
    "drop_session_reconnects_total{job='coordinator'}",
    "drop_build_info{job='coordinator'}",
    "drop_images_lost_total{job='node-1'}",
    "drop_session_reconnects_total{job='node-1'}",
    "drop_session_up{job='node-1'}",
    "drop_runtime_up{job='node-1'}",
    "drop_build_info{job='node-1'}",
];

#[tokio::test(flavor = "multi_thread")]
async fn row_15_metrics_carry_data_and_go_with_their_objects() -> Result<()> {
    let mut cluster = Cluster::builder()
        .nodes(1)
        .node(NodeSpec::new("node-2").scripted())
        .start()
        .await?;
    cluster
        .push("team/app", "v1", &Recipe::layers(&[1_000]))
        .await?;
    cluster.apply(&policy("quick", "")).await?;
    let quick = "policyRef: {name: quick}, nodeSelector: {kubernetes.io/hostname: node-1}";
    let image = cluster.image("team/app");
    let missing = cluster.image("team/missing");
    cluster.apply(&yaml("app", &image, "v1", quick)).await?;
    cluster
        .apply(&yaml("missing", &missing, "v1", quick))
        .await?;
    cluster.until("app", WITHIN, is_ready).await?;
    cluster
        .until("missing", WITHIN, |image: &CachedImage| {
            ensure!(status(image).nodes_failed + status(image).nodes_waiting == 1);
            Ok(())
        })
        .await?;

    let prometheus = cluster.prometheus().await?;
    prometheus.wait_for(&OF_THE_CONTRACT, WITHIN).await?;
    prometheus.wait_for(&OURS, WITHIN).await?;
    let (app, gone) = (format!("{image}:v1"), format!("{missing}:v1"));
    values_are_true(&prometheus, &app, &gone).await?;
    buckets_are_those_of_the_contract(&prometheus).await?;

    // The judge of form, on both programs while they have much to say.
    let scrapes = [
        cluster.coordinator.metrics().await?.text,
        cluster.node("node-1")?.agent()?.metrics().await?.text,
        cluster.node("node-2")?.agent()?.metrics().await?.text,
    ];
    for scrape in &scrapes {
        let verdict = complaints(scrape)?;
        ensure!(verdict.is_empty(), "{verdict}\n{scrape}");
    }

    let api: Api<CachedImage> = Api::all(cluster.client());
    for name in ["app", "missing"] {
        api.delete(name, &DeleteParams::default()).await?;
    }
    wait::until("the series of deleted objects to go", WITHIN, async || {
        let selectors = [
            "{cachedimage=~'app|missing'}".to_owned(),
            format!("{{__name__=~'drop_.*',image=~'{app}|{gone}'}}"),
        ];
        for selector in selectors {
            let left: Vec<Sample> = prometheus.query(&selector).await?;
            ensure!(left.is_empty(), "{left:?}");
        }
        Ok(())
    })
    .await?;
    // Prometheus could have missed what a scrape still holds.
    let scrapes = [
        cluster.coordinator.metrics().await?.text,
        cluster.node("node-1")?.agent()?.metrics().await?.text,
    ];
    for scrape in &scrapes {
        ensure!(
            !scrape.contains("team/app") && !scrape.contains("team/missing"),
            "{scrape}"
        );
        let verdict = complaints(scrape)?;
        ensure!(verdict.is_empty(), "{verdict}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_image_leaves_no_series_of_its_former_self() -> Result<()> {
    let mut cluster = Cluster::builder()
        .node(NodeSpec::new("node-1").scripted())
        .start()
        .await?;
    let image = cluster.image("team/app");
    cluster.apply(&yaml("app", &image, "v1", "")).await?;
    cluster.until("app", WITHIN, is_ready).await?;
    cluster.apply(&yaml("app", &image, "v2", "")).await?;
    cluster.until("app", WITHIN, is_ready).await?;
    wait::until("the series of v1 to go", WITHIN, async || {
        let coordinator = cluster.coordinator.metrics().await?.text;
        let agent = cluster.node("node-1")?.agent()?.metrics().await?.text;
        for scrape in [&coordinator, &agent] {
            ensure!(scrape.contains("team/app:v2"), "no series of v2: {scrape}");
            ensure!(!scrape.contains("team/app:v1"), "{scrape}");
        }
        Ok(())
    })
    .await
}

/// `app` is cached on node-1, `gone` failed there once.
async fn values_are_true(prometheus: &Prometheus, app: &str, gone: &str) -> Result<()> {
    for (query, expected) in [
        (
            format!("drop_images_cached_total{{job='node-1',image='{app}'}}"),
            1.0,
        ),
        (
            format!("drop_pull_errors_total{{job='node-1',image='{gone}',class='not_found'}}"),
            1.0,
        ),
        (
            format!("drop_pull_duration_seconds_count{{image='{app}'}}"),
            1.0,
        ),
        (
            format!("drop_pull_duration_seconds_bucket{{image='{app}',le='2048'}}"),
            1.0,
        ),
        ("drop_nodes_targeted{cachedimage='app'}".to_owned(), 1.0),
        ("drop_nodes_cached{cachedimage='app'}".to_owned(), 1.0),
        ("drop_nodes_targeted{cachedimage='missing'}".to_owned(), 1.0),
        ("drop_nodes_cached{cachedimage='missing'}".to_owned(), 0.0),
        (
            format!("drop_consecutive_failures{{cachedimage='app',image='{app}'}}"),
            0.0,
        ),
        (
            format!("drop_consecutive_failures{{cachedimage='missing',image='{gone}'}}"),
            1.0,
        ),
        ("drop_sessions".to_owned(), 2.0),
        ("drop_session_up{job='node-1'}".to_owned(), 1.0),
        ("drop_runtime_up{job='node-1'}".to_owned(), 1.0),
        ("drop_active_pulls{job='node-1'}".to_owned(), 0.0),
        ("count(drop_build_info{version!=''})".to_owned(), 3.0),
    ] {
        wait::until(format!("{query} to be {expected}"), WITHIN, async || {
            let samples = prometheus.query(&query).await?;
            let values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
            ensure!(values == [expected], "{values:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn buckets_are_those_of_the_contract(prometheus: &Prometheus) -> Result<()> {
    let samples = prometheus
        .query("drop_pull_duration_seconds_bucket")
        .await?;
    let mut bounds: Vec<f64> = samples
        .iter()
        .filter_map(|sample| sample.labels.get("le")?.parse().ok())
        .collect();
    bounds.sort_by(f64::total_cmp);
    bounds.dedup();
    let mut expected: Vec<f64> = (0..12).map(|power| f64::from(1 << power)).collect();
    expected.push(f64::INFINITY);
    ensure!(bounds == expected, "{bounds:?}");
    Ok(())
}
