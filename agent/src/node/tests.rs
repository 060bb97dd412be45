//! Scenarios: the machine is driven by hand, and its outputs are compared whole.

mod chaos;
mod disk;
mod need;
mod pulls;
mod runtime;
mod session;

use std::time::Duration;

use drop_proto::coordinator_message::Kind as FromCoordinator;
use drop_proto::{
    AgentMessage, Ask, CoordinatorMessage, Desired, DesiredImage, Done, Failed, FailureClass,
    Grant, Hello, ImagePullPolicy, Inventory, InventoryImage, Release, Renew, Revoke, RuntimeState,
    Started, agent_message,
};

use super::{Config, Disk, DiskLimits, Event, Failure, Input, Listed, Listing, Node, Output};

const APP: &str = "r.example/app:v1";
const DB: &str = "r.example/db:v1";
const D1: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const D2: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

/// A node and its clock.
struct Scene {
    node: Node,
    now: Duration,
    revision: u64,
}

impl Scene {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        change(&mut config);
        Self {
            node: Node::new(config),
            now: secs(100),
            revision: 0,
        }
    }

    /// Runtime up, session open, these images desired; the runtime holds `listing`.
    fn at_work(desired: Vec<DesiredImage>, listing: &Listing) -> Self {
        let mut scene = Self::new();
        scene.start(desired, listing);
        scene
    }

    fn start(&mut self, desired: Vec<DesiredImage>, listing: &Listing) -> Vec<Output> {
        self.runtime_up();
        self.list(&Listing::new());
        self.step(Input::Connected);
        self.desire(desired);
        self.list(listing)
    }

    fn step(&mut self, input: Input) -> Vec<Output> {
        self.node.step(self.now, input)
    }

    fn wait(&mut self, seconds: u64) -> Vec<Output> {
        self.now += secs(seconds);
        self.step(Input::Tick)
    }

    fn runtime_up(&mut self) -> Vec<Output> {
        self.step(Input::RuntimeUp {
            runtime: "containerd 1.7.27".to_owned(),
            platform: "linux/amd64".to_owned(),
        })
    }

    fn runtime_down(&mut self) -> Vec<Output> {
        self.step(Input::RuntimeDown {
            message: "connection refused".to_owned(),
        })
    }

    fn list(&mut self, listing: &Listing) -> Vec<Output> {
        self.step(Input::Listed(Ok(listing.clone())))
    }

    fn connect(&mut self) -> Vec<Output> {
        self.revision = 0;
        self.step(Input::Connected)
    }

    fn say(&mut self, kind: FromCoordinator) -> Vec<Output> {
        self.step(Input::Message(CoordinatorMessage { kind: Some(kind) }))
    }

    /// A complete Desired if it is the first one of the session, else a change.
    fn desire(&mut self, images: Vec<DesiredImage>) -> Vec<Output> {
        self.change(images, &[])
    }

    fn change(&mut self, images: Vec<DesiredImage>, dropped: &[&str]) -> Vec<Output> {
        self.revision += 1;
        self.say(FromCoordinator::Desired(Desired {
            revision: self.revision,
            complete: self.revision == 1,
            images,
            dropped: dropped.iter().map(|&r| r.to_owned()).collect(),
        }))
    }

    fn grant(&mut self, token: u64, reference: &str) -> Vec<Output> {
        self.say(FromCoordinator::Grant(Grant {
            token,
            reference: reference.to_owned(),
            ttl_ms: 60_000,
            ..Grant::default()
        }))
    }

    fn revoke(&mut self, token: u64) -> Vec<Output> {
        self.say(FromCoordinator::Revoke(Revoke { token }))
    }

    fn pulled(&mut self, token: u64) -> Vec<Output> {
        self.step(Input::PullEnded {
            token,
            result: Ok(()),
        })
    }

    fn pull_failed(&mut self, token: u64, class: FailureClass, message: &str) -> Vec<Output> {
        self.step(Input::PullEnded {
            token,
            result: Err(failure(class, message)),
        })
    }

    /// A whole pull that ends with `digest`.
    fn pull(&mut self, token: u64, reference: &str, digest: &str) -> Vec<Output> {
        self.grant(token, reference);
        self.pulled(token);
        self.list(&holds(&[(reference, &[digest])]))
    }
}

