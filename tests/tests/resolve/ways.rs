//! Which registries the coordinator asks, and on which way: plain HTTP, a proxy, or not at all.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{condition, is_not_ready, is_ready, policy, status, yaml};
use drop_tests::certificates::Authority;
use drop_tests::cluster::Cluster;
use drop_tests::dirs::Scratch;
use drop_tests::forward_proxy::ForwardProxy;
use drop_tests::ports;
use drop_tests::proxy::Proxy;

use crate::tls::tls_registry;
use crate::{BY_FAST, SOON, small};

const NODE: &str = "node-1";

/// The cluster's images once more, without TLS, where only who is told so asks for them so. The node is told.
async fn plain_registry(cluster: &mut Cluster, address: SocketAddr) -> Result<Proxy> {
    let proxy = Proxy::start_on(address, cluster.registry.address()).await?;
    let server = format!("http://{address}");
    let node = cluster.node(NODE)?;
    node.containerd()?.redirect(&proxy.host(), &server)?;
    Ok(proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_spoken_only_with_a_registry_that_is_named() -> Result<()> {
    let ip = ports::own_address()?;
    let [named, unnamed] = [ports::free()?, ports::free()?].map(|port| SocketAddr::new(ip, port));
    let args = ["--plain-http-registry", &named.to_string()];
    let mut cluster = Cluster::builder()
        .coordinator_args(&args)
        .nodes(1)
        .start()
        .await?;
    let digest = cluster.push("team/app", "v1", &small()).await?;
    let named = plain_registry(&mut cluster, named).await?;
    let unnamed = plain_registry(&mut cluster, unnamed).await?;
    cluster.apply(&policy("fast", "")).await?;
    for (name, proxy) in [("named", &named), ("unnamed", &unnamed)] {
        let image = format!("{}/team/app", proxy.host());
        cluster.apply(&yaml(name, &image, "v1", BY_FAST)).await?;
    }
    let why = format!(
        "the coordinator cannot reach {0}, a node checks the tag: {0} speaks no TLS: name it with --plain-http-registry if that \
         is meant",
        unnamed.host()
    );
    for (name, words) in [
        ("named", "Image cached on all 1 target nodes"),
        ("unnamed", &why),
    ] {
        let app: CachedImage = cluster
            .until(name, SOON, |app| {
                is_ready(app)?;
                let (_, _, message) = condition(app, "Ready");
                ensure!(message.ends_with(words), "{message}");
                Ok(())
            })
            .await?;
        ensure!(status(&app).resolved_digest.as_ref() == Some(&digest));
    }
    let log = named.log();
    let heads = log.of_coordinator().manifests().method("HEAD");
    ensure!(heads.count() == 1, "{}", log.table());
    let log = unnamed.log();
    ensure!(log.of_coordinator().count() == 0, "{}", log.table());
    ensure!(log.pulls().len() == 1, "{}", log.table());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_on_loopback_is_each_nodes_own_and_not_asked() -> Result<()> {
    let cluster = crate::cluster(1).await?;
    let digest = cluster.push("team/app", "v1", &small()).await?;
    // The testbed names 127.0.0.1 as everybody's.
    let host = cluster.proxy.host().replace("127.0.0.1", "localhost");
    let image = format!("{host}/team/app");
    for tag in ["v1", "missing"] {
        cluster.apply(&yaml(tag, &image, tag, BY_FAST)).await?;
    }
    let why = format!(
        "the coordinator cannot reach {host}, a node checks the tag: {host} is each machine's own"
    );
    let app: CachedImage = cluster
        .until("v1", SOON, |app| {
            is_ready(app)?;
            let (_, _, message) = condition(app, "Ready");
            ensure!(message.ends_with(&why), "{message}");
            Ok(())
        })
        .await?;
    ensure!(status(&app).resolved_digest.as_ref() == Some(&digest));
    // That it does not exist is the node's word.
    cluster
        .until("missing", SOON, |app: &CachedImage| {
            is_not_ready(app, "ImagePullBackOff")?;
            let (_, _, message) = condition(app, "Ready");
            ensure!(message.starts_with("image not found"), "{message}");
            Ok(())
        })
        .await?;
    let log = cluster.proxy.log();
    ensure!(log.of_coordinator().count() == 0, "{}", log.table());
    let asked = log.of_nodes().reference("team/app", "missing");
    ensure!(asked.count() > 0, "{}", log.table());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_go_through_the_proxy_of_the_environment_but_for_its_exceptions() -> Result<()> {
    let scratch = Scratch::new()?;
    let authority = Authority::new(&scratch.folder("authority")?)?;
    let file = authority.certificate().display().to_string();
    let address = SocketAddr::new(ports::own_address()?, ports::free()?);
    let args = [
        "--registry-ca-file",
        &file,
        "--plain-http-registry",
        &address.to_string(),
    ];
    let mut cluster = Cluster::builder()
        .coordinator_args(&args)
        .nodes(1)
        .start()
        .await?;
    let forward = ForwardProxy::start().await?;
    cluster.coordinator.kill();
    let process = cluster.coordinator.process();
    for name in ["HTTPS_PROXY", "HTTP_PROXY"] {
        process.set_env(name, &forward.url());
    }
    process.set_env("NO_PROXY", "127.0.0.1");
    // The API server is reached as before.
    cluster.coordinator.restart().await?;
    let digest = cluster.push("team/app", "v1", &small()).await?;
    let secure = tls_registry(&mut cluster, &authority).await?;
    let plain = plain_registry(&mut cluster, address).await?;
    cluster.apply(&policy("fast", "")).await?;
    for (name, host) in [
        ("secure", secure.address()),
        ("plain", &plain.host()),
        ("spared", &cluster.proxy.host()),
    ] {
        let image = format!("{host}/team/app");
        cluster.apply(&yaml(name, &image, "v1", BY_FAST)).await?;
        let app: CachedImage = cluster
            .until(name, SOON, |app| {
                is_ready(app)?;
                let (_, _, message) = condition(app, "Ready");
                ensure!(message == "Image cached on all 1 target nodes", "{message}");
                Ok(())
            })
            .await?;
        ensure!(status(&app).resolved_digest.as_ref() == Some(&digest));
    }
    let lines = forward.lines();
    let tunnel = format!("CONNECT {}", secure.address());
    let through = format!("http://{}/v2/", plain.host());
    ensure!(lines.contains(&tunnel), "{lines:?}");
    ensure!(
        lines.iter().any(|line| line.contains(&through)),
        "{lines:?}"
    );
    let mut spared = lines.iter().filter(|line| line.contains("127.0.0.1"));
    ensure!(spared.next().is_none(), "{lines:?}");
    for log in [plain.log(), cluster.proxy.log()] {
        let heads = log.of_coordinator().method("HEAD");
        ensure!(heads.count() == 1, "{}", log.table());
    }
    Ok(())
}
