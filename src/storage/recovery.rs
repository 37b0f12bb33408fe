//! Recovery: what a data directory holds, read without changing it.
//!
//! First the definitions; then the newest checkpoint; then the segments behind it, batch by batch. The log ends at the
//! first place where the next batch is not. If it was never known to be durable, a crash has torn it and nobody was told
//! of it: that is the end. If any batch behind it says that it was durable, what was promised is damaged.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    sync::Arc,
};

use tracing::info;

use super::{
    Report, StorageError,
    backlog::Backlogs,
    batch::{BatchReader, Broken, Chain, Found},
    checkpoint,
    defined::Defined,
    definition_log::{self, DefinitionsRead},
    disk::Disk,
    index::{Index, Place},
    positions,
    record::{RECORD_HEADER_LEN, Record, RecordError, readable_targets},
    segment::{
        HeaderFound, SEGMENT_HEADER_LEN, SegmentHeader, id_of, io_error, is_full, other_version, segment_name,
    },
};
use crate::broker::{
    definition::Definition,
    journal::Target,
    queue::{Levels, QueueId, priority_levels},
    restore::{RecoveredCache, RecoveredQueue},
};

/// What a data directory holds.
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) names: Vec<String>,
    pub(super) definitions: DefinitionsRead,
    /// Every identity of a queue that is named anywhere is below it. Queues that do not survive have theirs too, and if
    /// they paged out, the log may hold more about them than their messages.
    pub(super) next_id: u64,
    pub(super) index: Index,
    /// Where the log stands.
    pub(super) chain: Chain,
    /// Segments that were read behind the checkpoint, and whose positions have no file yet.
    pub(super) replayed: Vec<(SegmentHeader, positions::ByQueue)>,
    /// The end of the log, of which it is not sure that the disk has it.
    pub(super) unsure: Option<Unsure>,
    /// Segments that nothing refers to any more.
    pub(super) leftover: Vec<SegmentHeader>,
    /// Segments whose header or length is to be put right, if what is damaged is to be gone on without.
    repairs: Vec<SegmentHeader>,
    /// What is damaged, a line each.
    pub(super) damage: Vec<String>,
    /// The priority levels of queues that have more than one.
    levels: HashMap<QueueId, Levels>,
}

/// Batches that may be in the system's memory only.
#[derive(Debug)]
pub(super) struct Unsure {
    pub(super) segment: u64,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// Segments after which progress is told.
const SEGMENTS_A_LINE: usize = 8;
/// Queues that a line of damage names.
const QUEUES_NAMED: usize = 10;

/// Reads a data directory.
///
/// # Errors
/// If it can't be read, or is of another version. What is damaged is in [`Recovery::damage`].
pub(super) fn recover(disk: &Arc<dyn Disk>) -> Result<Recovery, StorageError> {
    let names = disk.list().map_err(|error| io_error(&**disk, "list", "", error))?;
    let definitions = definition_log::read(&**disk)?;
    let queue_names = queue_names(&definitions);
    let mut replay = Replay {
        disk: Arc::clone(disk),
        queue_names: &queue_names,
        damage: definitions.damage.clone(),
        index: Index::default(),
        chain: Chain::default(),
        replay_from: 0,
        replayed: Vec::new(),
        unsure: None,
        durable_index: 0,
        repairs: Vec::new(),
    };
    replay.checkpoint(&names)?;
    let headers = replay.headers(&names)?;
    let leftover = replay.expect_segments(&headers);
    let behind: Vec<SegmentHeader> = headers.range(replay.replay_from..).map(|(_, header)| *header).collect();
    replay.segments(&behind)?;
    let Replay { damage, mut index, chain, replayed, unsure, repairs, .. } = replay;
    let above = index.queues.keys().map(|id| id.0 + 1).max().unwrap_or(0);
    let next_id = definitions.definitions.next_id().max(above);
    index.queues.retain(|id, _| queue_names.contains_key(id));
    let defined = Defined::new(&definitions.definitions);
    index.seen.retain(|cache| defined.has_cache(cache));
    index.count_live();
    index.queues.values_mut().for_each(super::index::Queue::forget_late);
    let levels = levels(&definitions);
    Ok(Recovery {
        names,
        definitions,
        next_id,
        index,
        chain,
        replayed,
        unsure,
        leftover,
        repairs,
        damage,
        levels,
    })
}

fn queue_names(read: &DefinitionsRead) -> HashMap<QueueId, String> {
    let queues = read.definitions.queues().map(|(id, definition)| {
        let Definition::QueueDeclared { name, virtual_host, .. } = definition else {
            return (id, String::new());
        };
        (id, format!("'{name}' in vhost '{virtual_host}'"))
    });
    queues.collect()
}

fn levels(read: &DefinitionsRead) -> HashMap<QueueId, Levels> {
    let levels = |definition: &Definition| match definition {
        Definition::QueueDeclared { arguments, .. } => {
            priority_levels(arguments).filter(|levels| levels.highest > 0)
        }
        _ => None,
    };
    read.definitions.queues().filter_map(|(id, definition)| Some((id, levels(definition)?))).collect()
}

/// Queues by name, as far as there is room in a line.
fn describe(names: &HashMap<QueueId, String>, queues: BTreeSet<QueueId>) -> String {
    let named: Vec<String> =
        queues.iter().filter_map(|id| names.get(id).cloned()).take(QUEUES_NAMED).collect();
    match (queues.len(), named.len()) {
        (_, 0) => "queues that can't be told".to_owned(),
        (all, shown) if all > shown => format!("queues {} and {} more", named.join(", "), all - shown),
        _ => format!("queues {}", named.join(", ")),
    }
}

struct Replay<'a> {
    disk: Arc<dyn Disk>,
    queue_names: &'a HashMap<QueueId, String>,
    damage: Vec<String>,
    index: Index,
    chain: Chain,
    replay_from: u64,
    replayed: Vec<(SegmentHeader, positions::ByQueue)>,
    unsure: Option<Unsure>,
    /// The last batch that is known to have been durable.
    durable_index: u64,
    repairs: Vec<SegmentHeader>,
}

