//! What a TokenReview means: judges and remembers, and asks nobody.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::TokenReviewStatus;

/// What agents' tokens are made for. A token for anything else opens no session.
pub const AUDIENCE: &str = "drop-coordinator";

const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// How long an answer of the API server is taken for the present truth.
const FRESH: Duration = Duration::from_secs(60);
/// The same for a refusal: what was wrong may be put right any moment.
const FRESH_REFUSAL: Duration = Duration::from_secs(5);

/// A bearer token. It has no `Debug`, so that it cannot reach a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

/// Whose a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An agent on this node.
    Node(String),
    /// An agent in this pod of the release's namespace; its node is to be looked up.
    Pod {
        /// metadata.name
        name: String,
        /// metadata.uid, so that a pod made anew under the name is another one.
        uid: String,
    },
}

/// Why a token opens no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// Expired, made for another audience, of a pod that is gone, or no token of this cluster.
    #[error("the API server does not accept the token for audience {AUDIENCE}: {0}")]
    Invalid(String),
    /// It is somebody else's.
    #[error(
        "the token is of {is}, and agents are {expected} (--agent-service-account of the coordinator)"
    )]
    OtherAccount {
        /// Its user.
        is: String,
        /// Whose it should be.
        expected: String,
    },
    /// It is of the right account, but of no pod: anybody could have got it.
    #[error(
        "the token is bound to no pod and no node: mount a projected serviceAccountToken volume"
    )]
    Unbound,
    /// Its pod is gone, or not yet on a node.
    #[error("the token's pod {0} is on no node")]
    NoNode(String),
}

impl Denial {
    /// One word for logs and metrics.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "token_invalid",
            Self::OtherAccount { .. } => "token_other_account",
            Self::Unbound | Self::NoNode(_) => "token_unbound",
        }
    }
}

/// Reads the API server's answer.
pub fn judge(status: &TokenReviewStatus, account: &str) -> Result<Holder, Denial> {
    let is_for_us = status
        .audiences
        .as_ref()
        .is_some_and(|audiences| audiences.iter().any(|audience| audience == AUDIENCE));
    let user = status.user.clone().unwrap_or_default();
    if status.authenticated != Some(true) || !is_for_us {
        let words = status.error.clone().unwrap_or_default();
        let words = if words.is_empty() {
            "it is none of this cluster, or has expired".to_owned()
        } else {
            words
        };
        return Err(Denial::Invalid(words));
    }
    let is = user.username.unwrap_or_default();
    if is != account {
        return Err(Denial::OtherAccount {
            is,
            expected: account.to_owned(),
        });
    }
    let extra = user.extra.unwrap_or_default();
    if let Some(node) = single(&extra, NODE_NAME) {
        return Ok(Holder::Node(node));
    }
    match (single(&extra, POD_NAME), single(&extra, POD_UID)) {
        (Some(name), Some(uid)) => Ok(Holder::Pod { name, uid }),
        _ => Err(Denial::Unbound),
    }
}

fn single(extra: &BTreeMap<String, Vec<String>>, key: &str) -> Option<String> {
    match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(value.clone()),
        _ => None,
    }
}

/// A token's name in the memory: its SHA-256, so that the memory holds no secret.
pub type Fingerprint = [u8; 32];

/// The node of a token, or why it has none.
pub type Verdict = Result<String, Denial>;

/// The latest answers. Bounded: who sends many tokens makes it forget, not grow.
#[derive(Debug)]
pub struct Memory {
    verdicts: HashMap<Fingerprint, (Duration, Verdict)>,
    capacity: usize,
}

