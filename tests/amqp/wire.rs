//! A client that speaks frames: what it sends is exactly what a test says, right or wrong.

use std::{
    fmt,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use amq_protocol::{
    frame::{AMQPFrame, WriteContext, gen_frame, parse_frame},
    protocol::{
        AMQPClass, BasicProperties, access, basic, channel, confirm, connection, exchange, queue, tx,
    },
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use crate::broker::{DEADLINE, TestBroker, is_external};

/// How long a broker that is not ours may take to do what it was told.
const MOMENT: Duration = Duration::from_millis(150);

/// The protocol header of AMQP 0-9-1.
pub(crate) const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
/// The frame types.
pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;
pub(crate) const BODY: u8 = 3;
pub(crate) const HEARTBEAT: u8 = 8;

/// A method as `amq_protocol` knows it, on its own: `wire.send(1, queue::Purge { .. })`.
pub(crate) trait Method: Sized {
    /// The method among all methods.
    fn into_class(self) -> AMQPClass;
    /// This method, if it is the one.
    fn from_class(class: AMQPClass) -> Option<Self>;
}

macro_rules! methods {
    ($($variant:ident $class:ident: $($method:ident)+;)+) => {$($(
        impl Method for $class::$method {
            fn into_class(self) -> AMQPClass {
                AMQPClass::$variant($class::AMQPMethod::$method(self))
            }

            fn from_class(class: AMQPClass) -> Option<Self> {
                match class {
                    AMQPClass::$variant($class::AMQPMethod::$method(method)) => Some(method),
                    _ => None,
                }
            }
        }
    )+)+};
}

methods! {
    Connection connection: Start StartOk SecureOk Tune TuneOk Open OpenOk Close CloseOk Blocked Unblocked UpdateSecret
        UpdateSecretOk;
    Channel channel: Open OpenOk Flow FlowOk Close CloseOk;
    Access access: Request RequestOk;
    Exchange exchange: Declare DeclareOk Delete DeleteOk Bind BindOk Unbind UnbindOk;
    Queue queue: Declare DeclareOk Bind BindOk Purge PurgeOk Delete DeleteOk Unbind UnbindOk;
    Basic basic: Qos QosOk Consume ConsumeOk Cancel CancelOk Publish Return Deliver Get GetOk GetEmpty Ack Reject
        RecoverAsync Recover RecoverOk Nack;
    Tx tx: Select SelectOk Commit CommitOk Rollback RollbackOk;
    Confirm confirm: Select SelectOk;
}

/// Who logs in where, and with which limits.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) user: &'static str,
    pub(crate) password: &'static str,
    pub(crate) vhost: &'static str,
    pub(crate) channel_max: u16,
    pub(crate) frame_max: u32,
    pub(crate) heartbeat: u16,
    pub(crate) capabilities: &'static [&'static str],
}

impl Default for Login {
    fn default() -> Self {
        Self {
            user: "guest",
            password: "guest",
            vhost: "/",
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 0,
            capabilities: &["basic.nack", "consumer_cancel_notify", "authentication_failure_close"],
        }
    }
}

/// What the broker refused, and what it closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// `channel.close` on this channel.
    Channel(u16, Close),
    /// `connection.close`.
    Connection(Close),
    /// The end of the stream, without a word.
    End,
}

/// The fields of a close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Close {
    pub(crate) code: u16,
    pub(crate) text: String,
    pub(crate) class_id: u16,
    pub(crate) method_id: u16,
}

/// One thing that the broker sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Incoming {
    Method(u16, AMQPClass),
    Header(u16, u64, BasicProperties),
    Body(u16, Vec<u8>),
    ProtocolHeader([u8; 8]),
    Heartbeat,
    End,
}

/// A message with the method that brought it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Content<M> {
    pub(crate) method: M,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
    /// The sizes of the body frames it came in.
    pub(crate) frames: Vec<usize>,
}

/// A connection, frame by frame. Every wait ends after [`DEADLINE`] with a panic.
pub(crate) struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
    // Held for its life: the broker stays as long as somebody is connected.
    _broker: Arc<TestBroker>,
}

