//! What images are: one answer for all who ask, fetched once.
//!
//! What a digest names never changes and is remembered by digest, for everybody. What a tag names is remembered by repository,
//! tag **and credentials**, for a time: who may not see an image does not learn its digest from one who may.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::client::config::ImageConfig;
use crate::client::manifest::Texts;
use crate::client::{Client, Head, Manifest, Platform, Repository};
use crate::credential::Credential;
use crate::error::Error;
use crate::flight::Flights;

mod cache;
mod source;

use cache::Cache;
use source::Source;

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
    /// All platforms that it is known to exist for, sorted; of an artifact none.
    pub platforms: Vec<Platform>,
    /// Whether it may exist for others: not every entry of the index tells its platform.
    pub may_have_more: bool,
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

/// A time from one to seven sixths of `base`. `random` is from 0 to 1.
fn lifetime(base: Duration, random: f64) -> Duration {
    base + (base / 6).mul_f64(random.clamp(0.0, 1.0))
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
