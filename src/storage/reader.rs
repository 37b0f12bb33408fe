//! The reader: brings messages back that are only in the log.

use std::{collections::HashMap, io, sync::Arc};

use tracing::error;

use super::{
    StorageError,
    disk::DiskFile,
    index::Pick,
    log::Shared,
    positions::{self, Position},
    record::{RawRecord, Record},
    segment::{SEGMENT_HEADER_LEN, SegmentHeader, io_error, segment_name},
};
use crate::broker::{
    journal::Target,
    message::Message,
    pager::{Load, Loaded, LoadedMessage},
    queue::QueueId,
};

/// Reads messages back; a clone reads the same log.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<Shared>,
}

/// Octets between two records up to which both are read at once.
const GAP_MAX: u64 = 16 << 10;
/// Octets that are read at once, unless a record is longer.
const READ_MAX: u64 = 1 << 20;

/// A segment that is read from. The pin keeps its file from being used again.
#[derive(Debug)]
struct Source {
    header: SegmentHeader,
    file: Arc<dyn DiskFile>,
    _pin: Arc<()>,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The messages that are asked for, as far as the log has them already: of what was published just now some may
    /// still be on their way to it, see [`Reader::wait_for_write`].
    ///
    /// # Errors
    /// If the system can't read. Damaged messages are reported in the program's log and counted.
    pub fn load(&self, load: &Load) -> Result<Loaded, StorageError> {
        let mut loaded = Loaded::default();
        let (mut first, mut bytes) = (load.first, 0);
        loop {
            let count = load.count_max.saturating_sub(loaded.messages.len());
            if count == 0 || bytes >= load.bytes_max {
                return Ok(loaded);
            }
            let (picks, sources) = self.pick(load, first, count)?;
            let Some(last) = picks.last().map(|pick| pick.sequence) else { return Ok(loaded) };
            let places = self.places(load, &picks, &sources, &mut loaded)?;
            self.read(load, &places, &sources, &mut bytes, &mut loaded)?;
            first = last + 1;
        }
    }

    /// How often facts were written.
    pub fn writes(&self) -> u64 {
        self.shared.writes()
    }

    /// Blocks until facts were written more often than that, or the log is closed.
    pub fn wait_for_write(&self, writes: u64) {
        self.shared.wait_for_write(writes);
    }

    /// The next messages, and the segments they are in.
    fn pick(
        &self,
        load: &Load,
        first: u64,
        count: usize,
    ) -> Result<(Vec<Pick>, HashMap<u64, Source>), StorageError> {
        let (picks, pins) = {
            let index = self.shared.index();
            let picks = index.pick(load, first, count);
            let mut pins = HashMap::new();
            for pick in &picks {
                let Some(segment) = index.segments.get(&pick.segment) else { continue };
                pins.entry(pick.segment).or_insert_with(|| (segment.header, Arc::clone(&segment.pin)));
            }
            (picks, pins)
        };
        let mut sources = HashMap::new();
        for (id, (header, pin)) in pins {
            let file = self.shared.disk.open(&segment_name(id));
            let file = file.map_err(|error| self.failed(&header, error))?;
            sources.insert(id, Source { header, file, _pin: pin });
        }
        Ok((picks, sources))
    }

    fn failed(&self, header: &SegmentHeader, error: io::Error) -> StorageError {
        io_error(&*self.shared.disk, "read", &segment_name(header.id), error)
    }

    /// Where the messages lie, in their order; those of another priority are left out.
    fn places(
        &self,
        load: &Load,
        picks: &[Pick],
        sources: &HashMap<u64, Source>,
        loaded: &mut Loaded,
    ) -> Result<Vec<(Position, u64)>, StorageError> {
        let mut places: Vec<(Position, u64)> =
            picks.iter().filter_map(|pick| Some((pick.position?, pick.segment))).collect();
        for source in sources.values() {
            let of_segment = |pick: &&Pick| pick.segment == source.header.id && pick.position.is_none();
            let sequences: Vec<u64> = picks.iter().filter(of_segment).map(|pick| pick.sequence).collect();
            if sequences.is_empty() {
                continue;
            }
            let found = positions::find(&*self.shared.disk, &source.header, load.queue, &sequences);
            let found = found.map_err(|error| self.failed(&source.header, error))?;
            self.report_missing(load.queue, &source.header, &sequences, &found, loaded);
            places.extend(found.into_iter().map(|position| (position, source.header.id)));
        }
        places.sort_unstable_by_key(|(position, _)| position.sequence);
        if let Some(level) = load.priorities {
            places.retain(|(position, _)| level.has(position.priority));
        }
        Ok(places)
    }

