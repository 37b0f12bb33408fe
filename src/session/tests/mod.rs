//! Scripted sessions: what a client sends, what it must read, on a clock made of numbers and without a socket.

mod closing;
mod content;
mod dedup;
mod delivery;
mod durability;
mod events;
mod handshake;
mod interceptors;
mod limits;
mod operators;
mod paging;
mod policies;
mod refusals;
mod regressions;
mod retries;
mod timeouts;
#[path = "../../../tests/wire/mod.rs"]
mod wire;

use std::sync::Arc;

use self::wire::{Event, Incoming, Method};
use super::{Peer, Session};
use crate::broker::{
    Broker, Identity, Now,
    journal::Batch,
    limit::Limits,
    permission::{Permission, Permissions},
    user::{HashingAlgorithm, PasswordHash, User, Users},
};

/// The limits of the tests: RabbitMQ's, but for smaller messages and outboxes.
fn limits() -> Limits {
    Limits {
        frame_max: 131_072,
        channel_max: 2047,
        heartbeat_secs: 60,
        handshake_timeout_ms: 10_000,
        message_bytes_max: 4 << 20,
        connections_max: None,
        channels_max: None,
        consumers_per_channel_max: None,
        queues_max: None,
        unsent_bytes_per_connection: 64 << 10,
    }
}

/// A broker with the virtual hosts `/` and `closed`. guest may everything in `/`, from loopback only; ann may use what
/// starts with `ann` there, from anywhere.
fn broker(limits: Limits) -> Arc<Broker> {
    let (users, permissions) = (Users::new([9; 4]), Permissions::new());
    for (name, pattern, loopback_only) in [("guest", ".*", true), ("ann", "^ann", false)] {
        users.put(User {
            name: name.into(),
            password: PasswordHash::new(HashingAlgorithm::Sha256, [1; 4], name.as_bytes()),
            tags: Vec::new(),
            loopback_only,
            connections_max: None,
            channels_max: None,
        });
        permissions.grant(name, "/", Permission::new(pattern, pattern, pattern).expect("patterns"));
    }
    let identity = Identity {
        product: "RabbitMQ".into(),
        version: "3.13.7".into(),
        cluster_name: "leveret@test".into(),
    };
    let broker = Broker::new(users, permissions, limits, identity);
    for host in ["/", "closed"] {
        broker.add_virtual_host(host, None, None);
    }
    Arc::new(broker)
}

/// A client that follows a script, and the session that serves it.
struct Script {
    broker: Arc<Broker>,
    session: Session,
    now_ms: u64,
    incoming: Incoming,
    /// What was read and not expected yet.
    events: std::collections::VecDeque<Event>,
    /// Whether facts become durable as soon as they are made.
    syncs: bool,
}

impl Script {
    /// A connection that was just accepted.
    fn accepted(broker: &Arc<Broker>, address: &str) -> Self {
        let address = address.parse().expect("an address");
        Self::accepted_from(broker, Peer::new(address, ([127, 0, 0, 1], 5672).into()))
    }

    fn accepted_from(broker: &Arc<Broker>, peer: Peer) -> Self {
        let now_ms = 1_000_000;
        let session = Session::new(Arc::clone(broker), peer, Now::made_up(now_ms));
        let broker = Arc::clone(broker);
        let (incoming, events) = (Incoming::default(), std::collections::VecDeque::new());
        Self { broker, session, now_ms, incoming, events, syncs: true }
    }

    /// A connection that is open, with every capability and without heartbeats.
    fn open(broker: &Arc<Broker>) -> Self {
        Self::open_with(broker, wire::tune_ok(2047, 131_072, 0))
    }

    fn open_with(broker: &Arc<Broker>, tune_ok: Method) -> Self {
        let mut script = Self::accepted(broker, "127.0.0.1:50000");
        let capabilities =
            ["consumer_cancel_notify", "connection.blocked", "authentication_failure_close", "basic.nack"];
        script.raw(wire::HEADER);
        script.send(0, wire::start_ok("guest", "guest", &capabilities));
        script.send(0, tune_ok);
        script.send(0, wire::open("/"));
        let ids = [(10, 10), (10, 30), (10, 41)];
        for ids in ids {
            script.expect_ids(0, ids);
        }
        script
    }

    /// The same, with channel 1 open.
    fn with_channel(broker: &Arc<Broker>) -> Self {
        let mut script = Self::open(broker);
        script.open_channel(1);
        script
    }

    fn open_channel(&mut self, channel: u16) {
        self.send(channel, wire::channel_open());
        self.expect_ids(channel, (20, 11));
    }

    fn now(&self) -> Now {
        Now::made_up(self.now_ms)
    }

    /// Sends octets, in one piece, and reads the answer.
    fn raw(&mut self, octets: &[u8]) {
        self.feed(octets);
        self.read();
    }

    /// Sends octets and reads nothing.
    fn feed(&mut self, octets: &[u8]) {
        self.session.input().extend_from_slice(octets);
        self.session.handle_input(self.now());
    }

