//! What must be true of a broker, written down as plainly as possible: every queue is a list of messages, and every
//! connection does one thing after the other.

#![allow(missing_docs, unreachable_pub, reason = "a part of a test")]

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use crate::{
    operation::{Operation, Settle},
    wire::Event,
};

/// See the module's text. Every check is an assertion.
#[derive(Default)]
pub struct Model {
    /// Every queue there ever was.
    pub queues: Vec<Queue>,
    /// Those that exist, by name.
    pub live: BTreeMap<String, usize>,
    /// What is bound to the fanout exchange.
    bindings: BTreeSet<usize>,
    pub consumers: BTreeMap<String, Consumer>,
    pub connections: Vec<Connection>,
    /// Messages that the log has.
    pub durable: HashSet<u64>,
    /// Whether to say what happens, to find out why something went wrong.
    pub is_tracing: bool,
    /// How often each thing was seen, to tell a simulation that does nothing from one that works.
    pub seen: BTreeMap<&'static str, u64>,
}

#[derive(Default)]
pub struct Queue {
    pub name: String,
    pub durable: bool,
    pub is_live: bool,
    /// By position, from 1.
    pub messages: BTreeMap<u64, Message>,
    positions: BTreeMap<u64, u64>,
    /// How often something was put back, and how often without being marked as redelivered.
    returns: u64,
    give_backs: u64,
}

pub struct Message {
    pub id: u64,
    pub persistent: bool,
    pub state: State,
    seen: bool,
    /// What the queue had counted when it came.
    returns_before: u64,
    give_backs_before: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In the queue, or on its way to a consumer.
    Available,
    /// The same, but if it was in the queue, a purge took it.
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
    /// The highest position that it got fresh.
    last: u64,
}

#[derive(Default)]
pub struct Connection {
    pub channels: BTreeMap<u16, Channel>,
    /// What the broker has read and may not have done.
    pub read: VecDeque<(u16, Operation)>,
    /// What it must answer next.
    pub waiting: Option<(u16, Operation)>,
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
    published: Vec<(Option<String>, u64, bool, bool)>,
    /// In a transaction: tag, delivery, whether to requeue.
    settled: Vec<(u64, Delivery, bool)>,
    committed: Vec<u64>,
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

