//! The domain: virtual hosts, exchanges, bindings, routing, queues, consumers, users and permissions.
//!
//! Pure: no sockets, files, tasks or clocks. Time and randomness come from outside or have no influence on order.
//!
//! Locks are short and taken in this order: the topology of a virtual host, one queue, then an outbox or the journal.
//! Nothing waits while it holds one.

pub mod alarm;
pub mod batch;
pub mod connections;
pub mod dead_letter;
pub mod death;
pub mod dedup;
pub mod define;
pub mod definition;
pub mod delay;
pub mod effects;
pub mod event;
pub mod exchange;
pub mod import;
pub mod journal;
pub mod limit;
pub mod log_exchange;
pub mod login;
pub mod message;
pub mod outbox;
pub mod pager;
pub mod parameter;
pub mod permission;
pub mod policy;
pub mod queue;
pub mod refusal;
pub mod restore;
pub mod route;
pub mod runtime;
pub mod stats;
pub mod timers;
pub mod user;
pub mod vhost;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use dashmap::DashMap;
use serde::Deserialize;

use self::{
    alarm::Alarms,
    connections::Connections,
    effects::Effects,
    event::Events,
    journal::Journal,
    limit::{Counts, Limits},
    login::Logins,
    outbox::{ConnectionId, ConsumerId, Item, Outbox},
    pager::{Load, Loaded, Pager, Served},
    parameter::Parameters,
    permission::Permissions,
    queue::{ConsumerKey, QueueHandle},
    runtime::Runtime,
    stats::Stats,
    timers::Timers,
    user::Users,
    vhost::VirtualHost,
};

/// A point in time, given to whatever depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that never goes back, from some point in the past.
    pub monotonic_ms: u64,
    /// Milliseconds since 1970 on a clock that never goes back while the broker runs: what deadlines are in that outlive
    /// it.
    pub unix_ms: u64,
}

impl Now {
    /// The time on a clock that began in 1970, as tests make it up.
    pub fn made_up(ms: u64) -> Self {
        Self { monotonic_ms: ms, unix_ms: ms }
    }
}

/// The deadline in [`Now::unix_ms`] of what has none.
pub const NEVER: u64 = u64::MAX;

/// What clients are told they talk to.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `product` of the server properties.
    pub product: String,
    /// `version` of the server properties.
    pub version: String,
    /// `cluster_name` of the server properties.
    pub cluster_name: String,
}

/// How long deliveries may stay unacknowledged, and what happens then (RabbitMQ: consumer timeout).
#[derive(Clone, Copy, Debug, Default)]
pub struct ConsumerTimeout {
    /// Where neither the consumer nor the queue says, in milliseconds; 0 for as long as it takes.
    pub default_ms: u64,
    /// Whether the consumer is cancelled (RabbitMQ 4.3) rather than its channel closed.
    pub cancels: bool,
}

/// What is added to messages as they come in (RabbitMQ: message interceptors): the section `[interceptors]` of the
/// configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Interceptors {
    /// The time: the property `timestamp` in seconds, and the header `timestamp_in_ms`.
    pub timestamp: Stamp,
    /// The name of the node, in the header `x-routed-by`.
    pub routed_by: Stamp,
}

impl Interceptors {
    /// Whether there are any.
    pub fn are_on(self) -> bool {
        self != Self::default()
    }
}

/// Whether something is added to messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stamp {
    /// No.
    #[default]
    Off,
    /// Where the publisher has not set it.
    Keep,
    /// In place of what the publisher has set.
    Overwrite,
}

/// A consumer that waits for direct replies (RabbitMQ: `amq.rabbitmq.reply-to`).
#[derive(Clone, Debug)]
pub struct ReplyConsumer {
    /// Where its deliveries go.
    pub outbox: Arc<Outbox>,
    /// Its number in its connection.
    pub consumer: ConsumerId,
}

/// Everything that connections share.
#[derive(Debug)]
pub struct Broker {
    /// Who may connect.
    pub users: Users,
    /// Who has logged in, or has tried to, of late.
    pub logins: Logins,
    /// What they may do.
    pub permissions: Permissions,
    /// What operators have set for components, such as shovels.
    pub parameters: Parameters,
    /// The facts that must become durable.
    pub journal: Arc<Journal>,
    /// What of the queues is in memory.
    pub pager: Arc<Pager>,
    /// Why publishers are blocked, if they are.
    pub alarms: Alarms,
    /// What happens, for whoever wants to know.
    pub events: Arc<Events>,
    /// When something is to be done to which queues.
    pub timers: Timers,
    /// What is counted of all of it.
    pub stats: Arc<Stats>,
    /// The connections that are open, as operators see them.
    pub connections: Connections,
    /// What an operator changes while it runs.
    pub runtime: Runtime,
    /// Whether an `x-death` header that a client sent is continued, as in RabbitMQ 3.
    pub interprets_x_death: bool,
    /// Whether what clients put back counts as failed, as in RabbitMQ up to 4.2.
    pub counts_returns: bool,
    /// How long deliveries may stay unacknowledged, and what happens then.
    pub consumer_timeout: ConsumerTimeout,
    /// What is added to messages as they come in.
    pub interceptors: Interceptors,
    /// The bounds of what clients may ask for.
    pub limits: Limits,
    /// How many connections and channels there are.
    pub counts: Counts,
    /// What clients are told they talk to.
    pub identity: Identity,
    /// By the name that replies are published to.
    pub reply_consumers: DashMap<Arc<str>, ReplyConsumer>,
    virtual_hosts: DashMap<Arc<str>, Arc<VirtualHost>>,
    outboxes: DashMap<ConnectionId, Arc<Outbox>>,
    ids: Arc<AtomicU64>,
    queue_count: Arc<limit::Count>,
    /// Held while something is defined that is not a virtual host's own.
    definitions: Mutex<()>,
    loaded_file: Mutex<Option<[u8; 32]>>,
    /// Held by whoever imports definitions, one at a time.
    importing: Mutex<()>,
}

