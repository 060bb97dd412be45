//! Where a repository is: scheme, host, and the path of its API.

use std::fmt;

use url::Url;

use crate::error::quote;
use crate::reference::{Reference, grammar};
use crate::transport;

/// Docker Hub's API is on another host than its images are named by.
const HUB: &str = "docker.io";
const HUB_API: &str = "registry-1.docker.io";

/// Whether TLS is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Always, unless somebody asked for plain HTTP in so many words.
    Https,
    /// Because somebody asked for it.
    PlainHttp,
}

/// One repository of one registry, ready to be asked about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    /// Without a slash at its end, which `Url` cannot do: kept as the parts that were checked.
    base: Url,
    name: String,
}

/// Why a text names no repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RepositoryError {
    /// Not `https://host[:port][/prefix]`.
    #[error(
        "{0:?} is no registry: write https://registry.example.com, or http:// for one without TLS"
    )]
    Url(String),
    /// `https://user:password@...`.
    #[error("the registry's URL contains a user name or password: put them into a Secret")]
    UserInfo,
    /// Not a repository's name.
    #[error(
        "{0:?} is no repository: write lower-case names joined by slashes, such as team/app, without tag"
    )]
    Name(String),
}

impl Repository {
    /// The repository that an image reference names.
    pub fn of(reference: &Reference, scheme: Scheme) -> Result<Self, RepositoryError> {
        let scheme = match scheme {
            Scheme::Https => "https",
            Scheme::PlainHttp => "http",
        };
        let url = format!("{scheme}://{}", reference.host());
        Self::at(&url, reference.repository())
    }

    /// The repository `name` at a registry's URL. Without a scheme it is https.
    pub fn at(url: &str, name: &str) -> Result<Self, RepositoryError> {
        let url = url.trim();
        let complete = if url.contains("://") {
            url.to_owned()
        } else {
            format!("https://{url}")
        };
        let refusal = || RepositoryError::Url(quote(url));
        let mut base: Url = complete.parse().map_err(|_| refusal())?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err(RepositoryError::UserInfo);
        }
        let is_bare = base.query().is_none() && base.fragment().is_none();
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() || !is_bare {
            return Err(refusal());
        }
        if base.host_str() == Some(HUB) {
            base.set_host(Some(HUB_API)).map_err(|_| refusal())?;
        }
        let path = base.path().trim_end_matches('/');
        let path = path.strip_suffix("/v2").unwrap_or(path).to_owned();
        base.set_path(&path);
        if !grammar::is_repository(name) {
            return Err(RepositoryError::Name(quote(name)));
        }
        Ok(Self {
            base,
            name: name.to_owned(),
        })
    }

    /// `host[:port]` of the API.
    #[must_use]
    pub fn host(&self) -> String {
        transport::host_name(&self.base)
    }

    /// Its name on that host, such as `library/nginx`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What logins are remembered by: scheme, host, port and prefix.
    pub(super) fn registry(&self) -> &str {
        self.base.as_str()
    }

    pub(super) fn is_plain(&self) -> bool {
        self.base.scheme() == "http"
    }

    /// Where the registry says whether it wants a login.
    pub(super) fn ping(&self) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/v2/", self.base.path().trim_end_matches('/')));
        url
    }

    /// `/v2/NAME/<kind>/<what>`.
    pub(super) fn url(&self, kind: &str, what: &str) -> Url {
        let mut url = self.base.clone();
        // Fails for URLs such as `mailto:` alone.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .push("v2")
                .extend(self.name.split('/'))
                .push(kind)
                .push(what);
        }
        url
    }
}

/// As an image's name begins: host and repository.
impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_reached_by_tls_unless_http_is_written() {
        let table = [
            ("r.example", "https://r.example/v2/team/app/tags/list"),
            (
                "https://r.example/",
                "https://r.example/v2/team/app/tags/list",
            ),
            (
                "https://r.example:5000/v2/",
                "https://r.example:5000/v2/team/app/tags/list",
            ),
            (
                "http://127.0.0.1:5000",
                "http://127.0.0.1:5000/v2/team/app/tags/list",
            ),
            (
                "https://r.example/docker/hub",
                "https://r.example/docker/hub/v2/team/app/tags/list",
            ),
            (
                "localhost:5000",
                "https://localhost:5000/v2/team/app/tags/list",
            ),
            (
                "https://docker.io",
                "https://registry-1.docker.io/v2/team/app/tags/list",
            ),
        ];
        for (url, expected) in table {
            let repository = Repository::at(url, "team/app").unwrap();
            assert_eq!(repository.url("tags", "list").as_str(), expected);
        }
        let prefixed = Repository::at("https://r.example/docker/hub/", "app").unwrap();
        assert_eq!(prefixed.ping().as_str(), "https://r.example/docker/hub/v2/");
    }

    #[test]
    fn a_reference_of_docker_hub_leads_to_its_api() {
        let reference: Reference = "nginx:1.25".parse().unwrap();
        let repository = Repository::of(&reference, Scheme::Https).unwrap();
        assert_eq!(repository.to_string(), "registry-1.docker.io/library/nginx");
        let reference: Reference = "127.0.0.1:5000/app".parse().unwrap();
        let repository = Repository::of(&reference, Scheme::PlainHttp).unwrap();
        assert_eq!(repository.ping().as_str(), "http://127.0.0.1:5000/v2/");
    }

    #[test]
    fn what_is_no_registry_or_no_repository_is_refused_without_repeating_a_password() {
        for url in [
            "",
            "ftp://r",
            "https://",
            "https://r/?a=b",
            "https://r/#x",
            "https://r:99999",
            "a b",
        ] {
            let refusal = Repository::at(url, "app").unwrap_err();
            assert!(
                matches!(refusal, RepositoryError::Url(_)),
                "{url}: {refusal}"
            );
        }
        let refusal = Repository::at("https://me:hunter2@r", "app")
            .unwrap_err()
            .to_string();
        assert!(
            refusal.contains("Secret") && !refusal.contains("hunter2"),
            "{refusal}"
        );
        for name in ["", "App", "app:v1", "../x", "a//b", "a/../../b"] {
            let refusal = Repository::at("r.example", name).unwrap_err();
            assert!(
                matches!(refusal, RepositoryError::Name(_)),
                "{name}: {refusal}"
            );
        }
    }

    #[test]
    fn a_target_cannot_leave_its_place_in_the_path() {
        let repository = Repository::at("r.example", "app").unwrap();
        let url = repository.url("manifests", "../../secret?x=1#y");
        assert_eq!(url.path(), "/v2/app/manifests/..%2F..%2Fsecret%3Fx=1%23y");
        assert_eq!(url.query(), None);
    }
}
