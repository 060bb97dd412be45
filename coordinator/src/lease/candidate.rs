//! Decides what to do about the Lease, and until when this process leads. Pure.
//!
//! A holder lives as long as what it wrote keeps changing. For how long it has not changed is measured on the own monotonic
//! clock, from when the change was seen: the times in the Lease are for people, and no two clocks are compared. Writes carry the
//! resource version that they follow from, so that of two candidates one learns that it came too late.
//!
//! A Lease that is not there tells nothing of whoever held it. A leader that finds it gone stops at once; whoever makes it
//! again, and be it the first of all, waits for as long as a former leader counts as alive.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use crate::core::Now;

/// Followers look up to this much later than planned, so that they do not all ask at once.
const SPREAD: f64 = 0.2;

/// How leadership is kept and lost.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A Lease that has not changed for so long is anybody's.
    pub duration: Duration,
    /// A leader that has not renewed for so long stops.
    pub renew_deadline: Duration,
    /// Time between two tries.
    pub retry_period: Duration,
}

impl Timing {
    /// Whether a leader stops before another begins, and has more than one try to renew.
    pub fn validate(&self) -> Result<(), &'static str> {
        if self.duration < Duration::from_secs(1) || self.duration.subsec_nanos() > 0 {
            return Err("--lease-duration must be whole seconds, at least 1s");
        }
        if self.duration <= self.renew_deadline {
            return Err(
                "--lease-duration must be longer than --lease-renew-deadline, or a new leader could begin before the old one stops",
            );
        }
        if self.retry_period.is_zero() {
            return Err("--lease-retry-period must be longer than zero");
        }
        if self.renew_deadline < self.retry_period * 2 {
            return Err(
                "--lease-renew-deadline must be at least twice --lease-retry-period, or one lost request would cost the leadership",
            );
        }
        Ok(())
    }
}

/// The next request to the API server.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Read the Lease.
    Read,
    /// Make it.
    Create(Box<Lease>),
    /// Write it, provided that it still has the resource version in here.
    Replace(Box<Lease>),
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// This is what stands there; `None`: there is no Lease.
    Read(Option<Box<Lease>>),
    /// Our write stands there.
    Written(Box<Lease>),
    /// Somebody else wrote first.
    Conflict,
    /// No answer, or an error: nobody knows whether a write stands there.
    Failed,
}

/// A replica that wants to lead, or does.
#[derive(Debug)]
pub struct Candidate {
    name: String,
    me: String,
    timing: Timing,
    view: View,
    /// What the Lease said last, also after it was deleted: who held it then may still believe that he leads.
    spec: LeaseSpec,
    /// When `spec` was first seen.
    changed: Duration,
    /// When leadership ends unless it is renewed.
    until: Option<Duration>,
    /// There was no Lease: whoever held it may believe up to then that he leads.
    alone_from: Duration,
}

#[derive(Debug)]
enum View {
    /// It has to be read first.
    Unknown,
    Absent,
    Present(Box<ObjectMeta>),
}

impl Candidate {
    /// A candidate called `me` for the Lease called `name`. `me` has to be unlike any other process's, also a former one's in
    /// the same pod.
    #[must_use]
    pub fn new(name: &str, me: String, timing: Timing) -> Self {
        Self {
            name: name.to_owned(),
            me,
            timing,
            view: View::Unknown,
            spec: LeaseSpec::default(),
            changed: Duration::ZERO,
            until: None,
            alone_from: Duration::ZERO,
        }
    }

