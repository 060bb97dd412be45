//! The command line, checked as far as that is possible without doing anything.

use std::path::PathBuf;

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};
use drop_api::{DurationError, GoDuration};
use drop_daemon::bind::BindAddress;
use drop_daemon::logging::LogArgs;

use crate::bake::{Format, Options, Terminal};
use crate::logins::{self, Providers};
use crate::node::{DiskLimits, Prefix};
use crate::runtime::{Runtime, Socket};
use crate::session::place::{Coordinator, Place, Trust};

const SOCKET: &str = "unix:///run/containerd/containerd.sock";

const EXAMPLES: &str = "\
Examples:
  # On a node, as the DaemonSet runs it
  drop-agent run --node-name node-1 --coordinator https://drop-coordinator.drop-system.svc:7070 \
    --coordinator-ca-file /run/drop/ca/ca.crt --token-file /run/drop/token/token

  # Put the images of a file, or of all files of a directory, on this machine
  drop-agent bake images.yaml
  drop-agent bake ./images --runtime-endpoint unix:///run/k3s/containerd/containerd.sock

  # In a golden-image build: wait for the runtime and the pulls, and keep the result
  drop-agent bake -o json --wait-timeout 30m images.yaml > baked.json
";

const BAKE_EXAMPLES: &str = "\
Examples:
  drop-agent bake images.yaml
  drop-agent bake ./images --max-parallel-pulls 3
  kustomize build . | drop-agent bake -
  drop-agent bake -o json --wait-timeout 30m images.yaml > baked.json

Exit codes: 0 all images are present, 1 some are not (a table says why), 2 the input is wrong (file and line).
";

/// Pulls container images through the node's CRI socket and says what the runtime holds.
#[derive(Debug, Parser)]
#[command(name = "drop-agent", version, after_help = EXAMPLES, args_override_self = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve one node of a cluster until told to stop.
    #[command(args_override_self = true)]
    Run(Box<RunArgs>),
    /// Put the images of CachedImage documents on this machine, without a cluster.
    #[command(after_help = BAKE_EXAMPLES, args_override_self = true)]
    Bake(Box<BakeArgs>),
}

/// Where the container runtime is.
#[derive(Args, Clone, Debug)]
pub struct RuntimeArgs {
    /// The runtime's CRI socket.
    #[arg(long, value_name = "SOCKET", default_value = SOCKET)]
    pub runtime_endpoint: Socket,

    /// Pulls at the same time. More than 1 competes with the kubelet for the same cores and connections.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_parallel_pulls: u32,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub disk: DiskArgs,

    /// The kubelet's CredentialProviderConfig (v1): its plugins are asked for logins after the image's own pull Secrets. They
    /// run on this node with the agent's rights.
    #[arg(
        long,
        value_name = "FILE",
        requires = "image_credential_provider_bin_dir"
    )]
    pub image_credential_provider_config: Option<PathBuf>,

    /// Where those plugins' programs are.
    #[arg(
        long,
        value_name = "DIRECTORY",
        requires = "image_credential_provider_config"
    )]
    pub image_credential_provider_bin_dir: Option<PathBuf>,
}

impl RuntimeArgs {
    /// The runtime that they name.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        let runtime = Runtime::new(self.runtime_endpoint.clone());
        match &self.disk.image_filesystem {
            Some(path) => runtime.with_image_filesystem(path.clone()),
            None => runtime,
        }
    }

    /// The node's credential providers; none unless the flags name them.
    pub fn providers(&self) -> Result<Providers, logins::Error> {
        match (
            &self.image_credential_provider_config,
            &self.image_credential_provider_bin_dir,
        ) {
            (Some(config), Some(folder)) => Providers::read(config, folder),
            _ => Ok(Providers::default()),
        }
    }
}

