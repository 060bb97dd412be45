//! Whether a registry host can be asked now.
//!
//! A host that says 429 pauses for everybody at once, and no success of a pull that began before shortens that. For other
//! troubles (5xx, refused, DNS, TLS, time-outs) one node's word is not enough, however often it repeats itself, since it may
//! be the node that is broken: then a single trial goes on, on another node if there is one, and its result decides. After a
//! pause, too, one trial goes first. What ran before is no trial and holds up nothing.

use std::time::Duration;

use crate::node_set::NodeId;
use crate::pacing::backoff::Backoff;

/// A success this recent outweighs one node's failure: the host is up, the node is not.
const FRESH: Duration = Duration::from_secs(60);

/// What is known of one registry host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    state: State,
    /// Grants out for images of this host.
    running: u32,
    /// The grant that finds out whether the host is well.
    trial: Option<u64>,
    /// Failures in a row that count against the host.
    strikes: u32,
    last_success: Option<Duration>,
    /// Until when the host asked the coordinator to leave it alone.
    told: Option<Duration>,
    /// Questions of the coordinator's own that are out.
    pub questions: u32,
    /// Until when the coordinator does not try again to reach it, and why. Nodes may reach it all the same.
    out_of_reach: Option<(Duration, String)>,
    /// Said with the last failure, for people.
    pub message: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Healthy,
    /// One trial at a time, and not on the node that complained.
    Suspect(Option<NodeId>),
    Paused {
        until: Duration,
        /// It said 429 itself.
        throttled: bool,
    },
}

/// The answer of [`Host::admits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Any node may pull.
    Open,
    /// One pull may start, on another node than this one if another waits.
    Trial(Option<NodeId>),
    /// Nothing may start: a trial runs, or the budget is used up.
    Busy,
    /// Nothing may start before this time.
    Until(Duration),
}

impl Host {
    /// Whether a pull may start. `budget` is the most pulls that run from one host, in the whole cluster.
    #[must_use]
    pub fn admits(&self, now: Duration, budget: u32) -> Admission {
        if let Some(until) = self.paused_until(now) {
            return Admission::Until(until);
        }
        match self.state {
            _ if self.running >= budget => Admission::Busy,
            State::Healthy => Admission::Open,
            State::Suspect(_) | State::Paused { .. } if self.trial.is_some() => Admission::Busy,
            State::Suspect(node) => Admission::Trial(node),
            State::Paused { .. } => Admission::Trial(None),
        }
    }

    /// Until when nothing starts, if the host is paused.
    #[must_use]
    pub fn paused_until(&self, now: Duration) -> Option<Duration> {
        self.told
            .max(self.paused_by_nodes())
            .filter(|until| now < *until)
    }

    fn paused_by_nodes(&self) -> Option<Duration> {
        match self.state {
            State::Paused { until, .. } => Some(until),
            _ => None,
        }
    }

    /// Whether it is paused because it said 429.
    #[must_use]
    pub fn is_throttled(&self, now: Duration) -> bool {
        let is_told = self.told.is_some_and(|until| now < until);
        is_told
            || matches!(
                self.state,
                State::Paused {
                    throttled: true,
                    ..
                }
            )
    }

    /// A grant for an image of this host went out.
    pub fn started(&mut self, token: u64) {
        self.running += 1;
        if self.state != State::Healthy {
            self.trial = Some(token);
        }
    }

    /// A grant for an image of this host is over, whatever its result.
    pub fn ended(&mut self, token: u64) {
        self.running = self.running.saturating_sub(1);
        if self.trial == Some(token) {
            self.trial = None;
        }
    }

    /// A pull has run for a while without an error. If it was the trial, others need not wait for its end.
    pub fn proven(&mut self, now: Duration, token: u64) {
        if self.trial == Some(token) {
            self.answered(now);
        }
    }

    /// A pull succeeded, or failed in a way that shows that the host answers.
    pub fn answered(&mut self, now: Duration) {
        self.last_success = Some(now);
        if let State::Paused { until, throttled } = self.state
            && throttled
            && now < until
        {
            return;
        }
        self.state = State::Healthy;
        self.trial = None;
        self.strikes = 0;
    }

    /// The host said 429: everybody waits.
    pub fn throttled(&mut self, now: Duration, backoff: Backoff, message: &str) {
        self.pause(now, backoff, message, true);
    }

    /// The host said 429 to the coordinator, and for how long: everybody waits at least as long.
    pub fn told_to_wait(&mut self, now: Duration, wait: Duration, message: &str) {
        self.told = self.told.max(Some(now + wait));
        message.clone_into(&mut self.message);
    }

    /// The coordinator could not reach the host.
    pub fn out_of_reach(&mut self, until: Duration, cause: &str) {
        self.out_of_reach = Some((until, cause.to_owned()));
    }

    /// Why the coordinator does not try to reach the host now.
    #[must_use]
    pub fn is_out_of_reach(&self, now: Duration) -> Option<&str> {
        let (until, cause) = self.out_of_reach.as_ref()?;
        (now < *until).then_some(cause.as_str())
    }

    /// Somebody wants to know whether the coordinator reaches the host now.
    pub fn reach_again(&mut self) {
        self.out_of_reach = None;
    }

