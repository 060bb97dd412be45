//! Version constraints as Masterminds/semver v3 (`NewConstraint`, `Check`) reads them: `^1.2`, `>=1.2 <2 || 3.x`, `1.2 - 1.4`.
//!
//! A prerelease matches only where its group of constraints names a prerelease itself.

use std::str::FromStr;

use super::version::{self, Stage, Version};

/// Longest text that is read.
const MAX_CHARS: usize = 512;

/// Most alternatives.
const MAX_GROUPS: usize = 32;

/// Alternatives, of each of which all parts must hold.
#[derive(Clone, Debug)]
pub struct Constraint {
    groups: Vec<Vec<Part>>,
}

/// A text is no constraint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version constraint such as ^1.2, ~1.2.3 or >=1.2 <2")]
pub struct ConstraintError(String);

#[derive(Clone, Debug)]
struct Part {
    operator: Operator,
    given: Given,
    bound: Version,
}

#[derive(Clone, Copy, Debug)]
enum Operator {
    Equal,
    NotEqual,
    Greater,
    Less,
    GreaterEqual,
    LessEqual,
    Tilde,
    Caret,
}

/// Down to where a bound is given: `*`, `1` or `1.x`, `1.2` or `1.2.x`, `1.2.3`. The rest is zero in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    Nothing,
    Major,
    Minor,
    Patch,
}

/// In the order in which they are looked for: none is hidden behind the beginning of another.
const OPERATORS: [(&str, Operator); 11] = [
    ("!=", Operator::NotEqual),
    (">=", Operator::GreaterEqual),
    ("=>", Operator::GreaterEqual),
    ("<=", Operator::LessEqual),
    ("=<", Operator::LessEqual),
    ("~>", Operator::Tilde),
    ("=", Operator::Equal),
    (">", Operator::Greater),
    ("<", Operator::Less),
    ("~", Operator::Tilde),
    ("^", Operator::Caret),
];

impl Constraint {
    /// Does the version satisfy it?
    #[must_use]
    pub fn matches(&self, version: &Version) -> bool {
        self.groups.iter().any(|parts| {
            let prereleases = parts.iter().any(|part| part.bound.is_prerelease());
            (prereleases || !version.is_prerelease())
                && parts.iter().all(|part| part.matches(version))
        })
    }
}

impl FromStr for Constraint {
    type Err = ConstraintError;

    fn from_str(text: &str) -> Result<Self, ConstraintError> {
        let error = || ConstraintError(text.chars().take(80).collect());
        if text.len() > MAX_CHARS {
            return Err(error());
        }
        let groups: Vec<_> = text.split("||").collect();
        if groups.len() > MAX_GROUPS {
            return Err(error());
        }
        let groups = groups.into_iter().map(group).collect::<Option<_>>();
        groups.map(|groups| Self { groups }).ok_or_else(error)
    }
}

/// Reads parts with blanks or one comma between them.
fn group(text: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = text.trim_ascii_start();
    // What may come next: a range (`1 - 2`) takes the blanks before it, so another part must be parted from it by a comma.
    let (mut may_be_part, mut may_be_range) = (true, true);
    loop {
        let (operator, after) = operator(rest);
        let (low, after) = bound(after.trim_ascii_start())?;
        let blank = after.trim_ascii_start();
        let high = blank.strip_prefix('-').filter(|high| {
            blank.len() < after.len() && high.starts_with(|c: char| c.is_ascii_whitespace())
        });
        if let Some(high) = high {
            let (high, after) = bound(high.trim_ascii_start())?;
            if operator.is_some() || !may_be_range {
                return None;
            }
            parts.push(low.part(Operator::GreaterEqual));
            parts.push(high.part(Operator::LessEqual));
            rest = after.trim_ascii_start();
            (may_be_part, may_be_range) = (true, true);
        } else {
            if !may_be_part {
                return None;
            }
            parts.push(low.part(operator.unwrap_or(Operator::Equal)));
            rest = blank;
            (may_be_part, may_be_range) = (blank.len() < after.len(), false);
        }
        if rest.is_empty() {
            return Some(parts);
        }
        if let Some(after) = rest.strip_prefix(',') {
            rest = after.trim_ascii_start();
            (may_be_part, may_be_range) = (true, true);
        } else if !may_be_part {
            return None;
        }
    }
}

