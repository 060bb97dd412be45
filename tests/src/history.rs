//! Every status that one CachedImage goes through, as a watcher of the API server sees it: for claims about "always" and "never".

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drop_api::{CachedImage, CachedImageStatus};
use futures::StreamExt;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher;
use tokio::task::JoinHandle;

use crate::cached_image::condition;

/// Between two watches while the API server is away.
const AGAIN: Duration = Duration::from_millis(200);

/// The record. Dropped: nobody watches any more.
pub struct History {
    seen: Arc<Mutex<Vec<CachedImage>>>,
    watcher: JoinHandle<()>,
}

impl History {
    /// Watches the object called `name` from now on, or from its creation.
    #[must_use]
    pub fn of(client: Client, name: &str) -> Self {
        let seen = Arc::default();
        let watcher = tokio::spawn(watch(client, name.to_owned(), Arc::clone(&seen)));
        Self { seen, watcher }
    }

    /// The statuses so far, the same one after the other only once.
    #[must_use]
    pub fn statuses(&self) -> Vec<CachedImageStatus> {
        let mut all = self.map(|image| image.status.clone().unwrap_or_default());
        all.dedup();
        all
    }

    /// The status and reason of the Ready condition, each change once.
    #[must_use]
    pub fn ready(&self) -> Vec<(String, String)> {
        let mut all = self.map(|image| {
            let (status, reason, _) = condition(image, "Ready");
            (status, reason)
        });
        all.retain(|(status, _)| !status.is_empty());
        all.dedup();
        all
    }

    fn map<T>(&self, part: impl FnMut(&CachedImage) -> T) -> Vec<T> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(part).collect()
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

async fn watch(client: Client, name: String, seen: Arc<Mutex<Vec<CachedImage>>>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watcher(Api::<CachedImage>::all(client), config).boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(image) | watcher::Event::InitApply(image)) => {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.push(image);
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}
