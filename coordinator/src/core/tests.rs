//! The state machine as a whole, driven by hand: each test is a short story with a few nodes.

mod checks;
mod credentials;
mod disk;
mod failures;
mod landing;
mod limits;
mod misbehaviour;
mod resolve;
mod restarts;
mod sessions;
mod terms;

use std::collections::BTreeMap;
use std::time::Duration;

use drop_api::conditions::{PULL_PROGRESS, READY};
use drop_api::{CachedImageSpec, CachedImageStatus, ImagePullPolicy, Phase};
use drop_proto::{
    Ask, Done, Failed, FailureClass, Grant, HeldGrant, Hello, Inventory, InventoryImage, Refusal,
    Refused, RuntimeState, Started,
};

use super::*;
use crate::pacing::backoff::Backoff;

const IMAGE: &str = "r.io/a";
const REFERENCE: &str = "r.io/a:1";

/// A coordinator, its API server and its agents, in the hands of the test.
struct World {
    core: Core,
    now: Duration,
    written: BTreeMap<String, CachedImageStatus>,
    writes: usize,
    version: u64,
    grants: Vec<(u64, Grant)>,
    desired: Vec<(u64, drop_proto::Desired)>,
    closed: Vec<(u64, Close)>,
    revoked: Vec<u64>,
    events: Vec<String>,
    wanted_secrets: Vec<String>,
    questions: Vec<Question>,
}

impl World {
    /// A coordinator that knows `nodes` nodes named n1, n2 ..., with agents numbered alike, and no image.
    fn new(nodes: u64) -> Self {
        Self::with(nodes_check(), nodes)
    }

    fn with(config: Config, nodes: u64) -> Self {
        let mut world = Self {
            core: Core::new(config),
            now: Duration::from_secs(1000),
            written: BTreeMap::new(),
            writes: 0,
            version: 1,
            grants: Vec::new(),
            desired: Vec::new(),
            closed: Vec::new(),
            revoked: Vec::new(),
            events: Vec::new(),
            wanted_secrets: Vec::new(),
            questions: Vec::new(),
        };
        world.step(Input::Policy(Change::Replaced(Vec::new())));
        world.step(Input::Image(Change::Replaced(Vec::new())));
        let facts = (1..=nodes)
            .map(|n| NodeFacts {
                name: format!("n{n}"),
                ..NodeFacts::default()
            })
            .collect();
        world.step(Input::Node(Change::Replaced(facts)));
        for node in 1..=nodes {
            world.connect(node, Vec::new());
        }
        world
    }

    fn step(&mut self, input: Input) {
        let outputs = self.core.step(Now::at(self.now), input);
        for output in outputs {
            match output {
                Output::Send(session, message) => match message {
                    Message::Grant(grant) => self.grants.push((session.0, grant)),
                    Message::Desired(desired) => {
                        self.desired.push((session.0, desired.into()));
                    }
                    Message::Revoke { token } => self.revoked.push(token),
                },
                Output::Close(session, close) => self.closed.push((session.0, close)),
                Output::Write { name, uid, status } => {
                    self.writes += 1;
                    self.version += 1;
                    self.written.insert(name.clone(), *status);
                    let version = self.version;
                    self.step(Input::Written(name, uid, Ok(version)));
                }
                Output::Publish(event) => self.events.push(event.reason),
                Output::WantSecrets(names) => self.wanted_secrets = names.into_iter().collect(),
                Output::Resolve(question) => self.questions.push(question),
                Output::Count(_) => {}
            }
        }
    }

