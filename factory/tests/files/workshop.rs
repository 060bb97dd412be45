//! A folder to run `image-factory` in.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

use tempfile::TempDir;

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_image-factory");

/// A temporary folder.
pub(crate) struct Workshop(TempDir);

impl Workshop {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// One with a copy of a folder.
    pub(crate) fn copy_of(folder: &Path) -> Self {
        let workshop = Self::new();
        for file in files(folder) {
            copy(
                &file,
                &workshop.path().join(file.strip_prefix(folder).unwrap()),
            );
        }
        workshop
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file and the folders above it.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// All files below a folder, none if there is no such folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Paths below a folder, and their texts.
pub(crate) fn contents(folder: &Path) -> BTreeMap<String, String> {
    per_file(folder, |path| fs::read_to_string(path).unwrap())
}

/// Paths below a folder, and when they were written.
pub(crate) fn times(folder: &Path) -> BTreeMap<String, SystemTime> {
    per_file(folder, |path| {
        fs::metadata(path).unwrap().modified().unwrap()
    })
}

fn per_file<T>(folder: &Path, of: impl Fn(&Path) -> T) -> BTreeMap<String, T> {
    let name = |path: &Path| path.strip_prefix(folder).unwrap().display().to_string();
    files(folder)
        .iter()
        .map(|path| (name(path), of(path)))
        .collect()
}

/// Copies a file and makes the folders above it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
}

/// Runs the program in a folder at a moment. What it said, and its exit code if that is not 0.
pub(crate) fn run(folder: &Path, now: &str, args: &[&str]) -> String {
    let output = start(folder, now, args);
    let mut said = String::from_utf8(output.stderr).unwrap();
    said.push_str(&String::from_utf8(output.stdout).unwrap());
    let code = output.status.code().unwrap();
    if code != 0 {
        writeln!(said, "exit code {code}").unwrap();
    }
    said
}

/// Runs the program in a folder at a moment.
pub(crate) fn start(folder: &Path, now: &str, args: &[&str]) -> Output {
    Command::new(PROGRAM)
        .current_dir(folder)
        .args(args)
        .args(["--now", now])
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
}
