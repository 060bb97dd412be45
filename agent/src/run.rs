//! The daemon: starts the tasks, and owns the machine.
//!
//! One task owns the machine and feeds it, one input after the other; everything else sends it what happened or carries out
//! what it wants.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use drop_daemon::admin::{self, MetricsPage, Readiness};
use drop_daemon::bind;
use drop_daemon::signals::watch_signals;
use drop_daemon::supervise::Tasks;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::args::RunArgs;
use crate::metrics::Metrics;
use crate::node::{Config, Event, Input, Node, Output};
use crate::runtime::Work;
use crate::session::{self, Stream};

/// Session events that wait for the machine.
const EVENTS: usize = 64;
/// How long the last words of a stopping agent may take to reach the coordinator.
const FAREWELL: Duration = Duration::from_secs(2);
/// Beyond the grace of running pulls: for the farewell and the admin pages.
const LAST_GRACE: Duration = Duration::from_secs(5);
/// The machine is asked for the time at least this often; it always knows of something sooner in practice.
const IDLE: Duration = Duration::from_secs(60);

/// Serves one node until a signal.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let place = args.place()?;
    drop_daemon::install_crypto_provider();
    let recorder = admin::install_recorder(&[])?;
    let metrics = Metrics::new();
    let readiness = Readiness::default();
    let (stop, stopped) = watch::channel(false);
    // The pages outlive the signal: a pull that finishes during the grace is still to be seen.
    let (end, ended) = watch::channel(false);
    let (events, session_events) = mpsc::channel(EVENTS);
    let config = config(&args);
    let providers = args
        .runtime
        .providers()
        .context("--image-credential-provider-config")?;
    info!(
        node = config.node,
        version = config.version,
        coordinator = %args.coordinator,
        runtime_endpoint = %args.runtime.runtime_endpoint,
        max_parallel_pulls = config.max_parallel_pulls,
        disk_high_percent = config.disk.high_percent,
        allow_registries = ?args.allow_registries.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "agent starts"
    );

    let mut tasks = Tasks::default();
    if let Some(address) = args.metrics_bind_address.address() {
        let series = metrics.clone();
        let page = MetricsPage {
            recorder,
            more: Arc::new(move || series.page()),
        };
        let listener = bind::listen(address)
            .await
            .context("--metrics-bind-address")?;
        tasks.spawn(
            "metrics page",
            admin::serve_metrics(listener, page, ended.clone()),
        );
    }
    if let Some(address) = args.health_probe_bind_address.address() {
        let listener = bind::listen(address)
            .await
            .context("--health-probe-bind-address")?;
        tasks.spawn(
            "probes",
            admin::serve_probes(listener, readiness.clone(), ended),
        );
    }
    tasks.spawn_endless("signals", watch_signals(stop));
    tasks.spawn_endless("session", async move {
        session::run(place, events).await;
        Ok(())
    });
    let owner = Owner {
        node: Node::new(config),
        work: Work::new(args.runtime.runtime(), providers),
        session_events,
        stream: None,
        is_accepted: false,
        session_problem: "connecting".to_owned(),
        sessions: 0,
        metrics,
        readiness,
        begin: Instant::now(),
    };
    let stop = stopped.clone();
    tasks.spawn("node", async move {
        let result = owner.turn(stop).await;
        end.send_replace(true);
        result
    });
    let grace = args.shutdown_grace.get() + LAST_GRACE;
    tasks.run(stopped, grace).await
}

