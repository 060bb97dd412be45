//! Keeps the plan current: on which nodes each object and each image is wanted.

use crate::core::{Core, Now};
use crate::image::ImageId;
use crate::index::ImageObject;
use crate::node_set::{NodeId, NodeSet};
use crate::pacing::policy::{BUILT_IN, Limits, Policy};
use crate::plan::{self, Choice};

impl Core {
    /// Works out again on which nodes an object is wanted: on one node, or on all.
    pub(crate) fn retarget(&mut self, now: Now, name: &str, only: Option<NodeId>) {
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
        if let Some(id) = only {
            let wanted = self
                .nodes
                .get(id)
                .and_then(|node| node.facts.as_ref())
                .is_some_and(|facts| plan::wanted_on(facts, image, policy));
            changed = object.targets.set(id, wanted);
        } else {
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
        let id = object.image.clone().ok();
        if changed {
            self.mark(now, name);
        }
        if let Some(id) = id {
            match only {
                Some(node) if changed => self.retarget_pair(id, node),
                Some(_) => {}
                None => {
                    self.retarget_image(id);
                    // Which policy applies, and with it the interval of checks, is only known now.
                    self.plan_check(now, id);
                }
            }
        }
    }

    /// Works out again on which nodes any object wants the image.
    pub(crate) fn retarget_image(&mut self, id: ImageId) {
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
            self.retarget_pair(id, node);
        }
    }

    fn retarget_pair(&mut self, id: ImageId, node: NodeId) {
        self.retargeted.insert((id, node));
    }

    /// Acts on what the whole input meant for a pair. Within one input an object may leave an image on a node and another
    /// one come for it; acting on the first half would forget what the node has said, and it would not say it again.
    pub(crate) fn settle_pairs(&mut self) {
        for (id, node) in std::mem::take(&mut self.retargeted) {
            self.settle_pair(id, node);
        }
    }

    fn settle_pair(&mut self, id: ImageId, node: NodeId) {
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
            let session = self.nodes.get_mut(node).and_then(|n| n.session.as_mut());
            if let Some(session) = session
                && let Some(told) = session.told.remove(&id)
            {
                session.dropped.insert(told.reference.clone());
            }
            if image.granted.contains(node) {
                self.revoke(id, node);
            }
        }
        self.stale.insert((node, id));
        self.unsettled = true;
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
