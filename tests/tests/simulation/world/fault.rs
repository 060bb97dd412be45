//! Faults strike, and pass.

use std::time::Duration;

use crate::agenda::Event;
use crate::faults::{Kind, Spoilt};
use crate::oracle::Verdict;
use crate::registry::Supply;
use crate::secrets::Content;
use crate::world::World;

impl World {
    // One arm for each kind of fault.
    #[allow(clippy::too_many_lines)]
    pub(crate) fn strike(&mut self, fault: usize) -> Verdict {
        let now = self.agenda.now;
        let kind = self.faults[fault].kind.clone();
        self.trace.note(now, || format!("FAULT {kind:?}"));
        match kind {
            Kind::CoordinatorDies { silently, away } => {
                let replica = self.leading_replica();
                self.replica_dies(replica, silently);
                self.agenda.after(away, Event::ReplicaStarts { replica });
            }
            Kind::CoordinatorStops { away } => {
                let replica = self.leading_replica();
                self.replica_stops(replica)?;
                self.agenda.after(away, Event::ReplicaStarts { replica });
            }
            Kind::ReplicaPauses { replica, lasts } => {
                let replica = self.chosen(replica);
                self.replica_pauses(replica, lasts);
            }
            Kind::ReplicaCutOff { replica, lasts } => {
                let replica = self.chosen(replica);
                self.replica_cut_off(replica, lasts);
            }
            Kind::ReplicaClockJumps { replica, millis } => {
                let replica = self.chosen(replica);
                self.replicas[replica].skew_millis += millis;
            }
            Kind::LeaseDeleted => {
                self.api.lease = None;
                self.note_leadership();
            }
            Kind::AgentDies { node, away } => {
                self.agent_dies(node, false);
                self.agenda.after(away, Event::AgentStarts { node });
            }
            Kind::AgentStops { node } => return self.agent_stops(node),
            Kind::MachineGoesDown { node, away } => self.machine_goes_down(node, away),
            Kind::SessionBreaks {
                node,
                agent_after,
                coordinator_after,
            } => {
                if let Some(conn) = self.conn_of(node) {
                    self.cut(conn, agent_after, coordinator_after);
                }
            }
            Kind::AllSessionsBreak => {
                for node in 0..self.machines.len() {
                    if let Some(conn) = self.conn_of(node) {
                        let dice = &mut self.machines[node].dice;
                        let (agent, coordinator) = (dice.millis(1, 100), dice.millis(1, 20_000));
                        self.cut(conn, agent, coordinator);
                    }
                }
            }
            Kind::CutOff { node, lasts } => {
                self.machines[node].cut_off_until = now + lasts;
                if let Some(conn) = self.conn_of(node) {
                    let dice = &mut self.machines[node].dice;
                    let (agent, coordinator) = (dice.secs(10, 20), dice.secs(10, 20));
                    self.cut(conn, agent, coordinator);
                }
            }
            Kind::SlowLine { node, most, lasts } => {
                self.machines[node].slow_line = (most, now + lasts);
            }
            Kind::RuntimeRestarts { node, away } => self.runtime_goes(node, away),
            Kind::RuntimeListsNothing { node, lasts } => {
                self.machines[node].runtime.mute_until = now + lasts;
            }
            Kind::RuntimeLies { node, lasts } => {
                self.machines[node].runtime.lies_until = now + lasts;
            }
            Kind::KubeletFights { node, lasts } => self.kubelet_fights(node, now + lasts),
            Kind::DiskFills {
                node,
                percent,
                lasts,
            } => self.machines[node].filled = (percent, now + lasts),
            Kind::DiskPressure { node, lasts } => {
                self.press(node, true);
                self.undo_after(fault, Some(lasts));
            }
            Kind::SecretsHidden { lasts } => {
                self.api.secrets_hidden_until = now + lasts;
                for secret in 0..self.api.secrets.len() {
                    let content = self.api.secrets[secret].clone();
                    self.put_secret(secret, content);
                }
            }
            Kind::GarbageCollection {
                nodes_percent,
                images_percent,
            } => {
                for node in 0..self.machines.len() {
                    if self.machines[node].dice.chance(nodes_percent) {
                        self.collect_garbage(node, images_percent);
                    }
                }
            }
            Kind::DiskFull { node, lasts } => {
                self.machines[node].runtime.full_until = now + lasts;
            }
            Kind::NoNameService { node, lasts } => {
                self.machines[node].runtime.lost_until = now + lasts;
            }
            Kind::HostTrouble {
                host,
                trouble,
                lasts,
            } => self.registry.hosts[host].trouble = Some((trouble, now + lasts)),
            Kind::HostSlow {
                host,
                factor,
                lasts,
            } => self.registry.hosts[host].slow = (factor, now + lasts),
            Kind::WritesFail { answer, lasts } => {
                self.api.bad_writes = Some((answer, now + lasts));
                self.note_leadership();
                self.agenda.after(lasts, Event::LeadershipChecked);
            }
            Kind::ApiServerAway { lasts } => {
                self.api.away_until = now + lasts;
                for life in self.lives() {
                    self.watches_anew(life, lasts);
                }
                self.note_leadership();
                self.agenda.after(lasts, Event::LeadershipChecked);
            }
            Kind::WatchesLag { most, lasts } => self.api.lag = (most, now + lasts),
            Kind::WatchBreaks { kind } => {
                for life in self.lives() {
                    let wait = self.dice.millis(100, 5_000);
                    self.watch_anew(life, kind, wait);
                }
            }
            Kind::NodeClockJumps { node, ahead } => return self.clock_jumps(node, ahead),
            Kind::WallClockJumps { millis } => self.wall_skew_millis += millis,
            edit => self.edit(fault, edit),
        }
        Ok(())
    }

