//! One node: a runtime (a real containerd or a scripted one), a Node object, an agent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::containerd::{Containerd, Disk};
use crate::cri_client::CriClient;
use crate::images::this_platform;
use crate::scripted_cri::ScriptedCri;

/// A node to make.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    name: String,
    labels: BTreeMap<String, String>,
    taints: Vec<Value>,
    runtime: RuntimeSpec,
    agent: AgentSpec,
    agent_args: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
enum RuntimeSpec {
    Containerd(Disk),
    Scripted,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum AgentSpec {
    Runs,
    Missing,
}

impl NodeSpec {
    /// A node with a containerd and an agent.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            runtime: RuntimeSpec::Containerd(Disk::Machine),
            agent: AgentSpec::Runs,
            agent_args: Vec::new(),
        }
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds a taint; `effect` is `NoSchedule`, `NoExecute` or `PreferNoSchedule`.
    #[must_use]
    pub fn taint(mut self, key: &str, value: &str, effect: &str) -> Self {
        self.taints.push(taint(key, value, effect));
        self
    }

    /// Its containerd keeps images on a tmpfs of this size.
    #[must_use]
    pub fn disk(mut self, megabytes: u32) -> Self {
        self.runtime = RuntimeSpec::Containerd(Disk::Tmpfs(megabytes));
        self
    }

    /// Whether its runtime is a scripted one.
    #[must_use]
    pub fn is_scripted(&self) -> bool {
        matches!(self.runtime, RuntimeSpec::Scripted)
    }

    /// Its runtime is a scripted one.
    #[must_use]
    pub fn scripted(mut self) -> Self {
        self.runtime = RuntimeSpec::Scripted;
        self
    }

    /// No agent runs on it until `start_agent`.
    #[must_use]
    pub fn without_agent(mut self) -> Self {
        self.agent = AgentSpec::Missing;
        self
    }

    /// Adds arguments for its agent; later ones win.
    #[must_use]
    pub fn agent_args(mut self, args: &[&str]) -> Self {
        self.agent_args
            .extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Puts a cluster's arguments before its own.
    pub(crate) fn with_defaults(mut self, args: &[String]) -> Self {
        self.agent_args.splice(..0, args.iter().cloned());
        self
    }
}

/// What a node's images are held by.
pub enum Runtime {
    /// A real one.
    Containerd(Containerd),
    /// A scripted one.
    Scripted(ScriptedCri),
}

/// A running node.
pub struct Node {
    name: String,
    folder: PathBuf,
    client: Client,
    runtime: Runtime,
    coordinator: String,
    agent: Option<Agent>,
    agent_args: Vec<String>,
}

impl Node {
    /// Starts the runtime, creates the Node object, starts the agent.
    pub async fn start(
        folder: &Path,
        client: &Client,
        coordinator: &str,
        spec: NodeSpec,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder).context("create the node's folder")?;
        let runtime = match spec.runtime {
            RuntimeSpec::Containerd(disk) => Runtime::Containerd(
                Containerd::start(&folder.join("containerd"), &spec.name, disk).await?,
            ),
            RuntimeSpec::Scripted => {
                Runtime::Scripted(ScriptedCri::start(&folder.join("cri.sock"))?)
            }
        };
        register(client, &spec.name, &spec.labels, &spec.taints).await?;
        let mut node = Self {
            name: spec.name,
            folder: folder.to_owned(),
            client: client.clone(),
            runtime,
            coordinator: coordinator.to_owned(),
            agent: None,
            agent_args: spec.agent_args,
        };
        if spec.agent == AgentSpec::Runs {
            node.start_agent().await?;
        }
        Ok(node)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its containerd. An error when it is scripted.
    pub fn containerd(&mut self) -> Result<&mut Containerd> {
        match &mut self.runtime {
            Runtime::Containerd(containerd) => Ok(containerd),
            Runtime::Scripted(_) => bail!("{} has a scripted runtime", self.name),
        }
    }

    /// Its scripted runtime. An error when it is a real one.
    pub fn scripted(&mut self) -> Result<&mut ScriptedCri> {
        match &mut self.runtime {
            Runtime::Containerd(_) => bail!("{} has a real runtime", self.name),
            Runtime::Scripted(scripted) => Ok(scripted),
        }
    }

    /// Its CRI socket, called by a bystander.
    #[must_use]
    pub fn cri(&self) -> CriClient {
        let endpoint = match &self.runtime {
            Runtime::Containerd(containerd) => containerd.endpoint(),
            Runtime::Scripted(scripted) => scripted.endpoint(),
        };
        CriClient::new(Path::new(endpoint.trim_start_matches("unix://")))
    }

