//! From `apply` to all Ready: how long, how many writes, and what it costs the coordinator.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use drop_tests::audit::Audit;
use drop_tests::coordinator::USER;
use drop_tests::demo::screen::Screen;
use jiff::Timestamp;

use crate::figure::{Figure, Unit};
use crate::fleet::{Fleet, note};
use crate::process::usage;
use crate::statistics::most_in_a_second;
use crate::traffic;

/// The coordinator's last writes may come this long after the images are Ready.
const TAIL: Duration = Duration::from_secs(3);

pub(crate) async fn measure(fleet: &mut Fleet, screen: &mut Screen) -> Result<Vec<Figure>> {
    let size = fleet.size;
    let pid = fleet.coordinator_pid()?;
    let before = usage(pid)?;
    fleet.swarm.reset().await?;
    let mark = Timestamp::now();
    let begin = Instant::now();
    fleet.apply_images().await?;
    let names = fleet.image_names();
    let ready = fleet
        .readiness
        .all(&names, Duration::from_secs(600))
        .await?;
    let took = ready.duration_since(begin);
    tokio::time::sleep(TAIL).await;
    let after = usage(pid)?;
    let report = fleet.swarm.report().await?;
    ensure!(
        report.held == size.pairs(),
        "Ready, but the runtimes hold {} of {} images",
        report.held,
        size.pairs()
    );
    screen.change(&note(format!(
        "all Ready after {:.1} s",
        took.as_secs_f64()
    )));

    let requests = fleet
        .control_plane
        .audit()?
        .since(mark)
        .by(USER)
        .filter(|request| request.verb != "watch");
    let writes = requests.writes();
    let pairs = size.pairs() as f64;
    let figure = |name: &str, value: f64, unit| Figure::new(&fleet.name, name, value, unit);
    let mut figures = vec![
        figure("apply to all Ready", took.as_secs_f64(), Unit::Seconds).at_most_up_to(
            1_000,
            size.agents,
            20.0,
        ),
        figure(
            "pulls per (image, node)",
            report.pulls as f64 / pairs,
            Unit::Count,
        )
        .at_most(1.0),
        figure(
            "API requests per (image, node)",
            requests.count() as f64 / pairs,
            Unit::Count,
        )
        .note(format!("{} requests", requests.count())),
        figure(
            "API writes per (image, node)",
            writes.count() as f64 / pairs,
            Unit::Count,
        )
        .at_most(0.05)
        .note(format!("{} writes", writes.count())),
        figure(
            "API writes in the busiest second",
            most_in_a_second(&seconds(&writes)) as f64,
            Unit::Count,
        )
        .at_most(50.0),
        figure(
            "writes of one object in one second",
            most_of_one(&writes) as f64,
            Unit::Count,
        )
        .at_most(1.0),
        figure("coordinator peak memory", after.peak_mib, Unit::Mebibytes)
            .at_most(200.0)
            .note(format!("{:.0} MiB with idle agents before", before.rss_mib)),
        figure("coordinator CPU", after.cpu - before.cpu, Unit::Seconds),
    ];
    figures.push(
        figure(
            "grant latency in the wave, p99",
            report.grant_p99,
            Unit::Milliseconds,
        )
        .note(format!(
            "p50 {:.1} ms; bounded by the wave's own speed, see docs",
            report.grant_p50
        )),
    );
    figures.extend(bytes(fleet).await?);
    Ok(figures)
}

/// What the sessions that are open have cost on the wire.
async fn bytes(fleet: &Fleet) -> Result<[Figure; 2]> {
    let traffic = traffic::of(fleet.coordinator.session_address()).await?;
    let connections = traffic.connections.max(1) as f64;
    let figure = |name: &str, bytes: u64| {
        Figure::new(&fleet.name, name, bytes as f64 / connections, Unit::Bytes)
    };
    Ok([
        figure("bytes to an agent", traffic.sent),
        figure("bytes from an agent", traffic.received),
    ])
}

fn seconds(requests: &Audit) -> Vec<f64> {
    let mut all: Vec<f64> = requests
        .requests()
        .iter()
        .map(|request| second(request.at))
        .collect();
    all.sort_by(f64::total_cmp);
    all
}

/// Over all statuses: Events are objects of their own.
fn most_of_one(writes: &Audit) -> usize {
    let mut by_name: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for request in writes
        .requests()
        .iter()
        .filter(|request| request.object.resource == "cachedimages")
    {
        by_name
            .entry(&request.object.name)
            .or_default()
            .push(second(request.at));
    }
    let most = by_name.into_values().map(|mut all| {
        all.sort_by(f64::total_cmp);
        most_in_a_second(&all)
    });
    most.max().unwrap_or_default()
}

fn second(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}
