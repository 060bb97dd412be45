//! Hello, Inventory and Ask over the life of sessions.

use super::*;

fn hello(held: Vec<drop_proto::HeldGrant>) -> Output {
    sent(agent_message::Kind::Hello(Hello {
        node: "n1".to_owned(),
        instance: "i1".to_owned(),
        version: "0".to_owned(),
        max_parallel_pulls: 1,
        held,
        runtime: Some(runtime_state(true, "")),
    }))
}

#[test]
fn a_session_starts_with_hello_and_answers_desired_after_a_list_that_began_later() {
    let mut scene = Scene::new();
    assert_eq!(scene.runtime_up(), [Output::List]);
    assert_eq!(scene.connect(), [hello(vec![])]);
    // The list that is running may be older than the question.
    assert_eq!(scene.desire(vec![always(APP, D1), if_not_present(DB)]), []);
    assert_eq!(scene.list(&nothing()), [Output::List]);
    assert_eq!(
        scene.list(&holds(&[(DB, &[D2])])),
        [inventory(1, true, vec![there(DB, &[D2])]), asks(&[APP])]
    );
}

#[test]
fn an_empty_desired_is_answered_with_an_empty_inventory() {
    let mut scene = Scene::new();
    assert_eq!(
        scene.start(vec![], &nothing()),
        [inventory(1, true, vec![])]
    );
}

#[test]
fn later_only_differences_are_said() {
    let mut scene = Scene::at_work(vec![always(APP, D1)], &holds(&[(APP, &[D1])]));
    assert_eq!(scene.wait(30), [Output::List]);
    assert_eq!(scene.list(&holds(&[(APP, &[D1])])), []);

    assert_eq!(scene.desire(vec![if_not_present(DB)]), [Output::List]);
    assert_eq!(
        scene.list(&holds(&[(APP, &[D1])])),
        [inventory(2, false, vec![absent(DB)]), asks(&[DB])]
    );
    // Somebody else pulls it: the ask is void.
    scene.wait(30);
    assert_eq!(
        scene.list(&holds(&[(APP, &[D1]), (DB, &[D2])])),
        [inventory(2, false, vec![there(DB, &[D2])])]
    );
}

#[test]
fn an_ask_that_became_void_without_an_inventory_is_withdrawn() {
    let mut scene = Scene::at_work(vec![always(APP, D2)], &holds(&[(APP, &[D1])]));
    let outputs = scene.desire(vec![always(APP, D1)]);
    assert_eq!(outputs, [withdraws(&[APP]), Output::List]);
}

#[test]
fn an_ask_of_a_dropped_image_is_not_mentioned_again() {
    let mut scene = Scene::at_work(vec![if_not_present(APP)], &nothing());
    assert_eq!(
        scene.change(vec![], &[APP, "r.example/unknown:1"]),
        [
            Output::Observe(Event::Undesired {
                references: vec![APP.to_owned()]
            }),
            Output::List
        ]
    );
    assert_eq!(scene.list(&holds(&[(APP, &[D1])])), []);
    assert_eq!(scene.node.desired_count(), 0);
}

#[test]
fn an_image_that_vanishes_is_lost_and_asked_for_again() {
    let mut scene = Scene::at_work(vec![if_not_present(APP)], &holds(&[(APP, &[D1])]));
    scene.wait(30);
    let vanished = Output::Observe(Event::Lost {
        reference: APP.to_owned(),
    });
    assert_eq!(
        scene.list(&nothing()),
        [vanished, inventory(1, false, vec![lost(APP)]), asks(&[APP])]
    );
    // It is lost once, not with each list.
    scene.wait(30);
    assert_eq!(scene.list(&nothing()), []);
}

#[test]
fn a_loss_while_no_session_was_open_is_said_in_the_next_one() {
    let mut scene = Scene::at_work(vec![if_not_present(APP)], &holds(&[(APP, &[D1])]));
    scene.step(Input::Disconnected);
    scene.wait(30);
    assert_eq!(acts(scene.list(&nothing())), []);
    scene.connect();
    scene.desire(vec![if_not_present(APP)]);
    assert_eq!(
        scene.list(&nothing()),
        [inventory(1, true, vec![lost(APP)]), asks(&[APP])]
    );
}

#[test]
fn a_complete_desired_replaces_what_the_former_session_wanted() {
    let mut scene = Scene::at_work(vec![if_not_present(APP)], &nothing());
    scene.step(Input::Disconnected);
    scene.connect();
    assert_eq!(
        scene.desire(vec![if_not_present(DB)]),
        [
            Output::Observe(Event::Undesired {
                references: vec![APP.to_owned()]
            }),
            Output::List
        ]
    );
    assert_eq!(
        scene.list(&nothing()),
        [inventory(1, true, vec![]), asks(&[DB])]
    );
}

#[test]
fn revisions_that_do_not_follow_each_other_end_the_session() {
    let mut scene = Scene::at_work(vec![], &nothing());
    scene.revision = 7;
    let outputs = scene.desire(vec![if_not_present(APP)]);
    assert!(
        matches!(outputs[..], [Output::Reconnect { .. }]),
        "{outputs:?}"
    );
}

