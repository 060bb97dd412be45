//! When a tag is asked for again, and what the answer means.

use super::*;

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
fn a_pull_that_outlives_a_restart_checks_the_tag() {
    let mut old = World::new(1);
    old.image("a", |_| {});
    old.ask(1, REFERENCE);
    let (_, token) = old.granted();
    old.pass_secs(2);
    assert_eq!(old.status("a").nodes_pulling, 1);

    let mut new = World::new(0);
    new.core = Core::new(nodes_check());
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
    new.core = Core::new(nodes_check());
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
fn a_digest_that_nobody_checked_is_not_what_the_tag_names() {
    let mut world = World::new(2);
    world.policy("open", open());
    world.image("any", |spec| {
        spec.image_pull_policy = ImagePullPolicy::IfNotPresent;
    });
    for node in 1..=2 {
        world.holds(node, REFERENCE, "sha256:old");
    }
    world.desired.clear();
    world.image("newest", with_policy("open"));
    let told: Vec<&str> = world
        .desired
        .iter()
        .map(|(_, desired)| desired.images[0].expected_digest.as_str())
        .collect();
    assert_eq!(told, ["", ""], "both have to ask");
    world.ask_all(2, REFERENCE);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:new");
    let (other, token) = world.granted();
    assert_ne!(node, other);
    world.done(other, token, "sha256:new");
    world.pass_secs(2);
    assert_eq!(world.status("newest").ready.as_deref(), Some("2/2"));
    assert_eq!(
        world.status("any").resolved_digest.as_deref(),
        Some("sha256:new")
    );
}
