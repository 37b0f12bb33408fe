//! The messages of a queue that wait for a consumer, in the order they will leave.
//!
//! A deep queue keeps its head in memory. The rest is known as chunks: ranges of sequence numbers that the log has.

use std::collections::{BTreeMap, VecDeque};

use crate::broker::{
    message::Message,
    pager::{Loaded, LoadedMessage, PriorityLevel},
    restore::Backlog,
};

/// A message in a queue.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place in the queue: given when it enters, kept for as long as it is there.
    pub sequence: u64,
    /// The size of its body, at hand where the message is not.
    pub body_bytes: u32,
    /// How many deliveries of it have failed, as a quorum queue counts them. Stays at its maximum.
    pub delivery_count: u16,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// Whether the log has it, or will have it with the facts of the batch that it came in.
    pub stored: bool,
    /// What was published.
    pub message: Message,
}

impl Entry {
    /// A message that enters a queue.
    pub fn new(sequence: u64, stored: bool, message: Message) -> Self {
        let body_bytes = u32::try_from(message.body().len()).expect("invariant: at most 512 MiB");
        Self { sequence, body_bytes, delivery_count: 0, redelivered: false, stored, message }
    }

    /// A message that comes back from the log; those up to `redelivered_up_to` may have been delivered.
    fn loaded(loaded: LoadedMessage, redelivered_up_to: u64) -> Self {
        let LoadedMessage { sequence, delivery_count, message } = loaded;
        let redelivered = sequence <= redelivered_up_to || delivery_count > 0;
        let delivery_count = u16::try_from(delivery_count).unwrap_or(u16::MAX);
        Self { delivery_count, redelivered, ..Self::new(sequence, true, message) }
    }

    /// Octets that it takes in memory.
    fn memory_bytes(&self) -> u64 {
        (size_of::<Piece>() + self.message.memory_bytes()) as u64
    }
}

/// Messages that only the log has: all of their level in a range of sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) count: u64,
    /// Octets that they took in memory, or [`Chunk::RECOVERED`].
    bytes: u64,
}

/// A part of a level.
#[derive(Debug)]
enum Piece {
    Entry(Entry),
    Chunk(Chunk),
}

// A deep queue is mostly these.
const _: () = assert!(size_of::<Piece>() == 40);

/// Messages of a chunk after which the next one begins.
pub(super) const CHUNK_COUNT_MAX: u64 = 1024;
/// Octets of messages after which the next chunk begins.
pub(super) const CHUNK_BYTES_MAX: u64 = 1 << 20;
/// Messages in front of a chunk below which it is loaded, if there are consumers.
const LOW_WATER: usize = 256;
/// Octets of messages in front of a chunk that will do, however few they are.
const LOW_WATER_BYTES: u64 = 256 << 10;
/// Entries that an emptied level keeps room for.
const ENTRIES_KEPT: usize = 4096;

impl Chunk {
    /// The octets of a chunk that was there before the start: nobody knows, and it may be far larger than others.
    const RECOVERED: u64 = u64::MAX;

    fn of(entry: &Entry) -> Self {
        let sequence = entry.sequence;
        Self { first: sequence, last: sequence, count: 1, bytes: entry.memory_bytes() }
    }

    /// Whether it was there before the start, so that the log has it whole, and it is loaded in parts.
    pub(super) fn is_recovered(&self) -> bool {
        self.bytes == Self::RECOVERED
    }

    /// Takes one more message in, if there is room.
    fn extend(&mut self, entry: &Entry) -> bool {
        if self.count >= CHUNK_COUNT_MAX || self.bytes >= CHUNK_BYTES_MAX {
            return false;
        }
        self.last = entry.sequence;
        self.count += 1;
        self.bytes += entry.memory_bytes();
        true
    }

    /// What is left of a recovered chunk after a load from its front. Only what the log can read counts: if it finds
    /// nothing more, nothing is left, whatever the count says.
    fn rest(&self, loaded: &Loaded) -> Option<Self> {
        let last_loaded = loaded.messages.last()?.sequence;
        let found = loaded.messages.len() as u64 + loaded.damaged;
        let count = self.count.saturating_sub(found);
        if last_loaded >= self.last || (count == 0 && loaded.damaged == 0) {
            return None;
        }
        // The damaged ones may lie behind the last one loaded, and be counted again.
        Some(Self { first: last_loaded + 1, count: count.max(1), ..*self })
    }
}

