//! A message: what was published, immutable and shared by every queue that holds it.

use std::sync::Arc;

use bytes::Bytes;

use crate::amqp::Body;

/// A published message; a clone is the same message. Its properties and body stay as they came over the wire, never
/// parsed whole and never encoded again.
///
/// Everything but a large body lies in one allocation, which starts with eight octets of its own:
///
/// ```text
/// 0               1               2            3         4                8
/// | exchange len  | routing key   | flags      | priority | properties len | exchange, routing key, property
/// |               | len           |            |          | little endian  | flags and list, small body
/// ```
///
/// Flag 1 is for persistent ones, flag 2 for those that say a priority (before format 2, those above 0 only), flag 4 for
/// those with a BCC header, flag 8 for dead letters.
///
/// The exchange's name is a copy because a count of its users would be fought over by every thread.
#[derive(Clone, Debug)]
pub struct Message {
    octets: Arc<[u8]>,
    large_body: Option<Arc<Bytes>>,
}

/// A body on its way into a message.
#[derive(Debug)]
pub enum PublishedBody<'a> {
    /// To be copied into exact memory, so that a small message never pins a receive buffer.
    Small(&'a [u8]),
    /// To be kept as it is.
    Large(Bytes),
}

const PERSISTENT: u8 = 1;
const HAS_PRIORITY: u8 = 2;
const HAS_BCC: u8 = 4;
const HAS_DIED: u8 = 8;
/// What comes in front of the names.
const HEADER_LEN: usize = 8;
/// Bodies up to this size lie with the rest of the message.
pub const SMALL_BODY_BYTES_MAX: usize = 4096;

impl Message {
    /// A message from the parts of a publish: names of at most 255 octets, `properties` the flags and the list
    /// verbatim. `scratch` is a buffer to put it together in, whose content does not matter.
    #[inline(always)]
    pub fn new(
        names: (&str, &str),
        properties: &[u8],
        body: PublishedBody<'_>,
        persistent: bool,
        priority: Option<u8>,
        scratch: &mut Vec<u8>,
    ) -> Self {
        let (exchange, routing_key) = names;
        let short = |len| u8::try_from(len).expect("invariant: a short string");
        let properties_len = u32::try_from(properties.len()).expect("invariant: less than a frame");
        scratch.clear();
        scratch.extend_from_slice(&[
            short(exchange.len()),
            short(routing_key.len()),
            (u8::from(persistent) * PERSISTENT) | (u8::from(priority.is_some()) * HAS_PRIORITY),
            priority.unwrap_or(0),
        ]);
        scratch.extend_from_slice(&properties_len.to_le_bytes());
        scratch.extend_from_slice(exchange.as_bytes());
        scratch.extend_from_slice(routing_key.as_bytes());
        scratch.extend_from_slice(properties);
        let large_body = match body {
            PublishedBody::Small(body) => {
                scratch.extend_from_slice(body);
                None
            }
            PublishedBody::Large(body) => Some(Arc::new(body)),
        };
        Self { octets: Arc::from(scratch.as_slice()), large_body }
    }

    /// The same message with other properties.
    pub fn with_properties(&self, properties: &[u8]) -> Self {
        let body = match self.body() {
            Body::Small(body) => PublishedBody::Small(body),
            Body::Large(body) => PublishedBody::Large(body.clone()),
        };
        let text = |octets| std::str::from_utf8(octets).expect("invariant: names are UTF-8");
        let names = (text(self.exchange()), text(self.routing_key()));
        let (persistent, priority) = (self.is_persistent(), self.priority());
        let same = Self::new(names, properties, body, persistent, priority, &mut Vec::new());
        same.with_flag(self.octets[2] & (HAS_BCC | HAS_DIED))
    }

    /// The same message, whose BCC header no consumer gets to see. It was just made.
    pub fn with_bcc(self) -> Self {
        self.with_flag(HAS_BCC)
    }

    /// The same message, whose `x-death` header is the broker's. It was just made.
    pub fn with_death(self) -> Self {
        self.with_flag(HAS_DIED)
    }

    fn with_flag(mut self, flag: u8) -> Self {
        if let Some(octets) = Arc::get_mut(&mut self.octets) {
            octets[2] |= flag;
        }
        self
    }

    /// Whether its `x-death` header is the broker's, and no client's.
    pub fn has_died(&self) -> bool {
        self.octets[2] & HAS_DIED != 0
    }

    /// Whether it has a BCC header, which no consumer gets to see.
    #[inline]
    pub fn has_bcc(&self) -> bool {
        self.octets[2] & HAS_BCC != 0
    }

