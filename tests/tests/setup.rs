//! `hack/kubernetes`, the part of `hack/setup` that trusts a download, against a local file server.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use drop_tests::dirs::Scratch;
use drop_tests::parts;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use ring::digest::{SHA512, digest};
use tokio::net::TcpListener;
use tokio::process::Command;

const ARCHIVE: &str = "/envtest-v1.34.1-linux-amd64.tar.gz";
const RELEASES: &str = "/v1.34.4/bin/linux";

/// Stands in for Go: "builds" a program by writing where it was built, and needs no minutes for it.
const GO: &str = r#"#!/bin/sh
echo "$@" >>"$GO_CALLS"
case "$1 $2" in
"mod download")
  printf 'module k8s.io/kubernetes\n\ngo 1.24.0\n\nrequire (\n\tk8s.io/api v0.0.0\n\tk8s.io/other v1.2.3\n)\n' >"$GO_CALLS.mod"
  printf '{\n\t"GoMod": "%s"\n}\n' "$GO_CALLS.mod" ;;
"build "*)
  while [ "$1" != -o ]; do shift; done
  echo built >"$2" ;;
esac
"#;

/// A machine that has only what a test gives it.
struct Bench {
    scratch: Scratch,
    url: String,
}

impl Bench {
    async fn new(files: BTreeMap<String, Vec<u8>>) -> Result<Self> {
        let scratch = Scratch::new()?;
        let go = scratch.folder("bin")?.join("go");
        std::fs::write(&go, GO)?;
        std::fs::set_permissions(&go, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            scratch,
            url: serve(files).await?,
        })
    }

    /// Runs the script and returns what it said and how long it took.
    async fn run(&self, sha512: &str) -> Result<(String, Duration)> {
        let path = format!(
            "{}:/usr/sbin:/usr/bin:/sbin:/bin",
            self.scratch.path().join("bin").display()
        );
        let began = Instant::now();
        let output = Command::new(parts::workspace("hack/kubernetes"))
            .arg("test")
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.scratch.path())
            .env("DROP_CACHE_DIR", self.cache())
            .env("DROP_ENVTEST_URL", &self.url)
            .env("DROP_ENVTEST_SHA512", sha512)
            .env("DROP_KUBERNETES_URL", &self.url)
            .env("GO_CALLS", self.scratch.path().join("go-calls"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        ensure!(output.status.success(), "hack/kubernetes failed:\n{said}");
        Ok((said, began.elapsed()))
    }

    fn cache(&self) -> PathBuf {
        self.scratch.path().join("cache")
    }

    fn cached(&self, path: &str) -> String {
        std::fs::read_to_string(self.cache().join(path)).unwrap_or_else(|_| "missing".to_owned())
    }

    fn go_was_called(&self) -> bool {
        self.scratch.path().join("go-calls").exists()
    }
}

#[tokio::test]
async fn a_download_with_the_right_checksum_is_used_and_nothing_is_built() -> Result<()> {
    let archive = archive()?;
    let bench = Bench::new(upstream(&archive)).await?;
    let (said, _) = bench.run(&sha512(&archive)).await?;
    assert_eq!(
        bench.cached("kubernetes-1.34.1/kube-apiserver"),
        "downloaded",
        "{said}"
    );
    assert_eq!(
        bench.cached("kubernetes-1.34.4/kube-controller-manager"),
        "released",
        "{said}"
    );
    assert!(!bench.go_was_called(), "{said}");

    let (again, _) = bench.run(&sha512(&archive)).await?;
    assert!(!again.contains("downloading"), "{again}");
    Ok(())
}

