//! Records: what happened to messages, as octets.
//!
//! All numbers are little endian. A record is a header of 16 octets, its payload, and zeros up to a multiple of 8:
//!
//! ```text
//! 0       1       2          4         8        12         16
//! | kind  | flags | zero u16 | len u32 | crc u32 | zero u32 | payload of len octets
//! ```
//!
//! `crc` is the CRC-32 of octets 0 to 8, 12 to 16 and the payload: a record that is read by itself is checked by itself.
//! Payloads:
//!
//! ```text
//!  1 publish    count u32, target * count, message   target = queue u64, sequence * 2 + survives u64
//!  2 settle     queue u64, body_bytes u64, sequences
//!  3 return     queue u64, sequences
//!  4 delivered  queue u64, up_to u64
//!  5 purge      queue u64, before u64, unsettled_body_bytes u64, sequences
//!  6 definition see `storage/definitions.rs`
//!  7 next id    id u64: every queue so far has a lower one
//!  8 publish    as 1, if any target has a deadline    target = queue u64, sequence * 2 + survives u64, deadline_ms u64
//!  9 hold       queue u64, until_ms u64, death u8, sequences
//! 10 seen       cache u64, key u128, until_ms u64, keep u32
//! ```
//!
//! `message` is a [`Message`]'s own octets, its body behind them. `sequences` is a list of runs in ascending order: varints
//! of the distance from the end of the run before (from 0 for the first) and of the length. A varint has seven bits in
//! each octet, lowest first, and the highest bit set in all but the last. Flag 1 of a publish says that the cleaner
//! has moved it: the targets have left the place where they were. Times are milliseconds since 1970; a `deadline_ms` of
//! 2^64 - 1 is none. A `keep` of 0 empties the cache. Kinds from 8 on are there since format 2.

use bytes::Bytes;

use super::{index::Hold, seen::SeenKey};
use crate::broker::{
    NEVER,
    journal::{Fact, Target},
    message::Message,
    queue::QueueId,
};

/// The header in front of the payload.
pub(super) const RECORD_HEADER_LEN: usize = 16;
/// Records begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;
/// The flag of a publish that the cleaner has moved.
const MOVED: u8 = 1;
/// A body up to this length is copied next to its record; a longer one is written from where it is.
const COPIED_BODY_LEN_MAX: usize = 32 << 10;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A message and the queues that it entered.
    Publish = 1,
    /// Messages left a queue.
    Settle = 2,
    /// Messages came back to a queue.
    Return = 3,
    /// Messages were delivered.
    Delivered = 4,
    /// A queue was emptied.
    Purge = 5,
    /// Something was defined.
    Definition = 6,
    /// Which identities were given to queues.
    NextId = 7,
    /// A message and the queues that it entered, some of which it leaves by itself.
    PublishUntil = 8,
    /// Messages are not ready.
    Hold = 9,
    /// A key by which duplicates are known.
    Seen = 10,
}

impl Kind {
    fn from_octet(octet: u8) -> Option<Self> {
        const KINDS: [Kind; 10] = [
            Kind::Publish,
            Kind::Settle,
            Kind::Return,
            Kind::Delivered,
            Kind::Purge,
            Kind::Definition,
            Kind::NextId,
            Kind::PublishUntil,
            Kind::Hold,
            Kind::Seen,
        ];
        KINDS.into_iter().find(|kind| *kind as u8 == octet)
    }
}

/// A record whose checksum is right, as it lies in a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawRecord<'a> {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) crc: u32,
    pub(super) payload: &'a [u8],
}

/// Why octets are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    /// They end before it does, or there is no such kind.
    #[error("not a record")]
    Malformed,
    /// The checksum is another one.
    #[error("the checksum is wrong")]
    Checksum,
}

impl<'a> RawRecord<'a> {
    /// Reads the record at the start of `octets` and says how many of them it takes.
    pub(super) fn read(octets: &'a [u8]) -> Result<(Self, usize), RecordError> {
        let header = octets.get(..RECORD_HEADER_LEN).ok_or(RecordError::Malformed)?;
        let kind = Kind::from_octet(header[0]).ok_or(RecordError::Malformed)?;
        let len = u32_at(header, 4) as usize;
        let end = RECORD_HEADER_LEN.checked_add(len).ok_or(RecordError::Malformed)?;
        let payload = octets.get(RECORD_HEADER_LEN..end).ok_or(RecordError::Malformed)?;
        let crc = u32_at(header, 8);
        if checksum(header, payload, &[]) != crc {
            return Err(RecordError::Checksum);
        }
        Ok((Self { kind, flags: header[1], crc, payload }, padded(end).min(octets.len())))
    }

