//! Finds the HTTP status in an error text: a number that stands where a status stands, never digits of a name or a URL.

/// What runtimes write before a bare status.
const BEFORE: [&str; 4] = [
    "status code ",
    "statuscode: ",
    "http code: ",
    "http status: ",
];

/// The statuses that mean something to us, with the words that HTTP gives them.
const REASONS: [(u16, &str); 10] = [
    (401, "unauthorized"),
    (403, "forbidden"),
    (404, "not found"),
    (408, "request timeout"),
    (429, "too many requests"),
    (500, "internal server error"),
    (501, "not implemented"),
    (502, "bad gateway"),
    (503, "service unavailable"),
    (504, "gateway timeout"),
];

/// The first HTTP status in `text`, which is in lower case.
pub(super) fn http_status(text: &str) -> Option<u16> {
    text.match_indices(|c: char| c.is_ascii_digit())
        .find_map(|(at, _)| {
            let (before, rest) = text.split_at(at);
            if !before.is_empty() && !before.ends_with([' ', '(', ':', '"', '\n']) {
                return None;
            }
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let status: u16 = rest[..digits]
                .parse()
                .ok()
                .filter(|s| (400..600).contains(s))?;
            let after = &rest[digits..];
            (has_reason(status, after) || follows_a_label(before, after)).then_some(status)
        })
}

/// "429 Too Many Requests", "404 (Not Found)".
fn has_reason(status: u16, after: &str) -> bool {
    let words = after
        .strip_prefix(' ')
        .unwrap_or("")
        .trim_start_matches('(');
    REASONS
        .iter()
        .any(|&(s, reason)| s == status && words.starts_with(reason))
}

/// "status code 599", at the end of a part of the text.
fn follows_a_label(before: &str, after: &str) -> bool {
    let ends = after.is_empty() || after.starts_with([':', ',', ';', ' ', ')', '\n']);
    ends && BEFORE.iter().any(|label| before.ends_with(label))
}

#[cfg(test)]
mod tests {
    use super::http_status;

    #[test]
    fn a_status_counts_only_where_a_status_stands() {
        let table = [
            (
                "unexpected status from head request to : 429 too many requests",
                Some(429),
            ),
            (
                "failed with status code : 500 internal server error",
                Some(500),
            ),
            (
                "received unexpected http status: 503 service unavailable",
                Some(503),
            ),
            (
                "invalid status code from registry 404 (not found)",
                Some(404),
            ),
            ("statuscode: 403, body", Some(403)),
            ("unexpected http code: 599 (whatever)", Some(599)),
            ("429 too many requests", Some(429)),
            ("reading manifest 429 in r", None),
            ("dial tcp 10.0.0.1:404: refused", None),
            ("port 4290 too many requests", None),
            ("team/404 not found", None),
            ("503", None),
            ("200 ok", None),
            ("99999999999 not found", None),
            ("", None),
        ];
        for (text, status) in table {
            assert_eq!(http_status(text), status, "{text}");
        }
    }
}
