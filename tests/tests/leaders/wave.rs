//! A wave of pulls that takes half a minute, and what must be true of it whatever happens to the leader meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{is_ready, policy, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::images::Recipe;
use drop_tests::proxy::{End, Fault, Kind};
use drop_tests::wait;

pub(crate) const SOON: Duration = Duration::from_secs(120);
/// The default lease, one look at it by a follower, and time for two busy cores.
pub(crate) const HAND_OVER: Duration = Duration::from_secs(15 + 3 + 12);
const NODES: usize = 3;
const IMAGES: usize = 5;
/// A pull takes two seconds, the wave half a minute.
const SIZE: usize = 4_000_000;
const RATE: u64 = 2_000_000;

/// Three nodes, two replicas, sessions over TLS with tokens, and a wave of images of which one at a time may be pulled on one node at a time.
pub(crate) async fn in_the_middle_of_a_wave() -> Result<Cluster> {
    let cluster = Cluster::builder()
        .secure()
        .nodes(NODES)
        .replicas(2)
        .start()
        .await?;
    cluster.proxy.inject(Fault::rate(RATE).on(Kind::Blob));
    let one = "maxConcurrentNodes: 1, maxConcurrentPulls: 1, minDelayBetweenPulls: 0s";
    let mut yamls = policy("one", one);
    for image in images() {
        let recipe = Recipe::layers(&[SIZE]);
        cluster.push(&image, "v1", &recipe).await?;
        let spec = "policyRef: {name: one}";
        yamls.push_str(&yaml(&image, &cluster.image(&image), "v1", spec));
    }
    cluster.apply(&yamls).await?;
    pulls_begun(&cluster, 3).await?;
    Ok(cluster)
}

fn images() -> impl Iterator<Item = String> {
    (1..=IMAGES).map(|number| format!("wave-{number}"))
}

pub(crate) async fn pulls_begun(cluster: &Cluster, least: usize) -> Result<()> {
    let what = format!("{least} pulls to be begun");
    wait::until(what, SOON, async || {
        let begun = cluster.proxy.log().pulls().len();
        ensure!(begun >= least, "{begun} are");
        Ok(())
    })
    .await
}

/// Waits until another replica than `former` leads, and says which.
pub(crate) async fn handed_over(
    cluster: &Cluster,
    former: &str,
    within: Duration,
) -> Result<String> {
    let what = format!("another leader than {former}");
    wait::until(what, within, async || {
        let leader = cluster.leader().await?;
        ensure!(leader != former, "{leader} leads");
        Ok(leader)
    })
    .await
}

/// Waits until the wave is over and proves the limits over its whole length. Returns the longest time in which nothing was
/// pulled.
pub(crate) async fn ended_well(cluster: &Cluster) -> Result<Duration> {
    for image in images() {
        cluster.until::<CachedImage>(&image, SOON, is_ready).await?;
    }
    let log = cluster.proxy.log();
    let pulls = log.pulls();
    // A new leader may have a tag checked again of which the former could not write that it was: a HEAD, and no bytes.
    let layers =
        log.filter(|request| request.kind == Kind::Blob && request.bytes > SIZE as u64 / 2);
    ensure!(
        layers.count() == NODES * IMAGES,
        "each node pulls each image once:\n{}",
        log.table()
    );
    ensure!(
        log.most_pulls_at_once() == 1,
        "{} pulls at once:\n{}",
        log.most_pulls_at_once(),
        log.table()
    );
    let broken = log.filter(|request| request.end != End::Complete);
    ensure!(broken.count() == 0, "{}", broken.table());
    let stills = pulls.windows(2);
    let stills = stills.map(|pair| pair[1].start.saturating_sub(pair[0].end));
    stills.max().context("no pulls")
}
