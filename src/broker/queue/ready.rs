//! The messages of a queue that wait for a consumer, in the order they will leave.
//!
//! A deep queue keeps its head in memory. The rest is known as chunks: ranges of sequence numbers that the log has.
//!
//! Messages with a deadline are in a calendar too, each level's in its own ([`Expiring`]), so that they are found wherever
//! they are when their time has come. What leaves otherwise stays in the calendar until then, or until it is cleaned.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
};

use super::{deadlines::Deadlines, levels::Levels};
use crate::broker::{
    NEVER,
    message::Message,
    pager::{Loaded, LoadedMessage, PriorityLevel},
    restore::Backlog,
};

/// A message in a queue.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place in the queue: given when it enters, kept for as long as it is there.
    pub sequence: u64,
    /// When it leaves the queue by itself, in [`Now::unix_ms`](crate::broker::Now::unix_ms); [`NEVER`] if it does not.
    pub deadline_ms: u64,
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
    pub fn new(sequence: u64, deadline_ms: u64, stored: bool, message: Message) -> Self {
        let body_bytes = u32::try_from(message.body().len()).expect("invariant: at most 512 MiB");
        Self { sequence, deadline_ms, body_bytes, delivery_count: 0, redelivered: false, stored, message }
    }

    /// A message that comes back from the log; those up to `redelivered_up_to` may have been delivered.
    pub(super) fn loaded(loaded: LoadedMessage, redelivered_up_to: u64) -> Self {
        let LoadedMessage { sequence, delivery_count, deadline_ms, message } = loaded;
        let redelivered = sequence <= redelivered_up_to || delivery_count > 0;
        let delivery_count = u16::try_from(delivery_count).unwrap_or(u16::MAX);
        Self { delivery_count, redelivered, ..Self::new(sequence, deadline_ms, true, message) }
    }

    /// Octets that it takes in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
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
    /// Octets of their bodies: exact until some of them leave unseen, or when it was there before the start, a guess.
    body_bytes: u64,
}

/// A part of a level.
#[derive(Debug)]
enum Piece {
    Entry(Entry),
    Chunk(Chunk),
    /// There was a message of that sequence number, which has left out of turn. Never at the front.
    Gone(u64),
}

impl Piece {
    /// The first sequence number that it stands for.
    fn first(&self) -> u64 {
        match self {
            Piece::Chunk(chunk) => chunk.first,
            piece => piece.last(),
        }
    }

    /// The last sequence number that it stands for.
    fn last(&self) -> u64 {
        match self {
            Piece::Entry(entry) => entry.sequence,
            Piece::Chunk(chunk) => chunk.last,
            Piece::Gone(sequence) => *sequence,
        }
    }
}

// A deep queue is mostly these.
const _: () = assert!(size_of::<Piece>() == 48);

/// Messages of a chunk after which the next one begins.
pub(super) const CHUNK_COUNT_MAX: u64 = 1024;
/// Octets of messages after which the next chunk begins.
pub(super) const CHUNK_BYTES_MAX: u64 = 1 << 20;
/// Messages in front of a chunk below which it is loaded, if there are consumers.
const LOW_WATER: usize = 256;
/// Octets of messages in front of a chunk that will do, however few they are.
const LOW_WATER_BYTES: u64 = 256 << 10;
/// Places of messages that have left out of turn below which they are never closed up.
const GONE_KEPT: usize = 64;
/// Deadlines of messages that are not there any more below which they are never looked for.
const STALE_KEPT: u64 = 4096;
/// Entries that an emptied level keeps room for.
const ENTRIES_KEPT: usize = 4096;

impl Chunk {
    /// The octets of a chunk that was there before the start: nobody knows, and it may be far larger than others.
    const RECOVERED: u64 = u64::MAX;

    fn of(entry: &Entry) -> Self {
        let (sequence, body_bytes) = (entry.sequence, entry.body_bytes.into());
        Self { first: sequence, last: sequence, count: 1, bytes: entry.memory_bytes(), body_bytes }
    }

