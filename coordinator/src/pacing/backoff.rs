//! How long to wait after the n-th failure in a row.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// A policy's `failureBackoff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Wait after the first failure.
    pub initial: Duration,
    /// No wait is longer.
    pub max: Duration,
}

impl Default for Backoff {
    /// What images without a policy get (contract: 30 s to 5 min).
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(30),
            max: Duration::from_secs(300),
        }
    }
}

impl Backoff {
    /// The wait after failure number `attempts` (from 1), without jitter.
    #[must_use]
    pub fn delay(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        self.initial.saturating_mul(1 << doublings).min(self.max)
    }

    /// The same, shortened by up to a fifth so that nodes that failed together do not come back together. Never longer than
    /// `max`, which is a promise to the user. The same `who` and `attempts` give the same answer.
    #[must_use]
    pub fn jittered(&self, attempts: u32, who: impl Hash) -> Duration {
        let mut hasher = DefaultHasher::new();
        (who, attempts).hash(&mut hasher);
        let fraction = (hasher.finish() % 1024) as u32;
        let delay = self.delay(attempts);
        delay.saturating_sub(delay / 5 * fraction / 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum() {
        let backoff = Backoff::default();
        let waits: Vec<u64> = (1..=6).map(|n| backoff.delay(n).as_secs()).collect();
        assert_eq!(waits, [30, 60, 120, 240, 300, 300]);
        assert_eq!(backoff.delay(u32::MAX), backoff.max);
        assert_eq!(backoff.delay(0), backoff.initial);
    }

    #[test]
    fn jitter_shortens_by_a_fifth_at_most() {
        let backoff = Backoff::default();
        let waits: Vec<Duration> = (0..100).map(|node| backoff.jittered(3, node)).collect();
        assert!(
            waits.iter().all(|w| (96..=120).contains(&w.as_secs())),
            "{waits:?}"
        );
        assert!(
            waits.iter().any(|w| *w != waits[0]),
            "all nodes would come back together"
        );
        assert_eq!(backoff.jittered(3, 7), backoff.jittered(3, 7));
    }
}
