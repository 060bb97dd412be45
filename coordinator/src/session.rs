//! Agents: who is connected, what they said, and what they should know.
//!
//! This file, `reports`, `desired` and `message` belong to the state machine; `limits` decides how much an agent may say; `door`, `wire`
//! and `server` speak TLS and gRPC.

pub mod desired;
pub mod door;
pub mod limits;
pub mod message;
pub mod refusal;
mod reports;
pub mod server;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};

use drop_proto::{HeldGrant, Hello, agent_message};

use crate::core::{Close, Core, Count, Now, Output, Wake};
use crate::index::{Node, Session, SessionId};
use crate::node_set::NodeId;
use crate::pacing::{Grant, PROOF_BY_RUNNING};
use crate::session::limits::{Allowance, UNKNOWN_GRANTS};
use crate::session::message::Message;

/// Most pulls that a node may say it takes at once.
const MAX_PARALLEL: u32 = 64;

impl Core {
    pub(crate) fn connected(&mut self, now: Now, session: SessionId, hello: Hello) {
        if hello.node.is_empty() || hello.instance.is_empty() {
            let why = "Hello names no node or no instance".to_owned();
            self.outputs
                .push(Output::Close(session, Close::Invalid(why)));
            return;
        }
        let id = self.nodes.intern(&hello.node, || Node::named(&hello.node));
        // What it reported before it was away for long is hearsay until it reports again.
        let lapsed = !self.is_confirmed(now, id);
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        let same_instance = node.session.as_ref().map(|s| s.instance == hello.instance);
        match (same_instance, &node.session) {
            (Some(false), Some(holder)) => {
                let why = format!(
                    "node {} has a session of another agent (instance {}); stop that agent, or wait until its connection is found dead",
                    hello.node, holder.instance
                );
                self.outputs
                    .push(Output::Close(session, Close::NodeTaken(why)));
                return;
            }
            (Some(true), Some(holder)) => {
                let holder = holder.id;
                self.sessions.remove(&holder);
                self.outputs.push(Output::Close(holder, Close::Replaced));
                self.outputs.push(Output::Count(Count::Reconnected));
            }
            _ => {}
        }
        let former_instance = std::mem::take(&mut node.last_instance);
        if former_instance.is_empty() {
            self.last_arrival = now.mono;
        }
        node.last_instance.clone_from(&hello.instance);
        node.session = Some(Session {
            id: session,
            instance: hello.instance.clone(),
            revision: 0,
            told: BTreeMap::new(),
            dropped: BTreeSet::new(),
            inventoried: false,
            unclaimed: Vec::new(),
            unknown_grants: Allowance::default(),
        });
        node.lost_at = None;
        node.max_parallel = hello.max_parallel_pulls.clamp(1, MAX_PARALLEL);
        let orphaned = if former_instance == hello.instance {
            Vec::new()
        } else {
            node.grants.clone()
        };
        self.sessions.insert(session, id);
        for (_, image) in self.images.iter_mut() {
            image.asked.remove(id);
            image.refusals.remove(&id);
            if lapsed {
                image.reported.remove(id);
            }
        }
        // Another process: what the former one was granted died with it, unless this one says that it took it along.
        for token in orphaned {
            if !hello.held.iter().any(|held| held.token == token) {
                self.end_grant(now, token);
            }
        }
        let unclaimed: Vec<u64> = self
            .nodes
            .get(id)
            .map(|node| node.grants.clone())
            .unwrap_or_default()
            .into_iter()
            .filter(|token| !hello.held.iter().any(|held| held.token == *token))
            .collect();
        if let Some(session) = self.nodes.get_mut(id).and_then(|n| n.session.as_mut()) {
            session.unclaimed = unclaimed;
        }
        // A node holds no more than it takes at once.
        let most = hello.max_parallel_pulls.clamp(1, MAX_PARALLEL) as usize;
        for held in hello.held.iter().take(most) {
            self.adopt_grant(now, id, held);
            self.revoke_unwanted(session, id, held);
        }
        self.runtime_changed(now, id, hello.runtime.unwrap_or_default());
        self.greeted.insert(id);
        self.mark_node(now, id);
        self.refresh_free(now, id);
    }

    /// A pull that began in a former session, or under a former leader, counts from now on.
    fn adopt_grant(&mut self, now: Now, node: NodeId, held: &HeldGrant) {
        let expires = now.mono + self.config.grant_ttl;
        if let Some(grant) = self.grants.get_mut(&held.token) {
            if grant.node == node {
                grant.expires = expires;
                self.wake(expires, Wake::Expiry(held.token));
            }
            return;
        }
        let Some(image) = self.images.id(&held.reference) else {
            return;
        };
        let policy = self.policy_of(image, node);
        let began = now
            .mono
            .saturating_sub(std::time::Duration::from_millis(held.running_ms));
        let grant = Grant {
            image,
            node,
            policy: policy.clone(),
            given: began,
            expires,
            started: Some(began),
            revoked: false,
            login: None,
        };
        self.grants.insert(held.token, grant);
        if let Some(policy) = self.policies.get_mut(&policy) {
            policy.adopted(node);
        }
        if let Some(image) = self.images.get_mut(image) {
            image.granted.insert(node);
            image.probe.granted(held.token);
            self.hosts
                .entry(image.host.clone())
                .or_default()
                .started(held.token);
        }
        if let Some(node) = self.nodes.get_mut(node) {
            node.grants.push(held.token);
        }
        self.wake(expires, Wake::Expiry(held.token));
        self.wake(
            (began + PROOF_BY_RUNNING).max(now.mono),
            Wake::Proof(held.token),
        );
    }

