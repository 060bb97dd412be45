//! Private registries: the Secrets that images name, the plugins that a node has, and what nobody may read of them.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{condition, is_ready, policy, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::images::Recipe;
use drop_tests::proxy::Proxy;
use drop_tests::registry::{HTPASSWD, Registry, Setup, Version};
use drop_tests::token_server::TokenServer;
use drop_tests::{http, node::NodeSpec};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);
/// So often containerd 1.6 sends a login that is refused, in one pull.
const CONTAINERD_TRIES: usize = 6;
/// What the registries here take.
const RIGHT: &str = "correct-horse";
const WRONG: &str = "battery-staple";

/// The cluster's registry once more, behind a door.
struct Guarded {
    proxy: Proxy,
    _registry: Registry,
}

impl Guarded {
    async fn passwords(cluster: &Cluster) -> Result<Self> {
        let folder = storage(cluster)?;
        let file = folder.join("htpasswd");
        std::fs::write(&file, HTPASSWD).context("write the passwords")?;
        Self::start(&folder, Setup::new(Version::Two).passwords(&file)).await
    }

    async fn tokens(cluster: &Cluster) -> Result<(Self, TokenServer)> {
        let folder = storage(cluster)?;
        let server = TokenServer::start(&folder, 300).await?;
        let guarded = Self::start(&folder, Setup::new(Version::Two).tokens(&server)).await?;
        Ok((guarded, server))
    }

    async fn start(folder: &Path, setup: Setup) -> Result<Self> {
        let registry = setup.start(folder).await?;
        let proxy = Proxy::start(registry.address()).await?;
        Ok(Self {
            proxy,
            _registry: registry,
        })
    }

    fn image(&self, repository: &str) -> String {
        format!("{}/{repository}", self.proxy.host())
    }

    /// Requests with a password that was refused.
    fn failed_logins(&self) -> usize {
        let log = self.proxy.log();
        log.filter(|exchange| exchange.authorized && exchange.status == 401)
            .count()
    }
}

/// A folder whose storage is that of the cluster's registry.
fn storage(cluster: &Cluster) -> Result<std::path::PathBuf> {
    let folder = cluster.folder().join("guarded");
    std::fs::create_dir_all(&folder).context("create the guarded registry's folder")?;
    symlink(
        cluster.folder().join("registry/storage"),
        folder.join("storage"),
    )
    .context("share the storage")?;
    Ok(folder)
}

/// A dockerconfigjson Secret: place and password of each login of user `me`.
fn secret(name: &str, logins: &[(&str, &str)]) -> String {
    let auths: serde_json::Map<String, serde_json::Value> = logins
        .iter()
        .map(|(place, password)| {
            let login = json!({"username": "me", "password": password});
            ((*place).to_owned(), login)
        })
        .collect();
    typed_secret(
        name,
        ("kubernetes.io/dockerconfigjson", ".dockerconfigjson"),
        &json!({ "auths": auths }),
    )
}

fn typed_secret(name: &str, (kind, key): (&str, &str), content: &serde_json::Value) -> String {
    let text = json!(content.to_string());
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: drop-system}}\ntype: {kind}\nstringData: {{{key}: {text}}}\n"
    )
}

fn with(secrets: &[&str]) -> String {
    let names: Vec<String> = secrets
        .iter()
        .map(|name| format!("{{name: {name}}}"))
        .collect();
    format!(
        "policyRef: {{name: fast}}, imagePullSecrets: [{}]",
        names.join(", ")
    )
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
    let refused = guarded.failed_logins();
    // One pull: containerd itself repeats a refused login within a moment.
    ensure!(
        (1..=CONTAINERD_TRIES).contains(&refused),
        "{}",
        guarded.proxy.log().table()
    );
    // Far below the policy's longest wait, far above what a hot loop needs.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(guarded.failed_logins(), refused, "it waits for the Secret");

    cluster.apply(&secret("creds", &[(&host, RIGHT)])).await?;
    cluster.until("app", SOON, is_ready).await?;
    assert_eq!(guarded.failed_logins(), refused);
    nothing_shows(&mut cluster, &[RIGHT, WRONG]).await
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
    assert_eq!(guarded.failed_logins(), 0);
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
        guarded.failed_logins(),
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
async fn a_registry_with_tokens_is_pulled_from() -> Result<()> {
    let mut cluster = Cluster::builder().nodes(1).start().await?;
    cluster
        .push("team/app", "v1", &Recipe::layers(&[10_000]))
        .await?;
    let (guarded, server) = Guarded::tokens(&cluster).await?;
    let host = guarded.proxy.host();
    cluster.apply(&policy("fast", "")).await?;
    cluster.apply(&secret("creds", &[(&host, WRONG)])).await?;
    let image = guarded.image("team/app");
    cluster
        .apply(&yaml("app", &image, "v1", &with(&["creds"])))
        .await?;
    cluster.until("app", SOON, is_refused).await?;
    let refused = || {
        server
            .grants()
            .iter()
            .filter(|grant| grant.status == 401)
            .count()
    };
    ensure!(refused() <= 2, "{:?}", server.grants());
    cluster.apply(&secret("creds", &[(&host, RIGHT)])).await?;
    cluster.until("app", SOON, is_ready).await?;
    nothing_shows(&mut cluster, &[RIGHT, WRONG]).await
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
    assert_eq!(guarded.failed_logins(), 0);
    let asked = std::fs::read_to_string(&calls).context("read the plugin's calls")?;
    assert_eq!(asked.lines().count(), 1, "asked for:\n{asked}");
    nothing_shows(&mut cluster, &[RIGHT]).await
}

/// A plugin that notes each call and gives the right login for a whole registry, and the kubelet's configuration for it.
fn write_plugin(folder: &Path, host: &str, calls: &Path) -> Result<std::path::PathBuf> {
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
