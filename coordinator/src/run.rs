//! Wires the process: gRPC server, Lease, leading, admin pages, signals.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use drop_daemon::admin::{self, MetricsPage, Readiness};
use drop_daemon::bind;
use drop_daemon::{signals, supervise::Tasks};
use drop_proto::MAX_MESSAGE_BYTES;
use drop_proto::coordinator_server::CoordinatorServer;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tracing::info;

use crate::args::Args;
use crate::clock::Clock;
use crate::core::Config;
use crate::lead::{self, World};
use crate::lease::Role;
use crate::lease::candidate::Candidate;
use crate::lease::renew;
use crate::lease::term::Term;
use crate::metrics;
use crate::report::Report;
use crate::rights::Rights;
use crate::session::server::Server;

/// A connection whose other end is silent for this long is probed, and cut if the probe is not answered as long.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Runs the coordinator until a signal ends it, or a task that it cannot do without.
pub async fn run(args: Args) -> anyhow::Result<()> {
    args.validate()?;
    info!(version = env!("CARGO_PKG_VERSION"), ?args, "starts");
    let session_address = args
        .session_bind_address
        .address()
        .context("--session-bind-address")?;
    let listener = bind::listen(session_address)
        .await
        .context("--session-bind-address")?;
    let recorder = admin::install_recorder(&[])?;
    metrics::describe();
    let client = client(&args).await?;

    let clock = Clock::start();
    let (stop, stopped) = watch::channel(false);
    let (report, reported) = watch::channel(Report::default());
    let (desk, desks) = watch::channel(None);
    let (role, roles) = watch::channel(Role::Unknown);
    let rights = Rights::default();
    let readiness = Readiness::default();
    let mut tasks = Tasks::default();

    tasks.spawn_endless("signals", signals::watch_signals(stop));
    if let Some(address) = args.metrics_bind_address.address() {
        let listener = listen("--metrics-bind-address", address).await?;
        let reported = reported.clone();
        let page = MetricsPage {
            recorder,
            more: Arc::new(move || metrics::page(&reported.borrow())),
        };
        tasks.spawn(
            "metrics server",
            admin::serve_metrics(listener, page, stopped.clone()),
        );
    }
    if let Some(address) = args.health_probe_bind_address.address() {
        let listener = listen("--health-probe-bind-address", address).await?;
        tasks.spawn(
            "probe server",
            admin::serve_probes(listener, readiness.clone(), stopped.clone()),
        );
    }
    tasks.spawn_endless(
        "readiness",
        show_readiness(
            readiness,
            reported,
            roles.clone(),
            rights.clone(),
            stopped.clone(),
        ),
    );
    tasks.spawn(
        "sessions",
        serve_sessions(listener, Server::new(desks, roles.clone()), stopped.clone()),
    );
    let (resign, resigned) = watch::channel(false);
    if args.leader_elect {
        let (candidate, ports) = candidate(&args, clock, &client, role, rights.clone(), resigned);
        tasks.spawn("lease", async move {
            renew::run(candidate, ports).await;
            Ok(())
        });
    } else {
        role.send_replace(Role::Leads(Term::for_ever(clock)));
    }
    let world = World {
        client,
        config: Config {
            grant_ttl: args.grant_ttl.get(),
            agent_grace: args.agent_grace.get(),
            registry_budget: args.max_pulls_per_registry,
            ..Config::default()
        },
        clock,
        role: roles,
        desk,
        report,
        rights,
        stop: stopped.clone(),
    };
    tasks.spawn("leader", async move {
        let result = lead::run(world).await;
        // The next leader may begin: nothing more is done here.
        resign.send_replace(true);
        result
    });
    tasks.run(stopped, lead::STOP_GRACE).await?;
    info!("stopped");
    Ok(())
}

fn candidate(
    args: &Args,
    clock: Clock,
    client: &Client,
    role: watch::Sender<Role>,
    rights: Rights,
    done: watch::Receiver<bool>,
) -> (Candidate, renew::Ports) {
    let identity = format!("{}_{:08x}", args.pod_name, rand::random::<u32>());
    let timing = args.lease_timing();
    let ports = renew::Ports {
        api: Api::namespaced(client.clone(), &args.pod_namespace),
        // So that a leader whose request hangs has time for another one.
        timeout: timing.renew_deadline / 2,
        clock,
        role,
        rights,
        done,
    };
    (Candidate::new(renew::NAME, identity, timing), ports)
}

async fn listen(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    bind::listen(address).await.with_context(|| flag.to_owned())
}

async fn client(args: &Args) -> anyhow::Result<Client> {
    let config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("--kubeconfig {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("--kubeconfig {}", path.display()))?
        }
        None => kube::Config::infer()
            .await
            .context("no kubeconfig and no ServiceAccount: give --kubeconfig")?,
    };
    Client::try_from(config).context("API server client")
}

/// Ready = this process follows, or leads and knows the API server's objects: only then do sessions and statuses mean anything.
async fn show_readiness(
    readiness: Readiness,
    mut reported: watch::Receiver<Report>,
    mut roles: watch::Receiver<Role>,
    rights: Rights,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut missing = rights.changes();
    loop {
        readiness.set(state(&roles.borrow(), reported.borrow().synced, &rights));
        // The senders live as long as the tasks that the process cannot do without.
        tokio::select! {
            Ok(()) = reported.changed() => {}
            Ok(()) = roles.changed() => {}
            Ok(()) = missing.changed() => {}
            _ = stopped.wait_for(|stop| *stop) => break,
        }
    }
    readiness.set_not_ready("stops");
    std::future::pending().await
}

fn state(role: &Role, synced: bool, rights: &Rights) -> Result<(), String> {
    match (rights.missing(), role) {
        (Some(missing), _) => Err(missing),
        (None, Role::Unknown) => Err("the lease is not read yet: see the log".to_owned()),
        (None, Role::Follows { .. }) => Ok(()),
        (None, Role::Leads(_)) if synced => Ok(()),
        (None, Role::Leads(_)) => Err(
            "nodes, cachedimages and pullpolicies are not listed yet (list, watch): see the log"
                .to_owned(),
        ),
    }
}

async fn serve_sessions(
    listener: TcpListener,
    server: Server,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let service = CoordinatorServer::new(server)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let stop = async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .tcp_nodelay(true)
        .add_service(service)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop)
        .await
        .context("gRPC server")
}
