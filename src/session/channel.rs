//! A channel: its deliveries, its consumers, its mode, and the content that it is receiving.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{
    batch::Settlement,
    confirm::Confirms,
    publish::ContentAssembly,
    shared::{ConsumerState, Shared},
    transaction::Transaction,
};
use crate::{
    amqp::{Content, Properties},
    broker::{
        limit::ChannelPermit,
        message::Message,
        outbox::{ConsumerId, Delivery},
        queue::{ChannelCredit, ConsumerKey, QueueHandle, QueueId, Slot},
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
    last_tag: u64,
    _permit: ChannelPermit,
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
    /// Whether a consumer got it: RabbitMQ does not count basic.get against the limit of a channel.
    pub(super) is_consumed: bool,
}

impl UnackedDelivery {
    /// The tag of a delivery that was on its way to its consumer and will not be sent.
    pub(super) const UNSENT: u64 = 0;
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

    /// How many.
    #[cfg(test)]
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
    pub(super) fn new(number: u16, permit: ChannelPermit) -> Self {
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
        let counted;
        let mut content = content(&delivery.message);
        // RabbitMQ 3.10: the first delivery to a consumer has no count, that of basic.get has.
        if delivery.delivery_count > 0 {
            counted = with_delivery_count(&delivery.message, delivery.delivery_count);
            content.properties = &counted;
        }
        let redelivered = delivery.redelivered;
        shared.out.deliver(self.number, &consumer.tag, tag, redelivered, &content, shared.frame_max);
        let Some(queue) = consumer.queue.as_ref().map(Arc::clone) else { return };
        let Delivery { slot, sequence, .. } = delivery;
        if slot != Slot::NONE {
            self.unacked.push(UnackedDelivery { tag, queue, slot, sequence, is_consumed: true });
        } else if delivery.stored {
            let body_bytes = u32::try_from(delivery.message.body().len()).unwrap_or(u32::MAX);
            shared.effects.settled(queue.id, sequence, body_bytes);
        }
    }

    /// Counts in a delivery of basic.get and returns its tag.
    pub(super) fn track_get(&mut self, queue: &Arc<QueueHandle>, slot: Slot, sequence: u64) -> u64 {
        let tag = self.next_tag();
        if slot != Slot::NONE {
            let queue = Arc::clone(queue);
            self.unacked.push(UnackedDelivery { tag, queue, slot, sequence, is_consumed: false });
        }
        tag
    }

    /// Settles deliveries for good.
    pub(super) fn settle(&self, deliveries: impl IntoIterator<Item = UnackedDelivery>, shared: &mut Shared) {
        let mut count = 0;
        for UnackedDelivery { queue, slot, sequence, is_consumed, .. } in deliveries {
            count += u32::from(is_consumed);
            if shared.settlements.push(&queue, Settlement { slot, sequence }) {
                shared.apply();
            }
        }
        self.give_back_credit(count, shared);
    }

    /// Puts deliveries back into their queues.
    pub(super) fn requeue(&self, deliveries: Vec<UnackedDelivery>, shared: &mut Shared) {
        shared.apply();
        self.give_back_credit(
            deliveries.iter().map(|delivery| u32::from(delivery.is_consumed)).sum(),
            shared,
        );
        let mut by_queue = BTreeMap::<QueueId, (Arc<QueueHandle>, Vec<(Slot, u64, bool)>)>::new();
        for UnackedDelivery { queue, slot, sequence, tag, .. } in deliveries {
            let returned = (slot, sequence, tag != UnackedDelivery::UNSENT);
            by_queue.entry(queue.id).or_insert_with(|| (queue, Vec::new())).1.push(returned);
        }
        for (handle, returned) in by_queue.into_values() {
            let mut queue = handle.lock();
            for (slot, sequence, seen) in returned {
                queue.requeue(slot, sequence, seen, &mut shared.effects);
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
        let consumer = shared.consumers.remove(id)?;
        self.consumers.remove(&consumer.tag);
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

/// The properties of a message of a quorum queue, with how many deliveries of it have failed (RabbitMQ:
/// `x-delivery-count`).
pub(super) fn with_delivery_count(message: &Message, count: u16) -> Vec<u8> {
    let properties = Properties::parse(message.properties());
    let properties = properties.expect("invariant: they were read when the message was published");
    properties.with_number_header("x-delivery-count", count.into())
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
            arguments: QueueArguments::default(),
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
                is_consumed: true,
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
