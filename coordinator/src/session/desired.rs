//! What a node should hold: worked out from the objects that want something there, and sent as changes.

use std::collections::BTreeMap;

use drop_api::ImagePullPolicy;
use drop_proto::{CoordinatorMessage, Desired, DesiredImage, coordinator_message};

use crate::core::{Core, Output};
use crate::image::{Image, ImageId};
use crate::index::Sent;
use crate::node_set::NodeId;

impl Core {
    /// Sends each node of which something may have changed what really did.
    pub(crate) fn tell_nodes(&mut self) {
        if !self.synced.all() {
            return;
        }
        for id in std::mem::take(&mut self.stale) {
            self.tell(id);
        }
    }

    fn tell(&mut self, id: NodeId) {
        let Some(former) = self
            .nodes
            .get(id)
            .and_then(|n| n.session.as_ref())
            .map(|s| (s.revision, &s.sent))
        else {
            return;
        };
        let (revision, sent) = former;
        let wanted: BTreeMap<ImageId, Sent> = self
            .images
            .iter()
            .filter(|(_, image)| image.targeted.contains(id))
            .filter_map(|(image_id, image)| Some((image_id, self.desired(image, id)?)))
            .collect();
        let complete = revision == 0;
        let images: Vec<DesiredImage> = wanted
            .iter()
            .filter(|(image, want)| sent.get(image) != Some(want))
            .map(|(_, want)| to_message(want))
            .collect();
        let dropped: Vec<String> = sent
            .iter()
            .filter(|(image, had)| {
                wanted
                    .get(image)
                    .is_none_or(|want| want.reference != had.reference)
            })
            .map(|(_, had)| had.reference.clone())
            .collect();
        if !complete && images.is_empty() && dropped.is_empty() {
            return;
        }
        let Some(session) = self.nodes.get_mut(id).and_then(|n| n.session.as_mut()) else {
            return;
        };
        session.revision += 1;
        session.sent = wanted;
        let desired = Desired {
            revision: session.revision,
            complete,
            images,
            dropped,
        };
        let message = CoordinatorMessage {
            kind: Some(coordinator_message::Kind::Desired(desired)),
        };
        self.outputs.push(Output::Send(session.id, message));
    }

    /// The strictest of what the objects want there: the newest digest over any, and the most urgent priority.
    fn desired(&self, image: &Image, node: NodeId) -> Option<Sent> {
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
        let priority = wanting()
            .map(|spec| spec.priority.unwrap_or(0))
            .min()
            .unwrap_or(0);
        let checks = image.check.checker == Some(node);
        Some(Sent {
            reference: image.reference.clone(),
            pull_policy: match policy {
                0 => drop_proto::ImagePullPolicy::Never,
                1 => drop_proto::ImagePullPolicy::IfNotPresent,
                _ => drop_proto::ImagePullPolicy::Always,
            } as i32,
            // A digest that was not checked since the image was wanted is not yet what the tag names.
            expected_digest: image
                .expected
                .clone()
                .filter(|_| !image.never_checked())
                .unwrap_or_default(),
            priority,
            check: if checks { image.check.number } else { 0 },
            compressed_bytes: image.compressed_bytes,
        })
    }
}

fn strictness(policy: ImagePullPolicy) -> u8 {
    match policy {
        ImagePullPolicy::Never => 0,
        ImagePullPolicy::IfNotPresent => 1,
        ImagePullPolicy::Always => 2,
    }
}

fn to_message(want: &Sent) -> DesiredImage {
    DesiredImage {
        reference: want.reference.clone(),
        pull_policy: want.pull_policy,
        expected_digest: want.expected_digest.clone(),
        priority: want.priority,
        check: want.check,
        compressed_bytes: want.compressed_bytes,
    }
}
