//! What must be true of a broker, written down as plainly as possible: every queue is a list of messages, and every
//! connection does one thing after the other.

#![allow(missing_docs, unreachable_pub, reason = "a part of a test")]

pub mod crash;
mod letters;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
};

use self::crash::{Commit, History, Promise};
use crate::{
    operation::{
        DELAYED, DELAYING, DELAYS_MS, KEYS_MAX, Kind, LENGTH_MAX, Operation, PRIORITY_MAX, PRIORITY_SAID_MAX,
        Settle, UNIQUE_MAX, group_of, key_of,
    },
    wire::Event,
};

/// See the module's text. Every check is an assertion.
#[derive(Default)]
pub struct Model {
    /// Every queue there ever was.
    pub queues: Vec<Queue>,
    /// Those that exist, by name.
    pub live: BTreeMap<String, usize>,
    /// Which queue had a name, and which one a crash may bring back.
    names: BTreeMap<String, History<Option<usize>>>,
    /// What is bound to the fanout exchange.
    bindings: BTreeSet<usize>,
    pub consumers: BTreeMap<String, Consumer>,
    pub connections: Vec<Connection>,
    /// What time it is.
    now_ms: u64,
    /// Whether messages in memory only know their deadlines: see [`crash::TIME_SURVIVES`].
    pub forgets_time: bool,
    /// When something is to be looked at: queue and place.
    dated: BTreeSet<(u64, usize, u64)>,
    /// Messages that a queue may not have taken, as its publisher may be told: the queue.
    unsure: BTreeMap<u64, usize>,
    /// Messages that a queue has not taken, as their publishers will be told; whether one that is may be told otherwise,
    /// as it repeats another.
    refused: BTreeMap<u64, bool>,
    /// Messages that the log has.
    pub durable: HashSet<u64>,
    /// What the transactions did that were committed since the broker began.
    commits: Vec<Commit>,
    /// Whether to say what happens, to find out why something went wrong.
    pub is_tracing: bool,
    /// How often each thing was seen, to tell a simulation that does nothing from one that works.
    pub seen: BTreeMap<&'static str, u64>,
}

#[derive(Default)]
pub struct Queue {
    pub name: String,
    pub kind: Kind,
    pub durable: bool,
    pub is_live: bool,
    /// By place: that is their position, from 1, or their number where nobody knows the order.
    pub messages: BTreeMap<u64, Message>,
    positions: BTreeMap<u64, u64>,
    /// How often something was put back, and how often without being marked as redelivered.
    returns: u64,
    give_backs: u64,
    /// The last position that was given.
    last: u64,
    /// Whether it was bound, and whether a crash may bring that back.
    bound: History<bool>,
    /// How many purges there were, and up to which one the client knows.
    purges: u64,
    purges_answered: u64,
    /// Whether some were held when the broker began: those come back before others that were there, and not between them.
    had_held: bool,
    /// Whether any of its messages may have been delivered, ever.
    was_delivered: bool,
    /// Up to where the log knew of deliveries when the broker began.
    delivered_up_to: u64,
    /// All that came, where duplicates are known, as far as it may matter.
    taken: Vec<Taken>,
}

/// A message that a queue has taken, and known by its key from then on.
#[derive(Clone, Copy)]
struct Taken {
    id: u64,
    persistent: bool,
}

pub struct Message {
    pub id: u64,
    pub persistent: bool,
    /// What counts of it in the queue.
    priority: u8,
    pub state: State,
    /// How many deliveries have failed, where that is counted.
    failed: u32,
    seen: bool,
    /// Whether it was taken by a delivery that may have come later: see [`Model::may_be_early`].
    was_early: bool,
    /// What the queue had counted when it came.
    returns_before: u64,
    give_backs_before: u64,
    /// The purge that took it, or may have; 0 for none, or if it was delivered after that.
    purge: u64,
    /// Whether there was such a purge. The log may count it among what was purged even if it was on its way then.
    met_purge: bool,
    /// When it leaves by itself.
    deadline_ms: u64,
    /// Until when it is held.
    until_ms: u64,
    /// Where it has died, or may have: queue and place.
    from: Option<(usize, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In the queue, or on its way to a consumer.
    Available,
    /// The same, but if it was in the queue, a purge took it; or it may have given way to others.
    MaybePurged,
    Unacked,
    /// In the queue, and not ready before its time.
    Held,
    Gone,
}

/// How a delivery ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Acked,
    /// For good.
    Rejected,
    /// It comes back, and has failed.
    Failed,
    /// It comes back.
    Released,
}

