//! Methods (AMQP 0-9-1 section 1): what a client may send, and what a server answers.
//!
//! Two enums, so that a method going the wrong way does not type-check. The methods that come with every message are
//! read by hand (see [`basic`]); every other one goes through `amq_protocol`, which no other
//! file knows (but for tests). It is recursive in field tables and forgets their order, so it never sees a client's table: tables
//! are cut out, read by [`Table::decode`], and an empty one takes their place.

use std::{borrow::Cow, ops::Range};

use amq_protocol::{
    frame::{AMQPFrame, WriteContext, gen_frame},
    protocol::{
        AMQPClass, access, basic as amq_basic, channel, confirm, connection, exchange, parse_class, queue, tx,
    },
    types::{AMQPValue, DecimalValue, FieldArray, FieldTable, LongString, ShortString},
};
use bytes::BytesMut;

use crate::amqp::{
    DecodeError, Publish, ReplyCode, Table, Value, basic,
    error::octets,
    reader::{Malformed, Reader},
    table::short,
};

/// A method that a client may send.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub enum ClientMethod<'a> {
    ConnectionStartOk {
        client_properties: Table,
        mechanism: String,
        response: Vec<u8>,
        locale: String,
    },
    ConnectionSecureOk {
        response: Vec<u8>,
    },
    ConnectionTuneOk {
        channel_max: u16,
        frame_max: u32,
        heartbeat: u16,
    },
    ConnectionOpen {
        virtual_host: String,
    },
    ConnectionClose {
        reply_code: u16,
        reply_text: String,
        class_id: u16,
        method_id: u16,
    },
    ConnectionCloseOk,
    ConnectionUpdateSecret {
        new_secret: Vec<u8>,
        reason: String,
    },
    ChannelOpen,
    ChannelFlow {
        active: bool,
    },
    ChannelFlowOk {
        active: bool,
    },
    ChannelClose {
        reply_code: u16,
        reply_text: String,
        class_id: u16,
        method_id: u16,
    },
    ChannelCloseOk,
    AccessRequest,
    ExchangeDeclare {
        exchange: String,
        kind: String,
        passive: bool,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        nowait: bool,
        arguments: Table,
    },
    ExchangeDelete {
        exchange: String,
        if_unused: bool,
        nowait: bool,
    },
    ExchangeBind {
        destination: String,
        source: String,
        routing_key: String,
        nowait: bool,
        arguments: Table,
    },
    ExchangeUnbind {
        destination: String,
        source: String,
        routing_key: String,
        nowait: bool,
        arguments: Table,
    },
    QueueDeclare {
        queue: String,
        passive: bool,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        nowait: bool,
        arguments: Table,
    },
    QueueBind {
        queue: String,
        exchange: String,
        routing_key: String,
        nowait: bool,
        arguments: Table,
    },
    QueueUnbind {
        queue: String,
        exchange: String,
        routing_key: String,
        arguments: Table,
    },
    QueuePurge {
        queue: String,
        nowait: bool,
    },
    QueueDelete {
        queue: String,
        if_unused: bool,
        if_empty: bool,
        nowait: bool,
    },
    BasicQos {
        prefetch_size: u32,
        prefetch_count: u16,
        global: bool,
    },
    BasicConsume {
        queue: String,
        consumer_tag: String,
        no_local: bool,
        no_ack: bool,
        exclusive: bool,
        nowait: bool,
        arguments: Table,
    },
    BasicCancel {
        consumer_tag: String,
        nowait: bool,
    },
    BasicCancelOk {
        consumer_tag: String,
    },
    BasicPublish(Publish<'a>),
    BasicGet {
        queue: String,
        no_ack: bool,
    },
    BasicAck {
        delivery_tag: u64,
        multiple: bool,
    },
    BasicNack {
        delivery_tag: u64,
        multiple: bool,
        requeue: bool,
    },
    BasicReject {
        delivery_tag: u64,
        requeue: bool,
    },
    BasicRecover {
        requeue: bool,
    },
    BasicRecoverAsync {
        requeue: bool,
    },
    TxSelect,
    TxCommit,
    TxRollback,
    ConfirmSelect {
        nowait: bool,
    },
}

