//! One pull through the whole system, beside a bare CRI `PullImage` of the same image on the same node, in turn.
//!
//! A cached image is removed behind drop's back. What is measured begins when the agent has seen that in the runtime's list and
//! asks for the image, and ends when it reports the pull as done: ask, grant, `PullImage`, the list that confirms it, report.
//! (Why the image is missed only after a while is a matter of the list interval and not of the pull.) While the bare pull runs
//! the agent is stopped, so that it cannot notice the removal.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use drop_tests::cluster::Cluster;
use drop_tests::demo::screen::Screen;
use drop_tests::wait;
use jiff::Timestamp;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::{ImageSpec, PullImageRequest};
use tonic::transport::{Channel, Endpoint};

use crate::args::Effort;
use crate::figure::{Figure, Unit};
use crate::fleet::note;
use crate::node::{SCENE, Sample, between, logged};
use crate::readiness::Readiness;
use crate::statistics::{median, millis};

const MEGABYTE: usize = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn measure(
    cluster: &mut Cluster,
    readiness: &mut Readiness,
    effort: Effort,
    screen: &mut Screen,
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (megabytes, layers) in [(1, vec![MEGABYTE]), (60, vec![20 * MEGABYTE; 3])] {
        let pushed = Sample::push(cluster, &format!("pull-{megabytes}"), &layers).await?;
        let (mut over, mut whole, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..effort.repetitions() {
            let sample = pushed.named(&format!("pull-{megabytes}-{round}"));
            sample.apply(&cluster.client(), "watchful").await?;
            readiness
                .all(std::slice::from_ref(&sample.name), PATIENCE)
                .await?;
            let (plain, through) = both(cluster, &sample, round).await?;
            over.push(through - 1.02 * plain);
            whole.push(through);
            bare.push(plain);
            forget(cluster, &sample).await?;
        }
        screen.change(&note(format!(
            "{} pulls of {megabytes} MB in turn",
            2 * over.len()
        )));
        let name = format!("one pull of {megabytes} MB: over 1.02 x the bare pull");
        figures.push(
            Figure::new(SCENE, &name, median(&over), Unit::Milliseconds)
                .at_most(5.0)
                .note(format!(
                    "{:.1} ms against {:.1} ms, median of {}",
                    median(&whole),
                    median(&bare),
                    over.len()
                )),
        );
    }
    Ok(figures)
}

/// The bare pull and the one through drop, in milliseconds. Which goes first changes from round to round: the first one writes to a
/// disk that is still busy with what was removed before.
async fn both(cluster: &mut Cluster, sample: &Sample, round: usize) -> Result<(f64, f64)> {
    if round.is_multiple_of(2) {
        let plain = bare_pull(cluster, sample).await?;
        let through = pull_through_drop(cluster, sample).await?;
        return Ok((millis(plain), millis(through)));
    }
    let through = pull_through_drop(cluster, sample).await?;
    let plain = bare_pull(cluster, sample).await?;
    Ok((millis(plain), millis(through)))
}

/// The next round is of another CachedImage, since an image that is removed twice is left alone: the coordinator has to have
/// forgotten the first.
async fn forget(cluster: &Cluster, sample: &Sample) -> Result<()> {
    sample.delete(&cluster.client()).await?;
    let label = format!("\"{}\"", sample.name);
    wait::until("the coordinator to forget", PATIENCE, async || {
        let page = cluster.coordinator.metrics().await?.text;
        ensure!(!page.contains(&label), "{label} is in its metrics");
        Ok(())
    })
    .await
}

async fn bare_pull(cluster: &mut Cluster, sample: &Sample) -> Result<Duration> {
    let node = cluster.node("node-2")?;
    let cri = node.cri();
    // Connected before the clock starts, as the agent is.
    let mut client = connect(&node.containerd()?.endpoint()).await?;
    let agent = node.agent()?;
    agent.process().pause()?;
    cri.remove(&sample.reference).await?;
    let request = PullImageRequest {
        image: Some(ImageSpec {
            image: sample.reference.clone(),
            ..ImageSpec::default()
        }),
        ..PullImageRequest::default()
    };
    let begin = Instant::now();
    let pulled = client.pull_image(request).await;
    let took = begin.elapsed();
    agent.process().resume()?;
    pulled.context("a bare pull")?;
    Ok(took)
}

async fn connect(endpoint: &str) -> Result<ImageServiceClient<Channel>> {
    let channel = Endpoint::from_shared(endpoint.to_owned())?
        .connect()
        .await?;
    Ok(ImageServiceClient::new(channel))
}

async fn pull_through_drop(cluster: &mut Cluster, sample: &Sample) -> Result<Duration> {
    let node = cluster.node("node-2")?;
    let mark = Timestamp::now();
    node.cri().remove(&sample.reference).await?;
    let agent = node.agent()?;
    wait::until("the removed image to be back", PATIENCE, async || {
        let log = agent.log();
        let moment = |message| {
            logged(&log, mark, message, &sample.reference)
                .with_context(|| format!("not logged: {message}"))
        };
        let asked = moment("image is gone from the runtime, asks for it again")?;
        Ok(between(asked, moment("image cached")?))
    })
    .await
}
