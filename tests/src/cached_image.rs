//! CachedImages and PullPolicies as tests write and read them.

use anyhow::{Result, ensure};
use drop_api::{CachedImage, CachedImageStatus, Phase};

/// A CachedImage. `spec` is further YAML in flow style: `"priority: 1, policyRef: {name: p}"`, or nothing.
#[must_use]
pub fn yaml(name: &str, image: &str, tag: &str, spec: &str) -> String {
    let more = if spec.is_empty() {
        String::new()
    } else {
        format!(", {spec}")
    };
    format!(
        "---\napiVersion: drop.corewire.io/v1alpha1\nkind: CachedImage\nmetadata: {{name: {name}}}\nspec: {{image: \"{image}\", tag: \"{tag}\"{more}}}\n"
    )
}

/// A CachedImage that names a digest and no tag. `spec` as in [`yaml`].
#[must_use]
pub fn yaml_of_digest(name: &str, image: &str, digest: &str, spec: &str) -> String {
    yaml(name, image, "", spec).replace("tag: \"\"", &format!("digest: \"{digest}\""))
}

/// A PullPolicy that holds nothing back, unless `spec` (as in [`yaml`]) says otherwise.
#[must_use]
pub fn policy(name: &str, spec: &str) -> String {
    let spec = if spec.is_empty() {
        "maxConcurrentNodes: 100, minDelayBetweenPulls: 0s"
    } else {
        spec
    };
    format!(
        "---\napiVersion: drop.corewire.io/v1alpha1\nkind: PullPolicy\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

/// The status; an empty one where there is none.
#[must_use]
pub fn status(image: &CachedImage) -> CachedImageStatus {
    image.status.clone().unwrap_or_default()
}

/// Whether the status is of the spec that the image has now.
pub fn is_current(image: &CachedImage) -> Result<()> {
    ensure!(
        Some(status(image).observed_generation) == image.metadata.generation,
        "the status is of an older spec"
    );
    Ok(())
}

/// Whether the image is Ready for the spec that it has now.
pub fn is_ready(image: &CachedImage) -> Result<()> {
    is_current(image)?;
    let status = status(image);
    ensure!(
        status.phase == Some(Phase::Ready),
        "phase {:?}, {:?}",
        status.phase,
        condition(image, "Ready")
    );
    Ok(())
}

/// Whether the image is Ready on these nodes (sorted) and wanted nowhere else.
pub fn is_ready_on(image: &CachedImage, nodes: &[&str]) -> Result<()> {
    is_ready(image)?;
    let status = status(image);
    ensure!(
        status.cached_nodes == nodes,
        "cached on {:?}, not on {nodes:?}",
        status.cached_nodes
    );
    let ready = format!("{0}/{0}", nodes.len());
    ensure!(
        status.ready.as_deref() == Some(&ready),
        "{:?} ready, not {ready}",
        status.ready
    );
    Ok(())
}

/// Whether Ready is False for this reason, for the spec that the image has now.
pub fn is_not_ready(image: &CachedImage, reason: &str) -> Result<()> {
    is_current(image)?;
    let (word, why, message) = condition(image, "Ready");
    ensure!(
        word == "False" && why == reason,
        "Ready is {word} {why} ({message}), not False {reason}"
    );
    Ok(())
}

/// A condition's status, reason and message; empty where it is missing.
#[must_use]
pub fn condition(image: &CachedImage, kind: &str) -> (String, String, String) {
    status(image)
        .conditions
        .into_iter()
        .find(|condition| condition.type_ == kind)
        .map(|condition| (condition.status, condition.reason, condition.message))
        .unwrap_or_default()
}

/// Whether the Ready condition has this reason.
pub fn has_reason(image: &CachedImage, reason: &str) -> Result<()> {
    let ready = condition(image, "Ready");
    ensure!(ready.1 == reason, "Ready is {ready:?}");
    Ok(())
}

/// Whether exactly these nodes are listed as ready, and counted so.
pub fn is_cached_on(image: &CachedImage, nodes: &[&str]) -> Result<()> {
    let status = status(image);
    ensure!(
        status.cached_nodes == nodes,
        "cached on {:?}",
        status.cached_nodes
    );
    counts_agree(&status)
}

/// Whether as many nodes are counted as are named, none twice.
pub fn counts_agree(status: &CachedImageStatus) -> Result<()> {
    let mut names = status.cached_nodes.clone();
    names.sort();
    names.dedup();
    ensure!(names == status.cached_nodes, "{status:?}");
    ensure!(
        usize::try_from(status.nodes_ready) == Ok(names.len()),
        "{status:?}"
    );
    let ready = format!("{}/{}", status.nodes_ready, status.nodes_targeted);
    let said = status.ready.as_ref();
    ensure!(said.is_none_or(|said| *said == ready), "{status:?}");
    Ok(())
}
