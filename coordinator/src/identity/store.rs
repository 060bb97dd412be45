//! Keeps the authorities in a Secret and publishes them in a ConfigMap, together with other replicas.
//!
//! The Secret is the truth, and the ConfigMap follows it. Both are replaced only as they were read, so that of two replicas
//! that act at once one sees what the other did and begins again. The ConfigMap is read before the Secret: a ConfigMap that
//! still is as it was read cannot be newer than the Secret that it is replaced by.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, PostParams};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tracing::{info, warn};

use crate::identity::authority::Authority;
use crate::identity::rotation;
use crate::watch::Patience;

/// The Secret with the authorities and their keys.
pub const SECRET: &str = "drop-coordinator-tls";
/// The ConfigMap that agents mount.
pub const CONFIG_MAP: &str = "drop-coordinator-ca";
/// Its key.
pub const BUNDLE: &str = "ca.crt";

const AUTHORITIES: &str = "authorities.json";
/// Replicas act at once at most when they start together; each loss is another one's win.
const TRIES: usize = 20;
/// An API server that takes longer is away.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Why the authorities could not be agreed on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused a request, or was not there.
    #[error("cannot {verb} {resource} {name} in namespace {namespace}: {source}")]
    Request {
        /// As RBAC names it.
        verb: &'static str,
        /// As RBAC names it.
        resource: &'static str,
        /// Of the object.
        name: &'static str,
        /// Of the release.
        namespace: String,
        /// The API server's words.
        #[source]
        source: Box<kube::Error>,
    },
    /// Nothing tells when they change.
    #[error("cannot list or watch {resource} {name} in namespace {namespace}: {source}")]
    Watch {
        /// As RBAC names it.
        resource: &'static str,
        /// Of the object.
        name: &'static str,
        /// Of the release.
        namespace: String,
        /// What happened to the watch.
        #[source]
        source: Box<watcher::Error>,
    },
    /// The API server did not answer in time.
    #[error("the API server does not answer")]
    Silent,
    /// No key or certificate could be made.
    #[error("cannot make a certificate authority: {0}")]
    Make(#[from] rcgen::Error),
    /// Others kept changing what was read.
    #[error("secrets {SECRET} or configmaps {CONFIG_MAP} changed under each of {TRIES} tries")]
    Contended,
}

impl Error {
    /// One word for logs and metrics.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Request { .. } => "request",
            Self::Watch { .. } => "watch",
            Self::Silent => "timeout",
            Self::Make(_) => "certificate",
            Self::Contended => "contended",
        }
    }
}

/// The two objects.
#[derive(Clone)]
pub struct Store {
    namespace: String,
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
}

/// A write that another one came before.
struct Lost;

