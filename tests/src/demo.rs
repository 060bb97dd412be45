//! `hack/demo`: the main job on real parts, told and proved on screen.
//!
//! Each claim is checked where it would show if it were false: in the runtimes' own lists, in the API server, in the
//! registry's request log. A claim that does not hold is an error; nothing here takes drop's own counters for a proof.

mod checks;
mod samples;
pub mod screen;
mod stage;
mod table;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use drop_api::CachedImage;
use drop_api::conditions::{READY, ready};
use kube::ResourceExt;

use self::checks::{asked_by, fetched, lists};
use self::samples::{BROKEN, BROKEN_REPOSITORY, BROKEN_TAG, IMAGES, Sample, TAG};
use self::screen::{Paint, Screen};
pub use self::stage::Stage;
use self::stage::{Look, not_yet};
use crate::cached_image::{condition, is_ready, status};
use crate::cluster::Cluster;
use crate::coordinator;

const NODES: usize = 3;
/// How often agents look at what their runtime lists. The default is 30 s, and the demo shall not wait that long.
const LIST_INTERVAL: &str = "3s";
/// Generous: the machine may be slow. A run takes a fraction of it.
const PATIENCE: Duration = Duration::from_secs(120);
/// The node that loses an image.
const VICTIM: &str = "node-2";

/// A status is written at most once a second, so the one before the removal may still stand.
const STATUS_LAG: Duration = Duration::from_millis(1_500);

/// Brings up the stage; a failure names the part that did not start and the end of its log.
pub async fn set_up(screen: &mut Screen) -> Result<Stage> {
    screen.step(&format!(
        "Bring up a cluster on this machine: etcd, kube-apiserver, a registry, the coordinator, {NODES} nodes"
    ));
    let cluster = Cluster::builder()
        .nodes(NODES)
        .agent_args(&["--list-interval", LIST_INTERVAL])
        .start()
        .await
        .context("bring up the cluster")?;
    screen.note(&format!(
        "each node is a real containerd with an agent, which lists the runtime's images every {LIST_INTERVAL} (default 30s)"
    ));
    Stage::new(cluster)
}

/// Shows and checks everything. Returns the last line.
pub async fn play(stage: &mut Stage, screen: &mut Screen) -> Result<String> {
    push(stage, screen).await?;
    cache(stage, screen).await?;
    tag_edit(stage, screen).await?;
    removal(stage, screen).await?;
    broken(stage, screen).await?;
    what_a_user_sees(stage, screen).await?;
    // Every request of the coordinator's user that changes something, from the API server's own audit log and since the
    // cluster began: status patches and Events, refused ones included. The demo's own applies are an administrator's.
    let writes = stage
        .cluster
        .control_plane
        .audit()?
        .by(coordinator::USER)
        .writes();
    screen.say(Paint::Plain, "");
    screen.note(&format!(
        "the coordinator's writes, as the API server's audit log counts them: {} of status, {} Events",
        writes.resource("cachedimages").count(),
        writes.resource("events").count()
    ));
    Ok(format!(
        "demo: ok: {} images on {NODES} nodes in {:.0}s, {} API writes",
        IMAGES.len(),
        screen.elapsed().as_secs_f64(),
        writes.count()
    ))
}

async fn push(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    let megabytes = IMAGES.iter().map(Sample::size).sum::<usize>() / 1_000;
    screen.step(&format!(
        "Push {} images of 1 to 60 MB, 2 or 3 layers each, {megabytes} MB together",
        IMAGES.len()
    ));
    for sample in &IMAGES {
        let recipe = sample.recipe(&stage.base);
        let digest = stage.cluster.push(sample.repository, TAG, &recipe).await?;
        stage.digests.insert(sample.name, digest);
    }
    Ok(())
}

