//! Positions: where in a segment the messages of each queue lie, once nothing more is written to it.
//!
//! A file beside the segment, made from it when it is full. Nothing depends on it being there: it is not synced, and one
//! that is missing or wrong is made again. All numbers are little endian:
//!
//! ```text
//! header   0 magic u64 | 8 version u32 | 12 crc u32 | 16 segment u64 | 24 salt u64 | 32 groups u64 | 40 positions u64
//! group    0 queue u64 | 8 base u64 | 16 start u64 | 24 count u32 | 28 span u32                  by queue and base
//! position 0 sequence - base u32 | 4 offset / 8 u32 | 8 len u32 | 12 priority u8 | 13 crc u24    by sequence number
//! ```
//!
//! The groups follow the header, the positions follow the groups. `start` counts positions, `span` is the last position's
//! `sequence - base`. A record that a position leads to names its queues and sequence numbers itself and has a checksum,
//! so a wrong position can't bring a wrong message. Each position has a checksum too, over its group's queue and base and
//! what is before it, of which the lower 24 bits are kept: of a file that was torn, zeros may be left, and a message that
//! is looked for at the wrong place or under the wrong priority would seem to be lost.

use std::{collections::BTreeMap, io, sync::Arc};

use super::{
    FORMAT_VERSION,
    batch::{BatchReader, Found},
    disk::{Disk, DiskFile},
    record::{ALIGNMENT, RECORD_HEADER_LEN, RawRecord, Record, u32_at, u64_at},
    segment::{SEGMENT_HEADER_LEN, SegmentHeader, is_full, positions_name, segment_name},
};
use crate::broker::{journal::Target, message::Message, queue::QueueId};

const MAGIC: u64 = u64::from_le_bytes(*b"LEVERETI");
const HEADER_LEN: usize = 48;
const GROUP_LEN: usize = 32;
const POSITION_LEN: usize = 16;
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
    /// The message's priority.
    pub(super) priority: u8,
}

/// The positions of each queue, each queue's by sequence number.
pub(super) type ByQueue = BTreeMap<QueueId, Vec<Position>>;

/// Sequence numbers of one queue that lie close together.
#[derive(Clone, Copy, Debug)]
struct Group {
    queue: QueueId,
    base: u64,
    start: u64,
    count: u32,
    span: u32,
}

/// Writes the positions of a segment.
///
/// # Errors
/// What the system says.
pub(super) fn write(disk: &dyn Disk, segment: &SegmentHeader, positions: &ByQueue) -> io::Result<()> {
    let groups = groups(positions);
    let count: usize = positions.values().map(Vec::len).sum();
    let mut octets = Vec::with_capacity(HEADER_LEN + groups.len() * GROUP_LEN + count * POSITION_LEN);
    for number in [MAGIC, FORMAT_VERSION.into(), segment.id, segment.salt, groups.len() as u64, count as u64]
    {
        octets.extend_from_slice(&number.to_le_bytes());
    }
    let crc = checksum(&octets);
    octets[12..16].copy_from_slice(&crc.to_le_bytes());
    for group in &groups {
        for number in [group.queue.0, group.base, group.start] {
            octets.extend_from_slice(&number.to_le_bytes());
        }
        octets.extend_from_slice(&group.count.to_le_bytes());
        octets.extend_from_slice(&group.span.to_le_bytes());
    }
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
    let mut start = 0;
    for (queue, positions) in positions {
        let mut is_first = true;
        for Position { sequence, .. } in positions {
            let fits = |group: &&mut Group| !is_first && sequence - group.base <= u64::from(u32::MAX);
            match groups.last_mut().filter(fits) {
                Some(group) => {
                    group.count += 1;
                    group.span = (sequence - group.base) as u32;
                }
                None => {
                    groups.push(Group { queue: *queue, base: *sequence, start, count: 1, span: 0 });
                }
            }
            is_first = false;
            start += 1;
        }
    }
    groups
}

fn encode(position: &Position, group: &Group, octets: &mut Vec<u8>) {
    let start = octets.len();
    let offset = position.offset / ALIGNMENT as u64;
    let delta = u32::try_from(position.sequence - group.base).expect("invariant: within the group's span");
    octets.extend_from_slice(&delta.to_le_bytes());
    octets.extend_from_slice(&u32::try_from(offset).expect("invariant: below 32 GiB").to_le_bytes());
    octets.extend_from_slice(&position.len.to_le_bytes());
    octets.push(position.priority);
    let check = check_of(group, &octets[start..]);
    octets.extend_from_slice(&check);
}

fn decode(octets: &[u8], base: u64) -> Position {
    Position {
        sequence: base.saturating_add(u32_at(octets, 0).into()),
        offset: u64::from(u32_at(octets, 4)) * ALIGNMENT as u64,
        len: u32_at(octets, 8),
        priority: octets[12],
    }
}

/// The checksum of a position's first octets.
fn check_of(group: &Group, octets: &[u8]) -> [u8; 3] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&group.queue.0.to_le_bytes());
    hasher.update(&group.base.to_le_bytes());
    hasher.update(octets);
    let [first, second, third, _] = hasher.finalize().to_le_bytes();
    [first, second, third]
}

fn is_sound(group: &Group, octets: &[u8]) -> bool {
    check_of(group, &octets[..13]) == octets[13..]
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
    let priority = Message::priority_in(message).unwrap_or(0);
    for Target { queue, sequence, .. } in targets {
        positions.entry(queue).or_default().push(Position { sequence, offset, len, priority });
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
        let (groups, positions) = (u64_at(&header, 32), u64_at(&header, 40));
        let expected_len = groups
            .checked_mul(GROUP_LEN as u64)
            .and_then(|len| len.checked_add(positions.checked_mul(POSITION_LEN as u64)?))
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
            for octets in octets.chunks_exact(POSITION_LEN) {
                let position = decode(octets, group.base);
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
            let position = decode(&self.positions(group, middle, 1)?, group.base);
            if position.sequence < sequence { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    fn positions(&self, group: &Group, at: u64, count: u64) -> io::Result<Vec<u8>> {
        let mut octets = vec![0; count as usize * POSITION_LEN];
        let start = HEADER_LEN as u64 + self.groups * GROUP_LEN as u64;
        self.file.read_exact_at(
            &mut octets,
            start.saturating_add(group.start.saturating_add(at).saturating_mul(POSITION_LEN as u64)),
        )?;
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
        Ok(Group {
            queue: QueueId(u64_at(&octets, 0)),
            base: u64_at(&octets, 8),
            start: u64_at(&octets, 16),
            count: u32_at(&octets, 24),
            span: u32_at(&octets, 28),
        })
    }
}