    /// The leader where no replica is named.
    fn chosen(&self, replica: Option<usize>) -> usize {
        replica.map_or(self.leading_replica(), |replica| {
            replica % self.replicas.len()
        })
    }

    pub(super) fn lives(&self) -> Vec<u64> {
        self.coordinators.iter().map(|c| c.life).collect()
    }

    /// What people do to objects and tags.
    fn edit(&mut self, fault: usize, kind: Kind) {
        match kind {
            Kind::NodeJoins { spec } => {
                let mut machine = self.scenario.machine(&mut self.dice);
                machine.spec = spec;
                let seed = self.dice.below(u64::MAX);
                self.add_machine(seed, machine);
            }
            Kind::NodeLeaves {
                node,
                goes_down,
                back,
            } => {
                self.delete_node(node);
                if goes_down {
                    self.machine_goes_down(node, back.unwrap_or(Duration::from_secs(100_000)));
                }
                self.undo_after(fault, back);
            }
            Kind::NodeChanges { node, spec } => {
                if self.api.nodes.contains_key(&node) {
                    self.put_node(node, spec);
                }
            }
            Kind::ImageEdited { image, spec } => self.put_image(image, spec),
            Kind::ImageDeleted { image } => self.delete_image(image),
            Kind::ImageMadeAnew { image } => {
                if let Some(spec) = self.api.images.get(&image).map(|row| row.spec) {
                    self.delete_image(image);
                    self.put_image(image, spec);
                }
            }
            Kind::PolicyEdited { policy, spec } => self.put_policy(policy, spec),
            Kind::PolicyDeleted { policy, back } => {
                self.delete_policy(policy);
                self.undo_after(fault, back);
            }
            Kind::SecretSpoilt { secret, how, lasts } => {
                let former = self.scenario.secrets[secret].clone();
                let content = match how {
                    Spoilt::Wrong => Some(former.spoilt()),
                    Spoilt::Broken => Some(Content::Nothing),
                    Spoilt::Deleted => None,
                };
                self.put_secret(secret, content);
                self.undo_after(fault, Some(lasts));
            }
            Kind::PasswordChanges {
                host,
                password,
                lasts,
            } => {
                for lock in self.registry.locks.iter_mut().flatten() {
                    if self.host_locks[host] == *lock {
                        *lock = password;
                    }
                }
                self.host_locks[host] = password;
                self.undo_after(fault, Some(lasts));
            }
            Kind::TagMoves { reference } => {
                if self.catalog.references[reference].pinned.is_none() {
                    self.digests += 1;
                    self.registry.tags[reference].digest = self.digests;
                }
            }
            Kind::TagGoesBack { reference } => {
                if self.catalog.references[reference].pinned.is_none() {
                    let first = reference as u64 + 1;
                    self.registry.tags[reference].digest = first;
                    self.registry.tags[reference].went_back = true;
                }
            }
            Kind::TagGone { reference, lasts } => {
                self.registry.tags[reference].supply = Supply::Missing;
                self.undo_after(fault, Some(lasts));
            }
            _ => {}
        }
    }

