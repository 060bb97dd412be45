//! Reads and writes the factory's files: one run at a time, each file whole or not at all.

use std::fs::{self, File as Handle, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::Builder;

use crate::problem::Problem;
use crate::state::{File, Files, Kind, State};

/// The enrollments.
const IMAGES: &str = "images.yaml";

/// Files that a killed run leaves behind begin and end with this.
const TEMPORARY: (&str, &str) = (".image-factory-", ".tmp");

/// Longest Dockerfile. No real one comes near.
const MAX_DOCKERFILE_BYTES: u64 = 4 << 20;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder is not there, or is none.
    #[error("{} cannot be opened as the factory's folder: give the one with images.yaml by --dir", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The lock.
    #[error("lock {}", path.display())]
    Lock {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Reading.
    #[error("read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Writing, moving or removing.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// One word for it.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Folder { .. } => "folder",
            Self::Lock { .. } => "lock",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
        }
    }
}

/// What happens to one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It gets this text.
    Write {
        /// The file.
        path: PathBuf,
        /// Its text so far, if it is there.
        before: Option<String>,
        /// Its text from now on.
        after: String,
    },
    /// It goes elsewhere. What is there is replaced.
    Move {
        /// From here.
        from: PathBuf,
        /// To there.
        to: PathBuf,
        /// Its text.
        text: String,
    },
    /// It goes.
    Remove {
        /// The file.
        path: PathBuf,
        /// Its text.
        text: String,
    },
}

/// Whether others may read at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Others may read, too.
    Read,
    /// Nobody else.
    Write,
}

/// The folder with images.yaml, locked while this lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    root: PathBuf,
    /// Its lock ends with the process, however that ends, and leaves no file behind.
    _lock: Handle,
}

