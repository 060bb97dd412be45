//! What is known of one image reference in the cluster: which digest it should have, which nodes hold it, who may try first.
//!
//! Pure. Everything here is learned from agents' reports and from CachedImage status at start; it decides what a report
//! means, not who pulls.

mod check;
mod digests;
mod losses;
mod probe;
pub mod resolve;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use drop_proto::FailureClass;
use jiff::Timestamp;

pub use probe::Probe;

use crate::core::Now;
use crate::logins::Login;
use crate::node_set::{NodeId, NodeSet};
use digests::{DigestSets, SetId};
use losses::Losses;
use resolve::Inquiry;

/// An image's place in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(pub u32);

/// How many digests of one tag are remembered. More mirrors than this do not disagree.
const SEEN_DIGESTS: usize = 32;

/// Why the last pull of an image on a node failed, and when the next may start.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// What kind of failure.
    pub class: FailureClass,
    /// Cleaned for people.
    pub message: String,
    /// Failures in a row on this node.
    pub attempts: u32,
    /// When the last one happened.
    pub at: Duration,
    /// When the next pull may start.
    pub retry: Duration,
}

/// Why a node does not ask for an image that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of reason.
    pub class: FailureClass,
    /// Cleaned for people.
    pub message: String,
}

/// When and by whom the tag is to be asked for again.
#[derive(Clone, Debug, Default)]
pub struct Check {
    /// Since when a check is due: the reference is new, was edited, or its interval is over.
    pub due: Option<Duration>,
    /// Counts checks; nodes are told the number of the one they should do.
    pub number: u64,
    /// The node that was told to check although it holds the image.
    pub checker: Option<NodeId>,
    /// After a check that failed, the next one waits until then.
    pub not_before: Duration,
    /// When the last check ended.
    pub last: Option<Timestamp>,
}

/// One image reference.
#[derive(Debug)]
pub struct Image {
    /// Canonical.
    pub reference: String,
    /// The registry host, with its port.
    pub host: String,
    /// The spec names the digest itself: there is nothing to check.
    pub pinned: bool,
    /// Names of the CachedImages that want it.
    pub objects: BTreeSet<String>,
    /// The digest that the reference should have.
    pub expected: Option<String>,
    seen: Vec<String>,
    sets: DigestSets,
    held: Vec<SetId>,
    /// Nodes where some CachedImage wants it.
    pub targeted: NodeSet,
    /// Nodes that have said whether they hold it since it was desired there.
    pub reported: NodeSet,
    /// Nodes whose runtime lists it, with whatever digest.
    pub present: NodeSet,
    /// Nodes whose runtime lists it with the expected digest.
    pub current: NodeSet,
    /// Nodes that held the expected digest once, or pulled another one freshly: they stay ready when the expectation moves.
    pub accepted: NodeSet,
    /// Nodes that ask to pull it.
    pub asked: NodeSet,
    /// Nodes that hold a grant for it.
    pub granted: NodeSet,
    /// Nodes in back-off for it.
    pub blocked: NodeSet,
    /// Nodes on which the last pull failed.
    pub failures: BTreeMap<NodeId, Failure>,
    /// Nodes that need it and do not ask for it.
    pub refusals: BTreeMap<NodeId, Refusal>,
    /// What was pulled and vanished.
    pub losses: Losses,
    /// Whether anybody has shown that it can be had.
    pub probe: Probe,
    /// Nodes that were refused in a row since the last success, although the image was proven.
    pub strikes: u32,
    /// Platforms that the image does not exist for, and until when that is believed.
    pub foreign_platforms: BTreeMap<String, Duration>,
    /// The tag's next and last check.
    pub check: Check,
    /// As the runtime's list says it.
    pub size_bytes: Option<u64>,
    /// What its registry told the coordinator.
    pub inquiry: Inquiry,
    /// What its objects' Secrets have for it; `None`: nothing, or no Secret is named.
    pub login: Option<Arc<Login>>,
    /// What nodes were told of it: few different things, which all sessions share.
    pub told: Vec<Arc<Told>>,
}

