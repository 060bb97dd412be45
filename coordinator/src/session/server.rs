//! The gRPC side of sessions: turns streams into inputs of the state machine and its outputs into messages.
//!
//! Decides nothing but what the transport must: the first message has to be a Hello and to come soon, and an agent that does
//! not read is let go.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use drop_proto::{AgentMessage, CoordinatorMessage, Hello, agent_message, coordinator_server};
use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

use crate::index::SessionId;

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

/// The service.
#[derive(Debug)]
pub struct Server {
    events: mpsc::Sender<SessionEvent>,
    next: AtomicU64,
}

impl Server {
    /// A service that tells of its sessions through `events`.
    #[must_use]
    pub fn new(events: mpsc::Sender<SessionEvent>) -> Self {
        Self {
            events,
            next: AtomicU64::new(1),
        }
    }
}

#[tonic::async_trait]
impl coordinator_server::Coordinator for Server {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<CoordinatorMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let peer = request.remote_addr();
        let mut inbound = request.into_inner();
        let session = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        let (messages, outbound) = mpsc::channel(OUTBOX);
        let (open, mut ended) = oneshot::channel();
        let events = self.events.clone();
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
            if events
                .send(SessionEvent::Opened(session, hello, outbox))
                .await
                .is_err()
            {
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
            // The receiver is gone only when the process ends.
            let _ = events.send(SessionEvent::Closed(session)).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outbound))))
    }
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
