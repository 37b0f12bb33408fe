//! Backlogs: what a start puts back into queues.
//!
//! Mostly the index knows it. Only where messages have deadlines, or say a priority in a queue with levels, the positions of
//! their segment are read, some at a time.

use std::collections::{BTreeMap, HashMap};

use super::{
    StorageError,
    disk::Disk,
    index::{Hold, Index, Queue, Run},
    positions::{self, Position},
    record::Run as Sequences,
    segment::{io_error, segment_name},
};
use crate::broker::{
    NEVER,
    queue::{Deadlines, Levels, QueueId},
    restore::{Backlog, RecoveredHold, RecoveredQueue},
};

/// Positions that are in memory at a time.
const POSITIONS_AT_A_TIME: usize = 1 << 16;

/// Where backlogs come from.
#[derive(Debug)]
pub(super) struct Backlogs<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) index: &'a Index,
    /// The priority levels of queues that have more than one.
    pub(super) levels: &'a HashMap<QueueId, Levels>,
}

/// What was gathered of a queue's messages.
#[derive(Debug, Default)]
struct Gathered {
    /// By level.
    ranges: BTreeMap<u8, Backlog>,
    /// By level if there are any.
    deadlines: BTreeMap<Option<u8>, Deadlines>,
}

impl Backlogs<'_> {
    /// What to put back into queues.
    ///
    /// # Errors
    /// If positions can't be read.
    pub(super) fn queues(&self) -> Result<Vec<RecoveredQueue>, StorageError> {
        self.index.queues.iter().map(|(id, queue)| self.queue(*id, queue)).collect()
    }

    fn queue(&self, id: QueueId, queue: &Queue) -> Result<RecoveredQueue, StorageError> {
        let levels = self.levels.get(&id).copied();
        // If no message says a priority, all have the default, and one list of ranges tells of them all.
        let says_priority = queue.runs.iter().any(|run| run.traits.prioritized);
        let ranged = levels.filter(|_| says_priority);
        let gathered = self.gather(id, queue, levels, ranged)?;
        let backlog = match ranged {
            Some(_) => by_first(gathered.ranges.into_values().collect()),
            None => ranges(queue),
        };
        let held: Vec<RecoveredHold> = queue
            .held()
            .map(|(sequence, Hold { until_ms, death })| RecoveredHold { sequence, until_ms, death })
            .collect();
        let is_empty = backlog.is_empty() && held.is_empty();
        let body_bytes = if is_empty { 0 } else { u64::try_from(queue.body_bytes).unwrap_or(0) };
        Ok(RecoveredQueue {
            id,
            next_sequence: queue.next_sequence.max(1),
            delivered_up_to: queue.delivered_up_to,
            body_bytes,
            backlog,
            deadlines: gathered.deadlines.into_iter().collect(),
            held,
        })
    }

    /// Gathers deadlines, and if there are levels to be told apart, the ranges of each.
    fn gather(
        &self,
        id: QueueId,
        queue: &Queue,
        levels: Option<Levels>,
        ranged: Option<Levels>,
    ) -> Result<Gathered, StorageError> {
        let mut gathered = Gathered::default();
        for run in &queue.runs {
            if run.traits.dated || (run.traits.prioritized && ranged.is_some()) {
                let held = &queue.rare().held;
                self.positions(id, run, |position| {
                    if !held.contains_key(&position.sequence) {
                        gathered.add(&position, levels);
                    }
                })?;
            } else if let Some(levels) = ranged
                && let Some(range) = range(queue, run)
            {
                gathered.extend(levels.default, range);
            }
        }
        Ok(gathered)
    }

    /// Shows the positions of a run's live messages, those that can be found.
    fn positions(&self, id: QueueId, run: &Run, mut show: impl FnMut(Position)) -> Result<(), StorageError> {
        let Some((first, last)) = run.bounds() else { return Ok(()) };
        let Some(segment) = self.index.segments.get(&run.segment) else { return Ok(()) };
        let mut left = run.sequences(Sequences { first, last }).peekable();
        while left.peek().is_some() {
            let sequences: Vec<u64> = left.by_ref().take(POSITIONS_AT_A_TIME).collect();
            let found = positions::find(self.disk, &segment.header, id, &sequences);
            found
                .map_err(|error| io_error(self.disk, "read", &segment_name(run.segment), error))?
                .into_iter()
                .for_each(&mut show);
        }
        Ok(())
    }
}

impl Gathered {
    fn add(&mut self, position: &Position, levels: Option<Levels>) {
        let Position { sequence, priority, deadline_ms, .. } = *position;
        let level = levels.map(|levels| priority.unwrap_or(levels.default).min(levels.highest));
        if let Some(level) = level {
            self.extend(level, Backlog { first: sequence, last: sequence, count: 1, priority: None });
        }
        if deadline_ms != NEVER {
            self.deadlines.entry(level).or_default().insert(deadline_ms, sequence);
        }
    }

    /// These messages are of that level.
    fn extend(&mut self, level: u8, more: Backlog) {
        let priority = Some(level);
        let range = self.ranges.entry(level).or_insert(Backlog { count: 0, priority, ..more });
        range.first = range.first.min(more.first);
        range.last = range.last.max(more.last);
        range.count += more.count;
    }
}

/// The messages of a run that are ready; `None` if there are none.
fn range(queue: &Queue, run: &Run) -> Option<Backlog> {
    let (first, last) = run.bounds()?;
    let held = queue.rare().held.range(first..=last);
    let held = held.filter(|(sequence, _)| run.contains(**sequence)).count() as u64;
    let count = run.live.len() - held;
    (count > 0).then_some(Backlog { first, last, count, priority: None })
}

fn by_first(mut ranges: Vec<Backlog>) -> Vec<Backlog> {
    ranges.sort_unstable_by_key(|range| range.first);
    ranges
}

/// The messages of a queue as ranges that do not overlap.
fn ranges(queue: &Queue) -> Vec<Backlog> {
    let ranges = by_first(queue.runs.iter().filter_map(|run| range(queue, run)).collect());
    let mut merged: Vec<Backlog> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.first <= last.last => {
                last.last = last.last.max(range.last);
                last.count += range.count;
            }
            _ => merged.push(range),
        }
    }
    merged
}
