//! What the node does not ask for: images that its disk has no room for, and images that its flags forbid.

use drop_proto::{Refusal, Refused};

use super::*;

const MB: u64 = 1_000_000;

/// Images of unknown size need 10 MB, and 80 of 100 may be in use.
fn scene(free_mb: u64) -> Scene {
    let mut scene = Scene::with(|config| {
        config.max_parallel_pulls = 2;
        config.disk = DiskLimits {
            high_percent: 80,
            default_need_bytes: 10 * MB,
        };
    });
    disk(&mut scene, free_mb);
    scene
}

fn disk(scene: &mut Scene, free_mb: u64) -> Vec<Output> {
    scene.step(Input::Disk(Some(Disk {
        free_bytes: free_mb * MB,
        total_bytes: 100 * MB,
    })))
}

fn sized(reference: &str, compressed_mb: u64) -> DesiredImage {
    DesiredImage {
        compressed_bytes: compressed_mb * MB,
        ..always(reference, "")
    }
}

fn refuses(reference: &str, class: FailureClass, message: &str) -> Output {
    sent(agent_message::Kind::Refused(Refused {
        images: vec![Refusal {
            reference: reference.to_owned(),
            class: class.into(),
            message: message.to_owned(),
        }],
        lifted: Vec::new(),
    }))
}

fn lifts(reference: &str) -> Output {
    sent(agent_message::Kind::Refused(Refused {
        images: Vec::new(),
        lifted: vec![reference.to_owned()],
    }))
}

fn no_room(needs: &str, free: &str, percent: u64) -> String {
    format!(
        "needs {needs}, {free} of 100.0 MB free: {percent} % would be in use, over --disk-high-percent=80; free space on the node"
    )
}

#[test]
fn an_image_without_room_is_not_asked_for_until_there_is_space() {
    let mut scene = scene(25);
    let outputs = scene.start(vec![always(APP, "")], &nothing());
    let message = no_room("10.0 MB", "25.0 MB", 85);
    assert_eq!(
        acts(outputs.clone()),
        [
            inventory(1, true, vec![]),
            refuses(APP, FailureClass::NoSpace, &message)
        ]
    );
    let refused = Output::Observe(Event::Refused {
        reference: APP.to_owned(),
        failure: failure(FailureClass::NoSpace, &message),
    });
    assert!(outputs.contains(&refused), "{outputs:?}");
    assert_eq!(
        scene.grant(9, APP),
        releases(9, APP, "the node refuses the image")
    );
    assert_eq!(disk(&mut scene, 26), [], "hardly a change");
    assert_eq!(disk(&mut scene, 50), [lifts(APP), asks(&[APP])]);
    let outputs = acts(disk(&mut scene, 10));
    let message = no_room("10.0 MB", "10.0 MB", 100);
    assert_eq!(
        outputs,
        [
            withdraws(&[APP]),
            refuses(APP, FailureClass::NoSpace, &message)
        ]
    );
    // The next session knows nothing of it.
    scene.connect();
    scene.desire(vec![always(APP, "")]);
    assert_eq!(
        scene.list(&nothing()),
        [
            inventory(1, true, vec![]),
            refuses(APP, FailureClass::NoSpace, &message)
        ]
    );
    assert_eq!(scene.change(vec![], &[APP]).first(), Some(&undesired(APP)));
}

fn undesired(reference: &str) -> Output {
    Output::Observe(Event::Undesired {
        references: vec![reference.to_owned()],
    })
}

#[test]
fn running_pulls_have_their_room_reserved() {
    let mut scene = scene(35);
    let outputs = scene.start(vec![always(APP, D1), always(DB, D1)], &nothing());
    assert!(outputs.contains(&asks(&[APP, DB])), "{outputs:?}");
    let outputs = acts(scene.grant(1, APP));
    let message = "needs 10.0 MB, 35.0 MB of 100.0 MB free, 10.0 MB of it for running pulls: 85 % would be in use, over \
                   --disk-high-percent=80; free space on the node";
    assert_eq!(
        outputs[2..],
        [
            withdraws(&[DB]),
            refuses(DB, FailureClass::NoSpace, message)
        ]
    );
    assert_eq!(
        scene.grant(2, DB),
        releases(2, DB, "the node refuses the image")
    );
    scene.pulled(1);
    // It needed less than it was given.
    assert_eq!(disk(&mut scene, 34), []);
    assert_eq!(
        acts(scene.list(&holds(&[(APP, &[D1])]))),
        [done(1, D1, 0, ""), lifts(DB), asks(&[DB])]
    );
}

#[test]
fn the_need_follows_from_the_compressed_size_and_what_pulls_took_before() {
    let mut scene = scene(100);
    let small = "r.example/small:v1";
    let outputs = scene.start(
        vec![sized(APP, 20), sized(DB, 25), sized(small, 5)],
        &nothing(),
    );
    assert!(outputs.contains(&asks(&[APP, DB, small])), "{outputs:?}");
    scene.grant(1, APP);
    scene.pulled(1);
    // It took 40 MB, twice its size and not three times: that is learned little by little.
    disk(&mut scene, 60);
    let outputs = acts(scene.list(&holds(&[(APP, &[D1])])));
    let message = no_room("72.5 MB", "60.0 MB", 113);
    assert_eq!(
        outputs,
        [
            done(1, D1, 0, ""),
            lifts(small),
            asks(&[small]),
            refuses(DB, FailureClass::NoSpace, &message)
        ]
    );
}

#[test]
fn a_disk_that_cannot_be_read_holds_up_nothing() {
    let mut scene = scene(0);
    let outputs = scene.start(vec![always(APP, "")], &nothing());
    assert!(!outputs.contains(&asks(&[APP])), "{outputs:?}");
    assert_eq!(scene.step(Input::Disk(None)), [lifts(APP), asks(&[APP])]);
}

#[test]
fn an_image_that_is_there_needs_no_room() {
    let mut scene = scene(0);
    let outputs = scene.start(vec![always(APP, D1)], &holds(&[(APP, &[D1])]));
    assert_eq!(outputs, [inventory(1, true, vec![there(APP, &[D1])])]);
}

#[test]
fn what_comes_from_a_registry_that_is_not_allowed_is_neither_asked_for_nor_pulled() {
    let mut scene = Scene::with(|config| {
        config.allowed = vec!["r.example/app".parse().expect("a prefix")];
    });
    let outputs = acts(scene.start(vec![always(APP, D1), always(DB, D1)], &nothing()));
    let message = "node n1 does not take this image from r.example: add it to --allow-registries of the agent, or use an allowed registry";
    assert_eq!(
        outputs,
        [
            inventory(1, true, vec![]),
            asks(&[APP]),
            refuses(DB, FailureClass::NotAllowed, message)
        ]
    );
    assert_eq!(
        scene.grant(9, DB),
        releases(9, DB, "the node refuses the image")
    );
    // Somebody else brought it: that is the node's own business.
    assert_eq!(
        scene.list(&holds(&[(DB, &[D1])])),
        [inventory(1, false, vec![there(DB, &[D1])]), lifts(DB)]
    );
}
