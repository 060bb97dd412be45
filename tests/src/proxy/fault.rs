//! What can go wrong at a registry, and for which requests. Chooses; `serve` carries it out.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::log::{Exchange, Kind};

/// One way to misbehave and the requests that meet it: all, unless it is narrowed.
#[derive(Clone, Debug)]
pub struct Fault {
    pub(super) effect: Effect,
    kind: Option<Kind>,
    method: Option<String>,
    repository: Option<String>,
    path: Option<String>,
    node: Option<String>,
    by_coordinator: Option<bool>,
    remaining: Option<u32>,
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    /// Answered by the proxy itself.
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: String,
    },
    /// No byte of an answer.
    Hang,
    /// The connection is closed after this many bytes of the body.
    Cut(u64),
    /// Nothing more after this many bytes of the body; the connection stays open.
    Stall(u64),
    /// Bytes a second, over all requests that meet this fault together.
    Rate(u64),
}

/// Names a fault that was injected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FaultId(u64);

impl Fault {
    /// Answers this status with an error body as a registry writes it.
    #[must_use]
    pub fn status(status: u16) -> Self {
        let body =
            format!(r#"{{"errors":[{{"code":"INJECTED","message":"status {status} injected"}}]}}"#);
        Self::new(Effect::Answer {
            status,
            headers: Vec::new(),
            body,
        })
    }

    /// Never answers.
    #[must_use]
    pub fn hang() -> Self {
        Self::new(Effect::Hang)
    }

    /// Closes the connection after `bytes` of a body.
    #[must_use]
    pub fn cut_after(bytes: u64) -> Self {
        Self::new(Effect::Cut(bytes))
    }

    /// Sends `bytes` of a body and then nothing.
    #[must_use]
    pub fn stall_after(bytes: u64) -> Self {
        Self::new(Effect::Stall(bytes))
    }

    /// At most this many bytes a second, over all requests that meet the fault.
    #[must_use]
    pub fn rate(bytes_per_second: u64) -> Self {
        Self::new(Effect::Rate(bytes_per_second.max(1)))
    }

    /// Adds a header to an answered status, such as `Retry-After`.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Effect::Answer { headers, .. } = &mut self.effect {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Replaces the body of an answered status.
    #[must_use]
    pub fn body(mut self, text: &str) -> Self {
        if let Effect::Answer { body, .. } = &mut self.effect {
            text.clone_into(body);
        }
        self
    }

    /// Only manifests, or only blobs.
    #[must_use]
    pub fn on(mut self, kind: Kind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Only this method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Only this repository.
    #[must_use]
    pub fn repository(mut self, repository: &str) -> Self {
        self.repository = Some(repository.to_owned());
        self
    }

    /// Only paths that contain this text.
    #[must_use]
    pub fn path(mut self, part: &str) -> Self {
        self.path = Some(part.to_owned());
        self
    }

    /// Only requests of this node.
    #[must_use]
    pub fn node(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    /// Only the coordinator's own requests.
    #[must_use]
    pub fn for_coordinator(mut self) -> Self {
        self.by_coordinator = Some(true);
        self
    }

    /// Only requests of container runtimes.
    #[must_use]
    pub fn for_nodes(mut self) -> Self {
        self.by_coordinator = Some(false);
        self
    }

    /// Only the first `count` requests that match.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.remaining = Some(count);
        self
    }

    fn new(effect: Effect) -> Self {
        Self {
            effect,
            kind: None,
            method: None,
            repository: None,
            path: None,
            node: None,
            by_coordinator: None,
            remaining: None,
        }
    }

    fn meets(&self, request: &Exchange) -> bool {
        // A body that is cut, stalled or slowed is one of a GET: a HEAD has none and must not use up the count.
        let has_body =
            matches!(self.effect, Effect::Answer { .. } | Effect::Hang) || request.method != "HEAD";
        let same = |wanted: &Option<String>, got: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == got
        };
        has_body
            && self.remaining != Some(0)
            && self.kind.is_none_or(|kind| kind == request.kind)
            && same(&self.method, Some(&request.method))
            && same(&self.repository, request.repository.as_deref())
            && same(&self.node, request.node.as_deref())
            && self
                .by_coordinator
                .is_none_or(|wanted| wanted == request.by_coordinator)
            && self
                .path
                .as_ref()
                .is_none_or(|part| request.path.contains(part.as_str()))
    }
}

/// The faults in force.
#[derive(Default)]
pub(super) struct Faults {
    next: u64,
    active: Vec<Active>,
}

struct Active {
    id: FaultId,
    fault: Fault,
    pace: watch::Sender<Instant>,
    removed: watch::Sender<bool>,
}

/// A fault that a request meets, to be carried out.
pub(super) struct Met {
    pub(super) effect: Effect,
    pace: watch::Sender<Instant>,
    removed: watch::Receiver<bool>,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) -> FaultId {
        self.next += 1;
        let id = FaultId(self.next);
        let (pace, removed) = (
            watch::Sender::new(Instant::now()),
            watch::Sender::new(false),
        );
        self.active.push(Active {
            id,
            fault,
            pace,
            removed,
        });
        id
    }

    pub(super) fn remove(&mut self, id: FaultId) {
        for active in self.active.extract_if(.., |active| active.id == id) {
            active.removed.send_replace(true);
        }
    }

    pub(super) fn clear(&mut self) {
        for active in self.active.drain(..) {
            active.removed.send_replace(true);
        }
    }

    /// The newest fault that `request` meets; one of its uses is spent.
    pub(super) fn meet(&mut self, request: &Exchange) -> Option<Met> {
        let active = self
            .active
            .iter_mut()
            .rev()
            .find(|active| active.fault.meets(request))?;
        if let Some(remaining) = &mut active.fault.remaining {
            *remaining -= 1;
        }
        Some(Met {
            effect: active.fault.effect.clone(),
            pace: active.pace.clone(),
            removed: active.removed.subscribe(),
        })
    }
}

impl Met {
    /// Returns when the fault has been taken back.
    pub(super) async fn removed(&mut self) {
        // An error means that the proxy itself is gone.
        let _ = self.removed.wait_for(|removed| *removed).await;
    }

    /// Waits for this chunk's turn under a rate of `per_second` bytes that all requests of the fault share.
    pub(super) async fn wait_turn(&mut self, bytes: u64, per_second: u64) {
        let cost = Duration::from_secs_f64(bytes as f64 / per_second as f64);
        let mut turn = Instant::now();
        self.pace.send_modify(|free| {
            turn = (*free).max(turn) + cost;
            *free = turn;
        });
        tokio::select! {
            () = tokio::time::sleep_until(turn) => {}
            () = self.removed() => {}
        }
    }
}
