//! When the messages of a queue expire: a calendar of deadlines that takes a few octets for each.
//!
//! What is due next is in a small heap. Everything later is in buckets of three widths, as differences of a few octets:
//!
//! ```text
//! heap            level 2            level 1                 level 0
//! | due next |    | 0.26 s | ...     | 66 s     | ...        | 4.7 h           | ...
//! ```
//!
//! When the heap is empty, the bucket that begins first goes into it, or over the buckets of the next level if it is
//! too large for that. So a deadline is encoded again a few times at most, however many there are.
//!
//! Two facts make the order exact. Whatever is in a bucket is due at `heap_end` or later, and whatever is in the heap
//! before. And of two buckets that overlap, the coarser one begins first or together with the finer one, and is opened
//! first. Which level a deadline waits in is only a matter of memory and time.
//!
//! The calendar knows nothing of messages that have left their queue otherwise: [`Deadlines::clean_step`] removes them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// Deadlines in milliseconds since 1970, each with the sequence number of a message; the same pair may be there twice.
///
/// Deadlines may be up to `u64::MAX - 1`. Sequence numbers may be any; those that grow take the least memory.
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// What is due before `heap_end`.
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    /// Milliseconds: what is due earlier is in the heap, everything else in a bucket.
    heap_end: u64,
    /// The length of the heap above which the most of it goes back into buckets.
    heap_len_max: usize,
    /// The coarsest buckets first.
    levels: [BTreeMap<BlockKey, Block>; LEVELS],
    /// The bucket of each level that was spread over the next one last: what belongs into it goes there, too.
    open: [Option<u64>; FINEST],
    /// How many deadlines are in blocks.
    in_blocks: usize,
    /// Octets of all blocks.
    block_bytes: usize,
    /// The level and the block that are cleaned next, or the first ones after them.
    cursor: (usize, BlockKey),
}

/// The number of levels.
const LEVELS: usize = 3;
/// The level of the smallest buckets.
const FINEST: usize = LEVELS - 1;
/// How many bits of a deadline a bucket of each level leaves open.
const WIDTH_BITS: [u32; LEVELS] = [24, 16, 8];
/// Deadlines of a block after which the next one begins. Also what a bucket may hold to go into the heap as a whole.
const BLOCK_COUNT_MAX: usize = 4096;
/// What the heap may hold before it is looked at whether all of that is due next.
const HEAP_LEN_MAX: usize = 2 * BLOCK_COUNT_MAX;
/// Octets of an encoded deadline at most: two numbers of 64 bits, seven bits an octet.
const ENCODED_BYTES_MAX: usize = 20;
/// Octets that a small block gets to grow into.
const BLOCK_BYTES_SPARE: usize = 8;

/// The start of a bucket in milliseconds, and the number of a block in it.
type BlockKey = (u64, u32);

/// Deadlines of one bucket, in the order they came: for each the difference of its sequence number and of its deadline
/// to the one before, as zigzag variable-length numbers.
#[derive(Clone, Debug, Default)]
struct Block {
    octets: Vec<u8>,
    last_sequence: u64,
    /// Milliseconds from the start of the bucket.
    last_offset: u32,
    count: u32,
}

// A bucket with few deadlines is mostly this.
const _: () = assert!(size_of::<Block>() == 40);

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            heap_end: 0,
            heap_len_max: HEAP_LEN_MAX,
            levels: Default::default(),
            open: [None; FINEST],
            in_blocks: 0,
            block_bytes: 0,
            cursor: (0, (0, 0)),
        }
    }
}

impl Deadlines {
    /// Adds a deadline; they may come in any order.
    pub fn insert(&mut self, deadline_ms: u64, sequence: u64) {
        if deadline_ms >= self.heap_end {
            return self.insert_into(self.level_of(deadline_ms), deadline_ms, sequence);
        }
        self.heap.push(Reverse((deadline_ms, sequence)));
        if self.heap.len() > self.heap_len_max {
            self.spill();
        }
    }

    /// The earliest deadline, in milliseconds.
    pub fn next_ms(&mut self) -> Option<u64> {
        if self.heap.is_empty() {
            self.fill_heap();
        }
        self.heap.peek().map(|Reverse((deadline_ms, _))| *deadline_ms)
    }

