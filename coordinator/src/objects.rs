//! What changes in the API server: nodes, images, policies, and the plan that follows from them.

use std::time::Duration;

use drop_api::{CachedImageStatus, ImagePullPolicy, PullPolicySpec};
use drop_oci::reference::Reference;
use jiff::Timestamp;

use crate::cached_image::writer::Record;
use crate::core::{Change, Core, Now, Wake};
use crate::image::{Failure, Image, ImageId, Probe};
use crate::index::{ImageObject, Object};
use crate::node_set::{NodeId, NodeSet};
use crate::pacing::backoff::Backoff;
use crate::pacing::policy::{BUILT_IN, Limits, Policy};
use crate::plan::{self, Choice, NodeFacts};

/// The fields of a PullPolicy as limits. Values that admission would have refused become the nearest allowed ones.
#[must_use]
pub fn limits(spec: &PullPolicySpec) -> Limits {
    let initial = spec.failure_backoff.initial.get();
    Limits {
        max_nodes: u32::try_from(spec.max_concurrent_nodes).unwrap_or(1).max(1),
        max_pulls: spec
            .max_concurrent_pulls
            .and_then(|max| u32::try_from(max).ok())
            .map(|max| max.max(1)),
        min_delay: spec.min_delay_between_pulls.get(),
        backoff: Backoff {
            initial,
            max: spec.failure_backoff.max.get().max(initial),
        },
        repull_interval: spec
            .repull_interval
            .as_ref()
            .map(|d| d.get())
            .filter(|d| !d.is_zero()),
        node_selector: spec.node_selector.clone(),
        tolerations: spec.tolerations.clone(),
    }
}

impl Core {
    pub(crate) fn node_changed(&mut self, now: Now, change: Change<NodeFacts>) {
        match change {
            Change::Applied(facts) => self.apply_node(now, facts),
            Change::Deleted(name) => self.delete_node(now, &name),
            Change::Replaced(all) => {
                self.synced.nodes = true;
                let gone: Vec<String> = self
                    .nodes
                    .iter()
                    .filter(|(_, node)| {
                        node.facts.is_some() && !all.iter().any(|f| f.name == node.name)
                    })
                    .map(|(_, node)| node.name.clone())
                    .collect();
                for name in gone {
                    self.delete_node(now, &name);
                }
                for facts in all {
                    self.apply_node(now, facts);
                }
                self.begin(now);
            }
        }
    }

    fn apply_node(&mut self, now: Now, facts: NodeFacts) {
        let id = self.nodes.intern(&facts.name);
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        if node.facts.as_ref() == Some(&facts) {
            return;
        }
        if node.session.is_none() && node.lost_at.is_none() {
            node.lost_at = Some(now.mono);
            self.wake(now.mono + self.config.agent_grace, Wake::Grace(id));
        }
        if let Some(node) = self.nodes.get_mut(id) {
            node.facts = Some(facts);
        }
        let names: Vec<String> = self.objects.keys().cloned().collect();
        for name in names {
            self.retarget(now, &name, Some(id));
        }
    }

    fn delete_node(&mut self, now: Now, name: &str) {
        let Some(id) = self.nodes.id(name) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(id) {
            node.facts = None;
        }
        let names: Vec<String> = self.objects.keys().cloned().collect();
        for name in names {
            self.retarget(now, &name, Some(id));
        }
        self.forget_node_if_gone(now, id);
    }

    /// A place is free again when there is neither an object nor an agent of that name.
    pub(crate) fn forget_node_if_gone(&mut self, now: Now, id: NodeId) {
        let Some(node) = self.nodes.get(id) else {
            return;
        };
        if node.facts.is_some() || node.session.is_some() {
            return;
        }
        for token in node.grants.clone() {
            self.end_grant(now, token);
        }
        for (_, image) in self.images.iter_mut() {
            image.forget(id);
        }
        for policy in self.policies.values_mut() {
            policy.forget_node(id);
        }
        self.free.remove(id);
        self.stale.remove(&id);
        self.nodes.remove(id);
    }