pub(super) fn config() -> Config {
    Config {
        node: "n1".to_owned(),
        instance: "i1".to_owned(),
        version: "0".to_owned(),
        max_parallel_pulls: 1,
        list_interval: secs(30),
        pull_deadline: secs(3600),
        shutdown_grace: secs(300),
        disk: DiskLimits::default(),
        allowed: Vec::new(),
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn failure(class: FailureClass, message: &str) -> Failure {
    Failure {
        class,
        message: message.to_owned(),
    }
}

fn wanted(reference: &str, policy: ImagePullPolicy, expected: &str, check: u64) -> DesiredImage {
    DesiredImage {
        reference: reference.to_owned(),
        pull_policy: policy.into(),
        expected_digest: expected.to_owned(),
        priority: 0,
        check,
        compressed_bytes: 0,
    }
}

fn always(reference: &str, expected: &str) -> DesiredImage {
    wanted(reference, ImagePullPolicy::Always, expected, 0)
}

fn if_not_present(reference: &str) -> DesiredImage {
    wanted(reference, ImagePullPolicy::IfNotPresent, "", 0)
}

fn holds(images: &[(&str, &[&str])]) -> Listing {
    images
        .iter()
        .map(|(reference, digests)| {
            let digests = digests.iter().map(|&d| d.to_owned()).collect();
            let listed = Listed {
                digests,
                size_bytes: 7,
            };
            ((*reference).to_owned(), listed)
        })
        .collect()
}

fn nothing() -> Listing {
    Listing::new()
}

fn sent(kind: agent_message::Kind) -> Output {
    Output::Send(AgentMessage { kind: Some(kind) })
}

fn inventory(revision: u64, complete: bool, images: Vec<InventoryImage>) -> Output {
    sent(agent_message::Kind::Inventory(Inventory {
        revision,
        complete,
        images,
    }))
}

fn there(reference: &str, digests: &[&str]) -> InventoryImage {
    InventoryImage {
        reference: reference.to_owned(),
        present: true,
        digests: digests.iter().map(|&d| d.to_owned()).collect(),
        lost: false,
    }
}

fn absent(reference: &str) -> InventoryImage {
    InventoryImage {
        reference: reference.to_owned(),
        ..InventoryImage::default()
    }
}

fn lost(reference: &str) -> InventoryImage {
    InventoryImage {
        lost: true,
        ..absent(reference)
    }
}

fn asks(references: &[&str]) -> Output {
    sent(agent_message::Kind::Ask(Ask {
        references: references.iter().map(|&r| r.to_owned()).collect(),
        withdrawn: Vec::new(),
    }))
}

fn withdraws(references: &[&str]) -> Output {
    sent(agent_message::Kind::Ask(Ask {
        references: Vec::new(),
        withdrawn: references.iter().map(|&r| r.to_owned()).collect(),
    }))
}

fn starts(token: u64, reference: &str) -> Vec<Output> {
    vec![
        Output::Pull {
            token,
            reference: reference.to_owned(),
            credentials: Vec::new(),
        },
        sent(agent_message::Kind::Started(Started { token })),
        Output::Observe(Event::PullStarted {
            reference: reference.to_owned(),
        }),
    ]
}

fn releases(token: u64, reference: &str, reason: &'static str) -> Vec<Output> {
    vec![
        sent(agent_message::Kind::Release(Release { token })),
        Output::Observe(Event::Released {
            reference: reference.to_owned(),
            reason,
        }),
    ]
}

fn done(token: u64, digest: &str, pull_ms: u64, reference: &str) -> Output {
    sent(agent_message::Kind::Done(Done {
        token,
        digests: vec![digest.to_owned()],
        size_bytes: 7,
        pull_ms,
        reference: reference.to_owned(),
    }))
}

fn failed(token: u64, class: FailureClass, message: &str, ms: u64, reference: &str) -> Output {
    sent(agent_message::Kind::Failed(Failed {
        token,
        class: class.into(),
        message: message.to_owned(),
        pull_ms: ms,
        reference: reference.to_owned(),
    }))
}

fn renews(tokens: &[u64]) -> Output {
    sent(agent_message::Kind::Renew(Renew {
        tokens: tokens.to_vec(),
    }))
}

fn runtime_state(available: bool, message: &str) -> RuntimeState {
    RuntimeState {
        available,
        message: message.to_owned(),
        runtime: "containerd 1.7.27".to_owned(),
        platform: "linux/amd64".to_owned(),
    }
}

/// What goes to the coordinator and to the runtime, without what is only counted.
fn acts(outputs: Vec<Output>) -> Vec<Output> {
    outputs
        .into_iter()
        .filter(|output| !matches!(output, Output::Observe(_)))
        .collect()
}
