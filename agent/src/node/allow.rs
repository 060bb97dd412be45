//! Which registries this node takes images from (`--allow-registries`).
//!
//! The node's own word: a coordinator, whoever it is, cannot make it pull from elsewhere.

use std::fmt;
use std::str::FromStr;

use drop_oci::reference::Reference;

use super::Config;
use drop_oci::redact::shorten;

/// Hosts that a name without a host belongs to.
const HUB: [&str; 2] = ["docker.io", "index.docker.io"];

/// The longest message of a refusal, in characters.
const MESSAGE_CHARS: usize = 200;

/// A registry host, or a path on one, in canonical form: `docker.io`, `registry.example.com:5000/team`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

/// The text is no host and no path on a host.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is neither a registry host nor a path on one: write docker.io, registry.example.com:5000 or ghcr.io/team, without tag and without https://"
)]
pub struct BadPrefix(String);

impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadPrefix(text.chars().take(100).collect());
        let given = text.strip_suffix('/').unwrap_or(text);
        let host = given.split('/').next().unwrap_or_default();
        // The grammar of references says what is a host; two more path segments keep its defaults for short names away.
        let parse = |name: &str| {
            Reference::from_parts(&format!("{name}/x/x"), None, None).map_err(|_| bad())
        };
        let canonical = parse(host)?.host().to_owned();
        if HUB.contains(&canonical.as_str()) && !HUB.contains(&host) {
            return Err(bad());
        }
        let name = parse(given)?.repository_name();
        let prefix = name.strip_suffix("/x/x").ok_or_else(bad)?;
        Ok(Self(prefix.to_owned()))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Prefix {
    /// Whether a repository (`docker.io/library/nginx`) lies below it. `ghcr.io/team` covers `ghcr.io/team/app`, and not
    /// `ghcr.io/team-b`.
    fn covers(&self, repository: &str) -> bool {
        repository
            .strip_prefix(&self.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl Config {
    /// Whether the node takes the image. Without any prefix it takes all; with one, a text that is no reference is none of it.
    pub(super) fn allows(&self, reference: &str) -> bool {
        if self.allowed.is_empty() {
            return true;
        }
        reference.parse::<Reference>().is_ok_and(|reference| {
            let repository = reference.repository_name();
            self.allowed.iter().any(|prefix| prefix.covers(&repository))
        })
    }

    /// Says why not, and what to do about it.
    pub(super) fn not_allowed(&self, reference: &str) -> String {
        let host = reference.split('/').next().unwrap_or(reference);
        let message = format!(
            "node {} does not take this image from {host}: add it to --allow-registries of the agent, or use an allowed registry",
            self.node
        );
        shorten(&message, MESSAGE_CHARS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Option<String> {
        text.parse::<Prefix>().ok().map(|prefix| prefix.to_string())
    }

    #[test]
    fn prefixes_are_hosts_and_paths_on_hosts() {
        let table = [
            ("docker.io", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("docker.io/bitnami", "docker.io/bitnami"),
            ("docker.io/library/nginx", "docker.io/library/nginx"),
            ("ghcr.io/team/", "ghcr.io/team"),
            ("registry.example.com:5000", "registry.example.com:5000"),
            ("localhost/a/b", "localhost/a/b"),
            ("10.0.0.1:5000", "10.0.0.1:5000"),
        ];
        for (text, canonical) in table {
            assert_eq!(prefix(text).as_deref(), Some(canonical), "{text}");
        }
        for bad in [
            "",
            "/",
            "nginx",
            "library/nginx",
            "https://ghcr.io",
            "ghcr.io/team:v1",
            "ghcr.io/team@sha256:1",
            "ghcr.io//team",
            "*.io",
            "ghcr.io/*",
            "ghcr.io, docker.io",
        ] {
            assert_eq!(prefix(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_prefix_covers_whole_path_segments() {
        let table = [
            ("ghcr.io", "ghcr.io/team/app:v1", true),
            ("ghcr.io", "ghcr.io:443/team/app:v1", false),
            ("ghcr.io", "ghcr.io.evil.example/team/app:v1", false),
            ("ghcr.io/team", "ghcr.io/team/app:v1", true),
            ("ghcr.io/team", "ghcr.io/team:v1", true),
            ("ghcr.io/team", "ghcr.io/team-b/app:v1", false),
            ("ghcr.io/team/app", "ghcr.io/team:v1", false),
            ("docker.io/library", "docker.io/library/nginx:1", true),
            ("docker.io/library", "docker.io/bitnami/nginx:1", false),
            ("r.example:5000", "r.example:5000/a:1", true),
            ("r.example:5000", "r.example/a:1", false),
            ("r.example", "not a reference", false),
        ];
        for (prefix, reference, allowed) in table {
            let config = Config {
                allowed: vec![prefix.parse().expect(prefix)],
                ..super::super::tests::config()
            };
            assert_eq!(config.allows(reference), allowed, "{prefix} {reference}");
        }
        assert!(super::super::tests::config().allows("whatever/it:is"));
    }
}
