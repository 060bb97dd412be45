//! Documents of a scripted registry.

use drop_oci::facts::Choice;
use drop_tests::images::Blob;
use drop_tests::scripted_registry::{Asked, Reply};
use serde_json::json;

pub(crate) const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Manifests and configurations by the name that they are asked for by.
#[derive(Default)]
pub(crate) struct Shelf(Vec<(String, &'static str, Blob)>);

impl Shelf {
    /// Stores a document under its digest, and under a tag too.
    pub(crate) fn put(
        &mut self,
        tag: &str,
        media_type: &'static str,
        document: &serde_json::Value,
    ) -> Blob {
        let blob = Blob::new(document.to_string());
        self.0.push((tag.to_owned(), media_type, blob.clone()));
        self.0.push((blob.digest.clone(), media_type, blob.clone()));
        blob
    }

    /// An image of one platform, with a layer of 1,000 bytes.
    pub(crate) fn image(&mut self, tag: &str, platform: (&str, &str)) -> Blob {
        let config = json!({"os": platform.0, "architecture": platform.1, "created": "2024-05-06T07:08:09Z",
            "config": {"Labels": {"of": platform.1}}});
        let config = self.put("", CONFIG, &config);
        let manifest = json!({"schemaVersion": 2, "mediaType": IMAGE, "annotations": {"by": platform.1},
            "config": {"mediaType": CONFIG, "digest": config.digest, "size": config.bytes.len()},
            "layers": [{"digest": format!("sha256:{:064}", 1), "size": 1_000}]});
        self.put(tag, IMAGE, &manifest)
    }

    pub(crate) fn answer(&self, asked: &Asked) -> Reply {
        let name = asked.path.rsplit('/').next().unwrap_or_default();
        let found = self.0.iter().find(|(key, _, _)| key == name);
        found.map_or_else(
            || Reply::status(404, "{}"),
            |(_, media_type, blob)| {
                Reply::ok(blob.bytes.clone())
                    .header("content-type", media_type)
                    .header("docker-content-digest", &blob.digest)
            },
        )
    }
}

pub(crate) fn amd64() -> Choice {
    Choice::only("linux/amd64".parse().expect("a platform"))
}
