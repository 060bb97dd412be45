//! Private registries: the Secrets that images name, the plugins that a node has, and what nobody may read of them.

mod plugins;
mod secrets;
mod steps;

use std::time::Duration;

use anyhow::{Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::condition;
use drop_tests::cluster::Cluster;
use drop_tests::http;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;

const SOON: Duration = Duration::from_secs(60);
/// The coordinator's own question would be refused in the nodes' place.
const NODES_ASK: &str = "--resolve-tags=false";
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
