//! The innermost layer: one request on the wire, its answer read to the end, within a time and a size.

use std::error::Error as StdError;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{Method, header};
use reqwest::ClientBuilder;
use reqwest::redirect::Policy;
use tokio::time::timeout;
use tower::Service;

use super::options::chain;
use super::{Answer, Options, OptionsError, Request};
use crate::error::{Failure, quote};

/// What is read of an answer that is an error.
const ERROR_BYTES: usize = 16 * 1_024;

#[derive(Clone)]
pub(super) struct Send {
    client: reqwest::Client,
    /// For forms, which hold credentials that no redirect may take elsewhere.
    form_client: reqwest::Client,
    timeout: Duration,
    connect_timeout: Duration,
}

impl Send {
    pub(super) fn new(options: &Options) -> Result<Self, OptionsError> {
        let build = |builder: ClientBuilder| {
            let client = builder.build();
            client.map_err(|error| OptionsError::Client(chain(&error)))
        };
        Ok(Self {
            client: build(options.client()?)?,
            form_client: build(options.client()?.redirect(Policy::none()))?,
            timeout: options.timeout,
            connect_timeout: options.connect_timeout,
        })
    }
}

impl Service<Request> for Send {
    type Response = Answer;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<Answer, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let sender = self.clone();
        Box::pin(async move {
            timeout(sender.timeout, sender.exchange(request))
                .await
                .unwrap_or(Err(Failure::Timeout(sender.timeout)))
        })
    }
}

impl Send {
    async fn exchange(&self, request: Request) -> Result<Answer, Failure> {
        let is_head = request.method == Method::HEAD;
        let client = match request.form {
            Some(_) => &self.form_client,
            None => &self.client,
        };
        let mut builder = client
            .request(request.method, request.url)
            .headers(request.headers);
        if let Some(form) = request.form {
            builder = builder
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form);
        }
        let response = builder.send().await;
        let mut response = response.map_err(|error| self.failure(error))?;
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        if is_head {
            return Ok(Answer {
                status,
                headers,
                body: Bytes::new(),
            });
        }
        let is_good = status.is_success();
        let limit_bytes = if is_good {
            request.limit_bytes
        } else {
            ERROR_BYTES
        };
        let (body, is_whole) = self.read(&mut response, limit_bytes).await?;
        if is_good && !is_whole {
            return Err(Failure::TooLarge {
                what: request.what,
                limit_bytes,
            });
        }
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    /// A body up to a limit, and whether that is all of it.
    async fn read(
        &self,
        response: &mut reqwest::Response,
        limit_bytes: usize,
    ) -> Result<(Bytes, bool), Failure> {
        let mut body = BytesMut::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.failure(error))?
        {
            let room = limit_bytes - body.len();
            if chunk.len() > room {
                body.extend_from_slice(&chunk[..room]);
                return Ok((body.freeze(), false));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((body.freeze(), true))
    }

    /// Says what failed, without the URL: its query may be a secret.
    fn failure(&self, error: reqwest::Error) -> Failure {
        let error = error.without_url();
        if error.is_timeout() {
            return Failure::Timeout(self.connect_timeout);
        }
        let causes = causes(&error);
        if error.is_redirect() {
            return Failure::Refused(causes.last().cloned().unwrap_or_default());
        }
        if let Some(tls) = find_tls(&error) {
            return Failure::Tls(quote(&tls.to_string()));
        }
        let text = quote(&causes.join(": "));
        // HTTP/2 passes on what the other side says of the TLS handshake as text alone.
        if text.contains("fatal alert") {
            return Failure::Tls(text);
        }
        if causes.iter().any(|cause| cause.starts_with("dns error")) {
            return Failure::Dns(text);
        }
        Failure::Connection(text)
    }
}

/// The error's own text says only "error sending request"; what follows says why.
fn causes(error: &reqwest::Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if causes.last() != Some(&text) {
            causes.push(text);
        }
        source = cause.source();
    }
    if causes.is_empty() {
        causes.push(error.to_string());
    }
    causes
}

/// What rustls found wrong.
fn find_tls(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(found) = unwrap_tls(cause) {
            return Some(found);
        }
        source = cause.source();
    }
    None
}

/// It travels inside of I/O errors, sometimes of two, which do not show it as their source.
fn unwrap_tls<'a>(mut error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    while let Some(inner) = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
    {
        error = inner;
    }
    error.downcast_ref()
}
