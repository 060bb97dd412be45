//! What the API server and the agents have said, by name and by place.
//!
//! Pure state: `core` and its parts change it, nothing here decides. Nodes and images have places (small numbers), so that
//! sets of them are bits; places are used again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use drop_api::{CachedImageSpec, CachedImageStatus};
use drop_proto::FailureClass;
use jiff::Timestamp;

use crate::cached_image::writer::Record;
use crate::image::{Image, ImageId};
use crate::node_set::{NodeId, NodeSet};
use crate::plan::NodeFacts;

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
    /// What was sent, by image.
    pub sent: BTreeMap<ImageId, Sent>,
    /// The agent has said all that it holds.
    pub inventoried: bool,
    /// Grants of the node that its Hello did not name: their ends are yet to be told.
    pub unclaimed: Vec<u64>,
}

/// Names one session for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What a node was told about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The canonical reference, since the image may be gone from the index when it is to be dropped.
    pub reference: String,
    /// `drop_proto::ImagePullPolicy` as a number.
    pub pull_policy: i32,
    /// Empty: unknown.
    pub expected_digest: String,
    /// Lower is pulled first.
    pub priority: i32,
    /// See `DesiredImage.check`.
    pub check: u64,
}

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

/// Nodes by place and name.
#[derive(Debug, Default)]
pub struct Nodes {
    places: Vec<Option<Node>>,
    free: Vec<NodeId>,
    names: HashMap<String, NodeId>,
}

impl Nodes {
    /// The node's place, made if there is none.
    pub fn intern(&mut self, name: &str) -> NodeId {
        if let Some(id) = self.names.get(name) {
            return *id;
        }
        let node = Node {
            name: name.to_owned(),
            max_parallel: 1,
            ..Node::default()
        };
        let id = if let Some(id) = self.free.pop() {
            self.places[id.0 as usize] = Some(node);
            id
        } else {
            self.places.push(Some(node));
            NodeId(self.places.len() as u32 - 1)
        };
        self.names.insert(name.to_owned(), id);
        id
    }

    /// The place of a node that is there.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<NodeId> {
        self.names.get(name).copied()
    }

    /// The node at this place.
    #[must_use]
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.places.get(id.0 as usize)?.as_ref()
    }

    /// The node at this place.
    pub fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.places.get_mut(id.0 as usize)?.as_mut()
    }

    /// All nodes, by place.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.places
            .iter()
            .enumerate()
            .filter_map(|(place, node)| Some((NodeId(place as u32), node.as_ref()?)))
    }

    /// Frees the place.
    pub fn remove(&mut self, id: NodeId) {
        if let Some(node) = self.places.get_mut(id.0 as usize).and_then(Option::take) {
            self.names.remove(&node.name);
            self.free.push(id);
        }
    }
}

/// Images by place and canonical reference.
#[derive(Debug, Default)]
pub struct Images {
    places: Vec<Option<Image>>,
    free: Vec<ImageId>,
    references: HashMap<String, ImageId>,
}

impl Images {
    /// The image's place, made with `new` if there is none. The flag says whether it was made.
    pub fn intern(&mut self, reference: &str, new: impl FnOnce() -> Image) -> (ImageId, bool) {
        if let Some(id) = self.references.get(reference) {
            return (*id, false);
        }
        let id = if let Some(id) = self.free.pop() {
            self.places[id.0 as usize] = Some(new());
            id
        } else {
            self.places.push(Some(new()));
            ImageId(self.places.len() as u32 - 1)
        };
        self.references.insert(reference.to_owned(), id);
        (id, true)
    }

    /// The place of an image that is there.
    #[must_use]
    pub fn id(&self, reference: &str) -> Option<ImageId> {
        self.references.get(reference).copied()
    }

    /// The image at this place.
    #[must_use]
    pub fn get(&self, id: ImageId) -> Option<&Image> {
        self.places.get(id.0 as usize)?.as_ref()
    }

    /// The image at this place.
    pub fn get_mut(&mut self, id: ImageId) -> Option<&mut Image> {
        self.places.get_mut(id.0 as usize)?.as_mut()
    }

    /// All images, by place.
    pub fn iter(&self) -> impl Iterator<Item = (ImageId, &Image)> {
        self.places
            .iter()
            .enumerate()
            .filter_map(|(place, image)| Some((ImageId(place as u32), image.as_ref()?)))
    }

    /// All images, by place.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ImageId, &mut Image)> {
        self.places
            .iter_mut()
            .enumerate()
            .filter_map(|(place, image)| Some((ImageId(place as u32), image.as_mut()?)))
    }

    /// Frees the place.
    pub fn remove(&mut self, id: ImageId) {
        if let Some(image) = self.places.get_mut(id.0 as usize).and_then(Option::take) {
            self.references.remove(&image.reference);
            self.free.push(id);
        }
    }
}
