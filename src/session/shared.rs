//! What the channels of one connection share: the broker, the output, the consumers, and the batch at hand.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use super::{
    handshake::{Capabilities, Opened},
    publish::PendingPublish,
    routes::RouteCache,
    tally::Tally,
    timeout::Holder,
};
use crate::{
    amqp::{Encoder, ServerMethod},
    broker::{
        Broker, NEVER, Now,
        batch::{PublishBatch, SettleBatch},
        connections::{ChannelStatus, ConnectionStatus, Opening},
        effects::Effects,
        event::{ConsumerFields, Event, Events},
        journal::Lsn,
        limit::ConnectionPermit,
        outbox::{ConnectionId, ConsumerId, Outbox},
        permission::Access,
        queue::{ConsumerKey, QueueHandle, QueueId, Return},
        refusal::{Refusal, Resource},
        user::User,
        vhost::VirtualHost,
    },
};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) broker: Arc<Broker>,
    pub(super) host: Arc<VirtualHost>,
    pub(super) user: Arc<User>,
    pub(super) capabilities: Capabilities,
    /// The connection as operators see it.
    pub(super) status: Arc<ConnectionStatus>,
    /// Whether what is published and delivered is traced, as of this batch.
    pub(super) is_tracing: bool,
    pub(super) outbox: Arc<Outbox>,
    pub(super) out: Encoder,
    pub(super) now: Now,
    pub(super) frame_max: u32,
    pub(super) channel_max: u16,
    pub(super) consumers: Consumers,
    /// Publishes that are not in their queues yet.
    pub(super) publishes: PublishBatch,
    /// Settlements that the queues have not heard of yet.
    pub(super) settlements: SettleBatch,
    pub(super) routes: RouteCache,
    /// What a batch has to count.
    pub(super) tally: Tally,
    /// What a batch has to tell the journal and other connections.
    pub(super) effects: Effects,
    /// The last fact that a confirm may wait for, since confirms were looked at.
    pub(super) batch_lsn: Lsn,
    /// The last fact of the method at hand, however often the batch was flushed during it.
    pub(super) method_lsn: Lsn,
    /// A reply that has to wait. Nothing else is handled until it is sent.
    pub(super) held: Option<Held>,
    /// Channels whose limit may leave room for deliveries again.
    pub(super) resuming: BTreeSet<u16>,
    /// Channels that have something to confirm.
    pub(super) confirming: BTreeSet<u16>,
    /// The connection's exclusive queues, which go with it.
    pub(super) exclusive_queues: BTreeMap<QueueId, Arc<QueueHandle>>,
    /// How many exclusive queues there may be before those already deleted are forgotten.
    exclusive_queues_max: usize,
    /// Whether the client has published: only such a connection waits for a log that is behind.
    pub(super) has_published: bool,
    /// Whether it has published during an alarm: only such a connection is blocked (RabbitMQ).
    pub(super) is_blockable: bool,
    /// When to look for deliveries that were not acknowledged in time, on the monotonic clock; [`NEVER`] if there are
    /// none that have to be.
    pub(super) due_ms: u64,
    /// Where messages are put together.
    pub(super) scratch: Vec<u8>,
    /// The buffers of the publish before this one.
    pub(super) spare_publish: Option<Box<PendingPublish>>,
    permissions: PermissionCache,
    /// The generation of the users that `user` is of.
    users_generation: u64,
    _permit: Option<ConnectionPermit>,
}

fn status_of(opened: &Opened, outbox: &Arc<Outbox>, now: Now) -> ConnectionStatus {
    ConnectionStatus::new(Opening {
        outbox: Arc::clone(outbox),
        ends: opened.ends,
        is_internal: opened.is_internal,
        user: Arc::clone(&opened.user.name),
        virtual_host: Arc::clone(&opened.virtual_host.name),
        mechanism: opened.mechanism,
        client_properties: &opened.client_properties,
        channel_max: opened.channel_max,
        frame_max: opened.frame_max,
        heartbeat_secs: opened.heartbeat_secs,
        connected_ms: now.unix_ms,
        tls: opened.tls.clone(),
    })
}

/// See [`Shared::held`].
#[derive(Debug)]
pub(super) enum Held {
    /// A reply that waits until its facts are durable.
    Reply(HeldReply),
    /// `basic.get` from a queue whose head has to be loaded first.
    Get(HeldGet),
}

