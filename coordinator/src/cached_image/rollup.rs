//! What a CachedImage's status should say now, from what agents reported.
//!
//! Pure. A node counts as ready only if its runtime listed the image; every other node has a state, a reason and, where there
//! is one, a time for the next step.

mod judge;
mod logins;
mod words;

use std::time::Duration;

use drop_api::conditions::{PULL_PROGRESS, READY};
use drop_api::{CachedImageStatus, ImagePullPolicy, NodeException, NodeState, Phase};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use self::judge::{Exception, judge};
use self::words::{Words, progress_words, ready_words, seconds};
use crate::cached_image::reasons::FIRST_FAILURE;
use crate::core::{Core, Now};
use crate::image::Image;
use crate::index::Object;
use crate::node_set::NodeId;

/// Part of the message while nodes hold a former digest.
pub const NEWEST_DIGEST: &str = "nodes on the newest digest";
/// Part of the message while the tag's check fails.
pub const UNCHECKED: &str = "cannot check the tag";
/// Most nodes that `status.nodes` lists.
const EXCEPTIONS: usize = 50;
/// Most names that `status.cachedNodes` lists.
const CACHED_NODES: usize = 1000;

/// A status, and when it will be another one although nothing happens.
#[derive(Clone, Debug)]
pub struct Rollup {
    /// What should stand in the API server.
    pub status: CachedImageStatus,
    /// When the words change by themselves.
    pub changes_at: Option<Duration>,
}

#[derive(Default)]
struct Counts {
    targeted: i32,
    ready: i32,
    /// Of the ready ones, those that hold the expected digest.
    newest: i32,
    pulling: i32,
    failed: i32,
    waiting: i32,
    /// Of the waiting ones, those without an agent.
    disconnected: i32,
}

/// Works out the status of an object.
#[must_use]
pub fn rollup(core: &Core, now: Now, object: &Object) -> Rollup {
    let spec = &object.facts.spec;
    let image = object
        .image
        .as_ref()
        .ok()
        .and_then(|id| Some((*id, core.images.get(*id)?)));
    let mut cached = Vec::new();
    let mut exceptions = Vec::new();
    let mut newest = 0;
    for id in object.targets.iter() {
        let Some((image_id, image)) = image else {
            continue;
        };
        if let Some(exception) = judge(core, now, object, (image_id, image), id) {
            exceptions.push(exception);
        } else {
            cached.extend(core.nodes.get(id).map(|node| node.name.as_str()));
            newest += i32::from(
                spec.image_pull_policy != ImagePullPolicy::Always || image.current.contains(id),
            );
        }
    }
    let image = image.map(|(_, image)| image);
    let counts = Counts {
        newest,
        ..count(object, image, cached.len(), &exceptions)
    };
    if cached.len() > CACHED_NODES {
        cached.select_nth_unstable(CACHED_NODES);
        cached.truncate(CACHED_NODES);
    }
    cached.sort_unstable();

    let ready = ready_words(core, object, &counts, &exceptions);
    let progress = progress_words(&counts, ready.1);
    let written = object.record.written();
    let always = spec.image_pull_policy == ImagePullPolicy::Always;
    let status = CachedImageStatus {
        observed_generation: object.facts.generation,
        phase: Some(phase(object, &counts)),
        ready: Some(format!("{}/{}", counts.ready, counts.targeted)),
        resolved_digest: image.and_then(|image| image.expected.clone()),
        nodes_targeted: counts.targeted,
        nodes_ready: counts.ready,
        nodes_pulling: counts.pulling,
        nodes_failed: counts.failed,
        nodes_waiting: counts.waiting,
        cached_nodes: cached.into_iter().map(str::to_owned).collect(),
        consecutive_failures: object.consecutive_failures,
        last_pulled_at: object.last_pulled.map(time),
        last_attempted_at: object.last_attempted.map(time),
        last_checked_at: image
            .filter(|_| always)
            .and_then(|image| image.check.last)
            .map(time),
        size_bytes: image.and_then(|image| i64::try_from(image.size_bytes?).ok()),
        conditions: vec![
            condition(now, object, written, PULL_PROGRESS, progress),
            condition(now, object, written, READY, ready),
        ],
        nodes: list(core, now, written, exceptions),
    };
    Rollup {
        status,
        changes_at: image.and_then(|image| changes_at(now, image)),
    }
}

