//! The bytes that wait to be written to a connection.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

use crate::amqp::{
    ReplyCode, ServerMethod, basic,
    frame::{FRAME_END, FRAME_OVERHEAD, FrameKind},
    table::short,
};

/// Body frames with at least this many bytes of payload are shared, smaller ones copied: a copy of a small body is
/// cheaper than a segment of its own in the vectored write.
const SHARED_BODY_MIN: usize = 16 * 1024;

/// Capacity that an empty encoder keeps, in bytes.
const IDLE_CAPACITY_MAX: usize = 64 * 1024;

/// Segments that one vectored write takes.
const IO_SLICES_MAX: usize = 64;

/// A message to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// The exchange that it was last published to, at most 255 octets.
    pub exchange: &'a [u8],
    /// Its routing key, at most 255 octets.
    pub routing_key: &'a [u8],
    /// Flags and list, verbatim.
    pub properties: &'a [u8],
    /// The body.
    pub body: Body<'a>,
}

/// A body to be sent.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// To be copied into the output.
    Small(&'a [u8]),
    /// To be shared with the output where it is large enough for that.
    Large(&'a Bytes),
}

impl<'a> Body<'a> {
    /// The body's octets.
    pub fn as_slice(self) -> &'a [u8] {
        match self {
            Body::Small(body) => body,
            Body::Large(body) => body,
        }
    }

    /// How many octets.
    pub fn len(self) -> usize {
        self.as_slice().len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.as_slice().is_empty()
    }
}

/// The bytes that wait to be written, frames in order.
#[derive(Debug, Default)]
pub struct Encoder {
    /// Everything but shared bodies.
    buffer: BytesMut,
    /// Shared bodies, each with the number of bytes of `buffer` between the body before it (or the front) and it.
    shared: VecDeque<(usize, Bytes)>,
    /// Bytes of `buffer` in front of the last shared body.
    placed: usize,
    /// Bytes in `shared`.
    shared_len: usize,
}

impl Encoder {
    /// An encoder with nothing to write, which takes no memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a method.
    pub fn method(&mut self, channel: u16, method: &ServerMethod) {
        method.encode(channel, &mut self.buffer);
    }

    /// Appends `basic.deliver` with its content, the body in frames of at most `frame_max` octets.
    #[inline]
    pub fn deliver(
        &mut self,
        channel: u16,
        consumer_tag: &str,
        delivery_tag: u64,
        redelivered: bool,
        content: &Content<'_>,
        frame_max: u32,
    ) {
        let consumer_tag = short(consumer_tag);
        let (exchange, routing_key) = (short_octets(content.exchange), short_octets(content.routing_key));
        let size = 4 + 1 + consumer_tag.len() + 9 + 1 + exchange.len() + 1 + routing_key.len();
        self.reserve_content(size, content);
        self.method_header(channel, size, basic::id::DELIVER);
        self.short_str(consumer_tag);
        self.tag_and_bit(delivery_tag, redelivered);
        self.short_octets(exchange);
        self.short_octets(routing_key);
        self.content(channel, content, frame_max);
    }

    /// Appends `basic.get-ok` with its content; `message_count` is what stays in the queue.
    pub fn get_ok(
        &mut self,
        channel: u16,
        delivery_tag: u64,
        redelivered: bool,
        content: &Content<'_>,
        message_count: u32,
        frame_max: u32,
    ) {
        let (exchange, routing_key) = (short_octets(content.exchange), short_octets(content.routing_key));
        let size = 4 + 9 + 1 + exchange.len() + 1 + routing_key.len() + 4;
        self.reserve_content(size, content);
        self.method_header(channel, size, basic::id::GET_OK);
        self.tag_and_bit(delivery_tag, redelivered);
        self.short_octets(exchange);
        self.short_octets(routing_key);
        self.buffer.extend_from_slice(&message_count.to_be_bytes());
        self.content(channel, content, frame_max);
    }

    /// Appends `basic.return` with its content. The text goes out as it is: RabbitMQ says `NO_ROUTE` and no more.
    pub fn return_(
        &mut self,
        channel: u16,
        code: ReplyCode,
        text: &str,
        content: &Content<'_>,
        frame_max: u32,
    ) {
        let text = short(text);
        let (exchange, routing_key) = (short_octets(content.exchange), short_octets(content.routing_key));
        let size = 4 + 2 + 1 + text.len() + 1 + exchange.len() + 1 + routing_key.len();
        self.reserve_content(size, content);
        self.method_header(channel, size, basic::id::RETURN);
        self.buffer.extend_from_slice(&code.code().to_be_bytes());
        self.short_str(text);
        self.short_octets(exchange);
        self.short_octets(routing_key);
        self.content(channel, content, frame_max);
    }