impl<'a> ClientMethod<'a> {
    /// Reads the payload of a method frame.
    ///
    /// # Errors
    /// A method that does not exist or only a server sends (503), arguments that end early or go on too long, a
    /// string that is not UTF-8 (501), a malformed table (502). Codes and texts are RabbitMQ's where it says
    /// anything; it drops the connection without a word on an unknown method and a malformed table.
    #[inline]
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let Some((&[c0, c1, m0, m1], arguments)) = payload.split_first_chunk::<4>() else {
            return Err(cannot_decode(payload));
        };
        let ids = (u16::from_be_bytes([c0, c1]), u16::from_be_bytes([m0, m1]));
        let reader = Reader::new(arguments);
        let method = match ids {
            (basic::CLASS_ID, basic::id::PUBLISH) => basic::publish(reader).map(Self::BasicPublish),
            (basic::CLASS_ID, basic::id::ACK) => basic::settle(reader)
                .map(|(delivery_tag, bits)| Self::BasicAck { delivery_tag, multiple: bits & 1 != 0 }),
            (basic::CLASS_ID, basic::id::NACK) => basic::settle(reader).map(|(delivery_tag, bits)| {
                Self::BasicNack { delivery_tag, multiple: bits & 1 != 0, requeue: bits & 2 != 0 }
            }),
            (basic::CLASS_ID, basic::id::REJECT) => basic::settle(reader)
                .map(|(delivery_tag, bits)| Self::BasicReject { delivery_tag, requeue: bits & 1 != 0 }),
            _ => return decode_cold(ids, payload),
        };
        method.map_err(|problem| malformed(ids, problem, payload))
    }

    /// The ids of the class and the method.
    pub fn ids(&self) -> (u16, u16) {
        match self {
            Self::ConnectionStartOk { .. } => (10, 11),
            Self::ConnectionSecureOk { .. } => (10, 21),
            Self::ConnectionTuneOk { .. } => (10, 31),
            Self::ConnectionOpen { .. } => (10, 40),
            Self::ConnectionClose { .. } => (10, 50),
            Self::ConnectionCloseOk => (10, 51),
            Self::ConnectionUpdateSecret { .. } => (10, 70),
            Self::ChannelOpen => (20, 10),
            Self::ChannelFlow { .. } => (20, 20),
            Self::ChannelFlowOk { .. } => (20, 21),
            Self::ChannelClose { .. } => (20, 40),
            Self::ChannelCloseOk => (20, 41),
            Self::AccessRequest => (30, 10),
            Self::ExchangeDeclare { .. } => (40, 10),
            Self::ExchangeDelete { .. } => (40, 20),
            Self::ExchangeBind { .. } => (40, 30),
            Self::ExchangeUnbind { .. } => (40, 40),
            Self::QueueDeclare { .. } => (50, 10),
            Self::QueueBind { .. } => (50, 20),
            Self::QueuePurge { .. } => (50, 30),
            Self::QueueDelete { .. } => (50, 40),
            Self::QueueUnbind { .. } => (50, 50),
            Self::BasicQos { .. } => (60, 10),
            Self::BasicConsume { .. } => (60, 20),
            Self::BasicCancel { .. } => (60, 30),
            Self::BasicCancelOk { .. } => (60, 31),
            Self::BasicPublish(_) => (60, 40),
            Self::BasicGet { .. } => (60, 70),
            Self::BasicAck { .. } => (60, 80),
            Self::BasicReject { .. } => (60, 90),
            Self::BasicRecoverAsync { .. } => (60, 100),
            Self::BasicRecover { .. } => (60, 110),
            Self::BasicNack { .. } => (60, 120),
            Self::ConfirmSelect { .. } => (85, 10),
            Self::TxSelect => (90, 10),
            Self::TxCommit => (90, 20),
            Self::TxRollback => (90, 30),
        }
    }
}

