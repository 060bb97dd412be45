//! The coordinator asks registries itself: one question for the whole cluster, and what the answers lead to.

use super::*;
use crate::credentials::Secret;
use crate::image::resolve::About;

const ONE: &str = "sha256:one";
const TWO: &str = "sha256:two";

fn world(nodes: u64) -> World {
    let mut world = World::with(Config::default(), nodes);
    let limits = Limits {
        repull_interval: Some(Duration::from_secs(3600)),
        ..open()
    };
    world.policy("open", limits);
    world
}

impl World {
    /// The one question that is out.
    fn question(&mut self) -> Question {
        assert_eq!(self.questions.len(), 1, "{:?}", self.questions);
        self.questions.pop().unwrap()
    }

    fn tag_names(&mut self, digest: &str) {
        let question = self.question();
        assert_eq!(question.about, About::Tag);
        let resolved = Resolved {
            digest: digest.to_owned(),
            ..Resolved::default()
        };
        self.step(Input::Resolved(question.number, Ok(resolved)));
    }

    fn contents_are(&mut self, size: Option<u64>) {
        let question = self.question();
        let About::Contents { digest, platforms } = question.about else {
            panic!("{question:?}");
        };
        let resolved = Resolved {
            digest,
            sizes: platforms.into_iter().map(|p| (p, size)).collect(),
        };
        self.step(Input::Resolved(question.number, Ok(resolved)));
    }

    fn not_told(&mut self, class: FailureClass, wait: Option<u64>) {
        let question = self.question();
        let failed = ResolveFailed {
            class,
            message: class.class().to_owned(),
            wait: wait.map(Duration::from_secs),
        };
        self.step(Input::Resolved(question.number, Err(failed)));
    }
}

#[test]
fn nodes_that_hold_what_the_tag_names_are_ready_after_one_question() {
    let mut world = world(3);
    world.image("a", with_policy("open"));
    for node in 1..=3 {
        world.holds(node, REFERENCE, ONE);
        world.ask(node, REFERENCE);
    }
    assert!(
        world.grants.is_empty(),
        "nothing is pulled before the answer"
    );
    world.tag_names(ONE);
    world.pass_secs(5);
    assert_eq!(world.status("a").ready.as_deref(), Some("3/3"));
    assert!(world.status("a").last_checked_at.is_some());
    assert_eq!(world.status("a").resolved_digest.as_deref(), Some(ONE));
    // Asks that were on their way when the answer came lead to nothing either.
    world.ask_all(3, REFERENCE);
    assert!(world.grants.is_empty() && world.questions.is_empty());
    world.pass_secs(3590);
    assert!(world.questions.is_empty());
    world.pass_secs(20);
    world.tag_names(ONE);
    assert!(world.grants.is_empty() && world.questions.is_empty());
}

#[test]
fn a_moved_tag_is_pulled_once_by_each_node_and_ready_stays_true() {
    let mut world = world(2);
    world.image("a", with_policy("open"));
    for node in 1..=2 {
        world.holds(node, REFERENCE, ONE);
    }
    world.tag_names(ONE);
    world.pass_secs(3600);
    world.desired.clear();
    world.tag_names(TWO);
    let told = world.desired.iter().map(|(_, d)| &d.images[0]);
    assert!(
        told.clone()
            .all(|image| image.expected_digest == TWO && image.check == 0)
    );
    assert_eq!(told.count(), 2);
    world.ask_all(2, REFERENCE);
    assert!(world.grants.is_empty(), "the contents come first");
    world.contents_are(Some(5_000_000));
    let sizes = world
        .desired
        .iter()
        .filter(|(_, d)| d.images[0].compressed_bytes == 5_000_000);
    assert_eq!(sizes.count(), 2);
    for _ in 0..2 {
        let (node, token) = world.granted();
        world.pass_secs(1);
        assert_eq!(world.status("a").phase, Some(Phase::Ready));
        world.done(node, token, TWO);
    }
    world.pass_secs(2);
    assert_eq!(
        world.word("a", READY).1,
        "Image cached on all 2 target nodes"
    );
    assert!(world.questions.is_empty());
}

