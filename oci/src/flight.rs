//! One at a time for each key: who comes second waits, and then finds in the cache what the first one fetched.
//!
//! Only success is shared, by way of the cache. Where the first one failed or was dropped, the next one tries for itself: its
//! time, its luck and its credentials are its own.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex as StdMutex, PoisonError, Weak};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// Keys remembered before those that nobody holds are forgotten.
const MANY: usize = 1_024;

pub(crate) struct Flights<K> {
    keys: StdMutex<HashMap<K, Weak<Mutex<()>>>>,
}

impl<K: Eq + Hash> Flights<K> {
    pub(crate) fn new() -> Self {
        Self {
            keys: StdMutex::default(),
        }
    }

    /// Waits until nobody else holds `key`, and holds it until the guard is dropped.
    pub(crate) async fn enter(&self, key: K) -> OwnedMutexGuard<()> {
        let lock = self.lock_of(key);
        lock.lock_owned().await
    }

    fn lock_of(&self, key: K) -> Arc<Mutex<()>> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = keys.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        if keys.len() >= MANY {
            keys.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::new(Mutex::new(()));
        keys.insert(key, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn one_key_is_held_once_and_a_dropped_holder_gives_it_back() {
        let flights = Flights::new();
        let first = flights.enter("a").now_or_never();
        assert!(first.is_some());
        assert!(flights.enter("a").now_or_never().is_none());
        assert!(flights.enter("b").now_or_never().is_some());
        drop(first);
        assert!(flights.enter("a").now_or_never().is_some());
    }

    #[test]
    fn keys_that_nobody_holds_are_forgotten() {
        let flights = Flights::new();
        for key in 0..10 * MANY {
            assert!(flights.enter(key).now_or_never().is_some());
        }
        assert!(flights.keys.lock().unwrap().len() <= MANY);
    }
}
