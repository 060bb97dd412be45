//! Agents that misbehave: each loses its own session, is counted by reason, and harms nobody else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use drop_api::CachedImage;
use drop_proto::agent_message::Kind;
use drop_proto::{
    AgentMessage, Ask, CoordinatorMessage, Done, Failed, FailureClass, HeldGrant, Inventory,
    InventoryImage, MAX_AGENT_MESSAGE_BYTES, Release, Renew, RuntimeState, Started,
};
use drop_tests::cached_image::{is_ready_on, policy, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::node::{self, NodeSpec};
use drop_tests::raw_session::{RawSession, encoded, hello};
use drop_tests::wait;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::{Code, Status};

const WITHIN: Duration = Duration::from_secs(60);

/// What is wrong, what is said (repeated until the session is over), and the refusal: its code and its reason.
type Case = (&'static str, Kind, (Code, &'static str));

#[tokio::test(flavor = "multi_thread")]
async fn each_excess_ends_the_session_of_its_agent_and_of_no_other() -> Result<()> {
    let mut scene = Scene::start().await?;
    for (what, kind, (code, reason)) in excesses().into_iter().chain(breaches()) {
        let before = scene.refused(reason).await?;
        let session = scene.welcomed("node-9").await?;
        let refusal = repeat(session, &encoded(kind))
            .await
            .with_context(|| what.to_owned())?;
        ensure!(refusal.code() == code, "{what}: {refusal:?}");
        ensure!(!refusal.message().is_empty(), "{what}: {refusal:?}");
        ensure!(
            scene.refused(reason).await? > before,
            "{what} is not counted"
        );
    }

    // Bytes that are no message, and more of them than a message has.
    let before = scene.refused("unreadable").await?;
    for bytes in [vec![0xff; 1_000], vec![0x0a; MAX_AGENT_MESSAGE_BYTES + 1]] {
        let session = scene.welcomed("node-9").await?;
        repeat(session, &bytes).await?;
    }
    ensure!(scene.refused("unreadable").await? >= before + 2.0);

    // A Hello with too much in it.
    let mut fat = hello("node-9", "raw");
    fat.held = vec![HeldGrant::default(); 1_025];
    let mut session = RawSession::open(scene.address()).await?;
    session.send(encoded(Kind::Hello(fat))).await;
    ensure!(session.refusal().await?.code() == Code::ResourceExhausted);
    scene.others_go_on().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_says_of_pulls_that_it_was_never_granted_stops_no_other() -> Result<()> {
    let mut scene = Scene::start().await?;
    let host = scene.cluster.image("");
    let reference = format!("{host}team/app:v1");
    let session = scene.welcomed("node-9").await?;
    for class in [
        FailureClass::Throttled,
        FailureClass::ServerError,
        FailureClass::NotFound,
        FailureClass::Unauthorized,
        FailureClass::InvalidName,
    ] {
        let failed = Failed {
            token: 4_711,
            class: class.into(),
            message: "429, they say".to_owned(),
            pull_ms: 1,
            reference: reference.clone(),
        };
        ensure!(session.send(encoded(Kind::Failed(failed))).await);
    }
    let image = scene.cluster.image("team/app");
    let spec = "policyRef: {name: quick}, nodeSelector: {kubernetes.io/hostname: node-1}";
    scene
        .cluster
        .apply(&yaml("app", &image, "v1", spec))
        .await?;
    scene
        .cluster
        .until("app", Duration::from_secs(20), |app: &CachedImage| {
            is_ready_on(app, &["node-1"])
        })
        .await?;
    scene.others_go_on().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_reconnects_all_the_time_is_refused_until_it_calms_down() -> Result<()> {
    let mut scene = Scene::start().await?;
    let before = scene.refused("too_fast").await?;
    let refusal = wait::until("a refusal", WITHIN, async || {
        let mut session = RawSession::open(scene.address()).await?;
        let first = encoded(Kind::Hello(hello("node-9", "raw")));
        ensure!(session.send(first).await, "closed");
        match session.next().await? {
            Err(status) if status.code() == Code::ResourceExhausted => Ok(status),
            _ => anyhow::bail!("taken"),
        }
    })
    .await?;
    ensure!(refusal.message().contains("node-9"), "{refusal:?}");
    ensure!(scene.refused("too_fast").await? > before);
    scene.others_go_on().await?;
    scene.welcomed("node-9").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_show_nothing_are_closed_and_nobody_waits_for_them() -> Result<()> {
    let mut cluster = Cluster::builder()
        .secure()
        .node(NodeSpec::new("node-1").scripted())
        .start()
        .await?;
    let address = cluster.coordinator.session_address().to_owned();
    let begin = Instant::now();
    let mut idle = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(&address).await?;
        if number % 2 == 0 {
            // The head of a TLS record that never comes.
            stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00]).await?;
        }
        idle.push(stream);
    }
    // A new agent does not wait for them.
    cluster.add_node(NodeSpec::new("node-2").scripted()).await?;
    let agent = cluster.node("node-2")?.agent()?;
    agent.wait_ready(Duration::from_secs(9)).await?;
    for mut stream in idle {
        let mut rest = Vec::new();
        // Closed in order or with a reset.
        let _ = timeout(WITHIN, stream.read_to_end(&mut rest))
            .await
            .context("a connection that shows nothing stays open")?;
    }
    ensure!(
        begin.elapsed() > Duration::from_secs(5),
        "who is slow is no enemy"
    );
    let metrics = cluster.node("node-1")?.agent()?.metrics().await?;
    ensure!(metrics.value("drop_session_reconnects_total", &[]) == Some(0.0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_a_hello_and_a_connection_after_its_session_are_closed() -> Result<()> {
    let mut scene = Scene::start().await?;
    let before = scene.refused("no_hello").await?;
    let mut silent = RawSession::open(scene.address()).await?;
    let refusal = silent.refusal().await?;
    ensure!(refusal.message().contains("no Hello within"), "{refusal:?}");
    ensure!(scene.refused("no_hello").await? > before);

    // The preface of HTTP/2 and its settings, and then nothing: no stream, no session.
    let mut stream = TcpStream::connect(scene.address()).await?;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await?;
    let mut rest = Vec::new();
    let _ = timeout(WITHIN, stream.read_to_end(&mut rest))
        .await
        .context("a connection without a session stays open")?;
    scene.others_go_on().await
}

/// More of something than an agent has.
fn excesses() -> Vec<Case> {
    let long = "r".repeat(513);
    let image = |reference: &str, digests: usize| InventoryImage {
        reference: reference.to_owned(),
        present: true,
        digests: vec!["sha256:0".to_owned(); digests],
        lost: false,
    };
    let inventory = |images| {
        Kind::Inventory(Inventory {
            revision: 1,
            complete: false,
            images,
        })
    };
    let ask = |references| {
        Kind::Ask(Ask {
            references,
            withdrawn: Vec::new(),
        })
    };
    let too_large = (Code::ResourceExhausted, "too_large");
    let too_fast = (Code::ResourceExhausted, "too_fast");
    vec![
        ("a long reference", ask(vec![long.clone()]), too_large),
        (
            "many references",
            ask(vec![String::new(); 20_001]),
            too_large,
        ),
        (
            "many images",
            inventory(vec![image("", 0); 20_001]),
            too_large,
        ),
        ("many digests", inventory(vec![image("", 65)]), too_large),
        (
            "many tokens",
            Kind::Renew(Renew {
                tokens: vec![1; 1_025],
            }),
            too_large,
        ),
        (
            "a long failure",
            Kind::Failed(Failed {
                message: "x".repeat(1_025),
                ..Failed::default()
            }),
            too_large,
        ),
        (
            "a long state",
            Kind::Runtime(RuntimeState {
                runtime: "x".repeat(257),
                ..RuntimeState::default()
            }),
            too_large,
        ),
        (
            "a flood of asks",
            ask(vec!["r.example/a:1".to_owned()]),
            too_fast,
        ),
        (
            "a flapping runtime",
            Kind::Runtime(RuntimeState::default()),
            too_fast,
        ),
    ]
}

/// What no agent says.
fn breaches() -> Vec<Case> {
    let unknown = (Code::InvalidArgument, "unknown_grants");
    vec![
        (
            "grants that nobody gave",
            Kind::Renew(Renew {
                tokens: (1..1_000).collect(),
            }),
            unknown,
        ),
        (
            "starts of nothing",
            Kind::Started(Started { token: 7 }),
            unknown,
        ),
        ("ends of nothing", Kind::Done(Done::default()), unknown),
        (
            "releases of nothing",
            Kind::Release(Release { token: 7 }),
            unknown,
        ),
        (
            "two complete inventories",
            Kind::Inventory(Inventory {
                complete: true,
                ..Inventory::default()
            }),
            (Code::InvalidArgument, "invalid"),
        ),
        (
            "two Hellos",
            Kind::Hello(hello("node-9", "again")),
            (Code::InvalidArgument, "invalid"),
        ),
    ]
}

/// A coordinator, an agent that behaves, and a node whose agent the tests are.
struct Scene {
    cluster: Cluster,
}

impl Scene {
    async fn start() -> Result<Self> {
        let cluster = Cluster::builder()
            .node(NodeSpec::new("node-1").scripted())
            .start()
            .await?;
        node::register(&cluster.client(), "node-9", &BTreeMap::new(), &[]).await?;
        cluster.apply(&policy("quick", "")).await?;
        Ok(Self { cluster })
    }

    fn address(&self) -> &str {
        self.cluster.coordinator.session_address()
    }

    async fn refused(&self, reason: &str) -> Result<f64> {
        let metrics = self.cluster.coordinator.metrics().await?;
        let value = metrics.value("drop_sessions_refused_total", &[("reason", reason)]);
        value.with_context(|| format!("no counter of {reason}"))
    }

    /// A session that the coordinator has taken.
    async fn welcomed(&self, node: &str) -> Result<RawSession> {
        // The session before this one may not be over yet, and the node has to wait between its sessions.
        wait::until(format!("a session of {node}"), WITHIN, async || {
            let mut session = RawSession::open(self.address()).await?;
            let first = encoded(Kind::Hello(hello(node, "raw")));
            ensure!(session.send(first).await, "closed");
            let _: CoordinatorMessage = session.next().await??.context("ended")?;
            Ok(session)
        })
        .await
    }

    /// The agent of node-1 never lost its session, and pulls what is new.
    async fn others_go_on(&mut self) -> Result<()> {
        let image = self.cluster.image("team/last");
        let spec = "policyRef: {name: quick}, nodeSelector: {kubernetes.io/hostname: node-1}";
        self.cluster
            .apply(&yaml("last", &image, "v1", spec))
            .await?;
        self.cluster
            .until("last", WITHIN, |last: &CachedImage| {
                is_ready_on(last, &["node-1"])
            })
            .await?;
        let metrics = self.cluster.node("node-1")?.agent()?.metrics().await?;
        ensure!(metrics.value("drop_session_up", &[]) == Some(1.0));
        ensure!(metrics.value("drop_session_reconnects_total", &[]) == Some(0.0));
        let log = self.cluster.coordinator.log();
        ensure!(!log.contains("panicked"), "{log}");
        Ok(())
    }
}

/// Says it over and over until the session is refused.
async fn repeat(mut session: RawSession, bytes: &[u8]) -> Result<Status> {
    ensure!(AgentMessage::decode(bytes).is_ok() || bytes.len() >= 1_000);
    let saying = async {
        // As fast as the coordinator reads; the last ones find the session over.
        for _ in 0..40_000 {
            if !session.send(bytes.to_vec()).await {
                break;
            }
        }
        session.refusal().await
    };
    timeout(WITHIN, saying)
        .await
        .context("the session goes on")?
}
