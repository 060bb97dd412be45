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

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn names_of_other_makers_mean_the_same() {
        for (node, built) in [
            ("linux/amd64", "Linux/x86_64"),
            ("linux/386", "linux/i386"),
            ("linux/arm64", "linux/aarch64"),
            ("linux/arm64", "linux/arm64/8"),
            ("linux/arm/v7", "linux/armhf"),
            ("linux/arm/v6", "linux/armel"),
            ("darwin/arm64", "macOS/arm64"),
        ] {
            assert!(can_run(&platform(node), &platform(built)), "{built}");
        }
        assert!(!can_run(
            &platform("linux/arm/v6"),
            &platform("linux/armhf")
        ));
    }

    /// What containerd's `platforms.Only` matches, in any of its versions, or the library of CRI-O, for nodes whose processors
    /// are as good as they come.
    #[test]
    fn no_image_is_taken_for_foreign_that_some_runtime_takes() {
        let table: [(&str, &[&str]); 8] = [
            (
                "linux/amd64",
                &[
                    "linux/amd64",
                    "linux/amd64/v1",
                    "linux/amd64/v2",
                    "linux/amd64/v4",
                    "linux/x86_64",
                    "linux/386",
                    "linux/i386",
                ],
            ),
            ("linux/amd64/v3", &["linux/amd64/v2", "linux/386"]),
            (
                "linux/arm64",
                &[
                    "linux/arm64",
                    "linux/arm64/v8",
                    "linux/arm64/v8.5",
                    "linux/arm64/v9.1",
                    "linux/aarch64",
                    "linux/arm",
                    "linux/arm/v8",
                    "linux/arm/v7",
                    "linux/arm/v6",
                    "linux/arm/v5",
                    "linux/armhf",
                    "linux/armel",
                ],
            ),
            (
                "linux/arm",
                &["linux/arm", "linux/arm/v8", "linux/arm/v7", "linux/arm/v5"],
            ),
            // CRI-O takes an image without a variant for any.
            ("linux/arm/v5", &["linux/arm"]),
            ("linux/ppc64le", &["linux/ppc64le", "linux/ppc64le/power9"]),
            ("linux/riscv64", &["linux/riscv64/rva23u64"]),
            ("windows/amd64", &["windows/amd64"]),
        ];
        for (node, images) in table {
            for built in images {
                let (node, built) = (platform(node), platform(built));
                assert!(may_run(&node, &built), "{node} {built}");
            }
        }
        for (node, built) in [
            ("linux/amd64", "linux/arm64"),
            ("linux/amd64", "windows/amd64"),
            ("linux/amd64", "linux/arm"),
            ("linux/386", "linux/amd64"),
            ("linux/arm64", "linux/amd64"),
            ("linux/arm64", "linux/386"),
            ("linux/arm", "linux/arm64"),
            ("linux/ppc64le", "linux/ppc64"),
            ("linux/s390x", "linux/amd64"),
        ] {
            assert!(
                !may_run(&platform(node), &platform(built)),
                "{node} {built}"
            );
        }
    }

    #[test]
    fn processors_run_what_their_predecessors_ran() {
        let older = |text: &str| platform(text).predecessor().map(|p| p.to_string());
        assert_eq!(older("linux/amd64").as_deref(), Some("linux/386"));
        assert_eq!(older("linux/arm64").as_deref(), Some("linux/arm/v8"));
        assert_eq!(older("linux/s390x"), None);
        for built in [
            "linux/arm/v8",
            "linux/arm/v7",
            "linux/arm/v6",
            "linux/arm/v5",
        ] {
            let older = platform("linux/arm64").predecessor().unwrap();
            assert!(can_run(&older, &platform(built)), "{built}");
        }
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
