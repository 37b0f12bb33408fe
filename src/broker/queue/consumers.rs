//! The consumers of a queue: who is next, and who can take more.
//!
//! Consumers that can take a message stand in a ring, one ring for each priority, and take turns (RabbitMQ:
//! round-robin among the highest priority that is not blocked). One whose prefetch is used up or whose connection has
//! no room leaves its ring until a settlement or a drained outbox brings it back.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use super::figures::ConsumerFigures;
use crate::{
    amqp::Table,
    broker::outbox::{ConnectionId, ConsumerId, Delivery, Outbox},
};

/// A consumer, across the whole broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConsumerKey {
    /// Its connection.
    pub connection: ConnectionId,
    /// Its number in the connection.
    pub id: ConsumerId,
}

/// Place of a consumer in its queue. Places are used again; `generation` tells who had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConsumerIndex {
    place: u32,
    generation: u32,
}

/// The limit that `basic.qos global=true` puts on a whole channel, shared by its consumers on all queues.
#[derive(Debug, Default)]
pub struct ChannelCredit {
    limit: AtomicU32,
    unacked: AtomicU32,
}

impl ChannelCredit {
    /// Sets the limit; 0 is none.
    pub fn set_limit(&self, limit: u16) {
        self.limit.store(u32::from(limit), Ordering::Relaxed);
    }

    /// Whether a limit is set.
    pub fn is_limited(&self) -> bool {
        self.limit.load(Ordering::Relaxed) != 0
    }

    /// Whether one more delivery fits.
    pub fn is_available(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        limit == 0 || self.unacked.load(Ordering::Relaxed) < limit
    }

    /// Counts a delivery in, if it fits.
    fn try_take(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == 0 {
            self.unacked.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let taken = self.unacked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |unacked| {
            (unacked < limit).then_some(unacked + 1)
        });
        taken.is_ok()
    }

    /// Counts settled deliveries out.
    pub fn give_back(&self, count: u32) {
        self.unacked.fetch_sub(count, Ordering::Relaxed);
    }
}

/// What a session says of a consumer that it registers.
#[derive(Clone, Debug)]
pub struct ConsumerSpec {
    /// Its number in the connection.
    pub id: ConsumerId,
    /// Its tag.
    pub tag: Arc<str>,
    /// Its channel.
    pub channel: u16,
    /// The arguments that it came with.
    pub arguments: Table,
    /// Where its deliveries go.
    pub outbox: Arc<Outbox>,
    /// The limit of its channel.
    pub credit: Arc<ChannelCredit>,
    /// How many unacked deliveries it may have; 0 is no limit.
    pub prefetch: u16,
    /// `x-priority`, higher first.
    pub priority: i64,
    /// Whether deliveries need no acknowledgement.
    pub no_ack: bool,
    /// Whether it wants to be the only one.
    pub exclusive: bool,
}

#[derive(Debug)]
struct Consumer {
    spec: ConsumerSpec,
    unacked: u32,
    /// Whether it stands in its ring.
    queued: bool,
    /// Whether it asked its outbox to be told of room.
    stalled: bool,
    /// The place of its connection.
    connection: usize,
}

/// A connection with consumers on the queue. Its deliveries are gathered here, so that they reach its outbox in the
/// order in which they left the queue, whichever consumer they are for.
#[derive(Debug)]
struct Connection {
    outbox: Arc<Outbox>,
    consumers: usize,
    /// Deliveries of the running batch, handed over in one go.
    pending: Vec<Delivery>,
    pending_bytes: usize,
}

impl Consumer {
    fn has_credit(&self) -> bool {
        self.spec.no_ack || (self.has_prefetch() && self.spec.credit.is_available())
    }

