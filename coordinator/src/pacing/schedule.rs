//! Who gets the next grants.
//!
//! Images in order of priority and name; for each, the nodes that ask for it, in turn. A pull starts where the image's probe,
//! its registry host, its policy and the node all have room; an image that must wait does not hold back the next one.
//!
//! Under one policy, pulls that failed before take turns with others: images that fail again and again, each time for as long
//! as a pull may take, would else keep a narrow policy to themselves.

use std::time::Duration;

use drop_api::ImagePullPolicy;

use crate::core::{Core, Now, Order, Output, Wake};
use crate::image::ImageId;
use crate::index::Object;
use crate::node_set::{NodeId, NodeSet};
use crate::pacing::policy::BUILT_IN;
use crate::pacing::{Grant, host, policy};
use crate::session::message::Message;

impl Core {
    pub(crate) fn schedule(&mut self, now: Now) {
        if !self.may_grant(now) {
            return;
        }
        self.choose_checkers(now);
        let order = std::mem::take(&mut self.order);
        self.grant_in(now, &order);
        self.order = order;
    }

    fn grant_in(&mut self, now: Now, order: &Order) {
        let mut yielding = Vec::new();
        let mut kept = NodeSet::default();
        for ((_, name), image) in order {
            while !self.free.is_empty()
                && let Some(node) = self.next_node(now, name, *image, &kept)
            {
                if let Some(since) = self.yields(name, *image, node) {
                    yielding.push((since, name, *image));
                    break;
                }
                self.grant(now, name, *image, node);
            }
            self.keep_turn(now, name, *image, &mut kept);
        }
        yielding.sort_unstable();
        for (_, name, image) in yielding {
            while !self.free.is_empty()
                && let Some(node) = self.next_node(now, name, image, &kept)
            {
                self.grant(now, name, image, node);
            }
        }
    }

    /// While a registry is asked about an image, the nodes that ask for it are kept free of those that come after it.
    fn keep_turn(&mut self, now: Now, name: &str, id: ImageId, kept: &mut NodeSet) {
        let (Some(image), Some(object)) = (self.images.get(id), self.objects.get(name)) else {
            return;
        };
        let Some(until) = self.keeps_turn(image).filter(|until| now.mono < *until) else {
            return;
        };
        let mut nodes = image.asked.clone();
        nodes.intersect_with(&self.free);
        nodes.intersect_with(&object.targets);
        nodes.subtract(&image.blocked);
        if !nodes.is_empty() {
            kept.union_with(&nodes);
            self.wake(until, Wake::Schedule);
        }
    }

    /// Since when the pull could be tried again, if it failed before and the policy's last one had as well: it is another's turn.
    fn yields(&self, name: &str, image: ImageId, node: NodeId) -> Option<Duration> {
        let policy = self.policies.get(&self.objects.get(name)?.policy)?;
        if !policy.retried {
            return None;
        }
        self.images.get(image)?.failed_until(node)
    }

    /// A new process grants nothing until each grant that may be out is known: every target node's agent has said what it
    /// holds, or one TTL has passed. One that may not lead any more grants nothing at all.
    fn may_grant(&mut self, now: Now) -> bool {
        let leads = !self.stopping && now.mono < self.leads_until;
        let Some(started) = self.started.filter(|_| leads) else {
            return false;
        };
        self.settled = self.settled
            || now.mono >= started + self.config.grant_ttl
            || self
                .objects
                .values()
                .all(|object| object.targets.iter().all(|node| self.has_reported(node)));
        self.settled
    }

    /// The first node that may pull the object's image now, but for those `kept` free for other images.
    fn next_node(&mut self, now: Now, name: &str, id: ImageId, kept: &NodeSet) -> Option<NodeId> {
        let image = self.images.get(id)?;
        // For most images on most calls this is all that is looked at.
        if !image.asked.intersects(&self.free) {
            return None;
        }
        if self.unread_secret(image).is_some() {
            return None;
        }
        let object = self.objects.get(name).filter(|object| pulls(object))?;
        if let Some(until) = image.probe.waits_until(now.mono) {
            self.wake(until, Wake::Schedule);
            return None;
        }
        if !image.probe.admits(now.mono) {
            return None;
        }
        if self.awaits_registry(image) {
            return None;
        }
        if let Some(refusal) = image.inquiry.refusal().filter(|r| r.retry > now.mono) {
            self.wake(refusal.retry, Wake::Schedule);
            return None;
        }
        let mut candidates = image.asked.clone();
        candidates.intersect_with(&self.free);
        candidates.subtract(&image.granted);
        candidates.subtract(&image.blocked);
        if image.check.due.is_none() && !image.never_checked() {
            // An ask may cross with the word that the node holds what the tag names.
            candidates.subtract(&image.current);
        }
        let mut alarm = None;
        for (platform, until) in &image.foreign_platforms {
            if *until > now.mono {
                candidates.subtract(&self.nodes_of(platform));
                alarm = Some(*until);
            }
        }
        for platform in image.inquiry.foreign_platforms(image.expected.as_deref()) {
            candidates.subtract(&self.nodes_of(platform));
        }
        if !image.probe.is_proven() {
            candidates = image.least_tried(candidates);
        }
        candidates.intersect_with(&object.targets);
        candidates.subtract(kept);
        if candidates.is_empty() {
            if let Some(until) = alarm {
                self.wake(until, Wake::Schedule);
            }
            return None;
        }
        let host = self.hosts.get(&image.host);
        match host.map_or(host::Admission::Open, |host| {
            host.admits(now.mono, self.config.registry_budget)
        }) {
            host::Admission::Open => {}
            host::Admission::Trial(complainer) => {
                if let Some(node) = complainer
                    && candidates.len() > 1
                {
                    candidates.remove(node);
                }
            }
            host::Admission::Busy => return None,
            host::Admission::Until(until) => {
                self.wake(until, Wake::Schedule);
                return None;
            }
        }
        let policy = self.policies.get(&object.policy)?;
        match policy.admits(now.mono) {
            policy::Admission::Any => {}
            policy::Admission::Only(node, until) => {
                candidates.intersect_with(&NodeSet::from_iter([node]));
                self.wake(until, Wake::Schedule);
            }
            policy::Admission::Running => {
                candidates.intersect_with(policy.nodes());
            }
            policy::Admission::Full => return None,
        }
        let node = candidates.next_after(self.cursor)?;
        if self.awaits_contents(now, id, node, &candidates) {
            return None;
        }
        Some(node)
    }

