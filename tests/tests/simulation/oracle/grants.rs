//! Every grant there ever was, and what became of it, as the world outside of the coordinator sees it.
//!
//! A grant *weighs* from the moment at which it is sent until its pull is over at the runtime, or it is certain that it will
//! never begin: lost on the way, given back, its agent gone. That is what registries and nodes feel.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::oracle::TTL;
use crate::oracle::view::PolicyKey;

#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) node: usize,
    pub(crate) reference: usize,
    pub(crate) host: usize,
    /// Policies that it may count under; it is counted if there is only one.
    pub(crate) keys: Vec<PolicyKey>,
    pub(crate) given: Duration,
    /// The coordinator process that counts it.
    pub(crate) life: u64,
    /// When that process heard of it last.
    pub(crate) heard: Duration,
    pub(crate) state: State,
    /// The coordinator has taken it back.
    pub(crate) is_revoked: bool,
    /// The agent has told its end.
    pub(crate) is_told: bool,
    /// The coordinator has heard of its end.
    pub(crate) is_closed: bool,
    /// When its pull was over.
    pub(crate) over_at: Duration,
    /// The digest that a list showed which was asked for after that.
    pub(crate) shown: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum State {
    /// On its way, or about to be used.
    Sent,
    Pulling,
    Over,
}

#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) pulls: u32,
    pub(crate) nodes: BTreeMap<usize, u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Grants {
    all: HashMap<u64, Grant>,
    loads: BTreeMap<PolicyKey, Load>,
    hosts: Vec<BTreeSet<u64>>,
    references: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<usize, BTreeSet<u64>>,
    /// By node: pulls that are over and whose end the agent has not told.
    untold: BTreeMap<usize, Vec<u64>>,
}

impl Grants {
    pub(crate) fn new(hosts: usize, references: &[usize]) -> Self {
        Self {
            hosts: vec![BTreeSet::new(); hosts],
            references: vec![BTreeSet::new(); references.len()],
            ..Self::default()
        }
    }

    pub(crate) fn get(&self, token: u64) -> Option<&Grant> {
        self.all.get(&token)
    }

    pub(crate) fn get_mut(&mut self, token: u64) -> Option<&mut Grant> {
        self.all.get_mut(&token)
    }

    pub(crate) fn add(&mut self, token: u64, grant: Grant) {
        self.hosts[grant.host].insert(token);
        self.references[grant.reference].insert(token);
        self.nodes.entry(grant.node).or_default().insert(token);
        self.load(&grant, true);
        self.all.insert(token, grant);
    }

    /// It weighs no more.
    pub(crate) fn over(&mut self, now: Duration, token: u64) {
        let Some(grant) = self.all.get_mut(&token).filter(|g| g.state != State::Over) else {
            return;
        };
        if grant.state == State::Pulling {
            self.untold.entry(grant.node).or_default().push(token);
        }
        grant.state = State::Over;
        grant.over_at = now;
        self.hosts[grant.host].remove(&token);
        self.references[grant.reference].remove(&token);
        if let Some(tokens) = self.nodes.get_mut(&grant.node) {
            tokens.remove(&token);
        }
        if let Some(grant) = self.all.remove(&token) {
            self.load(&grant, false);
            self.all.insert(token, grant);
        }
    }

    /// Another coordinator process took it over, and counts it as its own view says.
    pub(crate) fn adopted(&mut self, token: u64, life: u64, keys: Vec<PolicyKey>) {
        let Some(mut grant) = self.all.remove(&token) else {
            return;
        };
        let weighs = grant.state != State::Over;
        if weighs {
            self.load(&grant, false);
        }
        grant.life = life;
        grant.keys = keys;
        if weighs {
            self.load(&grant, true);
        }
        self.all.insert(token, grant);
    }

    fn load(&mut self, grant: &Grant, comes: bool) {
        let [key] = grant.keys.as_slice() else {
            return;
        };
        let load = self.loads.entry(*key).or_default();
        let pulls = load.nodes.entry(grant.node).or_default();
        if comes {
            load.pulls += 1;
            *pulls += 1;
        } else {
            load.pulls -= 1;
            *pulls -= 1;
            if *pulls == 0 {
                load.nodes.remove(&grant.node);
            }
        }
    }

    /// An agent was shown what its runtime holds, by a list that it asked for at `began`.
    pub(crate) fn listed(
        &mut self,
        node: usize,
        began: Duration,
        shown: impl Fn(usize) -> Option<u64>,
    ) {
        let untold = self.untold.get_mut(&node);
        for token in untold.into_iter().flatten() {
            if let Some(grant) = self.all.get_mut(token).filter(|g| g.over_at <= began) {
                grant.shown = shown(grant.reference).or(grant.shown);
            }
        }
    }

    /// The agent tells the end of a pull. False if it has done so before.
    pub(crate) fn told(&mut self, token: u64) -> bool {
        let Some(grant) = self.all.get_mut(&token) else {
            return true;
        };
        if let Some(untold) = self.untold.get_mut(&grant.node) {
            untold.retain(|other| *other != token);
        }
        !std::mem::replace(&mut grant.is_told, true)
    }

    pub(crate) fn weight(&self, key: PolicyKey) -> Option<&Load> {
        self.loads.get(&key)
    }

    pub(crate) fn of_key(&self, key: PolicyKey) -> impl Iterator<Item = &Grant> {
        let tokens = self.hosts.iter().flatten();
        tokens
            .filter_map(|token| self.all.get(token))
            .filter(move |grant| grant.keys == [key])
    }

    pub(crate) fn of_host(&self, host: usize) -> impl ExactSizeIterator<Item = &Grant> {
        self.hosts[host].iter().map(|token| &self.all[token])
    }

    pub(crate) fn of_reference(&self, reference: usize) -> impl Iterator<Item = &Grant> {
        self.references[reference]
            .iter()
            .map(|token| &self.all[token])
    }

    pub(crate) fn tokens_of_node(&self, node: usize) -> Vec<u64> {
        self.nodes
            .get(&node)
            .map(|tokens| tokens.iter().copied().collect())
            .unwrap_or_default()
    }

    pub(crate) fn of_node(&self, node: usize) -> impl Iterator<Item = &Grant> {
        self.nodes
            .get(&node)
            .into_iter()
            .flatten()
            .map(|token| &self.all[token])
    }

    /// How many the coordinator process may still count: it knows no end of theirs, and heard of them after `since`.
    pub(crate) fn countable(&self, life: u64, since: Duration) -> usize {
        let counts =
            |grant: &&Grant| grant.life == life && !grant.is_closed && grant.heard >= since;
        self.all.values().filter(counts).count()
    }

    /// Whether the coordinator process cannot count any pull of the reference any more.
    pub(crate) fn is_idle(&self, now: Duration, reference: usize, life: u64) -> bool {
        !self.all.values().any(|grant| {
            grant.reference == reference
                && grant.life == life
                && !grant.is_closed
                && now < grant.heard + TTL
        })
    }

    /// How many weigh.
    pub(crate) fn weighing(&self) -> usize {
        self.hosts.iter().map(BTreeSet::len).sum()
    }
}
