//! The log: appends batches of facts to segments, syncs them, and keeps the index up to date.
//!
//! One thread has it. A batch goes behind the one before it; when it does not fit, the segment is full: it is synced, its
//! positions are written, and a spare takes its place. So every segment but the last is durable as a whole. Between two
//! segments a checkpoint is written now and then (`storage/checkpoint.rs`), which is what lets go of segments that nothing is
//! live in. When nobody waits, the log is tidied and cleaned (`storage/cleaner.rs`).

use std::{
    borrow::Cow,
    collections::{HashSet, VecDeque},
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use rand::Rng as _;

use super::{
    Options, StorageError,
    batch::{self, BATCH_HEADER_LEN, Chain},
    checkpoint, cleaner,
    defined::Defined,
    definition_log::DefinitionLog,
    disk::{Disk, DiskFile},
    index::{Hold, Index, Place},
    positions,
    record::{self, Records},
    seen::SeenKey,
    segment::{SEGMENT_HEADER_LEN, SegmentHeader, Spares, io_error, is_full, positions_name, segment_name},
};
use crate::broker::{
    definition::Definition,
    journal::{Fact, Target},
    message::Message,
};

/// What the log thread and readers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    index: Mutex<Index>,
    progress: Mutex<Progress>,
    progressed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    writes: u64,
    closed: bool,
}

impl Shared {
    pub(super) fn new(disk: Arc<dyn Disk>, index: Index) -> Self {
        Self { disk, index: Mutex::new(index), progress: Mutex::default(), progressed: Condvar::new() }
    }

    /// The index. Not held while anything is read or written.
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().expect("invariant: no panic under the index's lock")
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // A count and a flag are right whatever happened.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn writes(&self) -> u64 {
        self.progress().writes
    }

    pub(super) fn wait_for_write(&self, writes: u64) {
        let mut progress = self.progress();
        while progress.writes <= writes && !progress.closed {
            progress = self.progressed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wrote(&self) {
        self.progress().writes += 1;
        self.progressed.notify_all();
    }

    fn close(&self) {
        self.progress().closed = true;
        self.progressed.notify_all();
    }
}

/// The log as its thread has it.
#[derive(Debug)]
pub struct Log {
    pub(super) shared: Arc<Shared>,
    pub(super) definitions: DefinitionLog,
    /// The durable queues and exchanges that there are.
    defined: Defined,
    pub(super) spares: Spares,
    /// Segments that nothing needs any more, to be let go of when there is time or need.
    pub(super) dead: VecDeque<SegmentHeader>,
    pub(super) current: Current,
    pub(super) chain: Chain,
    /// The index of the last batch that is durable.
    pub(super) durable_index: u64,
    /// Octets that were written since the last checkpoint.
    since_checkpoint: u64,
    /// Octets that were written since the log was last cleaned.
    pub(super) since_clean: u64,
    /// Segments that can't be emptied, because something in them can't be read.
    pub(super) unreadable: HashSet<u64>,
    pub(super) segment_bytes: u64,
    unsynced_bytes: u64,
    records: Records,
    /// Set by the first failure: nothing may be written after it.
    failed: bool,
}

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) header: SegmentHeader,
    /// Where the next batch goes.
    pub(super) end: u64,
    /// Up to where the blocks have been written before.
    pub(super) zeroed: u64,
}

/// How many segments are written between two checkpoints: what a start after a crash has to read.
const CHECKPOINT_SEGMENTS: u64 = 4;
/// Dead segments that are let go of in one go.
const LET_GO_AT_A_TIME: usize = 2;
/// How far ahead blocks are written.
const ZEROED_AHEAD: u64 = 256 << 10;
/// Octets of a sync up to which blocks are written ahead: into blocks that were written before it takes half the time.
const LITTLE: u64 = 64 << 10;

