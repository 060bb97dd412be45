//! Agents: who is connected, what they said, and what they should know.
//!
//! This file, `desired` and `message` belong to the state machine; `limits` decides how much an agent may say; `door`, `wire`
//! and `server` speak TLS and gRPC.

pub mod desired;
pub mod door;
pub mod limits;
pub mod message;
pub mod refusal;
pub mod server;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use drop_api::ImagePullPolicy;
use drop_proto::{Ask, HeldGrant, Hello, Inventory, Refused, RuntimeState, agent_message};

use crate::core::{Close, Core, Count, Now, Output, Wake};
use crate::image::{ImageId, Refusal};
use crate::index::{Node, Runtime, Session, SessionId};
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

    fn inventory(&mut self, now: Now, id: NodeId, inventory: Inventory) {
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        let name = node.name.clone();
        let Some(session) = &mut node.session else {
            return;
        };
        let first = inventory.complete && !session.inventoried;
        if inventory.complete && !first {
            let why = "a second complete Inventory in one session".to_owned();
            let close = Output::Close(session.id, Close::Invalid(why));
            self.outputs.push(close);
            return;
        }
        let unclaimed = if inventory.complete {
            std::mem::take(&mut session.unclaimed)
        } else {
            Vec::new()
        };
        if inventory.complete {
            session.inventoried = true;
            let named: HashSet<&str> = inventory
                .images
                .iter()
                .map(|image| image.reference.as_str())
                .collect();
            let absent: Vec<ImageId> = self
                .images
                .iter()
                .filter(|(_, image)| {
                    image.targeted.contains(id) && !named.contains(image.reference.as_str())
                })
                .map(|(image_id, _)| image_id)
                .collect();
            for image_id in absent {
                self.image_absent(now, image_id, id);
            }
        }
        for item in inventory.images {
            let Some(image_id) = self.images.id(&item.reference) else {
                continue;
            };
            let always = self.wants_always(image_id, id);
            let remembered = self.remembers(image_id, &name);
            let Some(image) = self.images.get_mut(image_id) else {
                continue;
            };
            if !image.targeted.contains(id) {
                continue;
            }
            if item.present {
                image.holds(id, &item.digests);
                // An agent that needs the image all the same asks again after this.
                image.asked.remove(id);
                if remembered {
                    image.accepted.insert(id);
                }
                if !always {
                    image.adopt_held(id);
                }
                if !always || image.current.contains(id) && image.check.checker != Some(id) {
                    image.failures.remove(&id);
                    image.blocked.remove(id);
                }
                // What the node was told before it held the image may not be what it should compare with.
                self.stale.insert((id, image_id));
            } else {
                if item.lost {
                    self.outputs.push(Output::Count(Count::ImageLost));
                }
                self.image_absent(now, image_id, id);
            }
            self.mark_image(now, image_id);
        }
        if first {
            // The agent has told by now how its pulls of the former session ended. These left no trace: they never began.
            for token in unclaimed {
                self.end_grant(now, token);
            }
            self.mark_node(now, id);
        }
        self.refresh_free(now, id);
        self.unsettled = true;
    }

    /// Whether a former process counted the node as ready by its digest. For other objects of the same reference any digest
    /// was good enough, which says nothing about this one.
    fn remembers(&self, image: ImageId, node: &str) -> bool {
        self.images.get(image).is_some_and(|image| {
            image.objects.iter().any(|name| {
                self.objects.get(name).is_some_and(|o| {
                    o.facts.spec.image_pull_policy == ImagePullPolicy::Always
                        && o.remembered.contains(node)
                })
            })
        })
    }

    /// Whether a CachedImage wants the newest digest of the image on the node, not just any.
    pub(crate) fn wants_always(&self, image: ImageId, node: NodeId) -> bool {
        self.images.get(image).is_some_and(|image| {
            image
                .objects
                .iter()
                .filter_map(|name| self.objects.get(name))
                .any(|object| {
                    object.targets.contains(node)
                        && object.facts.spec.image_pull_policy == ImagePullPolicy::Always
                })
        })
    }

    fn asked(&mut self, id: NodeId, ask: Ask) {
        for (references, asks) in [(ask.references, true), (ask.withdrawn, false)] {
            for reference in references {
                let Some(image_id) = self.images.id(&reference) else {
                    continue;
                };
                let Some(image) = self.images.get_mut(image_id) else {
                    continue;
                };
                if image.targeted.contains(id) {
                    image.asked.set(id, asks);
                    if asks && image.inquiry.knows_contents() {
                        self.stale.insert((id, image_id));
                    }
                }
            }
        }
        self.unsettled = true;
    }

    /// The node does not ask for images that it needs. That concerns nobody else; a tag that it was to check is another one's.
    fn refused(&mut self, now: Now, id: NodeId, refused: Refused) {
        for reference in refused.lifted {
            if let Some(image_id) = self.images.id(&reference) {
                if let Some(image) = self.images.get_mut(image_id) {
                    image.refusals.remove(&id);
                }
                self.mark_image(now, image_id);
            }
        }
        for refusal in refused.images {
            let Some(image_id) = self.images.id(&refusal.reference) else {
                continue;
            };
            let Some(image) = self.images.get_mut(image_id) else {
                continue;
            };
            if !image.targeted.contains(id) {
                continue;
            }
            let class = refusal.class();
            let message = refusal.message;
            image.refusals.insert(id, Refusal { class, message });
            if image.check.checker == Some(id) {
                image.check.checker = None;
                self.stale.insert((id, image_id));
            }
            self.mark_image(now, image_id);
        }
        self.unsettled = true;
    }

    fn runtime_changed(&mut self, now: Now, id: NodeId, state: RuntimeState) {
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        let lost_at = if state.available {
            None
        } else {
            node.runtime.lost_at.or(Some(now.mono))
        };
        node.runtime = Runtime {
            available: state.available,
            message: state.message,
            lost_at,
            platform: state.platform,
        };
        if lost_at.is_some() {
            self.wake(now.mono + self.config.agent_grace, Wake::Grace(id));
            self.relieve_checker(id);
        }
        self.mark_node(now, id);
        self.refresh_free(now, id);
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
