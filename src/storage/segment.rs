//! Segments: the files that the log is made of.
//!
//! A segment has a header of 4096 octets (all numbers little endian), batches behind it, and what it held before, or
//! zeros, behind them:
//!
//! ```text
//! 0           8             12        16       24         32             40
//! | magic u64 | version u32 | crc u32 | id u64 | salt u64 | capacity u64 | zeros | batches from 4096
//! ```
//!
//! `crc` is the CRC-32 of octets 0 to 12 and 16 to 40. A segment of an earlier `version` has no records that came later, and
//! is otherwise the same. Segments are named by their `id`, which only rises. One that nothing
//! is live in becomes a spare: a file that is as long as a segment and whose blocks are written already, so that using
//! it again costs no allocation, can't run out of space, and is synced in half the time. Some spares are always there.

use std::{io, sync::Arc};

use super::{
    FORMAT_VERSION, StorageError,
    disk::{Disk, DiskFile},
    is_readable,
    record::{u32_at, u64_at},
};

/// Where batches begin.
pub(super) const SEGMENT_HEADER_LEN: u64 = 4096;
const MAGIC: u64 = u64::from_le_bytes(*b"LEVERETS");
/// Octets of the header that mean something.
const FIELDS_LEN: usize = 40;
/// Spares that are made ahead: the log goes on with them when the disk is full.
const SPARES_MIN: usize = 2;
/// Spares that are kept; more are removed.
const SPARES_MAX: usize = 4;

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) id: u64,
    pub(super) salt: u64,
    /// Its length in octets.
    pub(super) capacity: u64,
}

/// What the header of a file turns out to be.
#[derive(Debug)]
pub(super) enum HeaderFound {
    Sound(SegmentHeader),
    /// Not one of ours, or damaged.
    Damaged,
    /// One of a later version.
    Version(u32),
}

impl SegmentHeader {
    /// The header as octets.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut octets = vec![0; SEGMENT_HEADER_LEN as usize];
        octets[..8].copy_from_slice(&MAGIC.to_le_bytes());
        octets[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        octets[16..24].copy_from_slice(&self.id.to_le_bytes());
        octets[24..32].copy_from_slice(&self.salt.to_le_bytes());
        octets[32..40].copy_from_slice(&self.capacity.to_le_bytes());
        let crc = checksum(&octets);
        octets[12..16].copy_from_slice(&crc.to_le_bytes());
        octets
    }

    /// Gives a segment its header and its length again.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn repair(&self, file: &dyn DiskFile) -> io::Result<()> {
        file.write_all_at(&self.encode(), 0)?;
        file.allocate(self.capacity)?;
        file.sync()
    }

    /// Reads the header of a file.
    ///
    /// # Errors
    /// If the system can't read.
    pub(super) fn read(file: &dyn DiskFile) -> io::Result<HeaderFound> {
        let mut octets = [0; FIELDS_LEN];
        if file.len()? < SEGMENT_HEADER_LEN {
            return Ok(HeaderFound::Damaged);
        }
        file.read_exact_at(&mut octets, 0)?;
        let version = u32_at(&octets, 8);
        Ok(if u64_at(&octets, 0) != MAGIC || checksum(&octets) != u32_at(&octets, 12) {
            HeaderFound::Damaged
        } else if !is_readable(version) {
            HeaderFound::Version(version)
        } else {
            let (id, salt, capacity) = (u64_at(&octets, 16), u64_at(&octets, 24), u64_at(&octets, 32));
            HeaderFound::Sound(Self { id, salt, capacity })
        })
    }
}

fn checksum(octets: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&octets[..12]);
    hasher.update(&octets[16..FIELDS_LEN]);
    hasher.finalize()
}

/// The name of a segment's file.
pub(super) fn segment_name(id: u64) -> String {
    format!("seg-{id:010}.log")
}

/// The name of the file with the positions of a segment's messages.
pub(super) fn positions_name(id: u64) -> String {
    format!("seg-{id:010}.idx")
}

/// The id of the segment whose file has that name.
pub(super) fn id_of(name: &str) -> Option<u64> {
    name.strip_prefix("seg-")?.strip_suffix(".log")?.parse().ok()
}

fn spare_name(number: u64) -> String {
    format!("spare-{number:010}.log")
}

fn spare_number(name: &str) -> Option<u64> {
    name.strip_prefix("spare-")?.strip_suffix(".log")?.parse().ok()
}

#[derive(Clone, Copy, Debug)]
struct Spare {
    number: u64,
    /// Whether all its blocks are known to have been written.
    is_written: bool,
}

/// The spares of a directory.
#[derive(Debug)]
pub(super) struct Spares {
    disk: Arc<dyn Disk>,
    capacity: u64,
    spares: Vec<Spare>,
    next: u64,
}

