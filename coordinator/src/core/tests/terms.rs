//! A replica grants only while it leads, and a new leader only once it knows what the old one granted.

use super::*;

/// Three nodes, and image `a` under a policy that lets one pull at a time; leadership ends at `until`.
fn led_until(until: Duration) -> World {
    let mut world = World::new(3);
    world.policy("one", one());
    world.image("a", with_policy("one"));
    world.step(Input::LeadsUntil(until));
    world
}

fn one() -> Limits {
    Limits {
        max_nodes: 1,
        min_delay: Duration::ZERO,
        ..Limits::default()
    }
}

#[test]
fn nothing_is_granted_past_the_end_of_leadership() {
    let mut world = led_until(Duration::from_secs(1010));
    world.pass_secs(10);
    world.ask_all(3, REFERENCE);
    world.pass_secs(600);
    assert!(world.grants.is_empty(), "{:?}", world.grants);
    // A pull that ends makes room, which is no reason either.
    world.step(Input::LeadsUntil(Duration::from_secs(1650)));
    let (node, token) = world.granted();
    world.pass_secs(50);
    world.done(node, token, "sha256:one");
    world.pass_secs(100);
    assert!(world.grants.is_empty(), "{:?}", world.grants);
}

#[test]
fn a_renewed_leader_goes_on_granting() {
    let mut world = led_until(Duration::from_secs(1010));
    for second in (1002..1100).step_by(2) {
        world.pass_secs(2);
        world.step(Input::LeadsUntil(Duration::from_secs(second + 10)));
    }
    world.ask_all(3, REFERENCE);
    world.granted();
}

/// The leader after `world`, which knows the same objects, `after` it stopped to lead.
fn next_leader(world: &World, after: Duration) -> World {
    let mut new = World::new(0);
    let config = Config {
        first_token: 1 << 40,
        ..nodes_check()
    };
    new.core = Core::new(config);
    new.now = world.now + after;
    new.written = world.written.clone();
    new.step(Input::LeadsUntil(Duration::MAX));
    new.step(Input::Policy(Change::Replaced(vec![(
        "one".to_owned(),
        one(),
    )])));
    let object = new.object("a", 1, with_policy("one"));
    new.step(Input::Image(Change::Replaced(vec![object])));
    let facts = ["n1", "n2", "n3"].map(|name| NodeFacts {
        name: name.to_owned(),
        ..NodeFacts::default()
    });
    new.step(Input::Node(Change::Replaced(facts.to_vec())));
    new
}

fn held(token: u64, running_ms: u64) -> HeldGrant {
    HeldGrant {
        token,
        reference: REFERENCE.to_owned(),
        running_ms,
    }
}

#[test]
fn hand_over_keeps_the_limit_however_the_agents_come() {
    // Node 1 pulls under the old leader. Its agent comes first, in the middle or last.
    for order in [[1, 2, 3], [2, 1, 3], [3, 2, 1]] {
        let mut old = led_until(Duration::MAX);
        old.ask_all(3, REFERENCE);
        let (node, token) = old.granted();
        assert_eq!(node, 1);
        let mut new = next_leader(&old, Duration::from_secs(15));
        for node in order {
            let holds = if node == 1 {
                vec![held(token, 15_000)]
            } else {
                Vec::new()
            };
            new.connect(node, holds);
            if node != 1 {
                new.ask(node, REFERENCE);
            }
            new.pass_secs(1);
        }
        new.pass_secs(10);
        assert!(new.grants.is_empty(), "{order:?}: {:?}", new.grants);
        new.done(1, token, "sha256:one");
        let (node, token) = new.granted();
        assert!(node != 1 && token >= 1 << 40, "{node} {token}");
    }
}

#[test]
fn a_silent_agents_grant_holds_the_next_leader_for_one_ttl_at_most() {
    let mut old = led_until(Duration::MAX);
    old.ask_all(3, REFERENCE);
    old.granted();
    let mut new = next_leader(&old, Duration::from_secs(15));
    for node in 2..=3 {
        new.connect(node, Vec::new());
        new.ask(node, REFERENCE);
    }
    new.pass_secs(59);
    assert!(new.grants.is_empty(), "{:?}", new.grants);
    new.pass_secs(2);
    new.granted();
}

#[test]
fn tokens_of_former_terms_are_not_given_again() {
    let mut old = led_until(Duration::MAX);
    old.ask_all(3, REFERENCE);
    old.granted();
    let mut new = next_leader(&old, Duration::ZERO);
    // An agent may say any number; the next grants keep clear of it.
    for (node, token) in [(1, u64::MAX), (2, 1 << 40)] {
        new.connect(node, vec![held(token, 0)]);
    }
    new.connect(3, Vec::new());
    new.ask(3, REFERENCE);
    new.done(1, u64::MAX, "sha256:one");
    new.policy("one", open());
    let (node, token) = new.granted();
    assert_eq!((node, token), (3, 1 + (1 << 40)));
}
