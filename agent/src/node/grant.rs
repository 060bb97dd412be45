//! What becomes of a grant: a pull, or an answer why not. Part of the node's state machine, pure like all of it.

use std::time::Duration;

use drop_proto::{Grant, Release, Started, agent_message};

use super::pull::{Cancel, Phase, Pull};
use super::{Event, Node, Output, send};

/// The shortest TTL that is taken seriously; a shorter one would make the agent renew without end.
const MIN_TTL: Duration = Duration::from_secs(3);

impl Node {
    pub(super) fn granted(&mut self, now: Duration, grant: Grant, out: &mut Vec<Output>) {
        let Grant {
            token,
            reference,
            credentials,
            ..
        } = grant;
        // The coordinator took a held grant over and says so again, or its tokens repeat; either way this one is in use.
        if self.pulls.contains_key(&token) {
            return;
        }
        if let Some(reason) = self.refusal(&reference) {
            out.push(send(agent_message::Kind::Release(Release { token })));
            out.push(Output::Observe(Event::Released { reference, reason }));
            return;
        }
        let want = self.images.get(&reference).map(|image| image.want.clone());
        let want = want.unwrap_or_default();
        let limit = match grant.timeout_ms {
            0 => self.config.pull_deadline,
            timeout => Duration::from_millis(timeout),
        };
        // Of pulls side by side nobody can tell which one filled the disk.
        let is_alone = self.pulls.is_empty();
        for pull in self.pulls.values_mut() {
            pull.used_before = None;
        }
        out.push(Output::Pull {
            token,
            reference: reference.clone(),
            credentials,
        });
        out.push(send(agent_message::Kind::Started(Started { token })));
        out.push(Output::Observe(Event::PullStarted {
            reference: reference.clone(),
        }));
        self.pulls.insert(
            token,
            Pull {
                reference,
                started_at: now,
                ttl: Duration::from_millis(grant.ttl_ms.into()).max(MIN_TTL),
                limit,
                need_bytes: self
                    .room
                    .need_bytes(self.config.disk, want.compressed_bytes),
                used_before: self.room.used_bytes().filter(|_| is_alone),
                want,
                phase: Phase::Running,
                cancel: None,
                former_session: false,
            },
        );
        let renew_at = self.renew_after(now);
        if let Some(said) = &mut self.said {
            said.renew_at = said.renew_at.min(renew_at).or(renew_at);
        }
    }

    /// Why a grant for `reference` is not used now.
    fn refusal(&self, reference: &str) -> Option<&'static str> {
        if self.stop_at.is_some() {
            return Some("the agent stops");
        }
        if self.said.as_ref().is_none_or(|said| said.revision == 0) {
            return Some("nothing is desired yet");
        }
        if !self.runtime_state().available {
            return Some("the runtime does not answer");
        }
        if !self
            .images
            .get(reference)
            .is_some_and(|image| image.needed(self.sessions))
        {
            return Some("the image is not needed");
        }
        if self
            .images
            .get(reference)
            .is_some_and(|image| image.refusal.is_some())
        {
            return Some("the node refuses the image");
        }
        if self.pulls.values().any(|pull| pull.reference == reference) {
            return Some("the image is being pulled");
        }
        if self.pulls.len() >= self.config.max_parallel_pulls as usize {
            return Some("no pull may run beside the others");
        }
        None
    }

    pub(super) fn revoked(&mut self, token: u64, out: &mut Vec<Output>) {
        let Some(pull) = self.pulls.get_mut(&token) else {
            return;
        };
        let running = pull.phase == Phase::Running && pull.cancel.is_none();
        if running && !self.images.contains_key(&pull.reference) {
            pull.cancel = Some(Cancel::Unwanted);
            out.push(Output::CancelPull { token });
        }
    }
}
