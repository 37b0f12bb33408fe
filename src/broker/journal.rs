//! The journal: the facts that must become durable, in the order they happened.
//!
//! Sessions append facts and get log sequence numbers. The log thread takes them in batches and writes them, which
//! frees the memory they are counted for; it syncs what it has written, and says up to where facts are durable. Whoever
//! waits for a number is woken then: confirms, `tx.commit-ok` and the `-ok` of a durable declaration are sent only after
//! it.
//!
//! A message enters its queues before its fact is appended, so the facts of different connections may come in another
//! order than their messages entered a queue, and a settlement may even come before its publish. Each fact
//! names the sequence number in the queue, so a replay needs no order: what was published less what was settled, by
//! sequence number, is the queue.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sha2::Digest as _;

use super::{
    definition::Definition,
    message::Message,
    outbox::{ConnectionId, Outbox},
    queue::QueueId,
};

/// Position of a fact in the log: everything up to and including it is durable once the log says so.
/// `Lsn(0)` is before the first fact, so it is always durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

/// Something that happened and must survive.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A message entered these queues: one record however many they are.
    Publish {
        /// What was published.
        message: Message,
        /// The queues that took it and whose part is to be found in the log.
        queues: Vec<Target>,
    },
    /// These messages left the queue for good. Only those that the log has.
    Settle {
        /// The queue.
        queue: QueueId,
        /// Their sequence numbers in the queue.
        sequences: Vec<u64>,
        /// Octets of their bodies, all together.
        body_bytes: u64,
    },
    /// These messages came back to a quorum queue: one more delivery of each has failed.
    Return {
        /// The queue.
        queue: QueueId,
        /// Their sequence numbers in the queue.
        sequences: Vec<u64>,
    },
    /// Messages of a durable queue were delivered: after a restart, those up to there come marked as redelivered.
    Delivered {
        /// The queue.
        queue: QueueId,
        /// The highest sequence number that was delivered.
        up_to: u64,
    },
    /// Every message that was ready left the queue: those that had entered it, but for the unsettled ones.
    Purge {
        /// The queue.
        queue: QueueId,
        /// The sequence number that the next message was to get: whatever the order of facts, what came later stays.
        before: u64,
        /// The sequence numbers of deliveries that were not settled.
        unsettled: Vec<u64>,
        /// Octets of the bodies of those of them that the log has.
        unsettled_body_bytes: u64,
    },
    /// A durable or paging queue is gone, and its messages with it. Its definition, if it had one, goes by
    /// [`Definition::QueueDeleted`].
    Forget {
        /// The queue.
        queue: QueueId,
    },
    /// Messages stay in the queue and are not ready until then: their retry is put off, or they are dead and wait for
    /// queues that take them. Another one for the same message replaces it; what settles the message ends it.
    Hold {
        /// The queue.
        queue: QueueId,
        /// Their sequence numbers in the queue.
        sequences: Vec<u64>,
        /// When they are looked at again, in [`Now::unix_ms`](super::Now::unix_ms).
        until_ms: u64,
        /// Why they are dead, as the code of a reason; 0 if they come back.
        death: u8,
    },
    /// A message with that key was taken: further ones are duplicates (`x-message-deduplication`).
    Seen {
        /// Whose keys they are: a queue's identity, or what [`cache_of_exchange`] says.
        cache: QueueId,
        /// The key.
        key: u128,
        /// When it is forgotten, in [`Now::unix_ms`](super::Now::unix_ms).
        until_ms: u64,
        /// How many keys the cache keeps: with more, the oldest are forgotten.
        keep: u32,
    },
    /// Something was defined.
    Define(Definition),
}

/// Whose keys an exchange's are in [`Fact::Seen`]: the same after a restart, and no queue's. They are forgotten when the
/// exchange is deleted.
pub fn cache_of_exchange(virtual_host: &str, exchange: &str) -> QueueId {
    let mut hasher = sha2::Sha256::new();
    hasher.update((virtual_host.len() as u64).to_le_bytes());
    hasher.update(virtual_host);
    hasher.update(exchange);
    let digest = hasher.finalize();
    let octets = digest.first_chunk::<8>().expect("invariant: a digest of 32 octets");
    QueueId(u64::from_le_bytes(*octets) | 1 << 63)
}

/// A queue that a published message entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The queue.
    pub queue: QueueId,
    /// The sequence number that the message got there.
    pub sequence: u64,
    /// Whether it is there after a restart: a persistent message in a durable queue. Any other is in the log only
    /// because the queue is too deep for memory.
    pub survives: bool,
    /// When it leaves the queue by itself, in [`Now::unix_ms`](super::Now::unix_ms); [`NEVER`](super::NEVER) if it does not.
    pub deadline_ms: u64,
}

