//! What this node does next: the pure state machine of the agent.
//!
//! It is told what happened ([`Input`]) and when (monotonic time since the process started), and answers what to do
//! ([`Output`]). It reads no clock, does no I/O and draws no random number, so the same inputs give the same outputs. It keeps
//! two things apart: what is true (desired images, the runtime's list, running pulls) and what this session has been told of
//! it. Every step changes the first and then says the difference.
//!
//! It never decides *when* a needed image may be pulled: that is the coordinator's grant. It never repeats a failed pull by
//! itself, and it never takes `PullImage`'s word for it: only the list that follows confirms a pull.

mod allow;
mod disk;
mod grant;
mod image;
mod interface;
mod lists;
mod pull;
mod runtime;
mod say;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use drop_proto::{
    AgentMessage, CoordinatorMessage, Desired, FailureClass, HeldGrant, Hello, agent_message,
    coordinator_message,
};

pub use allow::{BadPrefix, Prefix};
pub use disk::{Disk, DiskLimits};
pub use interface::{Config, Event, Failure, Input, Listed, Listing, Output};

use disk::Room;
use image::Image;
use lists::Lists;
use pull::{Phase, Pull};
use runtime::Runtime;
use say::Said;

/// More desired images than this are not taken: a node holds a few hundred, and one message must stay below its limit.
pub const MAX_DESIRED: usize = 20_000;
/// The state machine. See the module's documentation.
#[derive(Debug)]
pub struct Node {
    config: Config,
    images: BTreeMap<String, Image>,
    /// By token.
    pulls: BTreeMap<u64, Pull>,
    lists: Lists,
    room: Room,
    runtime: Runtime,
    /// As [`Input::RuntimeUp`] said last.
    runtime_name: String,
    platform: String,
    /// What the open session has been told; `None` while there is none.
    said: Option<Said>,
    /// Sessions opened so far: the number of the present one.
    sessions: u64,
    /// Results of pulls that no coordinator has heard for certain: they ended before the first Desired of a session, and only
    /// that shows that the session was accepted.
    unsaid: Vec<AgentMessage>,
    /// When running pulls have to end, once the agent stops.
    stop_at: Option<Duration>,
    exited: bool,
}