impl Wire {
    /// A TCP connection, nothing said yet.
    pub(crate) fn tcp(broker: &Arc<TestBroker>) -> Self {
        let stream = broker.connect();
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a write timeout");
        Self { stream, received: Vec::new(), _broker: Arc::clone(broker) }
    }

    /// A connection that got `connection.start`.
    pub(crate) fn started(broker: &Arc<TestBroker>) -> (Self, connection::Start) {
        let mut wire = Self::tcp(broker);
        wire.raw(PROTOCOL_HEADER);
        let start = wire.expect(0);
        (wire, start)
    }

    /// A connection that got `connection.tune`.
    pub(crate) fn tuned(broker: &Arc<TestBroker>, login: &Login) -> (Self, connection::Tune) {
        let (mut wire, _) = Self::started(broker);
        wire.start_ok(login.capabilities, "PLAIN", &format!("\0{}\0{}", login.user, login.password));
        let tune = wire.expect(0);
        (wire, tune)
    }

    /// A connection that asked for the vhost: the answer is still to be read.
    pub(crate) fn opening(broker: &Arc<TestBroker>, login: &Login) -> Self {
        let (mut wire, _) = Self::tuned(broker, login);
        let (channel_max, frame_max, heartbeat) = (login.channel_max, login.frame_max, login.heartbeat);
        wire.send(0, connection::TuneOk { channel_max, frame_max, heartbeat });
        wire.send(0, connection::Open { virtual_host: login.vhost.into() });
        wire
    }

    /// An open connection.
    pub(crate) fn login(broker: &Arc<TestBroker>, login: &Login) -> Self {
        let mut wire = Self::opening(broker, login);
        wire.expect::<connection::OpenOk>(0);
        wire
    }

    /// An open connection of guest to `/`, with channel 1 open.
    pub(crate) fn open(broker: &Arc<TestBroker>) -> Self {
        let mut wire = Self::login(broker, &Login::default());
        wire.open_channel(1);
        wire
    }

    /// Opens a channel.
    pub(crate) fn open_channel(&mut self, channel: u16) {
        self.call::<channel::OpenOk>(channel, channel::Open {});
    }

    /// Sends `connection.start-ok` with these capabilities and this SASL response.
    pub(crate) fn start_ok(&mut self, capabilities: &[&str], mechanism: &str, response: &str) {
        let capabilities = table(capabilities.iter().map(|name| (*name, AMQPValue::Boolean(true))));
        let method = connection::StartOk {
            client_properties: table([("capabilities", AMQPValue::FieldTable(capabilities))]),
            mechanism: mechanism.into(),
            response: response.into(),
            locale: "en_US".into(),
        };
        self.send(0, method);
    }

