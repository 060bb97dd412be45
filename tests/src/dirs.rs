//! Private directories: short paths (a Unix socket's has at most 107 bytes), unmounted and removed when dropped.
//!
//! A test program that was killed leaves its directory behind; the next one removes it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use anyhow::{Context, Result};

use crate::parts;

const PREFIX: &str = "drop-test-";
/// Locked by the program whose directory it is in, for as long as that lives.
const LOCK: &str = ".lock";

/// A directory of one test. Dropped: mounts in it are undone and it is removed, unless `DROP_TEST_KEEP` is set.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// A new empty directory below `/tmp`.
    pub fn new() -> Result<Self> {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let name = format!(
            "{PREFIX}{}-{:08x}",
            std::process::id(),
            rand::random::<u32>()
        );
        let path = Path::new("/tmp").join(name);
        std::fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        let lock = File::create(path.join(LOCK)).context("create a lock file")?;
        lock.try_lock().context("lock the new directory")?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory in it, made if it is not there.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.path.join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if parts::environment("DROP_TEST_KEEP").is_some() {
            keep(&self.path);
            return;
        }
        remove(&self.path);
    }
}

/// Mounts a tmpfs of `megabytes` for disk-full tests. It goes with the scratch directory that it is in.
pub fn mount_tmpfs(folder: &Path, megabytes: u32) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let done = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
        .arg(folder)
        .output()
        .context("run mount")?;
    anyhow::ensure!(
        done.status.success(),
        "mount a tmpfs: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

/// The type of the file system that `path` is on, such as `ext4` or `tmpfs`.
#[must_use]
pub fn file_system(path: &Path) -> String {
    let longest = mounts()
        .into_iter()
        .filter(|(point, _)| path.starts_with(point))
        .max_by_key(|(point, _)| point.as_os_str().len());
    longest.map(|(_, kind)| kind).unwrap_or_default()
}

/// Undoes each mount below `path`, the innermost first. Lazily, so that a dying process does not block it.
pub fn unmount_below(path: &Path) {
    let mut points: Vec<PathBuf> = mounts()
        .into_iter()
        .map(|(point, _)| point)
        .filter(|point| point.starts_with(path))
        .collect();
    points.sort();
    for point in points.iter().rev() {
        let _ = Command::new("umount").arg("-l").arg(point).output();
    }
}

/// Mount points and file-system types of this mount namespace, in the order they were mounted.
fn mounts() -> Vec<(PathBuf, String)> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let rows = table
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    rows.filter(|fields| fields.len() > 2)
        .map(|fields| (PathBuf::from(fields[1]), fields[2].to_owned()))
        .collect()
}

fn remove(path: &Path) {
    unmount_below(path);
    let _ = std::fs::remove_dir_all(path);
}

/// Marks a directory so that no sweep takes it away.
fn keep(path: &Path) {
    #[expect(
        clippy::print_stderr,
        reason = "asked for by DROP_TEST_KEEP, and read by a person"
    )]
    {
        eprintln!("kept for you: {} (remove it yourself)", path.display());
    }
    let _ = std::fs::write(path.join(".keep"), "");
}

/// Removes directories whose test program is gone: it holds the lock no more. A directory without a lock is being made, or
/// being removed by another program.
fn sweep() {
    for entry in std::fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX));
        let path = entry.path();
        if !ours || path.join(".keep").exists() {
            continue;
        }
        let abandoned = File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if abandoned {
            remove(&path);
        }
    }
}
