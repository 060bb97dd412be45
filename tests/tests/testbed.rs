//! The testbed itself, on its real parts: what the scenarios rely on.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_tests::containerd::{Containerd, Disk};
use drop_tests::control_plane::{ControlPlane, Controllers};
use drop_tests::cri_client::CriClient;
use drop_tests::dirs::Scratch;
use drop_tests::images::{Blob, Recipe};
use drop_tests::node::{Node as TestNode, NodeSpec};
use drop_tests::prometheus::{self, Prometheus};
use drop_tests::proxy::{End, Fault, Kind, Proxy};
use drop_tests::registry::Registry;
use drop_tests::scripted_cri::{ImageRef, Reply, ScriptedCri};
use drop_tests::{node, objects, wait};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use tonic::Code;

const MIB: usize = 1_024 * 1_024;

/// A registry behind a proxy, in a directory of its own.
struct Host {
    proxy: Proxy,
    registry: Registry,
    scratch: Scratch,
}

impl Host {
    async fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let registry = Registry::start(&scratch.path().join("registry")).await?;
        let proxy = Proxy::start(registry.address()).await?;
        Ok(Self {
            proxy,
            registry,
            scratch,
        })
    }

    async fn containerd(&self, node: &str, disk: Disk) -> Result<Containerd> {
        Containerd::start(&self.scratch.path().join(node), node, disk).await
    }

    fn reference(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.proxy.host())
    }
}

#[tokio::test]
async fn a_control_plane_counts_what_it_is_asked_and_survives_a_restart() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut plane = ControlPlane::start(&scratch.path().join("plane"), Controllers::None).await?;
    let client = plane.client();
    let created = node::register(
        &client,
        "node-1",
        &BTreeMap::from([("zone".into(), "a".into())]),
        &[],
    )
    .await?;
    assert!(
        created
            .spec
            .unwrap_or_default()
            .taints
            .unwrap_or_default()
            .is_empty(),
        "admission's taint is gone"
    );
    assert_eq!(
        plane
            .audit()?
            .by("admin")
            .status_writes("nodes", "node-1")
            .count(),
        1
    );

    let stranger = plane.client_for("stranger", &["nobody"]).await?;
    let nodes: Api<Node> = Api::all(stranger);
    let refused = nodes
        .list(&ListParams::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains(r#"User "stranger" cannot list resource "nodes""#),
        "{refused}"
    );

    plane.stop_api();
    assert!(objects::get::<Node>(&client, "node-1").await.is_err());
    plane.start_api().await?;
    let kept: Node = objects::get(&client, "node-1").await?;
    assert_eq!(kept.metadata.labels.unwrap_or_default()["zone"], "a");
    Ok(())
}

#[tokio::test]
async fn a_node_is_what_its_spec_and_its_changes_say() -> Result<()> {
    let scratch = Scratch::new()?;
    let plane = ControlPlane::start(&scratch.path().join("plane"), Controllers::None).await?;
    let client = plane.client();
    let spec = NodeSpec::new("gpu-1")
        .label("gpu", "yes")
        .taint("team", "ml", "NoSchedule")
        .scripted()
        .without_agent();
    let folder = scratch.path().join("gpu-1");
    let mut node = TestNode::start(&folder, &client, "http://127.0.0.1:1", spec).await?;
    node.scripted()?.add("r.example/app:v1");
    assert!(node.containerd().is_err() && node.agent().is_err());

    let object: Node = objects::get(&client, "gpu-1").await?;
    assert_eq!(object.metadata.labels.unwrap_or_default()["gpu"], "yes");
    let taints = object.spec.unwrap_or_default().taints.unwrap_or_default();
    assert_eq!((taints.len(), taints[0].key.as_str()), (1, "team"));

    node.label("gpu", None).await?;
    node.taints(&[("a", "", "NoExecute"), ("b", "c", "PreferNoSchedule")])
        .await?;
    node.cordon().await?;
    let object: Node = objects::get(&client, "gpu-1").await?;
    assert!(
        !object
            .metadata
            .labels
            .unwrap_or_default()
            .contains_key("gpu")
    );
    let spec = object.spec.unwrap_or_default();
    assert_eq!(spec.unschedulable, Some(true));
    // Admission of the API server itself adds no taint for a cordon; only a node-lifecycle controller does.
    assert_eq!(spec.taints.unwrap_or_default().len(), 2);
    node.deregister().await?;
    assert!(objects::get::<Node>(&client, "gpu-1").await.is_err());
    Ok(())
}

