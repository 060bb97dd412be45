//! The process's clocks, and the only place that reads them.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::core::Now;

/// Counts from the start of the process. Copies agree with each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that shows zero now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        Now {
            mono: self.mono(),
            wall: Timestamp::now(),
        }
    }

    /// Time since the start.
    #[must_use]
    pub fn mono(&self) -> Duration {
        self.start.elapsed()
    }
}
