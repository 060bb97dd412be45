//! The world at its beginning, from a seed: nodes, images, policies, and what the registries serve.

use std::time::Duration;

use drop_api::ImagePullPolicy;

use crate::dice::Dice;
use crate::objects::{Catalog, ImageSpec, NodeSpec, Place, PolicySpec};
use crate::registry::{Supply, Tag};
use crate::secrets::{Content, REPOSITORIES, SECRETS, Site};

const POOLS: u64 = 4;
const HOSTS: usize = 3;

/// How large a world is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) nodes: usize,
    pub(crate) images: usize,
    pub(crate) most_faults: u64,
    pub(crate) registry_budget: u32,
    /// No limits, short pulls, nothing that fails: for worlds that are about size.
    pub(crate) is_open: bool,
}

impl Scale {
    pub(crate) const USUAL: Self = Self {
        nodes: 50,
        images: 20,
        most_faults: 20,
        registry_budget: 12,
        is_open: false,
    };
    /// A whole large cluster, once.
    pub(crate) const LARGE: Self = Self {
        nodes: 10_000,
        images: 50,
        most_faults: 0,
        registry_budget: 100_000,
        is_open: true,
    };
}

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) spec: NodeSpec,
    pub(crate) is_amd64: bool,
    pub(crate) max_parallel: u32,
    /// References and digests.
    pub(crate) held: Vec<(usize, u64)>,
}

#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) catalog: Catalog,
    pub(crate) tags: Vec<Tag>,
    pub(crate) hosts: usize,
    pub(crate) nodes: Vec<Machine>,
    pub(crate) images: Vec<ImageSpec>,
    pub(crate) policies: Vec<PolicySpec>,
    /// By reference: the password that its repository takes.
    pub(crate) locks: Vec<Option<u64>>,
    /// What stands in the Secrets.
    pub(crate) secrets: Vec<Content>,
    /// Coordinator processes.
    pub(crate) replicas: usize,
    /// The coordinator takes in together what comes within so long.
    pub(crate) together: Duration,
    is_open: bool,
}

impl Scenario {
    /// Registry hosts and their Secrets, and nothing else.
    pub(crate) fn bare() -> Self {
        let mut scenario = Self {
            catalog: Catalog::default(),
            tags: Vec::new(),
            hosts: HOSTS,
            nodes: Vec::new(),
            images: Vec::new(),
            policies: Vec::new(),
            locks: Vec::new(),
            secrets: Vec::new(),
            replicas: 1,
            together: Duration::ZERO,
            is_open: false,
        };
        scenario.lock_up(&mut Dice::new(0, 5));
        scenario
    }

    /// A repository of its own on the first host, and its only tag.
    pub(crate) fn add_plain_tag(&mut self, supply: Supply, takes: Duration) -> usize {
        let reference = self.tags.len();
        self.catalog
            .add(0, &format!("app{reference:02}"), "v1", None);
        self.tags.push(Tag {
            digest: reference as u64 + 1,
            supply,
            takes,
            went_back: false,
        });
        self.locks.push(None);
        reference
    }

    pub(crate) fn new(seed: u64, scale: &Scale) -> Self {
        let mut dice = Dice::new(seed, 1);
        let mut scenario = Self {
            is_open: scale.is_open,
            ..Self::bare()
        };
        if !scale.is_open {
            let mut dice = Dice::new(seed, 4);
            scenario.replicas = dice.pick(&[1, 1, 2, 3]);
            scenario.together = Duration::from_millis(dice.pick(&[0, 0, 5, 100]));
        }
        for image in 0..scale.images {
            for tag in ["v1", "v2"] {
                scenario.add_tag(image, tag, &mut dice);
            }
        }
        scenario.lock_up(&mut Dice::new(seed, 5));
        scenario.policies = (0..3).map(|_| scenario.policy_spec(&mut dice)).collect();
        for image in 0..scale.images {
            let mut spec = scenario.image_spec(image, &mut dice);
            // Some images are wanted by two objects.
            spec.reference = match scenario.images.last() {
                Some(last) if dice.chance(10) && !scale.is_open => last.reference,
                _ => image * 2,
            };
            spec.secrets = scenario.secrets_of(spec.reference, &mut dice);
            scenario.images.push(spec);
        }
        for _ in 0..scale.nodes {
            let machine = scenario.machine(&mut dice);
            scenario.nodes.push(machine);
        }
        scenario
    }

    fn add_tag(&mut self, image: usize, tag: &str, dice: &mut Dice) {
        let digest = self.tags.len() as u64 + 1;
        let is_pinned = !self.is_open && dice.chance(10);
        let supply = match dice.below(100) {
            _ if self.is_open => Supply::Served,
            0..2 => Supply::Missing,
            2..3 => Supply::Forbidden,
            3..8 => Supply::OnlyAmd64,
            _ => Supply::Served,
        };
        self.catalog.add(
            image % HOSTS,
            // Of equal length: no repository's name begins with another's.
            &format!("app{image:02}"),
            tag,
            is_pinned.then_some(digest),
        );
        self.tags.push(Tag {
            digest,
            supply,
            takes: if self.is_open {
                dice.millis(10, 50)
            } else {
                dice.millis(20, 3_000)
            },
            went_back: false,
        });
    }

