//! The request log of a registry host: what each node asked, when, and how it ended. Claims about pacing and about registry
//! requests are proved from here, never from our own counters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

/// HEADs of one reference that follow each other closer than this are one pull: containerd repeats a refused one within a
/// millisecond.
const SAME_PULL: Duration = Duration::from_millis(50);

/// What a path asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `/v2/<repository>/manifests/<reference>`.
    Manifest,
    /// `/v2/<repository>/blobs/<digest>`.
    Blob,
    /// Everything else, such as the ping `/v2/`, tag lists and tokens.
    Other,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// It has not.
    Open,
    /// All bytes were sent.
    Complete,
    /// The proxy closed the connection early: a fault, or the registry went away.
    Cut,
    /// The client went away early.
    ClientGone,
}

/// One request and what became of it.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Since the proxy's start.
    pub at: Duration,
    /// Since the proxy's start.
    pub ended_at: Option<Duration>,
    /// The client's port: one connection.
    pub client_port: u16,
    /// The node's name, where the client gave one.
    pub node: Option<String>,
    /// The coordinator asks, not a container runtime.
    pub by_coordinator: bool,
    /// HTTP method.
    pub method: String,
    /// With its query.
    pub path: String,
    /// What for.
    pub kind: Kind,
    /// Repository of a manifest or blob.
    pub repository: Option<String>,
    /// Tag or digest of a manifest, digest of a blob.
    pub reference: Option<String>,
    /// The Range header.
    pub range: Option<String>,
    /// Whether it carried credentials. Which ones is not kept.
    pub authorized: bool,
    /// The status answered, 0 before there is one.
    pub status: u16,
    /// Bytes of the body sent so far.
    pub bytes: u64,
    /// How it ended.
    pub end: End,
}

impl Exchange {
    /// The request `method path`, with what the path says.
    pub(super) fn new(at: Duration, client_port: u16, method: &str, path: &str) -> Self {
        let (kind, repository, reference) = split(path);
        Self {
            at,
            ended_at: None,
            client_port,
            node: None,
            by_coordinator: false,
            method: method.to_owned(),
            path: path.to_owned(),
            kind,
            repository,
            reference,
            range: None,
            authorized: false,
            status: 0,
            bytes: 0,
            end: End::Open,
        }
    }
}

/// One pull of an image by one node, as the registry saw it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pull {
    /// The node, empty where the client did not say.
    pub node: String,
    /// The repository.
    pub repository: String,
    /// Tag or digest asked for.
    pub reference: String,
    /// Its first request, since the proxy's start.
    pub start: Duration,
    /// The end of its last transfer; the unpacking that follows is not seen here. The start of a transfer that still runs.
    pub end: Duration,
}

impl Pull {
    /// Whether a HEAD at `at` is containerd's own repetition rather than the next pull.
    fn repeats(&self, reference: &str, at: Duration) -> bool {
        self.reference == reference && at < self.end + SAME_PULL
    }
}

/// Requests in the order they came. Filters give a smaller one.
#[derive(Clone, Debug)]
pub struct Log {
    began: Timestamp,
    entries: Vec<Exchange>,
}

impl Log {
    pub(super) fn new(began: Timestamp, entries: Vec<Exchange>) -> Self {
        Self { began, entries }
    }

    /// Those that `keep` likes.
    #[must_use]
    pub fn filter(&self, mut keep: impl FnMut(&Exchange) -> bool) -> Self {
        let entries = self
            .entries
            .iter()
            .filter(|exchange| keep(exchange))
            .cloned()
            .collect();
        Self {
            began: self.began,
            entries,
        }
    }

    /// Those that came after the first `count` (see `count`): a mark.
    #[must_use]
    pub fn after(&self, count: usize) -> Self {
        let entries = self.entries.iter().skip(count).cloned().collect();
        Self {
            began: self.began,
            entries,
        }
    }

    /// HEADs and GETs of manifests.
    #[must_use]
    pub fn manifests(&self) -> Self {
        self.filter(|exchange| exchange.kind == Kind::Manifest)
    }

    /// Requests for blobs.
    #[must_use]
    pub fn blobs(&self) -> Self {
        self.filter(|exchange| exchange.kind == Kind::Blob)
    }

    /// Those of a node.
    #[must_use]
    pub fn node(&self, node: &str) -> Self {
        self.filter(|exchange| exchange.node.as_deref() == Some(node))
    }

    /// Those of the coordinator itself.
    #[must_use]
    pub fn of_coordinator(&self) -> Self {
        self.filter(|exchange| exchange.by_coordinator)
    }

    /// Those of container runtimes.
    #[must_use]
    pub fn of_nodes(&self) -> Self {
        self.filter(|exchange| !exchange.by_coordinator)
    }

    /// Those for a repository.
    #[must_use]
    pub fn repository(&self, repository: &str) -> Self {
        self.filter(|exchange| exchange.repository.as_deref() == Some(repository))
    }

