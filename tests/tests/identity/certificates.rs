//! Whom agents believe, and what they do when there is nobody to believe.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use drop_tests::cached_image::{is_ready, yaml};
use drop_tests::certificates::Authority;
use drop_tests::cluster::Cluster;
use drop_tests::coordinator::{NAMESPACE, TLS_NAME};
use drop_tests::dirs::Scratch;
use drop_tests::node::NodeSpec;
use drop_tests::raw_session::RawSession;
use drop_tests::{http, wait};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::DeleteParams;

use crate::{WITHIN, is_told, stored};

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_start_before_the_coordinator_wait_for_its_authority() -> Result<()> {
    let mut cluster = Cluster::builder().secure().start().await?;
    cluster.coordinator.kill();
    let now = DeleteParams::default();
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), NAMESPACE);
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), NAMESPACE);
    secrets.delete("drop-coordinator-tls", &now).await?;
    maps.delete("drop-coordinator-ca", &now).await?;
    cluster.add_node(NodeSpec::new("node-1").scripted()).await?;
    is_told(&mut cluster, "node-1", "ConfigMap drop-coordinator-ca").await?;
    let log = cluster.node("node-1")?.agent()?.log();
    let warnings = log.lines().filter(|line| line.contains("WARN")).count();
    ensure!(warnings < 5, "{log}");
    cluster.coordinator.restart().await?;
    cluster.node("node-1")?.agent()?.wait_ready(WITHIN).await
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_files_are_followed_without_a_restart() -> Result<()> {
    let scratch = Scratch::new()?;
    let folder = scratch.folder("certificates")?;
    let (first, second) = (folder.join("1"), folder.join("2"));
    for folder in [&first, &second] {
        std::fs::create_dir_all(folder)?;
    }
    let (old, new) = (Authority::new(&first)?, Authority::new(&second)?);
    let (certificate, key) = old.serve_names("tls", &[TLS_NAME])?;
    let (next_certificate, next_key) = new.serve_names("tls", &[TLS_NAME])?;
    let file = |path: &Path| path.display().to_string();
    let cluster = Cluster::builder()
        .secure()
        .coordinator_args(&["--tls-cert-file", &file(&certificate)])
        .coordinator_args(&["--tls-key-file", &file(&key)])
        .start()
        .await?;
    let old = std::fs::read_to_string(old.certificate())?;
    let new = std::fs::read_to_string(new.certificate())?;
    let address = cluster.coordinator.session_address();
    ensure!(RawSession::open_secure(address, &old, None).await.is_ok());
    ensure!(RawSession::open_secure(address, &new, None).await.is_err());

    // Half of a change: the former pair is served on, and that is said.
    let serving = std::fs::read(&certificate)?;
    std::fs::copy(&next_certificate, &certificate)?;
    wait::until("a complaint", WITHIN, async || {
        let log = cluster.coordinator.log();
        ensure!(log.contains("are no pair"), "{log}");
        Ok(())
    })
    .await?;
    ensure!(std::fs::read(&certificate)? != serving);
    ensure!(RawSession::open_secure(address, &old, None).await.is_ok());
    std::fs::copy(&next_key, &key)?;
    wait::until("the new certificate", WITHIN, async || {
        RawSession::open_secure(address, &new, None).await.map(drop)
    })
    .await?;
    ensure!(RawSession::open_secure(address, &old, None).await.is_err());

    // Whoever brings the certificates keeps them: nothing of our own is made.
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), NAMESPACE);
    ensure!(secrets.get_opt("drop-coordinator-tls").await?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_tells_a_strange_certificate_from_one_it_believes() -> Result<()> {
    let mut cluster = Cluster::builder()
        .secure()
        .node(NodeSpec::new("node-1").scripted().without_agent())
        .node(
            NodeSpec::new("node-2")
                .scripted()
                .without_agent()
                .agent_args(&["--insecure-plaintext"]),
        )
        .start()
        .await?;
    let strange = Authority::new(&cluster.folder().join("node-1"))?;
    let file = strange.certificate().display().to_string();
    let endpoint = cluster.node("node-1")?.scripted()?.endpoint();
    let mut args = cluster.agent_pod("node-1")?.agent_args();
    args[3] = file;
    let folder = cluster.folder().join("strange");
    let url = cluster.coordinator.url();
    let agent = drop_tests::agent::Agent::start(&folder, "node-1", &url, &endpoint, &args).await?;
    wait::until("the agent's complaint", WITHIN, async || {
        let said = agent.readiness().await?;
        ensure!(said.contains("is of no authority in"), "{said}");
        Ok(())
    })
    .await?;
    // Its token went nowhere.
    ensure!(!cluster.coordinator.log().contains("session refused"));

    // And the secure port takes no plaintext.
    let address = cluster.coordinator.session_address();
    let plain = http::get(&format!("http://{address}/")).await;
    ensure!(plain.is_err(), "{plain:?}");
    ensure!(RawSession::open(address).await.is_err());
    let refused = cluster.node("node-2")?.start_agent().await;
    let refused = format!("{:#}", refused.err().context("the agent starts")?);
    ensure!(refused.contains("--insecure-plaintext"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_secret_or_config_map_is_made_anew_at_once() -> Result<()> {
    let mut cluster = Cluster::builder()
        .secure()
        .node(NodeSpec::new("node-1").scripted())
        .start()
        .await?;
    let before = stored(&cluster).await?;
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), NAMESPACE);
    secrets
        .delete("drop-coordinator-tls", &DeleteParams::default())
        .await?;
    wait::until("another authority", WITHIN, async || {
        let after = stored(&cluster).await?;
        ensure!(after[0]["key"] != before[0]["key"], "still the old one");
        Ok(())
    })
    .await?;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), NAMESPACE);
    let lost = maps.get("drop-coordinator-ca").await?;
    maps.delete("drop-coordinator-ca", &DeleteParams::default())
        .await?;
    wait::until("another ConfigMap", WITHIN, async || {
        let found = maps.get("drop-coordinator-ca").await?;
        ensure!(found.metadata.uid != lost.metadata.uid, "still the old one");
        Ok(())
    })
    .await?;
    let agent = cluster.node("node-1")?.agent()?;
    agent.kill();
    agent.restart().await?;
    agent.wait_ready(WITHIN).await?;
    let image = cluster.image("team/app");
    cluster.apply(&yaml("app", &image, "v1", "")).await?;
    cluster.until("app", WITHIN, is_ready).await?;
    Ok(())
}