/// See [`Held::Get`].
#[derive(Debug)]
pub(super) struct HeldGet {
    pub(super) channel: u16,
    pub(super) queue: Arc<QueueHandle>,
    pub(super) no_ack: bool,
}

/// See [`Held::Reply`].
#[derive(Debug)]
pub(super) struct HeldReply {
    pub(super) lsn: Lsn,
    pub(super) channel: u16,
    pub(super) reply: ServerMethod,
}

/// A consumer of the connection.
#[derive(Clone, Debug)]
pub(super) struct ConsumerState {
    pub(super) channel: u16,
    pub(super) tag: Arc<str>,
    /// Where it consumes from; `None` for the pseudo-queue of direct reply-to.
    pub(super) queue: Option<Arc<QueueHandle>>,
    /// Who it is to the timeouts of its channel.
    pub(super) holder: Holder,
    /// Whether it was told already that it is no more.
    pub(super) is_told: bool,
}

/// The consumers of a connection. Places are given again; the generation tells who has one.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    places: Vec<(u32, Option<ConsumerState>)>,
    free: Vec<u32>,
}

impl Consumers {
    pub(super) fn insert(&mut self, consumer: ConsumerState) -> ConsumerId {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            u32::try_from(self.places.len() - 1).expect("invariant: fewer than 2^32 consumers")
        });
        let (generation, state) = &mut self.places[place as usize];
        *state = Some(consumer);
        ConsumerId { place, generation: *generation }
    }

    pub(super) fn get(&self, id: ConsumerId) -> Option<&ConsumerState> {
        let (generation, consumer) = self.places.get(id.place as usize)?;
        consumer.as_ref().filter(|_| *generation == id.generation)
    }

    fn get_mut(&mut self, id: ConsumerId) -> Option<&mut ConsumerState> {
        let (generation, consumer) = self.places.get_mut(id.place as usize)?;
        consumer.as_mut().filter(|_| *generation == id.generation)
    }

    pub(super) fn remove(&mut self, id: ConsumerId) -> Option<ConsumerState> {
        let (generation, consumer) = self.places.get_mut(id.place as usize)?;
        let consumer = consumer.take_if(|_| *generation == id.generation)?;
        *generation = generation.wrapping_add(1);
        self.free.push(id.place);
        Some(consumer)
    }
}

/// Decisions of the permissions, kept while they do not change.
#[derive(Debug, Default)]
struct PermissionCache {
    generation: u64,
    allowed: HashSet<(String, u8)>,
}

/// Decisions that a connection keeps; beyond it starts anew.
const PERMISSIONS_KEPT: usize = 1024;
/// Exclusive queues among which those already deleted are never looked for.
const EXCLUSIVE_QUEUES_MIN: usize = 64;

impl Shared {
    pub(super) fn new(
        opened: Opened,
        broker: Arc<Broker>,
        outbox: Arc<Outbox>,
        out: Encoder,
        now: Now,
    ) -> Self {
        let effects = Effects { now, user: Some(Arc::clone(&opened.user.name)), ..Effects::default() };
        let status = Arc::new(status_of(&opened, &outbox, now));
        broker.connections.insert(Arc::clone(&status));
        let mut shared = Self {
            broker,
            is_tracing: opened.virtual_host.is_tracing(),
            host: opened.virtual_host,
            user: opened.user,
            capabilities: opened.capabilities,
            status,
            outbox,
            out,
            now,
            frame_max: opened.frame_max,
            channel_max: opened.channel_max,
            consumers: Consumers::default(),
            publishes: PublishBatch::default(),
            settlements: SettleBatch::default(),
            routes: RouteCache::default(),
            tally: Tally::default(),
            effects,
            batch_lsn: Lsn(0),
            method_lsn: Lsn(0),
            held: None,
            resuming: BTreeSet::new(),
            confirming: BTreeSet::new(),
            exclusive_queues: BTreeMap::new(),
            exclusive_queues_max: EXCLUSIVE_QUEUES_MIN,
            has_published: false,
            is_blockable: false,
            due_ms: NEVER,
            scratch: Vec::new(),
            spare_publish: None,
            permissions: PermissionCache::default(),
            users_generation: 0,
            _permit: opened.permit,
        };
        shared.opened();
        shared
    }

