//! Bad input from the network: garbage on the gRPC port, two agents of one node, objects that do not parse. Each gets a clear
//! error, and nobody else notices. (`bad_flags` has the command lines.)

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use drop_api::CachedImage;
use drop_proto::{Ask, CoordinatorMessage, agent_message, coordinator_message};
use drop_tests::agent::Agent;
use drop_tests::cached_image::{is_ready, policy, status, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::node::{self, NodeSpec};
use drop_tests::raw_session::{RawSession, encoded, hello, put_bytes, put_number};
use drop_tests::{http, objects, wait};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;

const WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_session_port_harms_nobody() -> Result<()> {
    let mut cluster = Cluster::builder()
        .node(NodeSpec::new("node-1").scripted())
        .start()
        .await?;
    cluster.apply(&policy("quick", "")).await?;
    let address = cluster.coordinator.session_address().to_owned();

    // Not HTTP/2 at all.
    let noise = noise(65_536);
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for bytes in [
        &noise[..],
        &[preface, &noise].concat(),
        &vec![0; 40_000],
        b"\n",
        b"",
    ] {
        until_hung_up(&address, bytes).await?;
    }
    let plain = http::get(&format!("http://{address}/")).await;
    ensure!(
        plain.is_err()
            || plain
                .as_ref()
                .is_ok_and(|answer| !answer.status.is_success()),
        "{plain:?}"
    );

    // gRPC, but no such service.
    for method in ["/drop.v1.Nonsense/Session", "/drop.v1.Coordinator/Nonsense"] {
        let refused = match RawSession::open_method(&address, method).await? {
            Ok(mut session) => session.refusal().await?,
            Err(status) => status,
        };
        ensure!(
            refused.code() == Code::Unimplemented,
            "{method}: {refused:?}"
        );
    }

    bad_first_messages_are_refused(&address).await?;

    // A sensible first message, and garbage behind it: that session ends, and its node is free again.
    for bytes in [
        noise[..1_000].to_vec(),
        vec![0x0a; drop_proto::MAX_AGENT_MESSAGE_BYTES + 1],
    ] {
        let (mut session, _) = welcomed(&address, "node-9").await?;
        session.send(bytes).await;
        while let Ok(Some(_)) = session.next().await? {}
    }
    // Messages that make no sense, from a node that is none: tokens, references and counts of any size.
    for message in nonsense() {
        let (session, _) = welcomed(&address, "node-9").await?;
        ensure!(session.send(encoded(message)).await);
    }
    let (session, _) = welcomed(&address, "node-9").await?;
    let again = encoded(agent_message::Kind::Hello(hello("node-1", "another")));
    session.send(again).await;
    drop(session);

    // The coordinator is alive, has not been restarted, and the real agent of node-1 never lost its session.
    let image = cluster.image("team/app");
    cluster
        .apply(&yaml("app", &image, "v1", "policyRef: {name: quick}"))
        .await?;
    let app: CachedImage = cluster.until("app", WITHIN, is_ready).await?;
    ensure!(status(&app).cached_nodes == ["node-1"], "{app:?}");
    let reconnects = cluster.node("node-1")?.agent()?.metrics().await?;
    ensure!(reconnects.value("drop_session_reconnects_total", &[]) == Some(0.0));
    ensure!(cluster.coordinator.process().running());
    no_panic(&mut cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_another_version_works() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    cluster.apply(&policy("quick", "")).await?;
    let spec = "policyRef: {name: quick}";
    cluster
        .apply(&yaml("app", "r.example/team/app", "v1", spec))
        .await?;
    node::register(&cluster.client(), "node-1", &BTreeMap::new(), &[]).await?;

    // A Hello of a newer agent: fields that nobody knows yet, in it, in its parts and beside it.
    let mut runtime = hello("", "").runtime.unwrap_or_default().encode_to_vec();
    put_bytes(&mut runtime, 900, b"new in runtime");
    let mut newer = hello("node-1", "newer");
    newer.runtime = None;
    let mut inner = newer.encode_to_vec();
    put_bytes(&mut inner, 6, &runtime);
    put_number(&mut inner, 901, u64::MAX);
    put_bytes(&mut inner, 902, &[0xff; 100]);
    let mut message = Vec::new();
    put_bytes(&mut message, 1, &inner);
    put_bytes(&mut message, 903, b"new beside hello");
    let session = RawSession::open(cluster.coordinator.session_address()).await?;
    let mut session = Talk(session);
    session.say(message).await?;
    let coordinator_message::Kind::Desired(desired) = session.hear().await? else {
        bail!("the first message is no Desired");
    };
    ensure!(desired.complete && desired.revision == 1, "{desired:?}");
    let reference = "r.example/team/app:v1";
    let names: Vec<&str> = desired
        .images
        .iter()
        .map(|i| i.reference.as_str())
        .collect();
    ensure!(names == [reference], "{desired:?}");

    // A kind of message that nobody knows yet is skipped.
    let mut unknown = Vec::new();
    put_bytes(&mut unknown, 99, b"news");
    session.say(unknown).await?;
    let mut inventory = Vec::new();
    put_number(&mut inventory, 1, 1);
    put_number(&mut inventory, 2, 1);
    put_number(&mut inventory, 904, 7);
    session.say(wrapped(2, &inventory)).await?;
    let mut ask = Vec::new();
    put_bytes(&mut ask, 1, reference.as_bytes());
    put_number(&mut ask, 905, 7);
    session.say(wrapped(3, &ask)).await?;
    let token = session.granted(reference).await?;
    let mut started = Vec::new();
    put_number(&mut started, 1, token);
    put_number(&mut started, 906, 7);
    session.say(wrapped(4, &started)).await?;

    // A failure of a class that nobody knows yet counts as one without a class.
    let mut failed = Vec::new();
    put_number(&mut failed, 1, token);
    put_number(&mut failed, 2, 4_711);
    put_bytes(&mut failed, 3, b"the moon is in the wrong phase");
    put_bytes(&mut failed, 907, b"new in failed");
    session.say(wrapped(7, &failed)).await?;
    let failed: CachedImage = cluster
        .until("app", WITHIN, |image: &CachedImage| {
            let status = status(image);
            ensure!(
                status.nodes_failed + status.nodes_waiting == 1,
                "{status:?}"
            );
            let exception = status.nodes.first().context("no exception")?;
            ensure!(exception.message.contains("the moon"), "{exception:?}");
            Ok(())
        })
        .await?;
    ensure!(status(&failed).consecutive_failures == 1, "{failed:?}");

    // An edit lets it be tried at once, and this time it succeeds.
    cluster
        .apply(&yaml(
            "app",
            "r.example/team/app",
            "v1",
            &format!("{spec}, priority: 1"),
        ))
        .await?;
    let token = session.granted(reference).await?;
    let digest = format!("sha256:{}", "5".repeat(64));
    let mut done = Vec::new();
    put_number(&mut done, 1, token);
    put_bytes(&mut done, 2, digest.as_bytes());
    put_number(&mut done, 3, 12_345);
    put_bytes(&mut done, 908, b"new in done");
    session.say(wrapped(6, &done)).await?;
    let ready: CachedImage = cluster.until("app", WITHIN, is_ready).await?;
    ensure!(status(&ready).resolved_digest == Some(digest), "{ready:?}");
    ensure!(!cluster.coordinator.log().contains("panicked"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_of_a_node_is_told_why_it_must_wait() -> Result<()> {
    let mut cluster = Cluster::builder()
        .node(NodeSpec::new("node-1").scripted())
        .start()
        .await?;
    let image = cluster.image("team/app");
    cluster.apply(&yaml("app", &image, "v1", "")).await?;
    cluster.until("app", WITHIN, is_ready).await?;

    let folder = cluster.folder().join("second");
    let endpoint = cluster.node("node-1")?.scripted()?.endpoint();
    let url = cluster.coordinator.url();
    let second = Agent::start(&folder, "node-1", &url, &endpoint, &[]).await?;
    wait::until("the second agent's complaint", WITHIN, async || {
        let log = second.log();
        let line = log
            .lines()
            .find(|line| line.contains("node node-1 has a session of another agent"));
        ensure!(line.is_some_and(|line| line.contains("WARN")), "{log}");
        Ok(())
    })
    .await?;
    ensure!(second.wait_ready(Duration::from_millis(500)).await.is_err());

    // The first one does not notice.
    let other = cluster.image("team/other");
    cluster.apply(&yaml("other", &other, "v1", "")).await?;
    cluster.until("other", WITHIN, is_ready).await?;
    let first = cluster.node("node-1")?.agent()?;
    let metrics = first.metrics().await?;
    ensure!(metrics.value("drop_session_up", &[]) == Some(1.0));
    ensure!(metrics.value("drop_session_reconnects_total", &[]) == Some(0.0));
    let pulled = second.metrics().await?;
    ensure!(
        pulled.of("drop_images_cached_total").is_empty(),
        "{}",
        pulled.text
    );

    // Nor is it in the way for longer than it lives.
    cluster.node("node-1")?.agent()?.kill();
    second.wait_ready(WITHIN).await?;
    let third = cluster.image("team/third");
    cluster.apply(&yaml("third", &third, "v1", "")).await?;
    cluster.until("third", WITHIN, is_ready).await?;
    ensure!(!second.log().contains("panicked"));
    no_panic(&mut cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_does_not_parse_does_not_blind_the_coordinator() -> Result<()> {
    let mut cluster = Cluster::builder()
        .node(NodeSpec::new("node-1").scripted())
        .start()
        .await?;
    let before = cluster.image("team/before");
    cluster.apply(&yaml("before", &before, "v1", "")).await?;
    cluster.until("before", WITHIN, is_ready).await?;

    // Somebody has replaced the definition by one that takes anything.
    let loose = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: cachedimages.drop.corewire.io}
spec:
  group: drop.corewire.io
  scope: Cluster
  names: {kind: CachedImage, plural: cachedimages, singular: cachedimage}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}
";
    cluster.apply(loose).await?;
    let head = "apiVersion: drop.corewire.io/v1alpha1\nkind: CachedImage\n";
    let specs = [
        ("bad-spec", "spec: [1, 2]"),
        ("no-spec", "spec: null"),
        ("no-image", "spec: {tag: v1}"),
        ("wrong-type", "spec: {image: {a: b}, tag: 7}"),
        (
            "wrong-enum",
            "spec: {image: nginx, imagePullPolicy: Perhaps}",
        ),
        ("bad-image", "spec: {image: 'NOT an image::@@'}"),
        (
            "huge-priority",
            "spec: {image: nginx, priority: 99999999999}",
        ),
    ];
    for (name, spec) in specs {
        let document = format!("{head}metadata: {{name: {name}}}\n{spec}\n");
        // The API server describes a changed definition a little later.
        wait::until(format!("{name} to be taken"), WITHIN, async || {
            objects::apply(&cluster.client(), &document).await
        })
        .await?;
    }
    let after = cluster.image("team/after");
    cluster
        .apply(&yaml("after", &after, "v1", "imagePullPolicy: Always"))
        .await?;
    cluster.until("after", WITHIN, is_ready).await?;
    let log = cluster.coordinator.log();
    for name in ["bad-spec", "no-image", "wrong-type", "wrong-enum"] {
        let told = log
            .lines()
            .any(|line| line.contains("does not parse") && line.contains(name));
        ensure!(told, "nothing is said about {name}: {log}");
    }

    // A coordinator that finds them at its start starts all the same.
    cluster.coordinator.kill();
    cluster.coordinator.restart().await?;
    let last = cluster.image("team/last");
    cluster
        .apply(&yaml("last", &last, "v1", "imagePullPolicy: Always"))
        .await?;
    cluster.until("last", WITHIN, is_ready).await?;
    no_panic(&mut cluster)
}

/// The service, but no sensible first message.
async fn bad_first_messages_are_refused(address: &str) -> Result<()> {
    let mut unknown_kind = Vec::new();
    put_bytes(&mut unknown_kind, 77, b"from the future");
    let mut bad_text = Vec::new();
    let mut inner = Vec::new();
    put_bytes(&mut inner, 1, b"\xff\xfe\xff");
    put_bytes(&mut bad_text, 1, &inner);
    let ask = agent_message::Kind::Ask(Ask::default());
    let too_long = vec![0x0a; drop_proto::MAX_AGENT_MESSAGE_BYTES + 1];
    let firsts: [(&str, Vec<u8>, &[Code]); 8] = [
        ("an Ask", encoded(ask.clone()), &[Code::InvalidArgument]),
        ("nothing in it", Vec::new(), &[Code::InvalidArgument]),
        ("an unknown kind", unknown_kind, &[Code::InvalidArgument]),
        (
            "no node",
            encoded(agent_message::Kind::Hello(hello("", "i"))),
            &[Code::InvalidArgument],
        ),
        (
            "no instance",
            encoded(agent_message::Kind::Hello(hello("node-9", ""))),
            &[Code::InvalidArgument],
        ),
        (
            "bad UTF-8",
            bad_text,
            &[Code::InvalidArgument, Code::Internal],
        ),
        (
            "no protobuf",
            noise(1_000),
            &[Code::InvalidArgument, Code::Internal],
        ),
        (
            "too much",
            too_long,
            &[Code::OutOfRange, Code::ResourceExhausted],
        ),
    ];
    for (what, bytes, codes) in firsts {
        let mut session = RawSession::open(address).await?;
        session.send(bytes).await;
        let refusal = session.refusal().await?;
        ensure!(codes.contains(&refusal.code()), "{what}: {refusal:?}");
        ensure!(!refusal.message().is_empty(), "{what}: {refusal:?}");
    }
    Ok(())
}

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|_| rand::random()).collect()
}

/// Sends bytes and waits until the other side has closed the connection.
async fn until_hung_up(address: &str, bytes: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    // The other side may hang up before it has read all.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let ended = timeout(WITHIN, stream.read_to_end(&mut answer)).await;
    let beginning = &bytes[..bytes.len().min(16)];
    ended
        .map(drop)
        .with_context(|| format!("still open after {beginning:?}"))
}

/// A session that the coordinator has taken, and its first message.
async fn welcomed(address: &str, node: &str) -> Result<(RawSession, CoordinatorMessage)> {
    // The session before this one may not be found dead yet.
    wait::until(format!("a session of {node}"), WITHIN, async || {
        let mut session = RawSession::open(address).await?;
        let first = encoded(agent_message::Kind::Hello(hello(node, "raw")));
        ensure!(session.send(first).await, "closed");
        let answer = session.next().await??.context("ended")?;
        Ok((session, answer))
    })
    .await
}

fn nonsense() -> Vec<agent_message::Kind> {
    use agent_message::Kind;
    let text = "\u{0}\n{\"\u{202e}".repeat(100);
    let references = vec![String::new(), text.clone(), "a".repeat(100_000)];
    vec![
        Kind::Ask(Ask {
            references: references.clone(),
            withdrawn: references.clone(),
        }),
        Kind::Inventory(drop_proto::Inventory {
            revision: u64::MAX,
            complete: true,
            images: references
                .iter()
                .map(|reference| drop_proto::InventoryImage {
                    reference: reference.clone(),
                    present: true,
                    digests: vec![text.clone(); 100],
                    lost: true,
                })
                .collect(),
        }),
        Kind::Started(drop_proto::Started { token: u64::MAX }),
        Kind::Renew(drop_proto::Renew {
            tokens: (0..10_000).collect(),
        }),
        Kind::Done(drop_proto::Done {
            token: 0,
            digests: vec![text.clone()],
            size_bytes: u64::MAX,
            pull_ms: u64::MAX,
            reference: text.clone(),
        }),
        Kind::Failed(drop_proto::Failed {
            token: u64::MAX,
            class: i32::MIN,
            message: text.repeat(100),
            pull_ms: u64::MAX,
            reference: text.clone(),
        }),
        Kind::Release(drop_proto::Release { token: 1 }),
        Kind::Runtime(drop_proto::RuntimeState {
            available: false,
            message: text.clone(),
            runtime: text.clone(),
            platform: text,
        }),
    ]
}

/// A session in which each message of the coordinator matters.
struct Talk(RawSession);

impl Talk {
    async fn say(&self, message: Vec<u8>) -> Result<()> {
        ensure!(self.0.send(message).await, "the session is over");
        Ok(())
    }

    async fn hear(&mut self) -> Result<coordinator_message::Kind> {
        let message = self.0.next().await??.context("the session ended")?;
        message.kind.context("an empty message")
    }

    /// Waits for a Grant of `reference` and gives its token.
    async fn granted(&mut self, reference: &str) -> Result<u64> {
        loop {
            if let coordinator_message::Kind::Grant(grant) = self.hear().await?
                && grant.reference == reference
            {
                return Ok(grant.token);
            }
        }
    }
}

/// A message of `AgentMessage` with one field, and an unknown one beside it.
fn wrapped(field: u32, inner: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    put_number(&mut message, 999, 1);
    put_bytes(&mut message, field, inner);
    message
}

fn no_panic(cluster: &mut Cluster) -> Result<()> {
    let log = cluster.coordinator.log();
    ensure!(!log.contains("panicked"), "{log}");
    for node in &mut cluster.nodes {
        let log = node.agent()?.log();
        ensure!(!log.contains("panicked"), "{log}");
    }
    Ok(())
}
