//! What the end of a pull means: for the image, its registry host, the node, and everybody who waits.

use std::time::Duration;

use drop_proto::{Done, Failed, FailureClass, Scope};

use crate::core::{Core, Count, Now, Output, Wake};
use crate::credentials::may_be_for_want_of_a_secret;
use crate::image::{Failure, ImageId};
use crate::index::Pause;
use crate::logins::{Ticket, Try};
use crate::node_set::NodeId;
use crate::pacing::backoff::Backoff;
use crate::pacing::{Grant, PROOF_BY_RUNNING};

/// So many nodes in a row that cannot have an image others could have: it has gone from the registry.
const STRIKES: u32 = 2;
/// A grant that was given back is not given again at once.
const AFTER_RELEASE: Duration = Duration::from_secs(1);

impl Core {
    pub(crate) fn pull_started(&mut self, now: Now, node: NodeId, token: u64) {
        let Some(grant) = self
            .grants
            .get_mut(&token)
            .filter(|grant| grant.node == node)
        else {
            return;
        };
        grant.started = Some(now.mono);
        let image = grant.image;
        self.wake(now.mono + PROOF_BY_RUNNING, Wake::Proof(token));
        self.each_object(image, |object| object.last_attempted = Some(now.wall));
        self.mark_image(now, image);
    }

    /// A pull has run for a while without an error: the image can be had.
    pub(crate) fn prove(&mut self, now: Now, token: u64) {
        let Some(grant) = self.grants.get(&token) else {
            return;
        };
        let image_id = grant.image;
        if let Some(ticket) = &grant.login {
            self.logins.runs(ticket, Try::Pull(token));
        }
        if let Some(image) = self.images.get_mut(image_id) {
            image.probe.runs(token);
            if let Some(host) = self.hosts.get_mut(&image.host) {
                host.runs(token);
            }
        }
        self.unsettled = true;
        self.mark_image(now, image_id);
    }

    pub(crate) fn renewed(&mut self, now: Now, node: NodeId, tokens: &[u64]) {
        let expires = now.mono + self.config.grant_ttl;
        for token in tokens {
            if let Some(grant) = self
                .grants
                .get_mut(token)
                .filter(|grant| grant.node == node)
            {
                grant.expires = expires;
                self.wake(expires, Wake::Expiry(*token));
            }
        }
    }

    /// An agent that says nothing for a TTL is taken for dead: its place is free for others.
    pub(crate) fn expire(&mut self, now: Now, token: u64) {
        if self
            .grants
            .get(&token)
            .is_none_or(|grant| grant.expires > now.mono)
        {
            return;
        }
        self.outputs.push(Output::Count(Count::GrantExpired));
        self.end_grant(now, token);
    }

    /// The agent had no use for the grant just then. Its ask stays in force, but the two may have crossed on the way: a moment
    /// later they agree again.
    pub(crate) fn released(&mut self, now: Now, node: NodeId, token: u64) {
        if self
            .grants
            .get(&token)
            .is_none_or(|grant| grant.node != node)
        {
            return;
        }
        if let Some(grant) = self.end_grant(now, token)
            && let Some(image) = self.images.get_mut(grant.image)
        {
            image.blocked.insert(node);
            if let Some(policy) = self.policies.get_mut(&grant.policy) {
                policy.undo_start(node, grant.given);
            }
            self.wake(now.mono + AFTER_RELEASE, Wake::Retry(grant.image, node));
        }
    }