    /// Whether it was there before the start, so that the log has it whole, and it is loaded in parts.
    pub(super) fn is_recovered(&self) -> bool {
        self.bytes == Self::RECOVERED
    }

    /// Where its range is as seen from a sequence number.
    fn compare(&self, sequence: u64) -> Ordering {
        if self.last < sequence {
            Ordering::Less
        } else if self.first > sequence {
            Ordering::Greater
        } else {
            Ordering::Equal
        }
    }

    /// Takes one more message in, if there is room.
    fn extend(&mut self, entry: &Entry) -> bool {
        if self.count >= CHUNK_COUNT_MAX || self.bytes >= CHUNK_BYTES_MAX {
            return false;
        }
        self.last = entry.sequence;
        self.count += 1;
        self.bytes += entry.memory_bytes();
        self.body_bytes += u64::from(entry.body_bytes);
        true
    }

    /// Counts one message out, and returns about how many octets its body has.
    fn count_out(&mut self) -> u64 {
        let average = self.body_bytes / self.count;
        self.count -= 1;
        self.body_bytes -= average;
        average
    }

    /// What is left of a recovered chunk after a load from its front. Only what the log can read counts: if it finds
    /// nothing more, nothing is left, whatever the count says.
    fn rest(&self, last_loaded: u64, found: u64, body_bytes: u64, damaged: u64) -> Option<Self> {
        let count = self.count.saturating_sub(found + damaged);
        let body_bytes = self.body_bytes.saturating_sub(body_bytes);
        if last_loaded >= self.last || (count == 0 && damaged == 0) {
            return None;
        }
        // The damaged ones may lie behind the last one loaded, and be counted again.
        Some(Self { first: last_loaded + 1, count: count.max(1), body_bytes, ..*self })
    }
}

/// Ready messages: by priority, highest first, and by sequence within one.
#[derive(Debug)]
pub(super) struct Ready {
    priorities: Levels,
    /// Those that were ever used, by their numbers. A queue without priorities has one, of number 0.
    levels: Vec<Level>,
    len: u64,
    body_bytes: u64,
    memory_bytes: u64,
    /// How many chunks, in all levels.
    chunks: usize,
    /// Messages that were held before the start: they are in the range of a chunk from then, and not part of it.
    apart: BTreeSet<u64>,
    /// The level and the first sequence number of the chunk that is being loaded.
    loading: Option<(u8, u64)>,
    /// The earliest deadline, or an earlier one of a message that has left; [`NEVER`] if there is none.
    due_ms: u64,
}

/// A message that has left a queue because its time has come.
#[derive(Debug)]
pub(super) enum Expired {
    /// It was in memory.
    Entry(Entry),
    /// Only the log has it. The size of its body is an average.
    Paged { sequence: u64, body_bytes: u32 },
}

#[derive(Debug, Default)]
struct Level {
    /// Which priority.
    number: u8,
    /// In order of arrival. What a quorum queue took back is at its tail, out of sequence and always in memory.
    arrived: VecDeque<Piece>,
    /// Messages that came back to their original position (RabbitMQ's classic queues), by sequence number.
    returned: BTreeMap<u64, Entry>,
    /// How many chunks.
    chunks: usize,
    /// How many pieces are in front of the first chunk, if there is one.
    in_front: usize,
    /// How many have left out of turn and still have a place.
    gone: usize,
    /// The highest sequence number that was ever loaded: what is needed soon is not paged out again.
    loaded_up_to: u64,
    /// Messages with deadlines, once there was one.
    expiring: Option<Box<Expiring>>,
}

/// The deadlines of a level's messages.
#[derive(Debug, Default)]
struct Expiring {
    calendar: Deadlines,
    /// How many messages have one; the calendar may have more.
    count: u64,
    /// The last deadline that was looked at, and whose: what is not later has been seen to, and is not loaded again.
    done: (u64, u64),
    /// Whether something at the tail is out of sequence: since the level was empty.
    is_disordered: bool,
}

