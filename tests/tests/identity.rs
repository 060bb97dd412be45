//! Who may open a session, and who serves it: real tokens of a real API server, real certificates.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_proto::agent_message;
use drop_tests::agent_pod::{ACCOUNT, AUDIENCE, AgentPod};
use drop_tests::cached_image::{is_ready, is_ready_on, policy, yaml};
use drop_tests::certificates::Authority;
use drop_tests::cluster::Cluster;
use drop_tests::control_plane::{ControlPlane, Controllers};
use drop_tests::coordinator::{Coordinator, NAMESPACE, Sessions, TLS_NAME, grant_rights};
use drop_tests::dirs::Scratch;
use drop_tests::node::NodeSpec;
use drop_tests::raw_session::{RawSession, encoded, hello};
use drop_tests::{http, objects, tokens, wait};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use tonic::{Code, Status};

const WITHIN: Duration = Duration::from_secs(60);

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
    tokio::time::sleep(Duration::from_secs(4)).await;
    cluster.control_plane.start_api().await?;
    let metrics = cluster.node("node-1")?.agent()?.metrics().await?;
    ensure!(metrics.value("drop_session_reconnects_total", &[]) == Some(1.0));
    ensure!(metrics.value("drop_session_up", &[]) == Some(1.0));

    // Until its pod is gone.
    cluster.agent_pod("node-1")?.delete().await?;
    is_told(&mut cluster, "node-1", "does not accept this agent's token").await
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_start_before_the_coordinator_wait_for_its_authority() -> Result<()> {
    let mut cluster = Cluster::builder().secure().start().await?;
    cluster.coordinator.kill();
    let now = DeleteParams::default();
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), NAMESPACE);
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), NAMESPACE);
    secrets.delete("drop-coordinator-tls", &now).await?;
    maps.delete("drop-coordinator-ca", &now).await?;
    cluster.add_node(NodeSpec::new("node-1").scripted()).await?;
    is_told(&mut cluster, "node-1", "ConfigMap drop-coordinator-ca").await?;
    let log = cluster.node("node-1")?.agent()?.log();
    let warnings = log.lines().filter(|line| line.contains("WARN")).count();
    ensure!(warnings < 5, "{log}");
    cluster.coordinator.restart().await?;
    cluster.node("node-1")?.agent()?.wait_ready(WITHIN).await
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
            let slow = drop_tests::scripted_cri::Reply::slow(Duration::from_millis(600));
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
    let mut seen = 0;
    for rotation in 2..6 {
        wait::until(format!("authority {rotation}"), WITHIN, async || {
            seen = cluster
                .coordinator
                .log()
                .matches("serves a new certificate")
                .count();
            ensure!(seen >= rotation, "{seen} so far");
            Ok(())
        })
        .await?;
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
    let begin = std::time::Instant::now();
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

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_files_are_followed_without_a_restart() -> Result<()> {
    let scratch = Scratch::new()?;
    let folder = scratch.folder("certificates")?;
    let (first, second) = (folder.join("1"), folder.join("2"));
    for folder in [&first, &second] {
        std::fs::create_dir_all(folder)?;
    }
    let (old, new) = (Authority::new(&first)?, Authority::new(&second)?);
    let (certificate, key) = old.serve_names("tls", &[TLS_NAME])?;
    let (next_certificate, next_key) = new.serve_names("tls", &[TLS_NAME])?;
    let file = |path: &Path| path.display().to_string();
    let cluster = Cluster::builder()
        .secure()
        .coordinator_args(&["--tls-cert-file", &file(&certificate)])
        .coordinator_args(&["--tls-key-file", &file(&key)])
        .start()
        .await?;
    let old = std::fs::read_to_string(old.certificate())?;
    let new = std::fs::read_to_string(new.certificate())?;
    let address = cluster.coordinator.session_address();
    ensure!(RawSession::open_secure(address, &old, None).await.is_ok());
    ensure!(RawSession::open_secure(address, &new, None).await.is_err());

    // Half of a change: the former pair is served on, and that is said.
    let serving = std::fs::read(&certificate)?;
    std::fs::copy(&next_certificate, &certificate)?;
    wait::until("a complaint", WITHIN, async || {
        let log = cluster.coordinator.log();
        ensure!(log.contains("are no pair"), "{log}");
        Ok(())
    })
    .await?;
    ensure!(std::fs::read(&certificate)? != serving);
    ensure!(RawSession::open_secure(address, &old, None).await.is_ok());
    std::fs::copy(&next_key, &key)?;
    wait::until("the new certificate", WITHIN, async || {
        RawSession::open_secure(address, &new, None).await.map(drop)
    })
    .await?;
    ensure!(RawSession::open_secure(address, &old, None).await.is_err());

    // Whoever brings the certificates keeps them: nothing of our own is made.
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), NAMESPACE);
    ensure!(secrets.get_opt("drop-coordinator-tls").await?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_tells_a_strange_certificate_from_one_it_believes() -> Result<()> {
    let mut cluster = Cluster::builder()
        .secure()
        .node(NodeSpec::new("node-1").scripted().without_agent())
        .node(
            NodeSpec::new("node-2")
                .scripted()
                .without_agent()
                .agent_args(&["--insecure-plaintext"]),
        )
        .start()
        .await?;
    let strange = Authority::new(&cluster.folder().join("node-1"))?;
    let file = strange.certificate().display().to_string();
    let endpoint = cluster.node("node-1")?.scripted()?.endpoint();
    let mut args = cluster.agent_pod("node-1")?.agent_args();
    args[3] = file;
    let folder = cluster.folder().join("strange");
    let url = cluster.coordinator.url();
    let agent = drop_tests::agent::Agent::start(&folder, "node-1", &url, &endpoint, &args).await?;
    wait::until("the agent's complaint", WITHIN, async || {
        let said = agent.readiness().await?;
        ensure!(said.contains("is of no authority in"), "{said}");
        Ok(())
    })
    .await?;
    // Its token went nowhere.
    ensure!(!cluster.coordinator.log().contains("session refused"));

    // And the secure port takes no plaintext.
    let address = cluster.coordinator.session_address();
    let plain = http::get(&format!("http://{address}/")).await;
    ensure!(plain.is_err(), "{plain:?}");
    ensure!(RawSession::open(address).await.is_err());
    let refused = cluster.node("node-2")?.start_agent().await;
    let refused = format!("{:#}", refused.err().context("the agent starts")?);
    ensure!(refused.contains("--insecure-plaintext"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_secret_or_config_map_is_made_anew_at_once() -> Result<()> {
    let mut cluster = Cluster::builder()
        .secure()
        .node(NodeSpec::new("node-1").scripted())
        .start()
        .await?;
    let before = stored(&cluster).await?;
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), NAMESPACE);
    secrets
        .delete("drop-coordinator-tls", &DeleteParams::default())
        .await?;
    wait::until("another authority", WITHIN, async || {
        let after = stored(&cluster).await?;
        ensure!(after[0]["key"] != before[0]["key"], "still the old one");
        Ok(())
    })
    .await?;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), NAMESPACE);
    let lost = maps.get("drop-coordinator-ca").await?;
    maps.delete("drop-coordinator-ca", &DeleteParams::default())
        .await?;
    wait::until("another ConfigMap", WITHIN, async || {
        let found = maps.get("drop-coordinator-ca").await?;
        ensure!(found.metadata.uid != lost.metadata.uid, "still the old one");
        Ok(())
    })
    .await?;
    let agent = cluster.node("node-1")?.agent()?;
    agent.kill();
    agent.restart().await?;
    agent.wait_ready(WITHIN).await?;
    let image = cluster.image("team/app");
    cluster.apply(&yaml("app", &image, "v1", "")).await?;
    cluster.until("app", WITHIN, is_ready).await?;
    Ok(())
}

/// The authorities as the Secret holds them.
async fn stored(cluster: &Cluster) -> Result<serde_json::Value> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), NAMESPACE);
    let secret = secrets.get("drop-coordinator-tls").await?;
    let data = secret.data.context("an empty Secret")?;
    let json = data.get("authorities.json").context("no authorities")?;
    serde_json::from_slice(&json.0).context("parse the authorities")
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

/// Waits until an agent says so in its log and in its readiness.
async fn is_told(cluster: &mut Cluster, node: &str, words: &str) -> Result<()> {
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
