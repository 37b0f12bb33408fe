//! Positions: where in a segment the messages of each queue lie, once nothing more is written to it.
//!
//! A file beside the segment, made from it when it is full. Nothing depends on it being there: it is not synced, and one
//! that is missing or wrong is made again. All numbers are little endian:
//!
//! ```text
//! header   0 magic u64 | 8 version u32 | 12 crc u32 | 16 segment u64 | 24 salt u64 | 32 groups u64 | 40 octets u64
//! group    0 queue u64 | 8 base u64 | 16 start * 2 + dated u64 | 24 count u32 | 28 span u32      by queue and base
//! position 0 sequence - base u32 | 4 offset / 8 u32 | 8 len * 2 + prioritized u32 | 12 priority u8 | 13 crc u24
//!          | 16 deadline_ms u64 if the group is dated                                           by sequence number
//! ```
//!
//! The groups follow the header, the positions follow the groups and take so many `octets`. `start` is where a group's
//! positions begin, in octets behind the groups; `span` is the last position's `sequence - base`. A group is dated if any of
//! its messages has a deadline: then each of its positions has one, 2^64 - 1 for none. A message that says no priority is
//! not prioritized, and its `priority` is 0. Positions are of the same `version` as the program, or made again.
//!
//! A record that a position leads to names its queues and sequence numbers itself and has a checksum, so a wrong position
//! can't bring a wrong message. Each position has a checksum too, over its group's queue and base and the position's other
//! octets, of which the lower 24 bits are kept: of a file that was torn, zeros may be left, and a message that is looked for
//! at the wrong place or under the wrong priority, or that leaves at another time, would seem to be lost.

use std::{collections::BTreeMap, io, ops::Range, sync::Arc};

use super::{
    FORMAT_VERSION,
    batch::{BatchReader, Found},
    disk::{Disk, DiskFile},
    record::{ALIGNMENT, RECORD_HEADER_LEN, RawRecord, Record, u32_at, u64_at},
    segment::{SEGMENT_HEADER_LEN, SegmentHeader, is_full, positions_name, segment_name},
};
use crate::broker::{NEVER, journal::Target, message::Message, queue::QueueId};

const MAGIC: u64 = u64::from_le_bytes(*b"LEVERETI");
const HEADER_LEN: usize = 48;
const GROUP_LEN: usize = 32;
const POSITION_LEN: usize = 16;
/// What a deadline takes behind a position.
const DEADLINE_LEN: usize = 8;
/// Where the checksum of a position is.
const CHECK: Range<usize> = 13..16;
/// Positions that are read at a time.
const POSITIONS_AT_A_TIME: u64 = 2048;

/// Where the record of a message lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Its sequence number in the queue.
    pub(super) sequence: u64,
    /// Its offset in the segment, in octets.
    pub(super) offset: u64,
    /// How many octets the record takes, without what pads it.
    pub(super) len: u32,
    /// The message's priority, if it says one.
    pub(super) priority: Option<u8>,
    /// When the message leaves the queue by itself, or never.
    pub(super) deadline_ms: u64,
}

/// The positions of each queue, each queue's by sequence number.
pub(super) type ByQueue = BTreeMap<QueueId, Vec<Position>>;

/// Sequence numbers of one queue that lie close together.
#[derive(Clone, Copy, Debug)]
struct Group {
    queue: QueueId,
    base: u64,
    /// In octets behind the groups.
    start: u64,
    count: u32,
    span: u32,
    /// Whether its positions have deadlines.
    dated: bool,
}

impl Group {
    fn position_len(&self) -> usize {
        if self.dated { POSITION_LEN + DEADLINE_LEN } else { POSITION_LEN }
    }

    /// How many octets its positions take.
    fn len(&self) -> u64 {
        u64::from(self.count) * self.position_len() as u64
    }

    fn encode(&self, octets: &mut Vec<u8>) {
        for number in [self.queue.0, self.base, self.start << 1 | u64::from(self.dated)] {
            octets.extend_from_slice(&number.to_le_bytes());
        }
        octets.extend_from_slice(&self.count.to_le_bytes());
        octets.extend_from_slice(&self.span.to_le_bytes());
    }

