//! Decides who may pull now: the limits of policies, of registry hosts and of nodes, and the back-off after failures.
//!
//! Pure. It knows nothing of sessions or of the API server; `core` asks it before each grant and tells it how pulls end.

pub mod backoff;
pub mod host;
mod outcome;
pub mod policy;
mod schedule;

use std::time::Duration;

use crate::image::ImageId;
use crate::logins::Ticket;
use crate::node_set::NodeId;

/// A running pull counts as proof that the image can be had once it has run this long without an error.
pub const PROOF_BY_RUNNING: Duration = Duration::from_secs(15);

/// Permission for one pull of one image on one node.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The image.
    pub image: ImageId,
    /// The node.
    pub node: NodeId,
    /// Key of the policy under which it counts.
    pub policy: String,
    /// When it was given (or taken over from a former session).
    pub given: Duration,
    /// When it ends unless the agent renews it.
    pub expires: Duration,
    /// When the agent said that the pull began.
    pub started: Option<Duration>,
    /// The agent was told to stop, since nothing wants the image on that node any more.
    pub revoked: bool,
    /// The login that the pull tries.
    pub(crate) login: Option<Ticket>,
}
