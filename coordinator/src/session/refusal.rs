//! Why the coordinator does not take a session, or ends one. Each reason is one word for the metric, a sentence for the
//! agent's operator, and a gRPC code; nothing else decides what an agent is told.

use tonic::Status;

use crate::core::Close;
use crate::identity::review;
use crate::session::limits::Excess;

/// A reason.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// This replica does not lead, or does not any more. Says who does.
    #[error("{0}")]
    NotLeading(String),
    /// No `authorization` came with the session.
    #[error("no token came with the session (--token-file of the agent)")]
    NoToken,
    /// The token opens no session, or nobody could say so.
    #[error("{0}")]
    Token(#[from] review::Error),
    /// The token is another node's.
    #[error(
        "the token is of node {bound}, and the agent says that it is on node {claimed} (--node-name)"
    )]
    OtherNode {
        /// The token's.
        bound: String,
        /// The agent's.
        claimed: String,
    },
    /// No Hello came in time.
    #[error("no Hello within 10 s")]
    NoHello,
    /// Something else came first.
    #[error("the first message of a session must be a Hello")]
    NotHello,
    /// The bytes are no message.
    #[error("{}", .0.message())]
    Unreadable(Status),
    /// A message is larger than the protocol allows.
    #[error("{0}")]
    Excess(#[from] Excess),
    /// The agent says more than an agent has to say.
    #[error("too many messages in too short a time")]
    TooFast,
    /// The node opens one session after the other.
    #[error("node {0} opens too many sessions in too short a time")]
    TooOften(String),
    /// The state machine's reason.
    #[error("{0}")]
    Closed(#[from] Close),
}

impl Refusal {
    /// The term under which the session was taken is over.
    #[must_use]
    pub fn no_more() -> Self {
        Self::NotLeading("this replica does not lead any more".to_owned())
    }

    /// One word of a closed set.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::NotLeading(_) => "not_leading",
            Self::NoToken => "token_missing",
            Self::Token(error) => error.class(),
            Self::OtherNode { .. } => "token_other_node",
            Self::NoHello | Self::NotHello => "no_hello",
            Self::Unreadable(_) => "unreadable",
            Self::Excess(_) => "too_large",
            Self::TooFast | Self::TooOften(_) => "too_fast",
            Self::Closed(Close::Replaced) => "replaced",
            Self::Closed(Close::NodeTaken(_)) => "node_taken",
            Self::Closed(Close::Invalid(_)) => "invalid",
            Self::Closed(Close::UnknownGrants) => "unknown_grants",
        }
    }

    /// All words of [`Refusal::class`].
    pub const CLASSES: [&'static str; 15] = [
        "not_leading",
        "token_missing",
        "token_invalid",
        "token_other_account",
        "token_unbound",
        "token_unchecked",
        "token_other_node",
        "no_hello",
        "unreadable",
        "too_large",
        "too_fast",
        "replaced",
        "node_taken",
        "invalid",
        "unknown_grants",
    ];
}

impl From<&Refusal> for Status {
    fn from(refusal: &Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::NotLeading(_) => Self::unavailable(text),
            Refusal::NoToken => Self::unauthenticated(text),
            Refusal::Token(review::Error::Denied(denial)) => match denial.class() {
                "token_invalid" => Self::unauthenticated(text),
                _ => Self::permission_denied(text),
            },
            Refusal::Token(_) => Self::unavailable(format!("cannot check the token: {text}")),
            Refusal::OtherNode { .. } => Self::permission_denied(text),
            Refusal::NoHello | Refusal::NotHello => Self::invalid_argument(text),
            Refusal::Unreadable(status) => status.clone(),
            Refusal::Excess(_) | Refusal::TooFast | Refusal::TooOften(_) => {
                Self::resource_exhausted(text)
            }
            Refusal::Closed(close) => match close {
                Close::Replaced => Self::aborted(text),
                Close::NodeTaken(_) => Self::already_exists(text),
                Close::Invalid(_) | Close::UnknownGrants => Self::invalid_argument(text),
            },
        }
    }
}