    /// Takes a grant out of all books.
    pub(crate) fn end_grant(&mut self, now: Now, token: u64) -> Option<Grant> {
        let grant = self.grants.remove(&token)?;
        // Hundreds of thousands of short pulls would leave as many alarms behind.
        self.timers.remove(&(grant.expires, Wake::Expiry(token)));
        if let Some(started) = grant.started {
            let proof = started + PROOF_BY_RUNNING;
            self.timers.remove(&(proof, Wake::Proof(token)));
        }
        if let Some(policy) = self.policies.get_mut(&grant.policy) {
            policy.ended(grant.node);
        }
        self.drop_idle_policy(&grant.policy);
        if let Some(ticket) = &grant.login {
            self.logins.over(ticket, Try::Pull(token));
        }
        if let Some(image) = self.images.get_mut(grant.image) {
            image.granted.remove(grant.node);
            image.probe.abandoned(token);
            if let Some(host) = self.hosts.get_mut(&image.host) {
                host.ended(token);
            }
            if !image.is_in_use() {
                self.idle_images.insert(grant.image);
            }
        }
        if let Some(node) = self.nodes.get_mut(grant.node) {
            node.grants.retain(|held| *held != token);
        }
        self.refresh_free(now, grant.node);
        self.mark_image(now, grant.image);
        self.unsettled = true;
        Some(grant)
    }

    pub(crate) fn pull_done(&mut self, now: Now, node: NodeId, done: &Done) {
        let login = self.login_tried(node, done.token);
        let Some((image_id, began)) =
            self.close(now, node, done.token, &done.reference, done.pull_ms)
        else {
            return;
        };
        if let Some(ticket) = &login {
            self.login_worked(now, ticket, image_id);
        }
        let Some(image) = self.images.get_mut(image_id) else {
            return;
        };
        self.hosts
            .entry(image.host.clone())
            .or_default()
            .answered(now.mono);
        if !image.targeted.contains(node) {
            return;
        }
        image.asked.remove(node);
        image.size_bytes = Some(done.size_bytes)
            .filter(|size| *size > 0)
            .or(image.size_bytes);
        let was_due = image.check.due.is_some();
        let moved = image.pulled(now, node, &done.digests, began);
        let checked = was_due && image.check.due.is_none();
        if moved || checked {
            // Only nodes that hold the image compare it with the expectation; the others pull whatever the tag names.
            let present = image.present.iter();
            self.stale.extend(present.map(|holder| (holder, image_id)));
        }
        self.stale.insert((node, image_id));
        self.each_object(image_id, |object| {
            object.consecutive_failures = 0;
            object.last_pulled = Some(now.wall);
        });
        if let Some(node) = self.nodes.get_mut(node) {
            node.pause = None;
        }
        self.refresh_free(now, node);
        if checked {
            self.plan_check(now, image_id);
        }
        self.mark_image(now, image_id);
    }

    pub(crate) fn pull_failed(&mut self, now: Now, node: NodeId, failed: &Failed) {
        let backoff = self.backoff_of(failed.token, &failed.reference, node);
        let revoked = self
            .grants
            .get(&failed.token)
            .is_some_and(|grant| grant.revoked);
        let was_had = self.was_had(failed.token);
        let was_granted = self.has_grant(node, failed.token);
        let login = self.login_tried(node, failed.token);
        let Some((image_id, _)) =
            self.close(now, node, failed.token, &failed.reference, failed.pull_ms)
        else {
            return;
        };
        let class = failed.class();
        if let Some(ticket) = &login {
            self.login_failed(now, ticket, image_id, class);
        }
        if revoked && class == FailureClass::Canceled {
            return;
        }
        let node_name = self
            .nodes
            .get(node)
            .map(|n| n.name.clone())
            .unwrap_or_default();
        let platform = self
            .nodes
            .get(node)
            .map(|n| n.runtime.platform.clone())
            .unwrap_or_default();
        let Some(image) = self.images.get_mut(image_id) else {
            return;
        };
        if !image.targeted.contains(node) {
            return;
        }
        let attempts = image.failures.get(&node).map_or(0, |f| f.attempts) + 1;
        let wait = match class.scope() {
            Scope::Image => backoff.max,
            _ => backoff.jittered(attempts, (&image.reference, &node_name)),
        };
        let message = failed.message.clone();
        let failure = Failure {
            class,
            message: message.clone(),
            attempts,
            at: now.mono,
            retry: now.mono + wait,
        };
        image.failures.insert(node, failure);
        image.blocked.insert(node);
        if image.check.checker == Some(node) {
            // The trouble may be this node's: the next check is another one's.
            image.check.checker = None;
            image.check.not_before = now.mono + wait;
            self.stale.insert((node, image_id));
        }
        let host = self.hosts.entry(image.host.clone()).or_default();
        match class.scope() {
            // Nobody can tell whether that pull ever ran: it makes no other node wait.
            Scope::Image | Scope::Host if !was_granted => {}
            Scope::Image => {
                host.answered(now.mono);
                if class == FailureClass::NoPlatform {
                    image.foreign_platforms.insert(platform, now.mono + wait);
                } else if !was_had {
                    image.probe.refused(now.mono, wait);
                } else {
                    image.strikes += 1;
                    if image.strikes >= STRIKES {
                        image.probe.refused(now.mono, wait);
                    }
                }
            }
            Scope::Host if class == FailureClass::Throttled => {
                host.throttled(now.mono, backoff, &message);
            }
            Scope::Host => host.failed(now.mono, node, backoff, &message),
            Scope::Node => self.pause_node(now, node, class, &message, backoff),
            Scope::Pair => {}
        }
        self.wake(now.mono + wait, Wake::Retry(image_id, node));
        self.each_object(image_id, |object| {
            object.consecutive_failures = object.consecutive_failures.saturating_add(1);
        });
        if may_be_for_want_of_a_secret(class)
            && login.is_some_and(|ticket| !self.is_current(&ticket, image_id))
        {
            // With what the Secrets say by now the answer may be another one.
            self.retry_refused(now, image_id);
        }
        self.mark_image(now, image_id);
        self.unsettled = true;
    }

