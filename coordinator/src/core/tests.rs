//! The state machine as a whole, driven by hand: each test is a short story with a few nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use drop_api::conditions::{PULL_PROGRESS, READY};
use drop_api::{CachedImageSpec, CachedImageStatus, ImagePullPolicy, Phase};
use drop_proto::{
    Ask, Done, Failed, FailureClass, Grant, HeldGrant, Hello, Inventory, InventoryImage,
    RuntimeState, Started, coordinator_message,
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
}

impl World {
    /// A coordinator that knows `nodes` nodes named n1, n2 ..., with agents numbered alike, and no image.
    fn new(nodes: u64) -> Self {
        let mut world = Self {
            core: Core::new(Config::default()),
            now: Duration::from_secs(1000),
            written: BTreeMap::new(),
            writes: 0,
            version: 1,
            grants: Vec::new(),
            desired: Vec::new(),
            closed: Vec::new(),
            revoked: Vec::new(),
            events: Vec::new(),
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
                Output::Send(session, message) => match message.kind.unwrap() {
                    coordinator_message::Kind::Grant(grant) => self.grants.push((session.0, grant)),
                    coordinator_message::Kind::Desired(desired) => {
                        self.desired.push((session.0, desired));
                    }
                    coordinator_message::Kind::Revoke(revoke) => self.revoked.push(revoke.token),
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

#[test]
fn an_image_lands_on_all_nodes() {
    let mut world = World::new(2);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    world.ask_all(2, REFERENCE);
    let (probe, token) = world.granted();
    world.done(probe, token, "sha256:one");
    let (second, token) = world.granted();
    assert_ne!(probe, second);
    world.done(second, token, "sha256:one");
    world.pass_secs(5);
    let status = world.status("a");
    assert_eq!(status.phase, Some(Phase::Ready));
    assert_eq!(status.ready.as_deref(), Some("2/2"));
    assert_eq!(status.resolved_digest.as_deref(), Some("sha256:one"));
    assert_eq!(status.cached_nodes, ["n1", "n2"]);
    assert_eq!(status.size_bytes, Some(10));
    assert!(status.last_checked_at.is_some());
    assert_eq!(
        world.word("a", READY),
        ("Cached".into(), "Image cached on all 2 target nodes".into())
    );
    assert_eq!(world.word("a", PULL_PROGRESS).0, "Complete");
    let writes = world.writes;
    world.pass_secs(3600);
    assert_eq!(world.writes, writes, "nothing changes, nothing is written");
}

#[test]
fn a_typo_costs_one_pull_before_back_off() {
    let mut world = World::new(3);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    world.ask_all(3, REFERENCE);
    let (probe, token) = world.granted();
    world.fail(probe, token, FailureClass::NotFound);
    world.pass_secs(299);
    assert!(world.grants.is_empty(), "the image waits for all");
    let status = world.status("a");
    assert_eq!((status.nodes_failed, status.nodes_waiting), (1, 2));
    assert_eq!(
        world.word("a", READY),
        (
            "ImagePullBackOff".into(),
            "not_found; 0/3 nodes ready".into()
        )
    );
    assert_eq!(world.word("a", PULL_PROGRESS).0, "Stalled");
    assert!(
        world
            .status("a")
            .nodes
            .iter()
            .all(|n| n.next_retry.is_some() && n.since.is_some())
    );
    world.pass_secs(2);
    let (next, _) = world.granted();
    assert_ne!(next, probe, "another node may have better luck");
    assert_eq!(world.events, ["ErrImagePull", "ImagePullBackOff"]);
}

#[test]
fn the_user_who_edits_the_object_does_not_wait() {
    let mut world = World::new(1);
    world.image("a", |_| {});
    world.ask(1, REFERENCE);
    let (node, token) = world.granted();
    world.fail(node, token, FailureClass::Unauthorized);
    world.pass_secs(5);
    assert!(world.grants.is_empty());
    world.image("a", |spec| spec.priority = Some(1));
    assert!(
        world.grants.is_empty(),
        "its place in the order mends nothing"
    );
    world.image("a", |spec| {
        let secret = serde_json::from_value(serde_json::json!({"name": "creds"})).unwrap();
        spec.image_pull_secrets = vec![secret];
    });
    world.granted();
}

#[test]
fn a_long_pull_is_proof_enough_for_the_others() {
    let mut world = World::new(3);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    world.ask_all(3, REFERENCE);
    world.granted();
    world.pass_secs(14);
    assert!(world.grants.is_empty());
    world.pass_secs(1);
    assert_eq!(world.grants.len(), 2);
}

#[test]
fn a_policy_bounds_nodes_pulls_and_starts() {
    let mut world = World::new(3);
    let limits = Limits {
        max_nodes: 2,
        min_delay: Duration::from_secs(2),
        ..Limits::default()
    };
    world.policy("p", limits);
    world.image("a", with_policy("p"));
    world.ask_all(3, REFERENCE);
    let (first, token) = world.granted();
    world.done(first, token, "sha256:one");
    assert!(world.grants.is_empty(), "the delay has not passed");
    world.pass_secs(2);
    let (second, token) = world.granted();
    world.pass_secs(2);
    let (third, _) = world.granted();
    assert_eq!(
        [first, second, third].iter().collect::<BTreeSet<_>>().len(),
        3
    );
    world.done(second, token, "sha256:one");
}

#[test]
fn priority_then_name_decides_who_is_first() {
    let mut world = World::new(1);
    for (name, tag, priority) in [
        ("b", "b", 0),
        ("a", "a", 0),
        ("late", "late", 10),
        ("early", "early", -10),
    ] {
        world.image(name, |spec| {
            spec.tag = Some(tag.to_owned());
            spec.priority = Some(priority);
        });
    }
    let all = ["b", "a", "late", "early"].map(|tag| format!("{IMAGE}:{tag}"));
    world.say(
        1,
        agent_message::Kind::Ask(Ask {
            references: all.to_vec(),
            withdrawn: Vec::new(),
        }),
    );
    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(world.grants[0].1.reference.clone());
        let (node, token) = world.granted();
        world.done(node, token, "sha256:x");
        world.pass_secs(15);
    }
    assert_eq!(
        order,
        ["early", "a", "b", "late"].map(|tag| format!("{IMAGE}:{tag}"))
    );
}

#[test]
fn a_429_pauses_the_host_for_all_nodes_and_images() {
    let mut world = World::new(3);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    world.image("b", |spec| {
        with_policy("open")(spec);
        spec.tag = Some("2".to_owned());
    });
    world.ask_all(3, REFERENCE);
    let (node, token) = world.granted();
    world.fail(node, token, FailureClass::Throttled);
    world.ask_all(3, "r.io/a:2");
    world.pass_secs(23);
    assert!(world.grants.is_empty(), "{:?}", world.grants);
    let (reason, message) = world.word("a", READY);
    assert_eq!(reason, "RegistryUnavailable");
    assert!(
        message.contains("next try at 1970-01-01T00:17:10Z"),
        "{message}"
    );
    world.pass_secs(8);
    world.granted();
}

#[test]
fn one_bad_node_does_not_slow_the_others() {
    let mut world = World::new(3);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    world.ask_all(3, REFERENCE);
    let (bad, token) = world.granted();
    world.fail(bad, token, FailureClass::Dns);
    let (good, token) = world.granted();
    assert_ne!(bad, good, "the trial goes to another node at once");
    world.done(good, token, "sha256:one");
    let (other, token) = world.granted();
    world.done(other, token, "sha256:one");
    world.pass_secs(1);
    assert_eq!(world.status("a").nodes_ready, 2);
}

#[test]
fn a_full_disk_stops_the_node_and_nobody_else() {
    let mut world = World::new(2);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    world.image("b", |spec| {
        with_policy("open")(spec);
        spec.tag = Some("2".to_owned());
    });
    world.ask_all(2, REFERENCE);
    let (full, token) = world.granted();
    world.ask(full, "r.io/a:2");
    world.fail(full, token, FailureClass::NoSpace);
    let (other, token) = world.granted();
    assert_ne!(full, other);
    world.done(other, token, "sha256:one");
    world.pass_secs(5);
    assert!(world.grants.is_empty());
    assert_eq!(world.word("a", READY).0, "InsufficientDisk");
    assert_eq!(world.status("b").nodes[0].reason, "InsufficientDisk");
    assert_eq!(world.word("b", READY).0, "InsufficientDisk");
    assert_eq!(world.status("b").phase, Some(Phase::Degraded));
}

#[test]
fn what_all_nodes_hold_already_is_checked_by_one() {
    let mut world = World::new(3);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    for node in 1..=3 {
        world.holds(node, REFERENCE, "sha256:one");
        world.ask(node, REFERENCE);
    }
    let (node, token) = world.granted();
    world.desired.clear();
    world.done(node, token, "sha256:one");
    assert!(
        world.grants.is_empty(),
        "the others hold what the tag names: {:?}",
        world.grants
    );
    let told: Vec<&str> = world
        .desired
        .iter()
        .map(|(_, d)| d.images[0].expected_digest.as_str())
        .collect();
    assert_eq!(told, ["sha256:one"; 3]);
    world.pass_secs(1);
    assert_eq!(world.status("a").ready.as_deref(), Some("3/3"));
}

#[test]
fn an_image_that_may_be_old_needs_no_check_with_if_not_present() {
    let mut world = World::new(1);
    world.image("a", |spec| {
        spec.image_pull_policy = ImagePullPolicy::IfNotPresent;
    });
    world.holds(1, REFERENCE, "sha256:old");
    world.pass_secs(2);
    assert_eq!(world.status("a").phase, Some(Phase::Ready));
    assert_eq!(
        world.status("a").resolved_digest.as_deref(),
        Some("sha256:old")
    );
    assert!(world.status("a").last_checked_at.is_none());
}

#[test]
fn never_reports_and_never_pulls() {
    let mut world = World::new(2);
    world.image("a", |spec| spec.image_pull_policy = ImagePullPolicy::Never);
    world.holds(1, REFERENCE, "sha256:one");
    let absent = InventoryImage {
        reference: REFERENCE.to_owned(),
        ..InventoryImage::default()
    };
    world.say(
        2,
        agent_message::Kind::Inventory(Inventory {
            images: vec![absent],
            ..Inventory::default()
        }),
    );
    world.pass_secs(2);
    assert!(world.grants.is_empty());
    assert_eq!(world.word("a", READY).0, "ErrImageNeverPull");
    assert_eq!(world.status("a").nodes[0].node, "n2");
}

#[test]
fn a_moved_tag_is_found_by_one_node_and_ready_stays_true() {
    let mut world = World::new(2);
    world.policy(
        "open",
        Limits {
            repull_interval: Some(Duration::from_secs(3600)),
            ..open()
        },
    );
    world.image("a", with_policy("open"));
    world.ask_all(2, REFERENCE);
    for _ in 0..2 {
        let (node, token) = world.granted();
        world.done(node, token, "sha256:one");
    }
    world.pass_secs(3590);
    world.desired.clear();
    world.pass_secs(11);
    let (checker, desired) = world.desired.pop().unwrap();
    assert!(world.desired.is_empty(), "one node checks");
    assert!(desired.images[0].check > 0);
    world.ask(checker, REFERENCE);
    let (node, token) = world.granted();
    assert_eq!(node, checker);
    world.done(node, token, "sha256:two");
    let other = 3 - checker;
    world.ask(other, REFERENCE);
    world.pass_secs(1);
    assert_eq!(world.status("a").phase, Some(Phase::Ready));
    let (reason, message) = world.word("a", READY);
    assert_eq!(
        (reason.as_str(), message.as_str()),
        (
            "Cached",
            "Image cached on all 2 target nodes; 1/2 nodes on the newest digest"
        )
    );
    let (node, token) = world.granted();
    assert_eq!(node, other);
    world.done(node, token, "sha256:two");
    world.pass_secs(2);
    assert_eq!(
        world.word("a", READY).1,
        "Image cached on all 2 target nodes"
    );
    assert_eq!(
        world.status("a").resolved_digest.as_deref(),
        Some("sha256:two")
    );
}

#[test]
fn a_check_that_fails_on_one_node_is_done_by_another_and_ready_stays_true() {
    let mut world = World::new(2);
    world.policy(
        "open",
        Limits {
            repull_interval: Some(Duration::from_secs(3600)),
            ..open()
        },
    );
    world.image("a", with_policy("open"));
    world.ask_all(2, REFERENCE);
    for _ in 0..2 {
        let (node, token) = world.granted();
        world.done(node, token, "sha256:one");
    }
    world.pass_secs(3590);
    world.desired.clear();
    world.pass_secs(11);
    let (checker, _) = world.desired.pop().unwrap();
    world.ask(checker, REFERENCE);
    let (node, token) = world.granted();
    world.fail(node, token, FailureClass::ServerError);
    world.pass_secs(1);
    assert_eq!(world.status("a").phase, Some(Phase::Ready));
    let (reason, message) = world.word("a", READY);
    assert_eq!(
        (reason.as_str(), message.as_str()),
        (
            "Cached",
            "Image cached on all 2 target nodes; cannot check the tag: server_error"
        )
    );
    let (relieved, desired) = world.desired.pop().unwrap();
    assert_eq!((relieved, desired.images[0].check), (checker, 0));
    assert!(world.desired.is_empty(), "the next check waits");
    let withdrawn = Ask {
        references: Vec::new(),
        withdrawn: vec![REFERENCE.to_owned()],
    };
    world.say(checker, agent_message::Kind::Ask(withdrawn));

    world.pass_secs(30);
    let (other, desired) = world.desired.pop().unwrap();
    assert_eq!(other, 3 - checker);
    assert!(desired.images[0].check > 0);
    world.ask(other, REFERENCE);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(2);
    assert_eq!(
        world.word("a", READY).1,
        "Image cached on all 2 target nodes"
    );
    assert_eq!(world.status("a").consecutive_failures, 0);
}

#[test]
fn an_image_that_the_kubelet_removed_is_missing_again() {
    let mut world = World::new(1);
    world.image("a", |_| {});
    world.ask(1, REFERENCE);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(5);
    world.lacks(1, REFERENCE);
    let (node, token) = world.granted();
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("0/1"));
    world.done(node, token, "sha256:one");
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("1/1"));
}

#[test]
fn a_tag_edit_starts_anew() {
    let mut world = World::new(1);
    world.image("a", |_| {});
    world.ask(1, REFERENCE);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(5);
    world.desired.clear();
    world.image("a", |spec| spec.tag = Some("2".to_owned()));
    let (_, desired) = world.desired.pop().unwrap();
    assert_eq!(desired.dropped, [REFERENCE]);
    assert_eq!(desired.images[0].reference, "r.io/a:2");
    world.pass_secs(2);
    let status = world.status("a");
    assert_eq!(
        (status.ready.as_deref(), status.resolved_digest.as_deref()),
        (Some("0/1"), None)
    );
    world.ask(1, "r.io/a:2");
    world.granted();
}

#[test]
fn a_silent_agent_loses_its_grant_after_one_ttl() {
    let mut world = World::new(2);
    world.policy(
        "p",
        Limits {
            max_nodes: 1,
            min_delay: Duration::ZERO,
            ..Limits::default()
        },
    );
    world.image("a", with_policy("p"));
    world.ask_all(2, REFERENCE);
    let (lost, _) = world.granted();
    world.step(Input::Disconnected(SessionId(lost)));
    world.pass_secs(59);
    assert!(world.grants.is_empty(), "the pull may still run");
    world.pass_secs(1);
    assert_ne!(world.granted().0, lost);
}

#[test]
fn an_agent_that_comes_back_keeps_its_grant() {
    let mut world = World::new(2);
    world.policy(
        "p",
        Limits {
            max_nodes: 1,
            min_delay: Duration::ZERO,
            ..Limits::default()
        },
    );
    world.image("a", with_policy("p"));
    world.ask_all(2, REFERENCE);
    let (node, token) = world.granted();
    world.step(Input::Disconnected(SessionId(node)));
    world.pass_secs(40);
    world.connect(
        node,
        vec![HeldGrant {
            token,
            reference: REFERENCE.to_owned(),
            running_ms: 40_000,
        }],
    );
    world.pass_secs(40);
    assert!(world.grants.is_empty());
    world.done(node, token, "sha256:one");
    assert_ne!(world.granted().0, node);
}

#[test]
fn a_new_leader_takes_over_what_the_old_one_granted() {
    let mut old = World::new(2);
    old.policy(
        "p",
        Limits {
            max_nodes: 1,
            min_delay: Duration::ZERO,
            ..Limits::default()
        },
    );
    old.image("a", with_policy("p"));
    old.ask_all(2, REFERENCE);
    let (node, token) = old.granted();
    assert_eq!(node, 1);

    let mut new = World::new(0);
    new.core = Core::new(Config::default());
    let facts = ["n1", "n2"].map(|name| NodeFacts {
        name: name.to_owned(),
        ..NodeFacts::default()
    });
    new.step(Input::Node(Change::Replaced(facts.to_vec())));
    let policies = vec![(
        "p".to_owned(),
        Limits {
            max_nodes: 1,
            min_delay: Duration::ZERO,
            ..Limits::default()
        },
    )];
    new.step(Input::Policy(Change::Replaced(policies)));
    let object = new.object("a", 1, with_policy("p"));
    new.step(Input::Image(Change::Replaced(vec![object])));
    new.connect(2, Vec::new());
    new.ask(2, REFERENCE);
    new.pass_secs(30);
    assert!(new.grants.is_empty(), "n1 may be pulling");
    new.connect(
        1,
        vec![HeldGrant {
            token,
            reference: REFERENCE.to_owned(),
            running_ms: 1,
        }],
    );
    new.pass_secs(30);
    assert!(new.grants.is_empty(), "n1 is pulling");
    new.done(1, token, "sha256:one");
    assert_eq!(new.granted().0, 2);
}

#[test]
fn a_pull_that_outlives_a_restart_checks_the_tag() {
    let mut old = World::new(1);
    old.image("a", |_| {});
    old.ask(1, REFERENCE);
    let (_, token) = old.granted();
    old.pass_secs(2);
    assert_eq!(old.status("a").nodes_pulling, 1);

    let mut new = World::new(0);
    new.core = Core::new(Config::default());
    new.now = Duration::from_secs(1);
    new.written = old.written.clone();
    new.step(Input::Policy(Change::Replaced(Vec::new())));
    let object = new.object("a", 1, |_| {});
    new.step(Input::Image(Change::Replaced(vec![object])));
    let facts = NodeFacts {
        name: "n1".to_owned(),
        ..NodeFacts::default()
    };
    new.step(Input::Node(Change::Replaced(vec![facts])));
    new.pass_secs(1);
    let held = HeldGrant {
        token,
        reference: REFERENCE.to_owned(),
        running_ms: 5_000,
    };
    new.connect(1, vec![held]);
    new.desired.clear();
    new.done(1, token, "sha256:one");
    new.pass_secs(30);
    assert!(new.status("a").last_checked_at.is_some());
    assert_eq!(new.status("a").phase, Some(Phase::Ready));
    let checks = new.desired.iter().flat_map(|(_, desired)| &desired.images);
    assert!(
        checks.clone().all(|image| image.check == 0),
        "checked again"
    );
}

#[test]
fn a_restart_writes_nothing_that_is_still_true() {
    let mut old = World::new(2);
    old.policy("open", open());
    old.image("a", with_policy("open"));
    old.ask_all(2, REFERENCE);
    for _ in 0..2 {
        let (node, token) = old.granted();
        old.done(node, token, "sha256:one");
    }
    old.pass_secs(5);
    assert_eq!(old.status("a").phase, Some(Phase::Ready));

    let mut new = successor(&old);
    new.pass_secs(5);
    for node in 1..=2 {
        new.connect(node, Vec::new());
        new.holds(node, REFERENCE, "sha256:one");
    }
    new.pass_secs(600);
    assert_eq!(new.writes, 0, "{:?}", new.written);
    assert!(new.grants.is_empty());
}

/// Another process after `old`: two nodes, no agent yet, and image `a` with what stands in its status.
fn successor(old: &World) -> World {
    let mut new = World::new(0);
    new.core = Core::new(Config::default());
    new.now = old.now;
    new.written = old.written.clone();
    let object = new.object("a", 1, with_policy("open"));
    new.step(Input::Image(Change::Replaced(vec![object])));
    new.pass_secs(1);
    new.step(Input::Policy(Change::Replaced(vec![(
        "open".to_owned(),
        open(),
    )])));
    let facts = ["n1", "n2"].map(|name| NodeFacts {
        name: name.to_owned(),
        ..NodeFacts::default()
    });
    new.step(Input::Node(Change::Replaced(facts.to_vec())));
    new
}

#[test]
fn a_restart_tells_what_changed_as_soon_as_all_agents_have_spoken() {
    let mut old = World::new(2);
    old.policy("open", open());
    old.image("a", with_policy("open"));
    old.ask_all(2, REFERENCE);
    for _ in 0..2 {
        let (node, token) = old.granted();
        old.done(node, token, "sha256:one");
    }
    old.pass_secs(5);

    let mut new = successor(&old);
    new.connect(1, Vec::new());
    new.holds(1, REFERENCE, "sha256:one");
    new.pass_secs(5);
    assert_eq!(new.writes, 0, "node 2 may still say that nothing changed");
    new.connect(2, Vec::new());
    new.lacks(2, REFERENCE);
    new.pass_secs(2);
    assert_eq!(new.status("a").ready.as_deref(), Some("1/2"));
}

#[test]
fn an_image_that_nobody_has_a_status_for_has_one_soon_after_the_start() {
    let mut new = successor(&World::new(0));
    new.pass_secs(2);
    assert_eq!(new.status("a").ready.as_deref(), Some("0/2"));
}

#[test]
fn a_node_that_joins_soon_after_the_start_is_counted_at_once() {
    let mut world = World::new(1);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    world.ask_all(1, REFERENCE);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("1/1"));

