//! A transaction (AMQP 0-9-1 class tx): publishes and settlements that take effect at `tx.commit`.

use super::{channel::UnackedDelivery, publish::Publication};
use crate::broker::{queue::Return, refusal::Refusal};

/// Octets of messages that a transaction may hold.
///
/// Deviation: RabbitMQ has no bound. Here one channel could otherwise fill the memory with messages that no alarm
/// gets rid of, as the commit that would free them is not read while publishers are blocked.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// What a channel has done since `tx.select` or the last commit or rollback.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    publications: Vec<Publication>,
    message_bytes: usize,
    acked: Vec<UnackedDelivery>,
    rejected: Vec<UnackedDelivery>,
    requeued: Vec<(Return, Vec<UnackedDelivery>)>,
}

impl Transaction {
    /// Adds a publish.
    ///
    /// # Errors
    /// 406 if the transaction holds too much.
    pub(super) fn publish(&mut self, publication: Publication) -> Result<(), Refusal> {
        self.message_bytes += publication.memory_bytes();
        if self.message_bytes > MESSAGE_BYTES_MAX {
            let text = format!("transaction holds more than {MESSAGE_BYTES_MAX} bytes; commit more often");
            return Err(Refusal::precondition_failed(text));
        }
        self.publications.push(publication);
        Ok(())
    }

    /// Adds deliveries that are acked.
    pub(super) fn ack(&mut self, deliveries: Vec<UnackedDelivery>) {
        self.acked.extend(deliveries);
    }

    /// Adds deliveries that are rejected for good.
    pub(super) fn reject(&mut self, deliveries: Vec<UnackedDelivery>) {
        self.rejected.extend(deliveries);
    }

    /// Adds deliveries that go back to their queues.
    pub(super) fn requeue(&mut self, deliveries: Vec<UnackedDelivery>, how: Return) {
        match self.requeued.last_mut() {
            Some((last, requeued)) if *last == how => requeued.extend(deliveries),
            _ => self.requeued.push((how, deliveries)),
        }
    }

    /// Takes everything to put it into effect.
    pub(super) fn commit(&mut self) -> Commit {
        let Self { publications, acked, rejected, requeued, .. } = std::mem::take(self);
        Commit { publications, acked, rejected, requeued }
    }

    /// Forgets the publishes and gives the settlements back: those deliveries are unacked again.
    pub(super) fn roll_back(&mut self) -> Vec<UnackedDelivery> {
        let Self { mut acked, rejected, requeued, .. } = std::mem::take(self);
        acked.extend(rejected);
        acked.extend(requeued.into_iter().flat_map(|(_, deliveries)| deliveries));
        acked
    }
}

/// What a transaction does, in the order in which it takes effect.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) publications: Vec<Publication>,
    pub(super) acked: Vec<UnackedDelivery>,
    pub(super) rejected: Vec<UnackedDelivery>,
    pub(super) requeued: Vec<(Return, Vec<UnackedDelivery>)>,
}