pub struct Consumer {
    connection: usize,
    channel: u16,
    pub queue: usize,
    pub prefetch: u16,
    no_ack: bool,
    pub unacked: u16,
    /// The highest position that it got fresh, by priority.
    last: [u64; PRIORITY_SAID_MAX as usize + 1],
}

#[derive(Default)]
pub struct Connection {
    pub channels: BTreeMap<u16, Channel>,
    /// What the broker has read and may not have done.
    pub read: VecDeque<(u16, Operation)>,
    /// What it must answer next.
    pub waiting: Option<(u16, Operation)>,
    /// The queue that it was about, if it gets from one.
    getting: Option<usize>,
    /// Whether the broker may not have gone on after its last answer.
    is_behind: bool,
    /// What that answer says about a crash after it.
    promise: Option<Promise>,
    returns: VecDeque<u64>,
    pub is_closed: bool,
}

#[derive(Default)]
pub struct Channel {
    pub is_confirming: bool,
    pub is_transactional: bool,
    pub is_closing: bool,
    prefetch: u16,
    /// Over all consumers; 0 for none.
    pub limit: u16,
    pub unacked: BTreeMap<u64, Delivery>,
    last_tag: u64,
    /// Messages to confirm, and whether the log must have them first.
    publishes: Vec<(u64, bool)>,
    confirmed: usize,
    published: Vec<(Option<String>, Published)>,
    /// In a transaction: tag, delivery, how it ends.
    settled: Vec<(u64, Delivery, End)>,
    committed: Vec<u64>,
}

#[derive(Clone, Copy)]
struct Published {
    id: u64,
    persistent: bool,
    mandatory: bool,
    priority: u8,
    ttl_ms: Option<u64>,
}

#[derive(Clone)]
pub struct Delivery {
    queue: usize,
    position: u64,
    consumer: Option<String>,
}

impl Settle {
    fn end(&self) -> End {
        match (self.is_ack, self.requeue, self.multiple) {
            (true, ..) => End::Acked,
            (_, false, _) => End::Rejected,
            // `basic.reject` says that it failed, `basic.nack` does not.
            (.., true) => End::Released,
            _ => End::Failed,
        }
    }
}

impl Consumer {
    pub fn is_of(&self, connection: usize, channel: u16) -> bool {
        (self.connection, self.channel) == (connection, channel)
    }
}

impl Queue {
    pub fn available(&self) -> impl Iterator<Item = (u64, &Message)> {
        let available = self.messages.iter().filter(|(_, message)| message.state == State::Available);
        available.map(|(position, message)| (*position, message))
    }

    pub fn count(&self, state: State) -> usize {
        self.messages.values().filter(|message| message.state == state).count()
    }

    /// The message that came there and that this one repeats.
    fn original(&self, id: u64) -> Option<Taken> {
        let mut known = self.taken[self.taken.len().saturating_sub(KEYS_MAX)..].iter();
        known.find(|known| key_of(known.id) == key_of(id)).copied()
    }

    /// Those of them that wait for no other one of their group.
    fn free(&self) -> impl Iterator<Item = (u64, &Message)> {
        let is_grouped = self.kind == Kind::Grouped;
        let unacked = self.messages.values().filter(|message| is_grouped && message.state == State::Unacked);
        let busy: HashSet<u64> = unacked.filter_map(|message| group_of(message.id)).collect();
        self.available()
            .filter(move |(_, message)| group_of(message.id).is_none_or(|group| !busy.contains(&group)))
    }

    /// Whether none of the group of that one is in flight, or was there before.
    fn is_next_of_group(&self, place: u64) -> bool {
        let Some(group) = group_of(self.messages[&place].id).filter(|_| self.kind == Kind::Grouped) else {
            return true;
        };
        let others = self.messages.iter().filter(|(_, message)| group_of(message.id) == Some(group));
        others.filter(|(other, _)| **other != place).all(|(other, message)| match message.state {
            State::Unacked => false,
            State::Available => *other > place,
            _ => true,
        })
    }

    /// The first one that a client may get.
    fn first_available(&self) -> Option<u64> {
        let first = self.free().min_by_key(|(position, message)| (Reverse(message.priority), *position));
        first.map(|(position, _)| position)
    }

    /// A queue that is too long lets go of its head. What is on its way to a consumer counts here and not there, so
    /// more may be marked here than goes. Returns the places of those that it has marked.
    fn bound(&mut self) -> Vec<u64> {
        if !matches!(self.kind, Kind::Bounded | Kind::Dropping) {
            return Vec::new();
        }
        let is_there = |message: &Message| matches!(message.state, State::Available | State::MaybePurged);
        let counts = |(_, message): &(&u64, &mut Message)| is_there(message) || message.was_early;
        let excess = self.messages.iter_mut().rev().filter(counts).skip(LENGTH_MAX);
        let excess = excess.filter(|(_, message)| is_there(message)).map(|(place, message)| {
            (message.state, message.met_purge) = (State::MaybePurged, true);
            *place
        });
        excess.collect()
    }

