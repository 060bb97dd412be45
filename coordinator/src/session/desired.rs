//! What a node should hold: worked out from the objects that want something there, and sent as changes.

use std::sync::Arc;

use drop_api::ImagePullPolicy;

use crate::core::{Core, Output};
use crate::image::{ImageId, Told};
use crate::node_set::NodeId;
use crate::session::message::{Desired, Message};

impl Core {
    /// Sends each node of which something may have changed what really did.
    pub(crate) fn tell_nodes(&mut self) {
        if !self.synced.all() {
            return;
        }
        for node in std::mem::take(&mut self.greeted) {
            let images = self.images.iter();
            let targeted = images.filter(|(_, image)| image.targeted.contains(node));
            let all: Vec<ImageId> = targeted.map(|(id, _)| id).collect();
            self.tell(node, &all);
        }
        let stale: Vec<(NodeId, ImageId)> = std::mem::take(&mut self.stale).into_iter().collect();
        for changes in stale.chunk_by(|(a, _), (b, _)| a == b) {
            if let Some((node, _)) = changes.first() {
                let images: Vec<ImageId> = changes.iter().map(|(_, image)| *image).collect();
                self.tell(*node, &images);
            }
        }
    }

    /// Tells a node what has changed about these images. The first time in a session they are all that it should hold.
    fn tell(&mut self, node: NodeId, images: &[ImageId]) {
        let mut changed = Vec::new();
        if self.nodes.get(node).is_none_or(|n| n.session.is_none()) {
            return;
        }
        let wanted: Vec<_> = images
            .iter()
            .map(|id| (*id, self.wanted(*id, node)))
            .collect();
        let Some(session) = self.nodes.get_mut(node).and_then(|n| n.session.as_mut()) else {
            return;
        };
        let mut dropped = std::mem::take(&mut session.dropped);
        for (id, want) in wanted {
            let former = match &want {
                Some(want) => session.told.insert(id, Arc::clone(want)),
                None => session.told.remove(&id),
            };
            if former == want {
                continue;
            }
            if let Some(had) = former
                && want
                    .as_ref()
                    .is_none_or(|want| want.reference != had.reference)
            {
                dropped.insert(had.reference.clone());
            }
            changed.extend(want);
        }
        let complete = session.revision == 0;
        if !complete && changed.is_empty() && dropped.is_empty() {
            return;
        }
        session.revision += 1;
        let desired = Desired {
            revision: session.revision,
            complete,
            images: changed,
            dropped: dropped.into_iter().collect(),
        };
        self.outputs
            .push(Output::Send(session.id, Message::Desired(desired)));
    }

    /// The strictest of what the objects want there: the newest digest over any, and the most urgent priority. Nodes that are
    /// told the same share it: thousands of nodes times dozens of images would fill the memory with copies.
    fn wanted(&mut self, id: ImageId, node: NodeId) -> Option<Arc<Told>> {
        let image = self.images.get(id)?;
        if !image.targeted.contains(node) {
            return None;
        }
        let wanting = || {
            image
                .objects
                .iter()
                .filter_map(|name| self.objects.get(name))
                .filter(|object| object.targets.contains(node))
                .map(|object| &object.facts.spec)
        };
        let policy = wanting()
            .map(|spec| strictness(spec.image_pull_policy))
            .max()?;
        let pull_policy = match policy {
            0 => drop_proto::ImagePullPolicy::Never,
            1 => drop_proto::ImagePullPolicy::IfNotPresent,
            _ => drop_proto::ImagePullPolicy::Always,
        };
        let priority = wanting()
            .map(|spec| spec.priority.unwrap_or(0))
            .min()
            .unwrap_or(0);
        let checks = image.check.checker == Some(node);
        let check = if checks { image.check.number } else { 0 };
        // A digest that was not checked since the image was wanted is not yet what the tag names.
        let digest = image.expected.as_deref().filter(|_| !image.never_checked());
        let expected_digest = digest.unwrap_or_default();
        let platform = self.nodes.get(node).map(|n| n.runtime.platform.as_str());
        let compressed_bytes = image
            .inquiry
            .compressed_bytes(image.expected.as_deref(), platform.unwrap_or_default());
        let known = image.told.iter().find(|told| {
            told.expected_digest == expected_digest
                && (told.pull_policy, told.priority, told.check) == (pull_policy, priority, check)
                && told.compressed_bytes == compressed_bytes
        });
        if let Some(known) = known {
            return Some(Arc::clone(known));
        }
        let told = Arc::new(Told {
            reference: image.reference.clone(),
            pull_policy,
            expected_digest: expected_digest.to_owned(),
            priority,
            check,
            compressed_bytes,
        });
        let image = self.images.get_mut(id)?;
        image.told.retain(|told| Arc::strong_count(told) > 1);
        image.told.push(Arc::clone(&told));
        Some(told)
    }
}

fn strictness(policy: ImagePullPolicy) -> u8 {
    match policy {
        ImagePullPolicy::Never => 0,
        ImagePullPolicy::IfNotPresent => 1,
        ImagePullPolicy::Always => 2,
    }
}
