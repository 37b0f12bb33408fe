//! What the broker counts: plain atomics that whoever does something adds to, a batch at a time where it can, and whoever
//! wants to know reads. Nothing is sampled and no rate is made here: see `management`.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use super::{death::Reason, queue::QueueKind};

/// A number that goes up, or up and down, and that anybody may read at any time.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Adds to a counter that nobody else writes at the same time, because of a lock or because it belongs to one task:
    /// no more than a load and a store.
    pub fn add_alone(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Takes from it.
    pub fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    /// The same where there may be nothing to add, which costs nothing then.
    pub fn add_some(&self, count: u64) {
        if count > 0 {
            self.add(count);
        }
    }

    /// Sets it: it follows a value that is kept elsewhere.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// A value that it counts a part of was one number and is another now.
    pub fn follow(&self, before: u64, now: u64) {
        if now > before {
            self.add(now - before);
        } else if now < before {
            self.subtract(before - now);
        }
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What happened to messages, as the API's `message_stats` tells it: in all, or for one queue, exchange, connection or
/// channel. What does not apply there stays 0.
#[derive(Debug, Default)]
pub struct MessageCounters {
    /// Published.
    pub publish: Counter,
    /// Confirmed to their publishers.
    pub confirm: Counter,
    /// Returned because nothing takes them.
    pub return_unroutable: Counter,
    /// Dropped because nothing takes them.
    pub drop_unroutable: Counter,
    /// Delivered to consumers, to be acknowledged.
    pub deliver: Counter,
    /// Delivered to consumers that do not acknowledge.
    pub deliver_no_ack: Counter,
    /// Got by basic.get, to be acknowledged.
    pub get: Counter,
    /// Got by basic.get without acknowledgement.
    pub get_no_ack: Counter,
    /// Times that basic.get found nothing.
    pub get_empty: Counter,
    /// Of the delivered and got ones, those that were delivered before.
    pub redeliver: Counter,
    /// Acknowledged.
    pub ack: Counter,
}

/// The counters of a queue, which has none before its first message: most of many queues are idle.
#[derive(Debug, Default)]
pub struct QueueCounters(OnceLock<Box<MessageCounters>>);

impl QueueCounters {
    /// What they are now.
    pub fn counts(&self) -> MessageCounts {
        self.0.get().map_or_else(MessageCounts::default, |counters| counters.counts())
    }

    /// The counters, to be added to under the queue's lock.
    pub(super) fn counters(&self) -> &MessageCounters {
        self.0.get_or_init(Box::default)
    }
}

/// What [`MessageCounters`] were at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in MessageCounters")]
pub struct MessageCounts {
    pub publish: u64,
    pub confirm: u64,
    pub return_unroutable: u64,
    pub drop_unroutable: u64,
    pub deliver: u64,
    pub deliver_no_ack: u64,
    pub get: u64,
    pub get_no_ack: u64,
    pub get_empty: u64,
    pub redeliver: u64,
    pub ack: u64,
}

impl MessageCounters {
    /// Adds all of that.
    pub fn add(&self, counts: &MessageCounts) {
        self.publish.add_some(counts.publish);
        self.confirm.add_some(counts.confirm);
        self.return_unroutable.add_some(counts.return_unroutable);
        self.drop_unroutable.add_some(counts.drop_unroutable);
        self.deliver.add_some(counts.deliver);
        self.deliver_no_ack.add_some(counts.deliver_no_ack);
        self.get.add_some(counts.get);
        self.get_no_ack.add_some(counts.get_no_ack);
        self.get_empty.add_some(counts.get_empty);
        self.redeliver.add_some(counts.redeliver);
        self.ack.add_some(counts.ack);
    }

    /// What they are now.
    pub fn counts(&self) -> MessageCounts {
        MessageCounts {
            publish: self.publish.get(),
            confirm: self.confirm.get(),
            return_unroutable: self.return_unroutable.get(),
            drop_unroutable: self.drop_unroutable.get(),
            deliver: self.deliver.get(),
            deliver_no_ack: self.deliver_no_ack.get(),
            get: self.get.get(),
            get_no_ack: self.get_no_ack.get(),
            get_empty: self.get_empty.get(),
            redeliver: self.redeliver.get(),
            ack: self.ack.get(),
        }
    }
}

impl MessageCounts {
    /// Delivered and got, in whichever way (RabbitMQ: `deliver_get`).
    pub fn deliver_get(&self) -> u64 {
        self.deliver + self.deliver_no_ack + self.get + self.get_no_ack
    }
}

/// Deliveries from the queues of one kind.
#[derive(Debug, Default)]
pub struct DeliveryCounters {
    /// To consumers that do not acknowledge.
    pub consume_auto_ack: Counter,
    /// To consumers that do.
    pub consume_manual_ack: Counter,
    /// By basic.get, without acknowledgement.
    pub get_auto_ack: Counter,
    /// By basic.get, with.
    pub get_manual_ack: Counter,
    /// Nothing there for basic.get.
    pub get_empty: Counter,
    /// Of all of these, those delivered before.
    pub redelivered: Counter,
    /// Acknowledged.
    pub acknowledged: Counter,
}

/// Dead letters of the queues of one kind, by reason.
#[derive(Debug, Default)]
pub struct DeathCounters {
    /// Indexed by [`Reason`] as a number; first at-most-once, then at-least-once, then those that had nowhere to go.
    by_strategy: [[Counter; Reason::COUNT]; 3],
}

impl DeathCounters {
    /// Those for that reason, of queues whose dead letters may not be lost or may.
    pub fn of(&self, reason: Reason, at_least_once: bool) -> &Counter {
        &self.by_strategy[usize::from(at_least_once)][reason as usize]
    }

    /// Those for that reason, of queues without a dead letter exchange: they are dropped.
    pub fn disabled(&self, reason: Reason) -> &Counter {
        &self.by_strategy[2][reason as usize]
    }
}

/// How often a value was up to each of some bounds.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: [u64; N],
    /// How many were within each bound and beyond the one before; those beyond all bounds last.
    counts: [Counter; N],
    beyond: Counter,
    sum: Counter,
}

impl<const N: usize> Histogram<N> {
    /// Nothing yet. The bounds ascend.
    pub fn new(bounds: [u64; N]) -> Self {
        Self {
            bounds,
            counts: std::array::from_fn(|_| Counter::default()),
            beyond: Counter::default(),
            sum: Counter::default(),
        }
    }

    /// Counts a value, that many times.
    pub fn record(&self, value: u64, times: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        self.counts.get(place).unwrap_or(&self.beyond).add(times);
        self.sum.add(value * times);
    }

    /// For each bound how many values were up to it, ascending.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let counts = self.counts.iter().scan(0, |sum, count| {
            *sum += count.get();
            Some(*sum)
        });
        self.bounds.iter().copied().zip(counts)
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(Counter::get).sum::<u64>() + self.beyond.get()
    }

    /// The sum of all values.
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }
}

