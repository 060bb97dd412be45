//! What stands in the API server, in small: indices in place of names. Only this file knows what the product calls them.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use drop_api::{CachedImageSpec, CachedImageStatus, ImagePullPolicy, PolicyReference};
use drop_coordinator::core::{Change as CoreChange, Input};
use drop_coordinator::index::ImageObject;
use drop_coordinator::pacing::backoff::Backoff;
use drop_coordinator::pacing::policy::Limits;
use drop_coordinator::plan::NodeFacts;
use k8s_openapi::api::core::v1::{LocalObjectReference, Taint, Toleration};

use crate::secrets::secret_name;

/// Where something may go: a pool that nodes must belong to, and a taint that does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Place {
    pub(crate) pool: Option<u8>,
    pub(crate) tolerates: Option<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct NodeSpec {
    pub(crate) pool: u8,
    pub(crate) taint: Option<u8>,
    /// The kubelet reports `DiskPressure`.
    pub(crate) pressure: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ImageSpec {
    pub(crate) reference: usize,
    pub(crate) policy: Option<usize>,
    pub(crate) pull: ImagePullPolicy,
    pub(crate) place: Place,
    pub(crate) priority: i32,
    /// Pull Secrets that it names.
    pub(crate) secrets: [Option<usize>; 2],
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PolicySpec {
    pub(crate) max_nodes: u32,
    pub(crate) max_pulls: Option<u32>,
    pub(crate) min_delay: Duration,
    pub(crate) initial: Duration,
    pub(crate) max: Duration,
    pub(crate) repull: Option<Duration>,
    pub(crate) place: Place,
}

impl PolicySpec {
    /// What images without a policy share (contract section 4).
    pub(crate) const BUILT_IN: Self = Self {
        max_nodes: 1,
        max_pulls: None,
        min_delay: Duration::from_secs(10),
        initial: Duration::from_secs(30),
        max: Duration::from_secs(300),
        repull: None,
        place: Place {
            pool: None,
            tolerates: None,
        },
    };
}

/// A CachedImage.
#[derive(Clone, Debug)]
pub(crate) struct ImageRow {
    pub(crate) image: usize,
    pub(crate) uid: u64,
    pub(crate) generation: i64,
    pub(crate) version: u64,
    pub(crate) spec: ImageSpec,
    pub(crate) status: Option<Rc<CachedImageStatus>>,
}

/// A watch's news about one kind.
#[derive(Clone, Debug)]
pub(crate) enum Change<T> {
    Applied(T),
    Deleted(usize),
    Replaced(Vec<T>),
}

/// News of all kinds. Nodes and policies come with their index.
#[derive(Clone, Debug)]
pub(crate) enum News {
    Node(Change<(usize, NodeSpec)>),
    Image(Change<ImageRow>),
    Policy(Change<(usize, PolicySpec)>),
}

/// One reference that images name.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    /// Canonical.
    pub(crate) text: String,
    pub(crate) host: usize,
    pub(crate) repository: String,
    tag: Option<String>,
    /// The digest that the reference itself names.
    pub(crate) pinned: Option<u64>,
}

/// All references there are, by index.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) references: Vec<Reference>,
    by_text: HashMap<String, usize>,
}

impl Catalog {
    pub(crate) fn add(&mut self, host: usize, name: &str, tag: &str, pinned: Option<u64>) -> usize {
        let repository = format!("r{host}.example/{name}");
        let text = match pinned {
            Some(number) => format!("{repository}@{}", digest(number)),
            None => format!("{repository}:{tag}"),
        };
        let index = self.references.len();
        self.by_text.insert(text.clone(), index);
        self.references.push(Reference {
            text,
            host,
            repository,
            tag: pinned.is_none().then(|| tag.to_owned()),
            pinned,
        });
        index
    }

    pub(crate) fn index(&self, text: &str) -> Option<usize> {
        self.by_text.get(text).copied()
    }

    pub(crate) fn text(&self, reference: usize) -> &str {
        &self.references[reference].text
    }
}

pub(crate) fn node_name(node: usize) -> String {
    format!("n{node:05}")
}

pub(crate) fn image_name(image: usize) -> String {
    format!("i{image:03}")
}

