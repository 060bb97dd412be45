//! Images made from nothing: random bytes as layers, which do not shrink, in a tar, under a unique configuration.

use std::fmt::Write;
use std::io::Read;

use anyhow::{Context, Result};
use bytes::Bytes;
use ring::digest::{SHA256, digest};
use serde_json::json;

use crate::registry::Registry;

/// What a client accepts that wants any image (distribution 2.8 answers 404 to one that does not say so).
pub const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Bytes and their digest.
#[derive(Clone, Debug)]
pub struct Blob {
    /// `sha256:...`.
    pub digest: String,
    /// The content.
    pub bytes: Bytes,
}

impl Blob {
    /// Hashes `bytes`.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let mut name = "sha256:".to_owned();
        for byte in digest(&SHA256, &bytes).as_ref() {
            // Writing to a String cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        Self {
            digest: name,
            bytes,
        }
    }

    /// A layer that holds one file of `size` random bytes.
    pub fn random_layer(size: usize) -> Result<Self> {
        let mut content = vec![0; size];
        let mut source = std::fs::File::open("/dev/urandom").context("open /dev/urandom")?;
        source
            .read_exact(&mut content)
            .context("read random bytes")?;
        let name = format!("data/{:016x}", rand::random::<u64>());
        Ok(Self::new(tar(&name, &content)))
    }
}

/// An image to make. Two images from one recipe differ in their configuration, unless `layers` and platform are all shared.
#[derive(Clone, Debug, Default)]
pub struct Recipe {
    layers: Vec<Blob>,
    random: Vec<usize>,
    platforms: Vec<String>,
}

impl Recipe {
    /// An image of this platform with random layers of these sizes in bytes.
    #[must_use]
    pub fn layers(sizes: &[usize]) -> Self {
        Self {
            random: sizes.to_vec(),
            ..Self::default()
        }
    }

    /// Puts a ready layer below the random ones: how images share layers.
    #[must_use]
    pub fn shared(mut self, layer: &Blob) -> Self {
        self.layers.push(layer.clone());
        self
    }

    /// Another platform than the machine's, such as `linux/arm64`. Named once: a single manifest of that platform. Named more
    /// than once: an index over them.
    #[must_use]
    pub fn platform(mut self, platform: &str) -> Self {
        self.platforms.push(platform.to_owned());
        self
    }

    /// Makes it and pushes it. Returns the digest that a HEAD of the tag gives: the index's where there is one.
    pub async fn push(&self, registry: &Registry, repository: &str, tag: &str) -> Result<String> {
        match self.platforms.as_slice() {
            [] => self
                .push_one(registry, repository, tag, &this_platform())
                .await
                .map(|manifest| manifest.digest),
            [one] => self
                .push_one(registry, repository, tag, one)
                .await
                .map(|manifest| manifest.digest),
            many => self.push_index(registry, repository, tag, many).await,
        }
    }

    /// As `push`, with an index even for one platform.
    pub async fn push_index(
        &self,
        registry: &Registry,
        repository: &str,
        tag: &str,
        platforms: &[String],
    ) -> Result<String> {
        let mut manifests = Vec::new();
        for platform in platforms {
            // A manifest of an index is stored by its digest alone; the tag belongs to the index.
            let manifest = self.push_one(registry, repository, "", platform).await?;
            let (os, architecture) = split(platform);
            manifests.push(json!({
                "mediaType": MANIFEST, "digest": manifest.digest, "size": manifest.bytes.len(),
                "platform": {"os": os, "architecture": architecture},
            }));
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let index = Blob::new(index.to_string());
        registry
            .push_manifest(repository, tag, INDEX, &index)
            .await?;
        Ok(index.digest)
    }

    /// Pushes one manifest, under its own digest if `tag` is empty: what an index is made of.
    pub async fn push_one(
        &self,
        registry: &Registry,
        repository: &str,
        tag: &str,
        platform: &str,
    ) -> Result<Blob> {
        let mut layers = self.layers.clone();
        for size in &self.random {
            layers.push(Blob::random_layer(*size)?);
        }
        for layer in &layers {
            registry.push_blob(repository, layer).await?;
        }
        let config = config(platform, &layers);
        registry.push_blob(repository, &config).await?;
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| {
                json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest, "size": layer.bytes.len()})
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": descriptors,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.digest, "size": config.bytes.len()},
        });
        let manifest = Blob::new(manifest.to_string());
        let reference = if tag.is_empty() {
            &manifest.digest
        } else {
            tag
        };
        registry
            .push_manifest(repository, reference, MANIFEST, &manifest)
            .await?;
        Ok(manifest)
    }
}

/// `linux/amd64` and the like: what this machine runs.
#[must_use]
pub fn this_platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}

/// The layers are not compressed, so a layer's digest is its diff id too.
fn config(platform: &str, layers: &[Blob]) -> Blob {
    let (os, architecture) = split(platform);
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
    let unique = format!("drop-tests {:016x}", rand::random::<u64>());
    let config = json!({
        "os": os, "architecture": architecture, "author": unique, "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    Blob::new(config.to_string())
}

fn split(platform: &str) -> (&str, &str) {
    platform.split_once('/').unwrap_or(("linux", platform))
}

/// A tar (ustar) with one file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());

    let padding = content.len().next_multiple_of(512) - content.len();
    let mut archive = Vec::with_capacity(content.len() + 2_048);
    archive.extend_from_slice(&header);
    archive.extend_from_slice(content);
    // The padding of the last block, and the two empty blocks that end an archive.
    archive.resize(archive.len() + padding + 1_024, 0);
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_what_sha256sum_says() {
        assert_eq!(
            Blob::new("drop").digest,
            "sha256:d90ee9ccf6bea1d2942a7b21319338198dec2a746f8a0d0771621f00da2e0864"
        );
    }

    #[test]
    fn an_archive_is_whole_blocks() {
        assert_eq!(tar("data/x", b"abc").len(), 512 + 512 + 1_024);
    }
}
