//! What the state machine shows of itself to metrics and probes.

use crate::core::Core;

/// A picture of the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Nodes, images and policies have been listed: sessions and statuses mean something.
    pub synced: bool,
    /// Connected agents.
    pub sessions: usize,
    /// Grants that are out.
    pub grants_out: usize,
    /// Pulls that nodes ask for and have no grant for.
    pub grants_waiting: usize,
    /// CachedImages by name.
    pub images: Vec<ImageReport>,
}

/// A CachedImage in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageReport {
    /// metadata.name
    pub name: String,
    /// The canonical reference, or spec.image where it is none.
    pub image: String,
    /// Nodes that should have it.
    pub targeted: i32,
    /// Nodes that have it.
    pub cached: i32,
    /// Failures in a row over all nodes.
    pub consecutive_failures: i32,
}

impl Core {
    /// A picture of the state.
    #[must_use]
    pub fn report(&self) -> Report {
        let images = self.objects.values().map(|object| {
            let image = object
                .image
                .as_ref()
                .ok()
                .and_then(|id| self.images.get(*id));
            ImageReport {
                name: object.facts.name.clone(),
                image: image.map_or_else(
                    || object.facts.spec.image.clone(),
                    |image| image.reference.clone(),
                ),
                targeted: i32::try_from(object.targets.len()).unwrap_or(i32::MAX),
                cached: object.ready,
                consecutive_failures: object.consecutive_failures,
            }
        });
        let waiting = self.images.iter().map(|(_, image)| {
            let mut waiting = image.asked.clone();
            waiting.subtract(&image.granted);
            waiting.len()
        });
        Report {
            synced: self.synced.all(),
            sessions: self.sessions.len(),
            grants_out: self.grants.len(),
            grants_waiting: waiting.sum(),
            images: images.collect(),
        }
    }
}