    fn has_prefetch(&self) -> bool {
        self.spec.prefetch == 0 || self.unacked < u32::from(self.spec.prefetch)
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    places: Vec<(u32, Option<Box<Consumer>>)>,
    free: Vec<u32>,
    by_key: HashMap<ConsumerKey, u32>,
    /// Highest priority first. A ring stays while it is empty: its consumers come back.
    rings: Vec<Ring>,
    /// With a single active consumer: the places in the order in which they subscribed. The first is active.
    line: Option<VecDeque<u32>>,
    /// By place; one that is left has no consumers and may be taken by another.
    connections: Vec<Connection>,
    /// Places of the connections with pending deliveries.
    touched: Vec<usize>,
    /// The one that wants to be alone, and is.
    pub(super) exclusive: Option<ConsumerKey>,
}

/// The consumers of one priority that can take a message, in turn.
#[derive(Debug)]
struct Ring {
    priority: i64,
    places: VecDeque<u32>,
}

/// Why a consumer left its ring.
#[derive(Clone, Debug)]
pub(super) enum Blocked {
    /// Its prefetch, or its channel's, is used up: a settlement brings it back.
    OnCredit,
    /// Its connection's outbox is full: it is to be told when there is room.
    OnRoom(Arc<Outbox>),
}

impl Consumers {
    /// None. `single_active` says that one at a time gets messages (RabbitMQ: `x-single-active-consumer`).
    pub(super) fn new(single_active: bool) -> Self {
        Self { line: single_active.then(VecDeque::new), ..Self::default() }
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, as operators see them, in no order in particular.
    pub(super) fn list(&self) -> Vec<ConsumerFigures> {
        let places =
            (0..).zip(&self.places).filter_map(|(place, (_, consumer))| Some((place, consumer.as_ref()?)));
        let listed = places.map(|(place, consumer)| {
            let spec = &consumer.spec;
            ConsumerFigures {
                tag: Arc::clone(&spec.tag),
                id: spec.id,
                connection: spec.outbox.connection,
                channel: spec.channel,
                ack_required: !spec.no_ack,
                exclusive: spec.exclusive,
                prefetch: spec.prefetch,
                priority: spec.priority,
                arguments: spec.arguments.clone(),
                is_active: self.is_active(place),
            }
        });
        listed.collect()
    }

    /// Tag, connection and channel of the consumer at a place, if it is still there.
    pub(super) fn holder(&self, index: ConsumerIndex) -> Option<(Arc<str>, ConnectionId, u16)> {
        let (generation, consumer) = self.places.get(index.place as usize)?;
        let spec = &consumer.as_deref().filter(|_| *generation == index.generation)?.spec;
        Some((Arc::clone(&spec.tag), spec.outbox.connection, spec.channel))
    }

    /// Whether one of them could take a message, as far as is known without asking.
    pub(super) fn has_free(&self) -> bool {
        self.rings.iter().any(|ring| !ring.places.is_empty())
    }

    /// Adds a consumer, last in turn.
    pub(super) fn add(&mut self, spec: ConsumerSpec) {
        let key = ConsumerKey { connection: spec.outbox.connection, id: spec.id };
        let connection = self.join(&spec.outbox);
        let consumer = Box::new(Consumer { spec, unacked: 0, queued: false, stalled: false, connection });
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place as usize].1 = Some(consumer);
                place
            }
            None => {
                self.places.push((0, Some(consumer)));
                u32::try_from(self.places.len() - 1).expect("invariant: fewer than 2^32 consumers")
            }
        };
        self.by_key.insert(key, place);
        if let Some(line) = &mut self.line {
            line.push_back(place);
        }
        self.enqueue(place);
    }

    /// Counts a consumer of that connection in and returns the connection's place.
    fn join(&mut self, outbox: &Arc<Outbox>) -> usize {
        let known = self.connections.iter().position(|known| Arc::ptr_eq(&known.outbox, outbox));
        let left = || self.connections.iter().position(|known| known.consumers == 0);
        if let Some(place) = known.or_else(left) {
            self.connections[place].consumers += 1;
            self.connections[place].outbox = Arc::clone(outbox);
            return place;
        }
        let (outbox, pending) = (Arc::clone(outbox), Vec::new());
        self.connections.push(Connection { outbox, consumers: 1, pending, pending_bytes: 0 });
        self.connections.len() - 1
    }

    /// Removes a consumer; false if it is not there.
    pub(super) fn remove(&mut self, key: ConsumerKey) -> bool {
        let Some(place) = self.by_key.remove(&key) else { return false };
        let Some(consumer) = self.places[place as usize].1.take() else { return false };
        if consumer.queued {
            self.ring(consumer.spec.priority).retain(|other| *other != place);
        }
        self.rings.retain(|ring| !ring.places.is_empty());
        self.connections[consumer.connection].consumers -= 1;
        self.places[place as usize].0 = self.places[place as usize].0.wrapping_add(1);
        self.free.push(place);
        if self.is_empty() {
            self.connections = Vec::new();
        }
        self.leave_line(place);
        true
    }

    /// The next in line becomes active if the active one has left.
    fn leave_line(&mut self, place: u32) {
        let Some(line) = &mut self.line else { return };
        line.retain(|other| *other != place);
        if let Some(active) = line.front().copied() {
            self.enqueue(active);
        }
    }

    fn is_active(&self, place: u32) -> bool {
        self.line.as_ref().is_none_or(|line| line.front() == Some(&place))
    }

    /// Removes all of them and says who they were.
    pub(super) fn remove_all(&mut self) -> Vec<(Arc<Outbox>, ConsumerId)> {
        let consumers = std::mem::take(self).places.into_iter().filter_map(|(_, consumer)| consumer);
        consumers.map(|consumer| (consumer.spec.outbox, consumer.spec.id)).collect()
    }

    fn get_mut(&mut self, index: ConsumerIndex) -> Option<&mut Consumer> {
        let (generation, consumer) = self.places.get_mut(index.place as usize)?;
        if *generation == index.generation { consumer.as_deref_mut() } else { None }
    }

    fn enqueue(&mut self, place: u32) {
        if !self.is_active(place) {
            return;
        }
        let Some(consumer) = self.places[place as usize].1.as_deref_mut() else { return };
        if !consumer.queued && !consumer.stalled && consumer.has_credit() {
            consumer.queued = true;
            let priority = consumer.spec.priority;
            self.ring(priority).push_back(place);
        }
    }

    fn ring(&mut self, priority: i64) -> &mut VecDeque<u32> {
        let position = self.rings.iter().position(|ring| ring.priority <= priority);
        let position = position.unwrap_or(self.rings.len());
        if self.rings.get(position).is_none_or(|ring| ring.priority != priority) {
            self.rings.insert(position, Ring { priority, places: VecDeque::new() });
        }
        &mut self.rings[position].places
    }

    /// Who gets the next message. `on_blocked` hears of every consumer that turns out unable to take one.
    pub(super) fn next(&mut self, mut on_blocked: impl FnMut(Blocked)) -> Option<Turn<'_>> {
        let place = loop {
            let place = self.rings.iter_mut().find_map(|ring| ring.places.pop_front())?;
            let consumer = self.places[place as usize].1.as_deref_mut();
            let Some(consumer) = consumer else { continue };
            consumer.queued = false;
            if !consumer.has_credit() {
                on_blocked(Blocked::OnCredit);
            } else if !consumer.spec.outbox.has_room(self.connections[consumer.connection].pending_bytes) {
                consumer.stalled = true;
                on_blocked(Blocked::OnRoom(Arc::clone(&consumer.spec.outbox)));
            } else if !consumer.spec.no_ack && !consumer.spec.credit.try_take() {
                on_blocked(Blocked::OnCredit);
            } else {
                break place;
            }
        };
        Some(Turn { consumers: self, place })
    }

    /// Hands what was given since the last time to the outboxes, and names each to `on_pushed`.
    pub(super) fn push_pending(&mut self, mut on_pushed: impl FnMut(&Arc<Outbox>)) {
        for place in self.touched.drain(..) {
            let Connection { outbox, pending, pending_bytes, .. } = &mut self.connections[place];
            outbox.push_deliveries(pending, std::mem::take(pending_bytes));
            pending.shrink_to(PENDING_KEPT);
            on_pushed(outbox);
        }
    }

    /// A delivery of that consumer was settled: it may take another.
    pub(super) fn settled(&mut self, index: ConsumerIndex) {
        let Some(consumer) = self.get_mut(index) else { return };
        consumer.unacked -= 1;
        if !consumer.queued {
            self.enqueue(index.place);
        }
    }

    /// That consumer may have credit again.
    pub(super) fn resume_consumer(&mut self, key: ConsumerKey) {
        if let Some(place) = self.by_key.get(&key).copied() {
            self.enqueue(place);
        }
    }

    /// The connection's consumers may have room again.
    pub(super) fn resume(&mut self, connection: ConnectionId) {
        for place in 0..self.places.len() {
            let consumer = self.places[place].1.as_deref_mut();
            let Some(consumer) = consumer.filter(|c| c.spec.outbox.connection == connection) else {
                continue;
            };
            consumer.stalled = false;
            self.enqueue(place as u32);
        }
    }
}

