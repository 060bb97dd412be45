//! The real machine and the grantor against each other, with a runtime that the test plays.

use std::time::Duration;

use drop_proto::{FailureClass, ImagePullPolicy};

use super::{Grantor, State, Wanted, exchange};
use crate::node::{Config, Disk, DiskLimits, Failure, Input, Listed, Listing, Node, Output};

const A: &str = "r.example/a:1";
const B: &str = "r.example/b:1";
const C: &str = "other.example/c:1";
const D1: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

struct Scene {
    node: Node,
    grantor: Grantor,
    now: Duration,
    held: Listing,
    /// Pulls under way, in the order of their start.
    pulls: Vec<(u64, String)>,
}

impl Scene {
    fn new(wanted: &[Wanted], parallel: u32, held: &[&str]) -> Self {
        let config = Config {
            node: "local".to_owned(),
            instance: "local".to_owned(),
            version: "0".to_owned(),
            max_parallel_pulls: parallel,
            list_interval: Duration::from_secs(3600),
            pull_deadline: Duration::from_secs(3600),
            shutdown_grace: Duration::ZERO,
            disk: DiskLimits::default(),
            allowed: Vec::new(),
        };
        let grantor = Grantor::new(wanted, parallel);
        let desired = grantor.desired();
        let mut scene = Self {
            node: Node::new(config),
            grantor,
            now: Duration::from_secs(1),
            held: held.iter().map(|r| ((*r).to_owned(), listed())).collect(),
            pulls: Vec::new(),
        };
        scene.step(Input::Connected);
        scene.step(Input::Message(desired));
        scene
    }

    /// With a runtime that answers.
    fn started(wanted: &[Wanted], parallel: u32, held: &[&str]) -> Self {
        let mut scene = Self::new(wanted, parallel, held);
        scene.runtime_up();
        scene
    }

    fn runtime_up(&mut self) {
        self.step(Input::RuntimeUp {
            runtime: "r".to_owned(),
            platform: "linux/amd64".to_owned(),
        });
    }

    fn step(&mut self, input: Input) {
        for output in exchange(&mut self.node, &mut self.grantor, self.now, input) {
            match output {
                Output::Pull {
                    token, reference, ..
                } => self.pulls.push((token, reference)),
                Output::List => self.step(Input::Listed(Ok(self.held.clone()))),
                _ => {}
            }
        }
    }

    fn disk(&mut self, free_bytes: u64) {
        let total_bytes = 100_000_000_000;
        self.step(Input::Disk(Some(Disk {
            free_bytes,
            total_bytes,
        })));
    }

    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.step(Input::Tick);
    }

    fn pulling(&self) -> Vec<&str> {
        self.pulls
            .iter()
            .map(|(_, reference)| reference.as_str())
            .collect()
    }

    fn succeed(&mut self) {
        let (token, reference) = self.pulls.remove(0);
        self.held.insert(reference, listed());
        let result = Ok(());
        self.step(Input::PullEnded { token, result });
    }

    fn fail(&mut self, class: FailureClass) {
        let (token, _) = self.pulls.remove(0);
        let result = Err(failure(class));
        self.step(Input::PullEnded { token, result });
    }

    fn state(&self, reference: &str) -> State {
        self.grantor.state(reference, self.now)
    }

    fn is_finished(&self) -> bool {
        self.grantor.is_finished(self.now)
    }
}

fn failure(class: FailureClass) -> Failure {
    Failure {
        class,
        message: class.class().to_owned(),
    }
}

fn listed() -> Listed {
    Listed {
        digests: vec![D1.to_owned()],
        size_bytes: 5,
    }
}

fn wanted(reference: &str, policy: ImagePullPolicy, priority: i32) -> Wanted {
    Wanted {
        name: reference.to_owned(),
        reference: reference.to_owned(),
        policy,
        priority,
    }
}

fn images(references: &[&str]) -> Vec<Wanted> {
    references
        .iter()
        .map(|r| wanted(r, ImagePullPolicy::IfNotPresent, 0))
        .collect()
}

fn present(size_bytes: u64) -> State {
    State::Present {
        digest: Some(D1.to_owned()),
        size_bytes,
    }
}

#[test]
fn images_are_pulled_by_priority_then_name_as_many_at_once_as_allowed() {
    let mut list = images(&[A, B, C]);
    list[1].priority = -1;
    let mut scene = Scene::started(&list, 2, &[]);
    assert_eq!(scene.pulling(), [B, C]);
    assert_eq!(scene.state(A), State::Waiting);
    scene.succeed();
    assert_eq!(scene.pulling(), [C, A]);
    scene.succeed();
    scene.succeed();
    assert!(scene.is_finished());
    assert_eq!(scene.state(A), present(5));
}

#[test]
fn what_is_there_is_not_pulled_unless_the_tag_is_to_be_checked() {
    let list = [
        wanted(A, ImagePullPolicy::IfNotPresent, 0),
        wanted(B, ImagePullPolicy::Always, 0),
        wanted(C, ImagePullPolicy::Never, 0),
    ];
    let mut scene = Scene::started(&list, 1, &[A, B, C]);
    assert_eq!(scene.pulling(), [B]);
    assert_eq!((scene.state(A), scene.state(C)), (present(0), present(0)));
    scene.succeed();
    assert!(scene.is_finished());
}