/// What a node was told about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The canonical reference, since the image may be gone from the index when it is to be dropped.
    pub reference: String,
    /// As `drop_proto` has it.
    pub pull_policy: drop_proto::ImagePullPolicy,
    /// Empty: unknown.
    pub expected_digest: String,
    /// Lower is pulled first.
    pub priority: i32,
    /// See `DesiredImage.check`.
    pub check: u64,
    /// See `DesiredImage.compressed_bytes`.
    pub compressed_bytes: u64,
}

impl Image {
    /// An image of which nothing is known yet. `digest` is the one that the reference names, if it does.
    #[must_use]
    pub fn new(reference: String, host: String, digest: Option<String>) -> Self {
        Self {
            reference,
            host,
            pinned: digest.is_some(),
            objects: BTreeSet::new(),
            seen: digest.iter().cloned().collect(),
            expected: digest,
            sets: DigestSets::default(),
            held: Vec::new(),
            targeted: NodeSet::default(),
            reported: NodeSet::default(),
            present: NodeSet::default(),
            current: NodeSet::default(),
            accepted: NodeSet::default(),
            asked: NodeSet::default(),
            granted: NodeSet::default(),
            blocked: NodeSet::default(),
            failures: BTreeMap::new(),
            refusals: BTreeMap::new(),
            losses: Losses::default(),
            probe: Probe::default(),
            strikes: 0,
            foreign_platforms: BTreeMap::new(),
            check: Check::default(),
            size_bytes: None,
            inquiry: Inquiry::default(),
            login: None,
            told: Vec::new(),
        }
    }

    /// What a former leader had learned stands in the status: the digest, and when the tag was checked.
    pub fn restore(&mut self, digest: &str, checked: Option<Timestamp>) {
        if self.expected.as_deref() == Some(digest) && !self.pinned {
            self.check.last = self.check.last.max(checked);
        }
        if self.pinned || self.expected.is_some() {
            return;
        }
        self.probe = Probe::Proven;
        self.check.last = checked;
        self.expect(digest);
    }

    /// The node's runtime lists the image, with these digests.
    pub fn holds(&mut self, node: NodeId, digests: &[String]) {
        let index = node.0 as usize;
        if self.held.len() <= index {
            self.held.resize(index + 1, SetId::default());
        }
        if let Some(slot) = self.held.get_mut(index) {
            self.sets.release(*slot);
            *slot = self.sets.intern(digests);
        }
        self.reported.insert(node);
        self.present.insert(node);
        self.judge(node);
    }

    /// The node's runtime does not list the image.
    pub fn lacks(&mut self, node: NodeId) {
        self.reported.insert(node);
        self.forget_digests(node);
    }

    /// The node is not there any more, or nothing is known of it: all that was learned from it goes. Grants are not touched.
    pub fn forget(&mut self, node: NodeId) {
        self.forget_digests(node);
        for set in [&mut self.reported, &mut self.asked, &mut self.blocked] {
            set.remove(node);
        }
        self.failures.remove(&node);
        self.refusals.remove(&node);
        self.losses.forget(node);
        if self.check.checker == Some(node) {
            self.check.checker = None;
        }
    }

    fn forget_digests(&mut self, node: NodeId) {
        if let Some(slot) = self.held.get_mut(node.0 as usize) {
            self.sets.release(*slot);
            *slot = SetId::default();
        }
        for set in [&mut self.present, &mut self.current, &mut self.accepted] {
            set.remove(node);
        }
    }

    /// The digests that the node's runtime lists for the image.
    #[must_use]
    pub fn held_by(&self, node: NodeId) -> &[String] {
        self.held
            .get(node.0 as usize)
            .map_or(&[], |set| self.sets.get(*set))
    }

