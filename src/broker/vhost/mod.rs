//! A virtual host: its exchanges, queues and bindings, and every change to them.
//!
//! Look-ups by name go to concurrent maps; changes are made under one lock, so that a declaration and a deletion
//! that meet have an order. Each change moves `generation`, which lets a channel keep the routes it has found.

mod bindings;
mod exchanges;
mod queues;

use std::{
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
    definition::Definition,
    effects::Effects,
    event::{self, Event, Events},
    exchange::{DestinationId, Exchange, ExchangeArguments, ExchangeKind, ExchangeProperties},
    journal::{Fact, Journal, Lsn},
    limit,
    outbox::ConnectionId,
    pager::Pager,
    policy::{Policies, Policy, PolicyKind, read_policies, write_policies},
    queue::{QueueHandle, QueueKind},
    refusal::{Refusal, Resource},
};
use crate::amqp::Table;

pub(super) use exchanges::alternate_exchange;
pub use exchanges::exchange_kind;

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

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().expect("invariant: no panic under a lock of bindings")
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().expect("invariant: no panic under a lock of bindings")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::exchange::Destination;

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
