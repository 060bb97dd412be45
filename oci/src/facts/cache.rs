//! A memory of so many bytes: what is over goes, then what was not used for longest. Pure: the caller brings the time.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

#[derive(Debug)]
pub(super) struct Cache<K, V> {
    entries: HashMap<K, Entry<V>>,
    budget_bytes: usize,
    held_bytes: usize,
    /// Counts uses, for the order of eviction.
    clock: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: usize,
    used: u64,
    until: Option<Instant>,
}

impl<K: Clone + Eq + Hash, V: Clone> Cache<K, V> {
    pub(super) fn new(budget_bytes: usize) -> Self {
        Self {
            entries: HashMap::new(),
            budget_bytes,
            held_bytes: 0,
            clock: 0,
        }
    }

    /// What is known under `key`, unless it is over.
    pub(super) fn get(&mut self, key: &K, now: Instant) -> Option<V> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        if entry.until.is_some_and(|until| until <= now) {
            return None;
        }
        entry.used = self.clock;
        Some(entry.value.clone())
    }

    /// Remembers a value of about `bytes`, until a time or for as long as there is room. One that is larger than a quarter of
    /// the budget is not kept.
    pub(super) fn insert(
        &mut self,
        key: K,
        value: V,
        bytes: usize,
        until: Option<Instant>,
        now: Instant,
    ) {
        self.remove(&key);
        if bytes > self.budget_bytes / 4 {
            return;
        }
        if self.held_bytes + bytes > self.budget_bytes {
            self.make_room(now);
        }
        self.clock += 1;
        self.held_bytes += bytes;
        let entry = Entry {
            value,
            bytes,
            used: self.clock,
            until,
        };
        self.entries.insert(key, entry);
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.held_bytes -= entry.bytes;
        }
    }

    /// Frees a quarter of the budget at once, so that a full cache is not sorted for each value.
    fn make_room(&mut self, now: Instant) {
        let mut order: Vec<(bool, u64, K)> = self
            .entries
            .iter()
            .map(|(key, entry)| {
                let holds = entry.until.is_none_or(|until| until > now);
                (holds, entry.used, key.clone())
            })
            .collect();
        order.sort_by_key(|(holds, used, _)| (*holds, *used));
        for (holds, _, key) in order {
            if holds && self.held_bytes <= self.budget_bytes / 4 * 3 {
                break;
            }
            self.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_value_is_known_until_its_time() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut cache = Cache::new(100);
        cache.insert("a", 1, 10, Some(now + second), now);
        cache.insert("b", 2, 10, None, now);
        assert_eq!(cache.get(&"a", now), Some(1));
        assert_eq!(cache.get(&"a", now + second), None);
        assert_eq!(cache.get(&"b", now + second * 1_000_000), Some(2));
    }

    #[test]
    fn what_is_over_goes_first_and_then_what_was_not_used_for_longest() {
        let now = Instant::now();
        let mut cache = Cache::new(100);
        cache.insert(0, 0, 20, Some(now), now);
        for key in 1..=4 {
            cache.insert(key, key, 20, None, now);
        }
        assert_eq!(cache.get(&1, now), Some(1));
        // Room is made twice: by the one that is over, then by 2, which is used less recently than 1.
        cache.insert(5, 5, 20, None, now);
        cache.insert(6, 6, 20, None, now);
        let known: Vec<i32> = (0..=6).filter_map(|key| cache.get(&key, now)).collect();
        assert!(
            known.contains(&1) && known.contains(&6) && !known.contains(&2),
            "{known:?}"
        );
    }

    #[test]
    fn it_never_holds_more_than_its_budget() {
        let now = Instant::now();
        let mut cache = Cache::new(1_000);
        for n in 0..10_000_usize {
            cache.insert(n % 700, n, n % 97, None, now);
            assert!(cache.held_bytes <= 1_000);
        }
        let held: usize = cache.entries.values().map(|entry| entry.bytes).sum();
        assert_eq!(held, cache.held_bytes);
        cache.insert(0, 0, 251, None, now);
        assert_eq!(cache.get(&0, now), None);
    }
}
