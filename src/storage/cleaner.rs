//! The cleaner: moves the last live messages out of segments that are mostly dead, so that those can be used again.
//!
//! A queue that nobody reads holds on to a segment with each message that it has there, however few they are beside what is
//! dead. What the cleaner copies is paid for by what was written: at most a quarter of it, so a log that is not written
//! to is not cleaned, and the log takes at most about four times what is live in it.

use std::{collections::BTreeMap, io};

use tracing::warn;

use super::{
    StorageError,
    disk::DiskFile,
    index::Segment,
    log::Log,
    positions::{Position, scan},
    record::{RawRecord, Record},
    segment::{SegmentHeader, segment_name},
};
use crate::broker::journal::Target;

/// A segment is cleaned when less than one in so many of its octets is live.
const DEAD_FACTOR: u64 = 4;
/// Octets of messages that are moved as one batch.
const BATCH_BYTES: usize = 1 << 20;

/// Octets of a segment that are read at once.
const WINDOW_BYTES: u64 = 1 << 20;
/// Segments that are emptied in one go: each is read as a whole.
const SEGMENTS_AT_A_TIME: usize = 2;

/// Cleans some of the segments that are worth it, sparsest first.
pub(super) fn clean(log: &mut Log) -> Result<(), StorageError> {
    let mut budget = log.since_clean / DEAD_FACTOR;
    log.since_clean = 0;
    for (header, live_bytes) in candidates(log).into_iter().take(SEGMENTS_AT_A_TIME) {
        if live_bytes > budget {
            break;
        }
        budget -= live_bytes;
        match read_live(log, &header) {
            Ok(messages) => write(log, messages)?,
            // It is reported when somebody asks for what is there.
            Err(error) => warn!("segment {} can't be cleaned: {error}", header.id),
        }
        if log.shared.index().segments.get(&header.id).is_some_and(|segment| segment.live > 0) {
            log.unreadable.insert(header.id);
        }
    }
    Ok(())
}

/// Segments that are mostly dead, and about how many octets in them are not.
fn candidates(log: &Log) -> Vec<(SegmentHeader, u64)> {
    let index = log.shared.index();
    let full = index.segments.range(..log.current.header.id).map(|(_, segment)| segment);
    let live_bytes = |segment: &Segment| segment.bytes / segment.total.max(1) * segment.live;
    let is_sparse = |segment: &&Segment| {
        segment.live > 0
            && !log.unreadable.contains(&segment.header.id)
            && live_bytes(segment) * DEAD_FACTOR < segment.header.capacity
    };
    let mut sparse: Vec<_> =
        full.filter(is_sparse).map(|segment| (segment.header, live_bytes(segment))).collect();
    sparse.sort_unstable_by_key(|(_, bytes)| *bytes);
    sparse
}

/// A message, and the queues that it is live in.
type Live = (Vec<u8>, Vec<Target>);

/// What is live in a segment, as far as it can be read.
fn read_live(log: &Log, header: &SegmentHeader) -> io::Result<Vec<Live>> {
    let disk = log.shared.disk.clone();
    let positions = scan(&*disk, header)?;
    let file = disk.open(&segment_name(header.id))?;
    let mut records = BTreeMap::<u64, (u32, Vec<Target>)>::new();
    {
        let index = log.shared.index();
        for (queue, positions) in positions {
            for position in positions {
                let Some(survives) = index.survives_in(queue, position.sequence, header.id) else { continue };
                let Position { sequence, deadline_ms, .. } = position;
                let target = Target { queue, sequence, survives, deadline_ms };
                let (_, targets) =
                    records.entry(position.offset).or_insert_with(|| (position.len, Vec::new()));
                targets.push(target);
            }
        }
    }
    let mut live = Vec::with_capacity(records.len());
    let mut window = Window { start: 0, octets: Vec::new() };
    for (offset, (len, targets)) in records {
        let octets = window.record(&*file, header, offset, len)?;
        let record = RawRecord::read(octets).ok().and_then(|(raw, _)| Record::decode(&raw));
        if let Some(Record::Publish { message, .. }) = record {
            live.push((message.to_vec(), targets));
        }
    }
    Ok(live)
}

/// A part of a segment: the log stands still while it is cleaned, so many records are read at once.
struct Window {
    start: u64,
    octets: Vec<u8>,
}

impl Window {
    /// The octets of a record. Records are asked for in the order in which they lie.
    fn record(
        &mut self,
        file: &dyn DiskFile,
        header: &SegmentHeader,
        offset: u64,
        len: u32,
    ) -> io::Result<&[u8]> {
        let end = offset + u64::from(len);
        if offset < self.start || end > self.start + self.octets.len() as u64 {
            let window_end = end.max((offset + WINDOW_BYTES).min(header.capacity));
            self.read(file, offset, window_end).or_else(|_| self.read(file, offset, end))?;
        }
        let at = (offset - self.start) as usize;
        Ok(&self.octets[at..at + len as usize])
    }

    fn read(&mut self, file: &dyn DiskFile, start: u64, end: u64) -> io::Result<()> {
        self.start = start;
        self.octets.clear();
        self.octets.resize((end - start) as usize, 0);
        file.read_exact_at(&mut self.octets, start).inspect_err(|_| self.octets.clear())
    }
}

/// Writes messages to the end of the log.
fn write(log: &mut Log, live: Vec<Live>) -> Result<(), StorageError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for (message, targets) in live {
        bytes += message.len();
        batch.push((message, targets));
        if bytes >= BATCH_BYTES {
            log.write_moved(&batch)?;
            batch.clear();
            bytes = 0;
        }
    }
    if batch.is_empty() { Ok(()) } else { log.write_moved(&batch) }
}