impl Fact {
    /// Whether a confirm or a reply waits until it is durable. What is about deliveries only is written and not waited
    /// for: if it is lost in a crash, messages come once more.
    pub fn is_awaited(&self) -> bool {
        match self {
            Fact::Publish { queues, .. } => queues.iter().any(|target| target.survives),
            Fact::Purge { .. } | Fact::Define(_) => true,
            Fact::Settle { .. }
            | Fact::Return { .. }
            | Fact::Hold { .. }
            | Fact::Seen { .. }
            | Fact::Delivered { .. }
            | Fact::Forget { .. } => false,
        }
    }

    /// About how many octets the fact keeps in memory until it is written.
    fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Fact::Publish { message, queues } => {
                    message.memory_bytes() + size_of::<Target>() * queues.len()
                }
                Fact::Settle { sequences, .. }
                | Fact::Return { sequences, .. }
                | Fact::Hold { sequences, .. }
                | Fact::Purge { unsettled: sequences, .. } => 8 * sequences.len(),
                _ => 0,
            }
    }
}

/// The ordered facts between the sessions and the log thread. Bounded: see [`Journal::is_full`].
#[derive(Debug)]
pub struct Journal {
    state: Mutex<State>,
    /// There is work for the log thread.
    work: Condvar,
    /// There is room again, or nothing more is taken.
    room: Condvar,
    durable: AtomicU64,
    backlog_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    facts: Vec<Fact>,
    /// What `facts` keep in memory, in octets.
    bytes: u64,
    last: Lsn,
    written: Lsn,
    waiting: BinaryHeap<Reverse<Waiting>>,
    /// Who is not read from until the journal has room: at most every connection.
    held_up: BTreeMap<ConnectionId, Arc<Outbox>>,
    closed: bool,
}

impl State {
    fn take(&mut self) -> Batch {
        let facts = std::mem::take(&mut self.facts);
        let bytes = std::mem::take(&mut self.bytes);
        Batch { facts, last: self.last, bytes }
    }

    /// Whether somebody waits for the sync of what is written.
    fn is_sync_awaited(&self) -> bool {
        self.waiting.peek().is_some_and(|next| next.0.lsn <= self.written)
    }

