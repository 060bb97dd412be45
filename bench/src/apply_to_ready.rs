//! From the request that creates a CachedImage to Ready in its status, beside bare CRI pulls of the same images on the same
//! node, in turn.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use drop_tests::cluster::Cluster;
use drop_tests::cri_client::CriClient;
use drop_tests::demo::screen::Screen;
use futures::future::try_join_all;
use jiff::Timestamp;

use crate::args::Effort;
use crate::figure::{Figure, Unit};
use crate::fleet::note;
use crate::node::{SCENE, Sample, between, logged};
use crate::readiness::Readiness;
use crate::statistics::{median, millis};

const MEGABYTE: usize = 1_000_000;
const MANY: usize = 20;
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn measure(
    cluster: &mut Cluster,
    readiness: &mut Readiness,
    effort: Effort,
    screen: &mut Screen,
) -> Result<Vec<Figure>> {
    let mut figures = one(cluster, readiness, effort).await?;
    screen.change(&note("one image after the other is Ready".to_owned()));
    figures.extend(many(cluster, readiness, effort).await?);
    screen.change(&note(format!("{MANY} images together are Ready")));
    Ok(figures)
}

async fn one(
    cluster: &mut Cluster,
    readiness: &mut Readiness,
    effort: Effort,
) -> Result<Vec<Figure>> {
    let (mut over, mut whole, mut bare, mut first) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..effort.repetitions() {
        let sample = [Sample::push(cluster, &format!("one-{round}"), &[MEGABYTE]).await?];
        let mark = Timestamp::now();
        let (ready, pulled) = both(cluster, readiness, &sample, round).await?;
        over.push(millis(ready) - millis(pulled));
        whole.push(millis(ready));
        bare.push(millis(pulled));
        first.push(first_pull(cluster, mark, &sample[0])?);
    }
    Ok(vec![
        Figure::new(
            SCENE,
            "apply to Ready, 1 MB: over the bare pull",
            median(&over),
            Unit::Milliseconds,
        )
        .at_most(300.0)
        .note(format!(
            "{:.0} ms against {:.0} ms, median of {}",
            median(&whole),
            median(&bare),
            over.len()
        )),
        Figure::new(
            SCENE,
            "apply to the first PullImage",
            median(&first),
            Unit::Milliseconds,
        ),
    ])
}

async fn many(
    cluster: &mut Cluster,
    readiness: &mut Readiness,
    effort: Effort,
) -> Result<Vec<Figure>> {
    let (mut over, mut whole, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..effort.rounds() {
        let mut samples = Vec::new();
        for number in 0..MANY {
            samples
                .push(Sample::push(cluster, &format!("many-{round}-{number}"), &[MEGABYTE]).await?);
        }
        let (ready, pulled) = both(cluster, readiness, &samples, round).await?;
        over.push(millis(ready) - millis(pulled));
        whole.push(millis(ready));
        bare.push(millis(pulled));
    }
    let name = format!("apply to Ready, {MANY} x 1 MB: over the bare pulls");
    Ok(vec![
        Figure::new(SCENE, &name, median(&over), Unit::Milliseconds)
            .at_most(500.0)
            .note(format!(
                "{:.0} ms against {:.0} ms, median of {}",
                median(&whole),
                median(&bare),
                over.len()
            )),
    ])
}

/// From the creation of the CachedImage, as the API server dates the request, to the agent's call of the runtime.
fn first_pull(cluster: &mut Cluster, mark: Timestamp, sample: &Sample) -> Result<f64> {
    let requests = cluster.control_plane.audit()?.since(mark);
    let created = requests
        .filter(|request| request.verb == "create" && request.object.resource == "cachedimages")
        .requests()
        .last()
        .map(|request| request.at)
        .context("no request that created a CachedImage")?;
    let log = cluster.node("node-1")?.agent()?.log();
    let started = logged(&log, created, "pull started", &sample.reference)
        .context("the agent did not log the start of a pull")?;
    Ok(millis(between(created, started)))
}

/// Time to Ready, and time of the bare pulls in series. Which goes first changes from round to round: the second finds the
/// registry's files in memory.
async fn both(
    cluster: &mut Cluster,
    readiness: &mut Readiness,
    samples: &[Sample],
    round: usize,
) -> Result<(Duration, Duration)> {
    let cri = cluster.node("node-1")?.cri();
    if round.is_multiple_of(2) {
        let pulled = bare_pulls(&cri, samples).await?;
        let ready = apply(cluster, &cri, readiness, samples).await?;
        return Ok((ready, pulled));
    }
    let ready = apply(cluster, &cri, readiness, samples).await?;
    Ok((ready, bare_pulls(&cri, samples).await?))
}

async fn bare_pulls(cri: &CriClient, samples: &[Sample]) -> Result<Duration> {
    let begin = Instant::now();
    for sample in samples {
        cri.pull(&sample.reference).await.context("a bare pull")?;
    }
    let took = begin.elapsed();
    remove(cri, samples).await?;
    Ok(took)
}

async fn apply(
    cluster: &Cluster,
    cri: &CriClient,
    readiness: &mut Readiness,
    samples: &[Sample],
) -> Result<Duration> {
    let client = cluster.client();
    let names: Vec<String> = samples.iter().map(|sample| sample.name.clone()).collect();
    let begin = Instant::now();
    try_join_all(
        samples
            .iter()
            .map(|sample| sample.apply(&client, "installed")),
    )
    .await?;
    let ready = readiness.all(&names, PATIENCE).await?;
    try_join_all(samples.iter().map(|sample| sample.delete(&client))).await?;
    remove(cri, samples).await?;
    Ok(ready.duration_since(begin))
}

async fn remove(cri: &CriClient, samples: &[Sample]) -> Result<()> {
    for sample in samples {
        cri.remove(&sample.reference).await?;
    }
    Ok(())
}
