//! The program `image-factory`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use drop_factory::args::Cli;
use drop_factory::run::{Outcome, Output, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Fails only if there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // These streams take colours out where nobody sees them.
    let mut out = anstream::stdout().lock();
    let mut err = anstream::stderr().lock();
    let mut output = Output {
        out: &mut out,
        err: &mut err,
    };
    match run(&cli.command, &mut output) {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Problem) => ExitCode::from(1),
        Err(error) => {
            // If even this cannot be said, the exit code still says it.
            let _ = writeln!(err, "error: {error:#}");
            ExitCode::from(1)
        }
    }
}
