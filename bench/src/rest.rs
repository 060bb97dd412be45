//! What it costs while nothing happens.

use anyhow::{Context, Result};
use drop_tests::audit::Audit;
use drop_tests::cluster::Cluster;
use drop_tests::coordinator::USER;
use drop_tests::demo::screen::Screen;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::args::Effort;
use crate::figure::{Figure, Unit};
use crate::fleet::{Fleet, note};
use crate::process::{Usage, usage};

/// One real agent with an idle session, and its coordinator.
pub(crate) async fn node(
    cluster: &mut Cluster,
    scene: &str,
    effort: Effort,
    screen: &mut Screen,
) -> Result<Vec<Figure>> {
    let agent = cluster
        .node("node-1")?
        .agent()?
        .process()
        .pid()
        .context("the agent does not run")?;
    let mark = Timestamp::now();
    let rest = rest(agent, effort).await?;
    let requests = requests(&cluster.control_plane.audit()?, mark);
    screen.change(&note(format!(
        "{:.0} s at rest",
        effort.rest().as_secs_f64()
    )));
    let figure = |name: &str, value: f64, unit| Figure::new(scene, name, value, unit);
    let mut figures = vec![
        figure("agent memory at rest", rest.usage.rss_mib, Unit::Mebibytes)
            .at_most(15.0)
            .note(format!("peak {:.1} MiB", rest.usage.peak_mib)),
        figure("agent CPU at rest", rest.cpu_percent, Unit::Percent).at_most(0.1),
    ];
    figures.extend(silence(scene, &requests, effort));
    Ok(figures)
}

/// A coordinator with many idle agents.
pub(crate) async fn fleet(
    fleet: &mut Fleet,
    effort: Effort,
    screen: &mut Screen,
) -> Result<Vec<Figure>> {
    let pid = fleet.coordinator_pid()?;
    let mark = Timestamp::now();
    let rest = rest(pid, effort).await?;
    let requests = requests(&fleet.control_plane.audit()?, mark);
    screen.change(&note(format!(
        "{:.0} s at rest",
        effort.rest().as_secs_f64()
    )));
    let mut figures = silence(&fleet.name, &requests, effort);
    figures.push(Figure::new(
        &fleet.name,
        "coordinator CPU at rest",
        rest.cpu_percent,
        Unit::Percent,
    ));
    figures.push(Figure::new(
        &fleet.name,
        "coordinator memory at rest",
        rest.usage.rss_mib,
        Unit::Mebibytes,
    ));
    Ok(figures)
}

struct Rest {
    cpu_percent: f64,
    usage: Usage,
}

async fn rest(pid: u32, effort: Effort) -> Result<Rest> {
    let (begin, before) = (Instant::now(), usage(pid)?);
    tokio::time::sleep(effort.rest()).await;
    let after = usage(pid)?;
    let busy = after.cpu - before.cpu;
    Ok(Rest {
        cpu_percent: 100.0 * busy / begin.elapsed().as_secs_f64(),
        usage: after,
    })
}

/// The coordinator's, but for watches, which end and begin anew every few minutes, and its Lease.
fn requests(audit: &Audit, mark: Timestamp) -> Audit {
    audit
        .since(mark)
        .by(USER)
        .filter(|request| request.verb != "watch" && request.object.resource != "leases")
}

fn silence(scene: &str, requests: &Audit, effort: Effort) -> Vec<Figure> {
    let named = |what: &str| format!("API {what} in {} s at rest", effort.rest().as_secs());
    vec![
        Figure::new(
            scene,
            &named("requests"),
            requests.count() as f64,
            Unit::Count,
        )
        .at_most(0.0),
        Figure::new(
            scene,
            &named("writes"),
            requests.writes().count() as f64,
            Unit::Count,
        )
        .at_most(0.0),
    ]
}
