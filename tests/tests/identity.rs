//! Who may open a session, and who serves it: real tokens of a real API server, real certificates.

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

/// What is wrong with a token, the token, the node that is claimed, and the refusal: its code, its reason, a word of it.
type Case<'a> = (&'a str, Option<String>, &'a str, (Code, &'a str, &'a str));

#[tokio::test(flavor = "multi_thread")]
async fn each_token_but_the_nodes_own_is_refused_and_the_reason_told() -> Result<()> {
    let cluster = Cluster::builder().secure().start().await?;
    let (client, plane) = (cluster.client(), &cluster.control_plane);
    for node in ["node-1", "node-2", "node-3"] {
        let nothing = std::collections::BTreeMap::new();
        drop_tests::node::register(&client, node, &nothing, &[]).await?;
    }
    let pod = AgentPod::create(&cluster.folder().join("one"), &client, "node-1").await?;
    let leaving = AgentPod::create(&cluster.folder().join("three"), &client, "node-3").await?;
    objects::apply(
        &client,
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: drop-agent, namespace: default}\n",
    )
    .await?;
    let good = pod.token()?;
    let gone = leaving.token()?;
    leaving.delete().await?;
    let on_node = Some(("Node", "node-1"));
    let request = async |namespace, account, bound| {
        tokens::request(&client, (namespace, account), AUDIENCE, bound).await
    };
    let from_pod = |token: &str| {
        tokens::reissue(plane, token, |claims| {
            let kubernetes = claims.get_mut("kubernetes.io");
            if let Some(bindings) = kubernetes.and_then(|k| k.as_object_mut()) {
                bindings.remove("node");
            }
        })
    };
    let mut forged = good.clone();
    forged.truncate(good.len() - 20);
    forged.push_str("AAAAAAAAAAAAAAAAAAAA");
    let (none, invalid, other) = (
        Code::Unauthenticated,
        (Code::Unauthenticated, "token_invalid"),
        (Code::PermissionDenied, "token_other_account"),
    );
    let cases: [Case; 12] = [
        (
            "no token",
            None,
            "node-1",
            (none, "token_missing", "--token-file"),
        ),
        (
            "no JWT",
            Some("abc".to_owned()),
            "node-1",
            (invalid.0, invalid.1, "audience"),
        ),
        (
            "a forged one",
            Some(forged),
            "node-1",
            (invalid.0, invalid.1, "drop-coordinator"),
        ),
        (
            "another audience",
            Some(pod.request_token("vault").await?),
            "node-1",
            (invalid.0, invalid.1, "audience"),
        ),
        (
            "an expired one",
            Some(tokens::with_life(plane, &good, -120)?),
            "node-1",
            (invalid.0, invalid.1, "expired"),
        ),
        (
            "of a pod that is gone",
            Some(gone),
            "node-3",
            (invalid.0, invalid.1, "audience"),
        ),
        (
            "another ServiceAccount",
            Some(request(NAMESPACE, "drop-coordinator", on_node).await?),
            "node-1",
            (other.0, other.1, "drop-system:drop-coordinator"),
        ),
        (
            "another namespace",
            Some(request("default", ACCOUNT, on_node).await?),
            "node-1",
            (other.0, other.1, "default:drop-agent"),
        ),
        (
            "bound to nothing",
            Some(request(NAMESPACE, ACCOUNT, None).await?),
            "node-1",
            (Code::PermissionDenied, "token_unbound", "projected"),
        ),
        (
            "another node",
            Some(good.clone()),
            "node-2",
            (
                Code::PermissionDenied,
                "token_other_node",
                "the token is of node node-1",
            ),
        ),
        (
            "another node, known by its pod",
            Some(from_pod(&good)?),
            "node-2",
            (
                Code::PermissionDenied,
                "token_other_node",
                "the token is of node node-1",
            ),
        ),
        (
            "another node, known by a token of the node",
            Some(request(NAMESPACE, ACCOUNT, on_node).await?),
            "node-2",
            (
                Code::PermissionDenied,
                "token_other_node",
                "the token is of node node-1",
            ),
        ),
    ];
    for (what, token, node, (code, class, word)) in cases {
        let counter = [("reason", class)];
        let before = refused(&cluster, &counter).await?;
        let refusal = try_session(&cluster, token.as_deref(), node).await?;
        let refusal = refusal.err().with_context(|| format!("{what} is taken"))?;
        ensure!(refusal.code() == code, "{what}: {refusal:?}");
        ensure!(refusal.message().contains(word), "{what}: {refusal:?}");
        ensure!(
            refused(&cluster, &counter).await? > before,
            "{what} is not counted"
        );
        let log = cluster.coordinator.log();
        let line = log.lines().rfind(|line| line.contains("session refused"));
        let line = line.with_context(|| format!("{what} is not logged"))?;
        ensure!(
            line.contains(class) && line.contains(word),
            "{what}: {line}"
        );
    }

    // The node's own, in each form in which an API server says whose it is.
    let by_node = request(NAMESPACE, ACCOUNT, on_node).await?;
    for token in [&good, &from_pod(&good)?, &by_node] {
        wait::until("the session before it to end", WITHIN, async || {
            let taken = try_session(&cluster, Some(token), "node-1").await?;
            taken.map(drop).context("a good token is refused")
        })
        .await?;
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
    let mut bundles = std::collections::BTreeSet::new();
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
async fn a_lost_secret_is_made_anew() -> Result<()> {
    let mut cluster = Cluster::builder()
        .secure()
        .node(NodeSpec::new("node-1").scripted())
        .coordinator_args(&["--tls-lifetime", "20s"])
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

/// A session with this token for this node: taken (something is answered), or refused.
async fn try_session(
    cluster: &Cluster,
    token: Option<&str>,
    node: &str,
) -> Result<Result<(), Status>> {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), NAMESPACE);
    let map = maps.get("drop-coordinator-ca").await?;
    let authorities = map.data.and_then(|mut data| data.remove("ca.crt"));
    let authorities = authorities.context("nothing is published")?;
    let address = cluster.coordinator.session_address();
    let mut session = match RawSession::open_secure(address, &authorities, token).await? {
        Ok(session) => session,
        Err(status) => return Ok(Err(status)),
    };
    let first = encoded(agent_message::Kind::Hello(hello(node, "raw")));
    ensure!(session.send(first).await, "closed");
    Ok(session.next().await?.map(drop))
}

async fn refused(cluster: &Cluster, labels: &[(&str, &str)]) -> Result<f64> {
    let metrics = cluster.coordinator.metrics().await?;
    let value = metrics.value("drop_sessions_refused_total", labels);
    value.context("no such counter")
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
