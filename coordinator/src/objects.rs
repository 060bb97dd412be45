//! What changes in the API server: nodes, images, policies.

mod images;
mod nodes;
mod policies;

use drop_api::CachedImageStatus;

pub use policies::limits;

use crate::core::{Core, Now, Wake};
use crate::image::ImageId;

impl Core {
    /// Plans everything once the three watches have delivered their first lists.
    fn begin(&mut self, now: Now) {
        if !self.synced.all() {
            return;
        }
        if self.started.is_none() {
            self.started = Some(now.mono);
            self.wake(now.mono + self.config.grant_ttl, Wake::Schedule);
            // Failures are by node, and the nodes may have come after the images.
            let restored: Vec<(ImageId, CachedImageStatus)> = self
                .objects
                .values()
                .filter_map(|o| {
                    Some((
                        o.image.clone().ok()?,
                        o.record.written()?.clone(),
                        o.facts.generation,
                    ))
                })
                .filter(|(_, status, generation)| status.observed_generation == *generation)
                .map(|(id, status, _)| (id, status))
                .collect();
            for (id, status) in restored {
                self.restore_failures(now, id, &status);
            }
        }
        let names: Vec<String> = self.objects.keys().cloned().collect();
        for name in names {
            self.retarget(now, &name, None);
            self.mark(now, &name);
        }
    }
}
