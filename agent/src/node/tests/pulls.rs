//! Grants, from the token to Done, Failed or Release.

use super::*;

#[test]
fn a_grant_starts_its_pull_and_only_the_list_that_follows_makes_it_done() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    assert_eq!(scene.grant(9, APP), starts(9, APP));
    assert_eq!(scene.node.running_pulls(), 1);
    scene.now += secs(5);
    assert_eq!(scene.pulled(9), [Output::List]);
    scene.now += secs(1);
    let listed = Listed {
        digests: vec![D1.to_owned()],
        size_bytes: 7,
    };
    assert_eq!(
        scene.list(&holds(&[(APP, &[D1])])),
        [
            done(9, D1, 5_000, ""),
            Output::Observe(Event::Cached {
                reference: APP.to_owned(),
                listed,
                took: secs(5)
            })
        ]
    );
    assert_eq!(scene.node.running_pulls(), 0);
}

#[test]
fn a_list_that_was_running_when_the_pull_ended_proves_nothing() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    scene.grant(9, APP);
    assert_eq!(scene.wait(30), [renews(&[9]), Output::List]);
    assert_eq!(scene.pulled(9), []);
    assert_eq!(scene.list(&nothing()), [Output::List]);
    let outputs = scene.list(&holds(&[(APP, &[D1])]));
    assert_eq!(acts(outputs), [done(9, D1, 30_000, "")]);
}

#[test]
fn an_image_that_is_not_listed_after_its_pull_has_failed() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    scene.grant(9, APP);
    scene.pulled(9);
    let message = "the runtime says that it pulled the image, but does not list it";
    assert_eq!(
        acts(scene.list(&nothing())),
        [failed(9, FailureClass::NotListed, message, 0, "")]
    );
}

#[test]
fn a_failed_pull_leaves_the_ask_in_force() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    scene.grant(9, APP);
    scene.now += secs(2);
    let reason = failure(FailureClass::Throttled, "throttled by r.example");
    assert_eq!(
        scene.pull_failed(9, reason.class, &reason.message),
        [
            failed(
                9,
                FailureClass::Throttled,
                "throttled by r.example",
                2_000,
                ""
            ),
            Output::Observe(Event::PullFailed {
                reference: APP.to_owned(),
                failure: reason,
                took: secs(2)
            })
        ]
    );
    scene.wait(30);
    assert_eq!(scene.list(&nothing()), []);
    assert_eq!(scene.grant(10, APP), starts(10, APP));
}

#[test]
fn grants_that_cannot_be_used_are_given_back() {
    let mut scene = Scene::at_work(
        vec![always(APP, D1), if_not_present(DB)],
        &holds(&[(DB, &[D2])]),
    );
    let unneeded = "the image is not needed";
    assert_eq!(scene.grant(1, DB), releases(1, DB, unneeded));
    let unknown = "r.example/other:1";
    assert_eq!(scene.grant(2, unknown), releases(2, unknown, unneeded));

    assert_eq!(scene.grant(3, APP), starts(3, APP));
    let busy = "the image is being pulled";
    assert_eq!(scene.grant(4, APP), releases(4, APP, busy));
    scene.desire(vec![if_not_present("r.example/third:1")]);
    scene.list(&holds(&[(DB, &[D2])]));
    let full = "no pull may run beside the others";
    assert_eq!(
        scene.grant(5, "r.example/third:1"),
        releases(5, "r.example/third:1", full)
    );
    // The same grant again is no second one.
    assert_eq!(scene.grant(3, APP), []);
}

#[test]
fn as_many_pulls_run_at_once_as_are_allowed() {
    let mut scene = Scene::with(|config| config.max_parallel_pulls = 2);
    scene.start(vec![always(APP, D1), always(DB, D1)], &nothing());
    assert_eq!(scene.grant(1, APP), starts(1, APP));
    assert_eq!(scene.grant(2, DB), starts(2, DB));
    assert_eq!(scene.wait(20), [renews(&[1, 2])]);
}

#[test]
fn a_grant_is_renewed_every_third_of_its_ttl_while_the_pull_runs() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    scene.grant(9, APP);
    assert_eq!(scene.node.wake_at(), Some(scene.now + secs(20)));
    assert_eq!(scene.wait(19), []);
    assert_eq!(scene.wait(1), [renews(&[9])]);
    assert_eq!(acts(scene.wait(20)), [renews(&[9]), Output::List]);
    scene.pull_failed(9, FailureClass::Dns, "dns");
    scene.list(&nothing());
    assert_eq!(scene.wait(20), []);
}

