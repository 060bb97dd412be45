//! What all agents of the swarm saw together.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::statistics::{millis, percentile};

/// Counters that the agents share.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) agents: usize,
    /// Agents whose session has heard what is desired and has told all that it holds.
    pub(super) settled: AtomicUsize,
    /// Sessions that the coordinator has accepted.
    pub(super) sessions: AtomicU64,
    pub(super) pulls: AtomicU64,
    /// Images that the runtimes hold.
    pub(super) held: AtomicUsize,
    latencies: Mutex<Vec<f64>>,
}

/// The tally at one moment.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Report {
    pub(crate) agents: usize,
    /// See [`Tally::settled`].
    pub(crate) settled: usize,
    /// Since the start.
    pub(crate) sessions: u64,
    /// Since the last reset.
    pub(crate) pulls: u64,
    /// Images that the runtimes hold now.
    pub(crate) held: usize,
    /// Grants whose wait was measured since the last reset.
    pub(crate) grants: usize,
    /// From the moment when the agent could take it to the grant, in milliseconds.
    pub(crate) grant_p50: f64,
    pub(crate) grant_p99: f64,
}

impl Tally {
    pub(super) fn new(agents: usize) -> Self {
        Self {
            agents,
            settled: AtomicUsize::new(0),
            sessions: AtomicU64::new(0),
            pulls: AtomicU64::new(0),
            held: AtomicUsize::new(0),
            latencies: Mutex::default(),
        }
    }

    /// An agent waited so long for a grant that it could take.
    pub(super) fn granted(&self, waited: Duration) {
        self.latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(millis(waited));
    }

    pub(super) fn reset(&self) {
        self.pulls.store(0, Relaxed);
        self.latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub(super) fn report(&self) -> Report {
        let latencies = self
            .latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Report {
            agents: self.agents,
            settled: self.settled.load(Relaxed),
            sessions: self.sessions.load(Relaxed),
            pulls: self.pulls.load(Relaxed),
            held: self.held.load(Relaxed),
            grants: latencies.len(),
            grant_p50: percentile(&latencies, 50.0),
            grant_p99: percentile(&latencies, 99.0),
        }
    }
}
