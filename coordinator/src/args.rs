//! Flags of drop-coordinator.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use drop_api::GoDuration;
use drop_daemon::bind::BindAddress;
use drop_daemon::logging::LogArgs;

use crate::lease::candidate::Timing;

/// Six looks at the authorities, each a second apart.
const LEAST_LIFETIME: Duration = Duration::from_secs(6);

const EXAMPLES: &str = "\
Examples:
  In a cluster, with the ServiceAccount's rights:
    drop-coordinator --session-bind-address=:7070

  One of several replicas, of which the one that holds the Lease leads:
    drop-coordinator --leader-elect --pod-name drop-coordinator-0 --pod-namespace drop-system

  With a certificate of cert-manager:
    drop-coordinator --tls-cert-file /certs/tls.crt --tls-key-file /certs/tls.key

  From a workstation, against the cluster of a kubeconfig, for agents on this machine:
    drop-coordinator --kubeconfig ~/.kube/config --session-bind-address 127.0.0.1:7070 --insecure-plaintext";

/// Computes which images each node should hold, hands out the permissions to pull them, and writes CachedImage status.
#[derive(Clone, Debug, Parser)]
#[command(name = "drop-coordinator", version, after_help = EXAMPLES)]
pub struct Args {
    /// Kubeconfig file. Unset: $KUBECONFIG, ~/.kube/config, or the pod's `ServiceAccount`.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where agents connect (gRPC).
    #[arg(long, value_name = "ADDRESS", default_value = ":7070")]
    pub session_bind_address: BindAddress,
    /// Where /metrics is served; 0 disables it.
    #[arg(long, value_name = "ADDRESS", default_value = ":8080")]
    pub metrics_bind_address: BindAddress,
    /// Where /healthz and /readyz are served; 0 disables them.
    #[arg(long, value_name = "ADDRESS", default_value = ":8081")]
    pub health_probe_bind_address: BindAddress,
    /// Namespace of the release: of the Lease, the agents, the coordinator's certificates, and the Secrets that `CachedImage`s
    /// name.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE", default_value = "drop-system", value_parser = dns_label)]
    pub pod_namespace: String,
    /// Sessions without TLS and tokens: whoever connects is believed. Only on a loopback address.
    #[arg(long, conflicts_with_all = ["tls_cert_file", "tls_key_file"])]
    pub insecure_plaintext: bool,
    /// Certificate of the sessions, PEM with its chain; read again when it changes. Unset: the coordinator has its own
    /// authority, whose certificate it publishes in `ConfigMap` drop-coordinator-ca.
    #[arg(long, value_name = "FILE", requires = "tls_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub tls_key_file: Option<PathBuf>,
    /// How long an authority of the coordinator's own lives; it is replaced after two thirds of it.
    #[arg(long, value_name = "DURATION", default_value = "2160h")]
    pub tls_lifetime: GoDuration,
    /// Service of the sessions: its DNS names stand in the certificate.
    #[arg(long, value_name = "NAME", default_value = "drop-coordinator", value_parser = dns_label)]
    pub session_service: String,
    /// `ServiceAccount` of the agents, as system:serviceaccount:NAMESPACE:NAME. Unset: drop-agent in the release's namespace.
    #[arg(long, value_name = "USER", value_parser = service_account)]
    pub agent_service_account: Option<String>,
    /// How often the token of an open session is reviewed again. One that has expired, or whose pod is gone, ends the session,
    /// and the agent comes back with its newest one.
    #[arg(long, value_name = "DURATION", default_value = "30m")]
    pub token_recheck: GoDuration,
    /// How long a pull counts as running after its agent was heard last.
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub grant_ttl: GoDuration,
    /// How long a node whose agent or runtime went away keeps the state that it reported last.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub agent_grace: GoDuration,
    /// Most pulls that run from one registry host at once, in the whole cluster.
    #[arg(long, value_name = "PULLS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_pulls_per_registry: u32,
    /// Ask registries what tags name, one HEAD for the whole cluster; false: a node finds out by pulling. Proxies are the
    /// environment's (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`) and for registries alone.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub resolve_tags: bool,
    /// Certificates (PEM) of authorities to trust at registries, in addition to the system's; read again when the file changes.
    #[arg(long, value_name = "FILE")]
    pub registry_ca_file: Option<PathBuf>,
    /// Registry host that is asked over plain HTTP, as HOST (any port) or HOST:PORT; may be given several times. A loopback host is
    /// each machine's own: nodes ask it, and the coordinator only if it is named here.
    #[arg(long, value_name = "HOST", value_parser = registry_host)]
    pub plain_http_registry: Vec<String>,
    /// Run beside other replicas: whoever holds the Lease drop-coordinator leads, the others stand by.
    #[arg(long)]
    pub leader_elect: bool,
    /// Name of this replica in the Lease; a random suffix is added.
    #[arg(
        long,
        env = "POD_NAME",
        value_name = "NAME",
        default_value = "drop-coordinator"
    )]
    pub pod_name: String,
    /// How long the followers wait for a sign of life of the leader before one of them leads. Whole seconds.
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    pub lease_duration: GoDuration,
    /// How long a leader that cannot renew the Lease goes on leading.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub lease_renew_deadline: GoDuration,
    /// Time between two looks at the Lease, or two renewals.
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub lease_retry_period: GoDuration,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

