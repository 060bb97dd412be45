//! A proxy to the outside as companies have it, and whom it was asked to reach.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::ports;

/// Longest head of a request.
const HEAD_BYTES: usize = 16 * 1_024;

type Log = Arc<Mutex<Vec<String>>>;

/// A running proxy. Dropped: gone.
#[derive(Debug)]
pub struct ForwardProxy {
    port: u16,
    log: Log,
    server: JoinHandle<()>,
}

impl ForwardProxy {
    /// Starts one on loopback.
    pub async fn start() -> Result<Self> {
        let port = ports::free()?;
        let listener = TcpListener::bind(("127.0.0.1", port))
            .await
            .context("listen for a proxy")?;
        let log = Log::default();
        let server = tokio::spawn(accept(listener, Arc::clone(&log)));
        Ok(Self { port, log, server })
    }

    /// As `HTTPS_PROXY` names it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The first request of each connection so far: `CONNECT 10.0.0.1:443`, `GET http://10.0.0.1/v2/`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.clone()
    }
}

impl Drop for ForwardProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, log: Log) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        connections.spawn(pass(near, Arc::clone(&log)));
        while connections.try_join_next().is_some() {}
    }
}

/// Whatever goes wrong closes the connection, which is all that a client has to know.
async fn pass(mut near: TcpStream, log: Log) -> Option<()> {
    let head = read_head(&mut near).await?;
    let text = String::from_utf8_lossy(&head).into_owned();
    let (asked, _) = text.split_once(" HTTP/")?;
    log.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(asked.to_owned());
    let (method, target) = asked.split_once(' ')?;
    let mut far;
    if method == "CONNECT" {
        far = TcpStream::connect(target).await.ok()?;
        near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
    } else {
        let host = target.strip_prefix("http://")?.split('/').next()?;
        far = TcpStream::connect(host).await.ok()?;
        // Servers take the whole address as well as the path.
        far.write_all(&head).await.ok()?;
    }
    copy_bidirectional(&mut near, &mut far).await.ok()?;
    Some(())
}

async fn read_head(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_BYTES {
            return None;
        }
        head.push(from.read_u8().await.ok()?);
    }
    Some(head)
}
