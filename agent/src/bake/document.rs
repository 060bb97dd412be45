//! Turns YAML documents into wanted images, with the rules that the API server applies to a CachedImage, and says of each
//! mistake in which file and line it is.

use std::collections::BTreeMap;

use drop_api::{ImagePullPolicy, PolicyReference};
use drop_oci::reference::Reference;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_saphyr::Spanned;

use super::grantor::Wanted;
use super::input::Source;
use super::problem::Problem;

const GROUP: &str = "drop.corewire.io/";
const VERSION: &str = "drop.corewire.io/v1alpha1";

/// What all sources together ask for.
#[derive(Debug, Default)]
pub(super) struct Input {
    pub(super) wanted: Vec<Wanted>,
    /// What is left out of account, for people.
    pub(super) notes: Vec<String>,
    pub(super) problems: Vec<Problem>,
}

/// Reads all documents of all sources.
pub(super) fn parse(sources: &[Source]) -> Input {
    let mut input = Input::default();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for source in sources {
        for piece in pieces(&source.text) {
            let place = |line: u64| format!("{}:{}", source.name, piece.lines_before + line);
            match document(piece.text) {
                Ok(Document::CachedImage {
                    wanted,
                    line,
                    ignored,
                }) => {
                    if let Some(first) = names.insert(wanted.name.clone(), place(line)) {
                        input.problems.push(Problem {
                            place: place(line),
                            message: format!(
                                "CachedImage {} is already defined at {first}",
                                wanted.name
                            ),
                        });
                        continue;
                    }
                    if !ignored.is_empty() {
                        let ignored = ignored.join(", ");
                        input.notes.push(format!(
                            "{}: {ignored} of CachedImage {} has no meaning without a cluster",
                            place(line),
                            wanted.name
                        ));
                    }
                    input.wanted.push(*wanted);
                }
                Ok(Document::Ignored { kind, line }) => {
                    input.notes.push(format!(
                        "{}: {kind} is ignored: there are no nodes to pace",
                        place(line)
                    ));
                }
                Ok(Document::Empty) => {}
                Err(Mistake { line, message }) => input.problems.push(Problem {
                    place: place(line),
                    message,
                }),
            }
        }
    }
    input
}

/// A document and the number of lines before it.
struct Piece<'a> {
    text: &'a str,
    lines_before: u64,
}

/// Cuts a stream at its document markers, which stand at the begin of a line whatever surrounds them.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut begin, mut lines_before) = (0, 0);
    let (mut at, mut line_number) = (0, 0);
    for line in text.split_inclusive('\n') {
        let is_marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.trim_start() != rest || rest.is_empty());
        // Directives belong to the marker that follows them.
        let has_content = || {
            text[begin..at]
                .lines()
                .any(|l| !l.starts_with('%') && !l.is_empty())
        };
        if is_marker && has_content() {
            pieces.push(Piece {
                text: &text[begin..at],
                lines_before,
            });
            (begin, lines_before) = (at, line_number);
        }
        at += line.len();
        line_number += 1;
    }
    pieces.push(Piece {
        text: &text[begin..],
        lines_before,
    });
    pieces
}

/// What is wrong in a document, with the line counted from its begin.
struct Mistake {
    line: u64,
    message: String,
}

enum Document {
    CachedImage {
        wanted: Box<Wanted>,
        line: u64,
        /// Fields that only a cluster gives a meaning.
        ignored: Vec<&'static str>,
    },
    Ignored {
        kind: String,
        line: u64,
    },
    Empty,
}

/// What every document has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: Option<Spanned<String>>,
    kind: Option<Spanned<String>>,
}

#[derive(Deserialize)]
struct CachedImage {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    name: Spanned<String>,
}

/// The fields of `CachedImageSpec`, with the places of those that can be wrong.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Spec {
    image: Spanned<String>,
    tag: Option<Spanned<String>>,
    digest: Option<Spanned<String>>,
    #[serde(default)]
    image_pull_policy: Option<ImagePullPolicy>,
    #[serde(default)]
    image_pull_secrets: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    node_selector: Option<BTreeMap<String, String>>,
    #[serde(default)]
    tolerations: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    priority: Option<i32>,
    #[serde(default)]
    policy_ref: Option<PolicyReference>,
}

fn document(text: &str) -> Result<Document, Mistake> {
    let is_empty = |line: &str| {
        let line = line.trim();
        line.is_empty() || line.starts_with(['#', '%']) || line == "---" || line == "..."
    };
    if text.lines().all(is_empty) {
        return Ok(Document::Empty);
    }
    let Head { api_version, kind } = yaml(text)?;
    let first_line = 1 + text.lines().take_while(|line| is_empty(line)).count() as u64;
    let Some(kind) = kind else {
        return Err(mistake(
            first_line,
            "the document has no kind: expected kind: CachedImage",
        ));
    };
    let line = kind.referenced.line();
    let api_version = api_version.map_or(String::new(), |version| version.value);
    match kind.value.as_str() {
        _ if !api_version.starts_with(GROUP) => Err(mistake(
            line,
            &format!(
                "{} ({api_version}) is no kind of drop: expected kind: CachedImage, apiVersion: {VERSION}",
                kind.value
            ),
        )),
        _ if api_version != VERSION => Err(mistake(
            line,
            &format!("apiVersion {api_version} is not known: expected {VERSION}"),
        )),
        "CachedImage" => cached_image(yaml(text)?, line),
        "PullPolicy" => Ok(Document::Ignored {
            kind: kind.value,
            line,
        }),
        other => Err(mistake(
            line,
            &format!(
                "{other} is not supported by bake yet: list the images as CachedImage documents"
            ),
        )),
    }
}

