//! The journal: the facts that must become durable, in the order they happened.
//!
//! Sessions append facts and get log sequence numbers; the log thread takes them in batches, writes and syncs
//! them, and says up to where they are durable. Whoever waits for a number is woken then: confirms, `tx.commit-ok`
//! and the `-ok` of a durable declaration are sent only after it.
//!
//! A message enters its queues before its fact is appended, so the facts of different connections may come in another
//! order than their messages entered a queue, and a settlement may even come before its publish. Each fact
//! names the sequence number in the queue, so a replay needs no order: what was published less what was settled, by
//! sequence number, is the queue.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{message::Message, outbox::Outbox, queue::QueueId};
use crate::amqp::Table;

/// Position of a fact in the log: everything up to and including it is durable once the log says so.
/// `Lsn(0)` is before the first fact, so it is always durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

/// Something that happened and must survive.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A persistent message entered these durable queues: one record however many they are.
    Publish {
        /// What was published.
        message: Message,
        /// The durable queues that took it, each with the sequence number it got there.
        queues: Vec<(QueueId, u64)>,
    },
    /// These messages left the queue for good.
    Settle {
        /// The queue.
        queue: QueueId,
        /// Their sequence numbers in the queue.
        sequences: Vec<u64>,
    },
    /// These messages came back to the queue.
    Return {
        /// The queue.
        queue: QueueId,
        /// Their sequence numbers in the queue.
        sequences: Vec<u64>,
    },
    /// Every message that was ready left the queue: those that had entered it, but for the unsettled ones.
    Purge {
        /// The queue.
        queue: QueueId,
        /// The sequence number that the next message was to get: whatever the order of facts, what came later stays.
        before: u64,
        /// The sequence numbers of deliveries that were not settled.
        unsettled: Vec<u64>,
    },
    /// A durable queue was declared.
    QueueDeclared {
        /// The virtual host.
        virtual_host: Arc<str>,
        /// Its identity in the facts that follow.
        id: QueueId,
        /// Its name.
        name: Arc<str>,
        /// Whether it goes with its last consumer.
        auto_delete: bool,
        /// Its arguments.
        arguments: Table,
    },
    /// A durable queue was deleted, with its messages and bindings.
    QueueDeleted {
        /// The queue.
        id: QueueId,
    },
    /// A durable exchange was declared.
    ExchangeDeclared {
        /// The virtual host.
        virtual_host: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// The name of its type.
        kind: &'static str,
        /// Whether it goes with its last binding.
        auto_delete: bool,
        /// Whether clients may not publish to it.
        internal: bool,
        /// Its arguments.
        arguments: Table,
    },
    /// A durable exchange was deleted, with its bindings.
    ExchangeDeleted {
        /// The virtual host.
        virtual_host: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// A binding between durable things was made.
    Bound(BindingFact),
    /// A binding between durable things was removed.
    Unbound(BindingFact),
}

/// A binding, by names.
#[derive(Clone, Debug)]
pub struct BindingFact {
    /// The virtual host.
    pub virtual_host: Arc<str>,
    /// The exchange that messages come from.
    pub source: Arc<str>,
    /// Whether `destination` names an exchange rather than a queue.
    pub to_exchange: bool,
    /// The queue or exchange that they go to.
    pub destination: Arc<str>,
    /// The binding key.
    pub binding_key: String,
    /// The arguments.
    pub arguments: Table,
}

impl Fact {
    /// Whether it is about deliveries only.
    pub fn is_settlement(&self) -> bool {
        matches!(self, Fact::Settle { .. } | Fact::Return { .. })
    }

    /// About how many octets the fact keeps in memory until it is written.
    fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Fact::Publish { message, queues } => message.memory_bytes() + 16 * queues.len(),
                Fact::Settle { sequences, .. }
                | Fact::Return { sequences, .. }
                | Fact::Purge { unsettled: sequences, .. } => 8 * sequences.len(),
                _ => 0,
            }
    }
}

