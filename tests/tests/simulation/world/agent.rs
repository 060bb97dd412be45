//! An agent's process: the node's core, its clock, and its outputs carried out as `run.rs` does it.

use std::time::Duration;

use drop_agent::node::{Config, Disk, Failure, Input, Listed, Node, Output};
use drop_proto::CoordinatorMessage;

use crate::agenda::Event;
use crate::objects::{digest, node_name};
use crate::oracle::{PULL_DEADLINE, Verdict, Violation};
use crate::world::World;

/// Between two lists when nothing else asks for one.
const LIST_INTERVAL: Duration = Duration::from_secs(30);
const SHUTDOWN_GRACE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) life: u64,
    pub(crate) core: Node,
    began: Duration,
    /// So far its clock has jumped ahead.
    skew: Duration,
    pub(crate) conn: Option<usize>,
    /// Connections that failed in a row.
    pub(crate) failures: u32,
    wake: Option<Duration>,
    pub(crate) is_stopping: bool,
    /// What it was told of its runtime last.
    pub(crate) told_up: Option<bool>,
    /// What the runtime's list showed last, sorted.
    listed: Vec<(usize, u64)>,
}

impl World {
    pub(crate) fn agent_starts(&mut self, node: usize) {
        let now = self.agenda.now;
        let machine = &mut self.machines[node];
        if machine.agent.is_some() || now < machine.off_until {
            return;
        }
        self.agent_lives += 1;
        let life = self.agent_lives;
        let config = Config {
            node: node_name(node),
            instance: format!("{life:016x}"),
            version: String::new(),
            max_parallel_pulls: machine.max_parallel,
            list_interval: LIST_INTERVAL,
            pull_deadline: PULL_DEADLINE,
            shutdown_grace: SHUTDOWN_GRACE,
            disk: super::disk::LIMITS,
            allowed: Vec::new(),
        };
        machine.agent = Some(Agent {
            life,
            core: Node::new(config),
            began: now,
            skew: Duration::ZERO,
            conn: None,
            failures: 0,
            wake: None,
            is_stopping: false,
            told_up: None,
            listed: Vec::new(),
        });
        let (probe, connect) = (machine.dice.millis(1, 20), machine.dice.millis(1, 200));
        self.agenda.after(probe, Event::Probes { node, life });
        self.agenda.after(connect, Event::Connects { node, life });
    }

    /// `kill -9`. The kernel closes its sockets, unless the whole machine goes down without a word.
    pub(crate) fn agent_dies(&mut self, node: usize, silently: bool) {
        let Some(agent) = self.machines[node].agent.take() else {
            return;
        };
        self.oracle.agent_gone(self.agenda.now, node);
        self.cancel_all(node);
        if let Some(conn) = agent.conn {
            let found = if silently {
                self.machines[node]
                    .dice
                    .secs(1, super::network::KEEPALIVE_SECS)
            } else {
                self.machines[node].dice.millis(1, 50)
            };
            self.cut(conn, Duration::ZERO, found);
        }
    }

    /// SIGTERM.
    pub(crate) fn agent_stops(&mut self, node: usize) -> Verdict {
        if let Some(agent) = &mut self.machines[node].agent {
            agent.is_stopping = true;
        }
        self.agent_step(node, Input::Shutdown)
    }

    pub(crate) fn clock_jumps(&mut self, node: usize, ahead: Duration) -> Verdict {
        if let Some(agent) = &mut self.machines[node].agent {
            agent.skew += ahead;
            agent.wake = None;
        }
        self.agent_step(node, Input::Tick)
    }

    pub(crate) fn agent_hears(&mut self, node: usize, message: CoordinatorMessage) -> Verdict {
        self.oracle.agent_hears(node, &message);
        self.agent_step(node, Input::Message(message))?;
        self.oracle.agent_heard(node)
    }

    pub(crate) fn agent_wakes(&mut self, node: usize, life: u64, at: Duration) -> Verdict {
        let Some(agent) = self.machines[node]
            .agent
            .as_mut()
            .filter(|a| a.life == life)
        else {
            return Ok(());
        };
        if agent.wake != Some(at) {
            return Ok(());
        }
        agent.wake = None;
        self.ticks += 1;
        self.agent_step(node, Input::Tick)
    }

    /// The watcher of the runtime looks at it.
    pub(crate) fn probes(&mut self, node: usize, life: u64) -> Verdict {
        let is_up = self.machines[node].runtime.is_up;
        let Some(agent) = self.machines[node]
            .agent
            .as_mut()
            .filter(|a| a.life == life)
        else {
            return Ok(());
        };
        if agent.told_up.replace(is_up) == Some(is_up) {
            return Ok(());
        }
        let input = if is_up {
            let arch = if self.machines[node].is_amd64 {
                "amd64"
            } else {
                "arm64"
            };
            Input::RuntimeUp {
                runtime: "containerd 1.7.27".to_owned(),
                platform: format!("linux/{arch}"),
            }
        } else {
            Input::RuntimeDown {
                message: "connection refused".to_owned(),
            }
        };
        self.agent_step(node, input)
    }

