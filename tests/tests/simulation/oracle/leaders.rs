//! Who may act as the leader: one at a time, as long as its Lease says, and soon another one.

use std::time::Duration;

use crate::oracle::{Oracle, Verdict, Violation};

/// A leader stops so long after it sent the last renewal that it knows of (`--lease-renew-deadline`).
const STOPS_AFTER: Duration = Duration::from_secs(10);
/// Where somebody can lead, somebody does: a lease (15 s), a follower's look before and one after (2 s each, and a fifth), and
/// some seconds for an answer that takes its time.
const HAND_OVER: Duration = Duration::from_secs(26);

#[derive(Debug, Default)]
pub(crate) struct Leaders {
    /// The replica of the newest term.
    newest: Option<usize>,
    /// When each replica sent the last renewal that it knows to stand.
    renewed: Vec<Option<Duration>>,
    /// Since when each could lead.
    able: Vec<Option<Duration>>,
    /// Since when nobody leads who could go on.
    unled_since: Option<Duration>,
}

impl Leaders {
    /// Until when the replica may act.
    fn end_of(&self, replica: usize) -> Option<Duration> {
        let renewed = self.renewed.get(replica).copied().flatten()?;
        Some(renewed + STOPS_AFTER)
    }

    /// The newest leader's Lease has run out, as far as it can know.
    pub(crate) fn is_fenced(&self, now: Duration) -> bool {
        let Some(newest) = self.newest else {
            return false;
        };
        // The only one needs no Lease.
        self.able.len() > 1 && self.end_of(newest).is_none_or(|end| now >= end)
    }
}

impl Oracle {
    /// Which replicas could lead from now on, and whether one does that could go on.
    pub(crate) fn could_lead(&mut self, now: Duration, able: &[bool], is_led: bool) {
        let leaders = &mut self.leaders;
        leaders.able.resize(able.len(), None);
        leaders.renewed.resize(able.len(), None);
        for (since, is_able) in leaders.able.iter_mut().zip(able) {
            *since = is_able.then(|| since.unwrap_or(now));
        }
        leaders.unled_since = (!is_led).then(|| leaders.unled_since.unwrap_or(now));
    }

    /// The replica knows that a renewal stands that it sent then.
    pub(crate) fn renewed(&mut self, replica: usize, sent: Duration) {
        self.leaders.renewed[replica] = Some(sent);
    }

    /// It has given the Lease back, or is dead: others need not wait for it.
    pub(crate) fn is_out(&mut self, replica: usize) {
        self.leaders.renewed[replica] = None;
    }

    /// The replica begins to lead: nobody else may still believe to.
    pub(crate) fn leads(&self, now: Duration, replica: usize) -> Verdict {
        let others = (0..self.leaders.renewed.len()).filter(|other| *other != replica);
        for other in others {
            if let Some(end) = self.leaders.end_of(other).filter(|end| now < *end) {
                let text = format!(
                    "replica {replica} leads, and replica {other} may until {:.3} s",
                    end.as_secs_f64()
                );
                return Err(Violation::new("two-leaders", text));
            }
        }
        Ok(())
    }

    pub(super) fn new_leader(&mut self, replica: usize) {
        self.leaders.newest = Some(replica);
    }

    /// Nobody waits for a leader for longer than a lease and a moment.
    pub(crate) fn is_led_soon(&self, now: Duration) -> Verdict {
        let leaders = &self.leaders;
        let Some(unled) = leaders.unled_since else {
            return Ok(());
        };
        let able = leaders.able.iter().flatten().min();
        match able {
            Some(able) if now > unled.max(*able) + HAND_OVER => {
                let text = format!("nobody leads since {:.3} s", unled.as_secs_f64());
                Err(Violation::new("hand-over", text))
            }
            _ => Ok(()),
        }
    }
}
