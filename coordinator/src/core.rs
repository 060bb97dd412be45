//! The coordinator's state machine: everything that decides, and nothing that does.
//!
//! One task owns a [`Core`], feeds it what happened ([`Input`]) with the time at which it happened ([`Now`]), and carries out
//! what it answers ([`Output`]). No clock, no randomness and no I/O in here, so that a simulation can run thousands of nodes
//! through years of faults. The parts live with their capability: what changes in the API server in `objects`, agents in
//! `session`, who may pull in `pacing`, status in `cached_image`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use drop_api::CachedImageStatus;
use drop_proto::{Hello, agent_message};
use jiff::Timestamp;

use crate::cached_image::events::Event;
use crate::credentials::{Secret, Secrets};
use crate::image::ImageId;
use crate::image::resolve::{Asked, Question, ResolveFailed, Resolved};
use crate::index::{ImageObject, Images, Nodes, Object, SessionId};
use crate::logins::Logins;
use crate::node_set::{NodeId, NodeSet};
use crate::pacing::Grant;
use crate::pacing::host::Host;
use crate::pacing::policy::{BUILT_IN, Limits, Policy};
use crate::plan::NodeFacts;
use crate::session::message::Message;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Time since the process started; everything that waits, waits on this one.
    pub mono: Duration,
    /// Wall-clock time; it reaches the status and decides nothing but what a restart needs (when a tag was checked last).
    pub wall: Timestamp,
}

impl Now {
    /// A time on a clock whose process started at the epoch.
    #[must_use]
    pub fn at(mono: Duration) -> Self {
        let wall = Timestamp::UNIX_EPOCH
            .checked_add(mono)
            .unwrap_or(Timestamp::MAX);
        Self { mono, wall }
    }

    /// The wall-clock time at which the monotonic clock shows `mono`.
    #[must_use]
    pub fn wall_at(&self, mono: Duration) -> Timestamp {
        let moved = match mono.checked_sub(self.mono) {
            Some(ahead) => self.wall.checked_add(ahead),
            None => self.wall.checked_sub(self.mono.saturating_sub(mono)),
        };
        moved.unwrap_or(self.wall)
    }
}

/// What does not change while the process runs.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How long a grant counts as out after it was given or renewed last.
    pub grant_ttl: Duration,
    /// How long a node whose agent or runtime went away keeps the state it reported last.
    pub agent_grace: Duration,
    /// Most pulls that run from one registry host at once, in the whole cluster.
    pub registry_budget: u32,
    /// Most status writes per second, over all objects.
    pub writes_per_second: u32,
    /// Two losses of an image on a node within this time are a fight with whoever removes it there; for as long it is left alone
    /// then.
    pub truce: Duration,
    /// The coordinator asks registries what tags name; otherwise nodes find out by pulling.
    pub resolve_tags: bool,
    /// Tokens count up from here; a random start keeps them apart from those of former leaders.
    pub first_token: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grant_ttl: Duration::from_secs(60),
            agent_grace: Duration::from_secs(30),
            registry_budget: 100,
            truce: Duration::from_secs(3600),
            writes_per_second: 40,
            resolve_tags: true,
            first_token: 1,
        }
    }
}

/// Something that happened.
// Each lives for one step; boxing the large ones would cost more than it saves.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum Input {
    /// A Node was seen.
    Node(Change<NodeFacts>),
    /// A CachedImage was seen.
    Image(Change<ImageObject>),
    /// A PullPolicy was seen.
    Policy(Change<(String, Limits)>),
    /// A Secret that [`Output::WantSecrets`] named was read, for the first time or since it changed.
    Secret(String, Secret),
    /// An agent opened a session.
    Connected(SessionId, Hello),
    /// An agent said something else.
    Said(SessionId, agent_message::Kind),
    /// A session ended.
    Disconnected(SessionId),
    /// The status write of the object with this name and uid ended: the resource version it made, or that it failed.
    Written(String, String, Result<u64, WriteFailed>),
    /// The answer to the question with this number.
    Resolved(u64, Result<Resolved, ResolveFailed>),
    /// This process leads until then, on the monotonic clock. Without this input it leads for ever.
    LeadsUntil(Duration),
    /// A wake-up.
    Tick,
    /// The process is about to end: nothing is granted any more.
    Stop,
}

/// A watch's news about one kind of object.
#[derive(Debug)]
pub enum Change<T> {
    /// It is new or different.
    Applied(T),
    /// The object of this name is gone.
    Deleted(String),
    /// The watch began anew; these are all there are.
    Replaced(Vec<T>),
}

/// A status was not written, or nobody knows whether it was: it is tried again later. If the object is gone, the watch says so
/// before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteFailed;

