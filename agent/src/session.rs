//! The session with the coordinator: opened, kept alive, and opened again for ever.
//!
//! It finds the replica that leads, moves messages and says when a stream is there and when it is gone. What the messages mean is the machine's business;
//! how the two sides know each other is `place`'s.

pub mod place;

use std::collections::BTreeSet;
use std::time::Duration;

use drop_oci::redact::{redact, shorten};
use drop_proto::coordinator_client::CoordinatorClient;
use drop_proto::{AgentMessage, CoordinatorMessage, MAX_MESSAGE_BYTES};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};
use tracing::{debug, warn};

use crate::session::place::{Address, ConnectError, Place};

/// Messages that wait to be sent. An agent has little to say; if so many wait, the other side does not read.
const OUTGOING: usize = 256;
/// A replica that takes longer to say whether it takes the session hangs. Checking a token may take 10 s of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);
/// The first wait before connecting again; it doubles up to the last.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LAST_WAIT: Duration = Duration::from_secs(10);

/// What happens to the session.
#[derive(Debug)]
pub enum Event {
    /// A stream is open: the Hello goes first into this.
    Open(Stream),
    /// The coordinator said something.
    Message(CoordinatorMessage),
    /// The stream is gone; why, for people.
    Closed(String),
    /// There is no connection; why, for people.
    Unreachable(String),
}

/// The way to the coordinator. Dropping it closes the stream at once.
#[derive(Debug)]
pub struct Stream {
    messages: Option<mpsc::Sender<AgentMessage>>,
    _open: oneshot::Sender<()>,
}

impl Stream {
    /// Puts a message on its way. False if too many wait: then the other side does not read, and the stream is of no use.
    #[must_use]
    pub fn send(&self, message: AgentMessage) -> bool {
        let messages = self.messages.as_ref();
        messages.is_some_and(|messages| messages.try_send(message).is_ok())
    }

    /// Says no more. What was said still arrives, and the other side closes the stream then.
    pub fn finish(&mut self) {
        self.messages = None;
    }
}

/// Keeps a session open for as long as somebody takes its events.
pub async fn run(place: Place, events: mpsc::Sender<Event>) {
    let mut failures = 0;
    let mut left = None;
    let mut last_classes = BTreeSet::new();
    while !events.is_closed() {
        let (addresses, mut reasons) = place.coordinator.resolve().await;
        let mut classes = BTreeSet::new();
        let mut end = None;
        for address in place::order(addresses, left) {
            match converse(&place, &address, &events).await {
                Ok(ended) => {
                    left = Some(address.socket);
                    end = Some(ended);
                    break;
                }
                Err(refusal) => {
                    classes.insert(refusal.class());
                    reasons.push(format!("{}: {refusal}", address.socket));
                }
            }
        }
        if end.is_none() {
            let reason = shorten(&redact(&reasons.join("; ")), 500);
            let coordinator = &place.coordinator;
            // Once per outage and cause: the rest is the same news again.
            if failures > 0 && classes == last_classes {
                debug!(%coordinator, ?classes, reason, "no coordinator takes this agent");
            } else {
                warn!(%coordinator, ?classes, reason, "no coordinator takes this agent");
            }
            // If nobody listens any more, nobody needs to know.
            let _ = events.send(Event::Unreachable(reason)).await;
        }
        last_classes = classes;
        failures = match end {
            Some(End::Heard) => 0,
            Some(End::Unheard) | None => failures + 1,
        };
        tokio::time::sleep(jittered(backoff(failures), rand::random())).await;
    }
}

/// How a session that was opened came to its end.
enum End {
    /// The coordinator accepted it, that is, said something.
    Heard,
    Unheard,
}

/// Why a replica opened no session.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("it takes connections, and does not answer")]
    Silent,
    #[error("{}", explain(.0))]
    Refused(Status),
}

impl Refusal {
    fn class(&self) -> &'static str {
        match self {
            Self::Connect(error) => error.class(),
            Self::Silent => "silent",
            Self::Refused(_) => "refused",
        }
    }
}

