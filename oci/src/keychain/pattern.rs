//! For which images a login is, by the kubelet's rules: globs within each label of the host, equal ports, a prefix of the path.

use crate::Reference;

/// Under which Docker Hub's login stands in a docker configuration.
const DOCKER_HUB_LOGIN: &str = "index.docker.io";

/// The host of Docker Hub in a canonical reference.
const DOCKER_HUB: &str = "docker.io";

/// The place of a login. Ordered by its text, as the kubelet orders it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pattern {
    /// Host, port and path, without scheme.
    text: String,
    /// Where the path begins.
    host_len: usize,
}

impl Pattern {
    /// Reads a key of a docker configuration: a host, or a URL. `None` if there is no host in it.
    pub(super) fn parse(location: &str) -> Option<Self> {
        let rest = strip_scheme(location);
        let rest = rest.split(['?', '#']).next().unwrap_or(rest);
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = after_userinfo(authority);
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return None;
        }
        // The two API versions are no path of an image: https://index.docker.io/v1/ is the whole host.
        let path = match path.get(..4) {
            Some("/v1/" | "/v2/") => &path[3..],
            _ => path,
        };
        let path = if path == "/" { "" } else { path };
        Some(Self {
            text: format!("{host}{path}"),
            host_len: host.len(),
        })
    }

    pub(super) fn matches(&self, reference: &Reference) -> bool {
        let (host, path) = self.text.split_at(self.host_len);
        let (name, port) = split_port(host);
        let (wanted_name, wanted_port) = split_port(reference.host());
        port == wanted_port
            && is_path_prefix(path, reference.repository())
            && name_matches(name, wanted_name)
    }

    pub(super) fn is_docker_hub(&self) -> bool {
        self.text == DOCKER_HUB_LOGIN
    }
}

/// An image of Docker Hub. The kubelet counts every host without dot and port as Docker Hub (`localhost`); drop does not hand
/// Docker Hub's login to those.
pub(super) fn is_docker_hub(reference: &Reference) -> bool {
    reference.host() == DOCKER_HUB
}

/// What an error may show of a place: people write `https://user:password@host`.
pub(super) fn without_userinfo(location: &str) -> String {
    after_userinfo(strip_scheme(location))
        .chars()
        .take(100)
        .collect()
}

fn strip_scheme(location: &str) -> &str {
    let location = location.strip_prefix("https://").unwrap_or(location);
    location.strip_prefix("http://").unwrap_or(location)
}

fn after_userinfo(authority: &str) -> &str {
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
}

/// Splits off the port; `""` if there is none.
fn split_port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, ""),
    }
}

/// The path of the pattern begins with a slash, the repository does not. Bytes, not components: `/team` is for `/teams` too.
fn is_path_prefix(path: &str, repository: &str) -> bool {
    path.is_empty()
        || path
            .strip_prefix('/')
            .is_some_and(|path| repository.starts_with(path))
}

fn name_matches(pattern: &str, name: &str) -> bool {
    // Brackets of an IPv6 address are no class of characters.
    if pattern.starts_with('[') || name.starts_with('[') {
        return pattern == name;
    }
    let (mut patterns, mut labels) = (pattern.split('.'), name.split('.'));
    loop {
        match (patterns.next(), labels.next()) {
            (None, None) => return true,
            (Some(pattern), Some(label)) if glob(pattern.as_bytes(), label.as_bytes()) => {}
            _ => return false,
        }
    }
}

/// `*` is any text, `[a-c]` one of these characters, everything else is itself.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not fit.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() || p < pattern.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
        } else if let Some(len) = text.get(t).and_then(|byte| one(&pattern[p..], *byte)) {
            p += len;
            t += 1;
        } else {
            match retry {
                Some((after_star, from)) if from < text.len() => {
                    (p, t) = (after_star, from + 1);
                    retry = Some((p, t));
                }
                _ => return false,
            }
        }
    }
    true
}

/// How much of the pattern is spent on this byte. `None` if it does not fit.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    let first = *pattern.first()?;
    if first != b'[' {
        return (first == byte).then_some(1);
    }
    let end = pattern.iter().position(|b| *b == b']')?;
    let mut class = &pattern[1..end];
    let mut is_in = false;
    while let Some((low, rest)) = class.split_first() {
        let (high, rest) = match rest {
            [b'-', high, rest @ ..] => (high, rest),
            rest => (low, rest),
        };
        is_in |= (*low..=*high).contains(&byte);
        class = rest;
    }
    is_in.then_some(end + 1)
}
