//! What a change leaves to its caller, to be done once the locks are released.

use std::sync::Arc;

use super::{
    Now,
    death::Reason,
    journal::{Fact, Lsn},
    outbox::Wakes,
    queue::{Entry, QueueHandle, QueueId},
    timers::Timer,
};

/// A message that leaves a queue for an exchange: see [`Broker::forward`](super::Broker::forward).
#[derive(Debug)]
pub struct Letter {
    /// The queue.
    pub queue: Arc<QueueHandle>,
    /// The message. Its sequence number is 0 if the queue did not take it.
    pub entry: Entry,
    /// Why.
    pub cause: Cause,
}

/// Why a message leaves a queue for an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It is dead, and goes to the dead letter exchange.
    Death(Reason),
    /// Its delay is over, and it goes on to the queues of its exchange (RabbitMQ: `x-delayed-message`).
    Delay,
}

/// What a change leaves to its caller: facts for the journal, and outboxes to wake.
#[derive(Debug, Default)]
pub struct Effects {
    /// When it happens.
    pub now: Now,
    /// Messages that go on to other queues.
    pub letters: Vec<Letter>,
    /// Queues that something is to be done about at a time.
    pub timers: Vec<Timer>,
    /// What must become durable and is not in the journal yet.
    pub facts: Vec<Fact>,
    /// The last definition that is in the journal already.
    pub recorded: Lsn,
    /// Who must be told.
    pub wakes: Wakes,
    /// Who makes the change; nobody if it follows by itself.
    pub user: Option<Arc<str>>,
    /// Whether there are events to be published: see [`Broker::publish_events`](super::Broker::publish_events).
    pub has_events: bool,
    /// Whether a message was a duplicate: its publisher is told that all is well, but not before what it repeats is durable.
    pub has_duplicates: bool,
    /// Whether a change comes from the log: then it is recorded there, and so is everything that it led to.
    pub is_replay: bool,
}

impl Effects {
    /// Makes a change that follows from another one, and that no user has asked for.
    pub fn by_nobody<T>(&mut self, change: impl FnOnce(&mut Self) -> T) -> T {
        let user = self.user.take();
        let changed = change(self);
        self.user = user;
        changed
    }

    /// A message that the log has left its queue for good.
    pub fn settled(&mut self, queue: QueueId, sequence: u64, body_bytes: u32) {
        let body_bytes = u64::from(body_bytes);
        match self.facts.last_mut() {
            Some(Fact::Settle { queue: last, sequences, body_bytes: sum }) if *last == queue => {
                sequences.push(sequence);
                *sum += body_bytes;
            }
            _ => self.facts.push(Fact::Settle { queue, sequences: vec![sequence], body_bytes }),
        }
    }

    /// A message that the log has came back to a quorum queue.
    pub fn returned(&mut self, queue: QueueId, sequence: u64) {
        match self.facts.last_mut() {
            Some(Fact::Return { queue: last, sequences }) if *last == queue => sequences.push(sequence),
            _ => self.facts.push(Fact::Return { queue, sequences: vec![sequence] }),
        }
    }

    /// Messages of a durable queue were delivered, none above that sequence number.
    pub fn delivered(&mut self, queue: QueueId, up_to: u64) {
        match self.facts.last_mut() {
            Some(Fact::Delivered { queue: last, up_to: before }) if *last == queue => *before = up_to,
            _ => self.facts.push(Fact::Delivered { queue, up_to }),
        }
    }
}
