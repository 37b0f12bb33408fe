//! The index: what of the log is live, and where.
//!
//! It is what the records say, applied in order; the log thread applies what it writes, recovery what it reads. For each
//! queue it has one [`Run`] for each segment with messages of it: which of them are live, a bit each. Where they lie it
//! knows only for the segment being written; for full ones that is in a file (see `storage/positions.rs`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use roaring::RoaringBitmap;

use super::{
    positions::{ByQueue, Position},
    record::{Record, Run as Sequences},
    seen::Seen,
    segment::SegmentHeader,
};
use crate::broker::{NEVER, journal::Target, message::Message, pager::Load, queue::QueueId};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) queues: HashMap<QueueId, Queue>,
    /// The queues with positions in the segment being written.
    open: HashSet<QueueId>,
    /// The deadlines of messages in the segment being written that have any, by sequence number.
    deadlines: HashMap<QueueId, Vec<(u64, u64)>>,
    /// The keys by which duplicates are known.
    pub(super) seen: Seen,
    /// How many full segments have lost their last live message since the last checkpoint.
    pub(super) emptied: u64,
}

/// A segment of the log.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    /// Messages in it, counted once for each queue.
    pub(super) total: u64,
    /// Octets of their records, counted likewise.
    pub(super) bytes: u64,
    /// Those of them that are live.
    pub(super) live: u64,
    /// Held by whoever reads from it: the file is not used again meanwhile.
    pub(super) pin: Arc<()>,
}

/// What the log has of a queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) runs: Vec<Run>,
    /// Above every sequence number that was ever named.
    pub(super) next_sequence: u64,
    /// The highest sequence number that was delivered.
    pub(super) delivered_up_to: u64,
    /// Octets of the bodies of its live messages that survive. A settlement may come before its publish.
    pub(super) body_bytes: i64,
    /// What entered before that sequence number was purged, even if it is written later, but for [`Rare::unpurged`].
    pub(super) purged_before: u64,
    /// What few queues have. It is there only while there is anything in it: most queues are empty, and many.
    rare: Option<Box<Rare>>,
}

/// What few queues have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// How often live messages came back, of those that did.
    pub(super) delivery_counts: BTreeMap<u64, u32>,
    /// Settled before their publishes were written.
    pub(super) settled_early: BTreeSet<u64>,
    /// Not purged, though they are below [`Queue::purged_before`]: unsettled, and their publishes were not written yet.
    pub(super) unpurged: BTreeSet<u64>,
    /// Messages that are not ready, or whose publishes were not written yet.
    pub(super) held: BTreeMap<u64, Hold>,
}

/// Until when a message is not ready, and why it is dead; 0 if it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) until_ms: u64,
    pub(super) death: u8,
}

/// What most queues have.
static NOTHING_RARE: Rare = Rare {
    delivery_counts: BTreeMap::new(),
    settled_early: BTreeSet::new(),
    unpurged: BTreeSet::new(),
    held: BTreeMap::new(),
};

impl Rare {
    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.delivery_counts.is_empty()
            && self.settled_early.is_empty()
            && self.unpurged.is_empty()
            && self.held.is_empty()
    }

    /// Forgets what is known of live messages that are these.
    fn forget(&mut self, sequences: Sequences) {
        remove_range(&mut self.delivery_counts, sequences);
        remove_range(&mut self.held, sequences);
    }
}

fn remove_range<V>(map: &mut BTreeMap<u64, V>, sequences: Sequences) {
    while let Some((first, _)) = map.range(sequences.first..=sequences.last).next() {
        let first = *first;
        map.remove(&first);
    }
}

/// Messages of one queue in one segment.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) segment: u64,
    /// Whether they are there after a restart.
    pub(super) survives: bool,
    pub(super) traits: Traits,
    /// What the bits count from.
    pub(super) base: u64,
    /// The live ones.
    pub(super) live: RoaringBitmap,
    /// Where they lie, by sequence number, while the segment is being written.
    positions: Vec<Packed>,
}

/// What is true of some message that a run has, or had: where it is not, recovery need not look at each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traits {
    /// It leaves its queue by itself.
    pub(super) dated: bool,
    /// It says a priority.
    pub(super) prioritized: bool,
}

impl std::ops::BitOrAssign for Traits {
    fn bitor_assign(&mut self, other: Self) {
        self.dated |= other.dated;
        self.prioritized |= other.prioritized;
    }
}

