//! The connections and channels that are open, as operators see them: what they are, what they have counted, and a way to
//! end them. A session writes, whoever wants to know reads; neither waits for the other.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use dashmap::DashMap;

use super::{
    event::Ends,
    outbox::{ConnectionId, Outbox},
    stats::{Counter, MessageCounters},
};
use crate::amqp::Table;

/// Every open connection.
#[derive(Debug, Default)]
pub struct Connections {
    by_id: DashMap<ConnectionId, Arc<ConnectionStatus>>,
}

impl Connections {
    /// Adds one that has just opened.
    pub fn insert(&self, status: Arc<ConnectionStatus>) {
        self.by_id.insert(status.outbox.connection, status);
    }

    /// Removes one that has ended.
    pub fn remove(&self, id: ConnectionId) {
        self.by_id.remove(&id);
    }

    /// That one.
    pub fn get(&self, id: ConnectionId) -> Option<Arc<ConnectionStatus>> {
        self.by_id.get(&id).map(|status| Arc::clone(&status))
    }

    /// Asks all those to end that a user has, or that are in a virtual host: it is deleted.
    pub(super) fn close_where(&self, is_meant: impl Fn(&ConnectionStatus) -> bool, reason: &str) {
        self.by_id.iter().filter(|status| is_meant(status)).for_each(|status| status.close(reason));
    }

    /// All of them, in no order; those that the broker has with itself are left out.
    pub fn list(&self) -> Vec<Arc<ConnectionStatus>> {
        let of_clients = self.by_id.iter().filter(|status| !status.is_internal);
        of_clients.map(|status| Arc::clone(&status)).collect()
    }
}

/// A connection, from `connection.open` to its end.
#[derive(Debug)]
pub struct ConnectionStatus {
    /// Its identity, and the way to wake it.
    pub outbox: Arc<Outbox>,
    /// Its ends. Those of a connection that the broker has with itself are made up.
    pub ends: Ends,
    /// Whether the broker has it with itself, for the API or a shovel: operators are not shown it.
    pub is_internal: bool,
    /// Who has logged in.
    pub user: Arc<str>,
    /// Where.
    pub virtual_host: Arc<str>,
    /// How: the SASL mechanism.
    pub mechanism: &'static str,
    /// What the client says of itself, encoded: as a [`Table`] it would take several times as much, of every connection.
    client_properties: Box<[u8]>,
    /// Channels that it may open.
    pub channel_max: u16,
    /// The largest frame, in octets.
    pub frame_max: u32,
    /// The heartbeat interval, in seconds.
    pub heartbeat_secs: u16,
    /// When it was opened, in milliseconds since 1970.
    pub connected_ms: u64,
    /// What TLS has agreed on, if it is used.
    pub tls: Option<Arc<TlsStatus>>,
    /// Octets read.
    pub received_bytes: Counter,
    /// Octets written.
    pub sent_bytes: Counter,
    /// Times that something was read (RabbitMQ counts packets).
    pub received_packets: Counter,
    /// Times that something was written.
    pub sent_packets: Counter,
    /// Octets that wait to be written.
    pub unsent_bytes: Counter,
    /// Whether its publishing is blocked by an alarm now.
    pub is_blocked: AtomicBool,
    /// When an alarm blocked it last, in milliseconds since 1970; 0 if never.
    pub last_blocked_ms: AtomicU64,
    /// By number: most connections have one.
    channels: Mutex<Vec<(u16, Arc<ChannelStatus>)>>,
    /// Why an operator wants it to end.
    close_reason: Mutex<Option<String>>,
}

/// What TLS has agreed on with a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsStatus {
    /// Such as `tlsv1.3`.
    pub protocol: String,
    /// The cipher suite, such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// The subject of the client's certificate, if it has shown one.
    pub peer_subject: Option<String>,
    /// Its issuer.
    pub peer_issuer: Option<String>,
    /// From when to when it is valid, as text.
    pub peer_validity: Option<String>,
    /// The user that the certificate stands for with the mechanism EXTERNAL.
    pub peer_login: Option<String>,
}

