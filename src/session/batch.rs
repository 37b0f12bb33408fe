//! What a connection does to queues, gathered so that each queue's lock is taken once for a batch.
//!
//! Publishes and settlements of one read are kept here until the read is through, or until another method needs
//! the queues to know of them.

use std::{collections::HashMap, sync::Arc};

use crate::broker::{
    journal::{Fact, Target},
    message::Message,
    queue::{QueueHandle, QueueId, Slot},
    vhost::Effects,
};

/// Messages on their way into queues.
#[derive(Debug, Default)]
pub(super) struct PublishBatch {
    by_queue: ByQueue<Publish>,
    facts: Vec<Fact>,
    len: usize,
    /// Publishes that a queue did not take since they were last looked at.
    pub(super) rejected: Vec<Origin>,
}

/// Which publish a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) channel: u16,
    /// Its number among the channel's publishes where they are confirmed, 0 in a transaction.
    pub(super) number: u64,
}

#[derive(Debug)]
struct Publish {
    message: Message,
    /// Who asks to hear of it if a queue does not take it.
    origin: Option<Origin>,
    /// The place of its fact in the batch, if the message must survive in this queue.
    fact: Option<u32>,
}

/// Deliveries on their way out of queues.
#[derive(Debug, Default)]
pub(super) struct SettleBatch {
    by_queue: ByQueue<Settlement>,
    len: usize,
}

/// A delivery that is settled for good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settlement {
    pub(super) slot: Slot,
    pub(super) sequence: u64,
}

/// Messages of a batch after which it is put into effect, to bound how long a queue's lock is held.
const BATCH_MAX: usize = 512;

impl PublishBatch {
    /// Adds a message for these queues; true if the batch is full.
    pub(super) fn push(
        &mut self,
        message: Message,
        origin: Option<Origin>,
        queues: &[Arc<QueueHandle>],
        any_durable: bool,
    ) -> bool {
        let fact = (message.is_persistent() && any_durable).then(|| {
            self.facts.push(Fact::Publish { message: message.clone(), queues: Vec::new() });
            u32::try_from(self.facts.len() - 1).expect("invariant: a batch is short")
        });
        self.len += queues.len();
        if let Some((last, others)) = queues.split_last() {
            for queue in others {
                let publish = Publish { message: message.clone(), origin, fact };
                self.by_queue.of(queue).push(publish);
            }
            self.by_queue.of(last).push(Publish { message, origin, fact });
        }
        self.len >= BATCH_MAX
    }

    /// Puts every message into its queues and lets them deliver.
    pub(super) fn flush(&mut self, effects: &mut Effects) {
        if self.len == 0 {
            return;
        }
        self.len = 0;
        let Self { facts, rejected, .. } = self;
        self.by_queue.for_each(|handle, publishes| {
            let mut queue = handle.lock();
            for Publish { message, origin, fact } in publishes.drain(..) {
                let Ok(sequence) = queue.publish(message, handle, effects) else {
                    rejected.extend(origin);
                    continue;
                };
                let fact = fact.filter(|_| handle.properties.durable).map(|fact| &mut facts[fact as usize]);
                if let Some(Fact::Publish { queues, .. }) = fact {
                    queues.push(Target { queue: handle.id, sequence, survives: true });
                }
            }
            queue.deliver(handle, effects);
        });
        // A message that no durable queue took has nothing to survive in.
        self.facts.retain(|fact| !matches!(fact, Fact::Publish { queues, .. } if queues.is_empty()));
        effects.facts.append(&mut self.facts);
    }
}

impl SettleBatch {
    /// Adds a delivery of that queue; true if the batch is full.
    pub(super) fn push(&mut self, queue: &Arc<QueueHandle>, settlement: Settlement) -> bool {
        self.by_queue.of(queue).push(settlement);
        self.len += 1;
        self.len >= BATCH_MAX
    }

    /// Settles every delivery and lets the queues deliver to whoever has credit now.
    pub(super) fn flush(&mut self, effects: &mut Effects) {
        if self.len == 0 {
            return;
        }
        self.len = 0;
        self.by_queue.for_each(|handle, settlements| {
            let mut queue = handle.lock();
            for Settlement { slot, sequence } in settlements.drain(..) {
                queue.settle(slot, sequence, effects);
            }
            queue.deliver(handle, effects);
        });
    }
}

/// Work grouped by queue, in the order in which the queues came up.
#[derive(Debug)]
struct ByQueue<T> {
    groups: Vec<(Arc<QueueHandle>, Vec<T>)>,
    places: HashMap<QueueId, usize>,
    /// The group that was used last: most batches are for one queue.
    last: usize,
}

impl<T> Default for ByQueue<T> {
    fn default() -> Self {
        Self { groups: Vec::new(), places: HashMap::new(), last: 0 }
    }
}

/// Queues that a connection keeps its groups for; beyond it they are made anew.
const GROUPS_KEPT: usize = 16;
/// Entries that a group keeps room for.
const ENTRIES_KEPT: usize = BATCH_MAX;

impl<T> ByQueue<T> {
    fn of(&mut self, queue: &Arc<QueueHandle>) -> &mut Vec<T> {
        if self.groups.get(self.last).is_none_or(|(known, _)| known.id != queue.id) {
            self.last = *self.places.entry(queue.id).or_insert_with(|| {
                self.groups.push((Arc::clone(queue), Vec::new()));
                self.groups.len() - 1
            });
        }
        &mut self.groups[self.last].1
    }

    fn for_each(&mut self, mut act: impl FnMut(&Arc<QueueHandle>, &mut Vec<T>)) {
        for (queue, entries) in self.groups.iter_mut().filter(|(_, entries)| !entries.is_empty()) {
            act(queue, entries);
            entries.clear();
            entries.shrink_to(ENTRIES_KEPT);
        }
        if self.groups.len() > GROUPS_KEPT {
            *self = Self::default();
        }
    }
}
