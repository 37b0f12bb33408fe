//! How deliveries end: they are settled, rejected, or come back.

use std::sync::Arc;

use super::{Entry, Queue, QueueHandle, QueueKind, Slot, Unsettled, key_of};
use crate::broker::{death::Reason, effects::Effects, outbox::Delivery};

/// How a delivery comes back to its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// The client has never seen it.
    Unseen,
    /// The client has put it back (`basic.nack`, `basic.recover`).
    Released,
    /// It failed: it was rejected (`basic.reject`), or its channel or connection has ended.
    Failed,
}

impl Queue {
    /// Settles a delivery: it was acked. Whether it was still there.
    pub fn settle(&mut self, slot: Slot, sequence: u64, effects: &mut Effects) -> bool {
        let Some(entry) = self.take_unsettled(slot, sequence) else { return false };
        if !self.deleted {
            self.end_flight(&entry);
            self.note_settled(&entry, effects);
        }
        true
    }

    /// Rejects a delivery for good: it is dead-lettered, or gone. Whether it was still there.
    pub fn reject(
        &mut self,
        slot: Slot,
        sequence: u64,
        handle: &Arc<QueueHandle>,
        effects: &mut Effects,
    ) -> bool {
        let Some(entry) = self.take_unsettled(slot, sequence) else { return false };
        if !self.deleted {
            self.end_flight(&entry);
            self.discard(entry, Reason::Rejected, handle, effects);
        }
        true
    }

    fn take_unsettled(&mut self, slot: Slot, sequence: u64) -> Option<Entry> {
        let Unsettled { entry, consumer } = self.unsettled.remove(slot, sequence)?;
        if let Some(activity) = &mut self.activity {
            activity.unacked_bytes = activity.unacked_bytes.saturating_sub(entry.body_bytes.into());
        }
        if let Some(consumer) = consumer {
            self.consumers().settled(consumer);
        }
        Some(entry)
    }

    /// Puts a delivery back. What the client has seen comes marked as redelivered, may be put off (`x-retry-delays`), and
    /// goes to the tail of a quorum queue (RabbitMQ 3.10). Anything else goes where it was.
    pub fn requeue(
        &mut self,
        slot: Slot,
        sequence: u64,
        how: Return,
        handle: &Arc<QueueHandle>,
        effects: &mut Effects,
    ) {
        let Some(mut entry) = self.take_unsettled(slot, sequence) else { return };
        if self.deleted {
            return;
        }
        self.end_flight(&entry);
        if how == Return::Unseen {
            self.ready.put_back(entry);
            return;
        }
        if entry.deadline_ms <= effects.now.unix_ms {
            self.expired(entry, handle, effects);
            return;
        }
        entry.redelivered = true;
        if self.arguments.counts(how) {
            entry.delivery_count = entry.delivery_count.saturating_add(1);
            let count = u64::from(entry.delivery_count);
            // One too many, and the message is dead (RabbitMQ: `x-delivery-limit`).
            if self.arguments.delivery_limit.is_some_and(|limit| count > limit) {
                self.discard(entry, Reason::DeliveryLimit, handle, effects);
                return;
            }
            if entry.stored {
                effects.returned(self.id, entry.sequence);
            }
        }
        self.put_off_or_back(entry, how, handle, effects);
    }

    /// A delivery that came back waits for its retry, if the queue puts retries off.
    fn put_off_or_back(
        &mut self,
        entry: Entry,
        how: Return,
        handle: &Arc<QueueHandle>,
        effects: &mut Effects,
    ) {
        let retry = self.arguments.retry.as_ref().filter(|retry| retry.applies_to(how));
        let Some(retry) = retry else {
            if self.arguments.kind == QueueKind::Quorum && !self.is_grouped {
                self.ready.push_back(entry);
            } else {
                self.ready.put_back(entry);
            }
            return;
        };
        match retry.delay_ms(entry.delivery_count.into(), entry.sequence) {
            None => self.discard(entry, Reason::DeliveryLimit, handle, effects),
            Some(0) => self.ready.put_back(entry),
            Some(delay_ms) => {
                let until_ms = effects.now.unix_ms.saturating_add(delay_ms);
                // Meanwhile it holds back its key, and no other.
                if let Some(key) = key_of(&self.arguments, &entry) {
                    self.rare().groups.began(key);
                }
                self.note_left(&entry);
                self.hold(entry, until_ms, None, effects);
            }
        }
    }

    /// Takes back a delivery that needed no acknowledgement and was never sent.
    pub fn give_back(&mut self, delivery: Delivery) {
        if !self.deleted {
            let Delivery { sequence, deadline_ms, redelivered, stored, delivery_count, message, .. } =
                delivery;
            self.know_again(sequence, &message);
            let entry = Entry::new(sequence, deadline_ms, stored, message);
            self.note_entered(&entry);
            self.ready.put_back(Entry { redelivered, delivery_count, ..entry });
        }
    }
}