    world.step(Input::Node(Change::Applied(NodeFacts {
        name: "n2".to_owned(),
        ..NodeFacts::default()
    })));
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("1/2"));
    world.pass_secs(30);
    assert_eq!(world.word("a", READY).0, "AgentNotConnected");
    world.connect(2, Vec::new());
    world.holds(2, REFERENCE, "sha256:one");
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("2/2"));
}

#[test]
fn a_second_agent_cannot_take_a_node() {
    let mut world = World::new(1);
    let hello = Hello {
        node: "n1".to_owned(),
        instance: "thief".to_owned(),
        ..Hello::default()
    };
    world.step(Input::Connected(SessionId(99), hello));
    let (session, close) = world.closed.pop().unwrap();
    assert_eq!(session, 99);
    assert!(matches!(close, Close::NodeTaken(why) if why.contains("n1") && why.contains("i1")));
}

#[test]
fn a_node_without_an_agent_is_never_ready_by_hearsay() {
    let mut world = World::new(2);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    for node in 1..=2 {
        world.holds(node, REFERENCE, "sha256:one");
        world.ask(node, REFERENCE);
    }
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("2/2"));
    world.step(Input::Disconnected(SessionId(2)));
    world.pass_secs(29);
    assert_eq!(
        world.status("a").ready.as_deref(),
        Some("2/2"),
        "an agent's restart is no news"
    );
    world.pass_secs(2);
    let status = world.status("a");
    assert_eq!(
        (status.ready.as_deref(), status.nodes[0].reason.as_str()),
        (Some("1/2"), "AgentNotConnected")
    );
    assert_eq!(world.word("a", READY).0, "AgentNotConnected");
}

