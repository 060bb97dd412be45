//! The gRPC side of sessions: turns streams into inputs of the state machine and its outputs into messages.
//!
//! Decides nothing but what the transport must: that only the leader takes sessions and says anything in them, who may open one
//! and for which node, that the first message is a Hello and comes soon, and that an agent that does not read or says too much is
//! let go.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use drop_proto::{AgentMessage, Hello, agent_message, coordinator_server};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;
use tracing::{debug, info, warn};

use crate::identity::review::{self, Reviewer};
use crate::identity::token::Token;
use crate::index::SessionId;
use crate::lease::Role;
use crate::lease::term::Term;
use crate::metrics;
use crate::session::door::Peer;
use crate::session::limits::{Allowance, MESSAGE_COST, Openings, SAYING, cost};
use crate::session::message::Message;
use crate::session::refusal::Refusal;
use crate::session::wire::{Incoming, Outgoing};

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

/// Boxed: a queue has room for many from the beginning, and there is one for each node.
type Sender = mpsc::Sender<Result<Box<Message>, Status>>;

/// The way back to one agent. Dropping it ends the session.
#[derive(Debug)]
pub struct Outbox {
    messages: Sender,
    _open: oneshot::Sender<()>,
}

impl Outbox {
    /// Queues a message. False: the agent does not read, or is gone.
    #[must_use]
    pub fn send(&self, message: Message) -> bool {
        self.messages.try_send(Ok(Box::new(message))).is_ok()
    }

    /// Ends the session with an error that the agent will show.
    pub fn refuse(self, status: Status) {
        // A full outbox means that nobody would read the status either.
        if self.messages.try_send(Err(status)).is_err() {
            debug!("agent does not read why its session ends");
        }
    }
}

/// How agents prove which node they are on.
pub enum Guard {
    /// Not at all: whoever connects is believed. For loopback.
    Believe,
    /// By a token.
    Tokens {
        /// Knows whose it is.
        reviewer: Arc<Reviewer>,
        /// An open session's token is reviewed again this often: one that expired, or whose pod is gone, ends it.
        recheck: Duration,
    },
}

/// The one who takes sessions for the length of a term.
#[derive(Clone, Debug)]
pub struct Desk {
    /// Nothing is said to an agent once it is over.
    pub term: Term,
    /// News of the sessions.
    pub events: mpsc::Sender<SessionEvent>,
}

/// The service. Clones share it.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    desk: watch::Receiver<Option<Desk>>,
    role: watch::Receiver<Role>,
    guard: Arc<Guard>,
    openings: Arc<Mutex<Openings>>,
    begin: Instant,
    next: AtomicU64,
}

impl Server {
    /// A service that takes sessions while there is a desk whose term is on; `role` says why there is none.
    #[must_use]
    pub fn new(
        desk: watch::Receiver<Option<Desk>>,
        role: watch::Receiver<Role>,
        guard: Guard,
    ) -> Self {
        Self(Arc::new(Shared {
            desk,
            role,
            guard: Arc::new(guard),
            openings: Arc::default(),
            begin: Instant::now(),
            next: AtomicU64::new(1),
        }))
    }
}

impl NamedService for Server {
    const NAME: &'static str = coordinator_server::SERVICE_NAME;
}

/// In place of the generated service, for the sake of [`crate::session::wire`].
impl Service<Request<Body>> for Server {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let answer = match request.uri().path().rsplit_once('/') {
                Some((_, "Session")) => shared.session(request).await,
                _ => Err(Status::unimplemented("there is no such method")),
            };
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

impl Shared {
    fn desk(&self) -> Result<Desk, Refusal> {
        let desk = self.desk.borrow().clone();
        desk.filter(|desk| desk.term.is_on())
            .ok_or_else(|| Refusal::NotLeading(self.role.borrow().refusal()))
    }

    async fn session(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let Some(peer) = request.extensions().get::<Peer>().cloned() else {
            return Err(Status::internal("a connection that came through no door"));
        };
        let refuse = |refusal: Refusal| {
            peer.over();
            tell(&peer, &refusal)
        };
        // Before the token is looked at: a follower asks the API server for nothing.
        let Desk { term, events } = self.desk().map_err(refuse)?;
        let proof = self.guard.check(request.headers()).await.map_err(refuse)?;
        let (messages, queue) = mpsc::channel(OUTBOX);
        let session = Session {
            id: SessionId(self.next.fetch_add(1, Ordering::Relaxed)),
            peer,
            proof,
            guard: Arc::clone(&self.guard),
            openings: Arc::clone(&self.openings),
            begin: self.begin,
            inbound: Incoming::new(request.into_body()),
            messages,
            events,
        };
        // Headers must go out before the first message comes in, or both sides would wait for each other.
        tokio::spawn(session.run());
        let mut response = Response::new(Body::new(Outgoing::new(term, queue)));
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, grpc);
        Ok(response)
    }
}

/// What an agent showed of itself before its Hello.
enum Proof {
    None,
    Token { token: Token, node: String },
}

impl Guard {
    async fn check(&self, headers: &HeaderMap) -> Result<Proof, Refusal> {
        let Self::Tokens { reviewer, .. } = self else {
            return Ok(Proof::None);
        };
        let header = headers.get(AUTHORIZATION);
        let token = header
            .and_then(|header| header.to_str().ok()?.strip_prefix("Bearer "))
            .map(|token| Token(token.to_owned()))
            .ok_or(Refusal::NoToken)?;
        let node = reviewer.node_of(&token).await?;
        Ok(Proof::Token { token, node })
    }