/// Deliveries of one batch that a connection keeps room for.
const PENDING_KEPT: usize = 256;

/// A consumer whose turn it is.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    consumers: &'a mut Consumers,
    place: u32,
}

impl Turn<'_> {
    /// Whether its deliveries need no acknowledgement.
    pub(super) fn no_ack(&self) -> bool {
        self.consumer().spec.no_ack
    }

    /// Its place, to be told of settlements.
    pub(super) fn index(&self) -> ConsumerIndex {
        ConsumerIndex { place: self.place, generation: self.consumers.places[self.place as usize].0 }
    }

    /// Gives it a message, which counts for so much in an outbox; it goes to the end of its ring if it can take more.
    #[inline]
    pub(super) fn deliver(self, outbox_bytes: usize, make: impl FnOnce(ConsumerId) -> Delivery) {
        let place = self.place;
        let consumer = self.consumers.places[place as usize].1.as_deref_mut();
        let consumer = consumer.expect("invariant: a turn is of a consumer that is there");
        let connection = &mut self.consumers.connections[consumer.connection];
        if connection.pending.is_empty() {
            self.consumers.touched.push(consumer.connection);
        }
        consumer.unacked += u32::from(!consumer.spec.no_ack);
        connection.pending_bytes += outbox_bytes;
        connection.pending.push(make(consumer.spec.id));
        self.consumers.enqueue(place);
    }

    fn consumer(&self) -> &Consumer {
        let consumer = self.consumers.places[self.place as usize].1.as_deref();
        consumer.expect("invariant: a turn is of a consumer that is there")
    }
}