#[test]
fn an_image_that_does_not_exist_is_said_without_a_pull_and_asked_for_again_later() {
    let mut world = world(2);
    world.image("a", with_policy("open"));
    world.ask_all(2, REFERENCE);
    world.not_told(FailureClass::NotFound, None);
    world.pass_secs(2);
    let status = world.status("a");
    assert_eq!(
        (status.phase, status.nodes_failed),
        (Some(Phase::Degraded), 2)
    );
    assert_eq!(status.consecutive_failures, 1);
    assert!(
        status
            .nodes
            .iter()
            .all(|n| n.next_retry.is_some() && n.attempts == 1)
    );
    let (reason, message) = world.word("a", READY);
    assert_eq!(
        (reason.as_str(), message.as_str()),
        ("ErrImagePull", "not_found; 0/2 nodes ready")
    );
    world.pass_secs(20);
    assert_eq!(world.word("a", READY).0, "ImagePullBackOff");
    assert!(world.questions.is_empty());
    world.pass_secs(300);
    assert!(world.grants.is_empty());
    world.tag_names(ONE);
    world.contents_are(Some(1));
    world.granted();
    world.pass_secs(2);
    assert_eq!(world.status("a").consecutive_failures, 0);
}

#[test]
fn an_edit_asks_at_once_again() {
    let mut world = world(1);
    world.image("a", with_policy("open"));
    world.ask(1, REFERENCE);
    world.not_told(FailureClass::NotFound, None);
    world.pass_secs(2);
    assert!(world.questions.is_empty());
    world.image("a", |_| {});
    world.tag_names(ONE);
}

#[test]
fn a_registry_out_of_the_coordinators_reach_leaves_the_tag_to_a_node() {
    let mut world = world(2);
    world.image("a", with_policy("open"));
    world.ask_all(2, REFERENCE);
    world.not_told(FailureClass::Connection, None);
    let (node, token) = world.granted();
    world.pass_secs(2);
    let message = world.word("a", READY).1;
    let why = "the coordinator cannot reach r.io, a node checks the tag: connection";
    assert!(message.ends_with(why), "{message}");
    world.done(node, token, ONE);
    let (node, token) = world.granted();
    world.done(node, token, ONE);
    world.pass_secs(3500);
    assert_eq!(world.status("a").phase, Some(Phase::Ready));
    assert!(world.word("a", READY).1.ends_with(why));
    assert!(
        world.questions.is_empty(),
        "asked again at the next check only"
    );
    world.pass_secs(200);
    world.tag_names(ONE);
    world.pass_secs(90);
    assert_eq!(
        world.word("a", READY).1,
        "Image cached on all 2 target nodes"
    );
}

#[test]
fn a_question_that_breaks_off_leaves_the_tag_to_a_node_until_the_next_check() {
    let mut world = world(1);
    world.image("a", with_policy("open"));
    world.ask(1, REFERENCE);
    let question = world.question();
    let broken = Err(crate::registries::broken_off());
    world.step(Input::Resolved(question.number, broken));
    let (node, token) = world.granted();
    world.pass_secs(2);
    let message = world.word("a", READY).1;
    let why = "a node checks the tag: the question broke off, see the coordinator's log";
    assert!(message.ends_with(why), "{message}");
    world.done(node, token, ONE);
    world.pass_secs(3700);
    world.tag_names(ONE);
}

#[test]
fn what_needs_a_login_that_nobody_named_is_left_to_nodes_and_otherwise_refused() {
    let mut world = world(1);
    world.image("a", with_policy("open"));
    world.ask(1, REFERENCE);
    world.not_told(FailureClass::Unauthorized, None);
    assert_eq!(
        world.grants.len(),
        1,
        "the node may have a login of its own"
    );

    let mut world = self::world(1);
    world.image("a", |spec| {
        let named = serde_json::json!([{"name": "s"}]);
        spec.image_pull_secrets = serde_json::from_value(named).unwrap();
    });
    world.ask(1, REFERENCE);
    assert!(world.questions.is_empty(), "the Secret is read first");
    let unusable = |why: &str| Secret::Unusable(why.to_owned());
    world.step(Input::Secret(
        "s".to_owned(),
        unusable("Secret \"s\" is empty"),
    ));
    world.not_told(FailureClass::Unauthorized, None);
    world.pass_secs(2);
    let message = world.word("a", READY).1;
    assert!(
        message.starts_with("unauthorized; Secret \"s\" is empty"),
        "{message}"
    );
    assert!(world.grants.is_empty());
    world.step(Input::Secret("s".to_owned(), unusable("something else")));
    world.tag_names(ONE);
}

