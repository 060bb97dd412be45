//! Everything at once: control plane, registry behind a proxy, nodes with agents, coordinator.

use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::agent_pod::AgentPod;
use crate::control_plane::{ControlPlane, Controllers};
use crate::coordinator::{self, Coordinator, Sessions};
use crate::dirs::Scratch;
use crate::images::Recipe;
use crate::node::{Node, NodeSpec};
use crate::objects;
use crate::prometheus::Prometheus;
use crate::proxy::Proxy;
use crate::registry::Registry;

/// A cluster to make.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    nodes: Vec<NodeSpec>,
    controllers: Controllers,
    replicas: usize,
    coordinator_args: Vec<String>,
    agent_args: Vec<String>,
    sessions: Sessions,
}

impl Builder {
    /// Adds `count` plain nodes: `node-1`, `node-2`, ...
    #[must_use]
    pub fn nodes(mut self, count: usize) -> Self {
        let first = self.nodes.len() + 1;
        self.nodes
            .extend((first..first + count).map(|number| NodeSpec::new(&format!("node-{number}"))));
        self
    }

    /// Adds one node.
    #[must_use]
    pub fn node(mut self, spec: NodeSpec) -> Self {
        self.nodes.push(spec);
        self
    }

    /// Runs kube-controller-manager: owner references act.
    #[must_use]
    pub fn controllers(mut self) -> Self {
        self.controllers = Controllers::Run;
        self
    }

    /// Runs so many coordinators instead of one, `replica-1`, `replica-2` ..., of which one leads.
    #[must_use]
    pub fn replicas(mut self, count: usize) -> Self {
        self.replicas = count;
        self
    }

    /// Sessions over TLS with tokens, as in a cluster.
    #[must_use]
    pub fn secure(mut self) -> Self {
        self.sessions = Sessions::Tls;
        self
    }

    /// Adds arguments of the coordinator; later ones win.
    #[must_use]
    pub fn coordinator_args(mut self, args: &[&str]) -> Self {
        self.coordinator_args
            .extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Adds arguments of each agent; later ones win.
    #[must_use]
    pub fn agent_args(mut self, args: &[&str]) -> Self {
        self.agent_args
            .extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Starts all of it and waits until each part serves.
    pub async fn start(self) -> Result<Cluster> {
        let scratch = Scratch::new()?;
        let mut args = self.coordinator_args;
        // What scripted runtimes pull is in no registry.
        if self.nodes.iter().any(NodeSpec::is_scripted) {
            args.insert(0, "--resolve-tags=false".to_owned());
        }
        let control_plane = async {
            let control_plane =
                ControlPlane::start(&scratch.path().join("control-plane"), self.controllers)
                    .await?;
            control_plane.apply_crds().await?;
            let (args, sessions) = (&args, self.sessions);
            let mut coordinators = Vec::new();
            if self.replicas > 0 {
                // As a former leader gives it back. Whoever finds none waits for 15 s before it leads.
                coordinator::grant_rights(&control_plane).await?;
                let free = format!(
                    "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {{name: drop-coordinator, namespace: {}}}\n",
                    coordinator::NAMESPACE
                );
                control_plane.apply(&free).await?;
            }
            for number in 1..=self.replicas {
                let name = format!("replica-{number}");
                let folder = scratch.path().join(&name);
                let replica =
                    Coordinator::start_replica(&folder, &control_plane, &name, sessions, args);
                coordinators.push(replica.await?);
            }
            if coordinators.is_empty() {
                let folder = scratch.path().join("coordinator");
                let single = Coordinator::start(&folder, &control_plane, sessions, args);
                coordinators.push(single.await?);
            }
            anyhow::Ok((control_plane, coordinators))
        };
        let folder = scratch.path().join("registry");
        let (registry, (control_plane, mut coordinators)) =
            tokio::try_join!(Registry::start(&folder), control_plane)?;
        let proxy = Proxy::start(registry.address()).await?;
        let mut cluster = Cluster {
            nodes: Vec::new(),
            agent_args: self.agent_args,
            sessions: self.sessions,
            kubelets: Vec::new(),
            coordinator: coordinators.remove(0),
            more_coordinators: coordinators,
            proxy,
            registry,
            control_plane,
            scratch,
        };
        let started =
            try_join_all(self.nodes.into_iter().map(|spec| cluster.start_node(spec))).await?;
        for (node, kubelet) in started {
            cluster.nodes.push(node);
            cluster.kubelets.extend(kubelet);
        }
        Ok(cluster)
    }
}

/// A running cluster. Its parts are open: stop, break and read them at will. Dropped: all of it is gone.
pub struct Cluster {
    // Dropped in this order: agents before their coordinator, all before the API server.
    /// The nodes, in the order they were added.
    pub nodes: Vec<Node>,
    /// The coordinator, or the first replica.
    pub coordinator: Coordinator,
    /// The other replicas.
    pub more_coordinators: Vec<Coordinator>,
    /// The registry host of the cluster's images.
    pub proxy: Proxy,
    /// The registry behind it.
    pub registry: Registry,
    /// etcd and API server.
    pub control_plane: ControlPlane,
    agent_args: Vec<String>,
    sessions: Sessions,
    kubelets: Vec<AgentPod>,
    scratch: Scratch,
}

impl Cluster {
    /// A cluster to make; without a node until one is added.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// An administrator's client.
    #[must_use]
    pub fn client(&self) -> Client {
        self.control_plane.client()
    }

    /// The private directory, for further parts.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// The node called `name`.
    pub fn node(&mut self, name: &str) -> Result<&mut Node> {
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        found.with_context(|| format!("there is no node {name}"))
    }

    /// The name of the replica that holds the Lease, such as `replica-1`.
    pub async fn leader(&self) -> Result<String> {
        let leases: Api<Lease> = Api::namespaced(self.client(), coordinator::NAMESPACE);
        let lease = leases.get("drop-coordinator").await?;
        let holder = lease.spec.and_then(|spec| spec.holder_identity);
        let holder = holder.context("nobody holds the Lease")?;
        let (name, _) = holder
            .split_once('_')
            .context("a holder without a suffix")?;
        Ok(name.to_owned())
    }

    /// The replica called `replica-<number>`.
    pub fn replica(&mut self, name: &str) -> Result<&mut Coordinator> {
        let mut all = std::iter::once(&mut self.coordinator).chain(&mut self.more_coordinators);
        let number: usize = name.trim_start_matches("replica-").parse()?;
        all.nth(number - 1).with_context(|| format!("no {name}"))
    }

    /// A node joins.
    pub async fn add_node(&mut self, spec: NodeSpec) -> Result<()> {
        let (node, kubelet) = self.start_node(spec).await?;
        self.nodes.push(node);
        self.kubelets.extend(kubelet);
        Ok(())
    }

    /// `127.0.0.1:port/<repository>`: `spec.image` of an image in the cluster's registry.
    #[must_use]
    pub fn image(&self, repository: &str) -> String {
        format!("{}/{repository}", self.proxy.host())
    }

    /// Makes an image and pushes it behind the proxy's back. Returns the digest that a HEAD of the tag gives.
    pub async fn push(&self, repository: &str, tag: &str, recipe: &Recipe) -> Result<String> {
        recipe.push(&self.registry, repository, tag).await
    }

    /// The nodes whose runtime itself lists `reference` with this digest.
    pub async fn holders(&self, reference: &str, digest: &str) -> Result<Vec<&str>> {
        let mut holders = Vec::new();
        for node in &self.nodes {
            let digests = node.cri().digests(reference).await?;
            if digests.iter().any(|held| held == digest) {
                holders.push(node.name());
            }
        }
        Ok(holders)
    }

    /// Each of these nodes pulls `reference` as a kubelet would for a pod.
    pub async fn pull_beside(&self, reference: &str, nodes: &[&str]) -> Result<()> {
        for node in self
            .nodes
            .iter()
            .filter(|node| nodes.contains(&node.name()))
        {
            node.cri()
                .pull(reference)
                .await
                .with_context(|| format!("pull {reference} on {}", node.name()))?;
        }
        Ok(())
    }

    /// Applies YAML documents as an administrator.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        self.control_plane.apply(yaml).await
    }

    /// The object called `name`.
    pub async fn get<K>(&self, name: &str) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        objects::get(&self.client(), name).await
    }

