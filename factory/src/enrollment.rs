//! images.yaml, the source of truth: which images are enrolled, and how. Pure.

mod entry;

use std::collections::{BTreeMap, BTreeSet};

use drop_oci::Reference;
use regex::Regex;

use crate::delay::Delay;
use crate::problem::Problem;
use crate::yaml::{self, Place};

use entry::Entry;

/// How the newest of several tags is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The tag that sorts last.
    #[default]
    Lexical,
    /// The highest semantic version.
    SemVer,
    /// The image built last.
    NewestBuild,
    /// What one tag names now.
    Digest,
}

impl Strategy {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lexical => "Lexical",
            Self::SemVer => "SemVer",
            Self::NewestBuild => "NewestBuild",
            Self::Digest => "Digest",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Lexical, Self::SemVer, Self::NewestBuild, Self::Digest]
            .into_iter()
            .find(|strategy| strategy.as_str() == word)
    }
}

/// An entry of images.yaml without mistakes.
#[derive(Clone, Debug)]
pub struct Enrollment {
    /// Its name, unique.
    pub name: String,
    /// Where it begins.
    pub place: Place,
    /// The registry host.
    pub registry: String,
    /// The repository on it, as written.
    pub repository: String,
    /// Host and repository in canonical form.
    pub image: Reference,
    /// Where it is built from. Set for managed images only.
    pub source: Option<Source>,
    /// The delay as written.
    pub rebuild_delay: String,
    /// How long a changed base may wait.
    pub delay: Delay,
    /// Whether the entry says so itself.
    pub has_own_delay: bool,
    /// Whether a changed base leads to a rebuild at all.
    pub auto_rebuild: bool,
    /// Which tags count, if the entry says so.
    pub allow_tags: Option<String>,
    /// Which of them is the newest, if the entry says so.
    pub strategy: Option<Strategy>,
}

impl Enrollment {
    /// Whether it stands for an image that others are built on: the same repository, and a tag that counts.
    #[must_use]
    pub fn tracks(&self, base: &Reference) -> bool {
        let matches = |pattern: &str| {
            let tag = base.tag().unwrap_or_default();
            Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(tag))
        };
        self.source.is_none()
            && base.repository_name() == self.image.repository_name()
            && self.allow_tags.as_deref().is_none_or(matches)
    }
}

/// Where a managed image is built from.
#[derive(Clone, Debug)]
pub struct Source {
    /// What the entry says, in its order: provider, repo, branch, dockerfile, workflow.
    pub fields: Vec<(&'static str, String)>,
    /// The Dockerfile below the root, and where the entry says so.
    pub dockerfile: Option<(String, Place)>,
}

/// What images.yaml says.
#[derive(Debug, Default)]
pub struct Images {
    /// The file, for messages.
    pub file: String,
    /// Entries without mistakes, in order.
    pub entries: Vec<Enrollment>,
    /// Names of entries with mistakes: what is known of these images stays as it is.
    pub broken: BTreeSet<String>,
    /// Whether an entry has no name that can be read. Then any image may be meant, and none is taken for removed.
    pub has_nameless: bool,
    /// Whether nothing could be read at all.
    pub is_unreadable: bool,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Reads images.yaml. `None` is a file without entries.
#[must_use]
pub fn parse(file: &str, text: &str) -> Option<Images> {
    let mut images = Images {
        file: file.to_owned(),
        ..Images::default()
    };
    let document = match yaml::parse(text) {
        Ok(document) => document?,
        Err(mistake) => {
            images.is_unreadable = true;
            images.problems.push(Problem::mistake(file, &mistake));
            return Some(images);
        }
    };
    let Some(items) = document.as_list() else {
        images.is_unreadable = true;
        let message = format!(
            "expected a list of images (- name: ...), found {}",
            document.kind()
        );
        images
            .problems
            .push(Problem::at(file, document.place, message));
        return Some(images);
    };
    if items.is_empty() {
        return None;
    }
    let mut firsts: BTreeMap<&str, Place> = BTreeMap::new();
    for item in items {
        let mut entry = Entry {
            images: &mut images,
            failed: false,
        };
        let Some((name, place)) = entry.name(item) else {
            continue;
        };
        if let Some(first) = firsts.get(name) {
            let message = format!(
                "{name} is enrolled already at line {}: give one of them another name or remove it",
                first.line
            );
            entry.problem(place, message);
            images.broken.insert(name.to_owned());
            continue;
        }
        firsts.insert(name, place);
        let Some(map) = item.as_map() else { continue };
        let enrollment = entry.enrollment(name, item.place, map);
        let failed = entry.failed;
        match enrollment {
            Some(enrollment) if !failed => images.entries.push(enrollment),
            _ => {
                images.broken.insert(name.to_owned());
            }
        }
    }
    let broken = &images.broken;
    images.entries.retain(|entry| !broken.contains(&entry.name));
    Some(images)
}

#[cfg(test)]
mod tests;
