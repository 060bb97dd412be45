//! What a runtime may do that containerd cannot be made to do: other versions' words, lost replies, lists that fail or are long.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{condition, is_cached_on, is_ready, policy, status, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::history::History;
use drop_tests::node::NodeSpec;
use drop_tests::scripted_cri::{ImageRef, Reply};
use drop_tests::wait;
use tonic::Code;

const SOON: Duration = Duration::from_secs(60);
/// Short waits, so that a test can see the retry.
const FAST: &str =
    "failureBackoff: {initial: 2s, max: 10s}, maxConcurrentNodes: 100, minDelayBetweenPulls: 0s";
const BY_FAST: &str = "policyRef: {name: fast}";

/// A node with a scripted runtime, which the agent asks for its list so often, and the policy `fast`.
async fn scripted(list_interval: &str) -> Result<Cluster> {
    let cluster = Cluster::builder()
        .node(NodeSpec::new("node-1").scripted())
        .coordinator_args(&["--agent-grace", "2s"])
        .agent_args(&["--list-interval", list_interval])
        .start()
        .await?;
    cluster.apply(&policy("fast", FAST)).await?;
    Ok(cluster)
}

/// Waits until the image's Ready condition is False with this reason and a message with this part.
async fn fails(cluster: &Cluster, name: &str, reason: &str, part: &str) -> Result<CachedImage> {
    cluster
        .until(name, SOON, |image: &CachedImage| {
            let ready = condition(image, "Ready");
            ensure!(ready.0 == "False" && ready.1 == reason, "{ready:?}");
            ensure!(ready.2.contains(part), "{ready:?}");
            Ok(())
        })
        .await
}

