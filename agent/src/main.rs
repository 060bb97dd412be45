//! The program `drop-agent`.

use std::process::ExitCode;

use clap::Parser;
use drop_agent::args::{Cli, Command};
use drop_agent::bake::{self, Outcome};
use drop_agent::run;

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Run(args) => {
            args.log.init()?;
            run::run(*args).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Bake(args) => Ok(match bake::bake(&args.into()).await? {
            Outcome::Complete => ExitCode::SUCCESS,
            Outcome::Incomplete => ExitCode::from(1),
            Outcome::BadInput => ExitCode::from(2),
        }),
    }
}
