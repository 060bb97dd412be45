//! The runtime's socket: how it is named, and what is wrong when nobody answers there.

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::str::FromStr;

use tonic::Status;
use tonic::transport::Endpoint;

/// The path of a unix socket, written `unix:///run/containerd/containerd.sock` or as a plain absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket(PathBuf);

/// The text names no unix socket.
#[derive(Debug, thiserror::Error)]
#[error(
    "write the socket as unix:///absolute/path (containerd: unix:///run/containerd/containerd.sock, \
     k3s: unix:///run/k3s/containerd/containerd.sock, CRI-O: unix:///var/run/crio/crio.sock)"
)]
pub struct BadSocket;

impl FromStr for Socket {
    type Err = BadSocket;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text.strip_prefix("unix://").unwrap_or(text);
        // A `#` or `?` would not survive in a URI, and the kernel takes 107 bytes.
        let is_path = path.starts_with('/') && !path.contains(['?', '#', '\0']) && path.len() < 108;
        is_path.then(|| Self(path.into())).ok_or(BadSocket)
    }
}

impl std::fmt::Display for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

impl From<&Socket> for Endpoint {
    fn from(socket: &Socket) -> Self {
        // tonic sends a neutral authority with it, which grpc-go insists on; a path would be refused.
        Self::from_shared(socket.to_string())
            .unwrap_or_else(|_| Self::from_static("unix:///nonexistent"))
    }
}

impl Socket {
    /// What is wrong with the socket, for people.
    pub(super) fn explain(&self, status: &Status) -> String {
        let path = self.0.display();
        match io_error(status).map(io::Error::kind) {
            Some(ErrorKind::NotFound) => format!("no socket at {path}"),
            Some(ErrorKind::ConnectionRefused) => format!("nothing listens at {path}"),
            Some(ErrorKind::PermissionDenied) => {
                format!("no permission to open {path} (it belongs to root's group as a rule)")
            }
            _ => format!("the runtime at {path} went away"),
        }
    }
}

/// True if the connection failed or broke, so that the status is the client's own and not the runtime's. Codes and messages do
/// not tell them apart (tonic gives a connection that breaks under a call UNKNOWN), but only ours have a cause below them.
pub(super) fn is_broken(status: &Status) -> bool {
    status.source().is_some()
}

/// The operating system's error below a gRPC status, if it came from there.
fn io_error(status: &Status) -> Option<&io::Error> {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_absolute_paths() {
        for good in ["unix:///run/a.sock", "/run/a.sock"] {
            let socket: Socket = good.parse().expect(good);
            assert_eq!(socket.to_string(), "unix:///run/a.sock");
        }
        let long = format!("/{}", "x".repeat(108));
        for bad in [
            "",
            "run/a.sock",
            "unix://run/a",
            "tcp://1.2.3.4:5",
            "http://x",
            "/a?b",
            &long,
        ] {
            assert!(bad.parse::<Socket>().is_err(), "{bad}");
        }
    }
}
