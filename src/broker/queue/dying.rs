//! Messages that have expired, wait for being loaded, and are dead-lettered in the order of their deadlines.

use std::collections::VecDeque;

use super::ready::Entry;

/// Messages that wait: those that are paged out, and those that expired after one of them.
#[derive(Debug, Default)]
pub(super) struct Dying {
    messages: VecDeque<(u64, Option<Entry>)>,
    missing: usize,
}

/// Messages that wait at a time: while there are so many, no more expire.
const COUNT_MAX: usize = 1024;

impl Dying {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether some have to be loaded before more may come.
    pub(super) fn is_full(&self) -> bool {
        self.messages.len() >= COUNT_MAX
    }

    /// Adds one; without an entry it has to be loaded.
    pub(super) fn push(&mut self, sequence: u64, entry: Option<Entry>) {
        self.missing += usize::from(entry.is_none());
        self.messages.push_back((sequence, entry));
    }

    /// Takes the first one if it is in memory.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let (_, entry) = self.messages.front_mut()?;
        let entry = entry.take()?;
        self.messages.pop_front();
        Some(entry)
    }

    /// Whether some have to be loaded.
    pub(super) fn has_missing(&self) -> bool {
        self.missing > 0
    }

    /// Those that have to be loaded.
    pub(super) fn missing(&self) -> impl Iterator<Item = u64> {
        self.messages.iter().filter(|(_, entry)| entry.is_none()).map(|(sequence, _)| *sequence)
    }

    /// One has been loaded; gives it back if it is none of them.
    pub(super) fn found(&mut self, entry: Entry) -> Option<Entry> {
        let is_it =
            |(sequence, known): &&mut (u64, Option<Entry>)| *sequence == entry.sequence && known.is_none();
        match self.messages.iter_mut().find(is_it) {
            Some((_, place)) => {
                *place = Some(entry);
                self.missing -= 1;
                None
            }
            None => Some(entry),
        }
    }

    /// One can't be loaded.
    pub(super) fn lost(&mut self, sequence: u64) {
        let before = self.messages.len();
        self.messages.retain(|(of, entry)| *of != sequence || entry.is_some());
        self.missing -= before - self.messages.len();
    }

    /// Every sequence number.
    pub(super) fn sequences(&self) -> impl Iterator<Item = u64> {
        self.messages.iter().map(|(sequence, _)| *sequence)
    }

    /// The entries that are in memory.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.messages.iter().filter_map(|(_, entry)| entry.as_ref())
    }
}