    /// Appends `basic.ack`: these publishes are confirmed.
    pub fn ack(&mut self, channel: u16, delivery_tag: u64, multiple: bool) {
        self.settle(channel, basic::id::ACK, delivery_tag, multiple);
    }

    /// Appends `basic.nack`: these publishes are refused.
    pub fn nack(&mut self, channel: u16, delivery_tag: u64, multiple: bool) {
        self.settle(channel, basic::id::NACK, delivery_tag, multiple);
    }

    /// Appends a heartbeat.
    pub fn heartbeat(&mut self) {
        self.buffer.extend_from_slice(&frame_header(FrameKind::Heartbeat, 0, 0));
        self.buffer.extend_from_slice(&[FRAME_END]);
    }

    /// Appends bytes that are no frame: the protocol header that answers a wrong one.
    pub fn protocol_header(&mut self, header: &[u8]) {
        self.buffer.extend_from_slice(header);
    }

    /// Bytes waiting.
    pub fn len(&self) -> usize {
        self.buffer.len() + self.shared_len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends what a vectored write can take next: at most 64 slices, none empty.
    pub fn io_slices<'a>(&'a self, out: &mut Vec<IoSlice<'a>>) {
        out.extend(self.segments().take(IO_SLICES_MAX).map(IoSlice::new));
    }

    /// Drops the first `written` bytes. Once empty, at most 64 KiB of memory stay.
    ///
    /// # Panics
    /// If fewer bytes are waiting.
    pub fn advance(&mut self, mut written: usize) {
        while let Some((before, body)) = self.shared.front_mut() {
            let copied = written.min(*before);
            *before -= copied;
            self.placed -= copied;
            self.buffer.advance(copied);
            written -= copied;
            let taken = written.min(body.len());
            body.advance(taken);
            self.shared_len -= taken;
            written -= taken;
            if !body.is_empty() {
                return;
            }
            self.shared.pop_front();
        }
        self.buffer.advance(written);
        if self.buffer.is_empty() && self.buffer.try_reclaim(IDLE_CAPACITY_MAX + 1) {
            self.buffer = BytesMut::new();
        }
    }

