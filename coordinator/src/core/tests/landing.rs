//! What makes an image ready on a node, and what takes that away.

use super::*;

#[test]
fn an_image_lands_on_all_nodes() {
    let mut world = World::new(2);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    world.ask_all(2, REFERENCE);
    let (probe, token) = world.granted();
    world.done(probe, token, "sha256:one");
    let (second, token) = world.granted();
    assert_ne!(probe, second);
    world.done(second, token, "sha256:one");
    world.pass_secs(5);
    let status = world.status("a");
    assert_eq!(status.phase, Some(Phase::Ready));
    assert_eq!(status.ready.as_deref(), Some("2/2"));
    assert_eq!(status.resolved_digest.as_deref(), Some("sha256:one"));
    assert_eq!(status.cached_nodes, ["n1", "n2"]);
    assert_eq!(status.size_bytes, Some(10));
    assert!(status.last_checked_at.is_some());
    assert_eq!(
        world.word("a", READY),
        ("Cached".into(), "Image cached on all 2 target nodes".into())
    );
    assert_eq!(world.word("a", PULL_PROGRESS).0, "Complete");
    let writes = world.writes;
    world.pass_secs(3600);
    assert_eq!(world.writes, writes, "nothing changes, nothing is written");
}

#[test]
fn what_all_nodes_hold_already_is_checked_by_one() {
    let mut world = World::new(3);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    for node in 1..=3 {
        world.holds(node, REFERENCE, "sha256:one");
        world.ask(node, REFERENCE);
    }
    let (node, token) = world.granted();
    world.desired.clear();
    world.done(node, token, "sha256:one");
    assert!(
        world.grants.is_empty(),
        "the others hold what the tag names: {:?}",
        world.grants
    );
    let told: Vec<&str> = world
        .desired
        .iter()
        .map(|(_, d)| d.images[0].expected_digest.as_str())
        .collect();
    assert_eq!(told, ["sha256:one"; 3]);
    world.pass_secs(1);
    assert_eq!(world.status("a").ready.as_deref(), Some("3/3"));
}

#[test]
fn an_image_that_may_be_old_needs_no_check_with_if_not_present() {
    let mut world = World::new(1);
    world.image("a", |spec| {
        spec.image_pull_policy = ImagePullPolicy::IfNotPresent;
    });
    world.holds(1, REFERENCE, "sha256:old");
    world.pass_secs(2);
    assert_eq!(world.status("a").phase, Some(Phase::Ready));
    assert_eq!(
        world.status("a").resolved_digest.as_deref(),
        Some("sha256:old")
    );
    assert!(world.status("a").last_checked_at.is_none());
}

#[test]
fn never_reports_and_never_pulls() {
    let mut world = World::new(2);
    world.image("a", |spec| spec.image_pull_policy = ImagePullPolicy::Never);
    world.holds(1, REFERENCE, "sha256:one");
    let absent = InventoryImage {
        reference: REFERENCE.to_owned(),
        ..InventoryImage::default()
    };
    world.say(
        2,
        agent_message::Kind::Inventory(Inventory {
            images: vec![absent],
            ..Inventory::default()
        }),
    );
    world.pass_secs(2);
    assert!(world.grants.is_empty());
    assert_eq!(world.word("a", READY).0, "ErrImageNeverPull");
    assert_eq!(world.status("a").nodes[0].node, "n2");
}

#[test]
fn an_image_that_the_kubelet_removed_is_missing_again() {
    let mut world = World::new(1);
    world.image("a", |_| {});
    world.ask(1, REFERENCE);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(5);
    world.lacks(1, REFERENCE);
    let (node, token) = world.granted();
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("0/1"));
    world.done(node, token, "sha256:one");
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("1/1"));
}

