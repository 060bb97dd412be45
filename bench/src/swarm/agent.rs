//! One agent of the swarm: what `drop_agent::run` does, with a runtime that only remembers names.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use drop_agent::node::{Config, Input, Listed, Listing, Node, Output};
use drop_agent::runtime::platform;
use drop_agent::session::place::Place;
use drop_agent::session::{self, Stream};
use drop_proto::{agent_message, coordinator_message};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep_until};

use super::tally::Tally;
use super::{Order, node_name};

/// As `drop_agent::run` has it.
const EVENTS: usize = 64;
const IDLE: Duration = Duration::from_secs(60);
/// What every image of the swarm has; the coordinator keeps one list of digests for all nodes then, as in a real cluster.
const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// See the module's documentation.
pub(super) struct Agent {
    number: usize,
    node: Node,
    held: Listing,
    stream: Option<Stream>,
    is_settled: bool,
    /// When an image was asked for.
    asked: HashMap<String, Instant>,
    /// When the last pull ended: an agent takes one grant at a time.
    free_since: Instant,
    /// When the runtime is to lose an image.
    loses_at: Option<Instant>,
    tally: Arc<Tally>,
    orders: broadcast::Receiver<Order>,
    begin: Instant,
}

impl Agent {
    pub(super) fn new(
        number: usize,
        tally: Arc<Tally>,
        orders: broadcast::Receiver<Order>,
    ) -> Self {
        let config = Config {
            node: node_name(number),
            instance: format!("swarm-{number}"),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            max_parallel_pulls: 1,
            list_interval: Duration::from_secs(30),
            pull_deadline: Duration::from_secs(3600),
            shutdown_grace: Duration::ZERO,
        };
        let begin = Instant::now();
        Self {
            number,
            node: Node::new(config),
            held: Listing::new(),
            stream: None,
            is_settled: false,
            asked: HashMap::new(),
            free_since: begin,
            loses_at: None,
            tally,
            orders,
            begin,
        }
    }

    /// Runs until the swarm ends.
    pub(super) async fn run(mut self, place: Place) {
        let (events, mut session_events) = mpsc::channel(EVENTS);
        let session = tokio::spawn(session::run(place, events));
        self.feed(runtime_up());
        loop {
            let wake = self.node.wake_at().unwrap_or(self.begin.elapsed() + IDLE);
            let input = tokio::select! {
                event = session_events.recv() => match event {
                    Some(event) => self.session_event(event),
                    None => break,
                },
                order = self.orders.recv() => match order {
                    Ok(order) => self.obey(order),
                    Err(_) => break,
                },
                () = sleep_until(self.loses_at.unwrap_or(self.begin)), if self.loses_at.is_some() => self.lose(),
                () = sleep_until(self.begin + wake) => Input::Tick,
            };
            self.feed(input);
        }
        session.abort();
    }

    fn session_event(&mut self, event: session::Event) -> Input {
        match event {
            session::Event::Open(stream) => {
                self.stream = Some(stream);
                Input::Connected
            }
            session::Event::Message(message) => {
                match &message.kind {
                    Some(coordinator_message::Kind::Desired(desired)) if desired.complete => {
                        self.tally.sessions.fetch_add(1, Relaxed);
                    }
                    Some(coordinator_message::Kind::Grant(grant)) => {
                        if let Some(asked) = self.asked.get(&grant.reference) {
                            let could_take = (*asked).max(self.free_since);
                            self.tally.granted(could_take.elapsed());
                        }
                    }
                    _ => {}
                }
                Input::Message(message)
            }
            session::Event::Closed(_) => self.hang_up(),
            session::Event::Unreachable(_) => Input::Tick,
        }
    }

    fn obey(&mut self, order: Order) -> Input {
        match order {
            Order::HangUp => return self.hang_up(),
            Order::Lose { millis } => {
                let turn = millis * self.number as u64 / self.tally.agents as u64;
                self.loses_at = Some(Instant::now() + Duration::from_millis(turn));
            }
            Order::Report | Order::Reset => {}
        }
        Input::Tick
    }

    /// One image vanishes. A runtime that comes back is listed at once, so the loss is seen now and not at the next list.
    fn lose(&mut self) -> Input {
        self.loses_at = None;
        if self.held.pop_first().is_some() {
            self.tally.held.fetch_sub(1, Relaxed);
        }
        runtime_up()
    }

    /// Dropping the stream closes it.
    fn hang_up(&mut self) -> Input {
        self.stream = None;
        self.asked.clear();
        if self.is_settled {
            self.is_settled = false;
            self.tally.settled.fetch_sub(1, Relaxed);
        }
        Input::Disconnected
    }

    fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.node.step(self.begin.elapsed(), input) {
                match output {
                    Output::Send(message) => {
                        self.note(message.kind.as_ref());
                        let sent = self
                            .stream
                            .as_ref()
                            .is_none_or(|stream| stream.send(message));
                        if !sent {
                            inputs.push_back(self.hang_up());
                        }
                    }
                    Output::Reconnect { .. } => inputs.push_back(self.hang_up()),
                    Output::List => inputs.push_back(Input::Listed(Ok(self.held.clone()))),
                    Output::Pull {
                        token, reference, ..
                    } => {
                        self.pull(reference);
                        let result = Ok(());
                        inputs.push_back(Input::PullEnded { token, result });
                    }
                    Output::CancelPull { .. } | Output::Observe(_) | Output::Exit => {}
                }
            }
        }
    }

    fn pull(&mut self, reference: String) {
        let listed = Listed {
            digests: vec![DIGEST.to_owned()],
            size_bytes: 1_000_000,
        };
        if self.held.insert(reference, listed).is_none() {
            self.tally.held.fetch_add(1, Relaxed);
        }
        self.tally.pulls.fetch_add(1, Relaxed);
    }

    /// Keeps the times from which grants are measured.
    fn note(&mut self, said: Option<&agent_message::Kind>) {
        match said {
            Some(agent_message::Kind::Ask(ask)) => {
                let now = Instant::now();
                let asked = ask.references.iter().cloned();
                self.asked.extend(asked.map(|reference| (reference, now)));
            }
            Some(agent_message::Kind::Done(_)) => self.free_since = Instant::now(),
            Some(agent_message::Kind::Inventory(inventory))
                if inventory.complete && !self.is_settled =>
            {
                self.is_settled = true;
                self.tally.settled.fetch_add(1, Relaxed);
            }
            _ => {}
        }
    }
}

fn runtime_up() -> Input {
    Input::RuntimeUp {
        runtime: "simulated".to_owned(),
        platform: platform(),
    }
}
