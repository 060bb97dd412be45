//! Who waits after which failure.

use super::*;
use crate::credentials::Secret;

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
    let secret = Secret::Unusable("not found".to_owned());
    world.step(Input::Secret("creds".to_owned(), secret));
    world.granted();
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
