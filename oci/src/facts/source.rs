//! Finds out what an image is: reads manifests and configurations by digest, each once, and puts the facts together.

use std::sync::Arc;

use super::{Choice, ENTRY_BYTES, Facts, ImageFacts, Kind, Question, lock, now};
use crate::client::config::ImageConfig;
use crate::client::manifest::{Entry, ImageManifest, Index, Texts, is_schema1};
use crate::client::{Client, Head, Manifest, Platform, Repository, can_run};
use crate::credential::Credential;
use crate::error::{Error, Failure};

/// Entries of an index without a platform that are opened to find one. Real indexes have at most one of them.
const UNNAMED_OPENED: usize = 4;

/// Where facts come from for one caller.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) facts: &'a Facts,
    pub(super) client: &'a Client,
    pub(super) repository: &'a Repository,
    pub(super) credentials: &'a [Credential],
}

impl Source<'_> {
    /// All facts of what a HEAD told.
    pub(super) async fn facts_of(&self, head: &Head, choice: &Choice) -> Result<ImageFacts, Error> {
        let mut facts = ImageFacts {
            digest: head.digest.clone(),
            media_type: head.media_type.clone(),
            kind: Kind::Schema1,
            platforms: Vec::new(),
            may_have_more: false,
            platform: None,
            size_bytes: None,
            created: None,
            labels: Texts::new(),
            annotations: Texts::new(),
        };
        if is_schema1(&head.media_type) {
            return Ok(facts);
        }
        match &*self.manifest(&head.digest).await? {
            Manifest::Schema1 => {}
            Manifest::Image(image) => {
                facts.kind = if image.is_image() {
                    Kind::Image
                } else {
                    Kind::Artifact
                };
                let config = self.config(image).await?;
                let built = config.platform.clone();
                facts.platforms.extend(built.clone());
                let fits = choice.or_first
                    || built
                        .as_ref()
                        .is_none_or(|built| can_run(&choice.platform, built));
                facts.describe(image, &config, fits.then_some(built).flatten());
                if !fits {
                    facts.size_bytes = None;
                }
            }
            Manifest::Index(index) => {
                facts.kind = Kind::Index;
                facts.platforms = index.platforms();
                facts.annotations.clone_from(&index.annotations);
                self.choose(index, choice, &mut facts).await?;
            }
        }
        Ok(facts)
    }

    /// Adds the facts of the index's entry that was chosen.
    async fn choose(
        &self,
        index: &Index,
        choice: &Choice,
        facts: &mut ImageFacts,
    ) -> Result<(), Error> {
        if let Some(entry) = index.entry_for(&choice.platform) {
            return self.describe_entry(entry, facts).await;
        }
        facts.may_have_more = index.unnamed().count() > UNNAMED_OPENED;
        for entry in index.unnamed().take(UNNAMED_OPENED) {
            let found = self.image(entry).await?;
            let told = found.and_then(|(image, config)| {
                let built = config.platform.clone()?;
                Some((image, config, built))
            });
            let Some((image, config, built)) = told else {
                facts.may_have_more = true;
                continue;
            };
            facts.platforms.push(built.clone());
            if can_run(&choice.platform, &built) {
                facts.describe(&image, &config, Some(built));
                break;
            }
        }
        facts.platforms.sort();
        facts.platforms.dedup();
        if facts.platform.is_none()
            && choice.or_first
            && let Some(entry) = index.images().next()
        {
            return self.describe_entry(entry, facts).await;
        }
        Ok(())
    }

    async fn describe_entry(&self, entry: &Entry, facts: &mut ImageFacts) -> Result<(), Error> {
        if let Some((image, config)) = self.image(entry).await? {
            let platform = entry.platform.clone().or_else(|| config.platform.clone());
            facts.describe(&image, &config, platform);
        }
        Ok(())
    }

    /// The image of an index's entry; none if it is an index within the index.
    async fn image(
        &self,
        entry: &Entry,
    ) -> Result<Option<(ImageManifest, Arc<ImageConfig>)>, Error> {
        let manifest = self.manifest(&entry.descriptor.digest).await?;
        let Manifest::Image(image) = &*manifest else {
            return Ok(None);
        };
        let config = self.config(image).await?;
        Ok(Some((image.clone(), config)))
    }

    async fn manifest(&self, digest: &str) -> Result<Arc<Manifest>, Error> {
        if let Some(known) = lock(&self.facts.manifests).get(&digest.to_owned(), now()) {
            return Ok(known);
        }
        let _flight = self.facts.fetches.enter(self.question(digest)).await;
        if let Some(known) = lock(&self.facts.manifests).get(&digest.to_owned(), now()) {
            return Ok(known);
        }
        let fetched = self
            .client
            .manifest(self.repository, digest, self.credentials)
            .await?;
        let manifest = Arc::new(fetched.manifest);
        let bytes = weight(&manifest);
        lock(&self.facts.manifests).insert(
            digest.to_owned(),
            Arc::clone(&manifest),
            bytes,
            None,
            now(),
        );
        Ok(manifest)
    }

    /// The configuration of an image; that of an artifact is something else, and not read.
    async fn config(&self, image: &ImageManifest) -> Result<Arc<ImageConfig>, Error> {
        if !image.is_image() {
            return Ok(Arc::default());
        }
        let digest = &image.config.digest;
        if let Some(known) = lock(&self.facts.configs).get(digest, now()) {
            return Ok(known);
        }
        let _flight = self.facts.fetches.enter(self.question(digest)).await;
        if let Some(known) = lock(&self.facts.configs).get(digest, now()) {
            return Ok(known);
        }
        let blob = self
            .client
            .blob(self.repository, digest, self.credentials)
            .await?;
        let config = ImageConfig::parse(&blob).map_err(|problem| {
            Error::new(
                &self.repository.host(),
                self.repository.name(),
                Failure::Invalid(problem),
            )
        })?;
        let config = Arc::new(config);
        let bytes = ENTRY_BYTES + texts_bytes(&config.labels);
        lock(&self.facts.configs).insert(digest.clone(), Arc::clone(&config), bytes, None, now());
        Ok(config)
    }

    fn question(&self, digest: &str) -> Question {
        Question::new(self.repository, digest, self.credentials)
    }
}

impl ImageFacts {
    /// Adds what the image of the chosen platform tells.
    fn describe(
        &mut self,
        image: &ImageManifest,
        config: &ImageConfig,
        platform: Option<Platform>,
    ) {
        self.size_bytes = Some(image.size_bytes());
        self.created = config.created;
        self.labels.clone_from(&config.labels);
        self.annotations.extend(image.annotations.clone());
        self.platform = platform;
    }
}

/// Memory that a manifest takes, roughly.
fn weight(manifest: &Manifest) -> usize {
    ENTRY_BYTES
        + match manifest {
            Manifest::Schema1 => 0,
            Manifest::Image(image) => {
                image.layers.len() * ENTRY_BYTES + texts_bytes(&image.annotations)
            }
            Manifest::Index(index) => {
                index.entries.len() * ENTRY_BYTES + texts_bytes(&index.annotations)
            }
        }
}

fn texts_bytes(texts: &Texts) -> usize {
    texts
        .iter()
        .map(|(name, value)| name.len() + value.len() + 64)
        .sum()
}