    pub(crate) fn image_changed(&mut self, now: Now, change: Change<ImageObject>) {
        match change {
            Change::Applied(facts) => self.apply_image(now, facts),
            Change::Deleted(name) => self.delete_image(now, &name),
            Change::Replaced(all) => {
                self.synced.images = true;
                let gone: Vec<String> = self
                    .objects
                    .keys()
                    .filter(|name| !all.iter().any(|facts| &facts.name == *name))
                    .cloned()
                    .collect();
                for name in gone {
                    self.delete_image(now, &name);
                }
                for facts in all {
                    self.apply_image(now, facts);
                }
                self.begin(now);
            }
        }
    }

    fn apply_image(&mut self, now: Now, facts: ImageObject) {
        let name = facts.name.clone();
        if let Some(object) = self.objects.get_mut(&name) {
            if object.facts.uid != facts.uid {
                self.delete_image(now, &name);
            } else if object.facts.generation == facts.generation && object.facts.spec == facts.spec
            {
                let moved = object
                    .record
                    .seen(facts.resource_version, facts.status.clone());
                object.facts.status = None;
                if moved {
                    self.mark(now, &name);
                }
                return;
            }
        }
        self.adopt(now, facts);
    }

    /// Takes in a new or edited CachedImage.
    fn adopt(&mut self, now: Now, mut facts: ImageObject) {
        let name = facts.name.clone();
        let status = facts.status.take();
        let former = self.objects.remove(&name);
        if let Some(former) = &former {
            self.order
                .remove(&(former.facts.spec.priority.unwrap_or(0), name.clone()));
        }
        let image = self.image_of(&facts);
        let former_image = former.as_ref().and_then(|f| f.image.clone().ok());
        let same_image = former.is_some() && former_image == image.clone().ok();
        let mut object = Object {
            image: image.clone(),
            policy: BUILT_IN.to_owned(),
            policy_missing: false,
            targets: former
                .as_ref()
                .map(|f| f.targets.clone())
                .unwrap_or_default(),
            ready: former
                .as_ref()
                .map_or_else(|| status.as_ref().map_or(0, |s| s.nodes_ready), |f| f.ready),
            consecutive_failures: 0,
            last_pulled: None,
            last_attempted: None,
            remembered: std::collections::BTreeSet::new(),
            record: Record::default(),
            facts,
        };
        match former {
            Some(former) => {
                object.record = former.record;
                object
                    .record
                    .seen(object.facts.resource_version, status.clone());
                if same_image {
                    object.consecutive_failures = former.consecutive_failures;
                    object.last_pulled = former.last_pulled;
                    object.last_attempted = former.last_attempted;
                    object.remembered = former.remembered;
                } else {
                    object.targets = NodeSet::default();
                }
            }
            None => object.record = Record::new(object.facts.resource_version, status.clone()),
        }
        self.order
            .insert((object.facts.spec.priority.unwrap_or(0), name.clone()));
        self.objects.insert(name.clone(), object);

        if !same_image && let Some(id) = former_image {
            self.leave_image(now, id, &name);
        }
        if let Ok(id) = image {
            if let Some(image) = self.images.get_mut(id) {
                image.objects.insert(name.clone());
            }
            if same_image {
                self.retry_image(now, id);
            } else {
                self.restore(now, id, &name, status.as_ref());
            }
        }
        self.retarget(now, &name, None);
        self.mark(now, &name);
    }

    fn image_of(&mut self, facts: &ImageObject) -> Result<ImageId, String> {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (tag, digest) = (set(&facts.spec.tag), set(&facts.spec.digest));
        let reference = Reference::from_parts(&facts.spec.image, tag.as_deref(), digest.as_deref())
            .map_err(|error| error.to_string())?;
        let text = reference.to_string();
        let (id, _) = self.images.intern(&text, || {
            Image::new(text.clone(), reference.host().to_owned(), digest)
        });
        Ok(id)
    }