/// How full pulls may make the disk.
#[derive(Args, Clone, Debug)]
pub struct DiskArgs {
    /// A directory on the filesystem that the runtime keeps images on, as this process sees it. Unset: where the runtime says
    /// that it is. In a container the host's directory has to be mounted.
    #[arg(long, value_name = "PATH")]
    pub image_filesystem: Option<PathBuf>,

    /// A pull that would push use of that filesystem over this share is refused. Keep it below the kubelet's
    /// imageGCHighThresholdPercent (85), or the kubelet removes what was just pulled.
    #[arg(long, value_name = "PERCENT", default_value_t = DiskLimits::default().high_percent, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub disk_high_percent: u8,

    /// What an image of unknown size is taken to need on the disk (such as 500M or 2Gi).
    #[arg(long, value_name = "SIZE", default_value = "1Gi", value_parser = size)]
    pub disk_default_need: ByteSize,
}

impl DiskArgs {
    /// What they say to the machine.
    #[must_use]
    pub fn limits(&self) -> DiskLimits {
        DiskLimits {
            high_percent: self.disk_high_percent,
            default_need_bytes: self.disk_default_need.as_u64(),
        }
    }
}

/// Flags of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Name of this node's Node object.
    #[arg(long, env = "NODE_NAME", value_name = "NAME", value_parser = node_name)]
    pub node_name: String,

    /// The coordinator, as https://host:port. Of all addresses that the host has (and of several URLs, separated by commas) the
    /// agent finds the one that leads.
    #[arg(long, value_name = "URL")]
    pub coordinator: Coordinator,

    /// Certificates of the authorities that the coordinator's may be of, PEM. Read again at each connect.
    #[arg(long, value_name = "FILE")]
    pub coordinator_ca_file: Option<PathBuf>,

    /// The name in the coordinator's certificate. Unset: the URL's host.
    #[arg(long, value_name = "NAME")]
    pub coordinator_tls_name: Option<String>,

    /// This agent's ServiceAccount token, bound to its pod, with audience drop-coordinator. Read again at each connect.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// A session without TLS and token. Only with a coordinator on this machine: http://127.0.0.1:port.
    #[arg(long)]
    pub insecure_plaintext: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub runtime: RuntimeArgs,

    /// Time between two looks at the runtime's images. After each pull there is one anyway.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = positive)]
    pub list_interval: GoDuration,

    /// A pull of an image without a PullPolicy that takes longer is cancelled (with one: its pullTimeout). That throws away what
    /// was downloaded, so this is for pulls that hang.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = positive)]
    pub pull_deadline: GoDuration,

    /// Registry hosts, or paths on them (ghcr.io/team), that this node takes images from, separated by commas; unset: all. What
    /// lies elsewhere is never pulled, whatever the coordinator says.
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    pub allow_registries: Vec<Prefix>,

    /// How long running pulls may go on after SIGTERM.
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    pub shutdown_grace: GoDuration,

    /// Where Prometheus scrapes, as :port or host:port; 0 for nowhere.
    #[arg(long, value_name = "ADDRESS", default_value = ":8080")]
    pub metrics_bind_address: BindAddress,

    /// Where the kubelet probes /healthz and /readyz, as :port or host:port; 0 for nowhere.
    #[arg(long, value_name = "ADDRESS", default_value = ":8081")]
    pub health_probe_bind_address: BindAddress,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub log: LogArgs,
}

