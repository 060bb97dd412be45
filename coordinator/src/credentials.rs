//! Pull credentials: which Secrets are wanted, what goes out with a grant, and what a changed Secret sets going again.
//!
//! The state machine's part. Secrets come in read and parsed (`read`), live in memory only, and leave only in the grant of a
//! pull, for the node that pulls.

pub mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use drop_oci::{Credential, Keychain, Reference};
use drop_proto::FailureClass;

use crate::core::{Core, Now, Output};
use crate::image::resolve::Logins;
use crate::image::{Image, ImageId, Probe};
use crate::index::Object;
use crate::node_set::NodeId;

/// What is known of one Secret that an image names.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// It was read.
    Loaded(Keychain),
    /// It gives no credentials: why, and what to do.
    Unusable(String),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loaded(_) => f.write_str("Loaded(..)"),
            Self::Unusable(why) => f.debug_tuple("Unusable").field(why).finish(),
        }
    }
}

/// The Secrets that images name.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    /// As the specs name them.
    wanted: BTreeSet<String>,
    /// Those that have been looked at.
    pub(crate) known: BTreeMap<String, Secret>,
    /// The specs may name others than `wanted`.
    pub(crate) stale: bool,
}

impl Core {
    /// Says which Secrets are to be read, if others are named than before.
    pub(crate) fn want_secrets(&mut self) {
        if !std::mem::take(&mut self.secrets.stale) {
            return;
        }
        let named = self.objects.values().flat_map(|object| {
            let secrets = object.facts.spec.image_pull_secrets.iter();
            secrets.map(|secret| secret.name.clone())
        });
        let wanted: BTreeSet<String> = named.filter(|name| !name.is_empty()).collect();
        if wanted == self.secrets.wanted {
            return;
        }
        self.secrets.known.retain(|name, _| wanted.contains(name));
        self.secrets.wanted.clone_from(&wanted);
        self.outputs.push(Output::WantSecrets(wanted));
    }

    /// A Secret was read. What was refused for want of a good one is tried again at once.
    pub(crate) fn secret_read(&mut self, now: Now, name: &str, secret: Secret) {
        if !self.secrets.wanted.contains(name) {
            return;
        }
        if self.secrets.known.get(name) == Some(&secret) {
            return;
        }
        let has_changed = self.secrets.known.insert(name.to_owned(), secret).is_some();
        self.unsettled = true;
        if has_changed {
            self.logins.changed(name);
        }
        let users: Vec<ImageId> = self
            .objects
            .values()
            .filter(|object| {
                let mut secrets = object.facts.spec.image_pull_secrets.iter();
                secrets.any(|secret| secret.name == name)
            })
            .filter_map(|object| object.image.clone().ok())
            .collect();
        for id in users {
            if has_changed {
                self.retry_refused(now, id);
            }
            self.refresh_login(id);
            self.mark_image(now, id);
        }
    }

    /// What was refused to the image for want of a good login is tried again at once.
    pub(crate) fn retry_refused(&mut self, now: Now, id: ImageId) {
        let Some(image) = self.images.get_mut(id) else {
            return;
        };
        image
            .inquiry
            .retry_with_other_logins(now.mono, may_be_for_want_of_a_secret);
        let mut any = false;
        for (node, failure) in &mut image.failures {
            if may_be_for_want_of_a_secret(failure.class) {
                failure.retry = now.mono;
                failure.attempts = 0;
                image.blocked.remove(*node);
                any = true;
            }
        }
        if any {
            image.strikes = 0;
            if let Probe::Waiting { .. } = image.probe {
                image.probe = Probe::Unproven;
            }
            image.check.not_before = image.check.not_before.min(now.mono);
        }
    }

    /// The first Secret that the image needs and that nobody has looked at yet.
    pub(crate) fn unread_secret<'a>(&'a self, image: &'a Image) -> Option<&'a str> {
        self.secrets_of(image)
            .find(|name| !self.secrets.known.contains_key(*name))
    }

    /// Ways to log in for a pull of the image on the node: from the Secrets of the CachedImages that want it there, the
    /// kubelet's matching rules applied to all of them together.
    pub(crate) fn credentials(&self, image: &Image, node: NodeId) -> Vec<drop_proto::Credential> {
        let logins = self.logins_for(image, |object| object.targets.contains(node));
        logins.iter().filter_map(message).collect()
    }

    /// Ways to log in for a question about the image: from the Secrets of all CachedImages that want it.
    pub(crate) fn logins(&self, image: &Image) -> Logins {
        Logins(self.logins_for(image, |_| true))
    }

    fn logins_for(&self, image: &Image, counts: impl Fn(&Object) -> bool) -> Vec<Credential> {
        let mut objects: Vec<_> = image
            .objects
            .iter()
            .filter_map(|name| self.objects.get(name))
            .filter(|object| counts(object))
            .collect();
        objects.sort_by_key(|object| object.facts.spec.priority.unwrap_or(0));
        let mut names = Vec::new();
        for secret in objects
            .iter()
            .flat_map(|object| &object.facts.spec.image_pull_secrets)
        {
            if !names.contains(&&secret.name) {
                names.push(&secret.name);
            }
        }
        let loaded = names
            .into_iter()
            .filter_map(|name| match self.secrets.known.get(name)? {
                Secret::Loaded(keychain) => Some((name.clone(), Ok(keychain.clone()))),
                Secret::Unusable(_) => None,
            });
        let Ok(reference) = image.reference.parse::<Reference>() else {
            return Vec::new();
        };
        let (keychain, _) = Keychain::gather(loaded);
        keychain.matching(&reference)
    }

    /// What is wrong with the image's Secrets, where a pull was refused.
    pub(crate) fn secret_problem<'a>(
        &'a self,
        image: &'a Image,
        class: FailureClass,
    ) -> Option<&'a str> {
        if !may_be_for_want_of_a_secret(class) {
            return None;
        }
        self.secrets_of(image)
            .find_map(|name| match self.secrets.known.get(name)? {
                Secret::Unusable(why) => Some(why.as_str()),
                Secret::Loaded(_) => None,
            })
    }

    /// Whether somebody has named a Secret for the image.
    pub(crate) fn names_secrets(&self, image: &Image) -> bool {
        self.secrets_of(image).next().is_some()
    }

    pub(crate) fn secrets_of<'a>(&'a self, image: &'a Image) -> impl Iterator<Item = &'a str> {
        image
            .objects
            .iter()
            .filter_map(|name| self.objects.get(name))
            .flat_map(|object| &object.facts.spec.image_pull_secrets)
            .map(|secret| secret.name.as_str())
            .filter(|name| !name.is_empty())
    }
}

/// Registries that hide private repositories say "not found" to strangers.
pub(crate) fn may_be_for_want_of_a_secret(class: FailureClass) -> bool {
    matches!(
        class,
        FailureClass::Unauthorized | FailureClass::Forbidden | FailureClass::NotFound
    )
}

/// As the agent is told. `None`: the agent tries without a credential anyway.
fn message(credential: &Credential) -> Option<drop_proto::Credential> {
    let empty = drop_proto::Credential::default;
    match credential.clone() {
        Credential::Anonymous => None,
        Credential::Basic { username, password } => Some(drop_proto::Credential {
            username,
            password,
            ..empty()
        }),
        Credential::IdentityToken(identity_token) => Some(drop_proto::Credential {
            identity_token,
            ..empty()
        }),
        Credential::RegistryToken(registry_token) => Some(drop_proto::Credential {
            registry_token,
            ..empty()
        }),
    }
}