    /// Takes the earliest deadline out if it is not after `now_ms`, with its sequence number. Of equal deadlines the
    /// one with the lowest sequence number comes first.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<(u64, u64)> {
        if self.next_ms()? > now_ms {
            return None;
        }
        let Reverse(due) = self.heap.pop()?;
        self.release_heap();
        Some(due)
    }

    /// How many deadlines there are.
    pub fn len(&self) -> usize {
        self.heap.len() + self.in_blocks
    }

    /// Whether there is no deadline.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets in memory, about: without the allocator's overhead, and with a guess at how full the nodes of the maps
    /// are.
    pub fn memory_bytes(&self) -> usize {
        let blocks: usize = self.levels.iter().map(BTreeMap::len).sum();
        let map_bytes = blocks * size_of::<(BlockKey, Block)>() * 3 / 2;
        self.heap.capacity() * size_of::<(u64, u64)>() + self.block_bytes + map_bytes
    }

    /// Removes every deadline.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Removes the deadlines of one block, or of the heap, that `keep` does not want, and returns how many those were.
    /// It is given deadline and sequence number. The next call goes on with the next block, and round again after the
    /// last.
    ///
    /// A block holds up to 4096; the heap may hold more if that many are due within 256 ms.
    pub fn clean_step(&mut self, mut keep: impl FnMut(u64, u64) -> bool) -> usize {
        if let Some((level, key)) = self.next_to_clean() {
            self.cursor = (level, (key.0, key.1 + 1));
            return self.clean_block(level, key, keep);
        }
        self.cursor = (0, (0, 0));
        let before = self.heap.len();
        self.heap.retain(|Reverse((deadline_ms, sequence))| keep(*deadline_ms, *sequence));
        let removed = before - self.heap.len();
        self.release_heap();
        removed
    }

    /// The level that a deadline waits in, if not in the heap.
    fn level_of(&self, deadline_ms: u64) -> usize {
        let is_open = |level: &usize| self.open[*level] == Some(bucket_start(*level, deadline_ms));
        (0..FINEST).rev().find(is_open).map_or(0, |level| level + 1)
    }

    fn insert_into(&mut self, level: usize, deadline_ms: u64, sequence: u64) {
        let start = bucket_start(level, deadline_ms);
        let offset = offset_in(start, deadline_ms);
        self.in_blocks += 1;
        let last = self.levels[level].range_mut((start, 0)..=(start, u32::MAX)).next_back();
        let number = match last {
            Some((_, block)) if (block.count as usize) < BLOCK_COUNT_MAX => {
                self.block_bytes += block.push(offset, sequence);
                return;
            }
            Some(((_, number), _)) => number + 1,
            None => 0,
        };
        let mut block = Block::default();
        self.block_bytes += block.push(offset, sequence);
        self.levels[level].insert((start, number), block);
    }

    /// Opens buckets until it is known what is due next.
    fn fill_heap(&mut self) {
        while self.heap.is_empty()
            && let Some((start, level)) = self.first_bucket()
        {
            if level == FINEST || self.is_small(level, start) {
                self.move_to_heap(level, start);
            } else {
                self.spread(level, start);
            }
        }
    }

    /// The bucket that begins first, the coarsest of those: its start and its level.
    fn first_bucket(&self) -> Option<(u64, usize)> {
        let first =
            |level: usize| self.levels[level].first_key_value().map(|((start, _), _)| (*start, level));
        (0..LEVELS).filter_map(first).min()
    }

    /// Whether this first bucket may go into the heap as a whole: few deadlines, and no others of the same time in a
    /// finer level.
    fn is_small(&self, level: usize, start: u64) -> bool {
        let bucket = self.levels[level].range((start, 0)..=(start, u32::MAX));
        let count: usize = bucket.map(|(_, block)| block.count as usize).sum();
        let mut first_starts = self.levels[level + 1..].iter().filter_map(BTreeMap::first_key_value);
        let has_finer = first_starts.any(|((other, _), _)| bucket_start(level, *other) == start);
        count <= BLOCK_COUNT_MAX && !has_finer
    }

    /// Moves the first bucket into the heap, which is empty.
    fn move_to_heap(&mut self, level: usize, start: u64) {
        let mut due = std::mem::take(&mut self.heap).into_vec();
        while let Some(block) = self.pop_block(level, start) {
            due.extend(block.entries(start).map(Reverse));
        }
        let latest = due.iter().map(|Reverse((deadline_ms, _))| *deadline_ms).max();
        self.heap_end = latest.map_or(self.heap_end, |latest| latest.saturating_add(1));
        self.set_heap(due);
    }

    /// Moves the first bucket into the buckets of the next level.
    fn spread(&mut self, level: usize, start: u64) {
        self.open[level] = Some(start);
        while let Some(block) = self.pop_block(level, start) {
            for (deadline_ms, sequence) in block.entries(start) {
                self.insert_into(level + 1, deadline_ms, sequence);
            }
        }
    }

    /// Moves all but the earliest of the heap back into buckets. Without that, one far deadline in the heap would draw
    /// all earlier ones there, where each takes 16 octets.
    #[cold]
    fn spill(&mut self) {
        let mut due = std::mem::take(&mut self.heap).into_vec();
        due.sort_unstable_by_key(|Reverse(entry)| *entry);
        let Reverse((middle_ms, _)) = due[BLOCK_COUNT_MAX];
        // A deadline is on one side as a whole: with the later ones, unless nothing were left on the other.
        let mut kept = due.partition_point(|Reverse((deadline_ms, _))| *deadline_ms < middle_ms);
        if kept == 0 {
            kept = due.partition_point(|Reverse((deadline_ms, _))| *deadline_ms <= middle_ms);
        }
        if let Some(Reverse((first_ms, _))) = due.get(kept) {
            self.heap_end = *first_ms;
        }
        for Reverse((deadline_ms, sequence)) in due.drain(kept..) {
            self.insert_into(self.level_of(deadline_ms), deadline_ms, sequence);
        }
        self.set_heap(due);
    }

    fn set_heap(&mut self, due: Vec<Reverse<(u64, u64)>>) {
        self.heap = due.into();
        // Doubled, so that a heap that can't be made smaller is not looked at for every deadline.
        self.heap_len_max = HEAP_LEN_MAX.max(2 * self.heap.len());
        self.release_heap();
    }

    /// Gives memory back that the heap has no use for; a small one keeps what it has.
    fn release_heap(&mut self) {
        if self.heap.capacity() > HEAP_LEN_MAX && self.heap.len() < self.heap.capacity() / 4 {
            self.heap.shrink_to(2 * self.heap.len());
        }
    }

    /// Takes a block out of a bucket that is its level's first one.
    fn pop_block(&mut self, level: usize, start: u64) -> Option<Block> {
        let first = self.levels[level].first_entry().filter(|first| first.key().0 == start)?;
        let block = first.remove();
        self.forget(&block);
        Some(block)
    }

    /// Leaves a block that was taken out of its level out of the sums.
    fn forget(&mut self, block: &Block) {
        self.in_blocks -= block.count as usize;
        self.block_bytes -= block.octets.capacity();
    }

    /// The block at the cursor or the first one after it; `None` at the end of a round.
    fn next_to_clean(&self) -> Option<(usize, BlockKey)> {
        let (at, from) = self.cursor;
        (at..LEVELS).find_map(|level| {
            let from = if level == at { from } else { (0, 0) };
            self.levels[level].range(from..).next().map(|(key, _)| (level, *key))
        })
    }

    fn clean_block(&mut self, level: usize, key: BlockKey, mut keep: impl FnMut(u64, u64) -> bool) -> usize {
        let Some(block) = self.levels[level].get(&key) else { return 0 };
        let count = block.count as usize;
        let mut kept: Vec<(u64, u64)> = Vec::with_capacity(count);
        kept.extend(block.entries(key.0).filter(|(deadline_ms, sequence)| keep(*deadline_ms, *sequence)));
        let into = self.block_with_room_before(level, key, kept.len());
        if kept.len() < count || into.is_some() {
            self.replace_block(level, key, into.unwrap_or(key), &kept);
        }
        count - kept.len()
    }

    /// The block before this one in the same bucket, if it can take so many more.
    fn block_with_room_before(&self, level: usize, key: BlockKey, more: usize) -> Option<BlockKey> {
        let (before, block) = self.levels[level].range((key.0, 0)..key).next_back()?;
        (block.count as usize + more <= BLOCK_COUNT_MAX).then_some(*before)
    }

    /// Removes a block and puts these at the end of another, or of a new one, of the same bucket.
    fn replace_block(&mut self, level: usize, key: BlockKey, into: BlockKey, kept: &[(u64, u64)]) {
        if let Some(block) = self.levels[level].remove(&key) {
            self.forget(&block);
        }
        if kept.is_empty() {
            return;
        }
        self.in_blocks += kept.len();
        let block = self.levels[level].entry(into).or_default();
        for (deadline_ms, sequence) in kept {
            self.block_bytes += block.push(offset_in(key.0, *deadline_ms), *sequence);
        }
    }
}