#[test]
fn a_label_change_brings_a_node_in_and_out() {
    let mut world = World::new(1);
    let selector = BTreeMap::from([("pool".to_owned(), "build".to_owned())]);
    world.image("a", |spec| spec.node_selector = selector.clone());
    world.pass_secs(1);
    let (reason, message) = world.word("a", READY);
    assert_eq!(reason, "NoMatchingNodes");
    assert!(message.contains("pool=build"), "{message}");
    let facts = NodeFacts {
        name: "n1".to_owned(),
        labels: selector.clone(),
        ..NodeFacts::default()
    };
    world.step(Input::Node(Change::Applied(facts)));
    world.ask(1, REFERENCE);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("1/1"));
    world.step(Input::Node(Change::Applied(NodeFacts {
        name: "n1".to_owned(),
        ..NodeFacts::default()
    })));
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("0/0"));
}

#[test]
fn a_missing_policy_is_said_and_the_defaults_apply() {
    let mut world = World::new(1);
    world.image("a", with_policy("nope"));
    world.ask(1, REFERENCE);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(2);
    let (reason, message) = world.word("a", READY);
    assert_eq!(reason, "Cached");
    assert!(
        message.ends_with("PullPolicy \"nope\" not found, the built-in defaults apply"),
        "{message}"
    );
}

