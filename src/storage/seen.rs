//! The keys by which duplicates are known: for each cache those that were seen last, in order.

use std::collections::{BTreeMap, HashMap};

use crate::broker::queue::QueueId;

/// The keys of all caches. Each is bounded by what its last key says to keep.
#[derive(Debug, Default)]
pub(super) struct Seen {
    caches: HashMap<QueueId, Cache>,
}

/// The keys of a cache.
#[derive(Debug, Default)]
struct Cache {
    /// Each key and when it is forgotten, by a number that rises.
    keys: BTreeMap<u64, (u128, u64)>,
    /// The number of each key.
    numbers: HashMap<u128, u64>,
}

/// A key that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeenKey {
    pub(super) key: u128,
    /// When it is forgotten.
    pub(super) until_ms: u64,
    /// How many keys its cache keeps: 0 empties it.
    pub(super) keep: u32,
}

impl Seen {
    /// A key was seen: it is the newest of its cache now, and the oldest beyond what is kept are forgotten.
    pub(super) fn insert(&mut self, cache: QueueId, seen: SeenKey) {
        let keys = self.caches.entry(cache).or_default();
        keys.insert(seen);
        if keys.keys.is_empty() {
            self.caches.remove(&cache);
        }
    }

    /// Whose keys they were is gone, and no other will have them.
    pub(super) fn forget(&mut self, cache: QueueId) {
        self.caches.remove(&cache);
    }

    /// Whether there are keys of that cache.
    pub(super) fn has(&self, cache: QueueId) -> bool {
        self.caches.contains_key(&cache)
    }

    /// Forgets all caches but those, which a checkpoint makes good.
    pub(super) fn retain(&mut self, is_there: impl Fn(QueueId) -> bool) {
        self.caches.retain(|cache, _| is_there(*cache));
    }

    /// The caches, each with its keys and when they are forgotten, oldest first.
    pub(super) fn caches(
        &self,
    ) -> impl ExactSizeIterator<Item = (QueueId, impl ExactSizeIterator<Item = (u128, u64)>)> {
        self.caches.iter().map(|(cache, keys)| (*cache, keys.keys.values().copied()))
    }
}

impl Cache {
    fn insert(&mut self, SeenKey { key, until_ms, keep }: SeenKey) {
        let next = self.keys.last_key_value().map_or(0, |(last, _)| last + 1);
        if let Some(before) = self.numbers.insert(key, next) {
            self.keys.remove(&before);
        }
        self.keys.insert(next, (key, until_ms));
        while self.keys.len() > keep as usize
            && let Some((_, (oldest, _))) = self.keys.pop_first()
        {
            self.numbers.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: QueueId = QueueId(1);

    fn inserted(keys: &[(u128, u64, u32)]) -> Vec<(u128, u64)> {
        let mut seen = Seen::default();
        keys.iter().for_each(|(key, until_ms, keep)| {
            seen.insert(CACHE, SeenKey { key: *key, until_ms: *until_ms, keep: *keep });
        });
        let cache = seen.caches().find(|(cache, _)| *cache == CACHE);
        assert_eq!(seen.has(CACHE), cache.is_some());
        cache.into_iter().flat_map(|(_, keys)| keys).collect()
    }

    #[test]
    fn the_oldest_keys_are_forgotten() {
        assert_eq!(inserted(&[(1, 10, 2), (2, 20, 2), (3, 5, 2)]), [(2, 20), (3, 5)]);
        assert_eq!(inserted(&[(1, 10, 9), (2, 20, 9), (3, 5, 1)]), [(3, 5)], "fewer are kept now");
        assert_eq!(inserted(&[(1, 10, 9), (2, 20, 0)]), [], "none are kept now");
    }

    #[test]
    fn a_key_that_comes_again_is_the_newest() {
        assert_eq!(inserted(&[(1, 10, 2), (2, 20, 2), (1, 30, 2), (3, 40, 2)]), [(1, 30), (3, 40)]);
    }
}