async fn cache(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    screen.step("Apply a PullPolicy and the CachedImages; each image goes to each node, at a pace");
    let host = stage.cluster.proxy.host();
    samples::write(stage.cluster.folder(), &host)?;
    let first = samples::cached_image(
        IMAGES[0].name,
        &stage.cluster.image(IMAGES[0].repository),
        TAG,
        true,
    );
    screen.quote(&format!("{}---\n{first}...\n", samples::POLICY));
    screen.note(
        "metrics has no policy, so it gets the careful default: one node at a time, 10s apart",
    );
    stage.kubectl(screen, &["apply", "-f", "samples/"]).await?;

    let everywhere = format!("{NODES}/{NODES}");
    let done = |images: &[CachedImage]| {
        ensure!(images.len() == IMAGES.len(), "{} images", images.len());
        for image in images {
            is_ready(image).with_context(|| image.name_any())?;
            ensure!(
                status(image).ready.as_ref() == Some(&everywhere),
                "{} is Ready, but not on {NODES} nodes",
                image.name_any()
            );
        }
        Ok(())
    };
    stage
        .watch(screen, "all images to be Ready", PATIENCE, async |images| {
            Ok(not_yet(done(images)))
        })
        .await?;
    for sample in &IMAGES {
        let image = stage.cluster.image(sample.repository);
        for (node, runtime) in &stage.runtimes {
            lists(runtime, &image, TAG, &stage.digests[sample.name])
                .await
                .with_context(|| format!("{node} and {}", sample.name))?;
        }
    }
    screen.proved(&format!(
        "all {} pairs of image and node are in the runtimes' own lists (CRI), with the registry's digests",
        IMAGES.len() * NODES
    ));
    Ok(())
}

async fn tag_edit(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    let web = IMAGES[1];
    screen.step("An edited tag is pulled on all nodes");
    let recipe = web.recipe(&stage.base);
    let digest = stage.cluster.push(web.repository, "v2", &recipe).await?;
    let mark = stage.cluster.proxy.log().count();
    let patch = r#"{"spec":{"tag":"v2"}}"#;
    let edit = [
        "patch",
        "cachedimage",
        web.name,
        "--type=merge",
        "-p",
        patch,
    ];
    stage.kubectl(screen, &edit).await?;
    let done = |images: &[CachedImage]| {
        let image = find(images, web.name)?;
        is_ready(image)?;
        let resolved = status(image).resolved_digest;
        ensure!(
            resolved.as_ref() == Some(&digest),
            "status.resolvedDigest is {}, and the registry says {digest}",
            resolved.unwrap_or_default()
        );
        Ok(())
    };
    stage
        .watch(screen, "web:v2 to be Ready", PATIENCE, async |images| {
            Ok(not_yet(done(images)))
        })
        .await?;
    let image = stage.cluster.image(web.repository);
    for (node, runtime) in &stage.runtimes {
        lists(runtime, &image, "v2", &digest)
            .await
            .with_context(|| node.clone())?;
    }
    let log = stage.cluster.proxy.log().after(mark);
    let log = log.repository(web.repository);
    let nodes = asked_by(&log);
    ensure!(nodes == stage.nodes, "web:v2 was fetched by {nodes:?} only");
    let again = log.reference(web.repository, &stage.base.digest);
    ensure!(
        again.count() == 0,
        "the shared base layer was fetched again: {}",
        again.table()
    );
    screen.proved(&format!(
        "{NODES} runtimes list web:v2 at {}; they fetched {} together, the shared base layer not again",
        short(&digest),
        fetched(&log)
    ));
    Ok(())
}

