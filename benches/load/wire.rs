//! AMQP 0-9-1 frames, as much of them as a load generator needs.

use anyhow::{Result, bail};

/// Frame type of a method.
pub(crate) const METHOD: u8 = 1;
/// Frame type of a content header.
pub(crate) const HEADER: u8 = 2;
/// Frame type of a piece of body.
pub(crate) const BODY: u8 = 3;
/// Bytes of a frame around its payload.
pub(crate) const FRAME_OVERHEAD: usize = 8;

const FRAME_END: u8 = 0xCE;
const BASIC_CLASS: u16 = 60;
/// Property flag of delivery-mode.
const DELIVERY_MODE: u16 = 0x1000;

/// Class and method ids, as one number.
pub(crate) mod id {
    pub(crate) const CONNECTION_START: u32 = method(10, 10);
    pub(crate) const CONNECTION_START_OK: u32 = method(10, 11);
    pub(crate) const CONNECTION_TUNE: u32 = method(10, 30);
    pub(crate) const CONNECTION_TUNE_OK: u32 = method(10, 31);
    pub(crate) const CONNECTION_OPEN: u32 = method(10, 40);
    pub(crate) const CONNECTION_OPEN_OK: u32 = method(10, 41);
    pub(crate) const CONNECTION_CLOSE: u32 = method(10, 50);
    pub(crate) const CONNECTION_CLOSE_OK: u32 = method(10, 51);
    pub(crate) const CHANNEL_OPEN: u32 = method(20, 10);
    pub(crate) const CHANNEL_OPEN_OK: u32 = method(20, 11);
    pub(crate) const CHANNEL_CLOSE: u32 = method(20, 40);
    pub(crate) const EXCHANGE_DECLARE: u32 = method(40, 10);
    pub(crate) const EXCHANGE_DECLARE_OK: u32 = method(40, 11);
    pub(crate) const EXCHANGE_DELETE: u32 = method(40, 20);
    pub(crate) const EXCHANGE_DELETE_OK: u32 = method(40, 21);
    pub(crate) const QUEUE_DECLARE: u32 = method(50, 10);
    pub(crate) const QUEUE_DECLARE_OK: u32 = method(50, 11);
    pub(crate) const QUEUE_BIND: u32 = method(50, 20);
    pub(crate) const QUEUE_BIND_OK: u32 = method(50, 21);
    pub(crate) const QUEUE_PURGE: u32 = method(50, 30);
    pub(crate) const QUEUE_PURGE_OK: u32 = method(50, 31);
    pub(crate) const QUEUE_DELETE: u32 = method(50, 40);
    pub(crate) const QUEUE_DELETE_OK: u32 = method(50, 41);
    pub(crate) const BASIC_QOS: u32 = method(60, 10);
    pub(crate) const BASIC_QOS_OK: u32 = method(60, 11);
    pub(crate) const BASIC_CONSUME: u32 = method(60, 20);
    pub(crate) const BASIC_CONSUME_OK: u32 = method(60, 21);
    pub(crate) const BASIC_CANCEL: u32 = method(60, 30);
    pub(crate) const BASIC_CANCEL_OK: u32 = method(60, 31);
    pub(crate) const BASIC_PUBLISH: u32 = method(60, 40);
    pub(crate) const BASIC_DELIVER: u32 = method(60, 60);
    pub(crate) const BASIC_ACK: u32 = method(60, 80);
    pub(crate) const BASIC_NACK: u32 = method(60, 120);
    pub(crate) const CONFIRM_SELECT: u32 = method(85, 10);
    pub(crate) const CONFIRM_SELECT_OK: u32 = method(85, 11);

    const fn method(class: u16, method: u16) -> u32 {
        (class as u32) << 16 | method as u32
    }
}

/// One frame, in the receive buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the start of `bytes` and its whole length; `None` if it has not all arrived.
    #[inline]
    pub(crate) fn split(bytes: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>> {
        let Some((head, rest)) = bytes.split_first_chunk::<7>() else { return Ok(None) };
        let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let Some(end) = rest.get(length) else { return Ok(None) };
        if *end != FRAME_END {
            bail!("a frame of type {} and {length} bytes ends with {end:#x}", head[0]);
        }
        Ok(Some((Frame { kind: head[0], payload: &rest[..length] }, length + FRAME_OVERHEAD)))
    }
}

/// Reads fields from the front of a payload; `None` when it is too short.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.chunk::<1>().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.chunk().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.chunk().map(u64::from_be_bytes)
    }

    /// A short string, without its length.
    pub(crate) fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        let (string, rest) = self.0.split_at_checked(length.into())?;
        self.0 = rest;
        Some(string)
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*chunk)
    }
}

/// Appends a method frame on `channel`; `arguments` writes what follows the method's id.
pub(crate) fn method(out: &mut Vec<u8>, channel: u16, id: u32, arguments: impl FnOnce(&mut Arguments<'_>)) {
    frame(out, METHOD, channel, |out| {
        out.extend(id.to_be_bytes());
        arguments(&mut Arguments(out));
    });
}

/// Appends the content header of a body of `size` bytes, with no property but a delivery mode of 2.
pub(crate) fn content_header(out: &mut Vec<u8>, channel: u16, size: u64, persistent: bool) {
    frame(out, HEADER, channel, |out| {
        let mut header = Arguments(out);
        header.u16(BASIC_CLASS).u16(0).u64(size).u16(if persistent { DELIVERY_MODE } else { 0 });
        if persistent {
            header.u8(2);
        }
    });
}

/// Appends a body frame.
pub(crate) fn body(out: &mut Vec<u8>, channel: u16, piece: &[u8]) {
    frame(out, BODY, channel, |out| out.extend(piece));
}

fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    out.extend(channel.to_be_bytes());
    let at = out.len();
    out.extend([0; 4]);
    payload(out);
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    out.push(FRAME_END);
}

/// Writes the fields of a method.
pub(crate) struct Arguments<'a>(&'a mut Vec<u8>);

impl Arguments<'_> {
    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// A short string of at most 255 bytes.
    pub(crate) fn short(&mut self, string: &str) -> &mut Self {
        let length = u8::try_from(string.len()).expect("invariant: names here are short");
        self.0.push(length);
        self.0.extend(string.bytes());
        self
    }

    pub(crate) fn long(&mut self, string: &str) -> &mut Self {
        self.u32(string.len() as u32);
        self.0.extend(string.bytes());
        self
    }

    pub(crate) fn empty_table(&mut self) -> &mut Self {
        self.u32(0)
    }
}
