//! CachedImages come, change and go, and what their status remembers of a former process.

use std::collections::BTreeSet;
use std::time::Duration;

use drop_api::{CachedImageSpec, CachedImageStatus, ImagePullPolicy};
use drop_oci::reference::Reference;

use crate::cached_image::reasons::class_of;
use crate::cached_image::writer::Record;
use crate::core::{Change, Core, Now, Wake};
use crate::image::{Failure, Image, ImageId, Probe};
use crate::index::{ImageObject, Object};
use crate::node_set::NodeSet;
use crate::pacing::policy::BUILT_IN;

impl Core {
    pub(crate) fn image_changed(&mut self, now: Now, change: Change<ImageObject>) {
        match change {
            Change::Applied(facts) => self.apply_image(now, facts),
            Change::Deleted(name) => self.delete_image(&name),
            Change::Replaced(all) => {
                self.synced.images = true;
                let there: BTreeSet<&str> = all.iter().map(|facts| facts.name.as_str()).collect();
                let gone: Vec<String> = self
                    .objects
                    .keys()
                    .filter(|name| !there.contains(name.as_str()))
                    .cloned()
                    .collect();
                for name in gone {
                    self.delete_image(&name);
                }
                for facts in all {
                    self.apply_image(now, facts);
                }
                self.begin(now);
            }
        }
    }

    fn apply_image(&mut self, now: Now, facts: ImageObject) {
        let name = facts.name.clone();
        if let Some(object) = self.objects.get_mut(&name) {
            if object.facts.uid != facts.uid {
                self.delete_image(&name);
            } else if object.facts.generation == facts.generation && object.facts.spec == facts.spec
            {
                let moved = object
                    .record
                    .seen(facts.resource_version, facts.status.clone());
                object.facts.status = None;
                if moved {
                    self.mark(now, &name);
                }
                return;
            }
        }
        self.adopt(now, facts);
    }

    /// Takes in a new or edited CachedImage.
    fn adopt(&mut self, now: Now, mut facts: ImageObject) {
        self.secrets.stale = true;
        let name = facts.name.clone();
        let status = facts.status.take();
        let former = self.objects.remove(&name);
        if let Some(former) = &former {
            self.order
                .remove(&(former.facts.spec.priority.unwrap_or(0), name.clone()));
        }
        let image = self.image_of(&facts);
        let former_image = former.as_ref().and_then(|f| f.image.clone().ok());
        let changes_the_pull = former.as_ref().is_none_or(|former| {
            let unranked = |spec: &CachedImageSpec| CachedImageSpec {
                priority: None,
                ..spec.clone()
            };
            unranked(&former.facts.spec) != unranked(&facts.spec)
        });
        let same_image = former.is_some() && former_image == image.clone().ok();
        let mut object = Object {
            image: image.clone(),
            policy: BUILT_IN.to_owned(),
            policy_missing: false,
            targets: former
                .as_ref()
                .map(|f| f.targets.clone())
                .unwrap_or_default(),
            ready: former
                .as_ref()
                .map_or_else(|| status.as_ref().map_or(0, |s| s.nodes_ready), |f| f.ready),
            consecutive_failures: 0,
            last_pulled: None,
            last_attempted: None,
            remembered: BTreeSet::new(),
            record: Record::default(),
            facts,
        };
        match former {
            Some(former) => {
                object.record = former.record;
                object
                    .record
                    .seen(object.facts.resource_version, status.clone());
                if same_image {
                    object.consecutive_failures = former.consecutive_failures;
                    object.last_pulled = former.last_pulled;
                    object.last_attempted = former.last_attempted;
                    // Who was ready under another rule may not be under this one.
                    if former.facts.spec.image_pull_policy == object.facts.spec.image_pull_policy {
                        object.remembered = former.remembered;
                    }
                } else {
                    object.targets = NodeSet::default();
                }
            }
            None => object.record = Record::new(object.facts.resource_version, status.clone()),
        }
        if let Ok(id) = image {
            let rank = (object.facts.spec.priority.unwrap_or(0), name.clone());
            self.order.insert(rank, id);
        }
        self.objects.insert(name.clone(), object);

        if !same_image && let Some(id) = former_image {
            self.leave_image(id, &name);
        }
        if let Ok(id) = image {
            if let Some(image) = self.images.get_mut(id) {
                image.objects.insert(name.clone());
            }
            self.refresh_login(id);
            if same_image {
                if changes_the_pull {
                    self.retry_image(now, id);
                }
            } else {
                self.restore(now, id, &name, status.as_ref());
            }
        }
        self.retarget(now, &name, None);
        self.mark(now, &name);
    }

    fn image_of(&mut self, facts: &ImageObject) -> Result<ImageId, String> {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (tag, digest) = (set(&facts.spec.tag), set(&facts.spec.digest));
        let reference = Reference::from_parts(&facts.spec.image, tag.as_deref(), digest.as_deref())
            .map_err(|error| error.to_string())?;
        let text = reference.to_string();
        let id = self.images.intern(&text, || {
            Image::new(text.clone(), reference.host().to_owned(), digest)
        });
        Ok(id)
    }