#[test]
fn waits_are_kept_over_a_restart() {
    let mut old = World::new(1);
    old.policy(
        "slow",
        Limits {
            backoff: Backoff {
                initial: Duration::from_secs(600),
                max: Duration::from_secs(600),
            },
            ..open()
        },
    );
    old.image("a", with_policy("slow"));
    old.ask(1, REFERENCE);
    let (node, token) = old.granted();
    old.fail(node, token, FailureClass::NotFound);
    old.pass_secs(60);

    let mut new = World::new(0);
    new.now = old.now;
    new.written = old.written.clone();
    new.step(Input::Node(Change::Applied(NodeFacts {
        name: "n1".to_owned(),
        ..NodeFacts::default()
    })));
    let object = new.object("a", 1, with_policy("slow"));
    new.step(Input::Image(Change::Applied(object)));
    new.connect(1, Vec::new());
    new.ask(1, REFERENCE);
    new.pass_secs(500);
    assert!(new.grants.is_empty());
    new.pass_secs(60);
    new.granted();
}

#[test]
fn what_agents_say_before_the_first_lists_is_kept() {
    let mut world = World::new(0);
    world.core = Core::new(Config::default());
    let held = HeldGrant {
        token: 7,
        reference: REFERENCE.to_owned(),
        running_ms: 1000,
    };
    world.connect(1, vec![held]);
    world.step(Input::Policy(Change::Replaced(Vec::new())));
    let facts = ["n1", "n2"].map(|name| NodeFacts {
        name: name.to_owned(),
        ..NodeFacts::default()
    });
    world.step(Input::Node(Change::Replaced(facts.to_vec())));
    let object = world.object("a", 1, |_| {});
    world.step(Input::Image(Change::Replaced(vec![object])));
    world.connect(2, Vec::new());
    world.ask_all(2, REFERENCE);
    assert!(
        world.grants.is_empty(),
        "one node at a time, and n1 is pulling: {:?}",
        world.grants
    );
    world.done(1, 7, "sha256:one");
    world.pass_secs(1);
    assert_eq!(world.status("a").ready.as_deref(), Some("1/2"));
}