    fn push(&mut self, id: u64, persistent: bool) {
        let position = self.messages.len() as u64 + 1;
        let (returns_before, give_backs_before) = (self.returns, self.give_backs);
        self.positions.insert(id, position);
        let state = State::Available;
        self.messages.insert(
            position,
            Message { id, persistent, state, seen: false, returns_before, give_backs_before },
        );
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
        let missing = operation.needs_queue().is_some_and(|name| !self.live.contains_key(name));
        if missing {
            self.end_channel(connection, number);
            self.channel(connection, number).is_closing = true;
        }
        match operation.clone() {
            _ if missing => {}
            O::Publish { queue, id, persistent, mandatory } => {
                let channel = self.channel(connection, number);
                if channel.is_transactional {
                    channel.published.push((queue, id, persistent, mandatory));
                } else {
                    let is_logged = self.publish(connection, queue, id, persistent, mandatory);
                    self.channel(connection, number).publishes.push((id, is_logged));
                }
                return;
            }
            O::Settle(settle) => return self.settle(connection, number, &settle),
            O::CloseOk => unreachable!("only a closing channel is answered"),
            O::Declare { queue, durable } => {
                if !self.live.contains_key(&queue) {
                    self.live.insert(queue.clone(), self.queues.len());
                    self.queues.push(Queue { name: queue, durable, is_live: true, ..Queue::default() });
                }
            }
            O::Delete { queue } => {
                if let Some(queue) = self.live.remove(&queue) {
                    self.queues[queue].is_live = false;
                    self.bindings.remove(&queue);
                }
            }
            O::Bind { queue } => drop(self.bindings.insert(self.live[&queue])),
            O::Unbind { queue } => {
                self.live.get(&queue).map(|queue| self.bindings.remove(queue));
            }
            O::Purge { queue } => {
                let queue = self.live[&queue];
                let is_exact = !self.consumers.values().any(|consumer| consumer.queue == queue);
                for message in self.queues[queue].messages.values_mut() {
                    if message.state == State::Available {
                        message.state = if is_exact { State::Gone } else { State::MaybePurged };
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
                let (queue, unacked, last) = (self.live[&queue], 0, 0);
                let consumer =
                    Consumer { connection, channel: number, queue, prefetch, no_ack, unacked, last };
                self.consumers.insert(tag, consumer);
            }
            O::OpenChannel => drop(self.connections[connection].channels.insert(number, Channel::default())),
            O::Passive { .. } | O::Get { .. } | O::Cancel { .. } | O::CloseChannel | O::CloseConnection => {}
        }
        self.connections[connection].waiting = Some((number, operation));
    }

    /// Whether the log must have the message before it is confirmed.
    fn publish(
        &mut self,
        connection: usize,
        queue: Option<String>,
        id: u64,
        persistent: bool,
        mandatory: bool,
    ) -> bool {
        let queues: Vec<usize> = match queue {
            Some(name) => self.live.get(&name).copied().into_iter().collect(),
            None => self.bindings.iter().copied().collect(),
        };
        for queue in &queues {
            self.queues[*queue].push(id, persistent);
        }
        if queues.is_empty() && mandatory {
            self.connections[connection].returns.push_back(id);
        }
        persistent && queues.iter().any(|queue| self.queues[*queue].durable)
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
        for (queue, id, persistent, mandatory) in published {
            if self.publish(connection, queue, id, persistent, mandatory) {
                self.channel(connection, number).committed.push(id);
            }
        }
        settled.iter().for_each(|(_, delivery, requeue)| self.release(delivery, *requeue));
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
        match event {
            Event::Deliver { channel, consumer, tag, redelivered, body, .. } => {
                self.delivered(connection, channel, &consumer, tag, redelivered, &body);
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
                let tag = String::from_utf8_lossy(&arguments[1..=usize::from(arguments[0])]).into_owned();
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

    fn delivered(
        &mut self,
        connection: usize,
        number: u16,
        tag_of: &str,
        tag: u64,
        redelivered: bool,
        body: &[u8],
    ) {
        *self.seen.entry("deliver").or_default() += 1;
        let consumer = self.consumers.get_mut(tag_of).expect("nothing is delivered after cancel-ok");
        assert_eq!((consumer.connection, consumer.channel), (connection, number), "the consumer's channel");
        let queue = &self.queues[consumer.queue];
        let position = *queue.positions.get(&id_of(body)).expect("nothing is invented");
        if !redelivered {
            let (last, came_back) =
                (consumer.last, queue.messages[&position].give_backs_before < queue.give_backs);
            assert!(came_back || position > last, "{position} after {last} from {}", queue.name);
            consumer.last = last.max(position);
        }
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
        match (&operation, event) {
            (operation, Event::ChannelClose { channel, code: 404, .. }) if channel == number => {
                assert!(operation.needs_queue().is_some() && self.channel(connection, number).is_closing);
                *self.seen.entry("channel refused").or_default() += 1;
            }
            (O::Get { queue, no_ack }, Event::GetOk { channel, tag, redelivered, left, body, .. })
                if channel == number =>
            {
                self.got(connection, number, (queue, *no_ack), tag, (redelivered, left), &body);
            }
            (O::Get { queue, .. }, Event::Method { ids: (60, 72), .. }) => {
                let queue = self.live[queue];
                assert!(
                    self.is_shared(queue) || self.queues[queue].available().count() == 0,
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
        self.advance(connection);
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
        of: (&str, bool),
        tag: u64,
        flags: (bool, u32),
        body: &[u8],
    ) {
        let queue = self.live[of.0];
        let position = *self.queues[queue].positions.get(&id_of(body)).expect("nothing is invented");
        if !self.is_shared(queue) {
            let mut available = self.queues[queue].available();
            assert_eq!(available.next().map(|(first, _)| first), Some(position), "the first comes first");
            assert_eq!(available.count(), flags.1 as usize, "get-ok's count");
        }
        self.took(connection, number, tag, flags.0, of.1, Delivery { queue, position, consumer: None });
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