    /// Learns from a status that an earlier process wrote for this spec; otherwise the tag is to be checked.
    fn restore(&mut self, now: Now, id: ImageId, name: &str, status: Option<&CachedImageStatus>) {
        let Some(object) = self.objects.get_mut(name) else {
            return;
        };
        let always = object.facts.spec.image_pull_policy == ImagePullPolicy::Always;
        let status = status.filter(|s| s.observed_generation == object.facts.generation);
        let mut checked = None;
        if let Some(status) = status {
            object.consecutive_failures = status.consecutive_failures;
            object.last_pulled = status.last_pulled_at.as_ref().map(|t| t.0);
            object.last_attempted = status.last_attempted_at.as_ref().map(|t| t.0);
            object.remembered = status.cached_nodes.iter().cloned().collect();
            checked = status.last_checked_at.as_ref().map(|t| t.0);
        }
        let Some(image) = self.images.get_mut(id) else {
            return;
        };
        if let Some(digest) = status.and_then(|s| s.resolved_digest.as_ref()) {
            image.restore(digest, checked);
        }
        image.size_bytes = image
            .size_bytes
            .or(status.and_then(|s| u64::try_from(s.size_bytes?).ok()));
        let fresh = image.check.last.is_some() && checked.is_some();
        if always && !image.pinned && !fresh && image.check.due.is_none() {
            image.check.due = Some(now.mono);
        }
        if let Some(status) = status {
            self.restore_failures(now, id, status);
        }
        self.plan_check(now, id);
    }

    /// Waits that a former leader had promised are kept.
    fn restore_failures(&mut self, now: Now, id: ImageId, status: &CachedImageStatus) {
        let mut first_retry: Option<Duration> = None;
        let mut waiting = Vec::new();
        for exception in &status.nodes {
            let Some(retry) = exception
                .next_retry
                .as_ref()
                .map(|t| t.0)
                .filter(|t| *t > now.wall)
            else {
                continue;
            };
            let Some(node) = self.nodes.id(&exception.node) else {
                continue;
            };
            let wait = Duration::try_from(retry.duration_since(now.wall)).unwrap_or_default();
            let failure = Failure {
                class: crate::cached_image::reasons::class_of(&exception.reason),
                message: exception.message.clone(),
                attempts: u32::try_from(exception.attempts).unwrap_or(1),
                since: exception.since.as_ref().map_or(now.wall, |t| t.0),
                at: now.mono,
                retry: now.mono + wait,
            };
            first_retry = Some(first_retry.map_or(failure.retry, |r| r.min(failure.retry)));
            waiting.push((node, failure));
        }
        let Some(image) = self.images.get_mut(id) else {
            return;
        };
        let mut wakes = Vec::new();
        for (node, failure) in waiting {
            image.blocked.insert(node);
            wakes.push((failure.retry, Wake::Retry(id, node)));
            image.failures.entry(node).or_insert(failure);
        }
        if let Some(until) = first_retry
            && image.probe != Probe::Proven
        {
            image.probe = Probe::Waiting { until };
            wakes.push((until, Wake::Schedule));
        }
        for (at, wake) in wakes {
            self.wake(at, wake);
        }
    }

    /// The user has edited the object: whatever waited because of it is tried again now.
    fn retry_image(&mut self, now: Now, id: ImageId) {
        let Some(image) = self.images.get_mut(id) else {
            return;
        };
        if let Probe::Waiting { .. } = image.probe {
            image.probe = Probe::Unproven;
        }
        image.foreign_platforms.clear();
        image.blocked = NodeSet::default();
        for failure in image.failures.values_mut() {
            failure.retry = now.mono;
        }
        let always = image.objects.iter().any(|name| {
            self.objects
                .get(name)
                .is_some_and(|o| o.facts.spec.image_pull_policy == ImagePullPolicy::Always)
        });
        if always && image.never_checked() && image.check.due.is_none() {
            image.check.due = Some(now.mono);
        }
        self.unsettled = true;
    }

    fn delete_image(&mut self, now: Now, name: &str) {
        let Some(object) = self.objects.remove(name) else {
            return;
        };
        self.order
            .remove(&(object.facts.spec.priority.unwrap_or(0), name.to_owned()));
        if let Ok(id) = object.image {
            self.leave_image(now, id, name);
        }
    }

    /// The object does not want the image any more.
    fn leave_image(&mut self, now: Now, id: ImageId, name: &str) {
        if let Some(image) = self.images.get_mut(id) {
            image.objects.remove(name);
        }
        self.retarget_image(now, id);
        self.idle_images.insert(id);
    }