/// How the batches of a segment end.
struct SegmentEnd {
    offset: u64,
    what: String,
}

impl Replay<'_> {
    fn failed(&self, name: &str) -> impl Fn(io::Error) -> StorageError + use<> {
        let (disk, name) = (Arc::clone(&self.disk), name.to_owned());
        move |error| io_error(&*disk, "read", &name, error)
    }

    fn path(&self, name: &str) -> String {
        self.disk.path(name).display().to_string()
    }

    /// Begins with the newest checkpoint.
    fn checkpoint(&mut self, names: &[String]) -> Result<(), StorageError> {
        let newest = names.iter().filter(|name| checkpoint::replay_from(name).is_some()).max();
        let Some(name) = newest else { return Ok(()) };
        let read = || {
            let file = self.disk.open(name)?;
            let mut octets = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
            file.read_exact_at(&mut octets, 0)?;
            Ok(octets)
        };
        let octets = read().map_err(self.failed(name))?;
        match checkpoint::decode(&octets) {
            Some(checkpoint) => {
                self.index = checkpoint.index;
                self.chain = checkpoint.chain;
                self.durable_index = checkpoint.chain.index;
                self.replay_from = checkpoint.replay_from;
            }
            None => {
                let from = checkpoint::replay_from(name).unwrap_or(0);
                self.damage.push(format!(
                    "{} is damaged: which messages of the segments before {from} are still there is not known; all of \
                     them come back, those that were acknowledged too",
                    self.path(name)
                ));
            }
        }
        Ok(())
    }

    fn headers(&mut self, names: &[String]) -> Result<BTreeMap<u64, SegmentHeader>, StorageError> {
        let mut headers = BTreeMap::new();
        for id in names.iter().filter_map(|name| id_of(name)) {
            let name = segment_name(id);
            let read = self.disk.open(&name).and_then(|file| Ok((SegmentHeader::read(&*file)?, file.len()?)));
            let (header, len) = read.map_err(self.failed(&name))?;
            if let HeaderFound::Sound(sound @ SegmentHeader { capacity, .. }) = header
                && len < capacity
            {
                self.repairs.push(sound);
                let path = self.path(&name);
                self.damage
                    .push(format!("{path} has {len} octets of {capacity}: what was behind them is lost"));
            }
            match header {
                HeaderFound::Sound(header) if header.id == id => {
                    headers.insert(id, header);
                }
                HeaderFound::Version(found) => return Err(other_version(&*self.disk, &name, found)),
                HeaderFound::Sound(_) | HeaderFound::Damaged => {
                    let known = self.index.segments.get(&id).filter(|segment| segment.live > 0);
                    let known = known.map(|segment| segment.header);
                    let loss = match known {
                        Some(_) => "the checkpoint has it too, so nothing is lost",
                        None => "everything in the segment is lost",
                    };
                    if known.is_some() || id >= self.replay_from {
                        let path = self.path(&name);
                        self.damage.push(format!("{path} at offset 0: the header is damaged; {loss}"));
                    }
                    self.repairs.extend(known);
                    headers.extend(known.map(|header| (id, header)));
                }
            }
        }
        Ok(headers)
    }

    /// Says which segments the checkpoint counts on are missing, and returns those that it does not know.
    fn expect_segments(&mut self, headers: &BTreeMap<u64, SegmentHeader>) -> Vec<SegmentHeader> {
        let missing: Vec<u64> = self
            .index
            .segments
            .values()
            .filter(|segment| segment.live > 0 && headers.get(&segment.header.id) != Some(&segment.header))
            .map(|segment| segment.header.id)
            .collect();
        for id in missing {
            let lost = self.index.remove_segment(id);
            let count: u64 = lost.iter().map(|(_, count)| count).sum();
            let queues = self.describe(lost.into_iter().map(|(queue, _)| queue));
            self.damage.push(format!(
                "{} is missing or damaged: {count} messages of {queues} are lost",
                self.path(&segment_name(id))
            ));
        }
        let before = headers.range(..self.replay_from);
        before.filter(|(id, _)| !self.index.segments.contains_key(id)).map(|(_, header)| *header).collect()
    }

    fn describe(&self, queues: impl Iterator<Item = QueueId>) -> String {
        describe(self.queue_names, queues.collect())
    }

    /// Reads segments, one after the other.
    fn segments(&mut self, headers: &[SegmentHeader]) -> Result<(), StorageError> {
        for (number, header) in headers.iter().enumerate() {
            if number > 0 && number.is_multiple_of(SEGMENTS_A_LINE) {
                info!("recovering: {number} of {} segments read", headers.len());
            }
            self.index.add_segment(*header);
            let mut offset = SEGMENT_HEADER_LEN;
            loop {
                let end = self.batches(header, offset)?;
                let Some(next) = self.after(header, &end, &headers[number + 1..])? else { break };
                offset = next;
            }
            let positions = self.index.positions(header.id);
            self.index.forget_positions(header.id);
            self.replayed.push((*header, positions));
        }
        Ok(())
    }

    /// Applies batches from that offset, for as long as each follows the one before.
    fn batches(&mut self, header: &SegmentHeader, mut offset: u64) -> Result<SegmentEnd, StorageError> {
        let name = segment_name(header.id);
        let failed = self.failed(&name);
        let file = self.disk.open(&name).map_err(&failed)?;
        let mut reader = BatchReader::new(file, header.salt).map_err(&failed)?;
        loop {
            let what = match reader.read(offset).map_err(&failed)? {
                Found::Batch(batch)
                    if batch.header.index == self.chain.index + 1
                        && batch.header.previous_crc == self.chain.crc =>
                {
                    for (at, raw) in batch.records() {
                        let len = (RECORD_HEADER_LEN + raw.payload.len()) as u32;
                        let place = Place { segment: header.id, offset: offset + at, len };
                        match Record::decode(&raw) {
                            Some(record) => self.index.replay(&record, place),
                            None => self.damage.push(format!(
                                "{} at offset {}: a record can't be understood",
                                self.disk.path(&name).display(),
                                place.offset
                            )),
                        }
                    }
                    self.durable_index = self.durable_index.max(batch.header.durable_index);
                    self.note_unsure(header.id, offset, &batch.header);
                    self.chain = batch.header.chain();
                    offset += batch.header.len;
                    continue;
                }
                Found::Batch(batch) => {
                    format!("batch {} lies where {} should", batch.header.index, self.chain.index + 1)
                }
                Found::Broken(broken) if broken.header.index == self.chain.index + 1 => {
                    self.describe_broken(&broken)
                }
                Found::Broken(_) | Found::Nothing => format!("batch {} is not there", self.chain.index + 1),
            };
            return Ok(SegmentEnd { offset, what });
        }
    }

    /// Notes from where on the log may not be on the disk: from the first batch that no later one calls durable.
    fn note_unsure(&mut self, segment: u64, offset: u64, header: &super::batch::Header) {
        let end = offset + header.len;
        match &mut self.unsure {
            Some(unsure) if unsure.segment == segment && header.durable_index < header.index - 1 => {
                unsure.end = end
            }
            unsure => *unsure = Some(Unsure { segment, start: offset, end }),
        }
    }

    fn describe_broken(&self, broken: &Broken<'_>) -> String {
        let (mut damaged, mut queues, mut read) = (0, BTreeSet::new(), 0);
        for (_, octets, record) in broken.records() {
            read += 1;
            if let Err(RecordError::Checksum) = record {
                damaged += 1;
                let targets = readable_targets(octets);
                queues.extend(targets.into_iter().map(|target: Target| target.queue));
            }
        }
        let unread = u64::from(broken.header.record_count).saturating_sub(read);
        format!(
            "batch {} is damaged: {} of its {} records, of {}",
            broken.header.index,
            damaged + unread,
            broken.header.record_count,
            self.describe(queues.into_iter())
        )
    }

    /// What comes after the end of the batches in a segment: `None` to go on with the next segment, or the offset to go on
    /// from, when what lies there is damaged.
    fn after(
        &mut self,
        header: &SegmentHeader,
        end: &SegmentEnd,
        later: &[SegmentHeader],
    ) -> Result<Option<u64>, StorageError> {
        let name = segment_name(header.id);
        let failed = self.failed(&name);
        if self.is_continued(later)? {
            return Ok(None);
        }
        let file = self.disk.open(&name).map_err(&failed)?;
        let mut reader = BatchReader::new(file, header.salt).map_err(&failed)?;
        let mut durable_index = reader.highest_durable_after(end.offset).map_err(&failed)?.unwrap_or(0);
        for header in later {
            let failed = self.failed(&segment_name(header.id));
            let file = self.disk.open(&segment_name(header.id)).map_err(&failed)?;
            let mut reader = BatchReader::new(file, header.salt).map_err(&failed)?;
            let highest = reader.highest_durable_after(SEGMENT_HEADER_LEN).map_err(&failed)?;
            durable_index = durable_index.max(highest.unwrap_or(0));
        }
        self.durable_index = self.durable_index.max(durable_index);
        if self.durable_index <= self.chain.index {
            return Ok(None);
        }
        self.damage.push(format!(
            "{} at offset {}: {}, but batches up to {} were durable",
            self.path(&name),
            end.offset,
            end.what,
            self.durable_index
        ));
        // What is sound in it is not lost.
        if let Found::Broken(broken) = reader.read(end.offset).map_err(&failed)?
            && broken.header.index == self.chain.index + 1
        {
            for (at, raw) in broken.sound_records() {
                let len = (RECORD_HEADER_LEN + raw.payload.len()) as u32;
                let place = Place { segment: header.id, offset: end.offset + at, len };
                if let Some(record) = Record::decode(&raw) {
                    self.index.replay(&record, place);
                }
            }
        }
        // Go on with the next sound batch, wherever it is; each is taken as it is after a gap.
        if let Some(next) = reader.next_sound(end.offset).map_err(&failed)? {
            if let Found::Batch(batch) = reader.read(next).map_err(&failed)? {
                self.chain = Chain { index: batch.header.index - 1, crc: batch.header.previous_crc };
            }
            return Ok(Some(next));
        }
        self.skip_to(later)?;
        Ok(None)
    }

    /// Whether a later segment goes on where the chain stands.
    fn is_continued(&self, later: &[SegmentHeader]) -> Result<bool, StorageError> {
        Ok(self.first_batch(later)?.is_some_and(|(index, crc)| Chain { index: index - 1, crc } == self.chain))
    }

    /// The index and the `previous_crc` of the first batch in these segments.
    fn first_batch(&self, later: &[SegmentHeader]) -> Result<Option<(u64, u32)>, StorageError> {
        for header in later {
            let failed = self.failed(&segment_name(header.id));
            let file = self.disk.open(&segment_name(header.id)).map_err(&failed)?;
            let mut reader = BatchReader::new(file, header.salt).map_err(&failed)?;
            if let Found::Batch(batch) = reader.read(SEGMENT_HEADER_LEN).map_err(&failed)? {
                return Ok(Some((batch.header.index, batch.header.previous_crc)));
            }
        }
        Ok(None)
    }

    /// Moves the chain to where the next segment begins.
    fn skip_to(&mut self, later: &[SegmentHeader]) -> Result<(), StorageError> {
        if let Some((index, crc)) = self.first_batch(later)? {
            self.chain = Chain { index: index - 1, crc };
        }
        Ok(())
    }
}

