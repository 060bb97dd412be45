//! What the coordinator hears, and what it may conclude from it.

use std::collections::BTreeSet;
use std::time::Duration;

use drop_proto::{Done, Failed, FailureClass, Hello, Inventory, agent_message};

use crate::objects::digest_number;
use crate::oracle::backoff::Waits;
use crate::oracle::sessions::Report;
use crate::oracle::view::PolicyKey;
use crate::oracle::{Heard, Oracle, Place, Try};

impl Oracle {
    /// An agent's Hello reaches the coordinator, over this connection and from this agent process.
    pub(crate) fn hears_hello(
        &mut self,
        now: Duration,
        (conn, node, agent_life): (usize, usize, u64),
        hello: &Hello,
    ) {
        if self.view.is_complete() {
            self.hello(now, (conn, node, agent_life), hello);
        } else {
            let heard = Heard::Hello(agent_life, hello.clone());
            self.backlog.push(((conn, node), heard));
        }
    }

    pub(crate) fn hears(&mut self, now: Duration, place: Place, kind: &agent_message::Kind) {
        if self.view.is_complete() {
            self.said(now, place, kind);
        } else {
            self.backlog.push((place, Heard::Said(kind.clone())));
        }
    }

    pub(crate) fn session_ends(&mut self, now: Duration, conn: usize, node: usize) {
        if self.view.is_complete() {
            self.sessions.ends(now, conn, node);
        } else {
            self.backlog.push(((conn, node), Heard::End));
        }
    }

    pub(super) fn hello(
        &mut self,
        now: Duration,
        (conn, node, agent_life): (usize, usize, u64),
        hello: &Hello,
    ) {
        let has_runtime = hello
            .runtime
            .as_ref()
            .is_some_and(|runtime| runtime.available);
        if !self
            .sessions
            .opens(now, (conn, node, agent_life), has_runtime)
        {
            return;
        }
        for held in &hello.held {
            let since = now.saturating_sub(Duration::from_millis(held.running_ms));
            let Some(reference) = self.catalog.index(&held.reference) else {
                continue;
            };
            let keys = self.view.keys(reference, node);
            let life = self.life;
            let Some(grant) = self.grants.get_mut(held.token) else {
                continue;
            };
            grant.heard = now;
            if grant.life != life {
                self.grants.adopted(held.token, life, keys);
                self.backoff.started(held.token, reference, since);
            }
        }
    }

    pub(super) fn said(&mut self, now: Duration, (conn, node): Place, kind: &agent_message::Kind) {
        if !self.sessions.is_session(conn, node) {
            return;
        }
        let ended = match kind {
            agent_message::Kind::Done(done) => Some(done.token),
            agent_message::Kind::Failed(failed) => Some(failed.token),
            agent_message::Kind::Release(release) => Some(release.token),
            _ => None,
        };
        if let Some(grant) = ended.and_then(|token| self.grants.get_mut(token)) {
            grant.is_closed = true;
        }
        match kind {
            agent_message::Kind::Hello(_)
            | agent_message::Kind::Ask(_)
            | agent_message::Kind::Refused(_) => {}
            agent_message::Kind::Inventory(inventory) => self.inventory(now, node, inventory),
            agent_message::Kind::Started(started) => {
                let life = self.life;
                if let Some(grant) = self.grants.get(started.token).filter(|g| g.life == life) {
                    self.backoff.started(started.token, grant.reference, now);
                }
            }
            agent_message::Kind::Renew(renew) => {
                for token in &renew.tokens {
                    if let Some(grant) = self.grants.get_mut(*token) {
                        grant.heard = now;
                    }
                }
            }
            agent_message::Kind::Done(done) => self.done(now, node, done),
            agent_message::Kind::Failed(failed) => self.failed(now, node, failed),
            agent_message::Kind::Release(release) => self.limits.released(release.token),
            agent_message::Kind::Runtime(runtime) => {
                self.sessions.runtime(now, node, runtime.available);
            }
        }
    }

    fn inventory(&mut self, now: Duration, node: usize, inventory: &Inventory) {
        if inventory.complete {
            self.sessions.inventoried(node);
            self.sessions.all_absent(node);
            let named = inventory.images.iter().map(|image| &image.reference);
            let named: BTreeSet<usize> =
                named.filter_map(|name| self.catalog.index(name)).collect();
            for reference in self.view.wanted_on(node) {
                if !named.contains(&reference) {
                    self.backoff.absent(now, reference, node);
                }
            }
        }
        for image in &inventory.images {
            let Some(reference) = self.catalog.index(&image.reference) else {
                continue;
            };
            let digest = image
                .digests
                .first()
                .and_then(|digest| digest_number(digest));
            let report = if let Some(digest) = digest.filter(|_| image.present) {
                self.backoff.held(reference, node);
                Report::Present {
                    digest,
                    is_fresh: false,
                }
            } else {
                if self.view.is_wanted(reference, node) {
                    self.backoff.absent(now, reference, node);
                }
                Report::Absent
            };
            self.sessions.reports(reference, node, report);
        }
        if inventory.complete {
            self.limits.look_around(&self.view, &self.sessions);
        }
    }

    fn done(&mut self, now: Duration, node: usize, done: &Done) {
        let Some(reference) = self.grants.get(done.token).map(|grant| grant.reference) else {
            return;
        };
        self.hears_of_login(now, Try::Pull(done.token), Ok(()));
        let pair = self.pair(reference, node);
        if self.view.is_wanted(reference, node) {
            self.backoff.succeeded(now, done.token, pair);
        } else {
            self.backoff.succeeded_for_nobody(now, done.token, pair);
        }
        if let Some(digest) = done
            .digests
            .first()
            .and_then(|digest| digest_number(digest))
        {
            let report = Report::Present {
                digest,
                is_fresh: true,
            };
            self.sessions.reports(reference, node, report);
            let holders = self.sessions.holders(reference, digest);
            self.backoff.current(reference, holders);
        }
    }

    fn failed(&mut self, now: Duration, node: usize, failed: &Failed) {
        let Some(reference) = self.grants.get(failed.token).map(|g| g.reference) else {
            return;
        };
        let class = failed.class();
        let is_outdated = self.hears_of_login(now, Try::Pull(failed.token), Err(class));
        let Some(grant) = self.grants.get(failed.token) else {
            return;
        };
        // We made it stop ourselves; and where nothing wants the image, nobody waits for it either.
        let is_ours = grant.is_revoked && class == FailureClass::Canceled;
        if is_ours || !self.view.is_wanted(reference, node) {
            return;
        }
        // What a node says of a pull that this leader neither granted nor took over is believed for that node alone.
        let class = if grant.life == self.life {
            class
        } else {
            FailureClass::Unspecified
        };
        let waits = self.waits(grant.keys.clone(), reference, node);
        self.backoff
            .failed(now, failed.token, self.pair(reference, node), class, waits);
        if is_outdated {
            // With what the Secrets say by now the answer may be another one.
            self.backoff.secret_changed(reference);
        }
    }

    /// The shortest waits of the policies that the pull may have counted under.
    fn waits(&self, mut keys: Vec<PolicyKey>, reference: usize, node: usize) -> Waits {
        keys.extend(self.view.keys(reference, node));
        let limits = keys.iter().flat_map(|key| {
            let bygone = self.view.bygone_limits(*key);
            [Some(self.view.limits(*key)), bygone]
        });
        limits.flatten().fold(
            Waits {
                initial: Duration::MAX,
                max: Duration::MAX,
            },
            |waits, limits| Waits {
                initial: waits.initial.min(limits.initial),
                max: waits.max.min(limits.max),
            },
        )
    }
}
