//! Asks registries what the state machine wants to know.
//!
//! It decides nothing: each question gets one answer, within a time, and what a failure means is the state machine's business.
//! Connections, logins, the pauses that hosts ask for, and the manifests of digests seen before outlive a term.

mod failure;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use drop_oci::client::{Head, Platform, Scheme};
use drop_oci::facts::{Choice, Memory};
use drop_oci::transport::{Limits, Options};
use drop_oci::{Client, Credential, Facts, Hosts, Reference, Repository, Transport};
use tokio::sync::Semaphore;
use tracing::debug;

use crate::image::resolve::{About, Question, ResolveFailed, Resolved};
use failure::{invalid, not_told, too_slow};

/// Questions under way at a time, over all hosts. The state machine bounds those of one host.
const AT_ONCE: usize = 64;
/// Requests under way to one host at a time.
const PER_HOST: usize = 16;
/// A node that waits for the answer could have pulled meanwhile.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// For manifests and configurations of digests seen before.
const MEMORY_BYTES: usize = 8 * 1024 * 1024;

/// The registries, as the coordinator reaches them.
pub struct Registries {
    client: Client,
    facts: Facts,
    plain_hosts: BTreeSet<String>,
    slots: Semaphore,
}

impl Registries {
    /// Trusts the authorities in `ca_file` (PEM) in addition to the system's, and speaks plain HTTP with `plain_hosts`.
    pub fn new(ca_file: Option<&Path>, plain_hosts: &[String]) -> anyhow::Result<Arc<Self>> {
        let ca_bundle = ca_file
            .map(|file| {
                std::fs::read(file)
                    .with_context(|| format!("--registry-ca-file {}", file.display()))
            })
            .transpose()?;
        let options = Options {
            ca_bundle,
            connect_timeout: CONNECT_TIMEOUT,
            timeout: ATTEMPT_TIMEOUT,
            user_agent: concat!("drop-coordinator/", env!("CARGO_PKG_VERSION")).to_owned(),
            ..Options::default()
        };
        let limits = Limits {
            concurrency: PER_HOST,
            ..Limits::default()
        };
        let transport =
            Transport::new(&options, Hosts::new(limits)).context("--registry-ca-file")?;
        Ok(Arc::new(Self {
            client: Client::new(transport),
            facts: Facts::new(Memory {
                budget_bytes: MEMORY_BYTES,
                ..Memory::default()
            }),
            plain_hosts: plain_hosts.iter().cloned().collect(),
            slots: Semaphore::new(AT_ONCE),
        }))
    }

    /// Answers a question.
    pub async fn ask(&self, question: Question) -> (u64, Result<Resolved, ResolveFailed>) {
        // It is never closed; without a slot the question would only be asked a little early.
        let _slot = self.slots.acquire().await;
        let number = question.number;
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
        (number, result)
    }

    async fn answer(&self, question: Question) -> Result<Resolved, ResolveFailed> {
        let reference: Reference = question
            .reference
            .parse()
            .map_err(|error| invalid(&error))?;
        let reference = reference.or_latest();
        let scheme = self.scheme(reference.host());
        let repository = Repository::of(&reference, scheme).map_err(|error| invalid(&error))?;
        let mut credentials = question.logins.0;
        credentials.push(Credential::Anonymous);
        let told = match question.about {
            About::Tag => {
                let tag = reference.tag().unwrap_or("latest");
                let head = self.client.head(&repository, tag, &credentials).await;
                head.map(|head| Resolved {
                    digest: head.digest,
                    ..Resolved::default()
                })
            }
            About::Contents { digest, platforms } => {
                self.contents(&repository, digest, platforms, &credentials)
                    .await
            }
        };
        told.map_err(|error| not_told(&error, reference.host()))
    }

    async fn contents(
        &self,
        repository: &Repository,
        digest: String,
        platforms: BTreeSet<String>,
        credentials: &[Credential],
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
            let size = self.size(repository, &head, &platform, credentials).await?;
            resolved.sizes.insert(platform, size);
        }
        Ok(resolved)
    }

    /// Compressed bytes of what a node of the platform would pull: 0 if that cannot be told, nothing if there is no image for it.
    async fn size(
        &self,
        repository: &Repository,
        head: &Head,
        platform: &str,
        credentials: &[Credential],
    ) -> Result<Option<u64>, drop_oci::Error> {
        let Ok(platform) = platform.parse::<Platform>() else {
            return Ok(Some(0));
        };
        for platform in runs(platform) {
            let choice = Choice::only(platform);
            let facts = &self.facts;
            let facts = facts
                .of_head(&self.client, repository, head, &choice, credentials)
                .await?;
            if facts.size_bytes.is_some() {
                return Ok(facts.size_bytes);
            }
            // An image in Docker's first form, or an index that names no platform: only a pull tells.
            if facts.platforms.is_empty() {
                return Ok(Some(0));
            }
        }
        Ok(None)
    }

    /// Plain HTTP only on the machine itself, as containerd does it, and where somebody asked for it.
    fn scheme(&self, host: &str) -> Scheme {
        if is_loopback(host) || self.plain_hosts.contains(host) {
            Scheme::PlainHttp
        } else {
            Scheme::Https
        }
    }
}

/// What a node of the platform runs, best first: as containerd has it, also what its processor's predecessors ran.
fn runs(platform: Platform) -> Vec<Platform> {
    let predecessor = match platform.architecture.as_str() {
        "amd64" => Some("386"),
        "arm64" => Some("arm"),
        _ => None,
    };
    let older = predecessor.map(|architecture| Platform {
        architecture: architecture.to_owned(),
        variant: (architecture == "arm").then(|| "v8".to_owned()),
        ..platform.clone()
    });
    [Some(platform), older].into_iter().flatten().collect()
}

fn is_loopback(host: &str) -> bool {
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = without_port.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn host_of(reference: &str) -> String {
    reference.parse::<Reference>().map_or_else(
        |_| "the registry".to_owned(),
        |reference| reference.host().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_spoken_on_the_machine_itself_and_where_asked_for() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "[::1]:5000",
            "[::1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "r.io",
            "10.0.0.1:5000",
            "localhost.evil.io",
            "localhost.evil.io:80",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn nodes_run_what_their_processors_predecessors_ran() {
        let names = |platform: &str| -> Vec<String> {
            let all = runs(platform.parse().unwrap());
            all.iter().map(ToString::to_string).collect()
        };
        assert_eq!(names("linux/amd64"), ["linux/amd64", "linux/386"]);
        assert_eq!(names("linux/arm64"), ["linux/arm64", "linux/arm/v8"]);
        assert_eq!(names("linux/s390x"), ["linux/s390x"]);
    }
}
