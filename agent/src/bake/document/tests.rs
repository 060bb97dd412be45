//! Accepted and refused documents, with the places of the mistakes.

use super::*;

const D1: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

fn source(text: &str) -> Source {
    Source {
        name: "a.yaml".to_owned(),
        text: text.to_owned(),
    }
}

fn with_spec(spec: &str) -> String {
    let head =
        "apiVersion: drop.corewire.io/v1alpha1\nkind: CachedImage\nmetadata:\n  name: x\nspec:\n";
    format!("{head}  {}\n", spec.replace('\n', "\n  "))
}

/// The one image that a spec asks for, or the one mistake ("line: message").
fn outcome(spec: &str) -> Result<Wanted, String> {
    whole(&with_spec(spec))
}

fn whole(text: &str) -> Result<Wanted, String> {
    let mut input = parse(&[source(text)]);
    assert!(input.wanted.len() + input.problems.len() == 1, "{input:?}");
    input
        .wanted
        .pop()
        .ok_or_else(|| input.problems[0].to_string())
}

#[test]
fn every_form_of_a_reference_becomes_canonical() {
    let digest = format!("image: nginx\ndigest: {D1}");
    let by_digest = format!("docker.io/library/nginx@{D1}");
    let table = [
        ("image: nginx", "docker.io/library/nginx:latest"),
        (
            "image: nginx\ntag: \"1.25\"",
            "docker.io/library/nginx:1.25",
        ),
        ("image: nginx\ntag: ''", "docker.io/library/nginx:latest"),
        (
            "image: localhost:5000/app\ntag: v1",
            "localhost:5000/app:v1",
        ),
        ("image: r.example/team/a.b_c", "r.example/team/a.b_c:latest"),
        (digest.as_str(), by_digest.as_str()),
    ];
    for (spec, reference) in table {
        let wanted = outcome(spec).unwrap_or_else(|problem| panic!("{spec}: {problem}"));
        assert_eq!(wanted.reference, reference);
        assert_eq!(wanted.policy, drop_proto::ImagePullPolicy::Always);
    }
}

#[test]
fn all_fields_of_a_cached_image_are_accepted_and_those_without_meaning_noted() {
    let text = with_spec(
        "image: nginx\nimagePullPolicy: IfNotPresent\npriority: -5\nimagePullSecrets: [{name: s}]\n\
         nodeSelector: {a: b}\ntolerations: [{operator: Exists}]\npolicyRef: {name: p}",
    );
    let input = parse(&[source(&text)]);
    assert_eq!(input.problems, []);
    let wanted = &input.wanted[0];
    assert_eq!(
        (wanted.policy, wanted.priority),
        (drop_proto::ImagePullPolicy::IfNotPresent, -5)
    );
    assert_eq!(
        input.notes,
        [
            "a.yaml:2: imagePullSecrets, nodeSelector, tolerations, policyRef of CachedImage x has no meaning without a cluster"
        ]
    );
}

#[test]
fn mistakes_are_named_with_their_line() {
    let both = format!("image: a\ntag: b\ndigest: {D1}");
    let table = [
        (
            "image: nginx:1.25",
            "a.yaml:6: image must not contain a tag: write image: nginx and put the tag in its own field, tag: \"1.25\"",
        ),
        (
            "image: r:5000/a:v1",
            "a.yaml:6: image must not contain a tag: write image: r:5000/a",
        ),
        (
            "image: a@sha256:12",
            "a.yaml:6: image must not contain a digest: write image: a ",
        ),
        (
            "image: https://r/a",
            "a.yaml:6: image is a reference, not a URL: write image: r/a",
        ),
        ("image: UPPER/Case", "a.yaml:6: image must be a repository"),
        ("image: ''", "a.yaml:6: image must not be empty"),
        ("tag: b", "a.yaml:6: missing field `image`"),
        (
            "image: a\ntag: 1.10",
            "a.yaml:7: The string value [1.10] must be quoted",
        ),
        ("image: a\ntag: .b", "a.yaml:7: tag must be at most 128"),
        (
            "image: a\ndigest: sha256:12",
            "a.yaml:7: digest must be sha256: followed by 64",
        ),
        (both.as_str(), "a.yaml:8: set tag or digest, not both"),
        (
            "image: a\nimagePullPolicy: Sometimes",
            "a.yaml:7: unknown variant `Sometimes`",
        ),
        ("image: a\npriority: high", "a.yaml:7: invalid i32"),
        ("image: a\nimgae: b", "a.yaml:7: unknown field `imgae`"),
        (
            "image: a\nimage: b",
            "a.yaml:7: duplicate mapping key: image",
        ),
        ("image: a\n\tb: c", "a.yaml:6: "),
        ("- a", "a.yaml:6: "),
    ];
    for (spec, problem) in table {
        let outcome = outcome(spec).expect_err(spec);
        assert!(outcome.starts_with(problem), "{spec}\n{outcome}");
    }
}