    /// Returns its place.
    fn push(&mut self, published: Published, now_ms: u64) -> u64 {
        let Published { id, persistent, priority, ttl_ms, .. } = published;
        self.last += 1;
        let place = if self.kind.is_unordered() { id } else { self.last };
        self.positions.insert(id, place);
        let ttl_ms = ttl_ms.unwrap_or(u64::MAX).min(self.kind.ttl_ms());
        let message = Message {
            priority: match self.kind {
                Kind::Prioritized => priority.min(PRIORITY_MAX),
                kind if kind.is_quorum() => priority,
                _ => 0,
            },
            state: if self.kind.refuses() { State::MaybePurged } else { State::Available },
            returns_before: self.returns,
            give_backs_before: self.give_backs,
            met_purge: self.kind.refuses(),
            deadline_ms: now_ms.saturating_add(ttl_ms),
            ..Message::new(id, persistent)
        };
        self.messages.insert(place, message);
        place
    }
}

impl Message {
    fn new(id: u64, persistent: bool) -> Self {
        Self {
            id,
            persistent,
            priority: 0,
            state: State::Available,
            failed: 0,
            seen: false,
            was_early: false,
            returns_before: 0,
            give_backs_before: 0,
            purge: 0,
            met_purge: false,
            deadline_ms: u64::MAX,
            until_ms: 0,
            from: None,
        }
    }
}

impl Model {
    /// The broker has read an operation.
    pub fn read(&mut self, connection: usize, channel: u16, operation: Operation) {
        self.connections[connection].read.push_back((channel, operation));
        self.advance(connection);
    }

    /// Does what the broker has read, up to what it must answer.
    fn advance(&mut self, connection: usize) {
        while self.connections[connection].waiting.is_none() {
            let Some((channel, operation)) = self.connections[connection].read.pop_front() else { return };
            self.apply(connection, channel, operation);
        }
    }

    fn channel(&mut self, connection: usize, channel: u16) -> &mut Channel {
        self.connections[connection].channels.get_mut(&channel).expect("an open channel")
    }

