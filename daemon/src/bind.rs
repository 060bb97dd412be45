//! Addresses to listen on, written as Go programs write them.

use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use anyhow::Context as _;
use tokio::net::TcpListener;

/// An address to listen on: `:8080` (all addresses), `127.0.0.1:8080`, `[::1]:8080`, or `0` for not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindAddress {
    /// Listen here. All addresses is `[::]`, which on Linux takes IPv4 connections too.
    At(SocketAddr),
    /// Do not listen.
    Disabled,
}

impl BindAddress {
    /// The address, unless disabled.
    #[must_use]
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::At(address) => Some(address),
            Self::Disabled => None,
        }
    }
}

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "0" {
            return Ok(Self::Disabled);
        }
        let wrong = || {
            format!(
                "{text:?} is no address to listen on: write :8080, 127.0.0.1:8080, [::1]:8080, or 0 to disable"
            )
        };
        if let Some(port) = text.strip_prefix(':') {
            let port = port.parse().map_err(|_| wrong())?;
            // On Linux the unspecified IPv6 address takes IPv4 connections too.
            return Ok(Self::At(SocketAddr::new(
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                port,
            )));
        }
        text.parse().map(Self::At).map_err(|_| wrong())
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Disabled => f.write_str("0"),
        }
    }
}

/// Listens at once, so that a taken port is an error at the start and not a failing probe later. All addresses means those
/// of IPv4 alone where the host has no IPv6.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = match TcpListener::bind(address).await {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && lacks_ipv6(error.kind()) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        listener => listener,
    };
    listener.with_context(|| format!("cannot listen on {address}"))
}

/// A host without IPv6 says so in several ways; a taken or forbidden port it says alike for both families.
fn lacks_ipv6(error: ErrorKind) -> bool {
    !matches!(error, ErrorKind::AddrInUse | ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = listen(address).await.unwrap_err();
        assert!(
            format!("{error:#}").contains(&address.to_string()),
            "{error:#}"
        );
    }

    #[test]
    fn go_style_addresses_are_understood() {
        for (text, expected) in [
            (":8081", "[::]:8081"),
            ("127.0.0.1:9", "127.0.0.1:9"),
            ("[::1]:9", "[::1]:9"),
            ("0", "0"),
        ] {
            assert_eq!(
                text.parse::<BindAddress>().map(|a| a.to_string()),
                Ok(expected.to_owned()),
                "{text}"
            );
        }
        for text in ["", ":", "8080", "localhost", "127.0.0.1", ":70000", "a:b:c"] {
            let error = text.parse::<BindAddress>().unwrap_err();
            assert!(error.contains("write :8080"), "{error}");
        }
    }
}
