//! A channel: its deliveries, its consumers, its mode, and the content that it is receiving.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    confirm::Confirms,
    publish::ContentAssembly,
    shared::{ConsumerState, Shared},
    timeout::{Holder, Timeouts},
    transaction::Transaction,
};
use crate::{
    amqp::{Content, Properties},
    broker::{
        Now,
        batch::Settlement,
        connections::ChannelStatus,
        limit::ChannelPermit,
        message::Message,
        outbox::{ConsumerId, Delivery},
        queue::{ChannelCredit, ConsumerKey, Got, QueueHandle, QueueId, Return, Slot},
        refusal::Refusal,
    },
};

/// An open channel.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) number: u16,
    pub(super) assembly: ContentAssembly,
    pub(super) unacked: Unacked,
    pub(super) consumers: BTreeMap<Arc<str>, ConsumerId>,
    /// The prefetch of consumers to come.
    pub(super) prefetch: u16,
    pub(super) credit: Arc<ChannelCredit>,
    pub(super) mode: Mode,
    /// The queue that was declared last: what an empty queue name means.
    pub(super) last_queue: Option<Arc<str>>,
    /// The name that replies to this channel are published to, while it has a consumer for them.
    pub(super) reply_name: Option<Arc<str>>,
    /// When its deliveries are due, if one of them ever had to be acknowledged in time.
    pub(super) timeouts: Option<Box<Timeouts>>,
    /// The channel as operators see it.
    pub(super) status: Arc<ChannelStatus>,
    last_tag: u64,
    _permit: Option<ChannelPermit>,
}

/// How publishes and settlements of a channel take effect.
#[derive(Debug)]
pub(super) enum Mode {
    /// At once.
    Plain,
    /// At once, and publishes are confirmed.
    Confirm(Confirms),
    /// At `tx.commit`.
    Transaction(Transaction),
}

/// A delivery that the client has not settled yet.
#[derive(Clone, Debug)]
pub(super) struct UnackedDelivery {
    pub(super) tag: u64,
    pub(super) queue: Arc<QueueHandle>,
    pub(super) slot: Slot,
    pub(super) sequence: u64,
    /// Who got it.
    pub(super) holder: Holder,
}

impl UnackedDelivery {
    /// The tag of a delivery that was on its way to its consumer and will not be sent.
    pub(super) const UNSENT: u64 = 0;

    /// Whether it has not gone back to its queue already, because it was not acknowledged in time.
    fn is_held(&self) -> bool {
        self.holder != Holder::RETURNED
    }
}

/// The unacked deliveries of a channel, by tag. Those settled out of order leave a gap that is closed once gaps are
/// more than half.
#[derive(Debug, Default)]
pub(super) struct Unacked {
    deliveries: VecDeque<Option<UnackedDelivery>>,
    tags: VecDeque<u64>,
    gaps: usize,
}

impl Unacked {
    fn push(&mut self, delivery: UnackedDelivery) {
        self.tags.push_back(delivery.tag);
        self.deliveries.push_back(Some(delivery));
    }

    /// The tag of the first one.
    fn first_tag(&self) -> Option<u64> {
        self.tags.front().copied()
    }

    /// Those from that tag on.
    pub(super) fn from(&self, tag: u64) -> impl Iterator<Item = &UnackedDelivery> {
        let first = self.tags.partition_point(|known| *known < tag);
        self.deliveries.range(first..).flatten()
    }

    /// Those that a holder has. They stay here, so that their acknowledgement is still known, but are nobody's.
    pub(super) fn take_from(&mut self, holder: Holder) -> Vec<UnackedDelivery> {
        let of_holder = self.deliveries.iter_mut().flatten().filter(|delivery| delivery.holder == holder);
        let mut taken = Vec::new();
        for delivery in of_holder {
            taken.push(delivery.clone());
            delivery.holder = Holder::RETURNED;
        }
        taken
    }

    /// How many.
    fn len(&self) -> usize {
        self.deliveries.len() - self.gaps
    }

    fn position(&self, tag: u64) -> Option<usize> {
        let position =
            if self.tags.front() == Some(&tag) { 0 } else { self.tags.binary_search(&tag).ok()? };
        self.deliveries[position].is_some().then_some(position)
    }