/// A position, packed: of these there is one for each message in the segment being written.
#[derive(Clone, Copy, Debug)]
struct Packed {
    delta: u32,
    /// In units of 8 octets.
    offset: u32,
    len: u32,
    priority: Option<u8>,
}

/// Where a record was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
}

/// A live message that was picked to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pick {
    pub(super) sequence: u64,
    pub(super) segment: u64,
    /// Where it lies, if the segment is the one being written.
    pub(super) position: Option<Position>,
}

/// Sequence numbers below the first that a run may still take: publishes of several connections are not written in the
/// order in which they entered the queue.
const LATE_MAX: u64 = 1 << 16;

impl Run {
    /// Messages in a full segment that survived a restart.
    pub(super) fn restored(segment: u64, base: u64, traits: Traits, live: RoaringBitmap) -> Self {
        Self { segment, survives: true, traits, base, live, positions: Vec::new() }
    }

    /// The run that a message belongs to is one whose bits reach it.
    fn delta(&self, sequence: u64) -> Option<u32> {
        u32::try_from(sequence.checked_sub(self.base)?).ok()
    }

    pub(super) fn contains(&self, sequence: u64) -> bool {
        self.delta(sequence).is_some_and(|delta| self.live.contains(delta))
    }

    /// The bits that these sequence numbers are.
    fn deltas(&self, sequences: Sequences) -> Option<std::ops::RangeInclusive<u32>> {
        let first = self.delta(sequences.first.max(self.base))?;
        let last = sequences.last.checked_sub(self.base)?;
        Some(first..=u32::try_from(last).unwrap_or(u32::MAX))
    }

    /// The first and the last live sequence number.
    pub(super) fn bounds(&self) -> Option<(u64, u64)> {
        Some((self.base + u64::from(self.live.min()?), self.base + u64::from(self.live.max()?)))
    }

    /// The live sequence numbers in that range, in order.
    pub(super) fn sequences(&self, range: Sequences) -> impl Iterator<Item = u64> {
        let base = self.base;
        let deltas = self.deltas(range).into_iter().flat_map(|deltas| self.live.range(deltas));
        deltas.map(move |delta| base + u64::from(delta))
    }

    fn position(&self, sequence: u64, deadlines: &[(u64, u64)]) -> Option<Position> {
        let delta = self.delta(sequence)?;
        let at = self.positions.binary_search_by_key(&delta, |packed| packed.delta).ok()?;
        Some(self.unpack(self.positions[at], deadlines))
    }

    /// A position as it is in a file; `deadlines` are those of its queue.
    fn unpack(&self, packed: Packed, deadlines: &[(u64, u64)]) -> Position {
        let sequence = self.base + u64::from(packed.delta);
        let deadline = deadlines.binary_search_by_key(&sequence, |(sequence, _)| *sequence);
        Position {
            sequence,
            offset: u64::from(packed.offset) * 8,
            len: packed.len,
            priority: packed.priority,
            deadline_ms: deadline.map_or(NEVER, |at| deadlines[at].1),
        }
    }

    fn insert(&mut self, delta: u32, place: Place, priority: Option<u8>) {
        self.live.insert(delta);
        let offset = u32::try_from(place.offset / 8).expect("invariant: segments are below 32 GiB");
        let packed = Packed { delta, offset, len: place.len, priority };
        match self.positions.last() {
            Some(last) if last.delta >= delta => {
                let at = self.positions.partition_point(|known| known.delta < delta);
                self.positions.insert(at, packed);
            }
            _ => self.positions.push(packed),
        }
    }
}

impl Queue {
    fn name(&mut self, sequence: u64) {
        self.next_sequence = self.next_sequence.max(sequence + 1);
    }