/// The ordered facts between the sessions and the log thread. Bounded: see [`Journal::is_full`].
#[derive(Debug)]
pub struct Journal {
    state: Mutex<State>,
    appended: Condvar,
    durable: AtomicU64,
    backlog_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    facts: Vec<Fact>,
    /// What `facts` keep in memory, in octets.
    bytes: u64,
    last: Lsn,
    waiting: BinaryHeap<Reverse<Waiting>>,
    closed: bool,
}

impl State {
    fn take(&mut self) -> Batch {
        let facts = std::mem::take(&mut self.facts);
        let bytes = std::mem::take(&mut self.bytes);
        Batch { facts, last: self.last, bytes }
    }
}

/// An outbox to wake once `lsn` is durable.
#[derive(Debug)]
struct Waiting {
    lsn: Lsn,
    outbox: Arc<Outbox>,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.lsn == other.lsn
    }
}
impl Eq for Waiting {}
impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.lsn.cmp(&other.lsn)
    }
}

/// Facts taken from the journal in one go: the log writes and syncs them together.
#[derive(Debug)]
pub struct Batch {
    /// The facts in order.
    pub facts: Vec<Fact>,
    /// The number of the last of them.
    pub last: Lsn,
    bytes: u64,
}

/// Octets of facts not yet durable above which publishers are not read from.
const BACKLOG_BYTES_MAX: u64 = 16 << 20;

impl Journal {
    /// An empty journal.
    pub fn new() -> Self {
        Self {
            state: Mutex::default(),
            appended: Condvar::new(),
            durable: AtomicU64::new(0),
            backlog_bytes: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("invariant: no panic under the journal's lock")
    }

    /// Appends the facts in order, leaves the vector empty, and returns the number of the last one.
    pub fn append(&self, facts: &mut Vec<Fact>) -> Lsn {
        let bytes = facts.iter().map(Fact::memory_bytes).sum::<usize>() as u64;
        self.backlog_bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut state = self.lock();
        let was_empty = state.facts.is_empty();
        state.last.0 += facts.len() as u64;
        state.facts.append(facts);
        state.bytes += bytes;
        let last = state.last;
        drop(state);
        if was_empty {
            self.appended.notify_one();
        }
        last
    }

    /// Up to where facts are durable.
    pub fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// Whether so much waits for the log that publishers should wait too.
    pub fn is_full(&self) -> bool {
        self.backlog_bytes.load(Ordering::Relaxed) > BACKLOG_BYTES_MAX
    }

    /// Wakes the outbox once `lsn` is durable; returns false, and does nothing, if it is already.
    pub fn wake_when_durable(&self, lsn: Lsn, outbox: &Arc<Outbox>) -> bool {
        let mut state = self.lock();
        if lsn <= self.durable() {
            return false;
        }
        state.waiting.push(Reverse(Waiting { lsn, outbox: Arc::clone(outbox) }));
        true
    }

    /// For the log thread: blocks until there are facts and takes all of them; `None` once the journal is closed
    /// and empty.
    pub fn take_batch(&self) -> Option<Batch> {
        let mut state = self.lock();
        while state.facts.is_empty() {
            if state.closed {
                return None;
            }
            state = self.appended.wait(state).expect("invariant: no panic under the journal's lock");
        }
        Some(state.take())
    }

    /// The same for a log that is driven by hand: `None` while there are no facts.
    pub fn try_take_batch(&self) -> Option<Batch> {
        let mut state = self.lock();
        (!state.facts.is_empty()).then(|| state.take())
    }

    /// For the log thread: the batch is durable.
    pub fn mark_durable(&self, batch: &Batch) {
        let mut woken = Vec::new();
        {
            let mut state = self.lock();
            self.durable.store(batch.last.0, Ordering::Release);
            self.backlog_bytes.fetch_sub(batch.bytes, Ordering::Relaxed);
            while state.waiting.peek().is_some_and(|next| next.0.lsn <= batch.last) {
                woken.extend(state.waiting.pop());
            }
        }
        for Reverse(waiting) in woken {
            waiting.outbox.wake_durable();
        }
    }

    /// Lets the log thread end once it has taken what is there.
    pub fn close(&self) {
        self.lock().closed = true;
        self.appended.notify_all();
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self::new()
    }
}