/// Sizes of bodies, counted by one connection until they are added to the broker's histogram.
#[derive(Debug, Default)]
pub struct SizeCounts {
    /// By place among the bounds; those beyond all bounds last.
    counts: [u32; SIZE_BOUNDS.len() + 1],
    sum: u64,
}

impl SizeCounts {
    /// Counts a body of so many octets.
    #[inline]
    pub fn record(&mut self, bytes: u64) {
        let is_small = bytes <= SIZE_BOUNDS[0];
        let place = if is_small { 0 } else { SIZE_BOUNDS.partition_point(|bound| *bound < bytes) };
        self.counts[place] += 1;
        self.sum += bytes;
    }
}

impl Histogram<{ SIZE_BOUNDS.len() }> {
    /// Adds those sizes, and leaves none.
    pub fn add(&self, sizes: &mut SizeCounts) {
        let counters = self.counts.iter().chain([&self.beyond]);
        counters.zip(&sizes.counts).for_each(|(counter, count)| counter.add_some(u64::from(*count)));
        self.sum.add_some(sizes.sum);
        *sizes = SizeCounts::default();
    }
}

/// The bounds of message sizes, in octets of body (RabbitMQ 4.1: `rabbitmq_message_size_bytes`).
const SIZE_BOUNDS: [u64; 9] =
    [100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000, 100_000_000, 500_000_000];
