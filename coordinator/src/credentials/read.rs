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
use crate::watch::Patience;

/// Before a Secret that could not be read is read again.
const RETRY: Duration = Duration::from_secs(5);

/// Reads for ever what `wanted` names, and again whatever of it changes.
pub async fn read(
    client: Client,
    namespace: String,
    mut wanted: watch::Receiver<BTreeSet<String>>,
    inputs: mpsc::Sender<Input>,
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
        versions: None,
        listing: BTreeMap::new(),
        told: BTreeMap::new(),
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
        }
    }
}

struct Reader {
    api: Api<v1::Secret>,
    namespace: String,
    inputs: mpsc::Sender<Input>,
    /// Resource versions by name; `None` before the first list.
    versions: Option<BTreeMap<String, String>>,
    /// A list that is still coming in.
    listing: BTreeMap<String, String>,
    /// Which version of each wanted Secret the state machine knows; `None`: that there is none.
    told: BTreeMap<String, Option<String>>,
}

impl Reader {
    fn note(&mut self, change: watcher::Event<PartialObjectMeta<v1::Secret>>) {
        match change {
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(secret) => {
                let version = secret.resource_version().unwrap_or_default();
                self.listing.insert(secret.name_any(), version);
            }
            watcher::Event::InitDone => self.versions = Some(std::mem::take(&mut self.listing)),
            watcher::Event::Apply(secret) => {
                let version = secret.resource_version().unwrap_or_default();
                let versions = self.versions.get_or_insert_default();
                versions.insert(secret.name_any(), version);
            }
            watcher::Event::Delete(secret) => {
                self.versions
                    .get_or_insert_default()
                    .remove(&secret.name_any());
            }
        }
    }

    /// Reads what is wanted and not known in its present version. False if some of it could not be read.
    async fn catch_up(&mut self, wanted: &BTreeSet<String>) -> bool {
        self.told.retain(|name, _| wanted.contains(name));
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
                    let secret = secret.map_or_else(|| self.missing(&name), |s| parse(&name, &s));
                    self.tell(name, secret).await;
                }
                Err(error) => {
                    warn!(secret = name, namespace = self.namespace, error = %error, "cannot get the Secret, will retry");
                    is_complete = false;
                    if is_forbidden(&error) {
                        let secret = self.forbidden("get", &name);
                        self.tell(name, secret).await;
                    }
                }
            }
        }
        is_complete
    }

    /// Pulls go on without credentials where the coordinator may not read any: an image may need none.
    async fn cannot_watch(&mut self, error: &watcher::Error, wanted: &BTreeSet<String>) {
        warn!(namespace = self.namespace, error = %error, "cannot list or watch Secrets, will retry");
        let forbidden = match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => is_forbidden(error),
            _ => false,
        };
        if !forbidden || self.versions.is_some() {
            return;
        }
        for name in wanted {
            let secret = self.forbidden("list and watch", name);
            self.tell(name.clone(), secret).await;
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

    fn forbidden(&self, verbs: &str, name: &str) -> Secret {
        Secret::Unusable(format!(
            "the coordinator may not {verbs} Secrets in namespace {}, so \"{name}\" is not used: grant it by a Role",
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
