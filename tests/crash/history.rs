//! What clients did and saw: the events of a run, each with its time.

use std::{sync::Arc, time::Instant};

use crate::message::MessageId;

/// A queue's or an exchange's name.
pub(crate) type Name = Arc<str>;

/// Something that is declared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Thing {
    Queue(Name),
    Exchange {
        name: Name,
        /// It goes with its binding; it never gets a second one.
        auto_delete: bool,
    },
    Binding {
        exchange: Name,
        queue: Name,
        key: Name,
    },
}

/// One event. What asks for something is recorded before it is sent, what answers after it was read.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A publish, which is routed to `queues`; in a transaction it waits for the commit.
    Publish {
        message: MessageId,
        queues: Arc<[Name]>,
        persistent: bool,
        transaction: Option<u64>,
    },
    /// `basic.ack` for a publish.
    Confirmed {
        message: MessageId,
        queues: Arc<[Name]>,
    },
    /// A later request on the channel of the publish was answered: the broker has taken it, though not confirmed it.
    Accepted {
        message: MessageId,
        queues: Arc<[Name]>,
    },
    /// `basic.return` for a publish.
    Unroutable {
        message: MessageId,
        queues: Arc<[Name]>,
    },
    /// A consumer was asked for, which may hold `prefetch` deliveries that it has not read.
    Consume {
        queue: Name,
        prefetch: u32,
    },
    /// That consumer has read everything that was delivered to it.
    Left {
        queue: Name,
        prefetch: u32,
    },
    /// A message was read, by a consumer or `basic.get`. `reader` is a number that no other channel has.
    Deliver {
        queue: Name,
        message: MessageId,
        redelivered: bool,
        reader: u32,
    },
    /// A message was acked, or rejected without requeue; in a transaction that waits for the commit.
    Settle {
        queue: Name,
        message: MessageId,
        transaction: Option<u64>,
    },
    /// A later request on the channel of the settlement was answered: the broker has taken it.
    Processed {
        queue: Name,
        message: MessageId,
    },
    /// A message was given back: requeued, or its channel was closed.
    Return {
        queue: Name,
        message: MessageId,
    },
    /// A `basic.get` got no answer: at most one message may have been delivered without our knowledge, and with
    /// `removes` (no-ack) it is gone.
    Unanswered {
        queue: Name,
        removes: bool,
    },
    /// `queue.purge`, and its answer.
    Purge {
        queue: Name,
    },
    Purged {
        queue: Name,
    },
    /// `tx.commit`, its answer, and the answer to `tx.rollback`.
    Commit(u64),
    Committed(u64),
    RolledBack(u64),
    /// A declaration or binding, its answer; a deletion or unbinding, its answer.
    Declare {
        thing: Thing,
        durable: bool,
    },
    Declared(Thing),
    Delete(Thing),
    Deleted(Thing),
    /// Something that no history explains, seen where it happened.
    Wrong(String),
}

/// An event and when it was recorded.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) at: Instant,
    pub(crate) event: Event,
}

/// The events of one client.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) records: Vec<Record>,
}

impl History {
    pub(crate) fn record(&mut self, event: Event) {
        self.records.push(Record { at: Instant::now(), event });
    }
}
