//! A virtual host: its exchanges, queues and bindings, and every change to them.
//!
//! Look-ups by name go to concurrent maps; changes are made under one lock, so that a declaration and a deletion
//! that meet have an order. Each change moves `generation`, which lets a channel keep the routes it has found.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use dashmap::DashMap;
use rand::Rng as _;
use tracing::info;

use super::{
    definition::{Binding, Definition},
    delay,
    effects::Effects,
    event::{self, Event, Events},
    exchange::{
        Destination, DestinationId, Exchange, ExchangeArguments, ExchangeKind, ExchangeProperties, History,
        Kept, alternate_argument,
    },
    journal::{Fact, Journal, Lsn},
    limit,
    outbox::{ConnectionId, ConsumerId, Item, Outbox, Wakes},
    pager::Pager,
    policy::{Policies, Policy, PolicyKind, read_policies, write_policies},
    queue::{ConsumerKey, QueueArguments, QueueHandle, QueueId, QueueKind, QueueProperties},
    refusal::{Refusal, Resource},
};
use crate::amqp::{ReplyCode, Table};

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

/// What operators say about a virtual host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// What it is for, for people.
    pub description: String,
    /// Of the operators' own.
    pub tags: Vec<String>,
    /// The type of queues that say none (RabbitMQ: `default_queue_type`), where it can have them.
    pub default_queue_type: Option<QueueKind>,
    /// Whether it can't be deleted (RabbitMQ 4.1: deletion protection).
    pub is_protected: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    metadata: RwLock<Arc<Metadata>>,
    exchanges: DashMap<Arc<str>, Arc<Exchange>>,
    queues: DashMap<Arc<str>, Arc<QueueHandle>>,
    topology: Mutex<Topology>,
    policies: RwLock<Policies>,
    generation: AtomicU64,
    ids: Arc<AtomicU64>,
    journal: Arc<Journal>,
    pager: Arc<Pager>,
    events: Arc<Events>,
    /// The exchange of the events, in the one virtual host that has it.
    event_exchange: Option<Arc<Exchange>>,
    is_tracing: AtomicBool,
    recorded: AtomicU64,
    /// Octets of the messages that its exchanges keep.
    history_bytes: Arc<AtomicU64>,
    /// `u32::MAX` is no limit.
    queues_max: AtomicU32,
    queue_count: AtomicU32,
    node_queue_count: Arc<limit::Count>,
}

/// Under the lock: from where each destination is bound, and how often, so that deleting it finds its bindings.
#[derive(Debug, Default)]
struct Topology {
    /// Whether the virtual host is being deleted: nothing more is added.
    is_closed: bool,
    sources: HashMap<DestinationId, HashMap<Arc<str>, usize>>,
}

/// The exchanges that every virtual host has: name, type, internal.
const PREDECLARED: [(&str, ExchangeKind, bool); 7] = [
    ("", ExchangeKind::Direct, false),
    ("amq.direct", ExchangeKind::Direct, false),
    ("amq.fanout", ExchangeKind::Fanout, false),
    ("amq.topic", ExchangeKind::Topic, false),
    ("amq.headers", ExchangeKind::Headers, false),
    ("amq.match", ExchangeKind::Headers, false),
    (TRACE_EXCHANGE, ExchangeKind::Topic, true),
];

/// The exchange that is told what is published and delivered (RabbitMQ: the firehose).
pub const TRACE_EXCHANGE: &str = "amq.rabbitmq.trace";

/// The name that stands for a reply consumer; declaring it always succeeds (RabbitMQ: direct reply-to).
pub const REPLY_TO: &str = "amq.rabbitmq.reply-to";

