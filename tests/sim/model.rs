//! What must be true of a broker, written down as plainly as possible: every queue is a list of messages, and every
//! connection does one thing after the other.

#![allow(missing_docs, unreachable_pub, reason = "a part of a test")]

pub mod crash;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
};

use self::crash::{Commit, History, Promise};
use crate::{
    operation::{Kind, LENGTH_MAX, Operation, PRIORITY_MAX, Settle},
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
    kind: Kind,
    pub durable: bool,
    pub is_live: bool,
    /// By position, from 1.
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
    /// Whether any of its messages may have been delivered, ever.
    was_delivered: bool,
    /// Up to where the log knew of deliveries when the broker began.
    delivered_up_to: u64,
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In the queue, or on its way to a consumer.
    Available,
    /// The same, but if it was in the queue, a purge took it; or it may have given way to others.
    MaybePurged,
    Unacked,
    Gone,
}

pub struct Consumer {
    connection: usize,
    channel: u16,
    pub queue: usize,
    pub prefetch: u16,
    no_ack: bool,
    pub unacked: u16,
    /// The highest position that it got fresh, by priority.
    last: [u64; PRIORITY_MAX as usize + 1],
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
    /// In a transaction: tag, delivery, whether to requeue.
    settled: Vec<(u64, Delivery, bool)>,
    committed: Vec<u64>,
}

#[derive(Clone, Copy)]
struct Published {
    id: u64,
    persistent: bool,
    mandatory: bool,
    priority: u8,
}

#[derive(Clone)]
pub struct Delivery {
    queue: usize,
    position: u64,
    consumer: Option<String>,
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

    /// That many are ready, and nothing is on its way.
    pub fn check_ready(&mut self, ready: usize) {
        let (available, unsure) = (self.count(State::Available), self.count(State::MaybePurged));
        assert!(
            (available..=available + unsure).contains(&ready),
            "{ready} ready, not {available}: {}",
            self.name
        );
        if ready == available {
            let purged = self.messages.values_mut().filter(|message| message.state == State::MaybePurged);
            purged.for_each(|message| message.state = State::Gone);
        }
    }

    /// The first one that a client may get.
    fn first_available(&self) -> Option<u64> {
        let first = self.available().min_by_key(|(position, message)| (Reverse(message.priority), *position));
        first.map(|(position, _)| position)
    }

    /// A queue that is too long lets go of its head. What is on its way to a consumer counts here and not there, so
    /// more may be marked here than goes.
    fn bound(&mut self) {
        if self.kind != Kind::Bounded {
            return;
        }
        let is_there = |message: &Message| matches!(message.state, State::Available | State::MaybePurged);
        let counts = |message: &&mut Message| is_there(message) || message.was_early;
        let excess = self.messages.values_mut().rev().filter(counts).skip(LENGTH_MAX);
        for message in excess.filter(|message| is_there(message)) {
            (message.state, message.met_purge) = (State::MaybePurged, true);
        }
    }

