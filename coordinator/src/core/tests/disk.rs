//! Nodes that have no room, or that take an image away again; and how long a pull may take.

use super::*;

impl World {
    pub(super) fn refuse(
        &mut self,
        node: u64,
        reference: &str,
        class: FailureClass,
        message: &str,
    ) {
        let refusal = Refusal {
            reference: reference.to_owned(),
            class: class.into(),
            message: message.to_owned(),
        };
        let refused = Refused {
            images: vec![refusal],
            lifted: Vec::new(),
        };
        self.say(node, agent_message::Kind::Refused(refused));
    }

    fn lift(&mut self, node: u64, reference: &str) {
        let refused = Refused {
            images: Vec::new(),
            lifted: vec![reference.to_owned()],
        };
        self.say(node, agent_message::Kind::Refused(refused));
    }

    fn disk_pressure(&mut self, node: u64, disk_pressure: bool) {
        let facts = NodeFacts {
            name: format!("n{node}"),
            disk_pressure,
            ..NodeFacts::default()
        };
        self.step(Input::Node(Change::Applied(facts)));
    }
}

#[test]
fn a_refusal_is_shown_with_its_numbers_and_holds_up_nobody_else() {
    let mut world = World::new(2);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    world.refuse(1, REFERENCE, FailureClass::NoSpace, "needs 9 GB");
    world.ask(2, REFERENCE);
    let (node, token) = world.granted();
    assert_eq!(node, 2);
    world.done(node, token, "sha256:one");
    world.pass_secs(3);
    assert_eq!(
        world.word("a", READY),
        (
            "InsufficientDisk".into(),
            "needs 9 GB; 1/2 nodes ready".into()
        )
    );
    let status = world.status("a");
    assert_eq!(status.consecutive_failures, 0);
    assert_eq!(status.nodes[0].node, "n1");
    assert!(status.nodes[0].since.is_some());
    let writes = world.writes;
    world.pass_secs(600);
    assert_eq!(world.writes, writes, "nothing to say anew");

    world.lift(1, REFERENCE);
    world.ask(1, REFERENCE);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(3);
    assert_eq!(world.word("a", READY).0, "Cached");
}

#[test]
fn a_registry_that_a_node_does_not_allow_is_that_nodes_own_affair() {
    let mut world = World::new(1);
    world.image("a", |_| {});
    world.refuse(1, REFERENCE, FailureClass::NotAllowed, "not from r.io");
    world.pass_secs(3);
    assert_eq!(
        world.word("a", READY),
        (
            "ErrImagePull".into(),
            "not from r.io; 0/1 nodes ready".into()
        )
    );
    assert!(world.grants.is_empty());
}

#[test]
fn a_refusal_ends_with_its_session() {
    let mut world = World::new(1);
    world.image("a", |_| {});
    world.refuse(1, REFERENCE, FailureClass::NoSpace, "needs 9 GB");
    world.step(Input::Disconnected(SessionId(1)));
    world.connect(1, Vec::new());
    world.pass_secs(61);
    assert_eq!(world.word("a", READY).0, "InProgress");
}

#[test]
fn a_tag_is_checked_by_a_node_that_has_room() {
    let mut world = World::new(2);
    let hourly = Limits {
        repull_interval: Some(Duration::from_secs(3600)),
        ..open()
    };
    world.policy("hourly", hourly);
    world.image("a", with_policy("hourly"));
    world.ask_all(2, REFERENCE);
    for _ in 0..2 {
        let (node, token) = world.granted();
        world.done(node, token, "sha256:one");
    }
    world.desired.clear();
    world.pass_secs(3601);
    let (checker, _) = world.desired.pop().unwrap();
    world.refuse(checker, REFERENCE, FailureClass::NoSpace, "needs 9 GB");
    let told: Vec<(u64, bool)> = world
        .desired
        .iter()
        .map(|(node, desired)| (*node, desired.images[0].check > 0))
        .collect();
    assert!(told.contains(&(checker, false)), "{told:?}");
    assert!(told.contains(&(3 - checker, true)), "{told:?}");
    assert_eq!(world.status("a").phase, Some(Phase::Ready));
}

