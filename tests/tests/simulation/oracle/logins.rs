//! Who gets which login: the node that pulls, those of the Secrets that its image names, and nobody anything else.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use drop_proto::{Credential, Grant};

use crate::objects::Catalog;
use crate::oracle::tries::Try;
use crate::oracle::{Oracle, Verdict, Violation};
use crate::secrets::{Content, secret_name};

#[derive(Debug, Default)]
pub(crate) struct Logins {
    /// What this term's coordinator was told of each Secret.
    known: HashMap<usize, Content>,
    /// Passwords by the token of the grant that they came with.
    granted: HashMap<u64, BTreeSet<String>>,
}

impl Logins {
    /// Another process has read nothing.
    pub(crate) fn new_life(&mut self) {
        self.known.clear();
    }

    /// Whether the coordinator knows a login for the reference from the Secret.
    pub(super) fn has_login(&self, secret: usize, reference: &str, catalog: &Catalog) -> bool {
        let content = self.known.get(&secret);
        let logins = content.map(|content| content.logins(catalog));
        let mut logins = logins.into_iter().flatten();
        logins.any(|(site, _)| covers(&site, reference))
    }
}

impl Oracle {
    /// The coordinator is told what stands in a Secret. Whoever was refused for want of it may try again.
    pub(crate) fn secret_told(&mut self, secret: usize, content: &Content) {
        if self.logins.known.get(&secret) == Some(content) {
            return;
        }
        // The first word on a Secret ends no wait: there was none for want of it.
        let former = self.logins.known.insert(secret, content.clone());
        if former.is_some() {
            self.tries.secret_changed(secret);
        }
        for seen in self.view.images.values() {
            if seen.row.spec.secrets.contains(&Some(secret)) {
                self.backoff.secret_changed(seen.row.spec.reference);
                self.questions.secret_changed(seen.row.spec.reference);
            }
        }
    }

    /// The grant carries what its image's Secrets have for its repository, and no more.
    pub(super) fn has_its_logins(&mut self, now: Duration, node: usize, grant: &Grant) -> Verdict {
        let broken = |what: String| {
            let text = format!("grant of {} to n{node:05}: {what}", grant.reference);
            Err(Violation::new("login", text))
        };
        let Some(reference) = self.catalog.index(&grant.reference) else {
            return Ok(());
        };
        let mut due = BTreeSet::new();
        for seen in self.view.wanting(reference, node) {
            for secret in seen.row.spec.secrets.into_iter().flatten() {
                let Some(content) = self.logins.known.get(&secret) else {
                    let name = secret_name(secret);
                    return broken(format!("nobody has read Secret {name} yet"));
                };
                let for_it = content
                    .logins(&self.catalog)
                    .into_iter()
                    .filter(|(site, _)| covers(site, &grant.reference));
                due.extend(for_it.map(|(_, password)| password));
            }
        }
        let carried = passwords(&grant.credentials);
        if carried != due {
            return broken(format!("carries {carried:?}, its Secrets have {due:?}"));
        }
        let logs_in = !carried.is_empty();
        self.logins.granted.insert(grant.token, carried);
        self.tries_login(now, Try::Pull(grant.token), reference, logs_in);
        Ok(())
    }

    /// A pull logs in with what came with its grant.
    pub(crate) fn logs_in(&self, node: usize, token: u64, credentials: &[Credential]) -> Verdict {
        let granted = self.logins.granted.get(&token);
        if granted.is_some_and(|granted| *granted == passwords(credentials)) {
            return Ok(());
        }
        let text = format!("n{node:05} logs in otherwise than grant {token} says");
        Err(Violation::new("login", text))
    }
}

/// The site is the image's host, or its repository.
fn covers(site: &str, reference: &str) -> bool {
    let rest = reference.strip_prefix(site);
    rest.is_some_and(|rest| rest.starts_with(['/', ':', '@']))
}

fn passwords(credentials: &[Credential]) -> BTreeSet<String> {
    credentials.iter().map(|c| c.password.clone()).collect()
}
