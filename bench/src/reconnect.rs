//! All agents come at once: after every connection broke, and after the coordinator was killed.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use drop_tests::coordinator::USER;
use drop_tests::demo::screen::Screen;
use drop_tests::wait;
use jiff::Timestamp;

use crate::figure::{Figure, Unit};
use crate::fleet::{Fleet, note};
use crate::process::usage;

/// What a storm may still move shows within this time: longer than the grace after which a lost node is shown.
const AFTERMATH: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) async fn measure(fleet: &mut Fleet, screen: &mut Screen) -> Result<Vec<Figure>> {
    let mut figures = storm(fleet, "all connections break").await?;
    screen.change(&note("all agents reconnected".to_owned()));
    fleet.coordinator.kill();
    fleet.coordinator.process().restart()?;
    figures.extend(storm_after_kill(fleet).await?);
    screen.change(&note("all agents found the new coordinator".to_owned()));
    Ok(figures)
}

async fn storm(fleet: &mut Fleet, what: &str) -> Result<Vec<Figure>> {
    let begin = Instant::now();
    let mark = Timestamp::now();
    let flaps = fleet.readiness.flaps();
    fleet.swarm.reset().await?;
    let former = fleet.swarm.report().await?.sessions;
    let cpu = usage(fleet.coordinator_pid()?)?.cpu;
    fleet.swarm.hang_up().await?;
    settled(fleet, former).await?;
    let took = begin.elapsed();
    judge(fleet, what, took, mark, flaps, cpu).await
}

async fn storm_after_kill(fleet: &mut Fleet) -> Result<Vec<Figure>> {
    let begin = Instant::now();
    let mark = Timestamp::now();
    let flaps = fleet.readiness.flaps();
    fleet.swarm.reset().await?;
    let former = fleet.swarm.report().await?.sessions;
    fleet.coordinator.wait_ready().await?;
    settled(fleet, former).await?;
    let took = begin.elapsed();
    judge(fleet, "coordinator is killed", took, mark, flaps, 0.0).await
}

/// Every agent has a new session, has told what it holds, and the coordinator has taken all of it in: it answers again.
async fn settled(fleet: &mut Fleet, former: u64) -> Result<()> {
    let agents = fleet.size.agents;
    fleet
        .swarm
        .until("all agents to be back", PATIENCE, |report| {
            report.settled == agents && report.sessions >= former + agents as u64
        })
        .await?;
    wait::until("the coordinator to count them", PATIENCE, async || {
        let sessions = fleet
            .coordinator
            .metrics()
            .await?
            .value("drop_sessions", &[]);
        ensure!(sessions == Some(agents as f64), "{sessions:?} sessions");
        Ok(())
    })
    .await
}

async fn judge(
    fleet: &mut Fleet,
    what: &str,
    took: Duration,
    mark: Timestamp,
    flaps: u64,
    cpu: f64,
) -> Result<Vec<Figure>> {
    tokio::time::sleep(AFTERMATH).await;
    let report = fleet.swarm.report().await?;
    let usage = usage(fleet.coordinator_pid()?)?;
    // A TokenReview is a question in the form of a write: nothing is stored.
    let audit = fleet.control_plane.audit()?.since(mark).by(USER);
    let reviews = audit.resource("tokenreviews").count();
    let writes = audit.writes().count() - reviews;
    let figure = |name: &str, value: f64, unit| {
        Figure::new(&fleet.name, &format!("{what}: {name}"), value, unit)
    };
    Ok(vec![
        figure("settled after", took.as_secs_f64(), Unit::Seconds).at_most(30.0),
        figure("pulls", report.pulls as f64, Unit::Count).at_most(0.0),
        figure(
            "flaps of Ready",
            (fleet.readiness.flaps() - flaps) as f64,
            Unit::Count,
        )
        .at_most(0.0),
        figure("API writes", writes as f64, Unit::Count)
            .note(format!("beside {reviews} TokenReviews")),
        figure("coordinator peak memory", usage.peak_mib, Unit::Mebibytes).at_most(200.0),
        figure("coordinator CPU", usage.cpu - cpu, Unit::Seconds),
    ])
}
