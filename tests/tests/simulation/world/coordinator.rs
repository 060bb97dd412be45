//! The coordinator's process: a core, its clocks, and its outputs carried out as `machine.rs` does it.

use std::time::Duration;

use drop_coordinator::core::{Config, Core, Input, Now, Output};
use drop_coordinator::index::SessionId;
use drop_proto::agent_message;
use jiff::Timestamp;

use crate::agenda::Event;
use crate::objects::index_of;
use crate::oracle::Verdict;
use crate::world::World;
use crate::world::api_server::KINDS;

/// The wall clock when the world begins.
const EPOCH_SECONDS: i64 = 1_800_000_000;

#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) life: u64,
    pub(crate) core: Core,
    began: Duration,
    wake: Option<Duration>,
    /// `Stop` was said; what follows is only read.
    is_stopped: bool,
}

impl World {
    /// What the coordinator's wall clock shows, in milliseconds since 1970.
    pub(super) fn wall_millis(&self) -> i64 {
        let now = i64::try_from(self.agenda.now.as_millis()).unwrap_or(0);
        EPOCH_SECONDS * 1_000 + now + self.wall_skew_millis
    }

    pub(crate) fn coordinator_starts(&mut self) {
        if self.coordinator.is_some() {
            return;
        }
        self.lives += 1;
        let config = Config {
            registry_budget: self.scale.registry_budget,
            // An hour would outlast what a seed plays.
            truce: Duration::from_secs(60),
            // As `run.rs` does it: no token of a former process comes again.
            resolve_tags: self.questions.are_asked,
            first_token: self.wall_millis().unsigned_abs() << 12,
            ..Config::default()
        };
        self.coordinator = Some(Coordinator {
            life: self.lives,
            core: Core::new(config),
            began: self.agenda.now,
            wake: None,
            is_stopped: false,
        });
        self.oracle.new_life(self.lives);
        for kind in 0..KINDS {
            let wait = self.dice.millis(5, 500);
            self.watch_anew(kind, wait);
        }
    }

    /// `kill -9`, or the machine it ran on is gone without a word.
    pub(crate) fn coordinator_dies(&mut self, silently: bool) {
        let Some(coordinator) = self.coordinator.take() else {
            return;
        };
        self.cut_sessions_of(coordinator.life, silently);
    }

    /// SIGTERM: nothing is granted any more, and every agent is told.
    pub(crate) fn coordinator_stops(&mut self) -> Verdict {
        if self.coordinator.is_none() {
            return Ok(());
        }
        self.coordinator_step(Input::Stop)?;
        if let Some(coordinator) = &mut self.coordinator {
            coordinator.is_stopped = true;
        }
        self.oracle.stops();
        // Between the word and the end, inputs may still be stepped; none may lead to a grant.
        self.coordinator_step(Input::Tick)?;
        self.coordinator_dies(false);
        Ok(())
    }

    fn cut_sessions_of(&mut self, life: u64, silently: bool) {
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

    /// An agent's message reaches the state machine.
    pub(crate) fn hears(&mut self, conn: usize, kind: agent_message::Kind) -> Verdict {
        let node = self.conns[conn].node;
        self.trace
            .note(self.agenda.now, || format!("{} -> {kind:?}", name_of(node)));
        let session = SessionId(conn as u64);
        if let (agent_message::Kind::Hello(hello), false) = (&kind, self.conns[conn].is_session) {
            self.conns[conn].is_session = true;
            let life = self.conns[conn].agent_life;
            self.oracle
                .hears_hello(self.agenda.now, (conn, node, life), hello);
            return self.coordinator_step(Input::Connected(session, hello.clone()));
        }
        if !self.conns[conn].is_session {
            return Ok(());
        }
        self.oracle.hears(self.agenda.now, (conn, node), &kind);
        self.coordinator_step(Input::Said(session, kind))
    }

    pub(crate) fn session_ends(&mut self, conn: usize) -> Verdict {
        self.oracle
            .session_ends(self.agenda.now, conn, self.conns[conn].node);
        self.coordinator_step(Input::Disconnected(SessionId(conn as u64)))
    }

    pub(crate) fn coordinator_wakes(&mut self, life: u64, at: Duration) -> Verdict {
        let now = self.agenda.now;
        let Some(coordinator) = self.coordinator.as_mut().filter(|c| c.life == life) else {
            return Ok(());
        };
        if coordinator.wake != Some(at) {
            return Ok(());
        }
        coordinator.wake = None;
        let is_due = coordinator
            .core
            .wake_at()
            .is_some_and(|due| coordinator.began + due <= now);
        if is_due {
            self.ticks += 1;
            return self.coordinator_step(Input::Tick);
        }
        self.plan_wake();
        Ok(())
    }

    pub(crate) fn coordinator_step(&mut self, input: Input) -> Verdict {
        let wall = Timestamp::from_millisecond(self.wall_millis()).unwrap_or(Timestamp::UNIX_EPOCH);
        let now = self.agenda.now;
        let Some(coordinator) = &mut self.coordinator else {
            return Ok(());
        };
        let clocks = Now {
            mono: now - coordinator.began,
            wall,
        };
        let life = coordinator.life;
        self.steps += 1;
        for output in coordinator.core.step(clocks, input) {
            self.carry_out(life, output)?;
        }
        self.plan_wake();
        Ok(())
    }

    fn plan_wake(&mut self) {
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        let Some(due) = coordinator.core.wake_at() else {
            return;
        };
        let at = (coordinator.began + due).max(self.agenda.now);
        if coordinator.wake.is_none_or(|wake| at < wake) {
            coordinator.wake = Some(at);
            let life = coordinator.life;
            self.agenda.at(at, Event::CoordinatorWakes { life, at });
        }
    }

    fn carry_out(&mut self, life: u64, output: Output) -> Verdict {
        let now = self.agenda.now;
        match output {
            Output::Send(session, message) => {
                let conn = session.0 as usize;
                let node = self.conns[conn].node;
                self.trace
                    .note(now, || format!("{} <- {:?}", name_of(node), message.kind));
                self.oracle.sends(now, (conn, node), &message)?;
                if self.conns[conn].is_session {
                    self.send_down(conn, message);
                }
            }
            Output::Close(session, close) => {
                let conn = session.0 as usize;
                let node = self.conns[conn].node;
                self.trace
                    .note(now, || format!("{} closed: {close:?}", name_of(node)));
                self.close_down(conn);
            }
            Output::Write { name, uid, status } => {
                let image = index_of(&name).unwrap_or(usize::MAX);
                let uid = uid.parse().unwrap_or(0);
                self.trace.note(now, || {
                    format!(
                        "write {name} {:?} {:?} {}",
                        status.phase,
                        status.ready,
                        status
                            .conditions
                            .iter()
                            .map(|c| c.reason.as_str())
                            .collect::<Vec<_>>()
                            .join("/")
                    )
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
            Output::WantSecrets(_) | Output::Count(_) => {}
        }
        Ok(())
    }
}

fn name_of(node: usize) -> String {
    crate::objects::node_name(node)
}
