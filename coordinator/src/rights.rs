//! Rights that the API server refuses: said once in the log, and in readiness for as long as they are missing.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{info, warn};

/// What is missing, by the work that it keeps from being done. Clones share one state.
#[derive(Clone, Debug)]
pub struct Rights(Arc<watch::Sender<BTreeMap<String, String>>>);

impl Default for Rights {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeMap::new())))
    }
}

impl Rights {
    /// A request for some work ended, with this error or well. Errors that are not about rights say nothing.
    pub fn heard(&self, work: &str, error: Option<&kube::Error>) {
        match error {
            None => self.granted(work),
            Some(kube::Error::Api(status)) if status.is_forbidden() => {
                self.refused(work, right(&status.message));
            }
            Some(_) => {}
        }
    }

    /// The API server refuses this right.
    fn refused(&self, work: &str, right: String) {
        self.0.send_if_modified(|missing| {
            if missing.get(work) == Some(&right) {
                return false;
            }
            warn!(
                right,
                "a right is missing: the installation's roles grant it, see deploy/drop.yaml"
            );
            missing.insert(work.to_owned(), right);
            true
        });
    }

    /// Nothing is in the way of this work.
    pub fn granted(&self, work: &str) {
        self.0
            .send_if_modified(|missing| match missing.remove(work) {
                Some(right) => {
                    info!(right, "a right that was missing is there");
                    true
                }
                None => false,
            });
    }

    /// The work is not done any more: whether it could be is not known.
    pub fn forget(&self) {
        self.0.send_if_modified(|missing| {
            let had = !missing.is_empty();
            missing.clear();
            had
        });
    }

    /// Tells of changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<BTreeMap<String, String>> {
        self.0.subscribe()
    }

    /// All that is missing in a sentence; `None`: nothing.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let missing = self.0.borrow();
        let rights: Vec<&str> = missing.values().map(String::as_str).collect();
        (!rights.is_empty()).then(|| format!("missing rights: {}", rights.join(", ")))
    }
}

/// Verb and resource out of the API server's sentence: `... cannot list resource "nodes" in API group "" at the cluster scope`.
fn right(message: &str) -> String {
    let parse = || {
        let (_, sentence) = message.split_once(" cannot ")?;
        let (verb, rest) = sentence.split_once(" resource \"")?;
        let (resource, rest) = rest.split_once('"')?;
        let (_, rest) = rest.split_once("API group \"")?;
        let (group, _) = rest.split_once('"')?;
        Some(match group {
            "" => format!("{verb} {resource}"),
            group => format!("{verb} {resource} in {group}"),
        })
    };
    parse().unwrap_or_else(|| message.chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_is_named_by_verb_and_resource() {
        let user = "User \"system:serviceaccount:drop-system:drop-coordinator\"";
        for (message, said) in [
            (
                format!(
                    "nodes is forbidden: {user} cannot list resource \"nodes\" in API group \"\" at the cluster scope"
                ),
                "list nodes",
            ),
            (
                format!(
                    "cachedimages.drop.corewire.io \"web\" is forbidden: {user} cannot patch resource \"cachedimages/status\" in API group \"drop.corewire.io\" at the cluster scope: RBAC: ..."
                ),
                "patch cachedimages/status in drop.corewire.io",
            ),
            ("the webhook says no".to_owned(), "the webhook says no"),
        ] {
            assert_eq!(right(&message), said);
        }
    }

    #[test]
    fn readiness_names_all_that_is_missing_and_forgets_what_is_there_again() {
        let rights = Rights::default();
        assert_eq!(rights.missing(), None);
        rights.refused("nodes", "list nodes".to_owned());
        rights.refused("leases", "update leases in coordination.k8s.io".to_owned());
        let both = "missing rights: update leases in coordination.k8s.io, list nodes";
        assert_eq!(rights.missing().as_deref(), Some(both));
        rights.granted("leases");
        rights.granted("status");
        assert_eq!(
            rights.missing().as_deref(),
            Some("missing rights: list nodes")
        );
    }
}
