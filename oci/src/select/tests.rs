use proptest::prelude::*;

use super::*;

/// Versions in the first line; then for each constraint `+` or `.` per version, or that it is refused.
/// As answered by `Constraints.Check` of github.com/Masterminds/semver/v3 v3.5.0.
const MASTERMINDS: &str = include_str!("tests/masterminds.txt");

fn version(text: &str) -> Version {
    text.parse().expect(text)
}

fn select<'a>(rules: &Rules, tags: &[&'a str]) -> Vec<&'a str> {
    let selection = Selection::try_from(rules).unwrap();
    selection.select(tags.iter().copied())
}

#[test]
fn constraints_are_read_as_masterminds_reads_them() {
    let (versions, rows) = MASTERMINDS.split_once('\n').unwrap();
    let versions: Vec<_> = versions.split(' ').map(version).collect();
    let mut checked = 0;
    for row in rows.lines() {
        let (expected, constraint) = row.split_once('\t').unwrap();
        let verdict = match constraint.parse::<Constraint>() {
            Err(_) => "refused".to_owned(),
            Ok(constraint) => versions
                .iter()
                .map(|v| if constraint.matches(v) { '+' } else { '.' })
                .collect(),
        };
        assert_eq!(verdict, expected, "{constraint:?}");
        checked += 1;
    }
    assert!(checked > 100, "{checked} constraints checked");
}

/// Masterminds takes a bar for a digit, and so makes `1 || >=2 <=3` of this one by mistake; here it says what it says.
#[test]
fn a_range_directly_behind_an_alternative_is_a_range() {
    let constraint: Constraint = "1||2 - 3".parse().unwrap();
    assert!(constraint.matches(&version("2.5")));
    assert!(!constraint.matches(&version("3.1.4-rc.1")));
    assert!(!constraint.matches(&version("4")));
}

#[test]
fn a_constraint_that_cannot_be_read_is_quoted_with_examples() {
    let error = ">= bar".parse::<Constraint>().unwrap_err().to_string();
    assert!(
        error.contains(">= bar") && error.contains("^1.2"),
        "{error}"
    );
    for text in ["1 ".repeat(300), "1||".repeat(40) + "1"] {
        assert!(text.parse::<Constraint>().is_err());
    }
}

#[test]
fn versions_are_read_as_masterminds_reads_them() {
    for text in [
        "1.2.3",
        "1.2.3+test.01",
        "1.2.3-alpha.-1",
        "v1.2.3",
        "1.0",
        "v1.0",
        "1",
        "v1",
        "1.2.3-5",
        "1.2-5",
        "1-5",
        "v1.2-beta.5",
        "1.2.0-x.Y.0+metadata-width-hypen",
        "1.2.3-rc1-with-hypen",
        "20221209-update-renovatejson-v4",
        "01.2.3",
        "1.02",
        "1.2-alpine",
        "v0.0.0-0123-a",
    ] {
        assert!(text.parse::<Version>().is_ok(), "{text}");
    }
    let long = format!("1.2.3-{}", "a".repeat(256));
    for text in [
        "",
        "v",
        "V1",
        "1.2.beta",
        "foo",
        "\n1.2",
        "1.2.3.4",
        "1.2.3-alpha.01",
        "1.2.3-",
        "1.2.3+",
        "1.2.3+a..b",
        "1.2.3-a_b",
        "1..2",
        ".1",
        "1.",
        " 1",
        "1 ",
        "18446744073709551616",
        "latest",
        "v-1",
        &long,
    ] {
        assert!(text.parse::<Version>().is_err(), "{text:?}");
    }
}