    /// Its agent. An error when there is none.
    pub fn agent(&mut self) -> Result<&mut Agent> {
        let name = &self.name;
        self.agent
            .as_mut()
            .with_context(|| format!("{name} has no agent"))
    }

    /// Starts the agent of a node that was made without one.
    pub async fn start_agent(&mut self) -> Result<()> {
        let endpoint = match &self.runtime {
            Runtime::Containerd(containerd) => containerd.endpoint(),
            Runtime::Scripted(scripted) => scripted.endpoint(),
        };
        let agent = Agent::start(
            &self.folder,
            &self.name,
            &self.coordinator,
            &endpoint,
            &self.agent_args,
        )
        .await?;
        self.agent = Some(agent);
        Ok(())
    }

    /// Sets a label, or removes it (None).
    pub async fn label(&self, key: &str, value: Option<&str>) -> Result<()> {
        self.patch(json!({"metadata": {"labels": {key: value}}}))
            .await
    }

    /// Replaces all taints; each is (key, value, effect).
    pub async fn taints(&self, taints: &[(&str, &str, &str)]) -> Result<()> {
        let taints: Vec<Value> = taints
            .iter()
            .map(|(key, value, effect)| taint(key, value, effect))
            .collect();
        self.patch(json!({"spec": {"taints": taints}})).await
    }

    /// Cordons as `kubectl cordon` does, without the taint that only a node-lifecycle controller adds.
    pub async fn cordon(&self) -> Result<()> {
        self.patch(json!({"spec": {"unschedulable": true}})).await
    }

    /// Its kubelet is not ready, as its status says; the taint that a node-lifecycle controller would add is not there.
    pub async fn not_ready(&self) -> Result<()> {
        self.condition(json!(
            {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "container runtime is down"}
        ))
        .await
    }

    /// Its kubelet is short of disk space (`"True"`) or not (`"False"`), as its status says, without the taint as above.
    pub async fn disk_pressure(&self, word: &str) -> Result<()> {
        self.condition(json!({"type": "DiskPressure", "status": word}))
            .await
    }

    async fn condition(&self, condition: Value) -> Result<()> {
        let api: Api<NodeObject> = Api::all(self.client.clone());
        let status = json!({"status": {"conditions": [condition]}});
        api.patch_status(
            &self.name,
            &PatchParams::default(),
            &Patch::Strategic(status),
        )
        .await
        .context("set a Node's status")?;
        Ok(())
    }

    /// Deletes the Node object; the agent and the runtime go on.
    pub async fn deregister(&self) -> Result<()> {
        let api: Api<NodeObject> = Api::all(self.client.clone());
        api.delete(&self.name, &DeleteParams::default())
            .await
            .context("delete a Node")?;
        Ok(())
    }

    async fn patch(&self, change: Value) -> Result<()> {
        let api: Api<NodeObject> = Api::all(self.client.clone());
        api.patch(&self.name, &PatchParams::default(), &Patch::Merge(change))
            .await
            .context("patch a Node")?;
        Ok(())
    }
}

/// Creates a Node object that looks like a kubelet's, Ready and without taints but those given.
pub async fn register(
    client: &Client,
    name: &str,
    labels: &BTreeMap<String, String>,
    taints: &[Value],
) -> Result<NodeObject> {
    let api: Api<NodeObject> = Api::all(client.clone());
    let platform = this_platform();
    let architecture = platform.split('/').next_back().unwrap_or_default();
    let mut all = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), name.to_owned()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), architecture.to_owned()),
    ]);
    all.extend(labels.clone());
    let node = json!({"metadata": {"name": name, "labels": all}});
    let created = api
        .create(&PostParams::default(), &serde_json::from_value(node)?)
        .await
        .context("create a Node")?;
    // Admission taints each new Node as not ready, and no node-lifecycle controller runs here that would take it back.
    let taints = json!({"spec": {"taints": taints}});
    api.patch(
        &created.name_any(),
        &PatchParams::default(),
        &Patch::Merge(taints),
    )
    .await
    .context("set a Node's taints")?;
    let now = jiff::Timestamp::now();
    let ready = json!({"status": {
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }],
        "nodeInfo": {
            "architecture": architecture, "operatingSystem": "linux", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
            "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "osImage": "", "systemUUID": "",
        },
    }});
    api.patch_status(
        &created.name_any(),
        &PatchParams::default(),
        &Patch::Merge(ready),
    )
    .await
    .context("set a Node's status")
}

fn taint(key: &str, value: &str, effect: &str) -> Value {
    json!({"key": key, "value": value, "effect": effect})
}
