//! drop's own registry client, as a test uses it.

use anyhow::{Context, Result};
use drop_oci::client::Scheme;
use drop_oci::transport::{Limits, Options};
use drop_oci::{Client, Credential, Hosts, Repository, Transport};

/// A client with a memory of its own.
pub fn client(options: &Options) -> Result<Client> {
    client_within(options, Limits::default())
}

/// The same with other limits on how much a host is asked.
pub fn client_within(options: &Options, limits: Limits) -> Result<Client> {
    // Only the first call installs it; the others find it there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let transport = Transport::new(options, Hosts::new(limits)).context("make a transport")?;
    Ok(Client::new(transport))
}

/// A repository at a registry without TLS, given as `127.0.0.1:port`.
pub fn plain(address: &str, repository: &str) -> Result<Repository> {
    let reference = format!("{address}/{repository}").parse()?;
    Ok(Repository::of(&reference, Scheme::PlainHttp)?)
}

/// User name and password.
#[must_use]
pub fn basic(username: &str, password: &str) -> Credential {
    Credential::Basic {
        username: username.to_owned(),
        password: password.to_owned(),
    }
}
