//! Everything that an object was between two moments: a watch, so that states between two looks are not missed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use drop_api::CachedImage;
use futures::StreamExt;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use tokio::task::JoinHandle;

use crate::wait;

/// Every version of one CachedImage since the start. Dropped: the watch ends.
#[derive(Debug)]
pub struct History {
    seen: Arc<Mutex<Vec<CachedImage>>>,
    watch: JoinHandle<()>,
}

impl History {
    /// Begins with the version that there is now.
    pub async fn start(client: &Client, name: &str) -> Result<Self> {
        let api: Api<CachedImage> = Api::all(client.clone());
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let seen: Arc<Mutex<Vec<CachedImage>>> = Arc::default();
        let versions = Arc::clone(&seen);
        let watch = tokio::spawn(async move {
            let mut events = watcher(api, only).boxed();
            while let Some(event) = events.next().await {
                if let Ok(Event::InitApply(object) | Event::Apply(object)) = event {
                    versions
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(object);
                }
            }
        });
        let history = Self { seen, watch };
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
