//! Reads how full the filesystem is that the runtime keeps its images on.
//!
//! CRI names a directory and what images use of it, but neither its size nor what is free: that is asked of the kernel, in this
//! process's own view of the files.

use std::path::PathBuf;

use k8s_cri::v1::ImageFsInfoRequest;
use rustix::io::Errno;

use super::{LIST_TIMEOUT, Runtime, within};
use crate::node::Disk;

/// Why nobody knows how full the disk is.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The runtime was asked in vain.
    #[error("the runtime does not say where it keeps images: {0}")]
    Unnamed(String),
    /// The directory cannot be looked at.
    #[error(
        "cannot read the filesystem of {path} ({errno}): mount the host's directory into the agent's container and name it with --image-filesystem"
    )]
    Unreadable {
        /// Where it should be.
        path: PathBuf,
        /// What the kernel says.
        errno: Errno,
    },
    /// The call did not come back.
    #[error("internal error")]
    Lost,
}

impl Runtime {
    /// What is free of the filesystem that images are kept on, now.
    pub(super) async fn disk(&self) -> Result<Disk, Error> {
        let path = match &self.image_filesystem {
            Some(path) => path.clone(),
            None => self.mountpoint().await?,
        };
        let read = move || match rustix::fs::statvfs(&path) {
            Ok(found) => Ok(Disk {
                free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
                total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            }),
            Err(errno) => Err(Error::Unreadable { path, errno }),
        };
        tokio::task::spawn_blocking(read)
            .await
            .unwrap_or(Err(Error::Lost))
    }

    async fn mountpoint(&self) -> Result<PathBuf, Error> {
        let mut client = self.images.clone();
        let call = client.image_fs_info(ImageFsInfoRequest::default());
        let answer = within(LIST_TIMEOUT, call)
            .await
            .map_err(|error| Error::Unnamed(self.explain(error).to_string()))?;
        // Like the kubelet, which takes the first one too.
        let first = answer.image_filesystems.into_iter().next();
        first
            .and_then(|usage| usage.fs_id)
            .map(|id| PathBuf::from(id.mountpoint))
            .filter(|path| path.is_absolute())
            .ok_or_else(|| Error::Unnamed("its answer to ImageFsInfo is empty".to_owned()))
    }
}
