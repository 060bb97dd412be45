use super::*;

/// A moment on a day of January 2026, at midnight or at an hour: `5`, `5T12`.
fn day(text: &str) -> Timestamp {
    let (day, hour) = text.split_once('T').unwrap_or((text, "0"));
    format!("2026-01-{day:0>2}T{hour:0>2}:00:00Z")
        .parse()
        .unwrap()
}

fn days(texts: &[&str]) -> Vec<Timestamp> {
    texts.iter().map(|text| day(text)).collect()
}

fn image(name: &str, bases: &[&str]) -> Subject {
    Subject {
        name: name.to_owned(),
        repository: format!("ghcr.io/o/{name}"),
        delay: "7d".parse().unwrap(),
        auto_rebuild: true,
        bases: bases.iter().map(|base| (*base).to_owned()).collect(),
        built: None,
        updated: None,
        recorded: BTreeMap::new(),
        bypass: None,
    }
}

fn base(repository: &str, moves: &[&str]) -> Base {
    Base {
        repository: repository.to_owned(),
        moves: days(moves),
        delay: None,
    }
}

fn bases(entries: &[(&str, Base)]) -> BTreeMap<String, Base> {
    let entries = entries.iter();
    entries
        .map(|(name, base)| ((*name).to_owned(), base.clone()))
        .collect()
}

/// Status, moment and causes of the only rebuild.
fn only(
    now: &str,
    image: &Subject,
    bases: &BTreeMap<String, Base>,
) -> Option<(Status, Option<Timestamp>, Vec<String>)> {
    let plan = plan(day(now), std::slice::from_ref(image), bases);
    let [rebuild] = &plan.rebuilds[..] else {
        assert_eq!(plan.up_to_date, std::slice::from_ref(&image.name));
        return None;
    };
    let changed = rebuild.changed.iter().map(|change| change.base.clone());
    Some((rebuild.status, rebuild.eligible_at, changed.collect()))
}

#[test]
fn an_image_waits_its_delay_after_a_base_moved() {
    let node = bases(&[("node", base("docker.io/library/node", &["1"]))]);
    let built = |at: Option<&str>| Subject {
        built: at.map(day),
        ..image("a", &["node"])
    };
    let changed = vec!["node".to_owned()];
    for (now, at, expected) in [
        // Never consumed: the delay counts from the change, whether or not the image was ever built.
        (
            "2",
            None,
            Some((Status::Waiting, Some(day("8")), changed.clone())),
        ),
        (
            "8",
            None,
            Some((Status::Due, Some(day("8")), changed.clone())),
        ),
        (
            "9",
            None,
            Some((Status::Due, Some(day("8")), changed.clone())),
        ),
        // Consumed by a build after it, and not by one before.
        ("9", Some("2"), None),
        ("9", Some("1"), None),
    ] {
        assert_eq!(only(now, &built(at), &node), expected, "{now} {at:?}");
    }
    let node = bases(&[("node", base("docker.io/library/node", &["3"]))]);
    assert_eq!(
        only("9", &built(Some("2")), &node),
        Some((Status::Waiting, Some(day("10")), changed))
    );
}

#[test]
fn a_base_that_never_moved_needs_no_rebuild() {
    let node = bases(&[("node", base("docker.io/library/node", &[]))]);
    assert_eq!(only("9", &image("a", &["node"]), &node), None);
    assert_eq!(only("9", &image("a", &["gone"]), &node), None);
}

#[test]
fn a_base_that_keeps_moving_cannot_postpone_the_rebuild() {
    let node = bases(&[(
        "node",
        base("docker.io/library/node", &["1", "3", "5", "7"]),
    )]);
    let (status, at, _) = only("8", &image("a", &["node"]), &node).unwrap();
    assert_eq!((status, at), (Status::Due, Some(day("8"))));

    // The history has forgotten the first change; the record has not.
    let node = bases(&[("node", base("docker.io/library/node", &["5", "7"]))]);
    let mut subject = image("a", &["node"]);
    subject.recorded.insert("node".to_owned(), day("1"));
    assert_eq!(only("8", &subject, &node).unwrap().1, Some(day("8")));

    // A record of a change that a build has consumed counts no more.
    subject.built = Some(day("2"));
    assert_eq!(only("8", &subject, &node).unwrap().1, Some(day("12")));
}

#[test]
fn several_bases_lead_to_one_rebuild_and_the_longest_delay_wins() {
    let slow = Base {
        delay: Some("14d".parse().unwrap()),
        ..base("docker.io/library/postgres", &["3"])
    };
    let all = bases(&[
        ("node", base("docker.io/library/node", &["1"])),
        ("postgres", slow),
    ]);
    let (status, at, changed) = only("9", &image("a", &["node", "postgres"]), &all).unwrap();
    assert_eq!((status, at), (Status::Waiting, Some(day("15"))));
    assert_eq!(changed, ["node", "postgres"]);
    // A base that did not move does not delay.
    assert_eq!(
        only("9", &image("a", &["node"]), &all).unwrap().1,
        Some(day("8"))
    );
}