    /// The connection can be seen: it is counted and told of, and whoever deletes its user or virtual host from now on
    /// closes it.
    fn opened(&mut self) {
        let status = Arc::clone(&self.status);
        if !status.is_internal {
            self.broker.stats.connections.add(1);
            self.broker.stats.connections_opened.add(1);
            self.tell(|events, _| events.connection_created(&status));
        }
        self.look_at_user();
        if self.broker.virtual_host(&self.host.name).is_none() {
            status.close(&format!("vhost '{}' is deleted", self.host.name));
        }
    }

    /// A channel is no more.
    pub(super) fn channel_closed(&mut self, number: u16, channel: &ChannelStatus) {
        self.status.remove_channel(number);
        if channel.messages.publish.get() > 0 {
            self.broker.stats.publishers.subtract(1);
        }
        if !self.status.is_internal {
            self.broker.stats.channels.subtract(1);
            self.broker.stats.channels_closed.add(1);
            let id = self.connection();
            self.tell(|events, user| events.channel_closed(user, id, number));
        }
    }

    /// The connection is no more.
    pub(super) fn closed(&mut self) {
        let status = Arc::clone(&self.status);
        self.broker.connections.remove(status.id());
        if !status.is_internal {
            self.broker.stats.connections.subtract(1);
            self.broker.stats.connections_closed.add(1);
            self.tell(|events, _| events.connection_closed(&status));
        }
    }

    /// The time goes on.
    pub(super) fn set_now(&mut self, now: Now) {
        self.now = now;
        self.effects.now = now;
        self.is_tracing = self.host.is_tracing();
        if self.users_generation != self.broker.users.generation() {
            self.look_at_user();
        }
    }

    /// Goes by what the user may now. The broker acts as users that need not be there any more.
    fn look_at_user(&mut self) {
        self.users_generation = self.broker.users.generation();
        match self.broker.users.get(&self.user.name) {
            Some(user) => self.user = user,
            None if self.status.is_internal => {}
            None => self.status.close(&format!("user '{}' is deleted", self.user.name)),
        }
    }

    pub(super) fn connection(&self) -> ConnectionId {
        self.outbox.connection
    }

    pub(super) fn consumer_key(&self, id: ConsumerId) -> ConsumerKey {
        ConsumerKey { connection: self.connection(), id }
    }

    /// Adds an event, if anybody wants it.
    pub(super) fn tell(&mut self, event: impl FnOnce(&Events, &str) -> Event) {
        self.broker.events.tell(&mut self.effects, event);
    }

    /// Tells that a consumer is no more, once.
    pub(super) fn tell_deleted(&mut self, id: ConsumerId) {
        let connection = self.connection();
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        let is_told = std::mem::replace(&mut consumer.is_told, true);
        let Some(queue) = consumer.queue.as_ref().filter(|_| !is_told) else { return };
        let (tag, channel) = (&*consumer.tag, consumer.channel);
        let fields = ConsumerFields { tag, queue, connection, channel };
        let events = &self.broker.events;
        events.tell(&mut self.effects, |events, user| events.consumer_deleted(user, fields));
    }

    /// How long a delivery of that queue may stay unacknowledged where its consumer does not say, in milliseconds; `None`
    /// for as long as it takes.
    pub(super) fn timeout_ms_of(&self, queue: &QueueHandle) -> Option<u64> {
        let of_queue = queue.arguments().consumer_timeout_ms;
        Some(of_queue.unwrap_or(self.broker.consumer_timeout.default_ms)).filter(|timeout_ms| *timeout_ms > 0)
    }

    /// How a delivery comes back that a client puts back without rejecting it.
    pub(super) fn released(&self) -> Return {
        if self.broker.counts_returns { Return::Failed } else { Return::Released }
    }

    /// Puts the batch's publishes into their queues and its settlements into effect. Their facts gather for
    /// [`Shared::flush`], so that those of a commit stay together.
    pub(super) fn apply(&mut self) {
        self.publishes.flush(&mut self.effects);
        self.settlements.flush(&mut self.effects);
        if self.effects.has_events {
            self.broker.publish_events(&mut self.effects);
        }
        if !self.effects.letters.is_empty() {
            self.broker.forward(&mut self.effects);
        }
        if !self.effects.timers.is_empty() {
            self.broker.timers.add(&mut self.effects.timers);
        }
    }

