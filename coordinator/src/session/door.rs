//! Lets connections in: handshakes, and the time and number of those that have shown nothing yet.
//!
//! Whoever reaches the port can open connections. Until one carries a session that was taken it is on probation: there is room
//! for so many of them, each for so long. One connection carries one session, and is closed soon after it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use crate::identity::serving::Serving;

/// Connections on probation. A cluster that comes back at once is let in by so many at a time.
const ROOM: usize = 1_024;
/// How long a connection may take until its session is taken; checking a token may take 10 s of it.
const PROBATION: Duration = Duration::from_secs(30);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the last words of a session may take to arrive.
const LINGER: Duration = Duration::from_secs(3);
/// Wait after the process could not take a connection (too many open files).
const RETRY: Duration = Duration::from_millis(100);

/// Takes connections for ever and hands on those whose handshake succeeded; without TLS, all.
pub async fn let_in(
    listener: TcpListener,
    tls: Option<Serving>,
    connections: mpsc::Sender<io::Result<Connection>>,
) -> anyhow::Result<()> {
    let config = tls.as_ref().map(Serving::config).transpose()?;
    if let Some(serving) = &tls {
        // Before that connections wait in the listener's queue.
        serving.ready().await;
    }
    let config = config.map(Arc::new);
    let room = Arc::new(Semaphore::new(ROOM));
    let mut handshakes = JoinSet::new();
    loop {
        // Never closed.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return Ok(());
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot take a connection, will retry");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        while handshakes.try_join_next().is_some() {}
        let (config, connections) = (config.clone(), connections.clone());
        handshakes.spawn(async move {
            let greeted = tokio::time::timeout(HANDSHAKE, greet(stream, config)).await;
            match greeted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    let connection = Connection::new(stream, peer, place);
                    // The receiver is gone only when the process ends.
                    let _ = connections.send(Ok(connection)).await;
                }
                Err(error) => debug!(%peer, %error, "handshake failed"),
            }
        });
    }
}

async fn greet(
    stream: TcpStream,
    config: Option<Arc<ServerConfig>>,
) -> io::Result<Box<dyn Socket>> {
    stream.set_nodelay(true)?;
    Ok(match config {
        Some(config) => Box::new(TlsAcceptor::from(config).accept(stream).await?),
        None => Box::new(stream),
    })
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Probation,
    Taken,
    Over,
}

/// What a session knows of its connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The other end.
    pub address: SocketAddr,
    stage: Arc<watch::Sender<Stage>>,
}

impl Peer {
    /// The connection carries a session that was taken.
    pub fn taken(&self) {
        self.stage.send_replace(Stage::Taken);
    }

    /// The session is over, or was refused.
    pub fn over(&self) {
        self.stage.send_replace(Stage::Over);
    }
}

/// One connection. Reading from it fails once its time is over, which closes it.
pub struct Connection {
    stream: Box<dyn Socket>,
    peer: Peer,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Connection {
    fn new(stream: Box<dyn Socket>, address: SocketAddr, place: OwnedSemaphorePermit) -> Self {
        let (stage, stages) = watch::channel(Stage::Probation);
        Self {
            stream,
            peer: Peer {
                address,
                stage: Arc::new(stage),
            },
            end: Box::pin(end(stages, place)),
        }
    }
}

/// Ends when the connection has to.
async fn end(mut stages: watch::Receiver<Stage>, place: OwnedSemaphorePermit) {
    // The sender lives as long as the connection that waits here.
    let shown = stages.wait_for(|stage| *stage != Stage::Probation);
    if tokio::time::timeout(PROBATION, shown).await.is_err() {
        return;
    }
    drop(place);
    let _ = stages.wait_for(|stage| *stage == Stage::Over).await;
    tokio::time::sleep(LINGER).await;
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.as_mut().poll(context).is_ready() {
            // It may be polled again; the next time ends at once.
            self.end = Box::pin(std::future::ready(()));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
