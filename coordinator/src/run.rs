//! Wires the state machine to the world: watches, gRPC server, Events, admin pages, signals.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use drop_daemon::admin::{self, MetricsPage, Readiness};
use drop_daemon::bind;
use drop_daemon::{signals, supervise::Tasks};
use drop_proto::coordinator_server::CoordinatorServer;
use drop_proto::{MAX_AGENT_MESSAGE_BYTES, MAX_MESSAGE_BYTES};
use jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

use crate::args::Args;
use crate::cached_image::apply;
use crate::cached_image::events::Event;
use crate::core::{Config, Input};
use crate::credentials::read;
use crate::identity::Standing;
use crate::identity::review::Reviewer;
use crate::identity::serving::{Files, Own, Serving};
use crate::identity::store::Store;
use crate::machine::{self, Ports};
use crate::metrics;
use crate::report::Report;
use crate::session::door::{self, Connection};
use crate::session::server::{Guard, Server};
use crate::watch::{image_object, node_facts, policy, watch as watch_kind};

/// Inputs that wait for the state machine. Watches and sessions wait when it is full.
const INBOX: usize = 4096;
/// Connections that wait for the gRPC server.
const CONNECTIONS: usize = 64;
/// A connection carries one session; the rest is for agents of another make.
const STREAMS: u32 = 4;
/// A token and little else comes in headers.
const HEADER_BYTES: u32 = 32 * 1024;
const NOT_LISTED: &str =
    "nodes, cachedimages and pullpolicies are not listed yet (list, watch): see the log";
/// Events that wait for the API server.
const EVENTS: usize = 256;
/// How long tasks get to end. With the machine's last writes this stays under 20 s.
const STOP_GRACE: Duration = Duration::from_secs(10);
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

    let (stop, stopped) = watch::channel(false);
    let (inputs, inbox) = mpsc::channel(INBOX);
    let (session_events, sessions) = mpsc::channel(INBOX);
    let (events, event_queue) = mpsc::channel(EVENTS);
    let (secrets, wanted_secrets) = watch::channel(BTreeSet::new());
    let (report, reported) = watch::channel(Report::default());
    let readiness = Readiness::default();
    let standing = Arc::new(watch::Sender::new(if args.insecure_plaintext {
        Standing::plaintext()
    } else {
        Standing::starting()
    }));
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
    watch_all(&mut tasks, &client, &inputs);
    let reading = read::read(
        client.clone(),
        args.pod_namespace.clone(),
        wanted_secrets,
        inputs,
    );
    tasks.spawn_endless("secrets", async move {
        reading.await;
        Ok(())
    });
    tasks.spawn_endless("events", publish_events(client.clone(), event_queue));
    tasks.spawn_endless(
        "readiness",
        show_readiness(readiness, reported, standing.subscribe(), stopped.clone()),
    );
    let tls = certificates(&mut tasks, &args, &client, &standing)?;
    let guard = guard(&mut tasks, &args, &client, &standing);
    let (let_in, connections) = mpsc::channel(CONNECTIONS);
    tasks.spawn_endless("session door", door::let_in(listener, tls, let_in));
    tasks.spawn(
        "sessions",
        serve_sessions(
            connections,
            Server::new(session_events, guard),
            stopped.clone(),
        ),
    );
    let ports = Ports {
        client,
        inputs: inbox,
        sessions,
        events,
        secrets,
        report,
        stop: stopped.clone(),
    };
    let config = Config {
        grant_ttl: args.grant_ttl.get(),
        agent_grace: args.agent_grace.get(),
        registry_budget: args.max_pulls_per_registry,
        // Milliseconds since 1970, with room for 4,096 grants a millisecond: no token of a former process comes again.
        first_token: u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(1) << 12,
        ..Config::default()
    };
    tasks.spawn("state machine", async move {
        machine::run(config, ports).await;
        Ok(())
    });
    tasks.run(stopped, STOP_GRACE).await?;
    info!("stopped");
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

fn watch_all(tasks: &mut Tasks, client: &Client, inputs: &mpsc::Sender<Input>) {
    let (nodes, images, policies) = (inputs.clone(), inputs.clone(), inputs.clone());
    let api = Api::all(client.clone());
    tasks.spawn_endless("node watch", async move {
        watch_kind(api, node_facts, Input::Node, nodes).await;
        Ok(())
    });
    let api = Api::all(client.clone());
    tasks.spawn_endless("cachedimage watch", async move {
        watch_kind(api, image_object, Input::Image, images).await;
        Ok(())
    });
    let api = Api::all(client.clone());
    tasks.spawn_endless("pullpolicy watch", async move {
        watch_kind(api, policy, Input::Policy, policies).await;
        Ok(())
    });
}

async fn publish_events(client: Client, mut queue: mpsc::Receiver<Event>) -> anyhow::Result<()> {
    let reporter = Reporter {
        controller: "drop-coordinator".to_owned(),
        instance: None,
    };
    let recorder = Recorder::new(client.clone(), reporter);
    while let Some(event) = queue.recv().await {
        apply::publish(&client, &recorder, event).await;
    }
    // The state machine is gone; its own end says why.
    std::future::pending().await
}

/// Ready = the API server's objects are known, and sessions can be served: only then do statuses mean anything.
async fn show_readiness(
    readiness: Readiness,
    mut reported: watch::Receiver<Report>,
    mut standing: watch::Receiver<Standing>,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    loop {
        let is_synced = reported.borrow_and_update().synced;
        let listed = is_synced.then_some(()).ok_or(NOT_LISTED.to_owned());
        readiness.set(standing.borrow_and_update().check().and(listed));
        // Each branch only waits. The senders live as long as the tasks whose end ends the process.
        let changed = tokio::select! {
            changed = reported.changed() => changed,
            changed = standing.changed() => changed,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        if changed.is_err() {
            break;
        }
    }
    readiness.set_not_ready("stops");
    std::future::pending().await
}

async fn serve_sessions(
    connections: mpsc::Receiver<io::Result<Connection>>,
    server: Server,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let service = CoordinatorServer::new(server)
        .max_decoding_message_size(MAX_AGENT_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let stop = async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADER_BYTES)
        .add_service(service)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), stop)
        .await
        .context("gRPC server")
}
