//! Nodes whose disk has no room, nodes that take images away again, and pulls that do not end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{condition, is_not_ready, is_ready, policy, status, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::command::Command;
use drop_tests::containerd::{Containerd, Disk};
use drop_tests::dirs::Scratch;
use drop_tests::images::Recipe;
use drop_tests::node::NodeSpec;
use drop_tests::proxy::{Fault, Proxy};
use drop_tests::registry::Registry;
use drop_tests::scripted_cri::Reply;
use drop_tests::{parts, wait};
use tonic::Code;

const SOON: Duration = Duration::from_secs(60);
/// Short waits, so that a test can see the retry.
const FAST: &str =
    "failureBackoff: {initial: 1s, max: 2s}, maxConcurrentNodes: 100, minDelayBetweenPulls: 0s";
const BY_FAST: &str = "policyRef: {name: fast}";

/// The disk of a node's containerd.
fn disk_of(cluster: &Cluster, node: &str) -> PathBuf {
    cluster.folder().join(node).join("containerd/root")
}

/// Fills the disk with a file, up to `megabytes` or until nothing more fits.
fn fill(disk: &Path, megabytes: usize) -> Result<PathBuf> {
    use std::io::Write;
    let path = disk.join("filler");
    let mut file = std::fs::File::create(&path).context("create a file that fills the disk")?;
    let block = vec![0_u8; 1_000_000];
    for _ in 0..megabytes {
        if file.write_all(&block).is_err() {
            break;
        }
    }
    Ok(path)
}

