//! Merges what images.yaml, the Dockerfiles and the state files say into new state. Pure: it reads and writes no file.
//!
//! images.yaml decides how an image is enrolled; what was found out at run time survives whatever happens; what cannot be
//! read is left alone and said.

mod base;
mod image;
mod moves;
mod settle;

use std::collections::{BTreeMap, BTreeSet};

use drop_oci::Reference;
use jiff::Timestamp;

use crate::dockerfile::Discovery;
use crate::enrollment::Images;
use crate::naming;
use crate::problem::Problem;
use crate::state::{self, Kind, Record, State};

pub(crate) use image::ALL_TAGS;
pub use moves::{Answer, Asked, MAX_MOVES, asked, record};
pub use settle::{record_bypass, settle};

/// What reading one Dockerfile gave.
pub type Read = Result<Discovery, ReadError>;

/// Why a Dockerfile gave nothing.
#[derive(Clone, Debug)]
pub struct ReadError {
    /// For the state file: the same on each machine.
    pub reason: String,
    /// For the user, with the file as it can be opened.
    pub problem: Problem,
}

/// New state, not written yet.
#[derive(Debug, Default)]
pub struct Merged {
    /// Enrolled images by name.
    pub images: BTreeMap<String, Record>,
    /// Base images by name.
    pub bases: BTreeMap<String, Record>,
    /// Files in use that nothing needs any more.
    pub unused: Vec<(Kind, String)>,
    /// What went wrong.
    pub problems: Vec<Problem>,
}

/// An image that some enrolled image is built on.
struct Wanted {
    /// As first written.
    written: String,
    /// The images built on it.
    dependents: BTreeSet<String>,
}

/// Merges everything. `dockerfiles` has an entry for each managed image that names one.
#[must_use]
pub fn merge(
    now: Timestamp,
    images: &Images,
    state: &State,
    dockerfiles: &BTreeMap<String, Read>,
) -> Merged {
    let mut merged = Merged {
        problems: images.problems.clone(),
        ..Merged::default()
    };
    // Bases in the order in which they were seen, and for each image what it is built on now.
    let mut wanted: BTreeMap<Reference, Wanted> = BTreeMap::new();
    let mut found: Vec<(String, Vec<Reference>)> = Vec::new();
    // Bases by name that images need about which nothing new is known.
    let mut kept: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // Images of which not even that is known.
    let mut unknown: BTreeSet<&str> = BTreeSet::new();

    for entry in &images.entries {
        let name = entry.name.as_str();
        let old = match state.images.get(name).map(|file| &file.map) {
            Some(Err(problem)) => {
                merged.problems.push(problem.clone());
                unknown.insert(name);
                continue;
            }
            Some(Ok(map)) => Some(map.clone()),
            None => None,
        };
        let start = old.clone().or_else(|| archived(state, Kind::Image, name));
        let mut record = Record {
            kind: Kind::Image,
            name: name.to_owned(),
            old,
            new: start.unwrap_or_default(),
        };
        image::enroll(&mut record, entry, now);
        match dockerfiles.get(name) {
            Some(Ok(discovery)) => {
                let references = want(&mut wanted, name, discovery);
                image::discovered(&mut record, discovery);
                found.push((name.to_owned(), references));
            }
            Some(Err(error)) => {
                merged.problems.push(error.problem.clone());
                image::failed(&mut record, &error.reason);
                keep(&mut kept, name, &record.new);
            }
            None => keep(&mut kept, name, &record.new),
        }
        merged.images.insert(name.to_owned(), record);
    }

    for (name, file) in &state.images {
        if merged.images.contains_key(name) || unknown.contains(name.as_str()) {
            continue;
        }
        match &file.map {
            Err(problem) => {
                merged.problems.push(problem.clone());
                unknown.insert(name);
            }
            Ok(map) if images.has_nameless || images.broken.contains(name) => {
                keep(&mut kept, name, map);
            }
            Ok(_) => merged.unused.push((Kind::Image, name.clone())),
        }
    }

    let names = base_names(&wanted, state);
    for (image, references) in found {
        if let Some(record) = merged.images.get_mut(&image) {
            let bases = references.iter().filter_map(|base| names.get(base));
            image::set_bases(record, bases.map(String::as_str));
        }
    }
    merge_bases(
        &mut merged,
        now,
        state,
        &wanted,
        &names,
        &mut kept,
        &unknown,
    );
    merged
}

