//! The program `drop-coordinator`.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use drop_coordinator::args::Args;
use tracing::error;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    drop_daemon::install_crypto_provider();
    if let Err(error) = args.log.init() {
        Args::command().error(ErrorKind::InvalidValue, error).exit();
    }
    drop_daemon::limits::raise_open_files();
    match drop_coordinator::run::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = format!("{error:#}"), "stopped");
            ExitCode::FAILURE
        }
    }
}