    /// Learns from a status that an earlier process wrote for this spec; otherwise the tag is to be checked.
    fn restore(&mut self, now: Now, id: ImageId, name: &str, status: Option<&CachedImageStatus>) {
        let Some(object) = self.objects.get_mut(name) else {
            return;
        };
        let always = object.facts.spec.image_pull_policy == ImagePullPolicy::Always;
        let status = status.filter(|s| s.observed_generation == object.facts.generation);
        let mut checked = None;
        if let Some(status) = status {
            object.consecutive_failures = status.consecutive_failures;
            object.last_pulled = status.last_pulled_at.as_ref().map(|t| t.0);
            object.last_attempted = status.last_attempted_at.as_ref().map(|t| t.0);
            object.remembered = status.cached_nodes.iter().cloned().collect();
            checked = status.last_checked_at.as_ref().map(|t| t.0);
        }
        let Some(image) = self.images.get_mut(id) else {
            return;
        };
        if let Some(digest) = status.and_then(|s| s.resolved_digest.as_ref()) {
            image.restore(digest, checked);
        }
        image.size_bytes = image
            .size_bytes
            .or(status.and_then(|s| u64::try_from(s.size_bytes?).ok()));
        let fresh = image.check.last.is_some() && checked.is_some();
        if always && !image.pinned && !fresh && image.check.due.is_none() {
            // A pull that a former process granted for this very spec is as good a check as one of ours.
            let due = status.map_or(now.mono, |_| Duration::ZERO);
            image.check.due = Some(due);
        }
        if let Some(status) = status {
            self.restore_failures(now, id, status);
        }
    }

    /// Waits that a former leader had promised are kept.
    pub(super) fn restore_failures(&mut self, now: Now, id: ImageId, status: &CachedImageStatus) {
        let mut first_retry: Option<Duration> = None;
        let mut waiting = Vec::new();
        for exception in &status.nodes {
            let Some(retry) = exception
                .next_retry
                .as_ref()
                .map(|t| t.0)
                .filter(|t| *t > now.wall)
            else {
                continue;
            };
            let Some(node) = self.nodes.id(&exception.node) else {
                continue;
            };
            let wait = Duration::try_from(retry.duration_since(now.wall)).unwrap_or_default();
            let until = now.mono + wait;
            first_retry = Some(first_retry.map_or(until, |first| first.min(until)));
            // Others waited for these without having failed themselves.
            if exception.attempts == 0 {
                continue;
            }
            let failure = Failure {
                class: class_of(&exception.reason),
                message: exception.message.clone(),
                attempts: u32::try_from(exception.attempts).unwrap_or(1),
                at: now.mono,
                retry: until,
            };
            waiting.push((node, failure));
        }
        let Some(image) = self.images.get_mut(id) else {
            return;
        };
        let mut wakes = Vec::new();
        for (node, failure) in waiting {
            image.blocked.insert(node);
            wakes.push((failure.retry, Wake::Retry(id, node)));
            image.failures.entry(node).or_insert(failure);
        }
        if let Some(until) = first_retry {
            image.inquiry.wait_until(until);
            wakes.push((until, Wake::Schedule));
        }
        if let Some(until) = first_retry
            && image.probe != Probe::Proven
        {
            image.probe = Probe::Waiting { until };
        }
        for (at, wake) in wakes {
            self.wake(at, wake);
        }
    }

    /// The user has edited the object: whatever waited because of it is tried again now.
    fn retry_image(&mut self, now: Now, id: ImageId) {
        let Some(image) = self.images.get_mut(id) else {
            return;
        };
        if let Probe::Waiting { .. } = image.probe {
            image.probe = Probe::Unproven;
        }
        image.foreign_platforms.clear();
        image.inquiry.ask_anew(now.mono);
        if let Some(login) = &image.login {
            self.logins.retry(now.mono, login, id);
        }
        if let Some(host) = self.hosts.get_mut(&image.host) {
            host.reach_again();
        }
        image.blocked = NodeSet::default();
        for failure in image.failures.values_mut() {
            failure.retry = now.mono;
        }
        let always = image.objects.iter().any(|name| {
            self.objects
                .get(name)
                .is_some_and(|o| o.facts.spec.image_pull_policy == ImagePullPolicy::Always)
        });
        if always && image.never_checked() && image.check.due.is_none() {
            image.check.due = Some(now.mono);
        }
        self.unsettled = true;
    }

    fn delete_image(&mut self, name: &str) {
        let Some(object) = self.objects.remove(name) else {
            return;
        };
        self.secrets.stale = true;
        self.order
            .remove(&(object.facts.spec.priority.unwrap_or(0), name.to_owned()));
        if let Ok(id) = object.image {
            self.leave_image(id, name);
        }
    }

    /// The object does not want the image any more.
    fn leave_image(&mut self, id: ImageId, name: &str) {
        if let Some(image) = self.images.get_mut(id) {
            image.objects.remove(name);
        }
        self.refresh_login(id);
        self.retarget_image(id);
        self.idle_images.insert(id);
    }

    pub(crate) fn drop_idle_images(&mut self) {
        for id in std::mem::take(&mut self.idle_images) {
            if let Some(image) = self.images.get(id).filter(|image| !image.is_in_use()) {
                let host = image.host.clone();
                self.images.remove(id);
                if !self.images.iter().any(|(_, image)| image.host == host) {
                    self.hosts.remove(&host);
                }
            }
        }
    }
}
