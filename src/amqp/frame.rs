//! Frames (AMQP 0-9-1 section 4.2.3): finding their borders in a buffer, without copying.
//!
//! ```text
//!  0      1         3             7                  size+7 size+8
//!  +------+---------+-------------+  +------------+  +-----------+
//!  | type | channel |    size     |  |  payload   |  | end 0xCE  |
//!  +------+---------+-------------+  +------------+  +-----------+
//! ```
//!
//! [`split`] looks at a receive buffer and says how much of it is whole, sound frames; [`Frames`] then walks over
//! those without checking again.

use crate::amqp::{DecodeError, ReplyCode, error::octets};

/// What a frame carries, by its first octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub enum FrameKind {
    Method = 1,
    Header = 2,
    Body = 3,
    Heartbeat = 8,
}

impl FrameKind {
    /// The kind with this type octet, if there is one.
    pub const fn from_octet(octet: u8) -> Option<Self> {
        match octet {
            1 => Some(Self::Method),
            2 => Some(Self::Header),
            3 => Some(Self::Body),
            8 => Some(Self::Heartbeat),
            _ => None,
        }
    }
}

/// The octets that a frame adds to its payload: seven in front, one behind.
pub const FRAME_OVERHEAD: usize = 8;

/// The octet that ends every frame.
pub const FRAME_END: u8 = 0xCE;

/// The smallest frame_max that may be negotiated, in octets (AMQP 0-9-1 section 1.4.2.6).
pub const FRAME_MIN_SIZE: u32 = 4096;

/// Octets of a method without arguments: class and method.
const METHOD_SIZE_MIN: u32 = 4;

/// Octets of a content header without properties: class, weight and body size.
const CONTENT_HEADER_SIZE_MIN: u32 = 12;

/// Octets of a payload that an error text shows.
const OCTETS_SHOWN_MAX: usize = 16;

/// Octets in front of a payload.
const HEADER_SIZE: usize = 7;

/// The octets in front of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The type octet, not checked: see [`FrameKind::from_octet`].
    pub kind: u8,
    /// The channel, 0 for the connection itself.
    pub channel: u16,
    /// Octets of payload.
    pub size: u32,
}

impl FrameHeader {
    /// Reads the header at the front of `bytes`; `None` while fewer than seven octets are there.
    #[inline]
    pub fn peek(bytes: &[u8]) -> Option<Self> {
        let &[kind, c0, c1, s0, s1, s2, s3] = bytes.first_chunk::<HEADER_SIZE>()?;
        Some(Self { kind, channel: u16::from_be_bytes([c0, c1]), size: u32::from_be_bytes([s0, s1, s2, s3]) })
    }
}

/// The whole frames at the front of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Bytes of whole, sound frames; 0 if there is none yet.
    pub len: usize,
    /// What is wrong with the frame after those. The frames in front of it are still to be obeyed.
    pub error: Option<DecodeError>,
}

/// Measures the run of complete, sound frames at the front of `buf`.
///
/// Sound means: of a known type, no larger than allowed, ended by [`FRAME_END`], a method or content header no
/// shorter than its fixed part, a heartbeat empty. Hops from header to header: no payload is looked at.
///
/// `frame_max` is the negotiated value in octets (4096 before that in RabbitMQ 3, 8192 in 4; `u32::MAX`: no limit).
/// A payload may have up to that size, 8 more than the specification allows, because clients forget the
/// [`FRAME_OVERHEAD`] and RabbitMQ lets them (A1.4). A larger one is refused before any of it is waited for.
#[inline]
pub fn split(buf: &[u8], frame_max: u32) -> Split {
    let mut len = 0;
    while let Some(header) = FrameHeader::peek(&buf[len..]) {
        let start = len + HEADER_SIZE;
        if header.size > frame_max {
            return Split { len, error: Some(too_large(&header, frame_max)) };
        }
        let end = start + header.size as usize;
        let Some(&octet) = buf.get(end) else { break };
        if octet != FRAME_END || !is_known(&header) {
            return Split { len, error: Some(unsound(&header, &buf[start..end], octet)) };
        }
        len = end + 1;
    }
    Split { len, error: None }
}

/// One frame in a chunk of complete frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The type octet: see [`FrameKind::from_octet`].
    pub kind: u8,
    /// The channel, 0 for the connection itself.
    pub channel: u16,
    /// The payload, without header and end octet.
    pub payload: &'a [u8],
    /// Where the payload starts in the chunk: `chunk.slice(payload_start..payload_start + payload.len())` shares it.
    pub payload_start: usize,
}

