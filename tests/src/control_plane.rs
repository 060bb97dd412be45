//! A real control plane: etcd and kube-apiserver, and kube-controller-manager where owner references must act.
//!
//! There are no kubelets and no node-lifecycle controller: Nodes are what a test creates.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Client;

use crate::audit::Audit;
use crate::certificates::Authority;
use crate::process::{Process, Program};
use crate::tunnel::Tunnel;
use crate::{http, kubeconfig, objects, parts, ports};

/// Two busy cores start an API server within a tenth of this.
const START: Duration = Duration::from_secs(60);

const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
";

/// Whether owner references, namespaces and the like act.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Controllers {
    /// Only the API server: objects stay as they are written. The quickest.
    #[default]
    None,
    /// kube-controller-manager runs.
    Run,
}

/// etcd, kube-apiserver and perhaps kube-controller-manager.
pub struct ControlPlane {
    folder: PathBuf,
    authority: Authority,
    etcd: Process,
    api_server: Process,
    controllers: Option<Process>,
    url: String,
    admin: PathBuf,
    client: Client,
}

impl ControlPlane {
    /// Starts it in `folder` and waits until it serves; about 3 s.
    pub async fn start(folder: &Path, controllers: Controllers) -> Result<Self> {
        let folder = folder.to_owned();
        std::fs::create_dir_all(&folder).context("create the control plane's folder")?;
        let authority = Authority::new(&folder)?;
        let etcd_address = ports::address()?;
        let mut etcd = Process::start(etcd_program(&folder, &etcd_address)?)?;
        let health = format!("http://{etcd_address}/health");
        etcd.wait_ready(START, async || {
            http::get(&health).await?.success().map(drop)
        })
        .await?;

        let port = ports::free()?;
        let api_server = Process::start(api_server_program(
            &folder,
            &authority,
            &etcd_address,
            port,
            controllers,
        )?)?;
        let url = format!("https://127.0.0.1:{port}");
        let admin = kubeconfig::write(&folder, &authority, &url, ("admin", &["system:masters"]))?;
        let client = kubeconfig::connect(&admin).await?;
        let mut started = Self {
            folder,
            authority,
            etcd,
            api_server,
            controllers: None,
            url,
            admin,
            client,
        };
        started.wait_api().await?;
        if controllers == Controllers::Run {
            started.controllers = Some(started.start_controllers()?);
        }
        Ok(started)
    }

