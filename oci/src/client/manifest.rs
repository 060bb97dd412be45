//! What manifests say, read as leniently as registries write them: null lists, entries without platform, sizes that are none.
//!
//! The types of `oci-spec` refuse such documents whole, and one odd entry must not hide an image. What is ambiguous is refused:
//! a document that is an index to one reader and an image to another (CVE-2021-41190).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// Media types of indexes and images, as one `Accept` header. Distribution 2.8 answers 404 to who does not name them.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+";
const IMAGE_CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
const ATTESTATION: &str = "vnd.docker.reference.type";

/// Text by name: labels or annotations.
pub type Texts = BTreeMap<String, String>;

/// What a digest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// One image, or an artifact in an image's clothes.
    Image(ImageManifest),
    /// One image for each of several platforms.
    Index(Index),
    /// Docker's first form, of which only the digest is known.
    Schema1,
}

/// Configuration and layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageManifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, as they are stored: compressed.
    pub layers: Vec<Descriptor>,
    /// Annotations of the manifest.
    pub annotations: Texts,
}

impl ImageManifest {
    /// Whether a runtime can run it. A Helm chart, a signature or a model cannot be.
    #[must_use]
    pub fn is_image(&self) -> bool {
        IMAGE_CONFIGS.contains(&self.config.media_type.as_str())
    }

    /// Compressed bytes: configuration and layers of an image, layers of an artifact.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| layer.size_bytes);
        let config = Some(self.config.size_bytes).filter(|_| self.is_image());
        layers.chain(config).fold(0, u64::saturating_add)
    }
}

/// Images by platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its entries, as written.
    pub entries: Vec<Entry>,
    /// Annotations of the index.
    pub annotations: Texts,
}

/// One entry of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The manifest.
    pub descriptor: Descriptor,
    /// The platform that it is for, if the index says so.
    pub platform: Option<Platform>,
    /// A statement about another entry, and no image.
    pub is_attestation: bool,
}

/// A blob or a manifest, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Digest, as written.
    pub digest: String,
    /// Media type; empty if none is given.
    pub media_type: String,
    /// Size; 0 if none is given.
    pub size_bytes: u64,
}

/// Operating system and architecture in the words of Go. Prints as `linux/arm64/v8`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// Such as `amd64`.
    pub architecture: String,
    /// Such as `v8`, for architectures that have variants.
    pub variant: Option<String>,
}

/// Reads a manifest. `media_type` is the `Content-Type` that came with it.
pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Manifest, String> {
    let document: Document = serde_json::from_slice(bytes)
        .map_err(|error| format!("the manifest is not the JSON of one: {error}"))?;
    let media_type = document.media_type.as_deref().unwrap_or(media_type);
    if document.schema_version == Some(1) || is_schema1(media_type) {
        return Ok(Manifest::Schema1);
    }
    let is_image = document.config.is_some() || document.layers.is_some();
    match (document.manifests, document.config) {
        (Some(_), _) if is_image => Err("the manifest is both an index and an image".to_owned()),
        (Some(manifests), _) => Ok(Manifest::Index(Index {
            entries: manifests.into_iter().map(RawEntry::into_entry).collect(),
            annotations: texts(document.annotations),
        })),
        (None, Some(config)) => Ok(Manifest::Image(ImageManifest {
            config: config.into_descriptor(),
            layers: document
                .layers
                .unwrap_or_default()
                .into_iter()
                .map(RawDescriptor::into_descriptor)
                .collect(),
            annotations: texts(document.annotations),
        })),
        // `"manifests": null` is an index without entries.
        (None, None) if media_type.contains("index") || media_type.contains("manifest.list") => {
            Ok(Manifest::Index(Index {
                entries: Vec::new(),
                annotations: texts(document.annotations),
            }))
        }
        (None, None) => Err("the manifest is neither an image nor an index".to_owned()),
    }
}

/// Whether a `Content-Type` is that of Docker's first form.
pub(crate) fn is_schema1(media_type: &str) -> bool {
    media_type.starts_with(SCHEMA1)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default, deserialize_with = "lenient")]
    schema_version: Option<u64>,
    #[serde(default, deserialize_with = "lenient")]
    media_type: Option<String>,
    manifests: Option<Vec<RawEntry>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    #[serde(default, deserialize_with = "lenient")]
    annotations: Option<RawTexts>,
}

pub(super) type RawTexts = BTreeMap<String, serde_json::Value>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default, deserialize_with = "lenient")]
    digest: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    media_type: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    size: Option<u64>,
}

#[derive(Deserialize)]
struct RawEntry {
    #[serde(flatten)]
    descriptor: RawDescriptor,
    #[serde(default, deserialize_with = "lenient")]
    platform: Option<RawPlatform>,
    #[serde(default, deserialize_with = "lenient")]
    annotations: Option<RawTexts>,
}

#[derive(Deserialize)]
struct RawPlatform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl RawDescriptor {
    fn into_descriptor(self) -> Descriptor {
        Descriptor {
            digest: self.digest.unwrap_or_default(),
            media_type: self.media_type.unwrap_or_default(),
            size_bytes: self.size.unwrap_or_default(),
        }
    }
}

impl RawEntry {
    fn into_entry(self) -> Entry {
        let platform = self.platform.map(|raw| Platform {
            os: raw.os,
            architecture: raw.architecture,
            variant: raw.variant.filter(|variant| !variant.is_empty()),
        });
        let is_unknown = platform
            .as_ref()
            .is_some_and(|platform| platform.os == "unknown" || platform.architecture == "unknown");
        let is_marked = texts(self.annotations).contains_key(ATTESTATION);
        Entry {
            descriptor: self.descriptor.into_descriptor(),
            platform: platform
                .filter(|platform| !platform.os.is_empty() && !platform.architecture.is_empty()),
            is_attestation: is_unknown || is_marked,
        }
    }
}

/// A value of the wrong type counts as none.
pub(super) fn lenient<'de, D: Deserializer<'de>, T: serde::de::DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

/// The values that are text.
pub(super) fn texts(raw: Option<RawTexts>) -> Texts {
    raw.unwrap_or_default()
        .into_iter()
        .filter_map(|(name, value)| match value {
            serde_json::Value::String(text) => Some((name, text)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
