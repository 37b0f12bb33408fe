//! The messages of a queue that were delivered and are not settled (acked, nacked or rejected) yet.

use super::{consumers::ConsumerIndex, ready::Entry};

/// Where an unsettled message is kept. Given with the delivery and back with the settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub u32);

impl Slot {
    /// For a delivery that needs no settlement.
    pub const NONE: Self = Self(u32::MAX);
}

/// A delivered message and who has it.
#[derive(Debug)]
pub(super) struct Unsettled {
    /// The message.
    pub(super) entry: Entry,
    /// The consumer it went to; `None` for basic.get.
    pub(super) consumer: Option<ConsumerIndex>,
}

/// A slab: settling costs an index, no hash.
#[derive(Debug, Default)]
pub(super) struct UnsettledSlab {
    slots: Vec<Option<Unsettled>>,
    free: Vec<u32>,
}

impl UnsettledSlab {
    /// How many messages.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The messages.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().flatten().map(|unsettled| &unsettled.entry)
    }

    /// The messages, and who has them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Unsettled> {
        self.slots.iter().flatten()
    }

    /// Keeps a message until it is settled.
    pub(super) fn insert(&mut self, unsettled: Unsettled) -> Slot {
        if let Some(free) = self.free.pop() {
            self.slots[free as usize] = Some(unsettled);
            return Slot(free);
        }
        let slot = u32::try_from(self.slots.len()).expect("invariant: memory ends before 2^32 messages");
        self.slots.push(Some(unsettled));
        Slot(slot)
    }

    /// Takes the message out, if `sequence` says that the slot still holds the one meant.
    pub(super) fn remove(&mut self, slot: Slot, sequence: u64) -> Option<Unsettled> {
        let place = self.slots.get_mut(slot.0 as usize)?;
        let unsettled = place.take_if(|unsettled| unsettled.entry.sequence == sequence)?;
        self.free.push(slot.0);
        if self.free.len() == self.slots.len() && self.slots.capacity() > SLOTS_KEPT {
            *self = Self::default();
        }
        Some(unsettled)
    }
}

/// Slots that an emptied slab keeps room for.
const SLOTS_KEPT: usize = 4096;