    fn has_work(&self) -> bool {
        !self.facts.is_empty() || self.is_sync_awaited() || self.closed
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

/// Facts taken from the journal in one go: the log writes them together.
#[derive(Debug)]
pub struct Batch {
    /// The facts in order.
    pub facts: Vec<Fact>,
    /// The number of the last of them.
    pub last: Lsn,
    bytes: u64,
}

/// What the log thread is to do.
#[derive(Debug)]
pub enum Work {
    /// Write these facts.
    Write(Batch),
    /// Sync what is written: somebody waits for it.
    Sync,
    /// Nothing has come for as long as the thread was ready to wait.
    Nothing,
    /// End: the journal is closed and empty.
    End,
}

/// Octets of facts not yet written above which publishers are not read from.
const BACKLOG_BYTES_MAX: u64 = 8 << 20;

impl Journal {
    /// An empty journal.
    pub fn new() -> Self {
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
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
            self.work.notify_one();
        }
        last
    }

    /// The number of the last fact.
    pub fn last(&self) -> Lsn {
        self.lock().last
    }

    /// Up to where facts are durable.
    pub fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// Whether so much waits to be written that publishers should wait too.
    pub fn is_full(&self) -> bool {
        self.backlog_bytes.load(Ordering::Relaxed) > BACKLOG_BYTES_MAX
    }

    /// Wakes the outbox once the journal is not full any more; returns false, and does nothing, if it is not full.
    pub fn wake_when_not_full(&self, outbox: &Arc<Outbox>) -> bool {
        if !self.is_full() {
            return false;
        }
        let mut state = self.lock();
        // What is full now gets room under this lock only.
        if !self.is_full() {
            return false;
        }
        state.held_up.entry(outbox.connection).or_insert_with(|| Arc::clone(outbox));
        true
    }

    /// For a thread that may block: waits until the journal is not full any more, or is closed.
    pub fn wait_while_full(&self) {
        let waited = self.room.wait_while(self.lock(), |state| self.is_full() && !state.closed);
        drop(waited.expect("invariant: no panic under the journal's lock"));
    }

    /// Wakes the outbox once `lsn` is durable, and sees that the log thread does not put off the sync that makes it so;
    /// returns false, and does nothing, if it is durable already.
    pub fn wake_when_durable(&self, lsn: Lsn, outbox: &Arc<Outbox>) -> bool {
        let mut state = self.lock();
        if lsn <= self.durable() {
            return false;
        }
        state.waiting.push(Reverse(Waiting { lsn, outbox: Arc::clone(outbox) }));
        if lsn <= state.written {
            self.work.notify_one();
        }
        true
    }

    /// For the log thread: waits until there is something to do, for as long as `patience` if need be.
    pub fn next_work(&self, patience: Duration) -> Work {
        let waited = self.work.wait_timeout_while(self.lock(), patience, |state| !state.has_work());
        let (mut state, _) = waited.expect("invariant: no panic under the journal's lock");
        if !state.facts.is_empty() {
            // Before a sync that somebody waits for: it makes these durable too.
            Work::Write(state.take())
        } else if state.is_sync_awaited() {
            Work::Sync
        } else if state.closed {
            Work::End
        } else {
            Work::Nothing
        }
    }

    /// For a log that is driven by hand: takes all facts there are; `None` while there are none.
    pub fn try_take_batch(&self) -> Option<Batch> {
        let mut state = self.lock();
        (!state.facts.is_empty()).then(|| state.take())
    }

    /// For the log thread: the batch is written, and does not count for [`Journal::is_full`] any more. Returns whether
    /// somebody waits until it, or what was written before, is durable.
    pub fn mark_written(&self, batch: &Batch) -> bool {
        let mut state = self.lock();
        state.written = batch.last;
        self.backlog_bytes.fetch_sub(batch.bytes, Ordering::Relaxed);
        let awaited = state.is_sync_awaited();
        let gone_on = if self.is_full() { BTreeMap::new() } else { std::mem::take(&mut state.held_up) };
        drop(state);
        self.room.notify_all();
        for outbox in gone_on.values() {
            outbox.wake();
        }
        awaited
    }

    /// For the log thread: everything up to that fact is durable. It was marked as written before.
    pub fn mark_durable(&self, lsn: Lsn) {
        let mut woken = Vec::new();
        {
            let mut state = self.lock();
            debug_assert!(lsn <= state.written, "{lsn:?} is durable before it is written");
            self.durable.store(lsn.0, Ordering::Release);
            while state.waiting.peek().is_some_and(|next| next.0.lsn <= lsn) {
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
        self.work.notify_all();
        self.room.notify_all();
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::AtomicUsize,
        task::{Wake, Waker},
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn outbox(woken: &Arc<Woken>) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::new(ConnectionId(1), 1 << 20));
        outbox.set_waker(&Waker::from(Arc::clone(woken)));
        outbox
    }

    /// A fact of 6 MiB: the journal takes one of them, but not two.
    fn large() -> Fact {
        Fact::Return { queue: QueueId(1), sequences: vec![1; 6 << 17] }
    }

    #[test]
    fn publishers_go_on_once_there_is_room_and_not_only_once_it_is_synced() {
        let (journal, woken) = (Journal::new(), Arc::new(Woken::default()));
        let outbox = outbox(&woken);
        assert!(!journal.wake_when_not_full(&outbox));
        let mut batches = Vec::new();
        for _ in 0..3 {
            journal.append(&mut vec![large()]);
            batches.extend(journal.try_take_batch());
        }
        assert!(journal.is_full() && journal.wake_when_not_full(&outbox));
        journal.mark_written(&batches[0]);
        assert!(journal.is_full());
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        journal.mark_written(&batches[1]);
        assert!(!journal.is_full());
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert_eq!(journal.durable(), Lsn(0));
    }

    #[test]
    fn a_thread_that_waits_goes_on_once_there_is_room_or_the_journal_is_closed() {
        let journal = Journal::new();
        journal.wait_while_full();
        for closes in [false, true] {
            journal.append(&mut vec![large(), large()]);
            let batch = journal.try_take_batch().expect("a batch");
            assert!(journal.is_full());
            std::thread::scope(|scope| {
                scope.spawn(|| journal.wait_while_full());
                if closes {
                    journal.close();
                } else {
                    journal.mark_written(&batch);
                }
            });
        }
    }

    #[test]
    fn a_batch_tells_whether_its_sync_is_awaited() {
        let (journal, woken) = (Journal::new(), Arc::new(Woken::default()));
        let outbox = outbox(&woken);
        let append = |journal: &Journal| {
            let lsn = journal.append(&mut vec![Fact::Forget { queue: QueueId(1) }]);
            (lsn, journal.try_take_batch().expect("a batch"))
        };
        let (first, batch) = append(&journal);
        assert!(!journal.mark_written(&batch));
        assert!(journal.wake_when_durable(first, &outbox));
        assert!(matches!(journal.next_work(Duration::ZERO), Work::Sync));
        let (second, batch) = append(&journal);
        assert!(journal.mark_written(&batch), "what was written before it is awaited");
        journal.mark_durable(second);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        let (_, batch) = append(&journal);
        assert!(!journal.mark_written(&batch));
        assert!(matches!(journal.next_work(Duration::ZERO), Work::Nothing));
    }
}
