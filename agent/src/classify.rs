//! What a failed `PullImage` means: the class that decides who waits, and the cause in words that people understand.
//!
//! Runtimes answer nearly everything with the code UNKNOWN, so the text decides, and the text differs between versions. Names
//! that users choose (a repository `team/404-page`, a tag `forbidden`) stand in the same text; they are blanked out before
//! anything is searched, and HTTP statuses count only where a status stands.

mod status;

use drop_proto::FailureClass;
use tonic::Code;

use crate::node::Failure;
use drop_oci::redact::{redact, shorten};

/// The longest message of a failure, in characters.
const MESSAGE_CHARS: usize = 200;
/// The longest cause that is quoted from the runtime, in characters.
const QUOTE_CHARS: usize = 120;

/// Says what a failed pull of `reference` (canonical) means.
#[must_use]
pub fn classify(code: Code, message: &str, reference: &str) -> Failure {
    let message = first_error(message);
    let text = blank(&redact(message), reference).to_lowercase();
    let host = reference.split('/').next().unwrap_or(reference);
    let class = class(code, &text);
    let cause = match class {
        FailureClass::NotFound => "image not found".to_owned(),
        FailureClass::NoPlatform => "no image for this node's platform".to_owned(),
        FailureClass::InvalidName => "invalid image name".to_owned(),
        FailureClass::Unauthorized => "unauthorized: check imagePullSecrets".to_owned(),
        FailureClass::Forbidden => "forbidden: access denied".to_owned(),
        FailureClass::Throttled => format!("throttled by {host}"),
        FailureClass::Connection if has(&text, &REFUSED) => format!("connection refused: {host}"),
        FailureClass::Connection => format!("connection lost: {host}"),
        FailureClass::Dns => format!("dns: cannot resolve {}", unresolved(message, host)),
        FailureClass::Tls if has(&text, &NO_TLS) => format!("tls: {host} does not speak TLS"),
        FailureClass::Tls if has(&text, &BAD_CERTIFICATE) => "tls: certificate error".to_owned(),
        FailureClass::Tls => format!("tls: no handshake with {host}"),
        FailureClass::Timeout => format!("timeout connecting to {host}"),
        FailureClass::NoSpace => "no space left on the node".to_owned(),
        FailureClass::Runtime => "the container runtime went away".to_owned(),
        FailureClass::Canceled => "cancelled by the container runtime".to_owned(),
        FailureClass::Unspecified
        | FailureClass::ServerError
        | FailureClass::NotListed
        | FailureClass::NotAllowed => last_parts(message),
    };
    Failure {
        class,
        message: shorten(&cause, MESSAGE_CHARS),
    }
}

const REFUSED: [&str; 2] = ["connection refused", "registryunavailable"];
const CUT_OFF: [&str; 5] = [
    "connection reset",
    "broken pipe",
    "unexpected eof",
    "no route to host",
    "network is unreachable",
];
const UNRESOLVED: [&str; 3] = [
    "no such host",
    "server misbehaving",
    "temporary failure in name resolution",
];
const BAD_CERTIFICATE: [&str; 2] = ["x509", "certificate"];
const NO_TLS: [&str; 2] = [
    "server gave http response to https client",
    "first record does not look like a tls handshake",
];
const HANDSHAKE: [&str; 2] = ["remote error: tls", "tls: handshake failure"];
const TIMED_OUT: [&str; 4] = [
    "timeout",
    "timed out",
    "deadline exceeded",
    "client.timeout",
];
const UNAUTHORIZED: [&str; 7] = [
    "unauthorized",
    "pull access denied",
    "authorization failed",
    "authentication required",
    "insufficient_scope",
    "no basic auth credentials",
    "requested access to the resource is denied",
];
const THROTTLED: [&str; 3] = ["too many requests", "toomanyrequests", "rate limit"];
const NO_PLATFORM: [&str; 4] = [
    "no match for platform",
    "no image found in image index for architecture",
    "no image found in manifest list for architecture",
    "no matching manifest for",
];
const NOT_FOUND: [&str; 4] = [
    "not found",
    "manifest unknown",
    "name unknown",
    "manifest_unknown",
];
/// Things of the runtime's own that can be "not found" while the image is where it should be.
const INTERNAL: [&str; 5] = [
    "failed to extract",
    "content digest",
    "content store",
    "snapshot",
    "lease",
];
const NO_SPACE: [&str; 2] = ["no space left", "disk quota exceeded"];
const INVALID_NAME: [&str; 4] = [
    "failed to parse image reference",
    "invalid reference format",
    "parsing image name",
    "invalid image name",
];
/// What the gRPC client says itself when the runtime dies under a call.
const RUNTIME_GONE: [&str; 6] = [
    "transport error",
    "h2 protocol error",
    "error reading a body from connection",
    "tcp connect error",
    "error trying to connect",
    "connection closed before message completed",
];

