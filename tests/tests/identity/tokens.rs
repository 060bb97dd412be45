//! Which tokens open a session, for which node and for how long.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use drop_proto::agent_message;
use drop_tests::agent_pod::{ACCOUNT, AUDIENCE, AgentPod};
use drop_tests::cluster::Cluster;
use drop_tests::coordinator::NAMESPACE;
use drop_tests::node::NodeSpec;
use drop_tests::raw_session::{RawSession, encoded, hello};
use drop_tests::{objects, tokens, wait};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use tonic::{Code, Status};

use crate::{WITHIN, is_told};

#[tokio::test(flavor = "multi_thread")]
async fn each_token_that_the_api_server_does_not_accept_is_refused_and_the_reason_told()
-> Result<()> {
    let scene = Scene::start().await?;
    let plane = &scene.cluster.control_plane;
    let good = scene.pod.token()?;
    let client = scene.cluster.client();
    let leaving =
        AgentPod::create(&scene.cluster.folder().join("three"), &client, "node-3").await?;
    let gone = leaving.token()?;
    leaving.delete().await?;
    let mut forged = good.clone();
    forged.truncate(good.len() - 20);
    forged.push_str("AAAAAAAAAAAAAAAAAAAA");
    let vault = scene.pod.request_token("vault").await?;
    let expired = tokens::with_life(plane, &good, -120)?;
    for (what, token, node, word) in [
        ("no JWT", "abc", "node-1", "audience"),
        ("a forged one", &forged, "node-1", "drop-coordinator"),
        ("another audience", &vault, "node-1", "audience"),
        ("an expired one", &expired, "node-1", "expired"),
        ("of a pod that is gone", &gone, "node-3", "audience"),
    ] {
        let expected = (Code::Unauthenticated, "token_invalid", word);
        scene.refuses(what, Some(token), node, expected).await?;
    }
    let expected = (Code::Unauthenticated, "token_missing", "--token-file");
    scene.refuses("no token", None, "node-1", expected).await?;
    scene.takes(&good, "node-1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_good_token_that_is_not_the_nodes_own_is_refused_and_the_reason_told() -> Result<()> {
    let scene = Scene::start().await?;
    let account =
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: drop-agent, namespace: default}\n";
    objects::apply(&scene.cluster.client(), account).await?;
    let good = scene.pod.token()?;
    // As an API server before 1.32 issues it.
    let by_pod = tokens::reissue(&scene.cluster.control_plane, &good, |claims| {
        let kubernetes = claims.get_mut("kubernetes.io");
        if let Some(bindings) = kubernetes.and_then(|k| k.as_object_mut()) {
            bindings.remove("node");
        }
    })?;
    let on_node = Some(("Node", "node-1"));
    let other_account = scene
        .token((NAMESPACE, "drop-coordinator"), on_node)
        .await?;
    let other_namespace = scene.token(("default", ACCOUNT), on_node).await?;
    let unbound = scene.token((NAMESPACE, ACCOUNT), None).await?;
    let by_node = scene.token((NAMESPACE, ACCOUNT), on_node).await?;
    let account = "token_other_account";
    for (what, token, node, class, word) in [
        (
            "another account",
            &other_account,
            "node-1",
            account,
            "drop-system:drop-coordinator",
        ),
        (
            "another namespace",
            &other_namespace,
            "node-1",
            account,
            "default:drop-agent",
        ),
        (
            "bound to nothing",
            &unbound,
            "node-1",
            "token_unbound",
            "projected",
        ),
        (
            "another node's",
            &good,
            "node-2",
            "token_other_node",
            "is of node node-1",
        ),
        (
            "another node's pod's",
            &by_pod,
            "node-2",
            "token_other_node",
            "is of node node-1",
        ),
        (
            "bound to another node",
            &by_node,
            "node-2",
            "token_other_node",
            "is of node node-1",
        ),
    ] {
        let expected = (Code::PermissionDenied, class, word);
        scene.refuses(what, Some(token), node, expected).await?;
    }
    // The node's own, in each form in which an API server says whose it is.
    for token in [&good, &by_pod, &by_node] {
        scene.takes(token, "node-1").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_says_what_is_wrong_with_its_token_and_goes_on_when_it_is_put_right() -> Result<()>
{
    let mut cluster = Cluster::builder()
        .secure()
        .node(NodeSpec::new("node-1").scripted())
        .node(NodeSpec::new("node-2").scripted().without_agent())
        .start()
        .await?;
    let foreign = cluster.agent_pod("node-1")?.token()?;
    let pod = cluster.agent_pod("node-2")?;
    let own = pod.token()?;
    pod.set_token(&foreign)?;
    cluster.node("node-2")?.start_agent().await?;
    let words = "does not let this agent speak for this node: the token is of node node-1";
    is_told(&mut cluster, "node-2", words).await?;
    cluster.agent_pod("node-2")?.set_token("")?;
    is_told(&mut cluster, "node-2", "holds no token").await?;
    let foreign = cluster.agent_pod("node-2")?.request_token("vault").await?;
    cluster.agent_pod("node-2")?.set_token(&foreign)?;
    is_told(&mut cluster, "node-2", "does not accept this agent's token").await?;
    cluster.agent_pod("node-2")?.set_token(&own)?;
    cluster.node("node-2")?.agent()?.wait_ready(WITHIN).await?;

    // The one whose token was borrowed did not notice.
    let metrics = cluster.node("node-1")?.agent()?.metrics().await?;
    ensure!(metrics.value("drop_session_reconnects_total", &[]) == Some(0.0));
    ensure!(metrics.value("drop_session_up", &[]) == Some(1.0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_token_and_begins_again_with_the_next() -> Result<()> {
    let mut cluster = Cluster::builder()
        .secure()
        .node(NodeSpec::new("node-1").scripted().without_agent())
        .coordinator_args(&["--token-recheck", "1s"])
        .start()
        .await?;
    let pod = cluster.agent_pod("node-1")?;
    let own = pod.token()?;
    // An API server believes a token for a minute longer than it lives, and what it believed for ten seconds more.
    pod.set_token(&tokens::with_life(&cluster.control_plane, &own, -50)?)?;
    cluster.node("node-1")?.start_agent().await?;
    cluster.node("node-1")?.agent()?.wait_ready(WITHIN).await?;
    cluster.agent_pod("node-1")?.set_token(&own)?;
    wait::until("a second session", WITHIN, async || {
        let metrics = cluster.node("node-1")?.agent()?.metrics().await?;
        ensure!(metrics.value("drop_session_reconnects_total", &[]) == Some(1.0));
        ensure!(metrics.value("drop_session_up", &[]) == Some(1.0));
        Ok(())
    })
    .await?;
    let log = cluster.node("node-1")?.agent()?.log();
    ensure!(log.contains("does not accept this agent's token"), "{log}");
    ensure!(log.contains("expired"), "{log}");

    // The good one is reviewed over and over, and stays; also while nobody can review it.
    cluster.control_plane.stop_api();
    logs(&cluster, "tokens cannot be reviewed").await?;
    cluster.control_plane.start_api().await?;
    logs(&cluster, "tokens can be reviewed").await?;
    let metrics = cluster.node("node-1")?.agent()?.metrics().await?;
    ensure!(metrics.value("drop_session_reconnects_total", &[]) == Some(1.0));
    ensure!(metrics.value("drop_session_up", &[]) == Some(1.0));

    // Until its pod is gone.
    cluster.agent_pod("node-1")?.delete().await?;
    is_told(&mut cluster, "node-1", "does not accept this agent's token").await
}

async fn logs(cluster: &Cluster, words: &str) -> Result<()> {
    wait::until(
        format!("the coordinator to log: {words}"),
        WITHIN,
        async || {
            let log = cluster.coordinator.log();
            ensure!(log.contains(words), "{log}");
            Ok(())
        },
    )
    .await
}

/// A coordinator, three nodes, and the agent's pod on the first. The agents are the tests.
struct Scene {
    cluster: Cluster,
    pod: AgentPod,
}

impl Scene {
    async fn start() -> Result<Self> {
        let cluster = Cluster::builder().secure().start().await?;
        let client = cluster.client();
        for node in ["node-1", "node-2", "node-3"] {
            drop_tests::node::register(&client, node, &BTreeMap::new(), &[]).await?;
        }
        let pod = AgentPod::create(&cluster.folder().join("one"), &client, "node-1").await?;
        Ok(Self { cluster, pod })
    }

    /// A token for the coordinator, of any account.
    async fn token(&self, account: (&str, &str), bound_to: Option<(&str, &str)>) -> Result<String> {
        tokens::request(&self.cluster.client(), account, AUDIENCE, bound_to).await
    }

    /// The session is refused with this code, reason and word, and that is logged and counted.
    async fn refuses(
        &self,
        what: &str,
        token: Option<&str>,
        node: &str,
        (code, class, word): (Code, &str, &str),
    ) -> Result<()> {
        let before = self.refused(class).await?;
        let refusal = self.try_session(token, node).await?;
        let refusal = refusal.err().with_context(|| format!("{what} is taken"))?;
        ensure!(refusal.code() == code, "{what}: {refusal:?}");
        ensure!(refusal.message().contains(word), "{what}: {refusal:?}");
        ensure!(self.refused(class).await? > before, "{what} is not counted");
        let log = self.cluster.coordinator.log();
        let line = log.lines().rfind(|line| line.contains("session refused"));
        let line = line.with_context(|| format!("{what} is not logged"))?;
        ensure!(
            line.contains(class) && line.contains(word),
            "{what}: {line}"
        );
        Ok(())
    }

    async fn takes(&self, token: &str, node: &str) -> Result<()> {
        wait::until("the session before it to end", WITHIN, async || {
            let taken = self.try_session(Some(token), node).await?;
            taken.context("a good token is refused")
        })
        .await
    }

    /// A session with this token for this node: taken (something is answered), or refused.
    async fn try_session(&self, token: Option<&str>, node: &str) -> Result<Result<(), Status>> {
        let maps: Api<ConfigMap> = Api::namespaced(self.cluster.client(), NAMESPACE);
        let map = maps.get("drop-coordinator-ca").await?;
        let authorities = map.data.and_then(|mut data| data.remove("ca.crt"));
        let authorities = authorities.context("nothing is published")?;
        let address = self.cluster.coordinator.session_address();
        let mut session = match RawSession::open_secure(address, &authorities, token).await? {
            Ok(session) => session,
            Err(status) => return Ok(Err(status)),
        };
        let first = encoded(agent_message::Kind::Hello(hello(node, "raw")));
        ensure!(session.send(first).await, "closed");
        Ok(session.next().await?.map(drop))
    }

    async fn refused(&self, class: &str) -> Result<f64> {
        let metrics = self.cluster.coordinator.metrics().await?;
        let value = metrics.value("drop_sessions_refused_total", &[("reason", class)]);
        value.context("no such counter")
    }
}