    /// Ends a batch: applies what is left of it and appends its facts to the journal.
    pub(super) fn flush(&mut self) {
        self.apply();
        let effects = &mut self.effects;
        self.method_lsn = self.method_lsn.max(std::mem::take(&mut effects.recorded));
        let has_duplicates = std::mem::take(&mut effects.has_duplicates);
        let facts = effects.facts.len();
        if facts > 0 {
            // Settlements are logged, and no confirm waits for them.
            let settlements = effects.facts.iter().rev().take_while(|fact| !fact.is_awaited()).count();
            let last = self.broker.journal.append(&mut effects.facts);
            self.method_lsn = last;
            if settlements < facts {
                self.batch_lsn = Lsn(last.0 - settlements as u64);
            }
        }
        if has_duplicates {
            self.await_originals();
        }
    }

    /// The publisher of a duplicate is told that it is safe: then so must be what it repeats, and its facts are in the
    /// journal by now, whoever has published it.
    ///
    /// But for two moments: what another connection has published just now may be in its queue and not in the journal yet,
    /// or have its key and not be in its queue, which may even reject it. If the broker fails within that moment, or the
    /// queue does reject it, the other publisher gets no confirm, and has to send it again; this one has got its own.
    fn await_originals(&mut self) {
        let last = self.broker.journal.last();
        self.batch_lsn = self.batch_lsn.max(last);
        self.method_lsn = self.method_lsn.max(last);
    }

    /// Another method begins: the batch before it takes effect, and is not what its reply waits for.
    pub(super) fn begin_method(&mut self) {
        self.flush();
        self.method_lsn = Lsn(0);
    }

    /// Sends a reply, once the facts of the change that it answers are durable.
    pub(super) fn reply_when_durable(&mut self, channel: u16, reply: ServerMethod) {
        self.flush();
        if self.method_lsn <= self.broker.journal.durable() {
            self.out.method(channel, &reply);
        } else {
            self.held = Some(Held::Reply(HeldReply { lsn: self.method_lsn, channel, reply }));
        }
    }

    /// The same for a reply that also comes after what the change delivers to this connection.
    pub(super) fn reply_after_deliveries(&mut self, channel: u16, reply: ServerMethod) {
        self.flush();
        self.held = Some(Held::Reply(HeldReply { lsn: self.method_lsn, channel, reply }));
    }

    /// Refuses what the user may not do with a queue or an exchange (RabbitMQ: `rabbit_access_control`).
    ///
    /// # Errors
    /// 403 `access to ~s refused for user '~s'`.
    pub(super) fn check_permission(&mut self, resource: Resource<'_>, access: Access) -> Result<(), Refusal> {
        let Self { broker, user, permissions: cache, .. } = self;
        let generation = broker.permissions.generation();
        if cache.generation != generation || cache.allowed.len() > PERMISSIONS_KEPT {
            *cache = PermissionCache { generation, allowed: HashSet::new() };
        }
        let key = (resource.name.to_owned(), access as u8);
        if cache.allowed.contains(&key) {
            return Ok(());
        }
        if broker.permissions.check(&user.name, resource.virtual_host, resource.name, access) {
            cache.allowed.insert(key);
            return Ok(());
        }
        let name = if resource.name.is_empty() { "amq.default" } else { resource.name };
        let resource = Resource { name, ..resource };
        Err(Refusal::access_refused(format!("access to {resource} refused for user '{}'", user.name)))
    }

    /// Refuses a routing key that the user may not use with a topic exchange.
    ///
    /// # Errors
    /// 403 `access to topic '~s' in exchange ...`.
    pub(super) fn check_topic_permission(
        &self,
        exchange: Resource<'_>,
        routing_key: &str,
        access: Access,
    ) -> Result<(), Refusal> {
        let (user, host) = (&self.user.name, &self.host.name);
        if self.broker.permissions.check_topic(user, host, exchange.name, routing_key, access) {
            return Ok(());
        }
        Err(Refusal::access_refused(format!(
            "access to topic '{routing_key}' in {exchange} refused for user '{user}'"
        )))
    }

    /// A part of a publish has come: during an alarm, that is what a connection is blocked for.
    pub(super) fn note_publishing(&mut self) {
        self.is_blockable |= self.broker.alarms.reason().is_some();
    }

    /// Remembers an exclusive queue of this connection.
    pub(super) fn own(&mut self, queue: &Arc<QueueHandle>) {
        if self.exclusive_queues.len() >= self.exclusive_queues_max {
            self.exclusive_queues.retain(|_, queue| !queue.lock().is_deleted());
            self.exclusive_queues_max = EXCLUSIVE_QUEUES_MIN.max(2 * self.exclusive_queues.len());
        }
        self.exclusive_queues.insert(queue.id, Arc::clone(queue));
    }
}
