//! What passes by on its way to or from the world, and which rules it is held against.

use std::time::Duration;

use drop_api::CachedImageStatus;
use drop_proto::{AgentMessage, CoordinatorMessage, agent_message};

use crate::objects::ImageRow;
use crate::oracle::grants::{Grant, State};
use crate::oracle::status::is_true;
use crate::oracle::{Oracle, PULL_DEADLINE, Place, TTL, Verdict, Violation};

impl Oracle {
    /// The coordinator says something to an agent.
    pub(crate) fn sends(
        &mut self,
        now: Duration,
        life: u64,
        (_, node): Place,
        message: &CoordinatorMessage,
    ) -> Verdict {
        use drop_proto::coordinator_message::Kind;
        match &message.kind {
            Some(Kind::Grant(grant)) if life != self.life => {
                let text = format!(
                    "n{node:05} is granted {} by a leader of old",
                    grant.reference
                );
                Err(Violation::new("two-leaders", text))
            }
            _ if life != self.life => Ok(()),
            Some(Kind::Grant(grant)) => {
                self.has_its_logins(now, node, grant)?;
                self.grants(now, node, grant)
            }
            Some(Kind::Revoke(revoke)) => {
                if let Some(grant) = self.grants.get_mut(revoke.token) {
                    grant.is_revoked = true;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The coordinator writes a status; `row` is what stands in the API server.
    pub(crate) fn writes(
        &mut self,
        now: Duration,
        (image, uid): (usize, u64),
        status: &CachedImageStatus,
        row: Option<&ImageRow>,
    ) -> Verdict {
        let seen = self
            .view
            .images
            .get(&image)
            .filter(|seen| seen.row.uid == uid);
        let Some(seen) = seen else {
            let text = format!("i{image:03} is written, but no watch has shown it (uid {uid})");
            return Err(Violation::new("status", text));
        };
        let reference = seen.row.spec.reference;
        self.statuses
            .expects(reference, status.resolved_digest.as_deref());
        if self.is_quiet(reference) {
            let text = format!("i{image:03} is written at rest: {status:?}");
            return Err(Violation::new("silence", text));
        }
        is_true(now, seen, status, &self.sessions, &self.statuses)?;
        self.statuses.writes(now, seen, status, row)
    }

    /// A write has changed what stands in the API server.
    pub(crate) fn landed(&mut self, life: u64, image: usize, uid: u64) {
        self.statuses.landed((image, uid), life == self.life);
    }

    pub(crate) fn write_answered(&mut self, image: usize, uid: u64, is_ok: bool) {
        self.statuses.answered((image, uid), is_ok);
    }

    /// The grant will never reach its agent.
    pub(crate) fn grant_lost(&mut self, now: Duration, token: u64) {
        self.grants.over(now, token);
    }

    /// The agent process is gone, and whatever it would have done.
    pub(crate) fn agent_gone(&mut self, now: Duration, node: usize) {
        self.agents.gone(node);
        for token in self.grants.tokens_of_node(node) {
            self.grants.over(now, token);
        }
    }

    pub(crate) fn agent_hears(&mut self, node: usize, message: &CoordinatorMessage) {
        self.agents
            .hears(node, message, &self.catalog, &self.grants);
    }

    pub(crate) fn agent_heard(&mut self, node: usize) -> Verdict {
        self.agents.heard(node)
    }

    pub(crate) fn agent_says(
        &mut self,
        now: Duration,
        node: usize,
        message: &AgentMessage,
        listed: &[(usize, u64)],
    ) -> Verdict {
        if let Some(agent_message::Kind::Release(release)) = &message.kind {
            self.agents.released(node, release.token);
            let is_used = |grant: &Grant| grant.state == State::Pulling;
            if self.grants.get(release.token).is_some_and(is_used) {
                let text = format!("n{node:05} gives {} back and uses it", release.token);
                return Err(Violation::new("report", text));
            }
            self.grants.over(now, release.token);
        }
        if let Some(agent_message::Kind::Done(done)) = &message.kind
            && let Some(grant) = self.grants.get(done.token)
        {
            // The registry itself has named it, whether or not a status has come to say so.
            let digest = done.digests.first().map(String::as_str);
            self.statuses.expects(grant.reference, digest);
        }
        self.agents
            .says(node, message, listed, &self.catalog, &mut self.grants)
    }

    /// The runtime has answered a list that the agent asked for at `began`.
    pub(crate) fn agent_lists(&mut self, node: usize, began: Duration, listed: &[(usize, u64)]) {
        self.grants.listed(node, began, |reference| {
            let place = listed.binary_search_by_key(&reference, |(listed, _)| *listed);
            place.ok().map(|place| listed[place].1)
        });
    }

    /// `PullImage` is called; `held` is what the runtime holds under the reference.
    pub(crate) fn pull_starts(
        &mut self,
        (node, token, reference): (usize, u64, usize),
        held: Option<u64>,
    ) -> Verdict {
        let name = self.catalog.text(reference);
        let broken = |rule, what: &str| {
            Err(Violation::new(
                rule,
                format!("n{node:05} pulls {name} under {token}: {what}"),
            ))
        };
        if self.is_quiet(reference) {
            return broken("silence", "at rest");
        }
        self.agents.pulls(node, token, reference, held)?;
        let pulling = |grant: &&Grant| grant.state == State::Pulling;
        let running: Vec<usize> = self
            .grants
            .of_node(node)
            .filter(pulling)
            .map(|grant| grant.reference)
            .collect();
        if running.contains(&reference) {
            return broken("double", "it is being pulled there already");
        }
        self.fits(node, running.len())?;
        if running.len() as u32 >= self.machines[node].0 {
            return broken("limit", "more pulls at once than the node takes");
        }
        if let Some(grant) = self
            .grants
            .get_mut(token)
            .filter(|g| g.state == State::Sent)
        {
            grant.state = State::Pulling;
            return Ok(());
        }
        broken("grant", "the grant is used up")
    }

    /// The runtime pulls no more under this grant.
    pub(crate) fn pull_over(&mut self, now: Duration, token: u64) {
        self.grants.over(now, token);
    }

    /// A pull that runs is cancelled: all its bytes are thrown away. Nothing wants them, it took too long, or its agent
    /// `is_excused`.
    pub(crate) fn cancelled(&mut self, now: Duration, token: u64, is_excused: bool) -> Verdict {
        self.agents.cancelled(token);
        let is_due = |grant: &Grant| grant.is_revoked || now >= grant.given + PULL_DEADLINE;
        if is_excused || self.grants.get(token).is_some_and(is_due) {
            return Ok(());
        }
        let text = format!("pull {token} is cancelled, and could have gone on");
        Err(Violation::new("waste", text))
    }

    /// No grant outlives the TTL that its agent was silent for. `out` is what the coordinator itself says.
    pub(crate) fn counts(&self, now: Duration, out: usize) -> Verdict {
        let countable = self.grants.countable(self.life, now.saturating_sub(TTL));
        if out <= countable {
            return Ok(());
        }
        let text = format!("{out} grants are out, {countable} can be");
        Err(Violation::new("leak", text))
    }

    /// Grants that weigh.
    pub(crate) fn weighing(&self) -> usize {
        self.grants.weighing()
    }
}