impl Ready {
    /// No messages of a queue that has these levels.
    pub(super) fn new(priorities: Levels) -> Self {
        Self {
            priorities,
            levels: Vec::new(),
            len: 0,
            body_bytes: 0,
            memory_bytes: 0,
            chunks: 0,
            apart: BTreeSet::new(),
            loading: None,
            due_ms: NEVER,
        }
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

    /// How many only the log has.
    pub(super) fn paged_len(&self) -> u64 {
        let in_memory = self.levels.iter().map(Level::len_in_memory).sum::<usize>();
        self.len - in_memory as u64
    }

    /// The lowest sequence number, but for those that are out of sequence.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.levels.iter().filter_map(Level::oldest).min()
    }

    /// Octets of those in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Whether there are messages that only the log has.
    pub(super) fn is_paged(&self) -> bool {
        self.chunks > 0
    }

    /// Before when no message leaves by itself, in [`Now::unix_ms`](crate::broker::Now::unix_ms).
    #[inline]
    pub(super) fn due_ms(&self) -> u64 {
        self.due_ms
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
        let number =
            if self.priorities.highest == 0 { 0 } else { self.priorities.number(entry.message.priority()) };
        self.level(number)
    }

    #[inline]
    fn level(&mut self, number: u8) -> &mut Level {
        let place = match self.levels.as_slice() {
            [only] if only.number == number => 0,
            levels => match levels.binary_search_by_key(&number, |level| level.number) {
                Ok(place) => place,
                Err(place) => {
                    self.levels.insert(place, Level { number, ..Level::default() });
                    place
                }
            },
        };
        &mut self.levels[place]
    }

    fn count_in(&mut self, entry: &Entry) {
        self.len += 1;
        self.body_bytes += u64::from(entry.body_bytes);
        self.memory_bytes += entry.memory_bytes();
        self.due_ms = self.due_ms.min(entry.deadline_ms);
    }

    /// Adds a message at the tail: one whose sequence number is the highest so far, or one that is redelivered.
    #[inline]
    pub(super) fn push_back(&mut self, entry: Entry) {
        self.count_in(&entry);
        match self.levels.as_mut_slice() {
            [only]
                if self.priorities.highest == 0 && entry.deadline_ms == NEVER && only.expiring.is_none() =>
            {
                only.arrived.push_back(Piece::Entry(entry));
            }
            _ => self.push_back_dated(entry),
        }
    }

    /// The same with priorities or deadlines, or to a queue that never had a message.
    #[inline(never)]
    fn push_back_dated(&mut self, entry: Entry) {
        let is_dated = entry.deadline_ms != NEVER;
        let level = self.level_of(&entry);
        level.note_deadline(&entry);
        if entry.redelivered
            && let Some(expiring) = &mut level.expiring
        {
            expiring.is_disordered = true;
        }
        level.arrived.push_back(Piece::Entry(entry));
        if is_dated {
            level.clean_deadlines();
        }
    }

    /// Puts a message back at the position that its sequence number says.
    pub(super) fn put_back(&mut self, entry: Entry) {
        self.count_in(&entry);
        let level = self.level_of(&entry);
        level.note_deadline(&entry);
        level.returned.insert(entry.sequence, entry);
        level.clean_deadlines();
    }

    /// The message whose turn it is, if it is in memory.
    pub(super) fn peek(&self) -> Option<&Entry> {
        let level = self.next_level()?;
        let first = level.returned.first_key_value().map(|(_, entry)| entry);
        first.or_else(|| level.arrived.front().and_then(entry_of))
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
        self.count_out(&entry);
        Some(entry)
    }

    #[inline(always)]
    fn count_out(&mut self, entry: &Entry) {
        self.len -= 1;
        self.memory_bytes -= entry.memory_bytes();
        self.body_bytes -= u64::from(entry.body_bytes);
    }

    /// Takes the message with the earliest deadline if that is not later than `up_to_ms`.
    pub(super) fn pop_expired(&mut self, up_to_ms: u64) -> Option<Expired> {
        while self.due_ms <= up_to_ms {
            let due =
                |level: &mut Level| level.expiring.as_mut().and_then(|expiring| expiring.calendar.next_ms());
            let places = self.levels.iter_mut().enumerate();
            let earliest = places.filter_map(|(place, level)| Some((due(level)?, place))).min();
            let Some((earliest_ms, place)) = earliest else {
                self.due_ms = NEVER;
                return None;
            };
            self.due_ms = earliest_ms;
            if earliest_ms > up_to_ms {
                return None;
            }
            if let Some(expired) = self.pop_expired_of(place, up_to_ms) {
                return Some(expired);
            }
        }
        None
    }

