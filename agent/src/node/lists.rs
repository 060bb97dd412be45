//! When the runtime's images are listed. Lists are numbered, and whoever needs to know something asks for one that begins
//! after that moment: the answer of a list that was already running may be older than the question.

use std::time::Duration;

/// The first wait after a failed list; it doubles, up to the list interval.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Lists {
    /// Number of the list that began last.
    started: u64,
    /// Number of the list that succeeded last.
    pub(super) known: u64,
    running: bool,
    /// A list with this number is wanted at once.
    wanted: u64,
    next_at: Duration,
    /// Failures in a row.
    pub(super) errors: u32,
    pub(super) last_error: String,
}

impl Lists {
    /// Asks for a list that begins from now on, and names its number.
    pub(super) fn want(&mut self) -> u64 {
        self.wanted = self.started + 1;
        self.wanted
    }

    /// True if a list is to begin now.
    pub(super) fn start(&mut self, now: Duration) -> bool {
        let due = self.wanted > self.started || now >= self.next_at;
        if self.running || !due {
            return false;
        }
        self.started += 1;
        self.running = true;
        true
    }

    /// When the next list is due; `None` while one runs.
    pub(super) fn due_at(&self) -> Option<Duration> {
        (!self.running).then_some(self.next_at)
    }

    /// The running list succeeded; answers its number.
    pub(super) fn finished(&mut self, now: Duration, interval: Duration) -> u64 {
        self.running = false;
        self.errors = 0;
        self.next_at = now + interval;
        self.known = self.started;
        self.known
    }

    /// The running list failed. Whoever wanted one is served by the next, and that waits a little.
    pub(super) fn failed(&mut self, now: Duration, interval: Duration, message: String) {
        self.running = false;
        self.wanted = self.started;
        self.last_error = message;
        let wait = RETRY.saturating_mul(1 << self.errors.min(10));
        self.next_at = now + wait.min(interval);
        self.errors += 1;
    }
}
