//! Agents that say what is not true of their grants.

use super::*;

fn renew(tokens: Vec<u64>) -> agent_message::Kind {
    agent_message::Kind::Renew(drop_proto::Renew { tokens })
}

#[test]
fn an_agent_that_speaks_of_too_many_grants_that_are_not_its_own_loses_its_session() {
    let mut world = World::new(2);
    world.say(1, renew((1..=1_000).collect()));
    assert!(world.closed.is_empty(), "a few are on their way");
    world.say(1, renew((1..=100).collect()));
    assert_eq!(world.closed, [(1, Close::UnknownGrants)]);
}

#[test]
fn an_agent_whose_grants_expired_may_speak_of_them_for_hours() {
    let mut world = World::new(1);
    for _ in 0..600 {
        world.say(1, renew((1..=64).collect()));
        world.pass_secs(20);
    }
    assert!(world.closed.is_empty());
}

#[test]
fn a_grant_of_another_node_is_as_unknown_as_one_of_nobody() {
    let mut world = World::new(2);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    world.ask(1, REFERENCE);
    let (_, token) = world.granted();
    for _ in 0..1_024 {
        world.say(2, agent_message::Kind::Started(Started { token }));
    }
    assert!(world.closed.is_empty());
    world.say(2, renew(vec![token]));
    assert_eq!(world.closed, [(2, Close::UnknownGrants)]);
    world.done(1, token, "sha256:one");
    world.pass_secs(2);
    assert_eq!(world.status("a").nodes_ready, 1);
}

#[test]
fn a_failure_that_nobody_granted_makes_no_other_node_wait() {
    let mut world = World::new(2);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    for class in [FailureClass::Throttled, FailureClass::NotFound] {
        let failed = Failed {
            token: 4_711,
            class: class.into(),
            reference: REFERENCE.to_owned(),
            ..Failed::default()
        };
        world.say(1, agent_message::Kind::Failed(failed));
    }
    world.ask(2, REFERENCE);
    assert_eq!(world.granted().0, 2);
}

#[test]
fn a_second_complete_inventory_ends_the_session() {
    let mut world = World::new(1);
    let inventory = Inventory {
        complete: true,
        ..Inventory::default()
    };
    world.say(1, agent_message::Kind::Inventory(inventory));
    assert!(matches!(&world.closed[..], [(1, Close::Invalid(why))] if why.contains("complete")));
}

#[test]
fn held_grants_that_were_made_up_leave_tokens_for_the_others() {
    let mut world = World::new(2);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    world.step(Input::Disconnected(SessionId(1)));
    let held = |token| HeldGrant {
        token,
        reference: REFERENCE.to_owned(),
        running_ms: u64::MAX,
    };
    world.connect(1, vec![held(u64::MAX / 2), held(u64::MAX - 1)]);
    world.pass_secs(20);
    world.ask(2, REFERENCE);
    let (node, token) = world.granted();
    assert_eq!(node, 2);
    assert!(token < 1_000, "{token}");
}

#[test]
fn a_node_holds_no_more_grants_than_it_takes_at_once() {
    let mut world = World::new(2);
    let policy = Limits {
        max_nodes: 2,
        max_pulls: Some(2),
        ..open()
    };
    world.policy("two", policy);
    world.image("a", with_policy("two"));
    world.step(Input::Disconnected(SessionId(1)));
    let held = (1..=10).map(|token| HeldGrant {
        token,
        reference: REFERENCE.to_owned(),
        running_ms: 20_000,
    });
    world.connect(1, held.collect());
    world.pass_secs(20);
    world.ask(2, REFERENCE);
    assert_eq!(world.granted().0, 2);
}