impl Broker {
    /// A broker without virtual hosts.
    pub fn new(users: Users, permissions: Permissions, limits: Limits, identity: Identity) -> Self {
        let stats = Arc::<Stats>::default();
        Self {
            users,
            logins: Logins::default(),
            permissions,
            parameters: Parameters::default(),
            journal: Arc::default(),
            pager: Arc::new(Pager::reporting_to(Arc::clone(&stats))),
            alarms: Alarms::default(),
            events: Arc::new(Events::new(&identity.cluster_name)),
            timers: Timers::default(),
            stats,
            connections: Connections::default(),
            runtime: Runtime::default(),
            interprets_x_death: true,
            counts_returns: false,
            consumer_timeout: ConsumerTimeout::default(),
            interceptors: Interceptors::default(),
            queue_count: Arc::new(limit::Count::new(limits.queues_max)),
            counts: Counts::new(&limits),
            limits,
            identity,
            reply_consumers: DashMap::new(),
            virtual_hosts: DashMap::new(),
            outboxes: DashMap::new(),
            ids: Arc::new(AtomicU64::new(1)),
            definitions: Mutex::default(),
            loaded_file: Mutex::default(),
            importing: Mutex::default(),
        }
    }

    /// The virtual host of that name.
    pub fn virtual_host(&self, name: &str) -> Option<Arc<VirtualHost>> {
        self.virtual_hosts.get(name).map(|host| Arc::clone(&host))
    }

    /// All virtual hosts, in no order.
    pub fn virtual_hosts(&self) -> Vec<Arc<VirtualHost>> {
        self.virtual_hosts.iter().map(|host| Arc::clone(&host)).collect()
    }

    /// How many queues there are, over all virtual hosts.
    pub fn queue_count(&self) -> u32 {
        self.queue_count.count()
    }

    /// Turns the tracing of what is published and delivered in a virtual host on or off (RabbitMQ: `trace_on`), until the
    /// broker stops. False if there is no such virtual host.
    pub fn set_tracing(&self, virtual_host: &str, is_on: bool) -> bool {
        let host = self.virtual_host(virtual_host);
        host.map(|host| host.set_tracing(is_on)).is_some()
    }

    /// Makes the outbox of a new connection, which [`Broker::wake_all`] then reaches.
    pub fn open_outbox(&self) -> Arc<Outbox> {
        let connection = ConnectionId(self.ids.fetch_add(1, Ordering::Relaxed));
        let outbox = Arc::new(Outbox::new(connection, self.limits.unsent_bytes_per_connection));
        self.outboxes.insert(connection, Arc::clone(&outbox));
        outbox
    }

    /// Forgets the outbox of a connection that has ended.
    pub fn close_outbox(&self, connection: ConnectionId) {
        self.outboxes.remove(&connection);
    }

    /// Serves a queue that was taken from [`Broker::pager`]: has what it needs loaded, and lets it deliver. If that was
    /// [`Served::Incomplete`], it is to be served again once the log has written more.
    ///
    /// # Errors
    /// What `load` fails with.
    pub fn serve<E>(
        &self,
        queue: &Arc<QueueHandle>,
        now: Now,
        load: impl FnOnce(&Load) -> Result<Loaded, E>,
    ) -> Result<Served, E> {
        let mut effects = Effects { now, ..Effects::default() };
        let load = |wanted: &Load| {
            let loaded = load(wanted)?;
            self.stats.disk_reads.add(loaded.messages.len() as u64);
            Ok(loaded)
        };
        let served = pager::serve(queue, load, &mut effects)?;
        let forwards = !effects.letters.is_empty();
        self.conclude(effects);
        Ok(if served == Served::Whole && forwards { Served::Forwarded } else { served })
    }

    /// Ends a consumer because an operator wants it, and tells its client as if its queue had been deleted. What it has
    /// not acknowledged stays with it.
    pub fn cancel_consumer(
        &self,
        host: &VirtualHost,
        queue: &Arc<QueueHandle>,
        consumer: ConsumerKey,
        now: Now,
    ) {
        let mut effects = Effects { now, ..Effects::default() };
        // First from the queue: what it was given before goes out before it is told.
        host.remove_consumer(queue, consumer, &mut effects);
        let outbox = self.outboxes.get(&consumer.connection).map(|outbox| Arc::clone(&outbox));
        if let Some(outbox) = outbox {
            outbox.push(Item::Cancelled(consumer.id));
            effects.wakes.add(&outbox);
        }
        self.conclude(effects);
    }

    /// Puts into effect what a change has left to be done.
    fn conclude(&self, mut effects: Effects) {
        if effects.has_events {
            self.publish_events(&mut effects);
        }
        self.forward(&mut effects);
        self.timers.add(&mut effects.timers);
        if !effects.facts.is_empty() {
            self.journal.append(&mut effects.facts);
        }
        effects.wakes.wake_all();
    }

    /// Wakes every connection, to look at the alarms.
    pub fn wake_all(&self) {
        let outboxes: Vec<_> = self.outboxes.iter().map(|outbox| Arc::clone(&outbox)).collect();
        for outbox in outboxes {
            outbox.wake();
        }
    }
}

#[cfg(test)]
mod tests;
