//! The way between agents and coordinator, as a gRPC stream bears it: in order in each direction, late at times, and once it is
//! cut, what was under way is lost and each side finds out in its own time.

use std::time::Duration;

use drop_proto::{AgentMessage, CoordinatorMessage, coordinator_message};

use crate::agenda::Event;
use crate::oracle::Verdict;
use crate::world::World;
use crate::world::inbox::Waiting;

/// A connection that goes dead without a word is found out by pings after this long at the latest.
pub(crate) const KEEPALIVE_SECS: u64 = 20;

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) node: usize,
    pub(crate) agent_life: u64,
    pub(crate) coordinator_life: u64,
    is_cut: bool,
    /// The coordinator has taken the Hello in.
    pub(crate) is_session: bool,
    last_up: Duration,
    last_down: Duration,
    /// Grants on their way to the agent.
    grants: Vec<u64>,
}

impl World {
    /// An agent tries to connect.
    pub(crate) fn connects(&mut self, node: usize, life: u64) -> Verdict {
        let Some(agent) = self.machines[node]
            .agent
            .as_ref()
            .filter(|a| a.life == life)
        else {
            return Ok(());
        };
        if agent.conn.is_some() || agent.is_stopping {
            return Ok(());
        }
        let is_cut_off = self.agenda.now < self.machines[node].cut_off_until;
        let now = self.agenda.now;
        let leader = self
            .leader()
            .filter(|leader| !is_cut_off && !self.is_paused(leader.replica))
            .filter(|leader| now < leader.term_end);
        let Some(coordinator_life) = leader.map(|leader| leader.life) else {
            self.connect_later(node);
            return Ok(());
        };
        let conn = self.conns.len();
        self.conns.push(Conn {
            node,
            agent_life: life,
            coordinator_life,
            is_cut: false,
            is_session: false,
            last_up: now,
            last_down: now,
            grants: Vec::new(),
        });
        if let Some(agent) = self.machines[node].agent.as_mut() {
            agent.conn = Some(conn);
        }
        self.agent_step(node, drop_agent::node::Input::Connected)
    }

    pub(crate) fn connect_later(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        let Some(agent) = machine.agent.as_mut() else {
            return;
        };
        // 0.2 s doubling up to 10 s, between a tenth and the whole of it.
        let longest = (200u64 << agent.failures.min(6)).min(10_000);
        agent.failures += 1;
        let wait = machine.dice.millis(longest / 10, longest);
        let life = agent.life;
        self.agenda.after(wait, Event::Connects { node, life });
    }

    fn delay(&mut self, node: usize) -> Duration {
        let now = self.agenda.now;
        let machine = &mut self.machines[node];
        let (most, until) = machine.slow_line;
        let extra = if now < until {
            most.as_micros() as u64
        } else {
            0
        };
        machine.dice.micros(200, 3_000 + extra)
    }

    pub(crate) fn send_up(&mut self, conn: usize, message: AgentMessage) {
        let at = self.agenda.now + self.delay(self.conns[conn].node);
        let conn_state = &mut self.conns[conn];
        if conn_state.is_cut {
            return;
        }
        conn_state.last_up = conn_state.last_up.max(at);
        self.agenda
            .at(conn_state.last_up, Event::Up { conn, message });
    }

    pub(crate) fn send_down(&mut self, conn: usize, message: CoordinatorMessage) {
        let at = self.agenda.now + self.delay(self.conns[conn].node);
        let state = &mut self.conns[conn];
        let token = granted(&message);
        if state.is_cut {
            if let Some(token) = token {
                self.oracle.grant_lost(self.agenda.now, token);
            }
            return;
        }
        state.grants.extend(token);
        state.last_down = state.last_down.max(at);
        self.agenda
            .at(state.last_down, Event::Down { conn, message });
    }

    /// When the last message that the agent said arrives.
    pub(crate) fn last_up(&self, conn: usize) -> Duration {
        self.conns[conn].last_up.max(self.agenda.now)
    }

    /// The coordinator ends the session; what it has said before arrives first.
    pub(crate) fn close_down(&mut self, conn: usize) {
        let at = self.conns[conn].last_down.max(self.agenda.now);
        self.agenda.at(at, Event::ClosedForAgent { conn });
        let heard_on = self.machines[self.conns[conn].node].dice.millis(1, 5);
        self.agenda
            .after(heard_on, Event::ClosedForCoordinator { conn });
    }

    /// Nothing gets through any more. The sides find out later.
    pub(crate) fn cut(&mut self, conn: usize, agent_after: Duration, coordinator_after: Duration) {
        if std::mem::replace(&mut self.conns[conn].is_cut, true) {
            return;
        }
        for token in std::mem::take(&mut self.conns[conn].grants) {
            self.oracle.grant_lost(self.agenda.now, token);
        }
        self.agenda
            .after(agent_after, Event::ClosedForAgent { conn });
        self.agenda
            .after(coordinator_after, Event::ClosedForCoordinator { conn });
    }

    pub(crate) fn arrives_up(&mut self, conn: usize, message: AgentMessage) -> Verdict {
        let state = &self.conns[conn];
        let is_heard = self.coordinator(state.coordinator_life).is_some();
        match message.kind {
            Some(kind) if is_heard && !state.is_cut => self.hears(conn, kind),
            _ => Ok(()),
        }
    }

    pub(crate) fn arrives_down(&mut self, conn: usize, message: CoordinatorMessage) -> Verdict {
        let state = &mut self.conns[conn];
        if state.is_cut {
            return Ok(());
        }
        let node = state.node;
        let token = granted(&message);
        state.grants.retain(|other| Some(*other) != token);
        let life = state.agent_life;
        let agent = self.machines[node].agent.as_mut();
        let Some(agent) = agent.filter(|a| a.life == life && a.conn == Some(conn)) else {
            if let Some(token) = token {
                self.oracle.grant_lost(self.agenda.now, token);
            }
            return Ok(());
        };
        agent.failures = 0;
        self.agent_hears(node, message)
    }

    pub(crate) fn closed_for_agent(&mut self, conn: usize) -> Verdict {
        let (node, life) = (self.conns[conn].node, self.conns[conn].agent_life);
        let agent = self.machines[node].agent.as_mut();
        let Some(agent) = agent.filter(|a| a.life == life && a.conn == Some(conn)) else {
            return Ok(());
        };
        agent.conn = None;
        self.agent_step(node, drop_agent::node::Input::Disconnected)?;
        self.connect_later(node);
        Ok(())
    }

    pub(crate) fn closed_for_coordinator(&mut self, conn: usize) -> Verdict {
        let state = &mut self.conns[conn];
        // Until now the server has read on; from now on nothing of this stream reaches anybody.
        let was_cut = std::mem::replace(&mut state.is_cut, true);
        for token in std::mem::take(&mut state.grants) {
            self.oracle.grant_lost(self.agenda.now, token);
        }
        let is_session = std::mem::replace(&mut state.is_session, false);
        let life = state.coordinator_life;
        if !was_cut {
            // An agent that still holds its end learns of the reset.
            self.agenda
                .after(Duration::from_millis(1), Event::ClosedForAgent { conn });
        }
        if !is_session {
            return Ok(());
        }
        self.deliver(life, Waiting::End(conn))
    }
}

fn granted(message: &CoordinatorMessage) -> Option<u64> {
    match &message.kind {
        Some(coordinator_message::Kind::Grant(grant)) => Some(grant.token),
        _ => None,
    }
}
