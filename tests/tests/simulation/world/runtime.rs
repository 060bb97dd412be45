//! A node's machine: its container runtime, its disk, and the kubelet that deletes what no pod uses.

use std::collections::BTreeMap;
use std::time::Duration;

use drop_agent::node::Failure;
use drop_proto::{Credential, FailureClass};
use tonic::Code;

use crate::agenda::Event;
use crate::dice::Dice;
use crate::objects::node_name;
use crate::oracle::{Try, Verdict};
use crate::registry::{Reply, failure, timed_out};
use crate::world::World;
use crate::world::agent::Agent;

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) agent: Option<Agent>,
    pub(crate) runtime: Runtime,
    pub(crate) dice: Dice,
    pub(crate) is_amd64: bool,
    pub(crate) max_parallel: u32,
    /// Without power until.
    pub(crate) off_until: Duration,
    /// Cannot reach the coordinator until.
    pub(crate) cut_off_until: Duration,
    /// Others than images take so many percent of the disk, until.
    pub(crate) filled: (u64, Duration),
    /// Messages take up to so much longer, until.
    pub(crate) slow_line: (Duration, Duration),
}

#[derive(Debug, Default)]
pub(crate) struct Runtime {
    pub(crate) is_up: bool,
    /// Digests by reference.
    pub(crate) held: BTreeMap<usize, u64>,
    pub(super) pulls: Vec<Pull>,
    pub(crate) full_until: Duration,
    /// It resolves no name until.
    pub(crate) lost_until: Duration,
    /// It fails to list until.
    pub(crate) mute_until: Duration,
    /// It loses what it has just pulled, until.
    pub(crate) lies_until: Duration,
}

#[derive(Debug)]
pub(super) struct Pull {
    id: u64,
    life: u64,
    token: u64,
    reference: usize,
    passwords: Vec<String>,
    /// What the tag named when the pull asked.
    digest: u64,
}

impl World {
    pub(crate) fn pull_starts(
        &mut self,
        (node, life): (usize, u64),
        token: u64,
        reference: usize,
        credentials: Vec<Credential>,
    ) {
        self.pulls += 1;
        let id = self.pulls;
        let machine = &mut self.machines[node];
        if !machine.runtime.is_up {
            self.answer_pull(node, life, token, Err(gone()));
            self.oracle.pull_over(self.agenda.now, token);
            return;
        }
        machine.runtime.pulls.push(Pull {
            id,
            life,
            token,
            reference,
            passwords: credentials.into_iter().map(|c| c.password).collect(),
            digest: 0,
        });
        let way = machine.dice.millis(2, 20);
        self.agenda.after(way, Event::PullResolves { node, id });
    }

    pub(crate) fn pull_resolves(&mut self, node: usize, id: u64) -> Verdict {
        let now = self.agenda.now;
        let machine = &self.machines[node];
        let Some(pull) = machine.runtime.pulls.iter().find(|pull| pull.id == id) else {
            return Ok(());
        };
        let text = self.catalog.text(pull.reference);
        let reply = if now < machine.runtime.lost_until {
            let words = "failed to do request: dial tcp: lookup r on 10.96.0.10:53: no such host";
            Reply::Error(failure(Code::Unknown, words, text))
        } else {
            self.registry.reply(
                now,
                &self.catalog,
                pull.reference,
                (machine.is_amd64, &pull.passwords),
            )
        };
        if matches!(&reply, Reply::Error(error) if error.class == FailureClass::Unauthorized)
            && !pull.passwords.is_empty()
        {
            self.oracle.login_refused(Try::Pull(pull.token))?;
        }
        match reply {
            Reply::Error(error) => self.pull_ends(node, id, Err(error)),
            Reply::Silence(until) => self.agenda.at(until, Event::PullFinishes { node, id }),
            Reply::Bytes(digest, takes) => {
                let is_there = machine.runtime.held.get(&pull.reference) == Some(&digest);
                let machine = &mut self.machines[node];
                if let Some(pull) = machine.runtime.pulls.iter_mut().find(|pull| pull.id == id) {
                    pull.digest = digest;
                }
                let percent = machine.dice.below(60) as u32 + 70;
                let takes = if is_there {
                    Duration::ZERO
                } else {
                    takes * percent / 100
                };
                self.agenda.after(takes, Event::PullFinishes { node, id });
            }
        }
        Ok(())
    }