    /// Sends bytes. A broker that has hung up already is not an error here: what it said is read later.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("the broker does not read"),
            _ => {}
        }
    }

    /// Sends a frame with this payload, whatever it is.
    pub(crate) fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        self.raw(&frame(kind, channel, payload));
    }

    /// Sends a method.
    pub(crate) fn send(&mut self, channel: u16, method: impl Method) {
        self.raw(&method_frame(channel, method));
    }

    /// Sends a content header.
    pub(crate) fn header(&mut self, channel: u16, size: u64, properties: &BasicProperties) {
        self.frame(HEADER, channel, &header_payload(size, properties));
    }

    /// Sends a whole message, its body in one frame.
    pub(crate) fn publish_with(
        &mut self,
        channel: u16,
        publish: basic::Publish,
        properties: &BasicProperties,
        body: &[u8],
    ) {
        let mut bytes = method_frame(channel, publish);
        bytes.extend(frame(HEADER, channel, &header_payload(body.len() as u64, properties)));
        if !body.is_empty() {
            bytes.extend(frame(BODY, channel, body));
        }
        self.raw(&bytes);
    }

    /// Sends a message to a queue through the default exchange.
    pub(crate) fn publish(&mut self, channel: u16, queue: &str, body: &str) {
        self.publish_with(channel, publish("", queue), &BasicProperties::default(), body.as_bytes());
    }

    /// Sends a method and waits for this answer to it.
    pub(crate) fn call<R: Method + fmt::Debug>(&mut self, channel: u16, method: impl Method) -> R {
        self.send(channel, method);
        self.expect(channel)
    }

    /// The next thing that is not a heartbeat must be this method on this channel.
    pub(crate) fn expect<R: Method>(&mut self, channel: u16) -> R {
        let expected = std::any::type_name::<R>();
        match self.next() {
            Incoming::Method(on, method) if on == channel => R::from_class(method.clone())
                .unwrap_or_else(|| panic!("expected {expected} on channel {channel}, got {method:?}")),
            other => panic!("expected {expected} on channel {channel}, got {other:?}"),
        }
    }

    /// The next thing must be this method with its content.
    pub(crate) fn expect_content<M: Method>(&mut self, channel: u16) -> Content<M> {
        let method = self.expect(channel);
        self.content(channel, method)
    }

    /// The header and body that follow a method.
    pub(crate) fn content<M>(&mut self, channel: u16, method: M) -> Content<M> {
        let Incoming::Header(on, size, properties) = self.next() else { panic!("expected a content header") };
        assert_eq!(on, channel, "the header's channel");
        let (mut body, mut frames) = (Vec::new(), Vec::new());
        while (body.len() as u64) < size {
            match self.next() {
                Incoming::Body(on, part) if on == channel => {
                    frames.push(part.len());
                    body.extend(part);
                }
                other => panic!("expected a body of {size} octets on channel {channel}, got {other:?}"),
            }
        }
        Content { method, properties, body, frames }
    }

    /// Reads until the broker refuses something, whatever comes before that.
    pub(crate) fn refusal(&mut self) -> Refusal {
        loop {
            match self.next() {
                Incoming::Method(channel, AMQPClass::Channel(channel::AMQPMethod::Close(close))) => {
                    let text = close.reply_text.to_string();
                    let (code, class_id, method_id) = (close.reply_code, close.class_id, close.method_id);
                    return Refusal::Channel(channel, Close { code, text, class_id, method_id });
                }
                Incoming::Method(_, AMQPClass::Connection(connection::AMQPMethod::Close(close))) => {
                    let text = close.reply_text.to_string();
                    let (code, class_id, method_id) = (close.reply_code, close.class_id, close.method_id);
                    return Refusal::Connection(Close { code, text, class_id, method_id });
                }
                Incoming::End => return Refusal::End,
                _ => {}
            }
        }
    }

    /// Everything that came on any channel, now that `queue` has dealt with what was sent before: asked by a passive
    /// declaration on this channel. One line for each, see [`Wire::event`].
    pub(crate) fn events(&mut self, channel: u16, queue: &str) -> Vec<String> {
        let mut events = Vec::new();
        // A declaration is answered before the deliveries that the same wake-up brings; the next one after them.
        for _ in 0..2 {
            self.send(channel, queue::Declare { passive: true, ..declare(queue) });
            loop {
                match self.event() {
                    (on, event) if on == channel && event == format!("declared {queue}") => break,
                    (_, event) => events.push(event),
                }
            }
        }
        if is_external() {
            events.extend(self.stragglers());
        }
        events
    }

    /// How many messages of `queue` are ready, now that it has dealt with what was sent before, and nothing else came.
    pub(crate) fn ready(&mut self, channel: u16, queue: &str) -> u32 {
        assert_eq!(self.events(channel, queue), [""; 0], "nothing else is expected");
        let passive = queue::Declare { passive: true, ..declare(queue) };
        self.call::<queue::DeclareOk>(channel, passive).message_count
    }

    /// RabbitMQ answers a declaration before it deals with what was sent before: it gets a moment.
    fn stragglers(&mut self) -> Vec<String> {
        let mut events = Vec::new();
        self.stream.set_read_timeout(Some(MOMENT)).expect("a read timeout");
        while self.is_readable() {
            events.push(self.event().1);
        }
        self.stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
        events
    }

    fn is_readable(&self) -> bool {
        !self.received.is_empty() || self.stream.peek(&mut [0]).is_ok()
    }

    /// The next `count` events on any channel.
    pub(crate) fn next_events(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.event().1).collect()
    }

    /// What the broker says next, in a line: `deliver TAG BODY`, `get BODY`, `return BODY`, `ack 3`, `nack 3 multiple`,
    /// `cancel TAG`; a body that comes again is followed by `*`. Other methods by their name.
    pub(crate) fn event(&mut self) -> (u16, String) {
        let (channel, class) = match self.next() {
            Incoming::Method(channel, class) => (channel, class),
            other => panic!("expected a method, got {other:?}"),
        };
        let event = match class {
            AMQPClass::Basic(basic::AMQPMethod::Deliver(method)) => {
                let content = self.content(channel, method);
                let body = body_text(&content.body, content.method.redelivered);
                format!("deliver {} {body}", content.method.consumer_tag)
            }
            AMQPClass::Basic(basic::AMQPMethod::GetOk(method)) => {
                let content = self.content(channel, method);
                format!("get {}", body_text(&content.body, content.method.redelivered))
            }
            AMQPClass::Basic(basic::AMQPMethod::Return(method)) => {
                let content = self.content(channel, method);
                format!("return {}", body_text(&content.body, false))
            }
            AMQPClass::Basic(basic::AMQPMethod::Ack(method)) => {
                format!("ack {}{}", method.delivery_tag, if method.multiple { " multiple" } else { "" })
            }
            AMQPClass::Basic(basic::AMQPMethod::Nack(method)) => {
                format!("nack {}{}", method.delivery_tag, if method.multiple { " multiple" } else { "" })
            }
            AMQPClass::Basic(basic::AMQPMethod::Cancel(method)) => format!("cancel {}", method.consumer_tag),
            AMQPClass::Queue(queue::AMQPMethod::DeclareOk(method)) => format!("declared {}", method.queue),
            other => name_of(&other),
        };
        (channel, event)
    }

    /// The next thing that the broker sends; heartbeats are passed over.
    pub(crate) fn next(&mut self) -> Incoming {
        loop {
            match self.next_or_heartbeat() {
                Incoming::Heartbeat => {}
                other => return other,
            }
        }
    }

    /// The next thing that the broker sends.
    pub(crate) fn next_or_heartbeat(&mut self) -> Incoming {
        loop {
            if let Some(incoming) = self.parse() {
                return incoming;
            }
            if !self.fill() {
                return Incoming::End;
            }
        }
    }

    /// Sends bytes to a broker that may not take them; says whether it did within this time.
    pub(crate) fn try_raw(&mut self, bytes: &[u8], time: Duration) -> bool {
        self.stream.set_write_timeout(Some(time)).expect("a write timeout");
        self.stream.write_all(bytes).is_ok()
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&mut self) {
        // The broker may have closed already.
        _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes the connection and waits until the broker agrees, whatever else is under way.
    pub(crate) fn close(&mut self) {
        let close =
            connection::Close { reply_code: 200, reply_text: "bye".into(), class_id: 0, method_id: 0 };
        self.send(0, close);
        loop {
            match self.next() {
                Incoming::Method(0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(_))) => return,
                Incoming::End => panic!("the broker hung up without connection.close-ok"),
                _ => {}
            }
        }
    }

    /// Reads what there is; false at the end of the stream.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 65_536];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                self.received.extend_from_slice(&chunk[..count]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing came from the broker for {DEADLINE:?}: {error}"),
        }
    }

    fn parse(&mut self) -> Option<Incoming> {
        if self.received.starts_with(b"AMQP") {
            let header = self.received.get(..8)?.try_into().expect("eight octets");
            self.received.drain(..8);
            return Some(Incoming::ProtocolHeader(header));
        }
        let size = u32::from_be_bytes(self.received.get(3..7)?.try_into().expect("four octets")) as usize;
        let bytes: Vec<u8> = self.received.get(..size + 8)?.to_vec();
        self.received.drain(..size + 8);
        let (_, frame) = parse_frame(&bytes[..]).unwrap_or_else(|error| panic!("{bytes:?}: {error:?}"));
        Some(match frame {
            AMQPFrame::Method(channel, class) => Incoming::Method(channel, class),
            AMQPFrame::Header(channel, header) => {
                Incoming::Header(channel, header.body_size, header.properties)
            }
            AMQPFrame::Body(channel, body) => Incoming::Body(channel, body),
            AMQPFrame::Heartbeat | AMQPFrame::InvalidHeartbeat(_) => Incoming::Heartbeat,
            AMQPFrame::ProtocolHeader(_) => unreachable!("a frame starts with its type"),
        })
    }
}