    fn apply(&mut self, connection: usize, number: u16, operation: Operation) {
        use Operation as O;
        if self.is_tracing {
            eprintln!("{connection}.{number} {operation:?}");
        }
        *self.seen.entry(operation.name()).or_default() += 1;
        let is_closing =
            self.connections[connection].channels.get(&number).is_some_and(|channel| channel.is_closing);
        if is_closing && !matches!(operation, O::CloseConnection) {
            match operation {
                O::CloseOk => drop(self.connections[connection].channels.remove(&number)),
                // It is answered all the same.
                O::CloseChannel => self.connections[connection].waiting = Some((number, operation)),
                _ => {}
            }
            return;
        }
        let mut promise = None;
        let missing = operation.needs_queue().is_some_and(|name| !self.live.contains_key(name));
        if missing {
            self.end_channel(connection, number);
            self.channel(connection, number).is_closing = true;
        }
        match operation.clone() {
            _ if missing => {}
            O::Publish { queue, id, persistent, mandatory, priority, ttl_ms } => {
                let published = Published { id, persistent, mandatory, priority, ttl_ms };
                let channel = self.channel(connection, number);
                if channel.is_transactional {
                    channel.published.push((queue, published));
                } else {
                    let confirmed = self.publish(connection, queue, published);
                    self.channel(connection, number).publishes.push(confirmed);
                }
                return;
            }
            O::Settle(settle) => return self.settle(connection, number, &settle),
            O::CloseOk => unreachable!("only a closing channel is answered"),
            O::Declare { queue, durable } => promise = Some(self.declare(queue, durable)),
            O::DeclareExchange { name } if name == DELAYING => {
                promise = Some(self.declare(DELAYED.to_owned(), true));
            }
            O::DeclareExchange { .. } => {}
            O::Delete { queue } => {
                let history = self.names.entry(queue.clone()).or_default();
                if let Some(queue) = self.live.remove(&queue) {
                    self.queues[queue].is_live = false;
                    self.bindings.remove(&queue);
                    history.push(None);
                }
                promise = Some(Promise::Exists { number: history.number(), queue });
            }
            O::Bind { queue } if Kind::of(&queue).is_fixed() => {}
            O::Bind { queue } => {
                let queue = self.live[&queue];
                if self.bindings.insert(queue) {
                    self.queues[queue].bound.push(true);
                }
                promise = Some(Promise::Bound { number: self.queues[queue].bound.number(), queue });
            }
            O::Unbind { queue } => {
                if let Some(queue) = self.live.get(&queue).copied() {
                    if self.bindings.remove(&queue) {
                        self.queues[queue].bound.push(false);
                    }
                    promise = Some(Promise::Bound { number: self.queues[queue].bound.number(), queue });
                }
            }
            O::Purge { queue } => {
                let queue = self.live[&queue];
                let is_exact = !self.consumers.values().any(|consumer| consumer.queue == queue);
                self.queues[queue].purges += 1;
                let purge = self.queues[queue].purges;
                promise = Some(Promise::Purged { queue, purge });
                for message in self.queues[queue].messages.values_mut() {
                    if message.state == State::Available {
                        message.state = if is_exact { State::Gone } else { State::MaybePurged };
                        (message.purge, message.met_purge) = (purge, true);
                    }
                }
            }
            O::Commit => self.commit(connection, number),
            O::Rollback => {
                let channel = self.channel(connection, number);
                channel.published.clear();
                let settled = std::mem::take(&mut channel.settled).into_iter();
                channel.unacked.extend(settled.map(|(tag, delivery, _)| (tag, delivery)));
            }
            O::Qos { prefetch } => self.channel(connection, number).prefetch = prefetch,
            O::Limit { limit } => self.channel(connection, number).limit = limit,
            O::Confirm => self.channel(connection, number).is_confirming = true,
            O::Select => self.channel(connection, number).is_transactional = true,
            O::Recover => {
                let deliveries = std::mem::take(&mut self.channel(connection, number).unacked);
                deliveries.into_values().for_each(|delivery| self.release(&delivery, End::Released));
            }
            O::Consume { queue, tag, no_ack } => {
                let prefetch = self.channel(connection, number).prefetch;
                let (queue, unacked, last) = (self.live[&queue], 0, Default::default());
                self.queues[queue].was_delivered = true;
                let consumer =
                    Consumer { connection, channel: number, queue, prefetch, no_ack, unacked, last };
                self.consumers.insert(tag, consumer);
            }
            O::OpenChannel => drop(self.connections[connection].channels.insert(number, Channel::default())),
            O::Get { queue, .. } => self.connections[connection].getting = Some(self.live[&queue]),
            O::Passive { .. } | O::Cancel { .. } | O::CloseChannel | O::CloseConnection => {}
        }
        self.connections[connection].promise = promise;
        self.connections[connection].waiting = Some((number, operation));
    }

    fn declare(&mut self, queue: String, durable: bool) -> Promise {
        let history = self.names.entry(queue.clone()).or_default();
        if !self.live.contains_key(&queue) {
            self.live.insert(queue.clone(), self.queues.len());
            history.push(Some(self.queues.len()));
            let (name, kind) = (queue.clone(), Kind::of(&queue));
            self.queues.push(Queue { name, kind, durable, is_live: true, ..Queue::default() });
        }
        Promise::Exists { number: history.number(), queue }
    }

    /// The message that is to be confirmed, and whether the log must have it before that.
    fn publish(&mut self, connection: usize, queue: Option<String>, mut published: Published) -> (u64, bool) {
        let queues: Vec<usize> = match queue {
            // It is not delayed.
            Some(name) if name == DELAYED && published.ttl_ms.is_none_or(|delay_ms| delay_ms == 0) => {
                published.ttl_ms = None;
                Kind::Delayed.targets().iter().map(|name| self.live[*name]).collect()
            }
            Some(name) => self.live.get(&name).copied().into_iter().collect(),
            None => self.bindings.iter().copied().collect(),
        };
        if let Some(queue) = queues.iter().copied().find(|queue| self.queues[*queue].kind.is_unique()) {
            if let Some(original) = self.queues[queue].original(published.id) {
                *self.seen.entry("duplicate").or_default() += 1;
                return (original.id, original.persistent);
            }
            if self.queues[queue].available().count() >= UNIQUE_MAX {
                self.refuse(published.id, self.queues[queue].kind);
                return (published.id, false);
            }
            let Published { id, persistent, .. } = published;
            self.queues[queue].taken.push(Taken { id, persistent });
        }
        for queue in queues.iter().copied() {
            let place = self.queues[queue].push(published, self.now_ms);
            if self.queues[queue].kind.refuses() {
                self.unsure.insert(published.id, queue);
                self.may_be_dead(queue, place);
            }
            self.look_again(queue, place);
            self.bound(queue);
        }
        if queues.is_empty() && published.mandatory {
            self.connections[connection].returns.push_back(published.id);
        }
        let is_logged = published.persistent && queues.iter().any(|queue| self.queues[*queue].durable);
        (published.id, is_logged)
    }

