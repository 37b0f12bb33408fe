//! A client's side of the wire for tests: an encoder and a decoder of their own, so that the broker's are not asked
//! what they think of themselves.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each ring of tests uses a part")]

/// The octets of a protocol header.
pub const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// A frame of any type.
pub fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).expect("a frame is short");
    [&[kind], &channel.to_be_bytes()[..], &size.to_be_bytes(), payload, &[0xCE]].concat()
}

/// A heartbeat.
pub fn heartbeat() -> Vec<u8> {
    frame(8, 0, &[])
}

/// A method that is being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(pub Vec<u8>);

impl Method {
    /// A method without arguments yet.
    pub fn new(class: u16, method: u16) -> Self {
        Self([class.to_be_bytes(), method.to_be_bytes()].concat())
    }

    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A short string.
    pub fn short(mut self, text: &str) -> Self {
        self.0.push(u8::try_from(text.len()).expect("a short string"));
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// A long string, or a table whose fields are given.
    pub fn long(self, octets: &[u8]) -> Self {
        let mut method = self.u32(u32::try_from(octets.len()).expect("a long string is short"));
        method.0.extend_from_slice(octets);
        method
    }

    /// The method as a frame.
    pub fn on(&self, channel: u16) -> Vec<u8> {
        frame(1, channel, &self.0)
    }
}

/// A field of a table: name, type, value.
pub fn field(name: &str, kind: u8, value: &[u8]) -> Vec<u8> {
    [&[u8::try_from(name.len()).expect("a short name")], name.as_bytes(), &[kind], value].concat()
}

/// A long string as a value of a table.
pub fn text_field(name: &str, text: &str) -> Vec<u8> {
    let len = u32::try_from(text.len()).expect("a short text").to_be_bytes();
    field(name, b'S', &[&len, text.as_bytes()].concat())
}

/// `connection.start-ok` with PLAIN; each capability is announced as true.
pub fn start_ok(user: &str, password: &str, capabilities: &[&str]) -> Method {
    let named: Vec<u8> = capabilities.iter().flat_map(|name| field(name, b't', &[1])).collect();
    let len = u32::try_from(named.len()).expect("few").to_be_bytes();
    let properties = field("capabilities", b'F', &[&len[..], &named].concat());
    start_ok_with(&properties, "PLAIN", format!("\0{user}\0{password}").as_bytes())
}

/// `connection.start-ok`.
pub fn start_ok_with(properties: &[u8], mechanism: &str, response: &[u8]) -> Method {
    Method::new(10, 11).long(properties).short(mechanism).long(response).short("en_US")
}

pub fn tune_ok(channel_max: u16, frame_max: u32, heartbeat: u16) -> Method {
    Method::new(10, 31).u16(channel_max).u32(frame_max).u16(heartbeat)
}

pub fn open(virtual_host: &str) -> Method {
    Method::new(10, 40).short(virtual_host).short("").u8(0)
}

pub fn connection_close() -> Method {
    Method::new(10, 50).u16(200).short("bye").u16(0).u16(0)
}

pub fn connection_close_ok() -> Method {
    Method::new(10, 51)
}

pub fn channel_open() -> Method {
    Method::new(20, 10).short("")
}

pub fn channel_close() -> Method {
    Method::new(20, 40).u16(200).short("bye").u16(0).u16(0)
}

pub fn channel_close_ok() -> Method {
    Method::new(20, 41)
}

/// Bits of `exchange.declare` and `queue.declare`, which differ in the third and the fourth.
pub const PASSIVE: u8 = 1;
pub const DURABLE: u8 = 2;
pub const EXCLUSIVE: u8 = 4;
pub const AUTO_DELETE: u8 = 8;
pub const NOWAIT: u8 = 16;

pub fn declare_exchange(name: &str, kind: &str, bits: u8) -> Method {
    Method::new(40, 10).u16(0).short(name).short(kind).u8(bits).long(&[])
}

pub fn declare_exchange_with(name: &str, kind: &str, bits: u8, arguments: &[u8]) -> Method {
    Method::new(40, 10).u16(0).short(name).short(kind).u8(bits).long(arguments)
}

pub fn delete_exchange(name: &str) -> Method {
    Method::new(40, 20).u16(0).short(name).u8(0)
}

pub fn declare_queue(name: &str, bits: u8) -> Method {
    declare_queue_with(name, bits, &[])
}

pub fn declare_queue_with(name: &str, bits: u8, arguments: &[u8]) -> Method {
    Method::new(50, 10).u16(0).short(name).u8(bits).long(arguments)
}

pub fn bind_queue(queue: &str, exchange: &str, key: &str) -> Method {
    Method::new(50, 20).u16(0).short(queue).short(exchange).short(key).u8(0).long(&[])
}

pub fn unbind_queue(queue: &str, exchange: &str, key: &str) -> Method {
    Method::new(50, 50).u16(0).short(queue).short(exchange).short(key).long(&[])
}

pub fn purge(queue: &str) -> Method {
    Method::new(50, 30).u16(0).short(queue).u8(0)
}

pub fn delete_queue(queue: &str) -> Method {
    Method::new(50, 40).u16(0).short(queue).u8(0)
}

pub fn qos(count: u16, global: bool) -> Method {
    Method::new(60, 10).u32(0).u16(count).u8(global.into())
}

pub const NO_ACK: u8 = 2;
pub const EXCLUSIVE_CONSUMER: u8 = 4;

pub fn consume(queue: &str, tag: &str, bits: u8) -> Method {
    Method::new(60, 20).u16(0).short(queue).short(tag).u8(bits).long(&[])
}

pub fn cancel(tag: &str) -> Method {
    Method::new(60, 30).short(tag).u8(0)
}

pub const MANDATORY: u8 = 1;

pub fn publish_method(exchange: &str, key: &str, bits: u8) -> Method {
    Method::new(60, 40).u16(0).short(exchange).short(key).u8(bits)
}

/// A content header's payload; `properties` are the flags and the list.
pub fn content_header(body_size: u64, properties: &[u8]) -> Vec<u8> {
    [&[0, 60, 0, 0], &body_size.to_be_bytes()[..], properties].concat()
}

pub const TRANSIENT: &[u8] = &[0, 0];
/// Delivery mode 2 and nothing else.
pub const PERSISTENT: &[u8] = &[0x10, 0, 2];

/// A delivery mode, and headers, which are fields of a table.
pub fn mode_and_headers(delivery_mode: u8, fields: &[u8]) -> Vec<u8> {
    let len = u32::try_from(fields.len()).expect("few").to_be_bytes();
    [&[0x30, 0], &len[..], fields, &[delivery_mode]].concat()
}

/// A delivery mode and a priority.
pub fn mode_and_priority(delivery_mode: u8, priority: u8) -> [u8; 4] {
    [0x18, 0, delivery_mode, priority]
}

/// A delivery mode, a priority and an expiration.
pub fn mode_priority_and_expiration(delivery_mode: u8, priority: u8, expiration: &str) -> Vec<u8> {
    let len = u8::try_from(expiration.len()).expect("a short string");
    [&[0x19, 0, delivery_mode, priority, len], expiration.as_bytes()].concat()
}

/// A delivery mode, a priority and a correlation id.
pub fn mode_priority_and_correlation(delivery_mode: u8, priority: u8, id: &str) -> Vec<u8> {
    let len = u8::try_from(id.len()).expect("a short string");
    [&[0x1C, 0, delivery_mode, priority, len], id.as_bytes()].concat()
}

/// A publish with its content, the body in one frame.
pub fn publish(channel: u16, exchange: &str, key: &str, bits: u8, properties: &[u8], body: &[u8]) -> Vec<u8> {
    let mut frames = publish_method(exchange, key, bits).on(channel);
    frames.extend(frame(2, channel, &content_header(body.len() as u64, properties)));
    if !body.is_empty() {
        frames.extend(frame(3, channel, body));
    }
    frames
}

pub fn get(queue: &str, no_ack: bool) -> Method {
    Method::new(60, 70).u16(0).short(queue).u8(no_ack.into())
}

pub fn ack(tag: u64, multiple: bool) -> Method {
    Method::new(60, 80).u64(tag).u8(multiple.into())
}

pub fn reject(tag: u64, requeue: bool) -> Method {
    Method::new(60, 90).u64(tag).u8(requeue.into())
}

pub fn nack(tag: u64, multiple: bool, requeue: bool) -> Method {
    Method::new(60, 120).u64(tag).u8(u8::from(multiple) | u8::from(requeue) << 1)
}

pub fn recover(requeue: bool) -> Method {
    Method::new(60, 110).u8(requeue.into())
}

pub fn confirm_select() -> Method {
    Method::new(85, 10).u8(0)
}

pub fn tx_select() -> Method {
    Method::new(90, 10)
}

pub fn tx_commit() -> Method {
    Method::new(90, 20)
}

pub fn tx_rollback() -> Method {
    Method::new(90, 30)
}

/// What a client has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    ProtocolHeader([u8; 8]),
    Heartbeat,
    ConnectionClose {
        code: u16,
        text: String,
        method: (u16, u16),
    },
    ChannelClose {
        channel: u16,
        code: u16,
        text: String,
        method: (u16, u16),
    },
    Deliver {
        channel: u16,
        consumer: String,
        tag: u64,
        redelivered: bool,
        key: String,
        properties: Vec<u8>,
        body: Vec<u8>,
    },
    GetOk {
        channel: u16,
        tag: u64,
        redelivered: bool,
        key: String,
        left: u32,
        properties: Vec<u8>,
        body: Vec<u8>,
    },
    Return {
        channel: u16,
        code: u16,
        text: String,
        key: String,
        body: Vec<u8>,
    },
    Ack {
        channel: u16,
        tag: u64,
        multiple: bool,
    },
    DeclareOk {
        channel: u16,
        queue: String,
        messages: u32,
        consumers: u32,
    },
    /// Any other method, with its arguments as they came.
    Method {
        channel: u16,
        ids: (u16, u16),
        arguments: Vec<u8>,
    },
}