#[test]
fn a_released_grant_is_given_again_a_moment_later() {
    let mut world = World::new(1);
    world.image("a", |_| {});
    world.ask(1, REFERENCE);
    let (node, token) = world.granted();
    world.say(
        node,
        agent_message::Kind::Release(drop_proto::Release { token }),
    );
    assert!(world.grants.is_empty(), "no loop");
    world.pass_secs(2);
    world.granted();
}

#[test]
fn a_restart_checks_a_tag_when_its_interval_is_over_and_not_before() {
    let limits = Limits {
        repull_interval: Some(Duration::from_secs(3600)),
        ..open()
    };
    let mut old = World::new(1);
    old.policy("hourly", limits.clone());
    old.image("a", with_policy("hourly"));
    old.ask(1, REFERENCE);
    let (node, token) = old.granted();
    old.done(node, token, "sha256:one");
    old.pass_secs(600);

    let mut new = World::new(0);
    new.core = Core::new(Config::default());
    new.now = old.now;
    new.written = old.written.clone();
    let node = NodeFacts {
        name: "n1".to_owned(),
        ..NodeFacts::default()
    };
    new.step(Input::Node(Change::Replaced(vec![node])));
    let object = new.object("a", 1, with_policy("hourly"));
    new.step(Input::Image(Change::Replaced(vec![object])));
    new.step(Input::Policy(Change::Replaced(vec![(
        "hourly".to_owned(),
        limits,
    )])));
    new.connect(1, Vec::new());
    new.holds(1, REFERENCE, "sha256:one");
    new.desired.clear();
    new.pass_secs(2990);
    assert!(new.desired.is_empty(), "{:?}", new.desired);
    new.pass_secs(30);
    let (_, desired) = new.desired.pop().unwrap();
    assert!(desired.images[0].check > 0);
}

