//! The coordinator as a process, with the rights of its service account and no more.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::control_plane::ControlPlane;
use crate::process::{Process, Program};
use crate::scrape::{Scrape, scrape};
use crate::tunnel::Tunnel;
use crate::{http, objects, parts, ports};

/// The user that the coordinator is, here by a client certificate and in a cluster by its token.
pub const USER: &str = "system:serviceaccount:drop-system:drop-coordinator";

/// The namespace of the release.
pub const NAMESPACE: &str = "drop-system";

/// How agents reach a coordinator.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Sessions {
    /// Without TLS and tokens: the quickest, for everything that has nothing to do with them.
    #[default]
    Plaintext,
    /// As in a cluster.
    Tls,
}

/// The name in the coordinator's certificate.
pub const TLS_NAME: &str = "drop-coordinator.drop-system.svc";

/// A coordinator's process.
#[derive(Debug)]
pub struct Coordinator {
    process: Process,
    network: Option<Tunnel>,
    sessions: Sessions,
    session: String,
    metrics: String,
    health: String,
}

impl Coordinator {
    /// Starts one and waits until it is ready. `args` come last.
    pub async fn start(
        folder: &Path,
        control_plane: &ControlPlane,
        sessions: Sessions,
        args: &[String],
    ) -> Result<Self> {
        grant_rights(control_plane).await?;
        let mut coordinator = Self::launch(folder, control_plane, sessions, args)?;
        coordinator.wait_ready().await?;
        Ok(coordinator)
    }

    /// Starts one with the rights that there are, and waits for nothing.
    pub fn launch(
        folder: &Path,
        control_plane: &ControlPlane,
        sessions: Sessions,
        args: &[String],
    ) -> Result<Self> {
        let kubeconfig = control_plane.kubeconfig_for(USER, &["system:serviceaccounts"])?;
        Self::run(folder, kubeconfig, None, sessions, args)
    }

    /// Starts one of several replicas, which reaches the API server by a network of its own ([`Self::network`]), and waits until
    /// it is ready.
    pub async fn start_replica(
        folder: &Path,
        control_plane: &ControlPlane,
        name: &str,
        sessions: Sessions,
        args: &[String],
    ) -> Result<Self> {
        grant_rights(control_plane).await?;
        let (kubeconfig, network) = control_plane
            .kubeconfig_through(name, USER, &["system:serviceaccounts"])
            .await?;
        let elects = ["--leader-elect", "--pod-name", name].map(str::to_owned);
        let args = [&elects, args].concat();
        let mut coordinator = Self::run(folder, kubeconfig, Some(network), sessions, &args)?;
        coordinator.wait_ready().await?;
        Ok(coordinator)
    }

    fn run(
        folder: &Path,
        kubeconfig: PathBuf,
        network: Option<Tunnel>,
        sessions: Sessions,
        args: &[String],
    ) -> Result<Self> {
        std::fs::create_dir_all(folder).context("create the coordinator's folder")?;
        let security: &[&str] = match sessions {
            Sessions::Plaintext => &["--insecure-plaintext"],
            Sessions::Tls => &[],
        };
        let (session, metrics, health) = (ports::address()?, ports::address()?, ports::address()?);
        let program = Program::new("coordinator", parts::built("drop-coordinator")?, folder)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--session-bind-address", &session])
            .args(["--metrics-bind-address", &metrics])
            .args(["--health-probe-bind-address", &health])
            .args(["--pod-namespace", NAMESPACE, "--log-format", "text"])
            // The testbed's nodes are on one machine with the coordinator: its loopback is theirs.
            .args(["--plain-http-registry", "127.0.0.1"])
            .args(security)
            .args(args);
        Ok(Self {
            process: Process::start(program)?,
            network,
            sessions,
            session,
            metrics,
            health,
        })
    }

    /// Where agents connect: `http://127.0.0.1:port`, or https.
    #[must_use]
    pub fn url(&self) -> String {
        match self.sessions {
            Sessions::Plaintext => format!("http://{}", self.session),
            Sessions::Tls => format!("https://{}", self.session),
        }
    }

    /// What `/readyz` says.
    pub async fn readiness(&self) -> Result<String> {
        let url = format!("http://{}/readyz", self.health);
        Ok(http::get(&url).await?.text())
    }

    /// `127.0.0.1:port` of the sessions.
    #[must_use]
    pub fn session_address(&self) -> &str {
        &self.session
    }

    /// `127.0.0.1:port` of the metrics.
    #[must_use]
    pub fn metrics_address(&self) -> &str {
        &self.metrics
    }

    /// Its metrics now.
    pub async fn metrics(&self) -> Result<Scrape> {
        scrape(&self.metrics).await
    }

    /// The way of a replica to the API server.
    pub fn network(&self) -> Result<&Tunnel> {
        self.network.as_ref().context("it is no replica")
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again with the same flags and waits until it is ready.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.restart()?;
        self.wait_ready().await
    }

    /// Waits until `/readyz` says yes.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let url = format!("http://{}/readyz", self.health);
        self.process
            .wait_ready(Duration::from_secs(30), async || {
                http::get(&url).await?.success().map(drop)
            })
            .await
    }

    /// Its process: signals, pause, log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// All it logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// The RBAC that users install; without such files the user may do everything.
pub async fn grant_rights(control_plane: &ControlPlane) -> Result<()> {
    let client = control_plane.client();
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    objects::apply(&client, &namespace.to_string()).await?;
    let rights = [
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
    ];
    let mut found = false;
    for entry in std::fs::read_dir(parts::workspace("deploy"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let yaml =
                std::fs::read_to_string(entry.path()).context("read an installation file")?;
            objects::apply_kinds(&client, &yaml, |kind| rights.contains(&kind)).await?;
            found = found || yaml.contains("kind: ClusterRoleBinding");
        }
    }
    if found {
        return Ok(());
    }
    let everything = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "drop-coordinator-everything"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}],
    });
    objects::apply(&client, &everything.to_string()).await
}
