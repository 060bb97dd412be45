//! What goes wrong, and when: a list made from the seed before the world begins, so that a run can be repeated with a part of it.
//!
//! A new kind of fault is one more variant here, one arm in `draw`, and one in `world/fault.rs`.

mod draw;

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
    /// Without a number it is the leader; so below.
    ReplicaPauses {
        replica: Option<usize>,
        lasts: Duration,
    },
    ReplicaCutOff {
        replica: Option<usize>,
        lasts: Duration,
    },
    ReplicaClockJumps {
        replica: Option<usize>,
        millis: i64,
    },
    LeaseDeleted,
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
    /// It removes what no pod uses again and again.
    KubeletFights {
        node: usize,
        lasts: Duration,
    },
    /// With other things than images.
    DiskFills {
        node: usize,
        percent: u64,
        lasts: Duration,
    },
    DiskPressure {
        node: usize,
        lasts: Duration,
    },
    SecretSpoilt {
        secret: usize,
        how: Spoilt,
        lasts: Duration,
    },
    SecretsHidden {
        lasts: Duration,
    },
    /// Of a registry host; its Secret is corrected later.
    PasswordChanges {
        host: usize,
        password: u64,
        lasts: Duration,
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

/// What became of a Secret.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spoilt {
    Wrong,
    Broken,
    Deleted,
}

/// The faults of a seed, in order.
pub(crate) fn faults(seed: u64, scale: &Scale, scenario: &Scenario) -> Vec<Fault> {
    let mut dice = Dice::new(seed, 2);
    let count = dice.below(scale.most_faults + 1);
    let mut faults: Vec<Fault> = (0..count)
        .map(|_| {
            let at = dice.millis(500, LAST.as_millis() as u64);
            let kind = draw::draw(&mut dice, scenario);
            Fault { at, kind }
        })
        .collect();
    faults.sort_by_key(|fault| fault.at);
    faults
}