fn config(args: &RunArgs) -> Config {
    Config {
        node: args.node_name.clone(),
        instance: format!("{:016x}", rand::random::<u64>()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        max_parallel_pulls: args.runtime.max_parallel_pulls,
        list_interval: args.list_interval.get(),
        pull_deadline: args.pull_deadline.get(),
        shutdown_grace: args.shutdown_grace.get(),
        disk: args.runtime.disk.limits(),
        allowed: args.allow_registries.clone(),
    }
}

/// The task that owns the machine.
struct Owner {
    node: Node,
    work: Work,
    session_events: mpsc::Receiver<session::Event>,
    stream: Option<Stream>,
    /// The coordinator has answered in this session: it leads, and takes us.
    is_accepted: bool,
    /// Why there is no session, for people.
    session_problem: String,
    sessions: u64,
    metrics: Metrics,
    readiness: Readiness,
    begin: Instant,
}

enum Flow {
    Continue,
    Exit,
}

impl Owner {
    async fn turn(mut self, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let mut is_stopping = false;
        loop {
            let wake = self.node.wake_at().unwrap_or(self.begin.elapsed() + IDLE);
            let wake_at = self.begin + wake;
            // Every branch may be dropped unfinished without losing anything.
            let input = tokio::select! {
                input = self.work.next() => input?,
                event = self.session_events.recv() => {
                    let event = event.context("the session task is gone")?;
                    self.session_event(event)
                }
                _ = stop.wait_for(|stop| *stop), if !is_stopping => {
                    is_stopping = true;
                    Input::Shutdown
                }
                () = tokio::time::sleep_until(wake_at) => Input::Tick,
            };
            if let Flow::Exit = self.feed(input) {
                break;
            }
            self.show(is_stopping);
        }
        self.farewell().await;
        info!("agent ends");
        Ok(())
    }

    fn session_event(&mut self, event: session::Event) -> Input {
        match event {
            session::Event::Open(stream) => {
                self.stream = Some(stream);
                Input::Connected
            }
            session::Event::Message(message) => {
                if !self.is_accepted {
                    self.is_accepted = true;
                    self.sessions += 1;
                    info!(sessions = self.sessions, "session accepted");
                    if self.sessions > 1 {
                        self.metrics.reconnected();
                    }
                }
                Input::Message(message)
            }
            session::Event::Closed(reason) => {
                self.stream = None;
                self.is_accepted = false;
                self.session_problem = reason;
                Input::Disconnected
            }
            session::Event::Unreachable(reason) => {
                self.session_problem = reason;
                Input::Tick
            }
        }
    }

    /// Takes one input through the machine and carries out what it wants.
    fn feed(&mut self, input: Input) -> Flow {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for output in self.node.step(self.begin.elapsed(), input) {
                match output {
                    Output::Send(message) => {
                        let sent = self
                            .stream
                            .as_ref()
                            .is_none_or(|stream| stream.send(message));
                        if !sent {
                            warn!("the coordinator does not read, connects anew");
                            inputs.push(self.hang_up());
                        }
                    }
                    Output::Reconnect { reason } => {
                        warn!(reason, "the coordinator broke the protocol, connects anew");
                        inputs.push(self.hang_up());
                    }
                    Output::Observe(event) => {
                        log(&event);
                        self.metrics.observe(&event, |r| self.node.is_desired(r));
                    }
                    Output::Exit => return Flow::Exit,
                    output => self.work.carry_out(output),
                }
            }
        }
        Flow::Continue
    }

    /// Drops the stream, which closes it. What it still brings in is not listened to.
    fn hang_up(&mut self) -> Input {
        self.stream = None;
        self.is_accepted = false;
        Input::Disconnected
    }

    fn show(&self, is_stopping: bool) {
        let runtime_problem = self.node.runtime_problem();
        let is_up = runtime_problem.is_none();
        self.metrics
            .set(self.node.running_pulls(), is_up, self.is_accepted);
        self.readiness.set(match runtime_problem {
            _ if is_stopping => Err("the agent stops".to_owned()),
            Some(problem) => Err(format!("the container runtime does not answer: {problem}")),
            None if !self.is_accepted => Err(format!(
                "no session with the coordinator: {}",
                self.session_problem
            )),
            None => Ok(()),
        });
    }

    /// Lets what was said arrive.
    async fn farewell(mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        stream.finish();
        let closed = async {
            while let Some(event) = self.session_events.recv().await {
                if let session::Event::Closed(_) = event {
                    return;
                }
            }
        };
        if tokio::time::timeout(FAREWELL, closed).await.is_err() {
            debug!("the coordinator did not close the session in time");
        }
    }
}

fn log(event: &Event) {
    match event {
        Event::PullStarted { reference } => info!(image = reference, "pull started"),
        Event::Cached {
            reference,
            listed,
            took,
        } => info!(
            image = reference,
            digests = listed.digests.join(" "),
            size_bytes = listed.size_bytes,
            seconds = took.as_secs_f64(),
            "image cached"
        ),
        Event::PullFailed {
            reference,
            failure,
            took,
        } => warn!(
            image = reference,
            class = failure.class.class(),
            reason = failure.message,
            seconds = took.as_secs_f64(),
            "pull failed"
        ),
        Event::Lost { reference } => warn!(
            image = reference,
            "image is gone from the runtime, asks for it again"
        ),
        Event::Refused { reference, failure } => warn!(
            image = reference,
            class = failure.class.class(),
            reason = failure.message,
            "image is needed and not asked for"
        ),
        Event::Released { reference, reason } => {
            debug!(image = reference, reason, "grant given back");
        }
        Event::Undesired { references } => {
            info!(images = references.join(" "), "images not desired any more");
        }
        Event::TooManyDesired { ignored } => error!(
            ignored,
            limit = crate::node::MAX_DESIRED,
            "more images desired than one node takes"
        ),
    }
}