impl RunArgs {
    /// The coordinator, if the flags that say how to speak with it fit together.
    pub fn place(&self) -> anyhow::Result<Place> {
        let is_plaintext = self.coordinator.is_plaintext();
        let trust = if self.insecure_plaintext {
            anyhow::ensure!(
                is_plaintext && self.coordinator.is_loopback(),
                "--insecure-plaintext is for a coordinator on this machine: --coordinator must be http://127.0.0.1:port, not {}",
                self.coordinator
            );
            Trust::Plaintext
        } else {
            anyhow::ensure!(
                !is_plaintext,
                "--coordinator {} is plaintext: write https://host:port, or add --insecure-plaintext for a coordinator on loopback",
                self.coordinator
            );
            let needed = |flag: &str, file: &Option<PathBuf>| {
                file.clone().with_context(|| {
                    format!("{flag} is required, unless --insecure-plaintext is given")
                })
            };
            Trust::Proven {
                ca_file: needed("--coordinator-ca-file", &self.coordinator_ca_file)?,
                token_file: needed("--token-file", &self.token_file)?,
                name: self.coordinator_tls_name.clone(),
            }
        };
        Ok(Place {
            coordinator: self.coordinator.clone(),
            trust,
        })
    }
}

/// Flags of `bake`.
#[derive(Args, Clone, Debug)]
pub struct BakeArgs {
    /// YAML files with CachedImage documents, directories of them, or - for standard input.
    #[arg(required = true, value_name = "FILE")]
    paths: Vec<PathBuf>,

    /// How long all of it may take. The runtime's start is waited for, too.
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    wait_timeout: GoDuration,

    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,

    #[command(flatten)]
    runtime: RuntimeArgs,

    /// No colours on a terminal.
    #[arg(long, env = "NO_COLOR", num_args = 0..=1, require_equals = true, default_missing_value = "1", hide_env_values = true, value_name = "ANY")]
    no_color: Option<String>,

    /// Set by the terminal.
    #[arg(long, env = "TERM", hide = true, default_value = "")]
    term: String,
}

fn positive(text: &str) -> Result<GoDuration, String> {
    let duration: GoDuration = text
        .parse()
        .map_err(|error: DurationError| error.to_string())?;
    if duration.is_zero() {
        return Err("must be longer than zero".to_owned());
    }
    Ok(duration)
}

fn size(text: &str) -> Result<ByteSize, &'static str> {
    text.parse()
        .map_err(|_| "must be a size such as 0, 500M or 2Gi")
}

/// What a Node's name may be: parts of lower-case letters, digits and inner dashes, joined by dots.
fn node_name(text: &str) -> Result<String, &'static str> {
    let is_part = |part: &str| {
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !part.is_empty()
            && part.chars().all(is_allowed)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if text.len() > 253 || !text.split('.').all(is_part) {
        return Err(
            "must be the name of a Node object (in a pod: the downward API's spec.nodeName)",
        );
    }
    Ok(text.to_owned())
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OutputFormat {
    /// For people.
    Text,
    /// One JSON document at the end.
    Json,
}

impl TryFrom<BakeArgs> for Options {
    type Error = logins::Error;

    fn try_from(args: BakeArgs) -> Result<Self, Self::Error> {
        let no_color = args.no_color.is_some_and(|value| !value.is_empty());
        let terminal = match (args.term.as_str(), no_color) {
            ("dumb", _) => Terminal::Dumb,
            (_, true) => Terminal::Monochrome,
            (_, false) => Terminal::Colour,
        };
        Ok(Self {
            paths: args.paths,
            providers: args.runtime.providers()?,
            runtime: args.runtime.runtime(),
            max_parallel_pulls: args.runtime.max_parallel_pulls,
            disk: args.runtime.disk.limits(),
            wait_timeout: args.wait_timeout.get(),
            format: match args.output {
                OutputFormat::Text => Format::Text,
                OutputFormat::Json => Format::Json,
            },
            terminal,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_name_is_what_a_node_object_can_be_called() {
        let longest = "n".repeat(253);
        for name in [
            "n",
            "node-1",
            "10.0.0.7",
            "ip-10-0-0-7.eu.internal",
            &longest,
        ] {
            assert_eq!(node_name(name), Ok(name.to_owned()));
        }
        let too_long = "n".repeat(254);
        for name in [
            "", "Node", "a b", "a_b", "-a", "a-", "a..b", "a.", &too_long,
        ] {
            assert!(node_name(name).is_err(), "{name}");
        }
    }
}
