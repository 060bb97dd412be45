//! The scene of one node: real containerds with a real agent each, a real registry, API server and coordinator.
//!
//! `node-1` runs its agent as installed. `node-2` is for [`pull_overhead`]: its agent looks at the runtime every second, so
//! that an image that was removed is missed soon.

use std::time::Duration;

use anyhow::{Context, Result};
use drop_api::CachedImage;
use drop_tests::cached_image::policy;
use drop_tests::cluster::Cluster;
use drop_tests::demo::screen::Screen;
use drop_tests::images::Recipe;
use drop_tests::node::NodeSpec;
use jiff::Timestamp;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::json;

use crate::args::Effort;
use crate::figure::Figure;
use crate::readiness::Readiness;
use crate::{apply_to_ready, pull_overhead, rest};

/// Headline of the figures.
pub(crate) const SCENE: &str = "one containerd node";

/// Sets the scene and takes all its figures.
pub(crate) async fn measure(effort: Effort, screen: &mut Screen) -> Result<Vec<Figure>> {
    screen.step(SCENE);
    let json_log = ["--log-format", "json"];
    let installed = NodeSpec::new("node-1")
        .label("bench", "installed")
        .agent_args(&json_log);
    let watchful = NodeSpec::new("node-2")
        .label("bench", "watchful")
        .agent_args(&json_log)
        .agent_args(&["--list-interval", "1s"]);
    let mut cluster = Cluster::builder()
        .secure()
        .node(installed)
        .node(watchful)
        .start()
        .await?;
    cluster.apply(&policy("open", "")).await?;
    let mut readiness = Readiness::start(&cluster.client()).await?;

    // At rest first: the numbers of a pull may be written a minute after it.
    let held = Sample::push(&cluster, "held", &[1_000_000]).await?;
    held.apply(&cluster.client(), "installed").await?;
    readiness
        .all(std::slice::from_ref(&held.name), Duration::from_secs(60))
        .await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut figures = rest::node(&mut cluster, SCENE, effort, screen).await?;
    figures.extend(apply_to_ready::measure(&mut cluster, &mut readiness, effort, screen).await?);
    figures.extend(pull_overhead::measure(&mut cluster, &mut readiness, effort, screen).await?);
    Ok(figures)
}

/// An image in the registry, and the CachedImage that wants it.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    /// As the runtime is asked for it.
    pub(crate) reference: String,
    image: String,
}

impl Sample {
    /// Makes an image of random layers of these sizes, and pushes it.
    pub(crate) async fn push(cluster: &Cluster, name: &str, layers: &[usize]) -> Result<Self> {
        cluster.push(name, "v1", &Recipe::layers(layers)).await?;
        // The registry itself, not the proxy before it: nothing is to be recorded or disturbed here.
        let image = format!("{}/{name}", cluster.registry.address());
        Ok(Self {
            name: name.to_owned(),
            reference: format!("{image}:v1"),
            image,
        })
    }

    /// The same image, wanted by another CachedImage.
    pub(crate) fn named(&self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..self.clone()
        }
    }

    /// Wants it on the node with this label.
    pub(crate) async fn apply(&self, client: &Client, label: &str) -> Result<()> {
        let object: CachedImage = serde_json::from_value(json!({
            "apiVersion": "drop.corewire.io/v1alpha1", "kind": "CachedImage", "metadata": {"name": self.name},
            "spec": {"image": self.image, "tag": "v1", "policyRef": {"name": "open"}, "nodeSelector": {"bench": label}},
        }))?;
        let api: Api<CachedImage> = Api::all(client.clone());
        api.create(&PostParams::default(), &object)
            .await
            .context("create a CachedImage")?;
        Ok(())
    }

    /// Does not want it any more.
    pub(crate) async fn delete(&self, client: &Client) -> Result<()> {
        let api: Api<CachedImage> = Api::all(client.clone());
        api.delete(&self.name, &DeleteParams::default())
            .await
            .context("delete a CachedImage")?;
        Ok(())
    }
}

/// When an agent logged `message` about the image for the first time after `mark`.
pub(crate) fn logged(log: &str, mark: Timestamp, message: &str, image: &str) -> Option<Timestamp> {
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<LogLine>(line).ok());
    let mut found = lines
        .filter(|line| line.timestamp >= mark && line.message == message && line.image == image);
    found.next().map(|line| line.timestamp)
}

#[derive(Debug, Deserialize)]
struct LogLine {
    timestamp: Timestamp,
    #[serde(default)]
    message: String,
    #[serde(default)]
    image: String,
}

/// From one moment of a log or of this program to another.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
