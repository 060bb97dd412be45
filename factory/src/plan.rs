//! Which managed images have to be rebuilt because a base image moved, when, and what holds them. Pure.
//!
//! A change of a base waits for the image's delay, counted from the first change that no build has consumed: a base that
//! keeps moving cannot postpone it. All changes lead to one rebuild. It never starts a build.

mod cycle;
mod subject;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use crate::delay::{Delay, until};

pub use subject::{Base, Bypass, Subject, first_changes, subjects};
pub use table::render;

/// All rebuilds there are to say something about, the most urgent first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The moment it is made for.
    pub now: Timestamp,
    /// Images with a change that no build has consumed.
    pub rebuilds: Vec<Rebuild>,
    /// Images that are built on each other in a circle, each path once. They are not planned.
    pub cycles: Vec<Vec<String>>,
    /// Managed images with nothing to do.
    pub up_to_date: Vec<String>,
}

/// One image that is to be rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rebuild {
    /// Its name.
    pub image: String,
    /// Whether it is time.
    pub status: Status,
    /// When it may be rebuilt. None if it never is by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eligible_at: Option<Timestamp>,
    /// The time until then, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
    /// The bases that moved, and since when no build has consumed it.
    pub changed: Vec<Change>,
    /// What it waits for, whatever the time.
    pub held_by: Vec<Hold>,
    /// Who does not want to wait, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bypass: Option<Bypass>,
}

/// A base that moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The base's name.
    pub base: String,
    /// Its first change that no build has consumed.
    pub since: Timestamp,
}

/// Whether it is time for a rebuild.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Now.
    Due,
    /// When the delay is over.
    Waiting,
    /// Not before something else has happened.
    Held,
}

/// What holds a rebuild.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Hold {
    /// `autoRebuild: false`.
    AutoRebuildOff,
    /// This image, a base of it, has to be rebuilt first.
    Image(String),
}

/// Plans for all managed images.
#[must_use]
pub fn plan(now: Timestamp, subjects: &[Subject], bases: &BTreeMap<String, Base>) -> Plan {
    let parents = parents(subjects, bases);
    let cycles = cycle::find(&parents);
    let in_cycle: BTreeSet<&str> = cycles.iter().flatten().map(String::as_str).collect();

    let mut rebuilds = Vec::new();
    let mut up_to_date = Vec::new();
    for subject in subjects {
        if in_cycle.contains(subject.name.as_str()) {
            continue;
        }
        match rebuild(now, subject, bases) {
            Some(rebuild) => rebuilds.push(rebuild),
            None => up_to_date.push(subject.name.clone()),
        }
    }
    hold_for_parents(&mut rebuilds, &parents);
    rebuilds.sort_by(|a, b| {
        let key = |r: &Rebuild| (r.status, r.eligible_at, r.image.clone());
        key(a).cmp(&key(b))
    });
    up_to_date.sort();
    Plan {
        now,
        rebuilds,
        cycles,
        up_to_date,
    }
}

fn rebuild(now: Timestamp, subject: &Subject, bases: &BTreeMap<String, Base>) -> Option<Rebuild> {
    let changes = subject.unconsumed(bases);
    if changes.is_empty() && subject.bypass.is_none() {
        return None;
    }
    let eligible_at = eligible_at(subject, &changes, bases);
    let mut rebuild = Rebuild {
        image: subject.name.clone(),
        status: Status::Due,
        eligible_at,
        left: None,
        changed: changes
            .into_iter()
            .map(|(base, since)| Change { base, since })
            .collect(),
        held_by: Vec::new(),
        bypass: subject.bypass.clone(),
    };
    if let Some(bypass) = &subject.bypass {
        rebuild.eligible_at = Some(bypass.at);
    } else if !subject.auto_rebuild {
        rebuild.status = Status::Held;
        rebuild.held_by.push(Hold::AutoRebuildOff);
    } else if let Some(left) = eligible_at.and_then(|at| until(now, at)) {
        rebuild.status = Status::Waiting;
        rebuild.left = Some(left.to_string());
    }
    Some(rebuild)
}

/// The first change and the longest delay that anybody asked for. None if the image is not rebuilt by itself.
#[must_use]
pub fn eligible_at(
    subject: &Subject,
    changes: &BTreeMap<String, Timestamp>,
    bases: &BTreeMap<String, Base>,
) -> Option<Timestamp> {
    if !subject.auto_rebuild {
        return None;
    }
    let first = changes.values().min()?;
    let delay = changes
        .keys()
        .filter_map(|base| bases.get(base)?.delay)
        .fold(subject.delay, Delay::max);
    Some(delay.after(*first))
}

/// For each image the managed images that it is built on.
fn parents<'a>(
    subjects: &'a [Subject],
    bases: &BTreeMap<String, Base>,
) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let by_repository: BTreeMap<&str, &str> = subjects
        .iter()
        .map(|subject| (subject.repository.as_str(), subject.name.as_str()))
        .collect();
    let parents_of = |subject: &Subject| {
        subject
            .bases
            .iter()
            .filter_map(|base| bases.get(base))
            .filter_map(|base| by_repository.get(base.repository.as_str()).copied())
            .collect()
    };
    subjects
        .iter()
        .map(|subject| (subject.name.as_str(), parents_of(subject)))
        .collect()
}

/// An image whose base is to be rebuilt would be built twice. An order to bypass is obeyed all the same.
fn hold_for_parents(rebuilds: &mut [Rebuild], parents: &BTreeMap<&str, BTreeSet<&str>>) {
    let pending: BTreeSet<String> = rebuilds
        .iter()
        .filter(|rebuild| !rebuild.held_by.contains(&Hold::AutoRebuildOff))
        .map(|rebuild| rebuild.image.clone())
        .collect();
    for rebuild in rebuilds
        .iter_mut()
        .filter(|rebuild| rebuild.bypass.is_none())
    {
        let waits_for: Vec<Hold> = parents
            .get(rebuild.image.as_str())
            .into_iter()
            .flatten()
            .filter(|parent| pending.contains(**parent))
            .map(|parent| Hold::Image((*parent).to_owned()))
            .collect();
        if !waits_for.is_empty() {
            rebuild.status = Status::Held;
            rebuild.held_by.extend(waits_for);
        }
    }
}
