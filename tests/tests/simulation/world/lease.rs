//! The Lease: replicas read and write it as `renew.rs` does, and lead as long as they may.

use std::time::Duration;

use drop_coordinator::lease::candidate::{Answer, Candidate, Request};
use k8s_openapi::api::coordination::v1::Lease;

use crate::agenda::{self, Event};
use crate::oracle::Verdict;
use crate::world::World;
use crate::world::replica::TIMING;

/// Whoever makes the Lease leads after so long at the latest: a lease, and a moment for its next renewal.
pub(super) const COMES: Duration = Duration::from_secs(21);

impl World {
    /// It is time for a candidate to ask.
    pub(crate) fn lease_asked(&mut self, replica: usize, boot: u64) {
        if self.is_paused(replica) {
            let at = self.replicas[replica].paused_until;
            self.agenda.at(at, Event::LeaseAsked { replica, boot });
            return;
        }
        let process = self.replicas[replica].process.as_ref();
        let Some(process) = process.filter(|process| process.boot == boot) else {
            return;
        };
        let clocks = self.clocks(replica, process.began);
        let Some(candidate) = &process.candidate else {
            return;
        };
        let request = Box::new(candidate.request(clocks));
        let sent = self.agenda.now;
        let way = self.dice.millis(1, 10);
        self.agenda.after(
            way,
            Event::LeaseArrives {
                replica,
                boot,
                request,
                sent,
            },
        );
    }

    /// The request is at the API server, or fails to get there.
    pub(crate) fn lease_arrives(
        &mut self,
        (replica, boot): (usize, u64),
        request: Request,
        sent: Duration,
    ) {
        let now = self.agenda.now;
        let is_write = !matches!(request, Request::Read);
        let trouble = self.api.bad_writes.filter(|(_, until)| now < *until);
        let trouble = trouble.filter(|_| is_write && self.dice.chance(50));
        let (answer, way) = match trouble {
            _ if !self.reaches_api(replica) => (Answer::Failed, self.dice.millis(1, 5_000)),
            Some((agenda::Answer::Refused, _)) => (Answer::Failed, self.dice.millis(1, 5)),
            Some((agenda::Answer::Unheard, _)) => {
                self.serve(request);
                (Answer::Failed, TIMING.renew_deadline / 2)
            }
            _ => {
                // Now and then an answer takes its time: what it says is old by then.
                let slowest = if self.dice.chance(5) { 4_000 } else { 10 };
                (self.serve(request), self.dice.millis(1, slowest))
            }
        };
        let answer = Box::new(answer);
        self.agenda.after(
            way,
            Event::LeaseAnswered {
                replica,
                boot,
                answer,
                sent,
            },
        );
    }

    /// What the API server does: who writes must have seen what stands there.
    fn serve(&mut self, request: Request) -> Answer {
        let stands = self.api.lease.as_ref();
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        let written = match (request, stands) {
            (Request::Read, stands) => return Answer::Read(stands.cloned().map(Box::new)),
            (Request::Create(lease), None) => lease,
            (Request::Replace(lease), Some(stands)) if version(&lease) == version(stands) => lease,
            (Request::Replace(_), None) => return Answer::Read(None),
            _ => return Answer::Conflict,
        };
        let mut written = *written;
        if self.api.lease.is_none() {
            self.api.lease_made = self.agenda.now;
            self.agenda.after(COMES, Event::LeadershipChecked);
        }
        self.api.version += 1;
        written.metadata.resource_version = Some(self.api.version.to_string());
        self.api.lease = Some(written.clone());
        Answer::Written(Box::new(written))
    }

    pub(crate) fn lease_answered(
        &mut self,
        (replica, boot): (usize, u64),
        answer: Answer,
        sent: Duration,
    ) -> Verdict {
        if self.is_paused(replica) {
            let (at, answer) = (self.replicas[replica].paused_until, Box::new(answer));
            let event = Event::LeaseAnswered {
                replica,
                boot,
                answer,
                sent,
            };
            self.agenda.at(at, event);
            return Ok(());
        }
        let now = self.agenda.now;
        let random = self.dice.below(1_000) as f64 / 1_000.0;
        let Some((candidate, began)) = self.candidate(replica, boot) else {
            return Ok(());
        };
        let is_written = matches!(answer, Answer::Written(_));
        let next = began + candidate.learn(now - began, sent - began, answer, random);
        let until = candidate.leads_until(now - began).map(|end| began + end);
        self.agenda.at(next, Event::LeaseAsked { replica, boot });
        if is_written {
            self.oracle.renewed(replica, sent);
        }
        let life = self.life_of(replica);
        match (life, until) {
            (Some(life), Some(until)) if self.term_extends(life, until) => {}
            (former, Some(until)) => {
                if let Some(former) = former {
                    self.term_ends(former, false);
                }
                self.oracle.leads(now, replica)?;
                self.term_begins(replica, until);
            }
            (Some(life), None) => self.term_ends(life, false),
            (None, None) => {}
        }
        self.note_leadership();
        Ok(())
    }

    /// The last word of a process that stops.
    pub(crate) fn lease_given_back(&mut self, replica: usize) {
        let Some(process) = &self.replicas[replica].process else {
            return;
        };
        let clocks = self.clocks(replica, process.began);
        let lease = process.candidate.as_ref().and_then(|c| c.release(clocks));
        if let Some(lease) = lease
            && self.reaches_api(replica)
            && matches!(
                self.serve(Request::Replace(Box::new(lease))),
                Answer::Written(_)
            )
        {
            self.oracle.is_out(replica);
        }
    }

    fn candidate(&mut self, replica: usize, boot: u64) -> Option<(&mut Candidate, Duration)> {
        let process = self.replicas[replica].process.as_mut();
        let process = process.filter(|process| process.boot == boot)?;
        Some((process.candidate.as_mut()?, process.began))
    }
}