    /// What few queues have, empty for the others.
    pub(super) fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(&NOTHING_RARE)
    }

    /// What few queues have, to be added to.
    pub(super) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Takes something out of what few queues have, if there is anything.
    fn take_rare<T: Default>(&mut self, take: impl FnOnce(&mut Rare) -> T) -> T {
        let Some(rare) = &mut self.rare else { return T::default() };
        let taken = take(rare);
        if rare.is_empty() {
            self.rare = None;
        }
        taken
    }

    /// Those that the load names, from `first` on, and that are live.
    fn pick_only<'a>(
        &'a self,
        load: &'a Load,
        first: u64,
        deadlines: &'a [(u64, u64)],
    ) -> impl Iterator<Item = Pick> {
        let start = load.only.partition_point(|sequence| *sequence < first);
        let named = load.only[start..].iter().copied().take_while(|sequence| *sequence <= load.last);
        let mut near: Option<&Run> = None;
        named.filter_map(move |sequence| {
            let has = |run: &&Run| run.contains(sequence);
            // What is named together mostly lies together.
            let run = near.filter(has).or_else(|| self.runs.iter().find(has))?;
            near = Some(run);
            Some(Pick { sequence, segment: run.segment, position: run.position(sequence, deadlines) })
        })
    }

    /// How many live messages it has.
    pub(super) fn live(&self) -> u64 {
        self.runs.iter().map(|run| run.live.len()).sum()
    }

    /// Whether a publish that is written now was purged before.
    fn is_purged(&mut self, sequence: u64) -> bool {
        sequence < self.purged_before && !self.take_rare(|rare| rare.unpurged.remove(&sequence))
    }

    /// Whether a message is live, or will be once its publish is written.
    fn expects(&self, sequence: u64) -> bool {
        let Rare { settled_early, unpurged, .. } = self.rare();
        let is_live = || self.runs.iter().any(|run| run.contains(sequence));
        let is_purged = || sequence < self.purged_before && !unpurged.contains(&sequence) && !is_live();
        !settled_early.contains(&sequence) && !is_purged()
    }

    /// Messages that are held and live, in order.
    pub(super) fn held(&self) -> impl Iterator<Item = (u64, Hold)> {
        let is_live = |sequence: &u64| self.runs.iter().any(|run| run.contains(*sequence));
        let held = self.rare().held.iter().filter(move |(sequence, _)| is_live(sequence));
        held.map(|(sequence, hold)| (*sequence, *hold))
    }

    /// Forgets what can't come late any more: after a restart nothing does.
    pub(super) fn forget_late(&mut self) {
        self.purged_before = 0;
        let Some(mut rare) = self.rare.take() else { return };
        let is_live = |sequence: &u64| self.runs.iter().any(|run| run.contains(*sequence));
        rare.delivery_counts.retain(|sequence, _| is_live(sequence));
        rare.held.retain(|sequence, _| is_live(sequence));
        rare.settled_early.clear();
        rare.unpurged.clear();
        self.rare = Some(rare).filter(|rare| !rare.is_empty());
    }
}

impl Index {
    /// A segment that is written from now on.
    pub(super) fn add_segment(&mut self, header: SegmentHeader) {
        let segment = Segment { header, total: 0, bytes: 0, live: 0, pin: Arc::new(()) };
        self.segments.insert(header.id, segment);
    }

    /// Applies a record that was read. Publishes lie at `place`; only the targets that survive count.
    pub(super) fn replay(&mut self, record: &Record<'_>, place: Place) {
        match record {
            Record::Publish { targets, moved, message } => {
                let body_bytes = Message::body_len_in(message).unwrap_or(0);
                let priority = Message::priority_in(message);
                for target in targets.iter().filter(|target| target.survives) {
                    if *moved {
                        self.moved(*target, place, priority);
                    } else {
                        self.publish(*target, place, priority, body_bytes);
                    }
                }
            }
            Record::Settle { queue, body_bytes, sequences } => self.settle(*queue, sequences, *body_bytes),
            Record::Return { queue, sequences } => self.count_return(*queue, sequences),
            Record::Hold { queue, hold, sequences } => self.hold(*queue, sequences, *hold),
            Record::Delivered { queue, up_to } => self.delivered(*queue, *up_to),
            Record::Purge { queue, before, unsettled_body_bytes, unsettled } => {
                self.purge(*queue, *before, unsettled, *unsettled_body_bytes);
            }
            Record::Seen { cache, seen } => self.seen.insert(*cache, *seen),
            Record::Definition(_) | Record::NextId(_) => {}
        }
    }

    /// A message entered a queue and lies there.
    pub(super) fn publish(&mut self, target: Target, place: Place, priority: Option<u8>, body_bytes: u64) {
        let queue = self.queues.entry(target.queue).or_default();
        queue.name(target.sequence);
        let was_settled = queue.take_rare(|rare| rare.settled_early.remove(&target.sequence));
        if !was_settled && queue.is_purged(target.sequence) {
            return;
        }
        if target.survives {
            queue.body_bytes += i64::try_from(body_bytes).unwrap_or(i64::MAX);
        }
        if !was_settled {
            self.insert(target, place, priority);
        }
    }

