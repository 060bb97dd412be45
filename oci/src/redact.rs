//! Cuts secrets out of text that others wrote, before it reaches a log, a status or a metric.
//!
//! Runtimes quote URLs in their errors, and signed URLs carry credentials in their query; some quote what a registry answered.
//! Cutting too much costs a detail, cutting too little costs a secret, so whatever looks like one goes.

/// What stands in the place of a secret.
const CUT: &str = "<redacted>";

/// Names of values that nobody else may read, in JSON and in `name=value`.
const SECRET_NAMES: [&str; 10] = [
    "access_token",
    "auth",
    "authorization",
    "identitytoken",
    "password",
    "refresh_token",
    "registrytoken",
    "secret",
    "signature",
    "token",
];

/// The text without URL queries, user names in URLs, tokens and passwords.
#[must_use]
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut expect = Expect::Anything;
    let mut quoted = false;
    for piece in text.split_inclusive(is_break) {
        let word = piece.trim_end_matches(is_break);
        let next = expect.after(word, quoted && piece.ends_with('"'));
        let is_secret = match expect {
            Expect::Anything => false,
            Expect::Secret => next == Expect::Anything,
            Expect::PerhapsSecret => looks_secret(word),
        };
        if is_secret {
            out.push_str(CUT);
        } else if word.contains('?') {
            redact_word(word, &mut out);
        } else {
            // A form: `name=value&name=value`.
            for (n, pair) in word.split('&').enumerate() {
                if n > 0 {
                    out.push('&');
                }
                redact_word(pair, &mut out);
            }
        }
        out.push_str(&piece[word.len()..]);
        quoted = piece.ends_with('"');
        expect = next;
    }
    out
}

/// At most `limit` characters on one line, without control characters.
#[must_use]
pub fn shorten(text: &str, limit: usize) -> String {
    let line = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    if line.chars().count() <= limit {
        return line;
    }
    line.chars()
        .take(limit.saturating_sub(1))
        .chain(['…'])
        .collect()
}

fn is_break(c: char) -> bool {
    c.is_whitespace() || c == '"' || c == '\''
}

/// What the next word is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Anything,
    Secret,
    /// A secret if it looks like one: "basic" and "bearer" are also plain words.
    PerhapsSecret,
}

impl Expect {
    fn after(self, word: &str, is_quoted: bool) -> Self {
        let name = word.trim_end_matches(':').to_ascii_lowercase();
        let is_scheme = matches!(name.as_str(), "bearer" | "basic");
        let is_header = name == "authorization" && word.ends_with(':');
        match self {
            // Between a name and its value: `"token": "..."`, `Authorization: Bearer ...`.
            Self::Secret if is_scheme || word.chars().all(|c| ":= {[".contains(c)) => Self::Secret,
            Self::Anything if is_header => Self::Secret,
            Self::Anything if is_quoted && SECRET_NAMES.contains(&name.as_str()) => Self::Secret,
            Self::Anything if is_scheme => Self::PerhapsSecret,
            _ => Self::Anything,
        }
    }
}

fn redact_word(word: &str, out: &mut String) {
    let (word, tail) = split_punctuation(word);
    if let Some((name, value)) = word.split_once('=')
        && !value.is_empty()
        && !word.contains("://")
        && SECRET_NAMES.contains(&last_name(name).to_ascii_lowercase().as_str())
    {
        out.extend([name, "=", CUT, tail]);
        return;
    }
    let mut rest = word;
    if let Some(start) = rest.find("://") {
        let authority = start + 3;
        let end = rest[authority..]
            .find(['/', '?'])
            .map_or(rest.len(), |i| authority + i);
        let host = rest[authority..end]
            .rfind('@')
            .map_or(authority, |at| authority + at + 1);
        out.push_str(&rest[..authority]);
        rest = &rest[host..];
    }
    match rest.split_once('?') {
        Some((before, query)) if !query.is_empty() => out.push_str(before),
        _ if is_token(rest) => out.push_str(CUT),
        _ => out.push_str(rest),
    }
    out.push_str(tail);
}

/// Punctuation after a URL belongs to the sentence, not to the URL.
fn split_punctuation(word: &str) -> (&str, &str) {
    word.split_at(
        word.trim_end_matches([':', ',', ';', ')', ']', '}', '.'])
            .len(),
    )
}

fn last_name(text: &str) -> &str {
    text.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .next()
        .unwrap_or(text)
}

fn looks_secret(word: &str) -> bool {
    let plain = word.chars().all(|c| c.is_ascii_lowercase());
    !plain && !word.starts_with("realm=") && word.len() >= 6
}

/// A JSON web token, wherever it stands.
fn is_token(word: &str) -> bool {
    word.starts_with("eyJ") && word.len() > 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_cut_and_the_rest_stays() {
        let jwt = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2ln";
        let table = [
            (
                "unexpected status code https://cdn.example/b/1?X-Amz-Signature=abc&e=1: 429 Too Many Requests",
                "unexpected status code https://cdn.example/b/1: 429 Too Many Requests".to_owned(),
            ),
            (
                r#"Get "https://u:p@r.example:5000/v2/?a=b": dial tcp: refused"#,
                r#"Get "https://r.example:5000/v2/": dial tcp: refused"#.to_owned(),
            ),
            (
                "see https://u:p@r.example",
                "see https://r.example".to_owned(),
            ),
            (
                "/v2/token?account=me&scope=x failed",
                "/v2/token failed".to_owned(),
            ),
            (
                "Authorization: Bearer abc refused",
                "Authorization: Bearer <redacted> refused".to_owned(),
            ),
            (
                "authorization: aGk6aG8=",
                "authorization: <redacted>".to_owned(),
            ),
            (
                "sent Basic aGk6aG8= twice",
                "sent Basic <redacted> twice".to_owned(),
            ),
            (
                "no basic auth credentials",
                "no basic auth credentials".to_owned(),
            ),
            (
                r#"Bearer realm="https://auth.example/token",service="r""#,
                r#"Bearer realm="https://auth.example/token",service="r""#.to_owned(),
            ),
            (
                r#"{"token": "abc", "expires_in": 300, "access_token":"x y"}"#,
                r#"{"token": "<redacted>", "expires_in": 300, "access_token":"<redacted> y"}"#
                    .to_owned(),
            ),
            (
                "password=hunter2, user=me",
                "password=<redacted>, user=me".to_owned(),
            ),
            (
                "failed to fetch oauth token: unexpected status: 401 Unauthorized",
                "failed to fetch oauth token: unexpected status: 401 Unauthorized".to_owned(),
            ),
            (
                "grant_type=password&username=me&password=hunter2",
                "grant_type=password&username=me&password=<redacted>".to_owned(),
            ),
            (jwt, CUT.to_owned()),
            ("what? nothing", "what? nothing".to_owned()),
            ("", String::new()),
        ];
        for (text, expected) in table {
            assert_eq!(redact(text), expected, "{text}");
        }
    }

    #[test]
    fn long_text_is_cut_at_a_character_and_put_on_one_line() {
        assert_eq!(shorten("a\n  b\tc", 10), "a b c");
        assert_eq!(shorten("ääääää", 4), "äää…");
        assert_eq!(shorten("abcd", 4), "abcd");
    }
}