    /// How many octets the record at the start of `octets` says it takes, whether it is sound or not.
    pub(super) fn claimed_len(octets: &[u8]) -> Option<usize> {
        let header = octets.get(..RECORD_HEADER_LEN)?;
        Kind::from_octet(header[0])?;
        Some(padded(RECORD_HEADER_LEN + u32_at(header, 4) as usize))
    }
}

/// A record taken apart.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Record<'a> {
    /// A message entered queues.
    Publish { targets: Vec<Target>, moved: bool, message: &'a [u8] },
    /// Messages left a queue.
    Settle { queue: QueueId, body_bytes: u64, sequences: Vec<Run> },
    /// Messages came back to a queue.
    Return { queue: QueueId, sequences: Vec<Run> },
    /// Messages are not ready for some time.
    Hold { queue: QueueId, hold: Hold, sequences: Vec<Run> },
    /// A key by which duplicates are known.
    Seen { cache: QueueId, seen: SeenKey },
    /// Messages up to a sequence number were delivered.
    Delivered { queue: QueueId, up_to: u64 },
    /// A queue was emptied.
    Purge { queue: QueueId, before: u64, unsettled_body_bytes: u64, unsettled: Vec<Run> },
    /// Something was defined, see `storage/definitions.rs`.
    Definition(&'a [u8]),
    /// Every queue so far has a lower identity.
    NextId(u64),
}

/// Sequence numbers in a row, the last one included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Run {
    /// How many.
    pub(super) fn len(self) -> u64 {
        self.last - self.first + 1
    }

    /// Each of them.
    pub(super) fn sequences(self) -> impl Iterator<Item = u64> {
        self.first..=self.last
    }
}

impl<'a> Record<'a> {
    /// Takes a sound record apart; `None` if its payload is not what its kind says.
    pub(super) fn decode(raw: &RawRecord<'a>) -> Option<Self> {
        let mut input = Input(raw.payload);
        let record = match raw.kind {
            Kind::Publish | Kind::PublishUntil => Record::Publish {
                targets: input.targets(raw.kind)?,
                moved: raw.flags & MOVED != 0,
                message: std::mem::take(&mut input.0),
            },
            Kind::Settle => Record::Settle {
                queue: QueueId(input.u64()?),
                body_bytes: input.u64()?,
                sequences: input.runs()?,
            },
            Kind::Return => Record::Return { queue: QueueId(input.u64()?), sequences: input.runs()? },
            Kind::Delivered => Record::Delivered { queue: QueueId(input.u64()?), up_to: input.u64()? },
            Kind::Purge => Record::Purge {
                queue: QueueId(input.u64()?),
                before: input.u64()?,
                unsettled_body_bytes: input.u64()?,
                unsettled: input.runs()?,
            },
            Kind::Definition => Record::Definition(std::mem::take(&mut input.0)),
            Kind::NextId => Record::NextId(input.u64()?),
            Kind::Hold => Record::Hold {
                queue: QueueId(input.u64()?),
                hold: Hold { until_ms: input.u64()?, death: input.u8()? },
                sequences: input.runs()?,
            },
            Kind::Seen => Record::Seen {
                cache: QueueId(input.u64()?),
                seen: SeenKey { key: input.u128()?, until_ms: input.u64()?, keep: input.u32()? },
            },
        };
        input.0.is_empty().then_some(record)
    }
}

/// The targets of a publish whose payload may be damaged behind them, from the record's octets.
pub(super) fn readable_targets(octets: &[u8]) -> Vec<Target> {
    let kind = octets.first().and_then(|kind| Kind::from_octet(*kind)).unwrap_or(Kind::Publish);
    let payload = octets.get(RECORD_HEADER_LEN..).unwrap_or_default();
    Input(payload).targets(kind).unwrap_or_default()
}

