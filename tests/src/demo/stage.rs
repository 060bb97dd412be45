//! The demo's cluster, and the two things that are done to it over and over: kubectl, and watching until something holds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use drop_api::CachedImage;
use kube::api::{Api, ListParams};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::samples;
use super::screen::{Paint, Screen};
use super::table::{Row, lines};
use crate::cluster::Cluster;
use crate::cri_client::CriClient;
use crate::images::Blob;
use crate::parts;

/// Between two looks at the API server.
const LOOK: Duration = Duration::from_millis(150);
/// Lines of each log that a failure shows.
const TAIL: usize = 8;

/// A running cluster and what the demo knows of it.
pub struct Stage {
    pub(super) cluster: Cluster,
    /// Their names, sorted.
    pub(super) nodes: Vec<String>,
    /// CRI of each node.
    pub(super) runtimes: BTreeMap<String, CriClient>,
    /// What the registry says that each CachedImage's first tag names.
    pub(super) digests: BTreeMap<&'static str, String>,
    /// The layer that some images share.
    pub(super) base: Blob,
    kubectl: PathBuf,
    sockets: Vec<PathBuf>,
}

/// What a look showed. An `Err` beside it: it will never hold.
pub(super) enum Look {
    /// What was waited for.
    Holds,
    /// Not that, because ...
    NotYet(Error),
}

/// A check that may fail for a while.
pub(super) fn not_yet(check: Result<()>) -> Look {
    match check {
        Ok(()) => Look::Holds,
        Err(missing) => Look::NotYet(missing),
    }
}

impl Stage {
    pub(super) fn new(mut cluster: Cluster) -> Result<Self> {
        let (mut runtimes, mut sockets) = (BTreeMap::new(), Vec::new());
        for node in &mut cluster.nodes {
            let name = node.name().to_owned();
            let containerd = node.containerd()?;
            runtimes.insert(name, containerd.cri());
            sockets.push(containerd.socket());
        }
        Ok(Self {
            cluster,
            nodes: runtimes.keys().cloned().collect(),
            runtimes,
            digests: BTreeMap::new(),
            base: samples::base_layer()?,
            kubectl: parts::kubernetes("kubectl")?,
            sockets,
        })
    }

    /// Runs kubectl and shows what it says.
    pub(super) async fn kubectl(&self, screen: &mut Screen, args: &[&str]) -> Result<()> {
        let said = self.run_kubectl(screen, args).await?;
        screen.quote(&said);
        Ok(())
    }

    /// Shows the command line, runs it in the cluster's folder and returns what it says.
    pub(super) async fn run_kubectl(&self, screen: &mut Screen, args: &[&str]) -> Result<String> {
        let words: Vec<String> = args.iter().map(|word| quoted(word)).collect();
        let line = format!("kubectl {}", words.join(" "));
        screen.command(&line);
        let folder = self.cluster.folder();
        let done = Command::new(&self.kubectl)
            .args(args)
            .env("KUBECONFIG", self.cluster.control_plane.kubeconfig())
            // What this user has set up for other clusters is neither used nor touched.
            .env("KUBECACHEDIR", folder.join("kubectl-cache"))
            .env("KUBERC", "off")
            .current_dir(folder)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("run {}", self.kubectl.display()))?;
        let complaint = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{line}: {}", complaint.trim());
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Looks at all CachedImages and shows them until `check` holds.
    pub(super) async fn watch(
        &self,
        screen: &mut Screen,
        what: &str,
        within: Duration,
        mut check: impl AsyncFnMut(&[CachedImage]) -> Result<Look>,
    ) -> Result<()> {
        let api: Api<CachedImage> = Api::all(self.cluster.client());
        let deadline = Instant::now() + within;
        let mut shown = BTreeMap::new();
        loop {
            let images = api.list(&ListParams::default()).await?.items;
            let rows: Vec<Row> = images
                .iter()
                .map(|image| Row::new(image, &self.nodes))
                .collect();
            if screen.redraws() {
                screen.redraw(&lines(&rows, &self.nodes));
            } else {
                news(screen, &rows, &mut shown);
            }
            match check(&images).await? {
                Look::Holds => break,
                Look::NotYet(missing) => ensure!(
                    Instant::now() < deadline,
                    "waited {}s for {what}: {missing:#}",
                    within.as_secs()
                ),
            }
            sleep(LOOK).await;
        }
        screen.settle();
        Ok(())
    }

    /// The last words of the coordinator and the agents.
    pub fn show_logs(&mut self, screen: &mut Screen) {
        let mut logs = vec![("coordinator".to_owned(), self.cluster.coordinator.log())];
        for node in &mut self.cluster.nodes {
            let name = format!("agent of {}", node.name());
            logs.extend(node.agent().map(|agent| (name, agent.log())));
        }
        for (name, log) in logs {
            let all: Vec<&str> = log.lines().collect();
            screen.note(&format!("the log of the {name} ends:"));
            screen.quote(&all[all.len().saturating_sub(TAIL)..].join("\n"));
        }
    }

    /// How to go on by hand.
    pub fn show_doors(&self, screen: &mut Screen) {
        let kubeconfig = self.cluster.control_plane.kubeconfig().display();
        let first = self
            .sockets
            .first()
            .map(|socket| socket.display().to_string())
            .unwrap_or_default();
        let mut say = |text: &str| screen.say(Paint::Plain, text);
        say("");
        say(
            "It all keeps running until Ctrl-C. Kubeconfig, registry and the nodes' CRI sockets (root only):",
        );
        say(&format!("  export KUBECONFIG={kubeconfig}"));
        say(&format!("  http://{}", self.cluster.proxy.host()));
        for socket in &self.sockets {
            say(&format!("  unix://{}", socket.display()));
        }
        say("Try:");
        say("  kubectl get cachedimages -o wide --watch");
        say(&format!(
            "  kubectl patch cachedimage {} --type=merge -p '{{\"spec\":{{\"tag\":\"{}\"}}}}'",
            samples::IMAGES[1].name,
            samples::TAG
        ));
        say(&format!(
            "  sudo ctr --address {first} --namespace k8s.io images ls"
        ));
    }
}

/// Plain lines: the rows that changed since they were shown. What is Ready at the first look was so before, and is no news.
fn news(screen: &mut Screen, rows: &[Row], shown: &mut BTreeMap<String, Row>) {
    let first = shown.is_empty();
    for row in rows {
        let changed = match shown.get(&row.name) {
            Some(old) => row.differs(old),
            None => !first || !row.is_ready(),
        };
        if changed && row.is_known() {
            screen.change(&row.sentence());
        }
        shown.insert(row.name.clone(), row.clone());
    }
}

/// As a shell wants it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{word}'")
    }
}
