//! Waiting for a condition: polls until it holds or a deadline has passed, never a fixed sleep.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout_at};

/// Time between two looks. Short enough that a wait costs no test noticeable time.
const STEP: Duration = Duration::from_millis(25);

/// Asks `probe` until it answers `Ok`. Its `Err` means "not yet, because ..."; the last one is the cause of the failure.
pub async fn until<T>(
    what: impl Display,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut last = anyhow!("no answer yet");
    while let Ok(answer) = timeout_at(deadline, probe()).await {
        match answer {
            Ok(value) => return Ok(value),
            Err(not_yet) => last = not_yet,
        }
        if Instant::now() + STEP > deadline {
            break;
        }
        sleep(STEP).await;
    }
    Err(last.context(format!("waited {within:?} for {what}")))
}

/// Looks for `long` and fails as soon as `probe` answers `Err`: for things that must not happen.
pub async fn holds(
    what: impl Display,
    long: Duration,
    mut probe: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let deadline = Instant::now() + long;
    while Instant::now() < deadline {
        probe()
            .await
            .map_err(|broken| broken.context(format!("did not hold for {long:?}: {what}")))?;
        sleep(STEP).await;
    }
    Ok(())
}