    fn decode(octets: &[u8; GROUP_LEN]) -> Self {
        let start = u64_at(octets, 16);
        Self {
            queue: QueueId(u64_at(octets, 0)),
            base: u64_at(octets, 8),
            start: start >> 1,
            count: u32_at(octets, 24),
            span: u32_at(octets, 28),
            dated: start & 1 == 1,
        }
    }
}

/// Writes the positions of a segment.
///
/// # Errors
/// What the system says.
pub(super) fn write(disk: &dyn Disk, segment: &SegmentHeader, positions: &ByQueue) -> io::Result<()> {
    let groups = groups(positions);
    let len = groups.last().map_or(0, |last| last.start + last.len());
    let mut octets = Vec::with_capacity(HEADER_LEN + groups.len() * GROUP_LEN + len as usize);
    for number in [MAGIC, FORMAT_VERSION.into(), segment.id, segment.salt, groups.len() as u64, len] {
        octets.extend_from_slice(&number.to_le_bytes());
    }
    let crc = checksum(&octets);
    octets[12..16].copy_from_slice(&crc.to_le_bytes());
    groups.iter().for_each(|group| group.encode(&mut octets));
    let mut in_order = positions.values().flatten();
    for group in &groups {
        for position in in_order.by_ref().take(group.count as usize) {
            encode(position, group, &mut octets);
        }
    }
    disk.create(&positions_name(segment.id))?.write_all_at(&octets, 0)
}

fn groups(positions: &ByQueue) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (queue, positions) in positions {
        let mut is_first = true;
        for Position { sequence, deadline_ms, .. } in positions {
            let dated = *deadline_ms != NEVER;
            let fits = |group: &&mut Group| !is_first && sequence - group.base <= u64::from(u32::MAX);
            match groups.last_mut().filter(fits) {
                Some(group) => {
                    group.count += 1;
                    group.span = (sequence - group.base) as u32;
                    group.dated |= dated;
                }
                None => {
                    groups.push(Group { queue: *queue, base: *sequence, start: 0, count: 1, span: 0, dated })
                }
            }
            is_first = false;
        }
    }
    let mut start = 0;
    for group in &mut groups {
        group.start = start;
        start += group.len();
    }
    groups
}

fn encode(position: &Position, group: &Group, octets: &mut Vec<u8>) {
    let start = octets.len();
    let offset = position.offset / ALIGNMENT as u64;
    let delta = u32::try_from(position.sequence - group.base).expect("invariant: within the group's span");
    octets.extend_from_slice(&delta.to_le_bytes());
    octets.extend_from_slice(&u32::try_from(offset).expect("invariant: below 32 GiB").to_le_bytes());
    let len = position.len << 1 | u32::from(position.priority.is_some());
    octets.extend_from_slice(&len.to_le_bytes());
    octets.push(position.priority.unwrap_or(0));
    octets.extend_from_slice(&[0; CHECK.end - CHECK.start]);
    if group.dated {
        octets.extend_from_slice(&position.deadline_ms.to_le_bytes());
    }
    let check = check_of(group, &octets[start..]);
    octets[start..][CHECK].copy_from_slice(&check);
}

fn decode(octets: &[u8], group: &Group) -> Position {
    let len = u32_at(octets, 8);
    Position {
        sequence: group.base.saturating_add(u32_at(octets, 0).into()),
        offset: u64::from(u32_at(octets, 4)) * ALIGNMENT as u64,
        len: len >> 1,
        priority: (len & 1 == 1).then_some(octets[12]),
        deadline_ms: if group.dated { u64_at(octets, POSITION_LEN) } else { NEVER },
    }
}

/// The checksum of a position's other octets.
fn check_of(group: &Group, octets: &[u8]) -> [u8; 3] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&group.queue.0.to_le_bytes());
    hasher.update(&group.base.to_le_bytes());
    hasher.update(&octets[..CHECK.start]);
    hasher.update(&octets[CHECK.end..]);
    let [first, second, third, _] = hasher.finalize().to_le_bytes();
    [first, second, third]
}

fn is_sound(group: &Group, octets: &[u8]) -> bool {
    check_of(group, octets) == octets[CHECK]
}

