//! Scripted sessions for defects that were found once: stalls, lost replies, and answers in the wrong order.

mod answers;
mod stalls;

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::amqp::frame::Frames;
use crate::broker::{
    Broker, Identity, Now,
    limit::Limits,
    permission::{Permission, Permissions},
    user::{HashingAlgorithm, PasswordHash, User, Users},
};
use crate::session::{Peer, Session};

/// A broker with guest/guest and the virtual host `/`, and no log: facts become durable when a test says so.
fn broker() -> Arc<Broker> {
    let users = Users::new([0; 4]);
    users.put(User {
        name: "guest".into(),
        password: PasswordHash::new(HashingAlgorithm::Sha256, [0; 4], b"guest"),
        tags: Vec::new(),
        loopback_only: true,
        connections_max: None,
        channels_max: Some(3),
    });
    let permissions = Permissions::new();
    permissions.grant("guest", "/", Permission::new(".*", ".*", ".*").expect("patterns"));
    let limits = Limits {
        frame_max: 131_072,
        channel_max: 2047,
        heartbeat_secs: 60,
        handshake_timeout_ms: 10_000,
        message_bytes_max: 128 << 20,
        connections_max: None,
        channels_max: None,
        consumers_per_channel_max: None,
        queues_max: None,
        unsent_bytes_per_connection: 1 << 20,
    };
    let text = |text: &str| text.to_owned();
    let identity =
        Identity { product: text("RabbitMQ"), version: text("3.13.7"), cluster_name: text("leveret") };
    let broker = Broker::new(users, permissions, limits, identity);
    broker.add_virtual_host("/", None, None);
    Arc::new(broker)
}

/// Everything in the journal becomes durable.
fn sync(broker: &Broker) {
    if let Some(batch) = broker.journal.try_take_batch() {
        broker.journal.mark_written(&batch);
        broker.journal.mark_durable(batch.last);
    }
}

/// A client that is scripted octet by octet.
struct Client {
    session: Session,
    now: Now,
    heartbeat_secs: u16,
    pending: Vec<u8>,
}

/// Class and method ids of a method frame, with its channel.
type Seen = (u16, u16, u16);

impl Client {
    /// Logs in and opens the connection and channel 1.
    fn open(broker: &Arc<Broker>, heartbeat_secs: u16) -> Self {
        Self::open_as(broker, heartbeat_secs, false)
    }

    /// The same; `cancel_notify` says that it understands `basic.cancel` from the server.
    fn open_as(broker: &Arc<Broker>, heartbeat_secs: u16, cancel_notify: bool) -> Self {
        let peer = Peer::new((Ipv4Addr::LOCALHOST, 1).into(), (Ipv4Addr::LOCALHOST, 2).into());
        let session = Session::new(Arc::clone(broker), peer, Now::default());
        let mut client = Self { session, now: Now::default(), heartbeat_secs, pending: Vec::new() };
        client.pending.extend(b"AMQP\x00\x00\x09\x01");
        let capability = [&short("consumer_cancel_notify")[..], b"t\x01"].concat();
        let capabilities = [&short("capabilities")[..], b"F", &long(&capability)].concat();
        let properties = long(if cancel_notify { &capabilities } else { &[] });
        let start_ok = [&properties[..], &short("PLAIN"), &long(b"\0guest\0guest"), &short("en_US")];
        client.method(0, 10, 11, &start_ok.concat());
        client.method(
            0,
            10,
            31,
            &[&2047u16.to_be_bytes()[..], &131_072u32.to_be_bytes(), &client.heartbeat_secs.to_be_bytes()]
                .concat(),
        );
        client.method(0, 10, 40, &[&short("/")[..], &[0, 0]].concat());
        client.open_channel(1);
        client.send();
        assert_eq!(client.seen().last(), Some(&(1, 20, 11)));
        client
    }

    fn open_channel(&mut self, channel: u16) {
        self.method(channel, 20, 10, &[0]);
    }

    /// `queue.declare` of a queue without arguments.
    fn declare(&mut self, name: &str, durable: bool) {
        self.method(
            1,
            50,
            10,
            &[&[0, 0][..], &short(name), &[if durable { 2 } else { 0 }, 0, 0, 0, 0]].concat(),
        );
    }

    fn consume(&mut self, queue: &str, tag: &str, no_ack: bool) {
        let bits = if no_ack { 2 } else { 0 };
        self.method(1, 60, 20, &[&[0, 0][..], &short(queue), &short(tag), &[bits, 0, 0, 0, 0]].concat());
    }

    fn publish(&mut self, exchange: &str, key: &str, persistent: bool) {
        self.method(1, 60, 40, &[&[0, 0][..], &short(exchange), &short(key), &[0]].concat());
        let properties: &[u8] = if persistent { &[0x10, 0, 2] } else { &[0, 0] };
        self.frame(2, 1, &[&[0, 60, 0, 0][..], &1u64.to_be_bytes(), properties].concat());
        self.frame(3, 1, b"x");
    }

    fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(1, channel, &payload);
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let size = u32::try_from(payload.len()).expect("short");
        self.pending.push(kind);
        self.pending.extend(channel.to_be_bytes());
        self.pending.extend(size.to_be_bytes());
        self.pending.extend(payload);
        self.pending.push(0xCE);
    }

    /// Hands over what was gathered, in one read, as the shell does.
    fn send(&mut self) {
        let octets = std::mem::take(&mut self.pending);
        self.session.input().extend_from_slice(&octets);
        self.session.handle_input(self.now);
        self.wake();
    }

    fn wake(&mut self) {
        self.session.handle_wake(self.now);
    }

    /// What the server has written since the last time: frames.
    fn frames(&mut self) -> Vec<(u8, u16, Vec<u8>)> {
        let mut slices = Vec::new();
        self.session.output().io_slices(&mut slices);
        let octets: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        self.session.output().advance(octets.len());
        Frames::new(&octets).map(|frame| (frame.kind, frame.channel, frame.payload.to_vec())).collect()
    }

    /// The methods among them.
    fn seen(&mut self) -> Vec<Seen> {
        let id = |octets: &[u8]| u16::from_be_bytes([octets[0], octets[1]]);
        let methods = self.frames().into_iter().filter(|(kind, ..)| *kind == 1);
        methods.map(|(_, channel, payload)| (channel, id(&payload), id(&payload[2..]))).collect()
    }
}

fn short(text: &str) -> Vec<u8> {
    let len = u8::try_from(text.len()).expect("short");
    [&[len], text.as_bytes()].concat()
}

fn long(octets: &[u8]) -> Vec<u8> {
    let len = u32::try_from(octets.len()).expect("short");
    [&len.to_be_bytes(), octets].concat()
}