/// Reads a server's octets, in pieces of any size.
#[derive(Debug, Default)]
pub struct Incoming {
    octets: Vec<u8>,
    content: Option<Content>,
}

#[derive(Debug)]
struct Content {
    event: Event,
    size: Option<usize>,
}

impl Incoming {
    /// Takes octets and gives what is complete.
    ///
    /// # Panics
    /// If a server must not write that.
    pub fn read(&mut self, octets: &[u8]) -> Vec<Event> {
        self.octets.extend_from_slice(octets);
        let mut events = Vec::new();
        let mut start = 0;
        while let Some(head) = self.octets[start..].first_chunk::<8>() {
            if head.starts_with(b"AMQP") {
                events.push(Event::ProtocolHeader(*head));
                start += 8;
                continue;
            }
            let (kind, channel) = (head[0], u16::from_be_bytes([head[1], head[2]]));
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let end = start + 7 + size;
            let Some(&last) = self.octets.get(end) else { break };
            assert_eq!(last, 0xCE, "the server's frame has no end");
            let payload = self.octets[start + 7..end].to_vec();
            events.extend(self.handle(kind, channel, &payload));
            start = end + 1;
        }
        self.octets.drain(..start);
        events
    }

    /// Octets of a frame that is not complete.
    pub fn rest(&self) -> usize {
        self.octets.len()
    }

