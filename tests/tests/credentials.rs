//! Private registries: the Secrets that images name, the plugins that a node has, and what nobody may read of them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use drop_api::CachedImage;
use drop_tests::cached_image::{condition, is_ready, policy, status, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::guarded::{Guarded, RIGHT, WRONG, secret, typed_secret, with};
use drop_tests::images::Recipe;
use drop_tests::token_server::{LOGIN, TokenServer};
use drop_tests::{http, node::NodeSpec, wait};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);
/// The coordinator's own question would be refused in the nodes' place.
const NODES_ASK: &str = "--resolve-tags=false";
/// containerd 1.6 repeats a refused login within a moment, so often in one pull at most; what drop can hold down is the
/// number of pulls.
const REPEATED: usize = 6;
/// The same at a token server.
const REPEATED_FOR_TOKENS: usize = 2;
/// The longest wait of [`stepping`]: a refused image is tried again after it and not before.
const STEP: Duration = Duration::from_secs(4);

/// A policy whose back-off comes to its longest wait within the test.
fn stepping() -> String {
    let backoff = format!("failureBackoff: {{initial: 1s, max: {}s}}", STEP.as_secs());
    policy("fast", &format!("maxConcurrentNodes: 100, {backoff}"))
}

fn tokens_refused(server: &TokenServer) -> usize {
    let grants = server.grants();
    grants.iter().filter(|grant| grant.status == 401).count()
}

/// Every node has done something else since: what waits with it in the same queues would have been done as well.
async fn others_were_served(cluster: &Cluster) -> Result<()> {
    let other = yaml("other", &cluster.image("team/app"), "v1", &with(&[]));
    cluster.apply(&other).await?;
    cluster
        .until::<CachedImage>("other", SOON, is_ready)
        .await
        .map(drop)
}

/// The image waits because it was refused.
fn is_refused(image: &CachedImage) -> Result<()> {
    let (_, reason, message) = ready(image);
    ensure!(reason == "ImagePullBackOff", "{reason}: {message}");
    ensure!(
        message.contains("unauthorized: check imagePullSecrets"),
        "{message}"
    );
    Ok(())
}

fn ready(image: &CachedImage) -> (String, String, String) {
    condition(image, "Ready")
}

