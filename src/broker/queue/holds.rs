//! Messages of a queue that are not ready before a certain time: retries that are put off, and dead letters that wait for
//! queues that take them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{deadlines::Deadlines, ready::Entry};
use crate::broker::{NEVER, death::Reason, restore::RecoveredHold};

/// A message that is put off.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) entry: Entry,
    /// Until when, in [`Now::unix_ms`](crate::broker::Now::unix_ms).
    pub(super) until_ms: u64,
    /// Why it is dead; `None` if it comes back.
    pub(super) death: Option<Reason>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Holds {
    calendar: Deadlines,
    due_ms: Option<u64>,
    by_sequence: BTreeMap<u64, Held>,
    /// Those of them that are in memory.
    entries: BTreeMap<u64, Entry>,
    /// Those that are due and have to be loaded.
    missing: BTreeSet<u64>,
    /// Those that come back one day, and that nobody knows the keys of: they have to be looked at first.
    keyless: BTreeSet<u64>,
    /// Those that were loaded and are due.
    due: VecDeque<(Entry, Option<Reason>)>,
    memory_bytes: u64,
}

#[derive(Debug)]
struct Held {
    until_ms: u64,
    death: Option<Reason>,
    body_bytes: u32,
    /// The log may know of fewer failures: of none if the message does not survive, or else not yet.
    delivery_count: u16,
}

impl Holds {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.by_sequence.is_empty() && self.due.is_empty()
    }

    /// When the first one is due; [`NEVER`] if there is none that is in memory or not due yet.
    pub(super) fn due_ms(&self) -> u64 {
        if self.due.is_empty() { self.due_ms.unwrap_or(NEVER) } else { 0 }
    }

    /// Puts a message off.
    pub(super) fn insert(&mut self, hold: Hold) {
        let Hold { entry, until_ms, death } = hold;
        self.memory_bytes += entry.memory_bytes();
        let Entry { sequence, body_bytes, delivery_count, .. } = entry;
        self.entries.insert(sequence, entry);
        self.schedule(sequence, Held { until_ms, death, body_bytes, delivery_count });
    }

    /// Takes over one from before the start.
    pub(super) fn restore(&mut self, hold: &RecoveredHold) {
        let death = Reason::from_code(hold.death);
        let held = Held { until_ms: hold.until_ms, death, body_bytes: 0, delivery_count: 0 };
        self.schedule(hold.sequence, held);
    }

    fn schedule(&mut self, sequence: u64, held: Held) {
        self.calendar.insert(held.until_ms, sequence);
        self.due_ms = Some(self.due_ms.map_or(held.until_ms, |due_ms| due_ms.min(held.until_ms)));
        self.by_sequence.insert(sequence, held);
    }

    /// Takes a message whose time has come, and why it is dead. One that has to be loaded first comes later.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<(Entry, Option<Reason>)> {
        if let Some(due) = self.due.pop_front() {
            return Some(due);
        }
        while let Some((until_ms, sequence)) = self.calendar.pop_due(now_ms) {
            self.due_ms = self.calendar.next_ms();
            let is_it = self.by_sequence.get(&sequence).is_some_and(|held| held.until_ms == until_ms);
            if !is_it {
                continue;
            }
            let Some(entry) = self.entries.remove(&sequence) else {
                self.missing.insert(sequence);
                continue;
            };
            let held = self.by_sequence.remove(&sequence)?;
            self.memory_bytes -= entry.memory_bytes();
            return Some((entry, held.death));
        }
        self.due_ms = self.calendar.next_ms();
        None
    }

    /// Those that have to be loaded. Some may come twice.
    pub(super) fn missing(&self) -> impl Iterator<Item = u64> {
        self.missing.iter().chain(&self.keyless).copied()
    }

    /// One has been loaded.
    pub(super) fn found(&mut self, entry: Entry) {
        if self.missing.remove(&entry.sequence)
            && let Some(held) = self.by_sequence.remove(&entry.sequence)
        {
            let delivery_count = entry.delivery_count.max(held.delivery_count);
            // It was delivered before.
            self.due.push_back((Entry { redelivered: true, delivery_count, ..entry }, held.death));
        }
    }

    /// One can't be loaded.
    pub(super) fn lost(&mut self, sequence: u64) {
        self.keyless.remove(&sequence);
        if self.missing.remove(&sequence) {
            self.by_sequence.remove(&sequence);
        }
    }

    /// One has been loaded: whether nobody knew its key so far.
    pub(super) fn was_keyless(&mut self, sequence: u64) -> bool {
        self.keyless.remove(&sequence)
    }

    /// Whether there are some that nobody knows the keys of.
    pub(super) fn has_keyless(&self) -> bool {
        !self.keyless.is_empty()
    }

    /// Returns those whose keys are to be known, as far as they are in memory, and has the others looked at.
    pub(super) fn look_for_keys(&mut self) -> impl Iterator<Item = &Entry> {
        let Self { by_sequence, entries, due, keyless, .. } = self;
        let comes_back = by_sequence.iter().filter(|(_, held)| held.death.is_none());
        keyless.clear();
        keyless.extend(
            comes_back.map(|(sequence, _)| *sequence).filter(|sequence| !entries.contains_key(sequence)),
        );
        let comes_back = |sequence: &u64| by_sequence.get(sequence).is_some_and(|held| held.death.is_none());
        let held = entries.iter().filter(move |(sequence, _)| comes_back(sequence)).map(|(_, entry)| entry);
        held.chain(due.iter().filter(|(_, death)| death.is_none()).map(|(entry, _)| entry))
    }

    /// Nobody needs to know keys.
    pub(super) fn forget_keys(&mut self) {
        self.keyless.clear();
    }

    /// Drops about so many octets of messages from memory, and shows each to `on_paged`.
    pub(super) fn page_out(&mut self, bytes: u64, on_paged: &mut impl FnMut(Entry)) {
        let mut paged = 0;
        while paged < bytes
            && let Some((_, entry)) = self.entries.pop_last()
        {
            paged += entry.memory_bytes();
            on_paged(entry);
        }
        self.memory_bytes -= paged;
    }

    /// Octets of those in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Every sequence number.
    pub(super) fn sequences(&self) -> impl Iterator<Item = u64> {
        self.by_sequence.keys().copied().chain(self.due.iter().map(|(entry, _)| entry.sequence))
    }

    /// Octets of their bodies.
    pub(super) fn body_bytes(&self) -> u64 {
        let held = self.by_sequence.values().map(|held| u64::from(held.body_bytes));
        held.chain(self.due.iter().map(|(entry, _)| u64::from(entry.body_bytes))).sum()
    }
}