impl Log {
    /// A log behind what was recovered, in a new segment.
    pub(super) fn start(
        shared: Arc<Shared>,
        definitions: DefinitionLog,
        defined: Defined,
        mut spares: Spares,
        chain: Chain,
        next_segment: u64,
        options: &Options,
    ) -> Result<Self, StorageError> {
        let current = Current::open(&mut spares, next_segment, 0)?;
        spares.fill()?;
        shared.index().add_segment(current.header);
        Ok(Self {
            shared,
            definitions,
            defined,
            spares,
            dead: VecDeque::new(),
            current,
            chain,
            durable_index: chain.index,
            since_checkpoint: 0,
            since_clean: 0,
            unreadable: HashSet::new(),
            segment_bytes: options.segment_bytes,
            unsynced_bytes: 0,
            records: Records::default(),
            failed: false,
        })
    }

    /// Writes facts as one batch: after a crash all of them are there or none. `now_ms` is milliseconds since 1970.
    /// Definitions are durable when this returns; what else it writes, once it is synced.
    ///
    /// # Errors
    /// If they can't be written. Nothing more may be written or called durable then.
    pub fn write(&mut self, facts: &[Fact], now_ms: u64) -> Result<(), StorageError> {
        self.guarded(|log| {
            let facts = &*log.prepare(facts);
            log.define(facts, now_ms)?;
            let places = log.encode(facts);
            if !log.records.is_empty() {
                log.append(now_ms)?;
            }
            log.apply(facts, &places);
            log.shared.wrote();
            Ok(())
        })
    }

