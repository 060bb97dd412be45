//! Agents that come, go, fall silent and come back.

use super::*;

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
    world.pass_secs(3);
    let status = world.status("a");
    assert_eq!(
        (status.ready.as_deref(), status.nodes[0].reason.as_str()),
        (Some("1/2"), "AgentNotConnected")
    );
    assert_eq!(world.word("a", READY).0, "AgentNotConnected");
}

#[test]
fn what_agents_say_before_the_first_lists_is_kept() {
    let mut world = World::new(0);
    world.core = Core::new(nodes_check());
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
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("1/2"));
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

#[test]
fn an_image_made_anew_in_one_breath_is_dropped_and_wanted_again() {
    let mut world = World::new(1);
    world.image("a", |_| {});
    world.holds(1, REFERENCE, "sha256:one");
    world.desired.clear();
    let anew = ImageObject {
        uid: "another".to_owned(),
        ..world.object("a", 1, |_| {})
    };
    let inputs = [
        Input::Image(Change::Deleted("a".to_owned())),
        Input::Image(Change::Applied(anew)),
    ];
    let outputs = world.core.step_all(Now::at(world.now), inputs);
    let desired = outputs.iter().find_map(|output| match output {
        Output::Send(_, Message::Desired(desired)) => Some(desired),
        _ => None,
    });
    let desired = desired.expect("the node is told");
    assert_eq!(
        desired.dropped,
        [REFERENCE],
        "or it would not say again what it holds"
    );
    assert_eq!(desired.images[0].reference, REFERENCE);
}
