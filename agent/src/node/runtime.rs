//! What is known of the runtime: whether it answers, and what its lists confirm. Part of the node's state machine.

use std::time::Duration;

use drop_proto::{FailureClass, RuntimeState};

use super::{Event, Failure, Listing, Node, Output};

/// Failed lists in a row after which the runtime counts as not available, and pulls that wait for a list as failed.
const LIST_ERRORS: u32 = 3;

/// As its watcher says.
#[derive(Debug)]
pub(super) enum Runtime {
    Up,
    Down { message: String },
}

impl Node {
    pub(super) fn runtime_up(&mut self, runtime: String, platform: String) {
        self.runtime = Runtime::Up;
        self.runtime_name = runtime;
        self.platform = platform;
        self.lists.errors = 0;
        self.lists.want();
    }

    pub(super) fn runtime_down(&mut self, message: String, out: &mut Vec<Output>) {
        let failure = Failure {
            class: FailureClass::Runtime,
            message: message.clone(),
        };
        self.runtime = Runtime::Down { message };
        // Said first, so that the coordinator does not grant again what fails here.
        self.say_runtime(out);
        self.fail_unconfirmed(&failure, out);
    }

    pub(super) fn listed(&mut self, now: Duration, listing: &Listing, out: &mut Vec<Output>) {
        let number = self.lists.finished(now, self.config.list_interval);
        for (reference, image) in &mut self.images {
            if image.since <= number && image.observe(listing.get(reference)) {
                out.push(Output::Observe(Event::Lost {
                    reference: reference.clone(),
                }));
            }
        }
        let confirmed: Vec<u64> = self
            .pulls
            .iter()
            .filter(|(_, pull)| pull.confirmed_by(number))
            .map(|(&token, _)| token)
            .collect();
        for token in confirmed {
            self.learn_from(token, listing);
            self.confirm(token, listing, out);
        }
    }

    pub(super) fn list_failed(&mut self, now: Duration, message: String, out: &mut Vec<Output>) {
        self.lists.failed(now, self.config.list_interval, message);
        if self.lists.errors >= LIST_ERRORS {
            let failure = Failure {
                class: FailureClass::Runtime,
                message: self.runtime_state().message,
            };
            self.say_runtime(out);
            self.fail_unconfirmed(&failure, out);
        }
    }

    /// Whether pulls can start and lists confirm them, as the coordinator is told.
    pub(super) fn runtime_state(&self) -> RuntimeState {
        let message = match &self.runtime {
            Runtime::Down { message } => message.clone(),
            Runtime::Up if self.lists.errors >= LIST_ERRORS => {
                format!("cannot list images: {}", self.lists.last_error)
            }
            Runtime::Up => String::new(),
        };
        RuntimeState {
            available: message.is_empty(),
            message,
            runtime: self.runtime_name.clone(),
            platform: self.platform.clone(),
        }
    }
}
