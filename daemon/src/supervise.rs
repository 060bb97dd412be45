//! All tasks of a process in one place: none dies unseen.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tracing::{debug, warn};

/// The tasks of a process. Each is critical: if one ends before the process was told to stop, the process ends with an error
/// that names it.
#[derive(Debug, Default)]
pub struct Tasks {
    ending: JoinSet<anyhow::Result<()>>,
    endless: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, &'static str>,
}

impl Tasks {
    /// Starts a task that ends by itself once the process is told to stop.
    pub fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let handle = self.ending.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// Starts a task that never ends by itself: it runs until the others have ended.
    pub fn spawn_endless<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let handle = self.endless.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// Runs until `stop` turns true, then gives the tasks `grace` to end by themselves; those that do not are dropped.
    pub async fn run(mut self, stop: watch::Receiver<bool>, grace: Duration) -> anyhow::Result<()> {
        let mut told = stop.clone();
        let stopped = async {
            // An error means that the sender is gone, and with it the task that held it.
            let _ = told.wait_for(|stop| *stop).await;
        };
        let ended = tokio::select! {
            biased;
            Some(ended) = self.ending.join_next_with_id() => Some(ended),
            Some(ended) = self.endless.join_next_with_id() => Some(ended),
            () = stopped => None,
        };
        if let Some(ended) = ended {
            let (name, result) = named(&self.names, ended);
            // On another thread a task may see the stop, and end, before this one does.
            if *stop.borrow() {
                log_end(name, result);
            } else {
                result.map_err(|error| error.context(format!("task {name} failed")))?;
                anyhow::bail!("task {name} ended although nobody told it to");
            }
        }
        let ending = async {
            while let Some(ended) = self.ending.join_next_with_id().await {
                let (name, result) = named(&self.names, ended);
                log_end(name, result);
            }
        };
        if tokio::time::timeout(grace, ending).await.is_err() {
            debug!(tasks = self.ending.len(), "tasks dropped at the end");
        }
        Ok(())
    }
}

fn log_end(name: &'static str, result: anyhow::Result<()>) {
    match result {
        Ok(()) => debug!(task = name, "task ended"),
        Err(error) => warn!(
            task = name,
            error = format!("{error:#}"),
            "task failed while stopping"
        ),
    }
}

/// A panic is an error like another.
fn named(
    names: &HashMap<Id, &'static str>,
    ended: Result<(Id, anyhow::Result<()>), JoinError>,
) -> (&'static str, anyhow::Result<()>) {
    let (id, result) = ended.unwrap_or_else(|panic| (panic.id(), Err(panic.into())));
    (names.get(&id).copied().unwrap_or("unknown"), result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_ends_the_process_with_its_name() {
        let (_stop, stopped) = watch::channel(false);
        let mut tasks = Tasks::default();
        tasks.spawn_endless("idle", std::future::pending());
        tasks.spawn("watch nodes", async { Ok(()) });
        let error = tasks.run(stopped, Duration::ZERO).await.unwrap_err();
        assert!(error.to_string().contains("watch nodes"), "{error}");
    }

    #[tokio::test]
    async fn a_panic_is_named_too() {
        let (_stop, stopped) = watch::channel(false);
        let mut tasks = Tasks::default();
        tasks.spawn("state machine", async { panic!("index out of bounds") });
        let error = tasks.run(stopped, Duration::ZERO).await.unwrap_err();
        assert!(error.to_string().contains("state machine"), "{error:#}");
    }

    #[tokio::test]
    async fn a_failure_keeps_its_cause() {
        let (_stop, stopped) = watch::channel(false);
        let mut tasks = Tasks::default();
        tasks.spawn("server", async { anyhow::bail!("port taken") });
        let error = tasks.run(stopped, Duration::ZERO).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "task server failed: port taken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_for_the_grace_and_no_longer() {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Tasks::default();
        tasks.spawn("stubborn", std::future::pending());
        stop.send_replace(true);
        let began = tokio::time::Instant::now();
        tasks.run(stopped, Duration::from_secs(20)).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(20));
    }

    #[tokio::test]
    async fn a_task_that_ends_before_the_stop_is_seen_here_was_told_to() {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Tasks::default();
        tasks.spawn("probe server", async move {
            stop.send_replace(true);
            Ok(())
        });
        tasks.run(stopped, Duration::ZERO).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn endless_tasks_do_not_delay_the_end() {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Tasks::default();
        tasks.spawn_endless("signals", std::future::pending());
        let mut told = stopped.clone();
        tasks.spawn("server", async move {
            told.wait_for(|stop| *stop).await?;
            Ok(())
        });
        stop.send_replace(true);
        let began = tokio::time::Instant::now();
        tasks.run(stopped, Duration::from_secs(20)).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
