//! Where the coordinator is: one URL or several, each of which may stand for several addresses.
//!
//! Of a coordinator's replicas only the leader takes sessions, and nobody but they know who that is. So the agent asks one
//! address after the other.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use rand::seq::SliceRandom;
use tonic::transport::Endpoint;

/// A name server that takes longer does not answer.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The text is no place where a coordinator can be.
#[derive(Debug, thiserror::Error)]
#[error("write the coordinator as http://host:port, several separated by commas")]
pub struct BadCoordinator;

/// Where the coordinator's replicas are.
#[derive(Clone, Debug)]
pub struct Coordinator {
    text: String,
    places: Vec<Place>,
}

#[derive(Clone, Debug)]
struct Place {
    host: String,
    port: u16,
}

impl FromStr for Coordinator {
    type Err = BadCoordinator;

    fn from_str(text: &str) -> Result<Self, BadCoordinator> {
        let places = text.split(',').map(place).collect::<Result<_, _>>()?;
        Ok(Self {
            text: text.to_owned(),
            places,
        })
    }
}

impl fmt::Display for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Coordinator {
    /// All addresses of all names as of now, and why a name has none. Names are looked up each time: replicas come and go.
    pub async fn resolve(&self) -> (Vec<SocketAddr>, Vec<String>) {
        let mut addresses = Vec::new();
        let mut problems = Vec::new();
        for Place { host, port } in &self.places {
            let name = host.trim_start_matches('[').trim_end_matches(']');
            let lookup = tokio::net::lookup_host((name, *port));
            match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
                Ok(Ok(found)) => addresses.extend(found),
                Ok(Err(error)) => problems.push(format!("{host}: {error}")),
                Err(_) => problems.push(format!("{host}: the name server does not answer")),
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        (addresses, problems)
    }
}

/// The order in which addresses are asked: any, so that the replicas share the load. The one where the last session ended comes
/// last: it stopped to lead, or does not answer any more.
pub(super) fn order(mut addresses: Vec<SocketAddr>, left: Option<SocketAddr>) -> Vec<SocketAddr> {
    addresses.shuffle(&mut rand::rng());
    addresses.sort_by_key(|address| Some(*address) == left);
    addresses
}

fn place(url: &str) -> Result<Place, BadCoordinator> {
    if !url.starts_with("http://") {
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
    Ok(Place {
        host: host.to_owned(),
        port: uri.port_u16().unwrap_or(80),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_is_a_host_and_a_port_or_several() {
        for good in [
            "http://drop-coordinator.drop-system:9443",
            "http://127.0.0.1:1/",
            "http://[::1]:65535",
            "http://a:1,http://b:2,http://b:3",
        ] {
            assert!(good.parse::<Coordinator>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1:9443",
            "https://c:1",
            "http://",
            "http://c/path",
            "http://c?x",
            "http://c:99999",
            "http://c:0",
            "http://c:",
            "http://user:secret@c:1",
            "unix:///x",
            "http://a:1,",
            "http://a:1,b:2",
            "http://a:1, http://b:2",
        ] {
            assert!(bad.parse::<Coordinator>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn all_addresses_are_asked_and_each_once() {
        let text = "http://127.0.0.1:1,http://[::1]:2,http://127.0.0.1:1,http://nowhere.invalid:3";
        let coordinator: Coordinator = text.parse().unwrap();
        let (addresses, problems) = coordinator.resolve().await;
        let expected: [SocketAddr; 2] = ["127.0.0.1:1", "[::1]:2"].map(|a| a.parse().unwrap());
        assert_eq!(addresses, expected);
        assert!(problems.len() == 1 && problems[0].starts_with("nowhere.invalid: "));
    }

    #[test]
    fn the_one_that_was_left_comes_last() {
        let addresses: Vec<SocketAddr> = (1..=5)
            .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
            .collect();
        let mut firsts = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let order = order(addresses.clone(), Some(addresses[2]));
            assert_eq!((order.len(), order[4]), (5, addresses[2]));
            firsts.insert(order[0]);
        }
        assert_eq!(firsts.len(), 4, "each of the others comes first at times");
    }
}
