//! Whether a grant may be given: what policies, hosts, nodes and the start of a process allow (design section 4).
//!
//! A limit is that of the newest policy that the watch has delivered: a lowered one stops no pull that runs. What weighs is
//! what runtimes and the network carry, less what the coordinator has to take for dead: grants of agents that have been silent
//! for a TTL, and of nodes that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::oracle::grants::{Grant, State};
use crate::oracle::sessions::Sessions;
use crate::oracle::view::{PolicyKey, View};
use crate::oracle::{Oracle, TTL, Verdict, Violation};

/// A start under a policy.
#[derive(Clone, Copy, Debug)]
struct Start {
    node: usize,
    at: Duration,
    token: u64,
}

#[derive(Debug)]
pub(crate) struct Limits {
    /// Pulls from one registry host.
    budget: u32,
    starts: BTreeMap<PolicyKey, Vec<Start>>,
    synced_at: Option<Duration>,
    /// Every agent that may pull has said what it holds.
    all_known: bool,
    is_stopping: bool,
}

impl Limits {
    pub(crate) fn new(budget: u32) -> Self {
        Self {
            budget,
            starts: BTreeMap::new(),
            synced_at: None,
            all_known: false,
            is_stopping: false,
        }
    }

    /// A process's memory of starts dies with it; what still runs is counted all the same.
    pub(crate) fn new_life(&mut self) {
        *self = Self::new(self.budget);
    }

    pub(crate) fn stops(&mut self) {
        self.is_stopping = true;
    }

    pub(crate) fn synced(&mut self, now: Duration) {
        self.synced_at = Some(now);
    }

    /// Whether everybody is known by now. Once that was so it stays so.
    pub(crate) fn look_around(&mut self, view: &View, sessions: &Sessions) {
        self.all_known = self.all_known
            || self.synced_at.is_some()
                && view
                    .nodes
                    .keys()
                    .all(|node| sessions.is_inventoried(*node) || !view.is_any_wanted(*node));
    }

    /// A grant came back unused: its start did not take place.
    pub(crate) fn released(&mut self, token: u64) {
        for starts in self.starts.values_mut() {
            starts.retain(|start| start.token != token);
        }
    }

    fn starts(&mut self, key: PolicyKey, start: Start) {
        let starts = self.starts.entry(key).or_default();
        if starts.len() >= 8 {
            starts.remove(0);
        }
        starts.push(start);
    }

    fn last_start(&self, key: PolicyKey) -> Option<Start> {
        self.starts.get(&key)?.last().copied()
    }
}

impl Oracle {
    /// A grant is given. Each rule of design section 4 is held against it.
    // One rule after the other.
    #[allow(clippy::too_many_lines)]
    pub(super) fn grants(
        &mut self,
        now: Duration,
        node: usize,
        message: &drop_proto::Grant,
    ) -> Verdict {
        let token = message.token;
        let broken = |rule: &'static str, what: &str| {
            let text = format!(
                "grant {token} of {} to n{node:05}: {what}",
                message.reference
            );
            Err(Violation::new(rule, text))
        };
        let Some(reference) = self.catalog.index(&message.reference) else {
            return broken("wanted", "nobody has heard of it");
        };
        if token == 0 || self.grants.get(token).is_some() {
            return broken("token", "the token was used before");
        }
        if self.is_quiet(reference) {
            return broken("silence", "at rest");
        }
        let is_known =
            self.limits.all_known || self.limits.synced_at.is_some_and(|at| now >= at + TTL);
        if self.leaders.is_fenced(now) {
            return broken("fence", "the leader's Lease has run out");
        }
        if self.limits.is_stopping || !is_known {
            return broken("start", "grants of the former process may still be out");
        }
        let keys = self.view.keys(reference, node);
        if keys.is_empty() {
            return broken("wanted", "no object wants it pulled there");
        }
        let weighs = |grant: &&Grant| !self.is_dead(now, grant);
        let of_node: Vec<&Grant> = self.grants.of_node(node).filter(weighs).collect();
        if of_node.iter().any(|grant| grant.reference == reference) {
            return broken("double", "the node holds a grant for it already");
        }
        if of_node.len() as u32 >= self.machines[node].0 {
            return broken("limit", "the node takes no more at once");
        }
        if self.has_pressure(node) {
            return broken("pressure", "the node has DiskPressure");
        }
        let pair = self.pair(reference, node);
        let trials = match self.backoff.waits(now, pair) {
            Ok(trials) => trials,
            Err(rule) => return broken(rule, "it has to wait"),
        };
        let is_out = |grant: &Grant, since: Duration| grant.given >= since && weighs(&grant);
        if let Some(since) = trials.image
            && self
                .grants
                .of_reference(reference)
                .any(|grant| is_out(grant, since))
        {
            return broken("probe", "another node tries it, and nobody has had it yet");
        }
        if let Some(since) = trials.host
            && self
                .grants
                .of_host(pair.host)
                .any(|grant| is_out(grant, since))
        {
            return broken("trial", "another pull tries the host");
        }
        let budget = self.limits.budget as usize;
        if self.grants.of_host(pair.host).len() >= budget
            && self.grants.of_host(pair.host).filter(weighs).count() >= budget
        {
            return broken("limit", "the host's budget is used up");
        }
        if !keys.iter().any(|key| self.has_room(now, *key, node)) {
            return broken("limit", "its policy admits no more pulls or nodes");
        }
        if let [key] = keys.as_slice() {
            let delay = self.view.limits(*key).min_delay;
            if let Some(last) = self.limits.last_start(*key)
                && last.node != node
                && now < last.at + delay
            {
                let what = format!(
                    "n{:05} began {:?} ago, {delay:?} is due",
                    last.node,
                    now - last.at
                );
                return broken("min-delay", &what);
            }
            let at = now;
            self.limits.starts(*key, Start { node, at, token });
        }
        self.grants.add(
            token,
            Grant {
                node,
                reference,
                host: pair.host,
                keys,
                given: now,
                life: self.life,
                heard: now,
                state: State::Sent,
                is_revoked: false,
                is_told: false,
                is_closed: false,
                shown: None,
                over_at: Duration::ZERO,
            },
        );
        Ok(())
    }

    fn has_room(&self, now: Duration, key: PolicyKey, node: usize) -> bool {
        let limits = self.view.limits(key);
        let Some(load) = self.grants.weight(key) else {
            return true;
        };
        let fits = |pulls: u32, others: usize| {
            limits.max_pulls.is_none_or(|max| pulls < max) && others < limits.max_nodes as usize
        };
        let others = load.nodes.len() - usize::from(load.nodes.contains_key(&node));
        if fits(load.pulls, others) {
            return true;
        }
        // Not all of it is still to be counted.
        let alive = || {
            self.grants
                .of_key(key)
                .filter(|grant| !self.is_dead(now, grant))
        };
        let others: BTreeSet<usize> = alive()
            .map(|grant| grant.node)
            .filter(|other| *other != node)
            .collect();
        fits(alive().count() as u32, others.len())
    }

    /// The coordinator cannot know any more that the grant is out: nobody has spoken of it for a TTL (a new process gives
    /// agents one TTL from its start), or neither the node nor an agent on it is there.
    fn is_dead(&self, now: Duration, grant: &Grant) -> bool {
        let heard = match self.limits.synced_at {
            Some(started) if grant.life != self.life => grant.heard.max(started),
            _ => grant.heard,
        };
        now >= heard + TTL
            || !self.view.nodes.contains_key(&grant.node) && !self.sessions.has_session(grant.node)
    }
}
