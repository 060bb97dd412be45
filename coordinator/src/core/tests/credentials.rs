//! Pull Secrets: what goes out with a grant, and what a changed Secret sets going.

use super::*;
use crate::credentials::Secret;

/// A Secret for r.io, or for `key` there.
pub(super) fn secret(key: &str, password: &str) -> Secret {
    let text = serde_json::json!({"auths": {key: {"username": "me", "password": password}}});
    let parsed = drop_oci::Keychain::from_docker_config_json(text.to_string().as_bytes());
    Secret::Loaded(parsed.unwrap())
}

pub(super) fn with_secrets(names: &[&str]) -> impl Fn(&mut CachedImageSpec) {
    move |spec| {
        let names = names.iter().map(|name| serde_json::json!({"name": name}));
        spec.image_pull_secrets = serde_json::from_value(names.collect()).unwrap();
    }
}

fn passwords(grant: &Grant) -> Vec<&str> {
    let credentials = grant.credentials.iter();
    credentials
        .map(|credential| credential.password.as_str())
        .collect()
}

#[test]
fn nothing_is_pulled_before_the_secret_was_read() {
    let mut world = World::new(1);
    world.image("a", with_secrets(&["creds"]));
    assert_eq!(world.wanted_secrets, ["creds"]);
    world.ask(1, REFERENCE);
    world.pass_secs(5);
    assert!(world.grants.is_empty());
    let waiting = &world.status("a").nodes[0];
    assert_eq!(
        waiting.message,
        "waits until the coordinator has read Secret \"creds\""
    );
    world.step(Input::Secret("creds".to_owned(), secret("r.io", "one")));
    assert_eq!(passwords(&world.grants[0].1), ["one"]);
}

#[test]
fn the_node_that_pulls_gets_what_matches_and_nothing_else() {
    let mut world = World::new(1);
    world.image("a", with_secrets(&["wide", "narrow", "other"]));
    world.ask(1, REFERENCE);
    world.step(Input::Secret("wide".to_owned(), secret("r.io", "wide")));
    world.step(Input::Secret(
        "narrow".to_owned(),
        secret("r.io/a", "narrow"),
    ));
    world.step(Input::Secret("other".to_owned(), secret("s.io", "other")));
    assert_eq!(passwords(&world.grants[0].1), ["narrow", "wide"]);
}

#[test]
fn a_corrected_secret_is_tried_at_once() {
    let mut world = World::new(2);
    world.image("a", with_secrets(&["creds"]));
    world.ask_all(2, REFERENCE);
    world.step(Input::Secret("creds".to_owned(), secret("r.io", "wrong")));
    let (node, token) = world.granted();
    world.fail(node, token, FailureClass::Unauthorized);
    world.pass_secs(20);
    assert!(world.grants.is_empty());
    world.step(Input::Secret("creds".to_owned(), secret("r.io", "wrong")));
    assert!(world.grants.is_empty(), "the same one promises nothing new");
    world.step(Input::Secret("creds".to_owned(), secret("r.io", "right")));
    assert_eq!(world.grants.len(), 1, "one probe");
    assert_eq!(passwords(&world.grants[0].1), ["right"]);
}

#[test]
fn a_corrected_secret_does_not_hurry_what_failed_otherwise() {
    let mut world = World::new(1);
    world.image("a", with_secrets(&["creds"]));
    world.ask(1, REFERENCE);
    world.step(Input::Secret("creds".to_owned(), secret("r.io", "one")));
    let (node, token) = world.granted();
    world.fail(node, token, FailureClass::Throttled);
    world.step(Input::Secret("creds".to_owned(), secret("r.io", "two")));
    world.pass_secs(5);
    assert!(world.grants.is_empty(), "the registry asked for a pause");
}

#[test]
fn a_secret_that_gives_nothing_is_named_where_the_registry_refuses() {
    let mut world = World::new(1);
    world.image("a", with_secrets(&["creds"]));
    world.ask(1, REFERENCE);
    let why = "Secret \"creds\" not found in namespace drop-system: make it there";
    world.step(Input::Secret(
        "creds".to_owned(),
        Secret::Unusable(why.to_owned()),
    ));
    assert!(passwords(&world.grants[0].1).is_empty(), "it may need none");
    let (node, token) = world.granted();
    world.fail(node, token, FailureClass::Unauthorized);
    world.pass_secs(20);
    let (_, message) = world.word("a", READY);
    assert_eq!(message, format!("unauthorized; {why}; 0/1 nodes ready"));
}

#[test]
fn a_secret_that_nothing_names_any_more_is_forgotten() {
    let mut world = World::new(1);
    world.image("a", with_secrets(&["creds"]));
    world.step(Input::Secret("creds".to_owned(), secret("r.io", "one")));
    world.image("a", |_| {});
    assert!(world.wanted_secrets.is_empty());
    world.image("a", with_secrets(&["creds"]));
    world.ask(1, REFERENCE);
    assert!(world.grants.is_empty(), "it is read anew");
}

#[test]
fn what_is_printed_of_the_state_shows_no_password() {
    let mut world = World::new(1);
    world.image("a", with_secrets(&["creds"]));
    let input = Input::Secret("creds".to_owned(), secret("r.io", "hunter2"));
    assert!(!format!("{input:?}").contains("hunter2"));
    world.step(input);
    world.ask(1, REFERENCE);
    assert_eq!(passwords(&world.grants[0].1), ["hunter2"]);
    assert!(!format!("{:?} {:?}", world.core, world.grants).contains("hunter2"));
}