/// One session from Open to Closed, if the replica at this address takes it.
async fn converse(
    place: &Place,
    address: &Address,
    events: &mpsc::Sender<Event>,
) -> Result<End, Refusal> {
    let (channel, bearer) = place.connect(address).await?;
    let mut client = CoordinatorClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let (messages, outgoing) = mpsc::channel(OUTGOING);
    let mut request = Request::new(ReceiverStream::new(outgoing));
    if let Some(bearer) = bearer {
        request.metadata_mut().insert("authorization", bearer);
    }
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.session(request));
    let answer = answer.await.map_err(|_| Refusal::Silent)?;
    let mut incoming = answer.map_err(Refusal::Refused)?.into_inner();
    let (open, dropped) = oneshot::channel();
    let stream = Stream {
        messages: Some(messages),
        _open: open,
    };
    if events.send(Event::Open(stream)).await.is_err() {
        return Ok(End::Unheard);
    }
    let mut end = End::Unheard;
    let exchange = async {
        while let Some(message) = incoming.message().await? {
            end = End::Heard;
            if events.send(Event::Message(message)).await.is_err() {
                break;
            }
        }
        Ok::<(), Status>(())
    };
    // Dropping the exchange closes the stream, which is what the owner wants when it drops its end.
    let reason = tokio::select! {
        ended = exchange => ended.map_or_else(|status| explain(&status), |()| "the coordinator closed the session".to_owned()),
        _ = dropped => "the agent closed the session".to_owned(),
    };
    warn!(address = %address.socket, reason, "session ended");
    let _ = events.send(Event::Closed(reason)).await;
    Ok(end)
}

/// The end of a stream in words that say what to do about it.
fn explain(status: &Status) -> String {
    let message = shorten(&redact(status.message()), 200);
    // Only a status of our own making has a cause below it; the coordinator's come without.
    if let Some(cause) = std::error::Error::source(status) {
        return format!("the connection broke: {}", causes(cause));
    }
    match status.code() {
        Code::AlreadyExists => {
            format!(
                "another agent holds the session of this node (is a second one running?): {message}"
            )
        }
        Code::Unauthenticated => {
            format!("the coordinator does not accept this agent's token (--token-file): {message}")
        }
        Code::PermissionDenied => {
            format!("the coordinator does not let this agent speak for this node: {message}")
        }
        Code::InvalidArgument => format!("the coordinator refuses this agent: {message}"),
        Code::ResourceExhausted => format!("the coordinator's limits are exceeded: {message}"),
        Code::Unavailable => format!("the coordinator is not available: {message}"),
        Code::Unimplemented => "this address serves no coordinator of drop".to_owned(),
        code => format!("{}: {message}", code.description()),
    }
}

/// The wait before the next try, after so many failures in a row.
fn backoff(failures: u32) -> Duration {
    FIRST_WAIT
        .saturating_mul(1 << failures.min(10))
        .min(LAST_WAIT)
}

/// Between a tenth and the whole of it, so that agents that lost their coordinator together do not return together.
fn jittered(wait: Duration, random: u32) -> Duration {
    let fraction = f64::from(random) / f64::from(u32::MAX);
    wait.mul_f64(0.1 + 0.9 * fraction)
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    shorten(&redact(&text), 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_ten_seconds_and_differ_between_agents() {
        let millis: Vec<u128> = (0..8).map(|n| backoff(n).as_millis()).collect();
        assert_eq!(millis, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(backoff(u32::MAX), LAST_WAIT);
        assert_eq!(jittered(LAST_WAIT, 0), Duration::from_secs(1));
        assert_eq!(jittered(LAST_WAIT, u32::MAX), LAST_WAIT);
    }

    #[test]
    fn the_end_of_a_session_says_what_is_wrong() {
        let text = explain(&Status::already_exists("node n1"));
        assert_eq!(
            text,
            "another agent holds the session of this node (is a second one running?): node n1"
        );
        assert_eq!(
            explain(&Status::unimplemented("x")),
            "this address serves no coordinator of drop"
        );
    }
}
