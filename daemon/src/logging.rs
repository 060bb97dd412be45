//! Structured logs on standard error.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// Flags of both daemons.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// Which log lines to write: a level, or levels by module (`info,drop_agent=debug`).
    #[arg(
        long,
        env = "RUST_LOG",
        default_value = "info",
        value_name = "FILTER",
        global = true
    )]
    pub log_filter: String,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true)]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl LogArgs {
    /// Starts logging. Fails if the filter does not parse or logging was started before.
    pub fn init(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(&self.log_filter)
            .map_err(|error| anyhow::anyhow!("--log-filter {:?}: {error}", self.log_filter))?;
        // Who meets a certificate that is not trusted says so, with the host; the verifier would say it without, as an error.
        let filter = filter.add_directive("rustls_platform_verifier=off".parse()?);
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr);
        let started = match self.log_format {
            LogFormat::Text => lines
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .try_init(),
            LogFormat::Json => lines.json().flatten_event(true).try_init(),
        };
        started.map_err(|error| anyhow::anyhow!("logging: {error}"))
    }
}