/// A method that a server sends, but for those that carry or confirm messages: see [`Encoder`](crate::amqp::Encoder).
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub enum ServerMethod {
    /// `mechanisms` and `locales` are lists with spaces between; `version` is major and minor, (0, 9).
    ConnectionStart {
        server_properties: Table,
        mechanisms: String,
        locales: String,
        version: (u8, u8),
    },
    ConnectionSecure {
        challenge: Vec<u8>,
    },
    ConnectionTune {
        channel_max: u16,
        frame_max: u32,
        heartbeat: u16,
    },
    ConnectionOpenOk,
    ConnectionClose {
        reply_code: u16,
        reply_text: String,
        class_id: u16,
        method_id: u16,
    },
    ConnectionCloseOk,
    ConnectionBlocked {
        reason: String,
    },
    ConnectionUnblocked,
    ConnectionUpdateSecretOk,
    ChannelOpenOk,
    ChannelFlow {
        active: bool,
    },
    ChannelFlowOk {
        active: bool,
    },
    ChannelClose {
        reply_code: u16,
        reply_text: String,
        class_id: u16,
        method_id: u16,
    },
    ChannelCloseOk,
    AccessRequestOk {
        ticket: u16,
    },
    ExchangeDeclareOk,
    ExchangeDeleteOk,
    ExchangeBindOk,
    ExchangeUnbindOk,
    QueueDeclareOk {
        queue: String,
        message_count: u32,
        consumer_count: u32,
    },
    QueueBindOk,
    QueueUnbindOk,
    QueuePurgeOk {
        message_count: u32,
    },
    QueueDeleteOk {
        message_count: u32,
    },
    BasicQosOk,
    BasicConsumeOk {
        consumer_tag: String,
    },
    BasicCancelOk {
        consumer_tag: String,
    },
    BasicCancel {
        consumer_tag: String,
        nowait: bool,
    },
    BasicGetEmpty,
    BasicRecoverOk,
    TxSelectOk,
    TxCommitOk,
    TxRollbackOk,
    ConfirmSelectOk,
}

impl ServerMethod {
    /// Appends the whole frame. Short strings (reply texts among them) are cut to 255 bytes at a character.
    pub fn encode(&self, channel: u16, out: &mut BytesMut) {
        let frame = AMQPFrame::Method(channel, self.to_class());
        let written = gen_frame(&frame)(WriteContext::from(Vec::with_capacity(64)))
            .expect("invariant: a vector takes every byte, and every short string is cut to fit");
        let mut bytes = written.write;
        if let Self::AccessRequestOk { ticket } = self {
            // amq_protocol writes 1 here, whatever the server wants.
            bytes[11..13].copy_from_slice(&ticket.to_be_bytes());
        }
        out.extend_from_slice(&bytes);
    }

