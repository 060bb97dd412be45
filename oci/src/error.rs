//! Why a registry did not give what it was asked for: who, what, and what to do about it.
//!
//! What a registry wrote is quoted only after secrets are cut out of it, on one line and at most 200 characters long.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use crate::redact::{redact, shorten};

/// Longest text of others within an error, in characters.
const QUOTE_CHARS: usize = 200;

/// A [`Failure`], and of which repository on which host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host}/{repository}: {failure}")]
pub struct Error {
    host: String,
    repository: String,
    failure: Failure,
}

impl Error {
    pub(crate) fn new(host: &str, repository: &str, failure: Failure) -> Self {
        Self {
            host: host.to_owned(),
            repository: repository.to_owned(),
            failure,
        }
    }

    /// Registry host that was asked, with its port if it is not the usual one.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What went wrong.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// One stable word for metric labels, reasons and logs. See [`Failure::class`].
    #[must_use]
    pub fn class(&self) -> &'static str {
        self.failure.class()
    }

    /// How long the registry is left alone, counted from when the error was returned; only if it asked for that.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.failure {
            Failure::Throttled { wait, .. } => Some(wait),
            _ => None,
        }
    }
}

/// What went wrong between us and a registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// 404.
    #[error(
        "{what} is not there ({answer}): check repository and tag; some registries also say so to those who may not see it"
    )]
    NotFound {
        /// What was asked for.
        what: String,
        /// The registry's words.
        answer: Answered,
    },
    /// 401 without any credential.
    #[error(
        "the registry gives this to nobody without credentials ({0}): name a pull secret for this host"
    )]
    NoCredentials(Answered),
    /// 401 with a credential.
    #[error("the registry refused the credentials ({0}): check user name and password or token")]
    Unauthorized(Answered),
    /// 403.
    #[error(
        "the credentials do not allow this ({0}): grant them pull rights; expired cloud credentials look the same"
    )]
    Forbidden(Answered),
    /// 429, or a pause that an earlier 429 asked for.
    #[error(
        "the registry limits how often it is asked{}: it is left alone for {} s", reply(.answer.as_ref()), seconds(*.wait)
    )]
    Throttled {
        /// How long the host is left alone.
        wait: Duration,
        /// The registry's words, where this request was the one that it refused.
        answer: Option<Answered>,
    },
    /// 5xx, after retries.
    #[error("the registry failed ({0}): see its log, or its operator's status page")]
    Server(Answered),
    /// No connection, or a broken one, after retries.
    #[error(
        "no answer: {0}: check that the registry runs and that a proxy or network policy lets requests through"
    )]
    Connection(String),
    /// The host's name means nothing here.
    #[error("the host has no address: {0}: check its name, and DNS")]
    Dns(String),
    /// No trust, or no TLS.
    #[error(
        "no TLS connection: {0}: give the CA that signed its certificate; plain HTTP is spoken only where http:// is asked for"
    )]
    Tls(String),
    /// Not within the time allowed.
    #[error("no complete answer within {} s: the registry or the way to it is too slow", seconds(*.0))]
    Timeout(Duration),
    /// A way that is not taken.
    #[error("{0}")]
    Refused(String),
    /// More than is read.
    #[error(
        "{what} is larger than {limit_bytes} bytes, so it is not read: this is no registry that serves images"
    )]
    TooLarge {
        /// What was asked for.
        what: String,
        /// Most that is read.
        limit_bytes: usize,
    },
    /// Some other status.
    #[error("unexpected answer ({0}): check that this host is a container registry")]
    Unexpected(Answered),
    /// An answer that is not what it should be.
    #[error("{0}")]
    Invalid(String),
}

