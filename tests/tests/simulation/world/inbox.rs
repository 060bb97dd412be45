//! What reaches a coordinator's process, and when it is taken in: at once, together with what comes at about the same time, or
//! after the process stood still.

use std::rc::Rc;

use drop_coordinator::core::{Input, WriteFailed};
use drop_coordinator::image::resolve::{ResolveFailed, Resolved};
use drop_coordinator::index::SessionId;
use drop_proto::{Hello, agent_message};

use crate::agenda::Event;
use crate::objects::{News, image_name, input, node_name};
use crate::oracle::Verdict;
use crate::secrets::{Content, secret_name};
use crate::world::World;

/// Most inputs that are taken in at once.
const TOGETHER: usize = 64;

/// What waits for the state machine.
#[derive(Debug)]
pub(crate) enum Waiting {
    News(Rc<News>),
    Hello(usize, Hello),
    Said(usize, agent_message::Kind),
    End(usize),
    /// Image, uid, and the version that the write made.
    Written(usize, u64, Option<u64>),
    Secret(usize, Rc<Content>),
    /// The answer to the question of that number.
    Resolved(u64, Result<Resolved, ResolveFailed>),
    Tick,
}

impl World {
    /// Something reaches the process.
    pub(crate) fn deliver(&mut self, life: u64, waiting: Waiting) -> Verdict {
        let together = self.together;
        let now = self.agenda.now;
        let Some(coordinator) = self.coordinators.iter_mut().find(|c| c.life == life) else {
            return Ok(());
        };
        coordinator.inbox.push_back(waiting);
        if now < self.replicas[coordinator.replica].paused_until || coordinator.is_called {
            return Ok(());
        }
        if together.is_zero() {
            return self.take_in(life);
        }
        coordinator.is_called = true;
        let wait = self.dice.micros(0, together.as_micros() as u64);
        self.agenda.after(wait, Event::CoordinatorLooks { life });
        Ok(())
    }

    /// It looks into its inbox.
    pub(crate) fn take_in(&mut self, life: u64) -> Verdict {
        let now = self.agenda.now;
        while let Some(coordinator) = self.coordinators.iter_mut().find(|c| c.life == life) {
            coordinator.is_called = false;
            let is_paused = now < self.replicas[coordinator.replica].paused_until;
            if is_paused || coordinator.inbox.is_empty() {
                return Ok(());
            }
            if now >= coordinator.term_end {
                self.term_ends(life, false);
                self.note_leadership();
                return Ok(());
            }
            self.take_batch(life)?;
        }
        Ok(())
    }

    pub(super) fn take_batch(&mut self, life: u64) -> Verdict {
        let Some(coordinator) = self.coordinators.iter_mut().find(|c| c.life == life) else {
            return Ok(());
        };
        let mut inputs = Vec::new();
        if coordinator.term_end != coordinator.known_end {
            coordinator.known_end = coordinator.term_end;
            inputs.push(Input::LeadsUntil(coordinator.term_end - coordinator.began));
        }
        let count = coordinator.inbox.len().min(TOGETHER);
        let batch: Vec<Waiting> = coordinator.inbox.drain(..count).collect();
        for waiting in batch {
            inputs.push(self.open(life, waiting));
        }
        if life == self.lives {
            self.oracle.taken_in(self.agenda.now);
        }
        self.step(life, inputs)
    }

    /// The oracle learns with the process, unless that is one that leads no more.
    fn open(&mut self, life: u64, waiting: Waiting) -> Input {
        let now = self.agenda.now;
        let is_judged = life == self.lives;
        let node_of = |conn: usize| self.conns[conn].node;
        match waiting {
            Waiting::News(news) => {
                if is_judged {
                    self.oracle.learns(now, &news);
                }
                input(&news, &self.catalog)
            }
            Waiting::Hello(conn, hello) => {
                let node = node_of(conn);
                let agent_life = self.conns[conn].agent_life;
                if is_judged {
                    self.oracle
                        .hears_hello(now, (conn, node, agent_life), &hello);
                }
                Input::Connected(SessionId(conn as u64), hello)
            }
            Waiting::Said(conn, kind) => {
                if is_judged {
                    self.oracle.hears(now, (conn, node_of(conn)), &kind);
                }
                Input::Said(SessionId(conn as u64), kind)
            }
            Waiting::End(conn) => {
                if is_judged {
                    self.oracle.session_ends(now, conn, node_of(conn));
                }
                Input::Disconnected(SessionId(conn as u64))
            }
            Waiting::Written(image, uid, version) => {
                if is_judged {
                    self.oracle.write_answered(image, uid, version.is_some());
                }
                let result = version.ok_or(WriteFailed);
                Input::Written(image_name(image), uid.to_string(), result)
            }
            Waiting::Secret(secret, content) => {
                if is_judged {
                    self.oracle.secret_told(secret, &content);
                }
                let read = content.secret(&self.catalog);
                Input::Secret(secret_name(secret), read)
            }
            Waiting::Resolved(number, answer) => {
                if is_judged {
                    let wall = self.wall_millis(life);
                    self.oracle.answered(now, wall, number, &answer);
                }
                Input::Resolved(number, answer)
            }
            Waiting::Tick => Input::Tick,
        }
    }

    /// An agent's message has arrived.
    pub(crate) fn hears(&mut self, conn: usize, kind: agent_message::Kind) -> Verdict {
        let (node, life) = (self.conns[conn].node, self.conns[conn].coordinator_life);
        self.trace.note(self.agenda.now, || {
            format!("{} -> {kind:?}", node_name(node))
        });
        let is_session = std::mem::replace(&mut self.conns[conn].is_session, true);
        match (kind, is_session) {
            (agent_message::Kind::Hello(hello), false) => {
                self.deliver(life, Waiting::Hello(conn, hello))
            }
            (_, false) => {
                self.conns[conn].is_session = false;
                Ok(())
            }
            (kind, true) => self.deliver(life, Waiting::Said(conn, kind)),
        }
    }
}