impl Folder {
    /// Opens and locks it. `waits` is called if another run has it, before waiting for its end.
    pub fn open(path: &Path, root: &Path, access: Access, waits: impl Fn()) -> Result<Self, Error> {
        let opened = Handle::open(path).and_then(|handle| {
            if handle.metadata()?.is_dir() {
                Ok(handle)
            } else {
                Err(io::ErrorKind::NotADirectory.into())
            }
        });
        let handle = opened.map_err(|source| Error::Folder {
            path: path.to_owned(),
            source,
        })?;
        let tried = match access {
            Access::Read => handle.try_lock_shared(),
            Access::Write => handle.try_lock(),
        };
        let locked = match tried {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                waits();
                match access {
                    Access::Read => handle.lock_shared(),
                    Access::Write => handle.lock(),
                }
            }
            Err(TryLockError::Error(error)) => Err(error),
        };
        locked.map_err(|source| Error::Lock {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            root: root.to_owned(),
            _lock: handle,
        })
    }

    /// A path in the folder.
    #[must_use]
    pub fn join(&self, relative: &str) -> PathBuf {
        self.path.join(relative)
    }

    /// The file of a state in use.
    #[must_use]
    pub fn live(&self, kind: Kind, name: &str) -> PathBuf {
        self.join(&format!("state/{}/{name}.yaml", kind.folder()))
    }

    /// The file of a state out of use.
    #[must_use]
    pub fn archived(&self, kind: Kind, name: &str) -> PathBuf {
        self.join(&format!("state/_archive/{}/{name}.yaml", kind.folder()))
    }

    /// The name of images.yaml for messages, and its text if it is there.
    pub fn images(&self) -> Result<(String, Option<String>), Error> {
        let path = self.join(IMAGES);
        let label = label(&path);
        match fs::read(&path) {
            Ok(bytes) => Ok((label, Some(String::from_utf8_lossy(&bytes).into_owned()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((label, None)),
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// All state files.
    pub fn state(&self) -> Result<State, Error> {
        Ok(State {
            images: files(&self.join("state/images"))?,
            bases: files(&self.join("state/base-images"))?,
            archived_images: files(&self.join("state/_archive/images"))?,
            archived_bases: files(&self.join("state/_archive/base-images"))?,
        })
    }

    /// The name of a Dockerfile for messages, and its text or why there is none.
    pub fn dockerfile(&self, relative: &str) -> (String, Result<String, String>) {
        let path = self.root.join(relative);
        (label(&path), self.dockerfile_text(&path, relative))
    }

    fn dockerfile_text(&self, path: &Path, relative: &str) -> Result<String, String> {
        let explain = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => {
                format!("the Dockerfile {relative} is not there: correct dockerfile, or --root")
            }
            _ => format!("the Dockerfile {relative} cannot be read: {error}"),
        };
        // Links are followed first: one that leads out of the root is a way out like any other.
        let real = path.canonicalize().map_err(explain)?;
        let root = self.root.canonicalize().map_err(explain)?;
        if !real.starts_with(&root) {
            return Err(format!("the Dockerfile {relative} leads out of the root"));
        }
        let metadata = fs::metadata(&real).map_err(explain)?;
        if !metadata.is_file() {
            return Err(format!("the Dockerfile {relative} is no file"));
        }
        let mut bytes = Vec::new();
        Handle::open(&real)
            .and_then(|file| file.take(MAX_DOCKERFILE_BYTES + 1).read_to_end(&mut bytes))
            .map_err(explain)?;
        if bytes.len() as u64 > MAX_DOCKERFILE_BYTES {
            return Err(format!("the Dockerfile {relative} is over 4 MiB"));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Removes what a killed run left behind. Needs [`Access::Write`].
    pub fn clean(&self) -> Result<(), Error> {
        for folder in ["state/images", "state/base-images"] {
            for (path, name) in entries(&self.join(folder))? {
                if name.starts_with(TEMPORARY.0) && name.ends_with(TEMPORARY.1) {
                    fs::remove_file(&path).map_err(|source| Error::Write { path, source })?;
                }
            }
        }
        Ok(())
    }
}

/// A path as the user can open it, without a leading `./`.
#[must_use]
pub fn label(path: &Path) -> String {
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}

/// Carries out changes in their order. Each file is whole at any moment; what was done when one fails stays done.
pub fn apply(changes: &[Change]) -> Result<(), Error> {
    let mut folders = std::collections::BTreeSet::new();
    for change in changes {
        let (path, done) = match change {
            Change::Write { path, after, .. } => (path, write(path, after)),
            Change::Move { from, to, .. } => (from, rename(from, to)),
            Change::Remove { path, .. } => (path, fs::remove_file(path)),
        };
        done.map_err(|source| Error::Write {
            path: path.clone(),
            source,
        })?;
        folders.extend(path.parent().map(Path::to_owned));
        if let Change::Move { to, .. } = change {
            folders.extend(to.parent().map(Path::to_owned));
        }
    }
    // A rename is on the disk when its folder is.
    for path in folders {
        Handle::open(&path)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| Error::Write { path, source })?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mode = match fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode() & 0o777,
        // The umask takes from it what the user wants.
        Err(_) => 0o666,
    };
    let mut file = Builder::new()
        .prefix(TEMPORARY.0)
        .suffix(TEMPORARY.1)
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::rename(from, to)
}

/// State files of a folder. Examples and other endings are not state.
fn files(folder: &Path) -> Result<Files, Error> {
    let mut files = Files::new();
    for (path, file_name) in entries(folder)? {
        let Some(name) = file_name.strip_suffix(".yaml") else {
            continue;
        };
        let is_example = name.ends_with(".example") || name.ends_with(".examples");
        if is_example || name.is_empty() || !path.is_file() {
            continue;
        }
        let label = label(&path);
        let bytes = fs::read(&path).map_err(|source| Error::Read { path, source })?;
        let file = match String::from_utf8(bytes) {
            Ok(text) => File::parse(&label, text),
            Err(_) => File {
                map: Err(Problem::file(
                    &label,
                    "the file is not UTF-8: restore it from git",
                )),
                label,
                text: String::new(),
            },
        };
        files.insert(name.to_owned(), file);
    }
    Ok(files)
}

/// Paths and names in a folder; none if it is not there.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, String)>, Error> {
    let failed = |source| Error::Read {
        path: folder.to_owned(),
        source,
    };
    let listing = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((entry.path(), name));
        }
    }
    Ok(found)
}
