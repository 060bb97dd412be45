//! A coordinator's process while it leads: a core, its inbox, and its outputs carried out as `machine.rs` does it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use drop_coordinator::core::{Config, Core, Input, Output};
use drop_proto::CoordinatorMessage;

use crate::agenda::Event;
use crate::objects::{index_of, node_name};
use crate::oracle::Verdict;
use crate::world::World;
use crate::world::api_server::Watches;
use crate::world::inbox::Waiting;

/// One term.
#[derive(Debug)]
pub(crate) struct Coordinator {
    /// Counts terms.
    pub(crate) life: u64,
    pub(crate) replica: usize,
    pub(crate) core: Core,
    /// When its process began.
    pub(super) began: Duration,
    wake: Option<Duration>,
    /// When the term ends unless the Lease is renewed, and what the core knows of that.
    pub(crate) term_end: Duration,
    pub(super) known_end: Duration,
    pub(crate) watches: Watches,
    /// Secrets that it wants to know.
    pub(crate) secrets: BTreeSet<usize>,
    pub(super) inbox: VecDeque<Waiting>,
    /// It will look into its inbox soon.
    pub(super) is_called: bool,
}

impl World {
    /// The newest term's, whether or not its process runs.
    pub(crate) fn leader(&self) -> Option<&Coordinator> {
        self.coordinators.last()
    }

    pub(crate) fn coordinator(&self, life: u64) -> Option<&Coordinator> {
        self.coordinators.iter().find(|c| c.life == life)
    }

    pub(crate) fn coordinator_mut(&mut self, life: u64) -> Option<&mut Coordinator> {
        self.coordinators.iter_mut().find(|c| c.life == life)
    }

    pub(crate) fn life_of(&self, replica: usize) -> Option<u64> {
        let mut all = self.coordinators.iter();
        all.find(|c| c.replica == replica).map(|c| c.life)
    }

    /// The replica leads from now on: it begins with fresh lists and knows nothing.
    pub(crate) fn term_begins(&mut self, replica: usize, until: Duration) {
        let Some(process) = &self.replicas[replica].process else {
            return;
        };
        let began = process.began;
        self.lives += 1;
        let life = self.lives;
        let config = Config {
            registry_budget: self.scale.registry_budget,
            // An hour would outlast what a seed plays.
            truce: crate::oracle::TRUCE,
            // As `lead.rs` does it: no token of another term comes again.
            first_token: self.dice.below(u64::MAX) >> 1,
            resolve_tags: self.questions.are_asked,
            ..Config::default()
        };
        self.coordinators.push(Coordinator {
            life,
            replica,
            core: Core::new(config),
            began,
            wake: None,
            term_end: until,
            known_end: Duration::MAX,
            watches: Watches::default(),
            secrets: BTreeSet::new(),
            inbox: VecDeque::new(),
            is_called: false,
        });
        self.oracle.new_life(life, replica);
        let wait = self.dice.millis(5, 500);
        self.watches_anew(life, wait);
        self.agenda.at(until, Event::TermOver { life });
    }

    /// False if it is over already: then another term has to begin.
    pub(crate) fn term_extends(&mut self, life: u64, until: Duration) -> bool {
        let now = self.agenda.now;
        let coordinator = self.coordinator_mut(life);
        let Some(coordinator) = coordinator.filter(|c| now < c.term_end) else {
            return false;
        };
        coordinator.term_end = until;
        true
    }

    /// The alarm for the end of a term that may have been extended meanwhile.
    pub(crate) fn term_over(&mut self, life: u64) {
        let now = self.agenda.now;
        let Some(coordinator) = self.coordinator(life) else {
            return;
        };
        if now < coordinator.term_end {
            let at = coordinator.term_end;
            self.agenda.at(at, Event::TermOver { life });
        } else if !self.is_paused(coordinator.replica) {
            self.term_ends(life, false);
            self.note_leadership();
        }
    }

    /// It leads no more: all that it knew is gone, and every session is told.
    pub(crate) fn term_ends(&mut self, life: u64, silently: bool) {
        self.coordinators.retain(|c| c.life != life);
        self.cut_sessions_of(life, silently);
    }

    pub(crate) fn cut_sessions_of(&mut self, life: u64, silently: bool) {
        for conn in 0..self.conns.len() {
            if self.conns[conn].coordinator_life != life {
                continue;
            }
            let dice = &mut self.machines[self.conns[conn].node].dice;
            let found = if silently {
                dice.secs(1, super::network::KEEPALIVE_SECS)
            } else {
                dice.millis(1, 50)
            };
            self.cut(conn, found, Duration::ZERO);
        }
    }

