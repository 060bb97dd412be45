//! Flags of drop-coordinator.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use drop_api::GoDuration;
use drop_daemon::bind::BindAddress;
use drop_daemon::logging::LogArgs;

use crate::lease::candidate::Timing;

const EXAMPLES: &str = "\
Examples:
  In a cluster, with the ServiceAccount's rights:
    drop-coordinator --session-bind-address=:7070

  One of several replicas, of which the one that holds the Lease leads:
    drop-coordinator --leader-elect --pod-name drop-coordinator-0 --pod-namespace drop-system

  From a workstation, against the cluster of a kubeconfig, for agents on this machine:
    drop-coordinator --kubeconfig ~/.kube/config --session-bind-address 127.0.0.1:7070";

/// Computes which images each node should hold, hands out the permissions to pull them, and writes CachedImage status.
#[derive(Clone, Debug, Parser)]
#[command(name = "drop-coordinator", version, after_help = EXAMPLES)]
pub struct Args {
    /// Kubeconfig file. Unset: $KUBECONFIG, ~/.kube/config, or the pod's `ServiceAccount`.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where agents connect (gRPC, plaintext: let only agents reach it).
    #[arg(long, value_name = "ADDRESS", default_value = ":7070")]
    pub session_bind_address: BindAddress,
    /// Where /metrics is served; 0 disables it.
    #[arg(long, value_name = "ADDRESS", default_value = ":8080")]
    pub metrics_bind_address: BindAddress,
    /// Where /healthz and /readyz are served; 0 disables them.
    #[arg(long, value_name = "ADDRESS", default_value = ":8081")]
    pub health_probe_bind_address: BindAddress,
    /// Namespace of the release: of the Lease, and of the Secrets that `CachedImage`s name (none is read yet).
    #[arg(
        long,
        env = "POD_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = "drop-system"
    )]
    pub pod_namespace: String,
    /// How long a pull counts as running after its agent was heard last.
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub grant_ttl: GoDuration,
    /// How long a node whose agent or runtime went away keeps the state that it reported last.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub agent_grace: GoDuration,
    /// Most pulls that run from one registry host at once, in the whole cluster.
    #[arg(long, value_name = "PULLS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_pulls_per_registry: u32,
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
}
