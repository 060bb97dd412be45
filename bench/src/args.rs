//! The command line of `drop-bench`, which `hack/bench` passes on.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

/// Measures drop against its targets on this machine.
#[derive(Clone, Debug, Parser)]
#[command(name = "drop-bench")]
pub(crate) struct Args {
    /// 200 agents and few repetitions: under two minutes.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Also writes the figures as JSON into this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Also writes the figures as a page into this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// Only the figures of one scene.
    #[arg(long, value_enum)]
    pub(crate) scene: Option<Scene>,
    /// Another fleet than the usual ones.
    #[arg(long, value_name = "N")]
    pub(crate) agents: Option<usize>,
    /// Images for `--agents`.
    #[arg(long, value_name = "N", default_value_t = 20, requires = "agents")]
    pub(crate) images: usize,
    /// What `hack/bench` does not call.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Where figures are taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Scene {
    /// One real containerd with a real agent.
    Node,
    /// A swarm of agents with simulated runtimes.
    Fleet,
    /// A real registry that is scanned.
    Registry,
}

/// Further uses of the program.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Many agents in one process; started and told what to do by the benchmark itself.
    Swarm(SwarmArgs),
    /// Drives the coordinator's state machine alone, without any I/O: for a profiler.
    Core(CoreArgs),
}

/// Flags of `swarm`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SwarmArgs {
    /// How many.
    #[arg(long)]
    pub(crate) agents: usize,
    /// The coordinator's URL.
    #[arg(long)]
    pub(crate) coordinator: String,
    /// Where each agent's token is, and the certificate of the coordinator's authority.
    #[arg(long)]
    pub(crate) secrets: PathBuf,
}

/// Flags of `core`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CoreArgs {
    /// Nodes with an agent each.
    #[arg(long, default_value_t = 5_000)]
    pub(crate) agents: u64,
    /// CachedImages, all wanted on all nodes.
    #[arg(long, default_value_t = 50)]
    pub(crate) images: u64,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Effort {
    Quick,
    Full,
}

impl Args {
    pub(crate) fn effort(&self) -> Effort {
        if self.quick {
            Effort::Quick
        } else {
            Effort::Full
        }
    }
}

impl Effort {
    /// Repetitions of which the median counts.
    pub(crate) fn repetitions(self) -> usize {
        match self {
            Self::Quick => 5,
            Self::Full => 20,
        }
    }

    /// Repetitions of what takes seconds each.
    pub(crate) fn rounds(self) -> usize {
        match self {
            Self::Quick => 2,
            Self::Full => 5,
        }
    }

    /// Tags of the registry that is scanned.
    pub(crate) fn tags(self) -> usize {
        match self {
            Self::Quick => 100,
            Self::Full => 500,
        }
    }

    /// How many of them skopeo inspects.
    pub(crate) fn sample(self) -> usize {
        match self {
            Self::Quick => 5,
            Self::Full => 20,
        }
    }

    /// How long things at rest are watched.
    pub(crate) fn rest(self) -> Duration {
        match self {
            Self::Quick => Duration::from_secs(15),
            Self::Full => Duration::from_secs(60),
        }
    }
}
