//! A client's side of the wire: methods that a client writes, and what a server sends.
//!
//! Frames are split by [`crate::amqp::frame`]; every method that a server sends is read here by hand, each string within
//! its bounds, so that nothing of a stranger's is parsed by recursion.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::amqp::{
    Table,
    frame::{FRAME_END, FRAME_OVERHEAD, FrameKind},
    reader::{Malformed, Reader},
};

/// The octets that open a connection.
pub(super) const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

/// A heartbeat.
pub(super) const HEARTBEAT: &[u8] = &[FrameKind::Heartbeat as u8, 0, 0, 0, 0, 0, 0, FRAME_END];

/// A method that is being written.
#[derive(Debug)]
pub(super) struct Method {
    payload: BytesMut,
    is_too_long: bool,
}

impl Method {
    /// A method without arguments yet.
    pub(super) fn new(class_id: u16, method_id: u16) -> Self {
        let mut payload = BytesMut::with_capacity(64);
        payload.put_u16(class_id);
        payload.put_u16(method_id);
        Self { payload, is_too_long: false }
    }

    pub(super) fn u8(mut self, value: u8) -> Self {
        self.payload.put_u8(value);
        self
    }

    pub(super) fn u16(mut self, value: u16) -> Self {
        self.payload.put_u16(value);
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.payload.put_u32(value);
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.payload.put_u64(value);
        self
    }

    /// An octet of bits, the first one in the lowest.
    pub(super) fn bits<const N: usize>(self, bits: [bool; N]) -> Self {
        self.u8(bits.iter().enumerate().fold(0, |octet, (place, bit)| octet | u8::from(*bit) << place))
    }

    /// A short string.
    pub(super) fn short(mut self, text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        match u8::try_from(text.len()) {
            Ok(length) => {
                self.payload.put_u8(length);
                self.payload.put_slice(text);
            }
            Err(_) => self.is_too_long = true,
        }
        self
    }

    /// A long string.
    pub(super) fn long(mut self, octets: &[u8]) -> Self {
        match u32::try_from(octets.len()) {
            Ok(length) => {
                self.payload.put_u32(length);
                self.payload.put_slice(octets);
            }
            Err(_) => self.is_too_long = true,
        }
        self
    }

    pub(super) fn table(mut self, table: &Table) -> Self {
        table.encode(&mut self.payload);
        self
    }

    /// Whether it can be sent: no string is too long, and it fits a frame of that size, in octets.
    pub(super) fn fits(&self, frame_max: u32) -> bool {
        !self.is_too_long && self.payload.len() + FRAME_OVERHEAD <= frame_max as usize
    }

    /// The method as a frame.
    pub(super) fn frame(&self, channel: u16) -> Bytes {
        let mut out = BytesMut::with_capacity(self.payload.len() + FRAME_OVERHEAD);
        put_frame(&mut out, FrameKind::Method, channel, &self.payload);
        out.freeze()
    }

    /// The method with a content, the body in frames of at most that size, in octets.
    pub(super) fn with_content(&self, channel: u16, properties: &[u8], body: &[u8], frame_max: u32) -> Bytes {
        let piece = (frame_max as usize - FRAME_OVERHEAD).max(1);
        let frames = 2 + body.len().div_ceil(piece);
        let octets = self.payload.len() + 12 + properties.len() + body.len() + frames * FRAME_OVERHEAD;
        let mut out = BytesMut::with_capacity(octets);
        put_frame(&mut out, FrameKind::Method, channel, &self.payload);
        put_frame_header(&mut out, FrameKind::Header, channel, 12 + properties.len());
        out.put_slice(&self.payload[..2]);
        out.put_u16(0);
        out.put_u64(body.len() as u64);
        out.put_slice(properties);
        out.put_u8(FRAME_END);
        for piece in body.chunks(piece) {
            put_frame(&mut out, FrameKind::Body, channel, piece);
        }
        out.freeze()
    }
}

fn put_frame(out: &mut BytesMut, kind: FrameKind, channel: u16, payload: &[u8]) {
    put_frame_header(out, kind, channel, payload.len());
    out.put_slice(payload);
    out.put_u8(FRAME_END);
}

fn put_frame_header(out: &mut BytesMut, kind: FrameKind, channel: u16, size: usize) {
    out.put_u8(kind as u8);
    out.put_u16(channel);
    out.put_u32(u32::try_from(size).expect("invariant: a payload fits a frame"));
}

/// What a server sends on a channel, a content with its method.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A method without content.
    Method(ServerMethod),
    /// A method with its content.
    Content(ContentMethod, Content),
}

/// Properties and body, as they came.
#[derive(Debug)]
pub(super) struct Content {
    /// Flags and list.
    pub(super) properties: Bytes,
    pub(super) body: Bytes,
}

/// Why a server has closed a channel or a connection, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The reply code.
    pub code: u16,
    /// The reply text, such as `NOT_FOUND - no queue 'q' in vhost '/'`.
    pub text: String,
    /// The class of the method that was refused, 0 if none.
    pub class_id: u16,
    /// The method that was refused, 0 if none.
    pub method_id: u16,
}

/// A method that no content follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServerMethod {
    ConnectionStart {
        mechanisms: String,
    },
    ConnectionTune {
        channel_max: u16,
        frame_max: u32,
        heartbeat_secs: u16,
    },
    ConnectionClose(Closed),
    ConnectionBlocked,
    ConnectionUnblocked,
    ChannelFlow {
        active: bool,
    },
    ChannelClose(Closed),
    QueueDeclareOk {
        queue: String,
        message_count: u32,
        consumer_count: u32,
    },
    /// `queue.purge-ok` or `queue.delete-ok`.
    MessageCount {
        ids: (u16, u16),
        message_count: u32,
    },
    BasicConsumeOk {
        consumer_tag: String,
    },
    BasicCancel {
        consumer_tag: String,
    },
    BasicGetEmpty,
    /// `basic.ack` or `basic.nack`.
    Confirm {
        delivery_tag: u64,
        multiple: bool,
        is_ack: bool,
    },
    /// Any other: an answer whose arguments say nothing.
    Other {
        ids: (u16, u16),
    },
}

