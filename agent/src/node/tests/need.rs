//! When an image is asked for, policy by policy.

use super::*;
use ImagePullPolicy::{Always, IfNotPresent, Never, Unspecified};

/// Whether the node asks for APP, wanted like this, when its runtime holds these digests (`None`: not listed).
fn asked(image: DesiredImage, held: Option<&[&str]>) -> bool {
    let listing = held.map_or_else(nothing, |digests| holds(&[(APP, digests)]));
    let outputs = Scene::new().start(vec![image], &listing);
    outputs.contains(&asks(&[APP]))
}

#[test]
fn a_node_asks_for_what_its_policy_needs() {
    let table = [
        (Always, "", 0, None, true),
        (Always, "", 0, Some(&[D1][..]), true),
        (Always, D1, 0, None, true),
        (Always, D1, 0, Some(&[D1]), false),
        (Always, D1, 0, Some(&[D2]), true),
        (Always, D1, 0, Some(&[D2, D1]), false),
        (Always, D1, 0, Some(&[]), true),
        (Always, D1, 4, Some(&[D1]), true),
        (Unspecified, D1, 0, Some(&[D2]), true),
        (Unspecified, D1, 0, Some(&[D1]), false),
        (IfNotPresent, "", 0, None, true),
        (IfNotPresent, "", 0, Some(&[D1]), false),
        (IfNotPresent, D1, 0, Some(&[D2]), false),
        (IfNotPresent, D1, 4, Some(&[]), false),
        (Never, "", 0, None, false),
        (Never, D1, 4, None, false),
        (Never, D1, 0, Some(&[D2]), false),
    ];
    for (policy, expected, check, held, ask) in table {
        let case = format!("{policy:?} expected={expected} check={check} held={held:?}");
        assert_eq!(
            asked(wanted(APP, policy, expected, check), held),
            ask,
            "{case}"
        );
    }
}

#[test]
fn an_unknown_policy_of_a_newer_coordinator_counts_as_always() {
    let mut image = always(APP, D1);
    image.pull_policy = 99;
    assert!(asked(image, Some(&[D2])));
}

#[test]
fn with_no_expected_digest_one_pull_is_enough() {
    let mut scene = Scene::at_work(vec![always(APP, "")], &holds(&[(APP, &[D1])]));
    let outputs = scene.pull(1, APP, D2);
    assert_eq!(acts(outputs), [done(1, D2, 0, "")]);
    scene.wait(30);
    assert_eq!(scene.list(&holds(&[(APP, &[D2])])), []);
    // The coordinator learnt the digest from it.
    assert_eq!(scene.desire(vec![always(APP, D2)]), [Output::List]);
}

#[test]
fn what_only_a_former_session_heard_does_not_count_while_no_digest_is_expected() {
    let mut scene = Scene::at_work(vec![always(APP, "")], &nothing());
    scene.pull(1, APP, D1);
    scene.connect();
    scene.desire(vec![always(APP, "")]);
    assert_eq!(
        scene.list(&holds(&[(APP, &[D1])])),
        [inventory(1, true, vec![there(APP, &[D1])]), asks(&[APP])]
    );
}

#[test]
fn a_new_check_asks_though_the_digest_is_there() {
    let held = holds(&[(APP, &[D1])]);
    let mut scene = Scene::at_work(vec![always(APP, D1)], &held);
    let check = |number| vec![wanted(APP, Always, D1, number)];
    assert_eq!(scene.desire(check(1)), [asks(&[APP]), Output::List]);
    scene.list(&held);
    assert_eq!(acts(scene.pull(1, APP, D1)), [done(1, D1, 0, "")]);
    // Once per number, and zero asks nothing.
    assert_eq!(scene.desire(check(1)), [Output::List]);
    scene.list(&held);
    assert_eq!(scene.desire(check(0)), [Output::List]);
    scene.list(&held);
    assert_eq!(scene.desire(check(2)), [asks(&[APP]), Output::List]);
}

#[test]
fn a_check_that_came_during_a_pull_is_not_answered_by_it() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    scene.grant(1, APP);
    scene.desire(vec![wanted(APP, Always, D1, 1)]);
    scene.list(&nothing());
    scene.pulled(1);
    let outputs = scene.list(&holds(&[(APP, &[D1])]));
    assert_eq!(acts(outputs), [done(1, D1, 0, ""), asks(&[APP])]);
}

#[test]
fn a_mirror_that_serves_another_digest_is_not_asked_in_circles() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    assert_eq!(acts(scene.pull(1, APP, D2)), [done(1, D2, 0, "")]);
    scene.wait(30);
    assert_eq!(scene.list(&holds(&[(APP, &[D2])])), []);

    // Not in the next session either, nor because a check is over.
    scene.connect();
    scene.desire(vec![always(APP, D1)]);
    assert_eq!(
        scene.list(&holds(&[(APP, &[D2])])),
        [inventory(1, true, vec![there(APP, &[D2])])]
    );

    // Another expectation, or a new check, is a reason to try again.
    let d3 = D1.replace('1', "3");
    assert_eq!(
        scene.desire(vec![always(APP, &d3)]),
        [asks(&[APP]), Output::List]
    );
    scene.list(&holds(&[(APP, &[D2])]));
    scene.pull(2, APP, D2);
    let check = vec![wanted(APP, Always, &d3, 1)];
    assert_eq!(scene.desire(check), [asks(&[APP]), Output::List]);
    scene.list(&holds(&[(APP, &[D2])]));
    scene.pull(3, APP, D2);
    assert_eq!(scene.desire(vec![always(APP, &d3)]), [Output::List]);
}

#[test]
fn an_image_that_is_lost_after_a_fresh_pull_is_needed_again() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    scene.pull(1, APP, D2);
    scene.wait(30);
    assert_eq!(
        acts(scene.list(&nothing())),
        [inventory(1, false, vec![lost(APP)]), asks(&[APP])]
    );
}

#[test]
fn a_changed_digest_that_is_still_not_the_expected_one_is_asked_for_again() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    scene.wait(30);
    // The kubelet pulled a former one; the Inventory voids the ask, so it is said anew.
    assert_eq!(
        scene.list(&holds(&[(APP, &[D2])])),
        [inventory(1, false, vec![there(APP, &[D2])]), asks(&[APP])]
    );
}

#[test]
fn a_policy_that_becomes_never_withdraws_the_ask() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    let never = vec![wanted(APP, Never, "", 0)];
    assert_eq!(scene.desire(never), [withdraws(&[APP]), Output::List]);
}
