//! A queue: ready messages, unsettled messages and consumers, as a plain `&mut self` state machine without I/O.
//!
//! [`QueueHandle`] is what everybody else holds: the queue's name, its properties and a lock. Whoever publishes,
//! settles or expires takes the lock for a batch and calls the queue inline; nothing waits while holding it.

mod arguments;
mod arrivals;
mod checks;
mod consumers;
mod deadlines;
mod due;
mod dying;
mod figures;
mod groups;
mod handle;
mod holds;
mod keys;
mod levels;
mod paging;
mod rare;
mod ready;
mod retry;
mod rules;
mod settling;
mod unsettled;

use std::{collections::HashSet, sync::Arc};

pub use self::{
    arguments::{DeadLetterStrategy, GroupBy, Overflow, QueueArguments, QueueKind, priority_levels},
    consumers::{ChannelCredit, ConsumerKey, ConsumerSpec},
    deadlines::Deadlines,
    figures::{ConsumerFigures, QueueFigures, UnackedMessage},
    handle::{QueueHandle, QueueProperties},
    levels::Levels,
    ready::Entry,
    retry::{Retry, RetryOn, Schedule},
    settling::Return,
    unsettled::Slot,
};
pub(in crate::broker) use self::{
    arguments::{comparable, inequivalent},
    rules::Rule,
};
use self::{
    consumers::{Blocked, Consumers},
    figures::{Activity, Given},
    groups::Groups,
    keys::forget_key,
    rare::Rare,
    ready::Ready,
    unsettled::{Unsettled, UnsettledSlab},
};
use super::{
    NEVER,
    death::Reason,
    dedup::{Cache, Key},
    effects::{Cause, Effects, Letter},
    journal::Fact,
    limit::Permit,
    message::Message,
    outbox::{ConnectionId, ConsumerId, Delivery, Outbox},
    pager::Pager,
    refusal::{Refusal, Resource},
    restore::RecoveredQueue,
};

/// Identity of a queue, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u64);

/// See the module's text.
#[derive(Debug)]
pub struct Queue {
    id: QueueId,
    is_durable: bool,
    deleted: bool,
    /// Whether it keeps the delayed messages of an exchange.
    delays: bool,
    /// Whether messages of one key go one at a time (`x-group-by`).
    is_grouped: bool,
    /// Whether it does not take every message: it has limits, or looks for duplicates.
    is_picky: bool,
    /// Whether it waits for messages that only the log has.
    is_loading: bool,
    /// Whether the log has messages that do not survive.
    has_paged: bool,
    ready: Ready,
    unsettled: UnsettledSlab,
    /// Once there was one: what has no consumers takes less memory without.
    consumers: Option<Box<Consumers>>,
    next_sequence: u64,
    /// The first one of those that [`Queue::deliver`] has not seen come.
    noted_sequence: u64,
    /// The highest sequence number of those that the log has and that were delivered to be acknowledged.
    delivered: u64,
    /// How far the log has heard of that.
    delivered_noted: u64,
    arguments: Arc<QueueArguments>,
    limits: Option<Limits>,
    /// How long a message may wait here, in milliseconds; [`NEVER`] for as long as need be.
    ttl_ms: u64,
    /// When its timer goes off: see [`Effects::timers`].
    timer_ms: u64,
    /// Its share of the limit on queues, until it is deleted.
    permit: Option<Permit>,
    pager: Arc<Pager>,
    /// What the pager knows of it to be in memory, in octets.
    resident_bytes: u64,
    /// From the first message on.
    activity: Option<Box<Activity>>,
    /// Messages up to this sequence number may have been delivered before the start.
    redelivered_up_to: u64,
    rare: Option<Box<Rare>>,
}

/// How much may be ready, and what gives way when there is more.
#[derive(Clone, Copy, Debug)]
struct Limits {
    length: u64,
    body_bytes: u64,
    overflow: Overflow,
}