/// Something to be done.
#[derive(Debug)]
pub enum Output {
    /// Send to an agent.
    Send(SessionId, Message),
    /// End a session.
    Close(SessionId, Close),
    /// Write a CachedImage's status.
    Write {
        /// metadata.name
        name: String,
        /// metadata.uid, so that an object made anew under the name is not written.
        uid: String,
        /// All of it.
        status: Box<CachedImageStatus>,
    },
    /// Read the Secrets with these names, and again whenever they change; no others.
    WantSecrets(BTreeSet<String>),
    /// Ask a registry. [`Input::Resolved`] answers it, once.
    Resolve(Question),
    /// Publish an Event.
    Publish(Event),
    /// Count something that no state keeps.
    Count(Count),
}

/// Why the coordinator ends a session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Close {
    /// The same agent process has opened a newer one.
    #[error("the same agent has opened a newer session")]
    Replaced,
    /// Another agent process holds the session of this node.
    #[error("{0}")]
    NodeTaken(String),
    /// A message was not what it must be.
    #[error("{0}")]
    Invalid(String),
    /// The agent speaks of grants that it was never given.
    #[error("too many messages about grants that are not this node's")]
    UnknownGrants,
}

/// What only metrics remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// An image vanished from a node behind everybody's back.
    ImageLost,
    /// A status was compared with what it should be.
    Evaluated,
    /// A session was opened by an agent process that had one before.
    Reconnected,
    /// A grant ended because its agent fell silent.
    GrantExpired,
}

/// What a wake-up is for. What it finds may have changed meanwhile, so each is a reason to look again, not an order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wake {
    /// A policy, a host or the start-up may admit pulls again.
    Schedule,
    /// A pair's back-off is over.
    Retry(ImageId, NodeId),
    /// A node's pause is over.
    Node(NodeId),
    /// A node has been without agent or runtime for the grace.
    Grace(NodeId),
    /// A grant may have expired.
    Expiry(u64),
    /// A pull may have run long enough to prove its image.
    Proof(u64),
    /// A tag's interval may be over.
    Check(ImageId),
    /// A status may be due.
    Status(String),
}

/// The coordinator's state. See the module's documentation.
#[derive(Debug)]
pub struct Core {
    pub(crate) config: Config,
    pub(crate) nodes: Nodes,
    pub(crate) images: Images,
    pub(crate) objects: BTreeMap<String, Object>,
    pub(crate) order: Order,
    pub(crate) policies: BTreeMap<String, Policy>,
    pub(crate) hosts: BTreeMap<String, Host>,
    pub(crate) secrets: Secrets,
    pub(crate) logins: Logins,
    /// Questions to registries that are out, by number.
    pub(crate) questions: BTreeMap<u64, Asked>,
    pub(crate) last_question: u64,
    pub(crate) grants: BTreeMap<u64, Grant>,
    pub(crate) sessions: BTreeMap<SessionId, NodeId>,
    /// Nodes that can take a grant now.
    pub(crate) free: NodeSet,
    /// Nodes whose agents have said Hello and wait for their first Desired.
    pub(crate) greeted: BTreeSet<NodeId>,
    /// What of which node's Desired may be stale.
    pub(crate) stale: BTreeSet<(NodeId, ImageId)>,
    /// Images that nothing may want any more.
    pub(crate) idle_images: BTreeSet<ImageId>,
    pub(crate) cursor: NodeId,
    pub(crate) next_token: u64,
    /// Whether who may pull is to be thought about again at the end of the step.
    pub(crate) unsettled: bool,
    pub(crate) synced: Synced,
    /// When the first session or list came: grants wait for the former leader's to be known.
    pub(crate) started: Option<Duration>,
    /// When a node that this process did not know yet said Hello last: the agents of a former leader are still coming.
    pub(crate) last_arrival: Duration,
    pub(crate) stopping: bool,
    /// Nothing is granted from then on: another may lead.
    pub(crate) leads_until: Duration,
    pub(crate) writes: crate::cached_image::writer::Budget,
    /// Every agent has said what it holds, or a TTL has passed since the start.
    pub(crate) settled: bool,
    /// Sent after the Desired that they follow from.
    pub(crate) revokes: Vec<Output>,
    /// Pairs of which an input may have changed whether they are wanted.
    pub(crate) retargeted: BTreeSet<(ImageId, NodeId)>,
    /// What agents said before the first lists were there.
    backlog: Vec<Input>,
    pub(crate) timers: Timers,
    pub(crate) outputs: Vec<Output>,
}

/// Objects that name an image, with it, in the order in which they are pulled: priority, then name.
pub(crate) type Order = BTreeMap<(i32, String), ImageId>;

/// What is to be looked at when.
pub(crate) type Timers = BTreeSet<(Duration, Wake)>;

/// Which watches have delivered their first list.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Synced {
    pub(crate) nodes: bool,
    pub(crate) images: bool,
    pub(crate) policies: bool,
}