/// Records on their way into a batch: octets, and long bodies that are not copied between them.
#[derive(Debug)]
pub(super) struct Records {
    /// Room for the batch's header, then the records.
    octets: Vec<u8>,
    /// Where in `octets` a body belongs, in order.
    bodies: Vec<(usize, Bytes)>,
    bodies_len: u64,
    pub(super) count: u32,
    /// The checksums of the records one after the other, which the batch's covers.
    pub(super) checksums: Vec<u8>,
}

/// Octets that an emptied buffer keeps room for.
const OCTETS_KEPT: usize = 4 << 20;
/// What a batch has in front of its records.
pub(super) const BATCH_HEADER_LEN: usize = 64;

impl Default for Records {
    fn default() -> Self {
        Self {
            octets: vec![0; BATCH_HEADER_LEN],
            bodies: Vec::new(),
            bodies_len: 0,
            count: 0,
            checksums: Vec::new(),
        }
    }
}

impl Records {
    /// How many octets they are.
    pub(super) fn len(&self) -> u64 {
        (self.octets.len() - BATCH_HEADER_LEN) as u64 + self.bodies_len
    }

    /// Puts the batch's header in front of them.
    pub(super) fn set_header(&mut self, header: &[u8; BATCH_HEADER_LEN]) {
        self.octets[..BATCH_HEADER_LEN].copy_from_slice(header);
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Leaves no records.
    pub(super) fn clear(&mut self) {
        self.octets.truncate(BATCH_HEADER_LEN);
        self.octets.shrink_to(OCTETS_KEPT);
        self.bodies.clear();
        self.bodies_len = 0;
        self.count = 0;
        self.checksums.clear();
        self.checksums.shrink_to(OCTETS_KEPT);
    }

    /// All octets in order, those of the batch's header first, in as few pieces as there are.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.bodies.iter().map(|(end, _)| *end).chain([self.octets.len()]);
        let starts = [0].into_iter().chain(self.bodies.iter().map(|(end, _)| *end));
        let copied = starts.zip(ends).map(|(start, end)| &self.octets[start..end]);
        let bodies = self.bodies.iter().map(|(_, body)| body.as_ref()).chain([&[][..]]);
        copied.zip(bodies).flat_map(|(copied, body)| [copied, body]).filter(|piece| !piece.is_empty())
    }

    /// Adds a message for these queues and says where it lies and how long it is.
    pub(super) fn publish(&mut self, message: &Message, targets: &[Target]) -> (u64, u32) {
        let (kind, large_body) = (publish_kind(targets), message.large_body());
        self.record(kind, 0, large_body, |octets| {
            put_targets(octets, kind, targets);
            octets.extend_from_slice(message.octets());
        })
    }

    /// Adds a message that the cleaner has taken from elsewhere.
    pub(super) fn moved(&mut self, message: &[u8], targets: &[Target]) -> (u64, u32) {
        let kind = publish_kind(targets);
        self.record(kind, MOVED, None, |octets| {
            put_targets(octets, kind, targets);
            octets.extend_from_slice(message);
        })
    }

    /// Adds the record of a definition.
    pub(super) fn definition(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.record(Kind::Definition, 0, None, encode);
    }

    /// Adds what identities were given to queues.
    pub(super) fn next_id(&mut self, id: u64) {
        self.record(Kind::NextId, 0, None, |octets| put(octets, id));
    }

    /// Adds any other fact about messages.
    pub(super) fn fact(&mut self, fact: &Fact) {
        match fact {
            Fact::Settle { queue, sequences, body_bytes } => {
                self.record(Kind::Settle, 0, None, |octets| {
                    put(octets, queue.0);
                    put(octets, *body_bytes);
                    put_runs(octets, &runs(sequences));
                });
            }
            Fact::Return { queue, sequences } => {
                self.record(Kind::Return, 0, None, |octets| {
                    put(octets, queue.0);
                    put_runs(octets, &runs(sequences));
                });
            }
            Fact::Hold { queue, sequences, until_ms, death } => {
                self.record(Kind::Hold, 0, None, |octets| {
                    put(octets, queue.0);
                    put(octets, *until_ms);
                    octets.push(*death);
                    put_runs(octets, &runs(sequences));
                });
            }
            Fact::Seen { cache, key, until_ms, keep } => {
                self.record(Kind::Seen, 0, None, |octets| {
                    put(octets, cache.0);
                    octets.extend_from_slice(&key.to_le_bytes());
                    put(octets, *until_ms);
                    octets.extend_from_slice(&keep.to_le_bytes());
                });
            }
            Fact::Delivered { queue, up_to } => {
                self.record(Kind::Delivered, 0, None, |octets| {
                    put(octets, queue.0);
                    put(octets, *up_to);
                });
            }
            Fact::Purge { queue, before, unsettled, unsettled_body_bytes } => {
                self.record(Kind::Purge, 0, None, |octets| {
                    put(octets, queue.0);
                    put(octets, *before);
                    put(octets, *unsettled_body_bytes);
                    put_runs(octets, &runs(unsettled));
                });
            }
            // A queue without a definition is forgotten by a restart anyway; publishes and definitions have their own.
            Fact::Publish { .. } | Fact::Forget { .. } | Fact::Define(_) => {}
        }
    }

