//! Carries out what the machine wants of the runtime, and brings back what came of it.
//!
//! Every call is a task of its own, so that a hung one holds up nothing; every task ends in exactly one input, also when it is
//! cancelled or panics.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use drop_proto::{Credential, FailureClass};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tracing::{info, warn};

use super::{Runtime, watch};
use crate::logins::Providers;
use crate::node::{Disk, Failure, Input, Listing, Output};

/// The watcher ended, which it never does while it is well.
#[derive(Debug, thiserror::Error)]
#[error("the watcher of the runtime ended")]
pub struct Died;

/// The calls under way. Dropping it cancels all of them.
#[derive(Debug)]
pub struct Work {
    runtime: Runtime,
    providers: Providers,
    suspicion: Arc<Notify>,
    events: mpsc::Receiver<Input>,
    _watcher: JoinSet<()>,
    calls: JoinSet<Answer>,
    /// Brought back and not fetched yet.
    ready: VecDeque<Input>,
    /// Why the disk could not be read when it was tried last.
    disk_problem: Option<String>,
    pulls: HashMap<Id, u64>,
    handles: HashMap<u64, AbortHandle>,
}

impl Work {
    /// Starts to watch the runtime.
    #[must_use]
    pub fn new(runtime: Runtime, providers: Providers) -> Self {
        let (sender, events) = mpsc::channel(4);
        let suspicion = Arc::new(Notify::new());
        let mut watcher = JoinSet::new();
        watcher.spawn(watch::watch(runtime.clone(), suspicion.clone(), sender));
        Self {
            runtime,
            providers,
            suspicion,
            events,
            _watcher: watcher,
            calls: JoinSet::new(),
            ready: VecDeque::new(),
            disk_problem: None,
            pulls: HashMap::new(),
            handles: HashMap::new(),
        }
    }

    /// Carries out [`Output::Pull`], [`Output::CancelPull`] and [`Output::List`]; the others are not its business.
    pub fn carry_out(&mut self, output: Output) {
        match output {
            Output::Pull {
                token,
                reference,
                credentials,
            } => self.pull(token, reference, credentials),
            Output::CancelPull { token } => {
                if let Some(handle) = self.handles.get(&token) {
                    handle.abort();
                }
            }
            Output::List => self.list(),
            _ => {}
        }
    }

    /// The next thing that happened to the runtime or in a call. May be dropped unfinished and called again.
    pub async fn next(&mut self) -> Result<Input, Died> {
        loop {
            if let Some(input) = self.ready.pop_front() {
                return Ok(input);
            }
            tokio::select! {
                event = self.events.recv() => return event.ok_or(Died),
                Some(ended) = self.calls.join_next_with_id() => self.ended(ended),
            }
        }
    }

    fn pull(&mut self, token: u64, reference: String, credentials: Vec<Credential>) {
        let runtime = self.runtime.clone();
        let providers = self.providers.clone();
        let handle = self.calls.spawn(async move {
            let logins = providers.logins(&reference, credentials).await;
            let result = runtime.pull(&reference, logins).await;
            Answer::Pull(token, result)
        });
        self.pulls.insert(handle.id(), token);
        self.handles.insert(token, handle);
    }

    fn list(&mut self) {
        let runtime = self.runtime.clone();
        self.calls.spawn(async move {
            let (disk, listing) = tokio::join!(runtime.disk(), runtime.list());
            Answer::List(
                disk.map_err(|error| error.to_string()),
                listing.map_err(|error| error.to_string()),
            )
        });
    }

    /// Files what a call brought, in the order in which the machine wants it.
    fn ended(&mut self, ended: Result<(Id, Answer), JoinError>) {
        let (id, answer) = match ended {
            Ok((id, answer)) => (id, Ok(answer)),
            Err(error) => (error.id(), Err(error.is_cancelled())),
        };
        let token = self.pulls.remove(&id);
        if let Some(token) = token {
            self.handles.remove(&token);
        }
        match answer.unwrap_or_else(|cancelled| unfinished(token, cancelled)) {
            Answer::Pull(token, result) => {
                let failed = |failure: &Failure| failure.class == FailureClass::Runtime;
                if result.as_ref().is_err_and(failed) {
                    self.suspicion.notify_one();
                }
                self.ready.push_back(Input::PullEnded { token, result });
            }
            Answer::List(disk, listing) => {
                if listing.is_err() {
                    self.suspicion.notify_one();
                } else {
                    self.note_disk(disk.as_ref().err());
                }
                self.ready.push_back(Input::Disk(disk.ok()));
                self.ready.push_back(Input::Listed(listing));
            }
        }
    }

    /// Says once that the disk cannot be read, and once that it can be again.
    fn note_disk(&mut self, problem: Option<&String>) {
        if self.disk_problem.as_ref() == problem {
            return;
        }
        if let Some(reason) = problem {
            warn!(
                reason,
                "free disk space is unknown, pulls are not checked against it"
            );
        } else {
            info!("free disk space is known again");
        }
        self.disk_problem = problem.cloned();
    }
}

/// What a call came to.
#[derive(Debug)]
enum Answer {
    Pull(u64, Result<(), Failure>),
    List(Result<Disk, String>, Result<Listing, String>),
}

/// What a call that did not come to its end amounts to.
fn unfinished(token: Option<u64>, cancelled: bool) -> Answer {
    let message = if cancelled {
        "cancelled"
    } else {
        "internal error"
    };
    match token {
        Some(token) => Answer::Pull(
            token,
            Err(Failure {
                class: FailureClass::Canceled,
                message: message.to_owned(),
            }),
        ),
        None => Answer::List(Err(message.to_owned()), Err(message.to_owned())),
    }
}
