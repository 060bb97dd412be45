//! When a status is written: at once when it matters, rarely while a wave moves, never without a change.
//!
//! Pure. The write budget (design section 5): an unchanged status is never written; one object at most once a second; while
//! numbers move only when phase or a reason changes, when 2 % of the target nodes changed, or a minute after a change.

use std::time::Duration;

use drop_api::{CachedImageStatus, NodeState, Phase};

use crate::cached_image::rollup::{NEWEST_DIGEST, UNCHECKED};

/// Least time between two writes of one object.
const SPACING: Duration = Duration::from_secs(1);
/// A change that is not worth a write of its own is written after this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// A state that will not last (waiting, pulling) is not worth a write before it has lasted this long.
const PASSING: Duration = Duration::from_millis(300);
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
        bucket: &mut Bucket,
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
            bucket.take(now)
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
    match (moved, status.phase) {
        (false, _) => Urgency::Minor,
        (true, Some(Phase::Ready | Phase::Degraded)) => Urgency::Lasting,
        (true, _) => Urgency::Passing,
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

/// The budget of all objects together: so many writes a second, with a second's worth saved up.
#[derive(Clone, Debug)]
pub struct Bucket {
    interval: Duration,
    burst: u32,
    /// When the bucket is full again.
    full: Duration,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let burst = per_second.max(1);
        Self {
            interval: Duration::from_secs(1) / burst,
            burst,
            full: Duration::ZERO,
        }
    }

    /// Takes a write out, or says when there will be one.
    pub fn take(&mut self, now: Duration) -> Option<Duration> {
        let full = self.full.max(now) + self.interval;
        let most = now + self.interval * self.burst;
        if full > most {
            return Some(now + full.saturating_sub(most));
        }
        self.full = full;
        None
    }
}

#[cfg(test)]
mod tests {
    use drop_api::conditions;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn status(phase: Phase, ready: i32, of: i32) -> CachedImageStatus {
        let condition: Condition = serde_json::from_value(serde_json::json!({
            "type": conditions::READY, "status": if phase == Phase::Ready { "True" } else { "False" },
            "reason": if phase == Phase::Ready { "Cached" } else { "InProgress" },
            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        CachedImageStatus {
            phase: Some(phase),
            nodes_ready: ready,
            nodes_targeted: of,
            conditions: vec![condition],
            ..CachedImageStatus::default()
        }
    }

    struct Writer {
        record: Record,
        bucket: Bucket,
        version: u64,
    }

    impl Writer {
        fn new() -> Self {
            Self {
                record: Record::default(),
                bucket: Bucket::new(50),
                version: 0,
            }
        }

        /// Changes the status at `at` and returns when it is written.
        fn change(&mut self, at: Duration, status: &CachedImageStatus) -> Option<Duration> {
            let mut now = self.record.mark(at, 3).unwrap_or(at);
            for _ in 0..10 {
                match self.record.decide(now, status, None, &mut self.bucket) {
                    Decision::Nothing => return None,
                    Decision::At(later) => now = later,
                    Decision::Write => {
                        self.record.writing(now, status.clone());
                        self.version += 1;
                        self.record.succeeded(now, self.version);
                        assert_eq!(
                            self.record.decide(now, status, None, &mut self.bucket),
                            Decision::Nothing
                        );
                        return Some(now);
                    }
                }
            }
            panic!("never decided");
        }
    }

    #[test]
    fn an_unchanged_status_is_never_written() {
        let mut writer = Writer::new();
        let ready = status(Phase::Ready, 3, 3);
        assert_eq!(writer.change(ms(0), &ready), Some(ms(10)));
        assert_eq!(writer.change(ms(5000), &ready), None);
    }

    #[test]
    fn a_passing_state_is_written_only_if_it_lasts() {
        let mut writer = Writer::new();
        assert_eq!(
            writer.change(ms(0), &status(Phase::Pending, 0, 3)),
            Some(ms(300))
        );
        assert_eq!(
            writer.change(ms(2000), &status(Phase::Ready, 3, 3)),
            Some(ms(2010))
        );
    }

    #[test]
    fn one_object_is_written_once_a_second_at_most() {
        let mut writer = Writer::new();
        assert_eq!(
            writer.change(ms(0), &status(Phase::Degraded, 0, 3)),
            Some(ms(10))
        );
        assert_eq!(
            writer.change(ms(20), &status(Phase::Ready, 3, 3)),
            Some(ms(1010))
        );
    }

    #[test]
    fn a_big_wave_is_written_in_steps_of_two_percent_or_after_a_minute() {
        let mut writer = Writer::new();
        assert!(
            writer
                .change(ms(0), &status(Phase::Pulling, 1, 1000))
                .is_some()
        );
        assert_eq!(
            writer.change(ms(2000), &status(Phase::Pulling, 20, 1000)),
            Some(ms(62_000))
        );
        assert_eq!(
            writer.change(ms(100_000), &status(Phase::Pulling, 40, 1000)),
            Some(ms(100_300))
        );
    }

    #[test]
    fn a_stale_watch_event_does_not_undo_our_own_write() {
        let mut writer = Writer::new();
        writer.version = 100;
        writer.change(ms(0), &status(Phase::Ready, 3, 3));
        assert!(!writer.record.seen(50, Some(status(Phase::Pending, 0, 3))));
        assert!(!writer.record.seen(101, Some(status(Phase::Ready, 3, 3))));
        assert!(
            writer.record.seen(102, None),
            "somebody took the status away"
        );
        assert!(
            writer
                .change(ms(5000), &status(Phase::Ready, 3, 3))
                .is_some()
        );
    }

    #[test]
    fn failed_writes_come_again_later_and_later() {
        let mut record = Record::default();
        record.mark(ms(0), 1);
        record.writing(ms(300), status(Phase::Ready, 1, 1));
        assert_eq!(record.failed(ms(300)), Some(ms(2300)));
        let mut bucket = Bucket::new(50);
        let decision = record.decide(ms(1000), &status(Phase::Ready, 1, 1), None, &mut bucket);
        assert_eq!(decision, Decision::At(ms(2300)));
        assert_eq!(
            record.decide(ms(2300), &status(Phase::Ready, 1, 1), None, &mut bucket),
            Decision::Write
        );
        for _ in 0..20 {
            record.failed(ms(2300));
        }
        assert_eq!(record.failed(ms(0)), Some(RETRY_MAX));
    }

    #[test]
    fn a_write_that_may_have_landed_is_made_good() {
        let mut writer = Writer::new();
        let (good, bad) = (status(Phase::Ready, 3, 3), status(Phase::Pulling, 2, 3));
        writer.change(ms(0), &good);
        writer.record.mark(ms(2000), 3);
        writer.record.writing(ms(2300), bad);
        writer.record.failed(ms(2300));
        assert!(
            writer.change(ms(9000), &good).is_some(),
            "the API server may show the other one"
        );
    }

    #[test]
    fn all_objects_share_a_budget() {
        let mut bucket = Bucket::new(10);
        let now = ms(5000);
        for _ in 0..10 {
            assert_eq!(bucket.take(now), None);
        }
        assert_eq!(bucket.take(now), Some(ms(5100)));
        assert_eq!(bucket.take(ms(5100)), None);
        assert!(bucket.take(ms(5100)).is_some());
    }
}