impl Memory {
    /// Remembers at most so many, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            verdicts: HashMap::new(),
            capacity: capacity.max(1),
        }
    }

    /// What was said of the token a moment ago.
    #[must_use]
    pub fn recall(&self, now: Duration, token: &Fingerprint) -> Option<Verdict> {
        let (until, verdict) = self.verdicts.get(token)?;
        (now < *until).then(|| verdict.clone())
    }

    /// Keeps an answer for a while. When there is no room, what ends first goes; refusals do.
    pub fn keep(&mut self, now: Duration, token: Fingerprint, verdict: Verdict) {
        if self.verdicts.len() >= self.capacity {
            self.verdicts.retain(|_, (until, _)| now < *until);
        }
        if self.verdicts.len() >= self.capacity
            && let Some(first) = self
                .verdicts
                .iter()
                .min_by_key(|(_, (until, _))| *until)
                .map(|(token, _)| *token)
        {
            self.verdicts.remove(&first);
        }
        let fresh = if verdict.is_ok() {
            FRESH
        } else {
            FRESH_REFUSAL
        };
        self.verdicts.insert(token, (now + fresh, verdict));
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    const ACCOUNT: &str = "system:serviceaccount:drop-system:drop-agent";

    fn review(user: &str, extra: &[(&str, &[&str])]) -> TokenReviewStatus {
        let extra = extra.iter().map(|(key, values)| {
            let values = values.iter().map(|value| (*value).to_owned());
            ((*key).to_owned(), values.collect())
        });
        TokenReviewStatus {
            audiences: Some(vec![AUDIENCE.to_owned()]),
            authenticated: Some(true),
            error: None,
            user: Some(UserInfo {
                username: Some(user.to_owned()),
                extra: Some(extra.collect()),
                ..UserInfo::default()
            }),
        }
    }

    #[test]
    fn a_token_is_of_its_node_or_of_its_pods_node() {
        let node = review(ACCOUNT, &[(NODE_NAME, &["n1"]), (POD_NAME, &["p"])]);
        assert_eq!(judge(&node, ACCOUNT), Ok(Holder::Node("n1".to_owned())));
        let pod = review(ACCOUNT, &[(POD_NAME, &["p"]), (POD_UID, &["u"])]);
        let holder = Holder::Pod {
            name: "p".to_owned(),
            uid: "u".to_owned(),
        };
        assert_eq!(judge(&pod, ACCOUNT), Ok(holder));
    }

    #[test]
    fn a_token_that_could_be_anybodys_is_refused() {
        for extra in [
            &[][..],
            &[(POD_NAME, &["p"][..])],
            &[(NODE_NAME, &[])],
            &[(NODE_NAME, &["a", "b"])],
            &[(NODE_NAME, &[""])],
        ] {
            assert_eq!(
                judge(&review(ACCOUNT, extra), ACCOUNT),
                Err(Denial::Unbound)
            );
        }
    }

    #[test]
    fn another_account_another_audience_and_no_answer_are_refused() {
        let other = "system:serviceaccount:default:default";
        let denial = judge(&review(other, &[(NODE_NAME, &["n"])]), ACCOUNT).unwrap_err();
        assert_eq!(denial.class(), "token_other_account");
        assert!(denial.to_string().contains(other), "{denial}");
        let mut foreign = review(ACCOUNT, &[(NODE_NAME, &["n"])]);
        foreign.audiences = Some(vec!["vault".to_owned()]);
        // An API server that knows no audiences leaves the field out.
        let mut without = review(ACCOUNT, &[(NODE_NAME, &["n"])]);
        without.audiences = None;
        let mut unauthenticated = review(ACCOUNT, &[(NODE_NAME, &["n"])]);
        unauthenticated.authenticated = None;
        for status in [
            foreign,
            without,
            unauthenticated,
            TokenReviewStatus::default(),
        ] {
            let denial = judge(&status, ACCOUNT).unwrap_err();
            assert_eq!(denial.class(), "token_invalid");
        }
    }

    #[test]
    fn answers_are_remembered_for_a_short_time_and_refusals_for_a_shorter_one() {
        let mut memory = Memory::new(10);
        memory.keep(Duration::ZERO, [1; 32], Ok("n1".to_owned()));
        memory.keep(Duration::ZERO, [2; 32], Err(Denial::Unbound));
        let at = |seconds| Duration::from_secs(seconds);
        assert_eq!(memory.recall(at(59), &[1; 32]), Some(Ok("n1".to_owned())));
        assert_eq!(memory.recall(at(60), &[1; 32]), None);
        assert_eq!(memory.recall(at(4), &[2; 32]), Some(Err(Denial::Unbound)));
        assert_eq!(memory.recall(at(5), &[2; 32]), None);
        assert_eq!(memory.recall(at(0), &[3; 32]), None);
    }

    #[test]
    fn many_bad_tokens_push_out_each_other_and_no_good_one() {
        let mut memory = Memory::new(3);
        memory.keep(Duration::ZERO, [1; 32], Ok("n1".to_owned()));
        for number in 2..200 {
            memory.keep(Duration::ZERO, [number; 32], Err(Denial::Unbound));
        }
        assert_eq!(memory.verdicts.len(), 3);
        assert!(memory.recall(Duration::ZERO, &[1; 32]).is_some());
    }
}
