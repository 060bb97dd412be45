//! The deterministic simulation: the real coordinator core and the real agent cores in a model world, under a virtual clock,
//! with faults from a seed, and an oracle that judges every step.
//!
//!   cargo test -p drop-tests --test simulation                       all of it
//!   cargo test -p drop-tests --test simulation -- --seed 7           one seed again, with its last events
//!   cargo test -p drop-tests --test simulation -- --seeds 20000      more seeds

// A clock of the simulation that goes back is a defect of the simulation, and may end it.
#![allow(clippy::unchecked_time_subtraction)]
// One arm for each kind of fault and of news reads best, whatever stands in it.
#![allow(clippy::collapsible_match, clippy::needless_pass_by_value)]

mod agenda;
mod args;
mod cases;
mod dice;
mod faults;
mod named;
mod objects;
mod oracle;
mod registry;
mod rest;
mod run;
mod scenario;
mod secrets;
mod shrink;
mod tell;
mod trace;
mod world;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    match (args.seed, &args.hunt) {
        (Some(seed), _) => tell::replay(seed, &args),
        (None, Some(rule)) => tell::hunt(rule, &args),
        (None, None) => cases::run_all(&args),
    }
}