    /// A queue is full. As long as it has not said so, the exchange before it takes what has the same key for a duplicate.
    fn refuse(&mut self, id: u64, kind: Kind) {
        let mut others = self.refused.keys().filter(|_| kind == Kind::Deduped);
        let may_repeat = others.any(|other| key_of(*other) == key_of(id));
        self.refused.insert(id, may_repeat);
    }

    fn settle(&mut self, connection: usize, number: u16, settle: &Settle) {
        let channel = self.channel(connection, number);
        let first = if settle.multiple { 0 } else { settle.tag };
        let tags: Vec<u64> = channel.unacked.range(first..=settle.tag).map(|(tag, _)| *tag).collect();
        assert!(tags.contains(&settle.tag), "the simulation settles what is there");
        let deliveries =
            tags.into_iter().map(|tag| (tag, channel.unacked.remove(&tag).expect("it is there")));
        let deliveries: Vec<_> = deliveries.map(|(tag, delivery)| (tag, delivery, settle.end())).collect();
        if channel.is_transactional {
            channel.settled.extend(deliveries);
        } else {
            deliveries.iter().for_each(|(_, delivery, end)| self.release(delivery, *end));
        }
    }

    fn commit(&mut self, connection: usize, number: u16) {
        let channel = self.channel(connection, number);
        let (published, settled) =
            (std::mem::take(&mut channel.published), std::mem::take(&mut channel.settled));
        let mut commit = Commit::default();
        for (queue, published) in published {
            if self.publish(connection, queue, published).1 {
                self.channel(connection, number).committed.push(published.id);
                commit.published.push(published.id);
            }
        }
        for (_, delivery, end) in settled {
            self.release(&delivery, end);
            // A strict queue keeps what it rejects until another one has it.
            let may_stay = end == End::Rejected && self.queues[delivery.queue].kind == Kind::Strict;
            if matches!(end, End::Acked | End::Rejected) && !may_stay {
                commit.settled.insert((delivery.queue, delivery.position));
            }
        }
        if commit.published.len() + commit.settled.len() > 1 {
            self.commits.push(commit);
        }
    }

    /// A delivery is settled, for good or not.
    fn release(&mut self, delivery: &Delivery, end: End) {
        if let Some(consumer) = delivery.consumer.as_ref().and_then(|tag| self.consumers.get_mut(tag)) {
            consumer.unacked -= 1;
        }
        let (index, place, now_ms) = (delivery.queue, delivery.position, self.now_ms);
        let queue = &mut self.queues[index];
        let message = queue.messages.get_mut(&place).expect("it was delivered");
        match end {
            End::Acked => message.state = State::Gone,
            End::Rejected => self.is_dead(index, place),
            End::Failed | End::Released if message.deadline_ms <= now_ms => self.is_dead(index, place),
            End::Failed | End::Released => {
                queue.returns += 1;
                message.state = State::Available;
                let is_retried = queue.kind == Kind::Retrying;
                if is_retried || (queue.kind.is_quorum() && end == End::Failed) {
                    message.failed += 1;
                }
                let delay_ms = DELAYS_MS.get((message.failed as usize).wrapping_sub(1));
                if message.failed > queue.kind.delivery_limit() || (is_retried && delay_ms.is_none()) {
                    self.is_dead(index, place);
                } else if let Some(delay_ms) = delay_ms.filter(|_| is_retried) {
                    (message.state, message.until_ms) = (State::Held, now_ms + delay_ms);
                }
            }
        }
        self.look_again(index, place);
        self.bound(index);
    }

    fn end_channel(&mut self, connection: usize, number: u16) {
        let channel = self.channel(connection, number);
        let unacked = std::mem::take(&mut channel.unacked).into_values();
        let settled = std::mem::take(&mut channel.settled).into_iter().map(|(_, delivery, _)| delivery);
        let deliveries: Vec<_> = unacked.chain(settled).collect();
        deliveries.iter().for_each(|delivery| self.release(delivery, End::Failed));
        let Self { consumers, queues, .. } = self;
        consumers.retain(|_, consumer| {
            let is_ours = (consumer.connection, consumer.channel) == (connection, number);
            if is_ours {
                // What was on its way comes back, marked or not.
                queues[consumer.queue].returns += 1;
                queues[consumer.queue].give_backs += 1;
            }
            !is_ours
        });
    }

    /// The connection has ended: everything it held goes back.
    pub fn end_connection(&mut self, connection: usize) {
        let numbers: Vec<u16> = self.connections[connection].channels.keys().copied().collect();
        for number in numbers {
            self.end_channel(connection, number);
        }
        self.connections[connection] = Connection { is_closed: true, ..Connection::default() };
    }