    /// A pull on the node just succeeded and left these digests. Returns whether the expectation moved.
    ///
    /// A pull that `began` after a check fell due is that check: its answer is the registry's word, even if the tag went back
    /// to a digest known before. Any other pull moves the expectation only to a digest never seen: mirrors that disagree must
    /// not make nodes pull in circles.
    pub fn pulled(&mut self, now: Now, node: NodeId, digests: &[String], began: Duration) -> bool {
        let checks = self.check.due.is_some_and(|due| due <= began);
        self.holds(node, digests);
        self.losses.brought(node);
        self.failures.remove(&node);
        self.blocked.remove(node);
        self.probe = Probe::Proven;
        self.strikes = 0;
        if checks {
            self.checked(now);
        }
        let expected_found = self.expected.as_ref().is_some_and(|e| digests.contains(e));
        let named = digests
            .iter()
            .find(|d| !self.seen.contains(d))
            .or(digests.first())
            .cloned();
        let moved = match named {
            Some(digest) if !expected_found && (checks || !self.seen.contains(&digest)) => {
                self.expect(&digest);
                true
            }
            _ => false,
        };
        if !moved && checks {
            for holder in self.present.clone().iter() {
                self.judge(holder);
            }
        }
        self.accepted.insert(node);
        if checks {
            self.forgive_current();
        }
        moved
    }

    /// The registry was asked what the tag names. Its word counts even if the tag went back to a digest known before.
    pub fn resolved(&mut self, now: Now, digest: &str) {
        self.checked(now);
        self.expect(digest);
        self.forgive_current();
    }

    fn checked(&mut self, now: Now) {
        self.check.due = None;
        self.check.checker = None;
        self.check.last = Some(now.wall);
    }

    /// What kept nodes from checking does not matter any more where they hold what the tag names.
    fn forgive_current(&mut self) {
        let current = self.current.clone();
        self.failures.retain(|node, _| !current.contains(*node));
        self.blocked.subtract(&current);
    }

    /// Without a check (`IfNotPresent`, Never) the digest that a runtime holds is all there is to say.
    pub fn adopt_held(&mut self, node: NodeId) {
        if self.expected.is_none()
            && let Some(digest) = self.held_by(node).first().cloned()
        {
            self.expect(&digest);
        }
    }

    fn expect(&mut self, digest: &str) {
        if !self.seen.iter().any(|seen| seen == digest) {
            if self.seen.len() == SEEN_DIGESTS {
                self.seen.remove(0);
            }
            self.seen.push(digest.to_owned());
        }
        self.expected = Some(digest.to_owned());
        for node in self.present.clone().iter() {
            self.judge(node);
        }
    }

    fn judge(&mut self, node: NodeId) {
        let current = self
            .expected
            .as_ref()
            .is_some_and(|expected| self.held_by(node).contains(expected));
        self.current.set(node, current);
        // While nobody knows what the tag names now, holding the former digest proves nothing.
        if current && !self.never_checked() {
            self.accepted.insert(node);
            if self.check.checker != Some(node) {
                self.asked.remove(node);
            }
        }
    }

    /// Nodes that ask for it, or would if they had the room.
    #[must_use]
    pub fn wanting(&self) -> NodeSet {
        let mut nodes = self.asked.clone();
        for node in self.refusals.keys() {
            nodes.insert(*node);
        }
        nodes
    }

    /// When the back-off ended or ends that the last pull on the node, or of the image anywhere, has led to.
    #[must_use]
    pub fn failed_until(&self, node: NodeId) -> Option<Duration> {
        let everywhere = match self.probe {
            Probe::Waiting { until } => Some(until),
            _ => None,
        };
        everywhere.max(self.failures.get(&node).map(|failure| failure.retry))
    }

    /// Whether the tag was never asked for since it was wanted, so that no digest can be called the right one.
    #[must_use]
    pub fn never_checked(&self) -> bool {
        !self.pinned && self.check.last.is_none()
    }

    /// Of these nodes those on which the fewest pulls have failed in a row. Objects that share a reference may differ in their
    /// Secrets: who has none must not be the one that tries for all of them again and again.
    #[must_use]
    pub fn least_tried(&self, nodes: NodeSet) -> NodeSet {
        let attempts = |node| self.failures.get(&node).map_or(0, |f| f.attempts);
        if self.failures.is_empty() {
            return nodes;
        }
        let fewest = nodes.iter().map(attempts).min();
        let least = nodes.iter().filter(|node| Some(attempts(*node)) == fewest);
        least.collect()
    }

    /// Whether anybody still wants it or pulls it.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        !self.objects.is_empty() || !self.granted.is_empty()
    }
}

#[cfg(test)]
mod tests;
