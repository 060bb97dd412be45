//! How the leader comes to know Secrets: each one that it wants is read, and again whenever it changes, as `read.rs` does it.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use crate::agenda::Event;
use crate::objects::index_of;
use crate::oracle::Verdict;
use crate::secrets::{Content, Site};
use crate::world::World;
use crate::world::inbox::Waiting;

/// Before a Secret that could not be read is read again.
const AGAIN: Duration = Duration::from_secs(5);

impl World {
    /// Somebody edits a Secret, or deletes it (`None`).
    pub(crate) fn put_secret(&mut self, secret: usize, content: Option<Content>) {
        self.api.secrets[secret] = content;
        for life in self.lives() {
            let way = self.dice.millis(1, 50);
            self.agenda.after(way, Event::SecretRead { life, secret });
        }
    }

    /// The Secret says what its registry takes.
    pub(crate) fn mend_secret(&mut self, secret: usize) {
        let mut content = self.scenario.secrets[secret].clone();
        if let Content::Logins(logins) = &mut content {
            for (site, password) in logins {
                if let Site::Host(host) = site {
                    *password = self.host_locks[*host];
                }
            }
        }
        if self.api.secrets[secret].as_ref() != Some(&content) {
            self.put_secret(secret, Some(content));
        }
    }

    pub(crate) fn secrets_wanted(&mut self, life: u64, names: &BTreeSet<String>) {
        let wanted: BTreeSet<usize> = names.iter().filter_map(|name| index_of(name)).collect();
        let Some(coordinator) = self.coordinator_mut(life) else {
            return;
        };
        let former = std::mem::replace(&mut coordinator.secrets, wanted.clone());
        for secret in wanted.difference(&former).copied() {
            let way = self.dice.millis(1, 50);
            self.agenda.after(way, Event::SecretRead { life, secret });
        }
    }

    pub(crate) fn secret_read(&mut self, life: u64, secret: usize) -> Verdict {
        let Some(coordinator) = self.coordinator(life) else {
            return Ok(());
        };
        if !coordinator.secrets.contains(&secret) {
            return Ok(());
        }
        let now = self.agenda.now;
        let is_forbidden = now < self.api.secrets_hidden_until;
        let is_away = !self.reaches_api(coordinator.replica);
        if is_forbidden || is_away {
            self.agenda.after(AGAIN, Event::SecretRead { life, secret });
        }
        if is_away {
            return Ok(());
        }
        let content = match &self.api.secrets[secret] {
            Some(content) if !is_forbidden => content.clone(),
            _ => Content::Nothing,
        };
        self.deliver(life, Waiting::Secret(secret, Rc::new(content)))
    }
}
