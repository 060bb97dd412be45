//! The HTTP pages of a daemon: `/metrics`, `/healthz`, `/readyz`.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Says whether the daemon can do its work. Clones share one state.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<Result<(), String>>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Err("starting".to_owned()))))
    }
}

impl Readiness {
    /// The daemon works.
    pub fn set_ready(&self) {
        self.set(Ok(()));
    }

    /// The daemon waits for something; `reason` names it.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    /// Sets the state.
    pub fn set(&self, state: Result<(), String>) {
        self.0.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
    }

    /// The state now.
    pub fn get(&self) -> Result<(), String> {
        self.0.borrow().clone()
    }
}

/// Makes the `metrics` facade record, with these histogram buckets by metric name.
pub fn install_recorder(buckets: &[(&str, &[f64])]) -> anyhow::Result<PrometheusHandle> {
    let mut builder = PrometheusBuilder::new();
    for (name, bounds) in buckets {
        let matcher = metrics_exporter_prometheus::Matcher::Full((*name).to_owned());
        builder = builder
            .set_buckets_for_metric(matcher, bounds)
            .with_context(|| format!("buckets of {name}"))?;
    }
    builder.install_recorder().context("metrics recorder")
}

/// A page: the recorder's metrics, and what `more` adds.
#[derive(Clone)]
pub struct MetricsPage {
    /// From [`install_recorder`].
    pub recorder: PrometheusHandle,
    /// Series that the facade cannot hold, since it cannot forget them (see `series`).
    pub more: Arc<dyn Fn() -> String + Send + Sync>,
}

impl std::fmt::Debug for MetricsPage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricsPage").finish_non_exhaustive()
    }
}

impl MetricsPage {
    fn render(&self) -> String {
        self.recorder.run_upkeep();
        let mut page = self.recorder.render();
        page.push_str(&(self.more)());
        page
    }
}

/// Serves `/metrics`, until `stop` turns true.
pub async fn serve_metrics(
    listener: TcpListener,
    page: MetricsPage,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let metrics = get(move || {
        let page = page.clone();
        async move {
            (
                [(
                    header::CONTENT_TYPE,
                    "text/plain; version=0.0.4; charset=utf-8",
                )],
                page.render(),
            )
        }
    });
    serve(listener, Router::new().route("/metrics", metrics), stop).await
}

/// Serves `/healthz` and `/readyz`, until `stop` turns true. Health is that the process answers at all: its runtime turns, and
/// a critical task's end would have ended it.
pub async fn serve_probes(
    listener: TcpListener,
    readiness: Readiness,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let ready = get(move || {
        let state = readiness.get();
        async move {
            match state {
                Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
                Err(reason) => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("not ready: {reason}\n"),
                ),
            }
        }
    });
    let pages = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", ready);
    serve(listener, pages, stop).await
}

async fn serve(
    listener: TcpListener,
    pages: Router,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let stopped = async move {
        // An error means that the sender is gone, and with it the process.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    axum::serve(listener, pages)
        .with_graceful_shutdown(stopped)
        .await
        .context("admin HTTP server")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::bind::listen;

    async fn get_page(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_say_why_a_daemon_is_not_ready() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let readiness = Readiness::default();
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve_probes(listener, readiness.clone(), stopped));
        assert!(
            get_page(address, "/readyz")
                .await
                .ends_with("not ready: starting\n")
        );
        readiness.set_not_ready("no session with the coordinator");
        let page = get_page(address, "/readyz").await;
        assert!(
            page.starts_with("HTTP/1.1 503") && page.ends_with("no session with the coordinator\n"),
            "{page}"
        );
        readiness.set_ready();
        assert!(
            get_page(address, "/readyz")
                .await
                .starts_with("HTTP/1.1 200")
        );
        assert!(get_page(address, "/healthz").await.ends_with("ok\n"));
        assert!(get_page(address, "/").await.starts_with("HTTP/1.1 404"));
        stop.send_replace(true);
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_metrics_page_joins_both_sources() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let recorder = install_recorder(&[("drop_test_seconds", &[1.0, 2.0])]).unwrap();
        metrics::counter!("drop_test_total").increment(3);
        metrics::histogram!("drop_test_seconds").record(1.5);
        let page = MetricsPage {
            recorder,
            more: Arc::new(|| "drop_more 1\n".to_owned()),
        };
        let (_stop, stopped) = watch::channel(false);
        tokio::spawn(serve_metrics(listener, page, stopped));
        let page = get_page(address, "/metrics").await;
        for line in [
            "drop_test_total 3",
            "drop_test_seconds_bucket{le=\"2\"} 1",
            "drop_more 1",
        ] {
            assert!(page.contains(line), "{line} is not in {page}");
        }
    }
}