    /// A live message lies there now.
    pub(super) fn moved(&mut self, target: Target, place: Place, priority: Option<u8>) {
        self.queues.entry(target.queue).or_default().name(target.sequence);
        let single = Sequences { first: target.sequence, last: target.sequence };
        self.remove(target.queue, single);
        self.insert(target, place, priority);
    }

    fn insert(&mut self, target: Target, place: Place, priority: Option<u8>) {
        let queue = self.queues.entry(target.queue).or_default();
        let fits = |run: &Run| {
            (run.segment, run.survives) == (place.segment, target.survives)
                && run.delta(target.sequence).is_some()
        };
        let at = queue.runs.iter().rposition(fits).unwrap_or_else(|| {
            queue.runs.push(Run {
                segment: place.segment,
                survives: target.survives,
                traits: Traits::default(),
                base: target.sequence.saturating_sub(LATE_MAX),
                live: RoaringBitmap::new(),
                positions: Vec::new(),
            });
            queue.runs.len() - 1
        });
        let run = &mut queue.runs[at];
        let delta = run.delta(target.sequence).expect("invariant: the run reaches it");
        run.insert(delta, place, priority);
        run.traits |= Traits { dated: target.deadline_ms != NEVER, prioritized: priority.is_some() };
        if run.positions.len() == 1 {
            self.open.insert(target.queue);
        }
        if target.deadline_ms != NEVER {
            self.insert_deadline(target);
        }
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.total += 1;
            segment.bytes += u64::from(place.len);
            segment.live += 1;
        }
    }

    fn insert_deadline(&mut self, target: Target) {
        let deadlines = self.deadlines.entry(target.queue).or_default();
        let at = match deadlines.last() {
            Some((last, _)) if *last >= target.sequence => {
                deadlines.partition_point(|(sequence, _)| *sequence < target.sequence)
            }
            _ => deadlines.len(),
        };
        let entry = (target.sequence, target.deadline_ms);
        match deadlines.get_mut(at) {
            Some(same) if same.0 == target.sequence => *same = entry,
            _ => deadlines.insert(at, entry),
        }
    }

    /// Messages left the queue.
    pub(super) fn settle(&mut self, queue: QueueId, sequences: &[Sequences], body_bytes: u64) {
        let state = self.queues.entry(queue).or_default();
        state.body_bytes -= i64::try_from(body_bytes).unwrap_or(i64::MAX);
        for run in sequences {
            let state = self.queues.entry(queue).or_default();
            state.name(run.last);
            state.take_rare(|rare| rare.forget(*run));
            if self.live_in(queue, *run) == run.len() {
                self.remove(queue, *run);
                continue;
            }
            for sequence in run.sequences() {
                if self.remove(queue, Sequences { first: sequence, last: sequence }) == 0
                    && let Some(queue) = self.queues.get_mut(&queue)
                {
                    queue.take_rare(|rare| rare.unpurged.remove(&sequence));
                    // What was purged is not waited for.
                    if sequence >= queue.purged_before {
                        queue.rare_mut().settled_early.insert(sequence);
                    }
                }
            }
        }
    }

    fn live_in(&self, queue: QueueId, sequences: Sequences) -> u64 {
        let Some(queue) = self.queues.get(&queue) else { return 0 };
        let live = |run: &Run| run.deltas(sequences).map_or(0, |deltas| run.live.range_cardinality(deltas));
        let mut found = 0;
        for run in &queue.runs {
            found += live(run);
            if found == sequences.len() {
                break;
            }
        }
        found
    }

    /// Takes these out of the live ones and says how many were.
    fn remove(&mut self, queue: QueueId, sequences: Sequences) -> u64 {
        let Some(state) = self.queues.get_mut(&queue) else { return 0 };
        let mut removed = 0;
        let mut emptied = false;
        for run in &mut state.runs {
            let Some(deltas) = run.deltas(sequences) else { continue };
            let count = run.live.remove_range(deltas);
            removed += count;
            emptied |= run.live.is_empty();
            take_live(&mut self.segments, run.segment, count, &mut self.emptied);
            if removed == sequences.len() {
                break;
            }
        }
        if emptied {
            self.drop_empty_runs(queue);
        }
        removed
    }

    fn drop_empty_runs(&mut self, queue: QueueId) {
        let Some(state) = self.queues.get_mut(&queue) else { return };
        state.runs.retain(|run| !run.live.is_empty());
        // Without positions in the segment being written there are no deadlines of it to be written either.
        if !self.deadlines.is_empty() && state.runs.iter().all(|run| run.positions.is_empty()) {
            self.deadlines.remove(&queue);
        }
    }

    /// Messages came back to the queue: one more failed delivery of each.
    pub(super) fn count_return(&mut self, queue: QueueId, sequences: &[Sequences]) {
        let queue = self.queues.entry(queue).or_default();
        for sequence in sequences.iter().flat_map(|run| run.sequences()) {
            queue.name(sequence);
            *queue.rare_mut().delivery_counts.entry(sequence).or_default() += 1;
        }
    }

    /// Messages are not ready until then. It may be said late: what was settled meanwhile is not held.
    pub(super) fn hold(&mut self, queue: QueueId, sequences: &[Sequences], hold: Hold) {
        let queue = self.queues.entry(queue).or_default();
        for sequence in sequences.iter().flat_map(|run| run.sequences()) {
            queue.name(sequence);
            if queue.expects(sequence) {
                queue.rare_mut().held.insert(sequence, hold);
            }
        }
    }

    /// Messages up to there were delivered.
    pub(super) fn delivered(&mut self, queue: QueueId, up_to: u64) {
        let queue = self.queues.entry(queue).or_default();
        queue.name(up_to);
        queue.delivered_up_to = queue.delivered_up_to.max(up_to);
    }

    /// All but these left the queue.
    pub(super) fn purge(
        &mut self,
        queue: QueueId,
        before: u64,
        unsettled: &[Sequences],
        unsettled_body_bytes: u64,
    ) {
        let kept: BTreeSet<u64> = unsettled.iter().flat_map(|run| run.sequences()).collect();
        let state = self.queues.entry(queue).or_default();
        state.next_sequence = state.next_sequence.max(before);
        for run in &mut state.runs {
            let later = run.deltas(Sequences { first: before, last: u64::MAX });
            let later = later.into_iter().flat_map(|deltas| run.live.range(deltas));
            let kept = kept.iter().filter(|kept| run.contains(**kept)).filter_map(|kept| run.delta(*kept));
            let live: RoaringBitmap = kept.chain(later).collect();
            let count = run.live.len() - live.len();
            take_live(&mut self.segments, run.segment, count, &mut self.emptied);
            run.live = live;
        }
        self.drop_empty_runs(queue);
        let state = self.queues.entry(queue).or_default();
        state.body_bytes = i64::try_from(unsettled_body_bytes).unwrap_or(i64::MAX);
        state.purged_before = state.purged_before.max(before);
        let mut rare = state.rare.take().unwrap_or_default();
        let is_written = |sequence: &u64| state.runs.iter().any(|run| run.contains(*sequence));
        let stays = |sequence: &u64| *sequence >= before || kept.contains(sequence);
        rare.delivery_counts.retain(|sequence, _| stays(sequence));
        rare.held.retain(|sequence, _| stays(sequence));
        let is_late = |kept: &&u64| !is_written(kept) && !rare.settled_early.contains(kept);
        rare.unpurged = kept.iter().filter(is_late).copied().collect();
        state.rare = Some(rare).filter(|rare| !rare.is_empty());
    }

    /// The queue is gone.
    pub(super) fn forget(&mut self, queue: QueueId) {
        // What comes late is gone too; the next checkpoint forgets that.
        self.seen.forget(queue);
        let gone = Queue { purged_before: u64::MAX, ..Queue::default() };
        let Some(state) = self.queues.insert(queue, gone) else { return };
        self.open.remove(&queue);
        self.deadlines.remove(&queue);
        for run in state.runs {
            take_live(&mut self.segments, run.segment, run.live.len(), &mut self.emptied);
        }
    }

    /// Counts the live messages of each segment anew.
    pub(super) fn count_live(&mut self) {
        self.segments.values_mut().for_each(|segment| segment.live = 0);
        for run in self.queues.values().flat_map(|queue| &queue.runs) {
            if let Some(segment) = self.segments.get_mut(&run.segment) {
                segment.live += run.live.len();
            }
        }
    }

    /// Takes out a segment that is lost, and says how many live messages of which queues were in it.
    pub(super) fn remove_segment(&mut self, id: u64) -> Vec<(QueueId, u64)> {
        self.segments.remove(&id);
        let mut lost = Vec::new();
        for (queue, state) in &mut self.queues {
            let of_segment = |run: &Run| run.segment == id;
            let count: u64 = state.runs.iter().filter(|run| of_segment(run)).map(|run| run.live.len()).sum();
            if count > 0 {
                lost.push((*queue, count));
                state.runs.retain(|run| !of_segment(run));
            }
        }
        lost
    }

    /// The positions in the segment being written.
    pub(super) fn positions(&self, segment: u64) -> ByQueue {
        let mut positions = ByQueue::new();
        for id in &self.open {
            let Some(queue) = self.queues.get(id) else { continue };
            let deadlines = self.deadlines_of(*id);
            let mut of_queue = Vec::new();
            for run in queue.runs.iter().filter(|run| run.segment == segment) {
                of_queue.extend(run.positions.iter().map(|packed| run.unpack(*packed, deadlines)));
            }
            of_queue.sort_by_key(|position| position.sequence);
            positions.insert(*id, of_queue);
        }
        positions
    }

    /// Those of its messages in the segment being written.
    fn deadlines_of(&self, queue: QueueId) -> &[(u64, u64)] {
        self.deadlines.get(&queue).map_or(&[], Vec::as_slice)
    }

    /// Forgets the positions in a segment that is full: they are in its file.
    pub(super) fn forget_positions(&mut self, segment: u64) {
        self.deadlines = HashMap::new();
        for id in self.open.drain() {
            let runs = self.queues.get_mut(&id).into_iter().flat_map(|queue| &mut queue.runs);
            for run in runs.filter(|run| run.segment == segment) {
                run.positions = Vec::new();
            }
        }
    }

    /// The live messages that are asked for, from `first` on, in order, at most `count_max`.
    pub(super) fn pick(&self, load: &Load, first: u64, count_max: usize) -> Vec<Pick> {
        let Some(queue) = self.queues.get(&load.queue) else { return Vec::new() };
        if first > load.last {
            return Vec::new();
        }
        let deadlines = self.deadlines_of(load.queue);
        if !load.only.is_empty() {
            return queue.pick_only(load, first, deadlines).take(count_max).collect();
        }
        let range = Sequences { first, last: load.last };
        let first_of = |run: &Run| run.sequences(range).next();
        let mut runs: Vec<(u64, &Run)> =
            queue.runs.iter().filter_map(|run| Some((first_of(run)?, run))).collect();
        runs.sort_unstable_by_key(|(first, _)| *first);
        let mut picks: Vec<Pick> = Vec::new();
        for (first, run) in runs {
            // Later runs begin later: once there are enough before this one, the others have none of them either.
            if picks.len() >= count_max && picks[count_max - 1].sequence < first {
                break;
            }
            picks.extend(run.sequences(range).take(count_max).map(|sequence| Pick {
                sequence,
                segment: run.segment,
                position: run.position(sequence, deadlines),
            }));
            picks.sort_unstable_by_key(|pick| pick.sequence);
            picks.truncate(count_max);
        }
        picks
    }

    /// How often a message came back.
    pub(super) fn delivery_count(&self, queue: QueueId, sequence: u64) -> u32 {
        let queue = self.queues.get(&queue);
        queue.and_then(|queue| queue.rare().delivery_counts.get(&sequence)).copied().unwrap_or(0)
    }

    /// Whether a message that is live in that segment survives a restart; `None` if it is not live there.
    pub(super) fn survives_in(&self, queue: QueueId, sequence: u64, segment: u64) -> Option<bool> {
        let is_there = |run: &&Run| run.segment == segment && run.contains(sequence);
        self.queues.get(&queue)?.runs.iter().find(is_there).map(|run| run.survives)
    }
}

/// Messages in a segment are live no more. Counts it as emptied if they were the last and it is full.
fn take_live(segments: &mut BTreeMap<u64, Segment>, id: u64, count: u64, emptied: &mut u64) {
    let is_full = segments.last_key_value().is_some_and(|(last, _)| *last != id);
    let Some(segment) = segments.get_mut(&id) else { return };
    segment.live -= count;
    *emptied += u64::from(is_full && count > 0 && segment.live == 0);
}
