//! Probe first: an image that nobody has pulled yet goes to one node, so that a typo costs one pull and not one per node.

use std::time::Duration;

/// Whether an image can be had, as far as anybody knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Probe {
    /// Nobody has tried.
    #[default]
    Unproven,
    /// One node tries, under this grant.
    Trying(u64),
    /// A pull has run long enough without an error, and none has succeeded: it is believed in until somebody is refused.
    Assumed,
    /// A pull succeeded.
    Proven,
    /// A pull failed in a way that every node would meet: nobody tries before this time.
    Waiting {
        /// When the next node may try.
        until: Duration,
    },
}

impl Probe {
    /// Whether a pull may start on a node.
    #[must_use]
    pub fn admits(&self, now: Duration) -> bool {
        match self {
            Self::Unproven | Self::Assumed | Self::Proven => true,
            Self::Trying(_) => false,
            Self::Waiting { until } => *until <= now,
        }
    }

    /// Until when nobody tries.
    #[must_use]
    pub fn waits_until(&self, now: Duration) -> Option<Duration> {
        match self {
            Self::Waiting { until } if *until > now => Some(*until),
            _ => None,
        }
    }

    /// A pull was granted. While nothing is proven it is the probe.
    pub fn granted(&mut self, token: u64) {
        if !matches!(self, Self::Assumed | Self::Proven) {
            *self = Self::Trying(token);
        }
    }

    /// The grant ended without an answer about the image: somebody else may try.
    pub fn abandoned(&mut self, token: u64) {
        if *self == Self::Trying(token) {
            *self = Self::Unproven;
        }
    }

    /// The pull has run long enough to believe in it.
    pub fn runs(&mut self, token: u64) {
        if *self == Self::Trying(token) {
            *self = Self::Assumed;
        }
    }

    /// Nobody can have the image as it is named; wait as long as `wait` says.
    pub fn refused(&mut self, now: Duration, wait: Duration) {
        *self = Self::Waiting { until: now + wait };
    }
}
