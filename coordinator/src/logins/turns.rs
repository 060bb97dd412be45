//! Whose turn it is to try a login, and what the answers mean for everybody who has it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use drop_api::ImagePullPolicy;
use drop_oci::{Credential, Reference};
use drop_proto::FailureClass;

use crate::core::{Core, Now, Wake};
use crate::credentials::Secret;
use crate::image::resolve::About;
use crate::image::{Image, ImageId};
use crate::index::Object;
use crate::logins::{Admission, Login, Ticket};
use crate::node_set::{NodeId, NodeSet};
use crate::pacing::backoff::Backoff;

/// An image that could try a refused login now.
#[derive(Debug)]
pub(super) struct Turn {
    /// Before everybody else come those that never tried.
    tried: Option<Duration>,
    image: ImageId,
    what: What,
}

#[derive(Debug)]
enum What {
    Question(About),
    /// For the object of this name.
    Pull(String),
}

impl Core {
    /// Works out the image's login again: its objects, or one of their Secrets, may have changed.
    pub(crate) fn refresh_login(&mut self, id: ImageId) {
        let Some(image) = self.images.get(id) else {
            return;
        };
        let (former, login) = (image.login.clone(), self.login_of(image));
        if former.as_deref() == login.as_ref() {
            return;
        }
        if let Some(former) = former {
            self.logins.leave(&former, id);
        }
        let login = login.map(|login| self.logins.join(login, id));
        if let Some(image) = self.images.get_mut(id) {
            image.login = login;
        }
    }

    fn login_of(&self, image: &Image) -> Option<Login> {
        if !self.names_secrets(image) {
            return None;
        }
        let reference: Reference = image.reference.parse().ok()?;
        let is_for_it = |name: &&str| match self.secrets.known.get(*name) {
            Some(Secret::Loaded(keychain)) => {
                let logins = keychain.matching(&reference);
                logins.iter().any(|login| *login != Credential::Anonymous)
            }
            Some(Secret::Unusable(_)) | None => false,
        };
        let secrets: BTreeSet<&str> = self.secrets_of(image).filter(is_for_it).collect();
        (!secrets.is_empty()).then(|| Login {
            host: image.host.clone(),
            secrets: secrets.into_iter().map(str::to_owned).collect(),
        })
    }

    /// Whether the image's login may be tried now. Without one there is nothing to wait for.
    pub(crate) fn login_admits(&self, now: Now, image: &Image) -> Admission {
        let login = image.login.as_ref();
        login.map_or(Admission::Open, |login| self.logins.admits(now.mono, login))
    }

    /// Leaves those nodes that would pull the image without a login, if nobody may try it now.
    pub(crate) fn keep_admitted(&self, now: Now, image: &Image, nodes: &mut NodeSet) {
        if matches!(
            self.login_admits(now, image),
            Admission::Answer | Admission::Until(_)
        ) {
            for object in self.logging_in(image) {
                nodes.subtract(&object.targets);
            }
        }
    }

    /// Whether a pull of the image on the node tries its login.
    pub(crate) fn logs_in(&self, image: &Image, node: NodeId) -> bool {
        let mut objects = self.logging_in(image);
        objects.any(|object| object.targets.contains(node))
    }

    /// Objects of the image that name a Secret of its login.
    fn logging_in<'a>(&'a self, image: &'a Image) -> impl Iterator<Item = &'a Object> {
        let secrets = image.login.as_ref().map(|login| login.secrets.as_slice());
        let secrets = secrets.unwrap_or_default();
        let objects = image.objects.iter().filter(|_| !secrets.is_empty());
        objects
            .filter_map(|name| self.objects.get(name))
            .filter(|object| {
                let mut named = object.facts.spec.image_pull_secrets.iter();
                named.any(|secret| secrets.contains(&secret.name))
            })
    }

    /// Whether the question has to wait for its turn or for another one's answer.
    pub(crate) fn question_waits(&mut self, now: Now, id: ImageId, about: &About) -> bool {
        let Some(image) = self.images.get(id) else {
            return true;
        };
        let admission = self.login_admits(now, image);
        if admission == Admission::Turn {
            self.take_turn(id, What::Question(about.clone()));
        }
        admission != Admission::Open
    }