    fn record(
        &mut self,
        kind: Kind,
        flags: u8,
        large_body: Option<&Bytes>,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> (u64, u32) {
        let start = self.octets.len();
        let place = self.len();
        self.octets.extend_from_slice(&[0; RECORD_HEADER_LEN]);
        encode(&mut self.octets);
        let apart = large_body.filter(|body| body.len() > COPIED_BODY_LEN_MAX);
        if apart.is_none()
            && let Some(body) = large_body
        {
            self.octets.extend_from_slice(body);
        }
        let body = apart.map_or(&[][..], |body| body.as_ref());
        let payload_len = self.octets.len() - start - RECORD_HEADER_LEN + body.len();
        let len = u32::try_from(payload_len).expect("invariant: a message is less than 1 GiB");
        let (header, payload) = self.octets[start..].split_at_mut(RECORD_HEADER_LEN);
        header[0] = kind as u8;
        header[1] = flags;
        header[4..8].copy_from_slice(&len.to_le_bytes());
        let crc = checksum(header, payload, body).to_le_bytes();
        header[8..12].copy_from_slice(&crc);
        self.checksums.extend_from_slice(&crc);
        if let Some(body) = apart {
            self.bodies.push((self.octets.len(), body.clone()));
            self.bodies_len += body.len() as u64;
        }
        let end = RECORD_HEADER_LEN + payload_len;
        self.octets.resize(self.octets.len() + padded(end) - end, 0);
        self.count += 1;
        (place, u32::try_from(end).expect("invariant: a message is less than 1 GiB"))
    }
}

/// The sequence numbers as runs in ascending order.
pub(super) fn runs(sequences: &[u64]) -> Vec<Run> {
    let sorted;
    let sequences = if sequences.is_sorted() {
        sequences
    } else {
        let mut copy = sequences.to_vec();
        copy.sort_unstable();
        sorted = copy;
        &sorted
    };
    let mut runs: Vec<Run> = Vec::new();
    for sequence in sequences.iter().copied() {
        match runs.last_mut() {
            Some(run) if sequence == run.last + 1 => run.last = sequence,
            Some(run) if sequence == run.last => {}
            _ => runs.push(Run { first: sequence, last: sequence }),
        }
    }
    runs
}

fn checksum(header: &[u8], payload: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..8]);
    hasher.update(&header[12..RECORD_HEADER_LEN]);
    hasher.update(payload);
    hasher.update(body);
    hasher.finalize()
}

/// The next multiple of [`ALIGNMENT`].
pub(super) fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT)
}

fn put(octets: &mut Vec<u8>, number: u64) {
    octets.extend_from_slice(&number.to_le_bytes());
}

/// A publish without deadlines pays nothing for those of others.
fn publish_kind(targets: &[Target]) -> Kind {
    let has_deadline = targets.iter().any(|target| target.deadline_ms != NEVER);
    if has_deadline { Kind::PublishUntil } else { Kind::Publish }
}

/// How many octets a target takes in a publish of that kind.
fn target_len(kind: Kind) -> usize {
    if kind == Kind::PublishUntil { 24 } else { 16 }
}

fn put_targets(octets: &mut Vec<u8>, kind: Kind, targets: &[Target]) {
    let count = u32::try_from(targets.len()).expect("invariant: fewer than 2^32 queues");
    octets.extend_from_slice(&count.to_le_bytes());
    for target in targets {
        put(octets, target.queue.0);
        put(octets, target.sequence << 1 | u64::from(target.survives));
        if kind == Kind::PublishUntil {
            put(octets, target.deadline_ms);
        }
    }
}

