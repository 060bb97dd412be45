//! What a registry says: its tags, what a tag names, manifests and configurations. Digests are checked against the bytes.
//!
//! Each question takes the credentials to try, in order; none of them stands for asking as nobody. A credential is tried for
//! what it was given for only, and whatever it opened is remembered under it alone.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use crate::credential::Credential;
use crate::digest;
use crate::error::{Answered, Error, Failure};
use crate::transport::{Answer, Request, Transport};

mod challenge;
pub mod config;
mod known;
mod link;
mod login;
pub mod manifest;
mod platform;
mod repository;
mod tags;
mod token;

pub use manifest::{Manifest, Platform};
pub use platform::{PlatformError, can_run, may_run};
pub use repository::{Repository, RepositoryError, Scheme};
pub use tags::{Stop, TagList};

/// Largest manifest. The specification asks registries to take 4 MiB.
const MANIFEST_BYTES: usize = 4 * 1_024 * 1_024;

/// Largest image configuration.
const CONFIG_BYTES: usize = 4 * 1_024 * 1_024;

/// What is tried if there is no credential.
const NOBODY: &[Credential] = &[Credential::Anonymous];

/// What a tag or a digest names, as far as a HEAD tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Head {
    /// Digest: the index's, where there is one.
    pub digest: String,
    /// Media type; empty if the registry did not say.
    pub media_type: String,
}

/// A manifest whose bytes have the digest that they are known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// What a HEAD would have told.
    pub head: Head,
    /// What it says.
    pub manifest: Manifest,
}

/// Asks registries over one transport. Clones share connections and logins.
#[derive(Clone)]
pub struct Client {
    transport: Transport,
    logins: Arc<login::Logins>,
}

impl Client {
    /// A client without logins so far.
    #[must_use]
    pub fn new(transport: Transport) -> Self {
        Self {
            transport,
            logins: Arc::new(login::Logins::new()),
        }
    }

    /// What a tag or a digest names. One HEAD; a GET as well where the registry's HEAD does not tell.
    pub async fn head(
        &self,
        repository: &Repository,
        target: &str,
        credentials: &[Credential],
    ) -> Result<Head, Error> {
        let ask = |credential| self.head_as(repository, target, credential);
        named(repository, first_accepted(credentials, ask).await)
    }

    /// The manifest that a tag or a digest names.
    pub async fn manifest(
        &self,
        repository: &Repository,
        target: &str,
        credentials: &[Credential],
    ) -> Result<Fetched, Error> {
        let ask = |credential| self.manifest_as(repository, target, credential);
        named(repository, first_accepted(credentials, ask).await)
    }

    /// A configuration, or another small blob, by its digest.
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: &str,
        credentials: &[Credential],
    ) -> Result<Bytes, Error> {
        let ask = |credential| self.blob_as(repository, digest, credential);
        named(repository, first_accepted(credentials, ask).await)
    }

    /// All tags, in the registry's order, which means nothing. At most `most`; the list says if it stopped before the end.
    pub async fn tags(
        &self,
        repository: &Repository,
        most: usize,
        credentials: &[Credential],
    ) -> Result<TagList, Error> {
        let ask = |credential| tags::list(self, repository, most, credential);
        named(repository, first_accepted(credentials, ask).await)
    }

    async fn head_as(
        &self,
        repository: &Repository,
        target: &str,
        credential: &Credential,
    ) -> Result<Head, Failure> {
        let what = describe(target);
        let mut request = Request::head(repository.url("manifests", target), &what);
        accept_manifests(&mut request);
        let answer = self.send(repository, credential, request).await?;
        let is_refused = matches!(
            answer.status,
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
        );
        if !is_refused {
            expect_success(&what, &answer)?;
            if let Some(head) = head_of(target, &answer)? {
                return Ok(head);
            }
        }
        let fetched = self.manifest_as(repository, target, credential).await?;
        Ok(fetched.head)
    }

    async fn manifest_as(
        &self,
        repository: &Repository,
        target: &str,
        credential: &Credential,
    ) -> Result<Fetched, Failure> {
        let what = describe(target);
        let url = repository.url("manifests", target);
        let mut request = Request::get(url, &what, MANIFEST_BYTES);
        accept_manifests(&mut request);
        let answer = self.send(repository, credential, request).await?;
        expect_success(&what, &answer)?;
        let told = head_of(target, &answer)?;
        let media_type = media_type(&answer);
        let manifest = manifest::parse(&media_type, &answer.body).map_err(Failure::Invalid)?;
        if manifest == Manifest::Schema1 {
            // Its digest leaves its signatures out, so that it cannot be told from the bytes.
            let head = told.ok_or_else(|| {
                Failure::Invalid(format!(
                    "{what} is in Docker's first form, and the registry tells no digest"
                ))
            })?;
            return Ok(Fetched { head, manifest });
        }
        let digest = match told {
            Some(told) if digest::fits(&told.digest, &answer.body) => told.digest,
            Some(told) => return Err(mismatch(&what, &told.digest, &answer.body)),
            None => digest::of(&answer.body),
        };
        let head = Head { digest, media_type };
        Ok(Fetched { head, manifest })
    }

    async fn blob_as(
        &self,
        repository: &Repository,
        digest: &str,
        credential: &Credential,
    ) -> Result<Bytes, Failure> {
        if !digest::is_digest(digest) {
            let quoted = crate::error::quote(digest);
            return Err(Failure::Invalid(format!(
                "{quoted:?} is named as a blob, and is no digest"
            )));
        }
        let what = format!("blob {digest}");
        let request = Request::get(repository.url("blobs", digest), &what, CONFIG_BYTES);
        let answer = self.send(repository, credential, request).await?;
        expect_success(&what, &answer)?;
        if digest::fits(digest, &answer.body) {
            return Ok(answer.body);
        }
        Err(mismatch(&what, digest, &answer.body))
    }

    async fn send(
        &self,
        repository: &Repository,
        credential: &Credential,
        request: Request,
    ) -> Result<Answer, Failure> {
        self.logins
            .send(&self.transport, repository, credential, request)
            .await
    }
}