impl Node {
    /// A node that knows nothing yet: no session, no runtime.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            images: BTreeMap::new(),
            pulls: BTreeMap::new(),
            lists: Lists::default(),
            room: Room::default(),
            runtime: Runtime::Down {
                message: "the runtime has not answered yet".to_owned(),
            },
            runtime_name: String::new(),
            platform: String::new(),
            said: None,
            sessions: 0,
            unsaid: Vec::new(),
            stop_at: None,
            exited: false,
        }
    }

    /// Takes in what happened at `now` and answers what to do, in order.
    pub fn step(&mut self, now: Duration, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        if self.exited {
            return out;
        }
        match input {
            Input::Connected => self.connected(now, &mut out),
            Input::Disconnected => self.disconnected(),
            Input::Message(message) => self.message(now, message, &mut out),
            Input::RuntimeUp { runtime, platform } => self.runtime_up(runtime, platform),
            Input::RuntimeDown { message } => self.runtime_down(message, &mut out),
            Input::Disk(disk) => self.disk_read(disk),
            Input::Listed(Ok(listing)) => self.listed(now, &listing, &mut out),
            Input::Listed(Err(message)) => self.list_failed(now, message, &mut out),
            Input::PullEnded { token, result } => self.pull_ended(now, token, result, &mut out),
            Input::Tick => {}
            Input::Shutdown => self.shutdown(now),
        }
        self.settle(now, &mut out);
        out
    }

    /// When [`Input::Tick`] is due if nothing else happens.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        if self.exited {
            return None;
        }
        let list = match self.runtime {
            Runtime::Up => self.lists.due_at(),
            Runtime::Down { .. } => None,
        };
        let renew = self.said.as_ref().and_then(|said| said.renew_at);
        let deadline = self.pulls.values().filter_map(Pull::deadline).min();
        [list, renew, deadline, self.stop_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// How many pulls are under way.
    #[must_use]
    pub fn running_pulls(&self) -> usize {
        self.pulls.len()
    }

    /// Whether the coordinator wants the image on this node.
    #[must_use]
    pub fn is_desired(&self, reference: &str) -> bool {
        self.images.contains_key(reference)
    }

    /// How many images the coordinator wants on this node.
    #[must_use]
    pub fn desired_count(&self) -> usize {
        self.images.len()
    }

    /// Why nothing can be pulled or confirmed; `None` while the runtime answers.
    #[must_use]
    pub fn runtime_problem(&self) -> Option<String> {
        let state = self.runtime_state();
        (!state.available).then_some(state.message)
    }

    fn connected(&mut self, now: Duration, out: &mut Vec<Output>) {
        self.disconnected();
        self.sessions += 1;
        let runtime = self.runtime_state();
        let hello = Hello {
            node: self.config.node.clone(),
            instance: self.config.instance.clone(),
            version: self.config.version.clone(),
            max_parallel_pulls: self.config.max_parallel_pulls,
            held: self
                .pulls
                .iter()
                .map(|(&token, pull)| HeldGrant {
                    token,
                    reference: pull.reference.clone(),
                    running_ms: millis(now.saturating_sub(pull.started_at)),
                })
                .collect(),
            runtime: Some(runtime.clone()),
        };
        out.push(send(agent_message::Kind::Hello(hello)));
        out.extend(self.unsaid.iter().cloned().map(Output::Send));
        self.said = Some(Said::hello(runtime, self.renew_after(now)));
    }

    fn disconnected(&mut self) {
        self.said = None;
        for pull in self.pulls.values_mut() {
            pull.former_session = true;
        }
    }

    fn message(&mut self, now: Duration, message: CoordinatorMessage, out: &mut Vec<Output>) {
        if self.said.is_none() {
            return;
        }
        match message.kind {
            Some(coordinator_message::Kind::Desired(desired)) => self.desire(desired, out),
            Some(coordinator_message::Kind::Grant(grant)) => self.granted(now, grant, out),
            Some(coordinator_message::Kind::Revoke(revoke)) => self.revoked(revoke.token, out),
            // A kind of message that this version does not know.
            None => {}
        }
    }

    fn desire(&mut self, desired: Desired, out: &mut Vec<Output>) {
        let Some(said) = &mut self.said else { return };
        if desired.revision != said.revision + 1 || desired.complete != (said.revision == 0) {
            out.push(Output::Reconnect {
                reason: "the revisions of Desired do not follow each other",
            });
            return;
        }
        said.revision = desired.revision;
        self.unsaid.clear();
        let fresh_list = self.lists.want();
        if desired.complete {
            said.complete_after = Some(fresh_list);
        }

        let mut gone = desired.dropped;
        if desired.complete {
            let named: BTreeSet<&String> = desired.images.iter().map(|i| &i.reference).collect();
            let known = self.images.keys();
            gone = known.filter(|r| !named.contains(r)).cloned().collect();
        }
        gone.retain(|reference| self.images.remove(reference).is_some());
        gone.sort_unstable();
        for reference in &gone {
            said.forget(reference);
        }
        if !gone.is_empty() {
            out.push(Output::Observe(Event::Undesired { references: gone }));
        }

        let mut ignored = 0;
        for image in desired.images {
            let count = self.images.len();
            match self.images.get_mut(&image.reference) {
                Some(known) => known.want = image.into(),
                None if count >= MAX_DESIRED => ignored += 1,
                None => {
                    let reference = image.reference.clone();
                    let is_allowed = self.config.allows(&reference);
                    let image = Image::new(image.into(), fresh_list, is_allowed);
                    self.images.insert(reference, image);
                }
            }
        }
        if ignored > 0 {
            out.push(Output::Observe(Event::TooManyDesired { ignored }));
        }
    }

    fn pull_ended(
        &mut self,
        now: Duration,
        token: u64,
        result: Result<(), Failure>,
        out: &mut Vec<Output>,
    ) {
        let Some(pull) = self.pulls.get_mut(&token) else {
            return;
        };
        let took = now.saturating_sub(pull.started_at);
        match (result, &self.runtime) {
            (Ok(()), Runtime::Up) => {
                let list = self.lists.want();
                pull.phase = Phase::Unconfirmed { list, took };
            }
            (Ok(()), Runtime::Down { message }) => {
                let failure = Failure {
                    class: FailureClass::Runtime,
                    message: message.clone(),
                };
                self.fail(token, failure, took, out);
            }
            (Err(failure), _) => {
                let failure = pull
                    .cancel
                    .map_or(failure, |cancel| cancel.failure(pull.limit));
                self.fail(token, failure, took, out);
            }
        }
    }

    fn shutdown(&mut self, now: Duration) {
        self.stop_at = match self.stop_at {
            None => Some(now + self.config.shutdown_grace),
            Some(_) => Some(now),
        };
    }

    /// Says what has changed, and does what is due.
    fn settle(&mut self, now: Duration, out: &mut Vec<Output>) {
        self.cancel_overdue(now, out);
        for (reference, failure) in self.admit() {
            out.push(Output::Observe(Event::Refused { reference, failure }));
        }
        self.say_runtime(out);
        self.say_images(out);
        if let Some(stop_at) = self.stop_at
            && (self.pulls.is_empty() || now >= stop_at)
        {
            self.abandon_pulls(now, out);
            out.push(Output::Exit);
            self.exited = true;
            return;
        }
        self.say_renewals(now, out);
        if matches!(self.runtime, Runtime::Up) && self.lists.start(now) {
            out.push(Output::List);
        }
    }
}

fn send(kind: agent_message::Kind) -> Output {
    Output::Send(AgentMessage { kind: Some(kind) })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
