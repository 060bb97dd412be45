//! The coordinator's state machine without any I/O: agents that answer at once, an API server that takes every write. What is
//! left is the cost of its decisions, for a profiler to look at.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use drop_api::CachedImageSpec;
use drop_coordinator::core::{Change, Config, Core, Input, Now, Output};
use drop_coordinator::index::{ImageObject, SessionId};
use drop_coordinator::pacing::policy::Limits;
use drop_coordinator::plan::NodeFacts;
use drop_coordinator::session::message::Message;
use drop_proto::{
    Ask, Done, Hello, Inventory, InventoryImage, RuntimeState, Started, agent_message,
};

use crate::args::CoreArgs;
use crate::process::usage;
use crate::swarm::node_name;

const POLICY: &str = "open";
const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Runs one wave and says what it cost.
pub(crate) fn run(args: &CoreArgs) -> String {
    let mut world = World::new();
    world.prepare(args.agents);
    let begin = Instant::now();
    for number in 0..args.images {
        world.feed(Input::Image(Change::Applied(image(number))));
    }
    world.settle(args.agents * args.images);
    let took = begin.elapsed();
    let memory = usage(std::process::id())
        .map(|usage| usage.peak_mib)
        .unwrap_or_default();
    format!(
        "{} agents x {} images: {} pulls, {} status writes, {} steps in {:.2} s ({:.1} us each, slowest {:.1} ms), peak {memory:.0} MiB",
        args.agents,
        args.images,
        world.pulled,
        world.writes,
        world.steps,
        took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / world.steps.max(1) as f64,
        world.slowest.as_secs_f64() * 1e3,
    )
}

struct World {
    core: Core,
    inputs: VecDeque<Input>,
    /// Moves on by a microsecond a step: what takes place at once is seen as such.
    now: Duration,
    version: u64,
    pulled: u64,
    writes: u64,
    steps: u64,
    slowest: Duration,
    asks: BTreeSet<(u64, String)>,
}

impl World {
    fn new() -> Self {
        let config = Config {
            registry_budget: u32::MAX,
            // No registry answers here.
            resolve_tags: false,
            ..Config::default()
        };
        Self {
            core: Core::new(config),
            inputs: VecDeque::new(),
            now: Duration::ZERO,
            version: 1,
            pulled: 0,
            writes: 0,
            steps: 0,
            slowest: Duration::ZERO,
            asks: BTreeSet::new(),
        }
    }

    /// All nodes with their agents, a policy without limits, no image.
    fn prepare(&mut self, agents: u64) {
        let limits = Limits {
            max_nodes: u32::MAX,
            min_delay: Duration::ZERO,
            ..Limits::default()
        };
        self.feed(Input::Policy(Change::Replaced(vec![(
            POLICY.to_owned(),
            limits,
        )])));
        self.feed(Input::Image(Change::Replaced(Vec::new())));
        let name = |agent: u64| node_name(usize::try_from(agent).unwrap_or(usize::MAX));
        let facts = (0..agents).map(|agent| NodeFacts {
            name: name(agent),
            ..NodeFacts::default()
        });
        self.feed(Input::Node(Change::Replaced(facts.collect())));
        for agent in 0..agents {
            let hello = Hello {
                node: name(agent),
                instance: agent.to_string(),
                max_parallel_pulls: 1,
                runtime: Some(RuntimeState {
                    available: true,
                    platform: "linux/amd64".to_owned(),
                    ..RuntimeState::default()
                }),
                ..Hello::default()
            };
            self.feed(Input::Connected(SessionId(agent), hello));
        }
        (self.steps, self.slowest) = (0, Duration::ZERO);
    }

    fn feed(&mut self, input: Input) {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            self.step(input);
        }
    }

    /// Lets time pass until all is pulled and written.
    fn settle(&mut self, pulls: u64) {
        let end = self.now + Duration::from_secs(120);
        while let Some(at) = self
            .core
            .wake_at()
            .filter(|at| *at < end && self.pulled <= pulls)
        {
            self.now = self.now.max(at);
            self.feed(Input::Tick);
        }
    }

    fn step(&mut self, input: Input) {
        self.now += Duration::from_micros(1);
        let begin = Instant::now();
        let outputs = self.core.step(Now::at(self.now), input);
        self.slowest = self.slowest.max(begin.elapsed());
        self.steps += 1;
        for output in outputs {
            match output {
                Output::Send(session, message) => {
                    self.answer(session, message);
                }
                Output::Write { name, uid, .. } => {
                    self.writes += 1;
                    self.version += 1;
                    self.inputs
                        .push_back(Input::Written(name, uid, Ok(self.version)));
                }
                Output::Close(..)
                | Output::Publish(_)
                | Output::Count(_)
                | Output::Resolve(_)
                | Output::WantSecrets(_) => {}
            }
        }
    }

    /// What an agent that holds nothing and pulls at once would say.
    fn answer(&mut self, session: SessionId, said: Message) {
        match said {
            Message::Desired(desired) => {
                let mut references: Vec<String> = desired
                    .images
                    .iter()
                    .map(|told| told.reference.clone())
                    .collect();
                references.retain(|reference| self.asks.insert((session.0, reference.clone())));
                let absent = references.iter().map(|reference| InventoryImage {
                    reference: reference.clone(),
                    ..InventoryImage::default()
                });
                let inventory = Inventory {
                    revision: desired.revision,
                    complete: desired.complete,
                    images: absent.collect(),
                };
                if desired.complete || !references.is_empty() {
                    self.say(session, agent_message::Kind::Inventory(inventory));
                }
                if !references.is_empty() {
                    let ask = Ask {
                        references,
                        withdrawn: Vec::new(),
                    };
                    self.say(session, agent_message::Kind::Ask(ask));
                }
            }
            Message::Grant(grant) => {
                let token = grant.token;
                self.say(session, agent_message::Kind::Started(Started { token }));
                self.pulled += 1;
                let done = Done {
                    token,
                    digests: vec![DIGEST.to_owned()],
                    size_bytes: 1,
                    ..Done::default()
                };
                self.say(session, agent_message::Kind::Done(done));
            }
            Message::Revoke { .. } => {}
        }
    }

    fn say(&mut self, session: SessionId, kind: agent_message::Kind) {
        self.inputs.push_back(Input::Said(session, kind));
    }
}

fn image(number: u64) -> ImageObject {
    let spec = CachedImageSpec {
        image: format!("registry.example/team/image-{number:03}"),
        tag: Some("v1.2.3".to_owned()),
        policy_ref: Some(drop_api::PolicyReference {
            name: POLICY.to_owned(),
        }),
        ..CachedImageSpec::default()
    };
    ImageObject {
        name: format!("image-{number:03}"),
        uid: format!("uid-{number}"),
        generation: 1,
        resource_version: 1,
        spec,
        status: None,
    }
}