/// Tries one credential after the other while the failure is about credentials. "Not there" counts, since some registries say
/// so to who may not see a repository; it is told in the end rather than the refusal of another credential.
async fn first_accepted<'a, T, F>(
    credentials: &'a [Credential],
    mut ask: impl FnMut(&'a Credential) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let credentials = if credentials.is_empty() {
        NOBODY
    } else {
        credentials
    };
    let mut telling: Option<Failure> = None;
    for credential in credentials {
        match ask(credential).await {
            Err(failure) if failure.is_about_credentials() => {
                if !matches!(telling, Some(Failure::NotFound { .. })) {
                    telling = Some(failure);
                }
            }
            other => return other,
        }
    }
    // The list is not empty, so that something was told.
    Err(telling.unwrap_or_else(|| Failure::Invalid("no credential was tried".to_owned())))
}

fn named<T>(repository: &Repository, outcome: Result<T, Failure>) -> Result<T, Error> {
    outcome.map_err(|failure| Error::new(&repository.host(), repository.name(), failure))
}

fn expect_success(what: &str, answer: &Answer) -> Result<(), Failure> {
    // 206 and the like would be a part of something.
    if answer.status == StatusCode::OK {
        return Ok(());
    }
    let answered = Answered::new(answer.status, &answer.body);
    Err(Failure::of_status(what, answered))
}

/// What the headers tell, or nothing if they tell no digest. For a target that is a digest, that is what it must be.
fn head_of(target: &str, answer: &Answer) -> Result<Option<Head>, Failure> {
    let told = answer
        .header("docker-content-digest")
        .filter(|told| digest::is_digest(told));
    let media_type = media_type(answer);
    let digest = match told {
        Some(told)
            if digest::is_digest(target) && told != target && same_algorithm(told, target) =>
        {
            return Err(Failure::Invalid(format!(
                "the registry answers to {target} with {told}: it is broken, or something between changes its answers"
            )));
        }
        _ if digest::is_digest(target) => target,
        Some(told) => told,
        None => return Ok(None),
    };
    Ok(Some(Head {
        digest: digest.to_owned(),
        media_type,
    }))
}

fn same_algorithm(one: &str, other: &str) -> bool {
    one.split(':').next() == other.split(':').next()
}

fn media_type(answer: &Answer) -> String {
    let value = answer.header(header::CONTENT_TYPE.as_str());
    let essence = value.and_then(|value| value.split(';').next());
    essence.unwrap_or_default().trim().to_ascii_lowercase()
}

fn accept_manifests(request: &mut Request) {
    let accept = HeaderValue::from_static(manifest::ACCEPT);
    request.headers.insert(header::ACCEPT, accept);
}

fn describe(target: &str) -> String {
    if digest::is_digest(target) {
        format!("manifest {target}")
    } else {
        format!("tag {target}")
    }
}

fn mismatch(what: &str, expected: &str, body: &[u8]) -> Failure {
    Failure::Invalid(format!(
        "{what} came with the digest {} instead of {expected}: something between here and the registry changes its answers",
        digest::of(body)
    ))
}
