//! What agents may do: pull under a grant only, claim only what a list showed, stop when told.

use std::collections::HashMap;

use drop_proto::{
    AgentMessage, CoordinatorMessage, ImagePullPolicy, agent_message, coordinator_message,
};

use crate::objects::{Catalog, digest_number};
use crate::oracle::grants::{Grants, State};
use crate::oracle::{Verdict, Violation};

/// What an agent was told to hold of one reference.
#[derive(Clone, Copy, Debug)]
struct Want {
    policy: ImagePullPolicy,
    expected: Option<u64>,
    is_check: bool,
}

#[derive(Debug, Default)]
struct Agent {
    desired: HashMap<usize, Want>,
    /// Grants that reached it and were not used yet.
    usable: HashMap<u64, usize>,
    /// It has to cancel this pull before it does anything else.
    to_cancel: Option<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Agents {
    agents: HashMap<usize, Agent>,
}

impl Agents {
    pub(crate) fn gone(&mut self, node: usize) {
        self.agents.remove(&node);
    }

    pub(crate) fn hears(
        &mut self,
        node: usize,
        message: &CoordinatorMessage,
        catalog: &Catalog,
        grants: &Grants,
    ) {
        let agent = self.agents.entry(node).or_default();
        match &message.kind {
            Some(coordinator_message::Kind::Desired(desired)) => {
                if desired.complete {
                    agent.desired.clear();
                }
                for dropped in &desired.dropped {
                    agent
                        .desired
                        .retain(|known, _| catalog.text(*known) != dropped);
                }
                for image in &desired.images {
                    let Some(reference) = catalog.index(&image.reference) else {
                        continue;
                    };
                    let want = Want {
                        policy: image.pull_policy(),
                        expected: digest_number(&image.expected_digest),
                        is_check: image.check != 0,
                    };
                    agent.desired.insert(reference, want);
                }
            }
            Some(coordinator_message::Kind::Grant(grant)) => {
                if let Some(reference) = catalog.index(&grant.reference) {
                    agent.usable.insert(grant.token, reference);
                }
            }
            Some(coordinator_message::Kind::Revoke(revoke)) => {
                agent.usable.remove(&revoke.token);
                let is_pulling = |g: &&super::grants::Grant| g.state == State::Pulling;
                if let Some(grant) = grants.get(revoke.token).filter(is_pulling)
                    && grant.node == node
                    && !agent.desired.contains_key(&grant.reference)
                {
                    agent.to_cancel = Some(revoke.token);
                }
            }
            None => {}
        }
    }

    pub(crate) fn cancelled(&mut self, token: u64) {
        for agent in self.agents.values_mut() {
            agent.to_cancel = agent.to_cancel.filter(|wanted| *wanted != token);
        }
    }

    /// It has taken the message in and acted.
    pub(crate) fn heard(&mut self, node: usize) -> Verdict {
        let to_cancel = self
            .agents
            .get_mut(&node)
            .and_then(|agent| agent.to_cancel.take());
        match to_cancel {
            Some(token) => Err(Violation::new(
                "revoke",
                format!(
                    "n{node:05} goes on with pull {token}, which was revoked and is not wanted"
                ),
            )),
            None => Ok(()),
        }
    }

    /// `held` is what the runtime holds under the reference at this moment.
    pub(crate) fn pulls(
        &mut self,
        node: usize,
        token: u64,
        reference: usize,
        held: Option<u64>,
    ) -> Verdict {
        let broken = |rule, text| Err(Violation::new(rule, format!("n{node:05} {text}")));
        let agent = self.agents.entry(node).or_default();
        if agent.usable.remove(&token) != Some(reference) {
            return broken(
                "grant",
                format!("pulls under {token}, which is no grant for that"),
            );
        }
        match (agent.desired.get(&reference), held) {
            (None, _) => broken("wanted", "pulls what it was not told to hold".to_owned()),
            (Some(want), _) if want.policy == ImagePullPolicy::Never => {
                broken("wanted", "pulls what is never to be pulled".to_owned())
            }
            (Some(want), Some(_)) if want.policy == ImagePullPolicy::IfNotPresent => broken(
                "needless",
                "pulls what is present and only has to be".to_owned(),
            ),
            (Some(want), Some(digest)) if want.expected == Some(digest) && !want.is_check => {
                broken("needless", format!("pulls {digest:x}, which it holds"))
            }
            _ => Ok(()),
        }
    }

    /// `listed` is what the runtime's list showed last.
    #[allow(clippy::unused_self)]
    pub(crate) fn says(
        &self,
        node: usize,
        message: &AgentMessage,
        listed: &[(usize, u64)],
        catalog: &Catalog,
        grants: &mut Grants,
    ) -> Verdict {
        let lie = |text: String| Err(Violation::new("report", format!("n{node:05} {text}")));
        let shown = |reference: usize| {
            let place = listed.binary_search_by_key(&reference, |(listed, _)| *listed);
            place.ok().map(|place| listed[place].1)
        };
        match &message.kind {
            Some(agent_message::Kind::Inventory(inventory)) => {
                for image in &inventory.images {
                    let Some(reference) = catalog.index(&image.reference) else {
                        return lie(format!("reports {}, which nobody wants", image.reference));
                    };
                    let claimed = image
                        .digests
                        .first()
                        .and_then(|digest| digest_number(digest));
                    if claimed != shown(reference) || image.present != claimed.is_some() {
                        let text =
                            format!("reports {image:?}, its list shows {:?}", shown(reference));
                        return lie(text);
                    }
                }
            }
            Some(agent_message::Kind::Done(done)) => {
                let Some(grant) = grants.get(done.token) else {
                    return lie(format!("is done with {}, which is no grant", done.token));
                };
                let (state, shown) = (grant.state, grant.shown);
                let claimed = done
                    .digests
                    .first()
                    .and_then(|digest| digest_number(digest));
                // Said again in the next session, it is as old as the first time.
                if !grants.told(done.token) {
                    return Ok(());
                }
                if state != State::Over || claimed.is_none() || claimed != shown {
                    return lie(format!(
                        "is done with {done:?}; since then lists showed {shown:?}"
                    ));
                }
            }
            Some(agent_message::Kind::Failed(failed)) => {
                let is_pulling = |grant: &super::grants::Grant| grant.state == State::Pulling;
                if grants.get(failed.token).is_some_and(is_pulling) {
                    return lie(format!("gives {} up while it pulls", failed.token));
                }
                grants.told(failed.token);
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn released(&mut self, node: usize, token: u64) {
        if let Some(agent) = self.agents.get_mut(&node) {
            agent.usable.remove(&token);
        }
    }
}
