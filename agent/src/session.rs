//! The session with the coordinator: opened, kept alive, and opened again for ever.
//!
//! It moves messages and says when a stream is there and when it is gone. What the messages mean is the machine's business.

use std::time::Duration;

use drop_proto::coordinator_client::CoordinatorClient;
use drop_proto::{AgentMessage, CoordinatorMessage, MAX_MESSAGE_BYTES};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tracing::{debug, warn};

use drop_oci::redact::{redact, shorten};

/// Messages that wait to be sent. An agent has little to say; if so many wait, the other side does not read.
const OUTGOING: usize = 256;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection on which nothing comes back for so long after a ping is dead.
const KEEPALIVE: Duration = Duration::from_secs(10);
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
    /// The stream is gone.
    Closed,
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

/// The URL is no place where a coordinator can be.
#[derive(Debug, thiserror::Error)]
#[error("write the coordinator as http://host:port")]
pub struct BadCoordinator;

/// Where the coordinator is.
pub fn endpoint(url: &str) -> Result<Endpoint, BadCoordinator> {
    if !url.starts_with("http://") {
        return Err(BadCoordinator);
    }
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| BadCoordinator)?;
    let uri = endpoint.uri();
    let host = uri.host().unwrap_or_default();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    // A port beyond 65535 parses as an authority, and a user before the host as well.
    let is_place = match uri.port_u16() {
        Some(port) => port > 0 && authority == format!("{host}:{port}"),
        None => authority == host,
    };
    let is_plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
    if host.is_empty() || !is_place || !is_plain {
        return Err(BadCoordinator);
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true))
}

/// Keeps a session open for as long as somebody takes its events.
pub async fn run(endpoint: Endpoint, events: mpsc::Sender<Event>) {
    let mut failures = 0;
    while !events.is_closed() {
        let was_heard = match endpoint.connect().await {
            Ok(channel) => converse(channel, &events).await,
            Err(error) => {
                let reason = causes(&error);
                // Once per outage: the rest is the same news again.
                if failures == 0 {
                    warn!(coordinator = %endpoint.uri(), reason, "no connection to the coordinator");
                } else {
                    debug!(coordinator = %endpoint.uri(), reason, "no connection to the coordinator");
                }
                false
            }
        };
        failures = if was_heard { 0 } else { failures + 1 };
        tokio::time::sleep(jittered(backoff(failures), rand::random())).await;
    }
}

/// One stream from Open to Closed. True if the coordinator accepted it, that is, said something.
async fn converse(channel: Channel, events: &mpsc::Sender<Event>) -> bool {
    let (messages, outgoing) = mpsc::channel(OUTGOING);
    let (open, dropped) = oneshot::channel();
    let stream = Stream {
        messages: Some(messages),
        _open: open,
    };
    if events.send(Event::Open(stream)).await.is_err() {
        return false;
    }
    let mut was_heard = false;
    let exchange = async {
        let mut client = CoordinatorClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let mut incoming = client
            .session(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        while let Some(message) = incoming.message().await? {
            was_heard = true;
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
    warn!(reason, "session ended");
    // If nobody listens any more, nobody needs to know.
    let _ = events.send(Event::Closed).await;
    was_heard
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
    fn a_coordinator_is_a_host_and_a_port() {
        for good in [
            "http://drop-coordinator.drop-system:9443",
            "http://127.0.0.1:1/",
            "http://[::1]:65535",
        ] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1:9443",
            "https://c:1",
            "http://",
            "http://c/path",
            "http://c?x",
            "http://c:99999",
            "http://c:0",
            "http://c:",
            "http://user:secret@c:1",
            "unix:///x",
        ] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
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
