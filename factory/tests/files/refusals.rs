//! What the program refuses, and how it ends.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::workshop::{Workshop, run, start};

const NOW: &str = "2026-03-01T10:00:00Z";

const MANAGED: &str = "\
- name: app
  registry: ghcr.io
  repository: o/app
  source: {repo: o/app, dockerfile: app/Dockerfile}
- name: other
  repository: o/other
  source: {repo: o/other, dockerfile: other/Dockerfile}
";

#[test]
fn a_link_out_of_the_root_is_a_way_out_like_any_other() {
    let outside = Workshop::new();
    outside.write("Dockerfile", "FROM secret:1\n");
    let workshop = Workshop::new();
    workshop.write("image-factory/images.yaml", MANAGED);
    workshop.write("other/Dockerfile", "FROM node:22\n");
    symlink(outside.path(), workshop.path().join("app")).unwrap();

    let said = run(&workshop.path().join("image-factory"), NOW, &["sync"]);
    assert_eq!(
        said,
        "images.yaml:4:37: app: the Dockerfile app/Dockerfile leads out of the root\n\
         2 images, 1 base image: 3 files written, 0 archived\n\
         exit code 1\n"
    );
    let state = workshop.path().join("image-factory/state/images/app.yaml");
    let state = fs::read_to_string(state).unwrap();
    assert!(state.contains("discoveryStatus: failed\n"), "{state}");
    assert!(!state.contains("secret"), "{state}");
}

#[test]
fn a_dockerfile_that_is_no_file_is_said_and_hangs_nobody() {
    let workshop = Workshop::new();
    workshop.write("image-factory/images.yaml", MANAGED);
    fs::create_dir_all(workshop.path().join("app/Dockerfile")).unwrap();
    fs::create_dir_all(workshop.path().join("other")).unwrap();
    let pipe = workshop.path().join("other/Dockerfile");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );

    let said = run(&workshop.path().join("image-factory"), NOW, &["sync"]);
    assert!(
        said.contains("app: the Dockerfile app/Dockerfile is no file\n"),
        "{said}"
    );
    assert!(
        said.contains("other: the Dockerfile other/Dockerfile is no file\n"),
        "{said}"
    );
}

#[test]
fn wrong_usage_ends_with_2_and_a_missing_folder_with_1() {
    let workshop = Workshop::new();
    workshop.write("images.yaml", MANAGED);
    for (args, code, words) in [
        (&["sink"][..], 2, "unrecognized subcommand"),
        (&["plan", "--bypass", "app"], 2, "--reason"),
        (&["synth", "--kargo", "2"], 2, "1.11"),
        (&["synth", "--emit", "cachedimageset"], 2, "warehouse"),
        (
            &["sync", "--dir", "gone"],
            1,
            "gone cannot be opened as the factory's folder",
        ),
        (&["sync", "--dir", "images.yaml"], 1, "--dir"),
    ] {
        let output = start(workshop.path(), NOW, args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
}

#[test]
fn a_folder_elsewhere_is_named_in_all_messages() {
    let workshop = Workshop::new();
    workshop.write("here/images.yaml", MANAGED);
    workshop.write("app/Dockerfile", "FROM node:22\nHello\n");
    let said = run(
        workshop.path(),
        NOW,
        &["sync", "--dir", "here", "--root", "."],
    );
    assert_eq!(
        said,
        "app/Dockerfile:2:1: Hello is no instruction of a Dockerfile\n\
         here/images.yaml:7:39: other: the Dockerfile other/Dockerfile is not there: correct dockerfile, or --root\n\
         2 images, 0 base images: 2 files written, 0 archived\n\
         exit code 1\n"
    );
}

#[test]
fn bypassing_what_is_not_managed_is_refused() {
    let workshop = Workshop::new();
    workshop.write("images.yaml", MANAGED);
    for (image, words) in [
        (
            "nobody",
            "images.yaml: nobody is no managed image: only those are rebuilt",
        ),
        (
            "app",
            "images.yaml: app has no state yet: run image-factory sync first",
        ),
    ] {
        let said = run(
            workshop.path(),
            NOW,
            &["plan", "--bypass", image, "--reason", "x"],
        );
        assert!(said.contains(words), "{said}");
        assert!(said.ends_with("exit code 1\n"), "{said}");
    }
}
