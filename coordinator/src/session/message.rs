//! What the state machine says to an agent, until it goes out as protobuf.
//!
//! A wave begins with a message to thousands of nodes at once, and most nodes are told the same. Here they share it: as protobuf,
//! with strings of its own for each node, what waits to be sent would be most of the coordinator's memory.

use std::sync::Arc;

use drop_proto::{CoordinatorMessage, DesiredImage, Grant, Revoke, coordinator_message};

use crate::image::Told;

/// One message to one agent.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// What the node should hold.
    Desired(Desired),
    /// It may pull.
    Grant(Grant),
    /// It must stop a pull.
    Revoke {
        /// Of the grant.
        token: u64,
    },
}

/// See `drop_proto::Desired`.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Counts the messages of this kind in the session.
    pub revision: u64,
    /// Whether these images are all that the node should hold.
    pub complete: bool,
    /// New or changed.
    pub images: Vec<Arc<Told>>,
    /// References that are not wanted any more.
    pub dropped: Vec<String>,
}

impl From<Message> for CoordinatorMessage {
    fn from(message: Message) -> Self {
        let kind = match message {
            Message::Desired(desired) => coordinator_message::Kind::Desired(desired.into()),
            Message::Grant(grant) => coordinator_message::Kind::Grant(grant),
            Message::Revoke { token } => coordinator_message::Kind::Revoke(Revoke { token }),
        };
        Self { kind: Some(kind) }
    }
}

impl From<Desired> for drop_proto::Desired {
    fn from(desired: Desired) -> Self {
        Self {
            revision: desired.revision,
            complete: desired.complete,
            images: desired.images.iter().map(|told| to_proto(told)).collect(),
            dropped: desired.dropped,
        }
    }
}

fn to_proto(told: &Told) -> DesiredImage {
    DesiredImage {
        reference: told.reference.clone(),
        pull_policy: told.pull_policy.into(),
        expected_digest: told.expected_digest.clone(),
        priority: told.priority,
        check: told.check,
        compressed_bytes: told.compressed_bytes,
    }
}
