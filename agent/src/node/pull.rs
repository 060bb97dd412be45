//! One pull under a grant, from the call to the list that confirms it.

use std::time::Duration;

use drop_proto::{AgentMessage, Done, Failed, FailureClass, agent_message};

use super::image::Want;
use super::{Event, Failure, Listing, Node, Output, millis};

#[derive(Debug)]
pub(super) struct Pull {
    pub(super) reference: String,
    pub(super) started_at: Duration,
    pub(super) ttl: Duration,
    /// How long it may take.
    pub(super) limit: Duration,
    /// What its image is taken to need on the disk.
    pub(super) need_bytes: u64,
    /// Use of the disk when it started; `None` if it is unknown, or another pull ran beside.
    pub(super) used_before: Option<u64>,
    /// What was wanted when it started.
    pub(super) want: Want,
    pub(super) phase: Phase,
    pub(super) cancel: Option<Cancel>,
    /// The grant was given in a session that is gone.
    pub(super) former_session: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// `PullImage` has not answered.
    Running,
    /// `PullImage` said OK after `took`; the list with this number, or a later one, shows whether it is true.
    Unconfirmed { list: u64, took: Duration },
}

/// Why we cancelled a pull ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cancel {
    Unwanted,
    Deadline,
}

impl Cancel {
    /// Not TIMEOUT for the deadline: that class blames the registry host and would hold up all its images.
    pub(super) fn failure(self, limit: Duration) -> Failure {
        let message = match self {
            Self::Unwanted => "cancelled: the image is not wanted any more".to_owned(),
            Self::Deadline => format!(
                "cancelled: not finished within {} s; if it was not stuck, raise pullTimeout of its PullPolicy (without a policy: --pull-deadline)",
                limit.as_secs()
            ),
        };
        Failure {
            class: FailureClass::Canceled,
            message,
        }
    }
}

impl Pull {
    /// When it is to be cancelled; `None` once that has happened or the call has ended.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let running = self.phase == Phase::Running && self.cancel.is_none();
        running.then(|| self.started_at.saturating_add(self.limit))
    }

    pub(super) fn confirmed_by(&self, number: u64) -> bool {
        matches!(self.phase, Phase::Unconfirmed { list, .. } if list <= number)
    }
}

impl Node {
    pub(super) fn cancel_overdue(&mut self, now: Duration, out: &mut Vec<Output>) {
        for (&token, pull) in &mut self.pulls {
            if pull.deadline().is_some_and(|at| now >= at) {
                pull.cancel = Some(Cancel::Deadline);
                out.push(Output::CancelPull { token });
            }
        }
    }

    /// Ends a pull as the list says.
    pub(super) fn confirm(&mut self, token: u64, listing: &Listing, out: &mut Vec<Output>) {
        let Some(pull) = self.pulls.get(&token) else {
            return;
        };
        let Phase::Unconfirmed { took, .. } = pull.phase else {
            return;
        };
        let Some(listed) = listing.get(&pull.reference) else {
            let failure = Failure {
                class: FailureClass::NotListed,
                message: "the runtime says that it pulled the image, but does not list it".into(),
            };
            self.fail(token, failure, took, out);
            return;
        };
        let Some(pull) = self.pulls.remove(&token) else {
            return;
        };
        if let Some(image) = self.images.get_mut(&pull.reference) {
            // A result that no session hears now is told to the next one, right after its Hello.
            let session = self.sessions + u64::from(self.said.is_none());
            image.pulled(pull.want, session);
        }
        if let Some(said) = &mut self.said {
            said.done(&pull.reference, listed);
        }
        self.report(
            agent_message::Kind::Done(Done {
                token,
                digests: listed.digests.clone(),
                size_bytes: listed.size_bytes,
                pull_ms: millis(took),
                reference: former_reference(&pull.reference, pull.former_session),
            }),
            out,
        );
        out.push(Output::Observe(Event::Cached {
            reference: pull.reference,
            listed: listed.clone(),
            took,
        }));
    }

    /// Ends a pull that failed.
    pub(super) fn fail(
        &mut self,
        token: u64,
        failure: Failure,
        took: Duration,
        out: &mut Vec<Output>,
    ) {
        let Some(pull) = self.pulls.remove(&token) else {
            return;
        };
        self.report(
            agent_message::Kind::Failed(Failed {
                token,
                class: failure.class.into(),
                message: failure.message.clone(),
                pull_ms: millis(took),
                reference: former_reference(&pull.reference, pull.former_session),
            }),
            out,
        );
        out.push(Output::Observe(Event::PullFailed {
            reference: pull.reference,
            failure,
            took,
        }));
    }

    /// Ends every pull that still waits for a list.
    pub(super) fn fail_unconfirmed(&mut self, failure: &Failure, out: &mut Vec<Output>) {
        let waiting: Vec<(u64, Duration)> = self
            .pulls
            .iter()
            .filter_map(|(&token, pull)| match pull.phase {
                Phase::Unconfirmed { took, .. } => Some((token, took)),
                Phase::Running => None,
            })
            .collect();
        for (token, took) in waiting {
            self.fail(token, failure.clone(), took, out);
        }
    }

    /// Ends every pull because the agent exits: the coordinator need not wait for their tokens to expire.
    pub(super) fn abandon_pulls(&mut self, now: Duration, out: &mut Vec<Output>) {
        let all: Vec<_> = self
            .pulls
            .iter()
            .map(|(&t, p)| (t, p.phase, p.started_at))
            .collect();
        for (token, phase, started_at) in all {
            if phase == Phase::Running {
                out.push(Output::CancelPull { token });
            }
            let failure = Failure {
                class: FailureClass::Canceled,
                message: "cancelled: the agent stops".to_owned(),
            };
            self.fail(token, failure, now.saturating_sub(started_at), out);
        }
    }

    /// Says the end of a pull now, and once more to the next session if this one may not have been accepted.
    fn report(&mut self, kind: agent_message::Kind, out: &mut Vec<Output>) {
        let message = AgentMessage { kind: Some(kind) };
        if self.said.as_ref().is_none_or(|said| said.revision == 0) {
            self.unsaid.push(message.clone());
        }
        if self.said.is_some() {
            out.push(Output::Send(message));
        }
    }
}

/// A token means nothing to a coordinator that did not give it; the reference does.
fn former_reference(reference: &str, former_session: bool) -> String {
    if former_session {
        reference.to_owned()
    } else {
        String::new()
    }
}
