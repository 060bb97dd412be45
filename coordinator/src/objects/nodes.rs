//! Nodes come, change and go.

use std::collections::BTreeSet;

use crate::core::{Change, Core, Now, Wake};
use crate::index::Node;
use crate::node_set::NodeId;
use crate::plan::NodeFacts;

impl Core {
    pub(crate) fn node_changed(&mut self, now: Now, change: Change<NodeFacts>) {
        match change {
            Change::Applied(facts) => self.apply_node(now, facts),
            Change::Deleted(name) => self.delete_node(now, &name),
            Change::Replaced(all) => {
                self.synced.nodes = true;
                let there: BTreeSet<&str> = all.iter().map(|facts| facts.name.as_str()).collect();
                let gone: Vec<String> = self
                    .nodes
                    .iter()
                    .filter(|(_, node)| node.facts.is_some() && !there.contains(node.name.as_str()))
                    .map(|(_, node)| node.name.clone())
                    .collect();
                for name in gone {
                    self.delete_node(now, &name);
                }
                for facts in all {
                    self.apply_node(now, facts);
                }
                self.begin(now);
            }
        }
    }

    fn apply_node(&mut self, now: Now, facts: NodeFacts) {
        let id = self.nodes.intern(&facts.name, || Node::named(&facts.name));
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        if node.facts.as_ref() == Some(&facts) {
            return;
        }
        if node.session.is_none() && node.lost_at.is_none() {
            node.lost_at = Some(now.mono);
            self.wake(now.mono + self.config.agent_grace, Wake::Grace(id));
        }
        let disk_pressure = facts.disk_pressure;
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        let former = node.facts.replace(facts);
        if former.is_some_and(|f| f.disk_pressure) != disk_pressure {
            if disk_pressure {
                self.relieve_checker(id);
            }
            self.refresh_free(now, id);
            self.mark_node(now, id);
            self.unsettled = true;
        }
        let names: Vec<String> = self.objects.keys().cloned().collect();
        for name in names {
            self.retarget(now, &name, Some(id));
        }
    }

    fn delete_node(&mut self, now: Now, name: &str) {
        let Some(id) = self.nodes.id(name) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(id) {
            node.facts = None;
        }
        let names: Vec<String> = self.objects.keys().cloned().collect();
        for name in names {
            self.retarget(now, &name, Some(id));
        }
        self.settle_pairs();
        self.forget_node_if_gone(now, id);
    }

    /// A place is free again when there is neither an object nor an agent of that name.
    pub(crate) fn forget_node_if_gone(&mut self, now: Now, id: NodeId) {
        let Some(node) = self.nodes.get(id) else {
            return;
        };
        if node.facts.is_some() || node.session.is_some() {
            return;
        }
        for token in node.grants.clone() {
            self.end_grant(now, token);
        }
        for (_, image) in self.images.iter_mut() {
            image.forget(id);
        }
        for policy in self.policies.values_mut() {
            policy.forget_node(id);
        }
        self.free.remove(id);
        self.greeted.remove(&id);
        self.stale.retain(|(node, _)| *node != id);
        self.nodes.remove(id);
    }
}
