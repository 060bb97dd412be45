//! The gRPC side of sessions: turns streams into inputs of the state machine and its outputs into messages.
//!
//! Decides nothing but what the transport must: the first message has to be a Hello and to come soon, an agent that does not
//! read is let go, and only the leader takes sessions and says anything in them.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use drop_proto::{AgentMessage, CoordinatorMessage, Hello, agent_message, coordinator_server};
use futures::Stream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

use crate::index::SessionId;
use crate::lease::Role;
use crate::lease::term::Term;

/// A Hello that takes longer is none.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages that wait for an agent to read them. A complete Desired is one message.
const OUTBOX: usize = 256;

/// News from the sessions, in the order in which each agent said it.
#[derive(Debug)]
pub enum SessionEvent {
    /// An agent said Hello.
    Opened(SessionId, Hello, Outbox),
    /// An agent said something else.
    Said(SessionId, agent_message::Kind),
    /// The stream is over.
    Closed(SessionId),
}

/// The way back to one agent. Dropping it ends the session.
#[derive(Debug)]
pub struct Outbox {
    messages: mpsc::Sender<Result<CoordinatorMessage, Status>>,
    _open: oneshot::Sender<()>,
}

impl Outbox {
    /// Queues a message. False: the agent does not read, or is gone.
    #[must_use]
    pub fn send(&self, message: CoordinatorMessage) -> bool {
        self.messages.try_send(Ok(message)).is_ok()
    }

    /// Ends the session with an error that the agent will show.
    pub fn refuse(self, status: Status) {
        // A full outbox means that nobody would read the status either.
        if self.messages.try_send(Err(status)).is_err() {
            debug!("agent does not read why its session ends");
        }
    }
}

/// The one who takes sessions for the length of a term.
#[derive(Clone, Debug)]
pub struct Desk {
    /// Nothing is said to an agent once it is over.
    pub term: Term,
    /// News of the sessions.
    pub events: mpsc::Sender<SessionEvent>,
}

/// The service.
#[derive(Debug)]
pub struct Server {
    desk: watch::Receiver<Option<Desk>>,
    role: watch::Receiver<Role>,
    next: AtomicU64,
}

impl Server {
    /// A service that takes sessions while there is a desk whose term is on; `role` says why there is none.
    #[must_use]
    pub fn new(desk: watch::Receiver<Option<Desk>>, role: watch::Receiver<Role>) -> Self {
        Self {
            desk,
            role,
            next: AtomicU64::new(1),
        }
    }

    fn desk(&self) -> Result<Desk, Status> {
        let desk = self.desk.borrow().clone();
        desk.filter(|desk| desk.term.is_on())
            .ok_or_else(|| Status::unavailable(self.role.borrow().refusal()))
    }
}

#[tonic::async_trait]
impl coordinator_server::Coordinator for Server {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<CoordinatorMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let Desk { term, events } = self.desk()?;
        let peer = request.remote_addr();
        let mut inbound = request.into_inner();
        let session = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        let (messages, outbound) = mpsc::channel(OUTBOX);
        let (open, mut ended) = oneshot::channel();
        let closing = messages.clone();
        // Headers must go out before the first message comes in, or both sides would wait for each other.
        tokio::spawn(async move {
            let hello = match tokio::time::timeout(HELLO_TIMEOUT, first_hello(&mut inbound)).await {
                Ok(Ok(hello)) => hello,
                Ok(Err(status)) => return refuse(&messages, status).await,
                Err(_) => {
                    return refuse(&messages, Status::invalid_argument("no Hello within 10 s"))
                        .await;
                }
            };
            info!(session = session.0, node = hello.node, peer = ?peer, version = hello.version, "session opened");
            let outbox = Outbox {
                messages,
                _open: open,
            };
            let opened = SessionEvent::Opened(session, hello, outbox);
            if let Err(mpsc::error::SendError(event)) = events.send(opened).await {
                // The term ended meanwhile.
                if let SessionEvent::Opened(_, _, outbox) = event {
                    outbox.refuse(no_more());
                }
                return;
            }
            loop {
                let message = tokio::select! {
                    message = inbound.message() => message,
                    _ = &mut ended => break,
                    () = closing.closed() => break,
                };
                match message {
                    Ok(Some(AgentMessage { kind: Some(kind) })) => {
                        if events
                            .send(SessionEvent::Said(session, kind))
                            .await
                            .is_err()
                        {
                            break;
                        }
                    }
                    // A newer agent may say things that this coordinator does not know.
                    Ok(Some(AgentMessage { kind: None })) => {}
                    Ok(None) => break,
                    Err(status) => {
                        debug!(session = session.0, code = ?status.code(), message = status.message(), "session broke");
                        break;
                    }
                }
            }
            info!(session = session.0, "session closed");
            // The receiver is gone when the term or the process ends.
            let _ = events.send(SessionEvent::Closed(session)).await;
        });
        let fenced = ReceiverStream::new(outbound).map(move |message| fenced(&term, message));
        Ok(Response::new(Box::pin(fenced)))
    }
}

/// The last look before a message goes out: what was decided under a term that is over is not said any more.
fn fenced(
    term: &Term,
    message: Result<CoordinatorMessage, Status>,
) -> Result<CoordinatorMessage, Status> {
    match message {
        Ok(_) if !term.is_on() => Err(no_more()),
        message => message,
    }
}

fn no_more() -> Status {
    Status::unavailable("this replica does not lead any more")
}

async fn first_hello(inbound: &mut Streaming<AgentMessage>) -> Result<Hello, Status> {
    match inbound.message().await? {
        Some(AgentMessage {
            kind: Some(agent_message::Kind::Hello(hello)),
        }) => Ok(hello),
        _ => Err(Status::invalid_argument(
            "the first message of a session must be a Hello",
        )),
    }
}

async fn refuse(messages: &mpsc::Sender<Result<CoordinatorMessage, Status>>, status: Status) {
    info!(code = ?status.code(), message = status.message(), "session refused");
    // The agent may be gone already; then nobody is left to tell.
    let _ = messages.send(Err(status)).await;
}
