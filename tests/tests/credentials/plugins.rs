//! The kubelet's credential-provider plugins on a node.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use drop_tests::cached_image::{is_ready, policy, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::guarded::{Guarded, RIGHT};
use drop_tests::images::Recipe;
use drop_tests::node::NodeSpec;
use serde_json::json;

use crate::{SOON, nothing_shows};

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