impl Spares {
    /// The spares among these files. Those of another length are removed.
    pub(super) fn open(disk: Arc<dyn Disk>, capacity: u64, names: &[String]) -> Result<Self, StorageError> {
        let mut spares = Self { disk, capacity, spares: Vec::new(), next: 1 };
        for number in names.iter().filter_map(|name| spare_number(name)) {
            spares.next = spares.next.max(number + 1);
            let name = spare_name(number);
            let len = spares.disk.open(&name).and_then(|file| file.len());
            if len.map_err(|error| io_error(&*spares.disk, "open", &name, error))? == capacity {
                spares.spares.push(Spare { number, is_written: false });
            } else {
                spares.remove(&name)?;
            }
        }
        Ok(spares)
    }

    /// Makes spares until there are enough, or the disk is full.
    pub(super) fn fill(&mut self) -> Result<(), StorageError> {
        while self.spares.len() < SPARES_MIN {
            match self.make() {
                Err(StorageError::Io { source, .. }) if is_full(&source) => break,
                made => made?,
            }
        }
        Ok(())
    }

    /// Whether there are fewer than there should be.
    pub(super) fn are_short(&self) -> bool {
        self.spares.len() < SPARES_MIN
    }

    fn make(&mut self) -> Result<(), StorageError> {
        let number = self.make_file(self.capacity)?;
        self.spares.push(Spare { number, is_written: false });
        Ok(())
    }

    fn make_file(&mut self, capacity: u64) -> Result<u64, StorageError> {
        let number = self.next;
        let name = spare_name(number);
        let failed = |error| io_error(&*self.disk, "make room for", &name, error);
        let file = self.disk.create(&name).map_err(failed)?;
        if let Err(error) = file.allocate(capacity) {
            let failed = failed(error);
            self.remove(&name)?;
            return Err(failed);
        }
        self.next += 1;
        Ok(number)
    }

    /// Makes a segment that a batch of `len` octets fits in, durably. Returns its file, its header, and whether all its
    /// blocks are known to have been written before.
    pub(super) fn take(
        &mut self,
        id: u64,
        salt: u64,
        len: u64,
    ) -> Result<(Arc<dyn DiskFile>, SegmentHeader, bool), StorageError> {
        let needed = SEGMENT_HEADER_LEN + len;
        let capacity = self.capacity.max(needed);
        let spare = if needed <= self.capacity {
            if self.spares.is_empty() {
                self.make()?;
            }
            self.spares.pop().expect("invariant: one was made")
        } else {
            Spare { number: self.make_file(capacity)?, is_written: false }
        };
        let header = SegmentHeader { id, salt, capacity };
        let name = segment_name(id);
        let made = self.use_spare(&spare_name(spare.number), &name, &header);
        let file = made.map_err(|(action, error)| io_error(&*self.disk, action, &name, error))?;
        Ok((file, header, spare.is_written))
    }

    fn use_spare(
        &self,
        spare: &str,
        name: &str,
        header: &SegmentHeader,
    ) -> Result<Arc<dyn DiskFile>, (&'static str, io::Error)> {
        let failed = |action| move |error| (action, error);
        let file = self.disk.open(spare).map_err(failed("open"))?;
        file.write_all_at(&header.encode(), 0).map_err(failed("write"))?;
        file.sync().map_err(failed("sync"))?;
        self.disk.rename(spare, name).map_err(failed("make"))?;
        self.disk.sync_directory().map_err(failed("sync the directory of"))?;
        Ok(file)
    }

    /// Takes back a segment that nothing is live in. The caller syncs the directory.
    pub(super) fn give_back(&mut self, header: &SegmentHeader) -> Result<(), StorageError> {
        let name = segment_name(header.id);
        if header.capacity != self.capacity || self.spares.len() >= SPARES_MAX {
            return self.remove(&name);
        }
        let spare = spare_name(self.next);
        self.disk.rename(&name, &spare).map_err(|error| io_error(&*self.disk, "rename", &name, error))?;
        self.spares.push(Spare { number: self.next, is_written: true });
        self.next += 1;
        Ok(())
    }

    /// Gives up a spare, to make room for something smaller; false if there is none.
    pub(super) fn sacrifice(&mut self) -> Result<bool, StorageError> {
        match self.spares.pop() {
            Some(spare) => self.remove(&spare_name(spare.number)).map(|()| true),
            None => Ok(false),
        }
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.disk.remove(name).map_err(|error| io_error(&*self.disk, "remove", name, error))
    }
}

/// What the system says of a file.
pub(super) fn io_error(disk: &dyn Disk, action: &'static str, name: &str, source: io::Error) -> StorageError {
    StorageError::Io { action, path: disk.path(name), source }
}

/// A file of another version.
pub(super) fn other_version(disk: &dyn Disk, name: &str, found: u32) -> StorageError {
    StorageError::Version { path: disk.path(name), found }
}

/// Whether there is no more room for what was to be written, on the disk or under a quota.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
