//! A runtime that goes away, comes back, or cannot list.

use super::*;

fn says(available: bool, message: &str) -> Output {
    sent(agent_message::Kind::Runtime(runtime_state(
        available, message,
    )))
}

#[test]
fn nothing_is_claimed_before_the_runtime_has_listed() {
    let mut scene = Scene::new();
    let outputs = scene.connect();
    let [
        Output::Send(AgentMessage {
            kind: Some(agent_message::Kind::Hello(hello)),
        }),
    ] = &outputs[..]
    else {
        panic!("{outputs:?}");
    };
    assert!(
        hello
            .runtime
            .as_ref()
            .is_some_and(|r| !r.available && !r.message.is_empty())
    );
    assert_eq!(scene.desire(vec![always(APP, D1)]), []);
    assert_eq!(scene.wait(600), []);
    assert_eq!(scene.node.wake_at(), None);
    assert_eq!(scene.runtime_up(), [says(true, ""), Output::List]);
    assert_eq!(
        scene.list(&nothing()),
        [inventory(1, true, vec![]), asks(&[APP])]
    );
}

#[test]
fn while_the_runtime_is_away_grants_are_given_back_and_nothing_is_listed() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    assert_eq!(scene.runtime_down(), [says(false, "connection refused")]);
    assert_eq!(scene.runtime_down(), []);
    assert_eq!(
        scene.grant(1, APP),
        releases(1, APP, "the runtime does not answer")
    );
    assert_eq!(scene.wait(300), []);
    assert_eq!(scene.runtime_up(), [says(true, ""), Output::List]);
    assert_eq!(scene.list(&nothing()), []);
    assert_eq!(scene.grant(2, APP), starts(2, APP));
}

#[test]
fn a_pull_call_that_the_runtime_took_with_it_fails_by_its_own_end() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    scene.grant(1, APP);
    assert_eq!(scene.runtime_down(), [says(false, "connection refused")]);
    assert_eq!(
        acts(scene.pull_failed(1, FailureClass::Runtime, "the runtime went away")),
        [failed(
            1,
            FailureClass::Runtime,
            "the runtime went away",
            0,
            ""
        )]
    );
}

#[test]
fn a_pull_that_waits_for_its_list_fails_with_the_runtime() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    scene.grant(1, APP);
    scene.pulled(1);
    assert_eq!(
        acts(scene.runtime_down()),
        [
            says(false, "connection refused"),
            failed(1, FailureClass::Runtime, "connection refused", 0, "")
        ]
    );
}

#[test]
fn a_runtime_that_lost_its_images_is_found_out_when_it_is_back() {
    let mut scene = Scene::at_work(vec![if_not_present(APP)], &holds(&[(APP, &[D1])]));
    scene.runtime_down();
    scene.runtime_up();
    assert_eq!(
        acts(scene.list(&nothing())),
        [inventory(1, false, vec![lost(APP)]), asks(&[APP])]
    );
}

#[test]
fn a_list_that_fails_is_repeated_with_growing_waits() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &nothing());
    scene.grant(1, APP);
    assert_eq!(scene.pulled(1), [Output::List]);
    for wait in [1, 2] {
        assert_eq!(scene.step(Input::Listed(Err("busy".to_owned()))), []);
        assert_eq!(scene.node.wake_at(), Some(scene.now + secs(wait)));
        assert_eq!(scene.wait(wait), [Output::List]);
    }
    // The third time the pull does not wait any longer, and the runtime counts as away.
    let message = "cannot list images: busy";
    assert_eq!(
        acts(scene.step(Input::Listed(Err("busy".to_owned())))),
        [
            says(false, message),
            failed(1, FailureClass::Runtime, message, 0, "")
        ]
    );
    assert_eq!(scene.wait(4), [Output::List]);
    let back = scene.list(&holds(&[(APP, &[D1])]));
    assert_eq!(
        back,
        [says(true, ""), inventory(1, false, vec![there(APP, &[D1])])]
    );
}
