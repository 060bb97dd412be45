//! What the watches have shown the coordinator so far: the spec that its decisions are held against. An edit counts from the
//! moment at which the watch delivers it.
//!
//! Which nodes an image is wanted on is worked out here anew, from the contract (section 2), not by the product's `plan`.

use std::collections::{BTreeMap, BTreeSet};

use drop_api::ImagePullPolicy;

use crate::objects::{Change, ImageRow, ImageSpec, News, NodeSpec, Place, PolicySpec};

/// A policy, or the built-in one.
pub(crate) type PolicyKey = Option<usize>;

#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) row: ImageRow,
    /// By node.
    targets: Vec<bool>,
    pub(crate) targeted: usize,
}

impl Seen {
    pub(crate) fn is_target(&self, node: usize) -> bool {
        self.targets.get(node).copied().unwrap_or(false)
    }

    fn aim(&mut self, node: usize, is_wanted: bool) {
        if self.targets.len() <= node {
            self.targets.resize(node + 1, false);
        }
        let was_wanted = std::mem::replace(&mut self.targets[node], is_wanted);
        self.targeted += usize::from(is_wanted);
        self.targeted -= usize::from(was_wanted);
    }
}

/// What news changed: whoever waits because of a failure may try again.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub(crate) references: BTreeSet<usize>,
    pub(crate) nodes: BTreeSet<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) nodes: BTreeMap<usize, NodeSpec>,
    pub(crate) images: BTreeMap<usize, Seen>,
    policies: BTreeMap<usize, PolicySpec>,
    /// Policies that are gone, as they were: pulls that began under them may still count by them.
    bygone: BTreeMap<usize, PolicySpec>,
    listed: [bool; 3],
}

impl View {
    /// Whether each kind has been listed once.
    pub(crate) fn is_complete(&self) -> bool {
        self.listed == [true; 3]
    }

    pub(crate) fn learn(&mut self, news: &News) -> Changed {
        let mut changed = Changed::default();
        match news {
            News::Node(Change::Applied((node, spec))) => {
                self.node(*node, Some(*spec), &mut changed);
            }
            News::Node(Change::Deleted(node)) => self.node(*node, None, &mut changed),
            News::Node(Change::Replaced(all)) => {
                self.listed[0] = true;
                for node in missing(&self.nodes, all.iter().map(|(node, _)| *node)) {
                    self.node(node, None, &mut changed);
                }
                for (node, spec) in all {
                    self.node(*node, Some(*spec), &mut changed);
                }
            }
            News::Image(Change::Applied(row)) => self.image(row, &mut changed),
            News::Image(Change::Deleted(image)) => self.no_image(*image, &mut changed),
            News::Image(Change::Replaced(all)) => {
                self.listed[1] = true;
                for image in missing(&self.images, all.iter().map(|row| row.image)) {
                    self.no_image(image, &mut changed);
                }
                for row in all {
                    self.image(row, &mut changed);
                }
            }
            News::Policy(Change::Applied((policy, spec))) => {
                self.policy(*policy, Some(*spec), &mut changed);
            }
            News::Policy(Change::Deleted(policy)) => self.policy(*policy, None, &mut changed),
            News::Policy(Change::Replaced(all)) => {
                self.listed[2] = true;
                for policy in missing(&self.policies, all.iter().map(|(policy, _)| *policy)) {
                    self.policy(policy, None, &mut changed);
                }
                for (policy, spec) in all {
                    self.policy(*policy, Some(*spec), &mut changed);
                }
            }
        }
        changed
    }

    fn node(&mut self, node: usize, spec: Option<NodeSpec>, changed: &mut Changed) {
        let former = match spec {
            Some(spec) => self.nodes.insert(node, spec),
            None => self.nodes.remove(&node),
        };
        if former == spec {
            return;
        }
        changed.nodes.insert(node);
        let policies = &self.policies;
        for seen in self.images.values_mut() {
            let place = policy_of(policies, &seen.row.spec).place;
            let is_wanted = spec.is_some_and(|spec| wants(spec, seen.row.spec.place, place));
            seen.aim(node, is_wanted);
        }
    }

    fn image(&mut self, row: &ImageRow, changed: &mut Changed) {
        if let Some(seen) = self.images.get_mut(&row.image) {
            let is_same = seen.row.uid == row.uid && seen.row.generation == row.generation;
            let former = std::mem::replace(&mut seen.row, row.clone());
            if is_same {
                return;
            }
            changed.references.insert(former.spec.reference);
        } else {
            let seen = Seen {
                row: row.clone(),
                targets: Vec::new(),
                targeted: 0,
            };
            self.images.insert(row.image, seen);
        }
        changed.references.insert(row.spec.reference);
        self.aim(row.image);
    }

