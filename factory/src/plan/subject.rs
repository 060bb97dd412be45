//! What a plan needs to know, read from images.yaml and the state.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::delay::Delay;
use crate::enrollment::Images;
use crate::state::{base_image, moment};
use crate::yaml::Map;

/// A managed image.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Host and repository that it is published at.
    pub repository: String,
    /// How long a change may wait.
    pub delay: Delay,
    /// Whether it is rebuilt by itself.
    pub auto_rebuild: bool,
    /// Names of the images it is built on.
    pub bases: Vec<String>,
    /// When it was built last, as its builder says.
    pub built: Option<Timestamp>,
    /// When another digest of it was seen last.
    pub updated: Option<Timestamp>,
    /// First changes by base, as an earlier run recorded them: a base's history is short.
    pub recorded: BTreeMap<String, Timestamp>,
    /// An order not to wait.
    pub bypass: Option<Bypass>,
}

/// An order to rebuild without waiting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bypass {
    /// When it was given.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// A base image.
#[derive(Clone, Debug)]
pub struct Base {
    /// Host and repository.
    pub repository: String,
    /// When it moved, as far as that is known.
    pub moves: Vec<Timestamp>,
    /// How long a change of it waits at least, if images.yaml says so.
    pub delay: Option<Delay>,
}

impl Subject {
    /// First changes, by base, that no build has consumed.
    #[must_use]
    pub fn unconsumed(&self, bases: &BTreeMap<String, Base>) -> BTreeMap<String, Timestamp> {
        let mut changes = BTreeMap::new();
        for name in &self.bases {
            let moves = bases.get(name).map_or(&[][..], |base| &base.moves);
            let first = moves
                .iter()
                .chain(self.recorded.get(name))
                .filter(|at| !self.has_consumed(**at))
                .min();
            if let Some(first) = first {
                changes.insert(name.clone(), *first);
            }
        }
        changes
    }

    /// A build contains what was there when it was made. A digest seen in the same run as the change may be older than it.
    fn has_consumed(&self, at: Timestamp) -> bool {
        self.built.is_some_and(|built| at <= built)
            || self.updated.is_some_and(|updated| at < updated)
    }
}

/// First changes that no build has consumed, of one image.
#[must_use]
pub fn first_changes(
    subject: &Subject,
    bases: &BTreeMap<String, Base>,
) -> BTreeMap<String, Timestamp> {
    subject.unconsumed(bases)
}

/// Reads managed images and bases from images.yaml and the state's mappings.
#[must_use]
pub fn subjects(
    images: &Images,
    image_states: &BTreeMap<&str, &Map>,
    base_states: &BTreeMap<&str, &Map>,
) -> (Vec<Subject>, BTreeMap<String, Base>) {
    let nothing = Map::default();
    let subjects = images
        .entries
        .iter()
        .filter(|entry| entry.source.is_some())
        .map(|entry| {
            let state = image_states
                .get(entry.name.as_str())
                .copied()
                .unwrap_or(&nothing);
            let built = moment(state, "lastBuilt");
            Subject {
                name: entry.name.clone(),
                repository: entry.image.repository_name(),
                delay: entry.delay,
                auto_rebuild: entry.auto_rebuild,
                bases: state
                    .texts("baseImages")
                    .into_iter()
                    .map(str::to_owned)
                    .collect(),
                built,
                updated: moment(state, "lastUpdated"),
                recorded: recorded(state),
                bypass: bypass(state).filter(|bypass| built.is_none_or(|built| built < bypass.at)),
            }
        })
        .collect();
    let bases = base_states
        .iter()
        .filter_map(|(name, state)| Some(((*name).to_owned(), base(images, state)?)))
        .collect();
    (subjects, bases)
}

fn base(images: &Images, state: &Map) -> Option<Base> {
    let image = base_image(state)?;
    let mut moves: Vec<Timestamp> = history(state).collect();
    moves.extend(moment(state, "lastUpdated"));
    let delay = images
        .entries
        .iter()
        .filter(|entry| entry.has_own_delay && entry.tracks(&image))
        .map(|entry| entry.delay)
        .max();
    Some(Base {
        repository: image.repository_name(),
        moves,
        delay,
    })
}

fn history(state: &Map) -> impl Iterator<Item = Timestamp> {
    state
        .get("updateHistory")
        .and_then(crate::yaml::Node::as_list)
        .into_iter()
        .flatten()
        .filter_map(|entry| moment(entry.as_map()?, "at"))
}

fn recorded(state: &Map) -> BTreeMap<String, Timestamp> {
    state
        .map("rebuildState")
        .and_then(|rebuild| rebuild.get("changedBases")?.as_list())
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.as_map()?;
            Some((entry.text("base")?.to_owned(), moment(entry, "since")?))
        })
        .collect()
}

fn bypass(state: &Map) -> Option<Bypass> {
    let bypass = state.map("rebuildState")?.map("bypass")?;
    Some(Bypass {
        at: moment(bypass, "at")?,
        reason: bypass.text("reason").unwrap_or_default().to_owned(),
    })
}