    pub(crate) fn drop_idle_images(&mut self) {
        for id in std::mem::take(&mut self.idle_images) {
            if self.images.get(id).is_some_and(|image| !image.is_in_use()) {
                self.images.remove(id);
            }
        }
    }

    pub(crate) fn policy_changed(&mut self, now: Now, change: Change<(String, Limits)>) {
        match change {
            Change::Applied((name, limits)) => self.apply_policy(now, name, Some(limits)),
            Change::Deleted(name) => self.apply_policy(now, name, None),
            Change::Replaced(all) => {
                self.synced.policies = true;
                let gone: Vec<String> = self
                    .policies
                    .keys()
                    .filter(|name| *name != BUILT_IN && !all.iter().any(|(n, _)| n == *name))
                    .cloned()
                    .collect();
                for name in gone {
                    self.apply_policy(now, name, None);
                }
                for (name, limits) in all {
                    self.apply_policy(now, name, Some(limits));
                }
                self.begin(now);
            }
        }
    }

    fn apply_policy(&mut self, now: Now, name: String, limits: Option<Limits>) {
        match limits {
            Some(limits) => {
                let policy = self.policies.entry(name.clone()).or_default();
                policy.exists = true;
                if policy.limits == limits {
                    return;
                }
                policy.limits = limits;
            }
            None => {
                if let Some(policy) = self.policies.get_mut(&name) {
                    policy.exists = false;
                }
                self.drop_idle_policy(&name);
            }
        }
        let users: Vec<String> = self
            .objects
            .iter()
            .filter(|(_, o)| {
                o.facts
                    .spec
                    .policy_ref
                    .as_ref()
                    .is_some_and(|r| r.name == name)
            })
            .map(|(user, _)| user.clone())
            .collect();
        for user in users {
            self.retarget(now, &user, None);
            self.mark(now, &user);
            let image = self.objects.get(&user).and_then(|o| o.image.clone().ok());
            if let Some(image) = image {
                self.plan_check(now, image);
            }
        }
        self.unsettled = true;
    }

    /// A deleted policy stays until the pulls under it have ended.
    pub(crate) fn drop_idle_policy(&mut self, name: &str) {
        if name != BUILT_IN
            && self
                .policies
                .get(name)
                .is_some_and(|p| !p.exists && p.is_idle())
        {
            self.policies.remove(name);
        }
    }

    /// Works out again on which nodes an object is wanted: on one node, or on all.
    fn retarget(&mut self, now: Now, name: &str, only: Option<NodeId>) {
        if !self.synced.all() {
            return;
        }
        let Some(object) = self.objects.get_mut(name) else {
            return;
        };
        let wanted_policy = object
            .facts
            .spec
            .policy_ref
            .as_ref()
            .map(|r| r.name.clone());
        object.policy_missing = wanted_policy
            .as_ref()
            .is_some_and(|p| !self.policies.get(p).is_some_and(|p| p.exists));
        object.policy = wanted_policy
            .filter(|_| !object.policy_missing)
            .unwrap_or_else(|| BUILT_IN.to_owned());
        let default = Policy::default();
        let policy = self.policies.get(&object.policy).unwrap_or(&default);
        let (image, policy) = choices(&object.facts, &policy.limits);
        let mut changed = false;
        match only {
            Some(id) => {
                let wanted = self
                    .nodes
                    .get(id)
                    .and_then(|node| node.facts.as_ref())
                    .is_some_and(|facts| plan::wanted_on(facts, image, policy));
                changed = object.targets.set(id, wanted);
            }
            None => {
                let mut targets = NodeSet::default();
                for (id, node) in self.nodes.iter() {
                    if node
                        .facts
                        .as_ref()
                        .is_some_and(|facts| plan::wanted_on(facts, image, policy))
                    {
                        targets.insert(id);
                    }
                }
                if !targets.iter().eq(object.targets.iter()) {
                    object.targets = targets;
                    changed = true;
                }
            }
        }
        let id = object.image.clone().ok();
        if changed {
            self.mark(now, name);
        }
        if let Some(id) = id {
            match only {
                Some(node) if changed => self.retarget_pair(now, id, node),
                Some(_) => {}
                None => self.retarget_image(now, id),
            }
        }
    }