    /// Takes the delivery with that tag.
    pub(super) fn take(&mut self, tag: u64) -> Option<UnackedDelivery> {
        let position = self.position(tag)?;
        let delivery = self.deliveries[position].take();
        self.gaps += 1;
        self.close_gaps();
        delivery
    }

    /// Takes every delivery up to that tag, which must be there; tag 0 is all of them, even none.
    pub(super) fn take_until(&mut self, tag: u64) -> Option<Vec<UnackedDelivery>> {
        let count = if tag == 0 { self.deliveries.len() } else { self.position(tag)? + 1 };
        self.tags.drain(..count);
        let taken: Vec<_> = self.deliveries.drain(..count).collect();
        self.gaps -= taken.iter().filter(|delivery| delivery.is_none()).count();
        self.close_gaps();
        Some(taken.into_iter().flatten().collect())
    }

    /// Puts deliveries back that were taken: a transaction was rolled back.
    pub(super) fn restore(&mut self, deliveries: Vec<UnackedDelivery>) {
        let mut all: Vec<_> = self.take_until(0).unwrap_or_default();
        all.extend(deliveries);
        all.sort_unstable_by_key(|delivery| delivery.tag);
        all.into_iter().for_each(|delivery| self.push(delivery));
    }

    fn close_gaps(&mut self) {
        while self.deliveries.front().is_some_and(Option::is_none) {
            self.deliveries.pop_front();
            self.tags.pop_front();
            self.gaps -= 1;
        }
        if self.gaps > self.deliveries.len() / 2 && self.gaps > GAPS_KEPT {
            self.deliveries.retain(Option::is_some);
            self.tags = self.deliveries.iter().flatten().map(|delivery| delivery.tag).collect();
            self.gaps = 0;
        }
        if self.deliveries.is_empty() && self.deliveries.capacity() > GAPS_KEPT * 16 {
            *self = Self::default();
        }
    }
}

/// Gaps that are never worth closing.
const GAPS_KEPT: usize = 64;

impl Channel {
    pub(super) fn new(number: u16, permit: Option<ChannelPermit>, now: Now) -> Self {
        let status = Arc::<ChannelStatus>::default();
        status.used(now.unix_ms);
        Self {
            number,
            assembly: ContentAssembly::Idle,
            unacked: Unacked::default(),
            consumers: BTreeMap::new(),
            prefetch: 0,
            credit: Arc::default(),
            mode: Mode::Plain,
            last_queue: None,
            reply_name: None,
            timeouts: None,
            status,
            last_tag: 0,
            _permit: permit,
        }
    }

    /// The name of a queue in a method: empty stands for the one declared last on this channel.
    ///
    /// # Errors
    /// 404 `no previously declared queue`.
    pub(super) fn queue_name(&self, name: &str) -> Result<Arc<str>, Refusal> {
        if !name.is_empty() {
            return Ok(without_line_ends(name).into());
        }
        self.last_queue.clone().ok_or_else(|| Refusal::not_found("no previously declared queue"))
    }