#[test]
fn a_host_that_throttles_the_coordinator_pauses_for_everybody() {
    let mut world = world(1);
    world.image("a", with_policy("open"));
    world.ask(1, REFERENCE);
    world.not_told(FailureClass::Throttled, Some(90));
    world.image("b", |spec| spec.tag = Some("2".to_owned()));
    world.pass_secs(80);
    assert!(world.questions.is_empty() && world.grants.is_empty());
    let (reason, message) = world.word("a", READY);
    assert_eq!(reason, "RegistryUnavailable");
    assert!(message.starts_with("throttled, next try at "), "{message}");
    world.pass_secs(11);
    assert_eq!(world.questions.len(), 2);
}

#[test]
fn a_check_that_the_registry_refuses_leaves_ready_nodes_ready() {
    let mut world = world(1);
    world.image("a", with_policy("open"));
    world.holds(1, REFERENCE, ONE);
    world.tag_names(ONE);
    world.pass_secs(3600);
    world.not_told(FailureClass::NotFound, None);
    world.pass_secs(2);
    assert_eq!(world.status("a").phase, Some(Phase::Ready));
    assert_eq!(
        world.word("a", READY).1,
        "Image cached on all 1 target nodes; cannot check the tag: not_found"
    );
}

#[test]
fn a_node_that_the_image_has_no_platform_for_pulls_nothing_and_holds_up_nobody() {
    let mut world = world(1);
    let arm = NodeFacts {
        name: "n2".to_owned(),
        ..NodeFacts::default()
    };
    world.step(Input::Node(Change::Applied(arm)));
    world.connect(2, Vec::new());
    let runtime = RuntimeState {
        available: true,
        platform: "linux/arm64".to_owned(),
        ..RuntimeState::default()
    };
    world.say(2, agent_message::Kind::Runtime(runtime));
    world.image("a", with_policy("open"));
    world.ask_all(2, REFERENCE);
    world.tag_names(ONE);
    let question = world.question();
    let sizes = [("linux/amd64", Some(7)), ("linux/arm64", None)];
    let resolved = Resolved {
        digest: ONE.to_owned(),
        sizes: sizes.map(|(p, size)| (p.to_owned(), size)).into(),
    };
    world.step(Input::Resolved(question.number, Ok(resolved)));
    let (node, token) = world.granted();
    assert_eq!(node, 1);
    world.done(node, token, ONE);
    world.pass_secs(20);
    assert!(world.grants.is_empty());
    assert_eq!(world.status("a").ready.as_deref(), Some("1/2"));
    let exception = &world.status("a").nodes[0];
    assert_eq!(exception.message, "no image for this node's platform");
    assert_eq!(exception.reason, "ImagePullBackOff");
}

#[test]
fn a_pinned_digest_is_asked_for_only_where_a_node_needs_it() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let reference = format!("{IMAGE}@{digest}");
    let mut world = world(1);
    let pin = |spec: &mut CachedImageSpec| {
        spec.tag = None;
        spec.digest = Some(digest.clone());
    };
    world.image("a", pin);
    assert!(world.questions.is_empty());
    world.ask(1, &reference);
    world.not_told(FailureClass::NotFound, None);
    world.pass_secs(2);
    assert_eq!(world.word("a", READY).1, "not_found; 0/1 nodes ready");
    world.pass_secs(300);
    world.contents_are(Some(1));
    world.granted();
}

