//! What a new process takes over from the one before it.

use super::*;

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
    new.core = Core::new(nodes_check());
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
fn a_held_token_that_no_coordinator_gave_does_not_use_up_the_numbers() {
    let mut world = World::new(1);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    let token = u64::MAX;
    let reference = REFERENCE.to_owned();
    let held = HeldGrant {
        token,
        reference,
        running_ms: 1,
    };
    world.step(Input::Disconnected(SessionId(1)));
    world.connect(1, vec![held]);
    world.done(1, token, "sha256:one");
    world.image("b", |spec| {
        with_policy("open")(spec);
        spec.image = "r.io/b".to_owned();
    });
    world.ask(1, "r.io/b:1");
    world.pass_secs(120);
    let granted: Vec<_> = world.grants.iter().map(|(_, grant)| grant.token).collect();
    assert!(
        granted.first().is_some_and(|first| *first < 100),
        "{granted:?}"
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
    new.core = Core::new(nodes_check());
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
fn a_restart_shows_no_node_as_lost_while_agents_are_still_coming_back() {
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
    new.pass_secs(25);
    new.connect(1, Vec::new());
    new.holds(1, REFERENCE, "sha256:one");
    new.pass_secs(25);
    assert_eq!(new.writes, 0, "node 2 may be the next to come");
    new.pass_secs(10);
    assert_eq!(new.status("a").ready.as_deref(), Some("1/2"));
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
fn an_image_that_nobody_has_a_status_for_has_one_soon_after_the_start() {
    let mut new = successor(&World::new(0));
    new.pass_secs(2);
    assert_eq!(new.status("a").ready.as_deref(), Some("0/2"));
}
