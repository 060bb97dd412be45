//! When a status is written: at once when it matters, rarely while a wave moves, never without a change.
//!
//! Pure. The write budget (design section 5): an unchanged status is never written; one object at most once a second; while
//! numbers move only when phase or a reason changes, when 2 % of the target nodes changed, or a minute after a change.

use std::collections::VecDeque;
use std::time::Duration;

use drop_api::{CachedImageStatus, NodeState, Phase};

use crate::cached_image::rollup::{NEWEST_DIGEST, UNCHECKED};

/// Least time between two writes of one object, and what the budget of all objects counts in.
const SPACING: Duration = Duration::from_secs(1);
/// A change that is not worth a write of its own is written after this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// A state that will not last (waiting, pulling) is not worth a write before it has lasted this long: what is Ready soon after
/// such a write would have to wait for the next one.
const PASSING: Duration = Duration::from_millis(1_500);
/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(10);
/// With many nodes a look costs more, so they come more rarely: one more millisecond for so many nodes.
const NODES_PER_MILLISECOND: usize = 50;
/// Longest wait after failed writes.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What is known of one object's status in the API server, and what is to become of it.
#[derive(Clone, Debug, Default)]
pub struct Record {
    written: Option<CachedImageStatus>,
    /// Resource version that `written` is known from.
    version: u64,
    in_flight: Option<CachedImageStatus>,
    /// A write failed, but may have landed: what stands there is not known for certain.
    doubted: bool,
    /// When the first change came that is not written yet.
    changed: Option<Duration>,
    /// When the next look is due.
    look: Option<Duration>,
    last_write: Option<Duration>,
    failures: u32,
    not_before: Option<Duration>,
}

/// What to do about a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It says what is true.
    Nothing,
    /// Look again at this time.
    At(Duration),
    /// Write it now.
    Write,
}

impl Record {
    /// An object as first seen.
    #[must_use]
    pub fn new(version: u64, status: Option<CachedImageStatus>) -> Self {
        Self {
            written: status,
            version,
            ..Self::default()
        }
    }

    /// What the API server holds, as far as known.
    #[must_use]
    pub fn written(&self) -> Option<&CachedImageStatus> {
        self.written.as_ref()
    }

    /// A watch showed the object. Returns whether its status is not what we wrote last. An event that is older than our own
    /// last write tells nothing new.
    pub fn seen(&mut self, version: u64, status: Option<CachedImageStatus>) -> bool {
        if version < self.version || self.in_flight.is_some() {
            return false;
        }
        self.version = version;
        self.doubted = false;
        let differs = self.written != status;
        self.written = status;
        differs
    }

    /// Something changed. Returns when to look at it, unless a look is planned by then.
    pub fn mark(&mut self, now: Duration, nodes: usize) -> Option<Duration> {
        self.changed.get_or_insert(now);
        let gathered = now + GATHER + Duration::from_millis((nodes / NODES_PER_MILLISECOND) as u64);
        // Before it may be written again, a look would be for nothing.
        let at = self.spaced().max(gathered);
        if self.look.is_some_and(|look| look <= at) {
            return None;
        }
        self.look = Some(at);
        Some(at)
    }

    /// Whether it is time to look. A wake-up for an earlier plan is not.
    #[must_use]
    pub fn is_due(&self, now: Duration) -> bool {
        self.in_flight.is_none() && self.look.is_some_and(|look| look <= now)
    }

    /// It is not the time to decide: the next look is at `until`, or earlier if something changes.
    pub fn hold(&mut self, until: Option<Duration>) {
        self.look = until;
    }