#[test]
fn a_policy_of_defaults_is_found_as_soon_as_it_is_there() {
    let mut world = World::new(1);
    world.image("a", with_policy("plain"));
    world.pass_secs(2);
    assert!(world.word("a", READY).1.contains("not found"));
    world.policy("plain", Limits::default());
    world.pass_secs(100);
    assert!(!world.word("a", READY).1.contains("not found"));
}

#[test]
fn a_node_that_changes_from_one_object_to_another_of_the_same_image_loses_nothing() {
    let pool = |name: &str| BTreeMap::from([("pool".to_owned(), name.to_owned())]);
    let facts = |name: &str| NodeFacts {
        name: "n1".to_owned(),
        labels: pool(name),
        ..NodeFacts::default()
    };
    let mut world = World::new(1);
    world.step(Input::Node(Change::Applied(facts("a"))));
    for name in ["a", "b"] {
        world.image(name, |spec| spec.node_selector = pool(name));
    }
    world.ask(1, REFERENCE);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(2);
    world.desired.clear();
    world.step(Input::Node(Change::Applied(facts("b"))));
    world.pass_secs(2);
    assert!(world.desired.is_empty(), "nothing changes for the node");
    assert_eq!(world.status("b").ready.as_deref(), Some("1/1"));
    assert_eq!(world.status("a").ready.as_deref(), Some("0/0"));
}

