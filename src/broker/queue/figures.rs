//! What operators are told of a queue, and what it reports of itself to the broker's totals.

use std::sync::Arc;

use super::{Entry, Queue, QueueHandle, arrivals::Arrivals};
use crate::{
    amqp::{Properties, Table},
    broker::{
        Now,
        message::Message,
        outbox::{ConnectionId, ConsumerId, Outbox},
    },
};

/// What a queue is like now. Octets are of bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueFigures {
    /// Messages that wait for a consumer.
    pub ready: u64,
    /// Messages that were delivered and are not settled.
    pub unacked: u64,
    /// Consumers.
    pub consumers: u64,
    /// Octets of those that are ready.
    pub ready_bytes: u64,
    /// Octets of those that are not settled.
    pub unacked_bytes: u64,
    /// Those that are ready and in memory; the others are in the log only. Whatever is not settled is in memory.
    pub ready_in_memory: u64,
    /// Octets that messages take in memory, with all that belongs to them, but for those that are not settled.
    pub memory_bytes: u64,
    /// Messages that survive a restart, of those that are ready or not settled. Not exact after some that only the log had
    /// have expired, until the queue is empty.
    pub persistent: u64,
    /// Octets of these.
    pub persistent_bytes: u64,
    /// How long the oldest ready message has been in the queue, in milliseconds, within what `queue/arrivals.rs` says;
    /// `None` if there is none, or it was there before the start.
    pub oldest_ready_age_ms: Option<u64>,
    /// The timestamp of the message that is next, in seconds since 1970, if it is in memory and has one.
    pub head_timestamp: Option<u64>,
    /// Whether a consumer could take a message now.
    pub has_free_consumer: bool,
}

/// A consumer of a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerFigures {
    /// Its tag.
    pub tag: Arc<str>,
    /// Its number in its connection.
    pub id: ConsumerId,
    /// Its connection.
    pub connection: ConnectionId,
    /// Its channel.
    pub channel: u16,
    /// Whether its deliveries have to be acknowledged.
    pub ack_required: bool,
    /// Whether it is the only one that there may be.
    pub exclusive: bool,
    /// How many unacknowledged deliveries it may have; 0 is no limit.
    pub prefetch: u16,
    /// `x-priority`.
    pub priority: i64,
    /// The arguments that it came with.
    pub arguments: Table,
    /// Whether it gets messages: of a queue with a single active consumer, one does.
    pub is_active: bool,
}

/// A message that was delivered and is not settled.
#[derive(Clone, Debug)]
pub struct UnackedMessage {
    /// The message.
    pub message: Message,
    /// Whether it had been delivered before.
    pub redelivered: bool,
    /// How many deliveries of it have failed.
    pub delivery_count: u16,
    /// Tag, connection and channel of the consumer that has it, if it is still there; `None` if it was got.
    pub consumer: Option<(Arc<str>, ConnectionId, u16)>,
}

/// What a queue has from its first message on.
#[derive(Debug, Default)]
pub(super) struct Activity {
    pub(super) arrivals: Arrivals,
    /// What the broker's totals know of it.
    reported: Reported,
    /// Octets of messages that are not settled.
    pub(super) unacked_bytes: u64,
    persistent: u64,
    persistent_bytes: u64,
    /// Who waits with basic.get until the head is in memory.
    pub(super) waiting: Vec<Arc<Outbox>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reported {
    ready: u64,
    unacked: u64,
}

/// What was given to consumers in one go.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) auto_ack: u64,
    pub(super) manual_ack: u64,
    pub(super) redelivered: u64,
    pub(super) unacked_bytes: u64,
    /// Of those that need no acknowledgement, the ones that the log has.
    pub(super) left: u64,
    pub(super) left_bytes: u64,
    /// The one that was given last; 0 if none was.
    pub(super) last: u64,
}

