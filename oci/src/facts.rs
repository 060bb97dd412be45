//! What images are: one answer for all who ask, fetched once.
//!
//! What a digest names never changes and is remembered by digest, for everybody. What a tag names is remembered by repository,
//! tag **and credentials**, for a time: who may not see an image does not learn its digest from one who may.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::client::config::ImageConfig;
use crate::client::manifest::{Entry, ImageManifest, Index, Texts, is_schema1};
use crate::client::{Client, Head, Manifest, Platform, Repository, can_run};
use crate::credential::Credential;
use crate::error::{Error, Failure};
use crate::flight::Flights;

mod cache;

use cache::Cache;

/// Entries of an index without a platform that are opened to find one. Real indexes have at most one of them.
const UNNAMED_OPENED: usize = 4;

/// Bytes that an entry of a cache costs beside its texts, roughly.
const ENTRY_BYTES: usize = 400;

/// What is known of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// What the tag names: the digest of the index, where there is one.
    pub digest: String,
    /// Media type of that.
    pub media_type: String,
    /// What it is.
    pub kind: Kind,
    /// All platforms that it exists for, sorted; of an artifact none.
    pub platforms: Vec<Platform>,
    /// The platform that the following are of. None: it does not exist for the one that was asked for.
    pub platform: Option<Platform>,
    /// Compressed bytes that a node of that platform downloads; of an artifact the bytes of its layers.
    pub size_bytes: Option<u64>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Labels of the configuration.
    pub labels: Texts,
    /// Annotations of the index, overlaid by those of the platform's manifest.
    pub annotations: Texts,
}

/// What a digest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An image of one platform.
    Image,
    /// An image of several platforms.
    Index,
    /// Something that no runtime runs: a chart, a signature, a model.
    Artifact,
    /// An image in Docker's first form, of which only the digest is known.
    Schema1,
}

/// Which of an index's images the facts are of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Choice {
    /// Best the one that this platform runs.
    pub platform: Platform,
    /// Where there is none for it, take the first real image rather than none.
    pub or_first: bool,
}

impl Choice {
    /// The image that `platform` runs, or none.
    #[must_use]
    pub fn only(platform: Platform) -> Self {
        Self {
            platform,
            or_first: false,
        }
    }
}

/// How much is remembered, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// How long a tag is taken to name the same digest; up to a sixth is added, so that not all are asked again at once.
    pub tag_lifetime: Duration,
    /// Bytes for tags, and as much for manifests and configurations.
    pub budget_bytes: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            tag_lifetime: Duration::from_secs(60 * 60),
            budget_bytes: 32 * 1_024 * 1_024,
        }
    }
}

/// The facts that a process knows. It holds no client: callers with other TLS options share it.
pub struct Facts {
    memory: Memory,
    tags: Mutex<Cache<Question, Head>>,
    manifests: Mutex<Cache<String, Arc<Manifest>>>,
    configs: Mutex<Cache<String, Arc<ImageConfig>>>,
    questions: Flights<Question>,
    /// By digest and credentials: content is shared, the right to fetch it is not.
    fetches: Flights<Question>,
}

/// Who asks for what, where.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    repository: Repository,
    target: String,
    credentials: Vec<Credential>,
}

impl Question {
    fn new(repository: &Repository, target: &str, credentials: &[Credential]) -> Self {
        Self {
            repository: repository.clone(),
            target: target.to_owned(),
            credentials: credentials.to_vec(),
        }
    }
}

impl Facts {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(memory: Memory) -> Self {
        let budget = memory.budget_bytes;
        Self {
            memory,
            tags: Mutex::new(Cache::new(budget)),
            manifests: Mutex::new(Cache::new(budget / 2)),
            configs: Mutex::new(Cache::new(budget / 2)),
            questions: Flights::new(),
            fetches: Flights::new(),
        }
    }

    /// What a tag or a digest names: remembered, or one HEAD. For a digest it asks too, once, whether these credentials may
    /// see it.
    pub async fn resolve(
        &self,
        client: &Client,
        repository: &Repository,
        target: &str,
        credentials: &[Credential],
    ) -> Result<Head, Error> {
        let question = Question::new(repository, target, credentials);
        if let Some(head) = lock(&self.tags).get(&question, now()) {
            return Ok(head);
        }
        let _flight = self.questions.enter(question.clone()).await;
        if let Some(head) = lock(&self.tags).get(&question, now()) {
            return Ok(head);
        }
        self.ask(client, question).await
    }

    /// What a tag names now: one HEAD, whatever is remembered.
    pub async fn refresh(
        &self,
        client: &Client,
        repository: &Repository,
        target: &str,
        credentials: &[Credential],
    ) -> Result<Head, Error> {
        self.ask(client, Question::new(repository, target, credentials))
            .await
    }

    /// All facts of what a tag or a digest names.
    pub async fn of(
        &self,
        client: &Client,
        repository: &Repository,
        target: &str,
        choice: &Choice,
        credentials: &[Credential],
    ) -> Result<ImageFacts, Error> {
        let head = self
            .resolve(client, repository, target, credentials)
            .await?;
        self.of_head(client, repository, &head, choice, credentials)
            .await
    }

    /// All facts of what a HEAD told. No request for what is known by digest.
    pub async fn of_head(
        &self,
        client: &Client,
        repository: &Repository,
        head: &Head,
        choice: &Choice,
        credentials: &[Credential],
    ) -> Result<ImageFacts, Error> {
        let source = Source {
            facts: self,
            client,
            repository,
            credentials,
        };
        source.facts_of(head, choice).await
    }

    async fn ask(&self, client: &Client, question: Question) -> Result<Head, Error> {
        let Question {
            repository,
            target,
            credentials,
        } = &question;
        let head = client.head(repository, target, credentials).await?;
        let until = now() + lifetime(self.memory.tag_lifetime, rand::random());
        let bytes = ENTRY_BYTES + target.len() + head.digest.len() + head.media_type.len();
        lock(&self.tags).insert(question, head.clone(), bytes, Some(until), now());
        Ok(head)
    }
}

/// Where facts come from for one caller.
#[derive(Clone, Copy)]
struct Source<'a> {
    facts: &'a Facts,
    client: &'a Client,
    repository: &'a Repository,
    credentials: &'a [Credential],
}

impl Source<'_> {
    async fn facts_of(&self, head: &Head, choice: &Choice) -> Result<ImageFacts, Error> {
        let mut facts = ImageFacts {
            digest: head.digest.clone(),
            media_type: head.media_type.clone(),
            kind: Kind::Schema1,
            platforms: Vec::new(),
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
        for entry in index.unnamed().take(UNNAMED_OPENED) {
            let Some((image, config)) = self.image(entry).await? else {
                continue;
            };
            let Some(built) = &config.platform else {
                continue;
            };
            facts.platforms.push(built.clone());
            if can_run(&choice.platform, built) {
                facts.describe(&image, &config, Some(built.clone()));
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

/// A time from one to seven sixths of `base`. `random` is from 0 to 1.
fn lifetime(base: Duration, random: f64) -> Duration {
    base + (base / 6).mul_f64(random.clamp(0.0, 1.0))
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_were_read_together_are_not_all_read_again_together() {
        let hour = Duration::from_secs(3_600);
        assert_eq!(lifetime(hour, 0.0), hour);
        assert_eq!(lifetime(hour, 1.0), Duration::from_secs(4_200));
        assert_eq!(
            lifetime(hour, f64::NAN.max(2.0)),
            Duration::from_secs(4_200)
        );
    }
}
