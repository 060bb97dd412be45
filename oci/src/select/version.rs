//! Versions as Masterminds/semver v3 (`NewVersion`) reads and orders them, since Helm and the Go operators do.
//!
//! More than semantic versions: `v1`, `1.0`, `01.2` and `1.2-alpine` are versions. Crates for semantic versions refuse or order
//! these otherwise, hence this module.

use std::str::FromStr;

/// Longest text that is read.
const MAX_CHARS: usize = 256;

/// A version. Ordered by precedence; build metadata (`+...`) does not count and is not kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub(super) major: u64,
    pub(super) minor: u64,
    pub(super) patch: u64,
    pub(super) stage: Stage,
}

/// A prerelease comes before its release.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Prerelease(Vec<Identifier>),
    Release,
}

/// A part of a prerelease between dots. Numbers come before words, and a part before more parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Identifier {
    Number(u64),
    Word(String),
}

/// A text is no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version such as 1.2.3, v1.2 or 1.2.3-rc.1")]
pub struct VersionError(String);

impl Version {
    /// The first `x.y` or `x.y.z` within a text, such as a tag that begins with something else: `alpine-3.18.4`.
    #[must_use]
    pub fn embedded(text: &str) -> Option<Self> {
        let mut rest = text;
        loop {
            rest = &rest[rest.find(|c: char| c.is_ascii_digit())?..];
            let (major, after) = digits(rest);
            rest = after;
            let Some((minor, after)) = next_number(after) else {
                continue;
            };
            let (patch, _) = next_number(after).unwrap_or(("0", after));
            return Some(Self {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                patch: patch.parse().ok()?,
                stage: Stage::Release,
            });
        }
    }

    /// Is it before a release?
    #[must_use]
    pub fn is_prerelease(&self) -> bool {
        self.stage != Stage::Release
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        read(text).ok_or_else(|| VersionError(text.chars().take(80).collect()))
    }
}

fn read(text: &str) -> Option<Version> {
    if text.len() > MAX_CHARS {
        return None;
    }
    let rest = text.strip_prefix('v').unwrap_or(text);
    let (major, rest) = digits(rest);
    let (minor, rest) = next_number(rest).unwrap_or(("0", rest));
    let (patch, rest) = next_number(rest).unwrap_or(("0", rest));
    Some(Version {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        patch: patch.parse().ok()?,
        stage: stage(rest)?,
    })
}

/// Reads what follows the numbers: `-prerelease`, `+metadata`, both or nothing.
pub(super) fn stage(text: &str) -> Option<Stage> {
    let (prerelease, metadata) = match text.split_once('+') {
        Some((prerelease, metadata)) => (prerelease, Some(metadata)),
        None => (text, None),
    };
    if !metadata.is_none_or(|metadata| metadata.split('.').all(is_identifier)) {
        return None;
    }
    if prerelease.is_empty() {
        return Some(Stage::Release);
    }
    let identifiers = prerelease.strip_prefix('-')?.split('.').map(identifier);
    Some(Stage::Prerelease(identifiers.collect::<Option<_>>()?))
}

fn identifier(text: &str) -> Option<Identifier> {
    if !is_identifier(text) {
        return None;
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Identifier::Word(text.to_owned()));
    }
    if text.len() > 1 && text.starts_with('0') {
        return None;
    }
    // A number that is too large is a word, as it is for Masterminds.
    Some(
        text.parse()
            .map_or_else(|_| Identifier::Word(text.to_owned()), Identifier::Number),
    )
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

/// A dot and the number behind it.
fn next_number(text: &str) -> Option<(&str, &str)> {
    let (number, rest) = digits(text.strip_prefix('.')?);
    (!number.is_empty()).then_some((number, rest))
}