#[test]
fn an_image_that_is_not_rebuilt_by_itself_is_held_and_says_so() {
    let node = bases(&[("node", base("docker.io/library/node", &["1"]))]);
    let subject = Subject {
        auto_rebuild: false,
        ..image("a", &["node"])
    };
    let plan = plan(day("20"), &[subject], &node);
    assert_eq!(plan.rebuilds[0].status, Status::Held);
    assert_eq!(plan.rebuilds[0].held_by, [Hold::AutoRebuildOff]);
    assert_eq!(plan.rebuilds[0].eligible_at, None);
}

#[test]
fn a_bypass_waits_for_nothing() {
    let node = bases(&[("node", base("docker.io/library/node", &["1"]))]);
    let bypass = Some(Bypass {
        at: day("2"),
        reason: "CVE".to_owned(),
    });
    for (auto_rebuild, bases_of) in [(true, &["node"][..]), (false, &["node"]), (true, &[])] {
        let subject = Subject {
            auto_rebuild,
            bypass: bypass.clone(),
            ..image("a", bases_of)
        };
        let (status, at, _) = only("2", &subject, &node).unwrap();
        assert_eq!(
            (status, at),
            (Status::Due, Some(day("2"))),
            "{auto_rebuild} {bases_of:?}"
        );
    }
}

#[test]
fn an_image_waits_for_a_base_that_is_rebuilt_itself() {
    let all = bases(&[
        ("node", base("docker.io/library/node", &["1"])),
        ("mid-1", base("ghcr.io/o/mid", &[])),
    ]);
    let both = [image("top", &["mid-1", "node"]), image("mid", &["node"])];
    let plan = plan(day("9"), &both, &all);
    let found: Vec<_> = plan
        .rebuilds
        .iter()
        .map(|r| (r.image.as_str(), r.status))
        .collect();
    assert_eq!(found, [("mid", Status::Due), ("top", Status::Held)]);
    assert_eq!(plan.rebuilds[1].held_by, [Hold::Image("mid".to_owned())]);
}

#[test]
fn a_cycle_is_refused_with_its_path() {
    let all = bases(&[
        ("a-1", base("ghcr.io/o/a", &["1"])),
        ("b-1", base("ghcr.io/o/b", &["1"])),
        ("c-1", base("ghcr.io/o/c", &["1"])),
    ]);
    let images = [
        image("c", &["a-1"]),
        image("a", &["b-1"]),
        image("b", &["c-1"]),
        image("d", &["a-1"]),
        image("e", &[]),
    ];
    let plan = plan(day("9"), &images, &all);
    assert_eq!(plan.cycles, [["a", "b", "c", "a"]]);
    let planned: Vec<_> = plan.rebuilds.iter().map(|r| r.image.as_str()).collect();
    assert_eq!(planned, ["d"]);

    let own = bases(&[("a-1", base("ghcr.io/o/a", &[]))]);
    let alone = super::plan(day("9"), &[image("a", &["a-1"])], &own);
    assert_eq!(alone.cycles, [["a", "a"]]);
}

#[test]
fn a_digest_seen_after_the_change_is_a_build_that_consumed_it() {
    let node = bases(&[("node", base("docker.io/library/node", &["3"]))]);
    let seen = |at: &str| Subject {
        updated: Some(day(at)),
        ..image("a", &["node"])
    };
    assert!(only("9", &seen("4"), &node).is_none());
    // Seen in the same run: the build may be older than the change.
    assert!(only("9", &seen("3"), &node).is_some());
    assert!(only("9", &seen("2"), &node).is_some());
}

#[test]
fn the_table_says_when_and_why() {
    let node = bases(&[("node-22", base("docker.io/library/node", &["1"]))]);
    let off = Subject {
        auto_rebuild: false,
        ..image("off", &["node-22"])
    };
    let hurry = Subject {
        bypass: Some(Bypass {
            at: day("2"),
            reason: "CVE-2026-1".to_owned(),
        }),
        ..image("hurry", &["node-22"])
    };
    let images = [image("web", &["node-22"]), off, hurry, image("idle", &[])];
    assert_eq!(
        render(&plan(day("2"), &images, &node)),
        "\
IMAGE  REBUILD  FROM                  BECAUSE                                                    HELD BY
hurry  now      2026-01-02T00:00:00Z  node-22 moved at 2026-01-01T00:00:00Z, bypass: CVE-2026-1
web    in 6d    2026-01-08T00:00:00Z  node-22 moved at 2026-01-01T00:00:00Z
off    held     -                     node-22 moved at 2026-01-01T00:00:00Z                      autoRebuild: false

1 due, 1 waiting, 1 held, 1 up to date
"
    );
    assert_eq!(
        render(&plan(day("2"), &[], &node)),
        "0 due, 0 waiting, 0 held, 0 up to date\n"
    );
}
