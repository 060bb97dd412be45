//! The program `drop-agent`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use drop_agent::args::{BakeArgs, Cli, Command};
use drop_agent::bake::{self, Outcome};
use drop_agent::run;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Run(args) => run(*args).await,
        Command::Bake(args) => bake(*args).await,
    };
    ended.unwrap_or_else(|error| {
        // If even this cannot be said, the exit code still says it.
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(args: drop_agent::args::RunArgs) -> anyhow::Result<ExitCode> {
    args.log.init()?;
    run::run(args).await?;
    Ok(ExitCode::SUCCESS)
}

async fn bake(args: BakeArgs) -> anyhow::Result<ExitCode> {
    let options = args
        .try_into()
        .context("--image-credential-provider-config")?;
    Ok(exit_code(bake::bake(&options).await?))
}

fn exit_code(outcome: Outcome) -> ExitCode {
    ExitCode::from(match outcome {
        Outcome::Complete => 0,
        Outcome::Incomplete => 1,
        Outcome::BadInput => 2,
    })
}