    fn to_class(&self) -> AMQPClass {
        use access::AMQPMethod as Access;
        use amq_basic::AMQPMethod as Basic;
        use channel::AMQPMethod as Channel;
        use confirm::AMQPMethod as Confirm;
        use connection::AMQPMethod as Connection;
        use exchange::AMQPMethod as Exchange;
        use queue::AMQPMethod as Queue;
        use tx::AMQPMethod as Tx;
        match *self {
            Self::ConnectionStart { ref server_properties, ref mechanisms, ref locales, version } => {
                AMQPClass::Connection(Connection::Start(connection::Start {
                    version_major: version.0,
                    version_minor: version.1,
                    server_properties: field_table(server_properties),
                    mechanisms: mechanisms.as_str().into(),
                    locales: locales.as_str().into(),
                }))
            }
            Self::ConnectionSecure { ref challenge } => {
                AMQPClass::Connection(Connection::Secure(connection::Secure {
                    challenge: challenge.as_slice().into(),
                }))
            }
            Self::ConnectionTune { channel_max, frame_max, heartbeat } => {
                AMQPClass::Connection(Connection::Tune(connection::Tune {
                    channel_max,
                    frame_max,
                    heartbeat,
                }))
            }
            Self::ConnectionOpenOk => AMQPClass::Connection(Connection::OpenOk(connection::OpenOk {})),
            Self::ConnectionClose { reply_code, ref reply_text, class_id, method_id } => {
                let reply_text = short_string(reply_text);
                AMQPClass::Connection(Connection::Close(connection::Close {
                    reply_code,
                    reply_text,
                    class_id,
                    method_id,
                }))
            }
            Self::ConnectionCloseOk => AMQPClass::Connection(Connection::CloseOk(connection::CloseOk {})),
            Self::ConnectionBlocked { ref reason } => {
                AMQPClass::Connection(Connection::Blocked(connection::Blocked {
                    reason: short_string(reason),
                }))
            }
            Self::ConnectionUnblocked => {
                AMQPClass::Connection(Connection::Unblocked(connection::Unblocked {}))
            }
            Self::ConnectionUpdateSecretOk => {
                AMQPClass::Connection(Connection::UpdateSecretOk(connection::UpdateSecretOk {}))
            }
            Self::ChannelOpenOk => AMQPClass::Channel(Channel::OpenOk(channel::OpenOk {})),
            Self::ChannelFlow { active } => AMQPClass::Channel(Channel::Flow(channel::Flow { active })),
            Self::ChannelFlowOk { active } => AMQPClass::Channel(Channel::FlowOk(channel::FlowOk { active })),
            Self::ChannelClose { reply_code, ref reply_text, class_id, method_id } => {
                let reply_text = short_string(reply_text);
                AMQPClass::Channel(Channel::Close(channel::Close {
                    reply_code,
                    reply_text,
                    class_id,
                    method_id,
                }))
            }
            Self::ChannelCloseOk => AMQPClass::Channel(Channel::CloseOk(channel::CloseOk {})),
            Self::AccessRequestOk { .. } => AMQPClass::Access(Access::RequestOk(access::RequestOk {})),
            Self::ExchangeDeclareOk => AMQPClass::Exchange(Exchange::DeclareOk(exchange::DeclareOk {})),
            Self::ExchangeDeleteOk => AMQPClass::Exchange(Exchange::DeleteOk(exchange::DeleteOk {})),
            Self::ExchangeBindOk => AMQPClass::Exchange(Exchange::BindOk(exchange::BindOk {})),
            Self::ExchangeUnbindOk => AMQPClass::Exchange(Exchange::UnbindOk(exchange::UnbindOk {})),
            Self::QueueDeclareOk { ref queue, message_count, consumer_count } => {
                let queue = short_string(queue);
                AMQPClass::Queue(Queue::DeclareOk(queue::DeclareOk { queue, message_count, consumer_count }))
            }
            Self::QueueBindOk => AMQPClass::Queue(Queue::BindOk(queue::BindOk {})),
            Self::QueueUnbindOk => AMQPClass::Queue(Queue::UnbindOk(queue::UnbindOk {})),
            Self::QueuePurgeOk { message_count } => {
                AMQPClass::Queue(Queue::PurgeOk(queue::PurgeOk { message_count }))
            }
            Self::QueueDeleteOk { message_count } => {
                AMQPClass::Queue(Queue::DeleteOk(queue::DeleteOk { message_count }))
            }
            Self::BasicQosOk => AMQPClass::Basic(Basic::QosOk(amq_basic::QosOk {})),
            Self::BasicConsumeOk { ref consumer_tag } => {
                let consumer_tag = short_string(consumer_tag);
                AMQPClass::Basic(Basic::ConsumeOk(amq_basic::ConsumeOk { consumer_tag }))
            }
            Self::BasicCancelOk { ref consumer_tag } => {
                let consumer_tag = short_string(consumer_tag);
                AMQPClass::Basic(Basic::CancelOk(amq_basic::CancelOk { consumer_tag }))
            }
            Self::BasicCancel { ref consumer_tag, nowait } => {
                let consumer_tag = short_string(consumer_tag);
                AMQPClass::Basic(Basic::Cancel(amq_basic::Cancel { consumer_tag, nowait }))
            }
            Self::BasicGetEmpty => AMQPClass::Basic(Basic::GetEmpty(amq_basic::GetEmpty {})),
            Self::BasicRecoverOk => AMQPClass::Basic(Basic::RecoverOk(amq_basic::RecoverOk {})),
            Self::TxSelectOk => AMQPClass::Tx(Tx::SelectOk(tx::SelectOk {})),
            Self::TxCommitOk => AMQPClass::Tx(Tx::CommitOk(tx::CommitOk {})),
            Self::TxRollbackOk => AMQPClass::Tx(Tx::RollbackOk(tx::RollbackOk {})),
            Self::ConfirmSelectOk => AMQPClass::Confirm(Confirm::SelectOk(confirm::SelectOk {})),
        }
    }
}