#[test]
fn a_message_of_an_unknown_kind_is_skipped() {
    let mut scene = Scene::at_work(vec![], &nothing());
    let unknown = CoordinatorMessage { kind: None };
    assert_eq!(scene.step(Input::Message(unknown)), []);
}

#[test]
fn a_message_that_arrives_after_the_session_is_over_is_skipped() {
    let mut scene = Scene::at_work(vec![if_not_present(APP)], &nothing());
    scene.step(Input::Disconnected);
    assert_eq!(scene.grant(1, APP), []);
}

#[test]
fn the_number_of_desired_images_is_bounded() {
    let many = (0..super::super::MAX_DESIRED + 3)
        .map(|i| if_not_present(&format!("r.example/{i:05}:1")))
        .collect();
    let mut scene = Scene::new();
    scene.runtime_up();
    scene.list(&nothing());
    scene.connect();
    assert_eq!(
        scene.desire(many),
        [
            Output::Observe(Event::TooManyDesired { ignored: 3 }),
            Output::List
        ]
    );
    assert_eq!(scene.node.desired_count(), super::super::MAX_DESIRED);
}

#[test]
fn long_inventories_and_asks_are_cut_in_pieces() {
    let name = "n".repeat(230);
    let many: Vec<DesiredImage> = (0..super::super::MAX_DESIRED)
        .map(|i| always(&format!("r.example/{name}-{i:05}:1"), D2))
        .collect();
    let held = many
        .iter()
        .map(|image| {
            let listed = Listed {
                digests: vec![D1.to_owned(); 4],
                size_bytes: 1,
            };
            (image.reference.clone(), listed)
        })
        .collect();
    let mut scene = Scene::new();
    let outputs = scene.start(many, &held);
    let (mut listed, mut asked, mut complete) = (0, 0, 0);
    for output in outputs {
        let Output::Send(message) = output else {
            continue;
        };
        assert!(prost::Message::encoded_len(&message) < drop_proto::MAX_AGENT_MESSAGE_BYTES);
        match message.kind {
            Some(agent_message::Kind::Inventory(inventory)) => {
                listed += inventory.images.len();
                complete += usize::from(inventory.complete);
                assert_eq!(inventory.complete, listed == inventory.images.len());
            }
            Some(agent_message::Kind::Ask(ask)) => asked += ask.references.len(),
            other => panic!("unexpected {other:?}"),
        }
    }
    let all = super::super::MAX_DESIRED;
    assert_eq!((listed, asked, complete), (all, all, 1));
}

#[test]
fn a_pull_outlives_its_session_and_the_next_hello_holds_its_grant() {
    let mut scene = Scene::at_work(vec![if_not_present(APP)], &nothing());
    scene.grant(5, APP);
    assert_eq!(scene.step(Input::Disconnected), []);
    scene.now += secs(7);
    let held = drop_proto::HeldGrant {
        token: 5,
        reference: APP.to_owned(),
        running_ms: 7_000,
    };
    assert_eq!(scene.connect(), [hello(vec![held])]);
    assert_eq!(scene.wait(20), [renews(&[5])]);
    scene.pulled(5);
    let outputs = scene.list(&holds(&[(APP, &[D1])]));
    assert_eq!(acts(outputs), [done(5, D1, 27_000, APP)]);
}

#[test]
fn a_pull_that_ended_without_a_session_is_said_right_after_the_next_hello() {
    let mut scene = Scene::at_work(vec![if_not_present(APP), if_not_present(DB)], &nothing());
    scene.grant(5, APP);
    scene.step(Input::Disconnected);
    scene.now += secs(2);
    assert_eq!(scene.pulled(5), [Output::List]);
    let held = holds(&[(APP, &[D1])]);
    assert_eq!(acts(scene.list(&held)), []);
    assert_eq!(scene.connect(), [hello(vec![]), done(5, D1, 2_000, APP)]);
    scene.desire(vec![if_not_present(APP), if_not_present(DB)]);
    assert_eq!(
        scene.list(&held),
        [inventory(1, true, vec![there(APP, &[D1])]), asks(&[DB])]
    );
    // Said once.
    scene.step(Input::Disconnected);
    assert_eq!(scene.connect(), [hello(vec![])]);
}

#[test]
fn a_failure_without_a_session_is_said_to_the_next_one() {
    let mut scene = Scene::at_work(vec![if_not_present(APP)], &nothing());
    scene.grant(5, APP);
    scene.step(Input::Disconnected);
    scene.pull_failed(5, FailureClass::NotFound, "image not found");
    let told = [
        hello(vec![]),
        failed(5, FailureClass::NotFound, "image not found", 0, APP),
    ];
    assert_eq!(scene.connect(), told);
    // A coordinator that does not lead closes without a Desired: nobody has heard it.
    scene.step(Input::Disconnected);
    assert_eq!(scene.connect(), told);
    scene.desire(vec![]);
    assert_eq!(scene.connect(), told[..1]);
}

#[test]
fn a_grant_before_the_first_desired_of_a_session_is_given_back() {
    let mut scene = Scene::at_work(vec![if_not_present(APP)], &nothing());
    scene.connect();
    assert_eq!(
        scene.grant(5, APP),
        releases(5, APP, "nothing is desired yet")
    );
}
