//! Finds the programs that a test runs. A missing one is an error that names the command which brings it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Where Debian puts daemons that a normal user's PATH leaves out.
const MORE_FOLDERS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program of the system, such as `containerd` or `etcd`.
pub fn installed(program: &str) -> Result<PathBuf> {
    let path = environment("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(std::env::split_paths(MORE_FOLDERS))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{program} is not installed; run hack/setup"))
}

/// A Kubernetes program: from $`KUBEBUILDER_ASSETS`, else the newest in the cache that `hack/setup` fills, else the system's.
pub fn kubernetes(program: &str) -> Result<PathBuf> {
    if let Some(assets) = environment("KUBEBUILDER_ASSETS") {
        let candidate = Path::new(&assets).join(program);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    let cache = cache_folder()?;
    let mut versions: Vec<(Vec<u32>, PathBuf)> = std::fs::read_dir(&cache)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((version(&entry.file_name())?, entry.path().join(program))))
        .filter(|(_, candidate)| candidate.is_file())
        .collect();
    versions.sort();
    if let Some((_, newest)) = versions.pop() {
        return Ok(newest);
    }
    installed(program).map_err(|_| {
        anyhow::anyhow!(
            "{program} is neither in $KUBEBUILDER_ASSETS nor in {}; run hack/setup",
            cache.display()
        )
    })
}

/// The registry of the distribution project, version 3, which `hack/setup` builds into the cache.
pub fn distribution() -> Result<PathBuf> {
    let cache = cache_folder()?;
    let mut found: Vec<PathBuf> = std::fs::read_dir(&cache)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("distribution-3")
        })
        .map(|entry| entry.path().join("registry"))
        .filter(|candidate| candidate.is_file())
        .collect();
    found.sort();
    found.pop().with_context(|| {
        format!(
            "the registry of distribution 3 is not in {}; run hack/setup",
            cache.display()
        )
    })
}

/// One of our own programs, beside the running test in the target folder.
pub fn built(program: &str) -> Result<PathBuf> {
    let me = std::env::current_exe().context("find the running program")?;
    // A test runs in target/<profile>/deps, a program of the workspace in target/<profile>.
    let found = me
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file());
    found.with_context(|| {
        format!("{program} is not built; run: cargo build -p drop-agent -p drop-coordinator -p drop-factory (hack/test does)")
    })
}

/// A file of the workspace, such as `charts/drop/crds`.
#[must_use]
pub fn workspace(path: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).join(path)
}

/// Containerd mounts each layer to unpack it, and only root may mount.
pub fn require_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "the testbed's containerds mount image layers, which only root may do; run it by hack/test, which uses sudo for the test programs alone"
        );
    }
    Ok(())
}

/// A variable that is set and not empty. The testbed has no command line: these few variables are its flags.
#[must_use]
pub fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn cache_folder() -> Result<PathBuf> {
    if let Some(own) = environment("DROP_CACHE_DIR") {
        return Ok(own.into());
    }
    if let Some(base) = environment("XDG_CACHE_HOME") {
        return Ok(Path::new(&base).join("drop"));
    }
    let home = environment("HOME").context("HOME is not set; set DROP_CACHE_DIR")?;
    Ok(Path::new(&home).join(".cache/drop"))
}

/// `kubernetes-1.34.4` -> `[1, 34, 4]`.
fn version(folder: &std::ffi::OsStr) -> Option<Vec<u32>> {
    let numbers = folder.to_str()?.strip_prefix("kubernetes-")?;
    numbers
        .split('.')
        .map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_the_command_that_brings_it() {
        let refusal = installed("no-such-program").unwrap_err().to_string();
        assert_eq!(refusal, "no-such-program is not installed; run hack/setup");
    }

    #[test]
    fn versions_sort_as_numbers() {
        assert!(version("kubernetes-1.34.10".as_ref()) > version("kubernetes-1.34.9".as_ref()));
        assert_eq!(version("kubernetes-1.34.4.partial".as_ref()), None);
    }
}
