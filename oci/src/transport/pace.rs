//! The layer that spares hosts: so many requests at a time, so many a second, and none while a host wants to be left alone.
//!
//! What to do is [`super::host`]'s decision; here are the clock, the waiting and the memory of hosts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use http::{StatusCode, header};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tower::Service;
use url::Url;

use super::host::{Admission, Host, Limits};
use super::{Answer, Request, retry_after};
use crate::error::{Answered, Failure};
use crate::metrics;

/// Hosts remembered before those that are idle are forgotten.
const MANY_HOSTS: usize = 1_024;

/// Hosts with a metric label of their own; those that come later share one.
const LABELLED_HOSTS: usize = 32;

/// What all callers of a process know of the hosts that they ask. Their secrets are not among it.
pub struct Hosts {
    limits: Limits,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    hosts: HashMap<String, Entry>,
    labels: Vec<String>,
}

struct Entry {
    slots: Arc<Semaphore>,
    host: Host,
}

impl Hosts {
    /// Knows no host yet.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            known: Mutex::default(),
        })
    }

    /// Longest pause that a request waits out.
    pub(super) fn patience(&self) -> Duration {
        self.limits.patience
    }

    /// The metric label of a host: its name, or `other` for hosts that came after the first 32.
    pub(super) fn label(&self, name: &str) -> String {
        let labels = &mut self.known().labels;
        if labels.iter().any(|label| label == name) {
            return name.to_owned();
        }
        if labels.len() >= LABELLED_HOSTS {
            return "other".to_owned();
        }
        labels.push(name.to_owned());
        name.to_owned()
    }

    fn slots(&self, name: &str) -> Arc<Semaphore> {
        let now = Instant::now().into_std();
        let concurrency = self.limits.concurrency.max(1);
        let mut known = self.known();
        if known.hosts.len() >= MANY_HOSTS && !known.hosts.contains_key(name) {
            known.hosts.retain(|_, entry| {
                entry.slots.available_permits() < concurrency || !entry.host.is_idle(now)
            });
        }
        let entry = known.hosts.entry(name.to_owned()).or_insert_with(|| Entry {
            slots: Arc::new(Semaphore::new(concurrency)),
            host: Host::default(),
        });
        Arc::clone(&entry.slots)
    }

    fn admit(&self, name: &str) -> Admission {
        let now = Instant::now().into_std();
        self.known()
            .hosts
            .get_mut(name)
            .map_or(Admission::Go, |entry| entry.host.admit(now, &self.limits))
    }

    /// Learns from an answer. Returns the pause that it asks for.
    fn learn(&self, name: &str, answer: &Answer) -> Option<Duration> {
        let asked = answer
            .header(header::RETRY_AFTER.as_str())
            .and_then(|value| retry_after::parse(value, SystemTime::now()));
        let throttles = answer.status == StatusCode::TOO_MANY_REQUESTS
            || (answer.status == StatusCode::SERVICE_UNAVAILABLE && asked.is_some());
        let now = Instant::now().into_std();
        let mut known = self.known();
        let entry = known.hosts.get_mut(name)?;
        if throttles {
            return Some(entry.host.throttled(now, asked));
        }
        entry.host.answered();
        None
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `host`, or `host:port` where the port is not the scheme's own.
pub(crate) fn host_name(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The layer.
#[derive(Clone)]
pub(super) struct Pace<S> {
    inner: S,
    hosts: Arc<Hosts>,
}

impl<S> Pace<S> {
    pub(super) fn new(inner: S, hosts: Arc<Hosts>) -> Self {
        Self { inner, hosts }
    }
}

impl<S> Service<Request> for Pace<S>
where
    S: Service<Request, Response = Answer, Error = Failure> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Answer;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<Answer, Failure>>;

    /// The layers within are always ready; waiting is by host, so it is done when the host is known.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let hosts = Arc::clone(&self.hosts);
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            let name = host_name(&request.url);
            // Given back when this future ends, also when its caller drops it.
            let _slot = hosts.slots(&name).acquire_owned().await;
            loop {
                match hosts.admit(&name) {
                    Admission::Go => break,
                    Admission::Wait(wait) => sleep(wait).await,
                    Admission::Paused(wait) => {
                        return Err(Failure::Throttled { wait, answer: None });
                    }
                }
            }
            let answer = inner.call(request).await?;
            let Some(wait) = hosts.learn(&name, &answer) else {
                return Ok(answer);
            };
            metrics::throttled(&hosts.label(&name));
            tracing::info!(
                host = name,
                seconds = wait.as_secs(),
                "registry asked to be left alone"
            );
            Err(Failure::Throttled {
                wait,
                answer: Some(Answered::new(answer.status, &answer.body)),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_labels_of_hosts_are_bounded() {
        let hosts = Hosts::new(Limits::default());
        let labels: std::collections::BTreeSet<String> = (0..1_000)
            .map(|n| hosts.label(&format!("r{n}.example")))
            .collect();
        assert_eq!(labels.len(), LABELLED_HOSTS + 1);
        assert_eq!(hosts.label("r0.example"), "r0.example");
        assert_eq!(hosts.label("late.example"), "other");
    }

    #[test]
    fn idle_hosts_are_forgotten_and_paused_ones_are_not() {
        let hosts = Hosts::new(Limits::default());
        hosts.slots("paused.example");
        let refusal = Answer {
            status: StatusCode::TOO_MANY_REQUESTS,
            headers: http::HeaderMap::new(),
            body: bytes::Bytes::new(),
        };
        assert!(hosts.learn("paused.example", &refusal).is_some());
        for n in 0..2 * MANY_HOSTS {
            hosts.slots(&format!("r{n}.example"));
        }
        let known = hosts.known();
        assert!(known.hosts.len() <= MANY_HOSTS);
        assert!(known.hosts.contains_key("paused.example"));
    }
}