#[test]
fn a_node_that_was_away_for_long_is_ready_only_when_it_has_reported() {
    let mut world = World::new(1);
    world.image("a", |_| {});
    world.ask(1, REFERENCE);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(2);
    world.step(Input::Disconnected(SessionId(1)));
    world.pass_secs(40);
    assert_eq!(world.word("a", READY).0, "AgentNotConnected");
    let hello = Hello {
        node: "n1".to_owned(),
        instance: "after the reboot".to_owned(),
        runtime: Some(RuntimeState {
            available: true,
            ..RuntimeState::default()
        }),
        ..Hello::default()
    };
    world.step(Input::Connected(SessionId(9), hello));
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("0/1"));
    let inventory = Inventory {
        complete: true,
        ..Inventory::default()
    };
    world.say(9, agent_message::Kind::Inventory(inventory));
    world.holds(9, REFERENCE, "sha256:one");
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("1/1"));
}

#[test]
fn an_object_that_never_pulls_lends_its_policy_to_nobody() {
    let mut world = World::new(2);
    world.policy(
        "one",
        Limits {
            max_nodes: 1,
            min_delay: Duration::ZERO,
            ..Limits::default()
        },
    );
    world.image("a", |spec| spec.image_pull_policy = ImagePullPolicy::Never);
    world.image("b", with_policy("one"));
    world.ask_all(2, REFERENCE);
    world.granted();
    world.pass_secs(20);
    assert!(
        world.grants.is_empty(),
        "one node at a time: {:?}",
        world.grants
    );
}

#[test]
fn what_is_not_wanted_any_more_is_revoked_when_its_agent_comes_back() {
    let mut world = World::new(1);
    let held = HeldGrant {
        token: 77,
        reference: "r.io/gone:1".to_owned(),
        running_ms: 1000,
    };
    world.step(Input::Disconnected(SessionId(1)));
    world.connect(1, vec![held]);
    assert_eq!(world.revoked, [77]);
}
