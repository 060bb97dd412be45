//! How long an agent waits for a grant while tokens are free.
//!
//! Every node loses one image, one node after the other over ten seconds, and asks for it: no limit holds it back and the node
//! has nothing else to do, so what is measured is the way to the coordinator, its decision and the way back.

use std::time::Duration;

use anyhow::Result;
use drop_tests::demo::screen::Screen;

use crate::figure::{Figure, Unit};
use crate::fleet::{Fleet, note};

const OVER: Duration = Duration::from_secs(10);

pub(crate) async fn measure(fleet: &mut Fleet, screen: &mut Screen) -> Result<Vec<Figure>> {
    let size = fleet.size;
    fleet.swarm.reset().await?;
    fleet.swarm.lose(OVER).await?;
    let report = fleet
        .swarm
        .until(
            "the lost images to be back",
            OVER + Duration::from_secs(60),
            |report| report.grants == size.agents && report.held == size.pairs(),
        )
        .await?;
    screen.change(&note(format!("{} lost images came back", report.grants)));
    let figure = |name: &str, value: f64| Figure::new(&fleet.name, name, value, Unit::Milliseconds);
    Ok(vec![
        figure("grant latency while tokens are free, p50", report.grant_p50).note(format!(
            "{} asks over {} s",
            report.grants,
            OVER.as_secs()
        )),
        figure("grant latency while tokens are free, p99", report.grant_p99).at_most_up_to(
            1_000,
            size.agents,
            50.0,
        ),
    ])
}
