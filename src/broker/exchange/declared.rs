//! An exchange as everybody holds it, and where a binding leads.

use std::{
    cmp, fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, atomic::AtomicU64},
};

use super::{Bindings, Endpoint, ExchangeArguments, ExchangeKind, History, InvalidBinding};
use crate::{
    amqp::Table,
    broker::{
        dedup::{Deduplication, ExchangeKeys},
        policy::{Matched, Policies, read_policies},
        queue::{QueueHandle, QueueId},
        refusal::Resource,
        stats::Counter,
    },
};

/// An exchange.
pub struct Exchange {
    /// Its identity, never used again.
    pub id: u64,
    /// Its name; empty for the default exchange.
    pub name: Arc<str>,
    /// The virtual host it lives in.
    pub virtual_host: Arc<str>,
    /// What it was declared as.
    pub properties: ExchangeProperties,
    /// Where its messages go. The default exchange has none: it goes by queue names.
    pub bindings: RwLock<Bindings<Destination>>,
    pub(in crate::broker) matched: Mutex<Matched>,
    /// Messages that clients have published to it.
    pub published_in: Counter,
    /// Copies of them that have gone into queues: one for each queue.
    pub published_out: Counter,
    /// The last messages that came to it, if it keeps any.
    pub history: Option<History>,
    /// The queue that keeps its delayed messages.
    delay_queue: OnceLock<Arc<QueueHandle>>,
    /// The keys by which it knows duplicates, if it tells them.
    keys: Option<Box<ExchangeKeys>>,
}

/// What an exchange was declared as.
#[derive(Clone, Debug)]
pub struct ExchangeProperties {
    /// Its type.
    pub kind: ExchangeKind,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it is deleted when its last binding goes.
    pub auto_delete: bool,
    /// Whether clients may not publish to it.
    pub internal: bool,
    /// Whether its messages wait before they are routed.
    pub delays: bool,
    /// The arguments as they were declared.
    pub table: Table,
    /// What they say.
    pub arguments: ExchangeArguments,
    /// `alternate-exchange`: where messages go that this exchange has no destination for.
    pub alternate: Option<Arc<str>>,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.resource())
    }
}

impl Exchange {
    /// Shows each binding: its key, its arguments, and where it leads.
    pub fn each_binding(&self, mut show: impl FnMut(&str, &Table, &Destination)) {
        let bindings = self.bindings.read().expect("invariant: no panic under a lock of bindings");
        bindings.iter().for_each(|(key, arguments, destination)| show(key, arguments, destination));
    }

    /// Whether there can be such a binding from here.
    ///
    /// # Errors
    /// What [`Bindings::insert`] refuses.
    pub fn check_binding(&self, key: &str, arguments: &Table) -> Result<(), InvalidBinding> {
        self.bindings.read().expect("invariant: no panic under a lock of bindings").check(key, arguments)
    }

    /// An exchange without bindings. `history_bytes` counts what the exchanges of the virtual host keep of messages.
    pub(in crate::broker) fn new(
        id: u64,
        name: Arc<str>,
        virtual_host: Arc<str>,
        properties: ExchangeProperties,
        history_bytes: &Arc<AtomicU64>,
    ) -> Self {
        let arguments = &properties.arguments;
        let bindings = RwLock::new(Bindings::with_arguments(arguments));
        let history = (arguments.routes_as == ExchangeKind::RecentHistory)
            .then(|| History::new(arguments.history_length, Arc::clone(history_bytes)));
        let keys = arguments.deduplication.as_ref().map(|_| Box::default());
        let (matched, delay_queue) = (Mutex::default(), OnceLock::new());
        let (published_in, published_out) = Default::default();
        Self {
            id,
            name,
            virtual_host,
            properties,
            bindings,
            matched,
            published_in,
            published_out,
            history,
            delay_queue,
            keys,
        }
    }

    /// How it tells duplicates, and the keys by which it knows them, if it does.
    pub fn deduplication(&self) -> Option<(&Deduplication, &ExchangeKeys)> {
        self.properties.arguments.deduplication.as_ref().zip(self.keys.as_deref())
    }