fn class(code: Code, text: &str) -> FailureClass {
    // The code first where the client or the runtime itself speaks, not a registry through it.
    match code {
        Code::InvalidArgument => return FailureClass::InvalidName,
        Code::Unimplemented => return FailureClass::Runtime,
        Code::Unavailable if !text.contains("image") => return FailureClass::Runtime,
        _ if RUNTIME_GONE.iter().any(|start| text.starts_with(start)) => {
            return FailureClass::Runtime;
        }
        _ => {}
    }
    if has(text, &INVALID_NAME) {
        return FailureClass::InvalidName;
    }
    if has(text, &UNRESOLVED) || (text.contains("lookup ") && has(text, &TIMED_OUT)) {
        return FailureClass::Dns;
    }
    if has(text, &REFUSED) {
        return FailureClass::Connection;
    }
    if has(text, &BAD_CERTIFICATE) || has(text, &NO_TLS) || has(text, &HANDSHAKE) {
        return FailureClass::Tls;
    }
    // A status says it exactly; words in the registry's answer beside it only explain.
    match status::http_status(text) {
        Some(401) => return FailureClass::Unauthorized,
        Some(403) => return FailureClass::Forbidden,
        Some(404) => return FailureClass::NotFound,
        Some(408) => return FailureClass::Timeout,
        Some(429) => return FailureClass::Throttled,
        Some(500..) => return FailureClass::ServerError,
        _ => {}
    }
    if code == Code::Cancelled || text.contains("context canceled") {
        return FailureClass::Canceled;
    }
    if has(text, &NO_SPACE) {
        return FailureClass::NoSpace;
    }
    if code == Code::DeadlineExceeded || has(text, &TIMED_OUT) {
        return FailureClass::Timeout;
    }
    if has(text, &UNAUTHORIZED) {
        return FailureClass::Unauthorized;
    }
    if text.contains("forbidden") {
        return FailureClass::Forbidden;
    }
    if has(text, &THROTTLED) {
        return FailureClass::Throttled;
    }
    if has(text, &NO_PLATFORM) {
        return FailureClass::NoPlatform;
    }
    if has(text, &CUT_OFF) || text.ends_with(": eof") {
        return FailureClass::Connection;
    }
    if (has(text, &NOT_FOUND) || code == Code::NotFound) && !has(text, &INTERNAL) {
        return FailureClass::NotFound;
    }
    FailureClass::Unspecified
}

fn has(text: &str, any: &[&str]) -> bool {
    any.iter().any(|part| text.contains(part))
}

/// CRI-O tries a failed image once more as an artifact and reports both errors; the first is the one that counts.
fn first_error(message: &str) -> &str {
    message.split("; artifact err").next().unwrap_or(message)
}

/// The text without what users named: the reference and its parts, URLs, digests.
fn blank(text: &str, reference: &str) -> String {
    let (repository, suffix) = match reference.split_once('@') {
        Some((repository, digest)) => (repository, digest),
        None => reference.rsplit_once(':').unwrap_or((reference, "")),
    };
    let path = repository
        .split_once('/')
        .map_or(repository, |(_, path)| path);
    let mut text = text
        .replace(reference, "")
        .replace(repository, "")
        .replace(&format!("{path}:{suffix}"), "")
        .replace(&format!("manifest {suffix} in"), "manifest in")
        .replace(&format!("[manifests {suffix}]"), "");
    if path.contains('/') {
        text = text.replace(path, "");
    }
    let is_name = |word: &&str| !word.contains("://") && !word.contains("sha256:");
    let words: Vec<&str> = text
        .split(' ')
        .map(|word| if is_name(&word) { word } else { end(word) })
        .collect();
    words.join(" ")
}

/// The punctuation that ends a word.
fn end(word: &str) -> &str {
    let is_end = |c| matches!(c, ':' | ',' | ';' | '"' | ')');
    &word[word.trim_end_matches(is_end).len()..]
}

/// The name that did not resolve, and for which registry if that is another one (a mirror, a token or a blob server).
fn unresolved(message: &str, host: &str) -> String {
    let named = message.split("lookup ").nth(1).and_then(|rest| {
        let name = rest.split([' ', ':', ',']).next()?.trim_end_matches('.');
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        (!name.is_empty() && name.chars().all(is_name)).then_some(name)
    });
    let registry = host.rsplit_once(':').map_or(host, |(name, _)| name);
    match named {
        Some(name) if name != registry => format!("{name} (for {host})"),
        _ => registry.to_owned(),
    }
}

/// The last two parts of a chain of causes, as far as they may be shown.
fn last_parts(message: &str) -> String {
    let message = redact(message);
    let parts: Vec<&str> = message.split(": ").collect();
    let last = &parts[parts.len().saturating_sub(2)..];
    let cause = shorten(&last.join(": "), QUOTE_CHARS);
    if cause.is_empty() {
        return "the runtime gave no reason".to_owned();
    }
    cause
}

#[cfg(test)]
mod tests;
