//! Decides which nodes an image is wanted on.
//!
//! Pure: the same nodes, images and policies give the same answer. It does not look at whether a node is ready, connected or
//! cordoned: only labels and taints count (contract: a cordoned or `NotReady` node is judged by its taints alone).

mod taints;
mod targets;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Taint, Toleration};

pub use taints::tolerates;
pub(crate) use targets::choices;

/// What of a Node matters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// Name of the Node object.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Its kubelet reports `DiskPressure`: no pull starts there. The plan does not change because of it.
    pub disk_pressure: bool,
}

/// One side of the choice of nodes: an image's or a policy's.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// Labels that a node must have, all of them.
    pub selector: &'a BTreeMap<String, String>,
    /// Taints that do not matter.
    pub tolerations: &'a [Toleration],
}

/// Whether an image with `image`'s choice, paced by a policy with `policy`'s choice, is wanted on the node: both selectors
/// must match, and each taint that keeps pods away must be tolerated by one of the two.
#[must_use]
pub fn wanted_on(node: &NodeFacts, image: Choice<'_>, policy: Choice<'_>) -> bool {
    matches(&node.labels, image.selector)
        && matches(&node.labels, policy.selector)
        && node.taints.iter().all(|taint| {
            tolerates(image.tolerations, taint) || tolerates(policy.tolerations, taint)
        })
}

fn matches(labels: &BTreeMap<String, String>, selector: &BTreeMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// Says for people why no node was chosen.
#[must_use]
pub fn no_match_message(nodes: usize, image: Choice<'_>, policy: Choice<'_>) -> String {
    if nodes == 0 {
        return "the cluster has no nodes".to_owned();
    }
    let mut selectors = Vec::new();
    if !image.selector.is_empty() {
        selectors.push(format!("nodeSelector {}", print(image.selector)));
    }
    if !policy.selector.is_empty() {
        selectors.push(format!(
            "the policy's nodeSelector {}",
            print(policy.selector)
        ));
    }
    if selectors.is_empty() {
        return format!("each of {nodes} nodes has a taint that is not tolerated: add tolerations");
    }
    format!(
        "none of {nodes} nodes matches {} without a taint that is not tolerated",
        selectors.join(" and ")
    )
}

fn print(selector: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = selector
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn taint(key: &str, effect: &str) -> Taint {
        Taint {
            key: key.to_owned(),
            effect: effect.to_owned(),
            ..Taint::default()
        }
    }

    fn exists(key: &str) -> Toleration {
        Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            ..Toleration::default()
        }
    }

    #[test]
    fn both_selectors_must_match() {
        let node = NodeFacts {
            labels: labels(&[("pool", "build"), ("disk", "ssd")]),
            ..NodeFacts::default()
        };
        let none = BTreeMap::new();
        for (image, policy, wanted) in [
            (&none, &none, true),
            (&labels(&[("pool", "build")]), &none, true),
            (
                &labels(&[("pool", "build")]),
                &labels(&[("disk", "ssd")]),
                true,
            ),
            (
                &labels(&[("pool", "build")]),
                &labels(&[("disk", "hdd")]),
                false,
            ),
            (&labels(&[("pool", "web")]), &none, false),
            (&labels(&[("zone", "")]), &none, false),
        ] {
            let image = Choice {
                selector: image,
                tolerations: &[],
            };
            let policy = Choice {
                selector: policy,
                tolerations: &[],
            };
            assert_eq!(
                wanted_on(&node, image, policy),
                wanted,
                "{image:?} {policy:?}"
            );
        }
    }

    #[test]
    fn a_taint_may_be_tolerated_by_either_side() {
        let node = NodeFacts {
            taints: vec![taint("a", "NoSchedule"), taint("b", "NoExecute")],
            ..NodeFacts::default()
        };
        let none = BTreeMap::new();
        let (a, b) = ([exists("a")], [exists("b")]);
        let choice = |tolerations| Choice {
            selector: &none,
            tolerations,
        };
        assert!(!wanted_on(&node, choice(&[]), choice(&[])));
        assert!(!wanted_on(&node, choice(&a), choice(&[])));
        assert!(wanted_on(&node, choice(&a), choice(&b)));
    }

    #[test]
    fn the_message_names_the_selectors() {
        let none = BTreeMap::new();
        let pool = labels(&[("pool", "gpu"), ("zone", "a")]);
        let message = no_match_message(
            3,
            Choice {
                selector: &pool,
                tolerations: &[],
            },
            Choice {
                selector: &none,
                tolerations: &[],
            },
        );
        assert_eq!(
            message,
            "none of 3 nodes matches nodeSelector pool=gpu,zone=a without a taint that is not tolerated"
        );
    }
}