    fn nodes_of(&self, platform: &str) -> NodeSet {
        self.nodes
            .iter()
            .filter(|(_, node)| node.runtime.platform == platform)
            .map(|(id, _)| id)
            .collect()
    }

    fn grant(&mut self, now: Now, name: &str, image_id: ImageId, node_id: NodeId) {
        let token = self.fresh_token();
        let credentials = self
            .images
            .get(image_id)
            .map_or_else(Vec::new, |image| self.credentials(image, node_id));
        let (Some(object), Some(image), Some(node)) = (
            self.objects.get(name),
            self.images.get_mut(image_id),
            self.nodes.get_mut(node_id),
        ) else {
            return;
        };
        let Some(session) = &node.session else { return };
        let limits = self.policies.get(&object.policy).map(|p| &p.limits);
        let timeout = limits.and_then(|limits| limits.pull_timeout);
        let message = drop_proto::Grant {
            token,
            reference: image.reference.clone(),
            ttl_ms: u32::try_from(self.config.grant_ttl.as_millis()).unwrap_or(u32::MAX),
            timeout_ms: timeout.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            credentials,
        };
        self.outputs
            .push(Output::Send(session.id, Message::Grant(message)));
        self.cursor = node_id;
        let is_retry = image.failed_until(node_id).is_some();
        node.grants.push(token);
        image.granted.insert(node_id);
        image.probe.granted(token);
        self.hosts
            .entry(image.host.clone())
            .or_default()
            .started(token);
        let policy = object.policy.clone();
        if let Some(policy) = self.policies.get_mut(&policy) {
            policy.started(now.mono, node_id);
            policy.retried = is_retry;
        }
        let expires = now.mono + self.config.grant_ttl;
        self.grants.insert(
            token,
            Grant {
                image: image_id,
                node: node_id,
                policy,
                given: now.mono,
                expires,
                started: None,
                revoked: false,
            },
        );
        self.wake(expires, Wake::Expiry(token));
        self.refresh_free(now, node_id);
        self.mark_image(now, image_id);
    }

    /// Never 0, and never one that a grant of a former term has.
    fn fresh_token(&mut self) -> u64 {
        while self.next_token == 0 || self.grants.contains_key(&self.next_token) {
            self.next_token = self.next_token.wrapping_add(1);
        }
        let token = self.next_token;
        self.next_token = token.wrapping_add(1);
        token
    }

    /// Key of the policy under which a pull of the image on the node counts.
    pub(crate) fn policy_of(&self, image: ImageId, node: NodeId) -> String {
        self.order
            .iter()
            .filter(|(_, wanted)| **wanted == image)
            .filter_map(|((_, name), _)| self.objects.get(name))
            .find(|object| pulls(object) && object.targets.contains(node))
            .map_or_else(|| BUILT_IN.to_owned(), |object| object.policy.clone())
    }

    /// Nothing wants the image on that node any more: a pull that runs there is to stop.
    pub(crate) fn revoke(&mut self, image: ImageId, node: NodeId) {
        let Some((token, grant)) = self
            .grants
            .iter_mut()
            .find(|(_, g)| g.image == image && g.node == node && !g.revoked)
        else {
            return;
        };
        grant.revoked = true;
        let token = *token;
        if let Some(session) = self.nodes.get(node).and_then(|n| n.session.as_ref()) {
            self.revokes
                .push(Output::Send(session.id, Message::Revoke { token }));
        }
    }
}

/// An object that never pulls lends its policy to nobody.
fn pulls(object: &Object) -> bool {
    object.facts.spec.image_pull_policy != ImagePullPolicy::Never
}
