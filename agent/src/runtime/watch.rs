//! Watches whether the runtime answers, and says so when that changes.
//!
//! A refused connection is certain and counts at once. Silence is not: a node that unpacks a large layer may starve the runtime
//! for a while, so only several unanswered probes in a row count.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tracing::{info, warn};

use super::{Error, Runtime, platform};
use crate::node::Input;

/// Between two probes of a runtime that answers.
const CALM: Duration = Duration::from_secs(10);
/// Between the first probes of one that does not; doubles up to `SLOWEST`.
const FASTEST: Duration = Duration::from_millis(100);
const SLOWEST: Duration = Duration::from_secs(2);
/// Unanswered probes in a row that mean that it is away.
const SILENCES: u32 = 3;

/// Runs for as long as somebody listens. `suspicion` makes it probe at once: a call has just failed.
pub(super) async fn watch(runtime: Runtime, suspicion: Arc<Notify>, events: mpsc::Sender<Input>) {
    let mut said: Option<Result<String, String>> = None;
    let mut silences = 0;
    let mut wait = FASTEST;
    loop {
        let answer = runtime.version().await;
        silences = match answer {
            Err(Error::Timeout(_)) => silences + 1,
            _ => 0,
        };
        let is_up = answer.is_ok();
        let certain = !matches!(answer, Err(Error::Timeout(_))) || silences >= SILENCES;
        let answer = answer.map_err(|error| error.to_string());
        if certain && said.as_ref() != Some(&answer) {
            let event = event(&answer);
            said = Some(answer);
            if events.send(event).await.is_err() {
                return;
            }
        }
        let pause = if is_up { CALM } else { wait };
        wait = if is_up {
            FASTEST
        } else {
            (wait * 2).min(SLOWEST)
        };
        // Both may be dropped unfinished: a lost suspicion only means that the next probe comes at its time.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = suspicion.notified(), if is_up => {}
        }
    }
}

fn event(answer: &Result<String, String>) -> Input {
    match answer {
        Ok(version) => {
            let platform = platform();
            info!(runtime = version, platform, "runtime answers");
            Input::RuntimeUp {
                runtime: version.clone(),
                platform,
            }
        }
        Err(reason) => {
            warn!(reason, "runtime does not answer");
            Input::RuntimeDown {
                message: reason.clone(),
            }
        }
    }
}
