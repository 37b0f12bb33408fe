//! Limits on what clients may ask for, and the counts that they are compared with.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use dashmap::DashMap;

use super::{refusal::Refusal, user::User};

/// The bounds of what clients may ask for. `None` is no limit.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest frame, in octets with its framing.
    pub frame_max: u32,
    /// Channels open at a time in one connection; 0 is no limit.
    pub channel_max: u16,
    /// The heartbeat interval that is proposed, in seconds.
    pub heartbeat_secs: u16,
    /// From accepting a connection to `connection.open`, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// The largest message body, in octets.
    pub message_bytes_max: u64,
    /// Connections of the node.
    pub connections_max: Option<u32>,
    /// Channels of the node.
    pub channels_max: Option<u32>,
    /// Consumers of one channel.
    pub consumers_per_channel_max: Option<u32>,
    /// Queues of the node.
    pub queues_max: Option<u32>,
    /// Octets of deliveries that wait in one connection's outbox.
    pub unsent_bytes_per_connection: usize,
}

/// What a content header has besides its properties, in octets: a frame of its own, and what describes the body.
const HEADER_BYTES: usize = 8 + 14;

impl Limits {
    /// Whether properties that the broker has made fit into the one frame that a content header is. What clients send
    /// has fitted into one already.
    pub fn fits_header(&self, properties: &[u8]) -> bool {
        properties.len() + HEADER_BYTES <= self.frame_max as usize
    }
}

/// A number of things that may have a limit.
#[derive(Debug)]
pub struct Count {
    count: AtomicU32,
    /// `u32::MAX` is no limit.
    max: AtomicU32,
}

impl Count {
    /// None yet.
    pub fn new(max: Option<u32>) -> Self {
        Self { count: AtomicU32::new(0), max: AtomicU32::new(max.unwrap_or(u32::MAX)) }
    }

    /// Sets the limit. What is above it stays.
    pub fn set_max(&self, max: Option<u32>) {
        self.max.store(max.unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// The limit.
    pub fn max(&self) -> Option<u32> {
        Some(self.max.load(Ordering::Relaxed)).filter(|max| *max != u32::MAX)
    }

    /// One more, whatever the limit: it was there before the start.
    pub fn take_again(self: &Arc<Self>) -> Permit {
        self.count.fetch_add(1, Ordering::Relaxed);
        Permit(Arc::clone(self))
    }

    /// One more, until the permit is dropped.
    ///
    /// # Errors
    /// The limit, if it is reached.
    pub fn take(self: &Arc<Self>) -> Result<Permit, u32> {
        let max = self.max.load(Ordering::Relaxed);
        let taken = self
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < max).then_some(count + 1));
        taken.map(|_| Permit(Arc::clone(self))).map_err(|_| max)
    }
}

/// One of a [`Count`], given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<Count>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many connections and channels there are, in all, by user and by virtual host.
#[derive(Debug)]
pub struct Counts {
    connections: Arc<Count>,
    channels: Arc<Count>,
    by_virtual_host: DashMap<Arc<str>, Arc<Count>>,
    by_user: DashMap<Arc<str>, UserCounts>,
}

#[derive(Clone, Debug)]
struct UserCounts {
    connections: Arc<Count>,
    channels: Arc<Count>,
}

/// The right to be connected, until it is dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    _permits: [Permit; 3],
}

/// The right to have one channel open, until it is dropped.
#[derive(Debug)]
pub struct ChannelPermit {
    _permits: [Permit; 2],
}

impl Counts {
    /// Nothing yet.
    pub fn new(limits: &Limits) -> Self {
        Self {
            connections: Arc::new(Count::new(limits.connections_max)),
            channels: Arc::new(Count::new(limits.channels_max)),
            by_virtual_host: DashMap::new(),
            by_user: DashMap::new(),
        }
    }

    /// Sets how many connections a virtual host takes.
    pub(super) fn limit_virtual_host(&self, name: &str, connections_max: Option<u32>) {
        let new = || Arc::new(Count::new(connections_max));
        self.by_virtual_host.entry(name.into()).or_insert_with(new).set_max(connections_max);
    }

    /// How many connections a virtual host takes; `None` if it does not exist.
    pub fn virtual_host_max(&self, name: &str) -> Option<Option<u32>> {
        self.by_virtual_host.get(name).map(|count| count.max())
    }

    /// Forgets a virtual host that is deleted.
    pub(super) fn forget_virtual_host(&self, name: &str) {
        self.by_virtual_host.remove(name);
    }

    /// Sets how many connections and channels a user may have.
    pub(super) fn limit_user(&self, user: &User) {
        if let Some(counts) = self.by_user.get(&user.name) {
            counts.connections.set_max(user.connections_max);
            counts.channels.set_max(user.channels_max);
        }
    }

    fn of_user(&self, user: &User) -> UserCounts {
        let new = || UserCounts {
            connections: Arc::new(Count::new(user.connections_max)),
            channels: Arc::new(Count::new(user.channels_max)),
        };
        self.by_user.entry(Arc::clone(&user.name)).or_insert_with(new).clone()
    }

    /// One more connection of that user to that virtual host.
    ///
    /// # Errors
    /// 530 for the first limit that is reached: the node's, the virtual host's, the user's. A virtual host that
    /// does not exist is 530 too.
    pub fn open_connection(&self, user: &User, virtual_host: &str) -> Result<ConnectionPermit, Refusal> {
        let name = &user.name;
        let node = self.connections.take().map_err(|max| {
            Refusal::not_allowed(format!("connection refused: node connection limit ({max}) is reached"))
        })?;
        let host = self.by_virtual_host.get(virtual_host).map(|count| Arc::clone(&count));
        let host = host.ok_or_else(|| Refusal::not_allowed(format!("vhost {virtual_host} not found")))?;
        let host = host.take().map_err(|max| {
            Refusal::not_allowed(format!(
                "access to vhost '{virtual_host}' refused for user '{name}': connection limit ({max}) is reached"
            ))
        })?;
        let user = self.of_user(user).connections.take().map_err(|max| {
            Refusal::not_allowed(format!(
                "connection refused for user '{name}': user connection limit ({max}) is reached"
            ))
        })?;
        Ok(ConnectionPermit { _permits: [node, host, user] })
    }

    /// One more channel of that user.
    ///
    /// # Errors
    /// 530 if the node's or the user's limit is reached.
    pub fn open_channel(&self, user: &User, node_name: &str) -> Result<ChannelPermit, Refusal> {
        let node = self.channels.take().map_err(|max| {
            Refusal::not_allowed(format!(
                "number of channels opened on node '{node_name}' has reached the maximum allowed limit of ({max})"
            ))
        })?;
        let name = &user.name;
        let user = self.of_user(user).channels.take().map_err(|max| {
            Refusal::not_allowed(format!(
                "number of channels opened for user '{name}' has reached the maximum allowed user limit of ({max})"
            ))
        })?;
        Ok(ChannelPermit { _permits: [node, user] })
    }
}
