//! What a token server answers, and for how long it holds. Pure.

use std::time::{Duration, Instant};

use http::HeaderValue;
use serde::Deserialize;

/// Lifetime of a token that does not say (the token specification's number).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);

/// No token is kept for longer, whatever it says.
const LONGEST_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// A bearer token, ready to be sent. No `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token {
    /// The whole `Authorization` header, marked as sensitive.
    pub(super) header: HeaderValue,
    /// From when on a new one is fetched. A tenth before its end, so that it does not end on its way.
    pub(super) renew_at: Instant,
}

/// Reads a token server's answer, received at `now`. The error says what is wrong with it, and never quotes it.
pub(super) fn parse(body: &[u8], now: Instant) -> Result<Token, &'static str> {
    #[derive(Deserialize)]
    struct Body {
        token: Option<String>,
        access_token: Option<String>,
        // Some servers write it as text.
        expires_in: Option<serde_json::Value>,
    }
    let body: Body = serde_json::from_slice(body).map_err(|_| "is not the JSON of a token")?;
    let token = [body.token, body.access_token]
        .into_iter()
        .flatten()
        .find(|token| !token.is_empty())
        .ok_or("holds no token")?;
    let lifetime = body.expires_in.as_ref().and_then(seconds);
    let lifetime = lifetime.unwrap_or(DEFAULT_LIFETIME).min(LONGEST_LIFETIME);
    Ok(Token {
        header: bearer(&token).ok_or("holds a token that cannot be sent")?,
        renew_at: now + lifetime * 9 / 10,
    })
}

/// `Authorization: Bearer TOKEN`, or nothing if the token holds what a header cannot.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    secret(&format!("Bearer {token}"))
}

/// A header value that no debug output shows.
pub(super) fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn seconds(value: &serde_json::Value) -> Option<Duration> {
    let seconds = match value {
        serde_json::Value::Number(number) => number.as_f64()?,
        serde_json::Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_as_long_as_it_says_less_a_tenth_and_a_minute_if_it_does_not() {
        let now = Instant::now();
        let table = [
            (r#"{"token":"abc"}"#, 54),
            (r#"{"access_token":"abc","expires_in":300}"#, 270),
            (
                r#"{"token":"","access_token":"abc","expires_in":"300"}"#,
                270,
            ),
            (
                r#"{"token":"abc","access_token":"other","expires_in":null,"issued_at":"2020-01-01T00:00:00Z"}"#,
                54,
            ),
            (r#"{"token":"abc","expires_in":1e300}"#, 54),
            (r#"{"token":"abc","expires_in":-3}"#, 54),
            (r#"{"token":"abc","expires_in":86400}"#, 3_240),
            (r#"{"token":"abc","expires_in":0}"#, 0),
        ];
        for (body, expected) in table {
            let token = parse(body.as_bytes(), now).map_err(str::to_owned);
            let Ok(token) = token else {
                panic!("{body} is a token");
            };
            assert_eq!(token.header, "Bearer abc", "{body}");
            assert_eq!((token.renew_at - now).as_secs(), expected, "{body}");
            assert!(!format!("{:?}", token.header).contains("abc"));
        }
    }

    #[test]
    fn an_answer_without_token_is_refused_without_quoting_it() {
        for body in [
            "",
            "<html>hunter2",
            "{}",
            r#"{"token":"hunter2\n"}"#,
            r#"{"token":7}"#,
            "[]",
        ] {
            let refusal = parse(body.as_bytes(), Instant::now()).err();
            assert!(
                refusal.is_some_and(|text| !text.contains("hunter2")),
                "{body}"
            );
        }
    }
}