impl Block {
    /// Adds a deadline, `offset` milliseconds after the start of the bucket. Returns how many octets it has grown by.
    fn push(&mut self, offset: u32, sequence: u64) -> usize {
        let before = self.octets.capacity();
        let mut encoded = [0; ENCODED_BYTES_MAX];
        let sequence_len = encode(sequence.wrapping_sub(self.last_sequence), &mut encoded);
        let offset_delta = u64::from(offset).wrapping_sub(self.last_offset.into());
        let len = sequence_len + encode(offset_delta, &mut encoded[sequence_len..]);
        if before - self.octets.len() < len {
            // A vector would double, which is too much for tens of millions of deadlines.
            self.octets.reserve_exact(len + BLOCK_BYTES_SPARE.max(self.octets.len() / 8));
        }
        self.octets.extend_from_slice(&encoded[..len]);
        self.last_sequence = sequence;
        self.last_offset = offset;
        self.count += 1;
        self.octets.capacity() - before
    }

    /// The deadlines, as milliseconds since 1970, and the sequence numbers.
    fn entries(&self, start: u64) -> impl Iterator<Item = (u64, u64)> {
        let mut octets = self.octets.as_slice();
        let (mut deadline_ms, mut sequence) = (start, 0_u64);
        std::iter::from_fn(move || {
            sequence = sequence.wrapping_add(decode(&mut octets)?);
            deadline_ms = deadline_ms.wrapping_add(decode(&mut octets)?);
            Some((deadline_ms, sequence))
        })
    }
}

