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
    ready::{CHUNK_BYTES_MAX, CHUNK_COUNT_MAX, Chunk, Ready},
    unsettled::{Unsettled, UnsettledSlab},
};
use super::{
    Now,
    journal::{Fact, Target},
    limit::Permit,
    message::Message,
    outbox::{ConnectionId, ConsumerId, Delivery, Outbox},
    pager::{Load, Loaded, Pager, PriorityLevel},
    refusal::{Refusal, Resource},
    restore::RecoveredQueue,
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
        pager: Arc<Pager>,
    ) -> Self {
        let queue = Mutex::new(Queue::new(id, &properties, permit, pager));
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
    id: QueueId,
    is_durable: bool,
    ready: Ready,
    unsettled: UnsettledSlab,
    consumers: Consumers,
    exclusive_consumer: Option<ConsumerKey>,
    next_sequence: u64,
    /// The highest sequence number of those that the log has and that were delivered to be acknowledged.
    delivered: u64,
    /// How far the log has heard of that.
    delivered_noted: u64,
    kind: QueueKind,
    delivery_limit: Option<u64>,
    limits: Option<Limits>,
    deleted: bool,
    /// Its share of the limit on queues, until it is deleted.
    permit: Option<Permit>,
    pager: Arc<Pager>,
    /// What the pager knows of it to be in memory, in octets.
    resident_bytes: u64,
    /// Whether it waits for messages that only the log has.
    is_loading: bool,
    /// Whether the log has messages that do not survive.
    has_paged: bool,
    /// Who waits with basic.get until the head is in memory.
    waiting: Vec<Arc<Outbox>>,
    /// Messages up to this sequence number may have been delivered before the start.
    redelivered_up_to: u64,
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

/// The next message is only in the log: it has to be loaded first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paged;

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
    fn new(id: QueueId, properties: &QueueProperties, permit: Permit, pager: Arc<Pager>) -> Self {
        let arguments = &properties.arguments;
        Self {
            id,
            is_durable: properties.durable,
            ready: Ready::new(arguments.max_priority),
            unsettled: UnsettledSlab::default(),
            consumers: Consumers::new(arguments.single_active_consumer),
            exclusive_consumer: None,
            next_sequence: 1,
            delivered: 0,
            delivered_noted: 0,
            kind: arguments.kind,
            delivery_limit: arguments.delivery_limit,
            limits: Limits::new(arguments),
            deleted: false,
            permit: Some(permit),
            pager,
            resident_bytes: 0,
            is_loading: false,
            has_paged: false,
            waiting: Vec::new(),
            redelivered_up_to: 0,
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
            let stored = self.is_durable && message.is_persistent();
            self.ready.push_back(Entry::new(sequence, stored, message));
        }
        Ok(sequence)
    }

    fn check_room(&self, message: &Message) -> Result<(), Full> {
        let Some(limits) = self.limits.filter(|limits| limits.rejects) else { return Ok(()) };
        let body_bytes = self.ready.body_bytes() + message.body().len() as u64;
        let is_full = self.ready.len() + 1 > limits.length || body_bytes > limits.body_bytes;
        if is_full { Err(Full) } else { Ok(()) }
    }

    /// Drops messages from the head until the queue is within its limits again, or its head has to be loaded first.
    fn drop_excess(&mut self, effects: &mut Effects) {
        while self.has_excess() {
            let Some(entry) = self.ready.pop() else { return };
            self.discard(&entry, effects);
        }
    }

    fn has_excess(&self) -> bool {
        self.limits.as_ref().is_some_and(|limits| {
            let is_above = self.ready.len() > limits.length || self.ready.body_bytes() > limits.body_bytes;
            is_above && !limits.rejects
        })
    }

    /// A message leaves the queue and has reached nobody who wants it: this is where it will be dead-lettered.
    fn discard(&self, entry: &Entry, effects: &mut Effects) {
        self.note_settled(entry, effects);
    }

    /// Tells the log that a message has left the queue, if it knows the message.
    fn note_settled(&self, entry: &Entry, effects: &mut Effects) {
        if entry.stored {
            effects.settled(self.id, entry.sequence, entry.body_bytes);
        }
    }

    /// Gives ready messages to the consumers that can take them. `handle` is this queue's own.
    pub fn deliver(&mut self, handle: &Arc<QueueHandle>, effects: &mut Effects) {
        let wakes = &mut effects.wakes;
        while self.ready.has_head() {
            let on_blocked = |blocked| {
                if let Blocked::OnRoom(outbox) = blocked {
                    outbox.stall(handle);
                    wakes.add(&outbox);
                }
            };
            let Some(turn) = self.consumers.next(on_blocked) else { break };
            let entry = self.ready.pop().expect("invariant: its head is there");
            let Entry { sequence, delivery_count, redelivered, stored, .. } = entry;
            let (message, slot) = if turn.no_ack() {
                (entry.message, Slot::NONE)
            } else {
                if stored {
                    self.delivered = self.delivered.max(sequence);
                }
                let message = entry.message.clone();
                (message, self.unsettled.insert(Unsettled { entry, consumer: Some(turn.index()) }))
            };
            let outbox_bytes = Delivery::outbox_bytes_of(&message);
            turn.deliver(outbox_bytes, |consumer| Delivery {
                consumer,
                redelivered,
                stored,
                delivery_count,
                slot,
                sequence,
                message,
            });
        }
        self.consumers.push_pending(|outbox| wakes.add(outbox));
        self.drop_excess(effects);
        self.note_delivered(effects);
        if self.ready.memory_bytes() != self.resident_bytes || self.ready.is_paged() {
            self.page(handle, effects);
        }
    }

    /// Keeps to the queue's share of memory, and sees that its head comes back.
    fn page(&mut self, handle: &Arc<QueueHandle>, effects: &mut Effects) {
        self.account();
        let excess = self.pager.excess_bytes(self.resident_bytes);
        if excess > 0 {
            self.page_out(excess, effects);
            self.account();
        }
        self.request_load(handle);
    }

    fn account(&mut self) {
        let now = self.ready.memory_bytes();
        self.pager.account(self.resident_bytes, now);
        self.resident_bytes = now;
    }

    /// Leaves messages to the log; those that it does not have are told to it.
    fn page_out(&mut self, bytes: u64, effects: &mut Effects) {
        let (queue, has_paged) = (self.id, &mut self.has_paged);
        self.ready.page_out(bytes, |entry| {
            if !entry.stored {
                *has_paged = true;
                let target = Target { queue, sequence: entry.sequence, survives: false };
                effects.facts.push(Fact::Publish { message: entry.message, queues: vec![target] });
            }
        });
    }

    /// Asks for the messages that are needed next, unless they are on their way already.
    fn request_load(&mut self, handle: &Arc<QueueHandle>) {
        if !self.is_loading && self.wanted().is_some() {
            self.is_loading = true;
            self.pager.request(handle);
        }
    }

    fn wanted(&self) -> Option<(Chunk, Option<PriorityLevel>)> {
        let has_consumers = !self.consumers.is_empty();
        let is_needed = has_consumers || !self.waiting.is_empty() || self.has_excess();
        if is_needed { self.ready.wanted(has_consumers) } else { None }
    }

    /// What is to be loaded for the queue, after it was requested; `None` if it needs nothing any more.
    pub fn next_load(&mut self) -> Option<Load> {
        let Some((chunk, priorities)) = self.wanted() else {
            self.is_loading = false;
            return None;
        };
        self.ready.begin_load(&chunk, priorities);
        let Chunk { first, last, .. } = chunk;
        let bytes_max = if chunk.is_recovered() { CHUNK_BYTES_MAX as usize } else { usize::MAX };
        Some(Load { queue: self.id, first, last, priorities, count_max: CHUNK_COUNT_MAX as usize, bytes_max })
    }

    /// What [`Queue::next_load`] asked for has come. Nothing happens if the queue was purged or deleted meanwhile. The
    /// caller calls [`Queue::deliver`] next. False if some of it is still on its way to the log: then it is to be tried
    /// again once that has written more.
    pub fn loaded(&mut self, load: &Load, loaded: Loaded, effects: &mut Effects) -> bool {
        if !self.ready.fill(load.first, load.priorities, loaded, self.redelivered_up_to) {
            return false;
        }
        self.is_loading = false;
        self.wake_waiting(effects);
        true
    }

    /// Wakes the connection once the head is in memory, or the queue empty: for a basic.get that found it paged.
    pub fn await_head(&mut self, outbox: &Arc<Outbox>, handle: &Arc<QueueHandle>) {
        // Bounded by the connections: each waits with one basic.get.
        if !self.waiting.iter().any(|known| Arc::ptr_eq(known, outbox)) {
            self.waiting.push(Arc::clone(outbox));
        }
        self.request_load(handle);
    }

    fn wake_waiting(&mut self, effects: &mut Effects) {
        for outbox in self.waiting.drain(..) {
            effects.wakes.add(&outbox);
        }
    }

    /// Tells the log how far messages have been delivered, if that is further than it knows. Those of a queue that is
    /// not durable do not come again.
    fn note_delivered(&mut self, effects: &mut Effects) {
        if self.delivered > self.delivered_noted && self.is_durable {
            self.delivered_noted = self.delivered;
            effects.delivered(self.id, self.delivered);
        }
    }

    /// Takes the next message for basic.get; `None` if there is none. Without acknowledgement, it has left the queue by
    /// that.
    ///
    /// # Errors
    /// If it has to be loaded first: see [`Queue::await_head`].
    pub fn get(&mut self, no_ack: bool, effects: &mut Effects) -> Result<Option<Got>, Paged> {
        let Some(entry) = self.ready.pop() else {
            return if self.ready.is_empty() { Ok(None) } else { Err(Paged) };
        };
        self.account();
        let slot = if no_ack {
            self.note_settled(&entry, effects);
            Slot::NONE
        } else {
            if entry.stored {
                self.delivered = self.delivered.max(entry.sequence);
                self.note_delivered(effects);
            }
            self.unsettled.insert(Unsettled { entry: entry.clone(), consumer: None })
        };
        Ok(Some(Got { entry, slot, ready_count: self.ready_count() }))
    }

    /// Settles a delivery for good: acked, or rejected without requeue. Whether it was still there.
    pub fn settle(&mut self, slot: Slot, sequence: u64, effects: &mut Effects) -> bool {
        let Some(Unsettled { entry, consumer }) = self.unsettled.remove(slot, sequence) else { return false };
        if let Some(consumer) = consumer {
            self.consumers.settled(consumer);
        }
        if !self.deleted {
            self.note_settled(&entry, effects);
        }
        true
    }

    /// Puts a delivery back. `seen` says that the client may have seen it, so that it comes marked as redelivered, and
    /// a quorum queue counts a failed delivery and puts it at its tail (RabbitMQ 3.10). Otherwise it goes where it was.
    pub fn requeue(&mut self, slot: Slot, sequence: u64, seen: bool, effects: &mut Effects) {
        let Some(Unsettled { mut entry, consumer }) = self.unsettled.remove(slot, sequence) else { return };
        if let Some(consumer) = consumer {
            self.consumers.settled(consumer);
        }
        if self.deleted {
            return;
        }
        entry.redelivered |= seen;
        if seen && self.kind == QueueKind::Quorum {
            self.return_to_tail(entry, effects);
        } else {
            self.ready.put_back(entry);
        }
    }

    /// A delivery of a quorum queue has failed. One too many, and the message is gone (RabbitMQ: `x-delivery-limit`).
    fn return_to_tail(&mut self, mut entry: Entry, effects: &mut Effects) {
        entry.delivery_count = entry.delivery_count.saturating_add(1);
        if self.delivery_limit.is_some_and(|limit| u64::from(entry.delivery_count) > limit) {
            self.discard(&entry, effects);
            return;
        }
        if entry.stored {
            effects.returned(self.id, entry.sequence);
        }
        self.ready.push_back(entry);
    }

    /// Takes back a delivery that needed no acknowledgement and was never sent.
    pub fn give_back(&mut self, delivery: Delivery) {
        if !self.deleted {
            let Delivery { sequence, redelivered, stored, delivery_count, message, .. } = delivery;
            let entry = Entry::new(sequence, stored, message);
            self.ready.put_back(Entry { redelivered, delivery_count, ..entry });
        }
    }

    /// Drops every ready message and returns how many they were.
    pub fn purge(&mut self, effects: &mut Effects) -> u32 {
        if self.is_durable || self.has_paged {
            effects.facts.push(self.purge_fact());
        }
        self.clear(effects)
    }

    fn clear(&mut self, effects: &mut Effects) -> u32 {
        let count = self.ready_count();
        self.ready.clear();
        self.account();
        self.wake_waiting(effects);
        count
    }

    fn purge_fact(&self) -> Fact {
        let stored = self.unsettled.entries().filter(|entry| entry.stored);
        Fact::Purge {
            queue: self.id,
            before: self.next_sequence,
            unsettled: self.unsettled.entries().map(|entry| entry.sequence).collect(),
            unsettled_body_bytes: stored.map(|entry| u64::from(entry.body_bytes)).sum(),
        }
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
    pub fn delete(&mut self, effects: &mut Effects) -> (u32, Vec<(Arc<Outbox>, ConsumerId)>) {
        let count = self.clear(effects);
        if self.has_paged && !self.is_durable {
            effects.facts.push(Fact::Forget { queue: self.id });
        }
        self.deleted = true;
        self.permit = None;
        self.exclusive_consumer = None;
        (count, self.consumers.remove_all())
    }

    /// Takes over what was there before the start. The queue is new.
    pub fn restore(&mut self, recovered: &RecoveredQueue) {
        self.next_sequence = recovered.next_sequence.max(1);
        self.redelivered_up_to = recovered.delivered_up_to;
        self.delivered = recovered.delivered_up_to;
        self.delivered_noted = recovered.delivered_up_to;
        self.ready.restore(&recovered.backlog, recovered.body_bytes);
    }

    /// Whether it was deleted: someone may still hold the handle.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.pager.account(self.resident_bytes, 0);
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
