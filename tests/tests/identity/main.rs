//! Who may open a session, and who serves it: real tokens of a real API server, real certificates.

mod certificates;
mod rotation;
mod tokens;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_tests::cached_image::{is_ready_on, policy, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::coordinator::NAMESPACE;
use drop_tests::node::NodeSpec;
use drop_tests::wait;
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::Api;
use kube::api::ListParams;

pub(crate) const WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn agents_with_their_own_tokens_serve_their_nodes_and_no_secret_is_told() -> Result<()> {
    let mut cluster = Cluster::builder()
        .secure()
        .node(NodeSpec::new("node-1").scripted())
        .node(NodeSpec::new("node-2").scripted())
        .coordinator_args(&["--log-filter", "trace"])
        .agent_args(&["--log-filter", "trace"])
        .start()
        .await?;
    cluster.apply(&policy("quick", "")).await?;
    let image = cluster.image("team/app");
    cluster
        .apply(&yaml("app", &image, "v1", "policyRef: {name: quick}"))
        .await?;
    let nodes = ["node-1", "node-2"];
    cluster
        .until("app", WITHIN, |app| is_ready_on(app, &nodes))
        .await?;

    // A token is asked about once, though its agent comes back five times.
    for _ in 0..5 {
        let agent = cluster.node("node-1")?.agent()?;
        agent.kill();
        agent.restart().await?;
        agent.wait_ready(WITHIN).await?;
    }
    let reviews = cluster.control_plane.audit()?.resource("tokenreviews");
    // One for the right itself, one for each agent, and one more each on a machine that takes a minute for this.
    ensure!((3..=5).contains(&reviews.count()), "{}", reviews.table());

    // Whatever is secret: the tokens and the authority's key, in any log, page, object or Event.
    let mut secrets = Vec::new();
    for node in nodes {
        let token = cluster.agent_pod(node)?.token()?;
        let signature = token.rsplit('.').next().context("no signature")?.to_owned();
        secrets.extend([token.clone(), signature]);
    }
    let authorities = stored(&cluster).await?;
    let key = authorities[0]["key"].as_str().context("no key")?.to_owned();
    let line = key.lines().nth(1).context("no key line")?;
    secrets.push(line.to_owned());
    let events: Api<Event> = Api::all(cluster.client());
    let mut told = vec![
        ("the coordinator's log", cluster.coordinator.log()),
        ("its metrics", cluster.coordinator.metrics().await?.text),
        ("its readiness", cluster.coordinator.readiness().await?),
        (
            "the Events",
            serde_json::to_string(&events.list(&ListParams::default()).await?.items)?,
        ),
        (
            "the status",
            serde_json::to_string(&cluster.get::<drop_api::CachedImage>("app").await?)?,
        ),
    ];
    for node in nodes {
        let agent = cluster.node(node)?.agent()?;
        told.push(("an agent's log", agent.log()));
        told.push(("its metrics", agent.metrics().await?.text));
    }
    ensure!(told[0].1.len() > 10_000, "the log is no trace");
    for (place, text) in told {
        for secret in &secrets {
            ensure!(!text.contains(secret), "{place} tells a secret");
        }
    }
    Ok(())
}

/// The authorities as the Secret holds them.
pub(crate) async fn stored(cluster: &Cluster) -> Result<serde_json::Value> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), NAMESPACE);
    let secret = secrets.get("drop-coordinator-tls").await?;
    let data = secret.data.context("an empty Secret")?;
    let json = data.get("authorities.json").context("no authorities")?;
    serde_json::from_slice(&json.0).context("parse the authorities")
}

/// Waits until an agent says so in its log and in its readiness.
pub(crate) async fn is_told(cluster: &mut Cluster, node: &str, words: &str) -> Result<()> {
    wait::until(format!("{node} to say: {words}"), WITHIN, async || {
        let agent = cluster.node(node)?.agent()?;
        let said = agent.readiness().await?;
        ensure!(said.contains(words), "{said}");
        let log = agent.log();
        let line = log.lines().rfind(|line| line.contains(words));
        ensure!(line.is_some_and(|line| line.contains("WARN")), "{log}");
        Ok(())
    })
    .await
}
