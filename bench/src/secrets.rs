//! What the agents of the swarm prove themselves with, as pods find it in their volumes: a ServiceAccount token bound to the node,
//! and the certificate of the coordinator's authority.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use drop_agent::session::place::Trust;
use drop_tests::agent_pod::{ACCOUNT, AUDIENCE};
use drop_tests::coordinator::{NAMESPACE, TLS_NAME};
use drop_tests::{tokens, wait};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};

use crate::fleet::AT_ONCE;
use crate::swarm::node_name;

/// Requests a token for each node, and writes all files into `folder`.
pub(crate) async fn write(client: &Client, folder: &Path, agents: usize) -> Result<()> {
    let authorities = wait::until(
        "the coordinator's authority",
        Duration::from_secs(30),
        async || {
            let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
            let map = maps.get("drop-coordinator-ca").await?;
            map.data
                .unwrap_or_default()
                .remove("ca.crt")
                .context("no ca.crt yet")
        },
    );
    std::fs::write(ca_file(folder), authorities.await?).context("write the authorities")?;
    stream::iter((0..agents).map(node_name).map(|node| async move {
        let bound_to = Some(("Node", node.as_str()));
        let token = tokens::request(client, (NAMESPACE, ACCOUNT), AUDIENCE, bound_to).await?;
        std::fs::write(folder.join(&node), token).context("write a token")
    }))
    .buffer_unordered(AT_ONCE)
    .try_collect()
    .await
}

/// How an agent and the coordinator know each other.
pub(crate) fn trust(folder: &Path, node: &str) -> Trust {
    Trust::Proven {
        ca_file: ca_file(folder),
        token_file: folder.join(node),
        name: TLS_NAME.to_owned(),
    }
}

fn ca_file(folder: &Path) -> PathBuf {
    folder.join("ca.crt")
}