fn cached_image(object: CachedImage, line: u64) -> Result<Document, Mistake> {
    let CachedImage { metadata, spec } = object;
    let name = metadata.name;
    if !is_object_name(&name.value) {
        return Err(mistake(
            name.referenced.line(),
            "metadata.name must be at most 253 lower-case letters, digits, dashes or dots, and begin and end with a letter or digit",
        ));
    }
    let reference = reference(&spec)?;
    let ignored = [
        (
            "imagePullSecrets",
            spec.image_pull_secrets.is_some_and(|s| !s.is_empty()),
        ),
        (
            "nodeSelector",
            spec.node_selector.is_some_and(|s| !s.is_empty()),
        ),
        (
            "tolerations",
            spec.tolerations.is_some_and(|t| !t.is_empty()),
        ),
        ("policyRef", spec.policy_ref.is_some()),
    ];
    let wanted = Wanted {
        name: name.value,
        reference,
        policy: match spec.image_pull_policy.unwrap_or_default() {
            ImagePullPolicy::Always => drop_proto::ImagePullPolicy::Always,
            ImagePullPolicy::IfNotPresent => drop_proto::ImagePullPolicy::IfNotPresent,
            ImagePullPolicy::Never => drop_proto::ImagePullPolicy::Never,
        },
        priority: spec.priority.unwrap_or_default(),
    };
    Ok(Document::CachedImage {
        wanted: Box::new(wanted),
        line,
        ignored: ignored
            .into_iter()
            .filter_map(|(field, is_set)| is_set.then_some(field))
            .collect(),
    })
}

/// The canonical reference. An empty string counts as an unset field, as it does in the cluster.
fn reference(spec: &Spec) -> Result<String, Mistake> {
    let image = spec.image.value.as_str();
    let at_image = |message: &str| Err(mistake(spec.image.referenced.line(), message));
    let tag = spec.tag.as_ref().filter(|tag| !tag.value.is_empty());
    let digest = spec
        .digest
        .as_ref()
        .filter(|digest| !digest.value.is_empty());

    if image.is_empty() {
        return at_image("image must not be empty");
    }
    if let Some((_, rest)) = image.split_once("://") {
        return at_image(&format!(
            "image is a reference, not a URL: write image: {rest}"
        ));
    }
    if let Some((name, digest)) = image.split_once('@') {
        return at_image(&format!(
            "image must not contain a digest: write image: {name} and put the digest in its own field, digest: {digest}"
        ));
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    if let Some((_, tag)) = last.split_once(':') {
        let name = &image[..image.len() - tag.len() - 1];
        return at_image(&format!(
            "image must not contain a tag: write image: {name} and put the tag in its own field, tag: \"{tag}\""
        ));
    }
    if let Some(tag) = tag
        && !is_tag(&tag.value)
    {
        return Err(mistake(
            tag.referenced.line(),
            "tag must be at most 128 letters, digits, dots, dashes or underscores and must not begin with a dot or a dash, \
             such as 1.25-alpine; a digest (sha256:...) goes into the field digest",
        ));
    }
    if let Some(digest) = digest {
        if tag.is_some() {
            return Err(mistake(
                digest.referenced.line(),
                "set tag or digest, not both: remove tag to pin this digest, or remove digest to follow the tag",
            ));
        }
        if !is_digest(&digest.value) {
            return Err(mistake(
                digest.referenced.line(),
                "digest must be sha256: followed by 64 lower-case hexadecimal digits, as the registry shows it; \
                 a tag goes into the field tag",
            ));
        }
    }
    let parts = (
        tag.map(|t| t.value.as_str()),
        digest.map(|d| d.value.as_str()),
    );
    match Reference::from_parts(image, parts.0, parts.1) {
        Ok(reference) if image.len() <= 255 => Ok(reference.to_string()),
        _ => at_image(
            "image must be a repository, with or without a registry host, such as docker.io/library/nginx or \
             registry.example.com:5000/team/app: lower-case letters and digits, joined by single dots, dashes or underscores",
        ),
    }
}

fn is_tag(tag: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128
        && tag.starts_with(is_word)
        && tag.chars().all(|c| is_word(c) || c == '.' || c == '-')
}

fn is_digest(digest: &str) -> bool {
    let is_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    digest
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.chars().all(is_hex))
}

/// A DNS subdomain, as names of Kubernetes objects are.
fn is_object_name(name: &str) -> bool {
    let is_end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_label = |label: &str| {
        label.starts_with(is_end)
            && label.ends_with(is_end)
            && label.chars().all(|c| is_end(c) || c == '-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, Mistake> {
    // As strict as the API server: `tag: 1.10` is a number there, and would lose its zero.
    let options = serde_saphyr::options! { no_schema: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let text = error.without_snippet().to_string();
        let message = text
            .rsplit_once(" at line ")
            .map_or(text.as_str(), |(message, _)| message);
        let message = message
            .split(", set DuplicateKeyPolicy")
            .next()
            .unwrap_or(message);
        mistake(
            error.location().map_or(1, |location| location.line()),
            message,
        )
    })
}

fn mistake(line: u64, message: &str) -> Mistake {
    Mistake {
        line,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests;
