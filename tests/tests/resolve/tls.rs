//! Registries whose certificates an authority of their own has signed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{condition, is_not_ready, is_ready, policy, status, yaml};
use drop_tests::certificates::Authority;
use drop_tests::cluster::Cluster;
use drop_tests::dirs::Scratch;
use drop_tests::guarded::storage;
use drop_tests::images::Recipe;
use drop_tests::node::NodeSpec;
use drop_tests::registry::{Registry, Request, Setup, Version};
use drop_tests::{ports, wait};

use crate::{BY_FAST, SOON, other_platform, small};

const NODE: &str = "node-1";

/// The cluster's images once more, over TLS, on an address that is no loopback.
pub(crate) async fn tls_registry(cluster: &mut Cluster, authority: &Authority) -> Result<Registry> {
    let ip = ports::own_address()?;
    let (certificate, key) = authority.serve_names("registry", &[&ip.to_string()])?;
    let registry = Setup::new(Version::Two)
        .on(ip)
        .tls(&certificate, &key, None)
        .logged()
        .start(&storage(cluster, "tls")?)
        .await?;
    let node = cluster.node(NODE)?;
    node.containerd()?
        .trust(registry.address(), &authority.certificate())?;
    Ok(registry)
}

fn is_coordinators(request: &Request) -> bool {
    request.agent.starts_with("drop-coordinator/")
}

/// `cause` in rustls' words.
fn untrusted(host: &str, cause: &str) -> String {
    format!(
        "the coordinator cannot reach {host}, a node checks the tag: tls: certificate error (invalid peer certificate: {cause}): \
         give its authority with --registry-ca-file"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_whose_authority_is_given_is_asked_for_digest_platform_and_size() -> Result<()> {
    let scratch = Scratch::new()?;
    let authority = Authority::new(&scratch.folder("authority")?)?;
    let file = authority.certificate().display().to_string();
    let limits = ["--disk-high-percent=80", "--disk-default-need=1M"];
    let mut cluster = Cluster::builder()
        .coordinator_args(&["--registry-ca-file", &file])
        .node(NodeSpec::new(NODE).disk(64).agent_args(&limits))
        .start()
        .await?;
    let registry = tls_registry(&mut cluster, &authority).await?;
    let digest = cluster.push("team/app", "v1", &small()).await?;
    let foreign = small().platform(other_platform());
    cluster.push("team/foreign", "v1", &foreign).await?;
    let large = Recipe::layers(&[40_000_000]);
    cluster.push("team/large", "v1", &large).await?;
    cluster.apply(&policy("fast", "")).await?;
    for name in ["app", "foreign", "missing", "large"] {
        let image = format!("{}/team/{name}", registry.address());
        cluster.apply(&yaml(name, &image, "v1", BY_FAST)).await?;
    }
    let app: CachedImage = cluster.until("app", SOON, is_ready).await?;
    ensure!(status(&app).resolved_digest.as_ref() == Some(&digest));
    for (name, reason, words) in [
        (
            "foreign",
            "ImagePullBackOff",
            "no image for this node's platform",
        ),
        ("missing", "ImagePullBackOff", "image not found"),
        ("large", "InsufficientDisk", "needs 120.0 MB"),
    ] {
        let object: CachedImage = cluster
            .until(name, SOON, |image| is_not_ready(image, reason))
            .await?;
        let (_, _, message) = condition(&object, "Ready");
        ensure!(message.contains(words), "{name}: {message}");
    }
    let requests = registry.requests();
    let tag = "HEAD /v2/team/app/manifests/v1";
    let first = requests.iter().find(|request| request.asked == tag);
    ensure!(first.is_some_and(is_coordinators), "{requests:#?}");
    let heads = requests.iter().filter(|request| is_coordinators(request));
    ensure!(
        heads.filter(|request| request.asked == tag).count() == 1,
        "{requests:#?}"
    );
    // What the coordinator said of the others was enough.
    let mut of_nodes = requests.iter().filter(|request| !is_coordinators(request));
    ensure!(
        of_nodes
            .all(|request| request.asked.contains("/team/app/") || !request.asked.contains("team")),
        "{requests:#?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_whose_authority_is_not_given_is_left_to_nodes_and_the_condition_says_why()
-> Result<()> {
    let scratch = Scratch::new()?;
    let authority = Authority::new(&scratch.folder("authority")?)?;
    let mut cluster = Cluster::builder().nodes(1).start().await?;
    let registry = tls_registry(&mut cluster, &authority).await?;
    let digest = cluster.push("team/app", "v1", &small()).await?;
    cluster.apply(&policy("fast", "")).await?;
    let image = format!("{}/team/app", registry.address());
    cluster.apply(&yaml("app", &image, "v1", BY_FAST)).await?;
    let why = untrusted(registry.address(), "UnknownIssuer");
    let app: CachedImage = cluster
        .until("app", SOON, |app| {
            is_ready(app)?;
            let (_, _, message) = condition(app, "Ready");
            ensure!(message.ends_with(&why), "{message}");
            Ok(())
        })
        .await?;
    ensure!(status(&app).resolved_digest.as_ref() == Some(&digest));
    let requests = registry.requests();
    ensure!(!requests.iter().any(is_coordinators), "{requests:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_authorities_is_followed_without_a_restart() -> Result<()> {
    let scratch = Scratch::new()?;
    let authority = Authority::new(&scratch.folder("authority")?)?;
    let other = Authority::new(&scratch.folder("other")?)?;
    let file = scratch.path().join("trusted.crt");
    std::fs::copy(other.certificate(), &file).context("trust the wrong one")?;
    let args = ["--registry-ca-file", &file.display().to_string()];
    let mut cluster = Cluster::builder()
        .coordinator_args(&args)
        .nodes(1)
        .start()
        .await?;
    let registry = tls_registry(&mut cluster, &authority).await?;
    cluster.push("team/app", "v1", &small()).await?;
    cluster.apply(&policy("fast", "")).await?;
    let image = format!("{}/team/app", registry.address());
    cluster.apply(&yaml("app", &image, "v1", BY_FAST)).await?;
    // All authorities of the testbed have one name.
    let why = untrusted(registry.address(), "BadSignature");
    cluster
        .until("app", SOON, |app: &CachedImage| {
            is_ready(app)?;
            let (_, _, message) = condition(app, "Ready");
            ensure!(message.ends_with(&why), "{message}");
            Ok(())
        })
        .await?;

    std::fs::copy(authority.certificate(), &file).context("trust the right one")?;
    wait::until("the file to be read", Duration::from_secs(30), async || {
        let log = cluster.coordinator.log();
        ensure!(log.contains("trusts other authorities"), "{log}");
        Ok(())
    })
    .await?;
    // An edit asks a host again that was out of reach; else a minute has to pass.
    let edited = format!("{BY_FAST}, nodeSelector: {{kubernetes.io/os: linux}}");
    cluster.apply(&yaml("app", &image, "v1", &edited)).await?;
    cluster.push("team/app", "v2", &small()).await?;
    cluster.apply(&yaml("next", &image, "v2", BY_FAST)).await?;
    cluster
        .until("next", SOON, |app: &CachedImage| {
            is_ready(app)?;
            let (_, _, message) = condition(app, "Ready");
            ensure!(message == "Image cached on all 1 target nodes", "{message}");
            Ok(())
        })
        .await?;
    let requests = registry.requests();
    ensure!(requests.iter().any(is_coordinators), "{requests:#?}");
    Ok(())
}
