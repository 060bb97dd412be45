//! What goes wrong, and when: a list made from the seed before the world begins, so that a run can be repeated with a part of it.
//!
//! A new kind of fault is one more variant here, one arm in [`draw`], and one in `world/fault.rs`.

use std::time::Duration;

use crate::agenda::Answer;
use crate::dice::Dice;
use crate::objects::{ImageSpec, NodeSpec, PolicySpec};
use crate::registry::Trouble;
use crate::scenario::{Scale, Scenario};

/// Faults begin before this.
const LAST: Duration = Duration::from_secs(240);
/// By then all of them are over.
pub(crate) const CALM: Duration = Duration::from_secs(330);
const LONGEST_SECS: u64 = 80;

#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) at: Duration,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    CoordinatorDies {
        silently: bool,
        away: Duration,
    },
    CoordinatorStops {
        away: Duration,
    },
    AgentDies {
        node: usize,
        away: Duration,
    },
    AgentStops {
        node: usize,
    },
    MachineGoesDown {
        node: usize,
        away: Duration,
    },
    SessionBreaks {
        node: usize,
        agent_after: Duration,
        coordinator_after: Duration,
    },
    AllSessionsBreak,
    CutOff {
        node: usize,
        lasts: Duration,
    },
    SlowLine {
        node: usize,
        most: Duration,
        lasts: Duration,
    },
    RuntimeRestarts {
        node: usize,
        away: Duration,
    },
    RuntimeListsNothing {
        node: usize,
        lasts: Duration,
    },
    RuntimeLies {
        node: usize,
        lasts: Duration,
    },
    GarbageCollection {
        nodes_percent: u64,
        images_percent: u64,
    },
    DiskFull {
        node: usize,
        lasts: Duration,
    },
    NoNameService {
        node: usize,
        lasts: Duration,
    },
    NodeJoins {
        spec: NodeSpec,
    },
    NodeLeaves {
        node: usize,
        goes_down: bool,
        back: Option<Duration>,
    },
    NodeChanges {
        node: usize,
        spec: NodeSpec,
    },
    ImageEdited {
        image: usize,
        spec: ImageSpec,
    },
    ImageDeleted {
        image: usize,
    },
    ImageMadeAnew {
        image: usize,
    },
    PolicyEdited {
        policy: usize,
        spec: PolicySpec,
    },
    PolicyDeleted {
        policy: usize,
        back: Option<Duration>,
    },
    TagMoves {
        reference: usize,
    },
    TagGoesBack {
        reference: usize,
    },
    TagGone {
        reference: usize,
        lasts: Duration,
    },
    HostTrouble {
        host: usize,
        trouble: Trouble,
        lasts: Duration,
    },
    HostSlow {
        host: usize,
        factor: u32,
        lasts: Duration,
    },
    WritesFail {
        answer: Answer,
        lasts: Duration,
    },
    ApiServerAway {
        lasts: Duration,
    },
    WatchesLag {
        most: Duration,
        lasts: Duration,
    },
    WatchBreaks {
        kind: usize,
    },
    NodeClockJumps {
        node: usize,
        ahead: Duration,
    },
    WallClockJumps {
        millis: i64,
    },
}

/// The faults of a seed, in order.
pub(crate) fn faults(seed: u64, scale: &Scale, scenario: &Scenario) -> Vec<Fault> {
    let mut dice = Dice::new(seed, 2);
    let count = dice.below(scale.most_faults + 1);
    let mut faults: Vec<Fault> = (0..count)
        .map(|_| {
            let at = dice.millis(500, LAST.as_millis() as u64);
            let kind = draw(&mut dice, scenario);
            Fault { at, kind }
        })
        .collect();
    faults.sort_by_key(|fault| fault.at);
    faults
}

// One arm for each kind of fault.
#[allow(clippy::too_many_lines)]
fn draw(dice: &mut Dice, scenario: &Scenario) -> Kind {
    let node = dice.index(scenario.nodes.len());
    let image = dice.index(scenario.images.len());
    let policy = dice.index(scenario.policies.len());
    let reference = dice.index(scenario.tags.len());
    let host = dice.index(scenario.hosts);
    let lasts = dice.secs(1, LONGEST_SECS);
    let away = dice.millis(50, 40_000);
    let maybe_back = dice.chance(70).then_some(lasts);
    match dice.below(40) {
        0..3 => Kind::CoordinatorDies {
            silently: dice.chance(30),
            away,
        },
        3 => Kind::CoordinatorStops { away },
        4 => Kind::AgentDies { node, away },
        5 => Kind::AgentStops { node },
        6 => Kind::MachineGoesDown { node, away: lasts },
        7..9 => Kind::SessionBreaks {
            node,
            agent_after: dice.millis(1, 20_000),
            coordinator_after: dice.millis(1, 20_000),
        },
        9 => Kind::AllSessionsBreak,
        10 => Kind::CutOff { node, lasts },
        11 => Kind::SlowLine {
            node,
            most: dice.millis(100, 10_000),
            lasts,
        },
        12 => Kind::RuntimeRestarts { node, away },
        13 => Kind::RuntimeListsNothing { node, lasts },
        14 => Kind::RuntimeLies { node, lasts },
        15..17 => Kind::GarbageCollection {
            nodes_percent: dice.pick(&[5, 30, 100]),
            images_percent: dice.pick(&[10, 50, 100]),
        },
        17 => Kind::DiskFull { node, lasts },
        18 => Kind::NoNameService { node, lasts },
        19 => Kind::NodeJoins {
            spec: scenario.node_spec(dice),
        },
        20 => Kind::NodeLeaves {
            node,
            goes_down: dice.chance(70),
            back: maybe_back,
        },
        21 => Kind::NodeChanges {
            node,
            spec: scenario.node_spec(dice),
        },
        22..25 => Kind::ImageEdited {
            image,
            spec: scenario.image_spec(image, dice),
        },
        25 => Kind::ImageDeleted { image },
        26 => Kind::ImageMadeAnew { image },
        27 => Kind::PolicyEdited {
            policy,
            spec: scenario.policy_spec(dice),
        },
        28 => Kind::PolicyDeleted {
            policy,
            back: maybe_back,
        },
        29 => Kind::TagMoves { reference },
        30 => Kind::TagGoesBack { reference },
        31 => Kind::TagGone { reference, lasts },
        32..34 => Kind::HostTrouble {
            host,
            trouble: dice.pick(&[
                Trouble::Throttles,
                Trouble::Fails,
                Trouble::Refuses,
                Trouble::Unresolved,
                Trouble::Hangs,
            ]),
            lasts,
        },
        34 => Kind::HostSlow {
            host,
            factor: dice.pick(&[3, 10, 40]),
            lasts,
        },
        35 => Kind::WritesFail {
            answer: dice.pick(&[Answer::Refused, Answer::Unheard]),
            lasts,
        },
        36 => Kind::ApiServerAway { lasts },
        37 => Kind::WatchesLag {
            most: dice.millis(100, 5_000),
            lasts,
        },
        38 => Kind::WatchBreaks {
            kind: dice.index(3),
        },
        _ if dice.chance(50) => Kind::NodeClockJumps {
            node,
            ahead: lasts * 10,
        },
        _ => Kind::WallClockJumps {
            millis: i64::from(dice.below(200_000) as u32) - 100_000,
        },
    }
}
