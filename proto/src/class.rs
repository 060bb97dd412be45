//! What a failure class is called, and whom it concerns.

use crate::FailureClass;

/// Who has to wait after a failure. See [`FailureClass::scope`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This image on this node.
    Pair,
    /// The image, on every node: nobody can have it as it is named.
    Image,
    /// The node, for every image.
    Node,
    /// The registry host, on every node, for every image from it.
    Host,
}

impl FailureClass {
    /// One stable word, for metric labels and logs.
    #[must_use]
    pub fn class(self) -> &'static str {
        match self {
            Self::Unspecified => "other",
            Self::NotFound => "not_found",
            Self::NoPlatform => "no_platform",
            Self::InvalidName => "invalid_name",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Throttled => "throttled",
            Self::ServerError => "server_error",
            Self::Connection => "connection",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::NoSpace => "no_space",
            Self::Runtime => "runtime",
            Self::Canceled => "canceled",
            Self::NotListed => "not_listed",
            Self::NotAllowed => "not_allowed",
        }
    }

    /// Who has to wait after a failure of this class.
    #[must_use]
    pub fn scope(self) -> Scope {
        match self {
            Self::NotFound
            | Self::NoPlatform
            | Self::InvalidName
            | Self::Unauthorized
            | Self::Forbidden => Scope::Image,
            Self::Throttled
            | Self::ServerError
            | Self::Connection
            | Self::Dns
            | Self::Tls
            | Self::Timeout => Scope::Host,
            Self::NoSpace | Self::Runtime => Scope::Node,
            Self::Unspecified | Self::Canceled | Self::NotListed | Self::NotAllowed => Scope::Pair,
        }
    }
}
