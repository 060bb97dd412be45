//! `CachedImage`: one image that is to be on every matching node, and what is known of it there.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LocalObjectReference, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::references::PolicyReference;
use crate::rules;

/// The image, the nodes to keep it on, and the pace.
// One word per printed column is not a repetition.
#[allow(clippy::duplicated_attributes)]
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "drop.corewire.io",
    version = "v1alpha1",
    kind = "CachedImage",
    plural = "cachedimages",
    category = "drop",
    status = "CachedImageStatus",
    derive = "PartialEq",
    doc = "CachedImage keeps one container image on every matching node, so that pods which use it start without a pull. The agent on each node asks the container runtime to pull it; no pull pods are made. status says where the image is, as the runtimes list it.",
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image"),
    printcolumn(name = "Tag", type_ = "string", json_path = ".spec.tag"),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Reason of the Ready condition"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.ready",
        description = "Nodes that hold the image / nodes that should"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Digest",
        type_ = "string",
        json_path = ".status.resolvedDigest",
        priority = 1
    ),
    printcolumn(
        name = "Set",
        type_ = "string",
        json_path = ".metadata.labels.drop\\.corewire\\.io/imageset",
        description = "CachedImageSet that this image belongs to",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "Message of the Ready condition",
        priority = 1
    ),
    printcolumn(
        name = "Policy",
        type_ = "string",
        json_path = ".spec.policyRef.name",
        priority = 1
    )
)]
#[x_kube(validation = rules::tag_or_digest())]
#[serde(rename_all = "camelCase")]
pub struct CachedImageSpec {
    /// The image without tag or digest, which have their own fields. A port is allowed. Without a registry host it is
    /// docker.io, as the container runtime understands it. Example: "docker.io/library/nginx",
    /// "registry.example.com:5000/team/app".
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(
        validation = rules::image_is_no_url(),
        validation = rules::image_without_digest(),
        validation = rules::image_without_tag(),
        validation = rules::image_is_a_repository()
    )]
    pub image: String,

    /// Tag to pull. Mutually exclusive with digest. Without tag and digest it is "latest". Quote tags that look like
    /// numbers. Example: "1.25-alpine", "v2.4.1".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = rules::tag_grammar())]
    pub tag: Option<String>,

    /// Digest to pull as an immutable reference: exactly this content, whatever a tag names later. Mutually exclusive with
    /// tag. A pod that names the image by tag will pull again, since a pull by digest leaves no tag on the node. Example:
    /// "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    #[x_kube(validation = rules::digest_grammar())]
    pub digest: Option<String>,

    /// When nodes pull.
    ///
    /// - Always (default): nodes hold the digest that the tag names in the registry. The tag is checked once for the whole
    ///   cluster when the spec is new or edited, and again at each repullInterval of the policy.
    /// - IfNotPresent: a node that has the reference is done, whatever its digest; the registry is not asked.
    /// - Never: never pull; nodes that lack the image are reported with ErrImageNeverPull. Useful for pre-loaded images.
    #[serde(default)]
    pub image_pull_policy: ImagePullPolicy,

    /// Secrets with credentials for the registry, of type kubernetes.io/dockerconfigjson, in the namespace where drop is
    /// installed (default "drop-system"; see --pod-namespace). They are sent only to a node that is about to pull this
    /// image. Example: [{name: "ghcr-creds"}, {name: "ecr-creds"}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Which nodes to cache the image on: those that carry all of these labels, and match the selector of the policy. Empty
    /// means all nodes. Example: {"node-role.kubernetes.io/build": "true"}.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that do not keep this image off a node. A node with a NoSchedule or NoExecute taint that neither this list nor
    /// the policy tolerates is left out. Example: [{key: "node-role.kubernetes.io/build", operator: "Exists", effect:
    /// "NoSchedule"}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub tolerations: Vec<Toleration>,

    /// Order of pulls: lower values are pulled first, equal ones in alphabetical order of their names. Unset counts as 0.
    /// Example: -10 (early), 10 (late).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,

    /// The PullPolicy that sets the pace (concurrency, delays, back-off) and may narrow the nodes. If unset, built-in
    /// pacing applies: 1 node at a time, 10s between nodes, back-off from 30s to 5m. Example: {name: "conservative"}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_ref: Option<PolicyReference>,
}