fn want(
    wanted: &mut BTreeMap<Reference, Wanted>,
    image: &str,
    discovery: &Discovery,
) -> Vec<Reference> {
    let mut references = Vec::new();
    for written in &discovery.images {
        let Ok(reference) = written.parse::<Reference>() else {
            continue;
        };
        let reference = reference.or_latest();
        wanted
            .entry(reference.clone())
            .or_insert_with(|| Wanted {
                written: written.clone(),
                dependents: BTreeSet::new(),
            })
            .dependents
            .insert(image.to_owned());
        references.push(reference);
    }
    references
}

fn keep(kept: &mut BTreeMap<String, BTreeSet<String>>, image: &str, map: &crate::yaml::Map) {
    for base in map.texts("baseImages") {
        kept.entry(base.to_owned())
            .or_default()
            .insert(image.to_owned());
    }
}

/// Names for all wanted bases. One that has a file, in use or archived, keeps its name, and no other image gets it.
fn base_names(wanted: &BTreeMap<Reference, Wanted>, state: &State) -> BTreeMap<Reference, String> {
    let mut established = BTreeMap::new();
    let mut taken = BTreeSet::new();
    // Files in use come first: an archived one of the same name has lost it.
    for files in [&state.bases, &state.archived_bases] {
        for (name, file) in files {
            let Some(image) = file.map.as_ref().ok().and_then(state::base_image) else {
                continue;
            };
            if !established.contains_key(&image) && taken.insert(name.clone()) {
                established.insert(image, name.clone());
            }
        }
    }
    let wanted = wanted
        .iter()
        .map(|(image, wanted)| (image.clone(), naming::wanted_name(&wanted.written)))
        .collect();
    naming::assign(&wanted, &established)
}

fn merge_bases(
    merged: &mut Merged,
    now: Timestamp,
    state: &State,
    wanted: &BTreeMap<Reference, Wanted>,
    names: &BTreeMap<Reference, String>,
    kept: &mut BTreeMap<String, BTreeSet<String>>,
    unknown: &BTreeSet<&str>,
) {
    for (image, wanted) in wanted {
        let Some(name) = names.get(image) else {
            continue;
        };
        let old = match state.bases.get(name).map(|file| &file.map) {
            // Said below, with all files that cannot be read.
            Some(Err(_)) => continue,
            Some(Ok(map)) => Some(map.clone()),
            None => None,
        };
        let start = old.clone().or_else(|| archived(state, Kind::Base, name));
        // What was found out about another image is nothing to go on from.
        let start = start.filter(|map| state::base_image(map).is_none_or(|other| other == *image));
        let mut record = Record {
            kind: Kind::Base,
            name: name.clone(),
            old,
            new: start.unwrap_or_default(),
        };
        base::describe(&mut record, image, &wanted.written, now);
        let mut dependents = wanted.dependents.clone();
        dependents.extend(kept.remove(name).unwrap_or_default());
        base::set_dependents(&mut record, &dependents, unknown);
        merged.bases.insert(name.clone(), record);
    }
    for (name, file) in &state.bases {
        let map = match &file.map {
            Ok(map) => map,
            Err(problem) => {
                merged.problems.push(problem.clone());
                continue;
            }
        };
        if merged.bases.contains_key(name) {
            continue;
        }
        let mut record = Record {
            kind: Kind::Base,
            name: name.clone(),
            old: Some(map.clone()),
            new: map.clone(),
        };
        let dependents = kept.remove(name).unwrap_or_default();
        base::set_dependents(&mut record, &dependents, unknown);
        if record.new.texts("dependentImages").is_empty() {
            merged.unused.push((Kind::Base, name.clone()));
        } else {
            merged.bases.insert(name.clone(), record);
        }
    }
}

/// What an archived file says. One that cannot be read is as good as none: it is not in use.
fn archived(state: &State, kind: Kind, name: &str) -> Option<crate::yaml::Map> {
    state.archived(kind).get(name)?.map.as_ref().ok().cloned()
}