async fn removal(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    let api = IMAGES[2];
    screen.step("An image that is removed behind drop's back comes back");
    let image = stage.cluster.image(api.repository);
    let reference = format!("{image}:{TAG}");
    let digest = stage.digests[api.name].clone();
    let runtime = stage.runtimes[VICTIM].clone();
    let mark = stage.cluster.proxy.log().count();
    screen.note(&format!(
        "CRI RemoveImage {reference} on {VICTIM}, as a kubelet that needs room does"
    ));
    runtime.remove(&reference).await.context("RemoveImage")?;
    let gone = runtime.image(&reference).await?.is_none();
    let asked = |stage: &Stage| {
        let log = stage.cluster.proxy.log().after(mark);
        log.repository(api.repository)
    };
    // Should drop be that quick, then its request is in the registry's log.
    ensure!(
        gone || asked(stage).count() > 0,
        "{VICTIM} still lists {reference} after RemoveImage"
    );
    let removed = Instant::now();
    let (mut back, mut steady) = (None, None);
    stage
        .watch(screen, "api:v1 to be back", PATIENCE, async |images| {
            if let Err(missing) = lists(&runtime, &image, TAG, &digest).await {
                return Ok(Look::NotYet(missing));
            }
            back.get_or_insert_with(|| removed.elapsed());
            if let Err(missing) = find(images, api.name).and_then(is_ready) {
                steady = None;
                return Ok(Look::NotYet(missing));
            }
            let since = *steady.get_or_insert_with(Instant::now);
            Ok(if since.elapsed() < STATUS_LAG {
                Look::NotYet(anyhow!("the status may be an older one"))
            } else {
                Look::Holds
            })
        })
        .await?;
    let took = back.unwrap_or_default();
    let log = asked(stage);
    let nodes = asked_by(&log);
    ensure!(
        nodes == [VICTIM],
        "only {VICTIM} was to fetch {reference} again, and it was {nodes:?}"
    );
    screen.proved(&format!(
        "{VICTIM} lists api:{TAG} again after {:.1}s; the registry sent it {} and the other nodes nothing",
        took.as_secs_f64(),
        fetched(&log)
    ));
    Ok(())
}

async fn broken(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    screen.step("A broken image says why, costs one question and no pull, and disturbs nobody");
    let mark = stage.cluster.proxy.log().count();
    screen.note(&format!(
        "{BROKEN} has the tag {BROKEN_TAG}, a capital O for a zero; ErrImagePull becomes ImagePullBackOff after 10s"
    ));
    stage
        .kubectl(screen, &["apply", "-f", "broken.yaml"])
        .await?;
    let mut seen: Vec<(String, String)> = Vec::new();
    stage
        .watch(screen, "ImagePullBackOff", PATIENCE, async |images| {
            for image in images.iter().filter(|image| image.name_any() != BROKEN) {
                is_ready(image).with_context(|| format!("{} was disturbed", image.name_any()))?;
            }
            let (_, reason, message) = condition(find(images, BROKEN)?, READY);
            let failed = [ready::ERR_IMAGE_PULL, ready::IMAGE_PULL_BACK_OFF];
            if !failed.contains(&reason.as_str()) {
                return Ok(Look::NotYet(anyhow!("{reason}: {message}")));
            }
            ensure!(
                message.starts_with("image not found;"),
                "the cause is not the cleaned one: {message}"
            );
            if !seen.iter().any(|(one, _)| *one == reason) {
                seen.push((reason.clone(), message));
            }
            Ok(if reason == ready::IMAGE_PULL_BACK_OFF {
                Look::Holds
            } else {
                Look::NotYet(anyhow!("still {reason}"))
            })
        })
        .await?;
    let log = stage.cluster.proxy.log().after(mark);
    let asked = log.repository(BROKEN_REPOSITORY);
    ensure!(
        asked.of_nodes().count() == 0 && asked.of_coordinator().manifests().count() == 1,
        "the broken image was to cost one request by the coordinator: {}",
        asked.table()
    );
    let reasons: Vec<&str> = seen.iter().map(|(reason, _)| reason.as_str()).collect();
    screen.proved(&format!(
        "{} (image not found) after 1 HEAD by the coordinator and none by {NODES} nodes; the other {} images stayed Ready",
        reasons.join(", then "),
        IMAGES.len()
    ));
    Ok(())
}

async fn what_a_user_sees(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    screen.step("What a user sees");
    stage.kubectl(screen, &["get", "cachedimages"]).await?;
    let describe = ["describe", "cachedimage", BROKEN];
    let text = stage.run_kubectl(screen, &describe).await?;
    let status = text.find("\nStatus:").context("describe shows no status")?;
    screen.quote("...");
    screen.quote(&text[status + 1..]);
    Ok(())
}

fn find<'a>(images: &'a [CachedImage], name: &str) -> Result<&'a CachedImage> {
    let found = images.iter().find(|image| image.name_any() == name);
    found.with_context(|| format!("there is no CachedImage {name}"))
}

/// `sha256:` and twelve digits.
fn short(digest: &str) -> &str {
    digest.get(..19).unwrap_or(digest)
}
