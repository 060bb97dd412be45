//! What goes wrong at registries and on nodes: who is told what, who waits and how long, and who does not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_api::{CachedImage, Phase};
use drop_tests::cached_image::{
    condition, has_reason, is_cached_on, is_ready, policy, status, yaml,
};
use drop_tests::cluster::{Builder, Cluster};
use drop_tests::history::History;
use drop_tests::images::Recipe;
use drop_tests::node::NodeSpec;
use drop_tests::ports;
use drop_tests::proxy::{Fault, Log, Proxy};
use drop_tests::wait;

const SOON: Duration = Duration::from_secs(60);
/// Short waits, so that a test can see the retry.
const FAST: &str =
    "failureBackoff: {initial: 2s, max: 10s}, maxConcurrentNodes: 100, minDelayBetweenPulls: 0s";
const BY_FAST: &str = "policyRef: {name: fast}";

/// One kind of trouble and what it must look like.
struct Trouble {
    name: &'static str,
    image: String,
    class: &'static str,
    first: &'static str,
    lasting: &'static str,
    cause: String,
}

/// A cluster whose nodes find out by pulling what becomes of an image.
fn nodes_find_out() -> Builder {
    Cluster::builder().coordinator_args(&["--resolve-tags=false"])
}

fn trouble(
    name: &'static str,
    image: String,
    class: &'static str,
    reasons: [&'static str; 2],
    cause: impl Into<String>,
) -> Trouble {
    let [first, lasting] = reasons;
    let cause = cause.into();
    Trouble {
        name,
        image,
        class,
        first,
        lasting,
        cause,
    }
}

/// The troubles that the test makes, each at a host of its own where the host is to blame.
fn troubles(cluster: &Cluster, busy: &Proxy, broken: &Proxy, refused: &str) -> [Trouble; 10] {
    const PULL: [&str; 2] = ["ErrImagePull", "ImagePullBackOff"];
    const REGISTRY: [&str; 2] = ["RegistryUnavailable", "RegistryUnavailable"];
    [
        trouble(
            "missing",
            cluster.image("good-but-missing"),
            "not_found",
            PULL,
            "image not found",
        ),
        trouble(
            "secret",
            cluster.image("secret"),
            "unauthorized",
            PULL,
            "unauthorized: check imagePullSecrets",
        ),
        trouble(
            "closed",
            cluster.image("closed"),
            "forbidden",
            PULL,
            "forbidden: access denied",
        ),
        trouble(
            "foreign",
            cluster.image("foreign"),
            "no_platform",
            PULL,
            "no image for this node's platform",
        ),
        trouble(
            "busy",
            format!("{}/busy", busy.host()),
            "throttled",
            REGISTRY,
            format!("throttled by {}, next try at 20", busy.host()),
        ),
        trouble(
            "broken",
            format!("{}/broken", broken.host()),
            "server_error",
            REGISTRY,
            "500 Internal Server Error",
        ),
        trouble(
            "refused",
            format!("{refused}/app"),
            "connection",
            REGISTRY,
            format!("connection refused: {refused}"),
        ),
        trouble(
            "nowhere",
            "registry.invalid/app".to_owned(),
            "dns",
            PULL,
            "dns: cannot resolve registry.invalid",
        ),
        trouble(
            "plain",
            "plain.example/wrong".to_owned(),
            "tls",
            PULL,
            "tls: plain.example does not speak TLS",
        ),
        trouble(
            "stranger",
            "stranger.example/wrong".to_owned(),
            "tls",
            PULL,
            "tls: certificate error",
        ),
    ]
}

/// Waits until the status tells of the trouble as it should.
async fn shows(cluster: &Cluster, trouble: &Trouble) -> Result<()> {
    let shown: CachedImage = cluster
        .until(trouble.name, SOON, |image: &CachedImage| {
            let (word, reason, message) = condition(image, "Ready");
            ensure!(
                word == "False" && reason == trouble.lasting,
                "{word} {reason}: {message}"
            );
            ensure!(message.contains(&trouble.cause), "{message}");
            ensure!(message.contains("0/1 nodes ready"), "{message}");
            Ok(())
        })
        .await?;
    let status = status(&shown);
    ensure!(status.phase == Some(Phase::Degraded), "{status:?}");
    ensure!(
        status.consecutive_failures > 0 && status.nodes_failed == 1,
        "{status:?}"
    );
    let node = status.nodes.first().context("no node is listed")?;
    ensure!(
        node.node == "node-1" && node.reason == trouble.lasting,
        "{node:?}"
    );
    ensure!(node.attempts > 0 && node.next_retry.is_some(), "{node:?}");
    ensure!(
        status
            .conditions
            .iter()
            .any(|c| c.type_ == "PullProgress" && c.reason == "Stalled"),
        "{status:?}"
    );
    Ok(())
}

/// Whether each pull of the repository came no earlier than this after the one before. At least one came again.
fn waited(log: &Log, repository: &str, least: Duration) -> Result<()> {
    let pulls = log.repository(repository).pulls();
    ensure!(
        pulls.len() > 1,
        "{repository} was tried {} times",
        pulls.len()
    );
    for pair in pulls.windows(2) {
        let waited = pair[1].start.saturating_sub(pair[0].start);
        ensure!(
            waited >= least,
            "{repository} after {waited:?}:\n{}",
            log.table()
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_trouble_has_its_reason_its_cause_and_its_class() -> Result<()> {
    let mut cluster = nodes_find_out().nodes(1).start().await?;
    cluster.apply(&policy("fast", FAST)).await?;
    let app = Recipe::layers(&[10_000]);
    for repository in ["good", "secret", "closed", "busy", "broken", "wrong"] {
        cluster.push(repository, "v1", &app).await?;
    }
    let foreign = ["linux/s390x".to_owned()];
    app.push_index(&cluster.registry, "foreign", "v1", &foreign)
        .await?;
    cluster
        .apply(&yaml("good", &cluster.image("good"), "v1", BY_FAST))
        .await?;
    cluster.until("good", SOON, is_ready).await?;
    let good = History::of(&cluster.client(), "good");

    // A host that is in trouble pauses, so each such trouble has a host of its own.
    let upstream = cluster.registry.address();
    let (busy, broken) = (Proxy::start(upstream).await?, Proxy::start(upstream).await?);
    let refused = ports::address()?;
    cluster
        .proxy
        .inject(Fault::status(401).repository("secret"));
    cluster
        .proxy
        .inject(Fault::status(403).repository("closed"));
    busy.inject(Fault::status(429).header("Retry-After", "3"));
    broken.inject(Fault::status(500));
    let (plain, api) = (
        format!("https://{}", cluster.proxy.host()),
        cluster.control_plane.url().to_owned(),
    );
    let containerd = cluster.node("node-1")?.containerd()?;
    containerd.redirect("plain.example", &plain)?;
    containerd.redirect("stranger.example", &api)?;

    let troubles = troubles(&cluster, &busy, &broken, &refused);
    let mut histories = Vec::new();
    for trouble in &troubles {
        histories.push(History::of(&cluster.client(), trouble.name));
        cluster
            .apply(&yaml(trouble.name, &trouble.image, "v1", BY_FAST))
            .await?;
    }
    for trouble in &troubles {
        shows(&cluster, trouble).await?;
    }
    let metrics = cluster.node("node-1")?.agent()?.metrics().await?;
    for (trouble, history) in troubles.iter().zip(&histories) {
        let reference = format!("{}:v1", trouble.image);
        let labels = [("image", reference.as_str()), ("class", trouble.class)];
        let count = metrics.value("drop_pull_errors_total", &labels);
        ensure!(
            count.is_some_and(|count| count > 0.0),
            "{reference} {}:\n{}",
            trouble.class,
            metrics.text
        );
        let ready = history.ready();
        let failing: Vec<&str> = ready
            .iter()
            .map(|(_, reason)| reason.as_str())
            .filter(|reason| *reason != "InProgress")
            .collect();
        ensure!(
            failing.first() == Some(&trouble.first),
            "{}: {ready:?}",
            trouble.name
        );
        ensure!(
            !failing.contains(&"PullFailed"),
            "{}: {ready:?}",
            trouble.name
        );
    }
    let ready = good.ready();
    ensure!(
        ready == [("True".to_owned(), "Cached".to_owned())],
        "{ready:?}"
    );

    // What can be mended is tried again, not before its time, and then all is forgotten.
    cluster.proxy.clear();
    busy.clear();
    broken.clear();
    cluster.push("good-but-missing", "v1", &app).await?;
    for name in ["missing", "secret", "closed", "busy", "broken"] {
        let mended: CachedImage = cluster.until(name, SOON, is_ready).await?;
        ensure!(
            status(&mended).consecutive_failures == 0,
            "{name} still counts failures"
        );
        ensure!(
            status(&mended).nodes.is_empty(),
            "{name} still lists failures"
        );
    }
    // The image's own fault waits the maximum, a host's the initial time first; jitter shortens a wait by a fifth at most.
    for repository in ["good-but-missing", "secret", "closed"] {
        waited(&cluster.proxy.log(), repository, Duration::from_secs(8))?;
    }
    waited(&busy.log(), "busy", Duration::from_millis(1_600))?;
    waited(&broken.log(), "broken", Duration::from_millis(1_600))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_tag_costs_one_pull_in_the_whole_cluster_before_the_back_off() -> Result<()> {
    let cluster = nodes_find_out().nodes(3).start().await?;
    cluster.apply(&policy("fast", "failureBackoff: {initial: 2s, max: 15s}, maxConcurrentNodes: 3, minDelayBetweenPulls: 0s")).await?;
    cluster.push("app", "v1", &Recipe::layers(&[1_000])).await?;
    let typo = History::of(&cluster.client(), "typo");
    cluster
        .apply(&yaml("typo", &cluster.image("app"), "v11", BY_FAST))
        .await?;
    cluster
        .until("typo", SOON, |typo: &CachedImage| {
            has_reason(typo, "ImagePullBackOff")
        })
        .await?;
    let log = cluster.proxy.log().repository("app");
    ensure!(log.pulls().len() == 1, "{}", log.table());

    cluster
        .push("app", "v11", &Recipe::layers(&[1_000]))
        .await?;
    let app: CachedImage = cluster.until("typo", SOON, is_ready).await?;
    is_cached_on(&app, &["node-1", "node-2", "node-3"])?;
    let pulls = cluster.proxy.log().repository("app").pulls();
    ensure!(pulls.len() == 4, "{pulls:?}");
    let waited = pulls[1].start.saturating_sub(pulls[0].start);
    ensure!(waited >= Duration::from_secs(12), "{waited:?}");
    let reasons: Vec<String> = typo.ready().into_iter().map(|(_, reason)| reason).collect();
    let first = reasons.iter().position(|reason| reason == "ErrImagePull");
    let later = reasons
        .iter()
        .position(|reason| reason == "ImagePullBackOff");
    ensure!(first.is_some() && first < later, "{reasons:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_pauses_its_registry_host_for_all_nodes_and_images() -> Result<()> {
    let cluster = Cluster::builder().nodes(3).start().await?;
    let other = Proxy::start(cluster.registry.address()).await?;
    cluster.apply(&policy("fast", "failureBackoff: {initial: 5s, max: 10s}, maxConcurrentNodes: 3, minDelayBetweenPulls: 0s")).await?;
    for repository in ["a", "b", "c"] {
        cluster
            .push(repository, "v1", &Recipe::layers(&[1_000]))
            .await?;
    }
    cluster
        .proxy
        .inject(Fault::status(429).header("Retry-After", "5"));
    let elsewhere = format!("{}/c", other.host());
    let all = [
        yaml("a", &cluster.image("a"), "v1", BY_FAST),
        yaml("b", &cluster.image("b"), "v1", BY_FAST),
        yaml("c", &elsewhere, "v1", BY_FAST),
    ];
    cluster.apply(&all.concat()).await?;
    cluster.until("c", SOON, is_ready).await?;
    let throttled = format!("throttled by {}", cluster.proxy.host());
    for name in ["a", "b"] {
        cluster
            .until(name, SOON, |image: &CachedImage| {
                let ready = condition(image, "Ready");
                ensure!(
                    ready.1 == "RegistryUnavailable" && ready.2.contains(&throttled),
                    "{ready:?}"
                );
                Ok(())
            })
            .await?;
    }
    // At most one pull to find out and one trial after each pause; those of the first moment may be under way together.
    wait::until("two further trials", SOON, async || {
        let pulls = cluster.proxy.log().pulls();
        let last = pulls.last().context("no pull")?.start;
        ensure!(
            last > pulls[0].start + Duration::from_secs(12),
            "{}",
            pulls.len()
        );
        Ok(())
    })
    .await?;
    let log = cluster.proxy.log();
    let mut starts: Vec<f64> = log
        .pulls()
        .iter()
        .map(|pull| pull.start.as_secs_f64())
        .collect();
    let first = starts[0];
    // Before the first answer is known, each image may have its probe out.
    starts.retain(|start| *start > first + 2.0);
    for pair in starts.windows(2) {
        ensure!(pair[1] - pair[0] >= 4.9, "{}", log.table());
    }
    ensure!(
        starts.first().is_some_and(|start| start - first >= 4.9),
        "{}",
        log.table()
    );
    ensure!(log.pulls().len() - starts.len() <= 2, "{}", log.table());

    cluster.proxy.clear();
    for name in ["a", "b"] {
        let image: CachedImage = cluster.until(name, SOON, is_ready).await?;
        ensure!(status(&image).consecutive_failures == 0);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn row_11_a_hung_pull_blocks_the_image_nowhere_else() -> Result<()> {
    let cluster = Cluster::builder().nodes(3).start().await?;
    cluster.apply(&policy("fast", FAST)).await?;
    cluster.push("app", "v1", &Recipe::layers(&[1_000])).await?;
    cluster
        .push("else", "v1", &Recipe::layers(&[1_000]))
        .await?;
    // The first request is the probe's.
    let hang = cluster
        .proxy
        .inject(Fault::hang().repository("app").for_nodes().times(1));
    cluster
        .apply(&yaml("app", &cluster.image("app"), "v1", BY_FAST))
        .await?;
    cluster
        .apply(&yaml("else", &cluster.image("else"), "v1", BY_FAST))
        .await?;
    let app: CachedImage = cluster
        .until("app", SOON, |app: &CachedImage| {
            ensure!(status(app).nodes_ready == 2, "{:?}", status(app).ready);
            ensure!(
                status(app).nodes_pulling == 1,
                "{} pull",
                status(app).nodes_pulling
            );
            Ok(())
        })
        .await?;
    let log = cluster.proxy.log().repository("app").of_nodes();
    let hung = log.exchanges()[0]
        .node
        .clone()
        .context("the node gave no name")?;
    ensure!(
        !status(&app).cached_nodes.contains(&hung),
        "{:?}",
        status(&app)
    );
    ensure!(log.node(&hung).count() == 1, "{}", log.table());
    cluster
        .until("else", SOON, |other: &CachedImage| {
            ensure!(status(other).nodes_ready == 2, "{:?}", status(other).ready);
            Ok(())
        })
        .await?;

    cluster.proxy.remove(hang);
    cluster.until("app", SOON, is_ready).await?;
    cluster.until("else", SOON, is_ready).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn row_12_bad_nodes_slow_nobody() -> Result<()> {
    let mut cluster = nodes_find_out()
        .nodes(3)
        .node(NodeSpec::new("bad-dead"))
        // The testbed's agents refuse nothing beforehand: this disk is found full by the pull itself.
        .node(NodeSpec::new("bad-disk").disk(12))
        .node(NodeSpec::new("bad-way"))
        .coordinator_args(&["--agent-grace", "2s"])
        .start()
        .await?;
    cluster.apply(&policy("fast", "failureBackoff: {initial: 3s, max: 10s}, maxConcurrentNodes: 100, minDelayBetweenPulls: 0s")).await?;
    let images = ["a", "b", "c"];
    for name in images {
        cluster
            .push(name, "v1", &Recipe::layers(&[16_000_000]))
            .await?;
    }
    let way = cluster.proxy.inject(Fault::status(500).node("bad-way"));
    cluster.node("bad-dead")?.containerd()?.kill();
    for name in images {
        cluster
            .apply(&yaml(name, &cluster.image(name), "v1", BY_FAST))
            .await?;
    }
    let good = ["node-1", "node-2", "node-3"];
    for name in images {
        cluster
            .until(name, SOON, |image: &CachedImage| is_cached_on(image, &good))
            .await?;
        cluster
            .until(name, SOON, |image: &CachedImage| {
                has_reason(image, "PullFailed")?;
                let reason = |name: &str| {
                    let nodes = status(image).nodes;
                    nodes
                        .into_iter()
                        .find(|node| node.node == name)
                        .map(|node| node.reason)
                };
                ensure!(
                    reason("bad-dead").as_deref() == Some("RuntimeUnavailable"),
                    "{:?}",
                    status(image).nodes
                );
                ensure!(
                    reason("bad-disk").as_deref() == Some("InsufficientDisk"),
                    "{:?}",
                    status(image).nodes
                );
                ensure!(
                    reason("bad-way").as_deref() == Some("RegistryUnavailable"),
                    "{:?}",
                    status(image).nodes
                );
                let message = condition(image, "Ready").2;
                ensure!(message.starts_with("3/6 nodes ready: "), "{message}");
                Ok(())
            })
            .await?;
    }
    // One more wave while they are bad for a while already.
    cluster
        .push("late", "v1", &Recipe::layers(&[1_000]))
        .await?;
    cluster
        .apply(&yaml("late", &cluster.image("late"), "v1", BY_FAST))
        .await?;
    cluster
        .until("late", Duration::from_secs(20), |image: &CachedImage| {
            let cached = status(image).cached_nodes;
            ensure!(
                good.iter()
                    .all(|node| cached.iter().any(|name| name == node)),
                "{cached:?}"
            );
            Ok(())
        })
        .await?;

    cluster.proxy.remove(way);
    cluster.node("bad-dead")?.containerd()?.restart().await?;
    for name in images {
        cluster
            .until(name, SOON, |image: &CachedImage| {
                is_cached_on(
                    image,
                    &["bad-dead", "bad-way", "node-1", "node-2", "node-3"],
                )?;
                has_reason(image, "InsufficientDisk")?;
                ensure!(
                    condition(image, "Ready").2 == "no space left on the node; 5/6 nodes ready"
                );
                Ok(())
            })
            .await?;
    }
    let metrics = cluster.node("bad-disk")?.agent()?.metrics().await?;
    let full = metrics.value("drop_pull_errors_total", &[("class", "no_space")]);
    ensure!(full.is_some(), "{}", metrics.text);
    Ok(())
}
