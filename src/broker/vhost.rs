//! A virtual host: its exchanges, queues and bindings, and every change to them.
//!
//! Look-ups by name go to concurrent maps; changes are made under one lock, so that a declaration and a deletion
//! that meet have an order. Each change moves `generation`, which lets a channel keep the routes it has found.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, RwLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use dashmap::DashMap;
use rand::Rng as _;

use super::{
    definition::{Binding, Definition},
    exchange::{Bindings, ExchangeKind},
    journal::{Fact, Journal, Lsn},
    limit,
    outbox::{ConnectionId, ConsumerId, Item, Outbox, Wakes},
    pager::Pager,
    queue::{ConsumerKey, QueueArguments, QueueHandle, QueueId, QueueProperties, comparable, inequivalent},
    refusal::{Refusal, Resource},
};
use crate::amqp::{ReplyCode, Table};

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
    /// The arguments as they were declared.
    pub table: Table,
    /// `alternate-exchange`: where messages go that this exchange has no destination for.
    pub alternate: Option<Arc<str>>,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.resource())
    }
}

impl Exchange {
    /// Its name in reply texts.
    pub fn resource(&self) -> Resource<'_> {
        Resource { kind: "exchange", name: &self.name, virtual_host: &self.virtual_host }
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
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum DestinationId {
    Queue(QueueId),
    Exchange(u64),
}

impl Destination {
    fn id(&self) -> DestinationId {
        match self {
            Destination::Queue(queue) => DestinationId::Queue(queue.id),
            Destination::Exchange(exchange) => DestinationId::Exchange(exchange.id),
        }
    }

    fn name(&self) -> &Arc<str> {
        match self {
            Destination::Queue(queue) => &queue.name,
            Destination::Exchange(exchange) => &exchange.name,
        }
    }

    fn is_durable(&self) -> bool {
        match self {
            Destination::Queue(queue) => queue.properties.durable,
            Destination::Exchange(exchange) => exchange.properties.durable,
        }
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

/// What `exchange.declare` asks for.
#[derive(Clone, Debug)]
pub struct ExchangeSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type.
    pub kind: ExchangeKind,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it is deleted when its last binding goes.
    pub auto_delete: bool,
    /// Whether clients may not publish to it.
    pub internal: bool,
    /// Its arguments.
    pub arguments: Table,
}

/// What `queue.declare` asks for.
#[derive(Clone, Debug)]
pub struct QueueSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it belongs to the declaring connection.
    pub exclusive: bool,
    /// Whether it is deleted when its last consumer goes.
    pub auto_delete: bool,
    /// Its arguments.
    pub arguments: Table,
}

/// One side of `queue.bind` and `exchange.bind`.
#[derive(Clone, Copy, Debug)]
pub struct BindingSpec<'a> {
    /// The exchange that messages come from.
    pub source: &'a str,
    /// The binding key.
    pub binding_key: &'a str,
    /// The arguments.
    pub arguments: &'a Table,
}

/// What a change leaves to its caller: facts for the journal, and outboxes to wake.
#[derive(Debug, Default)]
pub struct Effects {
    /// What must become durable and is not in the journal yet.
    pub facts: Vec<Fact>,
    /// The last definition that is in the journal already.
    pub recorded: Lsn,
    /// Who must be told.
    pub wakes: Wakes,
    /// Whether a change comes from the log: then it is recorded there, and so is everything that it led to.
    pub is_replay: bool,
}

impl Effects {
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

/// See the module's text.
#[derive(Debug)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    exchanges: DashMap<Arc<str>, Arc<Exchange>>,
    queues: DashMap<Arc<str>, Arc<QueueHandle>>,
    topology: Mutex<Topology>,
    generation: AtomicU64,
    ids: Arc<AtomicU64>,
    journal: Arc<Journal>,
    pager: Arc<Pager>,
    recorded: AtomicU64,
    /// `u32::MAX` is no limit.
    queues_max: AtomicU32,
    queue_count: AtomicU32,
    node_queue_count: Arc<limit::Count>,
}