/// The words for the one node that is not ready.
fn says(image: &CachedImage, reason: &str, words: &[&str]) -> Result<()> {
    is_not_ready(image, reason)?;
    let (_, _, message) = condition(image, "Ready");
    let nodes = status(image).nodes;
    let node = nodes.first().context("status.nodes is empty")?;
    ensure!(node.reason == reason && node.since.is_some(), "{node:?}");
    for word in words {
        ensure!(message.contains(word), "{word} is not in {message:?}");
        ensure!(node.message.contains(word), "{word} is not in {node:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_would_fill_the_disk_is_refused_with_the_numbers_until_there_is_space()
-> Result<()> {
    let limits = [
        "--disk-high-percent=80",
        "--disk-default-need=20M",
        "--list-interval=1s",
    ];
    let mut cluster = Cluster::builder()
        .node(NodeSpec::new("small").disk(64).agent_args(&limits))
        .start()
        .await?;
    cluster
        .push("app", "v1", &Recipe::layers(&[5_000_000]))
        .await?;
    let filler = fill(&disk_of(&cluster, "small"), 45)?;
    // The disk is read with each list, and one after this moment is certain to be meant.
    let read = "drop_runtime_up";
    cluster.node("small")?.agent()?.wait_ready(SOON).await?;
    let metrics = cluster.node("small")?.agent()?.metrics().await?;
    ensure!(metrics.value(read, &[]) == Some(1.0), "{}", metrics.text);
    cluster.apply(&policy("fast", FAST)).await?;
    cluster
        .apply(&yaml("app", &cluster.image("app"), "v1", BY_FAST))
        .await?;
    // Three times what the registry keeps, which the coordinator has asked for.
    let words = [
        "needs 15.0 MB",
        "of 67.1 MB free",
        "% would be in use, over --disk-high-percent=80",
        "free space on the node",
    ];
    // Where only words change, the status is written within a minute: it may have judged before it knew the size.
    cluster
        .until("app", 2 * SOON, |app: &CachedImage| {
            says(app, "InsufficientDisk", &words)
        })
        .await?;
    let log = cluster.proxy.log().repository("app").of_nodes();
    ensure!(log.count() == 0, "{}", log.table());
    let metrics = cluster.node("small")?.agent()?.metrics().await?;
    let refusals = metrics.value("drop_disk_refusals_total", &[]);
    // Once before it knew the size, or not.
    ensure!(
        refusals == Some(1.0) || refusals == Some(2.0),
        "{}",
        metrics.text
    );

    std::fs::remove_file(filler)?;
    cluster.until("app", SOON, is_ready).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_does_not_kill_the_agent_and_is_used_again_when_space_is_back() -> Result<()> {
    let mut cluster = Cluster::builder()
        .node(
            NodeSpec::new("full")
                .disk(24)
                .agent_args(&["--list-interval=1s"]),
        )
        // Who knows the image's size does not even try.
        .coordinator_args(&["--resolve-tags=false"])
        .start()
        .await?;
    cluster
        .push("app", "v1", &Recipe::layers(&[4_000_000]))
        .await?;
    cluster.node("full")?.agent()?.wait_ready(SOON).await?;
    let pid = cluster.node("full")?.agent()?.process().pid();
    let filler = fill(&disk_of(&cluster, "full"), 21)?;
    cluster.apply(&policy("fast", FAST)).await?;
    cluster
        .apply(&yaml("app", &cluster.image("app"), "v1", BY_FAST))
        .await?;
    cluster
        .until("app", SOON, |app: &CachedImage| {
            says(app, "InsufficientDisk", &["no space left on the node"])
        })
        .await?;
    std::fs::remove_file(filler)?;
    cluster.until("app", SOON, is_ready).await?;
    let agent = cluster.node("full")?.agent()?;
    ensure!(agent.process().running(), "{}", agent.log());
    ensure!(agent.process().pid() == pid, "{}", agent.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_disk_pressure_pulls_nothing_until_it_is_over() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).start().await?;
    cluster.push("app", "v1", &Recipe::layers(&[1_000])).await?;
    cluster.nodes[0].disk_pressure("True").await?;
    cluster.apply(&policy("fast", FAST)).await?;
    // An image that says that node-1 is known to be short of space by now.
    let words = ["the kubelet reports DiskPressure"];
    cluster
        .apply(&yaml("app", &cluster.image("app"), "v1", BY_FAST))
        .await?;
    cluster
        .until("app", SOON, |app: &CachedImage| {
            says(app, "InsufficientDisk", &words)?;
            ensure!(status(app).cached_nodes == ["node-2"], "{:?}", status(app));
            Ok(())
        })
        .await?;
    let log = cluster.proxy.log().node("node-1");
    ensure!(log.count() == 0, "{}", log.table());
    cluster.nodes[0].disk_pressure("False").await?;
    cluster.until("app", SOON, is_ready).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_removed_twice_is_left_alone_even_by_new_processes() -> Result<()> {
    let mut cluster = Cluster::builder()
        .nodes(1)
        .agent_args(&["--list-interval=1s"])
        .start()
        .await?;
    let digest = cluster.push("app", "v1", &Recipe::layers(&[1_000])).await?;
    let reference = format!("{}:v1", cluster.image("app"));
    cluster
        .apply(&yaml("app", &cluster.image("app"), "v1", ""))
        .await?;
    cluster.until("app", SOON, is_ready).await?;
    let cri = cluster.nodes[0].cri();
    cri.remove(&reference).await?;
    wait::until("the image to be back", SOON, async || {
        let pulls = cluster.proxy.log().repository("app").pulls().len();
        let holders = cluster.holders(&reference, &digest).await?;
        ensure!(pulls == 2 && !holders.is_empty(), "{pulls} pulls");
        Ok(())
    })
    .await?;
    cluster.until("app", SOON, is_ready).await?;
    cri.remove(&reference).await?;
    let words = [
        "removed twice within an hour",
        "image garbage collection",
        "imageGCHighThresholdPercent",
    ];
    let left_alone = |app: &CachedImage| {
        says(app, "ImagePullBackOff", &words)?;
        let retry = status(app).nodes[0].next_retry.clone();
        ensure!(retry.is_some(), "{:?}", status(app).nodes);
        Ok(())
    };
    cluster.until("app", SOON, left_alone).await?;

    // Whoever forgets would pull at once.
    cluster.node("node-1")?.agent()?.kill();
    cluster.coordinator.kill();
    cluster.coordinator.restart().await?;
    let agent = cluster.node("node-1")?.agent()?;
    agent.restart().await?;
    agent.wait_ready(SOON).await?;
    wait::holds(
        "the image is left alone",
        Duration::from_secs(5),
        async || {
            let pulls = cluster.proxy.log().repository("app").pulls().len();
            ensure!(pulls == 2, "{pulls} pulls");
            let app: CachedImage = cluster.get("app").await?;
            left_alone(&app)
        },
    )
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_from_a_stalled_registry_ends_after_the_policys_timeout_and_is_tried_again()
-> Result<()> {
    let cluster = Cluster::builder().nodes(1).start().await?;
    cluster
        .push("app", "v1", &Recipe::layers(&[3_000_000]))
        .await?;
    let stall = cluster
        .proxy
        .inject(Fault::stall_after(1_000_000).repository("app"));
    let spec = format!("{FAST}, pullTimeout: 2s");
    cluster.apply(&policy("fast", &spec)).await?;
    cluster
        .apply(&yaml("app", &cluster.image("app"), "v1", BY_FAST))
        .await?;
    let words = ["not finished within 2 s", "raise pullTimeout"];
    cluster
        .until("app", SOON, |app: &CachedImage| {
            says(app, "ImagePullBackOff", &words)
        })
        .await?;
    cluster.proxy.remove(stall);
    cluster.until("app", SOON, is_ready).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_runtime_and_one_that_cancels_or_goes_away_are_tried_again() -> Result<()> {
    let mut cluster = Cluster::builder()
        .node(NodeSpec::new("odd").scripted())
        .start()
        .await?;
    let spec = format!("{FAST}, pullTimeout: 2s");
    cluster.apply(&policy("fast", &spec)).await?;
    let replies = [
        ("stalled", Reply::never()),
        (
            "cancelled",
            Reply::failed(Code::Cancelled, "context canceled"),
        ),
        (
            "away",
            Reply::failed(Code::Unavailable, "server is stopping"),
        ),
    ];
    for (name, reply) in &replies {
        let reference = format!("r.example/{name}:v1");
        let script = [reply.clone(), reply.clone(), Reply::default()];
        cluster.node("odd")?.scripted()?.script(&reference, script);
    }
    for (name, _) in &replies {
        cluster
            .apply(&yaml(name, &format!("r.example/{name}"), "v1", BY_FAST))
            .await?;
    }
    for (name, _) in &replies {
        cluster.until(name, SOON, is_ready).await?;
        let reference = format!("r.example/{name}:v1");
        let pulls = cluster.node("odd")?.scripted()?.pulls(&reference);
        ensure!(pulls == 3, "{name}: {pulls} pulls");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_gives_up_what_the_disk_has_no_room_for() -> Result<()> {
    let scratch = Scratch::new()?;
    let registry = Registry::start(&scratch.path().join("registry")).await?;
    let proxy = Proxy::start(registry.address()).await?;
    let folder = scratch.path().join("machine");
    let containerd = Containerd::start(&folder, "machine", Disk::Tmpfs(64)).await?;
    Recipe::layers(&[1_000])
        .push(&registry, "app", "v1")
        .await?;
    let file = scratch.path().join("images.yaml");
    let image = format!("{}/app", proxy.host());
    std::fs::write(&file, yaml("app", &image, "v1", ""))?;
    let bake = async |need: &str| {
        Command::new(&parts::built("drop-agent")?)
            .args(["bake", "--runtime-endpoint", &containerd.endpoint()])
            .args(["--disk-default-need", need])
            .args([&file])
            .run(SOON)
            .await
    };
    let ended = bake("60M").await?;
    ensure!(ended.code == Some(1), "{ended:?}");
    for word in ["no_space", "needs 60.0 MB", "--disk-high-percent=80"] {
        ensure!(ended.stdout.contains(word), "{word} is not in {ended:?}");
    }
    ensure!(proxy.log().count() == 0, "{}", proxy.log().table());
    bake("10M").await?.success()?;
    Ok(())
}
