//! When a registry is asked, and what waits for its answer.

use std::collections::BTreeSet;

use drop_api::ImagePullPolicy;

use super::{About, Asked, Question};
use crate::core::{Core, Now, Output, Wake};
use crate::image::{Image, ImageId};
use crate::node_set::{NodeId, NodeSet};

/// Questions that are out to one host at a time. The rest wait here, where the first failure answers them all.
const AT_ONCE: u32 = 16;

impl Core {
    /// Asks what tags name whose checks are due.
    pub(crate) fn ask_registries(&mut self, now: Now) {
        let leads = !self.stopping && now.mono < self.leads_until;
        if !self.synced.all() || !leads {
            return;
        }
        let due: Vec<ImageId> = self
            .images
            .iter()
            .filter(|(_, image)| image.inquiry.out.is_none() && self.awaits_registry(image))
            .map(|(id, _)| id)
            .collect();
        for id in due {
            self.ask_for_tag(now, id);
        }
    }

    /// Whether the tag is to be checked, and the coordinator does that. Nothing is pulled meanwhile: the answer may be that
    /// nothing needs to be.
    pub(crate) fn awaits_registry(&self, image: &Image) -> bool {
        self.config.resolve_tags
            && image.check.due.is_some()
            && !image.inquiry.leaves_to_nodes(image.check.due)
            && self.wants_newest(image)
    }

    /// Whether a CachedImage wants what the tag names now on some node.
    fn wants_newest(&self, image: &Image) -> bool {
        let mut objects = image
            .objects
            .iter()
            .filter_map(|name| self.objects.get(name));
        !image.pinned
            && objects.any(|object| {
                object.facts.spec.image_pull_policy == ImagePullPolicy::Always
                    && !object.targets.is_empty()
            })
    }

    fn ask_for_tag(&mut self, now: Now, id: ImageId) {
        let Some(image) = self.images.get(id) else {
            return;
        };
        if image.inquiry.not_before > now.mono || self.unread_secret(image).is_some() {
            return;
        }
        let host = self.hosts.get(&image.host);
        if let Some(until) = host.and_then(|host| host.paused_until(now.mono)) {
            self.wake(until, Wake::Schedule);
            return;
        }
        if let Some(cause) = host.and_then(|host| host.is_out_of_reach(now.mono)) {
            let cause = cause.to_owned();
            self.leave_to_nodes(now, id, &cause);
            return;
        }
        self.ask_registry(id, About::Tag);
    }

    /// Whether a pull on the node has to wait for what the registry says of the image's contents, which is asked if it was not.
    /// `candidates` are the nodes that could pull.
    pub(crate) fn awaits_contents(
        &mut self,
        now: Now,
        id: ImageId,
        node: NodeId,
        candidates: &NodeSet,
    ) -> bool {
        let Some(image) = self.images.get(id) else {
            return false;
        };
        let is_known = image.pinned || self.wants_newest(image) && !image.never_checked();
        let Some(digest) = image.expected.clone().filter(|_| is_known) else {
            return false;
        };
        let platform_of = |node| {
            let node = self.nodes.get(node);
            node.map_or("", |node| node.runtime.platform.as_str())
        };
        let platform = platform_of(node);
        let host = self.hosts.get(&image.host);
        if !self.config.resolve_tags
            || platform.is_empty()
            || image.inquiry.left_to_nodes().is_some()
            || image.inquiry.knows_platform(&digest, platform)
            || host.is_some_and(|host| host.is_out_of_reach(now.mono).is_some())
        {
            return false;
        }
        if image.inquiry.out.is_none() {
            let platforms: BTreeSet<String> = candidates
                .iter()
                .map(|node| platform_of(node).to_owned())
                .filter(|platform| !platform.is_empty())
                .collect();
            self.ask_registry(id, About::Contents { digest, platforms });
        }
        true
    }

    /// Asks, unless enough questions are out to the host: the next answer makes room.
    fn ask_registry(&mut self, id: ImageId, about: About) {
        let Some(image) = self.images.get(id) else {
            return;
        };
        let host = self.hosts.entry(image.host.clone()).or_default();
        if host.questions >= AT_ONCE {
            return;
        }
        host.questions += 1;
        let (reference, host) = (image.reference.clone(), image.host.clone());
        let logins = self.logins(image);
        self.last_question += 1;
        let number = self.last_question;
        if let Some(image) = self.images.get_mut(id) {
            image.inquiry.out = Some((number, about.clone()));
        }
        self.questions.insert(number, Asked { image: id, host });
        self.outputs.push(Output::Resolve(Question {
            number,
            reference,
            about,
            logins,
        }));
    }
}
