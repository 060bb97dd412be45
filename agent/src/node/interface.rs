//! What the machine is told and what it answers.

use std::collections::BTreeMap;
use std::time::Duration;

use drop_proto::{AgentMessage, CoordinatorMessage, Credential, FailureClass};

use super::{Disk, DiskLimits, Prefix};

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Node object.
    pub node: String,
    /// Chosen at random when the process starts.
    pub instance: String,
    /// Version of the agent.
    pub version: String,
    /// Pulls at the same time, at least 1.
    pub max_parallel_pulls: u32,
    /// Time between two lists when nothing else asks for one.
    pub list_interval: Duration,
    /// A pull whose grant names no limit of its own is cancelled after this long.
    pub pull_deadline: Duration,
    /// How long running pulls may go on after [`Input::Shutdown`].
    pub shutdown_grace: Duration,
    /// When a pull is refused for want of space.
    pub disk: DiskLimits,
    /// Where images may come from; empty: from everywhere.
    pub allowed: Vec<Prefix>,
}

/// What the runtime's list says about one reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Manifest or index digests under the reference's repository, sorted.
    pub digests: Vec<String>,
    /// As the runtime says it: compressed on containerd, on disk on CRI-O.
    pub size_bytes: u64,
}

/// The runtime's list by canonical reference: one entry for each tag and for each digest of each image.
pub type Listing = BTreeMap<String, Listed>;

/// Why a pull failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Who has to wait because of it.
    pub class: FailureClass,
    /// Cleaned for people, at most 200 characters.
    pub message: String,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A stream to the coordinator is open. The first output is the Hello.
    Connected,
    /// The stream is gone. Messages that were sent into it may be lost.
    Disconnected,
    /// The coordinator said something.
    Message(CoordinatorMessage),
    /// The runtime answers.
    RuntimeUp {
        /// Name and version.
        runtime: String,
        /// "os/architecture" in Go's words.
        platform: String,
    },
    /// The runtime does not answer. Pull calls that it was busy with end by themselves, with [`Input::PullEnded`].
    RuntimeDown {
        /// Why, cleaned for people.
        message: String,
    },
    /// What the image filesystem looks like now, read with each list and said just before its answer. `None`: it cannot be read.
    Disk(Option<Disk>),
    /// The answer to [`Output::List`]; exactly one for each.
    Listed(Result<Listing, String>),
    /// The end of an [`Output::Pull`]; exactly one for each, cancelled or not.
    PullEnded {
        /// Of the pull.
        token: u64,
        /// What the runtime said.
        result: Result<(), Failure>,
    },
    /// The time that [`Node::wake_at`](super::Node::wake_at) named has come.
    Tick,
    /// Stop: start nothing more, let running pulls finish within the grace, then [`Output::Exit`]. A second one exits at once.
    Shutdown,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Say this to the coordinator, in this order.
    Send(AgentMessage),
    /// Call `PullImage`.
    Pull {
        /// Names the pull in [`Input::PullEnded`].
        token: u64,
        /// What to pull.
        reference: String,
        /// Ways to log in at the registry, in the order in which they are tried.
        credentials: Vec<Credential>,
    },
    /// Abandon the call of this pull; it ends with [`Input::PullEnded`] all the same.
    CancelPull {
        /// Of the pull.
        token: u64,
    },
    /// Call `ListImages`. Never a second one before [`Input::Listed`].
    List,
    /// Close the stream and connect anew: the other side broke the protocol.
    Reconnect {
        /// What was wrong.
        reason: &'static str,
    },
    /// Something to count and log.
    Observe(Event),
    /// Say what is still to be said, and end the process.
    Exit,
}

/// Something that operators count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `PullImage` is called.
    PullStarted {
        /// What is pulled.
        reference: String,
    },
    /// A pull succeeded and the list confirmed it.
    Cached {
        /// What was pulled.
        reference: String,
        /// What the list says.
        listed: Listed,
        /// How long the call took.
        took: Duration,
    },
    /// A pull failed.
    PullFailed {
        /// What was pulled.
        reference: String,
        /// Why.
        failure: Failure,
        /// How long the call took.
        took: Duration,
    },
    /// An image that was there is gone, and we did not remove it.
    Lost {
        /// Which one.
        reference: String,
    },
    /// An image is needed, and the node does not ask for it.
    Refused {
        /// Which one.
        reference: String,
        /// Why.
        failure: Failure,
    },
    /// A grant was given back.
    Released {
        /// What it was for.
        reference: String,
        /// Why.
        reason: &'static str,
    },
    /// These references are not desired any more.
    Undesired {
        /// Sorted.
        references: Vec<String>,
    },
    /// A Desired named more than [`MAX_DESIRED`](super::MAX_DESIRED) images; so many were left out.
    TooManyDesired {
        /// How many.
        ignored: usize,
    },
}
