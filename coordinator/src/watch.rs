//! Turns watches of the API server into inputs of the state machine.

use std::fmt::Debug;

use drop_api::{CachedImage, PullPolicy};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::cached_image::apply::resource_version;
use crate::core::{Change, Input};
use crate::index::ImageObject;
use crate::objects::limits;
use crate::pacing::policy::Limits;
use crate::plan::NodeFacts;

/// Watches one kind for ever. `convert` takes what the state machine needs, `wrap` says which input it is. An object that
/// does not parse is left out with a warning, so that one bad object does not blind the coordinator.
pub async fn watch<K, T>(
    api: Api<DeserializeGuard<K>>,
    convert: impl Fn(K) -> T,
    wrap: impl Fn(Change<T>) -> Input,
    inputs: mpsc::Sender<Input>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let kind = K::plural(&());
    let readable = |object: DeserializeGuard<K>| {
        let name = object.name_any();
        object.0.map(&convert).map_err(|error| warn!(kind = %kind, name, error = %error.error, "object does not parse, left out")).ok()
    };
    let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut listed = Vec::new();
    loop {
        let change = match stream.try_next().await {
            Ok(Some(watcher::Event::Init)) => {
                listed.clear();
                continue;
            }
            Ok(Some(watcher::Event::InitApply(object))) => {
                listed.extend(readable(object));
                continue;
            }
            Ok(Some(watcher::Event::InitDone)) => {
                info!(kind = %kind, objects = listed.len(), "listed");
                Change::Replaced(std::mem::take(&mut listed))
            }
            Ok(Some(watcher::Event::Apply(object))) => {
                let name = object.name_any();
                readable(object).map_or(Change::Deleted(name), Change::Applied)
            }
            Ok(Some(watcher::Event::Delete(object))) => Change::Deleted(object.name_any()),
            Ok(None) => return,
            Err(error) => {
                warn!(kind = %kind, error = %error, "cannot list or watch, will retry");
                continue;
            }
        };
        if inputs.send(wrap(change)).await.is_err() {
            return;
        }
    }
}

/// What of a Node matters.
#[must_use]
pub fn node_facts(node: Node) -> NodeFacts {
    NodeFacts {
        name: node.name_any(),
        labels: node.metadata.labels.unwrap_or_default(),
        taints: node.spec.and_then(|spec| spec.taints).unwrap_or_default(),
    }
}

/// A CachedImage as the state machine takes it.
#[must_use]
pub fn image_object(image: CachedImage) -> ImageObject {
    ImageObject {
        name: image.name_any(),
        uid: image.uid().unwrap_or_default(),
        generation: image.metadata.generation.unwrap_or_default(),
        resource_version: resource_version(&image),
        spec: image.spec,
        status: image.status,
    }
}

/// A PullPolicy's name and limits.
#[must_use]
pub fn policy(PullPolicy { metadata, spec }: PullPolicy) -> (String, Limits) {
    (metadata.name.unwrap_or_default(), limits(&spec))
}
