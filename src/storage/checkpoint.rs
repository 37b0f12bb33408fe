//! Checkpoints: the index as of the start of a segment, so that what came before need not be read again.
//!
//! A file `checkpoint-<segment>.ck`, where `segment` is the first one to be replayed on top of it. It is written under
//! another name, synced and then renamed, so it is there whole or not at all. All numbers are little endian:
//!
//! ```text
//! 0 magic u64 | 8 version u32 | 12 crc u32 | 16 replay_from u64 | 24 chain index u64 | 32 chain crc u32
//! 36 segments u32 | 40 queues u64 | segments | queues | caches
//!
//! segment  id u64 | salt u64 | capacity u64 | total u64 | bytes u64
//! queue    id u64 | next_sequence u64 | delivered_up_to u64 | body_bytes i64 | purged_before u64
//!          | delivery counts: u32, (sequence u64, count u32) * | settled early: u32, u64 * | unpurged: u32, u64 *
//!          | held: u32, (sequence u64, until_ms u64, death u8) *
//!          | runs: u32, (segment u64, base u64, traits u8, len u32, live) *
//! caches   u32, (cache u64 | keys: u32, (key u128, until_ms u64) *) *
//! ```
//!
//! `crc` is the CRC-32 of everything but itself. `live` is a bitmap in the portable format of Roaring. Only messages that
//! survive a restart are in it. `traits` is the sum of 1 if any message of the run has, or had, a deadline, and 2 if any
//! says a priority. Keys are in the order in which they were seen. Version 1 has no `traits` (its messages have no deadlines,
//! and may say priorities), no `held` and no caches.

use roaring::RoaringBitmap;

use super::{
    FORMAT_VERSION, StorageError,
    batch::Chain,
    defined::Defined,
    disk::Disk,
    index::{Hold, Index, Queue, Rare, Run, Traits},
    is_readable,
    record::{Input, u32_at, u64_at},
    seen::{Seen, SeenKey},
    segment::{SegmentHeader, io_error},
};
use crate::broker::queue::QueueId;

const MAGIC: u64 = u64::from_le_bytes(*b"LEVERETC");
const HEADER_LEN: usize = 48;
const NEW: &str = "checkpoint.new";
const DATED: u8 = 1;
const PRIORITIZED: u8 = 2;

/// A checkpoint that was read.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) index: Index,
    /// Where the log stood.
    pub(super) chain: Chain,
    /// The first segment that it knows nothing of.
    pub(super) replay_from: u64,
}

fn name(replay_from: u64) -> String {
    format!("checkpoint-{replay_from:010}.ck")
}

/// The first segment to be replayed on top of the checkpoint whose file has that name.
pub(super) fn replay_from(name: &str) -> Option<u64> {
    name.strip_prefix("checkpoint-")?.strip_suffix(".ck")?.parse().ok()
}

/// A checkpoint as octets. Only `defined` queues are in it: the identities of others may be given again.
pub(super) fn encode(index: &Index, defined: &Defined, chain: Chain, replay_from: u64) -> Vec<u8> {
    let queues: Vec<_> = index.queues.iter().filter(|(id, _)| defined.has_queue(**id)).collect();
    let mut octets = vec![0; HEADER_LEN];
    octets[..8].copy_from_slice(&MAGIC.to_le_bytes());
    octets[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    octets[16..24].copy_from_slice(&replay_from.to_le_bytes());
    octets[24..32].copy_from_slice(&chain.index.to_le_bytes());
    octets[32..36].copy_from_slice(&chain.crc.to_le_bytes());
    let segments: Vec<_> = index.segments.range(..replay_from).map(|(_, segment)| segment).collect();
    octets[36..40].copy_from_slice(&(segments.len() as u32).to_le_bytes());
    octets[40..48].copy_from_slice(&(queues.len() as u64).to_le_bytes());
    for segment in segments {
        let SegmentHeader { id, salt, capacity } = segment.header;
        [id, salt, capacity, segment.total, segment.bytes]
            .iter()
            .for_each(|number| put(&mut octets, *number));
    }
    for (id, queue) in queues {
        put(&mut octets, id.0);
        encode_queue(queue, &mut octets);
    }
    encode_seen(&index.seen, &mut octets);
    let crc = checksum(&octets);
    octets[12..16].copy_from_slice(&crc.to_le_bytes());
    octets
}

fn encode_queue(queue: &Queue, octets: &mut Vec<u8>) {
    put(octets, queue.next_sequence);
    put(octets, queue.delivered_up_to);
    put(octets, queue.body_bytes as u64);
    put(octets, queue.purged_before);
    let Rare { delivery_counts, settled_early, unpurged, held } = queue.rare();
    put_len(octets, delivery_counts.len());
    for (sequence, count) in delivery_counts {
        put(octets, *sequence);
        octets.extend_from_slice(&count.to_le_bytes());
    }
    for late in [settled_early, unpurged] {
        put_len(octets, late.len());
        late.iter().for_each(|sequence| put(octets, *sequence));
    }
    put_len(octets, held.len());
    for (sequence, Hold { until_ms, death }) in held {
        put(octets, *sequence);
        put(octets, *until_ms);
        octets.push(*death);
    }
    let runs = || queue.runs.iter().filter(|run| run.survives);
    put_len(octets, runs().count());
    for run in runs() {
        put(octets, run.segment);
        put(octets, run.base);
        octets.push(u8::from(run.traits.dated) * DATED + u8::from(run.traits.prioritized) * PRIORITIZED);
        put_len(octets, run.live.serialized_size());
        run.live.serialize_into(&mut *octets).expect("invariant: memory takes it");
    }
}

fn encode_seen(seen: &Seen, octets: &mut Vec<u8>) {
    put_len(octets, seen.caches().len());
    for (cache, keys) in seen.caches() {
        put(octets, cache.0);
        put_len(octets, keys.len());
        for (key, until_ms) in keys {
            octets.extend_from_slice(&key.to_le_bytes());
            put(octets, until_ms);
        }
    }
}

fn put(octets: &mut Vec<u8>, number: u64) {
    octets.extend_from_slice(&number.to_le_bytes());
}

fn put_len(octets: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("invariant: a queue has fewer than 2^32 of anything");
    octets.extend_from_slice(&len.to_le_bytes());
}

fn checksum(octets: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&octets[..12]);
    hasher.update(&octets[16..]);
    hasher.finalize()
}

