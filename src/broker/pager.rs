//! Paging: the messages of deep queues that are on disk only, and their way back.
//!
//! A queue keeps its head in memory and knows the rest as ranges of sequence numbers that the log has. When its head
//! runs out it asks here, under its lock; whoever has the files takes the request, loads and hands the messages to
//! the queue. The domain names what it needs and never learns where it lies.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    effects::Effects,
    message::Message,
    queue::{QueueHandle, QueueId},
    stats::Stats,
};

/// What a queue asks for: the next of its messages that are on disk, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The queue.
    pub queue: QueueId,
    /// The first sequence number that may be among them.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// Which priorities, for a queue that has them.
    pub priorities: Option<PriorityLevel>,
    /// How many messages at most; at least 1.
    pub count_max: usize,
    /// Octets of messages after which no further one is loaded; the first one always is.
    pub bytes_max: usize,
    /// If there are any: these sequence numbers only, in ascending order. The other bounds hold as well.
    pub only: Vec<u64>,
}

/// One level of a queue with priorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriorityLevel {
    /// The level.
    pub level: u8,
    /// The queue's highest level: a higher priority counts as this.
    pub highest: u8,
    /// The level of messages without a priority.
    pub default: u8,
}

impl PriorityLevel {
    /// Whether a message of that priority is in the level.
    pub fn has(self, priority: Option<u8>) -> bool {
        priority.unwrap_or(self.default).min(self.highest) == self.level
    }
}

/// What was found for a [`Load`].
#[derive(Debug, Default)]
pub struct Loaded {
    /// The messages, by sequence number.
    pub messages: Vec<LoadedMessage>,
    /// How many more were there whose octets are damaged: they have been reported and count as gone.
    pub damaged: u64,
}

/// A message that came back from disk.
#[derive(Clone, Debug)]
pub struct LoadedMessage {
    /// Its sequence number in the queue.
    pub sequence: u64,
    /// How often it came back to a quorum queue before it was paged out or the broker restarted.
    pub delivery_count: u32,
    /// When it leaves the queue by itself, as its [`Target`](super::journal::Target) said.
    pub deadline_ms: u64,
    /// The message.
    pub message: Message,
}

/// How much of the queues is in memory, and which of them want messages back.
///
/// # Locking
/// Its lock is a leaf, as the journal's: taken under a queue's, and nothing is locked under it.
#[derive(Debug)]
pub struct Pager {
    /// Where the queues report how much is in them.
    pub stats: Arc<Stats>,
    resident_bytes: AtomicU64,
    resident_bytes_max: AtomicU64,
    window_bytes: AtomicU64,
    state: Mutex<State>,
    requested: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Each queue at most once: it asks again after it was served.
    queues: VecDeque<Arc<QueueHandle>>,
    closed: bool,
}

/// What ready messages may take in memory, unless configured otherwise, in octets.
pub const RESIDENT_BYTES_MAX: u64 = 16 << 20;
/// What every queue may keep in memory, however much the others have, unless set otherwise, in octets.
pub const WINDOW_BYTES: u64 = 32 << 10;

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// The queue has what it asked for, or needs it no more.
    Whole,
    /// The same, and messages went on to other queues: whoever has more of them moved waits while the journal is full.
    Forwarded,
    /// Some of it is still on its way to the log: to be served again when that has written more.
    Incomplete,
}

/// Serves a queue that was taken from the pager: asks it what it needs, has that loaded, and lets the queue deliver.
/// Until it is [`Served::Whole`], the queue is not requested again. The caller appends the facts in `effects` to the
/// journal and wakes whom it names.
///
/// # Errors
/// What `load` fails with. The queue waits on.
pub fn serve<E>(
    queue: &Arc<QueueHandle>,
    load: impl FnOnce(&Load) -> Result<Loaded, E>,
    effects: &mut Effects,
) -> Result<Served, E> {
    let next = queue.lock().next_load();
    let Some(next) = next else { return Ok(Served::Whole) };
    let loaded = load(&next)?;
    let mut locked = queue.lock();
    if !locked.loaded(&next, loaded, queue, effects) {
        return Ok(Served::Incomplete);
    }
    locked.deliver(queue, effects);
    Ok(Served::Whole)
}

impl Pager {
    /// Nothing in memory, nothing requested.
    pub fn new() -> Self {
        Self::reporting_to(Arc::default())
    }

    /// The same; its queues report there how much is in them.
    pub fn reporting_to(stats: Arc<Stats>) -> Self {
        Self {
            stats,
            resident_bytes: AtomicU64::new(0),
            resident_bytes_max: AtomicU64::new(RESIDENT_BYTES_MAX),
            window_bytes: AtomicU64::new(WINDOW_BYTES),
            state: Mutex::default(),
            requested: Condvar::new(),
        }
    }

    /// Sets what ready messages may take in memory, over all queues, in octets. Beyond it, a queue pages out what it
    /// has above its window.
    pub fn set_resident_bytes_max(&self, bytes: u64) {
        self.resident_bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// Sets what every queue may keep in memory, however much the others have, in octets. With 0, tests get every
    /// message paged out.
    pub fn set_window_bytes(&self, bytes: u64) {
        self.window_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Octets of ready messages in memory.
    pub fn resident_bytes(&self) -> u64 {
        self.resident_bytes.load(Ordering::Relaxed)
    }

    /// How much a queue has to page out that has `bytes` in memory.
    pub(super) fn excess_bytes(&self, bytes: u64) -> u64 {
        let above_max = self.resident_bytes().saturating_sub(self.resident_bytes_max.load(Ordering::Relaxed));
        let above_window = bytes.saturating_sub(self.window_bytes.load(Ordering::Relaxed));
        above_max.min(above_window)
    }

    /// A queue has that much in memory now, where it had `before`.
    pub(super) fn account(&self, before: u64, now: u64) {
        if now > before {
            self.resident_bytes.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.resident_bytes.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("invariant: no panic under the pager's lock")
    }

    /// The queue wants messages back, or was not served as a whole.
    pub fn request(&self, queue: &Arc<QueueHandle>) {
        self.lock().queues.push_back(Arc::clone(queue));
        self.requested.notify_one();
    }

    /// For the thread that loads: blocks until a queue is to be served; `None` once the pager is closed and no queue
    /// waits.
    pub fn take(&self) -> Option<Arc<QueueHandle>> {
        let mut state = self.lock();
        loop {
            match state.queues.pop_front() {
                Some(queue) => return Some(queue),
                None if state.closed => return None,
                None => {
                    state = self.requested.wait(state).expect("invariant: no panic under the pager's lock");
                }
            }
        }
    }

    /// The same for a pager that is driven by hand: `None` while no queue waits.
    pub fn try_take(&self) -> Option<Arc<QueueHandle>> {
        self.lock().queues.pop_front()
    }

    /// Lets the thread that loads end once it has served who waits.
    pub fn close(&self) {
        self.lock().closed = true;
        self.requested.notify_all();
    }
}

impl Default for Pager {
    fn default() -> Self {
        Self::new()
    }
}