    fn handle(&mut self, kind: u8, channel: u16, payload: &[u8]) -> Option<Event> {
        match kind {
            1 => {
                assert!(self.content.is_none(), "a method between a content's frames");
                self.method(channel, payload)
            }
            2 => {
                let content = self.content.as_mut().expect("a header after its method");
                let size = u64::from_be_bytes(payload[4..12].try_into().expect("eight octets"));
                content.size = Some(size as usize);
                if let Event::Deliver { properties, .. } | Event::GetOk { properties, .. } =
                    &mut content.event
                {
                    *properties = payload[12..].to_vec();
                }
                self.complete()
            }
            3 => {
                let content = self.content.as_mut().expect("a body after its header");
                content.event.body().extend_from_slice(payload);
                self.complete()
            }
            8 => {
                assert_eq!((channel, payload.len()), (0, 0), "a heartbeat is empty");
                Some(Event::Heartbeat)
            }
            _ => panic!("a frame of type {kind}"),
        }
    }

    fn complete(&mut self) -> Option<Event> {
        let content = self.content.as_mut()?;
        let size = content.size.expect("the header has come");
        let received = content.event.body().len();
        assert!(received <= size, "more body than announced");
        if received < size {
            return None;
        }
        self.content.take().map(|content| content.event)
    }

