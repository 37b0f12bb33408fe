//! A connection's inbox from the rest of the broker: deliveries and cancellations, bounded in octets.
//!
//! Queues push from whichever thread holds their lock; the connection's task drains. The owner is woken through
//! `std::task::Waker`, once for a batch, so the domain can wake a task without knowing of tasks.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Waker,
};

use super::{
    message::Message,
    queue::{QueueHandle, QueueId, Slot},
};

/// Identity of a connection, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// A consumer within its connection, never used again: what is still on its way to one that has ended can't reach
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerId {
    /// Its place among the connection's consumers.
    pub place: u32,
    /// How many had that place before it.
    pub generation: u32,
}

/// A message on its way from a queue to a consumer.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Who gets it.
    pub consumer: ConsumerId,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// Whether the log has it, so that it must hear of its end.
    pub stored: bool,
    /// How many deliveries of it have failed, as a quorum queue counts them.
    pub delivery_count: u16,
    /// Where the queue keeps it until it is settled; [`Slot::NONE`] when it needs no acknowledgement.
    pub slot: Slot,
    /// Its sequence number in the queue.
    pub sequence: u64,
    /// When it leaves the queue by itself if it comes back, in [`Now::unix_ms`](super::Now::unix_ms).
    pub deadline_ms: u64,
    /// The message.
    pub message: Message,
}

impl Delivery {
    /// What the delivery counts for in an outbox, in octets.
    pub fn outbox_bytes(&self) -> usize {
        Self::outbox_bytes_of(&self.message)
    }

    /// What a delivery of that message counts for.
    pub fn outbox_bytes_of(message: &Message) -> usize {
        size_of::<Self>() + message.memory_bytes()
    }
}

/// What an outbox holds.
#[derive(Clone, Debug)]
pub enum Item {
    /// A message for a consumer of the connection.
    Delivery(Delivery),
    /// The consumer's queue is gone.
    Cancelled(ConsumerId),
}

/// See the module's text.
#[derive(Debug)]
pub struct Outbox {
    /// The connection it belongs to.
    pub connection: ConnectionId,
    high_water_bytes: usize,
    bytes: AtomicUsize,
    /// Set while a wake-up is under way, so that a batch causes one.
    woken: AtomicBool,
    /// Whether an operator wants the connection to end: its `ConnectionStatus` says why.
    is_asked_to_close: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    /// Queues that have more for this connection than it has room for.
    stalled: BTreeMap<QueueId, Arc<QueueHandle>>,
    waker: Option<Waker>,
}

impl Outbox {
    /// An empty outbox that queues stop filling at `high_water_bytes`.
    pub fn new(connection: ConnectionId, high_water_bytes: usize) -> Self {
        Self {
            connection,
            high_water_bytes,
            bytes: AtomicUsize::new(0),
            woken: AtomicBool::new(false),
            is_asked_to_close: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("invariant: no panic under an outbox's lock")
    }

    /// Whether another delivery may be pushed, on top of `pending_bytes` that are about to be.
    pub fn has_room(&self, pending_bytes: usize) -> bool {
        self.bytes.load(Ordering::Relaxed) + pending_bytes < self.high_water_bytes
    }

    /// Adds the deliveries in order, which count for `bytes`, and leaves the vector empty. The caller wakes the
    /// owner once its batch is done (see [`Wakes`]).
    pub fn push_deliveries(&self, deliveries: &mut Vec<Delivery>, bytes: usize) {
        let mut state = self.lock();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        state.items.extend(deliveries.drain(..).map(Item::Delivery));
    }

    /// Adds one item. The caller wakes the owner.
    pub fn push(&self, item: Item) {
        let mut state = self.lock();
        if let Item::Delivery(delivery) = &item {
            self.bytes.fetch_add(delivery.outbox_bytes(), Ordering::Relaxed);
        }
        state.items.push_back(item);
    }

    /// Remembers to tell the queue when there is room again: once, however many consumers it has here, since it resumes
    /// all of them. Bounded by the queues that the connection consumes from.
    pub fn stall(&self, queue: &Arc<QueueHandle>) {
        self.lock().stalled.entry(queue.id).or_insert_with(|| Arc::clone(queue));
    }

    /// Takes every item, up to about `bytes_max` octets of deliveries, behind those in `items`.
    pub fn take(&self, items: &mut VecDeque<Item>, bytes_max: usize) {
        let mut state = self.lock();
        let bytes = self.bytes.load(Ordering::Relaxed);
        if bytes <= bytes_max {
            // Nobody pushes without the lock, so that is all of it.
            if items.is_empty() {
                std::mem::swap(&mut state.items, items);
            } else {
                items.append(&mut state.items);
            }
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return;
        }
        let mut taken = 0;
        while taken < bytes_max {
            let Some(item) = state.items.pop_front() else { break };
            if let Item::Delivery(delivery) = &item {
                taken += delivery.outbox_bytes();
            }
            items.push_back(item);
        }
        self.bytes.fetch_sub(taken, Ordering::Relaxed);
    }

    /// The queues that wait for room, if there is room now: below a quarter of the high-water mark.
    pub fn take_stalled(&self) -> Vec<Arc<QueueHandle>> {
        if self.bytes.load(Ordering::Relaxed) > self.high_water_bytes / 4 {
            return Vec::new();
        }
        std::mem::take(&mut self.lock().stalled).into_values().collect()
    }

    /// Sets who is woken when something arrives from now on. The owner calls it before it looks at anything that
    /// a wake-up may be about, so that none is lost.
    pub fn set_waker(&self, waker: &Waker) {
        self.woken.store(false, Ordering::Release);
        let mut state = self.lock();
        if !state.waker.as_ref().is_some_and(|current| current.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
    }

    /// Wakes the owner, unless that is already under way.
    pub fn wake(&self) {
        if self.woken.swap(true, Ordering::AcqRel) {
            return;
        }
        let waker = self.lock().waker.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Asks the connection to end, and wakes it.
    pub fn ask_to_close(&self) {
        self.is_asked_to_close.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether the connection is asked to end.
    pub fn is_asked_to_close(&self) -> bool {
        self.is_asked_to_close.load(Ordering::Acquire)
    }

    /// Wakes the owner because facts became durable.
    pub fn wake_durable(&self) {
        self.wake();
    }
}

/// The outboxes that a batch of work put something into: woken once each, after the locks are released.
#[derive(Debug, Default)]
pub struct Wakes {
    outboxes: Vec<Arc<Outbox>>,
}

impl Wakes {
    /// Notes that the outbox has something new.
    pub fn add(&mut self, outbox: &Arc<Outbox>) {
        if !self.outboxes.iter().rev().take(4).any(|known| Arc::ptr_eq(known, outbox)) {
            self.outboxes.push(Arc::clone(outbox));
        }
    }

    /// Wakes all of them.
    pub fn wake_all(&mut self) {
        for outbox in self.outboxes.drain(..) {
            outbox.wake();
        }
    }
}
