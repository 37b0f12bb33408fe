//! The log of definitions: what virtual hosts, users, permissions, exchanges, queues and bindings there are.
//!
//! One file, `definitions.log`, in the form of a segment (`storage/segment.rs`, `storage/batch.rs`) that grows as it needs
//! to. It is read as a whole at the start. When it has grown to several times what it says, it is written anew beside
//! itself and renamed.

use std::{io, sync::Arc};

use rand::Rng as _;
use tracing::error;

use super::{
    StorageError,
    batch::{self, BatchReader, Chain, Found},
    checkpoint,
    definitions::{self, Definitions},
    disk::{Disk, DiskFile},
    record::{Record, Records},
    segment::{HeaderFound, SEGMENT_HEADER_LEN, SegmentHeader, id_of, io_error, is_full, other_version},
};
use crate::broker::definition::Definition;

const NAME: &str = "definitions.log";
const NEW: &str = "definitions.new";
/// Octets below which the file is never written anew.
const COMPACT_BYTES_MIN: u64 = 16 << 20;
/// How many times what it says the file may take.
const COMPACT_FACTOR: u64 = 4;
/// Octets that there is always room for.
const ALLOCATED_AHEAD: u64 = 256 << 10;
/// Definitions in one batch of a file that is written anew.
const DEFINITIONS_IN_BATCH: usize = 4096;

/// The file as the log thread has it.
#[derive(Debug)]
pub(super) struct DefinitionLog {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    salt: u64,
    chain: Chain,
    /// The index of the last batch that is durable.
    durable_index: u64,
    end: u64,
    /// Up to where there is room for it.
    allocated: u64,
    /// How long it was when it was written anew.
    compact_end: u64,
}

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct DefinitionsRead {
    pub(super) definitions: Definitions,
    /// Where it may be continued; `None` if there is no file, or not a sound one.
    sound: Option<Sound>,
    /// What is damaged, a line each.
    pub(super) damage: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
struct Sound {
    salt: u64,
    chain: Chain,
    /// From where on the last start may have found what was never synced.
    unsure: u64,
    end: u64,
}

/// Reads the file and changes nothing.
pub(super) fn read(disk: &dyn Disk) -> Result<DefinitionsRead, StorageError> {
    let failed = |error| io_error(disk, "read", NAME, error);
    let file = match disk.open(NAME) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return missing(disk),
        Err(error) => return Err(failed(error)),
    };
    let header = match SegmentHeader::read(&*file).map_err(failed)? {
        HeaderFound::Sound(header) => header,
        HeaderFound::Version(found) => return Err(other_version(disk, NAME, found)),
        HeaderFound::Damaged => {
            let damage =
                format!("{} has no sound header: all definitions are lost", disk.path(NAME).display());
            return Ok(DefinitionsRead { damage: vec![damage], ..DefinitionsRead::default() });
        }
    };
    let mut read = DefinitionsRead::default();
    read.batches(disk, file, header.salt).map_err(failed)?;
    if read.sound.is_some_and(|sound| sound.chain.index == 0) {
        let damage = format!("{} is empty: all definitions are lost", disk.path(NAME).display());
        read.damage.push(damage);
    }
    Ok(read)
}

/// Without the file a directory is new, or damaged: the file is there before any segment is.
fn missing(disk: &dyn Disk) -> Result<DefinitionsRead, StorageError> {
    let names = disk.list().map_err(|error| io_error(disk, "list", "", error))?;
    let is_used = |name: &String| id_of(name).is_some() || checkpoint::replay_from(name).is_some();
    let mut read = DefinitionsRead::default();
    if names.iter().any(is_used) {
        let damage = format!("{} is missing: all definitions are lost", disk.path(NAME).display());
        read.damage.push(damage);
    }
    Ok(read)
}

