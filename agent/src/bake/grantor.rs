//! The coordinator's part on a machine without a cluster: what is desired, who may pull now, who waits how long.
//!
//! Pure like the machine that it speaks with, in the same messages. One machine, one list of images and somebody who waits for
//! the end: so no pacing between nodes, short waits, and an image that the registry does not have is given up at once.

use std::collections::BTreeMap;
use std::time::Duration;

use drop_proto::{
    AgentMessage, CoordinatorMessage, Desired, DesiredImage, Grant, ImagePullPolicy, Inventory,
    Refused, RuntimeState, Scope, agent_message, coordinator_message,
};

use crate::node::{Failure, Input, Node, Output};

/// The first wait after a failure; it doubles up to the last.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(30);
/// Far longer than any pull here: nobody else could use an expired grant.
const TTL_MS: u32 = 3_600_000;

/// One image that is to be on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Of the document that asks for it.
    pub(super) name: String,
    /// Canonical.
    pub(super) reference: String,
    /// When to pull.
    pub(super) policy: ImagePullPolicy,
    /// Lower is pulled first.
    pub(super) priority: i32,
}

/// How far an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its turn has not come, or the runtime has not listed its images yet.
    Waiting,
    /// It is being pulled.
    Pulling {
        /// When the pull started.
        since: Duration,
    },
    /// The last try failed, and another one comes.
    Retrying {
        /// When.
        at: Duration,
        /// Why it failed.
        failure: Failure,
    },
    /// The runtime lists it.
    Present {
        /// Under the image's repository; none if it was imported.
        digest: Option<String>,
        /// As the runtime says it; 0 if we did not pull it.
        size_bytes: u64,
    },
    /// No further try would help.
    Failed(Failure),
    /// It is not there, and its policy is Never.
    Absent,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Grantor {
    /// By reference.
    images: BTreeMap<String, Image>,
    waits: BTreeMap<Who, Wait>,
    grants: BTreeMap<u64, String>,
    last_token: u64,
    max_parallel: usize,
    runtime: RuntimeState,
    has_inventory: bool,
}

#[derive(Debug)]
struct Image {
    policy: ImagePullPolicy,
    /// Priority, then name: who is first.
    rank: (i32, String),
    asked: bool,
    digests: Option<Vec<String>>,
    size_bytes: u64,
    pulling_since: Option<Duration>,
    failure: Option<Failure>,
    /// The machine does not ask for it, since it has no room.
    refusal: Option<Failure>,
    pulled_for: Duration,
}

/// Who waits after a failure.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Machine,
    Host(String),
    Image(String),
}

#[derive(Debug, Default)]
struct Wait {
    failures: u32,
    until: Duration,
}

impl Grantor {
    /// Wants these images. Of two documents that want the same reference, the stricter policy and the higher rank count.
    #[must_use]
    pub(super) fn new(wanted: &[Wanted], max_parallel: u32) -> Self {
        let mut images: BTreeMap<String, Image> = BTreeMap::new();
        for Wanted {
            name,
            reference,
            policy,
            priority,
        } in wanted
        {
            let rank = (*priority, name.clone());
            let image = images
                .entry(reference.clone())
                .or_insert_with(|| Image::new(rank.clone()));
            image.rank = rank.min(image.rank.clone());
            image.policy = stricter(*policy, image.policy);
        }
        Self {
            images,
            waits: BTreeMap::new(),
            grants: BTreeMap::new(),
            last_token: 0,
            max_parallel: max_parallel.max(1) as usize,
            runtime: RuntimeState::default(),
            has_inventory: false,
        }
    }

    /// The first message of the conversation.
    #[must_use]
    pub(super) fn desired(&self) -> CoordinatorMessage {
        let images = self.images.iter().map(|(reference, image)| DesiredImage {
            reference: reference.clone(),
            pull_policy: image.policy.into(),
            // A digest is its own expectation; what a tag names, only the pull can tell.
            compressed_bytes: 0,
            expected_digest: reference
                .split_once('@')
                .map_or("", |(_, digest)| digest)
                .to_owned(),
            priority: image.rank.0,
            check: 0,
        });
        message(coordinator_message::Kind::Desired(Desired {
            revision: 1,
            complete: true,
            images: images.collect(),
            dropped: Vec::new(),
        }))
    }

    /// When a wait ends.
    #[must_use]
    pub(super) fn wake_at(&self, now: Duration) -> Option<Duration> {
        self.waits
            .values()
            .map(|wait| wait.until)
            .filter(|&until| until > now)
            .min()
    }