#[test]
fn a_digest_that_is_there_is_not_pulled_again() {
    let reference = format!("r.example/a@{D1}");
    let list = [wanted(&reference, ImagePullPolicy::Always, 0)];
    let scene = Scene::started(&list, 1, &[&reference]);
    assert!(scene.is_finished());
}

#[test]
fn an_absent_image_that_must_not_be_pulled_has_failed() {
    let scene = Scene::started(&[wanted(A, ImagePullPolicy::Never, 0)], 1, &[]);
    assert_eq!(scene.state(A), State::Absent);
    assert!(scene.is_finished());
}

#[test]
fn the_stricter_of_two_documents_counts() {
    let list = [
        wanted(A, ImagePullPolicy::Never, 0),
        wanted(A, ImagePullPolicy::IfNotPresent, 3),
    ];
    assert_eq!(Scene::started(&list, 1, &[]).pulling(), [A]);
}

#[test]
fn nothing_starts_before_the_runtime_is_there() {
    let mut scene = Scene::new(&images(&[A]), 1, &[]);
    scene.wait(60_000);
    assert_eq!((scene.pulling(), scene.state(A)), (vec![], State::Waiting));
    assert!(scene.grantor.runtime_problem().is_some());
    scene.runtime_up();
    assert_eq!(scene.pulling(), [A]);
    assert_eq!(scene.grantor.runtime_problem(), None);
}

#[test]
fn what_no_further_try_would_help_is_given_up_at_once() {
    for class in [
        FailureClass::NotFound,
        FailureClass::NoPlatform,
        FailureClass::InvalidName,
        FailureClass::Unauthorized,
        FailureClass::Forbidden,
    ] {
        let mut scene = Scene::started(&images(&[A]), 1, &[]);
        scene.fail(class);
        assert_eq!(scene.state(A), State::Failed(failure(class)));
        assert!(scene.is_finished());
        scene.wait(60_000);
        assert_eq!(scene.pulling(), Vec::<&str>::new());
    }
}

#[test]
fn other_failures_are_retried_with_growing_waits() {
    let mut scene = Scene::started(&images(&[A]), 1, &[]);
    for wait in [1, 2, 4, 8, 16, 30, 30] {
        scene.fail(FailureClass::Unspecified);
        let at = scene.now + Duration::from_secs(wait);
        let failure = failure(FailureClass::Unspecified);
        assert_eq!(scene.state(A), State::Retrying { at, failure });
        assert_eq!(scene.grantor.wake_at(scene.now), Some(at));
        scene.wait(wait * 1000 - 1);
        assert_eq!(scene.pulling(), Vec::<&str>::new());
        scene.wait(1);
        assert_eq!(scene.pulling(), [A]);
    }
    scene.succeed();
    assert!(scene.is_finished());
}

#[test]
fn a_throttled_host_holds_up_its_own_images_only() {
    let mut scene = Scene::started(&images(&[A, B, C]), 1, &[]);
    assert_eq!(scene.pulling(), [C]);
    scene.succeed();
    scene.fail(FailureClass::Throttled);
    assert_eq!(scene.pulling(), Vec::<&str>::new());
    scene.wait(1000);
    assert_eq!(scene.pulling(), [A]);
    // A success clears the host's name.
    scene.succeed();
    assert_eq!(scene.pulling(), [B]);
}

#[test]
fn a_full_disk_holds_up_everything() {
    let mut scene = Scene::started(&images(&[A, C]), 2, &[]);
    assert_eq!(scene.pulling(), [C, A]);
    scene.fail(FailureClass::NoSpace);
    scene.fail(FailureClass::NoSpace);
    scene.wait(999);
    assert_eq!(scene.pulling(), Vec::<&str>::new());
    // Two failures at once are one reason to wait.
    scene.wait(1);
    assert_eq!(scene.pulling(), [C, A]);
}

#[test]
fn an_image_without_room_is_given_up_once_nothing_runs_that_may_leave_more() {
    let mut scene = Scene::started(&images(&[A, B]), 1, &[]);
    assert_eq!(scene.pulling(), [A]);
    // 80 % of 100 GB may be in use, the pull that runs has 1 GB reserved, and the next one would need another.
    scene.disk(21_000_000_000);
    assert!(
        matches!(scene.state(B), State::Failed(_)),
        "{:?}",
        scene.state(B)
    );
    assert!(!scene.is_finished());
    // It took half of that, and its room is free for the other one.
    scene.disk(23_000_000_000);
    scene.succeed();
    assert_eq!(scene.pulling(), [B]);
    scene.disk(1_000_000_000);
    scene.fail(FailureClass::Unspecified);
    let State::Failed(failure) = scene.state(B) else {
        panic!("{:?}", scene.state(B));
    };
    assert_eq!(failure.class, FailureClass::NoSpace);
    assert!(
        failure.message.contains("--disk-high-percent"),
        "{failure:?}"
    );
    assert!(scene.is_finished());
}