    /// Ends when the proof is worth nothing any more. An API server that does not answer is no reason.
    async fn outlive(&self, proof: &Proof) -> Refusal {
        let (Self::Tokens { reviewer, recheck }, Proof::Token { token, node }) = (self, proof)
        else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(*recheck).await;
            match reviewer.review(token).await {
                Err(error @ review::Error::Denied(_)) => return error.into(),
                Err(error) => debug!(node, error = error.to_string(), "token is not reviewed"),
                Ok(_) => {}
            }
        }
    }
}

/// One stream.
struct Session {
    id: SessionId,
    peer: Peer,
    proof: Proof,
    guard: Arc<Guard>,
    openings: Arc<Mutex<Openings>>,
    begin: Instant,
    inbound: Incoming,
    messages: Sender,
    events: mpsc::Sender<SessionEvent>,
}

impl Session {
    async fn run(mut self) {
        let hello = match self.hello().await {
            Ok(hello) => hello,
            Err(refusal) => return self.refuse(&refusal),
        };
        self.peer.taken();
        let (id, node) = (self.id, hello.node.clone());
        info!(session = id.0, node, peer = %self.peer.address, version = hello.version, "session opened");
        let (open, ended) = oneshot::channel();
        let outbox = Outbox {
            messages: self.messages.clone(),
            _open: open,
        };
        let opened = SessionEvent::Opened(id, hello, outbox);
        // The receiver is gone when the term or the process ends.
        if self.events.send(opened).await.is_err() {
            return self.refuse(&Refusal::no_more());
        }
        let (guard, closing) = (Arc::clone(&self.guard), self.messages.clone());
        let proof = std::mem::replace(&mut self.proof, Proof::None);
        // Each branch is the end of the session: nothing is lost that another one had begun.
        let refusal = tokio::select! {
            refusal = self.listen() => refusal,
            refusal = guard.outlive(&proof) => Some(refusal),
            _ = ended => None,
            () = closing.closed() => None,
        };
        if let Some(refusal) = refusal {
            self.refuse(&refusal);
        }
        info!(session = id.0, node, "session closed");
        self.peer.over();
        let _ = self.events.send(SessionEvent::Closed(id)).await;
    }

    async fn hello(&mut self) -> Result<Hello, Refusal> {
        let first = tokio::time::timeout(HELLO_TIMEOUT, self.inbound.message()).await;
        let message = first.map_err(|_| Refusal::NoHello)?;
        let Some(AgentMessage {
            kind: Some(kind @ agent_message::Kind::Hello(_)),
        }) = message.map_err(Refusal::Unreadable)?
        else {
            return Err(Refusal::NotHello);
        };
        cost(&kind)?;
        let agent_message::Kind::Hello(hello) = kind else {
            return Err(Refusal::NotHello);
        };
        if let Proof::Token { node, .. } = &self.proof
            && *node != hello.node
        {
            return Err(Refusal::OtherNode {
                bound: node.clone(),
                claimed: hello.node,
            });
        }
        let now = self.begin.elapsed();
        let mut openings = self.openings.lock().unwrap_or_else(PoisonError::into_inner);
        if !openings.open(now, &hello.node) {
            return Err(Refusal::TooOften(hello.node));
        }
        Ok(hello)
    }

    /// Hands on what the agent says until it says no more, or something that it must not.
    async fn listen(&mut self) -> Option<Refusal> {
        let mut allowance = Allowance::default();
        loop {
            let kind = match self.inbound.message().await {
                Ok(Some(AgentMessage { kind })) => kind,
                Ok(None) => return None,
                Err(status) => {
                    debug!(session = self.id.0, code = ?status.code(), message = status.message(), "session broke");
                    // A connection that broke has a cause below it; bytes that are no message have none.
                    let is_broken = std::error::Error::source(&status).is_some();
                    return (!is_broken).then_some(Refusal::Unreadable(status));
                }
            };
            let cost = match kind.as_ref().map_or(Ok(MESSAGE_COST), cost) {
                Ok(cost) => cost,
                Err(excess) => return Some(excess.into()),
            };
            if !allowance.take(self.begin.elapsed(), cost, SAYING) {
                return Some(Refusal::TooFast);
            }
            // A newer agent may say things that this coordinator does not know.
            let Some(kind) = kind else { continue };
            let said = SessionEvent::Said(self.id, kind);
            if self.events.send(said).await.is_err() {
                return None;
            }
        }
    }

    fn refuse(&self, refusal: &Refusal) {
        let status = tell(&self.peer, refusal);
        if self.messages.try_send(Err(status)).is_err() {
            debug!(
                session = self.id.0,
                "agent does not read why its session ends"
            );
        }
        self.peer.over();
    }
}

/// Logs and counts a refusal, and gives it as the agent will see it.
fn tell(peer: &Peer, refusal: &Refusal) -> Status {
    let status = Status::from(refusal);
    let (class, reason) = (refusal.class(), refusal.to_string());
    // Agents look for the leader at every replica.
    if matches!(refusal, Refusal::NotLeading(_)) {
        debug!(peer = %peer.address, class, reason, "session refused");
    } else {
        warn!(peer = %peer.address, class, reason, "session refused");
    }
    metrics::session_refused(refusal.class());
    status
}