impl Queue {
    /// What it is like.
    pub fn figures(&self, now: Now) -> QueueFigures {
        let rare_bytes = self.rare.as_ref().map_or(0, |rare| rare.memory_bytes());
        let activity = self.activity.as_deref();
        QueueFigures {
            ready: self.ready_len(),
            unacked: self.unsettled.len() as u64,
            consumers: u64::from(self.consumer_count()),
            ready_bytes: self.ready_body_bytes(),
            unacked_bytes: activity.map_or(0, |activity| activity.unacked_bytes),
            ready_in_memory: self.ready_len() - self.ready.paged_len(),
            memory_bytes: self.ready.memory_bytes() + rare_bytes,
            persistent: activity.map_or(0, |activity| activity.persistent),
            persistent_bytes: activity.map_or(0, |activity| activity.persistent_bytes),
            oldest_ready_age_ms: self.oldest_ready_age_ms(now),
            head_timestamp: self.ready.peek().and_then(timestamp),
            has_free_consumer: self.consumers.as_ref().is_some_and(|consumers| consumers.has_free()),
        }
    }

    fn oldest_ready_age_ms(&self, now: Now) -> Option<u64> {
        let came_ms = self.activity.as_ref()?.arrivals.time_ms(self.oldest_ready()?)?;
        Some(now.unix_ms.saturating_sub(came_ms))
    }

    /// The lowest sequence number of those that are ready, but for those that a quorum queue took back at its tail.
    fn oldest_ready(&self) -> Option<u64> {
        let parked = self.rare.as_ref().and_then(|rare| rare.groups.first_sequence());
        self.ready.oldest().into_iter().chain(parked).min()
    }

    /// Its consumers, in no order in particular.
    pub fn consumer_list(&self) -> Vec<ConsumerFigures> {
        self.consumers.as_ref().map_or_else(Vec::new, |consumers| consumers.list())
    }

    /// Whether somebody waits with basic.get until the head is in memory.
    pub(super) fn is_awaited(&self) -> bool {
        self.activity.as_ref().is_some_and(|activity| !activity.waiting.is_empty())
    }

    /// At most so many of the messages that were delivered and are not settled, in no order in particular.
    pub fn unacked(&self, max: usize) -> Vec<UnackedMessage> {
        let consumers = self.consumers.as_deref();
        let unacked = self.unsettled.iter().take(max).map(|unsettled| UnackedMessage {
            message: unsettled.entry.message.clone(),
            redelivered: unsettled.entry.redelivered,
            delivery_count: unsettled.entry.delivery_count,
            consumer: consumers
                .zip(unsettled.consumer)
                .and_then(|(consumers, index)| consumers.holder(index)),
        });
        unacked.collect()
    }

    pub(super) fn activity(&mut self) -> &mut Activity {
        self.activity.get_or_insert_default()
    }

    /// Messages have come since the last call.
    #[inline(never)]
    pub(super) fn note_arrivals(&mut self, now: Now) {
        let first = std::mem::replace(&mut self.noted_sequence, self.next_sequence);
        let oldest = self.oldest_ready().unwrap_or(first);
        self.activity().arrivals.note(first, now.unix_ms, oldest);
    }

    /// Messages went to consumers.
    #[inline(never)]
    pub(super) fn note_given(&mut self, given: &Given, handle: &QueueHandle, now: Now) {
        let Given { auto_ack, manual_ack, redelivered, unacked_bytes, left, left_bytes, last } = *given;
        let counters = handle.messages.counters();
        counters.deliver.add_alone(manual_ack);
        counters.deliver_no_ack.add_alone(auto_ack);
        counters.redeliver.add_alone(redelivered);
        let stats = &self.pager.stats;
        let delivered = &stats.delivered[self.arguments.kind as usize];
        delivered.consume_manual_ack.add_some(manual_ack);
        delivered.consume_auto_ack.add_some(auto_ack);
        delivered.redelivered.add_some(redelivered);
        self.note_dwell(last, auto_ack + manual_ack, now);
        let activity = self.activity();
        activity.unacked_bytes += unacked_bytes;
        activity.persistent = activity.persistent.saturating_sub(left);
        activity.persistent_bytes = activity.persistent_bytes.saturating_sub(left_bytes);
    }

    /// So many messages leave, the last one of which is that: how long that one was here stands for all.
    fn note_dwell(&self, last: u64, count: u64, now: Now) {
        if let Some(came_ms) = self.activity.as_ref().and_then(|activity| activity.arrivals.time_ms(last)) {
            self.pager.stats.dwell_ms.record(now.unix_ms.saturating_sub(came_ms), count);
        }
    }