/// When nodes pull.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum ImagePullPolicy {
    /// Hold the digest that the tag names in the registry.
    #[default]
    Always,
    /// Any digest under the reference is good enough.
    IfNotPresent,
    /// Only report.
    Never,
}

// Counters are always written, so that a zero shows as one.
/// Where the image is, as the container runtimes list it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CachedImageStatus {
    /// Generation of the spec that this status describes.
    #[serde(default)]
    pub observed_generation: i64,

    /// Summary: Ready when all target nodes hold the image; Degraded while any has failed; Pulling while pulls run or some
    /// nodes are ready; else Pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// nodesReady/nodesTargeted for display. Example: "2/3".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,

    /// Digest that nodes are expected to hold: the one of the spec, else what the tag named when it was last checked. It is
    /// the manifest or index digest, as the registry shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_digest: Option<String>,

    /// Number of nodes that should have this image.
    #[serde(default)]
    pub nodes_targeted: i32,

    /// Number of target nodes whose container runtime lists this image.
    #[serde(default)]
    pub nodes_ready: i32,

    /// Number of nodes that are pulling this image.
    #[serde(default)]
    pub nodes_pulling: i32,

    /// Number of nodes whose last try failed.
    #[serde(default)]
    pub nodes_failed: i32,

    /// Number of nodes that wait for their turn.
    #[serde(default)]
    pub nodes_waiting: i32,

    /// Names of the nodes that hold the image, sorted; at most 1,000. nodesReady is the exact count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub cached_nodes: Vec<String>,

    /// Failed pulls in a row over all nodes; 0 after any success.
    #[serde(default)]
    pub consecutive_failures: i32,

    /// When a node last pulled the image with success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_pulled_at: Option<Time>,

    /// When a node last began to pull the image, whatever came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempted_at: Option<Time>,

    /// When the tag was last checked in the registry. The next check is due one repullInterval later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_checked_at: Option<Time>,

    /// Size on a node in bytes, as the container runtime reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,

    /// Latest observations. Types: Ready, PullProgress.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// Nodes that should have the image and are not ready, worst first; at most 50. The counters are exact.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["node".into()]))]
    pub nodes: Vec<NodeException>,
}

/// Summary of a `CachedImage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Nothing has happened yet, or no node matches.
    #[default]
    Pending,
    /// Pulls run, or some nodes are ready.
    Pulling,
    /// All target nodes hold the image.
    Ready,
    /// A target node has failed or is backing off.
    Degraded,
}

/// A target node that is not ready, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeException {
    /// Name of the node.
    pub node: String,

    /// What the node is doing about it: Waiting (for its turn), Pulling, BackingOff (failed, will try again at nextRetry),
    /// Failed (will try again only when the image, its Secret or the node changes), NotConnected (no agent there), Unknown.
    #[serde(default)]
    #[schemars(with = "String")]
    pub state: NodeState,

    /// One word for the cause, as in the Ready condition. Example: "ErrImagePull".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,

    /// The cause in short. Example: "unauthorized: check imagePullSecrets".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,

    /// Failed tries in a row on this node.
    #[serde(default)]
    pub attempts: i32,

    /// Since when the node is in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,

    /// When the node will try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_retry: Option<Time>,
}

/// What a node that is not ready is doing. A plain string in the schema: an older reader takes a newer word as `Unknown`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum NodeState {
    /// For a token, or for the first node's pull to prove the image good.
    #[default]
    Waiting,
    /// The runtime is pulling.
    Pulling,
    /// Failed; tries again at `nextRetry`.
    BackingOff,
    /// Failed; tries again only when something changes.
    Failed,
    /// The node's agent has no session.
    NotConnected,
    /// A word of a newer version.
    #[serde(other)]
    Unknown,
}