fn operator(text: &str) -> (Option<Operator>, &str) {
    OPERATORS
        .iter()
        .find_map(|(sign, operator)| Some((Some(*operator), text.strip_prefix(sign)?)))
        .unwrap_or((None, text))
}

/// A version of which parts may be missing or `x`, `X`, `*`.
struct Bound {
    given: Given,
    version: Version,
}

impl Bound {
    fn part(self, operator: Operator) -> Part {
        Part {
            operator,
            given: self.given,
            bound: self.version,
        }
    }
}

/// Reads a bound from the beginning of a text.
fn bound(text: &str) -> Option<(Bound, &str)> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let (major, mut rest) = segment(text)?;
    let mut next = || -> Option<&str> {
        let (segment, after) = segment(rest.strip_prefix('.')?)?;
        rest = after;
        Some(segment)
    };
    let (minor, patch) = match next() {
        Some(minor) => (minor, next().unwrap_or("x")),
        None => ("x", "x"),
    };
    let end = rest
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '+')))
        .unwrap_or(rest.len());
    let (stage, rest) = rest.split_at(end);
    let stage: Stage = version::stage(stage)?;
    let (given, [major, minor, patch]) = match (is_any(major), is_any(minor), is_any(patch)) {
        (true, _, _) => (Given::Nothing, ["0"; 3]),
        (_, true, _) => (Given::Major, [major, "0", "0"]),
        (_, _, true) => (Given::Minor, [major, minor, "0"]),
        _ => (Given::Patch, [major, minor, patch]),
    };
    let version = Version {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        patch: patch.parse().ok()?,
        stage,
    };
    Some((Bound { given, version }, rest))
}

fn segment(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, 'x' | 'X' | '*')));
    let (segment, rest) = text.split_at(end.unwrap_or(text.len()));
    (!segment.is_empty()).then_some((segment, rest))
}

fn is_any(segment: &str) -> bool {
    matches!(segment, "x" | "X" | "*")
}

impl Part {
    fn matches(&self, version: &Version) -> bool {
        let bound = &self.bound;
        match self.operator {
            Operator::Equal if self.given == Given::Patch => version == bound,
            Operator::Equal | Operator::Tilde => self.tilde(version),
            Operator::NotEqual => self.not_equal(version),
            Operator::Greater => match self.given {
                Given::Major => version.major > bound.major,
                Given::Minor => line(version) > line(bound),
                Given::Nothing | Given::Patch => version > bound,
            },
            Operator::Less => version < bound,
            Operator::GreaterEqual => version >= bound,
            Operator::LessEqual => match self.given {
                Given::Major => version.major <= bound.major,
                Given::Nothing | Given::Minor => line(version) <= line(bound),
                Given::Patch => version <= bound,
            },
            Operator::Caret => self.caret(version),
        }
    }

    fn not_equal(&self, version: &Version) -> bool {
        let bound = &self.bound;
        match self.given {
            Given::Major => version.major != bound.major,
            Given::Minor => line(version) != line(bound) || version.stage != bound.stage,
            Given::Nothing | Given::Patch => version != bound,
        }
    }

    /// The same minor version, or the same major version where no more is given.
    fn tilde(&self, version: &Version) -> bool {
        let bound = &self.bound;
        let is_zero = (bound.major, bound.minor, bound.patch) == (0, 0, 0);
        let is_any = is_zero && matches!(self.given, Given::Nothing | Given::Patch);
        version >= bound
            && (is_any
                || version.major == bound.major
                    && (self.given == Given::Major || version.minor == bound.minor))
    }

    /// The same up to the first number that is not zero.
    fn caret(&self, version: &Version) -> bool {
        let bound = &self.bound;
        if version < bound || version.major != bound.major {
            return false;
        }
        if bound.major > 0 || self.given == Given::Major {
            return true;
        }
        version.minor == bound.minor
            && (bound.minor > 0 || self.given == Given::Minor || version.patch == bound.patch)
    }
}

/// Major and minor version.
fn line(version: &Version) -> (u64, u64) {
    (version.major, version.minor)
}