    /// The client has read something.
    pub fn event(&mut self, connection: usize, event: Event) {
        if self.is_tracing {
            eprintln!("    {connection} reads {event:?}");
        }
        if !self.may_be_early(connection, &event) {
            self.catch_up(connection);
        }
        match event {
            Event::Deliver { channel, consumer, tag, redelivered, properties, body, .. } => {
                let counted = failed_deliveries(&properties);
                self.delivered(connection, channel, &consumer, tag, (redelivered, counted), &body);
            }
            Event::Ack { channel, tag, multiple } => self.confirmed(connection, channel, tag, multiple, true),
            Event::Method { ids: (60, 120), arguments, channel } => {
                let tag = u64::from_be_bytes(arguments[..8].try_into().expect("eight octets"));
                self.confirmed(connection, channel, tag, false, false);
            }
            Event::Return { body, .. } => {
                assert_eq!(
                    self.connections[connection].returns.pop_front(),
                    Some(id_of(&body)),
                    "returned in order"
                );
            }
            Event::Method { ids: (60, 30), arguments, channel } => {
                let tag = cancelled(&arguments);
                let Some(consumer) = self.consumers.remove(&tag) else {
                    // The cancellation was on its way when a method that the broker has read since closed the channel.
                    assert!(self.channel(connection, channel).is_closing, "a consumer is cancelled once");
                    return;
                };
                assert!(!self.queues[consumer.queue].is_live, "cancelled for nothing");
            }
            event => self.answered(connection, event),
        }
    }

    /// Whether the broker may have sent it before it did what it has read behind its last answer: what was on its way
    /// to consumers goes out before that, if it waited for a message to be loaded.
    fn may_be_early(&self, connection: usize, event: &Event) -> bool {
        if let Event::Method { ids: (60, 30), arguments, .. } = event {
            let consumer = self.consumers.get(&cancelled(arguments));
            return consumer.is_some_and(|consumer| !self.queues[consumer.queue].is_live);
        }
        let Event::Deliver { consumer, body, .. } = event else { return false };
        let Some(consumer) = self.consumers.get(consumer) else { return false };
        let queue = &self.queues[consumer.queue];
        let Some(position) = queue.positions.get(&id_of(body)) else { return false };
        let channel = &self.connections[connection].channels[&consumer.channel];
        let has_credit = consumer.prefetch == 0 || consumer.unacked < consumer.prefetch;
        let of_consumers = channel.unacked.values().filter(|delivery| delivery.consumer.is_some()).count();
        let has_room = channel.limit == 0 || of_consumers < channel.limit.into();
        let is_ready = self.may_be_ready(&queue.messages[position]) && queue.is_next_of_group(*position);
        is_ready && (consumer.no_ack || (has_credit && has_room))
    }

    /// The broker has gone on after its last answer.
    pub fn catch_up(&mut self, connection: usize) {
        if std::mem::take(&mut self.connections[connection].is_behind) {
            self.advance(connection);
            let messages = self.queues.iter_mut().flat_map(|queue| queue.messages.values_mut());
            messages.for_each(|message| message.was_early = false);
        }
    }

    fn delivered(
        &mut self,
        connection: usize,
        number: u16,
        tag_of: &str,
        tag: u64,
        (redelivered, counted): (bool, Option<u32>),
        body: &[u8],
    ) {
        *self.seen.entry("deliver").or_default() += 1;
        let consumer = self.consumers.get_mut(tag_of).expect("nothing is delivered after cancel-ok");
        assert_eq!((consumer.connection, consumer.channel), (connection, number), "the consumer's channel");
        let queue = &self.queues[consumer.queue];
        let position = *queue.positions.get(&id_of(body)).expect("nothing is invented");
        if !redelivered {
            let message = &queue.messages[&position];
            let last = &mut consumer.last[usize::from(message.priority)];
            let came_back = message.give_backs_before < queue.give_backs;
            let is_ordered = !queue.kind.is_unordered() && queue.kind != Kind::Grouped;
            assert!(
                !is_ordered || came_back || position > *last,
                "{position} after {last} from {}",
                queue.name
            );
            *last = position.max(*last);
        }
        let failed = queue.messages[&position].failed;
        // The first delivery to a consumer has no count, that of a get has.
        assert_eq!(counted, Some(failed).filter(|failed| *failed > 0), "x-delivery-count");
        let no_ack = consumer.no_ack;
        if !no_ack {
            consumer.unacked += 1;
            let (unacked, prefetch) = (consumer.unacked, consumer.prefetch);
            assert!(prefetch == 0 || unacked <= prefetch, "{unacked} unacked with prefetch {prefetch}");
        }
        let delivery = Delivery { queue: consumer.queue, position, consumer: Some(tag_of.to_owned()) };
        self.took(connection, number, tag, redelivered, no_ack, delivery);
        let channel = self.channel(connection, number);
        let of_consumers = channel.unacked.values().filter(|delivery| delivery.consumer.is_some()).count();
        assert!(channel.limit == 0 || of_consumers <= channel.limit.into(), "the channel's limit");
    }