    fn push(&mut self, Published { id, persistent, priority, .. }: Published) {
        self.last += 1;
        let position = self.last;
        let (returns_before, give_backs_before) = (self.returns, self.give_backs);
        self.positions.insert(id, position);
        let message = Message {
            id,
            persistent,
            priority: if self.kind == Kind::Prioritized { priority.min(PRIORITY_MAX) } else { 0 },
            state: State::Available,
            failed: 0,
            seen: false,
            was_early: false,
            returns_before,
            give_backs_before,
            purge: 0,
            met_purge: false,
        };
        self.messages.insert(position, message);
        self.bound();
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
            O::Publish { queue, id, persistent, mandatory, priority } => {
                let published = Published { id, persistent, mandatory, priority };
                let channel = self.channel(connection, number);
                if channel.is_transactional {
                    channel.published.push((queue, published));
                } else {
                    let is_logged = self.publish(connection, queue, published);
                    self.channel(connection, number).publishes.push((id, is_logged));
                }
                return;
            }
            O::Settle(settle) => return self.settle(connection, number, &settle),
            O::CloseOk => unreachable!("only a closing channel is answered"),
            O::Declare { queue, durable } => {
                let history = self.names.entry(queue.clone()).or_default();
                if !self.live.contains_key(&queue) {
                    self.live.insert(queue.clone(), self.queues.len());
                    history.push(Some(self.queues.len()));
                    let (name, kind) = (queue.clone(), Kind::of(&queue));
                    self.queues.push(Queue { name, kind, durable, is_live: true, ..Queue::default() });
                }
                promise = Some(Promise::Exists { number: history.number(), queue });
            }
            O::Delete { queue } => {
                let history = self.names.entry(queue.clone()).or_default();
                if let Some(queue) = self.live.remove(&queue) {
                    self.queues[queue].is_live = false;
                    self.bindings.remove(&queue);
                    history.push(None);
                }
                promise = Some(Promise::Exists { number: history.number(), queue });
            }
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
                deliveries.into_values().for_each(|delivery| self.release(&delivery, true));
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

    /// Whether the log must have the message before it is confirmed.
    fn publish(&mut self, connection: usize, queue: Option<String>, published: Published) -> bool {
        let queues: Vec<usize> = match queue {
            Some(name) => self.live.get(&name).copied().into_iter().collect(),
            None => self.bindings.iter().copied().collect(),
        };
        for queue in &queues {
            self.queues[*queue].push(published);
        }
        if queues.is_empty() && published.mandatory {
            self.connections[connection].returns.push_back(published.id);
        }
        published.persistent && queues.iter().any(|queue| self.queues[*queue].durable)
    }

    fn settle(&mut self, connection: usize, number: u16, settle: &Settle) {
        let channel = self.channel(connection, number);
        let first = if settle.multiple { 0 } else { settle.tag };
        let tags: Vec<u64> = channel.unacked.range(first..=settle.tag).map(|(tag, _)| *tag).collect();
        assert!(tags.contains(&settle.tag), "the simulation settles what is there");
        let deliveries =
            tags.into_iter().map(|tag| (tag, channel.unacked.remove(&tag).expect("it is there")));
        let deliveries: Vec<_> = deliveries.map(|(tag, delivery)| (tag, delivery, settle.requeue)).collect();
        if channel.is_transactional {
            channel.settled.extend(deliveries);
        } else {
            deliveries.iter().for_each(|(_, delivery, requeue)| self.release(delivery, *requeue));
        }
    }

    fn commit(&mut self, connection: usize, number: u16) {
        let channel = self.channel(connection, number);
        let (published, settled) =
            (std::mem::take(&mut channel.published), std::mem::take(&mut channel.settled));
        let mut commit = Commit::default();
        for (queue, published) in published {
            if self.publish(connection, queue, published) {
                self.channel(connection, number).committed.push(published.id);
                commit.published.push(published.id);
            }
        }
        for (_, delivery, requeue) in settled {
            self.release(&delivery, requeue);
            if !requeue {
                commit.settled.insert((delivery.queue, delivery.position));
            }
        }
        if commit.published.len() + commit.settled.len() > 1 {
            self.commits.push(commit);
        }
    }

    /// A delivery is settled, for good or not.
    fn release(&mut self, delivery: &Delivery, requeue: bool) {
        if let Some(consumer) = delivery.consumer.as_ref().and_then(|tag| self.consumers.get_mut(tag)) {
            consumer.unacked -= 1;
        }
        let queue = &mut self.queues[delivery.queue];
        queue.returns += u64::from(requeue);
        let message = queue.messages.get_mut(&delivery.position).expect("it was delivered");
        message.state = if requeue { State::Available } else { State::Gone };
        message.failed += u32::from(requeue && queue.kind == Kind::Quorum);
        queue.bound();
    }

    fn end_channel(&mut self, connection: usize, number: u16) {
        let channel = self.channel(connection, number);
        let unacked = std::mem::take(&mut channel.unacked).into_values();
        let settled = std::mem::take(&mut channel.settled).into_iter().map(|(_, delivery, _)| delivery);
        let deliveries: Vec<_> = unacked.chain(settled).collect();
        deliveries.iter().for_each(|delivery| self.release(delivery, true));
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
            Event::Ack { channel, tag, multiple } => self.confirmed(connection, channel, tag, multiple),
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
        let is_there = matches!(queue.messages[position].state, State::Available | State::MaybePurged);
        is_there && (consumer.no_ack || (has_credit && has_room))
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
            assert!(came_back || position > *last, "{position} after {last} from {}", queue.name);
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
        let queue = &mut self.queues[delivery.queue];
        queue.was_delivered = true;
        let message = queue.messages.get_mut(&delivery.position).expect("a position of the queue");
        let id = message.id;
        assert!(
            matches!(message.state, State::Available | State::MaybePurged),
            "{id} is {:?}",
            message.state
        );
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

    fn confirmed(&mut self, connection: usize, number: u16, tag: u64, multiple: bool) {
        let channel = self.connections[connection].channels.get_mut(&number).expect("an open channel");
        assert!(channel.is_confirming);
        let first = channel.confirmed;
        assert!(tag as usize > first && tag as usize <= channel.publishes.len(), "a confirm of nothing");
        assert!(multiple || tag as usize == first + 1, "confirms come in order");
        channel.confirmed = tag as usize;
        for (id, is_logged) in &channel.publishes[first..channel.confirmed] {
            assert!(!is_logged || self.durable.contains(id), "{id} is confirmed before it is durable");
        }
        *self.seen.entry("confirm").or_default() += 1;
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
                        || self.queues[queue].available().count() == 0,
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
        let is_unsure =
            self.queues[queue].messages.values().any(|message| message.state == State::MaybePurged);
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
        let is_counted = self.queues[queue].kind == Kind::Quorum;
        if !self.is_shared(queue) {
            // What came back is at the tail of a quorum queue, or was not sent and is at its head.
            let first = self.queues[queue].first_available();
            assert!(is_counted || first == Some(position), "the first comes first");
            let available = self.queues[queue].available().count();
            assert_eq!(available, left as usize + 1, "get-ok's count");
        }
        let failed = self.queues[queue].messages[&position].failed;
        assert_eq!(counted, is_counted.then_some(failed), "x-delivery-count");
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
            assert!(!has_credit || queue.available().count() == 0, "{tag} gets nothing from {}", queue.name);
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

/// What the header `x-delivery-count` says.
fn failed_deliveries(properties: &[u8]) -> Option<u32> {
    let name = b"x-delivery-countl";
    let at = properties.windows(name.len()).position(|window| window == name)? + name.len();
    let count = i64::from_be_bytes(properties[at..at + 8].try_into().expect("eight octets"));
    Some(count.try_into().expect("a small count"))
}