/// The frames of a chunk that [`split`] found sound.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    chunk: &'a [u8],
    position: usize,
}

impl<'a> Frames<'a> {
    /// Walks over `chunk`; stops where it holds no further complete frame.
    pub fn new(chunk: &'a [u8]) -> Self {
        Self { chunk, position: 0 }
    }

    /// How many octets of the chunk the frames so far took.
    pub fn taken(&self) -> usize {
        self.position
    }

    /// Whether that was all of the chunk.
    pub fn is_through(&self) -> bool {
        self.position == self.chunk.len()
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    #[inline]
    fn next(&mut self) -> Option<Frame<'a>> {
        let header = FrameHeader::peek(&self.chunk[self.position..])?;
        let payload_start = self.position + HEADER_SIZE;
        let end = payload_start + header.size as usize;
        let payload = self.chunk.get(payload_start..end)?;
        if end == self.chunk.len() {
            return None;
        }
        self.position = end + 1;
        Some(Frame { kind: header.kind, channel: header.channel, payload, payload_start })
    }
}

/// Whether there are frames of this type and size.
#[inline]
fn is_known(header: &FrameHeader) -> bool {
    match FrameKind::from_octet(header.kind) {
        Some(FrameKind::Method) => header.size >= METHOD_SIZE_MIN,
        Some(FrameKind::Header) => header.size >= CONTENT_HEADER_SIZE_MIN,
        Some(FrameKind::Body) => true,
        Some(FrameKind::Heartbeat) => header.size == 0,
        None => false,
    }
}

#[cold]
fn too_large(header: &FrameHeader, frame_max: u32) -> DecodeError {
    let limit = frame_max.saturating_sub(FRAME_OVERHEAD as u32);
    frame_error(header, &[], &format!("{{frame_too_large,{},{limit}}}", header.size))
}

#[cold]
fn unsound(header: &FrameHeader, payload: &[u8], end: u8) -> DecodeError {
    if end == FRAME_END {
        frame_error(header, payload, "unknown_frame")
    } else {
        frame_error(header, payload, &format!("{{invalid_frame_end_marker,{end}}}"))
    }
}

fn frame_error(header: &FrameHeader, payload: &[u8], problem: &str) -> DecodeError {
    let frame = described(header.kind, payload);
    DecodeError::new(ReplyCode::FrameError, format!("{frame}: {problem}"))
}

/// A frame in a reply text, as RabbitMQ shows it: `type 1, all octets = <<0,60,0,20>>`.
pub(crate) fn described(kind: u8, payload: &[u8]) -> String {
    let start = printed(&payload[..payload.len().min(OCTETS_SHOWN_MAX)]);
    let extent = if payload.len() > OCTETS_SHOWN_MAX { "first 16" } else { "all" };
    format!("type {kind}, {extent} octets = {start}")
}

