//! How a base image's state follows from its reference.

use std::collections::BTreeSet;

use drop_oci::Reference;
use jiff::Timestamp;

use crate::enrollment::Strategy;
use crate::naming::exact_pattern;
use crate::state::{Record, base_image, stamp};
use crate::yaml::Node;

/// Takes over what the reference says.
pub(super) fn describe(record: &mut Record, image: &Reference, written: &str, now: Timestamp) {
    record.set("name", Node::text(&record.name.clone()));
    // Another spelling of the same image is no news.
    if base_image(&record.new).as_ref() != Some(image) {
        record.set("fullImage", Node::text(written));
    }
    record.set("registry", Node::text(image.host()));
    record.set("repository", Node::text(image.repository()));
    record.set("repoURL", Node::text(&image.repository_name()));
    match image.tag() {
        Some(tag) => {
            record.set("tag", Node::text(tag));
            record.set("allowTags", Node::text(&exact_pattern(tag)));
            record.set(
                "imageSelectionStrategy",
                Node::text(Strategy::Lexical.as_str()),
            );
        }
        // A digest alone never moves: there is nothing to watch.
        None => {
            for key in ["tag", "allowTags", "imageSelectionStrategy"] {
                record.new.remove(key);
            }
        }
    }
    match image.digest() {
        Some(digest) => {
            record.set("digest", Node::text(digest));
            record.set("currentDigest", Node::text(digest));
        }
        None => {
            record.new.remove("digest");
        }
    }
    if record.new.text("firstDiscovered").is_none() {
        record.set("firstDiscovered", stamp(now));
    }
    let keys = record.kind.keys();
    for key in ["lastChecked", "currentDigest", "lastUpdated"] {
        record.new.set_default(keys, key, Node::null());
    }
}

/// The images built on it. Of images whose state cannot be read the last that is known stays.
pub(super) fn set_dependents(
    record: &mut Record,
    dependents: &BTreeSet<String>,
    unknown: &BTreeSet<&str>,
) {
    let mut all = dependents.clone();
    let before = record.new.texts("dependentImages");
    all.extend(
        before
            .into_iter()
            .filter(|image| unknown.contains(image))
            .map(str::to_owned),
    );
    record.set(
        "dependentImages",
        Node::texts(all.iter().map(String::as_str)),
    );
}
