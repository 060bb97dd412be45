//! `PullPolicy`: how fast images may be pulled. It has no status.

use std::collections::BTreeMap;

use drop_duration::GoDuration;
use k8s_openapi::api::core::v1::Toleration;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::rules;

/// The pace of the images that reference this policy. Nothing is required.
// One word per printed column is not a repetition.
#[allow(clippy::duplicated_attributes)]
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "drop.corewire.io",
    version = "v1alpha1",
    kind = "PullPolicy",
    plural = "pullpolicies",
    category = "drop",
    derive = "PartialEq",
    doc = "PullPolicy sets the pace of image pulls: how many nodes may pull at a time, how long to wait between them, how to retry, and how often to look for a newer digest. It only configures; it has no status. CachedImages and CachedImageSets name it in policyRef.",
    printcolumn(
        name = "MaxNodes",
        type_ = "integer",
        json_path = ".spec.maxConcurrentNodes",
        description = "Nodes that may pull at the same time"
    ),
    printcolumn(
        name = "MaxPulls",
        type_ = "integer",
        json_path = ".spec.maxConcurrentPulls",
        description = "Pulls that may run at the same time; empty = no limit"
    ),
    printcolumn(
        name = "MinDelay",
        type_ = "string",
        json_path = ".spec.minDelayBetweenPulls",
        description = "Time between a start on one node and the next start on another"
    ),
    printcolumn(
        name = "RepullInterval",
        type_ = "string",
        json_path = ".spec.repullInterval",
        description = "How often tags are checked again; empty = never"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct PullPolicySpec {
    /// How many nodes may pull at the same time, counted over all images that reference this policy. Raise it for large
    /// clusters; keep it low where the registry or the network is slow. Default: 1. Example: 3 (up to 3 nodes at once).
    #[serde(default = "default_max_concurrent_nodes")]
    #[schemars(range(min = 1))]
    pub max_concurrent_nodes: i32,

    /// How many pulls may run at the same time, counted over all nodes and all images that reference this policy. Unset
    /// means no limit beyond maxConcurrentNodes. Example: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_concurrent_pulls: Option<i32>,

    /// Least time between the start of a pull on one node and the next start on another node. Prevents bursts of traffic
    /// to the registry. 0s means no wait. Default: "10s". Example: "30s", "1m".
    #[serde(default = "default_min_delay")]
    #[x_kube(validation = rules::duration_not_negative())]
    pub min_delay_between_pulls: GoDuration,

    /// Growing waits between the tries after a failure, kept for each image on each node: one bad node does not slow the
    /// others. If unset: initial 30s, max 5m.
    #[serde(default)]
    pub failure_backoff: BackoffConfig,

    /// Longest time that one pull may take. Then it is cancelled, which throws away what was downloaded, and tried again after
    /// failureBackoff: a deadline for pulls that hang, not a pace. Must be longer than zero. Default: "1h". Example: "3h" for
    /// very large images on slow links.
    #[serde(default = "default_pull_timeout")]
    #[x_kube(validation = rules::duration_positive())]
    pub pull_timeout: GoDuration,

    /// How often the tags of cached images are checked again, to pick up a digest that has changed in the registry. Nodes
    /// that hold the former digest pull the new one and stay Ready meanwhile. Unset or zero means never: a tag is then
    /// checked only when the CachedImage is created or edited. Example: "24h", "6h".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::duration_not_negative())]
    pub repull_interval: Option<GoDuration>,

    /// Narrows the nodes of every image that references this policy: a node must match this selector and the image's own.
    /// Example: {"node-role.kubernetes.io/build": "true"}.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub node_selector: BTreeMap<String, String>,

    /// Tainted nodes that images of this policy may be cached on, in addition to the tolerations of the image itself.
    /// Example: [{key: "dedicated", value: "ci", effect: "NoSchedule"}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub tolerations: Vec<Toleration>,
}

/// Exponential waits after failures.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = rules::backoff_order())]
pub struct BackoffConfig {
    /// Wait before the first retry after a failure; it doubles with each further failure. Default: "30s". Example: "1m".
    #[serde(default = "default_initial")]
    #[x_kube(validation = rules::duration_positive())]
    pub initial: GoDuration,

    /// Longest wait between two tries. Default: "5m". Example: "10m".
    #[serde(default = "default_max")]
    #[x_kube(validation = rules::duration_positive())]
    pub max: GoDuration,
}

/// What applies to images without a policy.
impl Default for PullPolicySpec {
    fn default() -> Self {
        Self {
            max_concurrent_nodes: default_max_concurrent_nodes(),
            max_concurrent_pulls: None,
            min_delay_between_pulls: default_min_delay(),
            failure_backoff: BackoffConfig::default(),
            pull_timeout: default_pull_timeout(),
            repull_interval: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
        }
    }
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            initial: default_initial(),
            max: default_max(),
        }
    }
}

const fn default_max_concurrent_nodes() -> i32 {
    1
}

const fn default_min_delay() -> GoDuration {
    GoDuration::from_secs(10)
}

const fn default_pull_timeout() -> GoDuration {
    GoDuration::from_secs(3600)
}

const fn default_initial() -> GoDuration {
    GoDuration::from_secs(30)
}

const fn default_max() -> GoDuration {
    GoDuration::from_secs(300)
}
