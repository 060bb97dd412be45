//! One unbroken time of leading.
//!
//! Whoever is about to act as the leader asks the term right before it acts: a process that was paused finds out then, and not
//! when some task gets round to telling it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;

/// A time of leading. Clones share one end; once it is over it stays over.
#[derive(Clone, Debug)]
pub struct Term {
    /// On the process's monotonic clock.
    until: Arc<watch::Sender<Duration>>,
    clock: Clock,
}

impl Term {
    /// Leads until then, unless it is extended.
    #[must_use]
    pub fn new(clock: Clock, until: Duration) -> Self {
        Self {
            until: Arc::new(watch::Sender::new(until)),
            clock,
        }
    }

    /// Of a coordinator that is the only one.
    #[must_use]
    pub fn for_ever(clock: Clock) -> Self {
        Self::new(clock, Duration::MAX)
    }

    /// Whether this process leads at this moment.
    #[must_use]
    pub fn is_on(&self) -> bool {
        // The clock is read while nobody can change the end, so that `extend` and this never disagree.
        let until = self.until.borrow();
        self.clock.mono() < *until
    }

    /// When it ends, unless it is extended.
    #[must_use]
    pub fn until(&self) -> Duration {
        *self.until.borrow()
    }

    /// Moves the end. False if it is over already: then another term has to begin.
    #[must_use]
    pub fn extend(&self, to: Duration) -> bool {
        self.until.send_if_modified(|until| {
            let is_on = self.clock.mono() < *until;
            if is_on {
                *until = to;
            }
            is_on
        })
    }

    /// Ends it now.
    pub fn end(&self) {
        self.until.send_replace(Duration::ZERO);
    }

    /// Returns once it is over.
    pub async fn over(&self) {
        let mut ends = self.until.subscribe();
        while self.is_on() {
            let left = ends.borrow_and_update().saturating_sub(self.clock.mono());
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                // The sender lives in `self`.
                _ = ends.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_term_that_is_over_cannot_be_extended() {
        let term = Term::new(Clock::start(), LONG);
        let other = term.clone();
        assert!(term.is_on() && term.extend(2 * LONG));
        assert_eq!(other.until(), 2 * LONG);
        term.end();
        assert!(!other.is_on() && !other.extend(LONG) && !term.is_on());
        let late = Term::new(Clock::start(), Duration::ZERO);
        assert!(!late.is_on() && !late.extend(LONG));
        assert!(Term::for_ever(Clock::start()).is_on());
    }

    #[tokio::test]
    async fn the_end_of_a_term_wakes_who_waits_for_it() {
        let clock = Clock::start();
        Term::new(clock, Duration::from_millis(20)).over().await;
        let term = Term::for_ever(clock);
        tokio::join!(term.over(), async { term.end() });
        assert!(!term.is_on());
    }
}
