//! A registry host as the nodes see it: an HTTP proxy in front of the registry that logs each request and can misbehave.
//!
//! One proxy is one registry host (its own port). Nodes name themselves by the header `x-drop-node` that their containerd
//! sends (`containerd` writes it into hosts.toml).

mod fault;
mod log;
mod serve;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use self::fault::{Fault, FaultId};
pub use self::log::{End, Exchange, Kind, Log, Pull};

use self::fault::Faults;
use crate::ports;

/// The header in which a node names itself.
pub const NODE_HEADER: &str = "x-drop-node";

/// A running proxy. Dropped: it refuses connections.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

/// What the proxy's connections share.
struct State {
    upstream: String,
    began: Instant,
    began_at: Timestamp,
    log: Mutex<Vec<Exchange>>,
    faults: Mutex<Faults>,
}

impl Proxy {
    /// Starts one in front of `upstream` (`127.0.0.1:port`).
    pub async fn start(upstream: &str) -> Result<Self> {
        let address = (Ipv4Addr::LOCALHOST, ports::free()?).into();
        Self::start_on(address, upstream).await
    }

    /// Starts one on any address of this machine.
    pub async fn start_on(address: SocketAddr, upstream: &str) -> Result<Self> {
        let state = State {
            upstream: upstream.to_owned(),
            began: Instant::now(),
            began_at: Timestamp::now(),
            log: Mutex::default(),
            faults: Mutex::default(),
        };
        let state = Arc::new(state);
        let server = listen(address, &state).await?;
        Ok(Self {
            address,
            state,
            server,
        })
    }

    /// `127.0.0.1:port`: the registry host in image references.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Misbehaves from now on, until the fault is removed or used up. The fault added last wins.
    #[expect(
        clippy::must_use_candidate,
        reason = "most faults are never taken back one by one"
    )]
    pub fn inject(&self, fault: Fault) -> FaultId {
        self.faults().add(fault)
    }

    /// Takes one fault back. Requests that hang, stall or are slowed by it go on at once.
    pub fn remove(&self, id: FaultId) {
        self.faults().remove(id);
    }

    /// Takes all faults back.
    pub fn clear(&self) {
        self.faults().clear();
    }

    /// What was asked so far.
    #[must_use]
    pub fn log(&self) -> Log {
        let entries = self
            .state
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Log::new(self.state.began_at, entries.clone())
    }

    /// Refuses connections and cuts those that are open.
    pub fn stop(&mut self) {
        self.server.abort();
    }

    /// Listens again on the same port after `stop`.
    pub async fn restart(&mut self) -> Result<()> {
        self.server = listen(self.address, &self.state).await?;
        Ok(())
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, Faults> {
        self.state
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn listen(address: SocketAddr, state: &Arc<State>) -> Result<JoinHandle<()>> {
    let listener = TcpListener::bind(address)
        .await
        .context("listen for registry clients")?;
    Ok(tokio::spawn(serve::accept(listener, Arc::clone(state))))
}