    /// Gives all memory back, if nothing waits.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::new();
        }
    }

    /// The bytes in order, none empty.
    fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        let placed = self.shared.iter().flat_map(move |(before, body)| {
            let copied = &self.buffer[start..start + before];
            start += before;
            [copied, &body[..]]
        });
        placed.chain([&self.buffer[self.placed..]]).filter(|segment| !segment.is_empty())
    }

    /// Room for a method of this size and all of its content that is copied, but for further body frames' borders.
    #[inline]
    fn reserve_content(&mut self, method_size: usize, content: &Content<'_>) {
        let body = if content.body.len() < SHARED_BODY_MIN { content.body.len() } else { 0 };
        self.buffer.reserve(method_size + 12 + content.properties.len() + body + 3 * FRAME_OVERHEAD);
    }

    #[inline]
    fn method_header(&mut self, channel: u16, size: usize, method_id: u16) {
        let mut bytes = [0; 11];
        bytes[..7].copy_from_slice(&frame_header(FrameKind::Method, channel, size));
        bytes[7..9].copy_from_slice(&basic::CLASS_ID.to_be_bytes());
        bytes[9..].copy_from_slice(&method_id.to_be_bytes());
        self.buffer.extend_from_slice(&bytes);
    }

    #[inline]
    fn short_str(&mut self, text: &str) {
        self.short_octets(text.as_bytes());
    }

    #[inline]
    fn short_octets(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(&[octets.len() as u8]);
        self.buffer.extend_from_slice(octets);
    }

    #[inline]
    fn tag_and_bit(&mut self, delivery_tag: u64, bit: bool) {
        let mut bytes = [0; 9];
        bytes[..8].copy_from_slice(&delivery_tag.to_be_bytes());
        bytes[8] = bit.into();
        self.buffer.extend_from_slice(&bytes);
    }

    fn settle(&mut self, channel: u16, method_id: u16, delivery_tag: u64, multiple: bool) {
        self.method_header(channel, 13, method_id);
        self.tag_and_bit(delivery_tag, multiple);
        self.buffer.extend_from_slice(&[FRAME_END]);
    }

    /// The end of the method frame, the header frame and the body frames.
    #[inline]
    fn content(&mut self, channel: u16, content: &Content<'_>, frame_max: u32) {
        let mut bytes = [0; 20];
        bytes[0] = FRAME_END;
        bytes[1..8].copy_from_slice(&frame_header(FrameKind::Header, channel, 12 + content.properties.len()));
        bytes[8..10].copy_from_slice(&basic::CLASS_ID.to_be_bytes());
        bytes[12..].copy_from_slice(&(content.body.len() as u64).to_be_bytes());
        self.buffer.extend_from_slice(&bytes);
        self.buffer.extend_from_slice(content.properties);
        let payload_max = (frame_max as usize).saturating_sub(FRAME_OVERHEAD).max(1);
        if content.body.len() <= payload_max {
            if !content.body.is_empty() {
                self.body_header(channel, content.body.len());
                self.body_payload(content.body, 0..content.body.len());
            }
        } else {
            self.body_frames(channel, content.body, payload_max);
        }
        self.buffer.extend_from_slice(&[FRAME_END]);
    }

    fn body_frames(&mut self, channel: u16, body: Body<'_>, payload_max: usize) {
        for start in (0..body.len()).step_by(payload_max) {
            let end = body.len().min(start + payload_max);
            self.body_header(channel, end - start);
            self.body_payload(body, start..end);
        }
    }

    /// The end of the frame before and the header of a body frame.
    #[inline]
    fn body_header(&mut self, channel: u16, size: usize) {
        let mut bytes = [FRAME_END; 8];
        bytes[1..].copy_from_slice(&frame_header(FrameKind::Body, channel, size));
        self.buffer.extend_from_slice(&bytes);
    }

    #[inline]
    fn body_payload(&mut self, body: Body<'_>, range: std::ops::Range<usize>) {
        match body {
            Body::Large(body) if range.len() >= SHARED_BODY_MIN => self.share(body.slice(range)),
            _ => self.buffer.extend_from_slice(&body.as_slice()[range]),
        }
    }

    fn share(&mut self, body: Bytes) {
        self.shared_len += body.len();
        self.shared.push_back((self.buffer.len() - self.placed, body));
        self.placed = self.buffer.len();
    }
}

/// As much as a short string holds.
#[inline]
fn short_octets(octets: &[u8]) -> &[u8] {
    &octets[..octets.len().min(u8::MAX.into())]
}