    /// What to ask of the API server now.
    #[must_use]
    pub fn request(&self, now: Now) -> Request {
        if self.taken_until(now.mono).is_some() {
            return Request::Read;
        }
        match &self.view {
            View::Unknown => Request::Read,
            View::Absent => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                };
                Request::Create(Box::new(self.claim(now, metadata)))
            }
            View::Present(metadata) => {
                Request::Replace(Box::new(self.claim(now, (**metadata).clone())))
            }
        }
    }

    /// Takes in the answer to a request that was sent at `sent`. Returns when to make the next one; `random` is between 0 and 1.
    pub fn learn(
        &mut self,
        now: Duration,
        sent: Duration,
        answer: Answer,
        random: f64,
    ) -> Duration {
        let retry = now + self.timing.retry_period;
        match answer {
            Answer::Failed => return retry,
            Answer::Conflict => {
                self.view = View::Unknown;
                return now;
            }
            Answer::Written(lease) => {
                self.see(now, *lease);
                self.until = Some(sent + self.timing.renew_deadline);
                let next = sent.max(now.saturating_sub(self.timing.retry_period))
                    + self.timing.retry_period;
                return match self.waits_until(now) {
                    Some(until) => next.min(until),
                    None => next,
                };
            }
            Answer::Read(None) => {
                if !matches!(self.view, View::Absent) {
                    self.alone_from = now + self.timing.duration;
                }
                self.view = View::Absent;
                self.until = None;
            }
            Answer::Read(Some(lease)) => {
                self.see(now, *lease);
                if self.holder() != Some(&self.me) {
                    self.until = None;
                }
            }
        }
        let spread = self.timing.retry_period.mul_f64(SPREAD * random);
        match self.taken_until(now) {
            // At the very moment when it is free, and then not all at once.
            Some(free) => (retry.min(free) + spread).max(now),
            // It is ours to claim.
            None => now,
        }
    }

    /// Until when this process leads; `None`: it does not.
    #[must_use]
    pub fn leads_until(&self, now: Duration) -> Option<Duration> {
        let until = self.until.filter(|until| now < *until);
        until.filter(|_| self.alone_from <= now)
    }

    /// Until when this process waits although it holds the Lease: it has made it, and does not know who held the one before.
    #[must_use]
    pub fn waits_until(&self, now: Duration) -> Option<Duration> {
        // One that was deleted is nobody's, whoever held it.
        let stands = matches!(self.view, View::Present(_));
        let is_ours = stands && self.holder() == Some(&self.me);
        (is_ours && now < self.alone_from).then_some(self.alone_from)
    }

    /// Who leads, or did when the Lease was last seen, if that is another one.
    #[must_use]
    pub fn other_leader(&self) -> Option<&str> {
        self.holder().filter(|holder| *holder != self.me)
    }

    /// Who held the Lease when it was last seen.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        let holder = self.spec.holder_identity.as_deref();
        holder.filter(|holder| !holder.is_empty())
    }

    /// Whether anything is known of the Lease yet.
    #[must_use]
    pub fn is_informed(&self) -> bool {
        !matches!(self.view, View::Unknown) || self.spec != LeaseSpec::default()
    }

    /// Gives the Lease back, so that another takes it at once; `None`: there is nothing to give back, or others have to wait as
    /// this one did.
    #[must_use]
    pub fn release(&self, now: Now) -> Option<Lease> {
        let View::Present(metadata) = &self.view else {
            return None;
        };
        let released = LeaseSpec {
            holder_identity: None,
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(now.wall)),
            ..self.spec.clone()
        };
        let is_ours = self.holder() == Some(&self.me) && self.waits_until(now.mono).is_none();
        is_ours.then(|| Lease {
            metadata: (**metadata).clone(),
            spec: Some(released),
        })
    }

    fn see(&mut self, now: Duration, lease: Lease) {
        let spec = lease.spec.unwrap_or_default();
        if spec != self.spec {
            self.spec = spec;
            self.changed = now;
        }
        self.view = View::Present(Box::new(lease.metadata));
    }

    /// Until when another one may believe that it leads.
    fn taken_until(&self, now: Duration) -> Option<Duration> {
        self.other_leader()?;
        if matches!(self.view, View::Absent) {
            // Whoever makes it waits before he leads.
            return None;
        }
        let seconds = self.spec.lease_duration_seconds.unwrap_or_default();
        let promised = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let free = self.changed + promised.max(self.timing.duration);
        (now < free).then_some(free)
    }

    fn claim(&self, now: Now, metadata: ObjectMeta) -> Lease {
        let time = MicroTime(now.wall);
        let is_ours = self.holder() == Some(&self.me);
        let transitions = self.spec.lease_transitions.unwrap_or_default();
        let spec = LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(),
            acquire_time: match &self.spec.acquire_time {
                Some(acquired) if is_ours => Some(acquired.clone()),
                _ => Some(time.clone()),
            },
            lease_transitions: match (is_ours, self.spec == LeaseSpec::default()) {
                (true, _) | (_, true) => Some(transitions),
                _ => Some(transitions.saturating_add(1)),
            },
            renew_time: Some(time),
            ..self.spec.clone()
        };
        Lease {
            metadata,
            spec: Some(spec),
        }
    }
}

#[cfg(test)]
mod tests;
