//! Which nodes hold an image: nodes that join, labels, taints, and what a policy adds to them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_api::{CachedImage, NodeState, Phase, PullPolicy};
use drop_tests::cached_image::{condition, is_not_ready, is_ready_on, policy, status, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::coordinator::USER;
use drop_tests::images::Recipe;
use drop_tests::node::NodeSpec;
use kube::api::{Api, DeleteParams};

const SOON: Duration = Duration::from_secs(60);
const FAST: &str = "maxConcurrentNodes: 100, minDelayBetweenPulls: 0s";

/// Pushes `team/app:v1` and applies the policy `fast`. Gives the image's name.
async fn prepare(cluster: &Cluster) -> Result<String> {
    cluster
        .push("team/app", "v1", &Recipe::layers(&[100_000]))
        .await?;
    cluster.apply(&policy("fast", FAST)).await?;
    Ok(cluster.image("team/app"))
}

fn app(name: &str, image: &str, spec: &str) -> String {
    yaml(
        name,
        image,
        "v1",
        &format!("policyRef: {{name: fast}}{spec}"),
    )
}

async fn ready_on(cluster: &Cluster, name: &str, nodes: &[&str]) -> Result<CachedImage> {
    cluster
        .until(name, SOON, |image| is_ready_on(image, nodes))
        .await
        .with_context(|| format!("{name} on {nodes:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn row_3_a_node_that_joins_later_is_warmed() -> Result<()> {
    let mut cluster = Cluster::builder()
        .nodes(1)
        .coordinator_args(&["--agent-grace", "3s"])
        .start()
        .await?;
    let image = prepare(&cluster).await?;
    cluster.apply(&app("app", &image, "")).await?;
    let alone = ready_on(&cluster, "app", &["node-1"]).await?;
    let digest = status(&alone).resolved_digest.unwrap_or_default();

    cluster
        .add_node(NodeSpec::new("node-2").without_agent())
        .await?;
    let waiting: CachedImage = cluster
        .until("app", SOON, |app| is_not_ready(app, "AgentNotConnected"))
        .await?;
    let seen = status(&waiting);
    ensure!(seen.ready.as_deref() == Some("1/2"), "{seen:?}");
    ensure!(
        seen.nodes.len() == 1
            && seen.nodes[0].node == "node-2"
            && seen.nodes[0].state == NodeState::NotConnected,
        "{seen:?}"
    );

    cluster.node("node-2")?.start_agent().await?;
    let both = ready_on(&cluster, "app", &["node-1", "node-2"]).await?;
    ensure!(cluster.holders(&format!("{image}:v1"), &digest).await? == ["node-1", "node-2"]);
    ensure!(
        both.metadata.generation == waiting.metadata.generation,
        "nobody touched the object"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_brings_a_node_in_and_out() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).start().await?;
    let [one, two] = cluster.nodes.as_slice() else {
        anyhow::bail!("two nodes were asked for");
    };
    let image = prepare(&cluster).await?;
    cluster
        .apply(&app("app", &image, ", nodeSelector: {pool: build}"))
        .await?;
    let nowhere: CachedImage = cluster
        .until("app", SOON, |app| is_not_ready(app, "NoMatchingNodes"))
        .await?;
    let message = condition(&nowhere, "Ready").2;
    ensure!(message.contains("pool=build"), "{message}");
    ensure!(status(&nowhere).phase == Some(Phase::Pending));

    one.label("pool", Some("build")).await?;
    ready_on(&cluster, "app", &["node-1"]).await?;
    two.label("pool", Some("web")).await?;
    two.label("pool", Some("build")).await?;
    let both = ready_on(&cluster, "app", &["node-1", "node-2"]).await?;
    one.label("pool", None).await?;
    ready_on(&cluster, "app", &["node-2"]).await?;
    // Out of the selection is not out of the node.
    let digest = status(&both).resolved_digest.unwrap_or_default();
    ensure!(cluster.holders(&format!("{image}:v1"), &digest).await? == ["node-1", "node-2"]);

    two.deregister().await?;
    cluster
        .until::<CachedImage>("app", SOON, |app| is_not_ready(app, "NoMatchingNodes"))
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn taints_and_tolerations_count_as_for_pods() -> Result<()> {
    let cluster = Cluster::builder()
        .node(NodeSpec::new("execute").taint("b", "1", "NoExecute"))
        .node(NodeSpec::new("plain"))
        .node(NodeSpec::new("prefer").taint("c", "1", "PreferNoSchedule"))
        .node(NodeSpec::new("schedule").taint("a", "1", "NoSchedule"))
        .start()
        .await?;
    let image = prepare(&cluster).await?;
    let untainted = ["plain", "prefer"].as_slice();
    let with_schedule = ["plain", "prefer", "schedule"].as_slice();
    let with_execute = ["execute", "plain", "prefer"].as_slice();
    let all = ["execute", "plain", "prefer", "schedule"].as_slice();
    let cases = [
        ("none", "", untainted),
        (
            "equal",
            "{key: a, operator: Equal, value: '1', effect: NoSchedule}",
            with_schedule,
        ),
        ("default-operator", "{key: a, value: '1'}", with_schedule),
        (
            "other-value",
            "{key: a, value: '2', effect: NoSchedule}",
            untainted,
        ),
        (
            "other-effect",
            "{key: a, operator: Exists, effect: NoExecute}",
            untainted,
        ),
        ("exists", "{key: b, operator: Exists}", with_execute),
        ("everything", "{operator: Exists}", all),
        (
            "every-key-of-an-effect",
            "{operator: Exists, effect: NoExecute}",
            with_execute,
        ),
    ];
    for (name, toleration, _) in cases {
        let spec = format!(", tolerations: [{toleration}]");
        cluster.apply(&app(name, &image, &spec)).await?;
    }
    for (name, _, nodes) in cases {
        ready_on(&cluster, name, nodes).await?;
    }

    // A taint comes and goes.
    let plain = &cluster.nodes[1];
    plain.taints(&[("d", "", "NoSchedule")]).await?;
    ready_on(&cluster, "none", &["prefer"]).await?;
    ready_on(&cluster, "everything", all).await?;
    plain.taints(&[]).await?;
    ready_on(&cluster, "none", untainted).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordoned_or_unready_node_is_judged_by_its_taints_alone() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).start().await?;
    let [one, two] = cluster.nodes.as_slice() else {
        anyhow::bail!("two nodes were asked for");
    };
    let image = prepare(&cluster).await?;
    one.cordon().await?;
    two.not_ready().await?;
    cluster.apply(&app("app", &image, "")).await?;
    ready_on(&cluster, "app", &["node-1", "node-2"]).await?;

    one.taints(&[("node.kubernetes.io/unschedulable", "", "NoSchedule")])
        .await?;
    ready_on(&cluster, "app", &["node-2"]).await?;
    two.taints(&[("node.kubernetes.io/not-ready", "", "NoExecute")])
        .await?;
    let nowhere: CachedImage = cluster
        .until("app", SOON, |app| is_not_ready(app, "NoMatchingNodes"))
        .await?;
    let message = condition(&nowhere, "Ready").2;
    ensure!(message.contains("taint"), "{message}");
    cluster
        .apply(&app(
            "app",
            &image,
            ", tolerations: [{key: node.kubernetes.io/not-ready, operator: Exists}]",
        ))
        .await?;
    ready_on(&cluster, "app", &["node-2"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn row_6_the_policys_selector_and_tolerations_count() -> Result<()> {
    let cluster = Cluster::builder()
        .node(NodeSpec::new("node-1").label("pool", "a"))
        .node(
            NodeSpec::new("node-2")
                .label("pool", "a")
                .label("zone", "x"),
        )
        .node(
            NodeSpec::new("node-3")
                .label("pool", "a")
                .label("zone", "x")
                .taint("gpu", "", "NoSchedule"),
        )
        .node(NodeSpec::new("node-4").label("zone", "x"))
        .start()
        .await?;
    let image = prepare(&cluster).await?;
    let selects = format!("{FAST}, nodeSelector: {{zone: x}}");
    let tolerates = format!("{selects}, tolerations: [{{key: gpu, operator: Exists}}]");
    cluster.apply(&policy("fast", &tolerates)).await?;
    cluster
        .apply(&app("app", &image, ", nodeSelector: {pool: a}"))
        .await?;
    ready_on(&cluster, "app", &["node-2", "node-3"]).await?;
    let log = cluster.proxy.log();
    ensure!(
        log.nodes().iter().eq(["node-2", "node-3"]),
        "{}",
        log.table()
    );

    // Edits of the policy act at once.
    cluster.apply(&policy("fast", &selects)).await?;
    ready_on(&cluster, "app", &["node-2"]).await?;
    cluster.apply(&policy("fast", FAST)).await?;
    ready_on(&cluster, "app", &["node-1", "node-2"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_policy_is_named_and_the_built_in_one_applies() -> Result<()> {
    let cluster = Cluster::builder()
        .node(NodeSpec::new("node-1").label("pool", "a"))
        .node(NodeSpec::new("node-2"))
        .start()
        .await?;
    let image = prepare(&cluster).await?;
    let selects = format!("{FAST}, nodeSelector: {{pool: a}}");
    cluster.apply(&policy("fast", &selects)).await?;
    cluster.apply(&app("app", &image, "")).await?;
    ready_on(&cluster, "app", &["node-1"]).await?;

    let policies: Api<PullPolicy> = Api::all(cluster.client());
    policies.delete("fast", &DeleteParams::default()).await?;
    // Its selector is gone with it.
    let orphan = ready_on(&cluster, "app", &["node-1", "node-2"]).await?;
    let message = condition(&orphan, "Ready").2;
    ensure!(
        message.contains(r#"PullPolicy "fast" not found"#),
        "{message}"
    );

    cluster.apply(&policy("fast", &selects)).await?;
    let adopted = ready_on(&cluster, "app", &["node-1"]).await?;
    let message = condition(&adopted, "Ready").2;
    ensure!(!message.contains("not found"), "{message}");
    // Nobody but the user touches what the user wrote.
    let audit = cluster.control_plane.audit()?;
    let writes = audit.resource("pullpolicies").by(USER).writes();
    ensure!(writes.count() == 0, "{}", writes.table());
    Ok(())
}