#[test]
fn a_node_with_disk_pressure_starts_nothing_and_the_status_says_so() {
    let mut world = World::new(2);
    world.policy("open", open());
    world.disk_pressure(1, true);
    world.image("a", with_policy("open"));
    world.ask_all(2, REFERENCE);
    let (node, token) = world.granted();
    assert_eq!(node, 2);
    world.done(node, token, "sha256:one");
    world.pass_secs(600);
    assert!(world.grants.is_empty());
    let (reason, message) = world.word("a", READY);
    assert_eq!(reason, "InsufficientDisk");
    assert!(message.contains("DiskPressure"), "{message}");
    assert_eq!(world.status("a").ready.as_deref(), Some("1/2"));
    world.disk_pressure(1, false);
    assert_eq!(world.granted().0, 1);
}

#[test]
fn an_image_that_vanishes_twice_within_an_hour_is_left_alone_for_an_hour() {
    let mut world = World::new(2);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    world.ask_all(2, REFERENCE);
    for _ in 0..2 {
        let (node, token) = world.granted();
        world.done(node, token, "sha256:one");
    }
    world.lacks(1, REFERENCE);
    let (node, token) = world.granted();
    assert_eq!(node, 1, "once is an accident");
    world.done(node, token, "sha256:one");
    world.pass_secs(1800);
    world.lacks(1, REFERENCE);
    world.pass_secs(3590);
    assert!(world.grants.is_empty(), "{:?}", world.grants);
    let (reason, message) = world.word("a", READY);
    assert_eq!(reason, "ImagePullBackOff");
    assert!(message.contains("garbage collection"), "{message}");
    assert!(message.contains("imageGCHighThresholdPercent"), "{message}");
    assert!(world.status("a").nodes[0].next_retry.is_some());
    assert_eq!(world.status("a").ready.as_deref(), Some("1/2"));
    world.pass_secs(11);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(3);
    assert_eq!(world.word("a", READY).0, "Cached");
    world.lacks(1, REFERENCE);
    world.granted();
}

#[test]
fn a_loss_while_the_agent_was_away_counts_too() {
    let mut world = World::new(1);
    world.image("a", |_| {});
    world.ask(1, REFERENCE);
    for round in 0..2 {
        let (node, token) = world.granted();
        world.done(node, token, "sha256:one");
        world.step(Input::Disconnected(SessionId(1)));
        world.connect(1, Vec::new());
        world.ask(1, REFERENCE);
        world.pass_secs(30);
        assert_eq!(world.grants.len(), 1 - round);
    }
}

#[test]
fn a_grant_says_how_long_its_policy_lets_a_pull_take() {
    let mut world = World::new(2);
    let limits = Limits {
        pull_timeout: Some(Duration::from_secs(7200)),
        ..open()
    };
    world.policy("slow", limits);
    world.image("a", with_policy("slow"));
    world.ask(1, REFERENCE);
    assert_eq!(world.grants[0].1.timeout_ms, 7_200_000);
    world.grants.clear();
    world.image("b", |spec| spec.image = "r.io/b".to_owned());
    world.ask(2, "r.io/b:1");
    assert_eq!(world.grants[0].1.timeout_ms, 0, "the agent's own limit");
}

#[test]
fn a_cancelled_pull_and_a_runtime_that_went_away_are_tried_again() {
    for class in [FailureClass::Canceled, FailureClass::Runtime] {
        let mut world = World::new(1);
        world.image("a", |_| {});
        world.ask(1, REFERENCE);
        let (node, token) = world.granted();
        world.fail(node, token, class);
        world.pass_secs(31);
        let (node, token) = world.granted();
        world.done(node, token, "sha256:one");
        world.pass_secs(3);
        assert_eq!(world.word("a", READY).0, "Cached");
    }
}
