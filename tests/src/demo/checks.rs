//! Where a claim is looked up: the runtime's own list and the registry's request log.

use anyhow::{Context, Result, ensure};

use crate::cri_client::CriClient;
use crate::proxy::Log;

/// Whether the runtime lists `image:tag`, and with this digest.
pub(super) async fn lists(runtime: &CriClient, image: &str, tag: &str, digest: &str) -> Result<()> {
    let (tag, digest) = (format!("{image}:{tag}"), format!("{image}@{digest}"));
    let images = runtime.images().await?;
    let found = images.iter().find(|one| one.repo_tags.contains(&tag));
    let found = found.with_context(|| format!("the runtime does not list {tag}"))?;
    ensure!(
        found.repo_digests.contains(&digest),
        "the runtime lists {tag} with {:?}, not with {digest}",
        found.repo_digests
    );
    Ok(())
}

/// The nodes that asked, sorted.
pub(super) fn asked_by(log: &Log) -> Vec<String> {
    log.nodes().into_iter().collect()
}

/// What was sent, such as `12.0 MB`.
pub(super) fn fetched(log: &Log) -> String {
    format!("{:.1} MB", log.bytes() as f64 / 1e6)
}