/// Bytes as Erlang shows a binary to people: `<<"hello\n">>` if all of it is printable, else `<<0,60>>`.
fn printed(bytes: &[u8]) -> String {
    if bytes.is_empty() || !bytes.iter().all(|byte| matches!(byte, 8..=13 | 27 | 32..=126 | 160..)) {
        return octets(bytes, OCTETS_SHOWN_MAX);
    }
    let mut text = String::from("<<\"");
    for &byte in bytes {
        match byte {
            8 => text.push_str("\\b"),
            11 => text.push_str("\\v"),
            12 => text.push_str("\\f"),
            27 => text.push_str("\\e"),
            b'\n' | b'\r' | b'\t' | b'"' | b'\\' => text.extend(byte.escape_ascii().map(char::from)),
            _ => text.push(byte.into()),
        }
    }
    text + "\">>"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FRAME_MAX: u32 = 131_072;

    fn frame(kind: u8, channel: u16, payload: &[u8], end: u8) -> Vec<u8> {
        let size = payload.len() as u32;
        [&[kind], &channel.to_be_bytes()[..], &size.to_be_bytes(), payload, &[end]].concat()
    }

    fn refusal(buf: &[u8]) -> String {
        split(buf, FRAME_MAX).error.unwrap().to_string()
    }

    #[test]
    fn whole_frames_are_found_and_the_rest_is_left() {
        let first = frame(1, 1, b"\0\x3c\0\x28abc", FRAME_END);
        let second = frame(3, 258, b"", FRAME_END);
        let mut buf = [&first[..], &second, &first].concat();
        let whole = buf.len();
        buf.extend_from_slice(&second[..6]);
        for end in whole..buf.len() {
            assert_eq!(split(&buf[..end], FRAME_MAX), Split { len: whole, error: None });
        }
        let frames: Vec<_> = Frames::new(&buf[..whole]).collect();
        assert_eq!(frames.len(), 3);
        assert_eq!((frames[0].kind, frames[0].channel, frames[0].payload), (1, 1, &b"\0\x3c\0\x28abc"[..]));
        assert_eq!((frames[1].kind, frames[1].channel, frames[1].payload), (3, 258, &b""[..]));
        assert_eq!(&buf[frames[2].payload_start..][..7], b"\0\x3c\0\x28abc");
    }

    /// A1.3, texts observed.
    #[test]
    fn a_bad_end_octet_is_named_with_the_payload() {
        let error = |kind, payload: &[u8], end| refusal(&frame(kind, 1, payload, end));
        assert_eq!(
            error(1, b"\0\x3c\0\x14", 0),
            "FRAME_ERROR - type 1, all octets = <<0,60,0,20>>: {invalid_frame_end_marker,0}"
        );
        assert_eq!(
            error(3, b"a 16 octet body.", 65),
            "FRAME_ERROR - type 3, all octets = <<\"a 16 octet body.\">>: {invalid_frame_end_marker,65}"
        );
        assert_eq!(
            error(3, b"a 17 octet body...", 0),
            "FRAME_ERROR - type 3, first 16 octets = <<\"a 17 octet body.\">>: {invalid_frame_end_marker,0}"
        );
        assert_eq!(
            error(3, b"q\"\\\n", 0),
            "FRAME_ERROR - type 3, all octets = <<\"q\\\"\\\\\\n\">>: {invalid_frame_end_marker,0}"
        );
        assert_eq!(
            error(8, b"", 65),
            "FRAME_ERROR - type 8, all octets = <<>>: {invalid_frame_end_marker,65}"
        );
    }

    /// A1.3 and A1.4, texts observed.
    #[test]
    fn a_frame_too_large_is_refused_before_its_payload_arrives() {
        let header = |size: u32| [&[3, 0, 1], &size.to_be_bytes()[..]].concat();
        assert_eq!(split(&header(131_072), FRAME_MAX), Split { len: 0, error: None });
        assert_eq!(
            refusal(&header(131_073)),
            "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,131073,131064}"
        );
        assert_eq!(
            refusal(&header(u32::MAX)),
            "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,4294967295,131064}"
        );
    }

    #[test]
    fn an_unknown_frame_is_refused() {
        for (kind, payload, shown) in [
            (4, &b"hello"[..], "<<\"hello\">>"),
            (0, b"", "<<>>"),
            (255, b"", "<<>>"),
            (8, b"abc", "<<\"abc\">>"),
            (1, b"\0\x3c\0", "<<0,60,0>>"),
            (2, b"\0\x3c\0\0\0\0\0\0\0\0\0", "<<0,60,0,0,0,0,0,0,0,0,0>>"),
        ] {
            assert_eq!(
                refusal(&frame(kind, 1, payload, FRAME_END)),
                format!("FRAME_ERROR - type {kind}, all octets = {shown}: unknown_frame")
            );
        }
    }

    #[test]
    fn frames_in_front_of_a_bad_one_are_still_there() {
        let good = frame(3, 1, b"body", FRAME_END);
        let split = split(&[&good[..], &frame(3, 1, b"body", 1)].concat(), FRAME_MAX);
        assert_eq!(split.len, good.len());
        assert!(split.error.is_some());
    }

    proptest! {
        /// However the stream is cut into reads, the same frames come out.
        #[test]
        fn reads_may_end_anywhere(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), cut in any::<prop::sample::Index>()) {
            let stream: Vec<u8> = bodies.iter().flat_map(|body| frame(3, 1, body, FRAME_END)).collect();
            let first = split(&stream[..cut.index(stream.len())], FRAME_MAX).len;
            let second = split(&stream[first..], FRAME_MAX).len;
            prop_assert_eq!(first + second, stream.len());
            let found = Frames::new(&stream[..first]).chain(Frames::new(&stream[first..]));
            prop_assert!(found.map(|frame| frame.payload).eq(bodies.iter().map(Vec::as_slice)));
        }

        #[test]
        fn any_bytes_are_answered(buf: Vec<u8>) {
            let Split { len, .. } = split(&buf, FRAME_MAX);
            prop_assert_eq!(Frames::new(&buf[..len]).map(|frame| frame.payload.len() + FRAME_OVERHEAD).sum::<usize>(), len);
        }
    }
}
