//! Names of base images and the tag patterns that they are watched by. Pure.

use std::collections::{BTreeMap, BTreeSet};

use drop_oci::Reference;
use ring::digest;

/// Longest name of a Kubernetes object.
const MAX_NAME_CHARS: usize = 253;

/// What means something else in a regular expression.
const REGEX_CHARACTERS: &[char] = &[
    '\\', '.', '+', '*', '?', '(', ')', '|', '[', ']', '{', '}', '^', '$',
];

/// The name that a reference, as written, asks for. It may be another image's, too: see [`assign`].
#[must_use]
pub fn wanted_name(written: &str) -> String {
    let parts: Vec<&str> = written.split('/').collect();
    let kept = if parts.len() == 3 {
        &parts[1..]
    } else {
        &parts[..]
    };
    let legal: String = kept
        .join("-")
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '-' | '.') => c,
            _ => '-',
        })
        .collect();
    // Each part between dots begins and ends with a letter or digit.
    legal
        .split('.')
        .map(|label| label.trim_matches('-'))
        .filter(|label| !label.is_empty())
        .collect::<Vec<_>>()
        .join(".")
}

/// Whether a name can be that of a Kubernetes object and of a state file.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let is_end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_label = |label: &str| {
        label.starts_with(is_end)
            && label.ends_with(is_end)
            && label.chars().all(|c| is_end(c) || c == '-')
    };
    name.len() <= MAX_NAME_CHARS && name.split('.').all(is_label) && !is_example(name)
}

/// Files of such names are examples, not state.
fn is_example(name: &str) -> bool {
    name.ends_with(".example") || name.ends_with(".examples")
}

/// Gives each image its name. `wanted` is in the order in which the images were seen, each once, with the name it asks for.
///
/// A name that an image has already (`established`) stays. Newcomers that ask for the name of another get a suffix that
/// follows from the image alone, so no order matters.
#[must_use]
pub fn assign(
    wanted: &BTreeMap<Reference, String>,
    established: &BTreeMap<Reference, String>,
) -> BTreeMap<Reference, String> {
    let taken: BTreeSet<&str> = established.values().map(String::as_str).collect();
    let newcomers = || {
        wanted
            .iter()
            .filter(|(image, _)| !established.contains_key(image))
    };
    let mut asked: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, name) in newcomers() {
        *asked.entry(name).or_default() += 1;
    }
    let mut names = established.clone();
    for (image, name) in newcomers() {
        let is_free = asked.get(name.as_str()) == Some(&1) && !taken.contains(name.as_str());
        let name = if is_free && is_name(name) {
            name.clone()
        } else {
            with_suffix(name, image)
        };
        names.insert(image.clone(), name);
    }
    names
}

/// The name with six digits that stand for the image.
fn with_suffix(name: &str, image: &Reference) -> String {
    let hash = digest::digest(&digest::SHA256, image.to_string().as_bytes());
    let bytes = hash.as_ref();
    let room = MAX_NAME_CHARS - 7;
    let kept = name
        .get(..room)
        .unwrap_or(name)
        .trim_end_matches(['-', '.']);
    format!("{kept}-{:02x}{:02x}{:02x}", bytes[0], bytes[1], bytes[2])
}

/// The pattern that matches one tag and nothing else.
#[must_use]
pub fn exact_pattern(tag: &str) -> String {
    let mut pattern = String::from("^");
    for c in tag.chars() {
        if REGEX_CHARACTERS.contains(&c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('$');
    pattern
}

/// The only tag that a pattern matches, if there is but one.
#[must_use]
pub fn only_tag(pattern: &str) -> Option<String> {
    let inner = pattern.strip_prefix('^')?.strip_suffix('$')?;
    let mut tag = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => tag.push(chars.next().filter(|c| !c.is_ascii_alphanumeric())?),
            c if REGEX_CHARACTERS.contains(&c) => return None,
            c => tag.push(c),
        }
    }
    (!tag.is_empty()).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_what_is_written() {
        for (written, name) in [
            ("node:22-bookworm-slim", "node-22-bookworm-slim"),
            ("docker.io/library/node:22", "library-node-22"),
            ("ghcr.io/owner/image:v1.0", "owner-image-v1.0"),
            ("nginx", "nginx"),
            (
                "gcr.io/distroless/python3-debian12:latest",
                "distroless-python3-debian12-latest",
            ),
            ("quay.io/x:1", "quay.io-x-1"),
            ("localhost:5000/a/b", "a-b"),
            ("localhost:5000/a:1", "localhost-5000-a-1"),
            ("ghcr.io/o/p/img:1", "ghcr.io-o-p-img-1"),
            ("my_image:V1_0", "my-image-v1-0"),
            ("node:22@sha256:ab", "node-22-sha256-ab"),
            ("x:1.-a", "x-1.a"),
        ] {
            assert_eq!(wanted_name(written), name, "{written}");
            assert!(is_name(name), "{name}");
        }
    }

    fn images(texts: &[&str]) -> BTreeMap<Reference, String> {
        texts
            .iter()
            .map(|text| (text.parse().unwrap(), wanted_name(text)))
            .collect()
    }

    #[test]
    fn images_that_ask_for_one_name_all_get_a_suffix() {
        let names = assign(
            &images(&["ghcr.io/a/b:1", "quay.io/a/b:1", "nginx:1"]),
            &BTreeMap::new(),
        );
        let names: Vec<&str> = names.values().map(String::as_str).collect();
        assert_eq!(names, ["nginx-1", "a-b-1-39c625", "a-b-1-ee94c1"]);
    }

    #[test]
    fn an_established_name_is_never_taken_away() {
        let established = images(&["ghcr.io/a/b:1"]);
        let names = assign(&images(&["ghcr.io/a/b:1", "quay.io/a/b:1"]), &established);
        assert_eq!(names[&"ghcr.io/a/b:1".parse().unwrap()], "a-b-1");
        assert_ne!(names[&"quay.io/a/b:1".parse().unwrap()], "a-b-1");
    }

    #[test]
    fn names_that_no_file_can_have_get_a_suffix() {
        let long = format!("ghcr.io/o/p/{}:1", "x".repeat(250));
        for text in ["x:1.example", long.as_str()] {
            let names = assign(&images(&[text]), &BTreeMap::new());
            assert!(names.values().all(|name| is_name(name)), "{names:?}");
        }
    }

    #[test]
    fn a_tag_is_escaped_once_and_read_back() {
        for (tag, pattern) in [
            ("22-bookworm-slim", "^22-bookworm-slim$"),
            ("1.10", "^1\\.10$"),
            ("v1_0", "^v1_0$"),
        ] {
            assert_eq!(exact_pattern(tag), pattern);
            assert_eq!(only_tag(pattern).as_deref(), Some(tag));
        }
        for pattern in ["^.*$", "^1.10$", "1", "^a|b$", "^\\d$", "^$"] {
            assert_eq!(only_tag(pattern), None, "{pattern}");
        }
    }
}