fn checksum(header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..12]);
    hasher.update(&header[16..HEADER_LEN]);
    hasher.finalize()
}

/// The positions of all messages in a segment, from the segment itself.
///
/// # Errors
/// If the system can't read.
pub(super) fn scan(disk: &dyn Disk, segment: &SegmentHeader) -> io::Result<ByQueue> {
    let mut positions = ByQueue::new();
    let mut reader = BatchReader::new(disk.open(&segment_name(segment.id))?, segment.salt)?;
    let mut offset = SEGMENT_HEADER_LEN;
    loop {
        let next = match reader.read(offset)? {
            Found::Batch(batch) => {
                batch.records().for_each(|(at, record)| add(&mut positions, offset + at, &record));
                Some(offset + batch.header.len)
            }
            // What is sound in a damaged batch is still a message.
            Found::Broken(broken) => {
                let sound = broken.sound_records();
                sound.for_each(|(at, record)| add(&mut positions, offset + at, &record));
                None
            }
            Found::Nothing => None,
        };
        offset = match next {
            Some(next) => next,
            None => match reader.next_sound(offset)? {
                Some(next) => next,
                None => break,
            },
        };
    }
    for positions in positions.values_mut() {
        positions.sort_by_key(|position| position.sequence);
        // What was moved within the segment: the later place is the one that counts.
        positions.reverse();
        positions.dedup_by_key(|position| position.sequence);
        positions.reverse();
    }
    Ok(positions)
}

fn add(positions: &mut ByQueue, offset: u64, raw: &RawRecord<'_>) {
    let Some(Record::Publish { targets, message, .. }) = Record::decode(raw) else { return };
    let len = (RECORD_HEADER_LEN + raw.payload.len()) as u32;
    let priority = Message::priority_in(message);
    for Target { queue, sequence, deadline_ms, .. } in targets {
        let position = Position { sequence, offset, len, priority, deadline_ms };
        positions.entry(queue).or_default().push(position);
    }
}