/// The bounds of how long messages wait in queues, in milliseconds.
const DWELL_BOUNDS_MS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 60_000, 600_000, 3_600_000, 86_400_000];

/// What the broker counts as a whole, since its start. What it has now (`connections` and the like) is in the same
/// place, so that it is there without looking at each of them.
#[derive(Debug)]
pub struct Stats {
    /// Messages: what clients publish, and what they get.
    pub messages: MessageCounters,
    /// Of the published ones, those on channels that confirm.
    pub publish_confirm: Counter,
    /// Of the published ones, those that at least one queue was found for.
    pub routed: Counter,
    /// Deliveries, by kind of queue.
    pub delivered: [DeliveryCounters; QueueKind::COUNT],
    /// Dead letters, by kind of queue.
    pub dead: [DeathCounters; QueueKind::COUNT],
    /// Dead letters that may not be lost, and that their new queues have taken.
    pub dead_confirmed: [Counter; QueueKind::COUNT],
    /// Messages that wait in queues now.
    pub ready: Counter,
    /// Messages that are delivered and not settled now.
    pub unacked: Counter,
    /// Connections that are open now.
    pub connections: Counter,
    /// Channels that are open now.
    pub channels: Counter,
    /// Channels that are open now and that something was published on.
    pub publishers: Counter,
    /// Consumers now.
    pub consumers: Counter,
    /// Connections that were opened.
    pub connections_opened: Counter,
    /// Connections that were closed.
    pub connections_closed: Counter,
    /// Channels that were opened.
    pub channels_opened: Counter,
    /// Channels that were closed.
    pub channels_closed: Counter,
    /// Times that a queue was declared, whether or not it was there.
    pub queues_declared: Counter,
    /// Queues that were made.
    pub queues_created: Counter,
    /// Queues that were deleted.
    pub queues_deleted: Counter,
    /// Logins that succeeded.
    pub logins_succeeded: Counter,
    /// Logins that were refused.
    pub logins_failed: Counter,
    /// Reads of messages from disk.
    pub disk_reads: Counter,
    /// Messages written to disk.
    pub disk_writes: Counter,
    /// Sizes of the bodies that were published, in octets.
    pub message_bytes: Histogram<9>,
    /// How long messages were in their queues when they were delivered, in milliseconds.
    pub dwell_ms: Histogram<9>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            messages: MessageCounters::default(),
            publish_confirm: Counter::default(),
            routed: Counter::default(),
            delivered: Default::default(),
            dead: Default::default(),
            dead_confirmed: Default::default(),
            ready: Counter::default(),
            unacked: Counter::default(),
            connections: Counter::default(),
            channels: Counter::default(),
            publishers: Counter::default(),
            consumers: Counter::default(),
            connections_opened: Counter::default(),
            connections_closed: Counter::default(),
            channels_opened: Counter::default(),
            channels_closed: Counter::default(),
            queues_declared: Counter::default(),
            queues_created: Counter::default(),
            queues_deleted: Counter::default(),
            logins_succeeded: Counter::default(),
            logins_failed: Counter::default(),
            disk_reads: Counter::default(),
            disk_writes: Counter::default(),
            message_bytes: Histogram::new(SIZE_BOUNDS),
            dwell_ms: Histogram::new(DWELL_BOUNDS_MS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_what_is_up_to_each_bound() {
        let histogram = Histogram::new([10, 100]);
        histogram.record(10, 1);
        histogram.record(11, 2);
        histogram.record(1000, 1);
        assert_eq!(histogram.cumulative().collect::<Vec<_>>(), [(10, 1), (100, 3)]);
        assert_eq!((histogram.count(), histogram.sum()), (4, 1032));
    }
}