    /// True when nothing is left to try.
    #[must_use]
    pub(super) fn is_finished(&self, now: Duration) -> bool {
        self.images.keys().all(|reference| {
            matches!(
                self.state(reference, now),
                State::Present { .. } | State::Failed(_) | State::Absent
            )
        })
    }

    /// Why nothing happens at all, if it is the runtime's fault.
    #[must_use]
    pub(super) fn runtime_problem(&self) -> Option<&str> {
        match self.runtime.message.as_str() {
            _ if self.runtime.available => None,
            // Its first answer is still to come.
            "" => Some("no answer yet"),
            message => Some(message),
        }
    }

    /// How far an image is.
    #[must_use]
    pub(super) fn state(&self, reference: &str, now: Duration) -> State {
        let Some(image) = self.images.get(reference) else {
            return State::Waiting;
        };
        if let Some(since) = image.pulling_since {
            return State::Pulling { since };
        }
        if let Some(refusal) = &image.refusal {
            // Pulls that run may yet leave more room than they were given; after the last one nothing else will.
            return State::Failed(refusal.clone());
        }
        match (&image.failure, &image.digests) {
            (Some(failure), _) if failure.class.scope() == Scope::Image => {
                State::Failed(failure.clone())
            }
            (Some(failure), _) if image.asked => State::Retrying {
                at: self.free_at(reference).max(now),
                failure: failure.clone(),
            },
            (None, _) if image.asked => State::Waiting,
            (_, Some(digests)) => State::Present {
                digest: digests.first().cloned(),
                size_bytes: image.size_bytes,
            },
            (_, None) if self.has_inventory => State::Absent,
            (_, None) => State::Waiting,
        }
    }

    /// How long an image was pulled, in all tries that have ended.
    #[must_use]
    pub(super) fn pulled_for(&self, reference: &str) -> Duration {
        let image = self.images.get(reference);
        image.map_or(Duration::ZERO, |image| image.pulled_for)
    }

    fn hear(&mut self, now: Duration, message: AgentMessage) {
        match message.kind {
            Some(agent_message::Kind::Runtime(state)) => self.runtime = state,
            Some(agent_message::Kind::Inventory(inventory)) => self.take_inventory(inventory),
            Some(agent_message::Kind::Ask(ask)) => {
                let asked = ask.references.into_iter().map(|r| (r, true));
                for (reference, asked) in asked.chain(ask.withdrawn.into_iter().map(|r| (r, false)))
                {
                    if let Some(image) = self.images.get_mut(&reference) {
                        image.asked = asked;
                    }
                }
            }
            Some(agent_message::Kind::Refused(refused)) => self.take_refusals(refused),
            Some(agent_message::Kind::Done(done)) => {
                let pulled_for = Duration::from_millis(done.pull_ms);
                if let Some((reference, image)) = self.ended(done.token, pulled_for) {
                    image.asked = false;
                    image.failure = None;
                    image.digests = Some(done.digests);
                    image.size_bytes = done.size_bytes;
                    let host = host(&reference).to_owned();
                    for who in [Who::Machine, Who::Host(host), Who::Image(reference)] {
                        self.waits.remove(&who);
                    }
                }
            }
            Some(agent_message::Kind::Failed(failed)) => {
                let class = failed.class();
                let pulled_for = Duration::from_millis(failed.pull_ms);
                if let Some((reference, image)) = self.ended(failed.token, pulled_for) {
                    image.failure = Some(Failure {
                        class,
                        message: failed.message,
                    });
                    self.wait(now, &reference, class.scope());
                }
            }
            Some(agent_message::Kind::Release(release)) => {
                if let Some((reference, _)) = self.ended(release.token, Duration::ZERO) {
                    // The node could not use it, so do not press it on it again at once.
                    self.wait(now, &reference, Scope::Pair);
                }
            }
            _ => {}
        }
    }

    fn take_inventory(&mut self, inventory: Inventory) {
        self.has_inventory = true;
        for listed in inventory.images {
            if let Some(image) = self.images.get_mut(&listed.reference) {
                image.digests = listed.present.then_some(listed.digests);
                image.asked &= !listed.present;
            }
        }
    }

    fn take_refusals(&mut self, refused: Refused) {
        for reference in refused.lifted {
            if let Some(image) = self.images.get_mut(&reference) {
                image.refusal = None;
            }
        }
        for refusal in refused.images {
            if let Some(image) = self.images.get_mut(&refusal.reference) {
                let class = refusal.class();
                let message = refusal.message;
                image.refusal = Some(Failure { class, message });
            }
        }
    }

