//! What a process has cost so far, as the kernel counts it.

use anyhow::{Context, Result};

/// Memory and processor time of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Resident now.
    pub(crate) rss_mib: f64,
    /// The most that was ever resident.
    pub(crate) peak_mib: f64,
    /// Seconds on a processor, over all threads that still live.
    pub(crate) cpu: f64,
}

/// Looks at a running process.
pub(crate) fn usage(pid: u32) -> Result<Usage> {
    let status = read(pid, "status")?;
    let mebibytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|rest| {
            rest.trim_matches([':', '\t', ' '])
                .trim_end_matches(" kB")
                .parse::<f64>()
                .ok()
        });
        kilobytes
            .map(|kilobytes| kilobytes / 1024.0)
            .with_context(|| format!("no {name} of process {pid}"))
    };
    Ok(Usage {
        rss_mib: mebibytes("VmRSS")?,
        peak_mib: mebibytes("VmHWM")?,
        cpu: cpu(pid)?,
    })
}

/// Nanoseconds from the scheduler: the ticks of `stat` are too coarse for a process at rest.
fn cpu(pid: u32) -> Result<f64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
        .with_context(|| format!("threads of process {pid}"))?;
    let mut nanos: u64 = 0;
    for thread in threads.flatten() {
        // A thread that ends meanwhile has no file any more.
        let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        nanos += text
            .split(' ')
            .next()
            .and_then(|first| first.parse::<u64>().ok())
            .unwrap_or_default();
    }
    Ok(nanos as f64 / 1e9)
}

fn read(pid: u32, file: &str) -> Result<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}"))
        .with_context(|| format!("{file} of process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_can_look_at_itself() {
        let usage = usage(std::process::id()).unwrap();
        assert!(
            usage.rss_mib > 0.5 && usage.peak_mib >= usage.rss_mib,
            "{usage:?}"
        );
    }
}
