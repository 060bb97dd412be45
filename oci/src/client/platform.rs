//! Which entry of an index a node runs. Pure.
//!
//! Names are read as containerd reads them: in any case, and by the names of compilers and kernels too.

use std::fmt;
use std::str::FromStr;

use super::manifest::{Entry, Index, Platform};

/// A text that is no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no platform: write linux/amd64 or linux/arm64/v8")]
pub struct PlatformError(String);

impl Platform {
    /// The one whose programs processors of this platform run as well: containerd takes its images where there are no others.
    #[must_use]
    pub fn predecessor(&self) -> Option<Self> {
        let (architecture, variant) = match self.common_names().1.as_str() {
            "amd64" => ("386", None),
            "arm64" => ("arm", Some("v8")),
            _ => return None,
        };
        Some(Self {
            os: self.os.clone(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }

    /// Whether this platform can run what was built for `built`, and how well it fits: the higher, the better.
    fn runs(&self, built: &Self) -> Option<u32> {
        if self.common_names() != built.common_names() {
            return None;
        }
        match (self.level(), built.level()) {
            // A later variant runs what was built for an earlier one.
            (Some(mine), Some(theirs)) => (theirs <= mine).then_some(theirs),
            _ => (self.variant == built.variant).then_some(0),
        }
    }

    /// The variant as a number, with the one that is meant where none is written. None for architectures without an order.
    fn level(&self) -> Option<u32> {
        let implied = match self.common_names().1.as_str() {
            "amd64" => 1,
            "arm" if self.architecture.eq_ignore_ascii_case("armel") => 6,
            "arm" => 7,
            "arm64" => 8,
            _ => return None,
        };
        match &self.variant {
            None => Some(implied),
            Some(variant) => variant.trim_start_matches(['v', 'V']).parse().ok(),
        }
    }

    /// Operating system and architecture in the words of Go.
    fn common_names(&self) -> (String, String) {
        let mut os = self.os.to_ascii_lowercase();
        if os == "macos" {
            "darwin".clone_into(&mut os);
        }
        let architecture = self.architecture.to_ascii_lowercase();
        let common = match architecture.as_str() {
            "x86_64" | "x86-64" => "amd64",
            "i386" => "386",
            "aarch64" => "arm64",
            "armhf" | "armel" => "arm",
            other => other,
        };
        (os, common.to_owned())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts.as_slice() {
            [os, architecture] => (*os, *architecture, None),
            [os, architecture, variant] => (*os, *architecture, Some(*variant)),
            _ => return Err(PlatformError(text.chars().take(80).collect())),
        };
        if parts.iter().any(|part| part.is_empty()) {
            return Err(PlatformError(text.chars().take(80).collect()));
        }
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }
}

impl Index {
    /// The platforms that it says it has, without attestations, sorted.
    #[must_use]
    pub fn platforms(&self) -> Vec<Platform> {
        let mut platforms: Vec<Platform> = self
            .images()
            .filter_map(|entry| entry.platform.clone())
            .collect();
        platforms.sort();
        platforms.dedup();
        platforms
    }

    /// The entry that `wanted` runs; among equals the first one, as runtimes choose.
    #[must_use]
    pub fn entry_for(&self, wanted: &Platform) -> Option<&Entry> {
        let fitting = self.images().filter_map(|entry| {
            let fit = wanted.runs(entry.platform.as_ref()?)?;
            Some((fit, entry))
        });
        // `max_by_key` would take the last one.
        let best = fitting.reduce(|best, other| if other.0 > best.0 { other } else { best });
        best.map(|(_, entry)| entry)
    }

    /// Entries whose platform only their own configuration tells.
    pub fn unnamed(&self) -> impl Iterator<Item = &Entry> {
        self.images().filter(|entry| entry.platform.is_none())
    }

    /// Entries that are no attestations.
    pub fn images(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| !entry.is_attestation)
    }
}

/// Whether a node of platform `node` can run an image that was built for `built`.
#[must_use]
pub fn can_run(node: &Platform, built: &Platform) -> bool {
    node.runs(built).is_some()
}

/// Whether some container runtime takes an image that was built for `built` on some node of platform `node`. Variants do not
/// count: a node finds out its own, and runtimes differ in what they make of them.
#[must_use]
pub fn may_run(node: &Platform, built: &Platform) -> bool {
    let names = built.common_names();
    let older = node.predecessor();
    node.common_names() == names || older.is_some_and(|older| older.common_names() == names)
}

#[cfg(test)]
mod tests;