/// Reads a method that is not worth a parser of its own.
fn decode_cold<'a>(ids: (u16, u16), payload: &[u8]) -> Result<ClientMethod<'a>, DecodeError> {
    let Some(layout) = Layout::of(ids) else {
        return Err(
            DecodeError::new(ReplyCode::CommandInvalid, "unimplemented method").in_method(ids.0, ids.1)
        );
    };
    let (table, without_table) = match layout {
        Layout::Plain => (Table::default(), Cow::Borrowed(payload)),
        Layout::Table { fixed, strings, bits } => {
            let fields = find_table(payload, fixed, strings, bits)
                .map_err(|problem| malformed(ids, problem, payload))?;
            let table =
                Table::decode(&payload[fields.clone()]).map_err(|error| error.in_method(ids.0, ids.1))?;
            let without_table = [&payload[..fields.start - 4], &[0; 4], &payload[fields.end..]].concat();
            (table, Cow::Owned(without_table))
        }
    };
    match parse_class(&without_table[..]) {
        Ok(([], class)) => Ok(from_class(class, payload, table)),
        Ok(_) | Err(nom::Err::Incomplete(_)) => Err(malformed(ids, Malformed::Layout, payload)),
        // The method exists and is long enough: a string is not UTF-8.
        Err(_) => Err(malformed(ids, Malformed::Utf8, payload)),
    }
}

/// Where a cold method that clients send has its field table.
enum Layout {
    /// It has none.
    Plain,
    /// Behind so many octets, short strings, and octets of bits.
    Table { fixed: usize, strings: usize, bits: usize },
}

impl Layout {
    /// `None` for what does not exist, and what only a server sends.
    fn of(ids: (u16, u16)) -> Option<Self> {
        Some(match ids {
            (10, 11) => Self::Table { fixed: 0, strings: 0, bits: 0 },
            (40, 10) | (60, 20) => Self::Table { fixed: 2, strings: 2, bits: 1 },
            (40, 30 | 40) | (50, 20) => Self::Table { fixed: 2, strings: 3, bits: 1 },
            (50, 10) => Self::Table { fixed: 2, strings: 1, bits: 1 },
            (50, 50) => Self::Table { fixed: 2, strings: 3, bits: 0 },
            (10, 21 | 31 | 40 | 50 | 51 | 70)
            | (20, 10 | 20 | 21 | 40 | 41)
            | (30, 10)
            | (40, 20)
            | (50, 30 | 40)
            | (60, 10 | 30 | 31 | 70 | 100 | 110)
            | (85, 10)
            | (90, 10 | 20 | 30) => Self::Plain,
            _ => return None,
        })
    }
}

/// Where in a method's payload the fields of its table are; their length is in the four octets before.
fn find_table(payload: &[u8], fixed: usize, strings: usize, bits: usize) -> Result<Range<usize>, Malformed> {
    let mut reader = Reader::new(payload);
    reader.take(4 + fixed)?;
    for _ in 0..strings {
        reader.short_bytes()?;
    }
    reader.take(bits)?;
    let fields = reader.long_bytes()?;
    let end = payload.len() - reader.rest().len();
    Ok(end - fields.len()..end)
}

fn from_class<'a>(class: AMQPClass, payload: &[u8], table: Table) -> ClientMethod<'a> {
    let method = match class {
        AMQPClass::Connection(method) => from_connection(method, table),
        AMQPClass::Channel(method) => from_channel(method),
        AMQPClass::Access(_) => Some(ClientMethod::AccessRequest),
        AMQPClass::Exchange(method) => from_exchange(method, table),
        AMQPClass::Queue(method) => from_queue(method, table),
        AMQPClass::Basic(method) => from_basic(method, payload, table),
        AMQPClass::Tx(method) => from_tx(&method),
        AMQPClass::Confirm(confirm::AMQPMethod::Select(select)) => {
            Some(ClientMethod::ConfirmSelect { nowait: select.nowait })
        }
        AMQPClass::Confirm(_) => None,
    };
    method.expect("invariant: only ids that a client sends have a layout")
}

fn from_connection<'a>(method: connection::AMQPMethod, table: Table) -> Option<ClientMethod<'a>> {
    use connection::AMQPMethod;
    Some(match method {
        AMQPMethod::StartOk(ok) => ClientMethod::ConnectionStartOk {
            client_properties: table,
            mechanism: ok.mechanism.into(),
            response: ok.response.as_bytes().to_vec(),
            locale: ok.locale.into(),
        },
        AMQPMethod::SecureOk(ok) => {
            ClientMethod::ConnectionSecureOk { response: ok.response.as_bytes().to_vec() }
        }
        AMQPMethod::TuneOk(connection::TuneOk { channel_max, frame_max, heartbeat }) => {
            ClientMethod::ConnectionTuneOk { channel_max, frame_max, heartbeat }
        }
        AMQPMethod::Open(open) => ClientMethod::ConnectionOpen { virtual_host: open.virtual_host.into() },
        AMQPMethod::Close(connection::Close { reply_code, reply_text, class_id, method_id }) => {
            ClientMethod::ConnectionClose { reply_code, reply_text: reply_text.into(), class_id, method_id }
        }
        AMQPMethod::CloseOk(_) => ClientMethod::ConnectionCloseOk,
        AMQPMethod::UpdateSecret(update) => ClientMethod::ConnectionUpdateSecret {
            new_secret: update.new_secret.as_bytes().to_vec(),
            reason: update.reason.into(),
        },
        _ => return None,
    })
}