/// The start of the bucket that a deadline belongs into.
fn bucket_start(level: usize, deadline_ms: u64) -> u64 {
    deadline_ms >> WIDTH_BITS[level] << WIDTH_BITS[level]
}

/// Milliseconds from the start of a bucket to a deadline in it.
fn offset_in(start: u64, deadline_ms: u64) -> u32 {
    u32::try_from(deadline_ms - start).expect("invariant: a bucket is at most 2^24 ms wide")
}

/// Writes a difference, small ones of either sign short, and returns how many octets that took, ten at most.
fn encode(difference: u64, out: &mut [u8]) -> usize {
    let sign = (difference as i64 >> 63) as u64;
    let mut rest = (difference << 1) ^ sign;
    let mut len = 0;
    while rest >= 0x80 {
        out[len] = rest as u8 | 0x80;
        rest >>= 7;
        len += 1;
    }
    out[len] = rest as u8;
    len + 1
}

/// Reads what [`encode`] wrote.
fn decode(octets: &mut &[u8]) -> Option<u64> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (octet, rest) = octets.split_first()?;
        *octets = rest;
        value |= u64::from(octet & 0x7f) << shift;
        shift += 7;
        if octet & 0x80 == 0 {
            return Some((value >> 1) ^ (value & 1).wrapping_neg());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Some time in 2025, in milliseconds since 1970.
    const BASE: u64 = 1_750_000_000_000;
    const YEAR_MS: u64 = 365 * 86_400_000;

    /// Numbers without an order, always the same ones (splitmix64).
    fn random(seed: u64) -> impl Iterator<Item = u64> {
        let mut state = seed;
        std::iter::from_fn(move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            Some(mixed ^ (mixed >> 31))
        })
    }

    fn drain(deadlines: &mut Deadlines) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| deadlines.pop_due(u64::MAX)).collect()
    }

    /// The sums are what they are sums of, no block is empty or too large, and none holds what belongs into the heap.
    fn check(deadlines: &Deadlines) {
        let mut sums = (0, 0);
        for (level, blocks) in deadlines.levels.iter().enumerate() {
            for ((start, _), block) in blocks {
                let entries: Vec<_> = block.entries(*start).collect();
                assert_eq!(entries.len(), block.count as usize);
                assert!((1..=BLOCK_COUNT_MAX).contains(&entries.len()));
                assert!(entries.iter().all(|(deadline_ms, _)| bucket_start(level, *deadline_ms) == *start));
                assert!(entries.iter().all(|(deadline_ms, _)| *deadline_ms >= deadlines.heap_end));
                sums = (sums.0 + entries.len(), sums.1 + block.octets.capacity());
            }
        }
        assert_eq!(sums, (deadlines.in_blocks, deadlines.block_bytes));
        assert!(deadlines.heap.iter().all(|Reverse((deadline_ms, _))| *deadline_ms < deadlines.heap_end));
    }

    #[test]
    fn numbers_are_read_as_they_were_written() {
        let ends = [0, 1, 63, 64, 8191, 8192, u64::MAX >> 1, 1 << 63, u64::MAX - 63, u64::MAX];
        for (difference, len) in ends.into_iter().zip([1, 1, 1, 2, 2, 3, 10, 10, 1, 1]) {
            let mut octets = [0; ENCODED_BYTES_MAX];
            assert_eq!(encode(difference, &mut octets), len, "{difference}");
            assert_eq!(decode(&mut &octets[..len]), Some(difference));
            assert_eq!(decode(&mut &octets[..len - 1]), None);
        }
    }

    #[test]
    fn an_empty_calendar_has_nothing_due() {
        let mut deadlines = Deadlines::default();
        assert_eq!((deadlines.next_ms(), deadlines.pop_due(u64::MAX)), (None, None));
        assert!(deadlines.is_empty());
        assert_eq!(deadlines.clean_step(|_, _| false), 0);
        assert_eq!(deadlines.memory_bytes(), 0);
    }

    #[test]
    fn nothing_leaves_before_its_time() {
        let mut deadlines = Deadlines::default();
        deadlines.insert(BASE + 10, 1);
        assert_eq!(deadlines.pop_due(BASE + 9), None);
        assert_eq!(deadlines.next_ms(), Some(BASE + 10));
        // Earlier than what is in the heap already.
        deadlines.insert(BASE + 5, 2);
        assert_eq!(deadlines.next_ms(), Some(BASE + 5));
        assert_eq!(deadlines.pop_due(BASE + 10), Some((BASE + 5, 2)));
        assert_eq!(deadlines.pop_due(BASE + 10), Some((BASE + 10, 1)));
        assert!(deadlines.is_empty());
    }

    #[test]
    fn equal_deadlines_leave_by_sequence() {
        let mut deadlines = Deadlines::default();
        for sequence in (0..20_000).rev() {
            deadlines.insert(BASE, sequence);
        }
        check(&deadlines);
        assert!(drain(&mut deadlines).into_iter().eq((0..20_000).map(|sequence| (BASE, sequence))));
        assert!(deadlines.heap.capacity() <= HEAP_LEN_MAX);
    }

    #[test]
    fn the_ends_of_the_range_are_in_order() {
        let mut deadlines = Deadlines::default();
        let ends = [0, 1, u64::MAX >> 1, u64::MAX - (1 << 24), u64::MAX - 2, u64::MAX - 1];
        let mut all: Vec<_> = ends.iter().flat_map(|at| [(*at, u64::MAX >> 1), (*at, 0)]).collect();
        all.iter().rev().for_each(|(deadline_ms, sequence)| deadlines.insert(*deadline_ms, *sequence));
        all.sort_unstable();
        assert_eq!(drain(&mut deadlines), all);
    }

    #[test]
    fn a_hundred_thousand_leave_in_exact_order() {
        for spread in [1_000, 100_000, 10_000_000, YEAR_MS] {
            let mut deadlines = Deadlines::default();
            let mut all: Vec<_> =
                random(spread).take(100_000).zip(0..).map(|(n, s)| (BASE + n % spread, s)).collect();
            for (index, (deadline_ms, sequence)) in all.iter().enumerate() {
                deadlines.insert(*deadline_ms, *sequence);
                if index % 10_000 == 0 {
                    deadlines.next_ms();
                }
            }
            check(&deadlines);
            all.sort_unstable();
            assert!(drain(&mut deadlines) == all, "{spread}");
            check(&deadlines);
        }
    }

    #[test]
    fn a_million_that_grow_take_three_octets_each() {
        for step in [0, 1, 20, 60] {
            let mut deadlines = Deadlines::default();
            for sequence in 0..1_000_000 {
                deadlines.insert(BASE + sequence * step, sequence);
            }
            assert!(deadlines.memory_bytes() <= 3_000_000, "{step}: {}", deadlines.memory_bytes());
        }
    }

    #[test]
    fn a_million_over_ten_years_take_nine_octets_each() {
        let mut deadlines = Deadlines::default();
        for (number, sequence) in random(1).take(1_000_000).zip(0..) {
            deadlines.insert(BASE + number % (10 * YEAR_MS), sequence);
        }
        assert!(deadlines.memory_bytes() <= 9_000_000, "{}", deadlines.memory_bytes());
    }

    /// The heap's end must not stay where a single far deadline has put it.
    #[test]
    fn a_far_deadline_does_not_draw_the_others_into_the_heap() {
        let mut deadlines = Deadlines::default();
        deadlines.insert(BASE + YEAR_MS, 0);
        assert_eq!(deadlines.next_ms(), Some(BASE + YEAR_MS));
        for sequence in 1..=1_000_000 {
            deadlines.insert(BASE + sequence, sequence);
        }
        check(&deadlines);
        assert!(deadlines.memory_bytes() <= 3_000_000, "{}", deadlines.memory_bytes());
        assert_eq!(deadlines.next_ms(), Some(BASE + 1));
        assert_eq!(drain(&mut deadlines).len(), 1_000_001);
    }

    /// While they are popped and as many come, as in a queue with a TTL.
    #[test]
    fn a_calendar_in_use_stays_small() {
        let mut deadlines = Deadlines::default();
        for now in 0..600_000 {
            deadlines.insert(BASE + now + 300_000, now);
            deadlines.next_ms();
            if let Some((deadline_ms, sequence)) = deadlines.pop_due(BASE + now) {
                assert_eq!((deadline_ms, sequence), (BASE + now, now - 300_000));
            }
        }
        assert_eq!(deadlines.len(), 300_000);
        assert!(deadlines.memory_bytes() <= 3 * 300_000, "{}", deadlines.memory_bytes());
    }

    #[test]
    fn cleaning_goes_round_and_merges() {
        let mut deadlines = Deadlines::default();
        for sequence in 0..100_000 {
            deadlines.insert(BASE + sequence % 1000, sequence);
        }
        let before = deadlines.memory_bytes();
        let mut removed = Vec::new();
        for _ in 0..26 {
            removed.push(deadlines.clean_step(|_, sequence| sequence % 10 == 0));
            check(&deadlines);
        }
        assert!(removed.iter().all(|count| *count <= BLOCK_COUNT_MAX));
        assert_eq!(removed.iter().sum::<usize>(), 90_000);
        assert_eq!(deadlines.len(), 10_000);
        assert!(deadlines.levels[0].len() <= 3);
        assert!(deadlines.memory_bytes() < before / 5);
        // The heap has its turn, too.
        deadlines.next_ms();
        let removed: usize = (0..1000).map(|_| deadlines.clean_step(|_, _| false)).sum();
        assert_eq!((removed, deadlines.len()), (10_000, 0));
        check(&deadlines);
    }

    #[test]
    fn cleaning_that_finds_nothing_changes_nothing() {
        let mut deadlines = Deadlines::default();
        (0..10_000).for_each(|sequence| deadlines.insert(BASE, sequence));
        let before = deadlines.memory_bytes();
        assert!((0..10).all(|_| deadlines.clean_step(|_, _| true) == 0));
        assert_eq!(deadlines.memory_bytes(), before);
        assert_eq!(drain(&mut deadlines).len(), 10_000);
    }

    #[test]
    fn nothing_is_left_after_clear() {
        let mut deadlines = Deadlines::default();
        (0..10_000).for_each(|sequence| deadlines.insert(BASE + sequence, sequence));
        deadlines.next_ms();
        deadlines.clear();
        assert!(deadlines.is_empty());
        assert_eq!((deadlines.next_ms(), deadlines.memory_bytes()), (None, 0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// As many, from this time on, this far apart.
        Insert {
            from_ms: u64,
            step_ms: u64,
            count: u64,
        },
        Pop {
            count: usize,
        },
        PopUntil {
            after_ms: u64,
        },
        Next,
        Clean {
            steps: usize,
            keep_one_in: u64,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        let from = prop_oneof![
            4 => BASE..BASE + 100_000,
            2 => BASE..BASE + YEAR_MS,
            1 => 0..1000_u64,
            1 => u64::MAX - 1000..u64::MAX,
            1 => 0..u64::MAX,
        ];
        let step = prop_oneof![Just(0), 0..10_u64, 0..1_000_000_u64, Just(1 << 40)];
        let count = prop_oneof![3 => 1..100_u64, 1 => 4000..10_000_u64];
        prop_oneof![
            6 => (from, step, count).prop_map(|(from_ms, step_ms, count)| Step::Insert { from_ms, step_ms, count }),
            2 => (0..6000_usize).prop_map(|count| Step::Pop { count }),
            2 => (0..200_000_u64).prop_map(|after_ms| Step::PopUntil { after_ms }),
            2 => Just(Step::Next),
            2 => (1..20_usize, 1..4_u64).prop_map(|(steps, keep_one_in)| Step::Clean { steps, keep_one_in }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_calendar_is_a_sorted_set(steps in prop::collection::vec(step(), 1..25), descending: bool) {
            let (mut deadlines, mut model) = (Deadlines::default(), BTreeSet::new());
            let mut inserted = 0;
            for step in steps {
                match step {
                    Step::Insert { from_ms, step_ms, count } => {
                        for index in 0..count {
                            let deadline_ms = from_ms.wrapping_add(index.wrapping_mul(step_ms)).min(u64::MAX - 1);
                            inserted += 1;
                            let sequence = if descending { (u64::MAX >> 1) - inserted } else { inserted };
                            deadlines.insert(deadline_ms, sequence);
                            model.insert((deadline_ms, sequence));
                        }
                    }
                    Step::Pop { count } => {
                        for _ in 0..count {
                            prop_assert_eq!(deadlines.pop_due(u64::MAX), model.pop_first());
                        }
                    }
                    Step::PopUntil { after_ms } => loop {
                        let due = model.first().copied().filter(|(deadline_ms, _)| *deadline_ms <= BASE + after_ms);
                        prop_assert_eq!(deadlines.pop_due(BASE + after_ms), due);
                        if due.is_none() {
                            break;
                        }
                        model.pop_first();
                    },
                    Step::Next => prop_assert_eq!(deadlines.next_ms(), model.first().map(|first| first.0)),
                    Step::Clean { steps, keep_one_in } => {
                        for _ in 0..steps {
                            let before = deadlines.len();
                            let removed = deadlines.clean_step(|deadline_ms, sequence| {
                                assert!(model.contains(&(deadline_ms, sequence)));
                                let keep = sequence % keep_one_in == 0;
                                if !keep {
                                    model.remove(&(deadline_ms, sequence));
                                }
                                keep
                            });
                            prop_assert_eq!(before - removed, model.len());
                            prop_assert_eq!(deadlines.len(), model.len());
                        }
                    }
                }
                prop_assert_eq!(deadlines.len(), model.len());
                check(&deadlines);
            }
            prop_assert!(drain(&mut deadlines).into_iter().eq(model));
        }

        #[test]
        fn whatever_is_inserted_leaves_sorted(mut all in prop::collection::vec((0..u64::MAX, any::<u64>()), 0..2000)) {
            let mut deadlines = Deadlines::default();
            for (index, (deadline_ms, sequence)) in all.iter().enumerate() {
                deadlines.insert(*deadline_ms, *sequence);
                if index % 100 == 0 {
                    deadlines.next_ms();
                }
            }
            all.sort_unstable();
            prop_assert_eq!(drain(&mut deadlines), all);
        }
    }
}
