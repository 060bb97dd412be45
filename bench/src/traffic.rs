//! Bytes of the connections to a port, as the kernel counts them: with everything that gRPC, HTTP/2 and keep-alives add.

use std::time::Duration;

use anyhow::{Context, Result};
use drop_tests::command::Command;
use drop_tests::parts;

/// The connections that a server has open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) connections: u64,
    /// By the server.
    pub(crate) sent: u64,
    /// By the server.
    pub(crate) received: u64,
}

/// Looks at the open connections of the server at `address`.
pub(crate) async fn of(address: &str) -> Result<Traffic> {
    let (_, port) = address.rsplit_once(':').context("an address has a port")?;
    let listing = Command::new(&parts::installed("ss")?)
        .args(["-tinHO", "state", "established"])
        .args([format!("( sport = :{port} )")])
        .run(Duration::from_secs(60))
        .await?
        .success()?;
    Ok(sum(&listing))
}

fn sum(listing: &str) -> Traffic {
    let mut all = Traffic::default();
    for line in listing.lines().filter(|line| !line.trim().is_empty()) {
        let bytes = |name: &str| {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix(name)?.parse::<u64>().ok())
                .unwrap_or_default()
        };
        all.connections += 1;
        all.sent += bytes("bytes_sent:");
        all.received += bytes("bytes_received:");
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_connection() {
        let listing = "0 0 127.0.0.1:7070 127.0.0.1:41 cubic bytes_sent:700 bytes_acked:700 bytes_received:50 segs_out:9\n\
                       0 0 127.0.0.1:7070 127.0.0.1:42 cubic bytes_sent:300 segs_out:9\n";
        let expected = Traffic {
            connections: 2,
            sent: 1000,
            received: 50,
        };
        assert_eq!(sum(listing), expected);
    }
}