    /// Some repositories are private: most take the login of their host, some one of their own.
    fn lock_up(&mut self, dice: &mut Dice) {
        self.locks = vec![None; self.tags.len()];
        let hosts = (0..HOSTS).map(|host| (Site::Host(host), 100 + host as u64));
        let mut secrets: Vec<Vec<(Site, u64)>> = hosts.map(|login| vec![login]).collect();
        secrets.push(Vec::new());
        if !self.is_open {
            for first in (0..self.tags.len()).step_by(2) {
                let lock = match dice.below(100) {
                    // Several images of a host share its login.
                    0..30 => 100 + self.catalog.references[first].host as u64,
                    30..35 => 200 + first as u64,
                    _ => continue,
                };
                if lock >= 200 {
                    secrets[REPOSITORIES].push((Site::Repository(first), lock));
                }
                // Both tags are of one repository.
                self.locks[first] = Some(lock);
                self.locks[first + 1] = Some(lock);
            }
        }
        self.secrets = secrets.into_iter().map(Content::Logins).collect();
    }

    /// Those that open the repository, most of the time, and now and then one that is of no use.
    fn secrets_of(&self, reference: usize, dice: &mut Dice) -> [Option<usize>; 2] {
        let host = self.catalog.references[reference].host;
        match self.locks[reference] {
            Some(_) if dice.chance(10) => [None, None],
            Some(lock) if lock >= 200 => [Some(REPOSITORIES), dice.chance(50).then_some(host)],
            Some(_) => [Some(host), dice.chance(20).then_some(REPOSITORIES)],
            None if !self.is_open && dice.chance(10) => [Some(dice.index(SECRETS)), None],
            None => [None, None],
        }
    }

    pub(crate) fn machine(&self, dice: &mut Dice) -> Machine {
        let spec = self.node_spec(dice);
        let mut held = Vec::new();
        for (reference, tag) in self.tags.iter().enumerate() {
            let is_pinned = self.catalog.references[reference].pinned.is_some();
            match dice.below(100) {
                // A wave in a cluster that holds most of it.
                0..90 if self.is_open => held.push((reference, tag.digest)),
                _ if self.is_open => {}
                0..20 => held.push((reference, tag.digest)),
                // An older one, from before our time.
                20..30 if !is_pinned => held.push((reference, tag.digest + 500_000)),
                _ => {}
            }
        }
        Machine {
            spec,
            is_amd64: self.is_open || dice.chance(90),
            max_parallel: if self.is_open {
                4
            } else {
                dice.pick(&[1, 1, 1, 2, 3])
            },
            held,
        }
    }

    pub(crate) fn node_spec(&self, dice: &mut Dice) -> NodeSpec {
        NodeSpec {
            pool: dice.below(POOLS) as u8,
            taint: (!self.is_open && dice.chance(8)).then(|| dice.below(2) as u8),
            pressure: false,
        }
    }

    fn place(&self, dice: &mut Dice, pool_percent: u64) -> Place {
        if self.is_open {
            return Place::default();
        }
        Place {
            pool: dice.chance(pool_percent).then(|| dice.below(POOLS) as u8),
            tolerates: dice.chance(20).then(|| dice.below(2) as u8),
        }
    }

    /// A new image, or an edit of it.
    pub(crate) fn image_spec(&self, image: usize, dice: &mut Dice) -> ImageSpec {
        // Without a policy ten seconds pass between two nodes, so only small pools go without.
        let is_paced = self.is_open || dice.chance(90);
        let reference = image * 2 + usize::from(dice.chance(40));
        ImageSpec {
            reference,
            secrets: self.secrets_of(reference, dice),
            policy: is_paced.then(|| dice.index(self.policies.len())),
            pull: match dice.below(100) {
                _ if self.is_open => ImagePullPolicy::Always,
                0..70 => ImagePullPolicy::Always,
                70..92 => ImagePullPolicy::IfNotPresent,
                _ => ImagePullPolicy::Never,
            },
            place: self.place(dice, if is_paced { 25 } else { 100 }),
            priority: dice.pick(&[-1, 0, 1]),
        }
    }

    pub(crate) fn policy_spec(&self, dice: &mut Dice) -> PolicySpec {
        if self.is_open {
            return PolicySpec {
                max_nodes: 400,
                min_delay: Duration::ZERO,
                ..PolicySpec::BUILT_IN
            };
        }
        // Retries of what fails for ever must leave room for the rest: at the end all of them come in turn, within the
        // longest back-off and at the policy's pace.
        let initial = Duration::from_secs(dice.pick(&[5, 20, 60]));
        PolicySpec {
            max_nodes: dice.pick(&[1, 2, 3, 5, 10, 20]),
            max_pulls: dice.pick(&[None, None, Some(1), Some(3), Some(8)]),
            min_delay: Duration::from_millis(dice.pick(&[0, 0, 0, 100, 300])),
            initial,
            max: (initial * dice.pick(&[1, 4])).max(Duration::from_secs(60)),
            repull: dice
                .chance(25)
                .then(|| Duration::from_secs(dice.pick(&[60, 300]))),
            place: self.place(dice, 15),
        }
    }
}