#[inline]
fn frame_header(kind: FrameKind, channel: u16, size: usize) -> [u8; 7] {
    let [c0, c1] = channel.to_be_bytes();
    let [s0, s1, s2, s3] = (size as u32).to_be_bytes();
    [kind as u8, c0, c1, s0, s1, s2, s3]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::amqp::{Frames, frame::split};

    const FRAME_MAX: u32 = 131_072;

    fn content<'a>(properties: &'a [u8], body: &'a Bytes) -> Content<'a> {
        Content { exchange: b"ex", routing_key: b"key", properties, body: Body::Large(body) }
    }

    /// What a peer that takes `step` bytes at a time receives.
    fn written(encoder: &mut Encoder, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !encoder.is_empty() {
            let mut slices = Vec::new();
            encoder.io_slices(&mut slices);
            assert!(slices.len() <= IO_SLICES_MAX && slices.iter().all(|slice| !slice.is_empty()));
            let taken: Vec<u8> = slices.iter().flat_map(|slice| slice.iter()).copied().take(step).collect();
            let len = encoder.len();
            encoder.advance(taken.len());
            assert_eq!(encoder.len(), len - taken.len());
            out.extend(taken);
        }
        out
    }

    fn frames(bytes: &[u8]) -> Vec<(u8, u16, Vec<u8>)> {
        assert_eq!(split(bytes, FRAME_MAX).len, bytes.len());
        Frames::new(bytes).map(|frame| (frame.kind, frame.channel, frame.payload.to_vec())).collect()
    }

    #[test]
    fn a_delivery_is_three_frames() {
        let mut encoder = Encoder::new();
        encoder.deliver(
            7,
            "tag",
            258,
            true,
            &content(b"\x10\0\x02", &Bytes::from_static(b"body")),
            FRAME_MAX,
        );
        let expected = [
            (1, 7, b"\0\x3c\0\x3c\x03tag\0\0\0\0\0\0\x01\x02\x01\x02ex\x03key".to_vec()),
            (2, 7, b"\0\x3c\0\0\0\0\0\0\0\0\0\x04\x10\0\x02".to_vec()),
            (3, 7, b"body".to_vec()),
        ];
        assert_eq!(frames(&written(&mut encoder, usize::MAX)), expected);
    }

    #[test]
    fn an_empty_body_has_no_frame() {
        let mut encoder = Encoder::new();
        encoder.deliver(7, "tag", 1, false, &content(b"\0\0", &Bytes::new()), FRAME_MAX);
        assert_eq!(frames(&written(&mut encoder, usize::MAX)).len(), 2);
    }

    #[test]
    fn the_other_hot_methods() {
        let mut encoder = Encoder::new();
        let body = Bytes::from_static(b"b");
        encoder.get_ok(1, 2, false, &content(b"\0\0", &body), 3, FRAME_MAX);
        encoder.return_(1, ReplyCode::NoRoute, "NO_ROUTE", &content(b"\0\0", &body), FRAME_MAX);
        encoder.ack(1, 2, true);
        encoder.nack(1, 2, false);
        encoder.heartbeat();
        encoder.method(1, &ServerMethod::TxSelectOk);
        let frames = frames(&written(&mut encoder, usize::MAX));
        let method = |index: usize| frames[index].2.as_slice();
        assert_eq!(method(0), b"\0\x3c\0\x47\0\0\0\0\0\0\0\x02\0\x02ex\x03key\0\0\0\x03");
        assert_eq!(method(3), b"\0\x3c\0\x32\x01\x38\x08NO_ROUTE\x02ex\x03key");
        assert_eq!(method(6), b"\0\x3c\0\x50\0\0\0\0\0\0\0\x02\x01");
        assert_eq!(method(7), b"\0\x3c\0\x78\0\0\0\0\0\0\0\x02\0");
        assert_eq!(frames[8], (8, 0, vec![]));
        assert_eq!(method(9), b"\0\x5a\0\x0b");
    }

    #[test]
    fn large_bodies_are_shared_and_small_ones_copied() {
        for (size, shared) in [(SHARED_BODY_MIN - 1, false), (SHARED_BODY_MIN, true)] {
            let body = Bytes::from(vec![7; size]);
            let mut encoder = Encoder::new();
            encoder.deliver(1, "tag", 1, false, &content(b"\0\0", &body), FRAME_MAX);
            let mut slices = Vec::new();
            encoder.io_slices(&mut slices);
            assert_eq!(slices.iter().any(|slice| slice.as_ptr() == body.as_ptr()), shared);
        }
    }

    #[test]
    fn an_idle_encoder_holds_little_memory() {
        let body = Bytes::from(vec![7; SHARED_BODY_MIN - 1]);
        let mut encoder = Encoder::new();
        for tag in 0..100 {
            encoder.deliver(1, "tag", tag, false, &content(b"\0\0", &body), FRAME_MAX);
        }
        assert!(encoder.buffer.capacity() > IDLE_CAPACITY_MAX);
        written(&mut encoder, 10_000);
        encoder.ack(1, 1, false);
        assert!(encoder.buffer.capacity() <= IDLE_CAPACITY_MAX);
        written(&mut encoder, usize::MAX);
        encoder.shrink();
        assert_eq!(encoder.buffer.capacity(), 0);
    }

    proptest! {
        /// Bodies of every size come out whole, in frames of the negotiated size, however the writes are cut.
        #[test]
        fn bodies_arrive_whole(
            sizes in prop::collection::vec(0..100_000usize, 1..8),
            frame_max in 4096..FRAME_MAX,
            step in 1000..200_000usize,
        ) {
            let mut encoder = Encoder::new();
            for (index, &size) in sizes.iter().enumerate() {
                let body: Bytes = (0..size).map(|at| (at * 7 + index) as u8).collect();
                encoder.deliver(1, "tag", index as u64, false, &content(b"\0\0", &body), frame_max);
            }
            let mut bodies: Vec<Vec<u8>> = Vec::new();
            for (kind, _, payload) in frames(&written(&mut encoder, step)) {
                prop_assert!(payload.len() + FRAME_OVERHEAD <= frame_max as usize);
                match kind {
                    1 => bodies.push(Vec::new()),
                    3 => bodies.last_mut().unwrap().extend(payload),
                    _ => {}
                }
            }
            prop_assert_eq!(bodies.len(), sizes.len());
            for (index, body) in bodies.iter().enumerate() {
                prop_assert!(body.iter().copied().eq((0..sizes[index]).map(|at| (at * 7 + index) as u8)));
            }
        }
    }
}