#[tokio::test]
async fn a_download_with_a_wrong_checksum_is_refused_and_built_instead() -> Result<()> {
    let mut files = upstream(&archive()?);
    for (path, content) in &mut files {
        if path.ends_with("kube-apiserver") {
            content.extend_from_slice(b" and changed on the way");
        }
    }
    let bench = Bench::new(files).await?;
    let (said, _) = bench.run(&"0".repeat(128)).await?;
    for refused in ["envtest-v1.34.1-linux-amd64.tar.gz", "kube-apiserver"] {
        let sentence = format!("refused: the checksum of {refused} is not");
        assert!(said.contains(&sentence), "{said}");
    }
    assert!(said.contains("building"), "{said}");
    assert_eq!(
        bench.cached("kubernetes-1.34.4/kube-controller-manager"),
        "built\n",
        "{said}"
    );
    assert_eq!(
        bench.cached("kubernetes-1.34.1/kube-apiserver"),
        "missing",
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn a_server_that_hangs_costs_seconds() -> Result<()> {
    let mut bench = Bench::new(BTreeMap::new()).await?;
    let silent = TcpListener::bind(("127.0.0.1", 0)).await?;
    bench.url = format!("http://{}", silent.local_addr()?);
    let (said, took) = bench.run(&"0".repeat(128)).await?;
    assert!(said.contains("no download of envtest-v1.34.1"), "{said}");
    assert_eq!(
        bench.cached("kubernetes-1.34.4/kube-apiserver"),
        "built\n",
        "{said}"
    );
    assert!(took < Duration::from_secs(15), "it took {took:?}: {said}");
    Ok(())
}

#[tokio::test]
async fn an_unreachable_server_and_a_missing_archive_lead_to_a_build() -> Result<()> {
    let mut bench = Bench::new(BTreeMap::new()).await?;
    let (said, _) = bench.run(&"0".repeat(128)).await?;
    assert!(said.contains("404"), "{said}");
    assert!(bench.go_was_called(), "{said}");

    std::fs::remove_dir_all(bench.cache())?;
    bench.url = format!("http://127.0.0.1:{}", drop_tests::ports::free()?);
    let (said, _) = bench.run(&"0".repeat(128)).await?;
    assert!(said.contains("no download of"), "{said}");
    assert_eq!(
        bench.cached("kubernetes-1.34.4/kube-apiserver"),
        "built\n",
        "{said}"
    );
    Ok(())
}

/// What upstream serves: the archive, and single programs with their checksums.
fn upstream(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::from([(ARCHIVE.to_owned(), archive.to_vec())]);
    for architecture in ["amd64", "arm64"] {
        for program in ["kube-apiserver", "kube-controller-manager"] {
            let path = format!("{RELEASES}/{architecture}/{program}");
            files.insert(format!("{path}.sha512"), sha512(b"released").into_bytes());
            files.insert(path, b"released".to_vec());
        }
    }
    files
}

/// An archive laid out as upstream's.
fn archive() -> Result<Vec<u8>> {
    let scratch = Scratch::new()?;
    let folder = scratch.folder("controller-tools/envtest")?;
    for program in ["etcd", "kube-apiserver", "kubectl"] {
        std::fs::write(folder.join(program), "downloaded")?;
    }
    let file = scratch.path().join("archive.tar.gz");
    let packed = std::process::Command::new("tar")
        .arg("-czf")
        .arg(&file)
        .arg("-C")
        .arg(scratch.path())
        .arg("controller-tools")
        .status();
    ensure!(packed.context("run tar")?.success(), "tar failed");
    read(&file)
}

async fn serve(files: BTreeMap<String, Vec<u8>>) -> Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let files = Arc::new(files);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let files = Arc::clone(&files);
            let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let found = files.get(request.uri().path()).cloned();
                let mut response =
                    Response::new(Full::new(Bytes::from(found.clone().unwrap_or_default())));
                if found.is_none() {
                    *response.status_mut() = StatusCode::NOT_FOUND;
                }
                async move { Ok::<_, Infallible>(response) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        }
    });
    Ok(url)
}

fn sha512(content: &[u8]) -> String {
    let mut hex = String::new();
    for byte in digest(&SHA512, content).as_ref() {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}