impl Store {
    /// Of the release in this namespace.
    #[must_use]
    pub fn new(client: &Client, namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            secrets: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client.clone(), namespace),
        }
    }

    /// Makes the authorities that are due, forgets those that ended, and returns those that are stored and published.
    pub async fn agree(&self, now: Timestamp, lifetime: Duration) -> Result<Vec<Authority>, Error> {
        let agreeing = async {
            for _ in 0..TRIES {
                if let Ok(authorities) = self.try_once(now, lifetime).await? {
                    return Ok(authorities);
                }
            }
            Err(Error::Contended)
        };
        let agreed = tokio::time::timeout(TIMEOUT, agreeing).await;
        agreed.unwrap_or(Err(Error::Silent))
    }

    /// Says for ever when one of the two objects may have changed. Only their metadata is watched: what they hold is read when
    /// it is needed.
    pub fn changes(&self) -> impl Stream<Item = Result<(), Error>> + use<> {
        let client = self.secrets.clone().into_client();
        let secret = self.watch::<Secret>(client.clone(), "secrets", SECRET);
        let config_map = self.watch::<ConfigMap>(client, "configmaps", CONFIG_MAP);
        stream::select(secret, config_map)
    }

    fn watch<K>(
        &self,
        client: Client,
        resource: &'static str,
        name: &'static str,
    ) -> impl Stream<Item = Result<(), Error>> + use<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + Send
            + 'static,
    {
        let namespace = self.namespace.clone();
        let metadata: Api<PartialObjectMeta<K>> = Api::namespaced(client, &namespace);
        let this_one = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let events = watcher(metadata, this_one).backoff(Patience::default());
        events.filter_map(move |event| {
            let change = match event {
                Ok(Event::Apply(_) | Event::Delete(_) | Event::InitDone) => Some(Ok(())),
                Ok(Event::Init | Event::InitApply(_)) => None,
                Err(source) => Some(Err(Error::Watch {
                    resource,
                    name,
                    namespace: namespace.clone(),
                    source: Box::new(source),
                })),
            };
            std::future::ready(change)
        })
    }

    async fn try_once(
        &self,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Result<Vec<Authority>, Lost>, Error> {
        let config_map = self.config_maps.get_opt(CONFIG_MAP).await;
        let config_map = config_map.map_err(|e| self.error("get", "configmaps", e))?;
        let secret = self.secrets.get_opt(SECRET).await;
        let secret = secret.map_err(|e| self.error("get", "secrets", e))?;

        let stored = secret.as_ref().map(stored).unwrap_or_default();
        let mut authorities = rotation::alive(&stored, now);
        if rotation::needs_successor(&authorities, now) {
            authorities.push(Authority::generate(now, lifetime)?);
        }
        if authorities != stored {
            if self.write_secret(secret, &authorities).await?.is_err() {
                return Ok(Err(Lost));
            }
            info!(
                authorities = authorities.len(),
                "certificate authorities stored"
            );
        }
        let bundle = rotation::bundle(&authorities);
        let published = config_map
            .as_ref()
            .and_then(|map| map.data.as_ref()?.get(BUNDLE));
        if published != Some(&bundle) {
            if self.write_bundle(config_map, bundle).await?.is_err() {
                return Ok(Err(Lost));
            }
            info!(
                authorities = authorities.len(),
                "certificate authorities published"
            );
        }
        Ok(Ok(authorities))
    }

    async fn write_secret(
        &self,
        former: Option<Secret>,
        authorities: &[Authority],
    ) -> Result<Result<(), Lost>, Error> {
        // Timestamps and strings always serialize.
        let json = serde_json::to_vec(authorities).unwrap_or_default();
        let data = BTreeMap::from([(AUTHORITIES.to_owned(), ByteString(json))]);
        let params = PostParams::default();
        let Some(mut secret) = former else {
            let secret = Secret {
                metadata: metadata(SECRET),
                data: Some(data),
                ..Secret::default()
            };
            let created = self.secrets.create(&params, &secret).await;
            return self.written("create", "secrets", created);
        };
        secret.data = Some(data);
        let replaced = self.secrets.replace(SECRET, &params, &secret).await;
        self.written("update", "secrets", replaced)
    }

    async fn write_bundle(
        &self,
        former: Option<ConfigMap>,
        bundle: String,
    ) -> Result<Result<(), Lost>, Error> {
        let data = BTreeMap::from([(BUNDLE.to_owned(), bundle)]);
        let params = PostParams::default();
        let Some(mut map) = former else {
            let map = ConfigMap {
                metadata: metadata(CONFIG_MAP),
                data: Some(data),
                ..ConfigMap::default()
            };
            let created = self.config_maps.create(&params, &map).await;
            return self.written("create", "configmaps", created);
        };
        map.data = Some(data);
        let replaced = self.config_maps.replace(CONFIG_MAP, &params, &map).await;
        self.written("update", "configmaps", replaced)
    }

    fn written<T>(
        &self,
        verb: &'static str,
        resource: &'static str,
        result: kube::Result<T>,
    ) -> Result<Result<(), Lost>, Error> {
        match result {
            Ok(_) => Ok(Ok(())),
            Err(kube::Error::Api(status))
                if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
            {
                Ok(Err(Lost))
            }
            Err(error) => Err(self.error(verb, resource, error)),
        }
    }

    fn error(&self, verb: &'static str, resource: &'static str, source: kube::Error) -> Error {
        let name = if resource == "secrets" {
            SECRET
        } else {
            CONFIG_MAP
        };
        Error::Request {
            verb,
            resource,
            name,
            namespace: self.namespace.clone(),
            source: Box::new(source),
        }
    }
}

/// What the Secret holds. One that cannot be read is begun anew: without an authority no agent could connect.
fn stored(secret: &Secret) -> Vec<Authority> {
    let Some(json) = secret.data.as_ref().and_then(|data| data.get(AUTHORITIES)) else {
        return Vec::new();
    };
    serde_json::from_slice(&json.0).unwrap_or_else(|_| {
        // The parser's words could quote the key.
        warn!(
            secret = SECRET,
            key = AUTHORITIES,
            "does not parse, begins anew"
        );
        Vec::new()
    })
}

fn metadata(name: &str) -> ObjectMeta {
    let labels = [
        ("app.kubernetes.io/name", "drop"),
        ("app.kubernetes.io/component", "coordinator"),
        ("app.kubernetes.io/managed-by", "drop-coordinator"),
    ];
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(
            labels
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        ),
        ..ObjectMeta::default()
    }
}
