//! Where the next page of a list is: the `Link` header, which is opaque and may be wrong. Pure.

use url::Url;

/// What follows a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: this was the last one.
    End,
    /// The page at this address, on the same host.
    Page(Url),
    /// A page on another host, which is not followed: credentials would go there.
    Foreign(String),
    /// A link that is no address.
    Unreadable,
}

/// Finds the link with `rel="next"` in a page's header, which is empty if there is none.
pub(super) fn next(page: &Url, header: &str) -> Next {
    let Some(target) = find_next(header) else {
        return Next::End;
    };
    let Ok(mut url) = page.join(target) else {
        return Next::Unreadable;
    };
    if url.host() != page.host() || url.port() != page.port() {
        return Next::Foreign(url.host_str().unwrap_or_default().to_owned());
    }
    // A registry behind a proxy that ends TLS may call itself http://. The way that was taken so far stays.
    if url.set_scheme(page.scheme()).is_err() {
        return Next::Unreadable;
    }
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Next::Page(url)
}

/// The target of the first link whose relations contain `next`: `<target>; rel="next", <other>; rel=prev`.
fn find_next(header: &str) -> Option<&str> {
    let mut rest = header;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>')?;
        let end = after.find('<').unwrap_or(after.len());
        if after[..end].split([';', ',']).any(is_next) {
            return Some(target);
        }
        rest = &after[end..];
    }
    None
}

fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else {
        return false;
    };
    let relations = value.trim().trim_matches('"');
    name.trim().eq_ignore_ascii_case("rel")
        && relations
            .split_whitespace()
            .any(|relation| relation.eq_ignore_ascii_case("next"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page() -> Url {
        "https://r.example/v2/app/tags/list?n=2".parse().unwrap()
    }

    #[test]
    fn every_form_of_link_leads_to_the_next_page() {
        let forms = [
            "</v2/app/tags/list?last=b&n=2>; rel=\"next\"",
            "<list?last=b&n=2>;rel=next",
            "<?last=b&n=2>; REL=NEXT",
            "<https://r.example/v2/app/tags/list?last=b&n=2>; title=\"x\"; rel=\"prev next\"",
            "<https://r.example:443/v2/app/tags/list?last=b&n=2>; rel=\"next\"",
            "<http://r.example/v2/app/tags/list?last=b&n=2>; rel=\"next\"",
            "<//r.example/v2/app/tags/list?last=b&n=2>; rel=\"next\"",
            "<https://me:secret@r.example/v2/app/tags/list?last=b&n=2>; rel=\"next\"",
            "</first>; rel=\"first\", </v2/app/tags/list?last=b&n=2>; rel=\"next\"",
        ];
        let expected: Url = "https://r.example/v2/app/tags/list?last=b&n=2"
            .parse()
            .unwrap();
        for form in forms {
            assert_eq!(next(&page(), form), Next::Page(expected.clone()), "{form}");
        }
    }

    #[test]
    fn no_link_is_the_end() {
        for header in ["", "</x>; rel=\"prev\"", "</x>", "</x; rel=\"next\""] {
            assert_eq!(next(&page(), header), Next::End, "{header:?}");
        }
    }

    #[test]
    fn a_link_to_another_host_or_port_is_not_followed() {
        for target in [
            "https://evil.example/",
            "https://r.example:8443/v2/",
            "//evil.example/x",
            "http://r.example:80800/",
        ] {
            let header = format!("<{target}>; rel=\"next\"");
            let found = next(&page(), &header);
            assert!(
                matches!(found, Next::Foreign(_) | Next::Unreadable),
                "{target}: {found:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_header_leads_to_the_same_host_or_nowhere(header in ".{0,120}", target in "\\PC{0,40}") {
            for header in [header, format!("<{target}>; rel=next")] {
                if let Next::Page(url) = next(&page(), &header) {
                    prop_assert_eq!(url.host_str(), Some("r.example"));
                    prop_assert_eq!(url.scheme(), "https");
                }
            }
        }
    }
}