    fn undo_after(&mut self, fault: usize, wait: Option<Duration>) {
        if let Some(wait) = wait {
            self.agenda.after(wait, Event::Undo(fault));
        }
    }

    pub(crate) fn undo(&mut self, fault: usize) {
        match self.faults[fault].kind {
            Kind::NodeLeaves { node, .. } => {
                let spec = self.scenario.node_spec(&mut self.machines[node].dice);
                self.put_node(node, spec);
            }
            Kind::PolicyDeleted { policy, .. } => {
                self.put_policy(policy, self.scenario.policies[policy]);
            }
            Kind::TagGone { reference, .. } => {
                self.registry.tags[reference].supply = self.supplies[reference];
            }
            Kind::DiskPressure { node, .. } => self.press(node, false),
            Kind::SecretSpoilt { secret, .. } => self.mend_secret(secret),
            // Somebody notices, and corrects the Secret.
            Kind::PasswordChanges { host, .. } => self.mend_secret(host),
            _ => {}
        }
    }

    fn machine_goes_down(&mut self, node: usize, away: Duration) {
        self.agent_dies(node, true);
        let machine = &mut self.machines[node];
        machine.off_until = self.agenda.now + away;
        machine.runtime.is_up = false;
        self.agenda.after(away, Event::RuntimeReturns { node });
        self.agenda.after(away, Event::AgentStarts { node });
    }

    fn conn_of(&self, node: usize) -> Option<usize> {
        self.machines[node].agent.as_ref()?.conn
    }

    /// All that was wrong is mended at once.
    pub(crate) fn calm_down(&mut self) -> Verdict {
        let now = self.agenda.now;
        self.trace.note(now, || "CALM".to_owned());
        for host in &mut self.registry.hosts {
            *host = crate::registry::Host::default();
        }
        for (tag, supply) in self.registry.tags.iter_mut().zip(&self.supplies) {
            tag.supply = *supply;
        }
        self.api.away_until = now;
        self.api.bad_writes = None;
        self.api.lag = (Duration::ZERO, now);
        for node in 0..self.machines.len() {
            let machine = &mut self.machines[node];
            let runtime = &mut machine.runtime;
            (runtime.full_until, runtime.lost_until) = (now, now);
            (runtime.mute_until, runtime.lies_until) = (now, now);
            machine.slow_line = (Duration::ZERO, now);
            machine.cut_off_until = now;
            machine.filled = (0, now);
            self.press(node, false);
            if self.api.nodes.contains_key(&node) {
                self.machines[node].off_until = now;
                self.runtime_returns(node);
                self.agent_starts(node);
            }
        }
        self.api.secrets_hidden_until = now;
        for secret in 0..self.api.secrets.len() {
            self.mend_secret(secret);
        }
        for replica in 0..self.replicas.len() {
            self.replicas[replica].cut_off_until = now;
            if self.is_paused(replica) {
                self.replica_resumes(replica)?;
            }
            self.replica_starts(replica);
        }
        self.note_leadership();
        Ok(())
    }
}