fn from_channel<'a>(method: channel::AMQPMethod) -> Option<ClientMethod<'a>> {
    use channel::AMQPMethod;
    Some(match method {
        AMQPMethod::Open(_) => ClientMethod::ChannelOpen,
        AMQPMethod::Flow(flow) => ClientMethod::ChannelFlow { active: flow.active },
        AMQPMethod::FlowOk(flow) => ClientMethod::ChannelFlowOk { active: flow.active },
        AMQPMethod::Close(channel::Close { reply_code, reply_text, class_id, method_id }) => {
            ClientMethod::ChannelClose { reply_code, reply_text: reply_text.into(), class_id, method_id }
        }
        AMQPMethod::CloseOk(_) => ClientMethod::ChannelCloseOk,
        AMQPMethod::OpenOk(_) => return None,
    })
}

fn from_exchange<'a>(method: exchange::AMQPMethod, arguments: Table) -> Option<ClientMethod<'a>> {
    use exchange::AMQPMethod;
    Some(match method {
        AMQPMethod::Declare(declare) => ClientMethod::ExchangeDeclare {
            exchange: declare.exchange.into(),
            kind: declare.kind.into(),
            passive: declare.passive,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            nowait: declare.nowait,
            arguments,
        },
        AMQPMethod::Delete(delete) => ClientMethod::ExchangeDelete {
            exchange: delete.exchange.into(),
            if_unused: delete.if_unused,
            nowait: delete.nowait,
        },
        AMQPMethod::Bind(bind) => ClientMethod::ExchangeBind {
            destination: bind.destination.into(),
            source: bind.source.into(),
            routing_key: bind.routing_key.into(),
            nowait: bind.nowait,
            arguments,
        },
        AMQPMethod::Unbind(unbind) => ClientMethod::ExchangeUnbind {
            destination: unbind.destination.into(),
            source: unbind.source.into(),
            routing_key: unbind.routing_key.into(),
            nowait: unbind.nowait,
            arguments,
        },
        _ => return None,
    })
}

fn from_queue<'a>(method: queue::AMQPMethod, arguments: Table) -> Option<ClientMethod<'a>> {
    use queue::AMQPMethod;
    Some(match method {
        AMQPMethod::Declare(declare) => ClientMethod::QueueDeclare {
            queue: declare.queue.into(),
            passive: declare.passive,
            durable: declare.durable,
            exclusive: declare.exclusive,
            auto_delete: declare.auto_delete,
            nowait: declare.nowait,
            arguments,
        },
        AMQPMethod::Bind(bind) => ClientMethod::QueueBind {
            queue: bind.queue.into(),
            exchange: bind.exchange.into(),
            routing_key: bind.routing_key.into(),
            nowait: bind.nowait,
            arguments,
        },
        AMQPMethod::Unbind(unbind) => ClientMethod::QueueUnbind {
            queue: unbind.queue.into(),
            exchange: unbind.exchange.into(),
            routing_key: unbind.routing_key.into(),
            arguments,
        },
        AMQPMethod::Purge(purge) => {
            ClientMethod::QueuePurge { queue: purge.queue.into(), nowait: purge.nowait }
        }
        AMQPMethod::Delete(delete) => ClientMethod::QueueDelete {
            queue: delete.queue.into(),
            if_unused: delete.if_unused,
            if_empty: delete.if_empty,
            nowait: delete.nowait,
        },
        _ => return None,
    })
}

