//! The conditions' words: reasons and messages (contract section 5).

use std::collections::BTreeMap;

use drop_api::conditions::{progress, ready};
use drop_api::{ImagePullPolicy, NodeState};
use jiff::Timestamp;

use super::judge::{Exception, NO_PLATFORM};
use super::{Counts, NEWEST_DIGEST, UNCHECKED};
use crate::core::Core;
use crate::image::ImageId;
use crate::index::Object;
use crate::pacing::policy::Limits;
use crate::plan::{choices, no_match_message};

/// Most causes that a message counts.
const CAUSES: usize = 3;

/// A condition's status, reason and message.
pub(super) type Words = (bool, &'static str, String);

pub(super) fn ready_words(
    core: &Core,
    object: &Object,
    counts: &Counts,
    exceptions: &[Exception<'_>],
) -> Words {
    let (word, reason, mut message) = plain_words(core, object, counts, exceptions);
    if counts.newest < counts.ready {
        message = format!(
            "{message}; {}/{} {NEWEST_DIGEST}",
            counts.newest, counts.targeted
        );
        if let Some(why) = object
            .image
            .as_ref()
            .ok()
            .and_then(|id| refresh_failure(core, object, *id))
        {
            message = format!("{message} ({why})");
        }
    } else if counts.ready == counts.targeted
        && let Some(why) = object
            .image
            .as_ref()
            .ok()
            .and_then(|id| refresh_failure(core, object, *id))
    {
        message = format!("{message}; {UNCHECKED}: {why}");
    }
    if counts.failed == 0
        && object.facts.spec.image_pull_policy == ImagePullPolicy::Always
        && let Ok(id) = &object.image
        && let Some(why) = core
            .images
            .get(*id)
            .and_then(|image| image.inquiry.left_to_nodes())
    {
        message = format!("{message}; {why}");
    }
    if object.policy_missing
        && let Some(policy) = &object.facts.spec.policy_ref
    {
        message = format!(
            "{message}; PullPolicy \"{}\" not found, the built-in defaults apply",
            policy.name
        );
    }
    (word, reason, message)
}

fn plain_words(
    core: &Core,
    object: &Object,
    counts: &Counts,
    exceptions: &[Exception<'_>],
) -> Words {
    let Counts {
        targeted,
        ready,
        failed,
        disconnected,
        ..
    } = *counts;
    let fraction = format!("{ready}/{targeted} nodes ready");
    if let Err(why) = &object.image {
        return (
            false,
            ready::INVALID_IMAGE_NAME,
            format!("{why}; {fraction}"),
        );
    }
    if targeted == 0 {
        return (false, ready::NO_MATCHING_NODES, no_match(core, object));
    }
    if ready == targeted {
        return (
            true,
            ready::CACHED,
            format!("Image cached on all {targeted} target nodes"),
        );
    }
    if failed > 0 {
        return failure_words(&fraction, exceptions);
    }
    if disconnected == targeted - ready {
        let message =
            format!("no agent connected on {disconnected} of {targeted} nodes; {fraction}");
        return (false, ready::AGENT_NOT_CONNECTED, message);
    }
    (false, ready::IN_PROGRESS, fraction)
}

/// The one reason of all failed nodes with its most frequent message, or `PullFailed` with the most frequent causes counted.
fn failure_words(fraction: &str, exceptions: &[Exception<'_>]) -> Words {
    let failed = || {
        exceptions
            .iter()
            .filter(|e| matches!(e.state, NodeState::BackingOff | NodeState::Failed))
    };
    let mut causes: BTreeMap<(&'static str, &str), usize> = BTreeMap::new();
    for exception in failed() {
        *causes
            .entry((exception.reason, exception.message.as_ref()))
            .or_default() += 1;
    }
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by_key(|(cause, count)| (std::cmp::Reverse(*count), *cause));
    match causes.as_slice() {
        [] => (false, ready::IN_PROGRESS, fraction.to_owned()),
        [((reason, message), _), rest @ ..]
            if rest.iter().all(|((other, _), _)| other == reason) =>
        {
            (false, reason, format!("{message}; {fraction}"))
        }
        all => {
            let parts: Vec<String> = all
                .iter()
                .take(CAUSES)
                .map(|((reason, message), count)| format!("{count} {reason} ({message})"))
                .collect();
            (
                false,
                ready::PULL_FAILED,
                format!("{fraction}: {}", parts.join(", ")),
            )
        }
    }
}

pub(super) fn progress_words(counts: &Counts, ready_reason: &str) -> Words {
    let Counts {
        targeted,
        ready,
        pulling,
        failed,
        disconnected,
        ..
    } = *counts;
    if targeted > 0 && ready == targeted {
        return (false, progress::COMPLETE, "All pulls complete".to_owned());
    }
    let none_left = pulling == 0 || ready + failed == targeted;
    if failed > 0 && none_left || ready_reason == ready::INVALID_IMAGE_NAME {
        let message =
            format!("Pull stalled: {ready}/{targeted} nodes ready, retrying with backoff");
        return (false, progress::STALLED, message);
    }
    // Between two nodes of a paced wave nothing is pulled for a moment; the wave goes on all the same.
    if pulling > 0 || ready > 0 && disconnected + ready < targeted {
        let message = format!("Actively pulling on {pulling} node(s), {ready}/{targeted} complete");
        return (true, progress::PULLING, message);
    }
    (false, progress::IDLE, "Waiting to start pulls".to_owned())
}

/// Why a node that is ready cannot check the tag, or does not get the newest digest.
fn refresh_failure<'a>(core: &'a Core, object: &Object, id: ImageId) -> Option<&'a str> {
    if object.facts.spec.image_pull_policy != ImagePullPolicy::Always {
        return None;
    }
    let image = core.images.get(id)?;
    if let Some(why) = image.inquiry.trouble() {
        return Some(why);
    }
    let digest = image.expected.as_deref();
    let lacks_platform = |id| {
        let node = core.nodes.get(id);
        let platform = node.map_or("", |node| node.runtime.platform.as_str());
        !image.current.contains(id) && image.inquiry.lacks_platform(digest, platform).is_some()
    };
    if image.inquiry.found_foreign(digest).is_some() && object.targets.iter().any(lacks_platform) {
        return Some(NO_PLATFORM);
    }
    let failures = image.failures.iter().map(|(node, f)| (node, &f.message));
    let refusals = image.refusals.iter().map(|(node, r)| (node, &r.message));
    let (_, message) = failures
        .chain(refusals)
        .find(|(node, _)| object.targets.contains(**node))?;
    Some(message)
}

fn no_match(core: &Core, object: &Object) -> String {
    let default = Limits::default();
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
    no_match_message(nodes, image, policy)
}

/// Whole seconds, as the API server keeps them: a finer time would differ from itself after it was written.
pub(super) fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