    /// The tag of the next delivery.
    fn next_tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }

    /// Sends a delivery to its consumer.
    pub(super) fn deliver(&mut self, delivery: Delivery, shared: &mut Shared) {
        let tag = self.next_tag();
        let Some(consumer) = shared.consumers.get(delivery.consumer) else { return };
        let changed;
        let mut content = content(&delivery.message);
        // RabbitMQ 3.10: the first delivery to a consumer has no count, that of basic.get has.
        if delivery.delivery_count > 0 || delivery.message.has_bcc() {
            let count = Some(delivery.delivery_count).filter(|count| *count > 0);
            changed = delivered_properties(&delivery.message, consumer.queue.as_deref(), count);
            content.properties = &changed;
        }
        let redelivered = delivery.redelivered;
        shared.out.deliver(self.number, &consumer.tag, tag, redelivered, &content, shared.frame_max);
        let Some(queue) = consumer.queue.as_ref().map(Arc::clone) else { return };
        let (slot, sequence, holder) = (delivery.slot, delivery.sequence, consumer.holder);
        self.count_delivery(slot != Slot::NONE, redelivered, shared);
        if shared.is_tracing {
            shared.trace_deliver(self.number, &queue, &delivery.message, redelivered);
        }
        if slot != Slot::NONE {
            self.track(UnackedDelivery { tag, queue, slot, sequence, holder }, shared);
        } else if delivery.stored {
            let body_bytes = u32::try_from(delivery.message.body().len()).unwrap_or(u32::MAX);
            shared.effects.settled(queue.id, sequence, body_bytes);
        }
    }

    /// Counts a delivery to a consumer.
    fn count_delivery(&self, ack_required: bool, redelivered: bool, shared: &mut Shared) {
        let (counters, tally) = (&self.status.messages, &mut shared.tally.messages);
        if ack_required {
            counters.deliver.add_alone(1);
            tally.deliver += 1;
        } else {
            counters.deliver_no_ack.add_alone(1);
            tally.deliver_no_ack += 1;
        }
        if redelivered {
            counters.redeliver.add_alone(1);
            tally.redeliver += 1;
        }
        self.status.used(shared.now.unix_ms);
    }

    /// Counts a message that was got, or was not there.
    pub(super) fn count_get(&self, got: Option<&Got>, shared: &mut Shared) {
        let (counters, tally) = (&self.status.messages, &mut shared.tally.messages);
        let (counter, count) = match got {
            None => (&counters.get_empty, &mut tally.get_empty),
            Some(got) if got.slot == Slot::NONE => (&counters.get_no_ack, &mut tally.get_no_ack),
            Some(_) => (&counters.get, &mut tally.get),
        };
        counter.add_alone(1);
        *count += 1;
        if got.is_some_and(|got| got.entry.redelivered) {
            counters.redeliver.add_alone(1);
            tally.redeliver += 1;
        }
    }

    /// Lets operators see how many deliveries are not acknowledged.
    pub(super) fn show_unacked(&self) {
        self.status.unacked.set(self.unacked.len() as u64);
    }

    /// Counts in a delivery of basic.get and returns its tag.
    pub(super) fn track_get(
        &mut self,
        queue: &Arc<QueueHandle>,
        slot: Slot,
        sequence: u64,
        shared: &mut Shared,
    ) -> u64 {
        let tag = self.next_tag();
        if slot != Slot::NONE {
            let holder = match shared.timeout_ms_of(queue) {
                Some(timeout_ms) => self.timeouts(shared).getter(timeout_ms),
                None => Holder::GET,
            };
            let queue = Arc::clone(queue);
            self.track(UnackedDelivery { tag, queue, slot, sequence, holder }, shared);
        }
        tag
    }

    fn track(&mut self, delivery: UnackedDelivery, shared: &mut Shared) {
        let (tag, holder) = (delivery.tag, delivery.holder);
        self.unacked.push(delivery);
        self.show_unacked();
        if let Some(timeouts) = self.timeouts.as_mut().filter(|_| holder.is_timed()) {
            let first_tag = self.unacked.first_tag().unwrap_or(tag);
            let due_ms = timeouts.delivered(holder, tag, first_tag, shared.now.monotonic_ms);
            shared.due_ms = shared.due_ms.min(due_ms);
        }
    }

    /// The timeouts of its deliveries, with room for one more who holds some.
    pub(super) fn timeouts(&mut self, shared: &Shared) -> &mut Timeouts {
        let timeouts = self.timeouts.get_or_insert_default();
        if timeouts.is_full() {
            let consumers = self.consumers.values().filter_map(|id| shared.consumers.get(*id));
            let used: BTreeSet<Holder> = consumers
                .map(|consumer| consumer.holder)
                .chain(self.unacked.from(0).map(|delivery| delivery.holder))
                .collect();
            timeouts.keep(&used);
        }
        timeouts
    }

    /// Puts deliveries back that were settled in a transaction which is rolled back.
    pub(super) fn restore_unacked(&mut self, deliveries: Vec<UnackedDelivery>, shared: &mut Shared) {
        self.unacked.restore(deliveries);
        self.show_unacked();
        if let Some(timeouts) = &mut self.timeouts {
            shared.due_ms = shared.due_ms.min(timeouts.restored());
        }
    }

    /// Settles deliveries for good: acked, or rejected.
    pub(super) fn settle(
        &self,
        deliveries: impl IntoIterator<Item = UnackedDelivery>,
        is_rejected: bool,
        shared: &mut Shared,
    ) {
        let (mut count, mut acked) = (0, 0);
        let deliveries = deliveries.into_iter().filter(UnackedDelivery::is_held);
        for UnackedDelivery { queue, slot, sequence, holder, .. } in deliveries {
            count += u32::from(holder.is_consumer());
            acked += u64::from(!is_rejected);
            if shared.settlements.push(&queue, Settlement { slot, sequence, is_rejected }) {
                shared.apply();
            }
        }
        self.give_back_credit(count, shared);
        self.status.messages.ack.add_alone(acked);
        shared.tally.messages.ack += acked;
        self.show_unacked();
    }

    /// Puts deliveries back into their queues.
    pub(super) fn requeue(&self, deliveries: Vec<UnackedDelivery>, how: Return, shared: &mut Shared) {
        shared.apply();
        self.show_unacked();
        self.give_back_credit(
            deliveries.iter().map(|delivery| u32::from(delivery.holder.is_consumer())).sum(),
            shared,
        );
        let mut by_queue = BTreeMap::<QueueId, (Arc<QueueHandle>, Vec<(Slot, u64, Return)>)>::new();
        for UnackedDelivery { queue, slot, sequence, tag, .. } in
            deliveries.into_iter().filter(UnackedDelivery::is_held)
        {
            let how = if tag == UnackedDelivery::UNSENT { Return::Unseen } else { how };
            let returned = (slot, sequence, how);
            by_queue.entry(queue.id).or_insert_with(|| (queue, Vec::new())).1.push(returned);
        }
        for (handle, returned) in by_queue.into_values() {
            let mut queue = handle.lock();
            for (slot, sequence, how) in returned {
                queue.requeue(slot, sequence, how, &handle, &mut shared.effects);
            }
            queue.deliver(&handle, &mut shared.effects);
        }
    }

    /// Settled deliveries leave room under the channel's limit: its consumers go on at the end of the batch.
    fn give_back_credit(&self, count: u32, shared: &mut Shared) {
        self.credit.give_back(count);
        if self.credit.is_limited() {
            shared.resuming.insert(self.number);
        }
    }

    /// The channel's limit leaves room again: its consumers' queues may go on.
    pub(super) fn resume_consumers(&self, shared: &mut Shared) {
        for id in self.consumers.values() {
            let Some(queue) = shared.consumers.get(*id).and_then(|consumer| consumer.queue.as_ref()) else {
                continue;
            };
            let mut locked = queue.lock();
            locked.resume_consumer(ConsumerKey { connection: shared.outbox.connection, id: *id });
            locked.deliver(queue, &mut shared.effects);
        }
    }

    /// Ends a consumer: its queue gives it no more. What is in the outbox for it is for the caller to see to.
    pub(super) fn remove_consumer(&mut self, id: ConsumerId, shared: &mut Shared) {
        shared.tell_deleted(id);
        let Some(consumer) = shared.consumers.get(id).cloned() else { return };
        match consumer.queue {
            Some(queue) => {
                let key = shared.consumer_key(id);
                queue.used(shared.now);
                shared.host.remove_consumer(&queue, key, &mut shared.effects);
            }
            None => self.end_replies(shared),
        }
    }

    /// Forgets a consumer that has been removed from its queue and that the outbox has nothing more for.
    pub(super) fn forget_consumer(&mut self, id: ConsumerId, shared: &mut Shared) -> Option<ConsumerState> {
        shared.tell_deleted(id);
        let consumer = shared.consumers.remove(id)?;
        self.consumers.remove(&consumer.tag);
        self.status.consumers.set(self.consumers.len() as u64);
        Some(consumer)
    }

    fn end_replies(&mut self, shared: &Shared) {
        if let Some(name) = self.reply_name.take() {
            shared.broker.reply_consumers.remove(&name);
        }
    }

    /// Everything that the channel holds of queues, when it closes: its unacked deliveries, those of a
    /// transaction that was not committed included.
    pub(super) fn take_unacked(&mut self) -> Vec<UnackedDelivery> {
        if let Mode::Transaction(transaction) = &mut self.mode {
            let settled = transaction.roll_back();
            self.unacked.restore(settled);
        }
        self.unacked.take_until(0).unwrap_or_default()
    }
}