    /// Waits until `condition` holds for the object; its `Err` says what is missing. A failure shows the last status and the
    /// coordinator's last words.
    pub async fn until<K>(
        &self,
        name: &str,
        within: Duration,
        condition: impl FnMut(&K) -> Result<()>,
    ) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
            + Clone
            + DeserializeOwned
            + Serialize
            + Debug,
    {
        let outcome = objects::until(&self.client(), name, within, condition).await;
        outcome.map_err(|cause| {
            cause.context(format!(
                "the coordinator's log ends:\n{}",
                last_lines(&self.coordinator.log())
            ))
        })
    }

    /// A Prometheus that scrapes the coordinator (job `coordinator`) and each agent (job = node).
    pub async fn prometheus(&mut self) -> Result<Prometheus> {
        let mut targets = vec![(
            "coordinator".to_owned(),
            self.coordinator.metrics_address().to_owned(),
        )];
        for node in &mut self.nodes {
            let name = node.name().to_owned();
            targets.push((name, node.agent()?.metrics_address().to_owned()));
        }
        let targets: Vec<(&str, &str)> = targets
            .iter()
            .map(|(job, address)| (job.as_str(), address.as_str()))
            .collect();
        Prometheus::start(&self.scratch.path().join("prometheus"), &targets).await
    }

    /// The agent's pod on a node. Only in a cluster with secure sessions.
    pub fn agent_pod(&self, node: &str) -> Result<&AgentPod> {
        let found = self.kubelets.iter().find(|pod| pod.node() == node);
        found.with_context(|| format!("node {node} has no agent pod"))
    }

    async fn start_node(&self, spec: NodeSpec) -> Result<(Node, Option<AgentPod>)> {
        let folder = self.scratch.path().join(spec.name());
        let client = self.client();
        let pod = match self.sessions {
            Sessions::Plaintext => None,
            Sessions::Tls => Some(AgentPod::create(&folder, &client, spec.name()).await?),
        };
        // The node's own arguments come last and win.
        let secure = pod.as_ref().map(AgentPod::agent_args).unwrap_or_default();
        let spec = spec.with_defaults(&[secure, self.agent_args.clone()].concat());
        let mut urls = vec![self.coordinator.url()];
        urls.extend(self.more_coordinators.iter().map(Coordinator::url));
        let node = Node::start(&folder, &client, &urls.join(","), spec).await?;
        Ok((node, pod))
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
