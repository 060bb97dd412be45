//! What a CachedImage's status should say now, from what agents reported.
//!
//! Pure. A node counts as ready only if its runtime listed the image; every other node has a state, a reason and, where there
//! is one, a time for the next step.

use std::collections::BTreeMap;
use std::time::Duration;

use drop_api::conditions::{PULL_PROGRESS, READY, progress, ready};
use drop_api::{CachedImageStatus, ImagePullPolicy, NodeException, NodeState, Phase};
use drop_proto::FailureClass;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::cached_image::reasons::{FIRST_FAILURE, reason_of};
use crate::core::{Core, Now};
use crate::image::Image;
use crate::index::Object;
use crate::node_set::NodeId;
use crate::objects::choices;
use crate::pacing::PROOF_BY_RUNNING;
use crate::plan;

/// Part of the message while nodes hold a former digest.
pub const NEWEST_DIGEST: &str = "nodes on the newest digest";
/// Most nodes that `status.nodes` lists.
const EXCEPTIONS: usize = 50;
/// Most names that `status.cachedNodes` lists.
const CACHED_NODES: usize = 1000;
/// Most causes that a message counts.
const CAUSES: usize = 3;

/// A status, and when it will be another one although nothing happens.
#[derive(Clone, Debug)]
pub struct Rollup {
    /// What should stand in the API server.
    pub status: CachedImageStatus,
    /// When the words change by themselves.
    pub changes_at: Option<Duration>,
}

/// One target node that is not ready.
struct Exception {
    node: NodeId,
    state: NodeState,
    reason: &'static str,
    message: String,
    attempts: u32,
    retry: Option<Duration>,
}

#[derive(Default)]
struct Counts {
    targeted: i32,
    ready: i32,
    newest: i32,
    pulling: i32,
    failed: i32,
    waiting: i32,
    disconnected: i32,
}

/// Works out the status of an object.
#[must_use]
pub fn rollup(core: &Core, now: Now, object: &Object) -> Rollup {
    let mut counts = Counts {
        targeted: object.targets.len() as i32,
        ..Counts::default()
    };
    let mut cached = Vec::new();
    let mut exceptions = Vec::new();
    let image = object
        .image
        .as_ref()
        .ok()
        .and_then(|id| core.images.get(*id));
    for id in object.targets.iter() {
        match image.ok_or(()).and_then(|image| {
            judge(core, now, object, image, id).map_or(Ok(image), |e| {
                exceptions.push(e);
                Err(())
            })
        }) {
            Ok(image) => {
                counts.ready += 1;
                if object.facts.spec.image_pull_policy != ImagePullPolicy::Always
                    || image.current.contains(id)
                {
                    counts.newest += 1;
                }
                if let Some(node) = core.nodes.get(id) {
                    cached.push(node.name.clone());
                }
            }
            Err(()) => {}
        }
        if image.is_some_and(|image| image.granted.contains(id)) {
            counts.pulling += 1;
        }
    }
    for exception in &exceptions {
        match exception.state {
            NodeState::Pulling => {}
            NodeState::BackingOff | NodeState::Failed => counts.failed += 1,
            NodeState::NotConnected => {
                counts.disconnected += 1;
                counts.waiting += 1;
            }
            NodeState::Waiting | NodeState::Unknown => counts.waiting += 1,
        }
    }
    cached.sort_unstable();
    cached.truncate(CACHED_NODES);

    let changes_at = image.and_then(|image| {
        image
            .failures
            .values()
            .filter(|failure| failure.attempts <= 1)
            .map(|failure| failure.at + FIRST_FAILURE)
            .filter(|at| *at > now.mono)
            .min()
    });
    let (ready_word, ready_reason, ready_message) =
        ready_condition(core, now, object, &counts, &exceptions);
    let (progress_word, progress_reason, progress_message) =
        progress_condition(&counts, ready_reason);
    let written = object.record.written();
    let condition = |kind: &str, word: bool, reason: &str, message: String| {
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
    };
    let conditions = vec![
        condition(
            PULL_PROGRESS,
            progress_word,
            progress_reason,
            progress_message,
        ),
        condition(READY, ready_word, ready_reason, ready_message),
    ];
    let checked = image
        .filter(|_| object.facts.spec.image_pull_policy == ImagePullPolicy::Always)
        .and_then(|i| i.check.last);
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
        cached_nodes: cached,
        consecutive_failures: object.consecutive_failures,
        last_pulled_at: object.last_pulled.map(time),
        last_attempted_at: object.last_attempted.map(time),
        last_checked_at: checked.map(time),
        size_bytes: image.and_then(|image| i64::try_from(image.size_bytes?).ok()),
        conditions,
        nodes: list(core, now, written, exceptions),
    };
    Rollup { status, changes_at }
}

