//! Small worlds written by hand, one for each defect that the simulation has found, so that none of them comes back unseen.
//!
//! Nothing happens in them but what stands here. The oracle judges them like any other world; what it cannot know (that
//! something happens soon) is looked at besides.

mod leaders;

use std::time::Duration;

use drop_api::ImagePullPolicy;

use crate::faults::{CALM, Fault, Kind, Spoilt};
use crate::objects::{ImageSpec, NodeSpec, Place, PolicySpec, node_name};
use crate::registry::{Supply, Trouble};
use crate::run::{Outcome, play};
use crate::scenario::{Machine, Scale, Scenario};
use crate::tell::Test;
use crate::world::World;

pub(crate) const CASES: &[Test] = &[
    ("a_pull_that_only_hung_proves_nothing", |_| hung()),
    ("a_trial_that_hangs_does_not_make_its_host_healthy", |_| {
        hanging_trial()
    }),
    (
        "a_node_that_a_check_showed_to_be_current_need_not_wait",
        |_| current_again(),
    ),
    ("an_image_made_anew_in_one_breath_counts_again", |_| {
        made_anew()
    }),
    ("a_lowered_limit_starts_nothing_before_its_time", |_| {
        lowered_limit()
    }),
    ("a_leader_that_stood_still_grants_nothing_any_more", |_| {
        leaders::stood_still()
    }),
    ("a_leader_that_is_cut_off_stops_and_another_goes_on", |_| {
        leaders::cut_off()
    }),
    (
        "a_lease_that_somebody_deletes_makes_no_second_leader",
        |_| leaders::deleted_lease(),
    ),
    (
        "one_that_lacks_the_secret_does_not_hold_up_those_that_have_it",
        |_| lacks_the_secret(),
    ),
    ("a_corrected_secret_is_tried_at_once", |_| corrected()),
    ("what_the_kubelet_removes_twice_is_left_alone", |_| fight()),
    (
        "a_disk_that_is_nearly_full_refuses_until_it_has_room",
        |_| full_disk(),
    ),
];

/// What has to be so at a time; it answers what is wrong.
type Look = (u64, fn(&World) -> Option<String>);

struct Case {
    scenario: Scenario,
    faults: Vec<Fault>,
    looks: Vec<Look>,
}

impl Case {
    /// Some nodes and one policy that paces nothing.
    fn new(nodes: usize) -> Self {
        let machine = || Machine {
            spec: NodeSpec::default(),
            is_amd64: true,
            max_parallel: 1,
            held: Vec::new(),
        };
        let mut scenario = Scenario::bare();
        scenario.nodes = (0..nodes).map(|_| machine()).collect();
        scenario.policies = vec![PolicySpec {
            max_nodes: 10,
            min_delay: Duration::ZERO,
            initial: Duration::from_secs(5),
            max: Duration::from_secs(60),
            ..PolicySpec::BUILT_IN
        }];
        Self {
            scenario,
            faults: Vec::new(),
            looks: Vec::new(),
        }
    }

    /// An image of host 0 that is wanted everywhere.
    fn image(mut self, supply: Supply, takes: Duration) -> Self {
        let reference = self.scenario.add_plain_tag(supply, takes);
        self.scenario.images.push(ImageSpec {
            reference,
            policy: Some(0),
            pull: ImagePullPolicy::Always,
            place: Place::default(),
            priority: 0,
            secrets: [None; 2],
        });
        self
    }

    fn edit(mut self, edit: impl FnOnce(&mut Scenario)) -> Self {
        edit(&mut self.scenario);
        self
    }

    fn fault(mut self, at: u64, kind: Kind) -> Self {
        let at = Duration::from_secs(at);
        self.faults.push(Fault { at, kind });
        self
    }

    fn look(mut self, at: u64, look: fn(&World) -> Option<String>) -> Self {
        self.looks.push((at, look));
        self
    }

    fn play(self) -> Result<String, String> {
        let looks = self.looks;
        let live = |world: &mut World| {
            for (at, look) in &looks {
                world.pass(Duration::from_secs(*at))?;
                if let Some(wrong) = look(world) {
                    let text = format!("after {at} s: {wrong}");
                    return Err(crate::oracle::Violation::new("case", text));
                }
            }
            world.pass(CALM + Duration::from_millis(1))?;
            world.come_to_rest()
        };
        let outcome: Outcome = play(self.scenario, 0, Scale::USUAL, self.faults, 40, live);
        match outcome.violation {
            None => Ok(String::new()),
            Some(violation) => Err(format!(
                "{}: {}\n  {}",
                violation.rule,
                violation.text,
                outcome.lines.join("\n  ")
            )),
        }
    }
}

const SHORT: Duration = Duration::from_secs(1);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// The oracle's rule `backoff-image`: one refusal is enough while nobody has had the image.
fn hung() -> Result<String, String> {
    let hangs = Kind::HostTrouble {
        host: 0,
        trouble: Trouble::Hangs,
        lasts: secs(40),
    };
    let case = Case::new(4).image(Supply::Missing, SHORT);
    case.edit(|scenario| scenario.policies[0].max_nodes = 2)
        .fault(0, hangs)
        .play()
}

