//! The judge. It sees what passes between the machines and the world, keeps its own books of it, and holds each step against
//! the rules of the design. It calls no decision of the product and reads none of its state.
//!
//! Where a fault excuses something, the rule says so at its place, and no further than that.

mod agents;
mod backoff;
mod disks;
mod grants;
mod hearing;
mod leaders;
mod limits;
mod logins;
mod passing;
mod questions;
mod sessions;
mod status;
mod tries;
mod view;

use std::rc::Rc;
use std::time::Duration;

use drop_proto::{Hello, agent_message};

use crate::objects::{Catalog, News};
use agents::Agents;
use backoff::{Backoff, Pair};
use disks::Disks;
use grants::Grants;
use leaders::Leaders;
use limits::Limits;
use logins::Logins;
use questions::Questions;
use sessions::Sessions;
use status::Statuses;
use tries::Tries;
pub(crate) use tries::Try;
pub(crate) use view::wants;
use view::{Changed, View};

/// A grant that nobody renews is out for so long.
pub(crate) const TTL: Duration = Duration::from_secs(60);
/// A pull that takes longer is cancelled.
pub(crate) const PULL_DEADLINE: Duration = Duration::from_secs(150);
/// Two losses of an image on a node within this time are a fight; for as long the image is left alone there then.
pub(crate) const TRUCE: Duration = Duration::from_secs(60);

/// A rule was broken.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// Its short name.
    pub(crate) rule: &'static str,
    pub(crate) text: String,
}

impl Violation {
    pub(crate) fn new(rule: &'static str, text: String) -> Self {
        Self { rule, text }
    }
}

pub(crate) type Verdict = Result<(), Violation>;

#[derive(Debug)]
pub(crate) struct Oracle {
    view: View,
    grants: Grants,
    agents: Agents,
    sessions: Sessions,
    backoff: Backoff,
    statuses: Statuses,
    limits: Limits,
    leaders: Leaders,
    logins: Logins,
    tries: Tries,
    disks: Disks,
    questions: Questions,
    /// Of each machine: pulls at once, and whether it is of the platform that every image is made for.
    machines: Vec<(u32, bool)>,
    catalog: Rc<Catalog>,
    /// The host of each reference.
    hosts_of: Vec<usize>,
    hosts: usize,
    life: u64,
    /// Nothing may happen any more but to these references.
    quiet: Option<Vec<bool>>,
    /// What agents said before the watches had delivered their lists. It means nothing before.
    backlog: Vec<(Place, Heard)>,
    /// References that nothing named at some time during the present batch.
    orphans: Vec<usize>,
}

/// Connection and node.
type Place = (usize, usize);

#[derive(Debug)]
enum Heard {
    /// From the agent process of this number.
    Hello(u64, Hello),
    Said(agent_message::Kind),
    End,
}

impl Oracle {
    pub(crate) fn new(budget: u32, hosts: usize, catalog: Rc<Catalog>) -> Self {
        let hosts_of: Vec<usize> = catalog.references.iter().map(|r| r.host).collect();
        Self {
            view: View::default(),
            grants: Grants::new(hosts, &hosts_of),
            agents: Agents::default(),
            sessions: Sessions::new(hosts_of.len()),
            backoff: Backoff::new(hosts, &hosts_of),
            statuses: Statuses::new(hosts_of.len()),
            limits: Limits::new(budget),
            leaders: Leaders::default(),
            logins: Logins::default(),
            tries: Tries::default(),
            disks: Disks::default(),
            questions: Questions::default(),
            machines: Vec::new(),
            catalog,
            hosts_of,
            hosts,
            life: 0,
            quiet: None,
            backlog: Vec::new(),
            orphans: Vec::new(),
        }
    }

    pub(crate) fn machine(&mut self, max_parallel: u32, is_amd64: bool) {
        self.machines.push((max_parallel, is_amd64));
    }

    /// A term begins; its coordinator knows nothing.
    pub(crate) fn new_life(&mut self, life: u64, replica: usize) {
        self.life = life;
        self.new_leader(replica);
        self.view = View::default();
        self.sessions = Sessions::new(self.hosts_of.len());
        self.backoff = Backoff::new(self.hosts, &self.hosts_of);
        self.statuses.new_life();
        self.limits.new_life();
        self.logins.new_life();
        self.tries = Tries::default();
        self.questions = Questions::default();
        self.backlog.clear();
        self.orphans.clear();
    }

    /// The coordinator was told to stop.
    pub(crate) fn stops(&mut self, life: u64) {
        if life == self.life {
            self.limits.stops();
        }
    }

    /// From now on nothing may happen but to the references that are marked.
    pub(crate) fn expects_quiet(&mut self, except: Vec<bool>) {
        self.quiet = Some(except);
    }

    fn is_quiet(&self, reference: usize) -> bool {
        self.quiet.as_ref().is_some_and(|except| !except[reference])
    }

    /// A watch delivers news.
    pub(crate) fn learns(&mut self, now: Duration, news: &News) {
        let was_complete = self.view.is_complete();
        let changed = self.view.learn(news);
        self.excuse(&changed);
        if !was_complete && self.view.is_complete() {
            self.limits.synced(now);
            for ((conn, node), heard) in std::mem::take(&mut self.backlog) {
                match heard {
                    Heard::Hello(agent_life, hello) => {
                        self.hello(now, (conn, node, agent_life), &hello);
                    }
                    Heard::Said(kind) => self.said(now, (conn, node), &kind),
                    Heard::End => self.sessions.ends(now, conn, node),
                }
            }
        }
        self.limits.look_around(&self.view, &self.sessions);
    }

    /// What was known of references that nothing names any more is forgotten, once all is taken in that came together.
    pub(crate) fn taken_in(&mut self, now: Duration) {
        for reference in std::mem::take(&mut self.orphans) {
            let is_forgotten =
                !self.view.is_named(reference) && self.grants.is_idle(now, reference, self.life);
            self.backoff.orphaned(reference, now, is_forgotten);
            self.questions.orphaned(reference);
        }
    }

    /// Edits end the waits that they concern.
    fn excuse(&mut self, changed: &Changed) {
        for reference in &changed.references {
            self.backoff.forget_reference(*reference);
            self.questions.forget(*reference);
            self.tries.edited(self.hosts_of[*reference]);
            if !self.view.is_named(*reference) {
                self.orphans.push(*reference);
            }
        }
        for node in &changed.nodes {
            self.backoff.forget_node(*node);
        }
        if changed.references.is_empty() {
            return;
        }
        for host in 0..self.hosts {
            let mut images = self.view.images.values();
            if !images.any(|seen| self.hosts_of[seen.row.spec.reference] == host) {
                self.backoff.forget_host(host);
            }
        }
        for seen in self.view.images.values() {
            let digest = seen
                .row
                .status
                .as_ref()
                .and_then(|s| s.resolved_digest.as_deref());
            if digest.is_some() {
                self.backoff.proven(seen.row.spec.reference);
                self.statuses.expects(seen.row.spec.reference, digest);
            }
        }
    }

    fn pair(&self, reference: usize, node: usize) -> Pair {
        Pair {
            reference,
            host: self.hosts_of[reference],
            node,
            is_amd64: self.machines[node].1,
        }
    }
}
