//! What the coordinator asks registries itself: what a tag names now, and for which platforms a digest holds an image of what
//! size. One question serves the whole cluster, so that a tag that has not moved costs one HEAD and no pull.
//!
//! Pure. When a question is due is decided in `asking`, what an answer means in `answers`; asking is the I/O's business. A
//! registry that the coordinator cannot reach may be within the nodes' reach: then a node checks the tag, as if nobody had
//! asked.

mod answers;
mod asking;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use drop_oci::Credential;
use drop_proto::FailureClass;

use crate::image::{Failure, ImageId};
use crate::logins::Ticket;

/// Something to ask a registry. Each question gets one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Names the question; no other one of this state machine has it.
    pub number: u64,
    /// The canonical reference.
    pub reference: String,
    /// What is asked.
    pub about: About,
    /// Ways to log in, in the order in which they are tried. Last comes nobody.
    pub logins: Logins,
}

/// What is asked about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// What the tag names now.
    Tag,
    /// What the digest holds.
    Contents {
        /// What the reference names.
        digest: String,
        /// Of the nodes that need it, such as `linux/amd64`.
        platforms: BTreeSet<String>,
    },
}

/// Logins that cannot reach a log.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Logins(pub Vec<Credential>);

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} logins", self.0.len())
    }
}

/// What a registry told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// What the reference names.
    pub digest: String,
    /// For each platform that was asked about the compressed bytes, 0 if they are not known; `None`: there is no image for it.
    pub sizes: BTreeMap<String, Option<u64>>,
}

/// Why a registry did not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolveFailed {
    /// What kind of failure. `Unspecified`: an answer that is none.
    pub class: FailureClass,
    /// In the words of a failed pull, cleaned for people.
    pub message: String,
    /// How long the host wants to be left alone, if it said so.
    pub wait: Option<Duration>,
}

/// A question that is out.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    at: Duration,
    image: ImageId,
    /// The image may be gone when the answer comes.
    host: String,
    login: Option<Ticket>,
}

/// What is known of one image from its registry.
#[derive(Debug, Default)]
pub struct Inquiry {
    out: Option<(u64, About)>,
    standing: Standing,
    /// No question about the tag before this time.
    not_before: Duration,
    contents: Option<Contents>,
}

/// What came of the last question.
#[derive(Debug, Default)]
enum Standing {
    /// An answer, or there was none yet.
    #[default]
    Well,
    /// There is nothing that a node could pull.
    Refused(Failure),
    /// The host wants to be left alone.
    Throttled(String),
    /// A node does the check that fell due then.
    LeftToNodes {
        due: Option<Duration>,
        message: String,
    },
}

#[derive(Debug)]
struct Contents {
    digest: String,
    sizes: BTreeMap<String, Option<u64>>,
    since: Duration,
}

impl Inquiry {
    /// Why no node tries to pull the image, if the registry has refused it.
    #[must_use]
    pub fn refusal(&self) -> Option<&Failure> {
        match &self.standing {
            Standing::Refused(failure) => Some(failure),
            _ => None,
        }
    }

    /// Why the tag could not be checked, although a node may well hold it.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        match &self.standing {
            Standing::Refused(failure) => Some(&failure.message),
            Standing::Throttled(message) => Some(message),
            Standing::Well | Standing::LeftToNodes { .. } => None,
        }
    }

    /// Why a node checks the tag instead of the coordinator.
    #[must_use]
    pub fn left_to_nodes(&self) -> Option<&str> {
        match &self.standing {
            Standing::LeftToNodes { message, .. } => Some(message),
            _ => None,
        }
    }

    /// Whether the check that fell due then is a node's.
    fn leaves_to_nodes(&self, check: Option<Duration>) -> bool {
        matches!(&self.standing, Standing::LeftToNodes { due, .. } if *due == check)
    }

    /// Since when it is known that `digest` holds no image for the platform.
    #[must_use]
    pub fn lacks_platform(&self, digest: Option<&str>, platform: &str) -> Option<Duration> {
        let contents = self.contents_of(digest)?;
        let is_missing = contents.sizes.get(platform) == Some(&None);
        is_missing.then_some(contents.since)
    }

    /// Since when it is known that `digest` holds no image for some platform.
    #[must_use]
    pub fn found_foreign(&self, digest: Option<&str>) -> Option<Duration> {
        let contents = self.contents_of(digest)?;
        let is_missing = contents.sizes.values().any(Option::is_none);
        is_missing.then_some(contents.since)
    }

    /// Platforms that `digest` holds no image for.
    pub fn foreign_platforms(&self, digest: Option<&str>) -> impl Iterator<Item = &str> {
        let sizes = self.contents_of(digest).map(|contents| &contents.sizes);
        let missing = sizes
            .into_iter()
            .flatten()
            .filter(|(_, size)| size.is_none());
        missing.map(|(platform, _)| platform.as_str())
    }

    /// Compressed bytes that a node of the platform loads; 0 if nobody knows.
    #[must_use]
    pub fn compressed_bytes(&self, digest: Option<&str>, platform: &str) -> u64 {
        let contents = self.contents_of(digest);
        let size = contents.and_then(|contents| contents.sizes.get(platform).copied().flatten());
        size.unwrap_or(0)
    }

    /// Whether nodes that need the image may be told its size.
    #[must_use]
    pub fn knows_contents(&self) -> bool {
        self.contents.is_some()
    }

    fn knows_platform(&self, digest: &str, platform: &str) -> bool {
        self.contents_of(Some(digest))
            .is_some_and(|contents| contents.sizes.contains_key(platform))
    }

    fn contents_of(&self, digest: Option<&str>) -> Option<&Contents> {
        let contents = self.contents.as_ref();
        contents.filter(|contents| Some(contents.digest.as_str()) == digest)
    }

    fn learn_contents(
        &mut self,
        now: Duration,
        digest: String,
        sizes: impl IntoIterator<Item = (String, Option<u64>)>,
    ) {
        match &mut self.contents {
            Some(contents) if contents.digest == digest => contents.sizes.extend(sizes),
            _ => {
                let sizes = sizes.into_iter().collect();
                self.contents = Some(Contents {
                    digest,
                    sizes,
                    since: now,
                });
            }
        }
    }

    /// A former leader promised that nothing is tried before this time.
    pub(crate) fn wait_until(&mut self, until: Duration) {
        self.not_before = until;
    }

    /// The user has edited an object of the image: what was answered before says nothing any more.
    pub(crate) fn ask_anew(&mut self, now: Duration) {
        self.not_before = now;
        match &mut self.standing {
            Standing::Refused(failure) => failure.retry = now,
            Standing::LeftToNodes { .. } => self.standing = Standing::Well,
            Standing::Well | Standing::Throttled(_) => {}
        }
    }

    /// Something has changed about credentials. Whether that lets a question go at once.
    pub(crate) fn retry_with_other_logins(
        &mut self,
        now: Duration,
        is_about_logins: impl Fn(FailureClass) -> bool,
    ) {
        if let Standing::Refused(failure) = &mut self.standing
            && is_about_logins(failure.class)
        {
            failure.retry = now;
            failure.attempts = 0;
            self.not_before = now;
        }
    }
}