    /// Lets time pass, with every alarm on the way.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.core.wake_at()
            && at <= end
        {
            self.now = self.now.max(at);
            self.step(Input::Tick);
        }
        self.now = end;
    }

    fn pass_secs(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    fn connect(&mut self, node: u64, held: Vec<HeldGrant>) {
        let hello = Hello {
            node: format!("n{node}"),
            instance: format!("i{node}"),
            version: String::new(),
            max_parallel_pulls: 1,
            held,
            runtime: Some(RuntimeState {
                available: true,
                platform: "linux/amd64".to_owned(),
                ..RuntimeState::default()
            }),
        };
        self.step(Input::Connected(SessionId(node), hello));
        self.say(
            node,
            agent_message::Kind::Inventory(Inventory {
                complete: true,
                ..Inventory::default()
            }),
        );
    }

    fn say(&mut self, node: u64, kind: agent_message::Kind) {
        self.step(Input::Said(SessionId(node), kind));
    }

    fn holds(&mut self, node: u64, reference: &str, digest: &str) {
        let image = InventoryImage {
            reference: reference.to_owned(),
            present: true,
            digests: vec![digest.to_owned()],
            lost: false,
        };
        self.say(
            node,
            agent_message::Kind::Inventory(Inventory {
                images: vec![image],
                ..Inventory::default()
            }),
        );
    }

    fn lacks(&mut self, node: u64, reference: &str) {
        let image = InventoryImage {
            reference: reference.to_owned(),
            lost: true,
            ..InventoryImage::default()
        };
        self.say(
            node,
            agent_message::Kind::Inventory(Inventory {
                images: vec![image],
                ..Inventory::default()
            }),
        );
        self.ask(node, reference);
    }

    /// The node says what it lacks and asks for it, or only asks if it has said that it holds it.
    fn ask(&mut self, node: u64, reference: &str) {
        let image = self
            .core
            .images
            .id(reference)
            .and_then(|id| self.core.images.get(id))
            .unwrap();
        let id = self.core.nodes.id(&format!("n{node}")).unwrap();
        if !image.present.contains(id) {
            let absent = InventoryImage {
                reference: reference.to_owned(),
                ..InventoryImage::default()
            };
            self.say(
                node,
                agent_message::Kind::Inventory(Inventory {
                    images: vec![absent],
                    ..Inventory::default()
                }),
            );
        }
        let ask = Ask {
            references: vec![reference.to_owned()],
            withdrawn: Vec::new(),
        };
        self.say(node, agent_message::Kind::Ask(ask));
    }

    fn ask_all(&mut self, nodes: u64, reference: &str) {
        for node in 1..=nodes {
            self.ask(node, reference);
        }
    }

    /// The one grant that is new; panics if there are none or several.
    fn granted(&mut self) -> (u64, u64) {
        assert_eq!(self.grants.len(), 1, "{:?}", self.grants);
        let (node, grant) = self.grants.pop().unwrap();
        self.say(
            node,
            agent_message::Kind::Started(Started { token: grant.token }),
        );
        (node, grant.token)
    }

    fn done(&mut self, node: u64, token: u64, digest: &str) {
        let done = Done {
            token,
            digests: vec![digest.to_owned()],
            size_bytes: 10,
            ..Done::default()
        };
        self.say(node, agent_message::Kind::Done(done));
    }

    fn fail(&mut self, node: u64, token: u64, class: FailureClass) {
        let failed = Failed {
            token,
            class: class.into(),
            message: class.class().to_owned(),
            ..Failed::default()
        };
        self.say(node, agent_message::Kind::Failed(failed));
    }

    fn image(&mut self, name: &str, change: impl Fn(&mut CachedImageSpec)) {
        self.version += 1;
        let generation = self
            .core
            .objects
            .get(name)
            .map_or(1, |o| o.facts.generation + 1);
        let object = self.object(name, generation, change);
        self.step(Input::Image(Change::Applied(object)));
    }

    fn object(
        &self,
        name: &str,
        generation: i64,
        change: impl Fn(&mut CachedImageSpec),
    ) -> ImageObject {
        let mut spec: CachedImageSpec =
            serde_json::from_value(serde_json::json!({"image": IMAGE, "tag": "1"})).unwrap();
        change(&mut spec);
        ImageObject {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            generation,
            resource_version: self.version,
            spec,
            status: self.written.get(name).cloned(),
        }
    }

    fn policy(&mut self, name: &str, limits: Limits) {
        self.step(Input::Policy(Change::Applied((name.to_owned(), limits))));
    }

    fn status(&self, name: &str) -> &CachedImageStatus {
        self.written.get(name).expect("a status was written")
    }

    fn word(&self, name: &str, kind: &str) -> (String, String) {
        let condition = self
            .status(name)
            .conditions
            .iter()
            .find(|c| c.type_ == kind)
            .unwrap();
        (condition.reason.clone(), condition.message.clone())
    }
}

/// Nodes check tags, as with `--resolve-tags=false`.
fn nodes_check() -> Config {
    Config {
        resolve_tags: false,
        ..Config::default()
    }
}

fn open() -> Limits {
    Limits {
        max_nodes: 100,
        min_delay: Duration::ZERO,
        ..Limits::default()
    }
}

fn with_policy(name: &str) -> impl Fn(&mut CachedImageSpec) + use<'_> {
    move |spec| {
        spec.policy_ref = Some(drop_api::PolicyReference {
            name: name.to_owned(),
        });
    }
}
