//! What a registry's failure is called, in the words that an agent uses for a pull that failed alike. Pure.

use std::fmt::Display;

use drop_oci::{Error, Failure};
use drop_proto::FailureClass;

use crate::image::resolve::ResolveFailed;

/// Longest text of others in a status, in characters.
const WORDS: usize = 120;

/// A question that got no answer. `host` is the one that the image is named by.
pub(super) fn not_told(error: &Error, host: &str) -> ResolveFailed {
    let (class, message) = match error.failure() {
        Failure::NotFound { .. } => (FailureClass::NotFound, "image not found".to_owned()),
        Failure::NoCredentials(_) | Failure::Unauthorized(_) => (
            FailureClass::Unauthorized,
            "unauthorized: check imagePullSecrets".to_owned(),
        ),
        Failure::Forbidden(_) => (
            FailureClass::Forbidden,
            "forbidden: access denied".to_owned(),
        ),
        Failure::Throttled { .. } => (FailureClass::Throttled, format!("throttled by {host}")),
        Failure::Server(answer) => (
            FailureClass::ServerError,
            format!("{host} answered {}", answer.status),
        ),
        Failure::Dns(_) => (FailureClass::Dns, format!("dns: cannot resolve {host}")),
        Failure::Tls(text) => (FailureClass::Tls, no_tls(text, host)),
        Failure::Timeout(_) => (
            FailureClass::Timeout,
            format!("timeout connecting to {host}"),
        ),
        Failure::Connection(text) if text.to_ascii_lowercase().contains("refused") => (
            FailureClass::Connection,
            format!("connection refused: {host}"),
        ),
        Failure::Connection(_) => (FailureClass::Connection, format!("connection lost: {host}")),
        // Something that is no registry may stand between the coordinator and one.
        Failure::Refused(_) | Failure::Unexpected(_) => {
            (FailureClass::ServerError, cut(error.failure()))
        }
        Failure::TooLarge { .. } | Failure::Invalid(_) => {
            (FailureClass::Unspecified, cut(error.failure()))
        }
    };
    ResolveFailed {
        class,
        message,
        wait: error.retry_after(),
    }
}

/// Only the coordinator can be told what to do about TLS: nodes have their runtimes' configuration.
fn no_tls(text: &str, host: &str) -> String {
    // rustls' words for an answer that is no TLS at all.
    if text.contains("InvalidContentType") {
        return format!(
            "{host} speaks no TLS: name it with --plain-http-registry if that is meant"
        );
    }
    let why: String = text.chars().take(WORDS).collect();
    // The second is an authority that was renewed under its name.
    if ["UnknownIssuer", "BadSignature"]
        .iter()
        .any(|cause| text.contains(cause))
    {
        return format!(
            "tls: certificate error ({why}): give its authority with --registry-ca-file"
        );
    }
    format!("tls: certificate error ({why})")
}

/// What the coordinator would reach there is its own.
pub(super) fn own_machine(host: &str) -> ResolveFailed {
    ResolveFailed {
        class: FailureClass::Connection,
        message: format!("{host} is each machine's own"),
        wait: None,
    }
}

/// The task that asked broke off. No registry is to blame, and the image none the less to be pulled.
#[must_use]
pub fn broken_off() -> ResolveFailed {
    ResolveFailed {
        class: FailureClass::ServerError,
        message: "the question broke off, see the coordinator's log".to_owned(),
        wait: None,
    }
}

/// Nobody asks registries here.
#[must_use]
pub fn not_asked() -> ResolveFailed {
    ResolveFailed {
        class: FailureClass::Connection,
        message: "it does not ask, as --resolve-tags=false says".to_owned(),
        wait: None,
    }
}

/// Nothing came in time.
pub(super) fn too_slow(host: &str) -> ResolveFailed {
    ResolveFailed {
        class: FailureClass::Timeout,
        message: format!("timeout connecting to {host}"),
        wait: None,
    }
}

/// The reference names nothing that could be asked.
pub(super) fn invalid(error: &impl Display) -> ResolveFailed {
    ResolveFailed {
        class: FailureClass::InvalidName,
        message: cut(error),
        wait: None,
    }
}

fn cut(error: &impl Display) -> String {
    error.to_string().chars().take(WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_about_tls_is_said_with_what_to_do() {
        let table = [
            (
                "invalid peer certificate: UnknownIssuer",
                "tls: certificate error (invalid peer certificate: UnknownIssuer): give its authority with --registry-ca-file",
            ),
            (
                "invalid peer certificate: Expired",
                "tls: certificate error (invalid peer certificate: Expired)",
            ),
            (
                "received corrupt message of type InvalidContentType",
                "r.io speaks no TLS: name it with --plain-http-registry if that is meant",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(no_tls(text, "r.io"), expected);
        }
        assert!(no_tls(&"x".repeat(500), "r.io").len() < 200);
    }

    #[test]
    fn failures_of_the_coordinator_itself_refuse_no_image() {
        for failed in [broken_off(), not_asked(), own_machine("localhost:5000")] {
            assert!(
                matches!(
                    failed.class,
                    FailureClass::ServerError | FailureClass::Connection
                ),
                "{failed:?}"
            );
        }
    }
}