#[test]
fn versions_are_ordered_as_masterminds_orders_them() {
    let ascending = [
        "0",
        "1.2.2",
        "1.2.3-0",
        "1.2.3-2",
        "1.2.3-10",
        "1.2.3--",
        "1.2.3-alpha",
        "1.2.3-alpha.1",
        "1.2.3-alpha.2",
        "1.2.3-alpha.beta",
        "1.2.3-beta",
        "1.2.3-beta.1.1",
        "1.2.3-beta.2",
        "1.2.3-beta.11",
        "1.2.3-rc.1",
        "v1.2.3",
        "1.2.4-alpine",
        "1.2.4",
        "1.10",
        "v9",
        "v10",
    ];
    for pair in ascending.windows(2) {
        assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
    }
    for (a, b) in [
        ("1.2.3+a", "1.2.3+b"),
        ("1", "v1.0.0"),
        ("01.2", "1.2.0"),
        ("1.0-rc+x", "v1.0.0-rc"),
    ] {
        assert_eq!(version(a), version(b));
    }
    let huge = "1.0.0-99999999999999999999";
    assert!(
        version(huge) > version("1.0.0-5"),
        "too large for a number: a word"
    );
}

#[test]
fn the_first_version_within_a_tag_is_found() {
    for (tag, expected) in [
        ("alpine-3.18.4", Some("3.18.4")),
        ("x86_64-v16.1", Some("16.1")),
        ("release-1.2.3.4", Some("1.2.3")),
        ("build7-2.10", Some("2.10")),
        ("jdk.17-0.1", Some("0.1")),
        ("r1.x-2.3", Some("2.3")),
        ("latest", None),
        ("v", None),
        ("build-17", None),
        ("é1.2", Some("1.2")),
        ("a-99999999999999999999.1", None),
    ] {
        assert_eq!(Version::embedded(tag), expected.map(version), "{tag}");
    }
}

#[test]
fn the_newest_versions_come_first_and_tags_without_version_last() {
    let tags = [
        "latest",
        "v9",
        "v10",
        "1.2-alpine",
        "alpine-11.5",
        "1.2",
        "edge",
        "v1.2.0",
    ];
    let sorted = [
        "alpine-11.5",
        "v10",
        "v9",
        "1.2",
        "v1.2.0",
        "1.2-alpine",
        "edge",
        "latest",
    ];
    assert_eq!(select(&Rules::default(), &tags), sorted);
    let rules = Rules {
        limit: Some(3),
        ..Rules::default()
    };
    assert_eq!(select(&rules, &tags), sorted[..3]);
    let rules = Rules {
        limit: Some(0),
        ..Rules::default()
    };
    assert!(select(&rules, &tags).is_empty());
}

#[test]
fn without_any_version_the_last_listed_tags_are_the_newest() {
    let rules = Rules {
        limit: Some(2),
        ..Rules::default()
    };
    assert_eq!(select(&rules, &["blue", "green", "red"]), ["red", "green"]);
    let rules = Rules {
        order: Order::Oldest,
        limit: Some(2),
        ..Rules::default()
    };
    assert_eq!(select(&rules, &["blue", "green", "red"]), ["blue", "green"]);
}

#[test]
fn the_oldest_and_the_alphabetical_order_are_what_they_say() {
    let tags = ["v10", "latest", "v9", "1.0-rc.1", "1.0"];
    let rules = Rules {
        order: Order::Oldest,
        ..Rules::default()
    };
    assert_eq!(
        select(&rules, &tags),
        ["1.0-rc.1", "1.0", "v9", "v10", "latest"]
    );
    let rules = Rules {
        order: Order::Alphabetical,
        ..Rules::default()
    };
    assert_eq!(
        select(&rules, &tags),
        ["1.0", "1.0-rc.1", "latest", "v10", "v9"]
    );
}

#[test]
fn the_answer_does_not_depend_on_the_order_or_the_repetition_of_versioned_tags() {
    let tags = ["v1.0.0", "1.0", "1.0.0", "v1", "2.0"];
    let mut reversed = tags;
    reversed.reverse();
    let twice = [tags, reversed].concat();
    let expected = ["2.0", "1.0", "1.0.0", "v1", "v1.0.0"];
    assert_eq!(select(&Rules::default(), &tags), expected);
    assert_eq!(select(&Rules::default(), &twice), expected);
}

