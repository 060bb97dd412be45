//! Admission rules: CEL that the API server evaluates, each with the sentence that a user reads.
//!
//! A rule that another rule already covers stays silent, so that one mistake yields one sentence. Every rule treats an empty
//! string like an unset field: objects written by Go clients may carry `tag: ""`.

use kube::core::{Message, Rule};

/// Accepts what Go's parser accepts, less negative values.
const DURATION: &str = r"^[+]?(0|(([0-9]+[.]?[0-9]*|[.][0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h))+)$";

/// One path component of a repository: lower-case words joined by `.`, `_`, `__` or dashes.
const COMPONENT: &str = "[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*";

fn rule(expression: impl Into<String>, message: &str) -> Rule {
    Rule::new(expression).message(message)
}

/// `tag` and `digest` exclude each other.
pub(crate) fn tag_or_digest() -> Rule {
    rule(
        "!(has(self.tag) && self.tag != '' && has(self.digest) && self.digest != '')",
        "set tag or digest, not both: remove tag to pin this digest, or remove digest to follow the tag",
    )
}

/// A URL in place of a reference.
pub(crate) fn image_is_no_url() -> Rule {
    Rule::new("!self.contains('://')").message(Message::Expression(
        "'image is a reference, not a URL: write image: ' + self.substring(self.indexOf('://') + 3)"
            .to_owned(),
    ))
}

/// `nginx@sha256:...`: the digest has its own field. A tag beside it would mean nothing, so the advice leaves it out.
pub(crate) fn image_without_digest() -> Rule {
    Rule::new("self.contains('://') || !self.contains('@')").message(Message::Expression(
        "'image must not contain a digest: write image: ' \
         + self.substring(0, self.matches('^[^@]*:[^/@]*@') ? self.substring(0, self.indexOf('@')).lastIndexOf(':') : self.indexOf('@')) \
         + ' and put the digest in its own field, digest: ' + self.substring(self.indexOf('@') + 1)"
            .to_owned(),
    ))
}

/// `nginx:1.25`: the tag has its own field. A colon before the last slash is a port.
pub(crate) fn image_without_tag() -> Rule {
    Rule::new("self.contains('://') || self.contains('@') || !self.matches(':[^/]*$')").message(
        Message::Expression(
            "'image must not contain a tag: write image: ' + self.substring(0, self.lastIndexOf(':')) \
             + ' and put the tag in its own field, tag: \"' + self.substring(self.lastIndexOf(':') + 1) + '\"'"
                .to_owned(),
        ),
    )
}

/// What is left is a repository, with or without a host.
pub(crate) fn image_is_a_repository() -> Rule {
    rule(
        format!(
            "self == '' || self.contains('://') || self.contains('@') || self.matches(':[^/]*$') || \
             self.matches('^(([a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?([.][a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\\\\[[a-fA-F0-9:]+\\\\])(:[0-9]+)?/)?\
             {COMPONENT}(/{COMPONENT})*$')"
        ),
        "image must be a repository, with or without a registry host, such as docker.io/library/nginx or \
         registry.example.com:5000/team/app: lower-case letters and digits, joined by single dots, dashes or underscores",
    )
}

/// The grammar of tags.
pub(crate) fn tag_grammar() -> Rule {
    rule(
        "self == '' || self.matches('^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$')",
        "tag must be at most 128 letters, digits, dots, dashes or underscores and must not begin with a dot or a dash, \
         such as 1.25-alpine; a digest (sha256:...) goes into the field digest",
    )
}

/// The grammar of digests. Only `sha256` is used by registries in practice, and the contract names no other.
pub(crate) fn digest_grammar() -> Rule {
    rule(
        "self == '' || self.matches('^sha256:[a-f0-9]{64}$')",
        "digest must be sha256: followed by 64 lower-case hexadecimal digits, as the registry shows it; \
         a tag goes into the field tag",
    )
}

/// A duration that may be zero.
pub(crate) fn duration_not_negative() -> Rule {
    rule(
        format!("self.matches('{DURATION}') && duration(self) >= duration('0s')"),
        "must be a duration that is not negative, such as 0s, 90s, 1h30m or 168h",
    )
}

/// A duration that must not be zero: a back-off of zero would hammer the registry.
pub(crate) fn duration_positive() -> Rule {
    rule(
        format!("self.matches('{DURATION}') && duration(self) > duration('0s')"),
        "must be a duration longer than zero, such as 30s, 5m or 1h30m",
    )
}

/// `initial` must not exceed `max`. Silent where one of them is no duration: its own rule speaks then.
pub(crate) fn backoff_order() -> Rule {
    rule(
        format!(
            "!has(self.initial) || !has(self.max) || !self.initial.matches('{DURATION}') || \
             !self.max.matches('{DURATION}') || duration(self.initial) <= duration(self.max)"
        ),
        "initial must not be longer than max (max is 5m where it is not given): raise max or lower initial",
    )
}
