//! Which redirects are followed. Credentials stay behind when the next address is another host, port or scheme: the client
//! library removes them. A form with credentials follows none: the library would send it on.

use reqwest::redirect::{Attempt, Policy};
use url::Url;

/// Most redirects one request may cost.
const MOST: usize = 5;

pub(super) fn policy() -> Policy {
    Policy::custom(
        |attempt: Attempt<'_>| match refusal(attempt.previous(), attempt.url()) {
            Some(refusal) => attempt.error(refusal),
            None => attempt.follow(),
        },
    )
}

/// Why the way from the addresses so far to `next` is not taken.
fn refusal(previous: &[Url], next: &Url) -> Option<String> {
    let host = next.host_str().unwrap_or_default();
    if previous.len() > MOST {
        return Some(format!(
            "redirected more than {MOST} times, at last to {host}"
        ));
    }
    let was_secure = previous.iter().any(|url| url.scheme() == "https");
    if was_secure && next.scheme() != "https" {
        return Some(format!(
            "redirected from https:// to plain {}:// at {host}, which is not followed",
            next.scheme()
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(texts: &[&str]) -> Vec<Url> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_redirect_never_leads_from_tls_to_plain_http() {
        let plain: Url = "http://cdn.example/b".parse().unwrap();
        let secure: Url = "https://cdn.example/b".parse().unwrap();
        assert_eq!(refusal(&urls(&["https://r/v2/"]), &secure), None);
        assert_eq!(refusal(&urls(&["http://r/v2/"]), &secure), None);
        assert_eq!(refusal(&urls(&["http://r/v2/"]), &plain), None);
        for way in [&["https://r/v2/"][..], &["https://r/v2/", "http://x/"]] {
            let refused = refusal(&urls(way), &plain).unwrap();
            assert!(refused.contains("cdn.example"), "{refused}");
        }
    }

    #[test]
    fn a_circle_of_redirects_ends() {
        let way = urls(&["https://r/"; 6]);
        assert!(refusal(&way, &way[0]).is_some());
    }
}
