//! The model world: everything outside of the two state machines, in one process and on one virtual clock.
//!
//! It carries out what the machines want with the guarantees that the real I/O gives, and no better ones. It judges nothing:
//! whatever happens is told to the oracle.

mod agent;
mod api_server;
mod coordinator;
mod disk;
mod fault;
mod inbox;
mod lease;
mod network;
mod questions;
mod replica;
mod runtime;
mod secrets;

use std::rc::Rc;
use std::time::Duration;

use crate::agenda::{Agenda, Event};
use crate::dice::Dice;
use crate::faults::Fault;
use crate::objects::Catalog;
use crate::oracle::{Oracle, Verdict, Violation};
use crate::registry::{Host, Registry, Supply};
use crate::scenario::{self, Scale, Scenario};
use crate::trace::Trace;

use api_server::ApiServer;
pub(crate) use coordinator::Coordinator;
use network::Conn;
use questions::Questions;
use replica::Replica;
use runtime::{Machine, Runtime};

/// So many alarms at one moment are no accident: somebody wakes himself without end.
const MOST_TICKS: u64 = 20_000;

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) agenda: Agenda,
    pub(crate) oracle: Oracle,
    pub(crate) trace: Trace,
    pub(crate) catalog: Rc<Catalog>,
    pub(crate) registry: Registry,
    pub(crate) api: ApiServer,
    pub(crate) machines: Vec<Machine>,
    replicas: Vec<Replica>,
    /// Those that lead, or do not know yet that they do not; the newest is the last.
    coordinators: Vec<Coordinator>,
    /// News wait up to so long, and are taken in together.
    together: Duration,
    /// Steps of all state machines together.
    pub(crate) steps: u64,
    /// Pulls that runtimes were asked for.
    pub(crate) pulls: u64,
    /// Status writes that the coordinator sent.
    pub(crate) writes: u64,
    /// How long after the last fault all was as it should be.
    pub(crate) rested_after: Duration,
    scenario: Scenario,
    scale: Scale,
    faults: Vec<Fault>,
    /// What the registries serve while nothing is wrong.
    supplies: Vec<Supply>,
    dice: Dice,
    questions: Questions,
    conns: Vec<Conn>,
    /// Terms so far.
    lives: u64,
    /// Coordinator processes so far.
    boots: u64,
    agent_lives: u64,
    digests: u64,
    wall_skew_millis: i64,
    /// The password that each host takes.
    host_locks: Vec<u64>,
    /// Alarms since the clock moved last.
    ticks: u64,
}

impl World {
    /// A world in which these faults will happen.
    pub(crate) fn new(
        mut scenario: Scenario,
        seed: u64,
        scale: Scale,
        faults: Vec<Fault>,
        trace: Trace,
    ) -> Self {
        let tags = std::mem::take(&mut scenario.tags);
        let catalog = Rc::new(std::mem::take(&mut scenario.catalog));
        let mut world = Self {
            agenda: Agenda::default(),
            oracle: Oracle::new(scale.registry_budget, scenario.hosts, catalog.clone()),
            trace,
            catalog,
            supplies: tags.iter().map(|tag| tag.supply).collect(),
            registry: Registry {
                hosts: vec![Host::default(); scenario.hosts],
                tags,
                locks: scenario.locks.clone(),
            },
            api: ApiServer::new(&scenario.secrets),
            machines: Vec::new(),
            replicas: Vec::new(),
            coordinators: Vec::new(),
            together: scenario.together,
            steps: 0,
            pulls: 0,
            writes: 0,
            rested_after: Duration::ZERO,
            host_locks: (0..scenario.hosts as u64).map(|host| 100 + host).collect(),
            scenario,
            scale,
            faults,
            dice: Dice::new(seed, 3),
            questions: Questions::new(seed),
            conns: Vec::new(),
            lives: 0,
            boots: 0,
            agent_lives: 0,
            digests: 1_000,
            wall_skew_millis: 0,
            ticks: 0,
        };
        world.populate(seed);
        world
    }

    fn populate(&mut self, seed: u64) {
        for machine in std::mem::take(&mut self.scenario.nodes) {
            self.add_machine(seed, machine);
        }
        for (policy, spec) in self.scenario.policies.clone().into_iter().enumerate() {
            self.put_policy(policy, spec);
        }
        for (image, spec) in self.scenario.images.clone().into_iter().enumerate() {
            self.put_image(image, spec);
        }
        for replica in 0..self.scenario.replicas {
            self.replicas.push(Replica::default());
            self.agenda
                .at(Duration::ZERO, Event::ReplicaStarts { replica });
        }
        for fault in 0..self.faults.len() {
            self.agenda.at(self.faults[fault].at, Event::Fault(fault));
        }
        self.agenda.at(crate::faults::CALM, Event::Calm);
    }

