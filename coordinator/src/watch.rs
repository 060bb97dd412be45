//! Turns watches of the API server into inputs of the state machine.

use std::fmt::Debug;
use std::time::Duration;

use drop_api::{CachedImage, PullPolicy};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::core::DeserializeGuard;
use kube::runtime::utils::Backoff;
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
use crate::rights::Rights;

/// Longest wait before a watch is tried again. kube's default waits up to a minute, and after an absence of the API server
/// it takes two tries: one to hear that the watch is too old, one to list. Few watches of one process press nobody.
const LONGEST: Duration = Duration::from_secs(5);

/// A watch that was refused is tried again by then at the latest; if no refusal has come, it is allowed now. A watch that works
/// says nothing before something changes.
pub(crate) const SILENCE: Duration = Duration::from_secs(15);

/// The wait after an error of a watch: doubles from a tenth of a second up to [`LONGEST`].
#[derive(Debug, Default)]
pub struct Patience {
    errors: u32,
    /// Good news in a row. A list begins with some, also one that fails then.
    good: u32,
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = Duration::from_millis(100) * (1 << self.errors.min(6));
        self.errors += 1;
        self.good = 0;
        Some(wait.min(LONGEST))
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.good += 1;
        if self.good > 1 {
            self.errors = 0;
        }
    }
}

/// Watches one kind for ever. `convert` takes what the state machine needs, `wrap` says which input it is. An object that
/// does not parse is left out with a warning, so that one bad object does not blind the coordinator.
pub async fn watch<K, T>(
    api: Api<DeserializeGuard<K>>,
    convert: impl Fn(K) -> T,
    wrap: impl Fn(Change<T>) -> Input,
    inputs: mpsc::Sender<Input>,
    rights: Rights,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let kind = K::plural(&());
    let mut is_refused = false;
    let readable = |object: DeserializeGuard<K>| {
        let name = object.name_any();
        object.0.map(&convert).map_err(|error| warn!(kind = %kind, name, error = %error.error, "object does not parse, left out")).ok()
    };
    let mut stream =
        std::pin::pin!(watcher(api, watcher::Config::default()).backoff(Patience::default()));
    let mut listed = Vec::new();
    loop {
        let silence = if is_refused { SILENCE } else { Duration::MAX };
        // Dropping the wait loses nothing: the stream keeps its state.
        let Ok(next) = tokio::time::timeout(silence, stream.try_next()).await else {
            is_refused = false;
            rights.granted(&kind);
            continue;
        };
        let change = match next {
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
                is_refused = refused(&error, &kind, &rights);
                continue;
            }
        };
        if is_refused {
            is_refused = false;
            rights.granted(&kind);
        }
        if inputs.send(wrap(change)).await.is_err() {
            return;
        }
    }
}

/// Whether the error is a missing right, which is noted.
pub(crate) fn refused(error: &watcher::Error, work: &str, rights: &Rights) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => {
            rights.heard(work, Some(error));
            matches!(error, kube::Error::Api(status) if status.is_forbidden())
        }
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => false,
    }
}

/// What of a Node matters.
#[must_use]
pub fn node_facts(node: Node) -> NodeFacts {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let disk_pressure = conditions
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "DiskPressure" && c.status == "True");
    NodeFacts {
        name: node.name_any(),
        labels: node.metadata.labels.unwrap_or_default(),
        taints: node.spec.and_then(|spec| spec.taints).unwrap_or_default(),
        disk_pressure,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_server_that_comes_back_is_found_within_seconds() {
        let mut patience = Patience::default();
        let waits: Vec<u128> = patience
            .by_ref()
            .take(8)
            .map(|wait| wait.as_millis())
            .collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        // A list that begins and fails.
        patience.reset();
        assert_eq!(patience.next(), Some(Duration::from_secs(5)));
        // One that begins and ends.
        patience.reset();
        patience.reset();
        assert_eq!(patience.next(), Some(Duration::from_millis(100)));
    }
}
