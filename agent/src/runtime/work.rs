//! Carries out what the machine wants of the runtime, and brings back what came of it.
//!
//! Every call is a task of its own, so that a hung one holds up nothing; every task ends in exactly one input, also when it is
//! cancelled or panics.

use std::collections::HashMap;
use std::sync::Arc;

use drop_proto::{Credential, FailureClass};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::{Runtime, watch};
use crate::logins::Providers;
use crate::node::{Failure, Input, Output};

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
    calls: JoinSet<Input>,
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
        tokio::select! {
            event = self.events.recv() => event.ok_or(Died),
            Some(ended) = self.calls.join_next_with_id() => Ok(self.ended(ended)),
        }
    }

    fn pull(&mut self, token: u64, reference: String, credentials: Vec<Credential>) {
        let runtime = self.runtime.clone();
        let providers = self.providers.clone();
        let handle = self.calls.spawn(async move {
            let logins = providers.logins(&reference, credentials).await;
            let result = runtime.pull(&reference, logins).await;
            Input::PullEnded { token, result }
        });
        self.pulls.insert(handle.id(), token);
        self.handles.insert(token, handle);
    }

    fn list(&mut self) {
        let runtime = self.runtime.clone();
        self.calls.spawn(async move {
            let listing = runtime.list().await;
            Input::Listed(listing.map_err(|error| error.to_string()))
        });
    }

    fn ended(&mut self, ended: Result<(Id, Input), JoinError>) -> Input {
        let (id, input) = match ended {
            Ok((id, input)) => (id, Ok(input)),
            Err(error) => (error.id(), Err(error.is_cancelled())),
        };
        let token = self.pulls.remove(&id);
        if let Some(token) = token {
            self.handles.remove(&token);
        }
        let input = input.unwrap_or_else(|cancelled| unfinished(token, cancelled));
        let failed = match &input {
            Input::PullEnded {
                result: Err(failure),
                ..
            } => failure.class == FailureClass::Runtime,
            Input::Listed(listing) => listing.is_err(),
            _ => false,
        };
        if failed {
            self.suspicion.notify_one();
        }
        input
    }
}

/// What a call that did not come to its end amounts to.
fn unfinished(token: Option<u64>, cancelled: bool) -> Input {
    let message = if cancelled {
        "cancelled"
    } else {
        "internal error"
    };
    match token {
        Some(token) => Input::PullEnded {
            token,
            result: Err(Failure {
                class: FailureClass::Canceled,
                message: message.to_owned(),
            }),
        },
        None => Input::Listed(Err(message.to_owned())),
    }
}