fn from_basic<'a>(
    method: amq_basic::AMQPMethod,
    payload: &[u8],
    arguments: Table,
) -> Option<ClientMethod<'a>> {
    use amq_basic::AMQPMethod;
    Some(match method {
        AMQPMethod::Qos(qos) => ClientMethod::BasicQos {
            // amq_protocol drops this argument.
            prefetch_size: Reader::new(payload.get(4..)?).u32().ok()?,
            prefetch_count: qos.prefetch_count,
            global: qos.global,
        },
        AMQPMethod::Consume(consume) => ClientMethod::BasicConsume {
            queue: consume.queue.into(),
            consumer_tag: consume.consumer_tag.into(),
            no_local: consume.no_local,
            no_ack: consume.no_ack,
            exclusive: consume.exclusive,
            nowait: consume.nowait,
            arguments,
        },
        AMQPMethod::Cancel(cancel) => {
            ClientMethod::BasicCancel { consumer_tag: cancel.consumer_tag.into(), nowait: cancel.nowait }
        }
        AMQPMethod::CancelOk(ok) => ClientMethod::BasicCancelOk { consumer_tag: ok.consumer_tag.into() },
        AMQPMethod::Get(get) => ClientMethod::BasicGet { queue: get.queue.into(), no_ack: get.no_ack },
        AMQPMethod::Recover(recover) => ClientMethod::BasicRecover { requeue: recover.requeue },
        AMQPMethod::RecoverAsync(recover) => ClientMethod::BasicRecoverAsync { requeue: recover.requeue },
        _ => return None,
    })
}

fn from_tx<'a>(method: &tx::AMQPMethod) -> Option<ClientMethod<'a>> {
    match method {
        tx::AMQPMethod::Select(_) => Some(ClientMethod::TxSelect),
        tx::AMQPMethod::Commit(_) => Some(ClientMethod::TxCommit),
        tx::AMQPMethod::Rollback(_) => Some(ClientMethod::TxRollback),
        _ => None,
    }
}

fn short_string(text: &str) -> ShortString {
    short(text).into()
}

fn field_table(table: &Table) -> FieldTable {
    let mut fields = FieldTable::default();
    for (name, value) in &table.0 {
        fields.insert(short_string(name), amqp_value(value));
    }
    fields
}

fn amqp_value(value: &Value) -> AMQPValue {
    match value {
        Value::Bool(value) => AMQPValue::Boolean(*value),
        Value::I8(n) => AMQPValue::ShortShortInt(*n),
        Value::U8(n) => AMQPValue::ShortShortUInt(*n),
        Value::I16(n) => AMQPValue::ShortInt(*n),
        Value::U16(n) => AMQPValue::ShortUInt(*n),
        Value::I32(n) => AMQPValue::LongInt(*n),
        Value::U32(n) => AMQPValue::LongUInt(*n),
        Value::I64(n) => AMQPValue::LongLongInt(*n),
        Value::F32(n) => AMQPValue::Float(*n),
        Value::F64(n) => AMQPValue::Double(*n),
        &Value::Decimal { scale, value } => AMQPValue::DecimalValue(DecimalValue { scale, value }),
        Value::LongStr(bytes) => AMQPValue::LongString(LongString::from(&bytes[..])),
        Value::Array(values) => {
            AMQPValue::FieldArray(FieldArray::from(values.iter().map(amqp_value).collect::<Vec<_>>()))
        }
        Value::Timestamp(seconds) => AMQPValue::Timestamp(*seconds),
        Value::Table(table) => AMQPValue::FieldTable(field_table(table)),
        Value::Void => AMQPValue::Void,
        Value::ByteArray(bytes) => AMQPValue::ByteArray(bytes[..].into()),
    }
}

/// Names what RabbitMQ names: the method if its arguments do not fit, none if a string is not UTF-8.
#[cold]
fn malformed((class_id, method_id): (u16, u16), problem: Malformed, payload: &[u8]) -> DecodeError {
    match problem {
        Malformed::Layout => cannot_decode(&payload[4..]).in_method(class_id, method_id),
        Malformed::Utf8 => DecodeError::new(ReplyCode::FrameError, "Malformed UTF-8 in shortstr"),
    }
}

#[cold]
fn cannot_decode(arguments: &[u8]) -> DecodeError {
    // A reply text ends after 255 bytes, so no more octets than that can be seen.
    DecodeError::new(ReplyCode::FrameError, format!("cannot decode {}", octets(arguments, u8::MAX.into())))
}

#[cfg(test)]
mod tests;
