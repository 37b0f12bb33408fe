//! A queue: ready messages, unsettled messages and consumers, as a plain `&mut self` state machine without I/O.
//!
//! [`QueueHandle`] is what everybody else holds: the queue's name, its properties and a lock. Whoever publishes,
//! settles or expires takes the lock for a batch and calls the queue inline; nothing waits while holding it.

mod arguments;
mod consumers;
mod ready;
mod unsettled;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

pub(in crate::broker) use self::arguments::{comparable, inequivalent};
pub use self::{
    arguments::{QueueArguments, QueueKind},
    consumers::{ChannelCredit, ConsumerKey, ConsumerSpec},
    ready::Entry,
    unsettled::Slot,
};
use self::{
    consumers::{Blocked, Consumers},
    ready::Ready,
    unsettled::{Unsettled, UnsettledSlab},
};
use super::{
    Now,
    journal::Fact,
    limit::Permit,
    message::Message,
    outbox::{ConnectionId, ConsumerId, Delivery, Outbox},
    refusal::{Refusal, Resource},
    vhost::Effects,
};
use crate::amqp::Table;

/// Identity of a queue, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u64);

/// What a queue was declared as.
#[derive(Clone, Debug)]
pub struct QueueProperties {
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it is deleted when its last consumer goes.
    pub auto_delete: bool,
    /// The connection that it belongs to and goes with.
    pub exclusive: Option<ConnectionId>,
    /// The arguments as they were declared.
    pub table: Table,
    /// The arguments that act, parsed.
    pub arguments: QueueArguments,
}

/// A queue as everybody holds it.
pub struct QueueHandle {
    /// Its identity.
    pub id: QueueId,
    /// Its name.
    pub name: Arc<str>,
    /// The virtual host it lives in.
    pub virtual_host: Arc<str>,
    /// What it was declared as.
    pub properties: QueueProperties,
    queue: Mutex<Queue>,
    used_ms: AtomicU64,
}

impl fmt::Debug for QueueHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.resource())
    }
}

impl QueueHandle {
    /// An empty queue.
    pub fn new(
        id: QueueId,
        name: Arc<str>,
        virtual_host: Arc<str>,
        properties: QueueProperties,
        permit: Permit,
    ) -> Self {
        let queue = Mutex::new(Queue::new(&properties.arguments, permit));
        Self { id, name, virtual_host, properties, queue, used_ms: AtomicU64::new(0) }
    }

