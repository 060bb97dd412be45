use super::*;
use crate::client::manifest::{Descriptor, Texts};

fn index(platforms: &[Option<&str>]) -> Index {
    let entries = platforms.iter().enumerate().map(|(n, platform)| Entry {
        descriptor: Descriptor {
            digest: n.to_string(),
            ..Descriptor::default()
        },
        platform: platform.map(|text| text.parse().unwrap()),
        is_attestation: *platform == Some("unknown/unknown"),
    });
    Index {
        entries: entries.collect(),
        annotations: Texts::new(),
    }
}

fn chosen(platforms: &[Option<&str>], wanted: &str) -> Option<usize> {
    let index = index(platforms);
    let entry = index.entry_for(&wanted.parse().unwrap())?;
    entry.descriptor.digest.parse().ok()
}

#[test]
fn the_best_variant_that_a_node_runs_is_chosen() {
    let arm = [
        Some("linux/arm/v5"),
        Some("linux/arm/v6"),
        Some("linux/arm/v7"),
    ];
    assert_eq!(chosen(&arm, "linux/arm/v6"), Some(1));
    assert_eq!(chosen(&arm, "linux/arm"), Some(2));
    assert_eq!(chosen(&arm, "linux/arm64"), None);
    assert_eq!(chosen(&[Some("linux/arm64/v8")], "linux/arm64"), Some(0));
    assert_eq!(chosen(&[Some("linux/arm64")], "linux/arm64/v8"), Some(0));
    assert_eq!(
        chosen(
            &[Some("linux/arm64/v9"), Some("linux/arm64")],
            "linux/arm64/v8"
        ),
        Some(1)
    );
    assert_eq!(chosen(&[Some("linux/amd64/v3")], "linux/amd64"), None);
    assert_eq!(
        chosen(
            &[Some("linux/amd64"), Some("linux/amd64/v3")],
            "linux/amd64/v3"
        ),
        Some(1)
    );
    assert_eq!(
        chosen(&[Some("windows/amd64"), Some("linux/s390x")], "linux/s390x"),
        Some(1)
    );
    assert_eq!(
        chosen(&[Some("linux/amd64"), Some("linux/amd64")], "linux/amd64"),
        Some(0)
    );
}

#[test]
fn an_attestation_is_never_chosen_even_as_the_first_entry() {
    let entries = [Some("unknown/unknown"), None, Some("linux/amd64")];
    assert_eq!(chosen(&entries, "linux/amd64"), Some(2));
    let index = index(&entries);
    assert_eq!(index.platforms(), ["linux/amd64".parse().unwrap()]);
    assert_eq!(index.unnamed().count(), 1);
}

fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

#[test]
fn names_of_other_makers_mean_the_same() {
    for (node, built) in [
        ("linux/amd64", "Linux/x86_64"),
        ("linux/386", "linux/i386"),
        ("linux/arm64", "linux/aarch64"),
        ("linux/arm64", "linux/arm64/8"),
        ("linux/arm/v7", "linux/armhf"),
        ("linux/arm/v6", "linux/armel"),
        ("darwin/arm64", "macOS/arm64"),
    ] {
        assert!(can_run(&platform(node), &platform(built)), "{built}");
    }
    assert!(!can_run(
        &platform("linux/arm/v6"),
        &platform("linux/armhf")
    ));
}

/// What containerd's `platforms.Only` matches, in any of its versions, or the library of CRI-O, for nodes whose processors
/// are as good as they come.
#[test]
fn no_image_is_taken_for_foreign_that_some_runtime_takes() {
    let table: [(&str, &[&str]); 8] = [
        (
            "linux/amd64",
            &[
                "linux/amd64",
                "linux/amd64/v1",
                "linux/amd64/v2",
                "linux/amd64/v4",
                "linux/x86_64",
                "linux/386",
                "linux/i386",
            ],
        ),
        ("linux/amd64/v3", &["linux/amd64/v2", "linux/386"]),
        (
            "linux/arm64",
            &[
                "linux/arm64",
                "linux/arm64/v8",
                "linux/arm64/v8.5",
                "linux/arm64/v9.1",
                "linux/aarch64",
                "linux/arm",
                "linux/arm/v8",
                "linux/arm/v7",
                "linux/arm/v6",
                "linux/arm/v5",
                "linux/armhf",
                "linux/armel",
            ],
        ),
        (
            "linux/arm",
            &["linux/arm", "linux/arm/v8", "linux/arm/v7", "linux/arm/v5"],
        ),
        // CRI-O takes an image without a variant for any.
        ("linux/arm/v5", &["linux/arm"]),
        ("linux/ppc64le", &["linux/ppc64le", "linux/ppc64le/power9"]),
        ("linux/riscv64", &["linux/riscv64/rva23u64"]),
        ("windows/amd64", &["windows/amd64"]),
    ];
    for (node, images) in table {
        for built in images {
            let (node, built) = (platform(node), platform(built));
            assert!(may_run(&node, &built), "{node} {built}");
        }
    }
    for (node, built) in [
        ("linux/amd64", "linux/arm64"),
        ("linux/amd64", "windows/amd64"),
        ("linux/amd64", "linux/arm"),
        ("linux/386", "linux/amd64"),
        ("linux/arm64", "linux/amd64"),
        ("linux/arm64", "linux/386"),
        ("linux/arm", "linux/arm64"),
        ("linux/ppc64le", "linux/ppc64"),
        ("linux/s390x", "linux/amd64"),
    ] {
        assert!(
            !may_run(&platform(node), &platform(built)),
            "{node} {built}"
        );
    }
}

#[test]
fn processors_run_what_their_predecessors_ran() {
    let older = |text: &str| platform(text).predecessor().map(|p| p.to_string());
    assert_eq!(older("linux/amd64").as_deref(), Some("linux/386"));
    assert_eq!(older("linux/arm64").as_deref(), Some("linux/arm/v8"));
    assert_eq!(older("linux/s390x"), None);
    for built in [
        "linux/arm/v8",
        "linux/arm/v7",
        "linux/arm/v6",
        "linux/arm/v5",
    ] {
        let older = platform("linux/arm64").predecessor().unwrap();
        assert!(can_run(&older, &platform(built)), "{built}");
    }
}

#[test]
fn a_platform_reads_back_from_what_it_prints() {
    for text in ["linux/amd64", "linux/arm64/v8"] {
        assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
    }
    for text in ["", "linux", "linux/", "/amd64", "a/b/c/d"] {
        assert!(text.parse::<Platform>().is_err(), "{text}");
    }
}
