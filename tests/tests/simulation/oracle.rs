//! The judge. It sees what passes between the machines and the world, keeps its own books of it, and holds each step against
//! the rules of the design. It calls no decision of the product and reads none of its state.
//!
//! Where a fault excuses something, the rule says so at its place, and no further than that.

mod agents;
mod backoff;
mod grants;
mod hearing;
mod limits;
mod questions;
mod sessions;
mod status;
mod view;

use std::rc::Rc;
use std::time::Duration;

use drop_api::CachedImageStatus;
use drop_proto::{AgentMessage, CoordinatorMessage, Hello, agent_message};

use crate::objects::{Catalog, ImageRow, News};
use agents::Agents;
use backoff::{Backoff, Pair};
use grants::{Grants, State};
use limits::Limits;
use questions::Questions;
use sessions::Sessions;
use status::{Statuses, is_true};
pub(crate) use view::wants;
use view::{Changed, View};

/// A grant that nobody renews is out for so long.
pub(crate) const TTL: Duration = Duration::from_secs(60);

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
            questions: Questions::default(),
            machines: Vec::new(),
            catalog,
            hosts_of,
            hosts,
            life: 0,
            quiet: None,
            backlog: Vec::new(),
        }
    }

    pub(crate) fn machine(&mut self, max_parallel: u32, is_amd64: bool) {
        self.machines.push((max_parallel, is_amd64));
    }

    /// A coordinator process begins and knows nothing.
    pub(crate) fn new_life(&mut self, life: u64) {
        self.life = life;
        self.view = View::default();
        self.sessions = Sessions::new(self.hosts_of.len());
        self.backoff = Backoff::new(self.hosts, &self.hosts_of);
        self.statuses.new_life();
        self.limits.new_life();
        self.questions = Questions::default();
        self.backlog.clear();
    }

    /// The coordinator was told to stop.
    pub(crate) fn stops(&mut self) {
        self.limits.stops();
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
        self.excuse(now, &changed);
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

    /// Edits end the waits that they concern.
    fn excuse(&mut self, now: Duration, changed: &Changed) {
        for reference in &changed.references {
            self.backoff.forget_reference(*reference);
            self.questions.forget(*reference);
            if !self.view.is_named(*reference) {
                let is_idle = self.grants.is_idle(now, *reference, self.life);
                self.backoff.orphaned(*reference, now, is_idle);
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
}

/// What passes by on its way to or from the world.
impl Oracle {
    /// The coordinator says something to an agent.
    pub(crate) fn sends(
        &mut self,
        now: Duration,
        (_, node): Place,
        message: &CoordinatorMessage,
    ) -> Verdict {
        use drop_proto::coordinator_message::Kind;
        match &message.kind {
            Some(Kind::Grant(grant)) => self.grants(now, node, grant),
            Some(Kind::Revoke(revoke)) => {
                if let Some(grant) = self.grants.get_mut(revoke.token) {
                    grant.is_revoked = true;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The coordinator writes a status; `row` is what stands in the API server.
    pub(crate) fn writes(
        &mut self,
        now: Duration,
        (image, uid): (usize, u64),
        status: &CachedImageStatus,
        row: Option<&ImageRow>,
    ) -> Verdict {
        let seen = self
            .view
            .images
            .get(&image)
            .filter(|seen| seen.row.uid == uid);
        let Some(seen) = seen else {
            let text = format!("i{image:03} is written, but no watch has shown it (uid {uid})");
            return Err(Violation::new("status", text));
        };
        let reference = seen.row.spec.reference;
        self.statuses
            .expects(reference, status.resolved_digest.as_deref());
        if self.is_quiet(reference) {
            let text = format!("i{image:03} is written at rest: {status:?}");
            return Err(Violation::new("silence", text));
        }
        is_true(now, seen, status, &self.sessions, &self.statuses)?;
        self.statuses.writes(now, seen, status, row)
    }

    /// A write has changed what stands in the API server.
    pub(crate) fn landed(&mut self, life: u64, image: usize, uid: u64) {
        self.statuses.landed((image, uid), life == self.life);
    }

    pub(crate) fn write_answered(&mut self, image: usize, uid: u64, is_ok: bool) {
        self.statuses.answered((image, uid), is_ok);
    }

    /// The grant will never reach its agent.
    pub(crate) fn grant_lost(&mut self, now: Duration, token: u64) {
        self.grants.over(now, token);
    }

    /// The agent process is gone, and whatever it would have done.
    pub(crate) fn agent_gone(&mut self, now: Duration, node: usize) {
        self.agents.gone(node);
        for token in self.grants.tokens_of_node(node) {
            self.grants.over(now, token);
        }
    }

    pub(crate) fn agent_hears(&mut self, node: usize, message: &CoordinatorMessage) {
        self.agents
            .hears(node, message, &self.catalog, &self.grants);
    }

    pub(crate) fn agent_heard(&mut self, node: usize) -> Verdict {
        self.agents.heard(node)
    }

    pub(crate) fn agent_says(
        &mut self,
        now: Duration,
        node: usize,
        message: &AgentMessage,
        listed: &[(usize, u64)],
    ) -> Verdict {
        if let Some(agent_message::Kind::Release(release)) = &message.kind {
            self.agents.released(node, release.token);
            let is_used = |grant: &grants::Grant| grant.state == State::Pulling;
            if self.grants.get(release.token).is_some_and(is_used) {
                let text = format!("n{node:05} gives {} back and uses it", release.token);
                return Err(Violation::new("report", text));
            }
            self.grants.over(now, release.token);
        }
        if let Some(agent_message::Kind::Done(done)) = &message.kind
            && let Some(grant) = self.grants.get(done.token)
        {
            // The registry itself has named it, whether or not a status has come to say so.
            let digest = done.digests.first().map(String::as_str);
            self.statuses.expects(grant.reference, digest);
        }
        self.agents
            .says(node, message, listed, &self.catalog, &mut self.grants)
    }

    /// The runtime has answered a list that the agent asked for at `began`.
    pub(crate) fn agent_lists(&mut self, node: usize, began: Duration, listed: &[(usize, u64)]) {
        self.grants.listed(node, began, |reference| {
            let place = listed.binary_search_by_key(&reference, |(listed, _)| *listed);
            place.ok().map(|place| listed[place].1)
        });
    }

    /// `PullImage` is called; `held` is what the runtime holds under the reference.
    pub(crate) fn pull_starts(
        &mut self,
        (node, token, reference): (usize, u64, usize),
        held: Option<u64>,
    ) -> Verdict {
        let name = self.catalog.text(reference);
        let broken = |rule, what: &str| {
            Err(Violation::new(
                rule,
                format!("n{node:05} pulls {name} under {token}: {what}"),
            ))
        };
        if self.is_quiet(reference) {
            return broken("silence", "at rest");
        }
        self.agents.pulls(node, token, reference, held)?;
        let pulling = |grant: &&grants::Grant| grant.state == State::Pulling;
        let running: Vec<usize> = self
            .grants
            .of_node(node)
            .filter(pulling)
            .map(|grant| grant.reference)
            .collect();
        if running.contains(&reference) {
            return broken("double", "it is being pulled there already");
        }
        if running.len() as u32 >= self.machines[node].0 {
            return broken("limit", "more pulls at once than the node takes");
        }
        if let Some(grant) = self
            .grants
            .get_mut(token)
            .filter(|g| g.state == State::Sent)
        {
            grant.state = State::Pulling;
            return Ok(());
        }
        broken("grant", "the grant is used up")
    }

    /// The runtime pulls no more under this grant.
    pub(crate) fn pull_over(&mut self, now: Duration, token: u64) {
        self.grants.over(now, token);
    }

    pub(crate) fn cancelled(&mut self, token: u64) {
        self.agents.cancelled(token);
    }

    /// No grant outlives the TTL that its agent was silent for. `out` is what the coordinator itself says.
    pub(crate) fn counts(&self, now: Duration, out: usize) -> Verdict {
        let countable = self.grants.countable(self.life, now.saturating_sub(TTL));
        if out <= countable {
            return Ok(());
        }
        let text = format!("{out} grants are out, {countable} can be");
        Err(Violation::new("leak", text))
    }

    /// Grants that weigh.
    pub(crate) fn weighing(&self) -> usize {
        self.grants.weighing()
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
