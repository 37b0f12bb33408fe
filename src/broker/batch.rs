//! What is done to queues, gathered so that each queue's lock is taken once for a batch.
//!
//! A connection keeps the publishes and settlements of one read here until the read is through, or until another method
//! needs the queues to know of them.

use std::{collections::HashMap, num::NonZeroU32, sync::Arc};

use super::{
    dedup::Claim,
    effects::Effects,
    journal::{Fact, Target},
    message::Message,
    queue::{Placed, QueueHandle, QueueId, Slot},
};

/// Messages on their way into queues.
#[derive(Debug, Default)]
pub struct PublishBatch {
    by_queue: ByQueue<Publish>,
    facts: Vec<Fact>,
    /// The keys that exchanges have taken with messages.
    claims: Vec<Vec<Claim>>,
    len: usize,
    /// Publishes that a queue did not take since they were last looked at.
    pub rejected: Vec<Origin>,
}

/// Which publish a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The channel.
    pub channel: u16,
    /// Its number among the channel's publishes where they are confirmed, 0 in a transaction.
    pub number: u64,
}

#[derive(Debug)]
struct Publish {
    message: Message,
    /// How long it may wait in a queue, in milliseconds; [`NEVER`](super::NEVER) for as long as need be.
    ttl_ms: u64,
    /// Who asks to hear of it if a queue does not take it.
    origin: Option<Origin>,
    /// Where its fact is in the batch, if the message must survive in this queue.
    fact: Option<Place>,
    claims: Option<ClaimsPlace>,
}

// It is moved twice for each message of each queue.
const _: () = assert!(size_of::<Publish>() <= 64);

/// A place in a batch's vector, counted from 1, so that an optional one takes no more.
#[derive(Clone, Copy, Debug)]
struct Place(NonZeroU32);

impl Place {
    /// Where the last one is.
    fn of_last<T>(entries: &[T]) -> Self {
        let count = u32::try_from(entries.len()).ok().and_then(NonZeroU32::new);
        Self(count.expect("invariant: a batch is short, and not empty when something is in it"))
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// The keys that exchanges have taken with a message, in a batch.
#[derive(Clone, Copy, Debug)]
pub struct ClaimsPlace(Place);

/// Deliveries on their way out of queues.
#[derive(Debug, Default)]
pub struct SettleBatch {
    by_queue: ByQueue<Settlement>,
    len: usize,
}

/// A delivery that is settled for good.
#[derive(Clone, Copy, Debug)]
pub struct Settlement {
    /// Where the queue keeps it.
    pub slot: Slot,
    /// Its sequence number.
    pub sequence: u64,
    /// Whether it was rejected.
    pub is_rejected: bool,
}

/// Messages of a batch after which it is put into effect, to bound how long a queue's lock is held.
const BATCH_MAX: usize = 512;

impl PublishBatch {
    /// Takes over the keys of the message that is pushed next, before anything is flushed.
    #[inline]
    pub fn claim(&mut self, claims: Vec<Claim>) -> Option<ClaimsPlace> {
        if claims.is_empty() {
            return None;
        }
        self.claims.push(claims);
        Some(ClaimsPlace(Place::of_last(&self.claims)))
    }

    /// Adds a message for these queues; true if the batch is full.
    #[inline]
    pub fn push(
        &mut self,
        message: Message,
        ttl_ms: u64,
        origin: Option<Origin>,
        queues: &[Arc<QueueHandle>],
        any_durable: bool,
        claims: Option<ClaimsPlace>,
    ) -> bool {
        let fact = (message.is_persistent() && any_durable).then(|| {
            self.facts.push(Fact::Publish { message: message.clone(), queues: Vec::new() });
            Place::of_last(&self.facts)
        });
        self.len += queues.len();
        if let Some((last, others)) = queues.split_last() {
            for queue in others {
                let publish = Publish { message: message.clone(), ttl_ms, origin, fact, claims };
                self.by_queue.of(queue).push(publish);
            }
            self.by_queue.of(last).push(Publish { message, ttl_ms, origin, fact, claims });
        }
        self.len >= BATCH_MAX
    }

    /// Puts every message into its queues and lets them deliver.
    pub fn flush(&mut self, effects: &mut Effects) {
        if self.len == 0 {
            return;
        }
        self.len = 0;
        let Self { facts, rejected, claims: taken, .. } = self;
        self.by_queue.for_each(|handle, publishes| {
            let mut queue = handle.lock();
            handle.messages.counters().publish.add_alone(publishes.len() as u64);
            for Publish { message, ttl_ms, origin, fact, claims } in publishes.drain(..) {
                let Ok(placed) = queue.publish(message, ttl_ms, handle, effects) else {
                    rejected.extend(origin);
                    if let Some(ClaimsPlace(place)) = claims {
                        // Who hears that it was rejected sends it again.
                        taken[place.index()].clear();
                    }
                    continue;
                };
                let fact = fact.filter(|_| handle.properties.durable).map(|fact| &mut facts[fact.index()]);
                if let (Some(Placed { sequence, deadline_ms }), Some(Fact::Publish { queues, .. })) =
                    (placed, fact)
                {
                    queues.push(Target { queue: handle.id, sequence, survives: true, deadline_ms });
                }
            }
            queue.deliver(handle, effects);
        });
        // A message that no durable queue took has nothing to survive in.
        self.facts.retain(|fact| !matches!(fact, Fact::Publish { queues, .. } if queues.is_empty()));
        effects.facts.append(&mut self.facts);
        effects.facts.extend(self.claims.drain(..).flatten().filter_map(Claim::keep));
    }
}

impl SettleBatch {
    /// Adds a delivery of that queue; true if the batch is full.
    pub fn push(&mut self, queue: &Arc<QueueHandle>, settlement: Settlement) -> bool {
        self.by_queue.of(queue).push(settlement);
        self.len += 1;
        self.len >= BATCH_MAX
    }

    /// Settles every delivery and lets the queues deliver to whoever has credit now.
    pub fn flush(&mut self, effects: &mut Effects) {
        if self.len == 0 {
            return;
        }
        self.len = 0;
        self.by_queue.for_each(|handle, settlements| {
            let mut queue = handle.lock();
            let mut acked = 0;
            for Settlement { slot, sequence, is_rejected } in settlements.drain(..) {
                if is_rejected {
                    queue.reject(slot, sequence, handle, effects);
                } else {
                    acked += u64::from(queue.settle(slot, sequence, effects));
                }
            }
            if acked > 0 {
                queue.note_acks(acked, handle);
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