/// Ready messages: by priority, highest first, and by sequence within one.
#[derive(Debug)]
pub(super) struct Ready {
    /// One level for a queue without priorities, else one for each priority from 0 up.
    levels: Vec<Level>,
    len: u64,
    body_bytes: u64,
    memory_bytes: u64,
    /// How many chunks, in all levels.
    chunks: usize,
    /// The level and the first sequence number of the chunk that is being loaded.
    loading: Option<(usize, u64)>,
}

#[derive(Debug, Default)]
struct Level {
    /// In order of arrival. What a quorum queue took back is at its tail, out of sequence and always in memory.
    arrived: VecDeque<Piece>,
    /// Messages that came back to their original position (RabbitMQ's classic queues), by sequence number.
    returned: BTreeMap<u64, Entry>,
    /// How many chunks.
    chunks: usize,
    /// How many entries are in front of the first chunk, if there is one.
    in_front: usize,
    /// The highest sequence number that was ever loaded: what is needed soon is not paged out again.
    loaded_up_to: u64,
}

impl Ready {
    /// No messages; `max_priority` as in the argument `x-max-priority`.
    pub(super) fn new(max_priority: Option<u8>) -> Self {
        let levels = (0..=max_priority.unwrap_or(0)).map(|_| Level::default()).collect();
        Self { levels, len: 0, body_bytes: 0, memory_bytes: 0, chunks: 0, loading: None }
    }

    /// How many messages.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Octets of their bodies.
    pub(super) fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Octets of those in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Whether there are messages that only the log has.
    pub(super) fn is_paged(&self) -> bool {
        self.chunks > 0
    }

    /// Whether [`Ready::pop`] gives a message.
    #[inline]
    pub(super) fn has_head(&self) -> bool {
        self.len > 0 && (self.chunks == 0 || self.next_level().is_some_and(Level::has_head))
    }

    /// The level whose turn it is.
    fn next_level(&self) -> Option<&Level> {
        self.levels.iter().rev().find(|level| !level.is_empty())
    }

    fn level_of(&mut self, entry: &Entry) -> &mut Level {
        match self.levels.len() - 1 {
            0 => &mut self.levels[0],
            highest => &mut self.levels[highest.min(usize::from(entry.message.priority()))],
        }
    }

    fn count_in(&mut self, entry: &Entry) {
        self.len += 1;
        self.body_bytes += u64::from(entry.body_bytes);
        self.memory_bytes += entry.memory_bytes();
    }

    /// Adds a message at the tail: one whose sequence number is the highest so far, or one that is redelivered.
    pub(super) fn push_back(&mut self, entry: Entry) {
        self.count_in(&entry);
        self.level_of(&entry).arrived.push_back(Piece::Entry(entry));
    }

    /// Puts a message back at the position that its sequence number says.
    pub(super) fn put_back(&mut self, entry: Entry) {
        self.count_in(&entry);
        self.level_of(&entry).returned.insert(entry.sequence, entry);
    }

    /// Takes the message whose turn it is, if it is in memory.
    #[inline(always)]
    pub(super) fn pop(&mut self) -> Option<Entry> {
        if self.len == 0 {
            return None;
        }
        let entry = match self.levels.as_mut_slice() {
            [level] => level.pop()?,
            levels => levels.iter_mut().rev().find(|level| !level.is_empty())?.pop()?,
        };
        self.len -= 1;
        self.memory_bytes -= entry.memory_bytes();
        // What a restart says of a backlog's octets need not be exact.
        self.body_bytes = self.body_bytes.saturating_sub(u64::from(entry.body_bytes));
        Some(entry)
    }

    /// Drops every message.
    pub(super) fn clear(&mut self) {
        let count = self.levels.len();
        let levels = (0..count).map(|_| Level::default()).collect();
        *self = Self { levels, len: 0, body_bytes: 0, memory_bytes: 0, chunks: 0, loading: None };
    }

    /// Pages out at least `bytes` octets if there are so many, from the tail of the lowest level. Each message is shown
    /// to `on_paged`, in no order in particular.
    pub(super) fn page_out(&mut self, bytes: u64, mut on_paged: impl FnMut(Entry)) {
        let mut left = bytes;
        for (number, level) in self.levels.iter_mut().enumerate() {
            let busy = self.loading.filter(|(of, _)| *of == number).map(|(_, first)| first);
            let chunks = level.chunks;
            let paged = level.page_out(left, busy, &mut on_paged);
            self.chunks += level.chunks - chunks;
            self.memory_bytes -= paged;
            left = left.saturating_sub(paged);
            if left == 0 {
                return;
            }
        }
    }