/// A name that no other test has.
pub(crate) fn unique(stem: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{stem}-{}-{count}", std::process::id())
}

/// A field table.
pub(crate) fn table<N: Into<ShortString>>(entries: impl IntoIterator<Item = (N, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

/// A long string, the type that clients give texts.
pub(crate) fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

/// A 32-bit integer, the type that clients give numbers.
pub(crate) fn int(value: i32) -> AMQPValue {
    AMQPValue::LongInt(value)
}

/// `queue.declare` with nothing set.
pub(crate) fn declare(queue: &str) -> queue::Declare {
    queue::Declare { queue: queue.into(), ..queue::Declare::default() }
}

/// `exchange.declare` of a type with nothing else set.
pub(crate) fn declare_exchange(exchange: &str, kind: &str) -> exchange::Declare {
    exchange::Declare { exchange: exchange.into(), kind: kind.into(), ..exchange::Declare::default() }
}

/// `queue.bind` without arguments.
pub(crate) fn bind(queue: &str, exchange: &str, routing_key: &str) -> queue::Bind {
    let (queue, exchange, routing_key) = (queue.into(), exchange.into(), routing_key.into());
    queue::Bind { queue, exchange, routing_key, ..queue::Bind::default() }
}

/// `queue.delete` without conditions.
pub(crate) fn delete(queue: &str) -> queue::Delete {
    queue::Delete { queue: queue.into(), ..queue::Delete::default() }
}

/// `basic.consume` with this tag, acknowledgements expected.
pub(crate) fn consume(queue: &str, tag: &str) -> basic::Consume {
    basic::Consume { queue: queue.into(), consumer_tag: tag.into(), ..basic::Consume::default() }
}

/// `basic.get`, acknowledgement expected.
pub(crate) fn get(queue: &str) -> basic::Get {
    basic::Get { queue: queue.into(), no_ack: false }
}

/// `basic.publish`, neither mandatory nor immediate.
pub(crate) fn publish(exchange: &str, routing_key: &str) -> basic::Publish {
    basic::Publish { exchange: exchange.into(), routing_key: routing_key.into(), ..basic::Publish::default() }
}

/// `basic.qos` for the consumers to come.
pub(crate) fn prefetch(prefetch_count: u16) -> basic::Qos {
    basic::Qos { prefetch_count, global: false }
}

/// `basic.ack` of one delivery.
pub(crate) fn ack(delivery_tag: u64) -> basic::Ack {
    basic::Ack { delivery_tag, multiple: false }
}

/// `basic.nack` of one delivery that shall be delivered again.
pub(crate) fn requeue(delivery_tag: u64) -> basic::Nack {
    basic::Nack { delivery_tag, multiple: false, requeue: true }
}

/// The octets of a frame.
pub(crate) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend(u32::try_from(payload.len()).expect("a payload below 4 GiB").to_be_bytes());
    bytes.extend(payload);
    bytes.push(0xCE);
    bytes
}

/// The octets of a method's frame.
pub(crate) fn method_frame(channel: u16, method: impl Method) -> Vec<u8> {
    encode(&AMQPFrame::Method(channel, method.into_class()))
}

/// The payload of a content header of class basic.
pub(crate) fn header_payload(size: u64, properties: &BasicProperties) -> Vec<u8> {
    let header = amq_protocol::frame::AMQPContentHeader {
        class_id: 60,
        body_size: size,
        properties: properties.clone(),
    };
    let bytes = encode(&AMQPFrame::Header(1, header));
    bytes[7..bytes.len() - 1].to_vec()
}

fn encode(frame: &AMQPFrame) -> Vec<u8> {
    let context = WriteContext::from(Vec::new());
    gen_frame(frame)(context).expect("a frame that can be encoded").into_inner().0
}

fn body_text(body: &[u8], redelivered: bool) -> String {
    format!("{}{}", String::from_utf8_lossy(body), if redelivered { "*" } else { "" })
}

fn name_of(class: &AMQPClass) -> String {
    let text = format!("{class:?}");
    text.split(['(', ' ', ')']).take(2).collect::<Vec<_>>().join(".")
}