#[test]
fn documents_that_are_no_cached_images_are_named() {
    let table = [
        (
            "kind: CachedImage\n",
            "a.yaml:1: CachedImage () is no kind of drop",
        ),
        ("a: b\n", "a.yaml:1: the document has no kind"),
        (
            "apiVersion: v1\nkind: Pod\n",
            "a.yaml:2: Pod (v1) is no kind of drop",
        ),
        (
            "\napiVersion: drop.corewire.io/v1alpha1\nkind: CachedImageSet\n",
            "a.yaml:3: CachedImageSet is not supported by bake yet",
        ),
        (
            "apiVersion: drop.corewire.io/v2\nkind: CachedImage\n",
            "a.yaml:2: apiVersion drop.corewire.io/v2 is not known",
        ),
        ("just text", "a.yaml:1: expected mapping start"),
        (
            "apiVersion: drop.corewire.io/v1alpha1\nkind: CachedImage\nmetadata: {name: A_B}\nspec: {image: a}\n",
            "a.yaml:3: metadata.name must be",
        ),
    ];
    for (text, problem) in table {
        let outcome = whole(text).expect_err(text);
        assert!(outcome.starts_with(problem), "{text}\n{outcome}");
    }
}

#[test]
fn lines_are_counted_through_all_documents_of_a_file() {
    let good = |name: &str| {
        format!(
            "apiVersion: drop.corewire.io/v1alpha1\nkind: CachedImage\nmetadata: {{name: {name}}}\nspec: {{image: {name}}}\n"
        )
    };
    let text = format!(
        "# first\n---\n{}---\n# only a comment\n---\n{}--- # here\n{}...\n---\n",
        good("a"),
        good("b").replace("image: b", "image: 'b:1'"),
        good("a"),
    );
    let input = parse(&[source(&text), source(&good("c"))]);
    let names: Vec<&str> = input.wanted.iter().map(|w| w.name.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
    let problems: Vec<String> = input.problems.iter().map(ToString::to_string).collect();
    assert!(
        problems[0].starts_with("a.yaml:13: image must not contain a tag"),
        "{problems:?}"
    );
    assert_eq!(
        problems[1],
        "a.yaml:16: CachedImage a is already defined at a.yaml:4"
    );
    assert_eq!(problems.len(), 2);
}

#[test]
fn a_pull_policy_is_noted_and_ignored() {
    let text =
        "apiVersion: drop.corewire.io/v1alpha1\nkind: PullPolicy\nmetadata: {name: p}\nspec: {}\n";
    let input = parse(&[source(text), source(""), source("---\n---\n")]);
    assert_eq!((input.wanted.len(), input.problems.len()), (0, 0));
    assert_eq!(
        input.notes,
        ["a.yaml:2: PullPolicy is ignored: there are no nodes to pace"]
    );
}

#[test]
fn names_follow_the_rules_of_kubernetes() {
    for good in ["a", "a-b.c1", &"a".repeat(253)] {
        assert!(is_object_name(good), "{good}");
    }
    for bad in ["", "-a", "a-", "a..b", "A", "a_b", "a.-b", &"a".repeat(254)] {
        assert!(!is_object_name(bad), "{bad}");
    }
}