/// The checkpoint that these octets are; `None` if they are damaged.
pub(super) fn decode(octets: &[u8]) -> Option<Checkpoint> {
    if octets.len() < HEADER_LEN
        || u64_at(octets, 0) != MAGIC
        || !is_readable(u32_at(octets, 8))
        || u32_at(octets, 12) != checksum(octets)
    {
        return None;
    }
    let version = u32_at(octets, 8);
    let chain = Chain { index: u64_at(octets, 24), crc: u32_at(octets, 32) };
    let mut index = Index::default();
    let mut input = Input(&octets[HEADER_LEN..]);
    for _ in 0..u32_at(octets, 36) {
        let header = SegmentHeader { id: input.u64()?, salt: input.u64()?, capacity: input.u64()? };
        index.add_segment(header);
        let segment = index.segments.get_mut(&header.id)?;
        (segment.total, segment.bytes) = (input.u64()?, input.u64()?);
    }
    for _ in 0..u64_at(octets, 40) {
        let id = QueueId(input.u64()?);
        let queue = decode_queue(&mut input, version)?;
        for run in &queue.runs {
            index.segments.get_mut(&run.segment)?.live += run.live.len();
        }
        index.queues.insert(id, queue);
    }
    if version > 1 {
        decode_seen(&mut input, &mut index.seen)?;
    }
    input.0.is_empty().then_some(Checkpoint { index, chain, replay_from: u64_at(octets, 16) })
}

fn decode_queue(input: &mut Input<'_>, version: u32) -> Option<Queue> {
    let mut queue = Queue::default();
    queue.next_sequence = input.u64()?;
    queue.delivered_up_to = input.u64()?;
    queue.body_bytes = input.u64()? as i64;
    queue.purged_before = input.u64()?;
    for _ in 0..input.u32()? {
        queue.rare_mut().delivery_counts.insert(input.u64()?, input.u32()?);
    }
    for _ in 0..input.u32()? {
        queue.rare_mut().settled_early.insert(input.u64()?);
    }
    for _ in 0..input.u32()? {
        queue.rare_mut().unpurged.insert(input.u64()?);
    }
    for _ in 0..if version == 1 { 0 } else { input.u32()? } {
        let (sequence, until_ms, death) = (input.u64()?, input.u64()?, input.u8()?);
        queue.rare_mut().held.insert(sequence, Hold { until_ms, death });
    }
    for _ in 0..input.u32()? {
        let (segment, base) = (input.u64()?, input.u64()?);
        let traits = if version == 1 { PRIORITIZED } else { input.u8()? };
        let traits = Traits { dated: traits & DATED != 0, prioritized: traits & PRIORITIZED != 0 };
        let len = input.u32()?;
        let live = RoaringBitmap::deserialize_from(input.take(len as usize)?).ok()?;
        queue.runs.push(Run::restored(segment, base, traits, live));
    }
    Some(queue)
}

fn decode_seen(input: &mut Input<'_>, seen: &mut Seen) -> Option<()> {
    for _ in 0..input.u32()? {
        let cache = QueueId(input.u64()?);
        for _ in 0..input.u32()? {
            let (key, until_ms) = (input.u128()?, input.u64()?);
            seen.insert(cache, SeenKey { key, until_ms, keep: u32::MAX });
        }
    }
    Some(())
}

/// Writes a checkpoint durably.
///
/// # Errors
/// If it can't be written.
pub(super) fn write(disk: &dyn Disk, replay_from: u64, octets: &[u8]) -> Result<(), StorageError> {
    let name = name(replay_from);
    let failed = |action| move |error| (action, error);
    let written = (|| {
        let file = disk.create(NEW).map_err(failed("create"))?;
        file.write_all_at(octets, 0).map_err(failed("write"))?;
        file.sync().map_err(failed("sync"))?;
        disk.rename(NEW, &name).map_err(failed("make"))?;
        disk.sync_directory().map_err(failed("sync the directory of"))
    })();
    written.map_err(|(action, error)| io_error(disk, action, &name, error))
}

/// Removes the checkpoints before that one.
///
/// # Errors
/// If that is not possible.
pub(super) fn remove_older(disk: &dyn Disk, newest: u64) -> Result<(), StorageError> {
    let names = disk.list().map_err(|error| io_error(disk, "list", "", error))?;
    for name in names.iter().filter(|name| replay_from(name).is_some_and(|from| from < newest)) {
        disk.remove(name).map_err(|error| io_error(disk, "remove", name, error))?;
    }
    Ok(())
}
