//! Plain HTTP to loopback, one connection a request: enough for registries, probes and scrapes.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than any answer from loopback takes, short enough that a hung part fails its test and not the whole run.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// Headers.
    pub headers: header::HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a header, empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Itself when its status is 2xx, else an error with the body.
    pub fn success(self) -> Result<Self> {
        ensure!(self.status.is_success(), "{}: {}", self.status, self.text());
        Ok(self)
    }
}

/// GET.
pub async fn get(url: &str) -> Result<Answer> {
    send(Method::GET, url, &[], Bytes::new()).await
}

/// Any request, answered in full.
pub async fn send(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Answer> {
    let uri: Uri = url.parse().with_context(|| format!("parse {url}"))?;
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body)).context("build a request")?;
    let exchange = async {
        let (parts, body) = open(request).await?.into_parts();
        let body = body.collect().await.context("read the answer")?.to_bytes();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    };
    timeout(PATIENCE, exchange)
        .await
        .with_context(|| format!("{url}: no answer in {PATIENCE:?}"))?
}

/// Sends `request` (with an absolute URI) and gives the answer as soon as its headers are here.
pub async fn open(request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
    let (mut head, body) = request.into_parts();
    let authority = head
        .uri
        .authority()
        .cloned()
        .ok_or_else(|| anyhow!("{} names no host", head.uri))?;
    let stream = TcpStream::connect(authority.as_str())
        .await
        .with_context(|| format!("connect to {authority}"))?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .context("HTTP handshake")?;
    // The connection ends with its one answer; its error shows where the body is read.
    tokio::spawn(connection);
    let path = head
        .uri
        .path_and_query()
        .map_or("/", PathAndQuery::as_str)
        .to_owned();
    head.uri = path.parse().context("parse a path")?;
    head.headers.insert(
        header::HOST,
        authority.as_str().parse().context("parse a host")?,
    );
    sender
        .send_request(Request::from_parts(head, body))
        .await
        .context("send a request")
}