    /// Whether the status that stands there is a former process's.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.written.is_some() && self.last_write.is_none()
    }

    /// Decides about the status that should stand there now.
    pub fn decide(
        &mut self,
        now: Duration,
        status: &CachedImageStatus,
        changes_at: Option<Duration>,
        budget: &mut Budget,
    ) -> Decision {
        self.look = None;
        if self.written.as_ref() == Some(status) && !self.doubted {
            self.changed = None;
            self.look = changes_at;
            return Decision::Nothing;
        }
        let changed = *self.changed.get_or_insert(now);
        let wait = match urgency(self.written.as_ref(), status) {
            Urgency::Lasting => Duration::ZERO,
            Urgency::Passing => PASSING,
            Urgency::Minor => PATIENCE,
        };
        let at = (changed + wait)
            .max(self.spaced())
            .max(self.not_before.unwrap_or_default());
        let at = if at <= now {
            budget.take(now)
        } else {
            Some(at)
        };
        match at {
            None => Decision::Write,
            Some(at) => {
                self.look = Some(changes_at.map_or(at, |c| c.min(at)));
                Decision::At(at)
            }
        }
    }

    /// When it may be written again, for the sake of the time between two writes.
    fn spaced(&self) -> Duration {
        self.last_write.map_or(Duration::ZERO, |at| at + SPACING)
    }

    /// The status goes out.
    pub fn writing(&mut self, now: Duration, status: CachedImageStatus) {
        self.in_flight = Some(status);
        self.changed = None;
        self.last_write = Some(now);
    }

    /// The write succeeded and made this resource version. Returns when to look again.
    pub fn succeeded(&mut self, now: Duration, version: u64) -> Option<Duration> {
        if let Some(status) = self.in_flight.take() {
            self.written = Some(status);
        }
        // From here on, since it may have been on its way for long: two must not arrive within one spacing.
        self.last_write = Some(now);
        self.version = self.version.max(version);
        self.doubted = false;
        self.failures = 0;
        self.not_before = None;
        self.look = Some(now);
        self.look
    }

    /// The write failed. Returns when to look again.
    pub fn failed(&mut self, now: Duration) -> Option<Duration> {
        self.in_flight = None;
        self.doubted = true;
        self.failures += 1;
        let wait = SPACING
            .saturating_mul(1 << self.failures.min(8))
            .min(RETRY_MAX);
        self.not_before = Some(now + wait);
        self.changed.get_or_insert(now);
        self.look = Some(now + wait);
        self.look
    }

    /// The write under way.
    #[must_use]
    pub fn in_flight(&self) -> Option<&CachedImageStatus> {
        self.in_flight.as_ref()
    }
}

enum Urgency {
    /// It will stay like this unless something happens: write it now.
    Lasting,
    /// It is on its way to something else.
    Passing,
    /// Numbers and times only.
    Minor,
}

fn urgency(written: Option<&CachedImageStatus>, status: &CachedImageStatus) -> Urgency {
    let moved = written.is_none_or(|written| {
        written.phase != status.phase
            || written.observed_generation != status.observed_generation
            || written.resolved_digest != status.resolved_digest
            || written.nodes_targeted != status.nodes_targeted
            || words(written) != words(status)
            || nodes_changed(written, status) * 50 >= status.nodes_targeted.max(1)
    });
    if !moved {
        return Urgency::Minor;
    }
    let is_under_way = !matches!(status.phase, Some(Phase::Ready | Phase::Degraded));
    // Without a node nothing is under way.
    if is_under_way && status.nodes_targeted > 0 {
        Urgency::Passing
    } else {
        Urgency::Lasting
    }
}

/// What conditions say, without the numbers in it.
fn words(status: &CachedImageStatus) -> Vec<(&str, &str, &str, bool, bool)> {
    status
        .conditions
        .iter()
        .map(|c| {
            (
                c.type_.as_str(),
                c.status.as_str(),
                c.reason.as_str(),
                c.message.contains(NEWEST_DIGEST),
                c.message.contains(UNCHECKED),
            )
        })
        .collect()
}

/// How many nodes became ready, failed or stopped to be either. Who waits and who pulls changes all the time in a wave.
fn nodes_changed(written: &CachedImageStatus, status: &CachedImageStatus) -> i32 {
    let settled = (written.nodes_ready - status.nodes_ready).abs()
        + (written.nodes_failed - status.nodes_failed).abs();
    let lost = |s: &CachedImageStatus| {
        s.nodes
            .iter()
            .filter(|n| n.state == NodeState::NotConnected)
            .count()
    };
    let reasons = i32::try_from(lost(written).abs_diff(lost(status))).unwrap_or(i32::MAX);
    settled.saturating_add(reasons)
}

/// The budget of all objects together: so many writes within any second.
#[derive(Clone, Debug)]
pub struct Budget {
    per_second: usize,
    /// Writes of the last second, oldest first.
    recent: VecDeque<Duration>,
}

impl Budget {
    /// Nothing is spent yet.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second: (per_second as usize).max(1),
            recent: VecDeque::new(),
        }
    }

    /// Takes a write out, or says when there may be one.
    pub fn take(&mut self, now: Duration) -> Option<Duration> {
        self.forget(now);
        if let Some(over) = self.recent.len().checked_sub(self.per_second) {
            return self.recent.get(over).map(|at| *at + SPACING);
        }
        self.recent.push_back(now);
        None
    }

    /// Events follow from writes, and are writes too: those that come after them wait the longer.
    pub fn spend(&mut self, now: Duration) {
        self.forget(now);
        self.recent.push_back(now);
    }

    fn forget(&mut self, now: Duration) {
        while self.recent.front().is_some_and(|at| *at + SPACING <= now) {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
