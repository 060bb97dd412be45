//! Images that share a login: a wrong one is tried once in each step, whoever is its turn, and a good one by all at once.

use super::credentials::{secret, with_secrets};
use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

fn reference(name: &str) -> String {
    format!("r.io/{name}:1")
}

/// Three images of one registry that name one Secret, wanted on three nodes, and 10 s as the first step of the back-off.
fn world() -> World {
    let mut world = World::new(3);
    let backoff = Backoff {
        initial: Duration::from_secs(10),
        max: Duration::from_secs(40),
    };
    world.policy("open", Limits { backoff, ..open() });
    for name in NAMES {
        add(&mut world, name, 3);
    }
    world
}

fn add(world: &mut World, name: &str, nodes: u64) {
    world.image(name, |spec| {
        spec.image = format!("r.io/{name}");
        with_policy("open")(spec);
        with_secrets(&["creds"])(spec);
    });
    world.ask_all(nodes, &reference(name));
}

fn write(world: &mut World, password: &str) {
    let content = secret("r.io", password);
    world.step(Input::Secret("creds".to_owned(), content));
}

/// The one grant that is new: its image.
fn tries(world: &mut World) -> (String, u64, u64) {
    let reference = world.grants.last().unwrap().1.reference.clone();
    let (node, token) = world.granted();
    (reference, node, token)
}

fn is_refused(world: &mut World) -> String {
    let (reference, node, token) = tries(world);
    world.fail(node, token, FailureClass::Unauthorized);
    reference
}

#[test]
fn a_wrong_login_is_tried_by_one_image_a_step_and_each_has_its_turn() {
    let mut world = world();
    write(&mut world, "wrong");
    let mut tried = vec![is_refused(&mut world)];
    for step in [10, 20, 40, 40] {
        world.pass_secs(step - 1);
        assert!(world.grants.is_empty(), "{:?}", world.grants);
        world.pass_secs(1);
        tried.push(is_refused(&mut world));
    }
    assert_eq!(tried, ["a", "b", "c", "a", "b"].map(reference));
}

#[test]
fn who_waits_for_a_refused_login_says_which_one_and_until_when() {
    let mut world = world();
    write(&mut world, "wrong");
    assert_eq!(is_refused(&mut world), reference("a"));
    world.pass_secs(2);
    let waits = &world.status("b").nodes[0];
    assert_eq!(waits.reason, "ImagePullBackOff");
    assert_eq!(
        waits.message,
        "r.io refused Secret \"creds\", tried for r.io/a:1: correct the Secret, next try at 1970-01-01T00:16:50Z"
    );
    let retry = waits.next_retry.as_ref().unwrap();
    assert_eq!(retry.0.as_second(), 1010);
}

#[test]
fn a_login_that_works_for_one_opens_the_way_for_all_that_it_was_refused_for() {
    let mut world = world();
    write(&mut world, "unknown to the registry");
    is_refused(&mut world);
    world.pass_secs(10);
    let (second, node, token) = tries(&mut world);
    assert_eq!(second, reference("b"));
    world.done(node, token, "sha256:b");
    let mut granted: Vec<&str> = world
        .grants
        .iter()
        .map(|g| g.1.reference.as_str())
        .collect();
    granted.sort_unstable();
    assert_eq!(granted, ["a", "b", "c"].map(reference));
}

#[test]
fn an_image_that_the_login_has_no_right_to_holds_up_nobody_else() {
    let mut world = world();
    write(&mut world, "right");
    let (first, node, token) = tries(&mut world);
    assert_eq!(first, reference("a"));
    world.fail(node, token, FailureClass::Forbidden);
    world.pass_secs(10);
    let (_, node, token) = tries(&mut world);
    world.done(node, token, "sha256:b");
    let mut grants = std::mem::take(&mut world.grants);
    let place = grants.iter().position(|g| g.1.reference == reference("a"));
    let (node, grant) = grants.remove(place.unwrap());
    world.fail(node, grant.token, FailureClass::Forbidden);
    // Nobody waits for it: the others go on, and it alone backs off.
    for (node, grant) in grants {
        world.done(node, grant.token, &format!("sha256:{}", grant.reference));
    }
    assert!(!world.grants.is_empty());
    assert!(world.grants.iter().all(|g| g.1.reference != reference("a")));
}

