//! Watches the CachedImages as a user would, and remembers when each became Ready and whether it stayed so.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use drop_api::{CachedImage, Phase};
use futures::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// What the watch has shown.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// When each became Ready first.
    ready: BTreeMap<String, Instant>,
    /// How often one that was Ready was so no more.
    flaps: u64,
    phases: BTreeMap<String, Option<Phase>>,
    /// The first list is there.
    listed: bool,
}

/// A watch of all CachedImages. Dropped: it ends.
#[derive(Debug)]
pub(crate) struct Readiness {
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

impl Readiness {
    /// Begins, and waits until it has seen what there is.
    pub(crate) async fn start(client: &Client) -> Result<Self> {
        let api: Api<CachedImage> = Api::all(client.clone());
        let (sender, mut seen) = watch::channel(Seen::default());
        let task = tokio::spawn(async move {
            let mut events = watcher(api, watcher::Config::default()).boxed();
            while let Some(event) = events.next().await {
                sender.send_modify(|seen| seen.take_in(event));
            }
        });
        let listed = async { seen.wait_for(|seen| seen.listed).await.map(drop) };
        timeout(Duration::from_secs(30), listed)
            .await
            .context("no list of CachedImages")?
            .context("the watch ended")?;
        Ok(Self { seen, task })
    }

    /// Waits until all of these were Ready once. Answers when the last one was.
    pub(crate) async fn all(&mut self, names: &[String], within: Duration) -> Result<Instant> {
        let ready = self
            .seen
            .wait_for(|seen| names.iter().all(|name| seen.ready.contains_key(name)));
        if let Ok(seen) = timeout(within, ready).await {
            let seen = seen.context("the watch ended")?;
            let last = names.iter().filter_map(|name| seen.ready.get(name)).max();
            return last.copied().context("nothing was to be Ready");
        }
        let seen = self.seen.borrow();
        let missing = names.iter().filter(|name| !seen.ready.contains_key(*name));
        bail!(
            "{} of {} CachedImages were not Ready within {within:?}",
            missing.count(),
            names.len()
        )
    }

    /// How often a CachedImage that was Ready stopped to be so.
    pub(crate) fn flaps(&self) -> u64 {
        self.seen.borrow().flaps
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    fn take_in(&mut self, event: watcher::Result<Event<CachedImage>>) {
        match event {
            Ok(Event::Apply(image) | Event::InitApply(image)) => self.image(&image),
            Ok(Event::Delete(image)) => {
                let name = image.name_any();
                self.ready.remove(&name);
                self.phases.remove(&name);
            }
            Ok(Event::InitDone) => self.listed = true,
            // The watcher tries again by itself.
            Ok(Event::Init) | Err(_) => {}
        }
    }

    fn image(&mut self, image: &CachedImage) {
        let phase = image.status.as_ref().and_then(|status| status.phase);
        let former = self.phases.insert(image.name_any(), phase).flatten();
        if phase == Some(Phase::Ready) {
            self.ready
                .entry(image.name_any())
                .or_insert_with(Instant::now);
        } else if former == Some(Phase::Ready) {
            self.flaps += 1;
        }
    }
}
