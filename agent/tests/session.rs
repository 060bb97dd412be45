//! The session task against a coordinator in the same process, over real connections.

use std::pin::Pin;
use std::time::Duration;

use drop_agent::session::place::{Place, Trust};
use drop_agent::session::{self, Event, Stream};
use drop_proto::coordinator_server::{Coordinator, CoordinatorServer};
use drop_proto::{
    AgentMessage, CoordinatorMessage, Desired, Renew, agent_message, coordinator_message,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// Longer than an agent waits for a replica that hangs.
const DEADLINE: Duration = Duration::from_secs(30);

type Outgoing = mpsc::Sender<Result<CoordinatorMessage, Status>>;

/// A session as the coordinator sees it.
struct Session {
    incoming: Streaming<AgentMessage>,
    outgoing: Outgoing,
}

/// Hands every session to the test, or refuses all.
struct Scripted {
    sessions: mpsc::Sender<Session>,
    refusal: Option<Status>,
}

#[tonic::async_trait]
impl Coordinator for Scripted {
    type SessionStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<CoordinatorMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let (outgoing, messages) = mpsc::channel(16);
        let session = Session {
            incoming: request.into_inner(),
            outgoing,
        };
        self.sessions
            .send(session)
            .await
            .expect("the test takes sessions");
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

/// A coordinator and an agent's session task.
struct Scene {
    sessions: mpsc::Receiver<Session>,
    events: mpsc::Receiver<Event>,
    tasks: Vec<JoinHandle<()>>,
}

impl Scene {
    async fn new() -> Self {
        Self::beside(&[]).await
    }

    /// A coordinator that leads; the agent also knows these others.
    async fn beside(others: &[String]) -> Self {
        let (sender, sessions) = mpsc::channel(4);
        let (url, server) = serve(sender, None).await;
        let urls = [others, &[url]].concat().join(",");
        let (events, client) = agent(&urls);
        Self {
            sessions,
            events,
            tasks: vec![server, client],
        }
    }

    async fn event(&mut self) -> Event {
        within(self.events.recv())
            .await
            .expect("the session task lives")
    }

    async fn opened(&mut self) -> Stream {
        match self.event().await {
            Event::Open(stream) => stream,
            other => panic!("expected a stream, got {other:?}"),
        }
    }

    async fn session(&mut self) -> Session {
        within(self.sessions.recv())
            .await
            .expect("the coordinator lives")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Serves on a free port.
async fn serve(
    sessions: mpsc::Sender<Session>,
    refusal: Option<Status>,
) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let service = CoordinatorServer::new(Scripted { sessions, refusal });
    let server = tokio::spawn(async move {
        let incoming = TcpListenerStream::new(listener);
        let server = Server::builder().add_service(service);
        server.serve_with_incoming(incoming).await.expect("serves");
    });
    (url, server)
}

fn agent(urls: &str) -> (mpsc::Receiver<Event>, JoinHandle<()>) {
    let (sender, events) = mpsc::channel(16);
    let place = Place {
        coordinator: urls.parse().expect("URLs"),
        trust: Trust::Plaintext,
    };
    (events, tokio::spawn(session::run(place, sender)))
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("in time")
}

fn renew(token: u64) -> AgentMessage {
    let tokens = vec![token];
    AgentMessage {
        kind: Some(agent_message::Kind::Renew(Renew { tokens })),
    }
}

fn desired(revision: u64) -> CoordinatorMessage {
    CoordinatorMessage {
        kind: Some(coordinator_message::Kind::Desired(Desired {
            revision,
            ..Desired::default()
        })),
    }
}

#[tokio::test]
async fn messages_travel_both_ways_in_their_order() {
    let mut scene = Scene::new().await;
    let stream = scene.opened().await;
    for token in 1..=3 {
        assert!(stream.send(renew(token)));
    }
    let mut session = scene.session().await;
    for token in 1..=3 {
        let message = within(session.incoming.message()).await.unwrap();
        assert_eq!(message, Some(renew(token)));
    }
    for revision in 1..=2 {
        session.outgoing.send(Ok(desired(revision))).await.unwrap();
        match scene.event().await {
            Event::Message(message) => assert_eq!(message, desired(revision)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_session_that_ends_is_opened_again() {
    let mut scene = Scene::new().await;
    for _ in 0..3 {
        let _stream = scene.opened().await;
        let session = scene.session().await;
        session.outgoing.send(Ok(desired(1))).await.unwrap();
        assert!(matches!(scene.event().await, Event::Message(_)));
        session
            .outgoing
            .send(Err(Status::unavailable("stops")))
            .await
            .unwrap();
        drop(session);
        assert!(matches!(scene.event().await, Event::Closed(_)));
    }
}

#[tokio::test]
async fn what_was_said_before_the_end_still_arrives() {
    let mut scene = Scene::new().await;
    let mut stream = scene.opened().await;
    for token in 0..100 {
        assert!(stream.send(renew(token)));
    }
    stream.finish();
    assert!(!stream.send(renew(100)));
    let mut session = scene.session().await;
    for token in 0..100 {
        let message = within(session.incoming.message()).await.unwrap();
        assert_eq!(message, Some(renew(token)));
    }
    assert_eq!(within(session.incoming.message()).await.unwrap(), None);
    drop(session);
    assert!(matches!(scene.event().await, Event::Closed(_)));
}

#[tokio::test]
async fn a_stream_that_its_owner_drops_is_closed_though_the_coordinator_keeps_it() {
    let mut scene = Scene::new().await;
    let stream = scene.opened().await;
    let mut session = scene.session().await;
    session.outgoing.send(Ok(desired(1))).await.unwrap();
    assert!(matches!(scene.event().await, Event::Message(_)));
    drop(stream);
    assert!(matches!(scene.event().await, Event::Closed(_)));
    // Not a clean end: the connection is gone.
    assert!(!matches!(
        within(session.incoming.message()).await,
        Ok(Some(_))
    ));
    scene.opened().await;
}

#[tokio::test]
async fn the_replica_that_leads_is_found_among_those_that_do_not() {
    let (unused, _sessions) = mpsc::channel(1);
    let follows = Status::unavailable("replica-2 leads, this replica follows");
    let (follower, _server) = serve(unused, Some(follows)).await;
    // One takes connections and says nothing, as a stopped process does; one is not there at all.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = (format!("http://{}", silent.local_addr().unwrap()), silent);
    let gone = "http://127.0.0.1:1".to_owned();
    let mut scene = Scene::beside(&[follower, silent.0, gone]).await;
    for _ in 0..2 {
        let _stream = scene.opened().await;
        let session = scene.session().await;
        drop(session);
        assert!(matches!(scene.event().await, Event::Closed(_)));
    }
}

#[tokio::test]
async fn an_agent_that_all_refuse_asks_again_and_says_why_it_has_no_session() {
    let asked = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", asked.local_addr().unwrap());
    let (mut events, client) = agent(&format!("{url},http://127.0.0.1:1"));
    for _ in 0..3 {
        let (connection, _) = within(asked.accept()).await.unwrap();
        drop(connection);
        match within(events.recv()).await {
            Some(Event::Unreachable(why)) => assert!(why.contains("127.0.0.1:1: "), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(!client.is_finished());
    client.abort();
}

#[tokio::test]
async fn a_stream_that_nobody_reads_says_so_before_memory_is_full() {
    let mut scene = Scene::new().await;
    let stream = scene.opened().await;
    let _session = scene.session().await;
    let names = vec!["r.example/x".repeat(10_000); 10];
    let big = AgentMessage {
        kind: Some(agent_message::Kind::Ask(drop_proto::Ask {
            references: names,
            withdrawn: Vec::new(),
        })),
    };
    let refused = within(async {
        for count in 0..10_000 {
            if !stream.send(big.clone()) {
                return count;
            }
            tokio::task::yield_now().await;
        }
        panic!("everything was taken");
    })
    .await;
    assert!(refused < 1_000, "{refused}");
}

#[tokio::test]
async fn a_port_that_speaks_something_else_is_tried_again_and_nothing_breaks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (_events, client) = agent(&url);
    for garbage in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0xff; 100], b""] {
        let (mut connection, _) = within(listener.accept()).await.unwrap();
        // The agent may hang up in the middle of it.
        let _ = connection.write_all(garbage).await;
    }
    within(listener.accept()).await.unwrap();
    assert!(!client.is_finished());
    client.abort();
}