    fn send(&mut self, channel: u16, method: Method) {
        self.raw(&method.on(channel));
    }

    fn publish(&mut self, channel: u16, exchange: &str, key: &str, bits: u8, properties: &[u8], body: &[u8]) {
        self.raw(&wire::publish(channel, exchange, key, bits, properties, body));
    }

    /// Declares a queue and expects it empty.
    fn declare(&mut self, name: &str, bits: u8) {
        self.send(1, wire::declare_queue(name, bits));
        self.expect(Event::DeclareOk { channel: 1, queue: name.into(), messages: 0, consumers: 0 });
    }

    /// What a shell does after other connections or the log have done something.
    fn wake(&mut self) {
        self.session.handle_wake(self.now());
        self.read();
    }

    /// Lets time pass, up to the last deadline in it.
    fn wait_ms(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while let Some(deadline) = self.session.deadline_ms().filter(|deadline| *deadline <= end) {
            self.now_ms = self.now_ms.max(deadline);
            self.session.handle_deadline(self.now());
            self.read();
        }
        self.now_ms = end;
    }

    /// Makes the facts so far durable.
    fn sync(&mut self) {
        while let Some(batch) = self.facts() {
            self.mark_durable(&batch);
        }
    }

    /// Takes what the log thread would take.
    fn facts(&self) -> Option<Batch> {
        self.broker.journal.try_take_batch()
    }

    /// Says that they are written and durable.
    fn mark_durable(&self, batch: &Batch) {
        self.broker.journal.mark_written(batch);
        self.broker.journal.mark_durable(batch.last);
    }

    /// Reads what the session has written.
    fn read(&mut self) {
        while self.syncs {
            let Some(batch) = self.facts() else { break };
            self.mark_durable(&batch);
            self.session.handle_wake(self.now());
        }
        if self.syncs {
            self.session.handle_wake(self.now());
        }
        let octets = self.take_output();
        self.events.extend(self.incoming.read(&octets));
    }

    fn take_output(&mut self) -> Vec<u8> {
        let mut octets = Vec::new();
        loop {
            let mut slices = Vec::new();
            self.session.output().io_slices(&mut slices);
            let start = octets.len();
            slices.iter().for_each(|slice| octets.extend_from_slice(slice));
            let taken = octets.len() - start;
            if taken == 0 {
                return octets;
            }
            self.session.output().advance(taken);
        }
    }

    fn next(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    #[track_caller]
    fn expect(&mut self, expected: Event) {
        let event = self.next();
        assert_eq!(event, Some(expected), "and then {:?}", self.events);
    }

    /// Expects a method, whatever its arguments.
    #[track_caller]
    fn expect_ids(&mut self, channel: u16, expected: (u16, u16)) -> Vec<u8> {
        match self.next() {
            Some(Event::Method { channel: on, ids, arguments }) if (on, ids) == (channel, expected) => {
                arguments
            }
            event => {
                panic!("{event:?} instead of {expected:?} on channel {channel}, and then {:?}", self.events)
            }
        }
    }

    #[track_caller]
    fn expect_nothing(&mut self) {
        assert!(self.events.is_empty(), "{:?}", self.events);
    }

    #[track_caller]
    fn expect_connection_close(&mut self, code: u16, text: &str) -> (u16, u16) {
        match self.next() {
            Some(Event::ConnectionClose { code: got, text: said, method }) => {
                assert_eq!((got, said.as_str()), (code, text));
                method
            }
            event => panic!("{event:?} instead of {code} {text}"),
        }
    }

    #[track_caller]
    fn expect_channel_close(&mut self, channel: u16, code: u16, text: &str) -> (u16, u16) {
        match self.next() {
            Some(Event::ChannelClose { channel: on, code: got, text: said, method }) => {
                assert_eq!((on, got, said.as_str()), (channel, code, text));
                method
            }
            event => panic!("{event:?} instead of {code} {text}"),
        }
    }

    /// Expects deliveries with these bodies and flags, in this order; returns their tags.
    #[track_caller]
    fn expect_deliveries(&mut self, expected: &[(&str, bool)]) -> Vec<u64> {
        let mut tags = Vec::new();
        for (expected, flag) in expected {
            match self.next() {
                Some(Event::Deliver { tag, redelivered, body, .. }) => {
                    assert_eq!((String::from_utf8_lossy(&body), redelivered), ((*expected).into(), *flag));
                    tags.push(tag);
                }
                event => panic!("{event:?} instead of a delivery of {expected}"),
            }
        }
        tags
    }

    /// The ready messages of a queue, as a passive declaration on channel 1 tells.
    #[track_caller]
    fn count(&mut self, queue: &str) -> u32 {
        self.send(1, wire::declare_queue(queue, wire::PASSIVE));
        match self.next() {
            Some(Event::DeclareOk { messages, .. }) => messages,
            event => panic!("{event:?} instead of declare-ok"),
        }
    }
}