#[test]
fn only_tags_that_are_included_and_not_excluded_are_taken() {
    let signature = format!("sha256-{}.sig", "a".repeat(64));
    let tags = [
        "v1.2.3",
        "v1.2.3-rc.1",
        "v1.2",
        "latest",
        signature.as_str(),
    ];
    let rules = Rules {
        include: Some(r"^v\d+\.\d+\.\d+$".to_owned()),
        ..Rules::default()
    };
    assert_eq!(select(&rules, &tags), ["v1.2.3"]);
    let rules = Rules {
        exclude: Some(COSIGN_TAGS.to_owned()),
        ..Rules::default()
    };
    assert_eq!(
        select(&rules, &tags),
        ["v1.2.3", "v1.2.3-rc.1", "v1.2", "latest"]
    );
    let rules = Rules {
        include: Some("v1".to_owned()),
        exclude: Some("rc".to_owned()),
        ..Rules::default()
    };
    assert_eq!(select(&rules, &tags), ["v1.2.3", "v1.2"]);
    let rules = Rules {
        include: Some(String::new()),
        exclude: Some(String::new()),
        ..Rules::default()
    };
    assert_eq!(
        select(&rules, &tags).len(),
        tags.len(),
        "nothing written is no filter"
    );
}

#[test]
fn the_version_is_what_the_first_group_of_the_pattern_matches() {
    let rules = Rules {
        version_pattern: Some(r"^release-(\d+)(-\w+)?$".to_owned()),
        constraint: Some(">=9".to_owned()),
        ..Rules::default()
    };
    let tags = ["release-9", "release-10-lts", "release-8", "10.0"];
    assert_eq!(select(&rules, &tags), ["release-10-lts", "release-9"]);
}

#[test]
fn a_constraint_takes_only_tags_whose_version_satisfies_it() {
    let rules = Rules {
        constraint: Some("^1.2".to_owned()),
        ..Rules::default()
    };
    let tags = ["1.2.0", "1.9", "2.0", "latest", "1.3-alpine", "app-1.5"];
    assert_eq!(select(&rules, &tags), ["1.9", "app-1.5", "1.2.0"]);
}

#[test]
fn rules_that_cannot_be_used_are_refused_with_their_field() {
    let message = |rules: Rules| Selection::try_from(&rules).unwrap_err().to_string();
    let include = message(Rules {
        include: Some("(v1".to_owned()),
        ..Rules::default()
    });
    assert!(
        include.contains("include") && include.contains("unclosed group"),
        "{include}"
    );
    let exclude = message(Rules {
        exclude: Some("(?!v1)".to_owned()),
        ..Rules::default()
    });
    assert!(
        exclude.contains("exclude") && exclude.contains("look-around"),
        "{exclude}"
    );
    let huge = message(Rules {
        include: Some("(a{1000}){1000}".to_owned()),
        ..Rules::default()
    });
    assert!(huge.contains("size limit"), "{huge}");
    let group = message(Rules {
        version_pattern: Some("v.*".to_owned()),
        ..Rules::default()
    });
    assert!(group.contains("parentheses"), "{group}");
    let constraint = message(Rules {
        constraint: Some("newest".to_owned()),
        ..Rules::default()
    });
    assert!(constraint.contains("newest"), "{constraint}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_version_or_constraint_panic(text in any::<String>(), near in "[0-9xX*v.+~^<>=!|, a-c-]{0,40}") {
        for text in [&text, &near] {
            let _ = Version::embedded(text);
            if let (Ok(version), Ok(constraint)) = (text.parse(), near.parse::<Constraint>()) {
                let _ = constraint.matches(&version);
            }
        }
    }

    #[test]
    fn selection_is_a_part_of_the_tags_and_never_more_than_its_limit(
        tags in prop::collection::vec("[a-c0-9v.-]{1,8}", 0..30),
        limit in 0_usize..10,
        order in prop::sample::select(vec![Order::Newest, Order::Oldest, Order::Alphabetical]),
    ) {
        let rules = Rules { limit: Some(limit), order, ..Rules::default() };
        let selection = Selection::try_from(&rules).unwrap();
        let selected = selection.select(tags.iter().map(String::as_str));
        prop_assert!(selected.len() <= limit);
        prop_assert!(selected.iter().all(|tag| tags.iter().any(|t| t == tag)));
    }
}
