//! What ends waits early: edits, Secrets that say something else, nodes and images that are gone.

use std::time::Duration;

use crate::oracle::backoff::{Backoff, Host, Image};

impl Backoff {
    /// Somebody has edited what the failures were about.
    pub(crate) fn forget_reference(&mut self, reference: usize) {
        let image = &mut self.images[reference];
        image.pairs.clear();
        image.brought.clear();
        image.lost_at.clear();
        image.until = Duration::ZERO;
        image.foreign = [Duration::ZERO; 2];
    }

    /// A Secret that it is pulled with says something else.
    pub(crate) fn secret_changed(&mut self, reference: usize) {
        let image = &mut self.images[reference];
        image.pairs.retain(|_, wait| wait.is_truce);
        image.until = Duration::ZERO;
        image.strikes = 0;
    }

    /// Nothing names the reference any more. What was known of it is forgotten, now or when its last pull ends.
    pub(crate) fn orphaned(&mut self, reference: usize, now: Duration, is_forgotten: bool) {
        let image = &mut self.images[reference];
        if is_forgotten {
            *image = Image {
                host: image.host,
                unproven_since: now,
                ..Image::default()
            };
        }
        image.is_had = false;
        image.strikes = 0;
    }

    pub(crate) fn forget_node(&mut self, node: usize) {
        self.nodes.remove(&node);
        for image in &mut self.images {
            image.pairs.remove(&node);
            image.brought.remove(&node);
            image.lost_at.remove(&node);
        }
    }

    pub(crate) fn forget_host(&mut self, host: usize) {
        self.hosts[host] = Host::default();
    }
}