    /// The chunk that is to be loaded next: the one at the head, or with `ahead` the one that soon will be.
    pub(super) fn wanted(&self, ahead: bool) -> Option<(Chunk, Option<PriorityLevel>)> {
        let (number, level) = self.levels.iter().enumerate().rev().find(|(_, level)| !level.is_empty())?;
        if level.has_head() && !(ahead && level.runs_low()) {
            return None;
        }
        Some((*level.first_chunk()?, self.priority_level(number)))
    }

    /// The chunk is being loaded: it stays as it is until then.
    pub(super) fn begin_load(&mut self, chunk: &Chunk, priorities: Option<PriorityLevel>) {
        self.loading = Some((number_of(priorities), chunk.first));
    }

    fn priority_level(&self, number: usize) -> Option<PriorityLevel> {
        let octet = |number| u8::try_from(number).expect("invariant: at most 256 levels");
        let highest = octet(self.levels.len() - 1);
        (highest > 0).then(|| PriorityLevel { level: octet(number), highest })
    }

    /// Puts what was loaded into the place of the chunk that begins with `first`. If that has gone meanwhile, nothing
    /// happens. False if some of it is still on its way to the log; nothing has changed then.
    pub(super) fn fill(
        &mut self,
        first: u64,
        priorities: Option<PriorityLevel>,
        loaded: Loaded,
        redelivered_up_to: u64,
    ) -> bool {
        let level = &mut self.levels[number_of(priorities)];
        let Some(chunk) = level.first_chunk().copied().filter(|chunk| chunk.first == first) else {
            return true;
        };
        let found = loaded.messages.len() as u64;
        if !chunk.is_recovered() && found + loaded.damaged < chunk.count {
            return false;
        }
        let rest = if chunk.is_recovered() { chunk.rest(&loaded) } else { None };
        let kept = found + rest.map_or(0, |rest| rest.count);
        self.chunks -= usize::from(rest.is_none());
        self.memory_bytes += level.fill(rest, loaded, redelivered_up_to);
        let lost = chunk.count.saturating_sub(kept);
        let lost_bytes = (self.body_bytes / self.len.max(1)).saturating_mul(lost);
        self.body_bytes = self.body_bytes.saturating_sub(lost_bytes);
        self.len = self.len - chunk.count + kept;
        self.loading = None;
        true
    }

    /// Takes over what was there before the start: in order of first sequence numbers, which may overlap.
    pub(super) fn restore(&mut self, backlog: &[Backlog], body_bytes: u64) {
        let highest = self.levels.len() - 1;
        for range in backlog.iter().filter(|range| range.count > 0) {
            let level = &mut self.levels[highest.min(range.priority.unwrap_or(0).into())];
            let chunks = level.chunks;
            level.restore(range);
            self.chunks += level.chunks - chunks;
            self.len += range.count;
        }
        self.body_bytes = body_bytes;
    }
}

/// The place of a level.
fn number_of(priorities: Option<PriorityLevel>) -> usize {
    priorities.map_or(0, |priorities| priorities.level.into())
}

impl Level {
    fn is_empty(&self) -> bool {
        self.arrived.is_empty() && self.returned.is_empty()
    }

    fn has_head(&self) -> bool {
        !self.returned.is_empty() || matches!(self.arrived.front(), Some(Piece::Entry(_)))
    }

    fn first_chunk(&self) -> Option<&Chunk> {
        match self.arrived.get(self.in_front) {
            Some(Piece::Chunk(chunk)) => Some(chunk),
            _ => None,
        }
    }

    /// Whether little is left in front of the first chunk.
    fn runs_low(&self) -> bool {
        let bytes = || self.entries().take(self.in_front).map(Entry::memory_bytes).sum::<u64>();
        self.chunks > 0 && self.in_front < LOW_WATER && bytes() < LOW_WATER_BYTES
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.arrived.iter().filter_map(|piece| match piece {
            Piece::Entry(entry) => Some(entry),
            Piece::Chunk(_) => None,
        })
    }