/// `None`: the image is ready on the node.
fn judge(core: &Core, now: Now, object: &Object, image: &Image, id: NodeId) -> Option<Exception> {
    let exception = |state, reason, message: &str| {
        Some(Exception {
            node: id,
            state,
            reason,
            message: message.to_owned(),
            attempts: 0,
            retry: None,
        })
    };
    let node = core.nodes.get(id)?;
    if !core.is_confirmed(now, id) {
        if node.session.is_none() {
            return exception(
                NodeState::NotConnected,
                ready::AGENT_NOT_CONNECTED,
                "no agent is connected: check the drop-agent pod on this node",
            );
        }
        let message = format!(
            "the container runtime does not answer: {}",
            node.runtime.message
        );
        return exception(NodeState::BackingOff, ready::RUNTIME_UNAVAILABLE, &message);
    }
    let always = object.facts.spec.image_pull_policy == ImagePullPolicy::Always;
    let good = if always {
        &image.accepted
    } else {
        &image.present
    };
    if good.contains(id) {
        return None;
    }
    let failure = image.failures.get(&id);
    if let Some(grant) = core.grants.values().find(|g| {
        image.granted.contains(id)
            && g.node == id
            && core
                .images
                .get(g.image)
                .is_some_and(|i| i.reference == image.reference)
    }) {
        let lasting = grant
            .started
            .is_some_and(|at| now.mono.saturating_sub(at) >= PROOF_BY_RUNNING);
        if failure.is_none() || lasting {
            return exception(NodeState::Pulling, ready::IN_PROGRESS, "pulling");
        }
    }
    if object.facts.spec.image_pull_policy == ImagePullPolicy::Never && image.reported.contains(id)
    {
        return exception(
            NodeState::Failed,
            ready::ERR_IMAGE_NEVER_PULL,
            "the image is not on the node and imagePullPolicy is Never: load it there, or change the policy",
        );
    }
    let host_pause = core
        .hosts
        .get(&image.host)
        .and_then(|host| Some((host.paused_until(now.mono)?, host.message.clone())));
    if let Some(failure) = failure {
        let age = now.mono.saturating_sub(failure.at);
        let retry = host_pause.map_or(failure.retry, |(until, _)| until.max(failure.retry));
        return Some(Exception {
            node: id,
            state: NodeState::BackingOff,
            reason: reason_of(failure.class, failure.attempts, age),
            message: with_retry(&failure.message, failure.class, now, retry),
            attempts: failure.attempts,
            retry: Some(retry),
        });
    }
    let wait = |reason, message: String, retry| {
        Some(Exception {
            node: id,
            state: NodeState::Waiting,
            reason,
            message,
            attempts: 0,
            retry,
        })
    };
    if !image.reported.contains(id) {
        return wait(
            ready::IN_PROGRESS,
            "waits for the node's inventory".to_owned(),
            None,
        );
    }
    if let Some(pause) = node.pause.as_ref().filter(|pause| pause.until > now.mono) {
        let reason = reason_of(pause.class, pause.attempts, FIRST_FAILURE);
        return wait(reason, pause.message.clone(), Some(pause.until));
    }
    if let Some(until) = image.probe.waits_until(now.mono) {
        let message = "waits, since another node's pull failed for all".to_owned();
        return wait(ready::IMAGE_PULL_BACK_OFF, message, Some(until));
    }
    if let Some((until, message)) = host_pause {
        return wait(ready::REGISTRY_UNAVAILABLE, message, Some(until));
    }
    wait(ready::IN_PROGRESS, "waits for its turn".to_owned(), None)
}