    /// A client has got a message, by delivery or by asking for it.
    fn took(
        &mut self,
        connection: usize,
        number: u16,
        tag: u64,
        redelivered: bool,
        no_ack: bool,
        delivery: Delivery,
    ) {
        self.is_alive(delivery.queue, delivery.position);
        let is_ready = self.may_be_ready(&self.queues[delivery.queue].messages[&delivery.position]);
        let queue = &mut self.queues[delivery.queue];
        assert!(
            queue.is_next_of_group(delivery.position),
            "{} of {} overtakes another one of its group",
            queue.messages[&delivery.position].id,
            queue.name
        );
        queue.was_delivered = true;
        let message = queue.messages.get_mut(&delivery.position).expect("a position of the queue");
        let id = message.id;
        assert!(is_ready, "{id} of {} is {:?}", queue.name, message.state);
        assert!(redelivered || !message.seen, "{id} was delivered before");
        assert!(!redelivered || queue.returns > message.returns_before, "{id} was never delivered before");
        *self.seen.entry("redelivered").or_default() += u64::from(redelivered);
        message.seen = true;
        message.was_early = self.connections[connection].is_behind;
        message.purge = 0;
        message.state = if no_ack { State::Gone } else { State::Unacked };
        let channel = self.channel(connection, number);
        assert!(tag > channel.last_tag, "delivery tags grow");
        channel.last_tag = tag;
        if !no_ack {
            channel.unacked.insert(tag, delivery);
        }
    }

    fn confirmed(&mut self, connection: usize, number: u16, tag: u64, multiple: bool, is_taken: bool) {
        let channel = self.connections[connection].channels.get_mut(&number).expect("an open channel");
        assert!(channel.is_confirming);
        let first = channel.confirmed;
        assert!(tag as usize > first && tag as usize <= channel.publishes.len(), "a confirm of nothing");
        assert!(multiple || tag as usize == first + 1, "confirms come in order");
        channel.confirmed = tag as usize;
        let confirmed = channel.publishes[first..channel.confirmed].to_vec();
        for (id, is_logged) in confirmed {
            let is_durable = self.durable.contains(&id);
            assert!(!is_logged || !is_taken || is_durable, "{id} is confirmed before it is durable");
            self.was_taken(id, is_taken);
        }
        *self.seen.entry(if is_taken { "confirm" } else { "nack" }).or_default() += 1;
    }

    fn answered(&mut self, connection: usize, event: Event) {
        use Operation as O;
        let (number, operation) =
            self.connections[connection].waiting.take().expect("an answer to something");
        // It was refused, and promises nothing, if it needed a queue and there was none.
        let promise = self.connections[connection].promise.take();
        promise.into_iter().for_each(|promise| self.promised(promise));
        match (&operation, event) {
            (operation, Event::ChannelClose { channel, code: 404, .. }) if channel == number => {
                assert!(operation.needs_queue().is_some() && self.channel(connection, number).is_closing);
                *self.seen.entry("channel refused").or_default() += 1;
            }
            (
                O::Get { no_ack, .. },
                Event::GetOk { channel, tag, redelivered, left, properties, body, .. },
            ) if channel == number => {
                let counted = failed_deliveries(&properties);
                self.got(connection, number, *no_ack, tag, (redelivered, left, counted), &body);
            }
            (O::Get { .. }, Event::Method { ids: (60, 72), .. }) => {
                let queue = self.connections[connection].getting.expect("a queue to get from");
                assert!(
                    !self.queues[queue].is_live
                        || self.is_shared(queue)
                        || self.queues[queue].free().count() == 0,
                    "it was not empty"
                );
            }
            (O::Declare { queue, .. } | O::Passive { queue }, Event::DeclareOk { messages, .. }) => {
                let queue = self.live.get(queue).copied().filter(|queue| !self.is_shared(*queue));
                // The answer may have waited for the log, and others have published since.
                if let (Some(queue), O::Passive { .. }) = (queue, &operation) {
                    assert_eq!(
                        messages as usize,
                        self.queues[queue].available().count(),
                        "declare-ok's count"
                    );
                }
            }
            (operation, Event::Method { channel, ids, .. }) if channel == number || channel == 0 => {
                assert_eq!(ids, operation.answer(), "{operation:?}");
                self.done(connection, number, operation.clone());
            }
            (operation, event) => panic!("{event:?} in answer to {operation:?}"),
        }
        self.connections[connection].is_behind = true;
        if !matches!(operation, O::Get { .. }) {
            self.catch_up(connection);
        }
    }