    pub(crate) fn pull_finishes(&mut self, node: usize, id: u64) {
        let now = self.agenda.now;
        let runtime = &mut self.machines[node].runtime;
        let Some(pull) = runtime.pulls.iter().find(|pull| pull.id == id) else {
            return;
        };
        let text = self.catalog.text(pull.reference);
        let result = if pull.digest == 0 {
            Err(timed_out(text))
        } else if now < runtime.full_until {
            let words = "failed to copy: write /var/lib/containerd/ingest: no space left on device";
            Err(failure(Code::Unknown, words, text))
        } else {
            if now < runtime.lies_until {
                runtime.held.remove(&pull.reference);
            } else {
                runtime.held.insert(pull.reference, pull.digest);
            }
            Ok(())
        };
        self.pull_ends(node, id, result);
    }

    fn pull_ends(&mut self, node: usize, id: u64, result: Result<(), Failure>) {
        let runtime = &mut self.machines[node].runtime;
        let Some(place) = runtime.pulls.iter().position(|pull| pull.id == id) else {
            return;
        };
        let pull = runtime.pulls.remove(place);
        self.oracle.pull_over(self.agenda.now, pull.token);
        self.trace.note(self.agenda.now, || {
            format!("{} pull {} ended: {result:?}", node_name(node), pull.token)
        });
        self.answer_pull(node, pull.life, pull.token, result);
    }

    fn answer_pull(&mut self, node: usize, life: u64, token: u64, result: Result<(), Failure>) {
        let way = self.machines[node].dice.millis(1, 3);
        self.agenda.after(
            way,
            Event::PullAnswered {
                node,
                life,
                token,
                result,
            },
        );
    }

    pub(crate) fn cancel_pull(&mut self, node: usize, life: u64, token: u64) {
        let pulls = &mut self.machines[node].runtime.pulls;
        let Some(place) = pulls
            .iter()
            .position(|pull| pull.life == life && pull.token == token)
        else {
            return;
        };
        pulls.remove(place);
        let cancelled = Failure {
            class: FailureClass::Canceled,
            message: "cancelled".to_owned(),
        };
        self.answer_pull(node, life, token, Err(cancelled));
    }

    /// The agent's connection to the runtime is gone, and its pulls with it.
    pub(crate) fn cancel_all(&mut self, node: usize) {
        let pulls = std::mem::take(&mut self.machines[node].runtime.pulls);
        for pull in pulls {
            self.oracle.pull_over(self.agenda.now, pull.token);
        }
    }

    /// containerd restarts: running pulls break off, and the agent finds out.
    pub(crate) fn runtime_goes(&mut self, node: usize, back_after: Duration) {
        let machine = &mut self.machines[node];
        if !machine.runtime.is_up {
            return;
        }
        machine.runtime.is_up = false;
        let ids: Vec<u64> = machine.runtime.pulls.iter().map(|pull| pull.id).collect();
        for id in ids {
            self.pull_ends(node, id, Err(gone()));
        }
        self.probe_within(node, 10_000);
        self.agenda
            .after(back_after, Event::RuntimeReturns { node });
    }

    pub(crate) fn runtime_returns(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        if self.agenda.now < machine.off_until || machine.runtime.is_up {
            return;
        }
        machine.runtime.is_up = true;
        self.probe_within(node, 2_000);
    }

    fn probe_within(&mut self, node: usize, millis: u64) {
        let wait = self.machines[node].dice.millis(1, millis);
        if let Some(life) = self.machines[node].agent.as_ref().map(|a| a.life) {
            self.agenda.after(wait, Event::Probes { node, life });
        }
    }

    pub(crate) fn list_taken(&mut self, node: usize, life: u64, began: Duration) {
        let now = self.agenda.now;
        let disk = self.disk(node);
        let machine = &mut self.machines[node];
        let runtime = &machine.runtime;
        let answers = runtime.is_up && now >= runtime.mute_until;
        let listed = answers.then(|| runtime.held.iter().map(|(r, d)| (*r, *d)).collect());
        let way = machine.dice.millis(1, 20);
        self.agenda.after(
            way,
            Event::ListAnswered {
                node,
                life,
                began,
                listed,
                disk,
            },
        );
    }

    /// The kubelet needs room: of what no pod uses, so many of a hundred go.
    pub(crate) fn collect_garbage(&mut self, node: usize, percent: u64) {
        let machine = &mut self.machines[node];
        let dice = &mut machine.dice;
        machine.runtime.held.retain(|_, _| !dice.chance(percent));
    }
}

/// The runtime's socket is closed, or refuses.
fn gone() -> Failure {
    Failure {
        class: FailureClass::Runtime,
        message: "the container runtime went away".to_owned(),
    }
}
