//! Reads the Secrets that images name, by name, in drop's own namespace.
//!
//! A watch of their metadata alone says which have changed; those that are wanted are then read one by one, parsed, and handed
//! to the state machine. Nothing is kept here but resource versions. While no image names a Secret, nothing is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use drop_oci::keychain::{Keychain, SecretData};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::core::Input;
use crate::credentials::Secret;
use crate::rights::Rights;
use crate::watch::{Patience, SILENCE, refused};

/// Before a Secret that could not be read is read again.
const RETRY: Duration = Duration::from_secs(5);
/// What a missing right to list or watch Secrets is in the way of.
const WATCHING: &str = "watch pull secrets";
/// What a missing right to get one is in the way of.
const READING: &str = "read pull secrets";

/// Reads for ever what `wanted` names, and again whatever of it changes.
pub async fn read(
    client: Client,
    namespace: String,
    mut wanted: watch::Receiver<BTreeSet<String>>,
    inputs: mpsc::Sender<Input>,
    rights: Rights,
) {
    if wanted.wait_for(|names| !names.is_empty()).await.is_err() {
        return;
    }
    let metadata: Api<PartialObjectMeta<v1::Secret>> = Api::namespaced(client.clone(), &namespace);
    let mut changes = watcher(metadata, watcher::Config::default())
        .backoff(Patience::default())
        .boxed();
    let mut reader = Reader {
        api: Api::namespaced(client, &namespace),
        namespace,
        inputs,
        rights,
        may_watch: true,
        versions: None,
        listing: BTreeMap::new(),
        told: BTreeMap::new(),
        forbidden: BTreeSet::new(),
    };
    loop {
        let names = wanted.borrow_and_update().clone();
        let is_complete = reader.catch_up(&names).await;
        // Every branch may be dropped unfinished without losing anything.
        tokio::select! {
            change = changes.try_next() => match change {
                Ok(Some(change)) => reader.note(change),
                Ok(None) => return,
                Err(error) => reader.cannot_watch(&error, &names).await,
            },
            changed = wanted.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(RETRY), if !is_complete => {}
            () = tokio::time::sleep(SILENCE), if is_complete && !reader.may_watch => reader.watches(),
        }
    }
}

struct Reader {
    api: Api<v1::Secret>,
    namespace: String,
    inputs: mpsc::Sender<Input>,
    rights: Rights,
    /// As far as the last answer to a list or watch says.
    may_watch: bool,
    /// Resource versions by name; `None` before the first list.
    versions: Option<BTreeMap<String, String>>,
    /// A list that is still coming in.
    listing: BTreeMap<String, String>,
    /// Which version of each wanted Secret the state machine knows; `None`: that there is none.
    told: BTreeMap<String, Option<String>>,
    /// Those of which the state machine knows that they may not be read.
    forbidden: BTreeSet<String>,
}

impl Reader {
    fn note(&mut self, change: watcher::Event<PartialObjectMeta<v1::Secret>>) {
        match change {
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(secret) => {
                let version = secret.resource_version().unwrap_or_default();
                self.listing.insert(secret.name_any(), version);
            }
            watcher::Event::InitDone => {
                self.versions = Some(std::mem::take(&mut self.listing));
                // Whether they may be read is found out anew.
                self.forbidden.clear();
                self.watches();
            }
            watcher::Event::Apply(secret) => {
                let version = secret.resource_version().unwrap_or_default();
                let versions = self.versions.get_or_insert_default();
                versions.insert(secret.name_any(), version);
                self.watches();
            }
            watcher::Event::Delete(secret) => {
                self.versions
                    .get_or_insert_default()
                    .remove(&secret.name_any());
                self.watches();
            }
        }
    }

    /// Nothing is in the way of the watch.
    fn watches(&mut self) {
        self.may_watch = true;
        self.rights.granted(WATCHING);
    }

    /// Reads what is wanted and not known in its present version. False if some of it could not be read.
    async fn catch_up(&mut self, wanted: &BTreeSet<String>) -> bool {
        self.told.retain(|name, _| wanted.contains(name));
        self.forbidden.retain(|name| wanted.contains(name));
        let Some(versions) = &self.versions else {
            return true;
        };
        let stale: Vec<(String, Option<String>)> = wanted
            .iter()
            .map(|name| (name.clone(), versions.get(name).cloned()))
            .filter(|(name, version)| self.told.get(name) != Some(version))
            .collect();
        let mut is_complete = true;
        for (name, version) in stale {
            let read = match version {
                None => Ok(None),
                Some(_) => self.api.get_opt(&name).await,
            };
            match read {
                Ok(secret) => {
                    self.told.insert(name.clone(), version);
                    self.forbidden.remove(&name);
                    let secret = secret.map_or_else(|| self.missing(&name), |s| parse(&name, &s));
                    self.tell(name, secret).await;
                }
                Err(error) => {
                    is_complete = false;
                    self.rights.heard(READING, Some(&error));
                    if is_forbidden(&error) {
                        self.forbid(name, "get").await;
                    } else {
                        warn!(secret = name, namespace = self.namespace, error = %error, "cannot get the Secret, will retry");
                    }
                }
            }
        }
        if is_complete {
            self.rights.granted(READING);
        }
        is_complete
    }

    async fn cannot_watch(&mut self, error: &watcher::Error, wanted: &BTreeSet<String>) {
        warn!(namespace = self.namespace, error = %error, "cannot list or watch Secrets, will retry");
        if !refused(error, WATCHING, &self.rights) {
            return;
        }
        self.may_watch = false;
        // What was listed before is known, though not what becomes of it.
        if self.versions.is_none() {
            for name in wanted {
                self.forbid(name.clone(), "list and watch").await;
            }
        }
    }

    /// Says so once. Pulls go on without credentials where the coordinator may not read any: an image may need none.
    async fn forbid(&mut self, name: String, verbs: &str) {
        if self.forbidden.insert(name.clone()) {
            let why = format!(
                "the coordinator may not {verbs} Secrets in namespace {}, so \"{name}\" is not used: grant it by a Role",
                self.namespace
            );
            self.tell(name, Secret::Unusable(why)).await;
        }
    }

    async fn tell(&self, name: String, secret: Secret) {
        info!(
            secret = name,
            namespace = self.namespace,
            usable = matches!(secret, Secret::Loaded(_)),
            "pull Secret read"
        );
        // The state machine is gone only when the process ends.
        let _ = self.inputs.send(Input::Secret(name, secret)).await;
    }

    fn missing(&self, name: &str) -> Secret {
        Secret::Unusable(format!(
            "Secret \"{name}\" not found in namespace {}: make it there",
            self.namespace
        ))
    }
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_forbidden())
}

fn parse(name: &str, secret: &v1::Secret) -> Secret {
    let values = secret.data.iter().flatten();
    let data = SecretData {
        kind: secret.type_.as_deref().unwrap_or_default(),
        values: values
            .map(|(key, value)| (key.as_str(), value.0.as_slice()))
            .collect(),
    };
    match Keychain::from_pull_secret(&data) {
        Ok(keychain) => Secret::Loaded(keychain),
        Err(error) => Secret::Unusable(format!("Secret \"{name}\" {error}")),
    }
}