/// A message as the encoder takes it.
pub(super) fn content(message: &Message) -> Content<'_> {
    Content {
        exchange: message.exchange(),
        routing_key: message.routing_key(),
        properties: message.properties(),
        body: message.body(),
    }
}

/// The properties of a message as they are delivered where they are not those that were published: without BCC, and with
/// how many deliveries of it have failed (RabbitMQ: `x-delivery-count`), or how often it was put off.
pub(super) fn delivered_properties(
    message: &Message,
    queue: Option<&QueueHandle>,
    count: Option<u16>,
) -> Vec<u8> {
    let raw = without_bcc(message).unwrap_or_else(|| message.properties().to_vec());
    let Some(count) = count else { return raw };
    let has_retries = queue.is_some_and(|queue| queue.arguments().retry.is_some());
    let name = if has_retries { "x-retry-count" } else { "x-delivery-count" };
    parsed(&raw).with_number_header(name, count.into())
}

/// The properties without the BCC header, if there is one.
pub(super) fn without_bcc(message: &Message) -> Option<Vec<u8>> {
    message.has_bcc().then(|| parsed(message.properties()).without_header("BCC"))
}

fn parsed(raw: &[u8]) -> Properties<'_> {
    Properties::parse(raw).expect("invariant: they were read when the message was published")
}

