//! Batches: records that are written together and are there together after a crash, or not at all.
//!
//! A batch is a header of 64 octets and its records (see `storage/record.rs`); all numbers are little endian:
//!
//! ```text
//! 0           4         8          16        24          32         40
//! | magic u32 | crc u32 | salt u64 | len u64 | index u64 | term u64 | time_ms u64
//! 48                  56                 60                       64
//! | durable_index u64 | record_count u32 | previous_crc u32       | records, len - 64 octets
//! ```
//!
//! - `crc` is the CRC-32 of octets 8 to 64 and of the checksums of all records, which cover the rest.
//! - `salt` is that of the file, new each time a file is used: what a file held before can't be taken for a batch.
//! - `index` counts batches without a gap, and `previous_crc` is the `crc` of the batch before: a batch that is missing
//!   or another is noticed.
//! - `durable_index` is the last batch that was known to be durable when this one was written. Behind it a torn end is what
//!   a crash leaves; before it, damage.
//! - `term` is kept for replication, and 0.

use std::{io, sync::Arc};

use super::{
    disk::DiskFile,
    record::{self, ALIGNMENT, RawRecord, RecordError, Records, u32_at, u64_at},
};

/// The header in front of the records.
pub(super) const BATCH_HEADER_LEN: u64 = record::BATCH_HEADER_LEN as u64;
const MAGIC: u32 = u32::from_le_bytes(*b"LVBT");
/// How much is read from a file at a time.
const READ_LEN: u64 = 1 << 20;

/// Where a sequence of batches stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// The index of the last batch, 0 before the first.
    pub(super) index: u64,
    /// Its checksum.
    pub(super) crc: u32,
}

/// What a header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) crc: u32,
    pub(super) len: u64,
    pub(super) index: u64,
    pub(super) durable_index: u64,
    pub(super) record_count: u32,
    pub(super) previous_crc: u32,
}

impl Header {
    /// The place in the chain behind this batch.
    pub(super) fn chain(&self) -> Chain {
        Chain { index: self.index, crc: self.crc }
    }

    fn decode(octets: &[u8], salt: u64) -> Option<Self> {
        let len = u64_at(octets, 16);
        let is_ours = u32_at(octets, 0) == MAGIC && u64_at(octets, 8) == salt;
        (is_ours && len >= BATCH_HEADER_LEN && len.is_multiple_of(ALIGNMENT as u64)).then(|| Self {
            crc: u32_at(octets, 4),
            len,
            index: u64_at(octets, 24),
            durable_index: u64_at(octets, 48),
            record_count: u32_at(octets, 56),
            previous_crc: u32_at(octets, 60),
        })
    }
}

/// The header of a batch of these records, and where the chain stands behind it.
pub(super) fn header(
    records: &Records,
    salt: u64,
    chain: Chain,
    durable_index: u64,
    time_ms: u64,
) -> ([u8; BATCH_HEADER_LEN as usize], Chain) {
    let mut octets = [0; BATCH_HEADER_LEN as usize];
    let index = chain.index + 1;
    octets[..4].copy_from_slice(&MAGIC.to_le_bytes());
    octets[8..16].copy_from_slice(&salt.to_le_bytes());
    octets[16..24].copy_from_slice(&(BATCH_HEADER_LEN + records.len()).to_le_bytes());
    octets[24..32].copy_from_slice(&index.to_le_bytes());
    octets[40..48].copy_from_slice(&time_ms.to_le_bytes());
    octets[48..56].copy_from_slice(&durable_index.to_le_bytes());
    octets[56..60].copy_from_slice(&records.count.to_le_bytes());
    octets[60..64].copy_from_slice(&chain.crc.to_le_bytes());
    let crc = checksum(&octets, &records.checksums);
    octets[4..8].copy_from_slice(&crc.to_le_bytes());
    (octets, Chain { index, crc })
}

