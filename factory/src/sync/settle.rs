//! What follows for a managed image once its digest and its bases' digests are known: its status and its pending rebuild.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::enrollment::Images;
use crate::plan::{eligible_at, first_changes, subjects};
use crate::state::{Record, stamp};
use crate::yaml::{Map, Node, Value};

use super::{Merged, Read};

/// Order of the keys of `rebuildState`.
const REBUILD_KEYS: &[&str] = &["status", "pendingRebuild", "changedBases", "bypass"];

/// Settles all managed images.
pub fn settle(
    merged: &mut Merged,
    now: Timestamp,
    images: &Images,
    dockerfiles: &BTreeMap<String, Read>,
) {
    let maps = |records: &'_ BTreeMap<String, Record>| -> BTreeMap<String, Map> {
        records
            .iter()
            .map(|(name, record)| (name.clone(), record.new.clone()))
            .collect()
    };
    let (image_maps, base_maps) = (maps(&merged.images), maps(&merged.bases));
    let (subjects, bases) = subjects(images, &borrowed(&image_maps), &borrowed(&base_maps));
    for subject in &subjects {
        let Some(record) = merged.images.get_mut(&subject.name) else {
            continue;
        };
        set_status(record, dockerfiles.get(&subject.name));
        let changes = first_changes(subject, &bases);
        let eligible = eligible_at(subject, &changes, &bases);
        set_rebuild(record, &changes, eligible);
        forget_bypass(record, subject.built);
    }
    for record in merged.images.values_mut() {
        if record.is_changed() && record.new.text("discoveryStatus") != Some("external") {
            record.set("lastDiscovery", stamp(now));
        }
    }
}

fn borrowed(maps: &BTreeMap<String, Map>) -> BTreeMap<&str, &Map> {
    maps.iter()
        .map(|(name, map)| (name.as_str(), map))
        .collect()
}

/// A digest that the image had while it was external proves no build of ours.
fn set_status(record: &mut Record, read: Option<&Read>) {
    let digest = record.new.text("currentDigest");
    let is_published = digest.is_some() && digest != record.new.text("externalDigest");
    if is_published {
        record.new.remove("externalDigest");
    }
    let status = match read {
        Some(Err(_)) => "failed",
        Some(Ok(_)) if is_published => "success",
        _ => "pending",
    };
    record.set("discoveryStatus", Node::text(status));
}

/// Records the first changes, because a base's history forgets them, and takes back what is consumed.
fn set_rebuild(
    record: &mut Record,
    changes: &BTreeMap<String, Timestamp>,
    eligible: Option<Timestamp>,
) {
    let mut state = record.new.map("rebuildState").cloned().unwrap_or_default();
    if changes.is_empty() {
        // Nothing of ours: whatever stands there is left alone.
        if state.remove("changedBases").is_none() {
            return;
        }
        state.set(REBUILD_KEYS, "status", Node::text("monitoring"));
        state.set(REBUILD_KEYS, "pendingRebuild", Node::boolean(false));
        record.new.remove("rebuildEligibleAt");
    } else {
        let status = if eligible.is_some() {
            "pending"
        } else {
            "held"
        };
        state.set(REBUILD_KEYS, "status", Node::text(status));
        state.set(
            REBUILD_KEYS,
            "pendingRebuild",
            Node::boolean(eligible.is_some()),
        );
        let items = changes.iter().map(|(base, since)| {
            let mut item = Map::default();
            item.push("base", Node::text(base));
            item.push("since", stamp(*since));
            Node::from(item)
        });
        state.set(REBUILD_KEYS, "changedBases", Value::List(items.collect()));
        match eligible {
            Some(at) => record.set("rebuildEligibleAt", stamp(at)),
            None => {
                record.new.remove("rebuildEligibleAt");
            }
        }
    }
    record.set("rebuildState", state);
}

/// An order to bypass is carried out by the next build.
fn forget_bypass(record: &mut Record, built: Option<Timestamp>) {
    let given = record
        .new
        .map("rebuildState")
        .and_then(|state| crate::state::moment(state.map("bypass")?, "at"));
    let (Some(given), Some(built)) = (given, built) else {
        return;
    };
    if given <= built
        && let Some(mut state) = record.new.map("rebuildState").cloned()
    {
        state.remove("bypass");
        record.set("rebuildState", state);
    }
}

/// Writes down an order to rebuild without waiting.
pub fn record_bypass(record: &mut Record, now: Timestamp, reason: &str) {
    let mut bypass = Map::default();
    bypass.push("at", stamp(now));
    bypass.push("reason", Node::text(reason));
    let mut state = record.new.map("rebuildState").cloned().unwrap_or_default();
    state.set(REBUILD_KEYS, "bypass", bypass);
    record.set("rebuildState", state);
}