/// A queue's or exchange's name as RabbitMQ takes it: carriage returns and line feeds are dropped.
pub(super) fn without_line_ends(name: &str) -> String {
    name.chars().filter(|character| !matches!(character, '\r' | '\n')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::queue::{QueueArguments, QueueProperties};

    fn unacked(tags: std::ops::RangeInclusive<u64>) -> Unacked {
        let properties = QueueProperties {
            durable: false,
            auto_delete: false,
            exclusive: None,
            table: crate::amqp::Table::default(),
            arguments: Arc::new(QueueArguments::default()),
        };
        let permit = Arc::new(crate::broker::limit::Count::new(None)).take().expect("no limit");
        let queue = QueueHandle::new(QueueId(1), "q".into(), "/".into(), properties, permit, Arc::default());
        let queue = Arc::new(queue);
        let mut unacked = Unacked::default();
        for tag in tags {
            unacked.push(UnackedDelivery {
                tag,
                queue: Arc::clone(&queue),
                slot: Slot(0),
                sequence: tag,
                holder: Holder::CONSUMER,
            });
        }
        unacked
    }

    fn tags(deliveries: Vec<UnackedDelivery>) -> Vec<u64> {
        deliveries.into_iter().map(|delivery| delivery.tag).collect()
    }

    #[test]
    fn a6_a_tag_is_settled_once() {
        let mut unacked = unacked(1..=3);
        assert!(unacked.take(2).is_some());
        assert!(unacked.take(2).is_none());
        assert!(unacked.take_until(2).is_none());
        assert_eq!(unacked.len(), 2);
        assert_eq!(tags(unacked.take_until(3).expect("3 is there")), [1, 3]);
        assert_eq!(unacked.len(), 0);
    }

    #[test]
    fn a6_tag_zero_is_everything_or_nothing() {
        let mut unacked = unacked(1..=3);
        assert_eq!(tags(unacked.take_until(0).expect("always")), [1, 2, 3]);
        assert_eq!(tags(unacked.take_until(0).expect("always")), [] as [u64; 0]);
        assert!(unacked.take(0).is_none());
    }

    #[test]
    fn settling_all_but_the_first_does_not_keep_the_gaps() {
        let mut unacked = unacked(1..=100_000);
        for tag in 2..=100_000 {
            assert!(unacked.take(tag).is_some());
        }
        assert_eq!(unacked.len(), 1);
        assert!(unacked.deliveries.len() < 4 * GAPS_KEPT);
        assert_eq!(tags(unacked.take_until(1).expect("1 is there")), [1]);
    }

    #[test]
    fn restoring_keeps_the_order_of_tags() {
        let mut unacked = unacked(1..=4);
        let settled = vec![unacked.take(3).expect("there"), unacked.take(1).expect("there")];
        unacked.restore(settled);
        assert_eq!(tags(unacked.take_until(0).expect("always")), [1, 2, 3, 4]);
    }
}