/// Under the lock: from where each destination is bound, and how often, so that deleting it finds its bindings.
#[derive(Debug, Default)]
struct Topology {
    sources: HashMap<DestinationId, HashMap<Arc<str>, usize>>,
}

impl fmt::Debug for DestinationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DestinationId::Queue(id) => write!(f, "queue {}", id.0),
            DestinationId::Exchange(id) => write!(f, "exchange {id}"),
        }
    }
}

/// The exchanges that every virtual host has: name, type, internal.
const PREDECLARED: [(&str, ExchangeKind, bool); 7] = [
    ("", ExchangeKind::Direct, false),
    ("amq.direct", ExchangeKind::Direct, false),
    ("amq.fanout", ExchangeKind::Fanout, false),
    ("amq.topic", ExchangeKind::Topic, false),
    ("amq.headers", ExchangeKind::Headers, false),
    ("amq.match", ExchangeKind::Headers, false),
    ("amq.rabbitmq.trace", ExchangeKind::Topic, true),
];

/// The name that stands for a reply consumer; declaring it always succeeds (RabbitMQ: direct reply-to).
pub const REPLY_TO: &str = "amq.rabbitmq.reply-to";

impl VirtualHost {
    /// A virtual host with the predeclared exchanges. `ids` gives identities that are unique in the whole broker.
    pub fn new(
        name: &str,
        ids: Arc<AtomicU64>,
        journal: Arc<Journal>,
        pager: Arc<Pager>,
        queues_max: Option<u32>,
        node_queue_count: Arc<limit::Count>,
    ) -> Self {
        let host = Self {
            name: name.into(),
            exchanges: DashMap::new(),
            queues: DashMap::new(),
            topology: Mutex::default(),
            generation: AtomicU64::new(1),
            ids,
            journal,
            pager,
            recorded: AtomicU64::new(0),
            queues_max: AtomicU32::new(queues_max.unwrap_or(u32::MAX)),
            queue_count: AtomicU32::new(0),
            node_queue_count,
        };
        for (name, kind, internal) in PREDECLARED {
            let properties = ExchangeProperties {
                kind,
                durable: true,
                auto_delete: false,
                internal,
                table: Table::default(),
                alternate: None,
            };
            host.insert_exchange(name.into(), properties);
        }
        host
    }

    /// Moves with every change that a route may depend on.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// How many queues it holds; `None` for no limit.
    pub fn queues_max(&self) -> Option<u32> {
        Some(self.queues_max.load(Ordering::Relaxed)).filter(|max| *max != u32::MAX)
    }

