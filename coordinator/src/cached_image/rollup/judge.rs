//! What one target node is doing about an image.

use std::borrow::Cow;
use std::time::Duration;

use drop_api::conditions::ready;
use drop_api::{ImagePullPolicy, NodeState};
use drop_proto::FailureClass;

use super::logins::{login_retry, waits_for_login};
use super::words::seconds;
use crate::cached_image::reasons::{FIRST_FAILURE, reason_of};
use crate::core::{Core, Now};
use crate::image::{Failure, Image, ImageId};
use crate::index::{Node, Object};
use crate::node_set::NodeId;
use crate::pacing::host::Host;
use crate::pacing::{Grant, PROOF_BY_RUNNING};

/// What stands in the status where the registry has no image for a node.
pub(super) const NO_PLATFORM: &str = "no image for this node's platform";

/// One target node that is not ready.
pub(super) struct Exception<'a> {
    pub(super) node: NodeId,
    pub(super) state: NodeState,
    pub(super) reason: &'static str,
    pub(super) message: Cow<'a, str>,
    pub(super) attempts: u32,
    pub(super) retry: Option<Duration>,
}

impl<'a> Exception<'a> {
    pub(super) fn new(
        node: NodeId,
        state: NodeState,
        reason: &'static str,
        message: impl Into<Cow<'a, str>>,
    ) -> Self {
        Self {
            node,
            state,
            reason,
            message: message.into(),
            attempts: 0,
            retry: None,
        }
    }

    fn because(mut self, why: &str) -> Self {
        self.message = Cow::Owned(format!("{}; {why}", self.message));
        self
    }

    fn not_before(mut self, retry: Option<Duration>) -> Self {
        self.retry = self.retry.max(retry);
        self
    }

    pub(super) fn until(mut self, retry: Duration) -> Self {
        self.retry = Some(retry);
        self
    }
}

/// `None`: the image is ready on the node.
pub(super) fn judge<'a>(
    core: &'a Core,
    now: Now,
    object: &Object,
    (image_id, image): (ImageId, &'a Image),
    id: NodeId,
) -> Option<Exception<'a>> {
    let node = core.nodes.get(id)?;
    if !core.is_confirmed(now, id) {
        return Some(unconfirmed(id, node));
    }
    let policy = object.facts.spec.image_pull_policy;
    let good = if policy == ImagePullPolicy::Always {
        &image.accepted
    } else {
        &image.present
    };
    if good.contains(id) && image.reported.contains(id) {
        return None;
    }
    let failure = image.failures.get(&id);
    let grant = node
        .grants
        .iter()
        .filter_map(|token| core.grants.get(token))
        .find(|grant| grant.image == image_id);
    // A node that has failed before stays counted as failed until the new try has lasted, or each try would be a transition.
    if grant.is_some_and(|grant| failure.is_none() || has_lasted(now, grant)) {
        return Some(Exception::new(
            id,
            NodeState::Pulling,
            ready::IN_PROGRESS,
            "pulling",
        ));
    }
    if policy == ImagePullPolicy::Never && image.reported.contains(id) {
        let message = "the image is not on the node and imagePullPolicy is Never: load it there, or change the policy";
        return Some(Exception::new(
            id,
            NodeState::Failed,
            ready::ERR_IMAGE_NEVER_PULL,
            message,
        ));
    }
    if node.facts.as_ref().is_some_and(|f| f.disk_pressure) {
        let message = "the kubelet reports DiskPressure: no pull starts until that is over; free space on the node";
        return Some(Exception::new(
            id,
            NodeState::Failed,
            ready::INSUFFICIENT_DISK,
            message,
        ));
    }
    if let Some(refusal) = image.refusals.get(&id) {
        let reason = reason_of(refusal.class, 0, Duration::ZERO);
        let message = refusal.message.as_str();
        return Some(Exception::new(id, NodeState::Failed, reason, message));
    }
    let host_pause = core
        .hosts
        .get(&image.host)
        .and_then(|host| Some((host.paused_until(now.mono)?, host)));
    let platform = node.runtime.platform.as_str();
    if let Some(since) = image
        .inquiry
        .lacks_platform(image.expected.as_deref(), platform)
        .filter(|_| image.reported.contains(id))
    {
        let age = now.mono.saturating_sub(since);
        let reason = reason_of(FailureClass::NoPlatform, 1, age);
        let exception = Exception::new(id, NodeState::Failed, reason, NO_PLATFORM);
        return Some(Exception {
            retry: core.next_check(now, image_id),
            ..exception
        });
    }
    let refusal = image
        .inquiry
        .refusal()
        .filter(|_| image.reported.contains(id));
    let latest = [failure, refusal].into_iter().flatten();
    if let Some(failure) = latest.max_by_key(|failure| failure.at) {
        let exception = failed(now, id, failure, host_pause).not_before(login_retry(core, image));
        return Some(match core.secret_problem(image, failure.class) {
            Some(why) => exception.because(why),
            None => exception,
        });
    }
    if image.reported.contains(id)
        && let Some(secret) = core.unread_secret(image)
    {
        let message = format!("waits until the coordinator has read Secret \"{secret}\"");
        return Some(Exception::new(
            id,
            NodeState::Waiting,
            ready::IN_PROGRESS,
            message,
        ));
    }
    if image.reported.contains(id)
        && let Some(exception) = waits_for_login(core, now, image, id)
    {
        return Some(exception);
    }
    Some(waiting(now, (id, node), image, host_pause))
}

