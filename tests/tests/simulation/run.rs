//! One run of a world, and many of them at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::faults::{CALM, Fault, faults};
use crate::oracle::{Verdict, Violation};
use crate::scenario::{Scale, Scenario};
use crate::trace::Trace;
use crate::world::World;

/// Between two looks at the coordinator's own count of grants.
const LOOK: Duration = Duration::from_secs(10);

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    /// Equal runs have equal ones.
    pub(crate) hash: u64,
    pub(crate) steps: u64,
    pub(crate) pulls: u64,
    pub(crate) writes: u64,
    /// Virtual time.
    pub(crate) lasted: Duration,
    /// How long after the last fault all was as it should be.
    pub(crate) rested_after: Duration,
    /// The last things that happened, if they were kept.
    pub(crate) lines: Vec<String>,
}

/// The faults that belong to a seed.
pub(crate) fn faults_of(seed: u64, scale: &Scale) -> Vec<Fault> {
    faults(seed, scale, &Scenario::new(seed, scale))
}

/// Runs a seed's world with these faults, and keeps the last `lines` in words.
pub(crate) fn run(seed: u64, scale: Scale, faults: Vec<Fault>, lines: usize) -> Outcome {
    let is_undisturbed = faults.is_empty();
    let scenario = Scenario::new(seed, &scale);
    play(scenario, seed, scale, faults, lines, |world| {
        live(world, is_undisturbed)
    })
}

/// Runs a world as `live` says.
pub(crate) fn play(
    scenario: Scenario,
    seed: u64,
    scale: Scale,
    faults: Vec<Fault>,
    lines: usize,
    live: impl FnOnce(&mut World) -> Verdict,
) -> Outcome {
    let trace = if lines == 0 {
        Trace::silent()
    } else {
        Trace::keeping(lines)
    };
    let mut world = World::new(scenario, seed, scale, faults, trace);
    let lived = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    let violation = match lived {
        Ok(verdict) => verdict.err(),
        Err(panic) => Some(Violation::new("panic", words(panic.as_ref()))),
    };
    Outcome {
        violation,
        hash: world.trace.hash(),
        steps: world.steps,
        pulls: world.pulls,
        writes: world.writes,
        lasted: world.agenda.now,
        rested_after: world.rested_after,
        lines: world.trace.lines().cloned().collect(),
    }
}

fn live(world: &mut World, is_undisturbed: bool) -> Verdict {
    if !is_undisturbed {
        while world.agenda.now < CALM {
            world.pass(world.agenda.now + LOOK)?;
            world.counts_no_dead_grants()?;
            world.oracle.is_led_soon(world.agenda.now)?;
        }
        world.pass(CALM + Duration::from_millis(1))?;
    }
    world.come_to_rest()
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

/// What came of many runs.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) runs: u64,
    pub(crate) steps: u64,
    pub(crate) pulls: u64,
    /// The seeds that failed, in order.
    pub(crate) failures: Vec<(u64, Violation)>,
    pub(crate) slowest_rest: Duration,
    pub(crate) took: Duration,
}

/// Runs seeds on all cores; `told` hears how far it is about every five seconds. Ends early once it `is_enough`.
pub(crate) fn run_many(
    seeds: std::ops::Range<u64>,
    scale: Scale,
    is_enough: impl Fn(&[(u64, Violation)]) -> bool + Sync,
    told: impl Fn(u64) + Sync,
) -> Sum {
    let begin = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let is_over = AtomicBool::new(false);
    let sums = std::sync::Mutex::new(Sum::default());
    let last_told = AtomicU64::new(0);
    let work = || {
        while !is_over.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = run(seed, scale, faults_of(seed, &scale), 0);
            let Ok(mut sum) = sums.lock() else { return };
            sum.runs += 1;
            sum.steps += outcome.steps;
            sum.pulls += outcome.pulls;
            sum.slowest_rest = sum.slowest_rest.max(outcome.rested_after);
            if let Some(violation) = outcome.violation {
                sum.failures.push((seed, violation));
                if is_enough(&sum.failures) {
                    is_over.store(true, Ordering::Relaxed);
                }
            }
            let runs = sum.runs;
            drop(sum);
            let fives = begin.elapsed().as_secs() / 5;
            if last_told.swap(fives, Ordering::Relaxed) != fives {
                told(runs);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });
    let mut sum = sums.into_inner().unwrap_or_default();
    sum.failures.sort_by_key(|(seed, _)| *seed);
    sum.took = begin.elapsed();
    sum
}
