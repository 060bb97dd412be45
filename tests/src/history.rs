//! Everything that an object was between two moments: a watch, so that states between two looks are not missed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use drop_api::{CachedImage, CachedImageStatus};
use futures::StreamExt;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use tokio::task::JoinHandle;

use crate::cached_image::{condition, status};
use crate::wait;

/// Between two watches while the API server is away.
const AGAIN: Duration = Duration::from_millis(200);

/// Every version of one CachedImage since the start. Dropped: the watch ends.
#[derive(Debug)]
pub struct History {
    seen: Arc<Mutex<Vec<CachedImage>>>,
    watch: JoinHandle<()>,
}

impl History {
    /// Begins with the version that there is now, or with the object's creation.
    #[must_use]
    pub fn of(client: &Client, name: &str) -> Self {
        let api: Api<CachedImage> = Api::all(client.clone());
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let seen: Arc<Mutex<Vec<CachedImage>>> = Arc::default();
        let versions = Arc::clone(&seen);
        let watch = tokio::spawn(async move {
            let mut events = watcher(api, only).boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::InitApply(object) | Event::Apply(object)) => versions
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(object),
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(AGAIN).await,
                }
            }
        });
        Self { seen, watch }
    }

    /// As `of`, and waits until it has seen the version that there is now.
    pub async fn start(client: &Client, name: &str) -> Result<Self> {
        let history = Self::of(client, name);
        wait::until(
            format!("a first look at {name}"),
            Duration::from_secs(20),
            async || {
                ensure!(!history.versions().is_empty(), "none yet");
                Ok(())
            },
        )
        .await?;
        Ok(history)
    }

    /// The statuses so far, the same one after the other only once.
    #[must_use]
    pub fn statuses(&self) -> Vec<CachedImageStatus> {
        let mut all: Vec<_> = self.versions().iter().map(status).collect();
        all.dedup();
        all
    }

    /// The status and reason of the Ready condition, each change once.
    #[must_use]
    pub fn ready(&self) -> Vec<(String, String)> {
        let words = |image: &CachedImage| {
            let (word, reason, _) = condition(image, "Ready");
            (word, reason)
        };
        let mut all: Vec<_> = self.versions().iter().map(words).collect();
        all.retain(|(word, _)| !word.is_empty());
        all.dedup();
        all
    }

    /// The versions so far, oldest first.
    #[must_use]
    pub fn versions(&self) -> Vec<CachedImage> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The versions up to the one that `last` is, which the watch may still have to deliver.
    pub async fn up_to(&self, last: &CachedImage) -> Result<Vec<CachedImage>> {
        let version = last.resource_version();
        wait::until(
            "the watch to see the last version",
            Duration::from_secs(20),
            async || {
                let mut versions = self.versions();
                let at = versions
                    .iter()
                    .position(|object| object.resource_version() == version);
                ensure!(at.is_some(), "not seen yet");
                versions.truncate(at.unwrap_or_default() + 1);
                Ok(versions)
            },
        )
        .await
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.watch.abort();
    }
}
