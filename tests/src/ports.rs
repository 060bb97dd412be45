//! Free ports on 127.0.0.1 that stay ours: below the kernel's ephemeral range, so that no outgoing connection takes one, and
//! locked by a file each, so that two test programs never choose the same.

use std::collections::HashMap;
use std::fs::File;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result, bail};

const FIRST: u16 = 18_000;
const COUNT: u16 = 12_000;

/// The locks of this process. The kernel gives them back when it ends, however it ends.
static TAKEN: LazyLock<Mutex<HashMap<u16, File>>> = LazyLock::new(Mutex::default);

/// A port that nobody listens on and that no other test gets while this process lives.
pub fn free() -> Result<u16> {
    // One folder a user: nobody can open the locks of another.
    let user = rustix::process::geteuid().as_raw();
    let locks = PathBuf::from(format!("/tmp/drop-test-ports-{user}"));
    std::fs::create_dir_all(&locks).context("create the folder of port locks")?;
    for _ in 0..1_000 {
        let port = FIRST + rand::random_range(0..COUNT);
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.contains_key(&port) {
            continue;
        }
        let Ok(lock) = File::create(locks.join(port.to_string())) else {
            continue;
        };
        if lock.try_lock().is_err() || TcpListener::bind(("127.0.0.1", port)).is_err() {
            continue;
        }
        taken.insert(port, lock);
        return Ok(port);
    }
    bail!(
        "found no free port in 1,000 tries between {FIRST} and {}",
        FIRST + COUNT
    )
}

/// `127.0.0.1:port` on a free port.
pub fn address() -> Result<String> {
    Ok(format!("127.0.0.1:{}", free()?))
}

/// An address of this machine that is not loopback: as other machines would name it.
pub fn own_address() -> Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    // Nothing is sent: the kernel only chooses the address that it would send from.
    socket.connect("198.51.100.1:9").context(
        "find this machine's address: it needs a network interface with a default route",
    )?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports: BTreeSet<u16> = (0..200).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 200);
    }
}
