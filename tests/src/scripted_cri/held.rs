//! What a scripted runtime holds: its images, its script and its record.

use std::collections::{BTreeMap, VecDeque};

use k8s_cri::v1::Image;
use tonic::Code;

use super::{Call, ImageRef, Reply};
use crate::images::Blob;

#[derive(Default)]
pub(super) struct Held {
    pub(super) name: (String, String),
    pub(super) image_ref: ImageRef,
    pub(super) images: Vec<Image>,
    pub(super) digests: BTreeMap<String, String>,
    pub(super) scripts: BTreeMap<String, VecDeque<Reply>>,
    pub(super) list_failure: Option<(Code, String)>,
    pub(super) calls: Vec<Call>,
}

impl Held {
    /// Lists `reference`; a tag is taken from the image that had it, as runtimes do.
    pub(super) fn list(&mut self, reference: &str) -> Image {
        let known = self.digests.get(reference).cloned();
        let digest = reference
            .split_once('@')
            .map(|(_, digest)| digest.to_owned())
            .or(known);
        let digest = digest.unwrap_or_else(|| Blob::new(reference.to_owned()).digest);
        for held in &mut self.images {
            held.repo_tags.retain(|tag| tag != reference);
        }
        let listed = image(reference, digest.trim_start_matches("sha256:"));
        let same = self.images.iter().position(|held| held.id == listed.id);
        match same.map(|index| &mut self.images[index]) {
            Some(held) => {
                held.repo_tags.extend(listed.repo_tags.clone());
                held.repo_digests.extend(
                    listed
                        .repo_digests
                        .iter()
                        .filter(|digest| !held.repo_digests.contains(digest))
                        .cloned()
                        .collect::<Vec<_>>(),
                );
            }
            None => self.images.push(listed.clone()),
        }
        listed
    }

    pub(super) fn unlist(&mut self, reference: &str) {
        self.images.retain(|image| !names(image, reference));
    }

    pub(super) fn next_reply(&mut self, reference: &str) -> Reply {
        let Some(script) = self.scripts.get_mut(reference) else {
            return Reply::default();
        };
        let reply = script.front().cloned().unwrap_or_default();
        if script.len() > 1 {
            script.pop_front();
        }
        reply
    }
}

/// Whether `reference` (tag, digest reference or id) means `image`.
pub(super) fn names(image: &Image, reference: &str) -> bool {
    image.id == reference
        || image
            .repo_tags
            .iter()
            .chain(&image.repo_digests)
            .any(|name| name == reference)
}

/// An image whose manifest digest has these hex digits; its id is another hash, as in real runtimes.
pub(super) fn image(reference: &str, hex: &str) -> Image {
    let untagged = reference
        .split_once('@')
        .map_or(reference, |(name, _)| name);
    let colon = untagged
        .rfind(':')
        .filter(|colon| !untagged[*colon..].contains('/'));
    let repository = colon.map_or(untagged, |colon| &untagged[..colon]);
    let by_tag = !reference.contains('@');
    Image {
        id: Blob::new(format!("config of {hex}")).digest,
        repo_tags: if by_tag {
            vec![reference.to_owned()]
        } else {
            Vec::new()
        },
        repo_digests: vec![format!("{repository}@sha256:{hex}")],
        size: 1_000_000,
        ..Image::default()
    }
}