    /// Those for a tag or digest of a repository.
    #[must_use]
    pub fn reference(&self, repository: &str, reference: &str) -> Self {
        self.repository(repository)
            .filter(|exchange| exchange.reference.as_deref() == Some(reference))
    }

    /// Those with this method.
    #[must_use]
    pub fn method(&self, method: &str) -> Self {
        self.filter(|exchange| exchange.method == method)
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of bodies sent.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|exchange| exchange.bytes).sum()
    }

    /// The nodes that asked.
    #[must_use]
    pub fn nodes(&self) -> BTreeSet<String> {
        self.entries
            .iter()
            .filter_map(|exchange| exchange.node.clone())
            .collect()
    }

    /// The requests themselves.
    #[must_use]
    pub fn exchanges(&self) -> &[Exchange] {
        &self.entries
    }

    /// The wall clock's time of a moment of this log.
    #[must_use]
    pub fn wall(&self, at: Duration) -> Timestamp {
        self.began + at
    }

    /// The pulls by containerds, by their start. A pull opens with a HEAD of the reference; what the node then fetches from
    /// the repository belongs to its latest pull there. A HEAD of a tag check counts as a pull without transfers.
    #[must_use]
    pub fn pulls(&self) -> Vec<Pull> {
        let mut pulls: Vec<Pull> = Vec::new();
        // A node's latest pull of a repository, and whether its last request was a refused HEAD.
        let mut latest: BTreeMap<(String, String), (usize, bool)> = BTreeMap::new();
        for exchange in self
            .entries
            .iter()
            .filter(|exchange| !exchange.by_coordinator)
        {
            let (Some(repository), Some(reference)) = (&exchange.repository, &exchange.reference)
            else {
                continue;
            };
            let node = exchange.node.clone().unwrap_or_default();
            let place = (node.clone(), repository.clone());
            let end = exchange.ended_at.unwrap_or(exchange.at);
            let asks = exchange.kind == Kind::Manifest && exchange.method == "HEAD";
            let is_refused = asks && exchange.status >= 400;
            match latest.get_mut(&place) {
                Some((index, refused))
                    if !asks || *refused && pulls[*index].repeats(reference, exchange.at) =>
                {
                    pulls[*index].end = pulls[*index].end.max(end);
                    *refused = is_refused;
                }
                _ if asks => {
                    latest.insert(place, (pulls.len(), is_refused));
                    let (repository, reference) = (repository.clone(), reference.clone());
                    pulls.push(Pull {
                        node,
                        repository,
                        reference,
                        start: exchange.at,
                        end,
                    });
                }
                _ => {}
            }
        }
        pulls
    }

    /// The most nodes that pulled at one moment.
    #[must_use]
    pub fn most_nodes_at_once(&self) -> usize {
        let pulls = self.pulls();
        let at = |moment: Duration| {
            pulls
                .iter()
                .filter(move |pull| pull.start <= moment && moment < pull.end)
        };
        pulls
            .iter()
            .map(|pull| {
                at(pull.start)
                    .map(|pull| &pull.node)
                    .collect::<BTreeSet<_>>()
                    .len()
            })
            .max()
            .unwrap_or(0)
    }

    /// The most pulls that ran at one moment.
    #[must_use]
    pub fn most_pulls_at_once(&self) -> usize {
        let pulls = self.pulls();
        let at = |moment: Duration| {
            pulls
                .iter()
                .filter(|pull| pull.start <= moment && moment < pull.end)
                .count()
        };
        pulls.iter().map(|pull| at(pull.start)).max().unwrap_or(0)
    }

    /// One line a request, for the message of a failed assertion.
    #[must_use]
    pub fn table(&self) -> String {
        let line = |exchange: &Exchange| {
            let Exchange {
                at,
                node,
                method,
                path,
                status,
                bytes,
                end,
                range,
                ..
            } = exchange;
            let (node, range) = (
                node.as_deref().unwrap_or("-"),
                range.as_deref().unwrap_or("-"),
            );
            format!(
                "{:9.3} {node} {method} {path} range={range} {status} {bytes} {end:?}\n",
                at.as_secs_f64()
            )
        };
        self.entries.iter().map(line).collect()
    }
}

/// `/v2/a/b/manifests/v1?ns=x` -> manifest, `a/b`, `v1`.
fn split(path: &str) -> (Kind, Option<String>, Option<String>) {
    let plain = path.split('?').next().unwrap_or_default();
    let rest = plain.strip_prefix("/v2/").unwrap_or_default();
    for (infix, kind) in [("/manifests/", Kind::Manifest), ("/blobs/", Kind::Blob)] {
        if let Some((repository, reference)) = rest.rsplit_once(infix) {
            return (
                kind,
                Some(repository.to_owned()),
                Some(reference.to_owned()),
            );
        }
    }
    (Kind::Other, None, None)
}
