//! All tasks of a process in one place: none dies unseen.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

/// The tasks of a process. Each is critical: if one ends before the process was told to stop, the process ends with an error
/// that names it.
#[derive(Debug, Default)]
pub struct Tasks {
    ending: JoinSet<Ended>,
    endless: JoinSet<Ended>,
}

type Ended = (&'static str, anyhow::Result<()>);

impl Tasks {
    /// Starts a task that ends by itself once the process is told to stop.
    pub fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.ending.spawn(async move { (name, task.await) });
    }

    /// Starts a task that never ends by itself: it runs until the others have ended.
    pub fn spawn_endless<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.endless.spawn(async move { (name, task.await) });
    }

    /// Runs until `stop` turns true, then gives the tasks `grace` to end by themselves; those that do not are dropped.
    pub async fn run(
        mut self,
        mut stop: watch::Receiver<bool>,
        grace: Duration,
    ) -> anyhow::Result<()> {
        let stopped = async {
            // An error means that the sender is gone, and with it the task that held it.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        let ended = tokio::select! {
            biased;
            () = stopped => None,
            Some(ended) = self.ending.join_next() => Some(ended),
            Some(ended) = self.endless.join_next() => Some(ended),
        };
        if let Some(ended) = ended {
            let (name, result) = ended?;
            result.map_err(|error| error.context(format!("task {name} failed")))?;
            anyhow::bail!("task {name} ended although nobody told it to");
        }
        let ending = async {
            while let Some(ended) = self.ending.join_next().await {
                match ended {
                    Ok((name, Ok(()))) => debug!(task = name, "task ended"),
                    Ok((name, Err(error))) => warn!(
                        task = name,
                        error = format!("{error:#}"),
                        "task failed while stopping"
                    ),
                    Err(error) => warn!(error = %error, "task panicked while stopping"),
                }
            }
        };
        if tokio::time::timeout(grace, ending).await.is_err() {
            debug!(tasks = self.ending.len(), "tasks dropped at the end");
        }
        Ok(())
    }
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
