//! What people read: results in the form of `cargo test`, and failures with all that is needed to repeat them.

// A test program's output is its purpose.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::Instant;

use crate::args::Args;
use crate::faults::Fault;
use crate::oracle::Violation;
use crate::run::{Outcome, faults_of, run, run_many};
use crate::scenario::Scale;
use crate::shrink::shrink;

/// A test by its name.
pub(crate) type Test = (&'static str, fn(&Args) -> Result<String, String>);

/// Runs those tests that a filter names, and prints results as `cargo test` does.
pub(crate) fn run_tests(tests: &[Test], args: &Args) -> ExitCode {
    let is_chosen = |name: &str| {
        args.filters.is_empty() || args.filters.iter().any(|filter| name.contains(filter))
    };
    let chosen: Vec<&Test> = tests.iter().filter(|(name, _)| is_chosen(name)).collect();
    println!("\nrunning {} tests", chosen.len());
    let begin = Instant::now();
    let mut failures = Vec::new();
    for (name, test) in &chosen {
        match test(args) {
            Ok(remark) if remark.is_empty() => println!("test {name} ... ok"),
            Ok(remark) => println!("test {name} ... ok ({remark})"),
            Err(why) => {
                println!("test {name} ... FAILED");
                failures.push((name, why));
            }
        }
    }
    for (name, why) in &failures {
        println!("\n---- {name} ----\n{why}");
    }
    let word = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        chosen.len() - failures.len(),
        failures.len(),
        tests.len() - chosen.len(),
        begin.elapsed().as_secs_f64()
    );
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Says how far a long test is.
pub(crate) fn progress(text: &str) {
    println!("     {text}");
}

/// `--seed`: one world again.
pub(crate) fn replay(seed: u64, args: &Args) -> ExitCode {
    let all = faults_of(seed, &Scale::USUAL);
    let chosen: Vec<usize> = args
        .faults
        .clone()
        .unwrap_or_else(|| (0..all.len()).collect());
    let part: Vec<Fault> = chosen
        .iter()
        .filter_map(|index| all.get(*index).cloned())
        .collect();
    let outcome = run(seed, Scale::USUAL, part, args.last);
    for line in &outcome.lines {
        println!("{line}");
    }
    println!("\nfaults:\n{}", list(&all, &chosen));
    println!(
        "{} steps, {} pulls, {} status writes in {:.0} s; at rest {:.0} s after the last fault; trace {:016x}",
        outcome.steps,
        outcome.pulls,
        outcome.writes,
        outcome.lasted.as_secs_f64(),
        outcome.rested_after.as_secs_f64(),
        outcome.hash
    );
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(Violation { rule, text }) => {
            println!("seed {seed} breaks the rule {rule}: {text}");
            ExitCode::FAILURE
        }
    }
}

/// `--hunt`: whether any seed breaks a rule.
pub(crate) fn hunt(rule: &str, args: &Args) -> ExitCode {
    let breaks = |(_, violation): &&(u64, Violation)| rule == "any" || violation.rule == rule;
    let seeds = args.first..args.first + args.seeds;
    let is_enough = |failures: &[(u64, Violation)]| failures.iter().any(|failure| breaks(&failure));
    let sum = run_many(seeds, Scale::USUAL, is_enough, |_| ());
    let Some((seed, violation)) = sum.failures.iter().find(breaks) else {
        return ExitCode::SUCCESS;
    };
    println!(
        "seed {seed} breaks the rule {}: {}",
        violation.rule, violation.text
    );
    ExitCode::FAILURE
}

/// A failure with the smallest fault list that shows it.
pub(crate) fn explain(seed: u64, violation: &Violation) -> String {
    let all = faults_of(seed, &Scale::USUAL);
    progress(&format!(
        "seed {seed} breaks the rule {}, looking for its cause",
        violation.rule
    ));
    let kept = shrink(seed, Scale::USUAL, &all, violation.rule);
    let part = kept.iter().map(|index| all[*index].clone()).collect();
    let outcome: Outcome = run(seed, Scale::USUAL, part, 25);
    let numbers: Vec<String> = kept.iter().map(ToString::to_string).collect();
    let violation = outcome.violation.as_ref().unwrap_or(violation);
    format!(
        "seed {seed} breaks the rule {}: {}\n{} of its {} faults are enough:\n{}the last events:\n  {}\nagain: cargo test -p drop-tests --test simulation -- --seed {seed} --faults {}",
        violation.rule,
        violation.text,
        kept.len(),
        all.len(),
        list(&all, &kept),
        outcome.lines.join("\n  "),
        numbers.join(",")
    )
}

fn list(all: &[Fault], chosen: &[usize]) -> String {
    let line = |index: &usize| {
        let fault = all.get(*index)?;
        Some(format!(
            "  {index:>2} {:>9.3} s {:?}\n",
            fault.at.as_secs_f64(),
            fault.kind
        ))
    };
    chosen.iter().filter_map(line).collect()
}