/// Nothing that anybody can read shows a password.
async fn nothing_shows(cluster: &mut Cluster, passwords: &[&str]) -> Result<()> {
    let everything = ListParams::default();
    let images: Api<CachedImage> = Api::all(cluster.client());
    let events: Api<Event> = Api::all(cluster.client());
    let mut texts = vec![
        (
            "the coordinator's log".to_owned(),
            cluster.coordinator.log(),
        ),
        (
            "CachedImages".to_owned(),
            serde_json::to_string(&images.list(&everything).await?.items)?,
        ),
        (
            "Events".to_owned(),
            serde_json::to_string(&events.list(&everything).await?.items)?,
        ),
    ];
    let mut pages = vec![cluster.coordinator.metrics_address().to_owned()];
    for node in &mut cluster.nodes {
        let name = node.name().to_owned();
        let agent = node.agent()?;
        texts.push((format!("the log of the agent of {name}"), agent.log()));
        pages.push(agent.metrics_address().to_owned());
    }
    for address in pages {
        let page = http::get(&format!("http://{address}/metrics")).await?;
        let text = String::from_utf8(page.success()?.body.to_vec())?;
        texts.push((format!("the metrics at {address}"), text));
    }
    for (place, text) in texts {
        ensure!(!text.is_empty(), "{place} is empty");
        for password in passwords {
            ensure!(!text.contains(password), "{place} shows {password}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_costs_one_login_and_the_corrected_secret_is_tried_at_once() -> Result<()>
{
    let mut cluster = Cluster::builder()
        .nodes(2)
        .coordinator_args(&["--log-filter", "debug"])
        .agent_args(&["--log-filter", "debug"])
        .start()
        .await?;
    cluster
        .push("team/app", "v1", &Recipe::layers(&[10_000]))
        .await?;
    let guarded = Guarded::passwords(&cluster).await?;
    let host = guarded.proxy.host();
    cluster.apply(&policy("fast", "")).await?;
    cluster.apply(&secret("creds", &[(&host, WRONG)])).await?;
    let image = guarded.image("team/app");
    cluster
        .apply(&yaml("app", &image, "v1", &with(&["creds"])))
        .await?;
    cluster.until("app", SOON, is_refused).await?;
    others_were_served(&cluster).await?;
    // The coordinator has asked once, and no node has tried.
    let refused = guarded.refused_requests();
    ensure!(refused.count() == 1, "{}", refused.table());
    ensure!(refused.of_nodes().count() == 0, "{}", refused.table());

    cluster.apply(&secret("creds", &[(&host, RIGHT)])).await?;
    cluster.until("app", SOON, is_ready).await?;
    assert_eq!(guarded.refused_requests().count(), 1);
    nothing_shows(&mut cluster, &[RIGHT, WRONG]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_costs_one_pull_in_each_step_of_the_back_off() -> Result<()> {
    let cluster = Cluster::builder()
        .nodes(2)
        .coordinator_args(&[NODES_ASK])
        .start()
        .await?;
    cluster
        .push("team/app", "v1", &Recipe::layers(&[10_000]))
        .await?;
    let guarded = Guarded::passwords(&cluster).await?;
    let host = guarded.proxy.host();
    cluster.apply(&stepping()).await?;
    cluster.apply(&secret("creds", &[(&host, WRONG)])).await?;
    let image = guarded.image("team/app");
    cluster
        .apply(&yaml("app", &image, "v1", &with(&["creds"])))
        .await?;
    wait::until("three steps", SOON, async || {
        let logins = guarded.refused_logins();
        ensure!(logins >= 3, "{logins} so far");
        Ok(())
    })
    .await?;
    let refused = guarded.refused_requests();
    for pair in refused.pulls().windows(2) {
        ensure!(pair[1].start >= pair[0].start + STEP, "{}", refused.table());
    }
    ensure!(
        refused.count() <= REPEATED * refused.pulls().len(),
        "{}",
        refused.table()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_named_and_pulls_begin_when_it_is_made() -> Result<()> {
    let cluster = Cluster::builder().nodes(1).start().await?;
    cluster
        .push("team/app", "v1", &Recipe::layers(&[10_000]))
        .await?;
    let guarded = Guarded::passwords(&cluster).await?;
    cluster.apply(&policy("fast", "")).await?;
    let image = guarded.image("team/app");
    cluster
        .apply(&yaml("app", &image, "v1", &with(&["later"])))
        .await?;
    cluster
        .until("app", SOON, |app: &CachedImage| {
            is_refused(app)?;
            let (_, _, message) = ready(app);
            let why = "Secret \"later\" not found in namespace drop-system";
            ensure!(message.contains(why), "{message}");
            Ok(())
        })
        .await?;
    // The older type, which names hosts at the top.
    let content = json!({guarded.proxy.host(): {"username": "me", "password": RIGHT}});
    let kind = ("kubernetes.io/dockercfg", ".dockercfg");
    cluster
        .apply(&typed_secret("later", kind, &content))
        .await?;
    cluster.until("app", SOON, is_ready).await?;
    assert_eq!(guarded.refused_logins(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_path_is_tried_first_and_each_match_in_turn() -> Result<()> {
    let cluster = Cluster::builder().nodes(1).start().await?;
    for repository in ["team/app", "other/app"] {
        cluster
            .push(repository, "v1", &Recipe::layers(&[10_000]))
            .await?;
    }
    let guarded = Guarded::passwords(&cluster).await?;
    let host = guarded.proxy.host();
    let team = format!("{host}/team");
    cluster.apply(&policy("fast", "")).await?;
    // For the team's image the narrow login is right; for the other only the wide one is a match, and it is wrong.
    cluster.apply(&secret("wide", &[(&host, WRONG)])).await?;
    cluster.apply(&secret("narrow", &[(&team, RIGHT)])).await?;
    let image = guarded.image("team/app");
    cluster
        .apply(&yaml("app", &image, "v1", &with(&["wide", "narrow"])))
        .await?;
    cluster.until("app", SOON, is_ready).await?;
    assert_eq!(
        guarded.refused_logins(),
        0,
        "{}",
        guarded.proxy.log().table()
    );
    let other = guarded.image("other/app");
    cluster
        .apply(&yaml("other", &other, "v1", &with(&["wide", "narrow"])))
        .await?;
    cluster.until("other", SOON, is_refused).await?;

    // Two Secrets for one place: the second helps where the first is refused.
    cluster.apply(&secret("second", &[(&host, RIGHT)])).await?;
    cluster
        .apply(&yaml("other", &other, "v1", &with(&["wide", "second"])))
        .await?;
    cluster.until("other", SOON, is_ready).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_tokens_is_pulled_from_and_refuses_one_login_a_step() -> Result<()> {
    let mut cluster = Cluster::builder()
        .nodes(1)
        .coordinator_args(&[NODES_ASK])
        .start()
        .await?;
    cluster
        .push("team/app", "v1", &Recipe::layers(&[10_000]))
        .await?;
    let (guarded, server) = Guarded::tokens(&cluster).await?;
    let host = guarded.proxy.host();
    cluster.apply(&stepping()).await?;
    cluster.apply(&secret("creds", &[(&host, WRONG)])).await?;
    let image = guarded.image("team/app");
    let begin = Instant::now();
    cluster
        .apply(&yaml("app", &image, "v1", &with(&["creds"])))
        .await?;
    cluster.until("app", SOON, is_refused).await?;
    wait::until("a third step", SOON, async || {
        let refused = tokens_refused(&server);
        ensure!(
            refused > 2 * REPEATED_FOR_TOKENS,
            "{refused} logins refused"
        );
        Ok(())
    })
    .await?;
    let refused = tokens_refused(&server);
    let steps = begin.elapsed().as_secs() / STEP.as_secs() + 1;
    ensure!(
        refused as u64 <= steps * REPEATED_FOR_TOKENS as u64,
        "{refused} logins refused in {steps} steps"
    );
    cluster.apply(&secret("creds", &[(&host, RIGHT)])).await?;
    cluster.until("app", SOON, is_ready).await?;
    nothing_shows(&mut cluster, &[RIGHT, WRONG]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinator_logs_in_by_token_and_shows_none_whatever_it_logs() -> Result<()> {
    let mut cluster = Cluster::builder()
        .nodes(1)
        .coordinator_args(&["--log-filter", "trace"])
        .agent_args(&["--log-filter", "trace"])
        .start()
        .await?;
    let digest = cluster
        .push("team/app", "v1", &Recipe::layers(&[10_000]))
        .await?;
    let (guarded, server) = Guarded::tokens(&cluster).await?;
    let host = guarded.proxy.host();
    cluster.apply(&policy("fast", "")).await?;
    cluster.apply(&secret("creds", &[(&host, RIGHT)])).await?;
    let image = guarded.image("team/app");
    cluster
        .apply(&yaml("app", &image, "v1", &with(&["creds"])))
        .await?;
    let app = cluster.until("app", SOON, is_ready).await?;
    assert_eq!(status(&app).resolved_digest, Some(digest));
    let asked = guarded.proxy.log().of_coordinator();
    let heads = asked.manifests().method("HEAD");
    ensure!(
        heads.exchanges().iter().any(|head| head.status == 200),
        "{}",
        asked.table()
    );
    ensure!(server.grants().iter().any(|grant| grant.status == 200));
    // As it is typed, as it is sent, and what it is given for.
    let sent = STANDARD.encode(LOGIN);
    nothing_shows(&mut cluster, &[RIGHT, &sent, "eyJhbGciOi"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_of_the_node_is_asked_once_for_a_registry() -> Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    for repository in ["team/app", "team/web"] {
        cluster
            .push(repository, "v1", &Recipe::layers(&[10_000]))
            .await?;
    }
    let guarded = Guarded::passwords(&cluster).await?;
    let host = guarded.proxy.host();
    let folder = cluster.folder().join("plugins");
    let calls = folder.join("calls");
    let config = write_plugin(&folder, &host, &calls)?;
    let (config, bin) = (config.display().to_string(), folder.display().to_string());
    let args = [
        "--image-credential-provider-config",
        &config,
        "--image-credential-provider-bin-dir",
        &bin,
    ];
    let node = NodeSpec::new("node-1").agent_args(&args);
    cluster.add_node(node).await?;
    cluster.apply(&policy("fast", "")).await?;
    for name in ["app", "web"] {
        let image = guarded.image(&format!("team/{name}"));
        cluster
            .apply(&yaml(name, &image, "v1", "policyRef: {name: fast}"))
            .await?;
    }
    for name in ["app", "web"] {
        cluster.until(name, SOON, is_ready).await?;
    }
    assert_eq!(guarded.refused_logins(), 0);
    let asked = std::fs::read_to_string(&calls).context("read the plugin's calls")?;
    assert_eq!(asked.lines().count(), 1, "asked for:\n{asked}");
    nothing_shows(&mut cluster, &[RIGHT]).await
}

/// A plugin that notes each call and gives the right login for a whole registry, and the kubelet's configuration for it.
fn write_plugin(folder: &Path, host: &str, calls: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).context("create the plugins' folder")?;
    let answer = json!({
        "kind": "CredentialProviderResponse",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType": "Registry",
        "cacheDuration": "1h",
        "auth": {host: {"username": "me", "password": RIGHT}},
    });
    let program = folder.join("notes-calls");
    let script = format!(
        "#!/bin/sh\ncat >>'{0}'\necho >>'{0}'\ncat <<'END'\n{answer}\nEND\n",
        calls.display()
    );
    std::fs::write(&program, script).context("write the plugin")?;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&program, mode).context("make the plugin executable")?;
    let config = folder.join("config.yaml");
    let text = format!(
        "apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: notes-calls
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ['{host}']
  defaultCacheDuration: 1m
"
    );
    std::fs::write(&config, text).context("write the plugins' configuration")?;
    Ok(config)
}