    /// Works out again on which nodes any object wants the image.
    fn retarget_image(&mut self, now: Now, id: ImageId) {
        let Some(image) = self.images.get(id) else {
            return;
        };
        let mut nodes = image.targeted.clone();
        for name in &image.objects {
            if let Some(object) = self.objects.get(name) {
                nodes.union_with(&object.targets);
            }
        }
        for node in nodes.iter() {
            self.retarget_pair(now, id, node);
        }
    }

    fn retarget_pair(&mut self, _now: Now, id: ImageId, node: NodeId) {
        let Some(image) = self.images.get_mut(id) else {
            return;
        };
        let wanted = image.objects.iter().any(|name| {
            self.objects
                .get(name)
                .is_some_and(|object| object.targets.contains(node))
        });
        image.targeted.set(node, wanted);
        if !wanted {
            image.forget(node);
            if image.granted.contains(node) {
                self.revoke(id, node);
            }
        }
        self.stale.insert(node);
        self.unsettled = true;
    }

    /// Plans everything once the three watches have delivered their first lists.
    fn begin(&mut self, now: Now) {
        if !self.synced.all() {
            return;
        }
        if self.started.is_none() {
            self.started = Some(now.mono);
            self.wake(now.mono + self.config.grant_ttl, Wake::Schedule);
            // Failures are by node, and the nodes may have come after the images.
            let restored: Vec<(ImageId, CachedImageStatus)> = self
                .objects
                .values()
                .filter_map(|o| {
                    Some((
                        o.image.clone().ok()?,
                        o.record.written()?.clone(),
                        o.facts.generation,
                    ))
                })
                .filter(|(_, status, generation)| status.observed_generation == *generation)
                .map(|(id, status, _)| (id, status))
                .collect();
            for (id, status) in restored {
                self.restore_failures(now, id, &status);
            }
            let held = now.mono + self.config.agent_grace;
            for name in self.objects.keys().cloned().collect::<Vec<_>>() {
                self.wake(held, Wake::Status(name));
            }
        }
        let names: Vec<String> = self.objects.keys().cloned().collect();
        for name in names {
            self.retarget(now, &name, None);
            self.mark(now, &name);
        }
    }

    /// Sets the alarm for the tag's next check.
    pub(crate) fn plan_check(&mut self, now: Now, id: ImageId) {
        if let Some(at) = self.next_check(now, id) {
            self.wake(at, Wake::Check(id));
        }
    }

    fn next_check(&self, now: Now, id: ImageId) -> Option<Duration> {
        let image = self.images.get(id)?;
        if image.pinned || image.check.due.is_some() {
            return None;
        }
        let last: Timestamp = image.check.last?;
        let interval = image
            .objects
            .iter()
            .filter_map(|name| self.objects.get(name))
            .filter(|object| object.facts.spec.image_pull_policy == ImagePullPolicy::Always)
            .filter_map(|object| self.policies.get(&object.policy)?.limits.repull_interval)
            .min()?;
        let passed = Duration::try_from(now.wall.duration_since(last)).unwrap_or_default();
        Some(now.mono + interval.saturating_sub(passed))
    }

    pub(crate) fn check_tag(&mut self, now: Now, id: ImageId) {
        match self.next_check(now, id) {
            Some(at) if at <= now.mono => {
                if let Some(image) = self.images.get_mut(id) {
                    image.check.due = Some(now.mono);
                }
                self.unsettled = true;
            }
            Some(at) => self.wake(at, Wake::Check(id)),
            None => {}
        }
    }
}

/// The two sides of the choice of nodes.
pub(crate) fn choices<'a>(facts: &'a ImageObject, limits: &'a Limits) -> (Choice<'a>, Choice<'a>) {
    (
        Choice {
            selector: &facts.spec.node_selector,
            tolerations: &facts.spec.tolerations,
        },
        Choice {
            selector: &limits.node_selector,
            tolerations: &limits.tolerations,
        },
    )
}