    /// The same message from what [`Message::octets`] gave and the large body behind it; `None` if they can't be one.
    pub fn from_octets(octets: &[u8]) -> Option<Self> {
        let header = octets.get(..HEADER_LEN)?;
        let names_len = usize::from(header[0]) + usize::from(header[1]);
        let properties_len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let body_start = (HEADER_LEN + names_len).checked_add(properties_len)?;
        let body = octets.get(body_start..)?;
        std::str::from_utf8(&octets[HEADER_LEN..HEADER_LEN + names_len]).ok()?;
        if body.len() <= SMALL_BODY_BYTES_MAX {
            return Some(Self { octets: Arc::from(octets), large_body: None });
        }
        let large_body = Some(Arc::new(Bytes::copy_from_slice(body)));
        Some(Self { octets: Arc::from(&octets[..body_start]), large_body })
    }

    /// Everything but a large body, in the form that the type's text shows. It is also the form in the log: it may not
    /// change.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// The priority of the message that [`Message::octets`] gave these octets of, if it says one.
    pub fn priority_in(octets: &[u8]) -> Option<u8> {
        let header = octets.get(..HEADER_LEN)?;
        (header[2] & HAS_PRIORITY != 0 || header[3] > 0).then_some(header[3])
    }

    /// The length of the body of the message that [`Message::octets`] gave these octets of, and its body behind them.
    pub fn body_len_in(octets: &[u8]) -> Option<u64> {
        let header = octets.get(..HEADER_LEN)?;
        let properties_len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let before = HEADER_LEN + usize::from(header[0]) + usize::from(header[1]) + properties_len;
        octets.len().checked_sub(before).map(|len| len as u64)
    }

    /// The body, if it is large.
    pub fn large_body(&self) -> Option<&Bytes> {
        self.large_body.as_deref()
    }

    /// The exchange it was published to.
    pub fn exchange(&self) -> &[u8] {
        &self.octets[HEADER_LEN..self.routing_key_start()]
    }

    /// The routing key it was published with.
    pub fn routing_key(&self) -> &[u8] {
        &self.octets[self.routing_key_start()..self.properties_start()]
    }

    /// The same as text, which it came as.
    pub fn routing_key_str(&self) -> &str {
        std::str::from_utf8(self.routing_key()).expect("invariant: it came as a str")
    }

    /// The property flags and list as they came.
    pub fn properties(&self) -> &[u8] {
        &self.octets[self.properties_start()..self.body_start()]
    }

    /// The body.
    pub fn body(&self) -> Body<'_> {
        match &self.large_body {
            Some(body) => Body::Large(body),
            None => Body::Small(&self.octets[self.body_start()..]),
        }
    }

    /// Whether it was published with delivery mode 2.
    pub fn is_persistent(&self) -> bool {
        self.octets[2] & PERSISTENT != 0
    }

    /// The priority property.
    #[inline]
    pub fn priority(&self) -> Option<u8> {
        Self::priority_in(&self.octets)
    }

    /// Octets that the message holds in memory, without the allocator's overhead.
    pub fn memory_bytes(&self) -> usize {
        let counts = 2 * size_of::<usize>();
        counts
            + self.octets.len()
            + self.large_body.as_ref().map_or(0, |body| size_of::<Bytes>() + body.len())
    }

    fn routing_key_start(&self) -> usize {
        HEADER_LEN + usize::from(self.octets[0])
    }

    fn properties_start(&self) -> usize {
        self.routing_key_start() + usize::from(self.octets[1])
    }

    fn body_start(&self) -> usize {
        let len = [self.octets[4], self.octets[5], self.octets[6], self.octets[7]];
        self.properties_start() + u32::from_le_bytes(len) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_gives_back_its_parts() {
        for body in [PublishedBody::Small(b"body"), PublishedBody::Large(Bytes::from_static(b"body"))] {
            let mut scratch = vec![7; 100];
            let message = Message::new(("x", "key"), &[0x10, 0, 2], body, true, Some(3), &mut scratch);
            assert_eq!(message.exchange(), b"x");
            assert_eq!(message.routing_key(), b"key");
            assert_eq!(message.properties(), [0x10, 0, 2]);
            assert_eq!(message.body().as_slice(), b"body");
            assert!(message.is_persistent());
            assert_eq!(message.priority(), Some(3));
        }
    }

    #[test]
    fn an_empty_message_is_empty() {
        let body = PublishedBody::Small(b"");
        let message = Message::new(("", ""), &[0, 0], body, false, None, &mut Vec::new());
        assert!(message.body().as_slice().is_empty());
        assert!(message.exchange().is_empty() && message.routing_key().is_empty());
        assert!(!message.is_persistent());
    }
}
