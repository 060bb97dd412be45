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
    budget: Budget,
    version: u64,
}

impl Writer {
    fn new() -> Self {
        Self {
            record: Record::default(),
            budget: Budget::new(50),
            version: 0,
        }
    }

    /// Changes the status at `at` and returns when it is written.
    fn change(&mut self, at: Duration, status: &CachedImageStatus) -> Option<Duration> {
        let mut now = self.record.mark(at, 3).unwrap_or(at);
        for _ in 0..10 {
            match self.record.decide(now, status, None, &mut self.budget) {
                Decision::Nothing => return None,
                Decision::At(later) => now = later,
                Decision::Write => {
                    self.record.writing(now, status.clone());
                    self.version += 1;
                    self.record.succeeded(now, self.version);
                    assert_eq!(
                        self.record.decide(now, status, None, &mut self.budget),
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
        Some(ms(1500))
    );
    assert_eq!(
        writer.change(ms(3000), &status(Phase::Ready, 3, 3)),
        Some(ms(3010))
    );
}

#[test]
fn that_no_node_matches_is_written_at_once() {
    let mut writer = Writer::new();
    assert_eq!(
        writer.change(ms(0), &status(Phase::Pending, 0, 0)),
        Some(ms(10))
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
        Some(ms(101_500))
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
    let mut budget = Budget::new(50);
    let decision = record.decide(ms(1000), &status(Phase::Ready, 1, 1), None, &mut budget);
    assert_eq!(decision, Decision::At(ms(2300)));
    assert_eq!(
        record.decide(ms(2300), &status(Phase::Ready, 1, 1), None, &mut budget),
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
    let mut budget = Budget::new(10);
    let now = ms(5000);
    for _ in 0..9 {
        assert_eq!(budget.take(now), None);
    }
    assert_eq!(budget.take(ms(5500)), None);
    assert_eq!(budget.take(ms(5999)), Some(ms(6000)));
    for _ in 0..9 {
        assert_eq!(budget.take(ms(6000)), None);
    }
    assert_eq!(budget.take(ms(6000)), Some(ms(6500)));
}

#[test]
fn events_count_as_writes() {
    let mut budget = Budget::new(2);
    assert_eq!(budget.take(ms(0)), None);
    budget.spend(ms(100));
    assert_eq!(budget.take(ms(200)), Some(ms(1000)));
    budget.spend(ms(300));
    assert_eq!(budget.take(ms(400)), Some(ms(1100)));
    assert_eq!(budget.take(ms(1100)), None);
}
