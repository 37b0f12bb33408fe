//! The keys by which a queue knows duplicates (`x-message-deduplication`).

use super::{Queue, QueueArguments, Rare};
use crate::broker::{
    Now,
    dedup::{Deduplication, Key},
    effects::Effects,
    journal::Fact,
    message::Message,
    restore::RecoveredCache,
};

impl Queue {
    /// What a duplicate of the message is known by, if the queue looks for duplicates.
    pub(super) fn key(&self, message: &Message, now_ms: u64) -> Option<Key> {
        self.arguments.deduplication.as_ref()?.key_of(message, now_ms)
    }

    pub(super) fn knows(&self, key: Option<Key>, now_ms: u64) -> bool {
        let rare = self.rare.as_deref();
        key.zip(rare).is_some_and(|(key, rare)| rare.keys.knows(key.key, now_ms))
    }

    /// From now on, messages with that key are duplicates of this one. The log is told if it has the message, and if the key
    /// outlives it: whether a message is in the queue is not known from its key.
    pub(super) fn know(&mut self, sequence: u64, key: Key, stored: bool, effects: &mut Effects) {
        let Some(Deduplication { cache_size, remembers, .. }) = self.arguments.deduplication else { return };
        self.rare().keys.insert(sequence, key, cache_size, effects.now.unix_ms);
        if stored && remembers {
            let Key { key, until_ms } = key;
            effects.facts.push(Fact::Seen { cache: self.id, key, until_ms, keep: cache_size });
        }
    }

    /// A message that had left is here again, and so is its key if it goes with it; one that is for a time only is
    /// forgotten by that.
    pub(super) fn know_again(&mut self, sequence: u64, message: &Message) {
        let key = self.key(message, 0);
        if let (Some(key), Some(deduplication)) = (key, &self.arguments.deduplication)
            && !deduplication.remembers
            && !self.knows(Some(key), 0)
        {
            let cache_size = deduplication.cache_size;
            self.rare().keys.insert(sequence, key, cache_size, 0);
        }
    }

    /// A message has left the queue: it may come again, unless its key is remembered.
    #[inline]
    pub(super) fn left(&mut self, sequence: u64) {
        if let Some(rare) = &mut self.rare {
            forget_key(&self.arguments, rare, sequence);
        }
    }

    /// Takes over the keys that it remembered before the start, after [`Queue::restore`].
    pub fn restore_keys(&mut self, recovered: &RecoveredCache, now_ms: u64) {
        let Some(Deduplication { cache_size, remembers: true, .. }) = self.arguments.deduplication else {
            return;
        };
        self.next_sequence = self.next_sequence.max(recovered.keys.len() as u64 + 1);
        let next_sequence = self.next_sequence;
        self.noted_sequence = next_sequence;
        self.rare().keys.restore(recovered, next_sequence, cache_size, now_ms);
    }

    /// Whether there are messages from before the start whose keys it has to know, by which it compares with what it holds.
    pub fn lacks_keys(&self) -> bool {
        let compares = self.arguments.deduplication.as_ref().is_some_and(|rules| !rules.remembers);
        let holds = self.rare.as_ref().is_some_and(|rare| !rare.holds.is_empty());
        compares && (holds || !self.ready.is_empty())
    }

    /// Makes the key of a message that it holds known.
    pub fn learn_key(&mut self, sequence: u64, message: &Message, now: Now) {
        let Some(rules) = &self.arguments.deduplication else { return };
        let (size, key) = (rules.cache_size, rules.key_of(message, now.unix_ms));
        if let Some(key) = key {
            self.rare().keys.insert(sequence, key, size, now.unix_ms);
        }
    }
}

/// A message has left the queue: it may come again, unless its key is remembered.
pub(super) fn forget_key(arguments: &QueueArguments, rare: &mut Rare, sequence: u64) {
    if arguments.deduplication.as_ref().is_some_and(|deduplication| !deduplication.remembers) {
        rare.keys.forget(sequence);
    }
}
