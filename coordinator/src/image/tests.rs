use super::*;

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);

fn now(seconds: u64) -> Now {
    Now::at(Duration::from_secs(seconds))
}

fn digests(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("sha256:{name}")).collect()
}

fn checked_image(expected: &str) -> Image {
    let mut image = Image::new("r.io/a:1".to_owned(), "r.io".to_owned(), None);
    image.check.due = Some(Duration::ZERO);
    assert!(image.pulled(now(0), A, &digests(&[expected]), Duration::ZERO));
    image
}

#[test]
fn the_first_pull_tells_what_the_tag_names() {
    let image = checked_image("one");
    assert_eq!(image.expected.as_deref(), Some("sha256:one"));
    assert!(image.current.contains(A) && image.accepted.contains(A));
    assert!(image.check.due.is_none());
    assert!(image.check.last.is_some());
}

#[test]
fn a_node_that_holds_the_expected_digest_needs_no_pull() {
    let mut image = checked_image("one");
    image.holds(B, &digests(&["other-manifest", "one"]));
    assert!(image.accepted.contains(B));
    image.lacks(B);
    assert!(
        !image.accepted.contains(B) && !image.present.contains(B) && image.reported.contains(B)
    );
}

#[test]
fn a_digest_never_seen_moves_the_expectation_and_nodes_stay_ready() {
    let mut image = checked_image("one");
    assert!(image.pulled(now(1), B, &digests(&["two"]), Duration::ZERO));
    assert_eq!(image.expected.as_deref(), Some("sha256:two"));
    assert!(
        image.accepted.contains(A),
        "the former digest is still there"
    );
    assert!(!image.current.contains(A));
}

#[test]
fn mirrors_that_disagree_do_not_make_nodes_pull_in_circles() {
    let mut image = checked_image("one");
    assert!(image.pulled(now(1), B, &digests(&["two"]), Duration::ZERO));
    assert!(!image.pulled(now(2), A, &digests(&["one"]), Duration::ZERO));
    assert!(image.accepted.contains(A), "it has what its mirror gives");
    assert_eq!(image.current.iter().collect::<Vec<_>>(), [B]);
}

#[test]
fn a_check_believes_the_registry_even_when_the_tag_went_back() {
    let mut image = checked_image("one");
    image.check.due = Some(Duration::ZERO);
    assert!(image.pulled(now(1), A, &digests(&["two"]), Duration::ZERO));
    image.check.due = Some(Duration::ZERO);
    assert!(image.pulled(now(2), A, &digests(&["one"]), Duration::ZERO));
    assert_eq!(image.expected.as_deref(), Some("sha256:one"));
}

#[test]
fn an_image_held_before_the_first_check_proves_nothing() {
    let mut image = Image::new("r.io/a:1".to_owned(), "r.io".to_owned(), None);
    image.check.due = Some(Duration::ZERO);
    image.holds(B, &digests(&["old"]));
    assert!(!image.accepted.contains(B));
    image.pulled(now(0), A, &digests(&["new"]), Duration::ZERO);
    assert!(
        !image.accepted.contains(B),
        "what it holds is not what the tag names"
    );
}

#[test]
fn a_restart_remembers_the_digest_and_the_check() {
    let mut image = Image::new("r.io/a:1".to_owned(), "r.io".to_owned(), None);
    image.restore("sha256:one", Some(Timestamp::UNIX_EPOCH));
    assert_eq!(image.probe, Probe::Proven);
    image.holds(A, &digests(&["one"]));
    assert!(image.accepted.contains(A));
}

#[test]
fn a_digest_reference_is_its_own_expectation() {
    let mut image = Image::new(
        "r.io/a@sha256:one".to_owned(),
        "r.io".to_owned(),
        Some("sha256:one".to_owned()),
    );
    assert!(!image.never_checked());
    image.holds(A, &digests(&["one"]));
    assert!(image.accepted.contains(A));
}

#[test]
fn a_probe_that_fails_for_everybody_closes_the_gate() {
    let mut probe = Probe::default();
    probe.granted(1);
    assert!(!probe.admits(Duration::ZERO));
    probe.refused(Duration::ZERO, Duration::from_secs(300));
    assert!(!probe.admits(Duration::from_secs(299)));
    assert!(probe.admits(Duration::from_secs(300)));
    probe.granted(2);
    probe.abandoned(1);
    assert_eq!(probe, Probe::Trying(2), "another grant's end means nothing");
    probe.runs(2);
    assert_eq!(probe, Probe::Assumed);
}