    /// Whether it has to see each message, so that nobody may keep its routes by key, whatever its bindings.
    pub fn sees_messages(&self) -> bool {
        self.history.is_some() || self.properties.delays || self.keys.is_some()
    }

    /// The queue that keeps its delayed messages, if it delays any.
    pub fn delay_queue(&self) -> Option<&Arc<QueueHandle>> {
        self.delay_queue.get()
    }

    /// Gives it the queue that keeps its delayed messages, once.
    pub(in crate::broker) fn set_delay_queue(&self, queue: &Arc<QueueHandle>) {
        // Another one would be a bug; the first one has the messages.
        let _ = self.delay_queue.set(Arc::clone(queue));
    }

    /// Its name in reply texts.
    pub fn resource(&self) -> Resource<'_> {
        Resource { kind: "exchange", name: &self.name, virtual_host: &self.virtual_host }
    }

    /// Where messages go that it has no destination for: what it was declared with, or else what its policy says.
    pub fn alternate(&self) -> Option<Arc<str>> {
        let by_policy = || Some(self.matched().policy.as_ref()?.alternate_exchange()?.into());
        self.properties.alternate.clone().or_else(by_policy)
    }

    /// Its policies.
    pub fn policies(&self) -> Matched {
        self.matched().clone()
    }

    /// # Locking
    /// The policies of the virtual host are looked at under it.
    fn matched(&self) -> MutexGuard<'_, Matched> {
        self.matched.lock().expect("invariant: no panic under a lock of policies")
    }

    /// Makes what policies say now act on the exchange.
    pub(in crate::broker) fn apply_policies(&self, policies: &RwLock<Policies>) {
        // Looked up under the lock, so that of two changes at the same time the last is the one that stays.
        let mut matched = self.matched();
        *matched = read_policies(policies).of_exchange(&self.name);
    }

    /// Looks at its bindings.
    ///
    /// # Locking
    /// Messages are routed under this lock too, so it is not to be held for long. Nothing is locked under it but what
    /// routing locks.
    pub fn read_bindings(&self) -> RwLockReadGuard<'_, Bindings<Destination>> {
        self.bindings.read().expect("invariant: no panic under a lock of bindings")
    }

    /// Whether it is the default exchange.
    pub fn is_default(&self) -> bool {
        self.name.is_empty()
    }
}

/// Where a binding leads.
#[derive(Clone, Debug)]
pub enum Destination {
    /// To a queue.
    Queue(Arc<QueueHandle>),
    /// To another exchange (RabbitMQ's extension).
    Exchange(Arc<Exchange>),
}

/// A destination by identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::broker) enum DestinationId {
    Queue(QueueId),
    Exchange(u64),
}

impl Destination {
    /// Its identity.
    pub(in crate::broker) fn id(&self) -> DestinationId {
        match self {
            Destination::Queue(queue) => DestinationId::Queue(queue.id),
            Destination::Exchange(exchange) => DestinationId::Exchange(exchange.id),
        }
    }

    /// Its name.
    pub(in crate::broker) fn name(&self) -> &Arc<str> {
        match self {
            Destination::Queue(queue) => &queue.name,
            Destination::Exchange(exchange) => &exchange.name,
        }
    }

    /// Whether it survives a restart.
    pub(in crate::broker) fn is_durable(&self) -> bool {
        match self {
            Destination::Queue(queue) => queue.properties.durable,
            Destination::Exchange(exchange) => exchange.properties.durable,
        }
    }
}

impl Endpoint for Destination {
    fn is_queue(&self) -> bool {
        matches!(self, Destination::Queue(_))
    }
}

impl Ord for Destination {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        self.name().cmp(other.name()).then_with(|| self.id().cmp(&other.id()))
    }
}
impl PartialOrd for Destination {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Destination {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}
impl Eq for Destination {}
impl std::hash::Hash for Destination {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl fmt::Debug for DestinationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DestinationId::Queue(id) => write!(f, "queue {}", id.0),
            DestinationId::Exchange(id) => write!(f, "exchange {id}"),
        }
    }
}