fn with_retry(message: &str, class: FailureClass, now: Now, retry: Duration) -> String {
    if class == FailureClass::Throttled {
        return format!("{message}, next try at {}", seconds(now.wall_at(retry)));
    }
    message.to_owned()
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

fn ready_condition(
    core: &Core,
    now: Now,
    object: &Object,
    counts: &Counts,
    exceptions: &[Exception],
) -> (bool, &'static str, String) {
    let Counts {
        targeted,
        ready,
        newest,
        ..
    } = *counts;
    let fraction = format!("{ready}/{targeted} nodes ready");
    let (word, reason, mut message) = if let Err(why) = &object.image {
        (
            false,
            ready::INVALID_IMAGE_NAME,
            format!("{why}; {fraction}"),
        )
    } else if targeted == 0 {
        (false, ready::NO_MATCHING_NODES, no_match(core, object))
    } else if ready == targeted {
        (
            true,
            ready::CACHED,
            format!("Image cached on all {targeted} target nodes"),
        )
    } else if counts.failed > 0 {
        let (reason, causes) = causes(exceptions);
        if reason == ready::PULL_FAILED {
            (false, reason, format!("{fraction}: {causes}"))
        } else {
            (false, reason, format!("{causes}; {fraction}"))
        }
    } else if counts.disconnected == targeted - ready {
        let what = format!(
            "no agent connected on {} of {targeted} nodes",
            counts.disconnected
        );
        (
            false,
            ready::AGENT_NOT_CONNECTED,
            format!("{what}; {fraction}"),
        )
    } else {
        (false, ready::IN_PROGRESS, fraction)
    };
    if newest < ready {
        message.push_str(&format!("; {newest}/{targeted} {NEWEST_DIGEST}"));
        if let Some(failure) = object
            .image
            .as_ref()
            .ok()
            .and_then(|id| worst_refresh(core, now, object, *id))
        {
            message.push_str(&format!(" ({failure})"));
        }
    }
    if object.policy_missing
        && let Some(policy) = &object.facts.spec.policy_ref
    {
        message.push_str(&format!(
            "; PullPolicy \"{}\" not found, the built-in defaults apply",
            policy.name
        ));
    }
    (word, reason, message)
}

/// Why a node that is ready with a former digest does not get the newest one.
fn worst_refresh(
    core: &Core,
    _now: Now,
    object: &Object,
    id: crate::image::ImageId,
) -> Option<String> {
    let image = core.images.get(id)?;
    let (_, failure) = image
        .failures
        .iter()
        .find(|(node, _)| object.targets.contains(**node))?;
    Some(failure.message.clone())
}

fn no_match(core: &Core, object: &Object) -> String {
    let default = crate::pacing::policy::Limits::default();
    let limits = core
        .policies
        .get(&object.policy)
        .map_or(&default, |policy| &policy.limits);
    let (image, policy) = choices(&object.facts, limits);
    let nodes = core
        .nodes
        .iter()
        .filter(|(_, node)| node.facts.is_some())
        .count();
    plan::no_match_message(nodes, image, policy)
}

/// The one reason of all failed nodes, or `PullFailed`, and what they say, most frequent first.
fn causes(exceptions: &[Exception]) -> (&'static str, String) {
    let failed = || {
        exceptions
            .iter()
            .filter(|e| matches!(e.state, NodeState::BackingOff | NodeState::Failed))
    };
    let mut counted: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for exception in failed() {
        *counted
            .entry((exception.reason, exception.message.as_str()))
            .or_default() += 1;
    }
    let mut sorted: Vec<_> = counted.into_iter().collect();
    sorted.sort_by_key(|((reason, message), count)| (std::cmp::Reverse(*count), *reason, *message));
    let mut reasons: Vec<&'static str> = failed().map(|e| e.reason).collect();
    reasons.dedup();
    if reasons.iter().any(|reason| *reason != reasons[0]) {
        let parts: Vec<String> = sorted
            .iter()
            .take(CAUSES)
            .map(|((reason, message), count)| format!("{count} {reason} ({message})"))
            .collect();
        return (ready::PULL_FAILED, parts.join(", "));
    }
    let reason = reasons.first().copied().unwrap_or(ready::IN_PROGRESS);
    let message = sorted
        .first()
        .map(|((_, message), _)| (*message).to_owned())
        .unwrap_or_default();
    (reason, message)
}

fn progress_condition(counts: &Counts, ready_reason: &str) -> (bool, &'static str, String) {
    let Counts {
        targeted,
        ready,
        pulling,
        ..
    } = *counts;
    if targeted > 0 && ready == targeted {
        return (false, progress::COMPLETE, "All pulls complete".to_owned());
    }
    if counts.failed > 0 && (pulling == 0 || ready + counts.failed == targeted)
        || ready_reason == ready::INVALID_IMAGE_NAME
    {
        return (
            false,
            progress::STALLED,
            format!("Pull stalled: {ready}/{targeted} nodes ready, retrying with backoff"),
        );
    }
    // Between two nodes of a paced wave nothing is pulled for a moment; the wave goes on all the same.
    let moving = ready > 0 && counts.disconnected + ready < targeted;
    if pulling > 0 || moving {
        return (
            true,
            progress::PULLING,
            format!("Actively pulling on {pulling} node(s), {ready}/{targeted} complete"),
        );
    }
    (false, progress::IDLE, "Waiting to start pulls".to_owned())
}

/// The worst nodes, with the time since when they are in this state.
fn list(
    core: &Core,
    now: Now,
    written: Option<&CachedImageStatus>,
    mut exceptions: Vec<Exception>,
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
    exceptions.sort_by(|a, b| (rank(a.state), name(a.node)).cmp(&(rank(b.state), name(b.node))));
    exceptions.truncate(EXCEPTIONS);
    exceptions
        .into_iter()
        .map(|exception| {
            let node = name(exception.node).to_owned();
            let since = written
                .and_then(|w| {
                    w.nodes
                        .iter()
                        .find(|n| n.node == node && n.state == exception.state)
                })
                .and_then(|n| n.since.clone())
                .unwrap_or_else(|| time(now.wall));
            NodeException {
                node,
                state: exception.state,
                reason: exception.reason.to_owned(),
                message: exception.message,
                attempts: i32::try_from(exception.attempts).unwrap_or(i32::MAX),
                since: Some(since),
                next_retry: exception.retry.map(|at| time(now.wall_at(at))),
            }
        })
        .collect()
}

/// Whole seconds, as the API server keeps them: a finer time would differ from itself after it was written.
fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn time(at: Timestamp) -> Time {
    Time(seconds(at))
}
