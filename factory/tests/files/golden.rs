//! `image-factory` from files to files: each folder of `tests/golden` is one case.
//!
//! `before` is what is there, `commands` what is run in `before/image-factory`, `said` what was said, and `after` the state
//! and the manifests in the end. After each case its `sync` and `synth` are run again a year later: they may write nothing.
//! `UPDATE_GOLDEN=1 cargo test -p drop-factory --test files` writes `said` and `after` anew: read the diff.

use crate::workshop::{Workshop, contents, copy, run, times};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const NOW: &str = "2026-03-01T10:00:00Z";
const LATER: &str = "2027-03-01T10:00:00Z";

macro_rules! golden {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { golden(stringify!($name)); })*

        #[test]
        fn every_folder_is_a_test() {
            let folders = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")).unwrap();
            let mut folders: Vec<String> =
                folders.map(|folder| folder.unwrap().file_name().into_string().unwrap()).collect();
            folders.sort();
            let mut names = vec![$(stringify!($name)),*];
            names.sort_unstable();
            assert_eq!(folders, names);
        }
    };
}

golden!(
    a_broken_dockerfile_fails_with_its_line,
    a_broken_state_file_is_left_alone,
    a_cycle_is_refused_with_its_path,
    a_dry_run_shows_a_diff_and_writes_nothing,
    a_managed_image_becomes_external,
    a_missing_dockerfile_keeps_the_base_images,
    a_run_resets_nothing,
    a_tag_with_a_dot_is_escaped_once,
    an_empty_images_yaml_does_nothing,
    an_external_image_becomes_managed,
    an_image_that_leaves_is_archived_and_comes_back,
    bad_entries_are_said_and_the_others_go_on,
    check_finds_what_is_wrong_in_the_state,
    colliding_names_are_told_apart,
    enrolling_images_creates_their_state,
    heredocs_are_not_read,
    local_registries_and_digests_are_cut_right,
    lower_case_from_is_seen,
    no_images_yaml_does_nothing,
    nothing_is_archived_while_a_name_is_unreadable,
    one_image_written_twice_is_one_base,
    one_ten_stays_one_ten,
    scratch_platforms_and_variables_are_no_images,
    synth_for_kargo_1_11,
    synth_merges_field_by_field,
    the_plan_says_what_when_and_why,
    unreadable_yaml_says_line_and_column,
);

fn golden(name: &str) {
    let case = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let workshop = Workshop::copy_of(&case.join("before"));
    let factory = workshop.path().join("image-factory");
    let commands = fs::read_to_string(case.join("commands")).unwrap();
    let mut said = String::new();
    for line in commands.lines() {
        writeln!(said, "$ {line}").unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["cp", from, to] => copy(&factory.join(from), &factory.join(to)),
            ["rm", path] => fs::remove_file(factory.join(path)).unwrap(),
            ["image-factory", ref args @ ..] => said.push_str(&run(&factory, NOW, args)),
            _ => panic!("{name}: what is {line:?}?"),
        }
    }

    // The year later.
    let written = contents(&factory);
    let touched = times(&factory);
    for line in commands.lines() {
        if let Some(args) = line.strip_prefix("image-factory ")
            && args.starts_with('s')
        {
            run(
                &factory,
                LATER,
                &args.split_whitespace().collect::<Vec<_>>(),
            );
        }
    }
    assert_eq!(contents(&factory), written, "{name}: a second run writes");
    assert_eq!(times(&factory), touched, "{name}: a second run writes");

    let mut results: BTreeMap<String, String> = written;
    results.retain(|path, _| path.starts_with("state/") || path.starts_with("dist/"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let _ = fs::remove_dir_all(case.join("after"));
        for (path, text) in &results {
            let path = case.join("after").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::write(case.join("said"), &said).unwrap();
    }
    assert_eq!(
        said,
        fs::read_to_string(case.join("said")).unwrap(),
        "{name}"
    );
    let expected = contents(&case.join("after"));
    let paths = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(&results), paths(&expected), "{name}");
    for (path, text) in &results {
        assert_eq!(text, &expected[path], "{name}: {path}");
    }
}