#[tokio::test]
async fn yaml_is_applied_strictly_and_a_wait_shows_the_last_status() -> Result<()> {
    let scratch = Scratch::new()?;
    let plane = ControlPlane::start(&scratch.path().join("plane"), Controllers::None).await?;
    let two = "apiVersion: v1\nkind: Namespace\nmetadata: {name: one}\n---\napiVersion: v1\nkind: ConfigMap\n\
               metadata: {name: two, namespace: one}\ndata: {a: b}\n";
    plane.apply(two).await?;
    let misspelt = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: three}\ndatum: {a: b}\n";
    let refused = format!("{:#}", plane.apply(misspelt).await.unwrap_err());
    assert!(refused.contains("datum"), "{refused}");

    let client = plane.client();
    let never = objects::until::<Namespace>(&client, "one", Duration::from_millis(200), |_| {
        anyhow::bail!("not what I want")
    });
    let shown = format!("{:#}", never.await.unwrap_err());
    assert!(
        shown.contains("not what I want") && shown.contains("\"phase\": \"Active\""),
        "{shown}"
    );
    Ok(())
}

#[tokio::test]
async fn owner_references_act_where_controllers_run() -> Result<()> {
    let scratch = Scratch::new()?;
    let plane = ControlPlane::start(&scratch.path().join("plane"), Controllers::Run).await?;
    let maps: Api<ConfigMap> = Api::namespaced(plane.client(), "default");
    plane
        .apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: owner}\n")
        .await?;
    let uid = maps.get("owner").await?.metadata.uid.unwrap_or_default();
    let owned = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: owned\n  ownerReferences: \
         [{{apiVersion: v1, kind: ConfigMap, name: owner, uid: {uid}}}]\n"
    );
    plane.apply(&owned).await?;
    maps.delete("owner", &DeleteParams::background()).await?;
    wait::until(
        "the owned object to go",
        Duration::from_secs(30),
        async || {
            ensure!(maps.get_opt("owned").await?.is_none(), "it is there");
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn two_containerds_pull_one_image_and_the_log_names_them() -> Result<()> {
    let host = Host::start().await?;
    let (one, two) = (
        host.containerd("node-1", Disk::Machine).await?,
        host.containerd("node-2", Disk::Machine).await?,
    );
    let digest = Recipe::layers(&[MIB, 2 * MIB, 300_000])
        .push(&host.registry, "team/app", "v1")
        .await?;
    assert_eq!(host.registry.digest("team/app", "v1").await?, digest);
    let reference = host.reference("team/app", "v1");
    for containerd in [&one, &two] {
        containerd.cri().pull(&reference).await?;
        assert_eq!(
            containerd.cri().digests(&reference).await?,
            std::slice::from_ref(&digest)
        );
    }

    let log = host.proxy.log();
    assert_eq!(
        log.nodes().into_iter().collect::<Vec<_>>(),
        ["node-1", "node-2"],
        "{}",
        log.table()
    );
    assert!(
        log.exchanges()
            .iter()
            .all(|exchange| exchange.node.is_some()),
        "{}",
        log.table()
    );
    let heads = log.reference("team/app", "v1").method("HEAD");
    assert_eq!(heads.count(), 2);
    assert_eq!(
        log.blobs().node("node-1").count(),
        4,
        "three layers and a configuration: {}",
        log.table()
    );
    let pulls = log.pulls();
    assert_eq!(
        pulls
            .iter()
            .map(|pull| pull.node.as_str())
            .collect::<Vec<_>>(),
        ["node-1", "node-2"]
    );
    assert!(pulls[0].end <= pulls[1].start, "{pulls:?}");
    assert_eq!((log.most_nodes_at_once(), log.most_pulls_at_once()), (1, 1));

    // A bystander removes it, the tag moves, and a second pull brings the other image.
    one.cri().remove(&reference).await?;
    assert!(one.cri().image(&reference).await?.is_none());
    let moved = Recipe::layers(&[1_000])
        .push(&host.registry, "team/app", "v2")
        .await?;
    host.registry.tag("team/app", "v2", "v1").await?;
    one.cri().pull(&reference).await?;
    assert_eq!(one.cri().digests(&reference).await?, [moved]);
    Ok(())
}

#[tokio::test]
async fn indexes_and_shared_layers_are_what_a_runtime_makes_of_them() -> Result<()> {
    let host = Host::start().await?;
    let containerd = host.containerd("node-1", Disk::Machine).await?;
    let both = Recipe::layers(&[1_000])
        .platform("linux/amd64")
        .platform("linux/arm64");
    let index = both.push(&host.registry, "app", "multi").await?;
    containerd
        .cri()
        .pull(&host.reference("app", "multi"))
        .await?;
    assert_eq!(
        containerd
            .cri()
            .digests(&host.reference("app", "multi"))
            .await?,
        [index]
    );

    let foreign = Recipe::layers(&[1_000])
        .platform("linux/s390x")
        .platform("linux/ppc64le");
    foreign.push(&host.registry, "app", "foreign").await?;
    let refused = containerd
        .cri()
        .pull(&host.reference("app", "foreign"))
        .await
        .unwrap_err();
    assert!(
        refused.message().contains("no match for platform"),
        "{refused}"
    );

    let base = Blob::random_layer(MIB)?;
    for tag in ["a", "b"] {
        Recipe::layers(&[1_000])
            .shared(&base)
            .push(&host.registry, "shared", tag)
            .await?;
        containerd
            .cri()
            .pull(&host.reference("shared", tag))
            .await?;
    }
    assert_eq!(
        host.proxy
            .log()
            .reference("shared", &base.digest)
            .method("GET")
            .count(),
        1
    );
    Ok(())
}

#[tokio::test]
async fn faults_reach_whom_they_are_meant_for_as_often_as_they_should() -> Result<()> {
    let host = Host::start().await?;
    let containerd = host.containerd("node-1", Disk::Machine).await?;
    Recipe::layers(&[MIB])
        .push(&host.registry, "app", "v1")
        .await?;
    let reference = host.reference("app", "v1");
    let cri = containerd.cri();

    host.proxy
        .inject(Fault::status(500).repository("app").node("node-2"));
    host.proxy.inject(
        Fault::status(429)
            .header("Retry-After", "7")
            .on(Kind::Manifest)
            .times(6),
    );
    let throttled = cri.pull(&reference).await.unwrap_err();
    assert!(
        throttled.message().contains("429 Too Many Requests"),
        "{throttled}"
    );
    let log = host.proxy.log();
    assert_eq!(
        log.pulls().len(),
        1,
        "containerd repeats a 429 by itself: {}",
        log.table()
    );
    assert!(log.count() > 1, "{}", log.table());

    host.proxy.clear();
    host.proxy
        .inject(Fault::status(401).header("WWW-Authenticate", "Basic realm=\"x\""));
    let unauthorized = cri.pull(&reference).await.unwrap_err();
    assert!(
        unauthorized.message().contains("401 Unauthorized"),
        "{unauthorized}"
    );

    host.proxy.clear();
    host.proxy
        .inject(Fault::cut_after(400_000).on(Kind::Blob).times(2));
    let mark = host.proxy.log().count();
    cri.pull(&reference).await?;
    let log = host.proxy.log().after(mark);
    assert!(
        log.exchanges()
            .iter()
            .any(|exchange| exchange.end == End::Cut),
        "{}",
        log.table()
    );
    assert!(
        log.exchanges()
            .iter()
            .any(|exchange| exchange.range.is_some()),
        "it goes on where it was: {}",
        log.table()
    );
    Ok(())
}

#[tokio::test]
async fn hangs_stalls_and_rates_end_when_they_are_taken_back() -> Result<()> {
    let host = Host::start().await?;
    let containerd = host.containerd("node-1", Disk::Machine).await?;
    for tag in ["hang", "stall", "rate"] {
        Recipe::layers(&[2 * MIB])
            .push(&host.registry, "app", tag)
            .await?;
    }
    let faults = [
        ("hang", Fault::hang().on(Kind::Manifest)),
        ("stall", Fault::stall_after(500_000).on(Kind::Blob)),
        ("rate", Fault::rate(200_000).on(Kind::Blob)),
    ];
    for (tag, fault) in faults {
        let fault = host.proxy.inject(fault);
        let (cri, reference, mark) = (
            containerd.cri(),
            host.reference("app", tag),
            host.proxy.log().count(),
        );
        let pull = tokio::spawn(async move { cri.pull(&reference).await });
        wait::until(
            "the pull to be under way",
            Duration::from_secs(10),
            async || {
                let log = host.proxy.log().after(mark);
                let wanted = if tag == "hang" {
                    log.count() == 1
                } else {
                    log.blobs().bytes() >= 400_000
                };
                ensure!(wanted, "{}", log.table());
                Ok(())
            },
        )
        .await?;
        assert!(!pull.is_finished(), "{tag}");
        host.proxy.remove(fault);
        tokio::time::timeout(Duration::from_secs(20), pull)
            .await
            .context(tag)???;
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_containerd_goes_on_where_its_download_was() -> Result<()> {
    let host = Host::start().await?;
    let mut containerd = host.containerd("node-1", Disk::Machine).await?;
    Recipe::layers(&[8 * MIB])
        .push(&host.registry, "big", "v1")
        .await?;
    let slow = host.proxy.inject(Fault::rate(3_000_000).on(Kind::Blob));
    let (cri, reference) = (containerd.cri(), host.reference("big", "v1"));
    let pull = tokio::spawn({
        let (cri, reference) = (cri.clone(), reference.clone());
        async move { cri.pull(&reference).await }
    });
    wait::until("3 MiB on the disk", Duration::from_secs(20), async || {
        ensure!(
            containerd.partial_bytes() > 3 * MIB as u64,
            "{} bytes",
            containerd.partial_bytes()
        );
        Ok(())
    })
    .await?;
    containerd.kill();
    // Not UNAVAILABLE, as a Go client would say: tonic does not judge a broken connection.
    let broken = pull.await?.unwrap_err();
    assert_eq!(
        (broken.code(), broken.message()),
        (Code::Unknown, "transport error")
    );

    host.proxy.remove(slow);
    let mark = host.proxy.log().count();
    containerd.restart().await?;
    cri.pull(&reference).await?;
    let log = host.proxy.log().after(mark).blobs();
    assert!(
        log.exchanges()
            .iter()
            .any(|exchange| exchange.range.is_some()),
        "{}",
        log.table()
    );
    assert!(
        log.bytes() < 6 * MIB as u64,
        "{} bytes came again",
        log.bytes()
    );
    Ok(())
}

#[tokio::test]
async fn a_small_disk_fills_up_and_tls_is_asked_for_where_a_node_says_so() -> Result<()> {
    let host = Host::start().await?;
    let containerd = host.containerd("node-1", Disk::Tmpfs(12)).await?;
    Recipe::layers(&[20 * MIB])
        .push(&host.registry, "big", "v1")
        .await?;
    let full = containerd
        .cri()
        .pull(&host.reference("big", "v1"))
        .await
        .unwrap_err();
    assert!(full.message().contains("no space left on device"), "{full}");

    containerd.redirect(
        &host.proxy.host(),
        &format!("https://{}", host.proxy.host()),
    )?;
    let plain = containerd
        .cri()
        .pull(&host.reference("big", "v1"))
        .await
        .unwrap_err();
    assert!(
        plain
            .message()
            .contains("server gave HTTP response to HTTPS client"),
        "{plain}"
    );
    Ok(())
}

#[tokio::test]
async fn a_scripted_runtime_does_as_it_is_told() -> Result<()> {
    let scratch = Scratch::new()?;
    let socket = scratch.path().join("cri.sock");
    let mut scripted = ScriptedCri::start(&socket)?;
    let cri = CriClient::new(&socket);
    let (app, broken) = ("r.example/team/app:v1", "r.example/broken:v1");

    scripted.script(
        broken,
        [
            Reply::failed(Code::Unknown, "RegistryUnavailable: no"),
            Reply::default(),
        ],
    );
    assert_eq!(
        cri.pull(broken).await.unwrap_err().message(),
        "RegistryUnavailable: no"
    );
    cri.pull(broken).await?;
    scripted.script(app, [Reply::unlisted(), Reply::default()]);
    cri.pull(app).await?;
    assert!(cri.image(app).await?.is_none());
    scripted.image_ref(ImageRef::RepoDigest);
    let digest = format!("sha256:{}", "a".repeat(64));
    scripted.digest(app, &digest);
    assert_eq!(cri.pull(app).await?, format!("r.example/team/app@{digest}"));
    assert_eq!(cri.digests(app).await?, [digest]);
    assert_eq!(scripted.pulls(app), 2);

    scripted.script(app, [Reply::never()]);
    let hanging = tokio::spawn({
        let cri = cri.clone();
        async move { cri.pull(app).await }
    });
    wait::until("the third pull", Duration::from_secs(5), async || {
        ensure!(scripted.pulls(app) == 3, "{:?}", scripted.calls());
        Ok(())
    })
    .await?;
    scripted.vanish();
    assert!(hanging.await?.is_err());
    assert!(cri.images().await.is_err());
    scripted.come_back()?;
    assert_eq!(cri.images().await?.len(), 2);

    scripted.pad_list(15 * MIB);
    assert!(cri.images().await?.len() > 50_000);
    scripted.pad_list(2 * MIB);
    assert!(
        cri.images()
            .await
            .unwrap_err()
            .to_string()
            .contains("message length too large")
    );
    Ok(())
}

#[tokio::test]
async fn prometheus_scrapes_and_promtool_judges() -> Result<()> {
    let scratch = Scratch::new()?;
    let target = Prometheus::start(&scratch.path().join("target"), &[]).await?;
    let targets = [("other", target.address())];
    let watcher = Prometheus::start(&scratch.path().join("watcher"), &targets).await?;
    watcher
        .wait_for(&["prometheus_build_info"], Duration::from_secs(10))
        .await?;
    let up = watcher.query(r#"up{job="other"}"#).await?;
    assert_eq!(
        (up.len(), up[0].value, up[0].labels["job"].as_str()),
        (1, 1.0, "other")
    );

    assert_eq!(
        prometheus::complaints("# HELP a_total Counts.\n# TYPE a_total counter\na_total 1\n")?,
        ""
    );
    let bad = prometheus::complaints("# TYPE a counter\na 1\n")?;
    assert!(bad.contains("no help text"), "{bad}");
    Ok(())
}
