//! Which faults a seed brings, and how bad each is.

use crate::agenda::Answer;
use crate::dice::Dice;
use crate::faults::{Kind, Spoilt};
use crate::registry::Trouble;
use crate::scenario::Scenario;
use crate::secrets::SECRETS;

const LONGEST_SECS: u64 = 80;

// One arm for each kind of fault.
#[allow(clippy::too_many_lines)]
pub(super) fn draw(dice: &mut Dice, scenario: &Scenario) -> Kind {
    let node = dice.index(scenario.nodes.len());
    let image = dice.index(scenario.images.len());
    let policy = dice.index(scenario.policies.len());
    let reference = dice.index(scenario.tags.len());
    let host = dice.index(scenario.hosts);
    let lasts = dice.secs(1, LONGEST_SECS);
    let away = dice.millis(50, 40_000);
    let maybe_back = dice.chance(70).then_some(lasts);
    let replica = dice.chance(40).then(|| dice.index(3));
    match dice.below(54) {
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
        39..41 => Kind::ReplicaPauses {
            replica,
            lasts: dice.secs(1, 45),
        },
        41..43 => Kind::ReplicaCutOff { replica, lasts },
        43 if dice.chance(50) => Kind::LeaseDeleted,
        43 => Kind::ReplicaClockJumps {
            replica,
            millis: i64::from(dice.below(200_000) as u32) - 100_000,
        },
        44..46 => Kind::KubeletFights { node, lasts },
        46 => Kind::DiskFills {
            node,
            percent: dice.below(60) + 40,
            lasts,
        },
        47 => Kind::DiskPressure { node, lasts },
        48..50 => Kind::SecretSpoilt {
            secret: dice.index(SECRETS),
            how: dice.pick(&[
                Spoilt::Wrong,
                Spoilt::Wrong,
                Spoilt::Broken,
                Spoilt::Deleted,
            ]),
            lasts,
        },
        50 => Kind::SecretsHidden { lasts },
        51..53 => Kind::PasswordChanges {
            host,
            password: 1_000 + dice.below(1_000),
            lasts,
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