impl Synced {
    pub(crate) fn all(self) -> bool {
        self.nodes && self.images && self.policies
    }
}

impl Core {
    /// A coordinator that knows nothing yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            nodes: Nodes::default(),
            images: Images::default(),
            objects: BTreeMap::new(),
            order: Order::new(),
            policies: BTreeMap::from([(BUILT_IN.to_owned(), Policy::default())]),
            hosts: BTreeMap::new(),
            secrets: Secrets::default(),
            logins: Logins::default(),
            questions: BTreeMap::new(),
            last_question: 0,
            grants: BTreeMap::new(),
            sessions: BTreeMap::new(),
            free: NodeSet::default(),
            greeted: BTreeSet::new(),
            stale: BTreeSet::new(),
            idle_images: BTreeSet::new(),
            cursor: NodeId(0),
            next_token: config.first_token.max(1),
            unsettled: false,
            synced: Synced::default(),
            started: None,
            last_arrival: Duration::ZERO,
            stopping: false,
            leads_until: Duration::MAX,
            writes: crate::cached_image::writer::Budget::new(config.writes_per_second),
            settled: false,
            revokes: Vec::new(),
            retargeted: BTreeSet::new(),
            backlog: Vec::new(),
            timers: Timers::new(),
            outputs: Vec::new(),
        }
    }

    /// Takes in what happened and says what to do about it.
    pub fn step(&mut self, now: Now, input: Input) -> Vec<Output> {
        self.step_all(now, [input])
    }

    /// Takes in several things that happened, one after the other, and says what to do about all of them together: when much
    /// happens at once, who may pull is thought about once and nodes are told once.
    pub fn step_all(&mut self, now: Now, inputs: impl IntoIterator<Item = Input>) -> Vec<Output> {
        for input in inputs {
            let was_synced = self.synced.all();
            self.take_in(now, input);
            self.settle_pairs();
            if !was_synced && self.synced.all() {
                for waiting in std::mem::take(&mut self.backlog) {
                    self.take_in(now, waiting);
                    self.settle_pairs();
                }
            }
        }
        self.ring(now);
        self.want_secrets();
        if self.unsettled {
            self.unsettled = false;
            if self.config.resolve_tags {
                // A node should know an image's size before it is granted the pull.
                self.tell_nodes();
                self.ask_registries(now);
            }
            self.schedule(now);
            self.try_refused_logins(now);
        }
        self.tell_nodes();
        self.outputs.append(&mut self.revokes);
        self.drop_idle_images();
        std::mem::take(&mut self.outputs)
    }

    fn take_in(&mut self, now: Now, input: Input) {
        match input {
            // What an agent says of images and grants means nothing before the images are known.
            Input::Connected(..) | Input::Said(..) | Input::Disconnected(..)
                if !self.synced.all() =>
            {
                // A Hello takes grants over for a whole TTL: renewals before it say nothing more, and would pile up.
                if !matches!(input, Input::Said(_, agent_message::Kind::Renew(_))) {
                    self.backlog.push(input);
                }
            }
            Input::Node(change) => self.node_changed(now, change),
            Input::Image(change) => self.image_changed(now, change),
            Input::Policy(change) => self.policy_changed(now, change),
            Input::Secret(name, secret) => self.secret_read(now, &name, secret),
            Input::Connected(session, hello) => self.connected(now, session, hello),
            Input::Said(session, message) => self.said(now, session, message),
            Input::Disconnected(session) => self.disconnected(now, session),
            Input::Written(name, uid, result) => self.written(now, &name, &uid, result),
            Input::Resolved(number, result) => self.registry_answered(now, number, result),
            Input::LeadsUntil(until) => {
                self.unsettled |= now.mono >= self.leads_until;
                self.leads_until = until;
            }
            Input::Stop => self.stopping = true,
            Input::Tick => {}
        }
    }

    /// When to call `step` with [`Input::Tick`] at the latest.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub(crate) fn wake(&mut self, at: Duration, wake: Wake) {
        self.timers.insert((at, wake));
    }

    fn ring(&mut self, now: Now) {
        while let Some((at, _)) = self.timers.first()
            && *at <= now.mono
        {
            let Some((_, wake)) = self.timers.pop_first() else {
                return;
            };
            match wake {
                Wake::Schedule => self.unsettled = true,
                Wake::Retry(image, node) => self.retry_pair(now, image, node),
                Wake::Node(node) => self.end_pause(now, node),
                Wake::Grace(node) => self.mark_node(now, node),
                Wake::Expiry(token) => self.expire(now, token),
                Wake::Proof(token) => self.prove(now, token),
                Wake::Check(image) => self.check_tag(now, image),
                Wake::Status(name) => self.evaluate(now, &name),
            }
        }
    }
}

#[cfg(test)]
mod tests;