fn policy_name(policy: usize) -> String {
    format!("p{policy}")
}

/// The index behind a name of one of the three kinds.
pub(crate) fn index_of(name: &str) -> Option<usize> {
    name.get(1..)?.parse().ok()
}

/// The number comes first: padding by the formatter, and comparing what is all the same, was a tenth of the simulation's time.
pub(crate) fn digest(number: u64) -> String {
    const REST: &str = "000000000000000000000000000000000000000000000000";
    let mut digest = String::with_capacity(71);
    digest.push_str("sha256:");
    for place in (0..16).rev() {
        let digit = (number >> (4 * place)) as u32 & 15;
        digest.extend(char::from_digit(digit, 16));
    }
    digest.push_str(REST);
    digest
}

pub(crate) fn digest_number(digest: &str) -> Option<u64> {
    u64::from_str_radix(digest.get(7..23)?, 16).ok()
}

/// News as the coordinator takes them.
pub(crate) fn input(news: &News, catalog: &Catalog) -> Input {
    match news {
        News::Node(change) => Input::Node(convert(change, node_name, |(node, spec)| {
            node_facts(*node, *spec)
        })),
        News::Image(change) => Input::Image(convert(change, image_name, |row| {
            image_object(row, catalog)
        })),
        News::Policy(change) => Input::Policy(convert(change, policy_name, |(policy, spec)| {
            (policy_name(*policy), limits(spec))
        })),
    }
}

fn convert<T, U>(
    change: &Change<T>,
    name: impl Fn(usize) -> String,
    object: impl Fn(&T) -> U,
) -> CoreChange<U> {
    match change {
        Change::Applied(row) => CoreChange::Applied(object(row)),
        Change::Deleted(index) => CoreChange::Deleted(name(*index)),
        Change::Replaced(rows) => CoreChange::Replaced(rows.iter().map(object).collect()),
    }
}

fn node_facts(node: usize, spec: NodeSpec) -> NodeFacts {
    let taint = |key: u8| Taint {
        key: format!("t{key}"),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    NodeFacts {
        name: node_name(node),
        labels: [("pool".to_owned(), spec.pool.to_string())].into(),
        taints: spec.taint.map(taint).into_iter().collect(),
        disk_pressure: spec.pressure,
    }
}

fn selector(place: Place) -> std::collections::BTreeMap<String, String> {
    place
        .pool
        .map(|pool| ("pool".to_owned(), pool.to_string()))
        .into_iter()
        .collect()
}

fn tolerations(place: Place) -> Vec<Toleration> {
    let toleration = |key: u8| Toleration {
        key: Some(format!("t{key}")),
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    };
    place.tolerates.map(toleration).into_iter().collect()
}

fn image_object(row: &ImageRow, catalog: &Catalog) -> ImageObject {
    let reference = &catalog.references[row.spec.reference];
    let spec = CachedImageSpec {
        image: reference.repository.clone(),
        tag: reference.tag.clone(),
        digest: reference.pinned.map(digest),
        image_pull_policy: row.spec.pull,
        node_selector: selector(row.spec.place),
        tolerations: tolerations(row.spec.place),
        priority: Some(row.spec.priority),
        policy_ref: row.spec.policy.map(|policy| PolicyReference {
            name: policy_name(policy),
        }),
        image_pull_secrets: row
            .spec
            .secrets
            .into_iter()
            .flatten()
            .map(|secret| LocalObjectReference {
                name: secret_name(secret),
            })
            .collect(),
    };
    ImageObject {
        name: image_name(row.image),
        uid: row.uid.to_string(),
        generation: row.generation,
        resource_version: row.version,
        spec,
        status: row.status.as_deref().cloned(),
    }
}

fn limits(spec: &PolicySpec) -> Limits {
    Limits {
        max_nodes: spec.max_nodes,
        max_pulls: spec.max_pulls,
        min_delay: spec.min_delay,
        backoff: Backoff {
            initial: spec.initial,
            max: spec.max,
        },
        repull_interval: spec.repull,
        node_selector: selector(spec.place),
        tolerations: tolerations(spec.place),
        pull_timeout: None,
    }
}
