//! Tasks that each end with a word about the thing they were for, also when they break off.
//!
//! A task that panics, or is stopped, tells nobody what it was doing. Whoever waits for its result would wait for ever.

use std::collections::HashMap;
use std::future::Future;

use tokio::task::{Id, JoinError, JoinSet};

/// Tasks under way, each for one `K`. Dropped, it stops them.
pub struct Errands<K, T> {
    tasks: JoinSet<T>,
    keys: HashMap<Id, K>,
}

impl<K, T> Default for Errands<K, T> {
    fn default() -> Self {
        Self {
            tasks: JoinSet::new(),
            keys: HashMap::new(),
        }
    }
}

impl<K, T: Send + 'static> Errands<K, T> {
    /// Begins one.
    pub fn spawn(&mut self, key: K, errand: impl Future<Output = T> + Send + 'static) {
        let task = self.tasks.spawn(errand);
        self.keys.insert(task.id(), key);
    }

    /// What it was for, and what came of it: an error if it broke off. None if nothing is under way. Cancel-safe.
    pub async fn join_next(&mut self) -> Option<(K, Result<T, JoinError>)> {
        loop {
            let (id, result) = match self.tasks.join_next_with_id().await? {
                Ok((id, value)) => (id, Ok(value)),
                Err(error) => (error.id(), Err(error)),
            };
            // Each task has its key; one without it would have nobody to tell.
            if let Some(key) = self.keys.remove(&id) {
                return Some((key, result));
            }
        }
    }

    /// How many are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Stops all.
    pub fn abort_all(&mut self) {
        self.tasks.abort_all();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[tokio::test]
    async fn an_errand_that_breaks_off_is_told_like_one_that_ends() {
        let mut errands = Errands::default();
        errands.spawn("ends", async { 7 });
        errands.spawn("panics", async { panic!("as the test wants it") });
        errands.spawn("is stopped", std::future::pending());
        let mut told = BTreeMap::new();
        for _ in 0..2 {
            let (key, result) = errands.join_next().await.unwrap();
            told.insert(key, result.map_err(|error| error.is_panic()));
        }
        assert_eq!(errands.len(), 1);
        errands.abort_all();
        let (key, result) = errands.join_next().await.unwrap();
        told.insert(key, result.map_err(|error| error.is_panic()));
        assert_eq!(
            told,
            BTreeMap::from([
                ("ends", Ok(7)),
                ("panics", Err(true)),
                ("is stopped", Err(false)),
            ])
        );
        assert!(errands.is_empty() && errands.join_next().await.is_none());
    }
}
