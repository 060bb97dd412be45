//! What the API server and the agents have said, by name and by place.
//!
//! Pure state: `core` and its parts change it, nothing here decides. Nodes and images have places (small numbers), so that
//! sets of them are bits; places are used again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use drop_api::{CachedImageSpec, CachedImageStatus};
use drop_proto::FailureClass;
use jiff::Timestamp;

use crate::cached_image::writer::Record;
use crate::image::{Image, ImageId, Told};
use crate::node_set::{NodeId, NodeSet};
use crate::plan::NodeFacts;
use crate::session::limits::Allowance;

/// A CachedImage as the API server has it.
#[derive(Clone, Debug)]
pub struct ImageObject {
    /// metadata.name
    pub name: String,
    /// metadata.uid
    pub uid: String,
    /// metadata.generation
    pub generation: i64,
    /// metadata.resourceVersion, as a number (KEP-5504: it may be compared).
    pub resource_version: u64,
    /// spec
    pub spec: CachedImageSpec,
    /// status, if anybody wrote one.
    pub status: Option<CachedImageStatus>,
}

/// A CachedImage and what follows from it.
#[derive(Debug)]
pub struct Object {
    /// As the API server has it; its status is in `record`.
    pub facts: ImageObject,
    /// The image that its reference names, or why it names none.
    pub image: Result<ImageId, String>,
    /// Key of the policy that paces it.
    pub policy: String,
    /// Its policyRef names no object.
    pub policy_missing: bool,
    /// Nodes that it is wanted on.
    pub targets: NodeSet,
    /// Nodes that had it when the status was worked out last.
    pub ready: i32,
    /// Failures in a row over all nodes.
    pub consecutive_failures: i32,
    /// Last successful pull.
    pub last_pulled: Option<Timestamp>,
    /// Last pull that began.
    pub last_attempted: Option<Timestamp>,
    /// Nodes that the status of a former leader called ready: they are believed again once their runtime lists the image.
    pub remembered: BTreeSet<String>,
    /// What was written of it and what is to be written.
    pub record: Record,
}

/// A connected agent.
#[derive(Debug)]
pub struct Session {
    /// Chosen by the server that accepted it.
    pub id: SessionId,
    /// The agent process.
    pub instance: String,
    /// Last revision of Desired that was sent.
    pub revision: u64,
    /// What the agent was told, by image.
    pub told: BTreeMap<ImageId, Arc<Told>>,
    /// References that it is yet to be told to drop: what it said of them is forgotten, so it has to say it again even if they
    /// are wanted again by now.
    pub dropped: BTreeSet<String>,
    /// The agent has said all that it holds.
    pub inventoried: bool,
    /// Grants of the node that its Hello did not name: their ends are yet to be told.
    pub unclaimed: Vec<u64>,
    /// Grants that it spoke of and that are not the node's.
    pub unknown_grants: Allowance,
}

/// Names one session for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// The runtime of a node, as its agent says it.
#[derive(Clone, Debug, Default)]
pub struct Runtime {
    /// Whether it answers.
    pub available: bool,
    /// Why not.
    pub message: String,
    /// Since when it does not.
    pub lost_at: Option<Duration>,
    /// "linux/amd64"
    pub platform: String,
}

/// A node that starts nothing for a while.
#[derive(Clone, Debug)]
pub struct Pause {
    /// When it may start again.
    pub until: Duration,
    /// Failures in a row.
    pub attempts: u32,
    /// What stopped it.
    pub class: FailureClass,
    /// Cleaned for people.
    pub message: String,
}

/// A node: an object, an agent, or both.
#[derive(Debug, Default)]
pub struct Node {
    /// Name of the Node object.
    pub name: String,
    /// `None`: there is no Node object.
    pub facts: Option<NodeFacts>,
    /// `None`: no agent is connected.
    pub session: Option<Session>,
    /// Since when no agent is connected.
    pub lost_at: Option<Duration>,
    /// The agent process that was connected last.
    pub last_instance: String,
    /// Its runtime.
    pub runtime: Runtime,
    /// How many grants it takes at once.
    pub max_parallel: u32,
    /// Tokens of the grants it holds.
    pub grants: Vec<u64>,
    /// A failure that concerns the whole node.
    pub pause: Option<Pause>,
}

