//! Asks registries what tags name: one HEAD for each image, and a registry that does not answer only once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use drop_oci::client::{RepositoryError, Scheme};
use drop_oci::keychain::KeychainError;
use drop_oci::keychain::helpers::DockerConfig;
use drop_oci::transport::{self, Options, OptionsError};
use drop_oci::{Client, Failure, Hosts, Reference, Repository, Transport};
use futures::StreamExt as _;
use futures::stream;

use crate::sync::Answer;

/// Registries that are asked at the same time.
const HOSTS_AT_ONCE: usize = 8;

/// Images of one registry that are asked about at the same time, once its first answer has come.
const IMAGES_AT_ONCE: usize = 8;

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// docker's config.json with the logins. A missing one has none.
    pub docker_config: Option<PathBuf>,
    /// Hosts without TLS.
    pub plain_http: BTreeSet<String>,
    /// Certificates of more authorities.
    pub ca_file: Option<PathBuf>,
}

/// Why no registry could be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A docker configuration that cannot be understood.
    #[error("{} {source}", path.display())]
    Logins {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KeychainError,
    },
    /// Certificates that cannot be used, or a machine without any.
    #[error(transparent)]
    Options(#[from] OptionsError),
}

impl Error {
    /// One word for it.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Logins { .. } => "logins",
            Self::Options(_) => "options",
        }
    }
}

/// What the registries said.
#[derive(Debug, Default)]
pub struct Answers {
    /// By image.
    pub images: BTreeMap<Reference, Answer>,
    /// Registries that could not be asked, and why; helpers that gave no login.
    pub problems: Vec<String>,
}

/// Asks about all images, each once.
pub async fn ask(images: BTreeSet<Reference>, access: &Access) -> Result<Answers, Error> {
    let mut options = Options::default();
    if let Some(path) = &access.ca_file {
        options.ca_bundle = Some(read(path)?);
    }
    let hosts = Hosts::new(transport::Limits::default());
    let asker = Asker {
        client: Client::new(Transport::new(&options, hosts)?),
        logins: logins(access)?,
        plain_http: &access.plain_http,
    };
    let mut by_host: BTreeMap<String, Vec<Reference>> = BTreeMap::new();
    for image in images {
        by_host
            .entry(image.host().to_owned())
            .or_default()
            .push(image);
    }
    let mut answers = Answers::default();
    let mut asked = stream::iter(by_host)
        .map(|(host, images)| asker.host(host, images))
        .buffer_unordered(HOSTS_AT_ONCE);
    while let Some(of_host) = asked.next().await {
        answers.images.extend(of_host.images);
        answers.problems.extend(of_host.problems);
    }
    answers.problems.sort();
    Ok(answers)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

fn logins(access: &Access) -> Result<Option<DockerConfig>, Error> {
    let Some(path) = access.docker_config.as_ref().filter(|path| path.exists()) else {
        return Ok(None);
    };
    DockerConfig::parse(&read(path)?)
        .map(Some)
        .map_err(|source| Error::Logins {
            path: path.clone(),
            source,
        })
}

struct Asker<'a> {
    client: Client,
    logins: Option<DockerConfig>,
    plain_http: &'a BTreeSet<String>,
}

/// The answer about one image, and what its helper complained of.
struct One {
    image: Reference,
    answer: Result<Answer, Failure>,
    complaint: Option<String>,
}

impl Asker<'_> {
    /// The first image alone shows whether the registry answers; if not, nobody waits for it again.
    async fn host(&self, host: String, images: Vec<Reference>) -> Answers {
        let mut answers = Answers::default();
        let total = images.len();
        let mut failure: Option<Failure> = None;
        let mut images = images.into_iter();
        if let Some(first) = images.next() {
            note(&mut answers, &mut failure, self.one(first).await);
        }
        // A chunk at a time, so that a registry that begins to fail is soon left alone.
        let rest: Vec<Reference> = images.collect();
        for chunk in rest.chunks(IMAGES_AT_ONCE) {
            if failure.is_some() {
                let silent = chunk.iter().map(|image| (image.clone(), Answer::Silent));
                answers.images.extend(silent);
                continue;
            }
            let asked = chunk.iter().map(|image| self.one(image.clone()));
            for one in futures::future::join_all(asked).await {
                note(&mut answers, &mut failure, one);
            }
        }
        if let Some(failure) = failure {
            let silent = answers.images.values();
            let count = silent.filter(|answer| **answer == Answer::Silent).count();
            let noun = if total == 1 { "image" } else { "images" };
            answers.problems.push(format!(
                "{host}: {failure}; {count} of {total} {noun} keep what is known"
            ));
        }
        answers
    }

    async fn one(&self, image: Reference) -> One {
        let (credentials, complaint) = match &self.logins {
            Some(logins) => logins.lookup(&image).await,
            None => (Vec::new(), None),
        };
        One {
            answer: self.head(&image, &credentials).await,
            complaint: complaint.map(|error| format!("{}: {error}", image.host())),
            image,
        }
    }

    async fn head(
        &self,
        image: &Reference,
        credentials: &[drop_oci::Credential],
    ) -> Result<Answer, Failure> {
        let scheme = if self.plain_http.contains(image.host()) {
            Scheme::PlainHttp
        } else {
            Scheme::Https
        };
        let invalid = |error: RepositoryError| Failure::Invalid(error.to_string());
        let repository = Repository::of(image, scheme).map_err(invalid)?;
        let target = image.tag().unwrap_or_default();
        match self.client.head(&repository, target, credentials).await {
            Ok(head) => Ok(Answer::Digest(head.digest)),
            Err(error) => match error.failure() {
                failure if is_about_host(failure) => Err(failure.clone()),
                Failure::NotFound { .. } => Ok(Answer::NotFound {
                    message: error.to_string(),
                }),
                failure => Ok(Answer::Refused {
                    class: failure.class(),
                    message: error.to_string(),
                }),
            },
        }
    }
}

fn note(answers: &mut Answers, failed: &mut Option<Failure>, one: One) {
    if let Some(complaint) = one.complaint
        && !answers.problems.contains(&complaint)
    {
        answers.problems.push(complaint);
    }
    let answer = one.answer.unwrap_or_else(|failure| {
        failed.get_or_insert(failure);
        Answer::Silent
    });
    answers.images.insert(one.image, answer);
}

/// Whether the next image would meet the same failure.
fn is_about_host(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::Throttled { .. }
            | Failure::Server(_)
            | Failure::Connection(_)
            | Failure::Dns(_)
            | Failure::Tls(_)
            | Failure::Timeout(_)
    )
}
