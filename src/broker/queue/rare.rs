//! What only some queues have: behind one pointer that is null for the others.

use super::{
    QueueArguments,
    dying::Dying,
    groups::Groups,
    holds::Holds,
    key_of,
    ready::{CHUNK_COUNT_MAX, Entry},
};
use crate::broker::dedup::Cache;

/// What most queues never have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Messages that have expired and have to be loaded before they are dead-lettered.
    pub(super) dying: Dying,
    /// Messages that are put off.
    pub(super) holds: Holds,
    /// Keys that have messages in flight.
    pub(super) groups: Groups,
    /// Keys by which duplicates are known, by the sequence numbers of their messages.
    pub(super) keys: Cache,
    /// How many messages may be loaded at a time, if they are large; 0 if nobody knows.
    pub(super) load_max: usize,
}

impl Rare {
    pub(super) fn is_empty(&self) -> bool {
        self.dying.is_empty() && self.holds.is_empty() && self.groups.is_empty() && self.keys.is_empty()
    }

    /// Octets of messages in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.holds.memory_bytes() + self.groups.memory_bytes()
    }

    pub(super) fn has_missing(&self) -> bool {
        self.dying.has_missing() || self.holds.missing().next().is_some()
    }

    /// Messages that have to be loaded, not too many, in order.
    pub(super) fn missing(&self) -> Vec<u64> {
        let count_max = if self.load_max > 0 { self.load_max } else { CHUNK_COUNT_MAX as usize };
        let mut missing: Vec<u64> =
            self.dying.missing().chain(self.holds.missing()).take(count_max).collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// One has been loaded. A message that is put off holds back its key from when that is known.
    pub(super) fn found(&mut self, entry: Entry, arguments: &QueueArguments) {
        let Some(entry) = self.dying.found(entry) else { return };
        if self.holds.was_keyless(entry.sequence)
            && let Some(key) = key_of(arguments, &entry)
        {
            self.groups.began(key);
        }
        self.holds.found(entry);
    }

    pub(super) fn lost(&mut self, sequence: u64) {
        self.dying.lost(sequence);
        self.holds.lost(sequence);
    }

    pub(super) fn sequences(&self) -> impl Iterator<Item = u64> {
        self.dying.sequences().chain(self.holds.sequences())
    }

    /// Octets of bodies, as far as they are known.
    pub(super) fn body_bytes(&self) -> u64 {
        let dying = self.dying.entries().map(|entry| u64::from(entry.body_bytes));
        dying.sum::<u64>() + self.holds.body_bytes()
    }
}
