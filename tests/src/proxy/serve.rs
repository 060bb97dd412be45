//! The proxy's I/O: takes requests, carries out faults, passes the rest to the registry, writes the log.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use super::fault::{Effect, Met};
use super::log::{End, Exchange};
use super::{NODE_HEADER, State};
use crate::http;

/// Small enough that a cut or a rate is precise to a few milliseconds at 1 MB/s.
const CHUNK: usize = 16 * 1_024;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Serves until aborted; its connections end with it.
pub(super) async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&state)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let port = stream.peer_addr().map_or(0, |peer| peer.port());
    let _ = stream.set_nodelay(true);
    let answer = service_fn(move |request| {
        let entry = Entry::open(&state, port, &request);
        async move { Ok::<_, Infallible>(answer(entry, request).await) }
    });
    // An error is a client that went away or a connection that a fault cut; both are in the log.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

async fn answer(mut entry: Entry, request: Request<Incoming>) -> Response<Body> {
    let mut met = entry.meet();
    match met.as_mut().map(|met| met.effect.clone()) {
        Some(Effect::Answer {
            status,
            headers,
            body,
        }) => return injected(entry, status, &headers, body),
        Some(Effect::Hang) => {
            if let Some(met) = met.as_mut() {
                met.removed().await;
            }
            met = None;
        }
        _ => {}
    }
    match forward(&entry, request).await {
        Ok(response) => relay(entry, response, met),
        Err(cause) => {
            let body = format!("the registry behind the proxy does not answer: {cause:#}");
            entry.update(|exchange| exchange.status = 502);
            entry.finish(End::Complete);
            respond(StatusCode::BAD_GATEWAY, HeaderMap::new(), full(body))
        }
    }
}

fn injected(
    mut entry: Entry,
    status: u16,
    headers: &[(String, String)],
    body: String,
) -> Response<Body> {
    let mut map = HeaderMap::new();
    map.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (
            header::HeaderName::try_from(name),
            header::HeaderValue::try_from(value),
        ) {
            map.append(name, value);
        }
    }
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    entry.update(|exchange| {
        exchange.status = status;
        exchange.bytes = body.len() as u64;
    });
    entry.finish(End::Complete);
    respond(code, map, full(body))
}

/// Asks the registry. The client's credentials stay here: the registry behind wants none.
async fn forward(entry: &Entry, request: Request<Incoming>) -> anyhow::Result<Response<Incoming>> {
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let mut onward = Request::builder()
        .method(request.method())
        .uri(format!("http://{}{path}", entry.state.upstream));
    for name in [
        header::ACCEPT,
        header::AUTHORIZATION,
        header::RANGE,
        header::CONTENT_TYPE,
    ] {
        for value in request.headers().get_all(&name) {
            onward = onward.header(&name, value);
        }
    }
    let body = request.into_body().collect().await?.to_bytes();
    http::open(onward.body(Full::new(body))?).await
}

fn relay(mut entry: Entry, response: Response<Incoming>, met: Option<Met>) -> Response<Body> {
    let (head, body) = response.into_parts();
    let mut headers = HeaderMap::new();
    for (name, value) in &head.headers {
        // How the registry frames its answer is between it and the proxy.
        if *name != header::CONNECTION && *name != header::TRANSFER_ENCODING {
            headers.append(name, value.clone());
        }
    }
    entry.update(|exchange| exchange.status = head.status.as_u16());
    if entry.method == Method::HEAD {
        entry.finish(End::Complete);
        return respond(head.status, headers, full(String::new()));
    }
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(pump(entry, body, met, sender));
    respond(head.status, headers, stream(ReceiverStream::new(receiver)))
}

/// Passes the body on, and misbehaves on the way.
async fn pump(
    mut entry: Entry,
    mut body: Incoming,
    mut met: Option<Met>,
    client: mpsc::Sender<io::Result<Frame<Bytes>>>,
) {
    let mut sent = 0_u64;
    while let Some(frame) = body.frame().await {
        let Some(mut data) = frame.ok().and_then(|frame| frame.into_data().ok()) else {
            let _ = client
                .send(Err(io::Error::other("the registry went away")))
                .await;
            return entry.finish(End::Cut);
        };
        while !data.is_empty() {
            let mut size = data.len().min(CHUNK);
            match met.as_ref().map(|met| &met.effect) {
                Some(Effect::Cut(limit)) if sent >= *limit => {
                    let _ = client.send(Err(io::Error::other("cut by a fault"))).await;
                    return entry.finish(End::Cut);
                }
                Some(Effect::Stall(limit)) if sent >= *limit => {
                    let Some(mut stall) = met.take() else {
                        continue;
                    };
                    tokio::select! {
                        () = stall.removed() => continue,
                        () = client.closed() => return entry.finish(End::ClientGone),
                    }
                }
                Some(Effect::Cut(limit) | Effect::Stall(limit)) => {
                    size = size.min((limit - sent) as usize);
                }
                Some(&Effect::Rate(per_second)) => {
                    if let Some(met) = met.as_mut() {
                        met.wait_turn(size as u64, per_second).await;
                    }
                }
                _ => {}
            }
            if client
                .send(Ok(Frame::data(data.split_to(size))))
                .await
                .is_err()
            {
                return entry.finish(End::ClientGone);
            }
            sent += size as u64;
            entry.update(|exchange| exchange.bytes = sent);
        }
    }
    entry.finish(End::Complete);
}

/// The log line of a request that is being answered. Dropped before its end: the client went away.
struct Entry {
    state: Arc<State>,
    index: usize,
    method: Method,
    ended: bool,
}

impl Entry {
    fn open(state: &Arc<State>, port: u16, request: &Request<Incoming>) -> Self {
        let text = |name: &str| {
            request
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let mut exchange =
            Exchange::new(state.began.elapsed(), port, request.method().as_str(), path);
        exchange.node = text(NODE_HEADER);
        let agent = text(header::USER_AGENT.as_str());
        exchange.by_coordinator = agent.is_some_and(|agent| agent.starts_with("drop-coordinator/"));
        exchange.range = text("range");
        exchange.authorized = request.headers().contains_key(header::AUTHORIZATION);
        let mut log = state.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push(exchange);
        Self {
            state: Arc::clone(state),
            index: log.len() - 1,
            method: request.method().clone(),
            ended: false,
        }
    }

    fn meet(&self) -> Option<Met> {
        let exchange = self.log()[self.index].clone();
        self.state
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .meet(&exchange)
    }

    fn update(&self, change: impl FnOnce(&mut Exchange)) {
        change(&mut self.log()[self.index]);
    }

    fn finish(&mut self, end: End) {
        self.ended = true;
        let now = self.state.began.elapsed();
        self.update(|exchange| {
            exchange.end = end;
            exchange.ended_at = Some(now);
        });
    }

    fn log(&self) -> MutexGuard<'_, Vec<Exchange>> {
        self.state
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.ended {
            self.finish(End::ClientGone);
        }
    }
}

fn respond(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text))
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn stream(frames: impl Stream<Item = io::Result<Frame<Bytes>>> + Send + 'static) -> Body {
    StreamBody::new(frames).boxed_unsync()
}
