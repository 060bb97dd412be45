//! The one task that owns the state machine: feeds it, and carries out what it answers.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tracing::{info, warn};

use crate::cached_image::apply::write_status;
use crate::cached_image::events::Event;
use crate::clock::Clock;
use crate::core::{Config, Core, Input, Output, WriteFailed};
use crate::errands::Errands;
use crate::image::resolve::{ResolveFailed, Resolved};
use crate::index::SessionId;
use crate::lease::term::Term;
use crate::metrics;
use crate::registries::{Registries, broken_off, not_asked};
use crate::report::Report;
use crate::rights::Rights;
use crate::session::message::Message;
use crate::session::refusal::Refusal;
use crate::session::server::{Outbox, SessionEvent};

/// How often metrics learn what the state machine knows.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Most inputs that are taken in at once: what they decide is to go out soon.
const TOGETHER: usize = 64;
/// Writes under way when the process stops get this long.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// What the task is connected to.
pub struct Ports {
    /// For status writes.
    pub client: Client,
    /// From the watches.
    pub inputs: mpsc::Receiver<Input>,
    /// From the gRPC server.
    pub sessions: mpsc::Receiver<SessionEvent>,
    /// To the task that publishes Events.
    pub events: mpsc::Sender<Event>,
    /// To the task that reads Secrets: which it should read.
    pub secrets: watch::Sender<BTreeSet<String>>,
    /// For what tags name; none where nobody is to ask.
    pub registries: Option<Arc<Registries>>,
    /// To the metrics page.
    pub report: watch::Sender<Report>,
    /// Rights that are missing.
    pub rights: Rights,
    /// Turns true when the process is to stop, or the term is over.
    pub stop: watch::Receiver<bool>,
}

/// Runs for one term, until told to stop. Every session is told why it ends.
pub async fn run(config: Config, clock: Clock, term: Term, mut ports: Ports) {
    let mut core = Core::new(config);
    let mut io = Io {
        outboxes: HashMap::new(),
        writes: Errands::default(),
        questions: Errands::default(),
        registries: ports.registries,
        client: ports.client,
        events: ports.events,
        rights: ports.rights,
        term: term.clone(),
        secrets: ports.secrets,
    };
    let mut known_end = Duration::MAX;
    let mut report = tokio::time::interval(REPORT_INTERVAL);
    report.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let wake = core.wake_at().map_or(Duration::from_secs(3600), |at| {
            at.saturating_sub(clock.now().mono)
        });
        // Each branch is cancel-safe: receiving, joining, ticking and sleeping lose nothing when another branch wins.
        let input = tokio::select! {
            Some(input) = ports.inputs.recv() => input,
            Some(event) = ports.sessions.recv() => io.welcome(event),
            Some(((name, uid), result)) = io.writes.join_next() => {
                Input::Written(name, uid, result.unwrap_or(Err(WriteFailed)))
            }
            Some((number, answer)) = io.questions.join_next() => {
                Input::Resolved(number, answer.unwrap_or_else(|_| Err(broken_off())))
            }
            _ = report.tick() => {
                ports.report.send_replace(core.report());
                continue;
            }
            () = tokio::time::sleep(wake) => Input::Tick,
            _ = ports.stop.wait_for(|stop| *stop) => break,
        };
        // A process that was paused finds out here, before it thinks any further.
        if !term.is_on() {
            // An error means that the other end is gone, which is a stop as well.
            let _ = ports.stop.wait_for(|stop| *stop).await;
            break;
        }
        let end = term.until();
        let moved = (end != known_end).then_some(Input::LeadsUntil(end));
        known_end = end;
        // What waits behind it is taken along: each decision is then made once for all of it.
        let waiting = std::iter::from_fn(|| {
            let news = ports.inputs.try_recv().ok();
            news.or_else(|| Some(io.welcome(ports.sessions.try_recv().ok()?)))
        });
        let inputs = moved
            .into_iter()
            .chain([input])
            .chain(waiting)
            .take(TOGETHER);
        for output in core.step_all(clock.now(), inputs) {
            io.carry_out(output);
        }
    }
    core.step(clock.now(), Input::Stop);
    info!(
        sessions = io.outboxes.len(),
        writes = io.writes.len(),
        "stops granting"
    );
    let why = if term.is_on() {
        "the coordinator stops"
    } else {
        // What was begun under the term is none of this replica's business any more.
        io.writes.abort_all();
        "this replica does not lead any more"
    };
    // Whoever leads next asks for itself.
    io.questions.abort_all();
    for (_, outbox) in io.outboxes.drain() {
        outbox.refuse(Status::unavailable(why));
    }
    let last_writes = async { while io.writes.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_WRITES, last_writes)
        .await
        .is_err()
    {
        warn!("status writes under way were given up");
    }
}

struct Io {
    outboxes: HashMap<SessionId, Outbox>,
    /// By name and uid of the object.
    writes: Errands<(String, String), Result<u64, WriteFailed>>,
    /// By number.
    questions: Errands<u64, Result<Resolved, ResolveFailed>>,
    registries: Option<Arc<Registries>>,
    client: Client,
    events: mpsc::Sender<Event>,
    rights: Rights,
    term: Term,
    secrets: watch::Sender<BTreeSet<String>>,
}

impl Io {
    fn welcome(&mut self, event: SessionEvent) -> Input {
        match event {
            SessionEvent::Opened(session, hello, outbox) => {
                self.outboxes.insert(session, outbox);
                Input::Connected(session, hello)
            }
            SessionEvent::Said(session, message) => Input::Said(session, message),
            SessionEvent::Closed(session) => {
                self.outboxes.remove(&session);
                Input::Disconnected(session)
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send(session, message) => self.send(session, message),
            Output::Close(session, close) => {
                if let Some(outbox) = self.outboxes.remove(&session) {
                    let refusal = Refusal::from(close);
                    info!(
                        session = session.0,
                        class = refusal.class(),
                        reason = refusal.to_string(),
                        "session ended"
                    );
                    metrics::session_refused(refusal.class());
                    outbox.refuse(Status::from(&refusal));
                }
            }
            Output::Write { name, uid, status } => {
                let (client, rights, term) =
                    (self.client.clone(), self.rights.clone(), self.term.clone());
                let object = (name.clone(), uid.clone());
                self.writes.spawn(object, async move {
                    // Between the decision and this moment the process may have been paused.
                    if !term.is_on() {
                        return Err(WriteFailed);
                    }
                    let result = write_status(client, &name, &uid, &status, &rights).await;
                    metrics::status_written(result.is_ok());
                    result
                });
            }
            Output::WantSecrets(names) => {
                self.secrets.send_replace(names);
            }
            Output::Resolve(question) => {
                let registries = self.registries.clone();
                self.questions.spawn(question.number, async move {
                    match registries {
                        Some(registries) => registries.ask(question).await,
                        None => Err(not_asked()),
                    }
                });
            }
            Output::Publish(event) => {
                if self.events.try_send(event).is_err() {
                    warn!("too many events, one was left out");
                }
            }
            Output::Count(count) => metrics::count(count),
        }
    }

    fn send(&mut self, session: SessionId, message: Message) {
        let Some(outbox) = self.outboxes.get(&session) else {
            return;
        };
        if !outbox.send(message) {
            warn!(
                session = session.0,
                "agent does not read its messages, session ended"
            );
            // Dropping the outbox ends the stream; the server then tells of the end like of any other.
            self.outboxes.remove(&session);
        }
    }
}
