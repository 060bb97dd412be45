//! A copy of the workspace in which every mutation is built in, each behind a switch: one build serves them all.
//!
//! The copy lies in the target directory and is built into the same target directory, so that no dependency is built again.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::table::MUTATIONS;

/// Number of the mutation that is switched on, for the programs of the copy.
pub(crate) const SWITCH: &str = "DROP_MUTATION";

/// Appended to each crate that has mutations.
const IS_ON: &str = r#"
/// Whether the mutation with this number is switched on.
#[doc(hidden)]
#[must_use]
pub fn is_mutated(number: usize) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<usize>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("DROP_MUTATION").ok()?.parse().ok());
    *chosen == Some(number)
}
"#;

/// Builds the simulation with all mutations, and answers where it is.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    let target = target_dir()?;
    let copy = target.join("mutated-workspace");
    copy_workspace(&copy)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["test", "--no-run", "--workspace", "--test", "simulation"])
        .args(["--offline", "--locked", "--message-format=json"])
        .env("CARGO_TARGET_DIR", &target)
        .current_dir(&copy)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("run cargo")?;
    ensure!(
        output.status.success(),
        "the mutated workspace does not build, see above"
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "simulation")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo names no executable of the simulation")
}

/// The target directory that this very program was built into: target/debug/deps/mutations-...
fn target_dir() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program
        .ancestors()
        .nth(3)
        .context("not in a target directory")?;
    Ok(target.to_owned())
}

fn copy_workspace(copy: &Path) -> anyhow::Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no workspace")?;
    for file in ["Cargo.toml", "Cargo.lock"] {
        put(
            &copy.join(file),
            &std::fs::read_to_string(workspace.join(file))?,
        )?;
    }
    let manifest = std::fs::read_to_string(workspace.join("Cargo.toml"))?;
    for member in members(&manifest).filter(|member| *member != "tests") {
        copy_sources(workspace, copy, Path::new(member))?;
    }
    // Of the scenarios' crate the simulation needs nothing but the manifest.
    let manifest = std::fs::read_to_string(workspace.join("tests/Cargo.toml"))?;
    put(&copy.join("tests/Cargo.toml"), &manifest)?;
    put(
        &copy.join("tests/src/lib.rs"),
        "//! Empty: the simulation needs none of it.\n",
    )?;
    put(
        &copy.join("tests/tests/mutations/main.rs"),
        "fn main() {}\n",
    )?;
    copy_sources(workspace, copy, Path::new("tests/tests/simulation"))
}

/// The folders of the workspace's members.
fn members(manifest: &str) -> impl Iterator<Item = &str> {
    let list = manifest
        .split_once("members = [")
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or("", |(list, _)| list);
    list.split(',')
        .map(|member| member.trim().trim_matches('"'))
}

fn copy_sources(workspace: &Path, copy: &Path, folder: &Path) -> anyhow::Result<()> {
    let folder_path = workspace.join(folder);
    let entries = std::fs::read_dir(&folder_path)
        .with_context(|| format!("read {}", folder_path.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_sources(workspace, copy, &path)?;
        } else if let Ok(text) = std::fs::read_to_string(entry.path()) {
            put(&copy.join(&path), &mutate(&path, text)?)?;
        }
    }
    Ok(())
}

/// Builds the file's mutations in.
fn mutate(file: &Path, mut text: String) -> anyhow::Result<String> {
    for (number, mutation) in MUTATIONS.iter().enumerate() {
        if Path::new(mutation.file) != file {
            continue;
        }
        let count = text.matches(mutation.before).count();
        if count != 1 {
            bail!(
                "{:?} occurs {count} times in {}; correct the mutation {:?}",
                mutation.before,
                mutation.file,
                mutation.name
            );
        }
        let is_on = format!("crate::is_mutated({number})");
        text = text.replace(mutation.before, &mutation.after.replace("{on}", &is_on));
    }
    let is_root = ["agent/src/lib.rs", "coordinator/src/lib.rs"]
        .iter()
        .any(|root| file == Path::new(root));
    if is_root {
        text.push_str(IS_ON);
    }
    Ok(text)
}

/// Writes a file unless it is there already: cargo builds what is newer.
fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
