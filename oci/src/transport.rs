//! Requests to registries, at a pace that they bear: one stack of layers for each set of TLS options, one memory of hosts for all.
//!
//! From the outside in: [`retry`] what may pass by itself, [`pace`] by host, [`count`] each attempt, [`send`] it. The layers
//! know HTTP and nothing of images; credentials are headers to them.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};
use url::Url;

use crate::error::Failure;

mod count;
mod host;
mod options;
mod pace;
mod redirect;
mod retry;
mod retry_after;
mod send;

pub use host::Limits;
pub use options::{Options, OptionsError};
pub use pace::Hosts;
pub(crate) use pace::host_name;

/// What to ask. It has no `Debug`: its headers and its form hold credentials.
#[derive(Clone)]
pub struct Request {
    /// GET, HEAD, or POST to a token server. All may be sent twice.
    pub method: Method,
    /// Where.
    pub url: Url,
    /// What goes with it.
    pub headers: HeaderMap,
    /// The body of a POST, already URL-encoded.
    pub form: Option<Bytes>,
    /// What is asked for, for errors.
    pub what: String,
    /// Most that is read of a good answer.
    pub limit_bytes: usize,
}

impl Request {
    /// A GET without further headers.
    #[must_use]
    pub fn get(url: Url, what: &str, limit_bytes: usize) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            form: None,
            what: what.to_owned(),
            limit_bytes,
        }
    }

    /// A HEAD without further headers.
    #[must_use]
    pub fn head(url: Url, what: &str) -> Self {
        Self {
            method: Method::HEAD,
            ..Self::get(url, what, 0)
        }
    }
}

/// What came back, whatever its status, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body; of answers other than 2xx only the beginning.
    pub body: Bytes,
}

impl Answer {
    /// The value of a header if it is there and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The whole stack. Clones share connections.
#[derive(Clone)]
pub struct Transport {
    service: BoxCloneSyncService<Request, Answer, Failure>,
}

impl Transport {
    /// Builds the stack. `hosts` is shared by all transports of a process, so that a host is spared by all of them.
    pub fn new(options: &Options, hosts: Arc<Hosts>) -> Result<Self, OptionsError> {
        let send = send::Send::new(options)?;
        let count = count::Count::new(send, Arc::clone(&hosts));
        let retries = retry::Retries::new(hosts.patience());
        let pace = pace::Pace::new(count, hosts);
        let service = tower::retry::Retry::new(retries, pace);
        Ok(Self {
            service: BoxCloneSyncService::new(service),
        })
    }

    /// Sends a request and reads the answer. Errors: no complete answer, or a host that wants to be left alone.
    pub async fn send(&self, request: Request) -> Result<Answer, Failure> {
        self.service.clone().ready().await?.call(request).await
    }
}
