//! The limits of one PullPolicy and what runs under it.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Toleration;

use crate::node_set::{NodeId, NodeSet};
use crate::pacing::backoff::Backoff;

/// Key of the policy that images without a `policyRef`, or with one that does not exist, share. No object can have this name.
pub const BUILT_IN: &str = "";

/// A PullPolicy's fields, with defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Most distinct nodes that pull at once.
    pub max_nodes: u32,
    /// Most pulls at once; `None` = no limit.
    pub max_pulls: Option<u32>,
    /// Least time between a start on one node and the next start on another node.
    pub min_delay: Duration,
    /// Waits after failures.
    pub backoff: Backoff,
    /// How long a pull may take; `None` = as long as the agent's own flag allows.
    pub pull_timeout: Option<Duration>,
    /// How often a tag is checked again; `None` = never.
    pub repull_interval: Option<Duration>,
    /// Nodes that the policy covers.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the policy tolerates.
    pub tolerations: Vec<Toleration>,
}

impl Default for Limits {
    /// The built-in policy (contract section 4).
    fn default() -> Self {
        Self {
            max_nodes: 1,
            max_pulls: None,
            min_delay: Duration::from_secs(10),
            backoff: Backoff::default(),
            pull_timeout: None,
            repull_interval: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
        }
    }
}

/// One policy: its limits and what runs under them.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The object is there. A deleted policy stays until the pulls under it have ended.
    pub exists: bool,
    /// What the object says.
    pub limits: Limits,
    /// Pulls that run, by node.
    running: BTreeMap<NodeId, u32>,
    /// The same nodes, for comparing them with others.
    nodes: NodeSet,
    /// All of them together.
    pulls: u32,
    last_start: Option<(NodeId, Duration)>,
    /// The start before the last one.
    start_before: Option<(NodeId, Duration)>,
    /// The last start was of a pull that had failed before.
    pub retried: bool,
}

/// The answer of [`Policy::admits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A pull may start on any node.
    Any,
    /// A pull may start only on this node, where the last one started. Others may at the time.
    Only(NodeId, Duration),
    /// A pull may start only where one runs: see [`Policy::nodes`].
    Running,
    /// Nothing may start until a running pull ends.
    Full,
}

impl Policy {
    /// Where a pull may start now.
    #[must_use]
    pub fn admits(&self, now: Duration) -> Admission {
        if self.limits.max_pulls.is_some_and(|max| self.pulls >= max) {
            return Admission::Full;
        }
        // The limit was lowered meanwhile: nothing starts, not even where pulls run, until so many nodes have come to their end.
        if self.running.len() as u32 > self.limits.max_nodes {
            return Admission::Full;
        }
        let all_nodes_taken = self.running.len() as u32 == self.limits.max_nodes;
        let delayed = self
            .last_start
            .map(|(node, at)| (node, at + self.limits.min_delay))
            .filter(|(_, until)| now < *until);
        match (all_nodes_taken, delayed) {
            (false, None) => Admission::Any,
            (false, Some((node, until))) => Admission::Only(node, until),
            (true, None) => Admission::Running,
            (true, Some((node, until))) if self.running.contains_key(&node) => {
                Admission::Only(node, until)
            }
            (true, Some(_)) => Admission::Full,
        }
    }

    /// Nodes on which pulls run.
    #[must_use]
    pub fn nodes(&self) -> &NodeSet {
        &self.nodes
    }

    /// A pull was granted.
    pub fn started(&mut self, now: Duration, node: NodeId) {
        self.adopted(node);
        self.start_before = self.last_start.replace((node, now));
    }

    /// A grant came back unused: the start at that time did not take place, and delays nobody.
    pub fn undo_start(&mut self, node: NodeId, at: Duration) {
        if self.last_start == Some((node, at)) {
            self.last_start = self.start_before;
        }
    }

    /// A pull that began under a former leader or session was taken over: it counts, but starts nothing.
    pub fn adopted(&mut self, node: NodeId) {
        *self.running.entry(node).or_default() += 1;
        self.nodes.insert(node);
        self.pulls += 1;
    }

