//! When a tag is asked for again, and by which node.

use std::time::Duration;

use drop_api::ImagePullPolicy;
use jiff::Timestamp;

use crate::core::{Core, Now, Wake};
use crate::image::ImageId;
use crate::node_set::{NodeId, NodeSet};

impl Core {
    /// Sets the alarm for the tag's next check.
    pub(crate) fn plan_check(&mut self, now: Now, id: ImageId) {
        if let Some(at) = self.next_check(now, id) {
            self.wake(at, Wake::Check(id));
        }
    }

    /// When the tag is to be checked next, if its interval says so.
    pub(crate) fn next_check(&self, now: Now, id: ImageId) -> Option<Duration> {
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

    /// Where a tag is to be checked and no node needs the image anyway, one that holds it is asked to.
    pub(crate) fn choose_checkers(&mut self, now: Now) {
        let due: Vec<ImageId> = self
            .images
            .iter()
            .filter(|(_, image)| {
                image.check.due.is_some()
                    && image.check.checker.is_none()
                    && image.check.not_before <= now.mono
                    && image.granted.is_empty()
                    && !self.awaits_registry(image)
            })
            .map(|(id, _)| id)
            .collect();
        if due.is_empty() {
            return;
        }
        let able: NodeSet = self
            .nodes
            .iter()
            .filter(|(_, node)| {
                node.runtime.available
                    && !node.facts.as_ref().is_some_and(|f| f.disk_pressure)
                    && node.session.as_ref().is_some_and(|s| s.inventoried)
                    && node
                        .pause
                        .as_ref()
                        .is_none_or(|pause| pause.until <= now.mono)
            })
            .map(|(id, _)| id)
            .collect();
        for id in due {
            self.choose_checker(id, &able);
        }
    }

    /// The node cannot check now. Its trouble must not leave tags unchecked: other nodes are asked to.
    pub(crate) fn relieve_checker(&mut self, node: NodeId) {
        for (id, image) in self.images.iter_mut() {
            if image.check.checker == Some(node) {
                image.check.checker = None;
                self.stale.insert((node, id));
                self.unsettled = true;
            }
        }
    }

    fn choose_checker(&mut self, id: ImageId, able: &NodeSet) {
        let Some(image) = self.images.get(id) else {
            return;
        };
        let mut askers = image.asked.clone();
        let mut holders = image.present.clone();
        holders.intersect_with(&image.targeted);
        for set in [&mut askers, &mut holders] {
            set.intersect_with(able);
            set.subtract(&image.blocked);
        }
        if !askers.is_empty() {
            return;
        }
        let able: NodeSet = holders
            .iter()
            .filter(|node| !image.refusals.contains_key(node))
            .filter(|node| self.wants_always(id, *node))
            .collect();
        let Some(node) = able.next_after(self.cursor) else {
            return;
        };
        if let Some(image) = self.images.get_mut(id) {
            image.check.number += 1;
            image.check.checker = Some(node);
        }
        self.stale.insert((node, id));
    }
}
