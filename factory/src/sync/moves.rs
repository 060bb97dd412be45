//! Which images registries are asked about, and what their answers change.

use std::collections::BTreeMap;

use drop_oci::Reference;
use jiff::Timestamp;

use crate::enrollment::{Enrollment, Images};
use crate::naming::only_tag;
use crate::problem::Problem;
use crate::state::{Kind, Record, base_image, stamp};
use crate::yaml::{Map, Node, Value};

use super::Merged;
use super::image::ALL_TAGS;

/// Moves that a state file remembers.
pub const MAX_MOVES: usize = 10;

/// Tag of a managed image whose version is not known.
const NEWEST: &str = "latest";

/// A state that is about one tag of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The state's kind.
    pub kind: Kind,
    /// The state's name.
    pub name: String,
    /// The image.
    pub image: Reference,
}

/// What was learned about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The tag names this digest.
    Digest(String),
    /// There is no such image.
    NotFound {
        /// The registry's words.
        message: String,
    },
    /// The registry does not say; asking again may help only after something was done.
    Refused {
        /// One word that stays the same as long as the cause does.
        class: &'static str,
        /// The registry's words.
        message: String,
    },
    /// The whole registry could not be asked. It is said once for all its images, elsewhere.
    Silent,
}

/// All that registries are asked about. What has no single tag, and what is pinned, is not.
#[must_use]
pub fn asked(merged: &Merged, images: &Images) -> Vec<Asked> {
    let bases = merged.bases.values().filter_map(|record| {
        let image = base_image(&record.new)?;
        (image.digest().is_none()).then(|| asked_of(record, image))
    });
    let enrolled = images.entries.iter().filter_map(|entry| {
        let record = merged.images.get(&entry.name)?;
        let tag = tag_of(entry, record)?;
        let image = Reference::from_parts(&entry.image.repository_name(), Some(&tag), None);
        Some(asked_of(record, image.ok()?))
    });
    bases.chain(enrolled).collect()
}

fn asked_of(record: &Record, image: Reference) -> Asked {
    Asked {
        kind: record.kind,
        name: record.name.clone(),
        image,
    }
}

fn tag_of(entry: &Enrollment, record: &Record) -> Option<String> {
    if entry.source.is_some() {
        let version = record.new.text("currentVersion").unwrap_or(NEWEST);
        return Some(version.to_owned());
    }
    only_tag(entry.allow_tags.as_deref().unwrap_or(ALL_TAGS))
}

/// Takes the answers over. Whatever is not answered keeps its values; why is said.
pub fn record(
    merged: &mut Merged,
    now: Timestamp,
    asked: &[Asked],
    answers: &BTreeMap<Reference, Answer>,
    label: impl Fn(Kind, &str) -> String,
) {
    let mut problems = Vec::new();
    for asked in asked {
        let records = match asked.kind {
            Kind::Image => &mut merged.images,
            Kind::Base => &mut merged.bases,
        };
        let (Some(record), Some(answer)) =
            (records.get_mut(&asked.name), answers.get(&asked.image))
        else {
            continue;
        };
        let (class, message) = match answer {
            Answer::Digest(digest) => {
                set_digest(record, digest, now);
                continue;
            }
            Answer::Silent => continue,
            // What is not built yet is not there yet.
            Answer::NotFound { .. } if is_unpublished(record) => continue,
            Answer::NotFound { message } => ("not_found", message),
            Answer::Refused { class, message } => (*class, message),
        };
        record.set("resolveError", Node::text(class));
        problems.push(Problem::file(
            &label(asked.kind, &asked.name),
            message.clone(),
        ));
    }
    merged.problems.extend(problems);
}

fn is_unpublished(record: &Record) -> bool {
    let digest = record.new.text("currentDigest");
    let is_managed = record.new.text("discoveryStatus") != Some("external");
    record.kind == Kind::Image
        && is_managed
        && (digest.is_none() || digest == record.new.text("externalDigest"))
}

fn set_digest(record: &mut Record, digest: &str, now: Timestamp) {
    record.new.remove("resolveError");
    record.set("lastChecked", stamp(now));
    let before = record.new.text("currentDigest").map(str::to_owned);
    if before.as_deref() == Some(digest) {
        return;
    }
    record.set("currentDigest", Node::text(digest));
    // The first digest is no move.
    let Some(before) = before else { return };
    record.set("previousDigest", Node::text(&before));
    record.set("lastUpdated", stamp(now));
    let mut entry = Map::default();
    entry.push("at", stamp(now));
    entry.push("digest", Node::text(digest));
    entry.push("previousDigest", Node::text(&before));
    let history = record.new.get("updateHistory").and_then(Node::as_list);
    let mut history = history.unwrap_or_default().to_vec();
    history.push(entry.into());
    let forgotten = history.len().saturating_sub(MAX_MOVES);
    record.set("updateHistory", Value::List(history.split_off(forgotten)));
}
