//! The Events of a CachedImage: one per image and transition, never per node.

use drop_api::conditions::{PULL_PROGRESS, READY, progress, ready};
use drop_api::{CachedImageStatus, Phase};

use crate::index::Object;

/// An Event about a CachedImage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// metadata.name of the CachedImage.
    pub name: String,
    /// metadata.uid of the CachedImage.
    pub uid: String,
    /// A Warning, not Normal.
    pub warning: bool,
    /// `PullStarted`, `Cached`, or the Ready reason.
    pub reason: String,
    /// For people.
    pub note: String,
}

/// The Events that the step from the written status to the new one calls for.
#[must_use]
pub fn transitions(object: &Object, status: &CachedImageStatus) -> Vec<Event> {
    let written = object.record.written();
    let event = |warning, reason: &str, note: &str| Event {
        name: object.facts.name.clone(),
        uid: object.facts.uid.clone(),
        warning,
        reason: reason.to_owned(),
        note: note.to_owned(),
    };
    let word = |status: Option<&CachedImageStatus>, kind: &str| {
        status
            .and_then(|s| s.conditions.iter().find(|c| c.type_ == kind))
            .map(|c| (c.reason.clone(), c.message.clone()))
    };
    let mut events = Vec::new();
    let (was, is) = (
        word(written, PULL_PROGRESS),
        word(Some(status), PULL_PROGRESS),
    );
    let pulls = |word: &Option<(String, String)>| {
        word.as_ref()
            .is_some_and(|(reason, _)| reason == progress::PULLING)
    };
    let began = written.is_none_or(|w| {
        matches!(w.phase, None | Some(Phase::Pending))
            || w.observed_generation != status.observed_generation
    });
    if began && !pulls(&was) && pulls(&is) {
        let note = is.map(|(_, message)| message).unwrap_or_default();
        events.push(event(false, "PullStarted", &note));
    }
    let (was, is) = (word(written, READY), word(Some(status), READY));
    if let Some((reason, note)) = is
        && was.is_none_or(|(was, _)| was != reason)
    {
        match reason.as_str() {
            ready::CACHED => events.push(event(false, &reason, &note)),
            ready::IN_PROGRESS => {}
            _ => events.push(event(true, &reason, &note)),
        }
    }
    events
}