/// A method that a content follows. Names and keys need not be text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ContentMethod {
    Return {
        code: u16,
        text: String,
        exchange: Bytes,
        routing_key: Bytes,
    },
    Deliver {
        consumer_tag: String,
        delivery_tag: u64,
        redelivered: bool,
        exchange: Bytes,
        routing_key: Bytes,
    },
    GetOk {
        delivery_tag: u64,
        redelivered: bool,
        exchange: Bytes,
        routing_key: Bytes,
        message_count: u32,
    },
}

/// A method, with or without content.
#[derive(Debug)]
pub(super) enum Decoded {
    Plain(ServerMethod),
    WithContent(ContentMethod),
}

impl ServerMethod {
    /// The class and method.
    pub(super) fn ids(&self) -> (u16, u16) {
        match self {
            Self::ConnectionStart { .. } => (10, 10),
            Self::ConnectionTune { .. } => (10, 30),
            Self::ConnectionClose(_) => (10, 50),
            Self::ConnectionBlocked => (10, 60),
            Self::ConnectionUnblocked => (10, 61),
            Self::ChannelFlow { .. } => (20, 20),
            Self::ChannelClose(_) => (20, 40),
            Self::QueueDeclareOk { .. } => (50, 11),
            Self::BasicConsumeOk { .. } => (60, 21),
            Self::BasicCancel { .. } => (60, 30),
            Self::BasicGetEmpty => (60, 72),
            Self::Confirm { is_ack: true, .. } => (60, 80),
            Self::Confirm { is_ack: false, .. } => (60, 120),
            Self::MessageCount { ids, .. } | Self::Other { ids } => *ids,
        }
    }
}

/// Reads the payload of a method frame. What follows the arguments that are known is not looked at.
///
/// # Errors
/// If the arguments end early.
pub(super) fn decode(payload: &[u8]) -> Result<Decoded, Malformed> {
    let mut reader = Reader::new(payload);
    let ids = (reader.u16()?, reader.u16()?);
    Ok(match ids {
        (60, 50 | 60 | 71) => Decoded::WithContent(with_content(ids.1, &mut reader)?),
        _ => Decoded::Plain(plain(ids, &mut reader)?),
    })
}

fn plain(ids: (u16, u16), reader: &mut Reader<'_>) -> Result<ServerMethod, Malformed> {
    use ServerMethod as M;
    Ok(match ids {
        (10, 10) => {
            reader.u16()?;
            reader.long_bytes()?;
            M::ConnectionStart { mechanisms: String::from_utf8_lossy(reader.long_bytes()?).into_owned() }
        }
        (10, 30) => M::ConnectionTune {
            channel_max: reader.u16()?,
            frame_max: reader.u32()?,
            heartbeat_secs: reader.u16()?,
        },
        (10, 50) => M::ConnectionClose(closed(reader)?),
        (10, 60) => M::ConnectionBlocked,
        (10, 61) => M::ConnectionUnblocked,
        (20, 20) => M::ChannelFlow { active: reader.u8()? & 1 != 0 },
        (20, 40) => M::ChannelClose(closed(reader)?),
        (50, 11) => M::QueueDeclareOk {
            queue: text(reader)?,
            message_count: reader.u32()?,
            consumer_count: reader.u32()?,
        },
        (50, 31 | 41) => M::MessageCount { ids, message_count: reader.u32()? },
        (60, 21) => M::BasicConsumeOk { consumer_tag: text(reader)? },
        (60, 30) => M::BasicCancel { consumer_tag: text(reader)? },
        (60, 72) => M::BasicGetEmpty,
        (60, 80 | 120) => {
            M::Confirm { delivery_tag: reader.u64()?, multiple: reader.u8()? & 1 != 0, is_ack: ids.1 == 80 }
        }
        _ => M::Other { ids },
    })
}

fn with_content(method_id: u16, reader: &mut Reader<'_>) -> Result<ContentMethod, Malformed> {
    use ContentMethod as M;
    Ok(match method_id {
        50 => M::Return {
            code: reader.u16()?,
            text: text(reader)?,
            exchange: octets(reader)?,
            routing_key: octets(reader)?,
        },
        60 => M::Deliver {
            consumer_tag: text(reader)?,
            delivery_tag: reader.u64()?,
            redelivered: reader.u8()? & 1 != 0,
            exchange: octets(reader)?,
            routing_key: octets(reader)?,
        },
        _ => M::GetOk {
            delivery_tag: reader.u64()?,
            redelivered: reader.u8()? & 1 != 0,
            exchange: octets(reader)?,
            routing_key: octets(reader)?,
            message_count: reader.u32()?,
        },
    })
}

fn closed(reader: &mut Reader<'_>) -> Result<Closed, Malformed> {
    Ok(Closed { code: reader.u16()?, text: text(reader)?, class_id: reader.u16()?, method_id: reader.u16()? })
}

fn text(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    Ok(String::from_utf8_lossy(reader.short_bytes()?).into_owned())
}

fn octets(reader: &mut Reader<'_>) -> Result<Bytes, Malformed> {
    Ok(Bytes::copy_from_slice(reader.short_bytes()?))
}
