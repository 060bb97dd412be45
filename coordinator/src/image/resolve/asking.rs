//! When a registry is asked, and what waits for its answer.

use std::collections::BTreeSet;
use std::time::Duration;

use drop_api::ImagePullPolicy;

use super::{About, Asked, Question};
use crate::core::{Core, Now, Output, Wake};
use crate::image::{Image, ImageId};
use crate::logins::Try;
use crate::node_set::{NodeId, NodeSet};

/// Questions that are out to one host at a time. The rest wait here, where the first failure answers them all.
const AT_ONCE: u32 = 16;
/// So long an image that waits for its registry's answer keeps its turn. Later ones go first if the registry is slower.
const KEEPS_TURN: Duration = Duration::from_secs(1);

impl Core {
    /// Asks what tags name whose checks are due, and what is in images that nodes ask for. First come those that are pulled
    /// first.
    pub(crate) fn ask_registries(&mut self, now: Now) {
        let leads = !self.stopping && now.mono < self.leads_until;
        if !self.config.resolve_tags || !self.synced.all() || !leads {
            return;
        }
        let order = std::mem::take(&mut self.order);
        for id in order.values() {
            let Some(image) = self.images.get(*id) else {
                continue;
            };
            if image.inquiry.out.is_some() {
                continue;
            }
            if self.awaits_registry(image) {
                self.ask_for_tag(now, *id);
            } else {
                self.ask_for_contents(now, *id);
            }
        }
        self.order = order;
    }

    /// Asks before any node has its turn: the answer would else take its time out of that turn.
    fn ask_for_contents(&mut self, now: Now, id: ImageId) {
        let Some(image) = self.images.get(id) else {
            return;
        };
        // Nothing is copied to find out that nothing is to be asked: this is done for all images all the time.
        let first = {
            let mut wanting = image.asked.iter().chain(image.refusals.keys().copied());
            wanting.find(|node| !image.current.contains(*node))
        };
        let Some(first) = first else { return };
        if self.lacks_contents(now, image, first).is_none() {
            return;
        }
        let host = self.hosts.get(&image.host);
        let must_wait = image.inquiry.refusal().is_some()
            || host.is_some_and(|host| host.paused_until(now.mono).is_some())
            || self.unread_secret(image).is_some();
        if !must_wait {
            let mut nodes = image.wanting();
            nodes.subtract(&image.current);
            self.awaits_contents(now, id, first, &nodes);
        }
    }

    /// Until when nodes are kept free for the image, whose question is out.
    pub(crate) fn keeps_turn(&self, image: &Image) -> Option<Duration> {
        let (number, _) = image.inquiry.out.as_ref()?;
        Some(self.questions.get(number)?.at + KEEPS_TURN)
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
        if !self.question_waits(now, id, &About::Tag) {
            self.ask_registry(now, id, About::Tag);
        }
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
        let Some(digest) = self.lacks_contents(now, image, node) else {
            return false;
        };
        if image.inquiry.out.is_none() {
            let platforms: BTreeSet<String> = candidates
                .iter()
                .map(|node| self.platform_of(node).to_owned())
                .filter(|platform| !platform.is_empty())
                .collect();
            let digest = digest.to_owned();
            let about = About::Contents { digest, platforms };
            if !self.question_waits(now, id, &about) {
                self.ask_registry(now, id, about);
            }
        }
        true
    }

    /// The digest that the node would pull, if it is not known what that is for its platform and the registry can be asked.
    fn lacks_contents<'a>(&self, now: Now, image: &'a Image, node: NodeId) -> Option<&'a str> {
        let platform = self.platform_of(node);
        let is_named = image.pinned || self.wants_newest(image) && !image.never_checked();
        let digest = image.expected.as_deref().filter(|_| is_named)?;
        let host = self.hosts.get(&image.host);
        let is_hopeless = !self.config.resolve_tags
            || platform.is_empty()
            || image.inquiry.left_to_nodes().is_some()
            || image.inquiry.knows_platform(digest, platform)
            || host.is_some_and(|host| host.is_out_of_reach(now.mono).is_some());
        (!is_hopeless).then_some(digest)
    }

    fn platform_of(&self, node: NodeId) -> &str {
        let node = self.nodes.get(node);
        node.map_or("", |node| node.runtime.platform.as_str())
    }

    /// Asks, unless enough questions are out to the host: the next answer makes room.
    pub(crate) fn ask_registry(&mut self, now: Now, id: ImageId, about: About) {
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
        let login = image.login.clone().and_then(|login| {
            let question = Try::Question(number);
            self.logins.begin(now.mono, &login, id, question)
        });
        if let Some(image) = self.images.get_mut(id) {
            image.inquiry.out = Some((number, about.clone()));
        }
        let asked = Asked {
            at: now.mono,
            image: id,
            host,
            login,
        };
        self.questions.insert(number, asked);
        self.outputs.push(Output::Resolve(Question {
            number,
            reference,
            about,
            logins,
        }));
    }
}
