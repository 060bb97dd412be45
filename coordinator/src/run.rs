//! Wires the process: gRPC server, Lease, leading, admin pages, signals.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use drop_daemon::admin::{self, MetricsPage, Readiness};
use drop_daemon::bind;
use drop_daemon::{signals, supervise::Tasks};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

use crate::args::Args;
use crate::clock::Clock;
use crate::core::Config;
use crate::identity::Standing;
use crate::identity::review::Reviewer;
use crate::identity::serving::{Files, Own, Serving};
use crate::identity::store::Store;
use crate::lead::{self, World};
use crate::lease::Role;
use crate::lease::candidate::Candidate;
use crate::lease::renew;
use crate::lease::term::Term;
use crate::metrics;
use crate::registries::{Authorities, Registries};
use crate::report::Report;
use crate::rights::Rights;
use crate::session::door::{self, Connection};
use crate::session::server::{Guard, Server};

/// Connections that wait for the gRPC server.
const CONNECTIONS: usize = 64;
/// A connection carries one session; the rest is for agents of another make.
const STREAMS: u32 = 4;
/// A token and little else comes in headers.
const HEADER_BYTES: u32 = 32 * 1024;
const NOT_LISTED: &str =
    "nodes, cachedimages and pullpolicies are not listed yet (list, watch): see the log";
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
    drop_oci::metrics::describe();
    let mut tasks = Tasks::default();
    let registries = registries(&mut tasks, &args)?;
    let client = client(&args).await?;

    let clock = Clock::start();
    let (stop, stopped) = watch::channel(false);
    let (report, reported) = watch::channel(Report::default());
    let (desk, desks) = watch::channel(None);
    let (role, roles) = watch::channel(Role::Unknown);
    let rights = Rights::default();
    let standing = Arc::new(watch::Sender::new(if args.insecure_plaintext {
        Standing::plaintext()
    } else {
        Standing::starting()
    }));
    let readiness = Readiness::default();
    tasks.spawn_endless("signals", signals::watch_signals(stop));
    let shown = reported.clone();
    let page = MetricsPage {
        recorder,
        more: Arc::new(move || metrics::page(&shown.borrow())),
    };
    pages(&mut tasks, &args, page, &readiness, &stopped).await?;
    let views = Views {
        reported,
        roles: roles.clone(),
        standing: standing.subscribe(),
        rights: rights.clone(),
    };
    tasks.spawn_endless(
        "readiness",
        show_readiness(readiness, views, stopped.clone()),
    );
    let tls = certificates(&mut tasks, &args, &client, &standing)?;
    let guard = guard(&mut tasks, &args, &client, &standing);
    let (let_in, connections) = mpsc::channel(CONNECTIONS);
    tasks.spawn_endless("session door", door::let_in(listener, tls, let_in));
    tasks.spawn(
        "sessions",
        serve_sessions(
            connections,
            Server::new(desks, roles.clone(), guard),
            stopped.clone(),
        ),
    );
    let (resign, resigned) = watch::channel(false);
    if args.leader_elect {
        let (candidate, ports) = candidate(&args, clock, &client, &rights);
        tasks.spawn("lease", renew::run(candidate, ports, role, resigned));
    } else {
        role.send_replace(Role::Leads(Term::for_ever(clock)));
    }
    let world = World {
        client,
        config: Config {
            grant_ttl: args.grant_ttl.get(),
            agent_grace: args.agent_grace.get(),
            registry_budget: args.max_pulls_per_registry,
            resolve_tags: args.resolve_tags,
            ..Config::default()
        },
        namespace: args.pod_namespace.clone(),
        registries,
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

/// What asks registries; none where nodes do, whatever is wrong with the authorities then.
fn registries(tasks: &mut Tasks, args: &Args) -> anyhow::Result<Option<Arc<Registries>>> {
    if !args.resolve_tags {
        return Ok(None);
    }
    let authorities = Authorities::open(args.registry_ca_file.as_deref())?;
    let registries = Registries::new(&authorities, &args.plain_http_registry)?;
    let following = Arc::clone(&registries).follow(authorities);
    tasks.spawn_endless("registries' authorities", following);
    Ok(Some(registries))
}

/// Serves `/metrics`, `/healthz` and `/readyz`.
async fn pages(
    tasks: &mut Tasks,
    args: &Args,
    page: MetricsPage,
    readiness: &Readiness,
    stopped: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    if let Some(address) = args.metrics_bind_address.address() {
        let listener = listen("--metrics-bind-address", address).await?;
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
    Ok(())
}

/// What sessions are served with, kept current; `None` for plaintext.
fn certificates(
    tasks: &mut Tasks,
    args: &Args,
    client: &Client,
    standing: &Arc<watch::Sender<Standing>>,
) -> anyhow::Result<Option<Serving>> {
    if args.insecure_plaintext {
        warn!("sessions are plaintext and whoever connects is believed (--insecure-plaintext)");
        return Ok(None);
    }
    let serving = Serving::default();
    if let (Some(certificate), Some(key)) = (&args.tls_cert_file, &args.tls_key_file) {
        let files = Files::open(certificate, key, &serving)?;
        standing.send_modify(|standing| standing.certificate = Ok(()));
        tasks.spawn_endless("certificate files", files.follow(serving.clone()));
        return Ok(Some(serving));
    }
    let own = Own {
        names: args.session_names(),
        lifetime: args.tls_lifetime.get(),
    };
    let store = Store::new(client, &args.pod_namespace);
    let keeping = own.keep(store, serving.clone(), Arc::clone(standing));
    tasks.spawn_endless("certificates", keeping);
    Ok(Some(serving))
}

fn guard(
    tasks: &mut Tasks,
    args: &Args,
    client: &Client,
    standing: &Arc<watch::Sender<Standing>>,
) -> Guard {
    if args.insecure_plaintext {
        return Guard::Believe;
    }
    let namespace = &args.pod_namespace;
    let reviewer = Reviewer::new(client, namespace, &args.agents(), Arc::clone(standing));
    let reviewer = Arc::new(reviewer);
    tasks.spawn_endless("token reviews", Arc::clone(&reviewer).find_right());
    Guard::Tokens {
        reviewer,
        recheck: args.token_recheck.get(),
    }
}

fn candidate(
    args: &Args,
    clock: Clock,
    client: &Client,
    rights: &Rights,
) -> (Candidate, renew::Ports) {
    let identity = format!("{}_{:08x}", args.pod_name, rand::random::<u32>());
    let timing = args.lease_timing();
    let ports = renew::Ports {
        api: Api::namespaced(client.clone(), &args.pod_namespace),
        // So that a leader whose request hangs has time for another one.
        timeout: timing.renew_deadline / 2,
        clock,
        rights: rights.clone(),
    };
    (Candidate::new(renew::NAME, identity, timing), ports)
}

async fn listen(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    bind::listen(address).await.with_context(|| flag.to_owned())
}

async fn client(args: &Args) -> anyhow::Result<Client> {
    let mut is_proxy_named = false;
    let mut config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("--kubeconfig {}", path.display()))?;
            let mut clusters = file
                .clusters
                .iter()
                .filter_map(|named| named.cluster.as_ref());
            is_proxy_named = clusters.any(|cluster| cluster.proxy_url.is_some());
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("--kubeconfig {}", path.display()))?
        }
        None => kube::Config::infer()
            .await
            .context("no kubeconfig and no ServiceAccount: give --kubeconfig")?,
    };
    // The environment's proxy is for registries. kube would take it for the API server as well, whatever NO_PROXY says.
    if !is_proxy_named {
        config.proxy_url = None;
    }
    Client::try_from(config).context("API server client")
}

