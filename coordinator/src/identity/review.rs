//! Asks the API server whose a token is. What the answer means is `token`'s business.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::{Semaphore, watch};
use tracing::{info, warn};

use crate::identity::token::{
    AUDIENCE, Denial, Fingerprint, Holder, Memory, Token, Verdict, judge,
};
use crate::identity::{Standing, set};

/// More tokens than a large cluster has nodes.
const MEMORY: usize = 16_384;
/// Questions to the API server at once: a whole cluster may come back in one moment.
const AT_ONCE: usize = 32;
/// An API server that takes longer is away.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Wait before the right to review tokens is looked for again.
const RETRY: Duration = Duration::from_secs(5);

/// Why nothing is known of a token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token opens no session.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// The API server refused the question.
    #[error("cannot {verb} {resource}: {source}")]
    Request {
        /// As RBAC names it.
        verb: &'static str,
        /// As RBAC names it.
        resource: &'static str,
        /// The API server's words.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("the API server does not answer")]
    Silent,
}

impl Error {
    /// One word for logs and metrics.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Denied(denial) => denial.class(),
            Self::Request { .. } | Self::Silent => "token_unchecked",
        }
    }
}

/// Reviews tokens of agents.
pub struct Reviewer {
    reviews: Api<TokenReview>,
    pods: Api<Pod>,
    account: String,
    memory: Mutex<Memory>,
    room: Semaphore,
    begin: Instant,
    standing: Arc<watch::Sender<Standing>>,
}

impl Reviewer {
    /// For agents that are `account`, in pods of `namespace`.
    #[must_use]
    pub fn new(
        client: &Client,
        namespace: &str,
        account: &str,
        standing: Arc<watch::Sender<Standing>>,
    ) -> Self {
        Self {
            reviews: Api::all(client.clone()),
            pods: Api::namespaced(client.clone(), namespace),
            account: account.to_owned(),
            memory: Mutex::new(Memory::new(MEMORY)),
            room: Semaphore::new(AT_ONCE),
            begin: Instant::now(),
            standing,
        }
    }

    /// The node of a token. A token that was seen a moment ago costs no request.
    pub async fn node_of(&self, token: &Token) -> Result<String, Error> {
        let name = fingerprint(token);
        let recalled = self.memory().recall(self.begin.elapsed(), &name);
        match recalled {
            Some(verdict) => Ok(verdict?),
            None => self.review(token).await,
        }
    }

    /// The node of a token as of now.
    pub async fn review(&self, token: &Token) -> Result<String, Error> {
        // Never closed. Waiting here says nothing about the API server: while a whole cluster comes back, it is the queue that is
        // long, and who cannot wait goes away by itself.
        let room = self.room.acquire().await;
        let verdict = tokio::time::timeout(TIMEOUT, self.ask(token))
            .await
            .unwrap_or(Err(Error::Silent))?;
        drop(room);
        let now = self.begin.elapsed();
        self.memory().keep(now, fingerprint(token), verdict.clone());
        Ok(verdict?)
    }

    /// Looks for the right to review tokens whenever it is not known to be there: without it no agent could connect, and
    /// nobody would see why.
    pub async fn find_right(self: Arc<Self>) -> anyhow::Result<()> {
        let nobody = Token("nobody".to_owned());
        let mut standing = self.standing.subscribe();
        loop {
            // The sender lives as long as `self`.
            let _ = standing
                .wait_for(|standing| standing.reviews.is_err())
                .await;
            let found = tokio::time::timeout(TIMEOUT, self.ask_review(&nobody)).await;
            if let Err(error) = found.unwrap_or(Err(Error::Silent)) {
                self.tell(&error);
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn ask(&self, token: &Token) -> Result<Verdict, Error> {
        let status = self
            .ask_review(token)
            .await
            .inspect_err(|error| self.tell(error))?;
        match judge(&status, &self.account) {
            Ok(Holder::Node(node)) => Ok(Ok(node)),
            Ok(Holder::Pod { name, uid }) => self.node_of_pod(&name, &uid).await,
            Err(denial) => Ok(Err(denial)),
        }
    }

    async fn ask_review(&self, token: &Token) -> Result<TokenReviewStatus, Error> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                token: Some(token.0.clone()),
            },
            ..TokenReview::default()
        };
        let answered = self.reviews.create(&PostParams::default(), &review).await;
        let review = answered.map_err(|source| Error::Request {
            verb: "create",
            resource: "tokenreviews.authentication.k8s.io",
            source: Box::new(source),
        })?;
        if set(&self.standing, |s| &mut s.reviews, &Ok(())) {
            info!("tokens can be reviewed");
        }
        Ok(review.status.unwrap_or_default())
    }

    /// For API servers that do not put the node into tokens of pods (before 1.32).
    async fn node_of_pod(&self, name: &str, uid: &str) -> Result<Verdict, Error> {
        let pod = self.pods.get_opt(name).await;
        let pod = pod.map_err(|source| Error::Request {
            verb: "get",
            resource: "pods",
            source: Box::new(source),
        })?;
        let node = pod
            .filter(|pod| pod.metadata.uid.as_deref() == Some(uid))
            .and_then(|pod| pod.spec?.node_name);
        Ok(node.ok_or_else(|| Denial::NoNode(name.to_owned())))
    }

    fn tell(&self, error: &Error) {
        let text = error.to_string();
        if set(&self.standing, |s| &mut s.reviews, &Err(text.clone())) {
            warn!(
                error = text,
                "tokens cannot be reviewed: no agent can connect, will retry"
            );
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fingerprint(token: &Token) -> Fingerprint {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.0.as_bytes());
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(digest.as_ref());
    fingerprint
}
