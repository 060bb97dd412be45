use super::entry::is_below_root;
use super::*;

fn problems(text: &str) -> Vec<String> {
    let images = parse("images.yaml", text).unwrap();
    images.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn an_entry_gets_its_defaults() {
    let images = parse("images.yaml", "- name: a\n  repository: o/a\n").unwrap();
    let entry = &images.entries[0];
    assert_eq!(entry.registry, "docker.io");
    assert_eq!(entry.rebuild_delay, "7d");
    assert!(entry.auto_rebuild);
    assert!(entry.source.is_none());
    assert_eq!((entry.allow_tags.as_ref(), entry.strategy), (None, None));
}

#[test]
fn a_file_without_entries_is_none() {
    for text in ["", "# none yet\n", "[]\n", "~\n"] {
        assert!(parse("images.yaml", text).is_none(), "{text:?}");
    }
}

#[test]
fn each_mistake_says_where_and_what_to_do() {
    for (text, message) in [
        (
            "- repository: a\n",
            "images.yaml:1:3: this image has no name: add name: ...",
        ),
        (
            "- hello\n",
            "images.yaml:1:3: expected an image (name: ...), found a single value",
        ),
        (
            "a: b\n",
            "images.yaml:1:1: expected a list of images (- name: ...), found a mapping",
        ),
        (
            "- name: ../a\n  repository: a\n",
            "images.yaml:1:9: \"../a\" cannot be a name: use lower-case letters, digits, dashes and dots, not ending in .example",
        ),
        (
            "- name: [a]\n",
            "images.yaml:1:9: name must be a word, not a list",
        ),
        (
            "- name: a\n",
            "images.yaml:1:3: a has no repository: add repository: owner/a",
        ),
        (
            "- name: a\n  repository: A/b\n",
            "images.yaml:2:15: \"docker.io/A/b\" contains upper-case letters: a repository is lower-case",
        ),
        (
            "- name: a\n  repository: b:1\n",
            "images.yaml:2:15: the image contains a tag: write image: docker.io/b and tag: \"1\"",
        ),
        (
            "- name: a\n  registry: mine\n  repository: b\n",
            "images.yaml:2:13: registry \"mine\" is no host: write one such as ghcr.io or localhost:5000",
        ),
        (
            "- name: a\n  repository: b\n  rebuildDelay: 7\n",
            "images.yaml:3:17: rebuildDelay: \"7\" is no delay: write a number and a unit (s, m, h, d or w), such as 7d or 12h",
        ),
        (
            "- name: a\n  repository: b\n  rebuildDelay: 7y\n",
            "images.yaml:3:17: rebuildDelay: \"7y\" has the unknown unit 'y': the units are s, m, h, d and w",
        ),
        (
            "- name: a\n  repository: b\n  autoRebuild: maybe\n",
            "images.yaml:3:16: autoRebuild must be true or false",
        ),
        (
            "- name: a\n  repository: b\n  imageSelectionStrategy: Newest\n",
            "images.yaml:3:27: imageSelectionStrategy \"Newest\" is unknown: use Lexical, SemVer, NewestBuild or Digest",
        ),
        (
            "- name: a\n  repository: b\n  allowTags: ^(1$\n",
            "images.yaml:3:14: allowTags is no regular expression: unclosed group",
        ),
        (
            "- name: a\n  repository: b\n  source: {repo: o/a, provider: svn, dockerfile: D}\n",
            "images.yaml:3:33: provider \"svn\" is unknown: use github or gitlab",
        ),
        (
            "- name: a\n  repository: b\n  source: {repo: o/a, dockerfile: ../D}\n",
            "images.yaml:3:35: dockerfile \"../D\" leaves the root: write a path below it",
        ),
        (
            "- name: a\n  repository: b\n  source: {repo: o/a, dockerfile: /D}\n",
            "images.yaml:3:35: dockerfile \"/D\" leaves the root: write a path below it",
        ),
        (
            "- name: a\n  repository: b\n  source: here\n",
            "images.yaml:3:11: source must be a mapping (repo: ...), not a single value",
        ),
        (
            "- name: a\n  repository: b\n  colour: red\n",
            "images.yaml:3:11: warning: a has the unknown key colour; known are name, registry, repository, source, rebuildDelay, autoRebuild, allowTags, imageSelectionStrategy",
        ),
    ] {
        assert_eq!(problems(text), [message], "{text}");
    }
}

#[test]
fn neither_of_two_entries_with_one_name_is_taken() {
    let text =
        "- {name: a, repository: b}\n- {name: c, repository: d}\n- {name: a, repository: e}\n";
    let images = parse("images.yaml", text).unwrap();
    let names: Vec<&str> = images.entries.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["c"]);
    assert!(images.broken.contains("a"));
    assert_eq!(
        images.problems[0].to_string(),
        "images.yaml:3:10: a is enrolled already at line 1: give one of them another name or remove it"
    );
}

#[test]
fn a_path_may_turn_round_below_the_root() {
    assert!(is_below_root("apps/../other/./Dockerfile"));
    for path in ["apps/../../x", "..", ".", "", "/etc/passwd"] {
        assert!(!is_below_root(path), "{path}");
    }
}