impl Failure {
    /// One stable word. The same words as drop's agents use for what their runtimes report.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::NoCredentials(_) | Self::Unauthorized(_) => "unauthorized",
            Self::Forbidden(_) => "forbidden",
            Self::Throttled { .. } => "throttled",
            Self::Server(_) => "server_error",
            Self::Connection(_) => "connection",
            Self::Dns(_) => "dns",
            Self::Tls(_) => "tls",
            Self::Timeout(_) => "timeout",
            Self::Refused(_) => "refused",
            Self::TooLarge { .. } | Self::Unexpected(_) | Self::Invalid(_) => "invalid",
        }
    }

    /// Whether another credential may still get through.
    pub(crate) fn is_about_credentials(&self) -> bool {
        matches!(
            self,
            Self::NotFound { .. }
                | Self::NoCredentials(_)
                | Self::Unauthorized(_)
                | Self::Forbidden(_)
        )
    }

    /// The failure that a status other than 2xx means.
    pub(crate) fn of_status(what: &str, answer: Answered) -> Self {
        match answer.status {
            404 => Self::NotFound {
                what: what.to_owned(),
                answer,
            },
            401 => Self::Unauthorized(answer),
            403 => Self::Forbidden(answer),
            408 | 500..=599 => Self::Server(answer),
            _ => Self::Unexpected(answer),
        }
    }
}

/// A status and what the server said with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// HTTP status code.
    pub status: u16,
    /// At most 200 characters of the server's own words, without secrets; empty if it said nothing.
    pub said: String,
}

impl Answered {
    pub(crate) fn new(status: StatusCode, body: &[u8]) -> Self {
        Self {
            status: status.as_u16(),
            said: quote(&words(body)),
        }
    }

    /// The same, said by another server than the registry.
    pub(crate) fn said_by(self, server: &str) -> Self {
        let said = if self.said.is_empty() {
            format!("from {server}")
        } else {
            quote(&format!("from {server}: {}", self.said))
        };
        Self { said, ..self }
    }
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        let reason = StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason());
        if let Some(reason) = reason {
            write!(f, " {reason}")?;
        }
        if !self.said.is_empty() {
            write!(f, ", {}", self.said)?;
        }
        Ok(())
    }
}

/// Text of others, fit for an error: no secret, one line, not long.
pub(crate) fn quote(text: &str) -> String {
    shorten(&redact(text), QUOTE_CHARS)
}

/// `CODE: message` of the error form that the distribution specification gives, else the text itself.
fn words(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        code: Option<String>,
        message: Option<String>,
    }
    let entries = serde_json::from_slice::<Body>(body).map(|body| body.errors);
    let Ok([first, ..]) = entries.as_deref() else {
        return String::from_utf8_lossy(body).into_owned();
    };
    [&first.code, &first.message]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(": ")
}

fn reply(answer: Option<&Answered>) -> String {
    answer
        .map(|answer| format!(" ({answer})"))
        .unwrap_or_default()
}

fn seconds(duration: Duration) -> u64 {
    duration.as_millis().div_ceil(1_000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, body: &str) -> Answered {
        Answered::new(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn an_error_names_host_repository_status_and_what_to_do() {
        let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"v9"}}]}"#;
        let failure = Failure::of_status("tag v9", answered(404, body));
        let text = Error::new("r.example:5000", "team/app", failure).to_string();
        assert_eq!(
            text,
            "r.example:5000/team/app: tag v9 is not there (404 Not Found, MANIFEST_UNKNOWN: manifest unknown): check repository \
             and tag; some registries also say so to those who may not see it"
        );
    }

    #[test]
    fn what_a_server_says_is_short_and_without_secrets() {
        let page = format!("<html>\n<p>{}</p>", "word ".repeat(1_000));
        assert!(answered(502, &page).said.chars().count() <= 200);
        let said = answered(
            500,
            r#"{"token": "hunter2", "url": "https://u:hunter2@r/v2/?sig=hunter2"}"#,
        )
        .said;
        assert!(!said.contains("hunter2"), "{said}");
        assert_eq!(
            answered(500, "\u{0}\u{1b}[31m")
                .said
                .chars()
                .filter(|c| c.is_control())
                .count(),
            0
        );
    }

    #[test]
    fn a_throttled_host_says_for_how_long() {
        let failure = Failure::Throttled {
            wait: Duration::from_millis(1_500),
            answer: Some(answered(429, "")),
        };
        let error = Error::new("r", "app", failure);
        assert!(
            error
                .to_string()
                .ends_with("(429 Too Many Requests): it is left alone for 2 s"),
            "{error}"
        );
        assert_eq!(error.retry_after(), Some(Duration::from_millis(1_500)));
        assert_eq!(error.class(), "throttled");
    }
}
