//! When a host may be asked next. Pure: the caller brings the time.

use std::time::{Duration, Instant};

use super::retry_after;

/// First pause after a 429 that does not say how long; it doubles with each one that follows.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest such pause.
const LONGEST_GUESS: Duration = Duration::from_secs(60);

/// Shortest pause, whatever the host says: `Retry-After: 0` must not become a hot loop.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

/// How much one host is asked, by all callers of a process together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests at a time.
    pub concurrency: usize,
    /// Time between two requests in the long run; none: no limit.
    pub interval: Option<Duration>,
    /// Requests that may go at once after a time of rest, before `interval` holds.
    pub burst: u32,
    /// A request waits for the end of a pause that is no longer; before a longer one it fails at once.
    pub patience: Duration,
}

impl Default for Limits {
    /// 8 requests at a time, as fast as the host answers them, and pauses of 5 s waited out.
    fn default() -> Self {
        Self {
            concurrency: 8,
            interval: None,
            burst: 10,
            patience: Duration::from_secs(5),
        }
    }
}

/// Whether a request may go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Now. It is counted.
    Go,
    /// Not before this time has passed; then ask again.
    Wait(Duration),
    /// The host is paused for this long, which is more than the patience.
    Paused(Duration),
}

/// What is remembered of one host.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    paused_until: Option<Instant>,
    /// 429s in a row that did not say how long.
    guesses: u32,
    /// When the host would be at rest again if it were asked no more (the generic cell rate algorithm).
    at_rest: Option<Instant>,
}

impl Host {
    /// Decides on one request.
    pub(super) fn admit(&mut self, now: Instant, limits: &Limits) -> Admission {
        if let Some(left) = self.pause_left(now) {
            return if left > limits.patience {
                Admission::Paused(left)
            } else {
                Admission::Wait(left)
            };
        }
        let Some(interval) = limits.interval else {
            return Admission::Go;
        };
        let at_rest = self.at_rest.map_or(now, |at| at.max(now)) + interval;
        let ahead = at_rest.duration_since(now);
        let allowed = interval * limits.burst.max(1);
        if ahead > allowed {
            return Admission::Wait(ahead.saturating_sub(allowed));
        }
        self.at_rest = Some(at_rest);
        Admission::Go
    }

    /// The host asked to be left alone, for `asked` if it said how long. Returns for how long it is.
    ///
    /// Requests that were on their way meanwhile are told the same thing; that is one pause, and not a longer one each time.
    pub(super) fn throttled(&mut self, now: Instant, asked: Option<Duration>) -> Duration {
        let already = self.pause_left(now);
        let pause = match asked {
            Some(asked) => asked.clamp(SHORTEST_PAUSE, retry_after::LONGEST),
            None if already.is_some() => already.unwrap_or_default(),
            None => {
                let doubled = FIRST_PAUSE.saturating_mul(1 << self.guesses.min(6));
                self.guesses = self.guesses.saturating_add(1);
                doubled.min(LONGEST_GUESS)
            }
        };
        let pause = pause.max(already.unwrap_or_default());
        self.paused_until = Some(now + pause);
        pause
    }

    /// The host gave an answer that is no 429.
    pub(super) fn answered(&mut self) {
        self.guesses = 0;
    }

    /// Whether nothing would be lost by forgetting the host.
    #[must_use]
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.pause_left(now).is_none()
            && self.guesses == 0
            && self.at_rest.is_none_or(|at| at <= now)
    }

    fn pause_left(&self, now: Instant) -> Option<Duration> {
        let left = self.paused_until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_goes_at_once_and_then_the_interval_holds() {
        let limits = Limits {
            interval: Some(SECOND / 5),
            burst: 3,
            ..Limits::default()
        };
        let start = Instant::now();
        let mut host = Host::default();
        let mut now = start;
        let mut went = Vec::new();
        while went.len() < 8 {
            match host.admit(now, &limits) {
                Admission::Go => went.push((now - start).as_millis()),
                Admission::Wait(wait) => now += wait,
                Admission::Paused(_) => panic!("nobody paused it"),
            }
        }
        assert_eq!(went, [0, 0, 0, 200, 400, 600, 800, 1_000]);
        assert_eq!(host.admit(now + 10 * SECOND, &limits), Admission::Go);
    }

    #[test]
    fn a_short_pause_is_waited_out_and_a_long_one_fails_at_once() {
        let limits = Limits::default();
        let now = Instant::now();
        let mut host = Host::default();
        assert_eq!(host.throttled(now, Some(3 * SECOND)), 3 * SECOND);
        assert_eq!(
            host.admit(now + SECOND, &limits),
            Admission::Wait(2 * SECOND)
        );
        assert_eq!(host.admit(now + 3 * SECOND, &limits), Admission::Go);
        host.throttled(now, Some(600 * SECOND));
        assert_eq!(host.admit(now, &limits), Admission::Paused(600 * SECOND));
        assert!(!host.is_idle(now));
        assert!(host.is_idle(now + 600 * SECOND));
    }

    #[test]
    fn pauses_without_a_number_double_but_not_for_requests_that_were_under_way() {
        let mut now = Instant::now();
        let mut host = Host::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let pause = host.throttled(now, None);
            // Seven more requests were on their way.
            for _ in 0..7 {
                assert_eq!(host.throttled(now, None), pause);
            }
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        host.answered();
        assert_eq!(host.throttled(now, None), SECOND);
    }

    #[test]
    fn no_pause_is_longer_than_a_quarter_of_an_hour_or_shorter_than_an_instant() {
        let now = Instant::now();
        assert_eq!(
            Host::default().throttled(now, Some(Duration::MAX)),
            900 * SECOND
        );
        assert_eq!(
            Host::default().throttled(now, Some(Duration::ZERO)),
            SHORTEST_PAUSE
        );
    }

    #[test]
    fn a_second_answer_shortens_no_pause() {
        let now = Instant::now();
        let mut host = Host::default();
        host.throttled(now, Some(60 * SECOND));
        assert_eq!(host.throttled(now, Some(SECOND)), 60 * SECOND);
    }
}
