//! The messages of a queue that wait for a consumer, in the order they will leave.

use std::collections::{BTreeMap, VecDeque};

use crate::broker::message::Message;

/// A message in a queue.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place in the queue: given when it enters, kept for as long as it is there.
    pub sequence: u64,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// The size of its body, at hand where the message is not.
    pub body_bytes: u32,
    /// What was published.
    pub message: Message,
}

impl Entry {
    /// A message that enters a queue.
    pub fn new(sequence: u64, redelivered: bool, message: Message) -> Self {
        let body_bytes = u32::try_from(message.body().len()).expect("invariant: at most 512 MiB");
        Self { sequence, redelivered, body_bytes, message }
    }
}

/// Ready messages: by priority, highest first, and by sequence within one.
#[derive(Debug)]
pub(super) struct Ready {
    /// One level for a queue without priorities, else one for each priority from 0 up.
    levels: Vec<Level>,
    len: usize,
    body_bytes: u64,
}

#[derive(Debug, Default)]
struct Level {
    /// In order of arrival.
    arrived: VecDeque<Entry>,
    /// Messages that came back: they go out again at their original position (RabbitMQ's classic queues).
    returned: BTreeMap<u64, Entry>,
}

impl Ready {
    /// No messages; `max_priority` as in the argument `x-max-priority`.
    pub(super) fn new(max_priority: Option<u8>) -> Self {
        let levels = 1 + usize::from(max_priority.unwrap_or(0));
        Self { levels: (0..levels).map(|_| Level::default()).collect(), len: 0, body_bytes: 0 }
    }

    /// How many messages.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Octets of their bodies.
    pub(super) fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    fn level_of(&mut self, entry: &Entry) -> &mut Level {
        match self.levels.len() - 1 {
            0 => &mut self.levels[0],
            highest => &mut self.levels[highest.min(usize::from(entry.message.priority()))],
        }
    }

    fn count_in(&mut self, entry: &Entry) {
        self.len += 1;
        self.body_bytes += u64::from(entry.body_bytes);
    }

    /// Adds a message at the tail. Its sequence number is the highest so far.
    pub(super) fn push_back(&mut self, entry: Entry) {
        self.count_in(&entry);
        self.level_of(&entry).arrived.push_back(entry);
    }

    /// Puts a message back at the position that its sequence number says.
    pub(super) fn put_back(&mut self, entry: Entry) {
        self.count_in(&entry);
        self.level_of(&entry).returned.insert(entry.sequence, entry);
    }

    /// Takes the message whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        if self.len == 0 {
            return None;
        }
        let entry = match self.levels.as_mut_slice() {
            [level] => level.pop()?,
            levels => levels.iter_mut().rev().find_map(Level::pop)?,
        };
        self.len -= 1;
        self.body_bytes -= u64::from(entry.body_bytes);
        Some(entry)
    }

    /// Takes every message, in no order in particular.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Entry> + use<> {
        let count = self.levels.len();
        let levels = std::mem::replace(&mut self.levels, (0..count).map(|_| Level::default()).collect());
        self.len = 0;
        self.body_bytes = 0;
        levels.into_iter().flat_map(|level| level.returned.into_values().chain(level.arrived))
    }
}

impl Level {
    fn pop(&mut self) -> Option<Entry> {
        if self.returned.is_empty() {
            let entry = self.arrived.pop_front();
            self.release_memory();
            return entry;
        }
        let returned = *self.returned.first_key_value()?.0;
        match self.arrived.front() {
            Some(arrived) if arrived.sequence < returned => self.arrived.pop_front(),
            _ => self.returned.pop_first().map(|(_, entry)| entry),
        }
    }

    /// A backlog that is gone gives its memory back; a small ring is kept for what comes next.
    fn release_memory(&mut self) {
        if self.arrived.is_empty() && self.arrived.capacity() > ENTRIES_KEPT {
            self.arrived.shrink_to(0);
        }
    }
}

/// Entries that an emptied level keeps room for.
const ENTRIES_KEPT: usize = 4096;
