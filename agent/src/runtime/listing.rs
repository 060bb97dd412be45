//! Translates the runtime's list of images: by canonical reference, with the digests under the same repository.

use std::collections::{BTreeMap, BTreeSet};

use drop_oci::reference::Reference;
use k8s_cri::v1::Image;

use crate::node::{Listed, Listing};

/// One entry for each tag and each digest of each image. Names that are no references ("<none>:<none>") are left out.
pub(super) fn listing(images: &[Image]) -> Listing {
    images.iter().flat_map(entries).collect()
}

fn entries(image: &Image) -> Vec<(String, Listed)> {
    let parse = |name: &String| name.parse::<Reference>().ok();
    let mut digests: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for reference in image.repo_digests.iter().filter_map(parse) {
        if let Some(digest) = reference.digest() {
            let repository = digests.entry(reference.repository_name()).or_default();
            repository.insert(digest.to_owned());
        }
    }
    let listed = |repository: &str| Listed {
        digests: digests
            .get(repository)
            .into_iter()
            .flatten()
            .cloned()
            .collect(),
        size_bytes: image.size,
    };
    let pairs = digests
        .iter()
        .flat_map(|(repository, all)| all.iter().map(move |d| (repository, d)));
    let by_digest = pairs.map(|(repository, d)| (format!("{repository}@{d}"), listed(repository)));
    let tagged = image
        .repo_tags
        .iter()
        .filter_map(parse)
        .filter(|r| r.tag().is_some());
    let by_tag = tagged.map(|r| (r.to_string(), listed(&r.repository_name())));
    by_digest.chain(by_tag).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const D1: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
    const D2: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

    fn image(tags: &[&str], digests: &[String]) -> Image {
        Image {
            repo_tags: tags.iter().map(|&t| t.to_owned()).collect(),
            repo_digests: digests.to_vec(),
            size: 9,
            ..Image::default()
        }
    }

    fn shown(listing: &Listing) -> Vec<(&str, Vec<&str>)> {
        listing
            .iter()
            .map(|(r, l)| (r.as_str(), l.digests.iter().map(String::as_str).collect()))
            .collect()
    }

    #[test]
    fn a_tag_has_the_digests_of_its_own_repository() {
        let listing = listing(&[image(
            &["docker.io/library/nginx:1.27", "r.example:5000/nginx:x"],
            &[
                format!("docker.io/library/nginx@{D2}"),
                format!("docker.io/library/nginx@{D1}"),
                format!("r.example:5000/nginx@{D2}"),
            ],
        )]);
        let at = |repository: &str, digest: &str| format!("{repository}@{digest}");
        assert_eq!(
            shown(&listing),
            [
                ("docker.io/library/nginx:1.27", vec![D1, D2]),
                (at("docker.io/library/nginx", D1).as_str(), vec![D1, D2]),
                (at("docker.io/library/nginx", D2).as_str(), vec![D1, D2]),
                ("r.example:5000/nginx:x", vec![D2]),
                (at("r.example:5000/nginx", D2).as_str(), vec![D2]),
            ]
        );
    }

    #[test]
    fn short_names_become_canonical_and_nameless_images_are_left_out() {
        let listing = listing(&[
            image(&["nginx:1"], &[]),
            image(&["<none>:<none>"], &["<none>@<none>".to_owned()]),
            image(&[], &[format!("localhost/a@{D1}")]),
        ]);
        assert_eq!(
            shown(&listing),
            [
                ("docker.io/library/nginx:1", vec![]),
                (format!("localhost/a@{D1}").as_str(), vec![D1]),
            ]
        );
    }
}
