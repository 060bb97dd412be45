//! One desired image on this node: what is wanted, what the runtime's list says, and whether a pull is needed.

use drop_proto::{DesiredImage, ImagePullPolicy};

use super::Listed;
use super::disk::Refusal;

/// What the coordinator wants of an image. Its priority is the coordinator's business alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Want {
    policy: ImagePullPolicy,
    /// Empty while nobody knows it.
    expected: String,
    /// 0 asks for no check.
    check: u64,
    /// 0 while nobody knows it.
    pub(super) compressed_bytes: u64,
}

impl From<DesiredImage> for Want {
    fn from(image: DesiredImage) -> Self {
        Self {
            policy: image.pull_policy(),
            expected: image.expected_digest,
            check: image.check,
            compressed_bytes: image.compressed_bytes,
        }
    }
}

/// A pull of this process that succeeded.
#[derive(Debug)]
pub(super) struct Fresh {
    /// What was wanted when it started.
    want: Want,
    /// The session that was told of it.
    session: u64,
}

/// One desired image.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) want: Want,
    /// Number of the first list that counts: one that began after the image was desired.
    pub(super) since: u64,
    /// `None` until such a list: nothing is claimed and nothing asked for before.
    pub(super) known: Option<Presence>,
    /// It vanished, and no session has been told.
    pub(super) lost: bool,
    /// The node's flags allow images from there.
    pub(super) is_allowed: bool,
    /// Why it is needed and not asked for all the same.
    pub(super) refusal: Option<Refusal>,
    fresh: Option<Fresh>,
}

/// Whether the runtime lists the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Absent,
    Present(Vec<String>),
}

impl Image {
    pub(super) fn new(want: Want, since: u64, is_allowed: bool) -> Self {
        Self {
            want,
            since,
            known: None,
            lost: false,
            is_allowed,
            refusal: None,
            fresh: None,
        }
    }

    /// Takes in what the list says. True when the image was there before and is not any more.
    pub(super) fn observe(&mut self, listed: Option<&Listed>) -> bool {
        let now = listed.map_or(Presence::Absent, |l| Presence::Present(l.digests.clone()));
        let lost = now == Presence::Absent && matches!(self.known, Some(Presence::Present(_)));
        // Gone and back between two reports is no loss worth a word.
        self.lost = lost || (self.lost && now == Presence::Absent);
        if now == Presence::Absent {
            // What was pulled is gone: another image under this reference is no answer to anything.
            self.fresh = None;
        }
        self.known = Some(now);
        lost
    }

    /// A pull that was started for `want` succeeded, and `session` is told of it.
    pub(super) fn pulled(&mut self, want: Want, session: u64) {
        self.fresh = Some(Fresh { want, session });
    }

    /// Whether a pull is needed, in the session with this number.
    pub(super) fn needed(&self, session: u64) -> bool {
        let Some(presence) = &self.known else {
            return false;
        };
        match (self.want.policy, presence) {
            (ImagePullPolicy::Never, _) | (ImagePullPolicy::IfNotPresent, Presence::Present(_)) => {
                false
            }
            (_, Presence::Absent) => true,
            (_, Presence::Present(digests)) => self.to_be_checked(session) || self.differs(digests),
        }
    }

    /// The registry is to be asked what the tag names now, and this session has not heard the answer from us. A pull that only
    /// a former session heard of does not count: its coordinator may have died before it made use of the answer.
    fn to_be_checked(&self, session: u64) -> bool {
        if self.want.check == 0 && !self.want.expected.is_empty() {
            return false;
        }
        !self
            .fresh
            .as_ref()
            .is_some_and(|fresh| fresh.session == session && fresh.answers_check(&self.want))
    }

    /// The node holds another digest than the expected one, and pulling has not been tried. Once tried, it stays as it is
    /// until something else is wanted: mirrors that disagree must not make nodes pull in circles.
    fn differs(&self, digests: &[String]) -> bool {
        let want = &self.want;
        if want.expected.is_empty() || digests.contains(&want.expected) {
            return false;
        }
        !self
            .fresh
            .as_ref()
            .is_some_and(|fresh| fresh.want.expected == want.expected && fresh.answers_check(want))
    }
}

impl Fresh {
    fn answers_check(&self, want: &Want) -> bool {
        want.check == 0 || want.check == self.want.check
    }
}