    /// A pull failed for a reason that lies with the host or with the node's way to it.
    pub fn failed(&mut self, now: Duration, node: NodeId, backoff: Backoff, message: &str) {
        if self
            .last_success
            .is_some_and(|at| now.saturating_sub(at) < FRESH)
        {
            return;
        }
        match self.state {
            State::Healthy => {
                self.state = State::Suspect(Some(node));
                message.clone_into(&mut self.message);
            }
            State::Suspect(Some(complainer)) if complainer == node => {}
            State::Suspect(_) | State::Paused { .. } => self.pause(now, backoff, message, false),
        }
    }

    fn pause(&mut self, now: Duration, backoff: Backoff, message: &str, throttled: bool) {
        // Pulls that were under way when the pause began report the same trouble: that is no further strike.
        if self.paused_by_nodes().is_none_or(|until| until <= now) {
            self.strikes += 1;
            let until = now + backoff.delay(self.strikes);
            self.state = State::Paused { until, throttled };
        }
        message.clone_into(&mut self.message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: u32 = 10;

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn backoff() -> Backoff {
        Backoff::default()
    }

    #[test]
    fn a_429_pauses_at_once_and_longer_each_time() {
        let mut host = Host::default();
        host.started(1);
        host.ended(1);
        host.throttled(secs(0), backoff(), "throttled");
        assert_eq!(host.admits(secs(29), BUDGET), Admission::Until(secs(30)));
        host.throttled(secs(1), backoff(), "throttled");
        assert_eq!(
            host.admits(secs(29), BUDGET),
            Admission::Until(secs(30)),
            "a late report is no strike"
        );
        assert_eq!(host.admits(secs(30), BUDGET), Admission::Trial(None));
        host.throttled(secs(31), backoff(), "throttled");
        assert_eq!(host.admits(secs(40), BUDGET), Admission::Until(secs(91)));
        host.answered(secs(92));
        assert_eq!(host.admits(secs(92), BUDGET), Admission::Open);
    }

    #[test]
    fn one_nodes_complaint_leads_to_a_trial_elsewhere() {
        let mut host = Host::default();
        host.failed(secs(100), NodeId(1), backoff(), "refused");
        assert_eq!(
            host.admits(secs(100), BUDGET),
            Admission::Trial(Some(NodeId(1)))
        );
        host.started(1);
        assert_eq!(
            host.admits(secs(100), BUDGET),
            Admission::Busy,
            "one trial at a time"
        );
        host.ended(1);
        host.failed(secs(101), NodeId(2), backoff(), "refused");
        assert_eq!(host.admits(secs(102), BUDGET), Admission::Until(secs(131)));
    }

    #[test]
    fn one_node_that_complains_again_and_again_pauses_nobody() {
        let mut host = Host::default();
        for second in 100..110 {
            host.started(1);
            host.ended(1);
            host.failed(secs(second), NodeId(1), backoff(), "refused");
        }
        assert_eq!(
            host.admits(secs(110), BUDGET),
            Admission::Trial(Some(NodeId(1)))
        );
    }

    #[test]
    fn a_pull_that_began_before_a_429_does_not_end_the_pause() {
        let mut host = Host::default();
        host.throttled(secs(0), backoff(), "throttled");
        host.answered(secs(1));
        assert_eq!(host.admits(secs(2), BUDGET), Admission::Until(secs(30)));
        assert_eq!(host.admits(secs(30), BUDGET), Admission::Trial(None));
    }

    #[test]
    fn a_long_pull_is_no_trial_and_a_trial_that_runs_is_believed() {
        let mut host = Host::default();
        host.started(1);
        host.failed(secs(100), NodeId(1), backoff(), "refused");
        assert_eq!(
            host.admits(secs(100), BUDGET),
            Admission::Trial(Some(NodeId(1))),
            "the pull that ran already holds up no trial"
        );
        host.started(2);
        assert_eq!(host.admits(secs(101), BUDGET), Admission::Busy);
        host.proven(secs(105), 1);
        assert_eq!(host.admits(secs(105), BUDGET), Admission::Busy);
        host.proven(secs(115), 2);
        assert_eq!(host.admits(secs(115), BUDGET), Admission::Open);
    }

    #[test]
    fn a_node_that_fails_while_others_succeed_does_not_stop_them() {
        let mut host = Host::default();
        host.answered(secs(50));
        host.failed(secs(60), NodeId(1), backoff(), "refused");
        assert_eq!(host.admits(secs(60), BUDGET), Admission::Open);
        host.failed(secs(111), NodeId(1), backoff(), "refused");
        assert_eq!(
            host.admits(secs(111), BUDGET),
            Admission::Trial(Some(NodeId(1)))
        );
    }

    #[test]
    fn the_budget_bounds_running_pulls() {
        let mut host = Host::default();
        host.started(1);
        assert_eq!(host.admits(secs(0), 2), Admission::Open);
        host.started(1);
        assert_eq!(host.admits(secs(0), 2), Admission::Busy);
        host.ended(1);
        assert_eq!(host.admits(secs(0), 2), Admission::Open);
    }
}
