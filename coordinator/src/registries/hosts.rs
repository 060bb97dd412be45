//! Which hosts the coordinator asks, and how. Pure.
//!
//! A loopback host is each machine's own: what answers the coordinator there is not what answers a node. It is asked only
//! where somebody says that it is the same for all.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use drop_oci::client::Scheme;

/// Hosts without TLS, as `--plain-http-registry` names them: `HOST:PORT`, or `HOST` for any port.
#[derive(Clone, Debug, Default)]
pub(super) struct PlainHosts(BTreeSet<String>);

impl PlainHosts {
    pub(super) fn new(named: &[String]) -> Self {
        Self(named.iter().map(|host| written(host)).collect())
    }

    /// How a registry host is asked; not at all if the nodes' one is another.
    pub(super) fn scheme(&self, host: &str) -> Option<Scheme> {
        let host = host.to_ascii_lowercase();
        let name = without_port(&host);
        if self.0.contains(&host) || self.0.contains(name) {
            return Some(Scheme::PlainHttp);
        }
        (!is_loopback(name)).then_some(Scheme::Https)
    }
}

/// As references write it: an IPv6 address in brackets.
fn written(named: &str) -> String {
    match named.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => named.to_ascii_lowercase(),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// What container runtimes take for their own machine.
fn is_loopback(name: &str) -> bool {
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(named: &[&str]) -> PlainHosts {
        let named: Vec<String> = named.iter().map(|host| (*host).to_owned()).collect();
        PlainHosts::new(&named)
    }

    #[test]
    fn the_machine_itself_is_asked_only_where_it_is_named() {
        for host in [
            "localhost",
            "LOCALHOST:5000",
            "127.0.0.1:5000",
            "127.1.2.3",
            "[::1]:5000",
            "[::1]",
        ] {
            assert_eq!(hosts(&["r.io"]).scheme(host), None, "{host}");
        }
        for (named, host) in [
            ("localhost:5000", "localhost:5000"),
            ("127.0.0.1", "127.0.0.1:5000"),
            ("::1", "[::1]:5000"),
            ("[::1]:5000", "[::1]:5000"),
        ] {
            let scheme = hosts(&[named]).scheme(host);
            assert_eq!(scheme, Some(Scheme::PlainHttp), "{named} {host}");
        }
        assert_eq!(hosts(&["127.0.0.1"]).scheme("127.0.0.2:5000"), None);
        assert_eq!(hosts(&["127.0.0.1:5000"]).scheme("127.0.0.1:5001"), None);
    }

    #[test]
    fn plain_http_is_spoken_with_hosts_that_are_named_and_no_others() {
        let hosts = hosts(&["r.io", "Other.io:5000", "10.0.0.1"]);
        for host in [
            "r.io",
            "R.io:80",
            "r.io:5000",
            "other.io:5000",
            "10.0.0.1:443",
        ] {
            assert_eq!(hosts.scheme(host), Some(Scheme::PlainHttp), "{host}");
        }
        for host in [
            "a.r.io",
            "other.io",
            "other.io:5001",
            "10.0.0.10",
            "localhost.evil.io:80",
            "docker.io",
        ] {
            assert_eq!(hosts.scheme(host), Some(Scheme::Https), "{host}");
        }
    }
}