    fn pop_expired_of(&mut self, place: usize, up_to_ms: u64) -> Option<Expired> {
        let level = &mut self.levels[place];
        let expiring = level.expiring.as_mut()?;
        let (deadline_ms, sequence) = expiring.calendar.pop_due(up_to_ms)?;
        expiring.done = expiring.done.max((deadline_ms, sequence));
        if let Some(entry) = level.remove(sequence, deadline_ms) {
            self.count_out(&entry);
            return Some(Expired::Entry(entry));
        }
        if self.apart.contains(&sequence) {
            return None;
        }
        let (body_bytes, is_last_of_chunk) = level.remove_paged(sequence)?;
        self.chunks -= usize::from(is_last_of_chunk);
        self.len -= 1;
        self.body_bytes -= body_bytes;
        Some(Expired::Paged { sequence, body_bytes: u32::try_from(body_bytes).unwrap_or(u32::MAX) })
    }

    /// Forgets some deadlines of messages that have left, if they are most of what is kept.
    pub(super) fn clean_deadlines(&mut self) {
        self.levels.iter_mut().for_each(Level::clean_deadlines);
    }

    /// How many deadlines it keeps, of messages that have left too.
    #[cfg(test)]
    pub(super) fn deadline_count(&self) -> usize {
        self.levels
            .iter()
            .filter_map(|level| level.expiring.as_ref())
            .map(|expiring| expiring.calendar.len())
            .sum()
    }

