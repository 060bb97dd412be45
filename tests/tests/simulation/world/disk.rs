//! A node's image filesystem: what the images on it take, and what others write there.

use std::time::Duration;

use drop_agent::node::{Disk, DiskLimits};

use crate::agenda::Event;
use crate::objects::NodeSpec;
use crate::world::World;

const MB: u64 = 1_000_000;
/// All of it. Every image of the world has room, unless somebody else needs it.
const TOTAL_BYTES: u64 = 2_000 * MB;
/// What a node has on it before any image.
const SYSTEM_BYTES: u64 = 300 * MB;

pub(crate) const LIMITS: DiskLimits = DiskLimits {
    high_percent: 80,
    default_need_bytes: 25 * MB,
};

/// What an image takes.
pub(crate) fn size_bytes(reference: usize) -> u64 {
    (5 + reference as u64 % 4 * 5) * MB
}

impl World {
    /// As `statvfs` says it.
    pub(crate) fn disk(&self, node: usize) -> Disk {
        let machine = &self.machines[node];
        let images = machine.runtime.held.keys().map(|held| size_bytes(*held));
        let foreign = if self.agenda.now < machine.filled.1 {
            TOTAL_BYTES / 100 * machine.filled.0
        } else {
            0
        };
        let used = images.sum::<u64>() + SYSTEM_BYTES + foreign;
        Disk {
            free_bytes: TOTAL_BYTES.saturating_sub(used),
            total_bytes: TOTAL_BYTES,
        }
    }

    /// The kubelet reports `DiskPressure`, or that it is over.
    pub(crate) fn press(&mut self, node: usize, pressure: bool) {
        if let Some(spec) = self.api.nodes.get(&node).copied() {
            self.put_node(node, NodeSpec { pressure, ..spec });
        }
    }

    /// The kubelet needs room again and again, and finds it in what no pod uses.
    pub(crate) fn kubelet_fights(&mut self, node: usize, until: Duration) {
        self.collect_garbage(node, 100);
        let wait = self.machines[node].dice.secs(5, 20);
        if self.agenda.now + wait < until {
            self.agenda
                .after(wait, Event::KubeletFights { node, until });
        }
    }
}
