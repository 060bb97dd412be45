//! The registries: what their tags name, and what troubles them. They answer with the texts of containerd 1.6, which the
//! agent's own `classify` has to understand.

use std::time::Duration;

use drop_agent::classify::classify;
use drop_agent::node::Failure;
use tonic::Code;

use crate::objects::Catalog;
use crate::secrets::password;

/// Who gets what a tag names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Supply {
    Served,
    /// Nodes of another platform get nothing.
    OnlyAmd64,
    Missing,
    Forbidden,
}

#[derive(Clone, Debug)]
pub(crate) struct Tag {
    pub(crate) digest: u64,
    pub(crate) supply: Supply,
    /// How long the bytes take on a line of our own.
    pub(crate) takes: Duration,
    /// It has named its present digest before: a node that finds it is believed by nobody until the next check.
    pub(crate) went_back: bool,
}

/// What a whole host suffers from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Trouble {
    Throttles,
    Fails,
    Refuses,
    Unresolved,
    /// It accepts connections and says nothing.
    Hangs,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    pub(crate) trouble: Option<(Trouble, Duration)>,
    /// So many times slower, until.
    pub(crate) slow: (u32, Duration),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    pub(crate) hosts: Vec<Host>,
    /// By reference.
    pub(crate) tags: Vec<Tag>,
    /// By reference: the password that its repository takes; `None`: everybody gets it.
    pub(crate) locks: Vec<Option<u64>>,
}

/// The answer to a pull's first request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// The tag names this digest, and its bytes take so long.
    Bytes(u64, Duration),
    Error(Failure),
    /// Nothing comes before this time.
    Silence(Duration),
}

impl Registry {
    pub(crate) fn reply(
        &self,
        now: Duration,
        catalog: &Catalog,
        reference: usize,
        (is_amd64, passwords): (bool, &[String]),
    ) -> Reply {
        let host = &self.hosts[catalog.references[reference].host];
        let tag = &self.tags[reference];
        let text = catalog.text(reference);
        if let Some((trouble, until)) = host.trouble.filter(|(_, until)| now < *until) {
            if trouble == Trouble::Hangs {
                return Reply::Silence(until);
            }
            return Reply::Error(troubled(trouble, text));
        }
        if let Some(lock) = self.locks[reference]
            && !passwords.contains(&password(lock))
        {
            return Reply::Error(failure(
                Code::Unknown,
                "failed to resolve reference: pulling from host failed with status code [manifests v1]: 401 Unauthorized",
                text,
            ));
        }
        match tag.supply {
            Supply::Missing => Reply::Error(failure(
                Code::NotFound,
                "failed to resolve reference: not found",
                text,
            )),
            Supply::Forbidden => Reply::Error(failure(
                Code::Unknown,
                "failed to resolve reference: pulling from host failed with status code [manifests v1]: 403 Forbidden",
                text,
            )),
            Supply::OnlyAmd64 if !is_amd64 => Reply::Error(failure(
                Code::NotFound,
                "failed to pull and unpack image: no match for platform in manifest: not found",
                text,
            )),
            Supply::Served | Supply::OnlyAmd64 => {
                let (factor, until) = host.slow;
                let factor = if now < until { factor } else { 1 };
                Reply::Bytes(tag.digest, tag.takes * factor)
            }
        }
    }
}

fn troubled(trouble: Trouble, text: &str) -> Failure {
    let words = match trouble {
        Trouble::Throttles => {
            "failed to resolve reference: pulling from host failed with status code [manifests v1]: 429 Too Many Requests"
        }
        Trouble::Fails => {
            "failed to resolve reference: pulling from host failed with status code [manifests v1]: 500 Internal Server Error"
        }
        Trouble::Refuses => {
            "failed to resolve reference: failed to do request: dial tcp 10.0.0.7:5000: connect: connection refused"
        }
        Trouble::Unresolved => {
            "failed to resolve reference: failed to do request: dial tcp: lookup r on 10.96.0.10:53: no such host"
        }
        Trouble::Hangs => {
            "failed to resolve reference: failed to do request: net/http: TLS handshake timeout"
        }
    };
    failure(Code::Unknown, words, text)
}

/// What a pull ends with that got no answer from its host.
pub(crate) fn timed_out(reference: &str) -> Failure {
    troubled(Trouble::Hangs, reference)
}

pub(crate) fn failure(code: Code, words: &str, reference: &str) -> Failure {
    classify(code, words, reference)
}