    /// SIGTERM.
    pub(crate) fn coordinator_stops(&mut self, life: u64) -> Verdict {
        self.step(life, vec![Input::Stop])?;
        self.oracle.stops(life);
        // Between the word and the end, inputs may still be stepped; none may lead to a grant.
        self.step(life, vec![Input::Tick])
    }

    /// The process was stopped right before it decided: what it decides now, it decides with what it knew then. Only after that
    /// does it find out that its term is over.
    pub(crate) fn coordinator_resumes(&mut self, life: u64) -> Verdict {
        self.take_batch(life)?;
        let now = self.agenda.now;
        let is_over = self.coordinator(life).is_some_and(|c| now >= c.term_end);
        if is_over {
            self.term_ends(life, false);
            self.note_leadership();
            return Ok(());
        }
        self.take_in(life)?;
        self.plan_wake(life);
        Ok(())
    }

    pub(crate) fn coordinator_wakes(&mut self, life: u64, at: Duration) -> Verdict {
        let now = self.agenda.now;
        let Some(coordinator) = self.coordinator_mut(life) else {
            return Ok(());
        };
        if coordinator.wake != Some(at) {
            return Ok(());
        }
        coordinator.wake = None;
        let due = coordinator.core.wake_at();
        if due.is_some_and(|due| coordinator.began + due <= now) {
            self.ticks += 1;
            return self.deliver(life, Waiting::Tick);
        }
        self.plan_wake(life);
        Ok(())
    }

    pub(super) fn step(&mut self, life: u64, inputs: Vec<Input>) -> Verdict {
        let Some(coordinator) = self.coordinator(life) else {
            return Ok(());
        };
        let clocks = self.clocks(coordinator.replica, coordinator.began);
        self.steps += inputs.len() as u64;
        let Some(coordinator) = self.coordinator_mut(life) else {
            return Ok(());
        };
        for output in coordinator.core.step_all(clocks, inputs) {
            self.carry_out(life, output)?;
        }
        self.plan_wake(life);
        Ok(())
    }

    fn plan_wake(&mut self, life: u64) {
        let now = self.agenda.now;
        let Some(coordinator) = self.coordinator_mut(life) else {
            return;
        };
        let Some(due) = coordinator.core.wake_at() else {
            return;
        };
        let at = (coordinator.began + due).max(now);
        if coordinator.wake.is_none_or(|wake| at < wake) {
            coordinator.wake = Some(at);
            self.agenda.at(at, Event::CoordinatorWakes { life, at });
        }
    }

    fn carry_out(&mut self, life: u64, output: Output) -> Verdict {
        let now = self.agenda.now;
        match output {
            Output::Send(session, message) => {
                let message = CoordinatorMessage::from(message);
                let conn = session.0 as usize;
                let node = self.conns[conn].node;
                self.trace
                    .note(now, || format!("{} <- {:?}", node_name(node), message.kind));
                self.oracle.sends(now, life, (conn, node), &message)?;
                self.send_down(conn, message);
            }
            Output::Close(session, close) => {
                let conn = session.0 as usize;
                let node = self.conns[conn].node;
                self.trace
                    .note(now, || format!("{} closed: {close:?}", node_name(node)));
                self.close_down(conn);
            }
            Output::Write { name, uid, status } => {
                // The term is asked right before the write.
                if self.coordinator(life).is_none_or(|c| now >= c.term_end) {
                    return Ok(());
                }
                let image = index_of(&name).unwrap_or(usize::MAX);
                let uid = uid.parse().unwrap_or(0);
                self.trace.note(now, || {
                    let conditions = status.conditions.iter();
                    let reasons: Vec<&str> = conditions.map(|c| c.reason.as_str()).collect();
                    let (phase, ready) = (&status.phase, &status.ready);
                    format!("write {name} {phase:?} {ready:?} {}", reasons.join("/"))
                });
                let row = self.api.images.get(&image);
                self.oracle.writes(now, (image, uid), &status, row)?;
                self.writes += 1;
                self.write(life, image, uid, *status);
            }
            Output::Publish(event) => {
                self.trace
                    .note(now, || format!("event {} {}", event.name, event.reason));
            }
            Output::Resolve(question) => self.coordinator_asks(life, question)?,
            Output::WantSecrets(names) => self.secrets_wanted(life, &names),
            Output::Count(_) => {}
        }
        Ok(())
    }
}