impl Recovery {
    /// Makes durable what was read and may not be, and returns what to put back into queues.
    ///
    /// # Errors
    /// If it can't be read or written.
    pub(super) fn make_durable(&self, disk: &dyn Disk) -> Result<Vec<RecoveredQueue>, StorageError> {
        // A process that was killed may have left names that are not durable, and what is done now builds on them.
        disk.sync_directory().map_err(|error| io_error(disk, "sync", "", error))?;
        for header in &self.repairs {
            let name = segment_name(header.id);
            let repaired = disk.open(&name).and_then(|file| header.repair(&*file));
            repaired.map_err(|error| io_error(disk, "repair", &name, error))?;
        }
        if let Some(Unsure { segment, start, end }) = &self.unsure {
            let name = segment_name(*segment);
            let written = disk.open(&name).and_then(|file| definition_log::rewrite(&*file, *start, *end));
            written.map_err(|error| io_error(disk, "write", &name, error))?;
        }
        for (header, positions) in &self.replayed {
            // They are made again when needed, so a full disk is no reason not to start.
            if let Err(error) = positions::write(disk, header, positions)
                && !is_full(&error)
            {
                return Err(io_error(disk, "write the positions of", &segment_name(header.id), error));
            }
        }
        Backlogs { disk, index: &self.index, levels: &self.levels }.queues()
    }