impl VirtualHost {
    /// A virtual host with the predeclared exchanges. `ids` gives identities that are unique in the whole broker.
    pub fn new(
        name: &str,
        ids: Arc<AtomicU64>,
        journal: Arc<Journal>,
        pager: Arc<Pager>,
        events: Arc<Events>,
        queues_max: Option<u32>,
        node_queue_count: Arc<limit::Count>,
    ) -> Self {
        let mut host = Self {
            name: name.into(),
            metadata: RwLock::default(),
            exchanges: DashMap::new(),
            queues: DashMap::new(),
            topology: Mutex::default(),
            policies: RwLock::default(),
            generation: AtomicU64::new(1),
            ids,
            journal,
            pager,
            events,
            event_exchange: None,
            is_tracing: AtomicBool::new(false),
            recorded: AtomicU64::new(0),
            history_bytes: Arc::default(),
            queues_max: AtomicU32::new(queues_max.unwrap_or(u32::MAX)),
            queue_count: AtomicU32::new(0),
            node_queue_count,
        };
        for (name, kind, internal) in PREDECLARED {
            host.predeclare(name, kind, internal);
        }
        if name == event::VIRTUAL_HOST {
            host.event_exchange = Some(host.predeclare(event::EXCHANGE, ExchangeKind::Topic, true));
        }
        host
    }

    /// Declares a topic exchange of the broker's own, if it is not there.
    pub(super) fn predeclare_topic(&self, name: &str) {
        if self.exchange(name).is_none() {
            self.predeclare(name, ExchangeKind::Topic, true);
        }
    }

    fn predeclare(&self, name: &str, kind: ExchangeKind, internal: bool) -> Arc<Exchange> {
        let properties = ExchangeProperties {
            kind,
            durable: true,
            auto_delete: false,
            internal,
            delays: false,
            table: Table::default(),
            arguments: ExchangeArguments::none(kind),
            alternate: None,
        };
        self.insert_exchange(name.into(), properties)
    }

    /// What operators say about it.
    pub fn metadata(&self) -> Arc<Metadata> {
        Arc::clone(&read(&self.metadata))
    }

    pub(super) fn describe(&self, metadata: Arc<Metadata>) {
        *write(&self.metadata) = metadata;
    }

    /// Whether what is published and delivered is told to [`TRACE_EXCHANGE`].
    pub fn is_tracing(&self) -> bool {
        self.is_tracing.load(Ordering::Relaxed)
    }

