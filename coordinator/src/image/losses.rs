//! Images that we brought to a node and that something there removes again, as the kubelet's garbage collector does with
//! images that no pod uses: when to stop fighting it.
//!
//! One loss is an accident, and the image is brought again. A second one within the hour is a rule of that node, and to go on
//! would cost its network and disk one pull after the other.

use std::collections::BTreeMap;
use std::time::Duration;

use drop_proto::FailureClass;

use crate::core::{Core, Now, Wake};
use crate::image::{Failure, ImageId};
use crate::node_set::{NodeId, NodeSet};

/// Two losses within this time are a fight, and so long the image is left alone then.
const TRUCE: Duration = Duration::from_secs(3600);

/// What stands in the status meanwhile.
const GARBAGE_COLLECTED: &str = "removed twice within an hour after it was pulled, as the kubelet's image garbage collection does: left alone for an hour; free disk or raise imageGCHighThresholdPercent or imageMaximumGCAge";

/// Of one image: where we brought it, and when it was lost.
#[derive(Debug, Default)]
pub struct Losses {
    brought: NodeSet,
    /// The last one of each node.
    at: BTreeMap<NodeId, Duration>,
}

impl Losses {
    /// A pull of ours put the image on the node.
    pub(crate) fn brought(&mut self, node: NodeId) {
        self.brought.insert(node);
    }

    /// The node does not hold the image any more. True if that is a fight.
    pub(crate) fn lost(&mut self, now: Duration, node: NodeId) -> bool {
        if !self.brought.remove(node) {
            return false;
        }
        let again = |at: &Duration| now.saturating_sub(*at) < TRUCE;
        if self.at.remove(&node).as_ref().is_some_and(again) {
            return true;
        }
        self.at.insert(node, now);
        false
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        self.brought.remove(node);
        self.at.remove(&node);
    }
}

impl Core {
    /// The node says that it does not hold the image.
    pub(crate) fn image_absent(&mut self, now: Now, id: ImageId, node: NodeId) {
        let Some(image) = self.images.get_mut(id) else {
            return;
        };
        image.lacks(node);
        if !image.losses.lost(now.mono, node) {
            return;
        }
        let failure = Failure {
            class: FailureClass::Unspecified,
            message: GARBAGE_COLLECTED.to_owned(),
            attempts: 2,
            at: now.mono,
            retry: now.mono + TRUCE,
        };
        image.failures.insert(node, failure);
        image.blocked.insert(node);
        self.wake(now.mono + TRUCE, Wake::Retry(id, node));
        self.mark_image(now, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn the_second_loss_within_an_hour_is_a_fight() {
        let mut losses = Losses::default();
        let mut lost_at = |minute: u64| {
            losses.brought(NODE);
            losses.lost(minutes(minute), NODE)
        };
        assert!(!lost_at(0));
        assert!(!lost_at(60), "an hour later it is a first one again");
        assert!(lost_at(119));
        assert!(!lost_at(120), "after a fight they are counted anew");
        assert!(lost_at(121));
    }

    #[test]
    fn what_others_brought_is_not_counted() {
        let mut losses = Losses::default();
        losses.brought(NODE);
        assert!(!losses.lost(minutes(1), NODE));
        for minute in 2..5 {
            assert!(!losses.lost(minutes(minute), NODE));
            assert!(!losses.lost(minutes(minute), NodeId(2)));
        }
    }
}
