//! A TCP way from a program to a server that a test can cut: connections go through, or go silent as on an unplugged cable.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::ports;

/// A server that is away is looked for again after this.
const AGAIN: Duration = Duration::from_millis(100);

/// A running tunnel. Dropped: it refuses connections.
#[derive(Debug)]
pub struct Tunnel {
    port: u16,
    open: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Tunnel {
    /// Starts an open one to `server` (`127.0.0.1:port`).
    pub async fn start(server: &str) -> Result<Self> {
        let port = ports::free()?;
        let listener = TcpListener::bind(("127.0.0.1", port))
            .await
            .context("listen for a tunnel")?;
        let open = watch::Sender::new(true);
        let server = tokio::spawn(accept(listener, server.to_owned(), open.subscribe()));
        Ok(Self { port, open, server })
    }

    /// Its near end.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Nothing goes through any more, and nobody is told.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// All goes through again, also what was said meanwhile.
    pub fn mend(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, server: String, open: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        connections.spawn(connect(near, server.clone(), open.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(near: TcpStream, server: String, mut open: watch::Receiver<bool>) {
    // An error means that the tunnel is gone.
    let _ = open.wait_for(|open| *open).await;
    let Ok(far) = TcpStream::connect(&server).await else {
        // Refused a little later, so that a client without patience does not spin.
        return tokio::time::sleep(AGAIN).await;
    };
    let ((near_out, near_in), (far_out, far_in)) = (near.into_split(), far.into_split());
    tokio::join!(
        pass(near_out, far_in, open.clone()),
        pass(far_out, near_in, open)
    );
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut open: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16_384];
    loop {
        // An end or an error closes this direction, and with it soon the other.
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let _ = open.wait_for(|open| *open).await;
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
