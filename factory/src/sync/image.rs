//! How an enrolled image's state follows from its entry and its Dockerfile.

use jiff::Timestamp;

use crate::dockerfile::Discovery;
use crate::enrollment::{Enrollment, Source};
use crate::state::{Record, stamp};
use crate::yaml::{Map, Node, Value};

/// Which tags count where an entry does not say.
pub(crate) const ALL_TAGS: &str = "^.*$";

const ENROLLMENT_KEYS: &[&str] = &[
    "registry",
    "repository",
    "source",
    "rebuildDelay",
    "autoRebuild",
];

const SOURCE_KEYS: &[&str] = &["provider", "repo", "branch", "dockerfile", "workflow"];

/// Keys that only external images have.
const EXTERNAL_KEYS: [&str; 3] = ["repoURL", "allowTags", "imageSelectionStrategy"];

/// Keys that only managed images have. What happened at run time is none of them.
const MANAGED_KEYS: [&str; 3] = ["discoveryError", "unresolved", "externalDigest"];

/// Takes over what the entry says.
pub(super) fn enroll(record: &mut Record, entry: &Enrollment, now: Timestamp) {
    record.set("name", Node::text(&entry.name));
    if record.new.text("enrolledAt").is_none() {
        record.set("enrolledAt", stamp(now));
    }
    let enrollment = enrollment(record.new.map("enrollment"), entry);
    if entry.source.is_some() {
        manage(record, enrollment);
    } else {
        track(record, entry, enrollment);
    }
    let keys = record.kind.keys();
    record.new.set_default(keys, "baseImages", Node::texts([]));
}

/// We build it.
fn manage(record: &mut Record, enrollment: Map) {
    for key in EXTERNAL_KEYS {
        record.new.remove(key);
    }
    if record.new.text("discoveryStatus") == Some("external") {
        adopt(record);
    }
    record.set("enrollment", enrollment);
    let keys = record.kind.keys();
    for key in ["currentVersion", "currentDigest", "lastBuilt"] {
        record.new.set_default(keys, key, Node::null());
    }
    let mut rebuild = Map::default();
    rebuild.push("status", Node::text("monitoring"));
    rebuild.push("pendingRebuild", Node::boolean(false));
    record.new.set_default(keys, "rebuildState", rebuild);
}

/// Somebody else builds it.
fn track(record: &mut Record, entry: &Enrollment, enrollment: Map) {
    for key in MANAGED_KEYS {
        record.new.remove(key);
    }
    record.set("discoveryStatus", Node::text("external"));
    record.set("enrollment", enrollment);
    record.set("repoURL", Node::text(&entry.image.repository_name()));
    let allow_tags = entry.allow_tags.as_deref().unwrap_or(ALL_TAGS);
    record.set("allowTags", Node::text(allow_tags));
    let strategy = entry.strategy.unwrap_or_default();
    record.set("imageSelectionStrategy", Node::text(strategy.as_str()));
    record.set("baseImages", Node::texts([]));
}

/// An external image becomes ours. The digest that is known is somebody else's build: it proves no build of ours.
fn adopt(record: &mut Record) {
    record.set("discoveryStatus", Node::text("pending"));
    if let Some(digest) = record.new.text("currentDigest").map(Node::text) {
        record.set("externalDigest", digest);
    }
}

/// What the Dockerfile left open. Its images get their names later, when those of all images are known.
pub(super) fn discovered(record: &mut Record, discovery: &Discovery) {
    record.new.remove("discoveryError");
    if discovery.unresolved.is_empty() {
        record.new.remove("unresolved");
        return;
    }
    let items = discovery.unresolved.iter().map(|place| {
        let mut item = Map::default();
        item.push("line", Node::word(&place.line.to_string()));
        item.push("image", Node::text(&place.image));
        item.push("reason", Node::text(&place.reason));
        Node::from(item)
    });
    let items = Value::List(items.collect());
    record.set("unresolved", items);
}

/// The Dockerfile gave nothing: what it gave last stays.
pub(super) fn failed(record: &mut Record, reason: &str) {
    record.set("discoveryStatus", Node::text("failed"));
    record.set("discoveryError", Node::text(reason));
}

/// The names of the images it is built on.
pub(super) fn set_bases<'a>(record: &mut Record, names: impl Iterator<Item = &'a str>) {
    record.set("baseImages", Node::texts(names));
}

/// The entry as the state keeps it. Keys that the factory does not know stay.
fn enrollment(old: Option<&Map>, entry: &Enrollment) -> Map {
    let mut map = old.cloned().unwrap_or_default();
    map.set(ENROLLMENT_KEYS, "registry", Node::text(&entry.registry));
    map.set(ENROLLMENT_KEYS, "repository", Node::text(&entry.repository));
    match &entry.source {
        Some(source) => {
            let merged = source_map(map.map("source"), source);
            map.set(ENROLLMENT_KEYS, "source", merged);
        }
        None => {
            map.remove("source");
        }
    }
    map.set(
        ENROLLMENT_KEYS,
        "rebuildDelay",
        Node::text(&entry.rebuild_delay),
    );
    map.set(
        ENROLLMENT_KEYS,
        "autoRebuild",
        Node::boolean(entry.auto_rebuild),
    );
    map
}

fn source_map(old: Option<&Map>, source: &Source) -> Map {
    let mut map = old.cloned().unwrap_or_default();
    for key in SOURCE_KEYS {
        match source.fields.iter().find(|(field, _)| field == key) {
            Some((_, text)) => map.set(SOURCE_KEYS, key, Node::text(text)),
            None => {
                map.remove(key);
            }
        }
    }
    map
}