impl DefinitionsRead {
    fn batches(&mut self, disk: &dyn Disk, file: Arc<dyn DiskFile>, salt: u64) -> io::Result<()> {
        let mut reader = BatchReader::new(file, salt)?;
        let mut at =
            Sound { salt, chain: Chain::default(), unsure: SEGMENT_HEADER_LEN, end: SEGMENT_HEADER_LEN };
        let mut durable_index = 0;
        loop {
            let what = match reader.read(at.end)? {
                Found::Batch(batch) if follows(&batch.header, at.chain) => {
                    durable_index = durable_index.max(batch.header.durable_index);
                    if batch.header.durable_index == at.chain.index {
                        at.unsure = at.end;
                    }
                    at.chain = batch.header.chain();
                    at.end += batch.header.len;
                    let records = batch.records().map(|(_, record)| record);
                    for raw in records {
                        self.apply(&raw);
                    }
                    continue;
                }
                Found::Batch(batch) => {
                    format!("batch {} lies where {} should", batch.header.index, at.chain.index + 1)
                }
                Found::Broken(broken) => format!("batch {} is not sound", broken.header.index),
                Found::Nothing => "nothing".to_owned(),
            };
            let durable_index = durable_index.max(reader.highest_durable_after(at.end)?.unwrap_or(0));
            if durable_index <= at.chain.index {
                self.sound = Some(at);
                return Ok(());
            }
            self.damage.push(format!(
                "{} at offset {}: {what}, but definitions up to batch {durable_index} were durable; some are lost",
                disk.path(NAME).display(),
                at.end
            ));
            let Some(next) = reader.next_sound(at.end)? else { return Ok(()) };
            // What comes behind is taken as it is: a gap has been reported.
            if let Found::Batch(batch) = reader.read(next)? {
                at.chain = Chain { index: batch.header.index - 1, crc: batch.header.previous_crc };
            }
            at.end = next;
        }
    }

    fn apply(&mut self, raw: &super::record::RawRecord<'_>) {
        match Record::decode(raw) {
            Some(Record::Definition(octets)) => match definitions::decode(octets) {
                Ok(definition) => self.definitions.apply(definition),
                Err(error) => self.damage.push(format!("a definition can't be read: {error}")),
            },
            Some(Record::NextId(id)) => self.definitions.raise_next_id(id),
            _ => {}
        }
    }
}

fn follows(header: &batch::Header, chain: Chain) -> bool {
    header.index == chain.index + 1 && header.previous_crc == chain.crc
}