    fn no_image(&mut self, image: usize, changed: &mut Changed) {
        if let Some(seen) = self.images.remove(&image) {
            changed.references.insert(seen.row.spec.reference);
        }
    }

    fn policy(&mut self, policy: usize, spec: Option<PolicySpec>, changed: &mut Changed) {
        let former = match spec {
            Some(spec) => self.policies.insert(policy, spec),
            None => self.policies.remove(&policy),
        };
        if let (None, Some(former)) = (spec, former) {
            self.bygone.insert(policy, former);
        }
        if former.map(|former| former.place) == spec.map(|spec| spec.place) {
            return;
        }
        let users: Vec<usize> = self
            .images
            .values()
            .filter(|seen| seen.row.spec.policy == Some(policy))
            .map(|seen| seen.row.image)
            .collect();
        for image in users {
            changed
                .references
                .insert(self.images[&image].row.spec.reference);
            self.aim(image);
        }
    }

    fn aim(&mut self, image: usize) {
        let Some(seen) = self.images.get_mut(&image) else {
            return;
        };
        let place = policy_of(&self.policies, &seen.row.spec).place;
        seen.targets.clear();
        seen.targeted = 0;
        for (node, spec) in &self.nodes {
            seen.aim(*node, wants(*spec, seen.row.spec.place, place));
        }
    }

    /// The objects that want the reference on the node.
    pub(crate) fn wanting(&self, reference: usize, node: usize) -> impl Iterator<Item = &Seen> {
        self.images
            .values()
            .filter(move |seen| seen.row.spec.reference == reference && seen.is_target(node))
    }

    pub(crate) fn is_wanted(&self, reference: usize, node: usize) -> bool {
        self.wanting(reference, node).next().is_some()
    }

    /// Whether some object names the reference, wherever it wants it.
    pub(crate) fn is_named(&self, reference: usize) -> bool {
        let mut images = self.images.values();
        images.any(|seen| seen.row.spec.reference == reference)
    }

    pub(crate) fn is_any_wanted(&self, node: usize) -> bool {
        self.images.values().any(|seen| seen.is_target(node))
    }

    /// The policies under which a pull of the reference on the node may count. More than one if objects share the reference:
    /// then nobody outside can tell which.
    pub(crate) fn keys(&self, reference: usize, node: usize) -> Vec<PolicyKey> {
        let mut keys: Vec<PolicyKey> = self
            .wanting(reference, node)
            .filter(|seen| seen.row.spec.pull != ImagePullPolicy::Never)
            .map(|seen| self.key(&seen.row.spec))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// A policy that does not exist means the built-in one.
    pub(crate) fn key(&self, spec: &ImageSpec) -> PolicyKey {
        spec.policy
            .filter(|policy| self.policies.contains_key(policy))
    }

    /// What the policy said before it was deleted.
    pub(crate) fn bygone_limits(&self, key: PolicyKey) -> Option<PolicySpec> {
        key.and_then(|policy| self.bygone.get(&policy).copied())
    }

    pub(crate) fn limits(&self, key: PolicyKey) -> PolicySpec {
        key.and_then(|policy| self.policies.get(&policy).copied())
            .unwrap_or(PolicySpec::BUILT_IN)
    }
}

fn policy_of(policies: &BTreeMap<usize, PolicySpec>, spec: &ImageSpec) -> PolicySpec {
    spec.policy
        .and_then(|policy| policies.get(&policy).copied())
        .unwrap_or(PolicySpec::BUILT_IN)
}

/// Both selectors must match, and a taint must be tolerated by either side.
pub(crate) fn wants(node: NodeSpec, image: Place, policy: Place) -> bool {
    let is_in = |place: Place| place.pool.is_none_or(|pool| pool == node.pool);
    let bears = |place: Place| place.tolerates == node.taint;
    is_in(image) && is_in(policy) && (node.taint.is_none() || bears(image) || bears(policy))
}

fn missing<T>(known: &BTreeMap<usize, T>, listed: impl Iterator<Item = usize>) -> Vec<usize> {
    let listed: BTreeSet<usize> = listed.collect();
    known
        .keys()
        .filter(|key| !listed.contains(key))
        .copied()
        .collect()
}