#[test]
fn a_revoked_pull_is_cancelled_only_if_the_image_is_not_desired() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    scene.grant(9, APP);
    assert_eq!(scene.revoke(9), []);
    // Dropping alone cancels nothing.
    assert_eq!(acts(scene.change(vec![], &[APP])), [Output::List]);
    assert_eq!(scene.revoke(9), [Output::CancelPull { token: 9 }]);
    assert_eq!(scene.revoke(9), []);
    assert_eq!(scene.revoke(77), []);
    let message = "cancelled: the image is not wanted any more";
    assert_eq!(
        acts(scene.pull_failed(9, FailureClass::Canceled, "context canceled")),
        [failed(9, FailureClass::Canceled, message, 0, "")]
    );
}

#[test]
fn a_pull_whose_image_was_dropped_goes_on_to_the_end() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    scene.grant(9, APP);
    scene.change(vec![], &[APP]);
    scene.list(&nothing());
    assert_eq!(scene.pulled(9), [Output::List]);
    assert_eq!(
        acts(scene.list(&holds(&[(APP, &[D1])]))),
        [done(9, D1, 0, "")]
    );
}

#[test]
fn a_pull_that_takes_too_long_is_cancelled_and_says_so() {
    let mut scene = Scene::with(|config| config.pull_deadline = secs(10));
    scene.start(vec![always(APP, D1)], &nothing());
    scene.grant(9, APP);
    assert_eq!(scene.node.wake_at(), Some(scene.now + secs(10)));
    assert_eq!(scene.wait(10), [Output::CancelPull { token: 9 }]);
    assert_eq!(scene.wait(1), []);
    let message = "cancelled: not finished within 10 s; if it was not stuck, raise pullTimeout of its PullPolicy (without a policy: --pull-deadline)";
    assert_eq!(
        acts(scene.pull_failed(9, FailureClass::Canceled, "x")),
        [failed(9, FailureClass::Canceled, message, 11_000, "")]
    );
}

#[test]
fn the_limit_of_a_grant_counts_more_than_the_nodes_own() {
    let mut scene = Scene::with(|config| config.pull_deadline = secs(10));
    scene.start(vec![always(APP, D1)], &nothing());
    scene.say(FromCoordinator::Grant(Grant {
        token: 9,
        reference: APP.to_owned(),
        ttl_ms: 60_000,
        timeout_ms: 25_000,
        ..Grant::default()
    }));
    assert_eq!(scene.wait(20), [renews(&[9])]);
    assert_eq!(scene.wait(5), [Output::CancelPull { token: 9 }]);
}

#[test]
fn a_stopping_agent_starts_nothing_and_lets_its_pull_finish() {
    let mut scene = Scene::at_work(vec![always(APP, D1), always(DB, D1)], &nothing());
    scene.grant(9, APP);
    assert_eq!(scene.step(Input::Shutdown), [withdraws(&[APP, DB])]);
    assert_eq!(scene.grant(10, DB), releases(10, DB, "the agent stops"));
    scene.now += secs(60);
    assert_eq!(scene.pulled(9), [renews(&[9]), Output::List]);
    assert_eq!(
        acts(scene.list(&holds(&[(APP, &[D1])]))),
        [done(9, D1, 60_000, ""), Output::Exit]
    );
    assert_eq!(scene.wait(100), []);
    assert_eq!(scene.node.wake_at(), None);
}

#[test]
fn an_idle_agent_stops_at_once() {
    let mut scene = Scene::at_work(vec![], &nothing());
    assert_eq!(scene.step(Input::Shutdown), [Output::Exit]);
}

#[test]
fn a_pull_that_outlives_the_grace_is_abandoned() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    scene.grant(9, APP);
    scene.step(Input::Shutdown);
    let outputs = acts(scene.wait(300));
    let message = "cancelled: the agent stops";
    assert_eq!(
        outputs,
        [
            Output::CancelPull { token: 9 },
            failed(9, FailureClass::Canceled, message, 300_000, ""),
            Output::Exit
        ]
    );
}

#[test]
fn a_second_shutdown_exits_at_once() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    scene.grant(9, APP);
    scene.step(Input::Shutdown);
    assert_eq!(
        acts(scene.step(Input::Shutdown)).last(),
        Some(&Output::Exit)
    );
}