    /// What the node still pulls may not be wanted there any more: the Revoke of a former session or process never came.
    fn revoke_unwanted(&mut self, session: SessionId, node: NodeId, held: &HeldGrant) {
        let image = self
            .images
            .id(&held.reference)
            .and_then(|id| self.images.get(id));
        if image.is_some_and(|image| image.targeted.contains(node)) {
            return;
        }
        if let Some(grant) = self.grants.get_mut(&held.token) {
            grant.revoked = true;
        }
        let token = held.token;
        self.revokes
            .push(Output::Send(session, Message::Revoke { token }));
    }

    pub(crate) fn said(&mut self, now: Now, session: SessionId, message: agent_message::Kind) {
        let Some(id) = self.sessions.get(&session).copied() else {
            return;
        };
        if !self.knows_grants(now, id, &message) {
            self.outputs
                .push(Output::Close(session, Close::UnknownGrants));
            return;
        }
        match message {
            agent_message::Kind::Hello(_) => {
                let why = "a second Hello in one session".to_owned();
                self.outputs
                    .push(Output::Close(session, Close::Invalid(why)));
            }
            agent_message::Kind::Inventory(inventory) => self.inventory(now, id, inventory),
            agent_message::Kind::Ask(ask) => self.asked(id, ask),
            agent_message::Kind::Started(started) => self.pull_started(now, id, started.token),
            agent_message::Kind::Renew(renew) => self.renewed(now, id, &renew.tokens),
            agent_message::Kind::Done(done) => self.pull_done(now, id, &done),
            agent_message::Kind::Failed(failed) => self.pull_failed(now, id, &failed),
            agent_message::Kind::Release(release) => self.released(now, id, release.token),
            agent_message::Kind::Runtime(runtime) => self.runtime_changed(now, id, runtime),
            agent_message::Kind::Refused(refused) => self.refused(now, id, refused),
        }
    }

    /// Whether the message speaks of grants that the node has, but for a few: a report may cross with the end of its grant.
    fn knows_grants(&mut self, now: Now, id: NodeId, message: &agent_message::Kind) -> bool {
        let tokens = match message {
            agent_message::Kind::Started(started) => &[started.token][..],
            agent_message::Kind::Renew(renew) => &renew.tokens,
            agent_message::Kind::Done(done) => &[done.token],
            agent_message::Kind::Failed(failed) => &[failed.token],
            agent_message::Kind::Release(release) => &[release.token],
            _ => &[],
        };
        let unknown = tokens.iter().filter(|token| !self.has_grant(id, **token));
        let unknown = unknown.count();
        let session = self.nodes.get_mut(id).and_then(|n| n.session.as_mut());
        session.is_none_or(|session| {
            session
                .unknown_grants
                .take(now.mono, unknown as f64, UNKNOWN_GRANTS)
        })
    }

    /// Whether the grant is known, and this node's.
    pub(crate) fn has_grant(&self, id: NodeId, token: u64) -> bool {
        self.grants
            .get(&token)
            .is_some_and(|grant| grant.node == id)
    }

    pub(crate) fn disconnected(&mut self, now: Now, session: SessionId) {
        let Some(id) = self.sessions.remove(&session) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(id) {
            node.session = None;
            node.lost_at = Some(now.mono);
            // What a former process knew of the node has served its purpose: the node's own reports count by now.
            for object in self.objects.values_mut() {
                object.remembered.remove(&node.name);
            }
        }
        for (_, image) in self.images.iter_mut() {
            image.asked.remove(id);
            image.refusals.remove(&id);
            if image.check.checker == Some(id) {
                image.check.checker = None;
            }
        }
        self.wake(now.mono + self.config.agent_grace, Wake::Grace(id));
        self.refresh_free(now, id);
        self.forget_node_if_gone(now, id);
        self.unsettled = true;
    }

    /// Whether what the node reported last may still be said of it: its agent and runtime are there, or went a moment ago.
    pub(crate) fn is_confirmed(&self, now: Now, id: NodeId) -> bool {
        let within = |lost: Option<std::time::Duration>| {
            lost.is_none_or(|at| now.mono.saturating_sub(at) < self.config.agent_grace)
        };
        self.nodes
            .get(id)
            .is_some_and(|node| within(node.lost_at) && within(node.runtime.lost_at))
    }

    /// Whether every object of the image that this node is a target of has been told by the node what it holds.
    pub(crate) fn has_reported(&self, id: NodeId) -> bool {
        self.nodes
            .get(id)
            .is_some_and(|node| node.session.as_ref().is_some_and(|s| s.inventoried))
    }

    /// Works out again whether the node can take a grant.
    pub(crate) fn refresh_free(&mut self, now: Now, id: NodeId) {
        let free = self.nodes.get(id).is_some_and(|node| {
            node.session.as_ref().is_some_and(|s| s.inventoried)
                && node.runtime.available
                && (node.grants.len() as u32) < node.max_parallel
                && !node.facts.as_ref().is_some_and(|f| f.disk_pressure)
                && node
                    .pause
                    .as_ref()
                    .is_none_or(|pause| pause.until <= now.mono)
        });
        if self.free.set(id, free) && free {
            self.unsettled = true;
        }
    }
}
