//! Who may pull, and in which order.

use super::*;

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
fn images_that_fail_again_and_again_take_turns_with_the_others() {
    let mut world = World::new(3);
    let second = Duration::from_secs(1);
    let backoff = Backoff {
        initial: second,
        max: second,
    };
    world.policy(
        "narrow",
        Limits {
            max_nodes: 1,
            backoff,
            ..open()
        },
    );
    let tags = ["1", "2", "3", "4"];
    let references = tags.map(|tag| format!("{IMAGE}:{tag}"));
    for (name, tag) in ["a", "b", "c", "d"].into_iter().zip(tags) {
        world.image(name, |spec| {
            with_policy("narrow")(spec);
            spec.tag = Some(tag.to_owned());
        });
    }
    let mut pulled: BTreeMap<String, usize> = BTreeMap::new();
    for reference in &references {
        world.ask_all(3, reference);
    }
    for _ in 0..24 {
        let (_, grant) = world.grants.last().expect("one runs always");
        let reference = grant.reference.clone();
        let (node, token) = world.granted();
        *pulled.entry(reference.clone()).or_default() += 1;
        world.pass_secs(5);
        if reference == references[3] {
            world.done(node, token, "sha256:d");
        } else {
            world.fail(node, token, FailureClass::NotFound);
        }
        world.pass_secs(2);
    }
    assert_eq!(pulled[&references[3]], 3, "one on each node: {pulled:?}");
    let tries: Vec<usize> = references[..3].iter().map(|r| pulled[r]).collect();
    assert!(tries.iter().all(|tries| *tries >= 5), "{pulled:?}");
}
