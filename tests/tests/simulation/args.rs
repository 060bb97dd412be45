//! The command line. It understands what `cargo test` passes on: words that choose tests by their names.

use clap::Parser;

/// Simulates whole clusters in one process, and checks that no rule of the design is ever broken.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Only tests whose names contain one of these words.
    pub(crate) filters: Vec<String>,
    /// Replays one seed, and shows the last things that happened.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// With --seed: only these of its faults, by their numbers.
    #[arg(long, value_name = "N,N", value_delimiter = ',', requires = "seed")]
    pub(crate) faults: Option<Vec<usize>>,
    /// With --seed: how many of the last lines to show.
    #[arg(long, value_name = "LINES", default_value_t = 60)]
    pub(crate) last: usize,
    /// Only looks for a seed that breaks this rule ("any" for all of them).
    #[arg(long, value_name = "RULE")]
    pub(crate) hunt: Option<String>,
    /// How many seeds the long run has.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    pub(crate) seeds: u64,
    /// The first seed of the long run.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) first: u64,
    /// How many nodes the large world has.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    pub(crate) nodes: usize,
    /// Understood and ignored, like the other switches that test programs know.
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    test_threads: Option<usize>,
}
