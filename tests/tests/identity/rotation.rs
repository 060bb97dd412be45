//! Authorities and certificates that are replaced while sessions are open and pulls run.

// The figure of a session's absence is worth seeing.
#![allow(clippy::print_stdout)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use drop_tests::cached_image::{is_ready_on, policy, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::control_plane::{ControlPlane, Controllers};
use drop_tests::coordinator::{Coordinator, NAMESPACE, Sessions, grant_rights};
use drop_tests::dirs::Scratch;
use drop_tests::images::Recipe;
use drop_tests::node::NodeSpec;
use drop_tests::proxy::{End, Fault, Kind};
use drop_tests::raw_session::RawSession;
use drop_tests::scrape::scrape;
use drop_tests::scripted_cri::Reply;
use drop_tests::wait;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use tokio::sync::watch;
use tonic::Code;

use crate::WITHIN;

/// Of the coordinator's grants.
const GRANT_TTL: Duration = Duration::from_secs(60);

/// Two containerds in the middle of a pull while the authority and the certificate are replaced, twice and more: their sessions
/// stay. Then the coordinator is killed, and they have to be made anew with an authority that nobody had when the pulls began.
#[tokio::test(flavor = "multi_thread")]
async fn pulls_outlive_rotations_and_the_sessions_that_are_made_anew_after_them() -> Result<()> {
    const NODES: [&str; 2] = ["node-1", "node-2"];
    const IMAGES: [&str; 3] = ["app-1", "app-2", "app-3"];
    const SIZE: usize = 6_000_000;
    // A minute for the first two pulls, unless they are let go.
    const SLOW: u64 = 200_000;
    let mut cluster = Cluster::builder()
        .secure()
        .nodes(NODES.len())
        .coordinator_args(&["--tls-lifetime", "9s"])
        .start()
        .await?;
    let slow = cluster.proxy.inject(Fault::rate(SLOW).on(Kind::Blob));
    cluster.apply(&policy("wave", "")).await?;
    for name in IMAGES {
        cluster.push(name, "v1", &Recipe::layers(&[SIZE])).await?;
        let image = cluster.image(name);
        cluster
            .apply(&yaml(name, &image, "v1", "policyRef: {name: wave}"))
            .await?;
    }
    let layers = |cluster: &Cluster| {
        let log = cluster.proxy.log();
        log.filter(|request| request.kind == Kind::Blob && request.bytes > 10_000)
    };
    wait::until("a pull on each node", WITHIN, async || {
        let nodes = layers(&cluster).nodes();
        ensure!(nodes.len() == NODES.len(), "{nodes:?}");
        Ok(())
    })
    .await?;

    let mut agents = Vec::new();
    for node in NODES {
        let address = cluster.node(node)?.agent()?.metrics_address();
        agents.push(address.to_owned());
    }
    let (stop, stopped) = watch::channel(false);
    let watching = tokio::spawn(longest_absence(agents, stopped));
    rotated(&cluster, served(&cluster) + 2).await?;
    for node in NODES {
        let metrics = cluster.node(node)?.agent()?.metrics().await?;
        let reconnects = metrics.value("drop_session_reconnects_total", &[]);
        ensure!(reconnects == Some(0.0), "{node} lost its session");
    }
    cluster.coordinator.kill();
    cluster.coordinator.restart().await?;
    let before = served(&cluster);
    wait::until("sessions with the new authority", WITHIN, async || {
        for node in NODES {
            let metrics = cluster.node(node)?.agent()?.metrics().await?;
            let up = metrics.value("drop_session_up", &[]);
            let reconnects = metrics.value("drop_session_reconnects_total", &[]);
            ensure!(
                up == Some(1.0) && reconnects >= Some(1.0),
                "{node}: {up:?}, {reconnects:?}"
            );
        }
        Ok(())
    })
    .await?;
    rotated(&cluster, before + 1).await?;
    let running = layers(&cluster);
    let complete = running.filter(|request| request.end != End::Open);
    ensure!(
        complete.count() == 0,
        "no pull was long enough:\n{}",
        running.table()
    );

    cluster.proxy.remove(slow);
    for name in IMAGES {
        cluster
            .until(name, WITHIN, |image| is_ready_on(image, &NODES))
            .await?;
    }
    stop.send_replace(true);
    let away = watching.await??;
    // A grant that nobody renews is given to another after a minute: a session has to be back well before.
    ensure!(away < GRANT_TTL / 2, "a session was away for {away:?}");
    let layers = layers(&cluster);
    let table = layers.table();
    ensure!(
        layers.count() == NODES.len() * IMAGES.len(),
        "a layer was fetched again:\n{table}"
    );
    let whole = layers.filter(|request| request.end == End::Complete && request.range.is_none());
    ensure!(whole.count() == layers.count(), "a pull was lost:\n{table}");
    let metrics = cluster.coordinator.metrics().await?;
    ensure!(metrics.value("drop_grants_expired_total", &[]) == Some(0.0));
    println!("longest without a session: {away:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_come_and_go_during_a_wave_and_nobody_notices() -> Result<()> {
    const IMAGES: usize = 40;
    const NODES: [&str; 4] = ["node-1", "node-2", "node-3", "node-4"];
    let mut builder = Cluster::builder()
        .secure()
        .coordinator_args(&["--tls-lifetime", "9s"]);
    for node in NODES {
        builder = builder.node(NodeSpec::new(node).scripted());
    }
    let mut cluster = builder.start().await?;
    let pace = "maxConcurrentNodes: 4, maxConcurrentPulls: 4, minDelayBetweenPulls: 100ms";
    cluster.apply(&policy("wave", pace)).await?;
    let names: Vec<String> = (0..IMAGES).map(|number| format!("app-{number}")).collect();
    for node in NODES {
        let scripted = cluster.node(node)?.scripted()?;
        for name in &names {
            let slow = Reply::slow(Duration::from_millis(600));
            scripted.script(&format!("r.example/{name}:v1"), [slow]);
        }
    }
    for name in &names {
        let image = format!("r.example/{name}");
        cluster
            .apply(&yaml(name, &image, "v1", "policyRef: {name: wave}"))
            .await?;
    }
    // One agent begins anew after each rotation: it must be let in with whatever is served then.
    for rotation in 2..6 {
        rotated(&cluster, rotation).await?;
        let agent = cluster.node("node-4")?.agent()?;
        agent.process().terminate(WITHIN).await?;
        agent.restart().await?;
        agent.wait_ready(Duration::from_secs(20)).await?;
    }
    for name in &names {
        cluster
            .until(name, WITHIN, |app| is_ready_on(app, &NODES))
            .await?;
    }
    for node in NODES {
        let scripted = cluster.node(node)?.scripted()?;
        for name in &names {
            let pulls = scripted.pulls(&format!("r.example/{name}:v1"));
            ensure!(pulls == 1, "{node} pulled {name} {pulls} times");
        }
    }
    for node in &NODES[..3] {
        let metrics = cluster.node(node)?.agent()?.metrics().await?;
        ensure!(
            metrics.value("drop_session_reconnects_total", &[]) == Some(0.0),
            "{node} lost its session"
        );
    }
    let expired = cluster.coordinator.metrics().await?;
    ensure!(expired.value("drop_grants_expired_total", &[]) == Some(0.0));
    // Never more than the old and the new one.
    let bundle = cluster.agent_pod("node-1")?.authorities()?;
    let count = bundle.matches("BEGIN CERTIFICATE").count();
    ensure!((1..=2).contains(&count), "{bundle}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_and_rotate_together_share_their_authorities() -> Result<()> {
    let scratch = Scratch::new()?;
    let plane = ControlPlane::start(&scratch.path().join("plane"), Controllers::None).await?;
    plane.apply_crds().await?;
    grant_rights(&plane).await?;
    let args = ["--tls-lifetime", "9s"].map(str::to_owned);
    let mut replicas = Vec::new();
    for number in 0..4 {
        let folder = scratch.path().join(format!("replica-{number}"));
        replicas.push(Coordinator::launch(&folder, &plane, Sessions::Tls, &args)?);
    }
    try_join_all(replicas.iter_mut().map(Coordinator::wait_ready)).await?;
    let maps: Api<ConfigMap> = Api::namespaced(plane.client(), NAMESPACE);
    let begin = Instant::now();
    let mut bundles = BTreeSet::new();
    // Over several rotations, whoever believes what is published is let in by each replica, at any moment.
    while begin.elapsed() < Duration::from_secs(20) {
        let map = maps.get("drop-coordinator-ca").await?;
        let bundle = map.data.and_then(|mut data| data.remove("ca.crt"));
        let bundle = bundle.context("nothing is published")?;
        for replica in &replicas {
            let opened = RawSession::open_secure(replica.session_address(), &bundle, None).await;
            let refusal = opened.context("a replica serves what is not published")?;
            let code = refusal.err().map(|status| status.code());
            ensure!(code == Some(Code::Unauthenticated), "{code:?}");
        }
        bundles.insert(bundle);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ensure!(bundles.len() >= 4, "{} bundles in 20 s", bundles.len());
    for replica in &replicas {
        ensure!(!replica.log().contains("panicked"), "{}", replica.log());
    }
    Ok(())
}

/// How many certificates the coordinator has served so far, over all its starts.
fn served(cluster: &Cluster) -> usize {
    let log = cluster.coordinator.log();
    log.matches("serves a new certificate").count()
}

async fn rotated(cluster: &Cluster, times: usize) -> Result<()> {
    wait::until(format!("certificate {times}"), WITHIN, async || {
        let served = served(cluster);
        ensure!(served >= times, "{served} so far");
        Ok(())
    })
    .await
}

/// Looks at the agents behind these metrics addresses until it is stopped: for how long was one of them without a session?
async fn longest_absence(agents: Vec<String>, stopped: watch::Receiver<bool>) -> Result<Duration> {
    let mut since: Vec<Option<Instant>> = vec![None; agents.len()];
    let mut longest = Duration::ZERO;
    while !*stopped.borrow() {
        for (agent, since) in agents.iter().zip(&mut since) {
            let is_up = scrape(agent).await?.value("drop_session_up", &[]) == Some(1.0);
            *since = (!is_up).then(|| since.unwrap_or_else(Instant::now));
            longest = longest.max(since.map_or(Duration::ZERO, |since| since.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(longest)
}