    /// Drops every message.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.priorities);
    }

    /// Pages out at least `bytes` octets if there are so many, from the tail of the lowest level. Each message is shown
    /// to `on_paged`, in no order in particular.
    pub(super) fn page_out(&mut self, bytes: u64, mut on_paged: impl FnMut(Entry)) {
        let mut left = bytes;
        for level in &mut self.levels {
            let busy = self.loading.filter(|(of, _)| *of == level.number).map(|(_, first)| first);
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
        let level = self.next_level()?;
        if level.has_head() && !(ahead && level.runs_low()) {
            return None;
        }
        Some((*level.first_chunk()?, self.priorities.level(level.number)))
    }

    /// The chunk is being loaded: it stays as it is until then.
    pub(super) fn begin_load(&mut self, chunk: &Chunk, priorities: Option<PriorityLevel>) {
        self.loading = Some((number_of(priorities), chunk.first));
    }

    /// Puts what was loaded into the place of the chunk that begins with `first`. If that has gone meanwhile, nothing
    /// happens. False if some of it is still on its way to the log; nothing has changed then.
    pub(super) fn fill(
        &mut self,
        first: u64,
        priorities: Option<PriorityLevel>,
        mut loaded: Loaded,
        redelivered_up_to: u64,
    ) -> bool {
        let mut apart = std::mem::take(&mut self.apart);
        let level = self.level(number_of(priorities));
        let Some(chunk) = level.first_chunk().copied().filter(|chunk| chunk.first == first) else {
            self.apart = apart;
            return true;
        };
        let last_loaded = loaded.messages.last().map(|message| message.sequence);
        let done = level.expiring.as_ref().map_or((0, 0), |expiring| expiring.done);
        loaded.messages.retain(|message| {
            let has_expired = message.deadline_ms != NEVER && (message.deadline_ms, message.sequence) <= done;
            !apart.remove(&message.sequence) && !has_expired
        });
        self.apart = apart;
        let found = loaded.messages.len() as u64;
        if !chunk.is_recovered() && found + loaded.damaged < chunk.count {
            return false;
        }
        let body_bytes = loaded.messages.iter().map(|message| message.message.body().len() as u64).sum();
        let rest = last_loaded.filter(|_| chunk.is_recovered());
        let rest = rest.and_then(|last| chunk.rest(last, found, body_bytes, loaded.damaged));
        self.fill_level(priorities, rest, loaded, redelivered_up_to);
        self.len = self.len - chunk.count + found + rest.map_or(0, |rest| rest.count);
        self.body_bytes =
            self.body_bytes - chunk.body_bytes + body_bytes + rest.map_or(0, |rest| rest.body_bytes);
        self.loading = None;
        true
    }

    fn fill_level(
        &mut self,
        priorities: Option<PriorityLevel>,
        rest: Option<Chunk>,
        loaded: Loaded,
        redelivered_up_to: u64,
    ) {
        let bytes = self.level(number_of(priorities)).fill(rest, loaded, redelivered_up_to);
        self.memory_bytes += bytes;
        self.chunks -= usize::from(rest.is_none());
        if self.chunks == 0 {
            self.apart.clear();
        }
    }

    /// Takes over what was there before the start: in order of first sequence numbers, which may overlap. What is `apart`
    /// lies among them and is not part of them.
    pub(super) fn restore(
        &mut self,
        backlog: &[Backlog],
        apart: impl Iterator<Item = u64>,
        deadlines: Vec<(Option<u8>, Deadlines)>,
        body_bytes: u64,
    ) {
        let mut left: u64 = backlog.iter().map(|range| range.count).sum();
        let mut bytes_left = body_bytes;
        for range in backlog.iter().filter(|range| range.count > 0) {
            let number = self.priorities.number(range.priority);
            let level = self.level(number);
            let chunks = level.chunks;
            // Nobody knows which part of the octets is whose.
            let body_bytes = u128::from(bytes_left) * u128::from(range.count) / u128::from(left);
            let body_bytes = u64::try_from(body_bytes).unwrap_or(bytes_left);
            (left, bytes_left) = (left - range.count, bytes_left - body_bytes);
            level.restore(range, body_bytes);
            let added = level.chunks - chunks;
            self.chunks += added;
            self.len += range.count;
            self.body_bytes += body_bytes;
        }
        if self.chunks > 0 {
            self.apart.extend(apart);
        }
        for (priority, mut calendar) in deadlines {
            self.due_ms = self.due_ms.min(calendar.next_ms().unwrap_or(NEVER));
            let number = self.priorities.number(priority);
            let expiring = Expiring { count: calendar.len() as u64, calendar, ..Expiring::default() };
            self.level(number).expiring = Some(Box::new(expiring));
        }
    }
}

/// The number of a level.
fn number_of(priorities: Option<PriorityLevel>) -> u8 {
    priorities.map_or(0, |priorities| priorities.level)
}

impl Level {
    fn is_empty(&self) -> bool {
        self.arrived.is_empty() && self.returned.is_empty()
    }

    fn len_in_memory(&self) -> usize {
        self.returned.len() + self.arrived.len() - self.chunks - self.gone
    }

    fn oldest(&self) -> Option<u64> {
        let returned = self.returned.first_key_value().map(|(sequence, _)| *sequence);
        returned.into_iter().chain(self.arrived.front().map(Piece::first)).min()
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
        let bytes = || {
            self.arrived.iter().take(self.in_front).filter_map(entry_of).map(Entry::memory_bytes).sum::<u64>()
        };
        self.chunks > 0 && self.in_front < LOW_WATER && bytes() < LOW_WATER_BYTES
    }

    #[inline]
    fn note_deadline(&mut self, entry: &Entry) {
        if entry.deadline_ms != NEVER {
            let expiring = self.expiring.get_or_insert_default();
            expiring.calendar.insert(entry.deadline_ms, entry.sequence);
            expiring.count += 1;
        }
    }

    #[inline(always)]
    fn pop(&mut self) -> Option<Entry> {
        if self.chunks > 0 || self.gone > 0 || !self.returned.is_empty() || self.expiring.is_some() {
            return self.pop_out_of_line();
        }
        let Some(Piece::Entry(entry)) = self.arrived.pop_front() else { return None };
        if self.arrived.is_empty() && self.arrived.capacity() > ENTRIES_KEPT {
            self.release_memory();
        }
        Some(entry)
    }