fn unconfirmed(id: NodeId, node: &Node) -> Exception<'_> {
    if node.session.is_none() {
        let message = "no agent is connected: check the drop-agent pod on this node";
        return Exception::new(
            id,
            NodeState::NotConnected,
            ready::AGENT_NOT_CONNECTED,
            message,
        );
    }
    let message = format!(
        "the container runtime does not answer: {}",
        node.runtime.message
    );
    Exception::new(
        id,
        NodeState::BackingOff,
        ready::RUNTIME_UNAVAILABLE,
        message,
    )
}

fn has_lasted(now: Now, grant: &Grant) -> bool {
    grant
        .started
        .is_some_and(|at| now.mono.saturating_sub(at) >= PROOF_BY_RUNNING)
}

fn failed<'a>(
    now: Now,
    id: NodeId,
    failure: &'a Failure,
    host_pause: Option<(Duration, &Host)>,
) -> Exception<'a> {
    let age = now.mono.saturating_sub(failure.at);
    let retry = host_pause.map_or(failure.retry, |(until, _)| until.max(failure.retry));
    let message = match failure.class {
        FailureClass::Throttled => with_time(&failure.message, now, retry),
        _ => Cow::Borrowed(failure.message.as_str()),
    };
    let reason = reason_of(failure.class, failure.attempts, age);
    let exception = Exception::new(id, NodeState::BackingOff, reason, message);
    Exception {
        attempts: failure.attempts,
        ..exception.until(retry)
    }
}

pub(super) fn with_time(message: &str, now: Now, retry: Duration) -> Cow<'static, str> {
    let at = seconds(now.wall_at(retry));
    Cow::Owned(format!("{message}, next try at {at}"))
}

fn waiting<'a>(
    now: Now,
    (id, node): (NodeId, &'a Node),
    image: &Image,
    host_pause: Option<(Duration, &'a Host)>,
) -> Exception<'a> {
    let wait = |reason, message: &'a str| Exception::new(id, NodeState::Waiting, reason, message);
    // What keeps the node or the host from serving any image keeps this one back too, although it was never tried.
    let backs_off =
        |reason, message: Cow<'a, str>| Exception::new(id, NodeState::BackingOff, reason, message);
    if !image.reported.contains(id) {
        return wait(ready::IN_PROGRESS, "waits for the node's inventory");
    }
    if let Some(pause) = node.pause.as_ref().filter(|pause| pause.until > now.mono) {
        let reason = reason_of(pause.class, pause.attempts, FIRST_FAILURE);
        return backs_off(reason, pause.message.as_str().into()).until(pause.until);
    }
    if let Some(until) = image.probe.waits_until(now.mono) {
        return wait(
            ready::IMAGE_PULL_BACK_OFF,
            "waits, since the pull on another node failed for all",
        )
        .until(until);
    }
    if let Some((until, host)) = host_pause {
        let message = if host.is_throttled(now.mono) {
            with_time(&host.message, now, until)
        } else {
            Cow::Borrowed(host.message.as_str())
        };
        return backs_off(ready::REGISTRY_UNAVAILABLE, message).until(until);
    }
    wait(ready::IN_PROGRESS, "waits for its turn")
}
