//! A transaction (AMQP 0-9-1 class tx): publishes and settlements that take effect at `tx.commit`.

use super::{channel::UnackedDelivery, publish::Publication};
use crate::broker::refusal::Refusal;

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
    settled: Vec<UnackedDelivery>,
    requeued: Vec<UnackedDelivery>,
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

    /// Adds settlements, for good or back to their queues.
    pub(super) fn settle(&mut self, deliveries: Vec<UnackedDelivery>, requeue: bool) {
        if requeue {
            self.requeued.extend(deliveries);
        } else {
            self.settled.extend(deliveries);
        }
    }

    /// Takes everything to put it into effect: publishes, settlements, requeues.
    pub(super) fn commit(&mut self) -> (Vec<Publication>, Vec<UnackedDelivery>, Vec<UnackedDelivery>) {
        let Self { publications, settled, requeued, .. } = std::mem::take(self);
        (publications, settled, requeued)
    }

    /// Forgets the publishes and gives the settlements back: those deliveries are unacked again.
    pub(super) fn roll_back(&mut self) -> Vec<UnackedDelivery> {
        let Self { mut settled, requeued, .. } = std::mem::take(self);
        settled.extend(requeued);
        settled
    }
}