fn count(
    object: &Object,
    image: Option<&Image>,
    ready: usize,
    exceptions: &[Exception<'_>],
) -> Counts {
    let number = |nodes: usize| i32::try_from(nodes).unwrap_or(i32::MAX);
    let in_state = |states: &[NodeState]| {
        number(
            exceptions
                .iter()
                .filter(|e| states.contains(&e.state))
                .count(),
        )
    };
    let pulling = image.map_or(0, |image| {
        object
            .targets
            .iter()
            .filter(|id| image.granted.contains(*id))
            .count()
    });
    Counts {
        targeted: number(object.targets.len()),
        ready: number(ready),
        newest: 0,
        pulling: number(pulling),
        failed: in_state(&[NodeState::BackingOff, NodeState::Failed]),
        waiting: in_state(&[
            NodeState::Waiting,
            NodeState::NotConnected,
            NodeState::Unknown,
        ]),
        disconnected: in_state(&[NodeState::NotConnected]),
    }
}

fn phase(object: &Object, counts: &Counts) -> Phase {
    if counts.targeted == 0 {
        return Phase::Pending;
    }
    if counts.ready == counts.targeted {
        return Phase::Ready;
    }
    if counts.failed > 0 || object.image.is_err() {
        return Phase::Degraded;
    }
    if counts.pulling > 0 || counts.ready > 0 {
        Phase::Pulling
    } else {
        Phase::Pending
    }
}

fn condition(
    now: Now,
    object: &Object,
    written: Option<&CachedImageStatus>,
    kind: &str,
    (word, reason, message): Words,
) -> Condition {
    let status = if word { "True" } else { "False" };
    let former = written.and_then(|w| {
        w.conditions
            .iter()
            .find(|c| c.type_ == kind && c.status == status)
    });
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: Some(object.facts.generation),
        last_transition_time: former
            .map_or_else(|| time(now.wall), |c| c.last_transition_time.clone()),
    }
}

/// A first failure becomes a back-off after a while.
fn changes_at(now: Now, image: &Image) -> Option<Duration> {
    let first_failures = image
        .failures
        .values()
        .filter(|failure| failure.attempts <= 1);
    let refusal = image
        .inquiry
        .refusal()
        .filter(|failure| failure.attempts <= 1);
    let mismatch = image.inquiry.found_foreign(image.expected.as_deref());
    first_failures
        .chain(refusal)
        .map(|failure| failure.at)
        .chain(mismatch)
        .map(|at| at + FIRST_FAILURE)
        .filter(|at| *at > now.mono)
        .min()
}

/// The worst nodes, with the time since when they are in this state.
fn list(
    core: &Core,
    now: Now,
    written: Option<&CachedImageStatus>,
    mut exceptions: Vec<Exception<'_>>,
) -> Vec<NodeException> {
    let name = |id: NodeId| core.nodes.get(id).map_or("", |node| node.name.as_str());
    let rank = |state: NodeState| match state {
        NodeState::Failed => 0,
        NodeState::BackingOff => 1,
        NodeState::NotConnected => 2,
        NodeState::Unknown => 3,
        NodeState::Pulling => 4,
        NodeState::Waiting => 5,
    };
    let worse = |a: &Exception<'_>, b: &Exception<'_>| {
        (rank(a.state), name(a.node)).cmp(&(rank(b.state), name(b.node)))
    };
    if exceptions.len() > EXCEPTIONS {
        exceptions.select_nth_unstable_by(EXCEPTIONS, worse);
        exceptions.truncate(EXCEPTIONS);
    }
    exceptions.sort_unstable_by(worse);
    exceptions
        .into_iter()
        .map(|exception| {
            let node = name(exception.node).to_owned();
            let former = written.and_then(|w| {
                w.nodes
                    .iter()
                    .find(|n| n.node == node && n.state == exception.state)
            });
            let since = former
                .and_then(|n| n.since.clone())
                .unwrap_or_else(|| time(now.wall));
            NodeException {
                node,
                state: exception.state,
                reason: exception.reason.to_owned(),
                message: exception.message.into_owned(),
                attempts: i32::try_from(exception.attempts).unwrap_or(i32::MAX),
                since: Some(since),
                next_retry: exception.retry.map(|at| time(now.wall_at(at))),
            }
        })
        .collect()
}

fn time(at: Timestamp) -> Time {
    Time(seconds(at))
}