fn put_runs(octets: &mut Vec<u8>, runs: &[Run]) {
    let mut end = 0;
    for run in runs {
        put_varint(octets, run.first - end);
        put_varint(octets, run.len());
        end = run.last;
    }
}

fn put_varint(octets: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        octets.push(number as u8 | 0x80);
        number >>= 7;
    }
    octets.push(number as u8);
}

/// The number at that place, which must be there.
pub(super) fn u32_at(octets: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(octets[at..at + 4].try_into().expect("invariant: four octets"))
}

/// The number at that place, which must be there.
pub(super) fn u64_at(octets: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(octets[at..at + 8].try_into().expect("invariant: eight octets"))
}

/// What is left to read.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|octets| octets[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|octets| u32_at(octets, 0))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|octets| u64_at(octets, 0))
    }

    pub(super) fn u128(&mut self) -> Option<u128> {
        let (low, high) = (self.u64()?, self.u64()?);
        Some(u128::from(high) << 64 | u128::from(low))
    }

    fn targets(&mut self, kind: Kind) -> Option<Vec<Target>> {
        let (count, len) = (self.u32()? as usize, target_len(kind));
        let octets = self.take(count.checked_mul(len)?)?;
        let target = |octets: &[u8]| {
            let sequence = u64_at(octets, 8);
            Target {
                queue: QueueId(u64_at(octets, 0)),
                sequence: sequence >> 1,
                survives: sequence & 1 == 1,
                deadline_ms: if kind == Kind::PublishUntil { u64_at(octets, 16) } else { NEVER },
            }
        };
        Some(octets.chunks_exact(len).map(target).collect())
    }

    /// All that is left, as runs.
    fn runs(&mut self) -> Option<Vec<Run>> {
        let mut runs = Vec::new();
        let mut end: u64 = 0;
        while !self.0.is_empty() {
            let first = end.checked_add(self.varint()?)?;
            let last = first.checked_add(self.varint()?.checked_sub(1)?)?;
            runs.push(Run { first, last });
            end = last;
        }
        Some(runs)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let octet = self.u8()?;
            number |= u64::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::broker::message::PublishedBody;

    fn written(records: &Records) -> Vec<u8> {
        records.pieces().collect::<Vec<_>>().concat().split_off(BATCH_HEADER_LEN)
    }

    fn message(body: PublishedBody<'_>) -> Message {
        Message::new(("x", "key"), &[0x10, 0, 2], body, true, Some(3), &mut Vec::new())
    }

    const TARGETS: [Target; 2] = [
        Target { queue: QueueId(7), sequence: 1 << 40, survives: true, deadline_ms: NEVER },
        Target { queue: QueueId(8), sequence: 3, survives: false, deadline_ms: 1 << 41 },
    ];

    #[test]
    fn a_message_comes_back_whatever_its_size() {
        for len in [0, 1, 4096, COPIED_BODY_LEN_MAX, COPIED_BODY_LEN_MAX + 1, 1 << 20] {
            let body = vec![7; len];
            for published in
                [PublishedBody::Small(&body), PublishedBody::Large(Bytes::copy_from_slice(&body))]
            {
                let message = message(published);
                let mut records = Records::default();
                assert_eq!(records.publish(&message, &TARGETS).0, 0);
                let second = records.publish(&message, &TARGETS[..1]).0 as usize;
                let octets = written(&records);
                assert_eq!(octets.len() as u64, records.len());
                for (start, targets, kind) in
                    [(0, &TARGETS[..], Kind::PublishUntil), (second, &TARGETS[..1], Kind::Publish)]
                {
                    let (raw, _) = RawRecord::read(&octets[start..]).expect("sound");
                    assert_eq!((raw.kind, readable_targets(&octets[start..])), (kind, targets.to_vec()));
                    let Some(Record::Publish { targets: read, moved: false, message: octets }) =
                        Record::decode(&raw)
                    else {
                        panic!("a publish")
                    };
                    assert_eq!(read, targets);
                    let back = Message::from_octets(octets).expect("a message");
                    assert_eq!(back.body().as_slice(), body);
                    assert_eq!(back.routing_key(), b"key");
                    assert_eq!(back.properties(), [0x10, 0, 2]);
                    assert_eq!((back.is_persistent(), back.priority()), (true, Some(3)));
                }
            }
        }
    }

    #[test]
    fn facts_come_back() {
        let queue = QueueId(5);
        let facts = [
            Fact::Settle { queue, sequences: vec![9, 1, 2, 3, 1 << 50], body_bytes: 77 },
            Fact::Return { queue, sequences: vec![4] },
            Fact::Hold { queue, sequences: vec![7, 6], until_ms: 1 << 41, death: 2 },
            Fact::Seen { cache: QueueId(1 << 63), key: 3 << 100 | 5, until_ms: 1 << 41, keep: 9 },
            Fact::Delivered { queue, up_to: 12 },
            Fact::Purge { queue, before: 40, unsettled: vec![], unsettled_body_bytes: 3 },
        ];
        let run = |first, last| Run { first, last };
        let expected = [
            Record::Settle {
                queue,
                body_bytes: 77,
                sequences: vec![run(1, 3), run(9, 9), run(1 << 50, 1 << 50)],
            },
            Record::Return { queue, sequences: vec![run(4, 4)] },
            Record::Hold { queue, hold: Hold { until_ms: 1 << 41, death: 2 }, sequences: vec![run(6, 7)] },
            Record::Seen {
                cache: QueueId(1 << 63),
                seen: SeenKey { key: 3 << 100 | 5, until_ms: 1 << 41, keep: 9 },
            },
            Record::Delivered { queue, up_to: 12 },
            Record::Purge { queue, before: 40, unsettled_body_bytes: 3, unsettled: vec![] },
        ];
        let mut records = Records::default();
        facts.iter().for_each(|fact| records.fact(fact));
        let octets = written(&records);
        let mut rest = octets.as_slice();
        for expected in expected {
            let (raw, len) = RawRecord::read(rest).expect("sound");
            assert_eq!(Record::decode(&raw), Some(expected));
            rest = &rest[len..];
        }
        assert!(rest.is_empty());
    }

    /// The format may not change unnoticed: directories of this version must stay readable.
    #[test]
    fn the_format_is_what_it_was() {
        let mut records = Records::default();
        records.publish(&message(PublishedBody::Small(b"body")), &TARGETS[..1]);
        records.fact(&Fact::Settle { queue: QueueId(5), sequences: vec![1, 2, 300], body_bytes: 9 });
        let hex: String = written(&records).iter().map(|octet| format!("{octet:02x}")).collect();
        let (publish, settle) = hex.split_at(112);
        assert_eq!(
            publish,
            "0100000027000000d6b7d111000000000100000007000000000000000100000000020000010303030300000078\
             6b6579100002626f647900"
        );
        assert_eq!(
            settle,
            "0200000015000000cfcb39a900000000050000000000000009000000000000000102aa0201000000"
        );
        let mut records = Records::default();
        records.publish(&message(PublishedBody::Small(b"body")), &TARGETS[1..]);
        let hex: String = written(&records).iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(
            hex,
            "080000002f000000447a3723000000000100000008000000000000000600000000000000000000000002000001\
             03030303000000786b6579100002626f647900"
        );
    }

    proptest! {
        #[test]
        fn sequences_come_back(mut sequences in prop::collection::vec(1_u64..200, 0..100)) {
            let encoded = runs(&sequences);
            let mut octets = Vec::new();
            put_runs(&mut octets, &encoded);
            let decoded = Input(&octets).runs().expect("sound");
            prop_assert_eq!(&decoded, &encoded);
            sequences.sort_unstable();
            sequences.dedup();
            prop_assert_eq!(decoded.into_iter().flat_map(Run::sequences).collect::<Vec<_>>(), sequences);
        }

        #[test]
        fn any_octets_are_a_record_or_an_error(octets in prop::collection::vec(any::<u8>(), 0..200), kind in 0_u8..12) {
            let mut octets = octets;
            if let Some(first) = octets.first_mut() {
                *first = kind;
            }
            let _ = RawRecord::read(&octets);
            if let Some(kind) = Kind::from_octet(kind) {
                let _ = Record::decode(&RawRecord { kind, flags: 0, crc: 0, payload: &octets });
            }
        }
    }
}
