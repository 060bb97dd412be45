//! Which entry of an index a node runs. Pure.

use std::fmt;
use std::str::FromStr;

use super::manifest::{Entry, Index, Platform};

/// A text that is no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no platform: write linux/amd64 or linux/arm64/v8")]
pub struct PlatformError(String);

impl Platform {
    /// Whether this platform can run what was built for `built`, and how well it fits: the higher, the better.
    fn runs(&self, built: &Self) -> Option<u32> {
        if self.os != built.os || self.architecture != built.architecture {
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
        let implied = match self.architecture.as_str() {
            "amd64" => 1,
            "arm" => 7,
            "arm64" => 8,
            _ => return None,
        };
        match &self.variant {
            None => Some(implied),
            Some(variant) => variant.strip_prefix('v')?.parse().ok(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::manifest::{Descriptor, Texts};

    fn index(platforms: &[Option<&str>]) -> Index {
        let entries = platforms.iter().enumerate().map(|(n, platform)| Entry {
            descriptor: Descriptor {
                digest: n.to_string(),
                ..Descriptor::default()
            },
            platform: platform.map(|text| text.parse().unwrap()),
            is_attestation: *platform == Some("unknown/unknown"),
        });
        Index {
            entries: entries.collect(),
            annotations: Texts::new(),
        }
    }

    fn chosen(platforms: &[Option<&str>], wanted: &str) -> Option<usize> {
        let index = index(platforms);
        let entry = index.entry_for(&wanted.parse().unwrap())?;
        entry.descriptor.digest.parse().ok()
    }

    #[test]
    fn the_best_variant_that_a_node_runs_is_chosen() {
        let arm = [
            Some("linux/arm/v5"),
            Some("linux/arm/v6"),
            Some("linux/arm/v7"),
        ];
        assert_eq!(chosen(&arm, "linux/arm/v6"), Some(1));
        assert_eq!(chosen(&arm, "linux/arm"), Some(2));
        assert_eq!(chosen(&arm, "linux/arm64"), None);
        assert_eq!(chosen(&[Some("linux/arm64/v8")], "linux/arm64"), Some(0));
        assert_eq!(chosen(&[Some("linux/arm64")], "linux/arm64/v8"), Some(0));
        assert_eq!(
            chosen(
                &[Some("linux/arm64/v9"), Some("linux/arm64")],
                "linux/arm64/v8"
            ),
            Some(1)
        );
        assert_eq!(chosen(&[Some("linux/amd64/v3")], "linux/amd64"), None);
        assert_eq!(
            chosen(
                &[Some("linux/amd64"), Some("linux/amd64/v3")],
                "linux/amd64/v3"
            ),
            Some(1)
        );
        assert_eq!(
            chosen(&[Some("windows/amd64"), Some("linux/s390x")], "linux/s390x"),
            Some(1)
        );
        assert_eq!(
            chosen(&[Some("linux/amd64"), Some("linux/amd64")], "linux/amd64"),
            Some(0)
        );
    }

    #[test]
    fn an_attestation_is_never_chosen_even_as_the_first_entry() {
        let entries = [Some("unknown/unknown"), None, Some("linux/amd64")];
        assert_eq!(chosen(&entries, "linux/amd64"), Some(2));
        let index = index(&entries);
        assert_eq!(index.platforms(), ["linux/amd64".parse().unwrap()]);
        assert_eq!(index.unnamed().count(), 1);
    }

    #[test]
    fn a_platform_reads_back_from_what_it_prints() {
        for text in ["linux/amd64", "linux/arm64/v8"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        for text in ["", "linux", "linux/", "/amd64", "a/b/c/d"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