#[test]
fn a_restart_asks_nothing_before_the_interval_is_over() {
    let mut old = world(1);
    old.image("a", with_policy("open"));
    old.holds(1, REFERENCE, ONE);
    old.tag_names(ONE);
    old.pass_secs(600);
    let mut new = World::with(Config::default(), 0);
    new.core = Core::new(Config::default());
    (new.now, new.written) = (old.now, old.written.clone());
    let node = NodeFacts {
        name: "n1".to_owned(),
        ..NodeFacts::default()
    };
    new.step(Input::Node(Change::Replaced(vec![node])));
    let limits = old.core.policies["open"].limits.clone();
    let open = vec![("open".to_owned(), limits)];
    new.step(Input::Policy(Change::Replaced(open)));
    let object = new.object("a", 1, with_policy("open"));
    new.step(Input::Image(Change::Replaced(vec![object])));
    new.connect(1, Vec::new());
    new.holds(1, REFERENCE, ONE);
    new.pass_secs(2900);
    assert!(new.questions.is_empty() && new.grants.is_empty());
    new.pass_secs(200);
    new.tag_names(ONE);
}

#[test]
fn images_that_any_digest_serves_are_not_asked_for() {
    for policy in [ImagePullPolicy::IfNotPresent, ImagePullPolicy::Never] {
        let mut world = world(1);
        world.image("a", |spec| spec.image_pull_policy = policy);
        world.ask(1, REFERENCE);
        world.pass_secs(5000);
        assert!(world.questions.is_empty());
    }
}

#[test]
fn so_many_questions_are_out_to_one_host_at_a_time() {
    let mut world = world(1);
    for tag in 0..40 {
        world.image(&format!("i{tag}"), |spec| {
            spec.tag = Some(format!("t{tag}"));
        });
    }
    assert_eq!(world.questions.len(), 16);
    let question = world.questions.pop().unwrap();
    let failed = ResolveFailed {
        class: FailureClass::Timeout,
        message: "timeout".to_owned(),
        wait: None,
    };
    world.step(Input::Resolved(question.number, Err(failed)));
    assert_eq!(
        world.questions.len(),
        15,
        "one failure answers those that wait"
    );
}

#[test]
fn an_image_keeps_its_turn_for_a_second_while_its_registry_is_asked() {
    let mut world = world(1);
    for (name, tag) in [("a", "1"), ("b", "2")] {
        world.image(name, |spec| {
            with_policy("open")(spec);
            spec.tag = Some(tag.to_owned());
        });
        world.ask(1, &format!("{IMAGE}:{tag}"));
    }
    let [first, second] = std::mem::take(&mut world.questions).try_into().unwrap();
    world.questions.push(second);
    world.tag_names(TWO);
    world.contents_are(Some(1));
    assert!(world.grants.is_empty(), "a comes before b");
    world.pass(Duration::from_millis(500));
    world.questions.push(first);
    world.tag_names(ONE);
    assert!(world.grants.is_empty(), "its contents are asked for");
    world.contents_are(Some(1));
    let (node, token) = world.granted();
    assert_eq!(
        world.core.grants[&token].image,
        world.core.images.id(REFERENCE).unwrap()
    );
    world.done(node, token, ONE);
    world.granted();
}

#[test]
fn a_slow_registry_does_not_hold_up_the_images_of_others_for_long() {
    let mut world = world(1);
    for (name, tag) in [("a", "1"), ("b", "2")] {
        world.image(name, |spec| {
            with_policy("open")(spec);
            spec.tag = Some(tag.to_owned());
        });
        world.ask(1, &format!("{IMAGE}:{tag}"));
    }
    world.questions.remove(0);
    world.tag_names(TWO);
    world.contents_are(Some(1));
    world.pass(Duration::from_millis(900));
    assert!(world.grants.is_empty());
    world.pass(Duration::from_millis(200));
    let (_, token) = world.granted();
    assert_eq!(
        world.core.grants[&token].image,
        world.core.images.id("r.io/a:2").unwrap()
    );
}

#[test]
fn a_node_that_took_the_image_for_too_large_learns_its_size() {
    let mut world = world(1);
    world.image("a", with_policy("open"));
    world.refuse(1, REFERENCE, FailureClass::NoSpace, "no room");
    world.tag_names(ONE);
    world.desired.clear();
    world.contents_are(Some(7));
    let told = &world.desired.last().unwrap().1.images[0];
    assert_eq!(told.compressed_bytes, 7);
}
