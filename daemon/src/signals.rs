//! SIGTERM and SIGINT: the first begins an orderly stop, the second ends the process at once.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

/// Exit status of a process that a second signal ended: 128 + SIGTERM.
const SECOND_SIGNAL: i32 = 143;

/// Waits for signals for ever, and turns `stop` true on the first one.
pub async fn watch_signals(stop: watch::Sender<bool>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM handler")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT handler")?;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if stop.send_replace(true) {
            warn!("second signal, ends now");
            #[allow(clippy::exit)]
            std::process::exit(SECOND_SIGNAL);
        }
        info!("signal received, stops");
    }
}
