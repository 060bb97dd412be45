//! The pod of an agent as an object, and the kubelet's part of its life: the files of its volumes.
//!
//! No kubelet runs in the testbed, so this stands in for what one does with a projected token and a mounted ConfigMap. The
//! token, the pod that it is bound to, and the ConfigMap are the API server's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::DeleteParams;
use kube::{Api, Client};
use serde_json::json;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::coordinator::{NAMESPACE, TLS_NAME};
use crate::raw_session::RawSession;
use crate::{objects, tokens};

/// The agents' ServiceAccount.
pub const ACCOUNT: &str = "drop-agent";
/// What their tokens are made for.
pub const AUDIENCE: &str = "drop-coordinator";
/// A real kubelet takes up to a minute.
const SYNC: Duration = Duration::from_millis(100);

/// A pod with its volumes. Dropped: nobody keeps the files current any more.
pub struct AgentPod {
    node: String,
    client: Client,
    folder: PathBuf,
    sync: JoinHandle<()>,
}

impl AgentPod {
    /// Creates the pod on a node, requests its token, and keeps its ConfigMap's file current.
    pub async fn create(folder: &Path, client: &Client, node: &str) -> Result<Self> {
        let folder = folder.join("volumes");
        std::fs::create_dir_all(&folder).context("create a pod's volumes")?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name(node), "namespace": NAMESPACE},
            "spec": {
                "nodeName": node, "serviceAccountName": ACCOUNT,
                "containers": [{"name": "agent", "image": "drop"}],
            },
        });
        objects::apply(client, &pod.to_string()).await?;
        let created = Self {
            node: node.to_owned(),
            client: client.clone(),
            sync: tokio::spawn(sync(client.clone(), folder.join("ca.crt"))),
            folder,
        };
        created.set_token(&created.request_token(AUDIENCE).await?)?;
        Ok(created)
    }

    /// The node that it is on.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The flags that an agent in this pod is started with.
    #[must_use]
    pub fn agent_args(&self) -> Vec<String> {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let args = [
            ("--coordinator-tls-name", TLS_NAME.to_owned()),
            ("--coordinator-ca-file", file("ca.crt")),
            ("--token-file", file("token")),
        ];
        args.into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect()
    }

    /// A new token of this pod.
    pub async fn request_token(&self, audience: &str) -> Result<String> {
        let bound_to = ("Pod", name(&self.node));
        let bound_to = Some((bound_to.0, bound_to.1.as_str()));
        tokens::request(&self.client, (NAMESPACE, ACCOUNT), audience, bound_to).await
    }

    /// The token in the volume.
    pub fn token(&self) -> Result<String> {
        std::fs::read_to_string(self.folder.join("token")).context("read a token")
    }

    /// Replaces the token in the volume.
    pub fn set_token(&self, token: &str) -> Result<()> {
        replace(&self.folder.join("token"), token)
    }

    /// The certificates in the volume.
    pub fn authorities(&self) -> Result<String> {
        std::fs::read_to_string(self.folder.join("ca.crt")).context("read the authorities")
    }

    /// Opens a session as the agent in this pod would, at a coordinator's address (`127.0.0.1:port`); the inner error is the
    /// coordinator's refusal.
    pub async fn open_session(&self, address: &str) -> Result<Result<RawSession, Status>> {
        RawSession::open_secure(address, &self.authorities()?, Some(&self.token()?)).await
    }

    /// Deletes the pod object; the agent, which is no real part of it, goes on.
    pub async fn delete(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let now = DeleteParams::default().grace_period(0);
        pods.delete(&name(&self.node), &now)
            .await
            .context("delete a pod")?;
        Ok(())
    }
}

impl Drop for AgentPod {
    fn drop(&mut self) {
        self.sync.abort();
    }
}

fn name(node: &str) -> String {
    format!("drop-agent-{node}")
}

/// Writes the ConfigMap's certificates to the file whenever they change; there is no file before there is a ConfigMap.
async fn sync(client: Client, file: PathBuf) {
    let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let mut written = None;
    loop {
        let map = maps.get_opt("drop-coordinator-ca").await;
        let bundle = map
            .ok()
            .flatten()
            .and_then(|map| map.data?.remove("ca.crt"));
        if bundle.is_some() && bundle != written {
            // The folder goes away with the test.
            let _ = replace(&file, bundle.as_deref().unwrap_or_default());
            written = bundle;
        }
        tokio::time::sleep(SYNC).await;
    }
}

/// In one step, so that nobody reads half of it.
fn replace(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
    std::fs::rename(&new, file).with_context(|| format!("replace {}", file.display()))
}