impl DefinitionLog {
    /// Goes on behind what was read, or begins anew with it. Returns what is defined.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        read: DefinitionsRead,
    ) -> Result<(Self, Vec<Definition>), StorageError> {
        let sound = read.sound.filter(|_| read.damage.is_empty());
        let next_id = read.definitions.next_id();
        let definitions = read.definitions.into_definitions();
        let log = match sound {
            Some(sound) => Self::go_on(disk, sound)?,
            None => Self::write_anew(disk, &definitions, next_id)?,
        };
        Ok((log, definitions))
    }

    fn go_on(disk: Arc<dyn Disk>, sound: Sound) -> Result<Self, StorageError> {
        let Sound { salt, chain, unsure, end } = sound;
        let file = disk.open(NAME).map_err(|error| io_error(&*disk, "open", NAME, error))?;
        rewrite(&*file, unsure, end).map_err(|error| io_error(&*disk, "write", NAME, error))?;
        Ok(Self { disk, file, salt, chain, durable_index: chain.index, end, allocated: end, compact_end: 0 })
    }

    /// Appends definitions and makes them durable.
    pub(super) fn append(&mut self, definitions: &[&Definition], now_ms: u64) -> Result<(), StorageError> {
        let mut records = Records::default();
        for definition in definitions {
            records.definition(|octets| definitions::encode(definition, octets));
        }
        self.write(&mut records, now_ms)?;
        self.sync()?;
        self.mark()?;
        if self.end > (self.compact_end * COMPACT_FACTOR).max(COMPACT_BYTES_MIN) {
            self.compact()?;
        }
        Ok(())
    }

    /// Writes the file anew. What is damaged stays as it is, to be found by the next start; a full disk is no reason to fail.
    fn compact(&mut self) -> Result<(), StorageError> {
        let read = read(&*self.disk)?;
        self.compact_end = self.end;
        if let Some(damage) = read.damage.first() {
            error!("{damage}");
            return Ok(());
        }
        let next_id = read.definitions.next_id();
        match Self::write_anew(self.disk.clone(), &read.definitions.into_definitions(), next_id) {
            Err(StorageError::Io { source, .. }) if is_full(&source) => {}
            written => *self = written?,
        }
        Ok(())
    }

    fn write_anew(
        disk: Arc<dyn Disk>,
        definitions: &[Definition],
        next_id: u64,
    ) -> Result<Self, StorageError> {
        let failed = |action| move |error| (action, error);
        let salt = rand::rng().random();
        let header = SegmentHeader { id: 0, salt, capacity: 0 };
        let created = disk.create(NEW).and_then(|file| {
            file.write_all_at(&header.encode(), 0)?;
            Ok(file)
        });
        let file = created.map_err(|error| io_error(&*disk, "write", NEW, error))?;
        let (chain, end) = (Chain::default(), SEGMENT_HEADER_LEN);
        let mut log = Self { disk, file, salt, chain, durable_index: 0, end, allocated: end, compact_end: 0 };
        let mut records = Records::default();
        records.next_id(next_id);
        for batch in definitions.chunks(DEFINITIONS_IN_BATCH) {
            for definition in batch {
                records.definition(|octets| definitions::encode(definition, octets));
            }
            log.write(&mut records, 0)?;
        }
        if !records.is_empty() {
            log.write(&mut records, 0)?;
        }
        log.mark()?;
        log.sync()?;
        let named = log
            .disk
            .rename(NEW, NAME)
            .map_err(failed("make"))
            .and_then(|()| log.disk.sync_directory().map_err(failed("sync the directory of")));
        named.map_err(|(action, error)| io_error(&*log.disk, action, NAME, error))?;
        log.compact_end = log.end;
        Ok(log)
    }

    /// Says that everything so far is durable (or will be before the file has its name), so that damage to the last batch is told from what a crash leaves.
    fn mark(&mut self) -> Result<(), StorageError> {
        self.durable_index = self.chain.index;
        self.write(&mut Records::default(), 0)
    }

    fn write(&mut self, records: &mut Records, now_ms: u64) -> Result<(), StorageError> {
        let (header, chain) = batch::header(records, self.salt, self.chain, self.durable_index, now_ms);
        records.set_header(&header);
        self.allocate_ahead(records.len());
        for piece in records.pieces() {
            let written = self.file.write_all_at(piece, self.end);
            written.map_err(|error| io_error(&*self.disk, "write", NAME, error))?;
            self.end += piece.len() as u64;
        }
        records.clear();
        self.chain = chain;
        Ok(())
    }

    /// Makes room for what comes, so that a full disk does not stop definitions at once.
    fn allocate_ahead(&mut self, len: u64) {
        if self.end + len + batch::BATCH_HEADER_LEN <= self.allocated {
            return;
        }
        let allocated = self.end + len + ALLOCATED_AHEAD;
        // If there is no room, the write will say so.
        if self.file.allocate(allocated).is_ok() {
            self.allocated = allocated;
        }
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.file.sync().map_err(|error| io_error(&*self.disk, "sync", NAME, error))?;
        self.durable_index = self.chain.index;
        Ok(())
    }
}

/// Writes again what lies there, and syncs. After a crash the system may show what the disk does not have: it had
/// failed to write it, and had told the process that is gone.
pub(super) fn rewrite(file: &dyn DiskFile, start: u64, end: u64) -> io::Result<()> {
    const AT_A_TIME: u64 = 1 << 20;
    let mut at = start;
    while at < end {
        let mut octets = vec![0; AT_A_TIME.min(end - at) as usize];
        file.read_exact_at(&mut octets, at)?;
        file.write_all_at(&octets, at)?;
        at += octets.len() as u64;
    }
    file.sync()
}
