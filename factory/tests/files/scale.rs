//! Five hundred images with Dockerfiles.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::workshop::{PROGRAM, Workshop, run, times};

const NOW: &str = "2026-03-01T10:00:00Z";
const LATER: &str = "2026-04-01T10:00:00Z";
const IMAGES: usize = 500;

/// Far above what it takes, which is some tens of milliseconds: the machine may be busy, and the build unoptimised.
const WITHIN: Duration = Duration::from_secs(10);

const MAX_BYTES: u64 = 50 << 20;

fn enroll(workshop: &Workshop) {
    let mut images = String::new();
    for i in 0..IMAGES {
        write!(
            images,
            "- name: app-{i}\n  registry: ghcr.io\n  repository: owner/app-{i}\n  source:\n    provider: github\n    repo: owner/mono\n    branch: main\n    dockerfile: apps/app-{i}/Dockerfile\n    workflow: build.yml\n  rebuildDelay: 7d\n  autoRebuild: true\n"
        )
        .unwrap();
        let dockerfile = format!(
            "# syntax=docker/dockerfile:1\nARG NODE=22\nFROM --platform=$BUILDPLATFORM node:${{NODE}}-slim-{} AS build\nWORKDIR /src\nCOPY . .\nRUN <<EOF\nnpm ci\nnpm run build\nEOF\nFROM gcr.io/distroless/nodejs{}-debian12:latest\nCOPY --from=build /src/dist /app\nCMD [\"/app/main.js\"]\n",
            i % 40,
            i % 10
        );
        workshop.write(&format!("apps/app-{i}/Dockerfile"), &dockerfile);
    }
    workshop.write("image-factory/images.yaml", &images);
}

#[test]
fn five_hundred_images_take_a_moment_and_little_memory() {
    let workshop = Workshop::new();
    let factory = workshop.path().join("image-factory");
    enroll(&workshop);
    assert_eq!(
        run(&factory, NOW, &["sync"]),
        "500 images, 50 base images: 550 files written, 0 archived\n"
    );
    let written = times(&factory);

    let began = Instant::now();
    let peak = peak_memory(&factory, &["sync", "--now", LATER]);
    let took = began.elapsed();
    assert!(took < WITHIN, "a run with nothing to do took {took:?}");
    assert!(peak < MAX_BYTES, "{peak} bytes of memory");
    assert_eq!(times(&factory), written);
}

/// The most memory that the program had, as the kernel counts it, asked again and again while it runs.
fn peak_memory(folder: &Path, args: &[&str]) -> u64 {
    let mut child = Command::new(PROGRAM)
        .current_dir(folder)
        .args(args)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let kilobytes = text
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kilobytes.unwrap_or(0) << 10);
    }
    assert!(child.wait().unwrap().success());
    assert!(peak > 0, "no VmHWM in {status}");
    peak
}
