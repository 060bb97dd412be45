//! What a registry wants to see: the `WWW-Authenticate` headers of its 401. Pure.

/// How to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Not at all.
    Open,
    /// Name and password with each request.
    Basic,
    /// A token from another server.
    Bearer(TokenServer),
}

impl Challenge {
    /// The part that holds for all repositories of a registry.
    pub(super) fn without_scope(self) -> Self {
        match self {
            Self::Bearer(server) => Self::Bearer(TokenServer {
                scope: None,
                ..server
            }),
            other => other,
        }
    }
}

/// Where a registry's tokens come from, as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenServer {
    /// Its address, not checked yet.
    pub(super) realm: String,
    /// What it knows this registry by.
    pub(super) service: Option<String>,
    /// What the token must allow, in the registry's words.
    pub(super) scope: Option<String>,
}

/// The best challenge among the headers' values that we can meet: Bearer before Basic. None if there is none of either.
pub(super) fn choose<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for (scheme, parameters) in headers.into_iter().flat_map(parse) {
        let find = |name: &str| {
            let found = parameters.iter().find(|(key, _)| key == name);
            found
                .map(|(_, value)| value.clone())
                .filter(|value| !value.is_empty())
        };
        if scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = find("realm")
        {
            return Some(Challenge::Bearer(TokenServer {
                realm,
                service: find("service"),
                scope: find("scope"),
            }));
        }
    }
    basic
}

/// A scheme and its parameters, names in lower case.
type Parsed = (String, Vec<(String, String)>);

/// Splits one header into its challenges: `Scheme name=value, name="value", Other name=value`.
fn parse(header: &str) -> Vec<Parsed> {
    let mut challenges: Vec<Parsed> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if let Some(value) = after.trim_start().strip_prefix('=') {
            let (value, after) = take_value(value.trim_start());
            if let Some((_, parameters)) = challenges.last_mut() {
                parameters.push((word.to_ascii_lowercase(), value));
            }
            rest = after;
        } else if word.is_empty() {
            return challenges;
        } else {
            challenges.push((word.to_owned(), Vec::new()));
            rest = after;
        }
    }
}

/// A quoted string or a token, and what follows it.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer(TokenServer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let table: [(&[&str], Option<Challenge>); 12] = [
            (
                &[
                    r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull""#,
                ],
                Some(bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:library/nginx:pull"),
                )),
            ),
            (
                &[r#"bearer Realm="https://r/t" , SERVICE=r"#],
                Some(bearer("https://r/t", Some("r"), None)),
            ),
            (
                &[r#"Bearer realm="https://r/t",scope="repository:a:pull,push repository:b:pull""#],
                Some(bearer(
                    "https://r/t",
                    None,
                    Some("repository:a:pull,push repository:b:pull"),
                )),
            ),
            (
                &[r#"Bearer realm="https://r/\"t\"",service="""#],
                Some(bearer("https://r/\"t\"", None, None)),
            ),
            (&[r#"Basic realm="Registry Realm""#], Some(Challenge::Basic)),
            (&["Basic"], Some(Challenge::Basic)),
            (
                &[r#"Basic realm="x""#, r#"Bearer realm="https://r/t""#],
                Some(bearer("https://r/t", None, None)),
            ),
            (
                &[r#"Basic realm="x", Bearer realm="https://r/t",service="s""#],
                Some(bearer("https://r/t", Some("s"), None)),
            ),
            (&["Negotiate", "Basic realm=x"], Some(Challenge::Basic)),
            (&["Bearer service=x"], None),
            (&["", " , ,"], None),
            (
                &["=x, =\"", "Bearer realm=\"unclosed"],
                Some(bearer("unclosed", None, None)),
            ),
        ];
        for (headers, expected) in table {
            assert_eq!(choose(headers.iter().copied()), expected, "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_to_its_end(header in ".{0,200}") {
            let _ = choose([header.as_str()]);
        }
    }
}