/// A queue does not take a message because it is full (RabbitMQ: `x-overflow` = `reject-publish`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The next message is only in the log and has to be loaded first, or is behind too many that have expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paged;

/// Where a published message is in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its sequence number.
    pub sequence: u64,
    /// When it leaves by itself, in [`Now::unix_ms`](super::Now::unix_ms); [`NEVER`] if it does not.
    pub deadline_ms: u64,
}

/// What a queue says of a message that is published to it.
enum Admission {
    /// It has had it before.
    Duplicate,
    /// It takes it, and knows it by that key from now on if it looks for duplicates.
    New(Option<Key>),
}

/// Messages whose time has come that are seen to under one lock.
const DUE_AT_A_TIME: usize = 512;
/// How soon a dead letter that may not be lost is offered again to queues that did not take it, in milliseconds.
const DEAD_LETTER_RETRY_MS: u64 = 1000;

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
    fn new(
        id: QueueId,
        properties: &QueueProperties,
        delays: bool,
        permit: Permit,
        pager: Arc<Pager>,
    ) -> Self {
        let arguments = Arc::clone(&properties.arguments);
        Self {
            id,
            is_durable: properties.durable,
            deleted: false,
            delays,
            is_grouped: arguments.group_by.is_some(),
            is_picky: is_picky(&arguments),
            is_loading: false,
            has_paged: false,
            ready: Ready::new(arguments.levels()),
            unsettled: UnsettledSlab::default(),
            consumers: None,
            next_sequence: 1,
            noted_sequence: 1,
            delivered: 0,
            delivered_noted: 0,
            limits: Limits::new(&arguments),
            ttl_ms: arguments.message_ttl_ms.unwrap_or(NEVER),
            arguments,
            timer_ms: NEVER,
            permit: Some(permit),
            pager,
            resident_bytes: 0,
            activity: None,
            redelivered_up_to: 0,
            rare: None,
        }
    }

    /// Makes other arguments act: policies have changed. This is the one place that takes them over; what can't change
    /// is its kind, its priorities, and whether it has a single active consumer. `handle` is this queue's own.
    pub fn reconfigure(
        &mut self,
        arguments: &Arc<QueueArguments>,
        handle: &Arc<QueueHandle>,
        effects: &mut Effects,
    ) {
        self.limits = Limits::new(arguments);
        let (before, after) = (&self.arguments.deduplication, &arguments.deduplication);
        let has_same_keys =
            before.as_ref().zip(after.as_ref()).is_some_and(|(before, after)| before.has_same_keys(after));
        if let Some(rare) = self.rare.as_mut().filter(|_| !has_same_keys) {
            rare.keys = Cache::default();
        }
        self.arguments = Arc::clone(arguments);
        self.is_picky = is_picky(arguments);
        self.ttl_ms = arguments.message_ttl_ms.unwrap_or(NEVER);
        self.regroup();
        // It drops what is too much by the new limits.
        self.deliver(handle, effects);
    }

    /// Messages of one key go one at a time from now on, or no longer, or it is another key.
    fn regroup(&mut self) {
        let was_grouped = std::mem::replace(&mut self.is_grouped, self.arguments.group_by.is_some());
        let Some(rare) = self.rare.as_mut().filter(|_| was_grouped || self.is_grouped) else {
            return self.count_flights();
        };
        // What waits goes back to its place, and comes to wait again if it still has to.
        while let Some(entry) = rare.groups.pop_first() {
            self.ready.put_back(entry);
        }
        rare.groups = Groups::default();
        rare.holds.forget_keys();
        self.count_flights();
    }

    /// Finds out which keys have messages in flight: delivered ones, and those that are put off. Until all of these are
    /// known, nothing is delivered.
    fn count_flights(&mut self) {
        let holds_none = self.rare.as_ref().is_none_or(|rare| rare.holds.is_empty());
        if !self.is_grouped || (self.unsettled.len() == 0 && holds_none) {
            return;
        }
        let Rare { holds, groups, .. } = &mut **self.rare.get_or_insert_default();
        for entry in self.unsettled.entries().chain(holds.look_for_keys()) {
            if let Some(key) = key_of(&self.arguments, entry) {
                groups.began(key);
            }
        }
    }

    /// Messages that wait for a consumer.
    pub fn ready_count(&self) -> u32 {
        u32::try_from(self.ready_len()).unwrap_or(u32::MAX)
    }

    /// The same, and those that wait for another one of their key.
    fn ready_len(&self) -> u64 {
        self.ready.len() + self.rare.as_ref().map_or(0, |rare| rare.groups.parked() as u64)
    }

    fn ready_body_bytes(&self) -> u64 {
        self.ready.body_bytes() + self.rare.as_ref().map_or(0, |rare| rare.groups.body_bytes())
    }

    /// Messages that were delivered and are not settled.
    pub fn unacked_count(&self) -> usize {
        self.unsettled.len()
    }

    /// Consumers.
    pub fn consumer_count(&self) -> u32 {
        let count = self.consumers.as_ref().map_or(0, |consumers| consumers.len());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Adds a message at the tail and says where it is. The caller calls [`Queue::deliver`] once its batch is in. It may
    /// wait for `ttl_ms` milliseconds, or [`NEVER`]. A duplicate, and a message for a queue that was deleted meanwhile, is
    /// dropped, which counts as settled: `None`.
    ///
    /// # Errors
    /// If the queue is full and rejects what is published to it.
    pub fn publish(
        &mut self,
        message: Message,
        ttl_ms: u64,
        handle: &Arc<QueueHandle>,
        effects: &mut Effects,
    ) -> Result<Option<Placed>, Full> {
        let mut key = None;
        if self.is_picky {
            match self.admit(&message, handle, effects)? {
                Admission::Duplicate => return Ok(None),
                Admission::New(of_message) => key = of_message,
            }
        }
        if self.deleted {
            return Ok(None);
        }
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let deadline_ms = effects.now.unix_ms.saturating_add(ttl_ms.min(self.ttl_ms));
        let stored = self.is_durable && message.is_persistent();
        if let Some(key) = key {
            self.know(sequence, key, stored, effects);
        }
        let entry = Entry::new(sequence, deadline_ms, stored, message);
        if stored {
            self.note_entered(&entry);
        }
        self.ready.push_back(entry);
        Ok(Some(Placed { sequence, deadline_ms }))
    }

    /// Whether a queue that does not take everything takes a message.
    ///
    /// # Errors
    /// If it is full and rejects what is published to it.
    fn admit(
        &mut self,
        message: &Message,
        handle: &Arc<QueueHandle>,
        effects: &mut Effects,
    ) -> Result<Admission, Full> {
        if self.limits.is_some() {
            // Whether the queue is full depends on what its consumers have taken before this message.
            self.deliver(handle, effects);
        }
        let key = self.key(message, effects.now.unix_ms);
        if self.knows(key, effects.now.unix_ms) {
            effects.has_duplicates = true;
            return Ok(Admission::Duplicate);
        }
        if self.limits.is_some() {
            self.check_room(message, handle, effects)?;
        }
        Ok(Admission::New(key))
    }

    fn check_room(
        &mut self,
        message: &Message,
        handle: &Arc<QueueHandle>,
        effects: &mut Effects,
    ) -> Result<(), Full> {
        if self.has_room(message) {
            return Ok(());
        }
        if self.limits.is_some_and(|limits| limits.overflow == Overflow::RejectPublishDlx) {
            // It never was in the queue, so the log has nothing to hear of its end.
            let entry = Entry::new(0, NEVER, false, message.clone());
            self.discard(entry, Reason::MaxLength, handle, effects);
        }
        Err(Full)
    }

    /// Whether the queue takes a message: it may be full and reject it, unless that is a duplicate.
    pub fn takes(&self, message: &Message, now_ms: u64) -> bool {
        self.has_room(message) || self.knows(self.key(message, now_ms), now_ms)
    }

    fn has_room(&self, message: &Message) -> bool {
        let Some(limits) = self.limits.filter(|limits| limits.overflow != Overflow::DropHead) else {
            return true;
        };
        let body_bytes = self.ready_body_bytes() + message.body().len() as u64;
        self.ready_len() < limits.length && body_bytes <= limits.body_bytes
    }

    /// Drops messages from the head until the queue is within its limits again, or its head has to be loaded first.
    fn drop_excess(&mut self, handle: &Arc<QueueHandle>, effects: &mut Effects) {
        let mut dropped = 0;
        while self.has_excess() && dropped < DUE_AT_A_TIME {
            let Some(entry) = self.pop_oldest() else { return };
            self.pass_turn(&entry);
            self.discard(entry, Reason::MaxLength, handle, effects);
            dropped += 1;
        }
    }

    /// Takes the next message out, or the first one that waits for its key if that is older.
    fn pop_oldest(&mut self) -> Option<Entry> {
        if let Some(rare) = &mut self.rare
            && let Some(parked) = rare.groups.first_sequence()
            && self.ready.peek().is_none_or(|head| parked < head.sequence)
        {
            return rare.groups.pop_first();
        }
        self.ready.pop()
    }

    fn has_excess(&self) -> bool {
        self.limits.as_ref().is_some_and(|limits| {
            let is_above = self.ready_len() > limits.length || self.ready_body_bytes() > limits.body_bytes;
            is_above && limits.overflow == Overflow::DropHead
        })
    }

    /// A message leaves the queue and has reached nobody who wants it: it is dead-lettered, or gone.
    fn discard(&mut self, entry: Entry, reason: Reason, handle: &Arc<QueueHandle>, effects: &mut Effects) {
        let Some(cause) = self.cause(reason) else {
            self.pager.stats.dead[self.arguments.kind as usize].disabled(reason).add(1);
            self.note_settled(&entry, effects);
            return;
        };
        self.left(entry.sequence);
        // What a queue rejects never was in it.
        if entry.sequence > 0 {
            self.note_left(&entry);
        }
        effects.letters.push(Letter { queue: Arc::clone(handle), entry, cause });
    }

    /// Why a message that leaves for that reason goes to an exchange, if it does.
    fn cause(&self, reason: Reason) -> Option<Cause> {
        if self.delays && reason == Reason::Expired {
            return Some(Cause::Delay);
        }
        self.arguments.dead_letter_exchange.as_ref().map(|_| Cause::Death(reason))
    }

    /// A message has left the queue for good. The log is told if it knows the message.
    fn note_settled(&mut self, entry: &Entry, effects: &mut Effects) {
        self.left(entry.sequence);
        if entry.stored {
            self.note_left(entry);
            effects.settled(self.id, entry.sequence, entry.body_bytes);
        }
    }

    /// Gives ready messages to the consumers that can take them, and sees to those whose time has come. `handle` is this
    /// queue's own.
    pub fn deliver(&mut self, handle: &Arc<QueueHandle>, effects: &mut Effects) {
        let now_ms = effects.now.unix_ms;
        if self.noted_sequence != self.next_sequence {
            self.note_arrivals(effects.now);
        }
        if self.due_ms() <= now_ms {
            self.release_held(handle, effects);
            // What expires at this very moment is delivered if somebody takes it at once (RabbitMQ: a TTL of 0).
            self.expire(now_ms.saturating_sub(1), handle, effects);
        }
        self.give_to_consumers(handle, effects);
        self.drop_excess(handle, effects);
        if self.due_ms() <= now_ms {
            self.expire(now_ms, handle, effects);
        }
        self.note_delivered(effects);
        self.set_timer(handle, effects);
        if self.is_awaited() && (self.ready.has_head() || self.ready.is_empty()) {
            self.wake_waiting(effects);
        }
        if self.ready.memory_bytes() != self.resident_bytes || self.ready.is_paged() || self.rare.is_some() {
            self.page(handle, effects);
        }
        self.report();
    }

    fn give_to_consumers(&mut self, handle: &Arc<QueueHandle>, effects: &mut Effects) {
        let mut given = Given::default();
        while self.expire_head(handle, effects) && self.has_next() {
            let wakes = &mut effects.wakes;
            let on_blocked = |blocked| {
                if let Blocked::OnRoom(outbox) = blocked {
                    outbox.stall(handle);
                    wakes.add(&outbox);
                }
            };
            let Some(consumers) = self.consumers.as_deref_mut() else { break };
            let Some(turn) = consumers.next(on_blocked) else { break };
            let entry = self.ready.pop().expect("invariant: its head is there");
            if self.is_grouped || self.is_picky {
                let next = note_delivery(&self.arguments, &mut self.rare, &entry, turn.no_ack());
                next.into_iter().for_each(|next| self.ready.put_back(next));
            }
            let Entry { sequence, deadline_ms, delivery_count, redelivered, stored, body_bytes, .. } = entry;
            given.last = sequence;
            given.redelivered += u64::from(redelivered);
            let (message, slot) = if turn.no_ack() {
                given.auto_ack += 1;
                if stored && entry.message.is_persistent() {
                    given.left += 1;
                    given.left_bytes += u64::from(body_bytes);
                }
                (entry.message, Slot::NONE)
            } else {
                if stored {
                    self.delivered = self.delivered.max(sequence);
                }
                given.manual_ack += 1;
                given.unacked_bytes += u64::from(body_bytes);
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
                deadline_ms,
                message,
            });
        }
        if let Some(consumers) = &mut self.consumers {
            consumers.push_pending(|outbox| effects.wakes.add(outbox));
        }
        if given.last > 0 {
            self.note_given(&given, handle, effects.now);
        }
    }

    /// Whether [`Ready::pop`] gives a message that may be delivered now.
    #[inline(always)]
    fn has_next(&mut self) -> bool {
        if self.is_grouped { self.has_next_of_keys() } else { self.ready.has_head() }
    }

    fn has_next_of_keys(&mut self) -> bool {
        let is_free = self.park_waiting();
        is_free && !self.rare.as_deref().is_some_and(|rare| rare.holds.has_keyless())
    }

    /// Parks messages that have to wait for others of their keys, until one is at the head that need not. Whether there is
    /// one.
    fn park_waiting(&mut self) -> bool {
        while let Some(head) = self.ready.peek() {
            let Some(key) = key_of(&self.arguments, head) else { return true };
            let sequence = head.sequence;
            let Some(rare) = self.rare.as_mut().filter(|rare| rare.groups.must_wait(key, sequence)) else {
                return true;
            };
            if rare.groups.is_full() {
                return false;
            }
            if let Some(entry) = self.ready.pop() {
                rare.groups.park(key, entry);
            }
        }
        false
    }

    /// A message is in flight no longer: the next one of its key takes its place in the queue.
    #[inline]
    fn end_flight(&mut self, entry: &Entry) {
        if self.is_grouped {
            self.end_flight_of_key(entry);
        }
    }

    fn end_flight_of_key(&mut self, entry: &Entry) {
        if let Some(key) = key_of(&self.arguments, entry)
            && let Some(rare) = &mut self.rare
            && let Some(next) = rare.groups.ended(key)
        {
            self.ready.put_back(next);
        }
    }

    /// A message has left that was not in flight: the next one of its key takes its place in the queue.
    #[inline]
    fn pass_turn(&mut self, entry: &Entry) {
        if self.is_grouped {
            let next = next_of_key(&self.arguments, &mut self.rare, entry);
            next.into_iter().for_each(|next| self.ready.put_back(next));
        }
    }

    fn consumers(&mut self) -> &mut Consumers {
        let single_active = self.arguments.single_active_consumer;
        self.consumers.get_or_insert_with(|| Box::new(Consumers::new(single_active)))
    }

    fn has_consumers(&self) -> bool {
        self.consumers.as_ref().is_some_and(|consumers| !consumers.is_empty())
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
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
    /// If it has to be loaded first, or more have expired before it than are seen to at a time: see [`Queue::await_head`].
    pub fn get(
        &mut self,
        no_ack: bool,
        handle: &Arc<QueueHandle>,
        effects: &mut Effects,
    ) -> Result<Option<Got>, Paged> {
        if self.due_ms() <= effects.now.unix_ms {
            self.deliver(handle, effects);
            let has_expired = |head: &Entry| head.deadline_ms < effects.now.unix_ms;
            if self.ready.peek().is_some_and(has_expired) {
                return Err(Paged);
            }
        }
        let next = if self.has_next() { self.ready.pop() } else { None };
        let Some(entry) = next else {
            let has_keyless = self.rare.as_ref().is_some_and(|rare| rare.holds.has_keyless());
            let is_paged = !self.ready.is_empty() && (has_keyless || !self.ready.has_head());
            if is_paged {
                return Err(Paged);
            }
            self.note_got(None, no_ack, handle, effects.now);
            return Ok(None);
        };
        self.account();
        self.note_got(Some(&entry), no_ack, handle, effects.now);
        let slot = if no_ack {
            self.pass_turn(&entry);
            self.note_settled(&entry, effects);
            Slot::NONE
        } else {
            if entry.stored {
                self.delivered = self.delivered.max(entry.sequence);
                self.note_delivered(effects);
            }
            if self.is_grouped
                && let Some(key) = key_of(&self.arguments, &entry)
            {
                self.rare().groups.began(key);
            }
            self.activity().unacked_bytes += u64::from(entry.body_bytes);
            self.unsettled.insert(Unsettled { entry: entry.clone(), consumer: None })
        };
        self.report();
        Ok(Some(Got { entry, slot, ready_count: self.ready_count() }))
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
        if let Some(rare) = &mut self.rare {
            rare.groups.clear_parked();
            if self.arguments.deduplication.as_ref().is_some_and(|deduplication| !deduplication.remembers) {
                let unsettled = self.unsettled.entries().map(|entry| entry.sequence);
                let staying: HashSet<u64> = unsettled.chain(rare.sequences()).collect();
                rare.keys.retain(|sequence| staying.contains(&sequence));
            }
        }
        self.recount_persistent();
        self.account();
        self.wake_waiting(effects);
        self.report();
        count
    }

    fn purge_fact(&self) -> Fact {
        let stored = self.unsettled.entries().filter(|entry| entry.stored);
        let mut body_bytes: u64 = stored.map(|entry| u64::from(entry.body_bytes)).sum();
        let mut unsettled: Vec<u64> = self.unsettled.entries().map(|entry| entry.sequence).collect();
        // What is put off or dead is not ready, so it stays.
        if let Some(rare) = &self.rare {
            unsettled.extend(rare.sequences());
            body_bytes += rare.body_bytes();
        }
        let before = self.next_sequence;
        Fact::Purge { queue: self.id, before, unsettled, unsettled_body_bytes: body_bytes }
    }

    /// Adds a consumer. The caller calls [`Queue::deliver`] next.
    ///
    /// # Errors
    /// 403 if there is an exclusive consumer, or this one wants to be and is not alone; 404 if the queue was deleted.
    pub fn add_consumer(&mut self, spec: ConsumerSpec, resource: Resource<'_>) -> Result<(), Refusal> {
        if self.deleted {
            return Err(Refusal::no(resource));
        }
        if self.consumers().exclusive.is_some() || (spec.exclusive && self.has_consumers()) {
            return Err(Refusal::access_refused(format!("{resource} in exclusive use")));
        }
        if spec.exclusive {
            let key = ConsumerKey { connection: spec.outbox.connection, id: spec.id };
            self.consumers().exclusive = Some(key);
        }
        self.consumers().add(spec);
        self.pager.stats.consumers.add(1);
        Ok(())
    }

    /// Removes a consumer; its unsettled deliveries stay with their channel. True if it was the last one.
    pub fn remove_consumer(&mut self, key: ConsumerKey) -> bool {
        let consumers = self.consumers();
        if consumers.exclusive == Some(key) {
            consumers.exclusive = None;
        }
        if !consumers.remove(key) {
            return false;
        }
        let was_last = consumers.is_empty();
        self.pager.stats.consumers.subtract(1);
        was_last
    }

    /// That consumer may have credit again. The caller calls [`Queue::deliver`] next.
    pub fn resume_consumer(&mut self, key: ConsumerKey) {
        self.consumers().resume_consumer(key);
    }

    /// The consumers of that connection may have room again. The caller calls [`Queue::deliver`] next.
    pub fn resume(&mut self, connection: ConnectionId) {
        self.consumers().resume(connection);
    }

    /// Drops everything. Returns the number of ready messages and the consumers to be told.
    pub fn delete(&mut self, effects: &mut Effects) -> (u32, Vec<(Arc<Outbox>, ConsumerId)>) {
        let count = self.clear(effects);
        self.rare = None;
        self.account();
        if self.has_paged && !self.is_durable {
            effects.facts.push(Fact::Forget { queue: self.id });
        }
        self.report_end();
        self.deleted = true;
        self.permit = None;
        (count, self.consumers.take().map_or_else(Vec::new, |mut consumers| consumers.remove_all()))
    }

    /// Takes over what was there before the start. The queue is new; the caller calls [`Queue::deliver`] once everything is
    /// there.
    pub fn restore(&mut self, recovered: RecoveredQueue) {
        self.next_sequence = recovered.next_sequence.max(1);
        self.noted_sequence = self.next_sequence;
        self.redelivered_up_to = recovered.delivered_up_to;
        self.delivered = recovered.delivered_up_to;
        self.delivered_noted = recovered.delivered_up_to;
        let held = recovered.held.iter().map(|hold| hold.sequence);
        self.ready.restore(&recovered.backlog, held, recovered.deadlines, recovered.body_bytes);
        self.note_restored(self.ready.len(), self.ready.body_bytes());
        for hold in recovered.held {
            self.rare().holds.restore(&hold);
        }
        self.count_flights();
        self.report();
    }

    /// Whether it was deleted: someone may still hold the handle.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }
}