fn checksum(header: &[u8], record_checksums: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[8..]);
    hasher.update(record_checksums);
    hasher.finalize()
}

/// Reads batches from a file.
#[derive(Debug)]
pub(super) struct BatchReader {
    file: Arc<dyn DiskFile>,
    salt: u64,
    /// Where the file ends.
    end: u64,
    /// Where the octets of `buffer` lie.
    start: u64,
    buffer: Vec<u8>,
}

/// A batch that is sound.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) header: Header,
    records: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Its records, each with its offset from the start of the batch.
    pub(super) fn records(&self) -> impl Iterator<Item = (u64, RawRecord<'a>)> + use<'a> {
        let (mut rest, mut offset) = (self.records, BATCH_HEADER_LEN);
        std::iter::from_fn(move || {
            let (record, len) = RawRecord::read(rest).ok()?;
            let at = offset;
            rest = &rest[len..];
            offset += len as u64;
            Some((at, record))
        })
    }
}

/// What lies at a place in a file.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A batch.
    Batch(Batch<'a>),
    /// Nothing that was ever a batch of this file.
    Nothing,
    /// The header of a batch of this file, but the batch is not sound.
    Broken(Broken<'a>),
}

/// A batch of which something is wrong.
#[derive(Debug)]
pub(super) struct Broken<'a> {
    pub(super) header: Header,
    /// What of its records is in the file.
    pub(super) records: &'a [u8],
}

impl BatchReader {
    /// Reads the batches of a file with that salt.
    ///
    /// # Errors
    /// If the system can't tell how long the file is.
    pub(super) fn new(file: Arc<dyn DiskFile>, salt: u64) -> io::Result<Self> {
        let end = file.len()?;
        Ok(Self { file, salt, end, start: 0, buffer: Vec::new() })
    }

    /// What lies at that offset.
    ///
    /// # Errors
    /// If the system can't read.
    pub(super) fn read(&mut self, offset: u64) -> io::Result<Found<'_>> {
        let Some(header) = self.header(offset)? else { return Ok(Found::Nothing) };
        let available = header.len.min(self.end - offset);
        let salt_and_more: [u8; BATCH_HEADER_LEN as usize] =
            self.octets(offset, BATCH_HEADER_LEN)?.try_into().expect("invariant: a whole header");
        let records = &self.octets(offset, available)?[BATCH_HEADER_LEN as usize..];
        if available == header.len && is_sound(&salt_and_more, &header, records) {
            Ok(Found::Batch(Batch { header, records }))
        } else {
            Ok(Found::Broken(Broken { header, records }))
        }
    }

    /// The sound batch after that offset whose `durable_index` is the highest, if there is any sound one.
    ///
    /// # Errors
    /// If the system can't read.
    pub(super) fn highest_durable_after(&mut self, mut offset: u64) -> io::Result<Option<u64>> {
        let mut highest = None;
        while let Some(found) = self.next_header(offset)? {
            offset = found + ALIGNMENT as u64;
            if let Found::Batch(batch) = self.read(found)? {
                highest = highest.max(Some(batch.header.durable_index));
                offset = found + batch.header.len;
            }
        }
        Ok(highest)
    }

    /// The offset of the next sound batch after `offset`.
    ///
    /// # Errors
    /// If the system can't read.
    pub(super) fn next_sound(&mut self, offset: u64) -> io::Result<Option<u64>> {
        let mut at = offset + ALIGNMENT as u64;
        while let Some(found) = self.next_header(at)? {
            if matches!(self.read(found)?, Found::Batch(_)) {
                return Ok(Some(found));
            }
            at = found + ALIGNMENT as u64;
        }
        Ok(None)
    }

    /// The offset of the next header from `offset` on.
    fn next_header(&mut self, mut offset: u64) -> io::Result<Option<u64>> {
        while offset + BATCH_HEADER_LEN <= self.end {
            let len = READ_LEN.min(self.end - offset);
            let is_magic = |octets: &[u8]| u32_at(octets, 0) == MAGIC;
            let candidate = self.octets(offset, len)?.chunks_exact(ALIGNMENT).position(is_magic);
            match candidate {
                Some(at) => {
                    offset += (at * ALIGNMENT) as u64;
                    if self.header(offset)?.is_some() {
                        return Ok(Some(offset));
                    }
                    offset += ALIGNMENT as u64;
                }
                None => offset += len / ALIGNMENT as u64 * ALIGNMENT as u64,
            }
            if len < ALIGNMENT as u64 {
                break;
            }
        }
        Ok(None)
    }

    fn header(&mut self, offset: u64) -> io::Result<Option<Header>> {
        if offset + BATCH_HEADER_LEN > self.end {
            return Ok(None);
        }
        let salt = self.salt;
        Ok(Header::decode(self.octets(offset, BATCH_HEADER_LEN)?, salt))
    }

    /// Octets that are in the file.
    fn octets(&mut self, offset: u64, len: u64) -> io::Result<&[u8]> {
        let has = offset >= self.start && offset + len <= self.start + self.buffer.len() as u64;
        if !has {
            let read_len = len.max(READ_LEN).min(self.end - offset);
            self.buffer.resize(usize::try_from(read_len).map_err(io::Error::other)?, 0);
            self.file.read_exact_at(&mut self.buffer, offset)?;
            self.start = offset;
        }
        let at = usize::try_from(offset - self.start).map_err(io::Error::other)?;
        Ok(&self.buffer[at..at + usize::try_from(len).map_err(io::Error::other)?])
    }
}