    /// A message was got, or was not there.
    pub(super) fn note_got(&mut self, entry: Option<&Entry>, no_ack: bool, handle: &QueueHandle, now: Now) {
        let counters = handle.messages.counters();
        let delivered = &self.pager.stats.delivered[self.arguments.kind as usize];
        let Some(entry) = entry else {
            counters.get_empty.add_alone(1);
            delivered.get_empty.add(1);
            return;
        };
        let redelivered = u64::from(entry.redelivered);
        counters.redeliver.add_alone(redelivered);
        delivered.redelivered.add_some(redelivered);
        if no_ack {
            counters.get_no_ack.add_alone(1);
            delivered.get_auto_ack.add(1);
        } else {
            counters.get.add_alone(1);
            delivered.get_manual_ack.add(1);
        }
        self.note_dwell(entry.sequence, 1, now);
    }

    /// So many deliveries were acked.
    pub(in crate::broker) fn note_acks(&self, count: u64, handle: &QueueHandle) {
        handle.messages.counters().ack.add_alone(count);
        self.pager.stats.delivered[self.arguments.kind as usize].acknowledged.add(count);
    }

    /// A message that survives has come, or come back.
    #[inline]
    pub(super) fn note_entered(&mut self, entry: &Entry) {
        if self.is_durable && entry.message.is_persistent() {
            let activity = self.activity();
            activity.persistent += 1;
            activity.persistent_bytes += u64::from(entry.body_bytes);
        }
    }

    /// A message has left for good.
    #[inline]
    pub(super) fn note_left(&mut self, entry: &Entry) {
        if self.is_durable && entry.message.is_persistent() {
            self.note_persistent_left(u64::from(entry.body_bytes));
        }
    }

    pub(super) fn note_persistent_left(&mut self, body_bytes: u64) {
        let activity = self.activity();
        activity.persistent = activity.persistent.saturating_sub(1);
        activity.persistent_bytes = activity.persistent_bytes.saturating_sub(body_bytes);
    }

    /// So many messages were there before the start.
    pub(super) fn note_restored(&mut self, count: u64, body_bytes: u64) {
        if count > 0 {
            let activity = self.activity();
            activity.persistent += count;
            activity.persistent_bytes += body_bytes;
        }
    }

    /// All that was ready is gone: counts anew what survives.
    pub(super) fn recount_persistent(&mut self) {
        let Some(activity) = &mut self.activity else { return };
        let dying = self.rare.iter().flat_map(|rare| rare.dying.entries());
        let left = self.unsettled.entries().chain(dying).filter(|entry| entry.message.is_persistent());
        let (count, bytes) =
            left.fold((0, 0), |(count, sum), entry| (count + 1, sum + u64::from(entry.body_bytes)));
        (activity.persistent, activity.persistent_bytes) =
            if self.is_durable { (count, bytes) } else { (0, 0) };
    }

    /// Tells the broker's totals how many messages are here, if that is not what they know.
    #[inline]
    pub(super) fn report(&mut self) {
        let (ready, unacked) = (self.ready_len(), self.unsettled.len() as u64);
        let known = self.activity.as_ref().map_or_else(Reported::default, |activity| activity.reported);
        if (known.ready, known.unacked) != (ready, unacked) {
            self.report_change(Reported { ready, unacked });
        }
    }

    #[inline(never)]
    fn report_change(&mut self, now: Reported) {
        // What clients still have of a queue that was deleted is nobody's.
        let now = if self.deleted { Reported::default() } else { now };
        let before = std::mem::replace(&mut self.activity().reported, now);
        let stats = &self.pager.stats;
        stats.ready.follow(before.ready, now.ready);
        stats.unacked.follow(before.unacked, now.unacked);
        if now == Reported::default() && self.rare.is_none() {
            let activity = self.activity();
            (activity.persistent, activity.persistent_bytes, activity.unacked_bytes) = (0, 0, 0);
        }
    }

    /// It is no more: the totals go on without it.
    pub(super) fn report_end(&mut self) {
        if self.activity.is_some() {
            self.report_change(Reported::default());
        }
        self.pager.stats.consumers.subtract(self.consumer_count().into());
    }
}

fn timestamp(entry: &Entry) -> Option<u64> {
    Properties::parse(entry.message.properties()).ok()?.timestamp
}