    /// Makes everything that was written durable. Does nothing if it is already.
    ///
    /// # Errors
    /// If that failed. It must not be tried again.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        self.guarded(|log| {
            let unsynced_bytes = log.unsynced_bytes;
            if unsynced_bytes == 0 {
                return Ok(());
            }
            log.sync_current()?;
            // With little to write, the time of a sync is what counts.
            if unsynced_bytes <= LITTLE { log.zero_ahead() } else { Ok(()) }
        })
    }

    /// Octets that were written and not synced.
    pub fn unsynced_bytes(&self) -> u64 {
        self.unsynced_bytes
    }

    /// To be called when there is nothing to write, after a sync: notes how far the log is durable, so that damage to its
    /// very end is told from what a crash leaves.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn idle(&mut self) -> Result<(), StorageError> {
        self.guarded(|log| {
            let has_room = log.current.end + BATCH_HEADER_LEN <= log.current.header.capacity;
            let is_durable = log.chain.index == log.durable_index;
            if !is_durable || log.current.end == SEGMENT_HEADER_LEN || !has_room {
                return Ok(());
            }
            log.records.clear();
            log.write_batch(0)?;
            // A mark is not worth a sync of its own.
            log.unsynced_bytes = 0;
            Ok(())
        })
    }

    /// To be called now and then when nobody waits for the log: cleans it; writes a checkpoint once segments are dead,
    /// since who drains a backlog writes little and must not have to fill segments to get its space back; and lets go of a
    /// few dead segments, which takes the system some time. Returns whether there is more to do.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn tidy(&mut self) -> Result<bool, StorageError> {
        let mut is_untidy = false;
        self.guarded(|log| {
            if log.since_clean >= log.segment_bytes {
                cleaner::clean(log)?;
            }
            if log.shared.index().emptied >= CHECKPOINT_SEGMENTS {
                if log.current.end > SEGMENT_HEADER_LEN {
                    log.next_segment(0)?;
                }
                log.checkpoint(log.current.header.id)?;
            }
            log.let_go(LET_GO_AT_A_TIME)?;
            is_untidy = !log.dead.is_empty();
            Ok(())
        })?;
        Ok(is_untidy)
    }

    /// The end: syncs, and leaves a checkpoint, so that the next start has nothing to replay.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn close(mut self) -> Result<(), StorageError> {
        self.guarded(|log| {
            log.sync_current()?;
            log.seal()?;
            match log.checkpoint(log.current.header.id + 1) {
                // Everything is durable: the next start has more to read.
                Err(StorageError::Io { source, .. }) if is_full(&source) => Ok(()),
                written => written,
            }
        })
    }

    fn guarded(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        if self.failed {
            let error = io::Error::other("an earlier write failed");
            return Err(self.io_error("write", error));
        }
        let result = act(self);
        self.failed = result.is_err();
        result
    }

    fn io_error(&self, action: &'static str, source: io::Error) -> StorageError {
        io_error(&*self.shared.disk, action, &segment_name(self.current.header.id), source)
    }

    /// Notes what is defined with these facts, and returns those to be written: without keys of what is gone, or was never
    /// there to last, and behind the end of an exchange with what empties its cache. A replay does not know when an exchange
    /// ended, and the next one of that name begins without keys.
    fn prepare<'a>(&mut self, facts: &'a [Fact]) -> Cow<'a, [Fact]> {
        let is_as_it_is = |fact: &Fact| match fact {
            Fact::Seen { cache, .. } => self.defined.has_cache(*cache),
            fact => !matches!(fact, Fact::Define(_)),
        };
        if facts.iter().all(is_as_it_is) {
            return Cow::Borrowed(facts);
        }
        let index = self.shared.index();
        let (mut all, mut seen) = (Vec::with_capacity(facts.len()), HashSet::new());
        for fact in facts {
            let mut emptied = Vec::new();
            match fact {
                Fact::Seen { cache, .. } if !self.defined.has_cache(*cache) => continue,
                Fact::Seen { cache, .. } => drop(seen.insert(*cache)),
                Fact::Define(definition) => emptied = self.defined.apply(definition),
                _ => {}
            }
            all.push(fact.clone());
            let filled = emptied.into_iter().filter(|cache| seen.contains(cache) || index.seen.has(*cache));
            all.extend(filled.map(|cache| Fact::Seen { cache, key: 0, until_ms: 0, keep: 0 }));
        }
        Cow::Owned(all)
    }

    /// Definitions go first, and are durable before anything that builds on them.
    fn define(&mut self, facts: &[Fact], now_ms: u64) -> Result<(), StorageError> {
        let definitions: Vec<&Definition> = facts
            .iter()
            .filter_map(|fact| match fact {
                Fact::Define(definition) => Some(definition),
                _ => None,
            })
            .collect();
        if definitions.is_empty() { Ok(()) } else { self.definitions.append(&definitions, now_ms) }
    }

    /// Turns facts into records, and says where in the batch each message is.
    fn encode(&mut self, facts: &[Fact]) -> Vec<(u64, u32)> {
        self.records.clear();
        let mut places = Vec::new();
        for fact in facts {
            match fact {
                Fact::Publish { message, queues } => places.push(self.records.publish(message, queues)),
                fact => self.records.fact(fact),
            }
        }
        places
    }

    /// Writes the records as a batch, in a new segment if need be.
    fn append(&mut self, now_ms: u64) -> Result<(), StorageError> {
        let len = BATCH_HEADER_LEN + self.records.len();
        if self.current.end + len > self.current.header.capacity {
            self.roll(len)?;
        }
        self.write_batch(now_ms)
    }

    fn write_batch(&mut self, now_ms: u64) -> Result<(), StorageError> {
        let Current { file, header, end, zeroed } = &mut self.current;
        let (octets, chain) =
            batch::header(&self.records, header.salt, self.chain, self.durable_index, now_ms);
        self.records.set_header(&octets);
        let start = *end;
        let mut at = start;
        let write = |piece: &[u8]| {
            let written = file.write_all_at(piece, at);
            at += piece.len() as u64;
            written
        };
        // The header and small records in one write; a long body is one of its own.
        let mut pieces = self.records.pieces();
        let written = pieces.try_for_each(write);
        *end = at;
        *zeroed = (*zeroed).max(at);
        written.map_err(|error| self.io_error("write", error))?;
        self.chain = chain;
        let len = at - start;
        self.unsynced_bytes += len;
        self.since_checkpoint += len;
        self.since_clean += len;
        Ok(())
    }

    /// Applies the facts, whose batch ends the current segment.
    fn apply(&mut self, facts: &[Fact], places: &[(u64, u32)]) {
        let start = self.current.end - self.records.len();
        let segment = self.current.header.id;
        let mut places =
            places.iter().map(|(offset, len)| Place { segment, offset: start + offset, len: *len });
        let mut index = self.shared.index();
        for fact in facts {
            match fact {
                Fact::Publish { message, queues } => {
                    let place = places.next().expect("invariant: a place for each message");
                    let body_bytes = message.body().len() as u64;
                    // A queue may be deleted while a message is on its way.
                    queues
                        .iter()
                        .filter(|target| !target.survives || self.defined.has_queue(target.queue))
                        .for_each(|target| index.publish(*target, place, message.priority(), body_bytes));
                }
                Fact::Settle { queue, sequences, body_bytes } => {
                    index.settle(*queue, &record::runs(sequences), *body_bytes);
                }
                Fact::Return { queue, sequences } => index.count_return(*queue, &record::runs(sequences)),
                Fact::Hold { queue, sequences, until_ms, death } => {
                    let hold = Hold { until_ms: *until_ms, death: *death };
                    index.hold(*queue, &record::runs(sequences), hold);
                }
                Fact::Delivered { queue, up_to } => index.delivered(*queue, *up_to),
                Fact::Purge { queue, before, unsettled, unsettled_body_bytes } => {
                    index.purge(*queue, *before, &record::runs(unsettled), *unsettled_body_bytes);
                }
                Fact::Forget { queue } => index.forget(*queue),
                Fact::Seen { cache, key, until_ms, keep } => {
                    let seen = SeenKey { key: *key, until_ms: *until_ms, keep: *keep };
                    index.seen.insert(*cache, seen);
                }
                Fact::Define(Definition::QueueDeleted { id }) => index.forget(*id),
                Fact::Define(_) => {}
            }
        }
    }

    fn sync_current(&mut self) -> Result<(), StorageError> {
        if self.chain.index == self.durable_index {
            return Ok(());
        }
        self.current.file.sync().map_err(|error| self.io_error("sync", error))?;
        self.unsynced_bytes = 0;
        self.durable_index = self.chain.index;
        Ok(())
    }

    /// Ends the current segment and begins the next, which a batch of `len` octets fits in.
    fn roll(&mut self, len: u64) -> Result<(), StorageError> {
        self.next_segment(len)?;
        if self.since_checkpoint >= CHECKPOINT_SEGMENTS * self.segment_bytes {
            self.checkpoint(self.current.header.id)?;
        }
        Ok(())
    }

    fn next_segment(&mut self, len: u64) -> Result<(), StorageError> {
        self.sync_current()?;
        self.seal()?;
        // What is dead is a segment to be used, before another one is made.
        while self.spares.are_short() && !self.dead.is_empty() {
            self.let_go(1)?;
        }
        let id = self.current.header.id + 1;
        let opened = Current::open(&mut self.spares, id, len);
        self.current = match opened {
            Err(StorageError::Io { source, .. }) if is_full(&source) => {
                // What is dead may be let go of only behind a checkpoint.
                self.checkpoint(id)?;
                self.let_go(usize::MAX)?;
                Current::open(&mut self.spares, id, len)?
            }
            opened => opened?,
        };
        self.shared.index().add_segment(self.current.header);
        self.spares.fill()?;
        if self.spares.are_short() {
            // The disk is full: what is dead is needed now, while there is a spare to make room for the checkpoint with.
            self.checkpoint(id)?;
            self.let_go(usize::MAX)?;
            self.spares.fill()?;
        }
        Ok(())
    }

    /// Leaves the positions of the current segment's messages in a file.
    fn seal(&mut self) -> Result<(), StorageError> {
        let segment = self.current.header.id;
        let positions = self.shared.index().positions(segment);
        match positions::write(&*self.shared.disk, &self.current.header, &positions) {
            // It is made again when it is needed, and there is more room.
            Err(error) if is_full(&error) => {}
            written => written
                .map_err(|error| io_error(&*self.shared.disk, "write", &positions_name(segment), error))?,
        }
        self.shared.index().forget_positions(segment);
        Ok(())
    }

    /// Writes a checkpoint of the index, which is as of the start of that segment, and notes which segments nothing is
    /// live in and nobody reads from, to be let go of. Everything is synced.
    pub(super) fn checkpoint(&mut self, replay_from: u64) -> Result<(), StorageError> {
        let (octets, dead) = {
            let mut index = self.shared.index();
            index.emptied = 0;
            let defined = &self.defined;
            index.queues.retain(|id, queue| defined.has_queue(*id) || !queue.runs.is_empty());
            index.seen.retain(|cache| defined.has_cache(cache));
            let is_dead = |segment: &super::index::Segment| segment.live == 0;
            let dead: Vec<SegmentHeader> = index
                .segments
                .range(..replay_from)
                .filter(|(_, segment)| is_dead(segment) && Arc::strong_count(&segment.pin) == 1)
                .map(|(_, segment)| segment.header)
                .collect();
            dead.iter().for_each(|header| drop(index.segments.remove(&header.id)));
            (checkpoint::encode(&index, defined, self.chain, replay_from), dead)
        };
        loop {
            match checkpoint::write(&*self.shared.disk, replay_from, &octets) {
                Err(StorageError::Io { source, .. }) if is_full(&source) && self.spares.sacrifice()? => {}
                written => break written?,
            }
        }
        checkpoint::remove_older(&*self.shared.disk, replay_from)?;
        self.since_checkpoint = 0;
        self.dead.extend(dead);
        Ok(())
    }

    /// Lets go of at most so many dead segments.
    fn let_go(&mut self, count: usize) -> Result<(), StorageError> {
        for _ in 0..count {
            let Some(header) = self.dead.pop_front() else { break };
            let positions = positions_name(header.id);
            match self.shared.disk.remove(&positions) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error(&*self.shared.disk, "remove", &positions, error));
                }
                _ => {}
            }
            self.spares.give_back(&header)?;
        }
        Ok(())
    }

    /// Writes blocks ahead of the end, so that syncs need not record that they are written now.
    fn zero_ahead(&mut self) -> Result<(), StorageError> {
        let Current { file, header, end, zeroed } = &mut self.current;
        if *zeroed >= *end + ZEROED_AHEAD / 2 || *zeroed >= header.capacity {
            return Ok(());
        }
        let len = ZEROED_AHEAD.min(header.capacity - *zeroed);
        let written = file.write_all_at(&vec![0; len as usize], *zeroed);
        *zeroed += len;
        written.map_err(|error| self.io_error("write", error))
    }

    /// Writes messages that the cleaner has read, as one batch: from then on that is where they are live.
    pub(super) fn write_moved(&mut self, moved: &[(Vec<u8>, Vec<Target>)]) -> Result<(), StorageError> {
        self.records.clear();
        let places: Vec<_> =
            moved.iter().map(|(message, targets)| self.records.moved(message, targets)).collect();
        let len = BATCH_HEADER_LEN + self.records.len();
        if self.current.end + len > self.current.header.capacity {
            let waiting = std::mem::take(&mut self.records);
            self.next_segment(len)?;
            self.records = waiting;
        }
        self.write_batch(0)?;
        let start = self.current.end - self.records.len();
        let segment = self.current.header.id;
        let mut index = self.shared.index();
        for ((message, targets), (offset, len)) in moved.iter().zip(places) {
            let place = Place { segment, offset: start + offset, len };
            let priority = Message::priority_in(message);
            targets.iter().for_each(|target| index.moved(*target, place, priority));
        }
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Current {
    fn open(spares: &mut Spares, id: u64, len: u64) -> Result<Self, StorageError> {
        let (file, header, is_written) = spares.take(id, rand::rng().random(), len)?;
        let zeroed = if is_written { header.capacity } else { SEGMENT_HEADER_LEN };
        Ok(Self { file, header, end: SEGMENT_HEADER_LEN, zeroed })
    }
}
