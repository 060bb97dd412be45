//! Asks registries what the state machine wants to know.
//!
//! It decides nothing: each question gets one answer, within a time, and what a failure means is the state machine's business.
//! Connections, logins, the pauses that hosts ask for, and the manifests of digests seen before outlive a term.

mod failure;
mod hosts;
mod trust;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use drop_oci::client::{Head, Platform, may_run};
use drop_oci::facts::{Choice, Memory};
use drop_oci::{Client, Credential, Facts, Reference, Repository};
use tokio::sync::{Semaphore, watch};
use tracing::debug;

use crate::image::resolve::{About, Question, ResolveFailed, Resolved};
pub use failure::{broken_off, not_asked};
use failure::{invalid, not_told, own_machine, too_slow};
use hosts::PlainHosts;
pub use trust::Authorities;

/// Questions under way at a time, over all hosts. The state machine bounds those of one host.
const AT_ONCE: usize = 64;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// For manifests and configurations of digests seen before.
const MEMORY_BYTES: usize = 8 * 1024 * 1024;

/// The registries, as the coordinator reaches them.
pub struct Registries {
    client: watch::Sender<Client>,
    facts: Facts,
    plain_hosts: PlainHosts,
    slots: Semaphore,
}

impl Registries {
    /// Trusts these authorities, and speaks plain HTTP with `plain_hosts`, which are the only loopback hosts that it asks.
    pub fn new(authorities: &Authorities, plain_hosts: &[String]) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            client: watch::Sender::new(authorities.client()?),
            facts: Facts::new(Memory {
                budget_bytes: MEMORY_BYTES,
                ..Memory::default()
            }),
            plain_hosts: PlainHosts::new(plain_hosts),
            slots: Semaphore::new(AT_ONCE),
        }))
    }

    /// Trusts whom the authorities' file names now, for ever.
    pub async fn follow(self: Arc<Self>, authorities: Authorities) -> anyhow::Result<()> {
        authorities.follow(&self.client).await
    }

    /// Answers a question.
    pub async fn ask(&self, question: Question) -> Result<Resolved, ResolveFailed> {
        // It is never closed; without a slot the question would only be asked a little early.
        let _slot = self.slots.acquire().await;
        let reference = question.reference.clone();
        let host = host_of(&reference);
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.answer(question));
        let result = answer.await.unwrap_or_else(|_| Err(too_slow(&host)));
        match &result {
            Ok(resolved) => debug!(reference, digest = resolved.digest, "registry answered"),
            Err(failed) => debug!(
                reference,
                class = failed.class.class(),
                reason = failed.message,
                "registry did not tell"
            ),
        }
        result
    }

    async fn answer(&self, question: Question) -> Result<Resolved, ResolveFailed> {
        let reference: Reference = question
            .reference
            .parse()
            .map_err(|error| invalid(&error))?;
        let reference = reference.or_latest();
        let host = reference.host();
        let scheme = self.plain_hosts.scheme(host);
        let scheme = scheme.ok_or_else(|| own_machine(host))?;
        let repository = Repository::of(&reference, scheme).map_err(|error| invalid(&error))?;
        let mut credentials = question.logins.0;
        credentials.push(Credential::Anonymous);
        let client = self.client.borrow().clone();
        let told = match question.about {
            About::Tag => {
                let tag = reference.tag().unwrap_or("latest");
                let head = client.head(&repository, tag, &credentials).await;
                head.map(|head| Resolved {
                    digest: head.digest,
                    ..Resolved::default()
                })
            }
            About::Contents { digest, platforms } => {
                let source = Source {
                    client: &client,
                    facts: &self.facts,
                    repository: &repository,
                    credentials: &credentials,
                };
                source.contents(digest, platforms).await
            }
        };
        told.map_err(|error| not_told(&error, host))
    }
}

/// Where an image is read, and as whom.
struct Source<'a> {
    client: &'a Client,
    facts: &'a Facts,
    repository: &'a Repository,
    credentials: &'a [Credential],
}

impl Source<'_> {
    async fn contents(
        &self,
        digest: String,
        platforms: BTreeSet<String>,
    ) -> Result<Resolved, drop_oci::Error> {
        let head = Head {
            digest,
            media_type: String::new(),
        };
        let mut resolved = Resolved {
            digest: head.digest.clone(),
            ..Resolved::default()
        };
        for platform in platforms {
            let size = self.size(&head, &platform).await?;
            resolved.sizes.insert(platform, size);
        }
        Ok(resolved)
    }

    /// Compressed bytes of what a node of the platform would pull: 0 if that cannot be told, nothing if there is no image that a
    /// runtime would take.
    async fn size(&self, head: &Head, platform: &str) -> Result<Option<u64>, drop_oci::Error> {
        let Ok(node) = platform.parse::<Platform>() else {
            return Ok(Some(0));
        };
        let mut may_fit = false;
        for platform in [Some(node.clone()), node.predecessor()]
            .into_iter()
            .flatten()
        {
            let choice = Choice::only(platform);
            let asked = self.facts.of_head(
                self.client,
                self.repository,
                head,
                &choice,
                self.credentials,
            );
            let facts = asked.await?;
            if facts.size_bytes.is_some() {
                return Ok(facts.size_bytes);
            }
            let mut platforms = facts.platforms.iter();
            // Docker's first form, and some indexes, name no platform: only a pull tells.
            may_fit = facts.may_have_more
                || facts.platforms.is_empty()
                || platforms.any(|built| may_run(&node, built));
        }
        Ok(may_fit.then_some(0))
    }
}

fn host_of(reference: &str) -> String {
    reference.parse::<Reference>().map_or_else(
        |_| "the registry".to_owned(),
        |reference| reference.host().to_owned(),
    )
}