    #[inline(always)]
    fn pop(&mut self) -> Option<Entry> {
        if self.chunks > 0 || !self.returned.is_empty() {
            return self.pop_returned_or_paged();
        }
        let Some(Piece::Entry(entry)) = self.arrived.pop_front() else { return None };
        if self.arrived.is_empty() && self.arrived.capacity() > ENTRIES_KEPT {
            self.release_memory();
        }
        Some(entry)
    }

    #[inline(never)]
    fn pop_returned_or_paged(&mut self) -> Option<Entry> {
        // Those that came back left before everything that is here in order of arrival.
        if !self.returned.is_empty() {
            return self.returned.pop_first().map(|(_, entry)| entry);
        }
        self.in_front = self.in_front.checked_sub(1)?;
        match self.arrived.pop_front()? {
            Piece::Entry(entry) => Some(entry),
            Piece::Chunk(_) => unreachable!("only entries are in front of the first chunk"),
        }
    }

    /// A backlog that is gone gives its memory back; a small ring is kept for what comes next.
    #[cold]
    fn release_memory(&mut self) {
        self.arrived.shrink_to(0);
    }

    /// Makes chunks of the tail, and returns how many octets that has freed. The chunk that begins with `busy` stays.
    fn page_out(&mut self, bytes: u64, busy: Option<u64>, on_paged: &mut impl FnMut(Entry)) -> u64 {
        let (mut tail, mut paged) = (Vec::new(), 0);
        while paged < bytes
            && let Some(entry) = self.pop_pageable()
        {
            paged += entry.memory_bytes();
            tail.push(entry);
        }
        while let Some(entry) = tail.pop() {
            self.page(&entry, busy);
            on_paged(entry);
        }
        if self.arrived.capacity() > ENTRIES_KEPT.max(4 * self.arrived.len()) {
            self.arrived.shrink_to(2 * self.arrived.len());
        }
        paged
    }

    /// Takes the last message if it may be paged out: not one that is out of sequence, nor one that was just loaded.
    fn pop_pageable(&mut self) -> Option<Entry> {
        match self.arrived.pop_back()? {
            Piece::Entry(entry) if !entry.redelivered && entry.sequence > self.loaded_up_to => Some(entry),
            piece => {
                self.arrived.push_back(piece);
                None
            }
        }
    }

    fn page(&mut self, entry: &Entry, busy: Option<u64>) {
        if let Some(Piece::Chunk(chunk)) = self.arrived.back_mut()
            && Some(chunk.first) != busy
            && chunk.extend(entry)
        {
            return;
        }
        self.push_chunk(Chunk::of(entry));
    }

    fn push_chunk(&mut self, chunk: Chunk) {
        if self.chunks == 0 {
            self.in_front = self.arrived.len();
        }
        self.chunks += 1;
        self.arrived.push_back(Piece::Chunk(chunk));
    }

    /// Replaces the first chunk by what was loaded of it and the rest of it. Returns the octets that have come.
    fn fill(&mut self, rest: Option<Chunk>, loaded: Loaded, redelivered_up_to: u64) -> u64 {
        let mut front: Vec<Piece> = self.arrived.drain(..=self.in_front).collect();
        if let Some(Piece::Chunk(chunk)) = front.pop() {
            self.loaded_up_to = rest.map_or(chunk.last, |rest| rest.first - 1);
        }
        let mut bytes = 0;
        front.extend(loaded.messages.into_iter().map(|message| {
            let entry = Entry::loaded(message, redelivered_up_to);
            bytes += entry.memory_bytes();
            Piece::Entry(entry)
        }));
        match rest {
            Some(rest) => {
                self.in_front = front.len();
                front.push(Piece::Chunk(rest));
            }
            None => {
                self.chunks -= 1;
                let next = self.arrived.iter().take_while(|piece| matches!(piece, Piece::Entry(_)));
                self.in_front = if self.chunks > 0 { front.len() + next.count() } else { 0 };
            }
        }
        self.arrived.reserve(front.len());
        front.into_iter().rev().for_each(|piece| self.arrived.push_front(piece));
        bytes
    }

    fn restore(&mut self, range: &Backlog) {
        match self.arrived.back_mut() {
            // What two ranges share can't be told apart when it is loaded.
            Some(Piece::Chunk(chunk)) if range.first <= chunk.last => {
                chunk.last = chunk.last.max(range.last);
                chunk.count += range.count;
            }
            _ => {
                let Backlog { first, last, count, .. } = *range;
                self.push_chunk(Chunk { first, last, count, bytes: Chunk::RECOVERED });
            }
        }
    }
}