    fn method(&mut self, channel: u16, payload: &[u8]) -> Option<Event> {
        let mut reader = Reader(payload);
        let ids = (reader.u16(), reader.u16());
        let with_content = |event| Some(Content { event, size: None });
        match ids {
            (10, 50) | (20, 40) => {
                let (code, text) = (reader.u16(), reader.short());
                let method = (reader.u16(), reader.u16());
                return Some(if ids.0 == 10 {
                    Event::ConnectionClose { code, text, method }
                } else {
                    Event::ChannelClose { channel, code, text, method }
                });
            }
            (50, 11) => {
                let (queue, messages, consumers) = (reader.short(), reader.u32(), reader.u32());
                return Some(Event::DeclareOk { channel, queue, messages, consumers });
            }
            (60, 80) => return Some(Event::Ack { channel, tag: reader.u64(), multiple: reader.u8() != 0 }),
            (60, 50) => {
                let (code, text) = (reader.u16(), reader.short());
                let (_, key) = (reader.short(), reader.short());
                self.content = with_content(Event::Return { channel, code, text, key, body: Vec::new() });
            }
            (60, 60) => {
                let (consumer, tag, redelivered) = (reader.short(), reader.u64(), reader.u8() != 0);
                let (_, key) = (reader.short(), reader.short());
                let (properties, body) = (Vec::new(), Vec::new());
                self.content = with_content(Event::Deliver {
                    channel,
                    consumer,
                    tag,
                    redelivered,
                    key,
                    properties,
                    body,
                });
            }
            (60, 71) => {
                let (tag, redelivered) = (reader.u64(), reader.u8() != 0);
                let (_, key, left) = (reader.short(), reader.short(), reader.u32());
                let (properties, body) = (Vec::new(), Vec::new());
                self.content =
                    with_content(Event::GetOk { channel, tag, redelivered, key, left, properties, body });
            }
            _ => return Some(Event::Method { channel, ids, arguments: payload[4..].to_vec() }),
        }
        None
    }
}

impl Event {
    fn body(&mut self) -> &mut Vec<u8> {
        match self {
            Event::Deliver { body, .. } | Event::GetOk { body, .. } | Event::Return { body, .. } => body,
            event => panic!("{event:?} has no body"),
        }
    }

    /// A method without arguments.
    pub fn bare(channel: u16, class: u16, method: u16) -> Self {
        Event::Method { channel, ids: (class, method), arguments: Vec::new() }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk().expect("the server writes whole methods");
        self.0 = rest;
        *taken
    }

    fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }

    fn short(&mut self) -> String {
        let len = usize::from(self.u8());
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        String::from_utf8(text.to_vec()).expect("the server writes UTF-8")
    }
}
