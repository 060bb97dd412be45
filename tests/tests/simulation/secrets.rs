//! Pull Secrets and the logins that private repositories take, in small: a password is a number.

use drop_coordinator::credentials::Secret;
use drop_oci::Keychain;

use crate::objects::Catalog;

/// Registry hosts each have a Secret with their number; this one has the logins of single repositories.
pub(crate) const REPOSITORIES: usize = 3;
pub(crate) const SECRETS: usize = 4;
const USER: &str = "puller";

/// Where a login is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Site {
    Host(usize),
    /// The repository that this reference is in.
    Repository(usize),
}

/// What stands in a Secret.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    Logins(Vec<(Site, u64)>),
    /// It is no docker configuration, or may not be read.
    Nothing,
}

impl Content {
    /// Logins by the text of their site.
    pub(crate) fn logins(&self, catalog: &Catalog) -> Vec<(String, String)> {
        let Self::Logins(logins) = self else {
            return Vec::new();
        };
        let login = |(site, number): &(Site, u64)| (site.text(catalog), password(*number));
        logins.iter().map(login).collect()
    }

    /// As the coordinator reads it.
    pub(crate) fn secret(&self, catalog: &Catalog) -> Secret {
        let unusable = || Secret::Unusable("it gives no login".to_owned());
        if *self == Self::Nothing {
            return unusable();
        }
        let auths: serde_json::Map<_, _> = self
            .logins(catalog)
            .into_iter()
            .map(|(site, password)| {
                let login = serde_json::json!({"username": USER, "password": password});
                (site, login)
            })
            .collect();
        let text = serde_json::json!({ "auths": auths }).to_string();
        match Keychain::from_docker_config_json(text.as_bytes()) {
            Ok(keychain) => Secret::Loaded(keychain),
            Err(_) => unusable(),
        }
    }

    /// The same logins with passwords that nobody takes.
    pub(crate) fn spoilt(&self) -> Self {
        match self {
            Self::Logins(logins) => {
                let wrong = logins.iter().map(|(site, number)| (*site, number + 5_000));
                Self::Logins(wrong.collect())
            }
            Self::Nothing => Self::Nothing,
        }
    }

    /// Whether it logs in where a repository takes this password alone.
    pub(crate) fn opens(&self, reference: usize, catalog: &Catalog, lock: u64) -> bool {
        match self {
            Self::Logins(logins) => logins
                .iter()
                .any(|(site, number)| *number == lock && site.covers(reference, catalog)),
            Self::Nothing => false,
        }
    }
}

impl Site {
    fn text(self, catalog: &Catalog) -> String {
        match self {
            Self::Host(host) => format!("r{host}.example"),
            Self::Repository(reference) => catalog.references[reference].repository.clone(),
        }
    }

    fn covers(self, reference: usize, catalog: &Catalog) -> bool {
        let wanted = &catalog.references[reference];
        match self {
            Self::Host(host) => wanted.host == host,
            Self::Repository(other) => catalog.references[other].repository == wanted.repository,
        }
    }
}

pub(crate) fn password(number: u64) -> String {
    format!("p{number}")
}

pub(crate) fn secret_name(secret: usize) -> String {
    format!("s{secret}")
}
