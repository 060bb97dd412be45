//! What disks allow: nothing starts that would pass the high mark, and nothing on a node with `DiskPressure`.

use std::collections::HashMap;

use crate::oracle::{Oracle, Verdict, Violation};

/// `--disk-high-percent` of every agent.
const HIGH_PERCENT: u64 = 80;
/// Every image is taken to need so much: three times what registries say, or more where nobody has asked them.
const NEED_BYTES: u64 = 15_000_000;

/// What each agent was told of its disk last: bytes in use and bytes in all.
#[derive(Debug, Default)]
pub(crate) struct Disks(HashMap<usize, (u64, u64)>);

impl Oracle {
    /// The agent reads its disk.
    pub(crate) fn disk_read(&mut self, node: usize, used_bytes: u64, total_bytes: u64) {
        self.disks.0.insert(node, (used_bytes, total_bytes));
    }

    /// A pull starts beside so many others.
    pub(super) fn fits(&self, node: usize, running: usize) -> Verdict {
        let Some((used, total)) = self.disks.0.get(&node) else {
            return Ok(());
        };
        let then = used + NEED_BYTES * (running as u64 + 1);
        if then * 100 <= total * HIGH_PERCENT {
            return Ok(());
        }
        let text = format!("n{node:05} pulls with {used} of {total} bytes in use");
        Err(Violation::new("disk", text))
    }

    pub(super) fn has_pressure(&self, node: usize) -> bool {
        let spec = self.view.nodes.get(&node);
        spec.is_some_and(|spec| spec.pressure)
    }
}