    /// Whether consumers may have messages of the queue on their way.
    fn is_shared(&self, queue: usize) -> bool {
        let is_unsure = |message: &Message| matches!(message.state, State::MaybePurged | State::Held);
        let is_unsure = self.queues[queue].messages.values().any(is_unsure);
        is_unsure || self.consumers.values().any(|consumer| consumer.queue == queue)
    }

    fn got(
        &mut self,
        connection: usize,
        number: u16,
        no_ack: bool,
        tag: u64,
        (redelivered, left, counted): (bool, u32, Option<u32>),
        body: &[u8],
    ) {
        let queue = self.connections[connection].getting.expect("a queue to get from");
        let position = *self.queues[queue].positions.get(&id_of(body)).expect("nothing is invented");
        let kind = self.queues[queue].kind;
        let is_counted = kind.is_quorum();
        if !self.is_shared(queue) {
            // What came back is at the tail of a quorum queue, or was not sent and is at its head.
            let first = self.queues[queue].first_available();
            let is_ordered = !is_counted && !kind.is_unordered() && !self.queues[queue].had_held;
            assert!(!is_ordered || first == Some(position), "the first comes first");
            let available = self.queues[queue].available().count();
            assert_eq!(available, left as usize + 1, "get-ok's count");
        }
        let failed = self.queues[queue].messages[&position].failed;
        assert_eq!(counted, (is_counted || failed > 0).then_some(failed), "x-delivery-count");
        self.took(connection, number, tag, redelivered, no_ack, Delivery { queue, position, consumer: None });
    }

    fn done(&mut self, connection: usize, number: u16, operation: Operation) {
        match operation {
            Operation::Cancel { tag } => drop(self.consumers.remove(&tag)),
            Operation::CloseChannel if !self.channel(connection, number).is_closing => {
                self.end_channel(connection, number);
                self.connections[connection].channels.remove(&number);
            }
            Operation::CloseConnection => self.end_connection(connection),
            Operation::Commit => {
                let committed = std::mem::take(&mut self.channel(connection, number).committed);
                let missing = committed.iter().find(|id| !self.durable.contains(id));
                assert_eq!(missing, None, "committed before it was durable");
            }
            _ => {}
        }
    }

    /// Everything that was sent was read, everything durable, and everybody woken: nothing may be outstanding.
    pub fn check_quiet(&self) {
        for connection in self.connections.iter().filter(|connection| !connection.is_closed) {
            assert!(connection.waiting.is_none(), "{:?} has no answer", connection.waiting);
            assert!(connection.read.is_empty() && connection.returns.is_empty(), "returns are missing");
            for channel in
                connection.channels.values().filter(|channel| channel.is_confirming && !channel.is_closing)
            {
                assert_eq!(channel.confirmed, channel.publishes.len(), "confirms are missing");
            }
        }
        for (tag, consumer) in &self.consumers {
            let queue = &self.queues[consumer.queue];
            let channel = &self.connections[consumer.connection].channels[&consumer.channel];
            let has_credit = consumer.no_ack
                || ((consumer.prefetch == 0 || consumer.unacked < consumer.prefetch)
                    && (channel.limit == 0
                        || channel.unacked.len() + channel.settled.len() < channel.limit.into()));
            assert!(queue.is_live, "{tag} was not cancelled");
            let waits = queue.free().next().map(|(_, message)| message.id).filter(|_| has_credit);
            assert_eq!(waits, None, "{tag} does not get it from {}", queue.name);
        }
    }
}

/// The number of a message, which every body starts with.
pub fn id_of(body: &[u8]) -> u64 {
    u64::from_be_bytes(body[..8].try_into().expect("eight octets"))
}

/// The tag of the consumer that a `basic.cancel` is about.
fn cancelled(arguments: &[u8]) -> String {
    String::from_utf8_lossy(&arguments[1..=usize::from(arguments[0])]).into_owned()
}

/// What the header `x-delivery-count` says, or that of a queue that puts retries off.
fn failed_deliveries(properties: &[u8]) -> Option<u32> {
    [&b"x-delivery-countl"[..], b"x-retry-countl"].into_iter().find_map(|name| {
        let at = properties.windows(name.len()).position(|window| window == name)? + name.len();
        let count = i64::from_be_bytes(properties[at..at + 8].try_into().expect("eight octets"));
        Some(count.try_into().expect("a small count"))
    })
}
