//! Where the coordinator is, and how it and the agent prove themselves to each other.
//!
//! The files are read at each connect: the kubelet replaces the token long before it expires, and the authorities' certificates
//! whenever the coordinator publishes others.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::causes;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection on which nothing comes back for so long after a ping is dead.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// The URL is no place where a coordinator can be.
#[derive(Debug, thiserror::Error)]
#[error("write the coordinator as https://host:port")]
pub struct BadCoordinator;

/// Where the coordinator is.
pub fn endpoint(url: &str) -> Result<Endpoint, BadCoordinator> {
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err(BadCoordinator);
    }
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| BadCoordinator)?;
    let uri = endpoint.uri();
    let host = uri.host().unwrap_or_default();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    // A port beyond 65535 parses as an authority, and a user before the host as well.
    let is_place = match uri.port_u16() {
        Some(port) => port > 0 && authority == format!("{host}:{port}"),
        None => authority == host,
    };
    let is_plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
    if host.is_empty() || !is_place || !is_plain {
        return Err(BadCoordinator);
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true))
}

/// Whether the host of the URL can only be this machine.
#[must_use]
pub fn is_loopback(endpoint: &Endpoint) -> bool {
    let host = endpoint.uri().host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// The coordinator, and what it takes to speak with it.
#[derive(Clone, Debug)]
pub struct Place {
    /// From [`endpoint`].
    pub endpoint: Endpoint,
    /// How each side knows the other.
    pub trust: Trust,
}

/// How each side knows the other.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Not at all. For loopback.
    Plaintext,
    /// The coordinator by its certificate, the agent by its token.
    Proven {
        /// Certificates of the authorities that the coordinator's may be of, PEM.
        ca_file: PathBuf,
        /// A ServiceAccount token with audience `drop-coordinator`.
        token_file: PathBuf,
        /// The name in the coordinator's certificate, wherever the connection goes.
        name: String,
    },
}

/// Why there is no connection. The texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file with the authorities is missing or not to be read.
    #[error(
        "cannot read {path} (--coordinator-ca-file; ConfigMap drop-coordinator-ca, which the coordinator makes when it starts): {source}"
    )]
    ReadCa {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is there, and no certificate in it.
    #[error("{0} (--coordinator-ca-file) holds no certificate")]
    NoCa(PathBuf),
    /// The token is missing or not to be read.
    #[error(
        "cannot read {path} (--token-file; a projected serviceAccountToken with audience drop-coordinator): {source}"
    )]
    ReadToken {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is there, and no token in it.
    #[error("{0} (--token-file) holds no token")]
    NoToken(PathBuf),
    /// The coordinator's certificate is of nobody that the agent believes.
    #[error(
        "the coordinator's certificate is of no authority in {0} (--coordinator-ca-file): it follows within a minute after the coordinator changed its own, or somebody else answers there"
    )]
    UnknownAuthority(PathBuf),
    /// The connection failed.
    #[error("{}", causes(.0))]
    Connect(#[from] tonic::transport::Error),
}

impl ConnectError {
    /// One word for logs.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::ReadCa { .. } | Self::NoCa(_) => "no_ca",
            Self::ReadToken { .. } | Self::NoToken(_) => "no_token",
            Self::UnknownAuthority(_) => "unknown_authority",
            Self::Connect(_) => "connect",
        }
    }
}

/// A token as it goes into a request: it is never shown.
pub type Bearer = MetadataValue<Ascii>;

impl Place {
    /// Opens a connection, with what the files hold now.
    pub async fn connect(&self) -> Result<(Channel, Option<Bearer>), ConnectError> {
        let Trust::Proven {
            ca_file,
            token_file,
            name,
        } = &self.trust
        else {
            return Ok((self.endpoint.connect().await?, None));
        };
        let authorities = read_authorities(ca_file)?;
        let token = read_token(token_file)?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authorities))
            .domain_name(name)
            .timeout(CONNECT_TIMEOUT);
        let connected = self.endpoint.clone().tls_config(tls)?.connect().await;
        let channel = connected.map_err(|error| {
            if causes(&error).contains("UnknownIssuer") {
                return ConnectError::UnknownAuthority(ca_file.clone());
            }
            error.into()
        })?;
        Ok((channel, Some(token)))
    }
}

fn read_authorities(path: &Path) -> Result<Vec<u8>, ConnectError> {
    let pem = std::fs::read(path).map_err(|source| ConnectError::ReadCa {
        path: path.to_owned(),
        source,
    })?;
    let head = b"-----BEGIN CERTIFICATE-----";
    if !pem.windows(head.len()).any(|window| window == head) {
        return Err(ConnectError::NoCa(path.to_owned()));
    }
    Ok(pem)
}

fn read_token(path: &Path) -> Result<Bearer, ConnectError> {
    let token = std::fs::read_to_string(path).map_err(|source| ConnectError::ReadToken {
        path: path.to_owned(),
        source,
    })?;
    let token = token.trim();
    let no_token = || ConnectError::NoToken(path.to_owned());
    if token.is_empty() {
        return Err(no_token());
    }
    let mut bearer: Bearer = format!("Bearer {token}").parse().map_err(|_| no_token())?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_is_a_host_and_a_port() {
        for good in [
            "https://drop-coordinator.drop-system.svc:7070",
            "http://127.0.0.1:1/",
            "https://[::1]:65535",
        ] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1:9443",
            "https://",
            "https://c/path",
            "https://c?x",
            "https://c:99999",
            "http://c:0",
            "http://c:",
            "https://user:secret@c:1",
            "unix:///x",
        ] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (url, expected) in [
            ("http://127.0.0.1:1", true),
            ("http://127.8.9.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost:1", true),
            ("http://localhost.example:1", false),
            ("http://10.0.0.1:1", false),
            ("http://0.0.0.0:1", false),
            ("http://drop-coordinator.drop-system.svc:7070", false),
        ] {
            assert_eq!(is_loopback(&endpoint(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn a_token_is_never_shown() {
        let folder = std::env::temp_dir().join(format!("drop-token-{}", std::process::id()));
        std::fs::write(&folder, "abc.def.ghi\n").unwrap();
        let bearer = read_token(&folder);
        std::fs::write(&folder, " \n").unwrap();
        let empty = read_token(&folder);
        std::fs::remove_file(&folder).unwrap();
        let missing = read_token(&folder);
        let bearer = bearer.unwrap();
        assert_eq!(bearer.to_str().unwrap(), "Bearer abc.def.ghi");
        assert!(!format!("{bearer:?}").contains("abc"), "{bearer:?}");
        for (result, word) in [(empty, "holds no token"), (missing, "cannot read")] {
            let text = result.unwrap_err().to_string();
            assert!(
                text.contains(word) && text.contains("--token-file"),
                "{text}"
            );
        }
    }
}