fn is_picky(arguments: &QueueArguments) -> bool {
    arguments.deduplication.is_some() || Limits::new(arguments).is_some()
}

/// A message goes to a consumer: it is in flight, or has left the queue for good. Then returns the next one of its key, if
/// that waits.
#[inline(never)]
fn note_delivery(
    arguments: &QueueArguments,
    rare: &mut Option<Box<Rare>>,
    entry: &Entry,
    has_left: bool,
) -> Option<Entry> {
    if has_left {
        if let Some(rare) = rare {
            forget_key(arguments, rare, entry.sequence);
        }
        return next_of_key(arguments, rare, entry);
    }
    if let Some(key) = key_of(arguments, entry) {
        rare.get_or_insert_default().groups.began(key);
    }
    None
}

/// The next message of the key of one that has left, if that waits and nothing of that key is in flight.
fn next_of_key(arguments: &QueueArguments, rare: &mut Option<Box<Rare>>, entry: &Entry) -> Option<Entry> {
    let rare = rare.as_mut()?;
    rare.groups.next_of(key_of(arguments, entry)?)
}

/// The key that a message waits for others of, if its queue has keys.
fn key_of(arguments: &QueueArguments, entry: &Entry) -> Option<u64> {
    arguments.group_by.as_ref()?.key(&entry.message)
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.pager.account(self.resident_bytes, 0);
        self.report_end();
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
            overflow: arguments.overflow,
        })
    }
}

#[cfg(test)]
mod tests;