    pub(crate) fn pull_answered(
        &mut self,
        (node, life): (usize, u64),
        token: u64,
        result: Result<(), Failure>,
    ) -> Verdict {
        if self.machines[node]
            .agent
            .as_ref()
            .is_none_or(|a| a.life != life)
        {
            return Ok(());
        }
        self.agent_step(node, Input::PullEnded { token, result })
    }

    pub(crate) fn list_answered(
        &mut self,
        (node, life): (usize, u64),
        began: Duration,
        listed: Option<Vec<(usize, u64)>>,
        disk: Disk,
    ) -> Verdict {
        if self.machines[node]
            .agent
            .as_ref()
            .is_none_or(|a| a.life != life)
        {
            return Ok(());
        }
        let used = disk.total_bytes - disk.free_bytes;
        self.oracle.disk_read(node, used, disk.total_bytes);
        self.agent_step(node, Input::Disk(Some(disk)))?;
        let Some(agent) = self.machines[node].agent.as_mut() else {
            return Ok(());
        };
        let Some(listed) = listed else {
            return self.agent_step(node, Input::Listed(Err("connection refused".to_owned())));
        };
        let entry = |(reference, number): &(usize, u64)| {
            let text = self.catalog.text(*reference).to_owned();
            let digests = vec![digest(*number)];
            (
                text,
                Listed {
                    digests,
                    size_bytes: super::disk::size_bytes(*reference),
                },
            )
        };
        let listing = listed.iter().map(entry).collect();
        self.oracle.agent_lists(node, began, &listed);
        agent.listed = listed;
        self.agent_step(node, Input::Listed(Ok(listing)))
    }

    pub(crate) fn agent_step(&mut self, node: usize, input: Input) -> Verdict {
        let now = self.agenda.now;
        let Some(agent) = self.machines[node].agent.as_mut() else {
            return Ok(());
        };
        self.steps += 1;
        let clock = now - agent.began + agent.skew;
        for output in agent.core.step(clock, input) {
            self.obey(node, output)?;
        }
        let Some(agent) = self.machines[node].agent.as_mut() else {
            return Ok(());
        };
        let Some(due) = agent.core.wake_at() else {
            return Ok(());
        };
        let at = (agent.began + due.saturating_sub(agent.skew)).max(now);
        if agent.wake.is_none_or(|wake| at < wake) {
            agent.wake = Some(at);
            let life = agent.life;
            self.agenda.at(at, Event::AgentWakes { node, life, at });
        }
        Ok(())
    }

    fn obey(&mut self, node: usize, output: Output) -> Verdict {
        let now = self.agenda.now;
        let Some(agent) = self.machines[node].agent.as_ref() else {
            return Ok(());
        };
        let (life, conn) = (agent.life, agent.conn);
        match output {
            Output::Send(message) => {
                self.oracle.agent_says(now, node, &message, &agent.listed)?;
                if let Some(conn) = conn {
                    self.send_up(conn, message);
                }
            }
            Output::Pull {
                token,
                reference,
                credentials,
            } => {
                self.trace.note(now, || {
                    format!("{} pulls {reference} ({token})", node_name(node))
                });
                let Some(index) = self.catalog.index(&reference) else {
                    return Err(Violation::new(
                        "wanted",
                        format!("pull of unknown {reference}"),
                    ));
                };
                let held = self.machines[node].runtime.held.get(&index).copied();
                self.oracle.pull_starts((node, token, index), held)?;
                self.oracle.logs_in(node, token, &credentials)?;
                self.pull_starts((node, life), token, index, credentials);
            }
            Output::CancelPull { token } => {
                let is_excused = agent.is_stopping || !agent.skew.is_zero();
                self.oracle.cancelled(now, token, is_excused)?;
                self.oracle.pull_over(now, token);
                self.cancel_pull(node, life, token);
            }
            Output::List => {
                let way = self.machines[node].dice.millis(1, 20);
                self.agenda.after(
                    way,
                    Event::ListTaken {
                        node,
                        life,
                        began: now,
                    },
                );
            }
            Output::Reconnect { reason } => {
                let text = format!(
                    "{} found fault with the coordinator: {reason}",
                    node_name(node)
                );
                return Err(Violation::new("protocol", text));
            }
            Output::Observe(_) => {}
            Output::Exit => self.agent_exits(node),
        }
        Ok(())
    }

    /// It has said all it had to say; that still arrives.
    fn agent_exits(&mut self, node: usize) {
        let Some(agent) = self.machines[node].agent.take() else {
            return;
        };
        self.oracle.agent_gone(self.agenda.now, node);
        self.cancel_all(node);
        if let Some(conn) = agent.conn {
            let at = self.last_up(conn);
            self.agenda.at(at, Event::ClosedForCoordinator { conn });
        }
        let wait = self.machines[node].dice.millis(100, 5_000);
        self.agenda.after(wait, Event::AgentStarts { node });
    }
}
