//! Key order: messages of one key go one at a time and in order, different keys in parallel (`x-group-by`).
//!
//! A key is known here only while a message of it is in flight: delivered and not settled, or put off. What comes to the
//! head meanwhile is parked behind it, and goes back to its place in the queue when its turn has come. A key is the hash of
//! what it is made of: two that are taken for one wait for each other, and no more.

use std::{
    collections::{BTreeMap, HashMap, VecDeque, hash_map},
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{GroupBy, deadlines::Deadlines, ready::Entry};
use crate::{
    amqp::{Properties, table::find_raw},
    broker::{NEVER, message::Message},
};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Groups {
    busy: HashMap<u64, Group>,
    parked: usize,
    parked_bytes: u64,
    parked_body_bytes: u64,
    /// The deadlines of parked messages, and of some that are not parked any more.
    calendar: Deadlines,
    due_ms: Option<u64>,
    /// The keys of parked messages, by sequence number.
    keys: BTreeMap<u64, u64>,
}

/// The messages of a key, while one of them is in flight or some are parked.
#[derive(Debug, Default)]
struct Group {
    in_flight: usize,
    /// By sequence number.
    waiting: VecDeque<Entry>,
}

/// Parked messages above which no further ones are looked at: until a key is free, others wait, too.
const PARKED_MAX: usize = 1 << 16;
/// The same in octets.
const PARKED_BYTES_MAX: u64 = 16 << 20;
/// Deadlines of messages that are not parked any more below which they are never looked for.
const STALE_KEPT: usize = 4096;

impl GroupBy {
    /// The key of a message; `None` if it has none, and goes whenever its turn comes.
    pub(super) fn key(&self, message: &Message) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        match self {
            Self::RoutingKey => message.routing_key().hash(&mut hasher),
            Self::CorrelationId => {
                Properties::parse(message.properties()).ok()?.correlation_id?.hash(&mut hasher);
            }
            Self::Header(name) => {
                let headers = Properties::parse(message.properties()).ok()?.headers?;
                let value = find_raw(headers, name)?;
                (value.kind, value.bytes).hash(&mut hasher);
            }
        }
        Some(hasher.finish())
    }
}

impl Groups {
    /// Whether no key is known.
    pub(super) fn is_empty(&self) -> bool {
        self.busy.is_empty()
    }

    /// How many messages are parked.
    pub(super) fn parked(&self) -> usize {
        self.parked
    }

    /// Octets that they take in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.parked_bytes
    }

    /// Octets of their bodies.
    pub(super) fn body_bytes(&self) -> u64 {
        self.parked_body_bytes
    }

    /// Whether so many are parked that the rest of the queue has to wait.
    pub(super) fn is_full(&self) -> bool {
        self.parked >= PARKED_MAX || self.parked_bytes >= PARKED_BYTES_MAX
    }

    /// Before when no parked message expires.
    pub(super) fn due_ms(&self) -> u64 {
        self.due_ms.unwrap_or(NEVER)
    }

    /// Whether a message of that key and number has to wait for another one: for one that is in flight, or, while there
    /// is room for it to wait, for one before it whose turn has come and that a higher priority has kept from going.
    pub(super) fn must_wait(&self, key: u64, sequence: u64) -> bool {
        self.busy.get(&key).is_some_and(|group| {
            let is_later = || group.waiting.front().is_some_and(|first| first.sequence < sequence);
            group.in_flight > 0 || (!self.is_full() && is_later())
        })
    }

    /// Parks a message behind the others of its key.
    pub(super) fn park(&mut self, key: u64, entry: Entry) {
        self.parked += 1;
        self.parked_bytes += entry.memory_bytes();
        self.parked_body_bytes += u64::from(entry.body_bytes);
        if entry.deadline_ms != NEVER {
            self.calendar.insert(entry.deadline_ms, entry.sequence);
            self.due_ms = Some(self.due_ms().min(entry.deadline_ms));
        }
        self.keys.insert(entry.sequence, key);
        let waiting = &mut self.busy.entry(key).or_default().waiting;
        let place = waiting.partition_point(|other| other.sequence < entry.sequence);
        waiting.insert(place, entry);
        if self.calendar.len() > 2 * self.keys.len() + STALE_KEPT {
            self.calendar.clean_step(|_, sequence| self.keys.contains_key(&sequence));
        }
    }

    /// A message of that key is in flight.
    pub(super) fn began(&mut self, key: u64) {
        self.busy.entry(key).or_default().in_flight += 1;
    }

    /// A message of that key is in flight no longer. Returns the next one, to be put back into the queue.
    pub(super) fn ended(&mut self, key: u64) -> Option<Entry> {
        let hash_map::Entry::Occupied(mut group) = self.busy.entry(key) else { return None };
        group.get_mut().in_flight = group.get().in_flight.saturating_sub(1);
        self.next_of(key)
    }

    /// Returns the next message of that key, to be put back into the queue, unless one is in flight.
    pub(super) fn next_of(&mut self, key: u64) -> Option<Entry> {
        let hash_map::Entry::Occupied(mut group) = self.busy.entry(key) else { return None };
        let next = if group.get().in_flight == 0 { group.get_mut().waiting.pop_front() } else { None };
        if group.get().in_flight == 0 && group.get().waiting.is_empty() {
            group.remove();
        }
        next.inspect(|entry| self.left(entry))
    }

    fn left(&mut self, entry: &Entry) {
        self.parked -= 1;
        self.parked_bytes -= entry.memory_bytes();
        self.parked_body_bytes -= u64::from(entry.body_bytes);
        self.keys.remove(&entry.sequence);
    }

    /// Takes the parked message with the earliest deadline if that is not later than `up_to_ms`.
    pub(super) fn pop_expired(&mut self, up_to_ms: u64) -> Option<Entry> {
        while let Some((_, sequence)) = self.calendar.pop_due(up_to_ms) {
            self.due_ms = self.calendar.next_ms();
            if let Some(key) = self.keys.get(&sequence).copied()
                && let Some(entry) = self.take(key, sequence)
            {
                return Some(entry);
            }
        }
        self.due_ms = self.calendar.next_ms();
        None
    }

    fn take(&mut self, key: u64, sequence: u64) -> Option<Entry> {
        let hash_map::Entry::Occupied(mut group) = self.busy.entry(key) else { return None };
        let place = group.get().waiting.binary_search_by_key(&sequence, |entry| entry.sequence).ok()?;
        let entry = group.get_mut().waiting.remove(place)?;
        if group.get().in_flight == 0 && group.get().waiting.is_empty() {
            group.remove();
        }
        self.left(&entry);
        Some(entry)
    }

    /// The sequence number of the first parked message.
    pub(super) fn first_sequence(&self) -> Option<u64> {
        self.keys.first_key_value().map(|(sequence, _)| *sequence)
    }

    /// Takes the first parked message out.
    pub(super) fn pop_first(&mut self) -> Option<Entry> {
        let (sequence, key) = self.keys.first_key_value()?;
        self.take(*key, *sequence)
    }

    /// How many deadlines it keeps, of messages that wait no longer too.
    #[cfg(test)]
    pub(super) fn deadline_count(&self) -> usize {
        self.calendar.len()
    }

    /// Forgets what is parked. What is in flight stays so.
    pub(super) fn clear_parked(&mut self) {
        self.busy.retain(|_, group| {
            group.waiting.clear();
            group.in_flight > 0
        });
        (self.parked, self.parked_bytes, self.parked_body_bytes) = (0, 0, 0);
        self.calendar.clear();
        self.keys.clear();
        self.due_ms = None;
    }
}