    fn ended(&mut self, token: u64, pulled_for: Duration) -> Option<(String, &mut Image)> {
        let reference = self.grants.remove(&token)?;
        let image = self.images.get_mut(&reference)?;
        image.pulling_since = None;
        image.pulled_for += pulled_for;
        Some((reference, image))
    }

    fn wait(&mut self, now: Duration, reference: &str, scope: Scope) {
        let who = match scope {
            Scope::Node => Who::Machine,
            Scope::Host => Who::Host(host(reference).to_owned()),
            Scope::Pair | Scope::Image => Who::Image(reference.to_owned()),
        };
        let wait = self.waits.entry(who).or_default();
        // Pulls that ran side by side fail for the same reason: one failure, not several.
        if wait.until <= now {
            wait.until = now + (FIRST_WAIT * (1 << wait.failures.min(10))).min(LAST_WAIT);
            wait.failures += 1;
        }
    }

    /// When nobody has to wait for this image's sake any more.
    fn free_at(&self, reference: &str) -> Duration {
        let who = [
            Who::Machine,
            Who::Host(host(reference).to_owned()),
            Who::Image(reference.to_owned()),
        ];
        let waits = who.iter().filter_map(|who| self.waits.get(who));
        waits.map(|wait| wait.until).max().unwrap_or_default()
    }

    /// Grants as many pulls as may start now, best rank first.
    fn grant(&mut self, now: Duration) -> Vec<CoordinatorMessage> {
        if !self.runtime.available {
            return Vec::new();
        }
        let mut free: Vec<(&(i32, String), &String)> = self
            .images
            .iter()
            .filter(|(reference, image)| {
                let waiting = matches!(
                    self.state(reference, now),
                    State::Waiting | State::Retrying { .. }
                );
                waiting && image.asked && self.free_at(reference) <= now
            })
            .map(|(reference, image)| (&image.rank, reference))
            .collect();
        free.sort_unstable();
        let room = self.max_parallel.saturating_sub(self.grants.len());
        let chosen: Vec<String> = free
            .into_iter()
            .take(room)
            .map(|(_, r)| r.clone())
            .collect();
        chosen
            .into_iter()
            .map(|reference| {
                self.last_token += 1;
                self.grants.insert(self.last_token, reference.clone());
                if let Some(image) = self.images.get_mut(&reference) {
                    image.pulling_since = Some(now);
                }
                message(coordinator_message::Kind::Grant(Grant {
                    token: self.last_token,
                    reference,
                    ttl_ms: TTL_MS,
                    timeout_ms: 0,
                    credentials: Vec::new(),
                }))
            })
            .collect()
    }
}

impl Image {
    fn new(rank: (i32, String)) -> Self {
        Self {
            policy: ImagePullPolicy::Never,
            rank,
            asked: false,
            digests: None,
            size_bytes: 0,
            pulling_since: None,
            failure: None,
            refusal: None,
            pulled_for: Duration::ZERO,
        }
    }
}

/// Lets machine and grantor speak until neither has anything more to say; answers what is to be done outside.
pub(super) fn exchange(
    node: &mut Node,
    grantor: &mut Grantor,
    now: Duration,
    input: Input,
) -> Vec<Output> {
    let mut outside = Vec::new();
    let mut inputs = vec![input];
    while !inputs.is_empty() {
        for input in std::mem::take(&mut inputs) {
            for output in node.step(now, input) {
                match output {
                    Output::Send(message) => grantor.hear(now, message),
                    output => outside.push(output),
                }
            }
        }
        inputs.extend(grantor.grant(now).into_iter().map(Input::Message));
    }
    outside
}

fn message(kind: coordinator_message::Kind) -> CoordinatorMessage {
    CoordinatorMessage { kind: Some(kind) }
}

fn host(reference: &str) -> &str {
    reference.split('/').next().unwrap_or(reference)
}

fn stricter(a: ImagePullPolicy, b: ImagePullPolicy) -> ImagePullPolicy {
    let strictness = |policy| match policy {
        ImagePullPolicy::Never => 0,
        ImagePullPolicy::IfNotPresent => 1,
        ImagePullPolicy::Always | ImagePullPolicy::Unspecified => 2,
    };
    if strictness(a) >= strictness(b) { a } else { b }
}

#[cfg(test)]
mod tests;