    /// Sets how many queues it holds. Those above it stay.
    pub(super) fn set_queues_max(&self, max: Option<u32>) {
        self.queues_max.store(max.unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// The exchange of that name.
    pub fn exchange(&self, name: &str) -> Option<Arc<Exchange>> {
        self.exchanges.get(name).map(|exchange| Arc::clone(&exchange))
    }

    /// The queue of that name.
    pub fn queue(&self, name: &str) -> Option<Arc<QueueHandle>> {
        self.queues.get(name).map(|queue| Arc::clone(&queue))
    }

    /// The exchange of that name, or 404.
    pub fn expect_exchange(&self, name: &str) -> Result<Arc<Exchange>, Refusal> {
        self.exchange(name).ok_or_else(|| Refusal::no(self.exchange_resource(name)))
    }

    /// The queue of that name if `connection` may use it, else 404 or 405.
    pub fn expect_queue(&self, name: &str, connection: ConnectionId) -> Result<Arc<QueueHandle>, Refusal> {
        let queue = self.queue(name).ok_or_else(|| Refusal::no(self.queue_resource(name)))?;
        queue.check_access(connection)?;
        Ok(queue)
    }

    /// A queue's name in reply texts.
    pub fn queue_resource<'a>(&'a self, name: &'a str) -> Resource<'a> {
        Resource { kind: "queue", name, virtual_host: &self.name }
    }

    /// An exchange's name in reply texts.
    pub fn exchange_resource<'a>(&'a self, name: &'a str) -> Resource<'a> {
        Resource { kind: "exchange", name, virtual_host: &self.name }
    }

    fn topology(&self) -> MutexGuard<'_, Topology> {
        self.topology.lock().expect("invariant: no panic under the topology's lock")
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Puts a definition into the journal. Called under the topology's lock and before the change can be seen, so that
    /// the journal has definitions in their order, and each before what builds on it.
    fn record(&self, definition: Definition, effects: &mut Effects) {
        if effects.is_replay {
            return;
        }
        effects.recorded = self.journal.append(&mut vec![Fact::Define(definition)]);
        self.recorded.store(effects.recorded.0, Ordering::Release);
    }

    /// The last definition that is in the journal.
    pub fn recorded(&self) -> Lsn {
        Lsn(self.recorded.load(Ordering::Acquire))
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Declares an exchange, or checks that the one of that name is the same.
    ///
    /// # Errors
    /// 403 for a reserved name, 406 for an inequivalent redeclaration.
    pub fn declare_exchange(&self, spec: &ExchangeSpec<'_>, effects: &mut Effects) -> Result<(), Refusal> {
        let _topology = self.topology();
        if let Some(exchange) = self.exchange(spec.name) {
            return check_exchange_equivalence(&exchange, spec);
        }
        let resource = self.exchange_resource(spec.name);
        if spec.name.starts_with("amq.") {
            let text = format!("exchange name '{}' contains reserved prefix 'amq.*'", spec.name);
            return Err(Refusal::access_refused(text));
        }
        let alternate = alternate_exchange(&spec.arguments, resource)?;
        let properties = ExchangeProperties {
            kind: spec.kind,
            durable: spec.durable,
            auto_delete: spec.auto_delete,
            internal: spec.internal,
            table: spec.arguments.clone(),
            alternate,
        };
        let name: Arc<str> = spec.name.into();
        if spec.durable {
            let definition = Definition::ExchangeDeclared {
                virtual_host: Arc::clone(&self.name),
                name: Arc::clone(&name),
                kind: spec.kind.name(),
                auto_delete: spec.auto_delete,
                internal: spec.internal,
                arguments: spec.arguments.clone(),
            };
            self.record(definition, effects);
        }
        self.insert_exchange(name, properties);
        Ok(())
    }

    fn insert_exchange(&self, name: Arc<str>, properties: ExchangeProperties) {
        let exchange = Exchange {
            id: self.next_id(),
            name: Arc::clone(&name),
            virtual_host: Arc::clone(&self.name),
            bindings: RwLock::new(Bindings::new(properties.kind)),
            properties,
        };
        self.exchanges.insert(name, Arc::new(exchange));
        self.changed();
    }

    /// Deletes an exchange with its bindings; one that is missing counts as deleted.
    ///
    /// # Errors
    /// 406 if it is in use and `if_unused` is set.
    pub fn delete_exchange(&self, name: &str, if_unused: bool, effects: &mut Effects) -> Result<(), Refusal> {
        let mut topology = self.topology();
        let Some(exchange) = self.exchange(name) else { return Ok(()) };
        if if_unused && !read(&exchange.bindings).is_empty() {
            return Err(Refusal::precondition_failed(format!("{} in use", exchange.resource())));
        }
        self.remove_exchange(&mut topology, &exchange, effects);
        Ok(())
    }

    /// Removes an exchange, and the auto-delete exchanges that lose their last binding by it, however long that chain.
    fn remove_exchange(&self, topology: &mut Topology, exchange: &Arc<Exchange>, effects: &mut Effects) {
        let mut doomed = vec![Arc::clone(exchange)];
        while let Some(exchange) = doomed.pop() {
            if exchange.properties.durable {
                let definition = Definition::ExchangeDeleted {
                    virtual_host: Arc::clone(&self.name),
                    name: Arc::clone(&exchange.name),
                };
                self.record(definition, effects);
            }
            self.exchanges.remove(&exchange.name);
            let unbound = Bindings::new(exchange.properties.kind);
            let bindings = std::mem::replace(&mut *write(&exchange.bindings), unbound);
            for (_, _, destination) in bindings.iter() {
                topology.forget_source(destination.id(), &exchange.name);
            }
            let over = self.unbind_everywhere(topology, &Destination::Exchange(exchange));
            if !effects.is_replay {
                doomed.extend(over);
            }
        }
        self.changed();
    }

    /// Binds a queue or an exchange to `spec.source`; binding again changes nothing.
    ///
    /// # Errors
    /// 404 if either is gone, 406 for arguments that the exchange's type refuses.
    pub fn bind(
        &self,
        destination: &Destination,
        spec: BindingSpec<'_>,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let mut topology = self.topology();
        let source = self.expect_exchange(spec.source)?;
        self.expect_alive(destination)?;
        let added = write(&source.bindings)
            .insert(spec.binding_key, spec.arguments, destination.clone())
            .map_err(|invalid| Refusal::precondition_failed(invalid.to_string()))?;
        if added {
            *topology.count(destination.id(), &source.name) += 1;
            if source.properties.durable && destination.is_durable() {
                self.record(Definition::Bound(self.binding_definition(&source, destination, spec)), effects);
            }
            self.changed();
        }
        Ok(())
    }

    fn expect_alive(&self, destination: &Destination) -> Result<(), Refusal> {
        match destination {
            Destination::Queue(queue) => {
                let current = self.queue(&queue.name).filter(|current| current.id == queue.id);
                current.map(drop).ok_or_else(|| Refusal::no(queue.resource()))
            }
            Destination::Exchange(exchange) => {
                let current = self.exchange(&exchange.name).filter(|current| current.id == exchange.id);
                current.map(drop).ok_or_else(|| Refusal::no(exchange.resource()))
            }
        }
    }

    fn binding_definition(
        &self,
        source: &Exchange,
        destination: &Destination,
        spec: BindingSpec<'_>,
    ) -> Binding {
        Binding {
            virtual_host: Arc::clone(&self.name),
            source: Arc::clone(&source.name),
            to_exchange: matches!(destination, Destination::Exchange(_)),
            destination: Arc::clone(destination.name()),
            binding_key: spec.binding_key.to_owned(),
            arguments: spec.arguments.clone(),
        }
    }

    /// Whether there is that binding.
    pub fn is_bound(&self, destination: &Destination, spec: BindingSpec<'_>) -> bool {
        self.exchange(spec.source).is_some_and(|source| {
            read(&source.bindings).iter().any(|(key, arguments, to)| {
                to == destination && key == spec.binding_key && arguments == spec.arguments
            })
        })
    }

    /// Removes a binding; one that is missing counts as removed.
    pub fn unbind(&self, destination: &Destination, spec: BindingSpec<'_>, effects: &mut Effects) {
        let mut topology = self.topology();
        let Some(source) = self.exchange(spec.source) else { return };
        if !write(&source.bindings).remove(spec.binding_key, spec.arguments, destination) {
            return;
        }
        let count = topology.count(destination.id(), &source.name);
        *count -= 1;
        if *count == 0 {
            topology.forget_source(destination.id(), &source.name);
        }
        if source.properties.durable && destination.is_durable() {
            self.record(Definition::Unbound(self.binding_definition(&source, destination, spec)), effects);
        }
        self.changed();
        if is_over(&source) && !effects.is_replay {
            self.remove_exchange(&mut topology, &source, effects);
        }
    }

    /// Removes every binding to that destination. Returns the exchanges that go with their last binding.
    fn unbind_everywhere(&self, topology: &mut Topology, destination: &Destination) -> Vec<Arc<Exchange>> {
        let sources = topology.sources.remove(&destination.id()).unwrap_or_default();
        let sources = sources.into_keys().filter_map(|name| self.exchange(&name));
        sources
            .filter(|source| {
                write(&source.bindings).remove_destination(destination);
                is_over(source)
            })
            .collect()
    }

    /// Declares a queue, or checks that the one of that name is the same. `is_generated` says that the broker has
    /// made up the name.
    ///
    /// # Errors
    /// 405 for another connection's exclusive queue, 406 for an inequivalent redeclaration, bad arguments or a full
    /// virtual host, 403 for a reserved name.
    pub fn declare_queue(
        &self,
        spec: &QueueSpec<'_>,
        is_generated: bool,
        connection: ConnectionId,
        effects: &mut Effects,
    ) -> Result<Arc<QueueHandle>, Refusal> {
        let _topology = self.topology();
        if let Some(queue) = self.queue(spec.name) {
            check_queue_equivalence(&queue, spec, connection)?;
            return Ok(queue);
        }
        if spec.name.starts_with("amq.") && !is_generated {
            let text = format!("queue name '{}' contains reserved prefix 'amq.*'", spec.name);
            return Err(Refusal::access_refused(text));
        }
        let permit = self.take_queue_permit(spec.name)?;
        let properties = self.check_queue_spec(spec, is_generated, connection)?;
        let name: Arc<str> = spec.name.into();
        let queue = QueueHandle::new(
            QueueId(self.next_id()),
            Arc::clone(&name),
            Arc::clone(&self.name),
            properties,
            permit,
            Arc::clone(&self.pager),
        );
        let queue = Arc::new(queue);
        if queue.properties.durable {
            let definition = Definition::QueueDeclared {
                virtual_host: Arc::clone(&self.name),
                id: queue.id,
                name: Arc::clone(&name),
                auto_delete: spec.auto_delete,
                arguments: spec.arguments.clone(),
            };
            self.record(definition, effects);
        }
        self.insert_queue(&queue);
        Ok(queue)
    }

    fn insert_queue(&self, queue: &Arc<QueueHandle>) {
        self.queues.insert(Arc::clone(&queue.name), Arc::clone(queue));
        self.queue_count.fetch_add(1, Ordering::Relaxed);
        self.changed();
    }

    /// Puts a durable queue back that was there before the start.
    ///
    /// # Errors
    /// 405 if there is one of that name, 406 for bad arguments.
    pub(super) fn restore_queue(
        &self,
        id: QueueId,
        name: &Arc<str>,
        auto_delete: bool,
        table: Table,
    ) -> Result<Arc<QueueHandle>, Refusal> {
        let _topology = self.topology();
        let resource = self.queue_resource(name);
        if self.queues.contains_key(name) {
            return Err(Refusal::locked(resource));
        }
        let arguments = QueueArguments::parse(&table, resource)?;
        let properties = QueueProperties { durable: true, auto_delete, exclusive: None, table, arguments };
        let permit = self.node_queue_count.take_again();
        let (host, pager) = (Arc::clone(&self.name), Arc::clone(&self.pager));
        let queue = Arc::new(QueueHandle::new(id, Arc::clone(name), host, properties, permit, pager));
        self.insert_queue(&queue);
        Ok(queue)
    }

    fn take_queue_permit(&self, name: &str) -> Result<limit::Permit, Refusal> {
        let refused = |place: String, max: u32| {
            let text = format!("cannot declare queue '{name}': queue limit in {place} ({max}) is reached");
            Refusal::precondition_failed(text)
        };
        if let Some(max) = self.queues_max()
            && self.queue_count.load(Ordering::Relaxed) >= max
        {
            return Err(refused(format!("vhost '{}'", self.name), max));
        }
        self.node_queue_count.take().map_err(|max| refused("cluster".to_owned(), max))
    }

    fn check_queue_spec(
        &self,
        spec: &QueueSpec<'_>,
        is_generated: bool,
        connection: ConnectionId,
    ) -> Result<QueueProperties, Refusal> {
        let resource = self.queue_resource(spec.name);
        let arguments = QueueArguments::parse(&spec.arguments, resource)?;
        arguments.check_properties(spec, is_generated, resource)?;
        Ok(QueueProperties {
            // RabbitMQ: an exclusive queue goes with its connection, so there is nothing to survive.
            durable: spec.durable && !spec.exclusive,
            auto_delete: spec.auto_delete,
            exclusive: spec.exclusive.then_some(connection),
            table: spec.arguments.clone(),
            arguments,
        })
    }

    /// Deletes a queue and tells its consumers. Returns the number of ready messages that went with it.
    ///
    /// # Errors
    /// 406 if it is in use and `if_unused` is set, or not empty and `if_empty` is set.
    pub fn delete_queue(
        &self,
        queue: &Arc<QueueHandle>,
        condition: DeleteIf,
        effects: &mut Effects,
    ) -> Result<u32, Refusal> {
        let mut topology = self.topology();
        let (count, consumers) = {
            let mut queue_locked = queue.lock();
            if queue_locked.is_deleted() {
                return Ok(0);
            }
            let failed = match condition {
                DeleteIf { empty: true, .. } if queue_locked.ready_count() > 0 => Some("not empty"),
                DeleteIf { unused: true, .. } if queue_locked.consumer_count() > 0 => Some("in use"),
                _ => None,
            };
            if let Some(reason) = failed {
                return Err(Refusal::precondition_failed(format!("{} {reason}", queue.resource())));
            }
            queue_locked.delete(effects)
        };
        if queue.properties.durable {
            self.record(Definition::QueueDeleted { id: queue.id }, effects);
        }
        self.queues.remove(&queue.name);
        self.queue_count.fetch_sub(1, Ordering::Relaxed);
        let over = self.unbind_everywhere(&mut topology, &Destination::Queue(Arc::clone(queue)));
        if !effects.is_replay {
            over.iter().for_each(|exchange| self.remove_exchange(&mut topology, exchange, effects));
        }
        self.changed();
        notify_cancelled(&consumers, &mut effects.wakes);
        Ok(count)
    }

    /// Removes a consumer; an auto-delete queue goes with its last one.
    pub fn remove_consumer(&self, queue: &Arc<QueueHandle>, consumer: ConsumerKey, effects: &mut Effects) {
        let was_last = {
            let mut queue_locked = queue.lock();
            let was_last = queue_locked.remove_consumer(consumer);
            queue_locked.deliver(queue, effects);
            was_last
        };
        if was_last && queue.properties.auto_delete {
            let unused = DeleteIf { unused: true, empty: false };
            // Refused only if another consumer came meanwhile: then the queue stays, as it should.
            let _ = self.delete_queue(queue, unused, effects);
        }
    }

    /// The queues, in no order in particular.
    pub fn queues(&self) -> Vec<Arc<QueueHandle>> {
        self.queues.iter().map(|queue| Arc::clone(&queue)).collect()
    }
}

/// When a queue may be deleted.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeleteIf {
    /// Only without consumers.
    pub unused: bool,
    /// Only without ready messages.
    pub empty: bool,
}

impl Topology {
    fn count(&mut self, destination: DestinationId, source: &Arc<str>) -> &mut usize {
        self.sources.entry(destination).or_default().entry(Arc::clone(source)).or_default()
    }

    fn forget_source(&mut self, destination: DestinationId, source: &Arc<str>) {
        if let Some(sources) = self.sources.get_mut(&destination) {
            sources.remove(source);
            if sources.is_empty() {
                self.sources.remove(&destination);
            }
        }
    }
}

/// A name that nobody has: the prefix and 22 characters of 128 random bits, as RabbitMQ makes them.
pub fn generated_name(prefix: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let random: [u8; 16] = rand::rng().random();
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(random))
}

fn notify_cancelled(consumers: &[(Arc<Outbox>, ConsumerId)], wakes: &mut Wakes) {
    for (outbox, consumer) in consumers {
        outbox.push(Item::Cancelled(*consumer));
        wakes.add(outbox);
    }
}

/// The type of an exchange by its name.
///
/// # Errors
/// 503, which closes the connection.
pub fn exchange_kind(name: &str) -> Result<ExchangeKind, Refusal> {
    ExchangeKind::parse(name).ok_or_else(|| {
        // RabbitMQ tells a name that no plugin ever registered from one that can't be a type at all.
        let reason = if name.is_empty() { "invalid" } else { "unknown" };
        Refusal::new(ReplyCode::CommandInvalid, format!("{reason} exchange type '{name}'"))
    })
}

fn alternate_exchange(arguments: &Table, resource: Resource<'_>) -> Result<Option<Arc<str>>, Refusal> {
    let Some(value) = arguments.get("alternate-exchange") else { return Ok(None) };
    match value.as_str() {
        Some(name) => Ok(Some(name.into())),
        None => Err(Refusal::precondition_failed(format!(
            "invalid type '{}' for arg 'alternate-exchange' in {resource}",
            value.type_name()
        ))),
    }
}

/// 406 for a property of a redeclaration: `received 'true' but current is 'false'`.
fn check_same<T: PartialEq + fmt::Display>(
    resource: Resource<'_>,
    name: &str,
    received: T,
    current: T,
) -> Result<(), Refusal> {
    if received == current {
        return Ok(());
    }
    Err(Refusal::precondition_failed(format!(
        "inequivalent arg '{name}' for {resource}: received '{received}' but current is '{current}'"
    )))
}

fn check_exchange_equivalence(exchange: &Exchange, spec: &ExchangeSpec<'_>) -> Result<(), Refusal> {
    let resource = exchange.resource();
    let current = &exchange.properties;
    check_same(resource, "type", spec.kind.name(), current.kind.name())?;
    check_same(resource, "durable", spec.durable, current.durable)?;
    check_same(resource, "auto_delete", spec.auto_delete, current.auto_delete)?;
    check_same(resource, "internal", spec.internal, current.internal)?;
    let name = "alternate-exchange";
    let (received, current) = (spec.arguments.get(name), current.table.get(name));
    if received.map(comparable) == current.map(comparable) {
        Ok(())
    } else {
        Err(inequivalent(name, resource, received, current))
    }
}

fn check_queue_equivalence(
    queue: &QueueHandle,
    spec: &QueueSpec<'_>,
    connection: ConnectionId,
) -> Result<(), Refusal> {
    let current = &queue.properties;
    if current.exclusive != spec.exclusive.then_some(connection) {
        return Err(Refusal::locked(queue.resource()));
    }
    let resource = queue.resource();
    check_same(resource, "durable", spec.durable && !spec.exclusive, current.durable)?;
    check_same(resource, "auto_delete", spec.auto_delete, current.auto_delete)?;
    QueueArguments::check_equivalence(&current.table, &spec.arguments, resource)
}

/// Whether it is an auto-delete exchange that has lost its last binding.
fn is_over(exchange: &Exchange) -> bool {
    exchange.properties.auto_delete && read(&exchange.bindings).is_empty()
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().expect("invariant: no panic under a lock of bindings")
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().expect("invariant: no panic under a lock of bindings")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> VirtualHost {
        VirtualHost::new(
            "/",
            Arc::default(),
            Arc::default(),
            Arc::default(),
            None,
            Arc::new(limit::Count::new(None)),
        )
    }

    #[test]
    fn a4_a_long_chain_of_auto_delete_exchanges_goes_at_once() {
        const LEN: usize = 20_000;
        let (host, mut effects) = (host(), Effects::default());
        let before = host.exchanges.len();
        for number in 0..LEN {
            let spec = ExchangeSpec {
                name: &number.to_string(),
                kind: ExchangeKind::Fanout,
                durable: false,
                auto_delete: true,
                internal: false,
                arguments: Table::default(),
            };
            host.declare_exchange(&spec, &mut effects).expect("valid");
            if let Some(source) = number.checked_sub(1) {
                let (source, arguments) = (source.to_string(), Table::default());
                let binding = BindingSpec { source: &source, binding_key: "", arguments: &arguments };
                let destination = Destination::Exchange(host.expect_exchange(spec.name).expect("declared"));
                host.bind(&destination, binding, &mut effects).expect("both are there");
            }
        }
        host.delete_exchange(&(LEN - 1).to_string(), false, &mut effects).expect("there");
        assert_eq!(host.exchanges.len(), before);
        assert!(host.topology().sources.is_empty());
    }
}
