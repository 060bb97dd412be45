//! A registry that answers what a test wrote: for what real registries cannot be made to do.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A running scripted registry. Dropped: it refuses connections.
pub struct ScriptedRegistry {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    server: JoinHandle<()>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `GET`, `HEAD`, `POST`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The host that was asked for.
    pub host: String,
    /// The `Authorization` header, empty if there is none.
    pub proof: String,
    /// The body.
    pub form: String,
    /// How many requests with the same method and path came before.
    pub before: usize,
}

impl Asked {
    /// `GET /v2/app/tags/list`.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Script,
}

#[derive(Clone, Debug)]
enum Script {
    Whole(Bytes),
    /// The same bytes, again and again.
    Endless(Bytes),
    /// The same bytes, again and again, each a while after the other.
    Dripping(Bytes),
    /// The beginning, and then silence.
    Stalled(Bytes),
    /// The beginning, and then the connection breaks.
    Cut(Bytes),
}

impl Reply {
    /// 200 with a body.
    #[must_use]
    pub fn ok(body: impl Into<Bytes>) -> Self {
        Self::status(200, body)
    }

    /// Any status with a body.
    #[must_use]
    pub fn status(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Script::Whole(body.into()),
        }
    }

    /// Bytes without end.
    #[must_use]
    pub fn endless(bytes: impl Into<Bytes>) -> Self {
        Self {
            body: Script::Endless(bytes.into()),
            ..Self::ok("")
        }
    }

    /// Bytes without end, ten times a second.
    #[must_use]
    pub fn dripping(bytes: impl Into<Bytes>) -> Self {
        Self {
            body: Script::Dripping(bytes.into()),
            ..Self::ok("")
        }
    }

    /// The beginning of a body, after which nothing comes.
    #[must_use]
    pub fn stalled(bytes: impl Into<Bytes>) -> Self {
        Self {
            body: Script::Stalled(bytes.into()),
            ..Self::ok("")
        }
    }

    /// The beginning of a body, after which the connection breaks.
    #[must_use]
    pub fn cut(bytes: impl Into<Bytes>) -> Self {
        Self {
            body: Script::Cut(bytes.into()),
            ..Self::ok("")
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl ScriptedRegistry {
    /// Starts one. The script answers every request but the ping of the API, which says that no login is wanted, unless the
    /// script has an answer for `GET /v2/` that is no 404.
    pub async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let server = tokio::spawn(serve(listener, Arc::new(script), Arc::clone(&asked)));
        Ok(Self {
            port,
            asked,
            server,
        })
    }

    /// `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// All requests so far, without pings.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked
            .iter()
            .filter(|asked| asked.line() != "GET /v2/")
            .cloned()
            .collect()
    }

    /// The same as `GET /v2/app/tags/list` and the like.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.asked().iter().map(Asked::line).collect()
    }
}

impl Drop for ScriptedRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

type Body = UnsyncBoxBody<Bytes, io::Error>;
type SharedScript = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

async fn serve(listener: TcpListener, script: SharedScript, log: Arc<Mutex<Vec<Asked>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (script, log) = (Arc::clone(&script), Arc::clone(&log));
        tokio::spawn(async move {
            let answer =
                service_fn(|request| answer(Arc::clone(&script), Arc::clone(&log), request));
            // A broken connection is part of the script.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn answer(
    script: SharedScript,
    log: Arc<Mutex<Vec<Asked>>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let text = |name: &str| {
        let value = request.headers().get(name);
        let value = value.and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let mut asked = Asked {
        method: request.method().to_string(),
        path: request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned(),
        host: text("host"),
        proof: text("authorization"),
        form: String::new(),
        before: 0,
    };
    let form = request.into_body().collect().await;
    let form = form
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    asked.form = String::from_utf8_lossy(&form).into_owned();
    {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let line = asked.line();
        asked.before = log.iter().filter(|other| other.line() == line).count();
        log.push(asked.clone());
    }
    let mut reply = script(&asked);
    if asked.line() == "GET /v2/" && reply.status == 404 {
        reply = Reply::ok("{}");
    }
    let body = match reply.body {
        Script::Whole(bytes) => Full::new(bytes)
            .map_err(|never| match never {})
            .boxed_unsync(),
        Script::Endless(bytes) => frames(bytes, Then::Again),
        Script::Dripping(bytes) => frames(bytes, Then::Later),
        Script::Stalled(bytes) => frames(bytes, Then::Silence),
        Script::Cut(bytes) => frames(bytes, Then::Break),
    };
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in &reply.headers {
        if let (Ok(name), Ok(value)) = (
            hyper::header::HeaderName::try_from(name),
            hyper::header::HeaderValue::try_from(value),
        ) {
            response.headers_mut().append(name, value);
        }
    }
    Ok(response)
}

#[derive(Clone, Copy)]
enum Then {
    Again,
    Later,
    Silence,
    Break,
}

fn frames(bytes: Bytes, then: Then) -> Body {
    let stream = futures::stream::unfold(0_u32, move |sent| {
        let bytes = bytes.clone();
        async move {
            if sent > 0 {
                match then {
                    Then::Again => tokio::task::yield_now().await,
                    Then::Later => tokio::time::sleep(Duration::from_millis(100)).await,
                    Then::Silence => tokio::time::sleep(Duration::from_secs(3_600)).await,
                    // The first part has to leave before the connection breaks.
                    Then::Break => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        return Some((Err(io::Error::other("cut by the script")), sent));
                    }
                }
            }
            Some((Ok(Frame::data(bytes)), 1))
        }
    });
    StreamBody::new(stream.boxed()).boxed_unsync()
}