    pub(super) fn set_tracing(&self, is_on: bool) {
        self.is_tracing.store(is_on, Ordering::Relaxed);
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

    /// The type of an exchange of that name that every virtual host has.
    pub fn predeclared(name: &str) -> Option<ExchangeKind> {
        PREDECLARED.iter().find(|(known, ..)| *known == name).map(|(_, kind, _)| *kind)
    }

    /// Whether every virtual host has an exchange of that name.
    pub fn is_predeclared(name: &str) -> bool {
        Self::predeclared(name).is_some()
    }

    /// How many queues it holds.
    pub fn queue_count(&self) -> u64 {
        self.queue_count.load(Ordering::Relaxed).into()
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

    /// Something that routes depend on has changed. Called under the topology's lock.
    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        if let Some(exchange) = &self.event_exchange {
            self.events.set_watched(!read(&exchange.bindings).is_empty());
        }
    }

    /// Puts a definition into the journal. Called under the topology's lock and before the change can be seen, so that
    /// the journal has definitions in their order, and each before what builds on it.
    fn record(&self, definition: Definition, effects: &mut Effects) {
        if effects.is_replay {
            return;
        }
        if let Some(text) = definition.summary() {
            info!(by = effects.user.as_deref(), "{text}");
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
    /// 403 for a reserved name, 406 for an inequivalent redeclaration and bad arguments.
    pub fn declare_exchange(&self, spec: &ExchangeSpec<'_>, effects: &mut Effects) -> Result<(), Refusal> {
        let topology = self.topology();
        if let Some(exchange) = self.exchange(spec.name) {
            return check_exchange_equivalence(&exchange, spec);
        }
        self.expect_open(&topology)?;
        let resource = self.exchange_resource(spec.name);
        if spec.name.starts_with("amq.") {
            let text = format!("exchange name '{}' contains reserved prefix 'amq.*'", spec.name);
            return Err(Refusal::access_refused(text));
        }
        let alternate = alternate_exchange(&spec.arguments, resource)?;
        let arguments = match ExchangeArguments::parse(spec.kind, &spec.arguments, resource) {
            // It was taken by a version that did not check them.
            Err(_) if effects.is_replay => ExchangeArguments::none(spec.kind),
            arguments => arguments?,
        };
        let properties = ExchangeProperties {
            kind: spec.kind,
            durable: spec.durable,
            auto_delete: spec.auto_delete,
            internal: spec.internal,
            delays: spec.kind == ExchangeKind::DelayedMessage,
            table: spec.arguments.clone(),
            arguments,
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
        let exchange = self.insert_exchange(name, properties);
        self.events.tell(effects, |_, user| Event::exchange_created(user, &exchange));
        // One that comes back has its queue among those that come back.
        if !effects.is_replay {
            self.add_delay_queue(&exchange, effects);
        }
        Ok(())
    }

    /// Gives an exchange that delays messages the queue that keeps them.
    fn add_delay_queue(&self, exchange: &Exchange, effects: &mut Effects) {
        if !exchange.properties.delays || exchange.delay_queue().is_some() {
            return;
        }
        let (id, name) = (QueueId(self.next_id()), Arc::from(delay::queue_name(&exchange.name)));
        let properties = QueueProperties {
            durable: exchange.properties.durable,
            auto_delete: false,
            exclusive: None,
            table: Table::default(),
            arguments: Arc::default(),
        };
        if properties.durable {
            let definition = Definition::QueueDeclared {
                virtual_host: Arc::clone(&self.name),
                id,
                name: Arc::clone(&name),
                auto_delete: false,
                arguments: Table::default(),
            };
            self.record(definition, effects);
        }
        let permit = self.node_queue_count.take_again();
        let (host, pager) = (Arc::clone(&self.name), Arc::clone(&self.pager));
        let queue = Arc::new(QueueHandle::new(id, name, host, properties, permit, pager));
        exchange.set_delay_queue(&queue);
        self.insert_queue(&queue);
    }

    /// Gives exchanges that delay messages the queues that they lack: a crash may come between the two definitions.
    pub(super) fn add_missing_delay_queues(&self, effects: &mut Effects) {
        let _topology = self.topology();
        self.exchanges().iter().for_each(|exchange| self.add_delay_queue(exchange, effects));
    }

    /// Whether a queue keeps the delayed messages of an exchange that is gone: a crash may come between the deletions of
    /// both.
    pub(super) fn is_left_over(&self, queue: &Arc<QueueHandle>) -> bool {
        let Some(exchange) = delay::exchange_of(&queue.name) else { return false };
        let exchange = self.exchange(exchange);
        !exchange.is_some_and(|exchange| exchange.delay_queue().is_some_and(|own| Arc::ptr_eq(own, queue)))
    }

    fn remove_delay_queue(&self, exchange: &Exchange, effects: &mut Effects) {
        let Some(queue) = exchange.delay_queue() else { return };
        queue.lock().delete(effects);
        if queue.properties.durable {
            self.record(Definition::QueueDeleted { id: queue.id }, effects);
        }
        self.queues.remove(&queue.name);
        self.queue_count.fetch_sub(1, Ordering::Relaxed);
    }

    fn insert_exchange(&self, name: Arc<str>, properties: ExchangeProperties) -> Arc<Exchange> {
        let (id, host) = (self.next_id(), Arc::clone(&self.name));
        let exchange = Exchange::new(id, Arc::clone(&name), host, properties, &self.history_bytes);
        exchange.apply_policies(&self.policies);
        let exchange = Arc::new(exchange);
        self.exchanges.insert(name, Arc::clone(&exchange));
        self.changed();
        exchange
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
            self.remove_delay_queue(&exchange, effects);
            let bindings = write(&exchange.bindings).take();
            self.events.tell(effects, |_, user| Event::exchange_deleted(user, &exchange));
            for (key, arguments, destination) in bindings.iter() {
                topology.forget_source(destination.id(), &exchange.name);
                self.tell_binding(false, &exchange, destination, (key, arguments), effects);
            }
            let over = self.unbind_everywhere(topology, &Destination::Exchange(exchange), effects);
            if !effects.is_replay {
                doomed.extend(over);
            }
        }
        self.changed();
    }

    /// Binds a queue or an exchange to `spec.source`; binding again changes nothing. Returns the messages that the source
    /// has kept for whoever is bound, oldest first: the caller is to send them there. Those that are not among them find
    /// the binding.
    ///
    /// # Errors
    /// 404 if either is gone, 406 for arguments that the exchange's type refuses.
    pub fn bind(
        &self,
        destination: &Destination,
        spec: BindingSpec<'_>,
        effects: &mut Effects,
    ) -> Result<Vec<Kept>, Refusal> {
        let mut topology = self.topology();
        self.expect_open(&topology)?;
        let source = self.expect_exchange(spec.source)?;
        self.expect_alive(destination)?;
        let mut bindings = write(&source.bindings);
        let added = bindings
            .insert(spec.binding_key, spec.arguments, destination.clone())
            .map_err(|invalid| Refusal::precondition_failed(invalid.to_string()))?;
        // Before the lock goes: a message is routed and kept under it too, so each one comes once.
        let kept = source.history.as_ref().filter(|_| added).map(History::messages);
        drop(bindings);
        if added {
            *topology.count(destination.id(), &source.name) += 1;
            if source.properties.durable && destination.is_durable() {
                self.record(Definition::Bound(self.binding_definition(&source, destination, spec)), effects);
            }
            self.changed();
            let key = (spec.binding_key, spec.arguments);
            self.tell_binding(true, &source, destination, key, effects);
        }
        Ok(kept.unwrap_or_default())
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

    /// The exchanges that a queue or an exchange is bound to, the default exchange left out.
    pub fn sources_of(&self, destination: &Destination) -> Vec<Arc<Exchange>> {
        let topology = self.topology();
        let names = topology.sources.get(&destination.id()).into_iter().flat_map(HashMap::keys);
        names.filter_map(|name| self.exchange(name)).collect()
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
        self.tell_binding(false, &source, destination, (spec.binding_key, spec.arguments), effects);
        if is_over(&source) && !effects.is_replay {
            self.remove_exchange(&mut topology, &source, effects);
        }
    }

    /// Removes every binding to that destination. Returns the exchanges that go with their last binding.
    fn unbind_everywhere(
        &self,
        topology: &mut Topology,
        destination: &Destination,
        effects: &mut Effects,
    ) -> Vec<Arc<Exchange>> {
        let sources = topology.sources.remove(&destination.id()).unwrap_or_default();
        let sources = sources.into_keys().filter_map(|name| self.exchange(&name));
        sources
            .filter(|source| {
                self.tell_unbound(source, destination, effects);
                write(&source.bindings).remove_destination(destination);
                is_over(source)
            })
            .collect()
    }

    fn tell_binding(
        &self,
        is_created: bool,
        source: &Exchange,
        destination: &Destination,
        key: (&str, &Table),
        effects: &mut Effects,
    ) {
        let event = |_: &Events, user: &str| Event::binding(is_created, user, source, destination, key);
        self.events.tell(effects, event);
    }

    /// Tells that all bindings from one exchange to a destination go with it (RabbitMQ: by themselves).
    fn tell_unbound(&self, source: &Exchange, destination: &Destination, effects: &mut Effects) {
        if !self.events.is_watched() {
            return;
        }
        let bindings = read(&source.bindings);
        effects.by_nobody(|effects| {
            bindings.to(destination).for_each(|key| {
                self.tell_binding(false, source, destination, key, effects);
            });
        });
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
        let topology = self.topology();
        if let Some(queue) = self.queue(spec.name) {
            match check_queue_equivalence(&queue, spec, connection) {
                // The queue may have got the default type when it was declared, or be older than the default.
                Err(_)
                    if check_queue_equivalence(&queue, &self.typed(spec, is_generated), connection)
                        .is_ok() => {}
                checked => checked?,
            }
            self.pager.stats.queues_declared.add(1);
            return Ok(queue);
        }
        self.expect_open(&topology)?;
        let spec = &*self.typed(spec, is_generated);
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
        queue.apply_policies(&self.policies, effects);
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
        self.pager.stats.queues_declared.add(1);
        self.pager.stats.queues_created.add(1);
        self.events.tell(effects, |events, user| events.queue_created(user, &queue));
        Ok(queue)
    }

    /// What is asked for, with the type that queues get here which say none, if such a queue can be of that type
    /// (RabbitMQ: a quorum queue is durable and nobody's own, and has a name).
    fn typed<'a, 's>(&self, spec: &'s QueueSpec<'a>, is_generated: bool) -> Cow<'s, QueueSpec<'a>> {
        let default = self.metadata().default_queue_type;
        let fits = match default {
            None => false,
            Some(QueueKind::Classic) => true,
            Some(QueueKind::Quorum) => spec.durable && !spec.exclusive && !spec.auto_delete && !is_generated,
        };
        match default.filter(|_| fits && spec.arguments.get("x-queue-type").is_none()) {
            None => Cow::Borrowed(spec),
            Some(kind) => {
                let mut spec = spec.clone();
                spec.arguments.0.push(("x-queue-type".to_owned(), kind.short_name().into()));
                Cow::Owned(spec)
            }
        }
    }

    /// # Errors
    /// 530 if the virtual host is being deleted.
    fn expect_open(&self, topology: &Topology) -> Result<(), Refusal> {
        if topology.is_closed {
            return Err(Refusal::not_allowed(format!("vhost '{}' is deleted", self.name)));
        }
        Ok(())
    }

    /// Deletes everything in it, and takes nothing more: it is about to be deleted.
    pub(super) fn close(&self, effects: &mut Effects) {
        self.topology().is_closed = true;
        for queue in self.queues() {
            // Without conditions nothing can be refused.
            let _ = self.delete_queue(&queue, DeleteIf::default(), effects);
        }
        for exchange in self.exchanges() {
            let mut topology = self.topology();
            // One that another exchange's end has taken with it is gone.
            if self.exchange(&exchange.name).is_some() {
                self.remove_exchange(&mut topology, &exchange, effects);
            }
        }
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
        let arguments = QueueArguments::restored(&table);
        let properties = QueueProperties { durable: true, auto_delete, exclusive: None, table, arguments };
        let permit = self.node_queue_count.take_again();
        let (host, pager) = (Arc::clone(&self.name), Arc::clone(&self.pager));
        let queue = Arc::new(QueueHandle::new(id, Arc::clone(name), host, properties, permit, pager));
        if let Some(exchange) = delay::exchange_of(name).and_then(|exchange| self.exchange(exchange))
            && exchange.properties.delays
        {
            exchange.set_delay_queue(&queue);
        }
        // It is empty, so that nothing comes of it.
        queue.apply_policies(&self.policies, &mut Effects::default());
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

    /// The policies of that kind, the one that counts most first.
    pub fn policies(&self, kind: PolicyKind) -> Vec<Arc<Policy>> {
        read_policies(&self.policies).iter(kind).map(Arc::clone).collect()
    }

    /// Adds a policy, or replaces the one of its kind and name, and makes it act. Whether that is a change.
    pub(super) fn put_policy(&self, policy: Arc<Policy>, effects: &mut Effects) -> bool {
        {
            let _topology = self.topology();
            if read_policies(&self.policies).has_recorded(&policy) {
                return false;
            }
            let (virtual_host, put) = (Arc::clone(&self.name), Arc::clone(&policy));
            self.record(Definition::PolicyPut { virtual_host, policy: put }, effects);
            self.events.tell(effects, |_, user| Event::policy_set(user, &self.name, &policy));
            write_policies(&self.policies).put(policy, false);
        }
        self.apply_policies(effects);
        true
    }

    /// Adds policies of the configuration, which the log does not get, where there is none of the same kind and name.
    pub(super) fn configure_policies(&self, policies: Vec<Policy>, effects: &mut Effects) {
        {
            let _topology = self.topology();
            let mut known = write_policies(&self.policies);
            for policy in policies {
                if known.get(policy.kind, &policy.name).is_none() {
                    known.put(Arc::new(policy), true);
                }
            }
        }
        self.apply_policies(effects);
    }

    /// Removes a policy, and what it says with it. Whether there was one.
    pub(super) fn delete_policy(&self, kind: PolicyKind, name: &str, effects: &mut Effects) -> bool {
        {
            let _topology = self.topology();
            if read_policies(&self.policies).get(kind, name).is_none() {
                return false;
            }
            let virtual_host = Arc::clone(&self.name);
            self.record(Definition::PolicyDeleted { virtual_host, kind, name: name.into() }, effects);
            self.events.tell(effects, |_, user| Event::policy_cleared(user, &self.name, name));
            write_policies(&self.policies).delete(kind, name);
        }
        self.apply_policies(effects);
        true
    }

    /// Makes the policies act on all that there is. What is declared at the same time has them already: see
    /// [`QueueHandle::apply_policies`]. Not under the topology's lock, for that can take a while.
    fn apply_policies(&self, effects: &mut Effects) {
        for queue in self.queues() {
            queue.apply_policies(&self.policies, effects);
        }
        for exchange in self.exchanges() {
            exchange.apply_policies(&self.policies);
        }
        self.changed();
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
        self.pager.stats.queues_deleted.add(1);
        if queue.properties.durable {
            self.record(Definition::QueueDeleted { id: queue.id }, effects);
        }
        self.queues.remove(&queue.name);
        self.queue_count.fetch_sub(1, Ordering::Relaxed);
        let over = self.unbind_everywhere(&mut topology, &Destination::Queue(Arc::clone(queue)), effects);
        self.events.tell(effects, |_, user| Event::queue_deleted(user, queue));
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
            let _ = effects.by_nobody(|effects| self.delete_queue(queue, unused, effects));
        }
    }

    /// The exchanges, in no order in particular.
    pub fn exchanges(&self) -> Vec<Arc<Exchange>> {
        self.exchanges.iter().map(|exchange| Arc::clone(&exchange)).collect()
    }

    /// How many exchanges there are.
    pub fn exchange_count(&self) -> usize {
        self.exchanges.len()
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

pub(super) fn alternate_exchange(
    arguments: &Table,
    resource: Resource<'_>,
) -> Result<Option<Arc<str>>, Refusal> {
    let Some((argument, value)) = alternate_argument(arguments) else { return Ok(None) };
    match value.as_str() {
        Some(name) => Ok(Some(name.into())),
        None => Err(Refusal::precondition_failed(format!(
            "invalid type '{}' for arg '{argument}' in {resource}",
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
    check_same(resource, "type", atom(spec.kind), atom(current.kind))?;
    check_same(resource, "durable", spec.durable, current.durable)?;
    check_same(resource, "auto_delete", spec.auto_delete, current.auto_delete)?;
    check_same(resource, "internal", spec.internal, current.internal)?;
    current.arguments.check_equivalence(current.kind, &current.table, &spec.arguments, resource)
}

/// The name of a type as Erlang prints the atom: in quotes of its own if it is no plain word.
fn atom(kind: ExchangeKind) -> Cow<'static, str> {
    let name = kind.name();
    if name.contains('-') { format!("'{name}'").into() } else { name.into() }
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
