//! The domain: virtual hosts, exchanges, bindings, routing, queues, consumers, users and permissions.
//!
//! Pure: no sockets, files, tasks or clocks. Time and randomness come from outside or have no influence on order.
//!
//! Locks are short and taken in this order: the topology of a virtual host, one queue, then an outbox or the journal.
//! Nothing waits while it holds one.

pub mod alarm;
pub mod exchange;
pub mod expiry;
pub mod journal;
pub mod limit;
pub mod message;
pub mod outbox;
pub mod permission;
pub mod queue;
pub mod refusal;
pub mod route;
pub mod user;
pub mod vhost;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use dashmap::DashMap;

use self::{
    alarm::Alarms,
    expiry::Expiry,
    journal::Journal,
    limit::{Counts, Limits},
    outbox::{ConnectionId, ConsumerId, Outbox},
    permission::Permissions,
    user::Users,
    vhost::{Effects, VirtualHost},
};

/// A point in time, given to whatever depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that never goes back, from some point in the past.
    pub monotonic_ms: u64,
}

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
    /// What they may do.
    pub permissions: Permissions,
    /// The facts that must become durable.
    pub journal: Arc<Journal>,
    /// Why publishers are blocked, if they are.
    pub alarms: Alarms,
    /// The queues that are deleted when nobody uses them.
    pub expiry: Expiry,
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
}

impl Broker {
    /// A broker without virtual hosts.
    pub fn new(users: Users, permissions: Permissions, limits: Limits, identity: Identity) -> Self {
        Self {
            users,
            permissions,
            journal: Arc::default(),
            alarms: Alarms::default(),
            expiry: Expiry::default(),
            queue_count: Arc::new(limit::Count::new(limits.queues_max)),
            counts: Counts::new(&limits),
            limits,
            identity,
            reply_consumers: DashMap::new(),
            virtual_hosts: DashMap::new(),
            outboxes: DashMap::new(),
            ids: Arc::new(AtomicU64::new(1)),
        }
    }

    /// Adds a virtual host, if there is none of that name.
    pub fn add_virtual_host(&self, name: &str, connections_max: Option<u32>, queues_max: Option<u32>) {
        self.virtual_hosts.entry(name.into()).or_insert_with(|| {
            self.counts.limit_virtual_host(name, connections_max);
            let (ids, journal) = (Arc::clone(&self.ids), Arc::clone(&self.journal));
            let queue_count = Arc::clone(&self.queue_count);
            Arc::new(VirtualHost::new(name, ids, journal, queues_max, queue_count))
        });
    }

    /// The virtual host of that name.
    pub fn virtual_host(&self, name: &str) -> Option<Arc<VirtualHost>> {
        self.virtual_hosts.get(name).map(|host| Arc::clone(&host))
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

    /// Deletes the queues that nobody has used for as long as they said.
    pub fn expire_queues(&self, now: Now) {
        let mut effects = Effects::default();
        self.expiry.expire(now, &mut effects);
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