    /// Counts messages as damaged that are live and can't be found: they were written.
    fn report_missing(
        &self,
        queue: QueueId,
        header: &SegmentHeader,
        sequences: &[u64],
        found: &[Position],
        loaded: &mut Loaded,
    ) {
        let is_found =
            |sequence: &u64| found.binary_search_by_key(sequence, |position| position.sequence).is_ok();
        for sequence in sequences.iter().filter(|sequence| !is_found(sequence)) {
            loaded.damaged += 1;
            self.report(queue, *sequence, header, SEGMENT_HEADER_LEN);
        }
    }

    fn report(&self, queue: QueueId, sequence: u64, header: &SegmentHeader, offset: u64) {
        let path = self.shared.disk.path(&segment_name(header.id));
        error!(
            "message {sequence} of queue {} is damaged: {} at or behind offset {offset}; it can't be delivered",
            queue.0,
            path.display()
        );
    }

    /// Reads the messages at these places until there are enough.
    fn read(
        &self,
        load: &Load,
        places: &[(Position, u64)],
        sources: &HashMap<u64, Source>,
        bytes: &mut usize,
        loaded: &mut Loaded,
    ) -> Result<(), StorageError> {
        let mut rest = places;
        while let Some((position, segment)) = rest.first()
            && *bytes < load.bytes_max
        {
            let source = &sources[segment];
            let count = together(rest);
            let (at_once, behind) = rest.split_at(count);
            rest = behind;
            let start = position.offset;
            let end = at_once.last().map_or(start, |(last, _)| last.offset + u64::from(last.len));
            let octets = read_some(&*source.file, start, end, at_once);
            for (position, _) in at_once {
                if *bytes >= load.bytes_max {
                    return Ok(());
                }
                let at = (position.offset - start) as usize;
                let record = &octets[at..at + position.len as usize];
                let message = message(record, load.queue, position.sequence);
                match message {
                    Some((message, deadline_ms)) => {
                        *bytes += message.memory_bytes();
                        let sequence = position.sequence;
                        let delivery_count = self.shared.index().delivery_count(load.queue, sequence);
                        loaded.messages.push(LoadedMessage {
                            sequence,
                            delivery_count,
                            deadline_ms,
                            message,
                        });
                    }
                    None => {
                        loaded.damaged += 1;
                        self.report(load.queue, position.sequence, &source.header, position.offset);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The octets from `start` to `end`. If the system can't read them in one go, the records are read one by one; in place of
/// those that it can't read at all there are zeros, which are no record.
fn read_some(file: &dyn DiskFile, start: u64, end: u64, places: &[(Position, u64)]) -> Vec<u8> {
    let mut octets = vec![0; (end - start) as usize];
    if file.read_exact_at(&mut octets, start).is_ok() {
        return octets;
    }
    octets.fill(0);
    for (position, _) in places {
        let at = (position.offset - start) as usize;
        let record = &mut octets[at..at + position.len as usize];
        if file.read_exact_at(record, position.offset).is_err() {
            record.fill(0);
        }
    }
    octets
}

/// How many of these places are read at once: they follow each other in one segment.
fn together(places: &[(Position, u64)]) -> usize {
    let Some((first, segment)) = places.first() else { return 0 };
    let mut end = first.offset + u64::from(first.len);
    let mut count = 1;
    for (position, of) in &places[1..] {
        let next_end = position.offset + u64::from(position.len);
        let follows = of == segment && position.offset >= end && position.offset - end <= GAP_MAX;
        if !follows || next_end - first.offset > READ_MAX {
            break;
        }
        end = next_end;
        count += 1;
    }
    count
}

/// The message in these octets and when it leaves the queue, if they are a sound record of it.
fn message(octets: &[u8], queue: QueueId, sequence: u64) -> Option<(Message, u64)> {
    let (raw, _) = RawRecord::read(octets).ok()?;
    let Some(Record::Publish { targets, message, .. }) = Record::decode(&raw) else { return None };
    let is_it = |target: &&Target| (target.queue, target.sequence) == (queue, sequence);
    let deadline_ms = targets.iter().find(is_it)?.deadline_ms;
    Some((Message::from_octets(message)?, deadline_ms))
}