/// A number that stands for a named thing in sets and maps.
pub trait Place: Copy {
    /// The place with this number.
    fn at(number: u32) -> Self;
    /// The place's number.
    fn number(self) -> usize;
}

impl Place for NodeId {
    fn at(number: u32) -> Self {
        Self(number)
    }

    fn number(self) -> usize {
        self.0 as usize
    }
}

impl Place for ImageId {
    fn at(number: u32) -> Self {
        Self(number)
    }

    fn number(self) -> usize {
        self.0 as usize
    }
}

impl Node {
    /// A node of which nothing is known but its name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            max_parallel: 1,
            ..Self::default()
        }
    }
}

/// Nodes by place and name.
pub type Nodes = Places<NodeId, Node>;

/// Images by place and canonical reference.
pub type Images = Places<ImageId, Image>;

/// Things by place and name. A place is used again once its thing is removed.
#[derive(Debug)]
pub struct Places<P, T> {
    things: Vec<Option<(String, T)>>,
    free: Vec<P>,
    names: HashMap<String, P>,
}

impl<P, T> Default for Places<P, T> {
    fn default() -> Self {
        Self {
            things: Vec::new(),
            free: Vec::new(),
            names: HashMap::new(),
        }
    }
}

impl<P: Place, T> Places<P, T> {
    /// The place of this name, made with `new` if there is none.
    pub fn intern(&mut self, name: &str, new: impl FnOnce() -> T) -> P {
        if let Some(place) = self.names.get(name) {
            return *place;
        }
        let thing = Some((name.to_owned(), new()));
        let place = self
            .free
            .pop()
            .unwrap_or_else(|| P::at(u32::try_from(self.things.len()).unwrap_or(u32::MAX)));
        match self.things.get_mut(place.number()) {
            Some(freed) => *freed = thing,
            None => self.things.push(thing),
        }
        self.names.insert(name.to_owned(), place);
        place
    }

    /// The place of this name.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<P> {
        self.names.get(name).copied()
    }

    /// What is at this place.
    #[must_use]
    pub fn get(&self, place: P) -> Option<&T> {
        let (_, thing) = self.things.get(place.number())?.as_ref()?;
        Some(thing)
    }

    /// What is at this place.
    pub fn get_mut(&mut self, place: P) -> Option<&mut T> {
        let (_, thing) = self.things.get_mut(place.number())?.as_mut()?;
        Some(thing)
    }

    /// All of it, by place.
    pub fn iter(&self) -> impl Iterator<Item = (P, &T)> {
        let numbered = self.things.iter().zip(0..);
        numbered.filter_map(|(thing, number)| Some((P::at(number), &thing.as_ref()?.1)))
    }

    /// All of it, by place.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (P, &mut T)> {
        let numbered = self.things.iter_mut().zip(0..);
        numbered.filter_map(|(thing, number)| Some((P::at(number), &mut thing.as_mut()?.1)))
    }

    /// Frees the place.
    pub fn remove(&mut self, place: P) {
        if let Some((name, _)) = self.things.get_mut(place.number()).and_then(Option::take) {
            self.names.remove(&name);
            self.free.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut places: Places<NodeId, u8> = Places::default();
        let (a, b) = (places.intern("a", || 1), places.intern("b", || 2));
        assert_eq!((a, b), (NodeId(0), NodeId(1)));
        assert_eq!(places.intern("a", || 9), a);
        places.remove(a);
        assert_eq!((places.get(a), places.id("a")), (None, None));
        assert_eq!(places.intern("c", || 3), a);
        let all: Vec<_> = places
            .iter()
            .map(|(place, thing)| (place.0, *thing))
            .collect();
        assert_eq!(all, [(0, 3), (1, 2)]);
    }
}
