//! Where the coordinator's replicas are, and how it and the agent prove themselves to each other.
//!
//! Of a coordinator's replicas only the leader takes sessions, and nobody but they know who that is: the agent asks one address
//! after the other. The files are read at each connect: the kubelet replaces the token long before it expires, and the authorities' certificates
//! whenever the coordinator publishes others.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use std::{fmt, io};

use rand::seq::SliceRandom;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::causes;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection on which nothing comes back for so long after a ping is dead.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A name server that takes longer does not answer.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The text is no place where a coordinator can be.
#[derive(Debug, thiserror::Error)]
#[error("write the coordinator as https://host:port, several separated by commas")]
pub struct BadCoordinator;

/// Where the coordinator's replicas are: one URL or several of one scheme, each of which may stand for several addresses.
#[derive(Clone, Debug)]
pub struct Coordinator {
    text: String,
    scheme: &'static str,
    hosts: Vec<(String, u16)>,
}

/// One address of a replica, and the name it was found under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Where to connect.
    pub socket: SocketAddr,
    host: String,
}

impl FromStr for Coordinator {
    type Err = BadCoordinator;

    fn from_str(text: &str) -> Result<Self, BadCoordinator> {
        let scheme = if text.starts_with("https://") {
            "https"
        } else {
            "http"
        };
        let hosts = text.split(',').map(|url| host(url, scheme));
        Ok(Self {
            text: text.to_owned(),
            scheme,
            hosts: hosts.collect::<Result<_, _>>()?,
        })
    }
}

impl fmt::Display for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Coordinator {
    /// Whether sessions would be without TLS.
    #[must_use]
    pub fn is_plaintext(&self) -> bool {
        self.scheme == "http"
    }

    /// Whether the hosts can only be this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.hosts.iter().all(|(host, _)| {
            host == "localhost"
                || host
                    .parse()
                    .is_ok_and(|address: IpAddr| address.is_loopback())
        })
    }

    /// All addresses of all names as of now, and why a name has none. Names are looked up each time: replicas come and go.
    pub async fn resolve(&self) -> (Vec<Address>, Vec<String>) {
        let (mut addresses, mut problems) = (Vec::new(), Vec::new());
        for (host, port) in &self.hosts {
            let lookup = tokio::net::lookup_host((host.as_str(), *port));
            match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
                Ok(Ok(found)) => addresses.extend(found.map(|socket| Address {
                    socket,
                    host: host.clone(),
                })),
                Ok(Err(error)) => problems.push(format!("{host}: {error}")),
                Err(_) => problems.push(format!("{host}: the name server does not answer")),
            }
        }
        addresses.sort_unstable();
        addresses.dedup_by_key(|address| address.socket);
        (addresses, problems)
    }
}

/// The order in which addresses are asked: any, so that the replicas share the load. The one where the last session ended comes
/// last: it does not lead any more, or does not answer.
pub(super) fn order(mut addresses: Vec<Address>, left: Option<SocketAddr>) -> Vec<Address> {
    addresses.shuffle(&mut rand::rng());
    addresses.sort_by_key(|address| Some(address.socket) == left);
    addresses
}

/// Host (without the brackets of IPv6) and port of a URL.
fn host(url: &str, scheme: &str) -> Result<(String, u16), BadCoordinator> {
    if !url.starts_with(&format!("{scheme}://")) {
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
    let default = if scheme == "https" { 443 } else { 80 };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), uri.port_u16().unwrap_or(default)))
}

/// The coordinator, and what it takes to speak with it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where its replicas are.
    pub coordinator: Coordinator,
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
        /// The name in the coordinator's certificate, wherever the connection goes; `None`: the host that the address was found
        /// under.
        name: Option<String>,
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
    /// Opens a connection to one replica, with what the files hold now.
    pub async fn connect(
        &self,
        address: &Address,
    ) -> Result<(Channel, Option<Bearer>), ConnectError> {
        let url = format!("{}://{}", self.coordinator.scheme, address.socket);
        let endpoint = Endpoint::from_shared(url)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        let Trust::Proven {
            ca_file,
            token_file,
            name,
        } = &self.trust
        else {
            return Ok((endpoint.connect().await?, None));
        };
        let authorities = read_authorities(ca_file)?;
        let token = read_token(token_file)?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authorities))
            .domain_name(name.as_ref().unwrap_or(&address.host))
            .timeout(CONNECT_TIMEOUT);
        let connected = endpoint.tls_config(tls)?.connect().await;
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
    fn a_coordinator_is_a_host_and_a_port_or_several() {
        for good in [
            "https://drop-coordinator.drop-system.svc:7070",
            "http://127.0.0.1:1/",
            "https://[::1]:65535",
            "https://a:1,https://b:2,https://b:3",
        ] {
            assert!(good.parse::<Coordinator>().is_ok(), "{good}");
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
            "https://a:1,",
            "https://a:1,b:2",
            "https://a:1,http://b:2",
            "http://a:1,https://b:2",
            "https://a:1, https://b:2",
        ] {
            assert!(bad.parse::<Coordinator>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (urls, expected) in [
            ("http://127.0.0.1:1", true),
            ("http://127.8.9.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost:1", true),
            ("http://localhost:1,http://127.0.0.1:2", true),
            ("http://localhost.example:1", false),
            ("http://10.0.0.1:1", false),
            ("http://0.0.0.0:1", false),
            ("http://127.0.0.1:1,http://10.0.0.1:1", false),
            ("http://drop-coordinator.drop-system.svc:7070", false),
        ] {
            let coordinator: Coordinator = urls.parse().unwrap();
            assert_eq!(coordinator.is_loopback(), expected, "{urls}");
        }
    }

    #[tokio::test]
    async fn all_addresses_are_found_and_each_once() {
        let urls = "http://127.0.0.1:1,http://[::1]:2,http://127.0.0.1:1,http://nowhere.invalid:3";
        let coordinator: Coordinator = urls.parse().unwrap();
        let (addresses, problems) = coordinator.resolve().await;
        let sockets: Vec<String> = addresses.iter().map(|a| a.socket.to_string()).collect();
        assert_eq!(sockets, ["127.0.0.1:1", "[::1]:2"]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("nowhere.invalid: "), "{problems:?}");
    }

    #[test]
    fn the_one_that_was_left_comes_last() {
        let addresses: Vec<Address> = (1..=5)
            .map(|port| Address {
                socket: SocketAddr::from(([127, 0, 0, 1], port)),
                host: "h".to_owned(),
            })
            .collect();
        let mut firsts = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let order = order(addresses.clone(), Some(addresses[2].socket));
            assert_eq!((order.len(), &order[4]), (5, &addresses[2]));
            firsts.insert(order[0].socket);
        }
        assert_eq!(firsts.len(), 4, "each of the others comes first at times");
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
