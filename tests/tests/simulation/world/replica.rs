//! The coordinator's processes: how they start, stop, die, stand still and are cut off.
//!
//! One leads, if there are several. What a process does while it leads is in `coordinator`, how it comes to lead in `lease`.

use std::time::Duration;

use drop_coordinator::core::Now;
use drop_coordinator::lease::candidate::{Candidate, Timing};
use jiff::Timestamp;

use crate::agenda::Event;
use crate::oracle::Verdict;
use crate::world::World;

/// The product's defaults.
pub(crate) const TIMING: Timing = Timing {
    duration: Duration::from_secs(15),
    renew_deadline: Duration::from_secs(10),
    retry_period: Duration::from_secs(2),
};
/// The wall clock when the world begins.
const EPOCH_SECONDS: i64 = 1_800_000_000;

/// A place for a process.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    pub(crate) process: Option<Process>,
    /// SIGSTOP until.
    pub(crate) paused_until: Duration,
    /// It cannot reach the API server until.
    pub(crate) cut_off_until: Duration,
    /// So far its wall clock has jumped.
    pub(crate) skew_millis: i64,
}

#[derive(Debug)]
pub(crate) struct Process {
    /// Unlike any other's: what waits for a former one means nothing to this one.
    pub(crate) boot: u64,
    pub(crate) began: Duration,
    /// What it calls itself in the Lease.
    pub(crate) me: String,
    /// `None`: it is the only one, and leads for ever.
    pub(crate) candidate: Option<Candidate>,
}

impl World {
    pub(crate) fn replica_starts(&mut self, replica: usize) {
        if self.replicas[replica].process.is_some() {
            return;
        }
        self.boots += 1;
        let boot = self.boots;
        let is_alone = self.replicas.len() == 1;
        let me = format!("drop-coordinator-{replica}_{boot}");
        let named = me.clone();
        let candidate = (!is_alone).then(|| Candidate::new("drop-coordinator", named, TIMING));
        self.replicas[replica].process = Some(Process {
            boot,
            began: self.agenda.now,
            me,
            candidate,
        });
        if is_alone {
            self.term_begins(replica, Duration::MAX);
        } else {
            let wait = self.dice.millis(5, 500);
            self.agenda.after(wait, Event::LeaseAsked { replica, boot });
        }
        self.note_leadership();
    }

    /// `kill -9`, or the machine it ran on is gone without a word.
    pub(crate) fn replica_dies(&mut self, replica: usize, silently: bool) {
        self.replicas[replica].process = None;
        self.oracle.is_out(replica);
        self.replicas[replica].paused_until = self.agenda.now;
        if let Some(life) = self.life_of(replica) {
            self.term_ends(life, silently);
        }
        self.note_leadership();
    }

    /// SIGTERM: nothing is granted any more, every agent is told, and the Lease is given back.
    pub(crate) fn replica_stops(&mut self, replica: usize) -> Verdict {
        if self.is_paused(replica) {
            // It finds the signal when it goes on.
            self.replica_resumes(replica)?;
        }
        if let Some(life) = self.life_of(replica) {
            self.coordinator_stops(life)?;
        }
        self.lease_given_back(replica);
        self.replica_dies(replica, false);
        Ok(())
    }

    /// SIGSTOP. Its kernel goes on: connections stay, and what comes in waits.
    pub(crate) fn replica_pauses(&mut self, replica: usize, lasts: Duration) {
        let Some(process) = &self.replicas[replica].process else {
            return;
        };
        let boot = process.boot;
        let until = self.agenda.now + lasts;
        self.replicas[replica].paused_until = until;
        self.agenda
            .at(until, Event::ReplicaResumes { replica, boot });
        if let Some(life) = self.life_of(replica) {
            let felt = self.dice.secs(10, super::network::KEEPALIVE_SECS);
            self.agenda.after(felt, Event::SilenceFelt { life });
        }
        self.note_leadership();
    }

    /// Agents find a coordinator dead that answers no pings.
    pub(crate) fn silence_felt(&mut self, life: u64) {
        if self
            .coordinator(life)
            .is_some_and(|coordinator| self.is_paused(coordinator.replica))
        {
            self.cut_sessions_of(life, true);
        }
    }

    /// SIGCONT. What was about to be decided is decided now.
    pub(crate) fn replica_resumes(&mut self, replica: usize) -> Verdict {
        self.replicas[replica].paused_until = self.agenda.now;
        self.note_leadership();
        match self.life_of(replica) {
            Some(life) => self.coordinator_resumes(life),
            None => Ok(()),
        }
    }

    /// It reaches neither watches nor the Lease, and writes nothing.
    pub(crate) fn replica_cut_off(&mut self, replica: usize, lasts: Duration) {
        self.replicas[replica].cut_off_until = self.agenda.now + lasts;
        self.agenda.after(lasts, Event::LeadershipChecked);
        if let Some(life) = self.life_of(replica) {
            self.watches_anew(life, lasts);
        }
        self.note_leadership();
    }

    /// The replica that leads, or else the first one.
    pub(crate) fn leading_replica(&self) -> usize {
        self.leader().map_or(0, |leader| leader.replica)
    }

    pub(crate) fn is_paused(&self, replica: usize) -> bool {
        self.agenda.now < self.replicas[replica].paused_until
    }

    /// Whether the replica's requests reach the API server.
    pub(crate) fn reaches_api(&self, replica: usize) -> bool {
        let now = self.agenda.now;
        now >= self.api.away_until && now >= self.replicas[replica].cut_off_until
    }

    /// What the replica's process sees on its clocks; `began` is when the process did.
    pub(crate) fn clocks(&self, replica: usize, began: Duration) -> Now {
        let now = i64::try_from(self.agenda.now.as_millis()).unwrap_or(0);
        let skew = self.wall_skew_millis + self.replicas[replica].skew_millis;
        let wall = Timestamp::from_millisecond(EPOCH_SECONDS * 1_000 + now + skew);
        Now {
            mono: self.agenda.now - began,
            wall: wall.unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }

    /// What the leader's wall clock shows, in milliseconds since 1970.
    pub(crate) fn wall_millis(&self, life: u64) -> i64 {
        let replica = self.coordinator(life).map_or(0, |c| c.replica);
        let clocks = self.clocks(replica, Duration::ZERO);
        clocks.wall.as_millisecond()
    }

    /// Tells the oracle who could lead now, and whether somebody does.
    pub(crate) fn note_leadership(&mut self) {
        let now = self.agenda.now;
        let writes_fail = self.api.bad_writes.is_some_and(|(_, until)| now < until);
        let able: Vec<bool> = (0..self.replicas.len())
            .map(|replica| {
                self.replicas[replica].process.is_some()
                    && !self.is_paused(replica)
                    && self.reaches_api(replica)
                    && !writes_fail
            })
            .collect();
        let is_led = self
            .leader()
            .is_some_and(|leader| able[leader.replica] && now < leader.term_end);
        let is_coming = (0..able.len()).any(|replica| able[replica] && self.is_coming(replica));
        self.oracle.could_lead(now, &able, is_led || is_coming);
    }

    /// The replica has made the Lease, and waits until nobody can lead who held the one before.
    fn is_coming(&self, replica: usize) -> bool {
        let lease = self.api.lease.as_ref();
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        let holder = spec.and_then(|spec| spec.holder_identity.as_ref());
        let process = self.replicas[replica].process.as_ref();
        process.is_some_and(|process| holder == Some(&process.me))
            && self.agenda.now < self.api.lease_made + super::lease::COMES
    }
}
