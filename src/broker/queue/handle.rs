//! A queue as everybody holds it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Queue, QueueArguments, QueueId};
use crate::{
    amqp::Table,
    broker::{
        Now, delay,
        effects::Effects,
        limit::Permit,
        outbox::ConnectionId,
        pager::Pager,
        policy::{Matched, Policies, read_policies},
        refusal::{Refusal, Resource},
        stats::QueueCounters,
    },
};

/// What a queue was declared as.
#[derive(Clone, Debug)]
pub struct QueueProperties {
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it is deleted when its last consumer goes.
    pub auto_delete: bool,
    /// The connection that it belongs to and goes with.
    pub exclusive: Option<ConnectionId>,
    /// The arguments as they were declared.
    pub table: Table,
    /// Those of them that act, parsed. What policies add is in [`QueueHandle::arguments`].
    pub arguments: Arc<QueueArguments>,
}

/// A queue as everybody holds it.
pub struct QueueHandle {
    /// Its identity.
    pub id: QueueId,
    /// Its name.
    pub name: Arc<str>,
    /// The virtual host it lives in.
    pub virtual_host: Arc<str>,
    /// What it was declared as.
    pub properties: QueueProperties,
    /// Whether it keeps the delayed messages of an exchange: then no client may use it.
    pub delays: bool,
    /// What happened to its messages.
    pub messages: QueueCounters,
    effective: Mutex<Effective>,
    queue: Mutex<Queue>,
    used_ms: AtomicU64,
}

/// What acts on a queue now.
#[derive(Debug)]
struct Effective {
    matched: Matched,
    arguments: Arc<QueueArguments>,
}

impl fmt::Debug for QueueHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.resource())
    }
}

impl QueueHandle {
    /// An empty queue.
    pub fn new(
        id: QueueId,
        name: Arc<str>,
        virtual_host: Arc<str>,
        properties: QueueProperties,
        permit: Permit,
        pager: Arc<Pager>,
    ) -> Self {
        let delays = delay::exchange_of(&name).is_some();
        let queue = Mutex::new(Queue::new(id, &properties, delays, permit, pager));
        let effective =
            Effective { matched: Matched::default(), arguments: Arc::clone(&properties.arguments) };
        let effective = Mutex::new(effective);
        Self {
            id,
            name,
            virtual_host,
            properties,
            delays,
            messages: QueueCounters::default(),
            effective,
            queue,
            used_ms: AtomicU64::new(0),
        }
    }

    /// The arguments that act now: what it was declared with, and what policies add.
    pub fn arguments(&self) -> Arc<QueueArguments> {
        Arc::clone(&self.effective().arguments)
    }

    /// Its policies.
    pub fn policies(&self) -> Matched {
        self.effective().matched.clone()
    }

    /// # Locking
    /// After the queue's lock. Nothing else is locked under it.
    fn effective(&self) -> MutexGuard<'_, Effective> {
        self.effective.lock().expect("invariant: no panic under a lock of arguments")
    }

    /// Makes what policies say now act on the queue.
    pub(in crate::broker) fn apply_policies(
        self: &Arc<Self>,
        policies: &RwLock<Policies>,
        effects: &mut Effects,
    ) {
        // Under the queue's lock, so that of two changes at the same time the last is the one that stays.
        let mut queue = self.lock();
        let matched = read_policies(policies).of_queue(&self.name, queue.arguments.kind);
        let mut effective = self.effective();
        if queue.deleted || self.delays || effective.matched.is_same(&matched) {
            return;
        }
        let (policy, operator) = (matched.policy.as_deref(), matched.operator.as_deref());
        let arguments = QueueArguments::effective(&self.properties.table, policy, operator);
        let is_change = effective.arguments != arguments;
        *effective = Effective { matched, arguments: Arc::clone(&arguments) };
        drop(effective);
        if is_change {
            queue.reconfigure(&arguments, self, effects);
        }
    }

    /// The queue itself.
    ///
    /// # Locking
    /// After the topology's lock, before an outbox's or the journal's; never two queues at once.
    pub fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("invariant: no panic under a queue's lock")
    }

    /// It was used: declared, consumed or got from.
    pub fn used(&self, now: Now) {
        self.used_ms.store(now.unix_ms, Ordering::Relaxed);
    }

    /// When it was used last, in [`Now::unix_ms`].
    pub fn used_ms(&self) -> u64 {
        self.used_ms.load(Ordering::Relaxed)
    }

    /// Its name in reply texts.
    pub fn resource(&self) -> Resource<'_> {
        Resource { kind: "queue", name: &self.name, virtual_host: &self.virtual_host }
    }

    /// Refuses a connection that an exclusive queue does not belong to, and everybody what is the broker's own.
    pub fn check_access(&self, connection: ConnectionId) -> Result<(), Refusal> {
        if self.delays {
            let text = format!("access to {} refused: it keeps delayed messages", self.resource());
            return Err(Refusal::access_refused(text));
        }
        match self.properties.exclusive {
            Some(owner) if owner != connection => Err(Refusal::locked(self.resource())),
            _ => Ok(()),
        }
    }
}