/// What readiness depends on.
struct Views {
    reported: watch::Receiver<Report>,
    roles: watch::Receiver<Role>,
    standing: watch::Receiver<Standing>,
    rights: Rights,
}

/// Ready = sessions can be served, and this process follows, or leads and knows the API server's objects.
async fn show_readiness(
    readiness: Readiness,
    mut views: Views,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut missing = views.rights.changes();
    loop {
        readiness.set(views.check());
        // Each branch only waits. The senders live as long as the tasks whose end ends the process.
        let changed = tokio::select! {
            changed = views.reported.changed() => changed,
            changed = views.roles.changed() => changed,
            changed = views.standing.changed() => changed,
            changed = missing.changed() => changed,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        if changed.is_err() {
            break;
        }
    }
    readiness.set_not_ready("stops");
    std::future::pending().await
}

impl Views {
    fn check(&mut self) -> Result<(), String> {
        self.standing.borrow_and_update().check()?;
        if let Some(missing) = self.rights.missing() {
            return Err(missing);
        }
        let is_synced = self.reported.borrow_and_update().synced;
        match &*self.roles.borrow_and_update() {
            Role::Unknown => Err("the lease is not read yet: see the log".to_owned()),
            Role::Leads(_) if !is_synced => Err(NOT_LISTED.to_owned()),
            Role::Leads(_) | Role::Follows { .. } => Ok(()),
        }
    }
}

async fn serve_sessions(
    connections: mpsc::Receiver<io::Result<Connection>>,
    server: Server,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let stop = async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADER_BYTES)
        .add_service(server)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), stop)
        .await
        .context("gRPC server")
}