    /// The same with anything but messages in order of arrival.
    #[inline(never)]
    fn pop_out_of_line(&mut self) -> Option<Entry> {
        // Those that came back left before everything that is here in order of arrival.
        let entry = match self.returned.pop_first() {
            Some((_, entry)) => entry,
            None => self.pop_arrived()?,
        };
        if let Some(expiring) = &mut self.expiring {
            expiring.count -= u64::from(entry.deadline_ms != NEVER);
            expiring.is_disordered &= !self.arrived.is_empty();
        }
        Some(entry)
    }

    fn pop_arrived(&mut self) -> Option<Entry> {
        if self.chunks > 0 {
            self.in_front = self.in_front.checked_sub(1)?;
        }
        let Some(Piece::Entry(entry)) = self.arrived.pop_front() else {
            unreachable!("only entries are in front of the first chunk, and what is gone is not at the front")
        };
        self.trim_front();
        if self.arrived.is_empty() && self.arrived.capacity() > ENTRIES_KEPT {
            self.release_memory();
        }
        Some(entry)
    }

    /// Closes up the places at the front of what has left out of turn.
    fn trim_front(&mut self) {
        while let Some(Piece::Gone(_)) = self.arrived.front() {
            self.arrived.pop_front();
            self.gone -= 1;
            self.in_front = self.in_front.saturating_sub(1);
        }
    }

    /// A backlog that is gone gives its memory back; a small ring is kept for what comes next.
    #[cold]
    fn release_memory(&mut self) {
        self.arrived.shrink_to(0);
    }

    /// Where in order of arrival that sequence number is, or would be.
    fn place(&self, sequence: u64) -> usize {
        if self.expiring.as_ref().is_some_and(|expiring| expiring.is_disordered) {
            let is_it = |piece: &Piece| match piece {
                Piece::Chunk(chunk) => (chunk.first..=chunk.last).contains(&sequence),
                piece => piece.last() == sequence,
            };
            return self.arrived.iter().position(is_it).unwrap_or(self.arrived.len());
        }
        self.arrived.partition_point(|piece| piece.last() < sequence)
    }

    /// Takes a message out of turn, if it is in memory and has that deadline.
    fn remove(&mut self, sequence: u64, deadline_ms: u64) -> Option<Entry> {
        if self.returned.get(&sequence).is_some_and(|entry| entry.deadline_ms == deadline_ms) {
            let entry = self.returned.remove(&sequence)?;
            self.count_expired();
            return Some(entry);
        }
        let place = self.place(sequence);
        let is_it = |entry: &Entry| (entry.sequence, entry.deadline_ms) == (sequence, deadline_ms);
        let piece = self.arrived.get_mut(place)?;
        if !matches!(piece, Piece::Entry(entry) if is_it(entry)) {
            return None;
        }
        let Piece::Entry(entry) = std::mem::replace(piece, Piece::Gone(sequence)) else { return None };
        self.gone += 1;
        self.count_expired();
        self.trim_front();
        self.close_up();
        Some(entry)
    }

    /// Counts a message out that only the log has. Returns about how many octets its body has, and whether it was the
    /// last one of its chunk; `None` if it is not there.
    fn remove_paged(&mut self, sequence: u64) -> Option<(u64, bool)> {
        let place = self.place(sequence);
        let Some(Piece::Chunk(chunk)) = self.arrived.get_mut(place) else { return None };
        if sequence < chunk.first {
            return None;
        }
        let body_bytes = chunk.count_out();
        let is_last = chunk.count == 0;
        if is_last {
            self.arrived.remove(place);
            self.chunks -= 1;
            self.find_first_chunk();
            self.trim_front();
        }
        self.count_expired();
        Some((body_bytes, is_last))
    }

    fn count_expired(&mut self) {
        if let Some(expiring) = &mut self.expiring {
            expiring.count = expiring.count.saturating_sub(1);
        }
    }

    fn find_first_chunk(&mut self) {
        let is_chunk = |piece: &Piece| matches!(piece, Piece::Chunk(_));
        self.in_front = if self.chunks > 0 { self.arrived.iter().position(is_chunk).unwrap_or(0) } else { 0 };
    }

