//! Which tags of a repository to take, and in which order.
//!
//! Pure. Regular expressions are those without look-around, so that no pattern that a user writes can take longer than its tag.

use std::collections::BTreeSet;
use std::str::FromStr;

use regex::Regex;

mod constraint;
mod version;

pub use constraint::{Constraint, ConstraintError};
pub use version::{Version, VersionError};

/// What cosign keeps beside images: signatures, attestations and bills of materials, as tags of the same repository.
pub const COSIGN_TAGS: &str = r"^sha256-[0-9a-f]{64}\.(sig|att|sbom)$";

/// What a user writes. Nothing written takes everything, newest first.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Regular expression that a tag must match.
    pub include: Option<String>,
    /// Regular expression that no tag may match.
    pub exclude: Option<String>,
    /// Regular expression whose first group is the version within a tag.
    pub version_pattern: Option<String>,
    /// Constraint that the version must satisfy. Tags without version do not.
    pub constraint: Option<String>,
    /// Order of the result.
    pub order: Order,
    /// Most tags to take, after ordering.
    pub limit: Option<usize>,
}

/// Order of the selected tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Highest version first; then the tags without version, the last one listed first.
    #[default]
    Newest,
    /// Lowest version first; then the tags without version, as listed.
    Oldest,
    /// By the text.
    Alphabetical,
}

/// Rules, ready to be used.
#[derive(Clone, Debug)]
pub struct Selection {
    include: Option<Regex>,
    exclude: Option<Regex>,
    version_pattern: Option<Regex>,
    constraint: Option<Constraint>,
    order: Order,
    limit: Option<usize>,
}

/// Why rules cannot be used. `field` is the field of [`Rules`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// Not a regular expression.
    #[error("{field} is not a regular expression: {reason}")]
    Pattern {
        /// Which one.
        field: &'static str,
        /// What is wrong, with the place where it is.
        reason: String,
    },
    /// No group in the version pattern.
    #[error(
        "version pattern has no group: write parentheses around the version, as in ^release-(.+)$"
    )]
    NoGroup,
    /// Not a constraint.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
}

/// A tag with what is known of it.
struct Candidate<'a> {
    tag: &'a str,
    version: Option<Version>,
    /// Its place in the list.
    place: usize,
}

impl TryFrom<&Rules> for Selection {
    type Error = SelectError;

    fn try_from(rules: &Rules) -> Result<Self, SelectError> {
        let version_pattern = pattern("version pattern", rules.version_pattern.as_deref())?;
        if version_pattern
            .as_ref()
            .is_some_and(|pattern| pattern.captures_len() < 2)
        {
            return Err(SelectError::NoGroup);
        }
        let constraint = rules.constraint.as_deref();
        Ok(Self {
            include: pattern("include", rules.include.as_deref())?,
            exclude: pattern("exclude", rules.exclude.as_deref())?,
            version_pattern,
            constraint: constraint.map(Constraint::from_str).transpose()?,
            order: rules.order,
            limit: rules.limit,
        })
    }
}

impl Selection {
    /// The tags that pass, each once, in order.
    #[must_use]
    pub fn select<'a>(&self, tags: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let mut seen = BTreeSet::new();
        let mut candidates: Vec<_> = tags
            .into_iter()
            .enumerate()
            .filter(|(_, tag)| self.is_included(tag) && seen.insert(*tag))
            .map(|(place, tag)| Candidate {
                tag,
                version: self.version(tag),
                place,
            })
            .filter(|candidate| self.satisfies(candidate.version.as_ref()))
            .collect();
        self.sort(&mut candidates);
        let limit = self.limit.unwrap_or(usize::MAX);
        candidates.into_iter().take(limit).map(|c| c.tag).collect()
    }

    /// The version that a tag names: what the version pattern finds in it, else the whole tag, else a version within it.
    #[must_use]
    pub fn version(&self, tag: &str) -> Option<Version> {
        let text = match &self.version_pattern {
            Some(pattern) => pattern.captures(tag)?.get(1)?.as_str(),
            None => tag,
        };
        text.parse().ok().or_else(|| Version::embedded(text))
    }

    fn is_included(&self, tag: &str) -> bool {
        self.include
            .as_ref()
            .is_none_or(|regex| regex.is_match(tag))
            && !self
                .exclude
                .as_ref()
                .is_some_and(|regex| regex.is_match(tag))
    }

    fn satisfies(&self, version: Option<&Version>) -> bool {
        self.constraint
            .as_ref()
            .is_none_or(|constraint| version.is_some_and(|version| constraint.matches(version)))
    }

    /// Tags of the same version (`1.0`, `v1.0.0`) are ordered by their text, so that no answer of a registry moves them.
    fn sort(&self, candidates: &mut [Candidate<'_>]) {
        match self.order {
            Order::Alphabetical => candidates.sort_by_key(|c| c.tag),
            Order::Newest => candidates.sort_by(|a, b| match (&a.version, &b.version) {
                (Some(left), Some(right)) => right.cmp(left).then(a.tag.cmp(b.tag)),
                (None, None) => b.place.cmp(&a.place),
                (left, right) => left.is_none().cmp(&right.is_none()),
            }),
            Order::Oldest => candidates.sort_by(|a, b| match (&a.version, &b.version) {
                (Some(left), Some(right)) => left.cmp(right).then(a.tag.cmp(b.tag)),
                (None, None) => a.place.cmp(&b.place),
                (left, right) => left.is_none().cmp(&right.is_none()),
            }),
        }
    }
}

fn pattern(field: &'static str, text: Option<&str>) -> Result<Option<Regex>, SelectError> {
    let text = text.filter(|text| !text.is_empty());
    text.map(Regex::new).transpose().map_err(|error| {
        // The parser draws the pattern over several lines; its last line is the sentence.
        let reason = error.to_string();
        let sentence = reason.lines().last().unwrap_or(&reason);
        let sentence = sentence.strip_prefix("error: ").unwrap_or(sentence);
        SelectError::Pattern {
            field,
            reason: sentence.to_owned(),
        }
    })
}

#[cfg(test)]
mod tests;