    fn login_tried(&self, node: NodeId, token: u64) -> Option<Ticket> {
        let grant = self.grants.get(&token).filter(|grant| grant.node == node);
        grant.and_then(|grant| grant.login.clone())
    }

    /// Ends the grant of a report, or finds the image of one whose grant is not known any more. `None`: not this node's.
    fn close(
        &mut self,
        now: Now,
        node: NodeId,
        token: u64,
        reference: &str,
        pull_ms: u64,
    ) -> Option<(ImageId, Duration)> {
        let ran = now.mono.saturating_sub(Duration::from_millis(pull_ms));
        match self.grants.get(&token) {
            Some(grant) if grant.node != node => None,
            Some(_) => {
                let grant = self.end_grant(now, token)?;
                Some((grant.image, grant.started.unwrap_or(grant.given)))
            }
            None => Some((self.images.id(reference)?, ran)),
        }
    }

    /// Whether some node has had the image: then one that is refused may be the exception.
    fn was_had(&self, token: u64) -> bool {
        self.grants
            .get(&token)
            .and_then(|grant| self.images.get(grant.image))
            .is_some_and(|image| image.probe.is_proven())
    }

    fn backoff_of(&self, token: u64, reference: &str, node: NodeId) -> Backoff {
        let key = match self.grants.get(&token) {
            Some(grant) => grant.policy.clone(),
            None => self
                .images
                .id(reference)
                .map(|image| self.policy_of(image, node))
                .unwrap_or_default(),
        };
        self.policies
            .get(&key)
            .map(|policy| policy.limits.backoff)
            .unwrap_or_default()
    }

    fn pause_node(
        &mut self,
        now: Now,
        id: NodeId,
        class: FailureClass,
        message: &str,
        backoff: Backoff,
    ) {
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        let attempts = node.pause.as_ref().map_or(0, |pause| pause.attempts) + 1;
        let until = now.mono + backoff.jittered(attempts, &node.name);
        node.pause = Some(Pause {
            until,
            attempts,
            class,
            message: message.to_owned(),
        });
        self.wake(until, Wake::Node(id));
        self.relieve_checker(id);
        self.refresh_free(now, id);
        self.mark_node(now, id);
    }

    pub(crate) fn end_pause(&mut self, now: Now, node: NodeId) {
        self.refresh_free(now, node);
        self.unsettled = true;
    }

    pub(crate) fn retry_pair(&mut self, now: Now, image: ImageId, node: NodeId) {
        let Some(image) = self.images.get_mut(image) else {
            return;
        };
        if image
            .failures
            .get(&node)
            .is_none_or(|failure| failure.retry <= now.mono)
        {
            image.blocked.remove(node);
            self.unsettled = true;
        }
    }
}
