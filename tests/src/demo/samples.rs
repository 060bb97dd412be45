//! The demo's images and the YAML that a user would write for them.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::images::{Blob, Recipe};

/// One image of the demo: a CachedImage and a repository in the registry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Name of the CachedImage.
    pub(super) name: &'static str,
    /// Repository.
    pub(super) repository: &'static str,
    /// Sizes of its own layers in kilobytes.
    layers: &'static [usize],
    /// Whether it stands on the base layer that images of one house share.
    on_base: bool,
    /// Whether its pace is that of the policy `quick`, or what images without a policy get.
    quick: bool,
}

/// Size of the shared layer in kilobytes.
const BASE: usize = 8_000;

/// The tag that all images have at first.
pub(super) const TAG: &str = "v1";

/// What is cached: 1 to 60 MB.
pub(super) const IMAGES: [Sample; 6] = [
    sample("hello", "shop/hello", &[400, 600], false),
    sample("web", "shop/web", &[1_000, 3_000], true),
    sample("api", "shop/api", &[4_000, 8_000], true),
    sample("worker", "shop/worker", &[2_000, 20_000], true),
    sample("model", "ml/model", &[10_000, 20_000, 30_000], false),
    Sample {
        quick: false,
        ..sample("metrics", "ops/metrics", &[1_000, 2_000, 2_000], false)
    },
];

/// The image with a typing error in its tag: a capital O for a zero.
pub(super) const BROKEN: &str = "typo";
/// Its tag, which nobody pushed.
pub(super) const BROKEN_TAG: &str = "v1.O";
/// Its repository, which exists.
pub(super) const BROKEN_REPOSITORY: &str = "shop/cart";

const fn sample(
    name: &'static str,
    repository: &'static str,
    layers: &'static [usize],
    on_base: bool,
) -> Sample {
    Sample {
        name,
        repository,
        layers,
        on_base,
        quick: true,
    }
}

impl Sample {
    /// New content for it: the same sizes on the same base.
    pub(super) fn recipe(&self, base: &Blob) -> Recipe {
        let sizes: Vec<usize> = self.layers.iter().map(|size| size * 1_000).collect();
        let recipe = Recipe::layers(&sizes);
        if self.on_base {
            recipe.shared(base)
        } else {
            recipe
        }
    }

    /// In kilobytes.
    pub(super) fn size(&self) -> usize {
        self.layers.iter().sum::<usize>() + if self.on_base { BASE } else { 0 }
    }
}

/// The layer that some of the images share.
pub(super) fn base_layer() -> Result<Blob> {
    Blob::random_layer(BASE * 1_000)
}

/// Writes `samples/policy.yaml`, `samples/images.yaml` and, beside them, `broken.yaml`, for images on `host`.
pub(super) fn write(folder: &Path, host: &str) -> Result<()> {
    let samples = folder.join("samples");
    std::fs::create_dir_all(&samples).context("create the samples' folder")?;
    let mut images = String::new();
    for sample in &IMAGES {
        let image = format!("{host}/{}", sample.repository);
        let _ = write!(
            images,
            "---\n{}",
            cached_image(sample.name, &image, TAG, sample.quick)
        );
    }
    let broken = cached_image(
        BROKEN,
        &format!("{host}/{BROKEN_REPOSITORY}"),
        BROKEN_TAG,
        true,
    );
    for (path, text) in [
        (samples.join("policy.yaml"), POLICY),
        (samples.join("images.yaml"), &images),
        (folder.join("broken.yaml"), &broken),
    ] {
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// The policy of most images.
pub(super) const POLICY: &str = "\
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata:
  name: quick
spec:
  maxConcurrentNodes: 2        # two nodes pull at once, the third waits
  minDelayBetweenPulls: 500ms  # between a start on one node and the next on another
";

/// A CachedImage with or without the policy.
pub(super) fn cached_image(name: &str, image: &str, tag: &str, quick: bool) -> String {
    let policy = if quick {
        "  policyRef: {name: quick}\n"
    } else {
        ""
    };
    format!(
        "\
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata:
  name: {name}
spec:
  image: {image}
  tag: {tag}
{policy}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_are_of_1_to_60_megabytes_with_several_layers_each() {
        let sizes: Vec<usize> = IMAGES.iter().map(Sample::size).collect();
        assert_eq!(
            (sizes.iter().min(), sizes.iter().max()),
            (Some(&1_000), Some(&60_000))
        );
        let layers = |image: &Sample| image.layers.len() + usize::from(image.on_base);
        assert!(IMAGES.iter().all(|image| layers(image) > 1));
    }
}