#[test]
fn a_tag_edit_starts_anew() {
    let mut world = World::new(1);
    world.image("a", |_| {});
    world.ask(1, REFERENCE);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(5);
    world.desired.clear();
    world.image("a", |spec| spec.tag = Some("2".to_owned()));
    let (_, desired) = world.desired.pop().unwrap();
    assert_eq!(desired.dropped, [REFERENCE]);
    assert_eq!(desired.images[0].reference, "r.io/a:2");
    world.pass_secs(2);
    let status = world.status("a");
    assert_eq!(
        (status.ready.as_deref(), status.resolved_digest.as_deref()),
        (Some("0/1"), None)
    );
    world.ask(1, "r.io/a:2");
    world.granted();
}

#[test]
fn a_node_that_joins_soon_after_the_start_is_counted_at_once() {
    let mut world = World::new(1);
    world.policy("open", open());
    world.image("a", with_policy("open"));
    world.ask_all(1, REFERENCE);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("1/1"));

    world.step(Input::Node(Change::Applied(NodeFacts {
        name: "n2".to_owned(),
        ..NodeFacts::default()
    })));
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("1/2"));
    world.pass_secs(30);
    assert_eq!(world.word("a", READY).0, "AgentNotConnected");
    world.connect(2, Vec::new());
    world.holds(2, REFERENCE, "sha256:one");
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("2/2"));
}

#[test]
fn a_label_change_brings_a_node_in_and_out() {
    let mut world = World::new(1);
    let selector = BTreeMap::from([("pool".to_owned(), "build".to_owned())]);
    world.image("a", |spec| spec.node_selector = selector.clone());
    world.pass_secs(2);
    let (reason, message) = world.word("a", READY);
    assert_eq!(reason, "NoMatchingNodes");
    assert!(message.contains("pool=build"), "{message}");
    let facts = NodeFacts {
        name: "n1".to_owned(),
        labels: selector.clone(),
        ..NodeFacts::default()
    };
    world.step(Input::Node(Change::Applied(facts)));
    world.ask(1, REFERENCE);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("1/1"));
    world.step(Input::Node(Change::Applied(NodeFacts {
        name: "n1".to_owned(),
        ..NodeFacts::default()
    })));
    world.pass_secs(2);
    assert_eq!(world.status("a").ready.as_deref(), Some("0/0"));
}

#[test]
fn a_missing_policy_is_said_and_the_defaults_apply() {
    let mut world = World::new(1);
    world.image("a", with_policy("nope"));
    world.ask(1, REFERENCE);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(2);
    let (reason, message) = world.word("a", READY);
    assert_eq!(reason, "Cached");
    assert!(
        message.ends_with("PullPolicy \"nope\" not found, the built-in defaults apply"),
        "{message}"
    );
}

#[test]
fn a_policy_of_defaults_is_found_as_soon_as_it_is_there() {
    let mut world = World::new(1);
    world.image("a", with_policy("plain"));
    world.pass_secs(2);
    assert!(world.word("a", READY).1.contains("not found"));
    world.policy("plain", Limits::default());
    world.pass_secs(100);
    assert!(!world.word("a", READY).1.contains("not found"));
}

#[test]
fn a_node_that_changes_from_one_object_to_another_of_the_same_image_loses_nothing() {
    let pool = |name: &str| BTreeMap::from([("pool".to_owned(), name.to_owned())]);
    let facts = |name: &str| NodeFacts {
        name: "n1".to_owned(),
        labels: pool(name),
        ..NodeFacts::default()
    };
    let mut world = World::new(1);
    world.step(Input::Node(Change::Applied(facts("a"))));
    for name in ["a", "b"] {
        world.image(name, |spec| spec.node_selector = pool(name));
    }
    world.ask(1, REFERENCE);
    let (node, token) = world.granted();
    world.done(node, token, "sha256:one");
    world.pass_secs(2);
    world.desired.clear();
    world.step(Input::Node(Change::Applied(facts("b"))));
    world.pass_secs(2);
    assert!(world.desired.is_empty(), "nothing changes for the node");
    assert_eq!(world.status("b").ready.as_deref(), Some("1/1"));
    assert_eq!(world.status("a").ready.as_deref(), Some("0/0"));
}