impl Args {
    /// Refuses values that each parse but make no sense.
    pub fn validate(&self) -> anyhow::Result<()> {
        let least = Duration::from_secs(1);
        anyhow::ensure!(
            self.grant_ttl.get() >= least,
            "--grant-ttl must be at least 1s, or every grant would expire unused"
        );
        anyhow::ensure!(
            self.session_bind_address.address().is_some(),
            "--session-bind-address cannot be disabled: agents connect there"
        );
        anyhow::ensure!(
            !self.insecure_plaintext
                || self
                    .session_bind_address
                    .address()
                    .is_some_and(|address| address.ip().is_loopback()),
            "--insecure-plaintext believes whoever connects: it works on a loopback --session-bind-address only (127.0.0.1:PORT), \
             not on {}",
            self.session_bind_address
        );
        anyhow::ensure!(
            self.tls_lifetime.get() >= LEAST_LIFETIME,
            "--tls-lifetime must be at least 6s: agents need time to follow"
        );
        anyhow::ensure!(
            self.token_recheck.get() >= least,
            "--token-recheck must be at least 1s"
        );
        if self.leader_elect {
            self.lease_timing().validate().map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }

    /// The times of the Lease.
    #[must_use]
    pub fn lease_timing(&self) -> Timing {
        Timing {
            duration: self.lease_duration.get(),
            renew_deadline: self.lease_renew_deadline.get(),
            retry_period: self.lease_retry_period.get(),
        }
    }

    /// The user that agents' tokens have to be of.
    #[must_use]
    pub fn agents(&self) -> String {
        self.agent_service_account
            .clone()
            .unwrap_or_else(|| format!("system:serviceaccount:{}:drop-agent", self.pod_namespace))
    }

    /// The DNS names of the sessions' Service, first the one that agents use.
    #[must_use]
    pub fn session_names(&self) -> Vec<String> {
        let (service, namespace) = (&self.session_service, &self.pod_namespace);
        vec![
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
            format!("{service}.{namespace}"),
            service.clone(),
        ]
    }
}

/// What namespaces and Services may be called.
fn dns_label(text: &str) -> Result<String, &'static str> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_inner = |c: char| c == '-';
    let fits = (1..=63).contains(&text.len()) && text.chars().all(is_allowed);
    if !fits || text.starts_with(is_inner) || text.ends_with(is_inner) {
        return Err("must be a name of lower-case letters, digits and inner dashes, at most 63");
    }
    Ok(text.to_owned())
}

/// A host as image references name it.
fn registry_host(text: &str) -> Result<String, &'static str> {
    let is_odd = |c: char| c == '/' || c == '@' || c.is_whitespace() || c.is_control();
    if text.is_empty() || text.chars().any(is_odd) {
        return Err("must be HOST or HOST:PORT, without a scheme and a path");
    }
    Ok(text.to_owned())
}

fn service_account(text: &str) -> Result<String, &'static str> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        ["system", "serviceaccount", namespace, name]
            if !namespace.is_empty() && !name.is_empty() =>
        {
            Ok(text.to_owned())
        }
        _ => Err("must be system:serviceaccount:NAMESPACE:NAME"),
    }
}
