//! The scene of many nodes: a real etcd and API server, a real coordinator, and a swarm of agents.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use drop_api::{CachedImage, PullPolicy};
use drop_tests::control_plane::{ControlPlane, Controllers};
use drop_tests::coordinator::{Coordinator, Sessions};
use drop_tests::demo::screen::Screen;
use drop_tests::dirs::Scratch;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Node;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::args::Effort;
use crate::figure::Figure;
use crate::readiness::Readiness;
use crate::swarm::{Swarm, node_name};
use crate::{grants, reconnect, rest, scale, secrets};

/// Requests to the API server at the same time while the scene is set.
pub(crate) const AT_ONCE: usize = 32;

/// How many of each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Size {
    pub(crate) agents: usize,
    pub(crate) images: usize,
}

impl Size {
    /// Every image on every node.
    pub(crate) fn pairs(self) -> usize {
        self.agents * self.images
    }
}

/// The scene. Its parts end in this order.
pub(crate) struct Fleet {
    pub(crate) size: Size,
    /// Headline of its figures.
    pub(crate) name: String,
    pub(crate) readiness: Readiness,
    pub(crate) swarm: Swarm,
    pub(crate) coordinator: Coordinator,
    pub(crate) control_plane: ControlPlane,
    _scratch: Scratch,
}

/// Sets the scene and takes all its figures.
pub(crate) async fn measure(
    size: Size,
    effort: Effort,
    screen: &mut Screen,
) -> Result<Vec<Figure>> {
    screen.step(&format!("{} agents x {} images", size.agents, size.images));
    let mut fleet = Fleet::start(size, screen).await?;
    let mut figures = scale::measure(&mut fleet, screen).await?;
    figures.extend(rest::fleet(&mut fleet, effort, screen).await?);
    figures.extend(grants::measure(&mut fleet, screen).await?);
    figures.extend(reconnect::measure(&mut fleet, screen).await?);
    Ok(figures)
}

impl Fleet {
    async fn start(size: Size, screen: &mut Screen) -> Result<Self> {
        let scratch = Scratch::new()?;
        let control_plane =
            ControlPlane::start(&scratch.path().join("control-plane"), Controllers::None).await?;
        control_plane.apply_crds().await?;
        let client = control_plane.client();
        create_nodes(&client, size.agents).await?;
        screen.change(&note(format!("{} Nodes are created", size.agents)));
        // A registry that does not exist takes no harm from any number of pulls.
        let args = [
            "--max-pulls-per-registry",
            "1000000",
            "--resolve-tags=false",
        ];
        let args = args.map(str::to_owned);
        let folder = scratch.path().join("coordinator");
        let coordinator = Coordinator::start(&folder, &control_plane, Sessions::Tls, &args).await?;
        let secrets = scratch.folder("secrets")?;
        secrets::write(&client, &secrets, size.agents).await?;
        screen.change(&note("each agent has a token".to_owned()));
        let begin = Instant::now();
        let mut swarm = Swarm::start(size.agents, &coordinator.url(), &secrets)?;
        swarm
            .until(
                "all agents to connect",
                Duration::from_secs(120),
                |report| report.settled == size.agents,
            )
            .await?;
        screen.change(&note(format!(
            "all agents are connected after {:.1} s",
            begin.elapsed().as_secs_f64()
        )));
        let readiness = Readiness::start(&client).await?;
        Ok(Self {
            size,
            name: format!("{} agents x {} images", size.agents, size.images),
            readiness,
            swarm,
            coordinator,
            control_plane,
            _scratch: scratch,
        })
    }

    /// The coordinator's process id.
    pub(crate) fn coordinator_pid(&mut self) -> Result<u32> {
        self.coordinator
            .process()
            .pid()
            .context("the coordinator does not run")
    }

    /// Names of all CachedImages.
    pub(crate) fn image_names(&self) -> Vec<String> {
        (0..self.size.images)
            .map(|number| format!("image-{number:03}"))
            .collect()
    }

    /// Creates the policy and the CachedImages.
    pub(crate) async fn apply_images(&self) -> Result<()> {
        let client = self.control_plane.client();
        let policy: PullPolicy = serde_json::from_value(json!({
            "apiVersion": "drop.corewire.io/v1alpha1", "kind": "PullPolicy", "metadata": {"name": "open"},
            "spec": {"maxConcurrentNodes": 1_000_000, "minDelayBetweenPulls": "0s"},
        }))?;
        create(&Api::all(client.clone()), policy).await?;
        let images: Api<CachedImage> = Api::all(client);
        let created = stream::iter(self.image_names().into_iter().map(Ok))
            .try_for_each_concurrent(AT_ONCE, |name| create_image(&images, name));
        created.await
    }
}

async fn create_image(api: &Api<CachedImage>, name: String) -> Result<()> {
    let image: CachedImage = serde_json::from_value(json!({
        "apiVersion": "drop.corewire.io/v1alpha1", "kind": "CachedImage", "metadata": {"name": name},
        "spec": {
            "image": format!("registry.example/team/{name}"), "tag": "v1.2.3", "policyRef": {"name": "open"},
            // A new Node is tainted as not ready, and no node-lifecycle controller runs here.
            "tolerations": [{"operator": "Exists"}],
        },
    }))?;
    create(api, image).await
}

async fn create_nodes(client: &Client, count: usize) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let created: Vec<()> = stream::iter((0..count).map(|number| {
        let (api, name) = (api.clone(), node_name(number));
        async move {
            let node: Node = serde_json::from_value(json!({"metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "node.kubernetes.io/instance-type": "m7.xlarge", "topology.kubernetes.io/zone": "eu-1a",
            }}}))?;
            create(&api, node).await
        }
    }))
    .buffer_unordered(AT_ONCE)
    .try_collect()
    .await?;
    ensure!(created.len() == count, "{} of {count} Nodes", created.len());
    Ok(())
}

async fn create<K>(api: &Api<K>, object: K) -> Result<()>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    api.create(&PostParams::default(), &object)
        .await
        .with_context(|| format!("create {}", object.name_any()))?;
    Ok(())
}

/// A remark while it runs.
pub(crate) fn note(text: String) -> drop_tests::demo::screen::Line {
    vec![drop_tests::demo::screen::span(
        drop_tests::demo::screen::Paint::Plain,
        text,
    )]
}