    /// Closes up the places of what has left out of turn, once they are most.
    fn close_up(&mut self) {
        if self.gone > GONE_KEPT && self.gone > self.arrived.len() / 2 {
            self.arrived.retain(|piece| !matches!(piece, Piece::Gone(_)));
            self.gone = 0;
            self.find_first_chunk();
            self.arrived.shrink_to(ENTRIES_KEPT);
        }
    }

    /// Forgets some deadlines of messages that have left, if those are most.
    fn clean_deadlines(&mut self) {
        let is_stale =
            |expiring: &mut Box<Expiring>| expiring.calendar.len() as u64 > 2 * expiring.count + STALE_KEPT;
        let Some(mut expiring) = self.expiring.take_if(is_stale) else { return };
        if expiring.is_disordered {
            let in_memory: HashSet<u64> =
                self.arrived.iter().filter_map(entry_of).map(|entry| entry.sequence).collect();
            let chunks: Vec<&Chunk> = self.arrived.iter().filter_map(chunk_of).collect();
            let is_paged = |sequence| chunks.binary_search_by(|chunk| chunk.compare(sequence)).is_ok();
            expiring.calendar.clean_step(|_, sequence| {
                in_memory.contains(&sequence) || self.returned.contains_key(&sequence) || is_paged(sequence)
            });
        } else {
            expiring.calendar.clean_step(|_, sequence| self.has(sequence));
        }
        self.expiring = Some(expiring);
    }

    /// Whether a message of that sequence number is there, in memory or in the log, if nothing is out of sequence.
    fn has(&self, sequence: u64) -> bool {
        let arrived = || match self.arrived.get(self.place(sequence)) {
            Some(Piece::Entry(entry)) => entry.sequence == sequence,
            Some(Piece::Chunk(chunk)) => sequence >= chunk.first,
            Some(Piece::Gone(_)) | None => false,
        };
        self.returned.contains_key(&sequence) || arrived()
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

    /// Takes the last message if it may be paged out: not one that is out of sequence, nor one that was just loaded, nor
    /// one whose time has come.
    fn pop_pageable(&mut self) -> Option<Entry> {
        let done_ms = self.expiring.as_ref().map_or(0, |expiring| expiring.done.0);
        loop {
            match self.arrived.pop_back()? {
                Piece::Entry(entry)
                    if !entry.redelivered
                        && entry.sequence > self.loaded_up_to
                        && entry.deadline_ms > done_ms =>
                {
                    return Some(entry);
                }
                Piece::Gone(_) => self.gone -= 1,
                piece => {
                    self.arrived.push_back(piece);
                    return None;
                }
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
                let next = self.arrived.iter().take_while(|piece| !matches!(piece, Piece::Chunk(_)));
                self.in_front = if self.chunks > 0 { front.len() + next.count() } else { 0 };
            }
        }
        self.arrived.reserve(front.len());
        front.into_iter().rev().for_each(|piece| self.arrived.push_front(piece));
        self.trim_front();
        bytes
    }

    fn restore(&mut self, range: &Backlog, body_bytes: u64) {
        match self.arrived.back_mut() {
            // What two ranges share can't be told apart when it is loaded.
            Some(Piece::Chunk(chunk)) if range.first <= chunk.last => {
                chunk.last = chunk.last.max(range.last);
                chunk.count += range.count;
                chunk.body_bytes += body_bytes;
            }
            _ => {
                let Backlog { first, last, count, .. } = *range;
                self.push_chunk(Chunk { first, last, count, bytes: Chunk::RECOVERED, body_bytes });
            }
        }
    }
}

fn chunk_of(piece: &Piece) -> Option<&Chunk> {
    match piece {
        Piece::Chunk(chunk) => Some(chunk),
        Piece::Entry(_) | Piece::Gone(_) => None,
    }
}

fn entry_of(piece: &Piece) -> Option<&Entry> {
    match piece {
        Piece::Entry(entry) => Some(entry),
        Piece::Chunk(_) | Piece::Gone(_) => None,
    }
}
