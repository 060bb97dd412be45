//! The words of `status.conditions`: types and reasons. They are an interface: people alert on them, so none is ever renamed.
//!
//! Which reason holds when is decided by the coordinator.

/// Condition type: is the image on every target node?
pub const READY: &str = "Ready";

/// Condition type: is anything being pulled right now?
pub const PULL_PROGRESS: &str = "PullProgress";

/// Reasons of the [`READY`] condition.
pub mod ready {
    /// True: every target node holds the image.
    pub const CACHED: &str = "Cached";
    /// False: nodes are missing it, none has failed.
    pub const IN_PROGRESS: &str = "InProgress";
    /// False: the first pull failed, for the cause that the message names.
    pub const ERR_IMAGE_PULL: &str = "ErrImagePull";
    /// False: pulls failed and the next try is waiting for its time.
    pub const IMAGE_PULL_BACK_OFF: &str = "ImagePullBackOff";
    /// False: the runtime or the registry cannot read the reference.
    pub const INVALID_IMAGE_NAME: &str = "InvalidImageName";
    /// False: the registry host does not answer, or answers with 429 or 5xx.
    pub const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable";
    /// False: `imagePullPolicy: Never` and a node does not have the image.
    pub const ERR_IMAGE_NEVER_PULL: &str = "ErrImageNeverPull";
    /// False: a node has no room for the image.
    pub const INSUFFICIENT_DISK: &str = "InsufficientDisk";
    /// False: a node's container runtime does not answer.
    pub const RUNTIME_UNAVAILABLE: &str = "RuntimeUnavailable";
    /// False: nodes fail for different reasons; the message counts them.
    pub const PULL_FAILED: &str = "PullFailed";
    /// False: no node matches the selectors and tolerations.
    pub const NO_MATCHING_NODES: &str = "NoMatchingNodes";
    /// False: a target node has no agent that is connected.
    pub const AGENT_NOT_CONNECTED: &str = "AgentNotConnected";

    /// Every reason that [`READY`](super::READY) may carry.
    pub const ALL: [&str; 12] = [
        CACHED,
        IN_PROGRESS,
        ERR_IMAGE_PULL,
        IMAGE_PULL_BACK_OFF,
        INVALID_IMAGE_NAME,
        REGISTRY_UNAVAILABLE,
        ERR_IMAGE_NEVER_PULL,
        INSUFFICIENT_DISK,
        RUNTIME_UNAVAILABLE,
        PULL_FAILED,
        NO_MATCHING_NODES,
        AGENT_NOT_CONNECTED,
    ];
}

/// Reasons of the [`PULL_PROGRESS`] condition.
pub mod progress {
    /// True: at least one node is pulling.
    pub const PULLING: &str = "Pulling";
    /// False: nothing is left to pull.
    pub const COMPLETE: &str = "Complete";
    /// False: nothing moves until a back-off is over.
    pub const STALLED: &str = "Stalled";
    /// False: pulls have not begun.
    pub const IDLE: &str = "Idle";

    /// Every reason that [`PULL_PROGRESS`](super::PULL_PROGRESS) may carry.
    pub const ALL: [&str; 4] = [PULLING, COMPLETE, STALLED, IDLE];
}
