//! Whether the state files are what the factory can go on from. Pure.

use std::collections::BTreeSet;

use drop_oci::Reference;
use jiff::Timestamp;
use regex::Regex;

use crate::enrollment::{Images, Strategy};
use crate::problem::Problem;
use crate::state::{File, Files, Kind, State};
use crate::yaml::{Map, Node};

/// Keys that hold a moment.
const MOMENTS: [&str; 7] = [
    "enrolledAt",
    "lastDiscovery",
    "firstDiscovered",
    "lastChecked",
    "lastUpdated",
    "lastBuilt",
    "rebuildEligibleAt",
];

/// Keys that hold a digest.
const DIGESTS: [&str; 3] = ["currentDigest", "previousDigest", "digest"];

const STATUSES: [&str; 4] = ["pending", "success", "failed", "external"];

/// What is wrong in state files that are YAML. Those that are not are said where they are read.
#[must_use]
pub fn check(images: &Images, state: &State) -> Vec<Problem> {
    let mut found = Vec::new();
    for kind in [Kind::Image, Kind::Base] {
        for (name, file) in state.live(kind) {
            if let Ok(map) = &file.map {
                let mut checked = Checked {
                    file,
                    map,
                    found: &mut found,
                };
                checked.all(name);
                match kind {
                    Kind::Image => checked.image(&state.bases),
                    Kind::Base => checked.base(images, &state.images),
                }
            }
        }
    }
    found
}

struct Checked<'a> {
    file: &'a File,
    map: &'a Map,
    found: &'a mut Vec<Problem>,
}

impl Checked<'_> {
    fn problem(&mut self, node: &Node, message: String) {
        let problem = Problem::at(&self.file.label, node.place, message);
        self.found.push(problem);
    }

    /// A value that is there and not null.
    fn value(&self, key: &str) -> Option<&'_ Node> {
        self.map.get(key).filter(|node| !node.is_null())
    }

    /// Checks a key's text.
    fn text(&mut self, key: &str, check: impl Fn(&str) -> Option<String>) {
        let Some(node) = self.value(key).cloned() else {
            return;
        };
        let message = match node.as_text() {
            Some(text) => check(text),
            None => Some(format!("{key} must be a word, not {}", node.kind())),
        };
        if let Some(message) = message {
            self.problem(&node, message);
        }
    }

    fn all(&mut self, name: &str) {
        self.text("name", |text| {
            (text != name).then(|| format!("name is {text:?} in the file of {name}: rename one"))
        });
        for key in MOMENTS {
            self.text(key, |text| {
                text.parse::<Timestamp>()
                    .err()
                    .map(|_| format!("{key} is no RFC 3339 time such as 2026-01-31T12:00:00Z"))
            });
        }
        for key in DIGESTS {
            self.text(key, |text| {
                (!is_digest(text))
                    .then(|| format!("{key} is no digest: sha256: and 64 hexadecimal digits"))
            });
        }
        self.text("allowTags", |text| {
            Regex::new(text)
                .err()
                .map(|_| "allowTags is no regular expression".to_owned())
        });
        self.text("imageSelectionStrategy", |text| {
            Strategy::parse(text).is_none().then(|| {
                format!("imageSelectionStrategy {text:?} is unknown: use Lexical, SemVer, NewestBuild or Digest")
            })
        });
        self.text("discoveryStatus", |text| {
            (!STATUSES.contains(&text)).then(|| {
                format!(
                    "discoveryStatus {text:?} is unknown: it is one of {}",
                    STATUSES.join(", ")
                )
            })
        });
    }

    /// The items of a list of names.
    fn names(&mut self, key: &str) -> Vec<Node> {
        let Some(node) = self.value(key).cloned() else {
            return Vec::new();
        };
        let Some(items) = node.as_list() else {
            self.problem(&node, format!("{key} must be a list, not {}", node.kind()));
            return Vec::new();
        };
        items.to_vec()
    }

    fn image(&mut self, bases: &Files) {
        for item in self.names("baseImages") {
            let name = item.as_text().unwrap_or_default();
            if !bases.contains_key(name) {
                self.problem(
                    &item,
                    format!("base image {name:?} has no state: run image-factory sync"),
                );
            }
        }
    }

    fn base(&mut self, images: &Images, files: &Files) {
        self.text("fullImage", |text| {
            text.parse::<Reference>()
                .err()
                .map(|error| error.to_string())
        });
        let enrolled: BTreeSet<&str> = images
            .entries
            .iter()
            .map(|entry| entry.name.as_str())
            .chain(images.broken.iter().map(String::as_str))
            .collect();
        for item in self.names("dependentImages") {
            let name = item.as_text().unwrap_or_default();
            let is_known = enrolled.contains(name) || files.contains_key(name);
            if !is_known {
                self.problem(
                    &item,
                    format!("dependent image {name:?} is not enrolled: run image-factory sync"),
                );
            }
        }
    }
}

fn is_digest(text: &str) -> bool {
    let is_hex = |length: usize, hex: &str| {
        hex.len() == length && hex.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
    };
    match text.split_once(':') {
        Some(("sha256", hex)) => is_hex(64, hex),
        Some(("sha512", hex)) => is_hex(128, hex),
        _ => false,
    }
}