    /// The keys by which duplicates are known.
    pub(super) fn seen(&self) -> Vec<RecoveredCache> {
        let caches = self.index.seen.caches();
        caches.map(|(cache, keys)| RecoveredCache { cache, keys: keys.collect() }).collect()
    }

    /// What there is, and what of it is damaged.
    ///
    /// # Errors
    /// If it can't be read.
    pub(super) fn report(&self, disk: &dyn Disk) -> Result<Report, StorageError> {
        let mut report = Report { damage: self.damage.clone(), ..Report::default() };
        let messages: u64 = self.index.queues.values().map(super::index::Queue::live).sum();
        let segments = self.index.segments.len();
        report.contents.push(format!("{} durable queues", self.definitions.definitions.queues().count()));
        report.contents.push(format!("{messages} messages, counted once for each queue"));
        report
            .contents
            .push(format!("{segments} segments, {} of them behind the checkpoint", self.replayed.len()));
        for segment in self.index.segments.values().filter(|segment| segment.live > 0) {
            let name = segment_name(segment.header.id);
            let lost = self.unreadable(disk, &segment.header);
            let lost = lost.map_err(|error| io_error(disk, "read", &name, error))?;
            if let Some((count, queues)) = lost {
                let queue_names = queue_names(&self.definitions);
                let path = disk.path(&name);
                let queues = describe(&queue_names, queues);
                report.damage.push(format!("{}: {count} messages of {queues} can't be read", path.display()));
            }
        }
        Ok(report)
    }

    /// How many live messages of a segment have no sound record, and of which queues they are.
    fn unreadable(
        &self,
        disk: &dyn Disk,
        header: &SegmentHeader,
    ) -> io::Result<Option<(u64, BTreeSet<QueueId>)>> {
        let sound = positions::scan(disk, header)?;
        let (mut count, mut queues) = (0, BTreeSet::new());
        for (id, queue) in &self.index.queues {
            let positions = sound.get(id).map_or(&[][..], Vec::as_slice);
            for run in queue.runs.iter().filter(|run| run.segment == header.id) {
                let Some((first, last)) = run.bounds() else { continue };
                let is_lost = |sequence: &u64| {
                    positions.binary_search_by_key(sequence, |position| position.sequence).is_err()
                };
                let lost = run.sequences(super::record::Run { first, last }).filter(is_lost).count() as u64;
                if lost > 0 {
                    count += lost;
                    queues.insert(*id);
                }
            }
        }
        Ok((count > 0).then_some((count, queues)))
    }
}
