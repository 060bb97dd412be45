//! The layer that counts each attempt, by host, method and status.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tokio::time::Instant;
use tower::Service;

use super::pace::host_name;
use super::{Answer, Hosts, Request};
use crate::error::Failure;
use crate::metrics;

#[derive(Clone)]
pub(super) struct Count<S> {
    inner: S,
    hosts: Arc<Hosts>,
}

impl<S> Count<S> {
    pub(super) fn new(inner: S, hosts: Arc<Hosts>) -> Self {
        Self { inner, hosts }
    }
}

impl<S> Service<Request> for Count<S>
where
    S: Service<Request, Response = Answer, Error = Failure>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<Answer, Failure>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let host = self.hosts.label(&host_name(&request.url));
        let method = request.method.clone();
        let began = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let status = answer.as_ref().ok().map(|answer| answer.status);
            metrics::answered(&host, &method, status, began.elapsed());
            answer
        })
    }
}
