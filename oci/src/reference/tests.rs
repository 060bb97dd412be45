use proptest::prelude::*;

use super::ReferenceError as E;
use super::*;

/// A text and, behind a tab, its canonical form, or that it is refused: the cases of the distribution project's own tests and
/// some more, as answered by `ParseNormalizedNamed` of github.com/distribution/reference v0.6.0.
const DISTRIBUTION: &str = include_str!("tests/distribution.txt");

type Case<'a> = (&'a str, fn(&E) -> bool);

fn digest(algorithm: &str, digits: usize) -> String {
    format!("{algorithm}:{}", "f".repeat(digits))
}

fn parse(text: &str) -> Result<Reference, ReferenceError> {
    text.parse()
}

#[test]
fn every_spelling_has_one_canonical_form() {
    for (text, canonical) in [
        ("nginx", "docker.io/library/nginx"),
        ("nginx:1.25", "docker.io/library/nginx:1.25"),
        ("library/nginx", "docker.io/library/nginx"),
        ("docker.io/nginx", "docker.io/library/nginx"),
        ("docker.io/library/nginx", "docker.io/library/nginx"),
        ("index.docker.io/nginx", "docker.io/library/nginx"),
        ("index.docker.io/team/app", "docker.io/team/app"),
        ("team/app", "docker.io/team/app"),
        ("test_com", "docker.io/library/test_com"),
        ("test.com:tag", "docker.io/library/test.com:tag"),
        ("test.com:5000", "docker.io/library/test.com:5000"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("localhost", "docker.io/library/localhost"),
        ("localhost/app", "localhost/app"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        ("test:5000/repo", "test:5000/repo"),
        ("192.168.1.1", "docker.io/library/192.168.1.1"),
        ("192.168.1.1:5000/repo:5050", "192.168.1.1:5000/repo:5050"),
        ("foo/foo_bar.com:8080", "docker.io/foo/foo_bar.com:8080"),
        (
            "b.gcr.io/test.example.com/my-app:x.y",
            "b.gcr.io/test.example.com/my-app:x.y",
        ),
        (
            "xn--n3h.com/myimage:xn--n3h.com",
            "xn--n3h.com/myimage:xn--n3h.com",
        ),
        ("[::1]:5000/repo:tag", "[::1]:5000/repo:tag"),
        ("[2001:db8::1]/repo", "[2001:db8::1]/repo"),
        ("Registry/app", "Registry/app"),
        (
            "lowercase:Uppercase",
            "docker.io/library/lowercase:Uppercase",
        ),
        ("a.b/c__d/e--f/g.h", "a.b/c__d/e--f/g.h"),
        ("quay.io/app:_x", "quay.io/app:_x"),
    ] {
        assert_eq!(
            parse(text).map(|r| r.to_string()).as_deref(),
            Ok(canonical),
            "{text}"
        );
    }
}

#[test]
fn texts_are_read_as_the_distribution_project_reads_them() {
    let mut checked = 0;
    for row in DISTRIBUTION.lines() {
        let (text, expected) = row.split_once('\t').unwrap();
        let read = parse(text).map_or("refused".to_owned(), |reference| reference.to_string());
        assert_eq!(read, expected, "{text:?}");
        checked += 1;
    }
    assert!(checked > 200, "{checked} texts checked");
}

#[test]
fn tag_and_digest_are_both_kept() {
    for digest in [
        digest("sha256", 64),
        digest("sha384", 96),
        digest("sha512", 128),
    ] {
        let reference = parse(&format!("nginx:1.25@{digest}")).unwrap();
        assert_eq!(reference.tag(), Some("1.25"));
        assert_eq!(reference.digest(), Some(digest.as_str()));
        assert_eq!(
            reference.to_string(),
            format!("docker.io/library/nginx:1.25@{digest}")
        );
        assert_eq!(
            reference.without_tag().to_string(),
            format!("docker.io/library/nginx@{digest}")
        );
    }
}

#[test]
fn what_is_no_reference_is_refused_for_its_own_reason() {
    let long_path = format!("example.com/{}", "a".repeat(256));
    let short_digest = format!("repo@{}", digest("sha256", 32));
    let unknown_digest = format!("repo@{}", digest("md5", 64));
    let upper_digest = format!("repo@{}", digest("sha256", 64).to_uppercase());
    let identifier = "a".repeat(64);
    let long_tag = format!("app:{}", "t".repeat(129));
    let cases: [Case; 31] = [
        ("", |e| matches!(e, E::Empty)),
        (":justtag", |e| matches!(e, E::Empty)),
        ("https://example.com/app", |e| matches!(e, E::Url(_))),
        ("Uppercase:tag", |e| matches!(e, E::Uppercase(_))),
        ("test:5000/Uppercase/lower:tag", |e| {
            matches!(e, E::Uppercase(_))
        }),
        ("example.com/Team/app", |e| matches!(e, E::Uppercase(_))),
        ("aa/asdf$$^/aa", |e| matches!(e, E::Name(_))),
        ("[2001:db8::1]", |e| matches!(e, E::Name(_) | E::Tag(_))),
        ("[fe80::1%eth0]:5000/repo", |e| matches!(e, E::Name(_))),
        ("[]:5000/repo", |e| matches!(e, E::Name(_))),
        ("[::1]x/repo", |e| matches!(e, E::Name(_))),
        ("-example.com/app", |e| matches!(e, E::Name(_))),
        ("example..com/app", |e| matches!(e, E::Name(_))),
        ("example.com:port/app", |e| matches!(e, E::Name(_))),
        ("example.com:/app", |e| matches!(e, E::Name(_))),
        ("example.com//app", |e| matches!(e, E::Name(_))),
        ("example.com/app/", |e| matches!(e, E::Name(_))),
        ("example.com/", |e| matches!(e, E::Name(_))),
        ("/app", |e| matches!(e, E::Name(_))),
        ("a___b", |e| matches!(e, E::Name(_))),
        ("a..b", |e| matches!(e, E::Name(_))),
        ("nginx ", |e| matches!(e, E::Name(_))),
        ("nginx\n", |e| matches!(e, E::Name(_))),
        (&identifier, |e| matches!(e, E::Identifier(_))),
        (&long_path, |e| matches!(e, E::TooLong(_))),
        ("app:", |e| matches!(e, E::Tag(_))),
        ("app:-x", |e| matches!(e, E::Tag(_))),
        (&long_tag, |e| matches!(e, E::Tag(_))),
        (&short_digest, |e| matches!(e, E::Digest(_))),
        (&unknown_digest, |e| matches!(e, E::Digest(_))),
        (&upper_digest, |e| matches!(e, E::Digest(_))),
    ];
    for (text, is_expected) in cases {
        let error = parse(text).expect_err(text);
        assert!(is_expected(&error), "{text}: {error:?}");
    }
}

#[test]
fn the_longest_names_and_tags_are_accepted() {
    let path = "a".repeat(MAX_REPOSITORY_CHARS);
    let tag = "t".repeat(MAX_TAG_CHARS);
    let text = format!("registry.example.com:5000/{path}:{tag}");
    assert_eq!(parse(&text).unwrap().to_string(), text);
    assert!(
        matches!(parse(&path), Err(ReferenceError::TooLong(_))),
        "library/ makes it longer"
    );
}

#[test]
fn the_parts_of_a_spec_give_digest_before_tag_before_latest() {
    let digest = digest("sha256", 64);
    for (tag, pinned, expected) in [
        (None, None, "docker.io/library/nginx:latest".to_owned()),
        (
            Some(""),
            Some(""),
            "docker.io/library/nginx:latest".to_owned(),
        ),
        (
            Some("1.25"),
            None,
            "docker.io/library/nginx:1.25".to_owned(),
        ),
        (
            None,
            Some(digest.as_str()),
            format!("docker.io/library/nginx@{digest}"),
        ),
        (
            Some("1.25"),
            Some(digest.as_str()),
            format!("docker.io/library/nginx@{digest}"),
        ),
    ] {
        let reference = Reference::from_parts("nginx", tag, pinned).unwrap();
        assert_eq!(reference.to_string(), expected);
    }
}

#[test]
fn a_tag_or_digest_within_the_image_is_refused_with_the_way_to_write_it() {
    let message = |image: &str| {
        Reference::from_parts(image, None, None)
            .unwrap_err()
            .to_string()
    };
    assert!(message("nginx:1.25").contains("write image: nginx and tag: \"1.25\""));
    assert!(
        message("localhost:5000/app:1").contains("write image: localhost:5000/app and tag: \"1\"")
    );
    assert!(
        message(&format!("a:1@{}", digest("sha256", 64)))
            .contains("write image: a and digest: sha256:")
    );
    assert!(message("https://example.com/app").contains("is a URL"));
    assert!(Reference::from_parts("localhost:5000/app", Some("1"), None).is_ok());
}

#[test]
fn a_reference_gives_the_names_that_a_runtime_lists() {
    let reference = parse("registry.example.com:5000/team/app:v1").unwrap();
    assert_eq!(reference.host(), "registry.example.com:5000");
    assert_eq!(reference.repository(), "team/app");
    assert_eq!(
        reference.repository_name(),
        "registry.example.com:5000/team/app"
    );
    let digest = digest("sha256", 64);
    assert_eq!(
        reference.with_digest(&digest).unwrap().to_string(),
        format!("registry.example.com:5000/team/app@{digest}")
    );
    assert!(reference.with_digest("sha256:x").is_err());
    assert_eq!(parse("nginx").unwrap().or_latest().tag(), Some("latest"));
    assert_eq!(parse("nginx:1").unwrap().or_latest().tag(), Some("1"));
}

fn canonical() -> impl Strategy<Value = String> {
    let host = "([a-zA-Z0-9]{1,8}(-[a-z0-9]{1,3})?\\.[a-z]{2,3}|localhost|\\[[0-9a-f]{1,4}:[0-9a-f:]{1,6}\\])(:[0-9]{1,5})?/";
    let path = "([a-z0-9]{1,6}/){0,3}[a-z0-9]{1,6}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}";
    let tag = "(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,20})?";
    let pattern = format!("({host})?{path}{tag}(@sha256:[0-9a-f]{{64}})?");
    proptest::string::string_regex(&pattern).expect("the pattern above is one")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_reads_back_to_the_same_reference(text in canonical()) {
        let reference = parse(&text).expect(&text);
        prop_assert_eq!(parse(&reference.to_string()), Ok(reference));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>(), tag in any::<String>(), digest in any::<String>()) {
        let _ = parse(&text);
        let _ = Reference::from_parts(&text, Some(&tag), Some(&digest));
    }

    #[test]
    fn no_text_of_the_right_characters_makes_the_parser_panic(text in "[a-zA-Z0-9:/@._\\[\\]-]{0,80}") {
        if let Ok(reference) = parse(&text) {
            prop_assert_eq!(parse(&reference.to_string()), Ok(reference));
        }
        let _ = Reference::from_parts(&text, None, None);
    }
}
