//! The custom resources of drop as Rust types, and `crdgen`, which prints their YAML.
//!
//! The types, their defaults and their admission rules stand here and nowhere else: the YAML in the chart is printed from them.
//! This crate knows what an object may say. What it means for a node is decided elsewhere, and nothing here talks to a cluster.

// Field docs are what `kubectl explain` prints, where backticks are noise.
#[allow(clippy::doc_markdown, unreachable_pub)]
mod cached_image;
pub mod conditions;
mod crds;
#[allow(clippy::doc_markdown, unreachable_pub)]
mod pull_policy;
#[allow(clippy::doc_markdown)]
mod references;
mod rules;

pub use cached_image::{
    CachedImage, CachedImageSpec, CachedImageStatus, ImagePullPolicy, NodeException, NodeState,
    Phase,
};
pub use crds::{CrdFile, crds, render};
pub use drop_duration::{DurationError, GoDuration};
pub use pull_policy::{BackoffConfig, PullPolicy, PullPolicySpec};
pub use references::PolicyReference;

/// API group of every resource of drop.
pub const GROUP: &str = "drop.corewire.io";

/// The one served version. Two incompatible public schemas share this name; ours is their union.
pub const VERSION: &str = "v1alpha1";

/// Label on a `CachedImage` that names the `CachedImageSet` it was made for.
pub const IMAGE_SET_LABEL: &str = "drop.corewire.io/imageset";
