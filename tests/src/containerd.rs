//! A real containerd of one node: own root, state, socket and registry configuration; no CNI, no cgroups, no pods.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cri_client::CriClient;
use crate::process::{Process, Program};
use crate::proxy::NODE_HEADER;
use crate::{dirs, parts};

/// Where its images go.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Disk {
    /// The machine's.
    #[default]
    Machine,
    /// A tmpfs of this many megabytes: a disk that fills up.
    Tmpfs(u32),
}

/// One containerd. Dropped: killed, its mounts undone.
#[derive(Debug)]
pub struct Containerd {
    folder: PathBuf,
    node: String,
    process: Process,
}

impl Containerd {
    /// Starts one in `folder`; it names itself `node` in each request to a registry.
    pub async fn start(folder: &Path, node: &str, disk: Disk) -> Result<Self> {
        parts::require_root()?;
        std::fs::create_dir_all(folder).context("create containerd's folder")?;
        if let Disk::Tmpfs(megabytes) = disk {
            dirs::mount_tmpfs(&folder.join("root"), megabytes)?;
        }
        let config = folder.join("containerd.toml");
        std::fs::write(&config, configuration(folder))
            .context("write containerd's configuration")?;
        let program = Program::new("containerd", parts::installed("containerd")?, folder)
            .arg("--config")
            .arg(&config);
        let process = Process::start(program)?;
        let mut containerd = Self {
            folder: folder.to_owned(),
            node: node.to_owned(),
            process,
        };
        // Every host that has no file of its own is asked as containerd would ask it, with the node's name added.
        containerd.write_hosts("_default", "")?;
        containerd.wait_ready().await?;
        Ok(containerd)
    }

    /// The socket's path.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("run/containerd.sock")
    }

    /// `unix:///...`, as `--runtime-endpoint` wants it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Its CRI socket, called by a bystander.
    #[must_use]
    pub fn cri(&self) -> CriClient {
        CriClient::new(&self.socket())
    }

    /// Sends pulls from `host` (as in references) to `server`, such as `https://127.0.0.1:5000`. Takes effect with the next pull.
    pub fn redirect(&self, host: &str, server: &str) -> Result<()> {
        self.write_hosts(host, &format!("server = \"{server}\"\n"))
    }

    /// Trusts the authority of this certificate at `host`. Takes effect with the next pull.
    pub fn trust(&self, host: &str, authority: &Path) -> Result<()> {
        let ca = authority.display();
        self.write_hosts(
            host,
            &format!("server = \"https://{host}\"\nca = \"{ca}\"\n"),
        )
    }

    /// Bytes of downloads that have begun and not ended, as they lie on the disk.
    #[must_use]
    pub fn partial_bytes(&self) -> u64 {
        let ingests = self
            .folder
            .join("root/io.containerd.content.v1.content/ingest");
        let folders = std::fs::read_dir(ingests).into_iter().flatten().flatten();
        folders
            .filter_map(|entry| std::fs::metadata(entry.path().join("data")).ok())
            .map(|data| data.len())
            .sum()
    }

    /// `kill -9`. What it downloaded stays.
    pub fn kill(&mut self) {
        self.process.kill();
        dirs::unmount_below(&self.folder.join("run"));
        dirs::unmount_below(&self.folder.join("root/tmpmounts"));
    }

    /// Starts again on the same socket with what it holds.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.restart()?;
        self.wait_ready().await
    }

    /// Its process, to pause it or read its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let cri = self.cri();
        self.process
            .wait_ready(Duration::from_secs(30), async || {
                cri.images().await.map(drop)
            })
            .await
    }

    fn write_hosts(&self, host: &str, server: &str) -> Result<()> {
        ensure!(!host.contains('/'), "{host} is no registry host");
        let folder = self.folder.join("certs.d").join(host);
        std::fs::create_dir_all(&folder).context("create a folder for hosts.toml")?;
        // containerd 1.6 refuses a file without a host table, and an empty one will do.
        let text = format!(
            "{server}[host]\n[header]\n  {NODE_HEADER} = \"{}\"\n",
            self.node
        );
        std::fs::write(folder.join("hosts.toml"), text).context("write hosts.toml")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.process.kill();
        dirs::unmount_below(&self.folder);
    }
}

fn configuration(folder: &Path) -> String {
    let at = |name: &str| folder.join(name).display().to_string();
    // overlayfs needs a file system below that it can stack on; where that is itself an overlay or in memory, copying works.
    let root = folder.join("root");
    let stackable = ["ext4", "xfs", "btrfs"].contains(&dirs::file_system(&root).as_str());
    let snapshotter = if stackable { "overlayfs" } else { "native" };
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
  max_recv_message_size = 16777216
  max_send_message_size = 16777216
[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
  disable_cgroup = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{certs}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
"#,
        root = root.display(),
        state = at("run/state"),
        socket = at("run/containerd.sock"),
        opt = at("opt"),
        cni = at("cni"),
        certs = at("certs.d"),
    )
}