/// What is known of a connection when it opens. The rest of its [`ConnectionStatus`] is counted.
#[derive(Debug)]
#[expect(missing_docs, reason = "named as in ConnectionStatus")]
pub struct Opening<'a> {
    pub outbox: Arc<Outbox>,
    pub ends: Ends,
    pub is_internal: bool,
    pub user: Arc<str>,
    pub virtual_host: Arc<str>,
    pub mechanism: &'static str,
    pub client_properties: &'a Table,
    pub channel_max: u16,
    pub frame_max: u32,
    pub heartbeat_secs: u16,
    pub connected_ms: u64,
    pub tls: Option<Arc<TlsStatus>>,
}

impl ConnectionStatus {
    /// That of a connection that has just opened.
    pub fn new(opening: Opening<'_>) -> Self {
        Self {
            outbox: opening.outbox,
            ends: opening.ends,
            is_internal: opening.is_internal,
            user: opening.user,
            virtual_host: opening.virtual_host,
            mechanism: opening.mechanism,
            client_properties: encoded(opening.client_properties),
            channel_max: opening.channel_max,
            frame_max: opening.frame_max,
            heartbeat_secs: opening.heartbeat_secs,
            connected_ms: opening.connected_ms,
            tls: opening.tls,
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            received_packets: Counter::default(),
            sent_packets: Counter::default(),
            unsent_bytes: Counter::default(),
            is_blocked: AtomicBool::new(false),
            last_blocked_ms: AtomicU64::new(0),
            channels: Mutex::default(),
            close_reason: Mutex::default(),
        }
    }

    /// Its name in the API, as RabbitMQ's: both ends.
    pub fn name(&self) -> String {
        self.ends.to_string()
    }

    /// What the client says of itself.
    pub fn client_properties(&self) -> Table {
        Table::decode(&self.client_properties).unwrap_or_default()
    }

    /// Its identity.
    pub fn id(&self) -> ConnectionId {
        self.outbox.connection
    }

    /// Adds a channel that has just opened.
    pub fn insert_channel(&self, number: u16, status: Arc<ChannelStatus>) {
        let mut channels = self.lock_channels();
        let place = channels.partition_point(|(known, _)| *known < number);
        channels.insert(place, (number, status));
    }

    /// Removes a channel that has ended.
    pub fn remove_channel(&self, number: u16) {
        self.lock_channels().retain(|(known, _)| *known != number);
    }

    /// Its channels, by number.
    pub fn channels(&self) -> Vec<(u16, Arc<ChannelStatus>)> {
        self.lock_channels().clone()
    }

    /// How many channels it has.
    pub fn channel_count(&self) -> usize {
        self.lock_channels().len()
    }

    fn lock_channels(&self) -> MutexGuard<'_, Vec<(u16, Arc<ChannelStatus>)>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for its end: the client is told 320 `CONNECTION_FORCED - <reason>`.
    pub fn close(&self, reason: &str) {
        *self.close_reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        self.outbox.ask_to_close();
    }

    /// Why it is to end, once: for its session.
    pub fn take_close_reason(&self) -> Option<String> {
        self.close_reason.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn encoded(table: &Table) -> Box<[u8]> {
    const LENGTH_BYTES: usize = 4;
    let mut octets = Vec::new();
    table.encode(&mut octets);
    octets.split_off(LENGTH_BYTES).into_boxed_slice()
}

/// An open channel.
#[derive(Debug, Default)]
pub struct ChannelStatus {
    /// What happened to its messages.
    pub messages: MessageCounters,
    /// The prefetch of consumers to come; 0 is no limit.
    pub prefetch: Counter,
    /// The prefetch of the channel as a whole; 0 is no limit.
    pub global_prefetch: Counter,
    /// Its consumers.
    pub consumers: Counter,
    /// Deliveries that are not acknowledged.
    pub unacked: Counter,
    /// Publishes that are not confirmed.
    pub unconfirmed: Counter,
    /// Publishes of a transaction that is not committed.
    pub uncommitted: Counter,
    /// Acknowledgements of a transaction that is not committed.
    pub uncommitted_acks: Counter,
    /// Whether publishes are confirmed.
    pub confirms: AtomicBool,
    /// Whether it has transactions.
    pub is_transactional: AtomicBool,
    /// When it was used last, in milliseconds since 1970.
    pub used_ms: AtomicU64,
}

impl ChannelStatus {
    /// Notes that it was used.
    pub fn used(&self, unix_ms: u64) {
        self.used_ms.store(unix_ms, Ordering::Relaxed);
    }
}
