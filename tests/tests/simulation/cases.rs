//! The tests: the cases written by hand, the long run over many seeds, that a seed repeats itself, that faults shrink, and one
//! large world.

use std::process::ExitCode;

use crate::args::Args;
use crate::faults::Fault;
use crate::named::CASES;
use crate::run::{faults_of, run, run_many};
use crate::scenario::Scale;
use crate::shrink::minimal;
use crate::tell::{Test, explain, progress, run_tests};

const LONG: &[Test] = &[
    ("the_same_seed_gives_the_same_events", same_events),
    ("a_failing_fault_list_shrinks_to_its_cause", shrinks),
    ("no_rule_is_broken_in_any_seed", every_seed),
    ("a_large_cluster_with_fifty_images_comes_to_rest", large),
];

pub(crate) fn run_all(args: &Args) -> ExitCode {
    let tests: Vec<Test> = CASES.iter().chain(LONG).copied().collect();
    run_tests(&tests, args)
}

fn same_events(_: &Args) -> Result<String, String> {
    for seed in [1, 2, 3] {
        let faults = faults_of(seed, &Scale::USUAL);
        let first = run(seed, Scale::USUAL, faults.clone(), 0);
        // Whether somebody reads along must not matter either.
        let second = run(seed, Scale::USUAL, faults, 10);
        if (first.hash, first.steps) != (second.hash, second.steps) {
            return Err(format!("seed {seed}: {first:?} {second:?}"));
        }
    }
    Ok(String::new())
}

fn shrinks(_: &Args) -> Result<String, String> {
    for cause in [vec![3], vec![0, 17], vec![4, 5, 19], vec![]] {
        let found = minimal(20, |kept| cause.iter().all(|index| kept.contains(index)));
        if found != cause {
            return Err(format!("{found:?} is not {cause:?}"));
        }
    }
    Ok(String::new())
}

fn every_seed(args: &Args) -> Result<String, String> {
    let seeds = args.first..args.first + args.seeds;
    let told = |runs| progress(&format!("{runs} of {} seeds", args.seeds));
    let sum = run_many(seeds, Scale::USUAL, |failures| failures.len() >= 5, told);
    if sum.failures.is_empty() {
        return Ok(format!(
            "{} seeds, {} steps, {} pulls, at rest {:.0} s after the last fault at the latest, {:.1} s",
            sum.runs,
            sum.steps,
            sum.pulls,
            sum.slowest_rest.as_secs_f64(),
            sum.took.as_secs_f64()
        ));
    }
    let all = sum.failures.iter();
    let all: Vec<String> = all
        .map(|(seed, v)| format!("{seed} {}: {}", v.rule, v.text))
        .collect();
    let (seed, violation) = &sum.failures[0];
    Err(format!(
        "{}\n\n{}",
        explain(*seed, violation),
        all.join("\n")
    ))
}

fn large(args: &Args) -> Result<String, String> {
    let begin = std::time::Instant::now();
    let none: Vec<Fault> = Vec::new();
    let scale = Scale {
        nodes: args.nodes,
        ..Scale::LARGE
    };
    let outcome = run(0, scale, none, 0);
    match outcome.violation {
        Some(violation) => Err(format!("{}: {}", violation.rule, violation.text)),
        None => Ok(format!(
            "{} nodes, {} steps, {} pulls, {} status writes in {:.0} s of virtual time, {:.1} s",
            args.nodes,
            outcome.steps,
            outcome.pulls,
            outcome.writes,
            outcome.lasted.as_secs_f64(),
            begin.elapsed().as_secs_f64()
        )),
    }
}
