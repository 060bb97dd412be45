//! Sets of nodes as bits: what is known of every (image, node) pair costs a few bits, not an object.

use fixedbitset::FixedBitSet;

/// A node's place in the index. Places are used again when a node has gone, so nothing durable may hold one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    fn bit(self) -> usize {
        self.0 as usize
    }
}

/// A set of nodes that grows as needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSet(FixedBitSet);

impl NodeSet {
    /// Adds a node; true if it is new.
    pub fn insert(&mut self, node: NodeId) -> bool {
        self.0.grow(node.bit() + 1);
        !self.0.put(node.bit())
    }

    /// Takes a node out; true if it was there.
    pub fn remove(&mut self, node: NodeId) -> bool {
        let was = self.0.contains(node.bit());
        if was {
            self.0.set(node.bit(), false);
        }
        was
    }

    /// Puts a node in or takes it out; true if that changed anything.
    pub fn set(&mut self, node: NodeId, member: bool) -> bool {
        if member {
            self.insert(node)
        } else {
            self.remove(node)
        }
    }

    /// Whether the node is in the set.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.contains(node.bit())
    }

    /// How many nodes are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.count_ones(..)
    }

    /// Whether no node is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_clear()
    }

    /// Whether the two sets share a node.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        !self.0.is_disjoint(&other.0)
    }

    /// The nodes, by place.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.ones().map(|bit| NodeId(bit as u32))
    }

    /// Keeps only nodes that are also in `other`.
    pub fn intersect_with(&mut self, other: &Self) {
        self.0.intersect_with(&other.0);
    }

    /// Adds the nodes of `other`.
    pub fn union_with(&mut self, other: &Self) {
        self.0.union_with(&other.0);
    }

    /// Takes the nodes of `other` out.
    pub fn subtract(&mut self, other: &Self) {
        self.0.difference_with(&other.0);
    }

    /// The first member after `cursor`, going round: asking again with the answer visits all members in turn.
    #[must_use]
    pub fn next_after(&self, cursor: NodeId) -> Option<NodeId> {
        let after = cursor.bit() + 1;
        self.0
            .ones()
            .find(|bit| *bit >= after)
            .or_else(|| self.0.minimum())
            .map(|bit| NodeId(bit as u32))
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut set = Self::default();
        for node in nodes {
            set.insert(node);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(nodes: &[u32]) -> NodeSet {
        nodes.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn members_are_visited_in_turn() {
        let nodes = set(&[1, 70, 200]);
        assert_eq!(nodes.next_after(NodeId(0)), Some(NodeId(1)));
        assert_eq!(nodes.next_after(NodeId(1)), Some(NodeId(70)));
        assert_eq!(nodes.next_after(NodeId(70)), Some(NodeId(200)));
        assert_eq!(nodes.next_after(NodeId(200)), Some(NodeId(1)));
        assert_eq!(nodes.next_after(NodeId(5000)), Some(NodeId(1)));
        assert_eq!(NodeSet::default().next_after(NodeId(3)), None);
    }

    #[test]
    fn sets_of_different_sizes_work_together() {
        let mut small = set(&[1, 3]);
        let large = set(&[3, 500]);
        assert!(small.intersects(&large));
        small.subtract(&large);
        assert_eq!(small, {
            let mut expected = set(&[1, 3]);
            expected.remove(NodeId(3));
            expected
        });
        small = large.clone();
        assert_eq!(small.iter().collect::<Vec<_>>(), [NodeId(3), NodeId(500)]);
        small.intersect_with(&set(&[500]));
        assert_eq!(small.len(), 1);
        assert!(!small.contains(NodeId(100_000)));
        assert!(!small.remove(NodeId(100_000)));
    }
}