/// The oracle's rule `backoff-host`.
fn hanging_trial() -> Result<String, String> {
    let trouble = |trouble, lasts| Kind::HostTrouble {
        host: 0,
        trouble,
        lasts: secs(lasts),
    };
    Case::new(6)
        .image(Supply::Served, SHORT)
        .edit(|scenario| scenario.policies[0].max_nodes = 2)
        .fault(0, trouble(Trouble::Throttles, 3))
        .fault(3, trouble(Trouble::Hangs, 60))
        .play()
}

/// A node failed to ask for the tag, another one did, and the first one holds what it names. Then it loses the image.
fn current_again() -> Result<String, String> {
    let holds = |scenario: &mut Scenario| {
        let digest = scenario.tags[0].digest;
        for machine in &mut scenario.nodes {
            machine.held.push((0, digest));
        }
        scenario.policies[0].initial = secs(3_600);
        scenario.policies[0].max = secs(3_600);
    };
    let no_names = Kind::NoNameService {
        node: 0,
        lasts: secs(10),
    };
    // So that it is the other one that asks first.
    let comes_later = Kind::MachineGoesDown {
        node: 1,
        away: secs(8),
    };
    let all_gone = Kind::GarbageCollection {
        nodes_percent: 100,
        images_percent: 100,
    };
    Case::new(2)
        .image(Supply::Served, SHORT)
        .edit(holds)
        .fault(0, no_names)
        .fault(0, comes_later)
        .fault(30, all_gone)
        .look(90, World::unrest)
        .play()
}

/// What agents said of it before counts for nothing, so they have to say it again.
fn made_anew() -> Result<String, String> {
    Case::new(3)
        .image(Supply::Served, SHORT)
        .edit(|scenario| scenario.together = Duration::from_millis(100))
        .fault(60, Kind::ImageMadeAnew { image: 0 })
        .look(90, World::unrest)
        .play()
}

/// The oracle's rule `limit`.
fn lowered_limit() -> Result<String, String> {
    let mut case = Case::new(8)
        .image(Supply::Served, secs(6))
        .image(Supply::Served, secs(6))
        .edit(|scenario| {
            for machine in &mut scenario.nodes {
                machine.max_parallel = 2;
            }
        });
    let spec = PolicySpec {
        max_nodes: 1,
        ..case.scenario.policies[0]
    };
    case = case.fault(9, Kind::PolicyEdited { policy: 0, spec });
    case.play()
}

/// Two objects want one reference on different nodes, and the first one has no Secret for it.
fn lacks_the_secret() -> Result<String, String> {
    let apart = |scenario: &mut Scenario| {
        scenario.locks = vec![Some(100)];
        let mut other = scenario.images[0];
        other.secrets = [Some(0), None];
        for (pool, spec) in [(0, &mut scenario.images[0]), (1, &mut other)] {
            spec.place.pool = Some(pool);
        }
        scenario.images.push(other);
        scenario.nodes[2].spec.pool = 1;
        scenario.nodes[3].spec.pool = 1;
    };
    let case = Case::new(4).image(Supply::Served, SHORT).edit(apart);
    case.fault(0, Kind::WatchBreaks { kind: 0 })
        .look(200, |world| {
            let holds = |node: usize| world.machines[node].runtime.held.contains_key(&0);
            (!holds(2) || !holds(3)).then(|| "those with the Secret have nothing".to_owned())
        })
        .play()
}

/// Its back-off would last for an hour.
fn corrected() -> Result<String, String> {
    let lock = |scenario: &mut Scenario| {
        scenario.locks = vec![Some(100)];
        scenario.images[0].secrets = [Some(0), None];
        scenario.policies[0].initial = secs(3_600);
        scenario.policies[0].max = secs(3_600);
    };
    let wrong = Kind::SecretSpoilt {
        secret: 0,
        how: Spoilt::Wrong,
        lasts: secs(60),
    };
    Case::new(3)
        .image(Supply::Served, SHORT)
        .edit(lock)
        .fault(0, wrong)
        .look(59, |world| {
            let is_there = !world.machines[0].runtime.held.is_empty();
            is_there.then(|| "the registry was open".to_owned())
        })
        .look(70, World::unrest)
        .play()
}

/// The oracle's rule `truce`; people read why; afterwards it comes back.
fn fight() -> Result<String, String> {
    let fights = Kind::KubeletFights {
        node: 0,
        lasts: secs(100),
    };
    let says_why = |world: &World| {
        let status = world.api.images[&0].status.as_ref()?;
        let says = status.nodes.iter().any(|exception| {
            exception.node == node_name(0)
                && exception
                    .message
                    .contains("kubelet's image garbage collection")
        });
        (!says).then(|| format!("nobody is told: {:?}", status.nodes))
    };
    Case::new(2)
        .image(Supply::Served, SHORT)
        .fault(20, fights)
        .look(115, says_why)
        .play()
}

/// The oracle's rule `disk`.
fn full_disk() -> Result<String, String> {
    let fills = Kind::DiskFills {
        node: 0,
        percent: 64,
        lasts: secs(60),
    };
    let refuses = |world: &World| {
        let status = world.api.images[&0].status.as_ref()?;
        let reasons = status.nodes.iter().map(|exception| &exception.reason);
        let refuses = reasons.clone().any(|reason| reason == "InsufficientDisk");
        (!refuses).then(|| format!("{:?}", reasons.collect::<Vec<_>>()))
    };
    Case::new(2)
        .image(Supply::Served, SHORT)
        .fault(0, fills)
        .look(50, refuses)
        .look(120, World::unrest)
        .play()
}