    fn add_machine(&mut self, seed: u64, machine: scenario::Machine) {
        let node = self.machines.len();
        self.machines.push(Machine {
            agent: None,
            runtime: Runtime {
                is_up: true,
                held: machine.held.into_iter().collect(),
                ..Runtime::default()
            },
            dice: Dice::new(seed, 1_000 + node as u64),
            is_amd64: machine.is_amd64,
            max_parallel: machine.max_parallel,
            off_until: Duration::ZERO,
            cut_off_until: Duration::ZERO,
            filled: (0, Duration::ZERO),
            slow_line: (Duration::ZERO, Duration::ZERO),
        });
        self.oracle.machine(machine.max_parallel, machine.is_amd64);
        self.put_node(node, machine.spec);
        let wait = self.machines[node].dice.millis(0, 5_000);
        self.agenda.after(wait, Event::AgentStarts { node });
    }

    /// Lets time pass until `end`.
    pub(crate) fn pass(&mut self, end: Duration) -> Verdict {
        let mut moment = self.agenda.now;
        while let Some(event) = self.agenda.next(end) {
            if moment != self.agenda.now {
                moment = self.agenda.now;
                self.ticks = 0;
            }
            self.trace.mix(moment, &event);
            self.happens(event)?;
            if self.ticks > MOST_TICKS {
                let text = "a state machine sets alarms for the moment that it is in, without end";
                return Err(Violation::new("spin", text.to_owned()));
            }
        }
        Ok(())
    }

    fn happens(&mut self, event: Event) -> Verdict {
        match event {
            Event::Fault(fault) => return self.strike(fault),
            Event::Calm => return self.calm_down(),
            Event::Undo(fault) => self.undo(fault),
            Event::ReplicaStarts { replica } => self.replica_starts(replica),
            Event::ReplicaResumes { replica, boot } => {
                let process = self.replicas[replica].process.as_ref();
                // It may have been stopped again, for longer.
                if process.is_some_and(|p| p.boot == boot) && !self.is_paused(replica) {
                    return self.replica_resumes(replica);
                }
            }
            Event::LeadershipChecked => self.note_leadership(),
            Event::SilenceFelt { life } => self.silence_felt(life),
            Event::LeaseAsked { replica, boot } => self.lease_asked(replica, boot),
            Event::LeaseArrives {
                replica,
                boot,
                request,
                sent,
            } => self.lease_arrives((replica, boot), *request, sent),
            Event::LeaseAnswered {
                replica,
                boot,
                answer,
                sent,
            } => return self.lease_answered((replica, boot), *answer, sent),
            Event::SecretRead { life, secret } => return self.secret_read(life, secret),
            Event::KubeletFights { node, until } => self.kubelet_fights(node, until),
            Event::TermOver { life } => self.term_over(life),
            Event::CoordinatorLooks { life } => return self.take_in(life),
            Event::CoordinatorWakes { life, at } => return self.coordinator_wakes(life, at),
            Event::WatchLists { life, kind, epoch } => self.watch_lists(life, kind, epoch),
            Event::WatchTells {
                life,
                kind,
                epoch,
                news,
            } => return self.watch_tells(life, kind, epoch, news),
            Event::WriteArrives {
                life,
                image,
                uid,
                status,
                answer,
            } => {
                self.write_arrives(life, (image, uid), &status, answer);
            }
            Event::WriteAnswered {
                life,
                image,
                uid,
                version,
            } => {
                return self.write_answered(life, (image, uid), version);
            }
            Event::QuestionArrives { life, question } => {
                return self.question_arrives(life, &question);
            }
            Event::QuestionAnswered {
                life,
                number,
                answer,
            } => {
                return self.question_answered(life, number, answer);
            }
            Event::AgentStarts { node } => self.agent_starts(node),
            Event::AgentWakes { node, life, at } => return self.agent_wakes(node, life, at),
            Event::Connects { node, life } => return self.connects(node, life),
            Event::Up { conn, message } => return self.arrives_up(conn, message),
            Event::Down { conn, message } => return self.arrives_down(conn, message),
            Event::ClosedForAgent { conn } => return self.closed_for_agent(conn),
            Event::ClosedForCoordinator { conn } => return self.closed_for_coordinator(conn),
            Event::Probes { node, life } => return self.probes(node, life),
            Event::RuntimeReturns { node } => self.runtime_returns(node),
            Event::PullResolves { node, id } => return self.pull_resolves(node, id),
            Event::PullFinishes { node, id } => self.pull_finishes(node, id),
            Event::PullAnswered {
                node,
                life,
                token,
                result,
            } => {
                return self.pull_answered((node, life), token, result);
            }
            Event::ListTaken { node, life, began } => self.list_taken(node, life, began),
            Event::ListAnswered {
                node,
                life,
                began,
                listed,
                disk,
            } => {
                return self.list_answered((node, life), began, listed, disk);
            }
        }
        Ok(())
    }
}