    /// A granted pull is over.
    pub fn ended(&mut self, node: NodeId) {
        if let Some(count) = self.running.get_mut(&node) {
            *count -= 1;
            self.pulls -= 1;
            if *count == 0 {
                self.running.remove(&node);
                self.nodes.remove(node);
            }
        }
    }

    /// Whether nothing runs under it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// The node's place in the index will be used for another node: its last start concerns nobody on that place.
    pub fn forget_node(&mut self, node: NodeId) {
        self.pulls -= self.running.remove(&node).unwrap_or_default();
        self.nodes.remove(node);
        for start in [&mut self.last_start, &mut self.start_before] {
            if let Some((last, _)) = start
                && *last == node
            {
                *last = NodeId(u32::MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn policy(max_nodes: u32, max_pulls: Option<u32>, delay: u64) -> Policy {
        let limits = Limits {
            max_nodes,
            max_pulls,
            min_delay: secs(delay),
            ..Limits::default()
        };
        Policy {
            limits,
            ..Policy::default()
        }
    }

    #[test]
    fn the_delay_holds_back_other_nodes_only() {
        let mut policy = policy(1, None, 10);
        assert_eq!(policy.admits(secs(0)), Admission::Any);
        policy.started(secs(0), A);
        policy.ended(A);
        assert_eq!(policy.admits(secs(1)), Admission::Only(A, secs(10)));
        policy.started(secs(5), A);
        policy.ended(A);
        assert_eq!(policy.admits(secs(10)), Admission::Only(A, secs(15)));
        assert_eq!(policy.admits(secs(15)), Admission::Any);
    }

    #[test]
    fn a_second_pull_on_a_busy_node_takes_no_second_node() {
        let mut policy = policy(1, None, 0);
        policy.started(secs(0), A);
        assert_eq!(policy.admits(secs(0)), Admission::Running);
        policy.started(secs(0), A);
        policy.ended(A);
        assert_eq!(policy.admits(secs(0)), Admission::Running);
        policy.ended(A);
        assert_eq!(policy.admits(secs(0)), Admission::Any);
    }

    #[test]
    fn a_lowered_limit_lets_the_nodes_above_it_finish_and_starts_nothing_on_them() {
        let mut policy = policy(2, None, 0);
        policy.started(secs(0), A);
        policy.started(secs(0), B);
        policy.limits.max_nodes = 1;
        assert_eq!(policy.admits(secs(1)), Admission::Full);
        policy.ended(B);
        assert_eq!(policy.admits(secs(1)), Admission::Running);
    }

    #[test]
    fn max_pulls_counts_pulls_over_all_nodes() {
        let mut policy = policy(5, Some(2), 0);
        policy.started(secs(0), A);
        assert_eq!(policy.admits(secs(0)), Admission::Any);
        policy.started(secs(0), B);
        assert_eq!(policy.admits(secs(0)), Admission::Full);
        policy.ended(A);
        assert_eq!(policy.admits(secs(0)), Admission::Any);
    }

    #[test]
    fn a_start_that_did_not_take_place_delays_nobody() {
        let mut policy = policy(3, None, 10);
        policy.started(secs(0), A);
        policy.started(secs(10), B);
        policy.ended(B);
        policy.undo_start(B, secs(10));
        assert_eq!(policy.admits(secs(11)), Admission::Any);
        policy.started(secs(11), B);
        policy.undo_start(A, secs(11));
        assert_eq!(policy.admits(secs(12)), Admission::Only(B, secs(21)));
    }

    #[test]
    fn all_nodes_taken_and_the_last_start_elsewhere_means_full() {
        let mut policy = policy(1, None, 10);
        policy.started(secs(0), A);
        policy.started(secs(1), A);
        policy.forget_node(A);
        policy.adopted(B);
        assert_eq!(policy.admits(secs(2)), Admission::Full);
        assert_eq!(policy.admits(secs(12)), Admission::Running);
    }
}