    /// A client with all rights.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A kubeconfig with all rights, for kubectl.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.admin
    }

    /// `https://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A kubeconfig for `user` in at most one group; what it may do is RBAC's business.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        kubeconfig::write(&self.folder, &self.authority, &self.url, (user, groups))
    }

    /// As `kubeconfig_for`, by way of a tunnel of the kubeconfig's own.
    pub async fn kubeconfig_through(
        &self,
        name: &str,
        user: &str,
        groups: &[&str],
    ) -> Result<(PathBuf, Tunnel)> {
        let tunnel = Tunnel::start(self.url.trim_start_matches("https://")).await?;
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder).context("create a kubeconfig's folder")?;
        let url = format!("https://127.0.0.1:{}", tunnel.port());
        let path = kubeconfig::write(&folder, &self.authority, &url, (user, groups))?;
        Ok((path, tunnel))
    }

    /// The private key that signs its ServiceAccount tokens, PEM.
    pub fn token_key(&self) -> Result<String> {
        std::fs::read_to_string(self.folder.join("tokens.key")).context("read the tokens' key")
    }

    /// A client for `user`, as `kubeconfig_for`.
    pub async fn client_for(&self, user: &str, groups: &[&str]) -> Result<Client> {
        kubeconfig::connect(&self.kubeconfig_for(user, groups)?).await
    }

    /// Applies YAML documents as `kubectl apply --server-side` with strict validation.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        objects::apply(&self.client, yaml).await
    }

    /// Applies the chart's CRDs and waits until they are served.
    pub async fn apply_crds(&self) -> Result<()> {
        let folder = parts::workspace("charts/drop/crds");
        let files = yaml_files(&folder)?;
        ensure!(!files.is_empty(), "{} holds no CRDs", folder.display());
        for file in files {
            objects::apply(&self.client, &std::fs::read_to_string(&file)?)
                .await
                .with_context(|| file.display().to_string())?;
        }
        objects::wait_crds(&self.client).await
    }

    /// What the API server was asked, up to now.
    pub fn audit(&self) -> Result<Audit> {
        Audit::read(&self.folder.join("audit.log"))
    }

    /// The API server goes away at once (`kill -9`); etcd stays.
    pub fn stop_api(&mut self) {
        self.api_server.kill();
    }

    /// It comes back on the same port with the same data.
    pub async fn start_api(&mut self) -> Result<()> {
        self.api_server.restart()?;
        self.wait_api().await
    }

    /// The API server's process, to pause it or read its log.
    pub fn api_server(&mut self) -> &mut Process {
        &mut self.api_server
    }

    /// etcd's process.
    pub fn etcd(&mut self) -> &mut Process {
        &mut self.etcd
    }

    async fn wait_api(&mut self) -> Result<()> {
        let client = self.client.clone();
        let ready = self.api_server.wait_ready(START, async || {
            let request = hyper::Request::get("/readyz").body(Vec::new())?;
            client
                .request_text(request)
                .await
                .map(drop)
                .context("/readyz")
        });
        ready.await
    }

    fn start_controllers(&self) -> Result<Process> {
        let user = ("system:kube-controller-manager", [].as_slice());
        let kubeconfig = kubeconfig::write(&self.folder, &self.authority, &self.url, user)?;
        let program = Program::new(
            "kube-controller-manager",
            parts::kubernetes("kube-controller-manager")?,
            &self.folder,
        )
        .arg(option("kubeconfig", kubeconfig.display()))
        .arg(option(
            "root-ca-file",
            self.authority.certificate().display(),
        ))
        .arg(option(
            "service-account-private-key-file",
            self.folder.join("tokens.key").display(),
        ))
        .arg(option("secure-port", ports::free()?))
        .args([
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
        ])
        // Without it a Node that nobody heart-beats would be tainted after a minute.
        .arg("--controllers=*,-node-lifecycle-controller");
        Process::start(program)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // After etcd is gone the others would write errors for seconds.
        if let Some(controllers) = &mut self.controllers {
            controllers.kill();
        }
        self.api_server.kill();
        self.etcd.kill();
    }
}

/// The documents of a folder, sorted by name.
fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    files.sort();
    Ok(files)
}

fn etcd_program(folder: &Path, address: &str) -> Result<Program> {
    let (clients, peers) = (
        format!("http://{address}"),
        format!("http://{}", ports::address()?),
    );
    Ok(Program::new("etcd", parts::installed("etcd")?, folder)
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .args([
            "--listen-client-urls",
            &clients,
            "--advertise-client-urls",
            &clients,
        ])
        .args([
            "--listen-peer-urls",
            &peers,
            "--initial-advertise-peer-urls",
            &peers,
        ])
        .args([
            "--initial-cluster",
            &format!("default={peers}"),
            "--unsafe-no-fsync",
        ]))
}

fn api_server_program(
    folder: &Path,
    authority: &Authority,
    etcd: &str,
    port: u16,
    controllers: Controllers,
) -> Result<Program> {
    let (certificate, key) = authority.serve("kube-apiserver")?;
    let (public, private) = authority.signing_key("tokens")?;
    let policy = folder.join("audit-policy.yaml");
    std::fs::write(&policy, AUDIT_POLICY).context("write the audit policy")?;
    let program = Program::new(
        "kube-apiserver",
        parts::kubernetes("kube-apiserver")?,
        folder,
    )
    .arg(option("etcd-servers", format_args!("http://{etcd}")))
    .arg(option("secure-port", port))
    .arg(option("tls-cert-file", certificate.display()))
    .arg(option("tls-private-key-file", key.display()))
    .arg(option("client-ca-file", authority.certificate().display()))
    .arg(option("service-account-key-file", public.display()))
    .arg(option(
        "service-account-signing-key-file",
        private.display(),
    ))
    .arg(option("audit-policy-file", policy.display()))
    .arg(option("audit-log-path", folder.join("audit.log").display()))
    .args([
        "--bind-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        "--authorization-mode=Node,RBAC",
    ])
    .args([
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/24",
    ])
    .args(["--allow-privileged=true", "--audit-log-maxsize=2000"]);
    // Without controllers nobody makes the ServiceAccount that this admission asks of each Pod.
    Ok(match controllers {
        Controllers::None => program.arg("--disable-admission-plugins=ServiceAccount"),
        Controllers::Run => program,
    })
}

fn option(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}