    /// The queue itself.
    ///
    /// # Locking
    /// After the topology's lock, before an outbox's or the journal's; never two queues at once.
    pub fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("invariant: no panic under a queue's lock")
    }

    /// It was used: declared, consumed or got from.
    pub fn used(&self, now: Now) {
        self.used_ms.store(now.monotonic_ms, Ordering::Relaxed);
    }

    /// When it was used last, on the monotonic clock.
    pub fn used_ms(&self) -> u64 {
        self.used_ms.load(Ordering::Relaxed)
    }

    /// Its name in reply texts.
    pub fn resource(&self) -> Resource<'_> {
        Resource { kind: "queue", name: &self.name, virtual_host: &self.virtual_host }
    }

    /// Refuses a connection that an exclusive queue does not belong to.
    pub fn check_access(&self, connection: ConnectionId) -> Result<(), Refusal> {
        match self.properties.exclusive {
            Some(owner) if owner != connection => Err(Refusal::locked(self.resource())),
            _ => Ok(()),
        }
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Queue {
    ready: Ready,
    unsettled: UnsettledSlab,
    consumers: Consumers,
    exclusive_consumer: Option<ConsumerKey>,
    next_sequence: u64,
    requeues_to_tail: bool,
    limits: Option<Limits>,
    deleted: bool,
    /// Its share of the limit on queues, until it is deleted.
    permit: Option<Permit>,
}

/// How much may be ready, and what gives way when there is more.
#[derive(Clone, Copy, Debug)]
struct Limits {
    length: u64,
    body_bytes: u64,
    rejects: bool,
}

/// A queue does not take a message because it is full (RabbitMQ: `x-overflow` = `reject-publish`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A message that basic.get took.
#[derive(Debug)]
pub struct Got {
    /// The message.
    pub entry: Entry,
    /// Where it waits for its settlement; [`Slot::NONE`] when it needs none.
    pub slot: Slot,
    /// How many are ready after it.
    pub ready_count: u32,
}

impl Queue {
    fn new(arguments: &QueueArguments, permit: Permit) -> Self {
        Self {
            ready: Ready::new(arguments.max_priority),
            unsettled: UnsettledSlab::default(),
            consumers: Consumers::new(arguments.single_active_consumer),
            exclusive_consumer: None,
            next_sequence: 1,
            requeues_to_tail: arguments.kind == QueueKind::Quorum,
            limits: Limits::new(arguments),
            deleted: false,
            permit: Some(permit),
        }
    }

    /// Messages that wait for a consumer.
    pub fn ready_count(&self) -> u32 {
        u32::try_from(self.ready.len()).unwrap_or(u32::MAX)
    }

    /// Messages that were delivered and are not settled.
    pub fn unacked_count(&self) -> usize {
        self.unsettled.len()
    }

    /// Consumers.
    pub fn consumer_count(&self) -> u32 {
        u32::try_from(self.consumers.len()).unwrap_or(u32::MAX)
    }

    /// Adds a message at the tail and returns its sequence number. The caller calls [`Queue::deliver`] once its batch
    /// is in. A message for a queue that was deleted meanwhile is dropped, which counts as settled.
    ///
    /// # Errors
    /// If the queue is full and rejects what is published to it.
    pub fn publish(
        &mut self,
        message: Message,
        handle: &Arc<QueueHandle>,
        effects: &mut Effects,
    ) -> Result<u64, Full> {
        if self.limits.is_some() {
            // Whether the queue is full depends on what its consumers have taken before this message.
            self.deliver(handle, effects);
            self.check_room(&message)?;
        }
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        if !self.deleted {
            self.ready.push_back(Entry::new(sequence, false, message));
        }
        Ok(sequence)
    }

    fn check_room(&self, message: &Message) -> Result<(), Full> {
        let Some(limits) = self.limits.filter(|limits| limits.rejects) else { return Ok(()) };
        let body_bytes = self.ready.body_bytes() + message.body().len() as u64;
        let is_full = self.ready.len() as u64 + 1 > limits.length || body_bytes > limits.body_bytes;
        if is_full { Err(Full) } else { Ok(()) }
    }

    /// Drops messages from the head until the queue is within its limits again.
    fn drop_excess(&mut self, settled: &mut Vec<u64>) {
        let Some(limits) = self.limits.filter(|limits| !limits.rejects) else { return };
        while self.ready.len() as u64 > limits.length || self.ready.body_bytes() > limits.body_bytes {
            let Some(entry) = self.ready.pop() else { return };
            if entry.message.is_persistent() {
                settled.push(entry.sequence);
            }
        }
    }

    /// Gives ready messages to the consumers that can take them. `handle` is this queue's own.
    pub fn deliver(&mut self, handle: &Arc<QueueHandle>, effects: &mut Effects) {
        let wakes = &mut effects.wakes;
        while !self.ready.is_empty() {
            let on_blocked = |blocked| {
                if let Blocked::OnRoom(outbox) = blocked {
                    outbox.stall(handle);
                    wakes.add(&outbox);
                }
            };
            let Some(turn) = self.consumers.next(on_blocked) else { break };
            let entry = self.ready.pop().expect("invariant: it was not empty");
            let (sequence, redelivered) = (entry.sequence, entry.redelivered);
            let (message, slot) = if turn.no_ack() {
                (entry.message, Slot::NONE)
            } else {
                let message = entry.message.clone();
                (message, self.unsettled.insert(Unsettled { entry, consumer: Some(turn.index()) }))
            };
            turn.deliver(|consumer| Delivery { consumer, redelivered, slot, sequence, message });
        }
        self.consumers.push_pending(|outbox| wakes.add(outbox));
        let mut settled = Vec::new();
        self.drop_excess(&mut settled);
        if handle.properties.durable && !settled.is_empty() {
            effects.facts.push(Fact::Settle { queue: handle.id, sequences: settled });
        }
    }

    /// Takes the next message for basic.get.
    pub fn get(&mut self, no_ack: bool) -> Option<Got> {
        let entry = self.ready.pop()?;
        let slot = if no_ack {
            Slot::NONE
        } else {
            self.unsettled.insert(Unsettled { entry: entry.clone(), consumer: None })
        };
        Some(Got { entry, slot, ready_count: self.ready_count() })
    }

    /// Settles a delivery for good: acked, or rejected without requeue. Returns the message if it was still there.
    pub fn settle(&mut self, slot: Slot, sequence: u64) -> Option<Message> {
        let unsettled = self.unsettled.remove(slot, sequence)?;
        if let Some(consumer) = unsettled.consumer {
            self.consumers.settled(consumer);
        }
        Some(unsettled.entry.message)
    }

    /// Puts a delivery back: at its original position, or at the tail of a quorum queue (RabbitMQ 3.10). `seen` says
    /// that the client may have seen it, so that it comes marked as redelivered.
    pub fn requeue(&mut self, slot: Slot, sequence: u64, seen: bool) {
        let Some(Unsettled { mut entry, consumer }) = self.unsettled.remove(slot, sequence) else { return };
        if let Some(consumer) = consumer {
            self.consumers.settled(consumer);
        }
        entry.redelivered |= seen;
        if self.deleted {
            return;
        }
        if self.requeues_to_tail {
            self.ready.push_back(entry);
        } else {
            self.ready.put_back(entry);
        }
    }

    /// Takes back a delivery that needed no acknowledgement and was never sent.
    pub fn give_back(&mut self, delivery: Delivery) {
        if !self.deleted {
            let Delivery { sequence, redelivered, message, .. } = delivery;
            self.ready.put_back(Entry::new(sequence, redelivered, message));
        }
    }

    /// Drops every ready message and returns how many they were.
    pub fn purge(&mut self) -> u32 {
        let count = self.ready_count();
        drop(self.ready.take_all());
        count
    }

    /// The fact that goes with a purge, to be made under the same lock.
    pub fn purge_fact(&self, id: QueueId) -> Fact {
        Fact::Purge { queue: id, before: self.next_sequence, unsettled: self.unsettled.sequences().collect() }
    }

    /// Adds a consumer. The caller calls [`Queue::deliver`] next.
    ///
    /// # Errors
    /// 403 if there is an exclusive consumer, or this one wants to be and is not alone; 404 if the queue was deleted.
    pub fn add_consumer(&mut self, spec: ConsumerSpec, resource: Resource<'_>) -> Result<(), Refusal> {
        if self.deleted {
            return Err(Refusal::no(resource));
        }
        if self.exclusive_consumer.is_some() || (spec.exclusive && !self.consumers.is_empty()) {
            return Err(Refusal::access_refused(format!("{resource} in exclusive use")));
        }
        if spec.exclusive {
            self.exclusive_consumer = Some(ConsumerKey { connection: spec.outbox.connection, id: spec.id });
        }
        self.consumers.add(spec);
        Ok(())
    }

    /// Removes a consumer; its unsettled deliveries stay with their channel. True if it was the last one.
    pub fn remove_consumer(&mut self, key: ConsumerKey) -> bool {
        if self.exclusive_consumer == Some(key) {
            self.exclusive_consumer = None;
        }
        self.consumers.remove(key) && self.consumers.is_empty()
    }

    /// That consumer may have credit again. The caller calls [`Queue::deliver`] next.
    pub fn resume_consumer(&mut self, key: ConsumerKey) {
        self.consumers.resume_consumer(key);
    }

    /// The consumers of that connection may have room again. The caller calls [`Queue::deliver`] next.
    pub fn resume(&mut self, connection: ConnectionId) {
        self.consumers.resume(connection);
    }

    /// Drops everything. Returns the number of ready messages and the consumers to be told.
    pub fn delete(&mut self) -> (u32, Vec<(Arc<Outbox>, ConsumerId)>) {
        let count = self.purge();
        self.deleted = true;
        self.permit = None;
        self.exclusive_consumer = None;
        (count, self.consumers.remove_all())
    }

    /// Whether it was deleted: someone may still hold the handle.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }
}

impl Limits {
    fn new(arguments: &QueueArguments) -> Option<Self> {
        let (length, body_bytes) = (arguments.max_length, arguments.max_length_bytes);
        length.or(body_bytes)?;
        let none = u64::MAX;
        Some(Self {
            length: length.unwrap_or(none),
            body_bytes: body_bytes.unwrap_or(none),
            rejects: arguments.rejects_publish,
        })
    }
}

#[cfg(test)]
mod tests;