    /// Whether the pull has to wait for its turn.
    pub(crate) fn pull_waits(&mut self, now: Now, name: &str, id: ImageId, node: NodeId) -> bool {
        let waits = self.images.get(id).is_some_and(|image| {
            self.login_admits(now, image) == Admission::Turn && self.logs_in(image, node)
        });
        if waits {
            self.take_turn(id, What::Pull(name.to_owned()));
        }
        waits
    }

    fn take_turn(&mut self, image: ImageId, what: What) {
        let login = self
            .images
            .get(image)
            .and_then(|image| image.login.as_ref());
        let tried = login.and_then(|login| self.logins.tried(login, image));
        self.logins.turns.push(Turn { tried, image, what });
    }

    /// Of those that could try a refused login the one tries whose last try is longest ago.
    pub(crate) fn try_refused_logins(&mut self, now: Now) {
        let mut turns = std::mem::take(&mut self.logins.turns);
        turns.sort_by_key(|turn| turn.tried);
        for turn in turns {
            let image = self.images.get(turn.image);
            if image.is_none_or(|image| self.login_admits(now, image) != Admission::Turn) {
                continue;
            }
            match turn.what {
                What::Question(about) => self.ask_registry(now, turn.image, about),
                What::Pull(name) => {
                    let node = self.next_node(now, &name, turn.image, &NodeSet::default());
                    if let Some(node) = node {
                        self.grant(now, &name, turn.image, node);
                    }
                }
            }
        }
    }

    /// The login has worked. If it was refused before, whoever it was refused for tries again at once.
    pub(crate) fn login_worked(&mut self, now: Now, ticket: &Ticket, id: ImageId) {
        if self.logins.worked(ticket, id) {
            for other in self.logins.images(ticket.login()) {
                self.retry_refused(now, other);
                self.mark_image(now, other);
            }
        }
    }

    /// A try of the login ended with a failure of this class.
    pub(crate) fn login_failed(
        &mut self,
        now: Now,
        ticket: &Ticket,
        id: ImageId,
        class: FailureClass,
    ) {
        if !matches!(class, FailureClass::Unauthorized | FailureClass::Forbidden) {
            return;
        }
        let backoff = self.shortest_backoff(id);
        let Some(image) = self.images.get(id) else {
            return;
        };
        let tried = (id, image.reference.as_str());
        if self.logins.refused(now.mono, ticket, tried, backoff) {
            let others = self.logins.images(ticket.login());
            for other in others {
                self.mark_image(now, other);
            }
            if let Some(refused) = self.logins.refusal(ticket.login()) {
                self.wake(refused.retry, Wake::Schedule);
            }
        }
    }

    /// Whether the login that was tried is the image's, and its Secrets still say the same.
    pub(crate) fn is_current(&self, ticket: &Ticket, id: ImageId) -> bool {
        let login = self.images.get(id).and_then(|image| image.login.as_ref());
        login.is_some_and(|login| Arc::ptr_eq(login, ticket.login()))
            && self.logins.is_current(ticket)
    }

    /// The same for a question, which may have been asked when the image had no login.
    pub(crate) fn is_answer_current(&self, id: ImageId, ticket: Option<&Ticket>) -> bool {
        match ticket {
            Some(ticket) => self.is_current(ticket, id),
            None => self
                .images
                .get(id)
                .is_some_and(|image| image.login.is_none()),
        }
    }

    /// Of the back-offs that the image's objects' policies allow the one that ends first.
    pub(crate) fn shortest_backoff(&self, id: ImageId) -> Backoff {
        let image = self.images.get(id);
        let objects = image.into_iter().flat_map(|image| &image.objects);
        objects
            .filter_map(|name| self.objects.get(name))
            .filter(|object| object.facts.spec.image_pull_policy != ImagePullPolicy::Never)
            .filter_map(|object| self.policies.get(&object.policy))
            .map(|policy| policy.limits.backoff)
            .min_by_key(|backoff| (backoff.max, backoff.initial))
            .unwrap_or_default()
    }
}