#[test]
fn a_corrected_secret_lets_one_try_and_then_all() {
    let mut world = world();
    write(&mut world, "wrong");
    is_refused(&mut world);
    write(&mut world, "right");
    let (_, node, token) = tries(&mut world);
    world.done(node, token, "sha256:a");
    assert_eq!(world.grants.len(), 3, "every node has something to do");
}

#[test]
fn a_refusal_that_comes_after_the_secret_was_corrected_holds_up_nothing() {
    let mut world = world();
    write(&mut world, "wrong");
    let (_, node, token) = tries(&mut world);
    write(&mut world, "right");
    let (_, other, next) = tries(&mut world);
    world.fail(node, token, FailureClass::Unauthorized);
    world.done(other, next, "sha256:a");
    assert_eq!(world.grants.len(), 3, "{:?}", world.grants);
}

#[test]
fn a_login_that_the_registry_does_not_take_any_more_is_noticed_although_it_worked() {
    let mut world = world();
    write(&mut world, "right");
    let (_, node, token) = tries(&mut world);
    world.done(node, token, "sha256:a");
    let grants = std::mem::take(&mut world.grants);
    for (node, grant) in grants {
        world.done(node, grant.token, "sha256:x");
    }
    // What is refused first may be an image that it never worked for: that one is refused for itself.
    let mut refused = 0;
    while let Some((node, grant)) = world.grants.pop() {
        world.fail(node, grant.token, FailureClass::Unauthorized);
        refused += 1;
    }
    assert!((1..=4).contains(&refused), "{refused}");
    world.pass_secs(9);
    assert!(world.grants.is_empty(), "{:?}", world.grants);
}

#[test]
fn nodes_without_the_secret_do_not_wait_for_those_that_have_it() {
    let mut world = world();
    write(&mut world, "wrong");
    is_refused(&mut world);
    world.image("open", |spec| {
        spec.image = "r.io/open".to_owned();
        with_policy("open")(spec);
    });
    world.ask(1, "r.io/open:1");
    let (free, ..) = tries(&mut world);
    assert_eq!(free, "r.io/open:1");
}

#[test]
fn questions_and_pulls_share_one_try_a_step() {
    let mut world = World::with(Config::default(), 2);
    world.policy("open", open());
    for name in ["a", "b"] {
        add(&mut world, name, 2);
    }
    // It asks no registry, it pulls.
    world.image("c", |spec| {
        spec.image = "r.io/c".to_owned();
        spec.image_pull_policy = ImagePullPolicy::IfNotPresent;
        with_policy("open")(spec);
        with_secrets(&["creds"])(spec);
    });
    world.ask_all(2, &reference("c"));
    write(&mut world, "wrong");
    let asked = world.questions.pop().unwrap();
    assert!(world.questions.is_empty() && world.grants.is_empty());
    refuse(&mut world, asked.number);
    world.pass_secs(30);
    let asked = world.questions.pop().unwrap();
    assert_eq!(asked.reference, reference("b"));
    assert!(world.questions.is_empty() && world.grants.is_empty());
    refuse(&mut world, asked.number);
    world.pass_secs(60);
    assert!(world.questions.is_empty());
    assert_eq!(is_refused(&mut world), reference("c"));
}

fn refuse(world: &mut World, number: u64) {
    let failed = ResolveFailed {
        class: FailureClass::Unauthorized,
        message: "unauthorized".to_owned(),
        wait: None,
    };
    world.step(Input::Resolved(number, Err(failed)));
}
