//! A registry repository is scanned again although nothing in it has changed: what that costs the registry, and how long it
//! takes, beside skopeo doing the same.
//!
//! The scene is its own: a real registry (distribution 3, which pages) with the requests counted before it, and drop's registry
//! client.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use drop_oci::client::Stop;
use drop_oci::facts::{Choice, Memory};
use drop_oci::transport::Options;
use drop_oci::{Client, Facts, Repository};
use drop_tests::demo::screen::Screen;
use drop_tests::dirs::Scratch;
use drop_tests::images::Recipe;
use drop_tests::proxy::{Log, Proxy};
use drop_tests::registry::{Registry, Setup, Version};
use drop_tests::registry_client::{client, plain};
use drop_tests::skopeo::{self, Place};
use futures::{StreamExt, TryStreamExt, stream};

use crate::args::Effort;
use crate::figure::{Figure, Unit};
use crate::fleet::note;
use crate::statistics::millis;

const REPOSITORY: &str = "team/app";
/// Tags of one image: releases carry several.
const TAGS_PER_IMAGE: usize = 10;
/// Tags that are asked for at once; the client's own limits per host lie below.
const AT_ONCE: usize = 16;

/// Sets the scene and takes all its figures.
pub(crate) async fn measure(effort: Effort, screen: &mut Screen) -> Result<Vec<Figure>> {
    let tags = effort.tags();
    let scene = format!("a registry with {tags} tags");
    screen.step(&scene);
    let scratch = Scratch::new()?;
    let registry = Setup::new(Version::Three)
        .start(&scratch.folder("registry")?)
        .await?;
    push(&registry, tags).await?;
    let proxy = Proxy::start(registry.address()).await?;
    screen.change(&note("the images are pushed".to_owned()));

    let scanner = Scanner {
        client: client(&Options::default())?,
        facts: Facts::new(Memory::default()),
        repository: plain(&proxy.host(), REPOSITORY)?,
        platform: Choice::only("linux/amd64".parse()?),
    };
    let first = scanner.scan(tags).await?;
    let before = proxy.log().count();
    let begin = Instant::now();
    let second = scanner.scan(tags).await?;
    let took = begin.elapsed();
    let asked = proxy.log().after(before);
    ensure!(
        first == second,
        "the digests changed, and nobody moved a tag"
    );
    screen.change(&note(format!("scanned again in {:.0} ms", millis(took))));

    let paired = skopeo_scan(&proxy, &second, effort.sample(), tags).await?;
    Ok(figures(&scene, tags, took, (before, &asked), &paired))
}

fn figures(
    scene: &str,
    tags: usize,
    took: Duration,
    (first, asked): (usize, &Log),
    paired: &Paired,
) -> Vec<Figure> {
    let figure = |name: &str, value: f64, unit| Figure::new(scene, name, value, unit);
    let heads = asked.method("HEAD").count();
    let manifests = asked.method("GET").manifests().count();
    let fetched = manifests + asked.method("GET").blobs().count();
    let rest = asked.count() - heads - fetched;
    vec![
        figure("scanned again: HEADs", heads as f64, Unit::Count).at_most(tags as f64),
        figure("scanned again: lists of tags", rest as f64, Unit::Count)
            .at_most(1.0)
            .note(format!("the first scan: {first} requests in all")),
        figure(
            "scanned again: GETs of manifests and blobs",
            fetched as f64,
            Unit::Count,
        )
        .at_most(0.0),
        figure("scanned again: time", millis(took), Unit::Milliseconds),
        figure(
            "skopeo list-tags and inspect: requests",
            paired.requests,
            Unit::Count,
        )
        .note(paired.sampled.clone()),
        figure(
            "skopeo list-tags and inspect: time",
            millis(paired.took),
            Unit::Milliseconds,
        )
        .note(paired.sampled.clone()),
    ]
}

/// One image for every few tags.
async fn push(registry: &Registry, tags: usize) -> Result<()> {
    for number in 0..tags {
        let first = number - number % TAGS_PER_IMAGE;
        if number == first {
            let image = Recipe::layers(&[100]);
            image.push(registry, REPOSITORY, &tag(number)).await?;
        } else {
            registry.tag(REPOSITORY, &tag(first), &tag(number)).await?;
        }
    }
    Ok(())
}

fn tag(number: usize) -> String {
    format!("v1.{number}.0")
}

/// What a scan keeps.
struct Scanner {
    client: Client,
    facts: Facts,
    repository: Repository,
    platform: Choice,
}

impl Scanner {
    /// Every tag's digest as the registry says it now, and what is known of the image.
    async fn scan(&self, tags: usize) -> Result<BTreeMap<String, String>> {
        let list = self.client.tags(&self.repository, 10_000, &[]).await?;
        ensure!(list.stopped.is_none_or(|stop| stop == Stop::Enough(10_000)));
        let found: BTreeMap<String, String> =
            stream::iter(list.tags.into_iter().map(|tag| self.look(tag)))
                .buffer_unordered(AT_ONCE)
                .try_collect()
                .await?;
        ensure!(found.len() == tags, "{} of {tags} tags", found.len());
        Ok(found)
    }

    async fn look(&self, tag: String) -> Result<(String, String)> {
        let (client, repository) = (&self.client, &self.repository);
        let head = self.facts.refresh(client, repository, &tag, &[]).await?;
        let facts = self
            .facts
            .of_head(client, repository, &head, &self.platform, &[])
            .await?;
        Ok((tag, facts.digest.clone()))
    }
}

/// What skopeo took for the same answers, as far as it was measured.
struct Paired {
    took: Duration,
    requests: f64,
    sampled: String,
}

/// A list, and an inspection of some tags, counted as if all had been inspected one after the other.
async fn skopeo_scan(
    proxy: &Proxy,
    digests: &BTreeMap<String, String>,
    sample: usize,
    tags: usize,
) -> Result<Paired> {
    let place = |suffix: &str| Place::new(&format!("{}/{REPOSITORY}{suffix}", proxy.host()));
    let before = proxy.log().count();
    let begin = Instant::now();
    let listed = skopeo::tags(&place("")).await?;
    let list = begin.elapsed();
    ensure!(listed.len() == tags, "skopeo lists {} tags", listed.len());
    let list_requests = proxy.log().after(before).count();
    let before = proxy.log().count();
    let begin = Instant::now();
    for tag in listed.iter().step_by((tags / sample).max(1)).take(sample) {
        let digest = skopeo::digest(&place(&format!(":{tag}"))).await?;
        let ours = digests.get(tag).context("a tag that drop did not see")?;
        ensure!(digest == *ours, "{tag}: skopeo says {digest}, drop {ours}");
    }
    let inspected = begin.elapsed();
    let inspections = proxy.log().after(before).count();
    let scale = tags as f64 / sample as f64;
    Ok(Paired {
        took: list + inspected.mul_f64(scale),
        requests: list_requests as f64 + inspections as f64 * scale,
        sampled: format!("{sample} of {tags} tags inspected, scaled"),
    })
}