fn is_sound(header_octets: &[u8], header: &Header, records: &[u8]) -> bool {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header_octets[8..]);
    let (mut rest, mut count) = (records, 0);
    while !rest.is_empty() {
        let Ok((record, len)) = RawRecord::read(rest) else { return false };
        hasher.update(&record.crc.to_le_bytes());
        rest = &rest[len..];
        count += 1;
    }
    count == header.record_count && hasher.finalize() == header.crc
}

/// Octets behind a damaged record that are searched for the next sound one.
const SEARCHED_LEN: usize = 64 << 10;

impl<'a> Broken<'a> {
    /// Its records that are sound, each with its offset from the start of the batch. Where one ends whose header is damaged
    /// is not known: the next is looked for.
    pub(super) fn sound_records(&self) -> impl Iterator<Item = (u64, RawRecord<'a>)> + use<'a> {
        let (octets, mut at, mut searched) = (self.records, 0, 0);
        std::iter::from_fn(move || {
            while at < octets.len() && searched < SEARCHED_LEN {
                if let Ok((record, len)) = RawRecord::read(&octets[at..]) {
                    let offset = BATCH_HEADER_LEN + at as u64;
                    (at, searched) = (at + len, 0);
                    return Some((offset, record));
                }
                let claimed = RawRecord::claimed_len(&octets[at..]).unwrap_or(0);
                let is_followed =
                    octets.get(at + claimed..).is_some_and(|next| RawRecord::read(next).is_ok());
                let step = if claimed > 0 && is_followed { claimed } else { ALIGNMENT };
                at += step;
                searched = if is_followed { 0 } else { searched + step };
            }
            None
        })
    }

    /// Its records, as far as they can be told apart: the offset of each from the start of the batch, the octets it takes, and
    /// the record if it is sound.
    pub(super) fn records(
        &self,
    ) -> impl Iterator<Item = (u64, &'a [u8], Result<RawRecord<'a>, RecordError>)> + use<'a> {
        let (mut rest, mut offset) = (self.records, BATCH_HEADER_LEN);
        std::iter::from_fn(move || {
            let len = RawRecord::claimed_len(rest)?.min(rest.len());
            let (octets, behind) = rest.split_at(len);
            let at = offset;
            rest = behind;
            offset += len as u64;
            Some((at, octets, RawRecord::read(octets).map(|(record, _)| record)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{disk::Disk, record::Kind, sim_disk::SimDisk},
        *,
    };
    use crate::broker::{journal::Fact, queue::QueueId};

    const SALT: u64 = 77;

    /// A file with batches that say which queue was delivered up to where, each behind the one before.
    fn file(batches: u64) -> (SimDisk, Vec<Chain>) {
        let disk = SimDisk::new(1);
        let file = disk.create("log").expect("created");
        let (mut chains, mut end) = (vec![Chain::default()], 0);
        for up_to in 1..=batches {
            let mut records = Records::default();
            records.fact(&Fact::Delivered { queue: QueueId(5), up_to });
            let chain = *chains.last().expect("at least one");
            let (octets, chain) = header(&records, SALT, chain, chain.index, 3);
            records.set_header(&octets);
            for piece in records.pieces() {
                file.write_all_at(piece, end).expect("written");
                end += piece.len() as u64;
            }
            chains.push(chain);
        }
        file.sync().expect("synced");
        disk.sync_directory().expect("synced");
        (disk, chains)
    }

    const BATCH_LEN: u64 = BATCH_HEADER_LEN + 32;

    fn reader(disk: &SimDisk) -> BatchReader {
        BatchReader::new(disk.open("log").expect("there"), SALT).expect("readable")
    }

    #[test]
    fn batches_come_back_in_a_chain() {
        let (disk, chains) = file(3);
        let mut reader = reader(&disk);
        for (number, before) in chains[..3].iter().enumerate() {
            let Found::Batch(batch) = reader.read(number as u64 * BATCH_LEN).expect("readable") else {
                panic!("batch {number} is there")
            };
            assert_eq!((batch.header.index, batch.header.previous_crc), (before.index + 1, before.crc));
            assert_eq!(batch.header.chain(), chains[number + 1]);
            assert_eq!(batch.header.durable_index, before.index);
            let kinds: Vec<_> = batch.records().map(|(at, record)| (at, record.kind)).collect();
            assert_eq!(kinds, [(BATCH_HEADER_LEN, Kind::Delivered)]);
        }
        assert!(matches!(reader.read(3 * BATCH_LEN).expect("readable"), Found::Nothing));
        assert_eq!(reader.highest_durable_after(0).expect("readable"), Some(2));
    }

    #[test]
    fn whatever_bit_flips_the_batch_is_not_sound() {
        for offset in 0..BATCH_LEN {
            for bit in 0..8 {
                let (disk, _) = file(1);
                disk.flip_bit("log", offset, bit);
                let found = reader(&disk);
                let mut found = found;
                let is_sound = matches!(found.read(0).expect("readable"), Found::Batch(_));
                // The last octets of a record are zeros that pad it, and none here: each octet is covered.
                assert!(!is_sound, "bit {bit} of octet {offset}");
            }
        }
    }

    #[test]
    fn batches_of_another_use_of_the_file_are_none_of_its_own() {
        let (disk, _) = file(2);
        let mut reader = BatchReader::new(disk.open("log").expect("there"), SALT + 1).expect("readable");
        assert!(matches!(reader.read(0).expect("readable"), Found::Nothing));
        assert_eq!(reader.next_sound(0).expect("readable"), None);
    }

    #[test]
    fn behind_a_broken_batch_the_next_is_found() {
        let (disk, _) = file(3);
        disk.flip_bit("log", BATCH_LEN + 70, 1);
        let mut reader = reader(&disk);
        let Found::Broken(broken) = reader.read(BATCH_LEN).expect("readable") else { panic!("it is broken") };
        assert_eq!(broken.header.index, 2);
        assert!(broken.records().all(|(_, _, record)| record.is_err()));
        assert_eq!(reader.next_sound(BATCH_LEN).expect("readable"), Some(2 * BATCH_LEN));
    }
}