/// The positions of these messages of a queue in a full segment, whose sequence numbers are in ascending order: those that
/// can be found. If the file is missing or wrong, it is made again.
///
/// # Errors
/// If the system can't read or write.
pub(super) fn find(
    disk: &dyn Disk,
    segment: &SegmentHeader,
    queue: QueueId,
    sequences: &[u64],
) -> io::Result<Vec<Position>> {
    let known = known(disk, segment, queue, sequences)?;
    if known.len() == sequences.len() {
        return Ok(known);
    }
    let scanned = scan(disk, segment)?;
    let look_up = |sequence: &u64| {
        let at = known.binary_search_by_key(sequence, |position| position.sequence);
        at.ok().map(|at| known[at]).or_else(|| find_in(&scanned, queue, *sequence))
    };
    let found: Vec<Position> = sequences.iter().filter_map(look_up).collect();
    // What can't be read any more stays in a file that has it: it is not to be forgotten.
    if found.len() == sequences.len() {
        match write(disk, segment, &scanned) {
            Err(error) if !is_full(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(found)
}

/// Those of the positions that the file has.
fn known(
    disk: &dyn Disk,
    segment: &SegmentHeader,
    queue: QueueId,
    sequences: &[u64],
) -> io::Result<Vec<Position>> {
    let Some(file) = PositionsFile::open(disk, segment)? else { return Ok(Vec::new()) };
    let is_inside = |position: &Position| {
        let end = position.offset + u64::from(position.len);
        position.offset >= SEGMENT_HEADER_LEN && end <= segment.capacity
    };
    match file.find(queue, sequences) {
        Ok(found) => Ok(found.into_iter().filter(is_inside).collect()),
        // What leads out of the file is as wrong as what leads nowhere.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The position of a message.
fn find_in(positions: &ByQueue, queue: QueueId, sequence: u64) -> Option<Position> {
    let of_queue = positions.get(&queue)?;
    let at = of_queue.binary_search_by_key(&sequence, |position| position.sequence).ok()?;
    Some(of_queue[at])
}

/// The positions of a full segment.
#[derive(Debug)]
struct PositionsFile {
    file: Arc<dyn DiskFile>,
    groups: u64,
}

impl PositionsFile {
    /// Opens the positions of a segment; `None` if they are missing or not those of this segment.
    fn open(disk: &dyn Disk, segment: &SegmentHeader) -> io::Result<Option<Self>> {
        let file = match disk.open(&positions_name(segment.id)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let len = file.len()?;
        if len < HEADER_LEN as u64 {
            return Ok(None);
        }
        let mut header = [0; HEADER_LEN];
        file.read_exact_at(&mut header, 0)?;
        let (groups, octets) = (u64_at(&header, 32), u64_at(&header, 40));
        let expected_len = groups
            .checked_mul(GROUP_LEN as u64)
            .and_then(|len| len.checked_add(octets))
            .and_then(|len| len.checked_add(HEADER_LEN as u64));
        let is_sound = u64_at(&header, 0) == MAGIC
            && u32_at(&header, 8) == FORMAT_VERSION
            && u32_at(&header, 12) == checksum(&header)
            && (u64_at(&header, 16), u64_at(&header, 24)) == (segment.id, segment.salt)
            && expected_len == Some(len);
        Ok(is_sound.then_some(Self { file, groups }))
    }

    /// The positions of these messages: those that are there.
    fn find(&self, queue: QueueId, sequences: &[u64]) -> io::Result<Vec<Position>> {
        let mut found = Vec::with_capacity(sequences.len());
        let mut rest = sequences;
        let mut at = self.first_group(queue)?;
        while let (Some(first), true) = (rest.first(), at < self.groups) {
            let group = self.group(at)?;
            if group.queue != queue {
                break;
            }
            let last = group.base.saturating_add(group.span.into());
            if *first <= last {
                let within = rest.partition_point(|sequence| *sequence <= last);
                self.find_in(&group, &rest[..within], &mut found)?;
                rest = &rest[within..];
            }
            at += 1;
        }
        Ok(found)
    }

    fn find_in(&self, group: &Group, sequences: &[u64], found: &mut Vec<Position>) -> io::Result<()> {
        let mut wanted = sequences.iter().copied().peekable();
        let Some(first) = wanted.peek() else { return Ok(()) };
        let mut at = self.rank(group, *first)?;
        while at < u64::from(group.count) && wanted.peek().is_some() {
            let count =
                POSITIONS_AT_A_TIME.min(u64::from(group.count) - at).min(2 * wanted.len() as u64 + 16);
            let octets = self.positions(group, at, count)?;
            for octets in octets.chunks_exact(group.position_len()) {
                let position = decode(octets, group);
                while wanted.next_if(|wanted| *wanted < position.sequence).is_some() {}
                if wanted.next_if_eq(&position.sequence).is_some() && is_sound(group, octets) {
                    found.push(position);
                }
            }
            at += count;
        }
        Ok(())
    }

    /// How many positions of the group come before that sequence number.
    fn rank(&self, group: &Group, sequence: u64) -> io::Result<u64> {
        let count = u64::from(group.count);
        let delta = sequence.saturating_sub(group.base);
        if u64::from(group.span) + 1 == count {
            return Ok(delta);
        }
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            let position = decode(&self.positions(group, middle, 1)?, group);
            if position.sequence < sequence { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    fn positions(&self, group: &Group, at: u64, count: u64) -> io::Result<Vec<u8>> {
        let len = group.position_len();
        let mut octets = vec![0; count as usize * len];
        let start = HEADER_LEN as u64 + self.groups * GROUP_LEN as u64;
        let at = at.saturating_mul(len as u64);
        self.file.read_exact_at(&mut octets, start.saturating_add(group.start).saturating_add(at))?;
        Ok(octets)
    }

    /// The number of the first group whose queue is not below `queue`.
    fn first_group(&self, queue: QueueId) -> io::Result<u64> {
        let (mut low, mut high) = (0, self.groups);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.group(middle)?.queue < queue { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    fn group(&self, at: u64) -> io::Result<Group> {
        let mut octets = [0; GROUP_LEN];
        self.file.read_exact_at(&mut octets, HEADER_LEN as u64 + at * GROUP_LEN as u64)?;
        Ok(Group::decode(&octets))
    }
}