async fn errors(cluster: &mut Cluster, reference: &str, class: &str) -> Result<i64> {
    let metrics = cluster.node("node-1")?.agent()?.metrics().await?;
    let labels = [("image", reference), ("class", class)];
    Ok(metrics
        .value("drop_pull_errors_total", &labels)
        .unwrap_or_default() as i64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_says_ok_and_lists_nothing_is_never_called_ready() -> Result<()> {
    let mut cluster = scripted("2s").await?;
    let history = History::of(&cluster.client(), "ghost");
    let reference = "r.example/ghost:v1";
    cluster
        .node("node-1")?
        .scripted()?
        .script(reference, [Reply::unlisted()]);
    cluster
        .apply(&yaml("ghost", "r.example/ghost", "v1", BY_FAST))
        .await?;
    fails(&cluster, "ghost", "ImagePullBackOff", "does not list it").await?;
    ensure!(errors(&mut cluster, reference, "not_listed").await? > 0);
    ensure!(
        history
            .statuses()
            .iter()
            .all(|status| status.nodes_ready == 0)
    );
    cluster
        .node("node-1")?
        .scripted()?
        .script(reference, [Reply::default()]);
    let ghost: CachedImage = cluster.until("ghost", SOON, is_ready).await?;
    ensure!(status(&ghost).consecutive_failures == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_vanishes_is_told_and_waited_for() -> Result<()> {
    let mut cluster = scripted("2s").await?;
    cluster
        .apply(&yaml("there", "r.example/there", "v1", BY_FAST))
        .await?;
    cluster.until("there", SOON, is_ready).await?;
    let reference = "r.example/app:v1";
    cluster
        .node("node-1")?
        .scripted()?
        .script(reference, [Reply::never(), Reply::default()]);
    cluster
        .apply(&yaml("app", "r.example/app", "v1", BY_FAST))
        .await?;
    let runtime = cluster.node("node-1")?.scripted()?;
    wait::until("the pull to begin", SOON, async || {
        ensure!(runtime.pulls(reference) == 1, "it has not");
        Ok(())
    })
    .await?;

    runtime.vanish();
    for name in ["app", "there"] {
        let image = fails(&cluster, name, "RuntimeUnavailable", "0/1 nodes ready").await?;
        is_cached_on(&image, &[])?;
    }
    ensure!(errors(&mut cluster, reference, "runtime").await? == 1);
    let runtime = cluster.node("node-1")?.scripted()?;
    runtime.come_back()?;
    cluster.until("app", SOON, is_ready).await?;
    cluster.until("there", SOON, is_ready).await?;
    let runtime = cluster.node("node-1")?.scripted()?;
    ensure!(
        runtime.pulls(reference) == 2 && runtime.pulls("r.example/there:v1") == 1,
        "{:?}",
        runtime.calls()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_cannot_list_confirms_nothing() -> Result<()> {
    let mut cluster = scripted("2s").await?;
    cluster
        .apply(&yaml("there", "r.example/there", "v1", BY_FAST))
        .await?;
    cluster.until("there", SOON, is_ready).await?;
    let broken = (Code::Internal, "the image store is broken".to_owned());
    cluster.node("node-1")?.scripted()?.fail_lists(Some(broken));
    cluster
        .apply(&yaml("app", "r.example/app", "v1", BY_FAST))
        .await?;
    for name in ["app", "there"] {
        let image = fails(
            &cluster,
            name,
            "RuntimeUnavailable",
            "the image store is broken",
        )
        .await?;
        is_cached_on(&image, &[])?;
    }
    cluster.node("node-1")?.scripted()?.fail_lists(None);
    cluster.until("app", SOON, is_ready).await?;
    cluster.until("there", SOON, is_ready).await?;
    ensure!(
        cluster
            .node("node-1")?
            .scripted()?
            .pulls("r.example/there:v1")
            == 1
    );
    Ok(())
}

/// What runtimes say of a failed pull, and what it is to be called: name, code, class, reason, cause, text.
type Text = (
    &'static str,
    Code,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

const TEXTS: [Text; 8] = [
    (
        "containerd-1-7",
        Code::Unknown,
        "unauthorized",
        "ErrImagePull",
        "unauthorized: check imagePullSecrets",
        "failed to pull and unpack image \"REF\": failed to resolve reference \"REF\": pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials",
    ),
    (
        "containerd-2",
        Code::NotFound,
        "not_found",
        "ErrImagePull",
        "image not found",
        "failed to resolve image: REF: not found",
    ),
    (
        "crio-platform",
        Code::Unknown,
        "no_platform",
        "ErrImagePull",
        "no image for this node's platform",
        "choosing image instance: no image found in image index for architecture \"amd64\", variant \"\", OS \"linux\"",
    ),
    (
        "crio-refused",
        Code::Unknown,
        "connection",
        "RegistryUnavailable",
        "connection refused: crio-refused.example",
        "RegistryUnavailable: pinging container registry crio-refused.example: Get \"https://crio-refused.example/v2/\": dial tcp 10.0.0.7:443: connect: connection refused",
    ),
    (
        "crio-disk",
        Code::Unknown,
        "no_space",
        "InsufficientDisk",
        "no space left on the node",
        "copying system image from manifest list: writing blob: storing blob to file \"/var/tmp/x/1\": write /var/tmp/x/1: no space left on device",
    ),
    (
        "name",
        Code::Unknown,
        "invalid_name",
        "InvalidImageName",
        "invalid image name",
        "failed to parse image reference \"REF\": invalid reference format",
    ),
    (
        "signed-url",
        Code::Unknown,
        "forbidden",
        "ErrImagePull",
        "forbidden: access denied",
        "failed to pull and unpack image \"REF\": failed to copy: httpReadSeeker: failed open: unexpected status code https://cdn.example/b?X-Amz-Signature=SECRET: 403 Forbidden",
    ),
    (
        "odd",
        Code::Unknown,
        "other",
        "ErrImagePull",
        "see https://cdn.example/x",
        "something odd: see https://user:SECRET@cdn.example/x?token=SECRET",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_other_runtimes_mean_the_same() -> Result<()> {
    let mut cluster = scripted("2s").await?;
    let mut histories = Vec::new();
    for (name, code, .., text) in TEXTS {
        let image = format!("{name}.example/team/app");
        let reference = format!("{image}:v1");
        histories.push(History::of(&cluster.client(), name));
        let text = text.replace("REF", &reference);
        let replies = [Reply::failed(code, &text), Reply::default()];
        cluster
            .node("node-1")?
            .scripted()?
            .script(&reference, replies);
        cluster.apply(&yaml(name, &image, "v1", BY_FAST)).await?;
    }
    for ((name, _, class, reason, cause, _), history) in TEXTS.into_iter().zip(histories) {
        let reference = format!("{name}.example/team/app:v1");
        cluster.until(name, SOON, is_ready).await?;
        ensure!(
            errors(&mut cluster, &reference, class).await? == 1,
            "{name}"
        );
        ensure!(
            cluster.node("node-1")?.scripted()?.pulls(&reference) == 2,
            "{name}"
        );
        let statuses = history.statuses();
        let told = statuses
            .iter()
            .flat_map(|status| &status.conditions)
            .any(|ready| {
                ready.type_ == "Ready" && ready.reason == reason && ready.message.contains(cause)
            });
        let said = format!("{statuses:?}");
        ensure!(told, "{name}: {said}");
        ensure!(!said.contains("SECRET"), "{said}");
    }
    let agent = cluster.node("node-1")?.agent()?;
    ensure!(!agent.log().contains("SECRET"), "{}", agent.log());
    let metrics = agent.metrics().await?.text;
    ensure!(!metrics.contains("SECRET"), "{metrics}");
    ensure!(
        !cluster.coordinator.log().contains("SECRET"),
        "{}",
        cluster.coordinator.log()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_the_runtime_cancels_is_tried_again() -> Result<()> {
    let mut cluster = scripted("2s").await?;
    let reference = "r.example/slow:v1";
    let text = "failed to pull and unpack image: failed to copy: context canceled";
    let replies = [Reply::failed(Code::Cancelled, text), Reply::default()];
    cluster
        .node("node-1")?
        .scripted()?
        .script(reference, replies);
    cluster
        .apply(&yaml("slow", "r.example/slow", "v1", BY_FAST))
        .await?;
    fails(
        &cluster,
        "slow",
        "ErrImagePull",
        "cancelled by the container runtime",
    )
    .await?;
    cluster.until("slow", SOON, is_ready).await?;
    ensure!(errors(&mut cluster, reference, "canceled").await? == 1);
    let calls = cluster.node("node-1")?.scripted()?.calls();
    let mut pulls = calls.iter().filter(|call| call.method == "PullImage");
    let (first, second) = (
        pulls.next().context("no pull")?,
        pulls.next().context("no retry")?,
    );
    ensure!(
        second.at >= first.at + Duration::from_millis(1_600),
        "{first:?} {second:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_image_ref_and_a_list_of_12_mib_are_understood() -> Result<()> {
    let mut cluster = scripted("30s").await?;
    let runtime = cluster.node("node-1")?.scripted()?;
    runtime.pad_list(12 * 1_024 * 1_024);
    for (name, version, form) in [
        ("containerd", "v2.1.9", ImageRef::ConfigDigest),
        ("cri-o", "1.34.2", ImageRef::RepoDigest),
        ("cri-o", "1.36.3", ImageRef::BareId),
    ] {
        let runtime = cluster.node("node-1")?.scripted()?;
        runtime.call_it(name, version);
        runtime.image_ref(form);
        let object = format!("{name}-{}", version.replace('.', "-"));
        let image = format!("r.example/{object}");
        let reference = format!("{image}:v1");
        let digest = format!("sha256:{:064x}", version.len() + name.len() * 1_000);
        runtime.digest(&reference, &digest);
        cluster.apply(&yaml(&object, &image, "v1", BY_FAST)).await?;
        let ready: CachedImage = cluster.until(&object, SOON, is_ready).await?;
        ensure!(
            status(&ready).resolved_digest.as_deref() == Some(&digest),
            "{:?}",
            status(&ready)
        );
        ensure!(cluster.node("node-1")?.scripted()?.pulls(&reference) == 1);
    }
    Ok(())
}
