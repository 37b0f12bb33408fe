//! What a queue leaves to the log, and how that comes back (see `broker/pager.rs`).

use std::sync::Arc;

use super::{
    Entry, Queue, QueueHandle, Reason,
    ready::{CHUNK_BYTES_MAX, CHUNK_COUNT_MAX, Chunk},
};
use crate::broker::{
    effects::Effects,
    journal::{Fact, Target},
    outbox::Outbox,
    pager::{Load, Loaded, LoadedMessage, PriorityLevel},
};

impl Queue {
    /// Keeps to the queue's share of memory, and sees that its head comes back.
    pub(super) fn page(&mut self, handle: &Arc<QueueHandle>, effects: &mut Effects) {
        self.account();
        let excess = self.pager.excess_bytes(self.resident_bytes);
        if excess > 0 {
            self.page_out(excess, effects);
            self.account();
        }
        // Rare state that is empty again is given back.
        self.rare.take_if(|rare| rare.is_empty());
        self.request_load(handle);
    }

    pub(super) fn account(&mut self) {
        let now = self.ready.memory_bytes() + self.rare.as_ref().map_or(0, |rare| rare.memory_bytes());
        self.pager.account(self.resident_bytes, now);
        self.resident_bytes = now;
    }

    /// Leaves messages to the log; those that it does not have are told to it.
    pub(super) fn page_out(&mut self, bytes: u64, effects: &mut Effects) {
        let (queue, has_paged) = (self.id, &mut self.has_paged);
        let before = self.ready.memory_bytes();
        let mut on_paged = |entry: Entry| {
            if !entry.stored {
                *has_paged = true;
                let Entry { sequence, deadline_ms, message, .. } = entry;
                let target = Target { queue, sequence, survives: false, deadline_ms };
                effects.facts.push(Fact::Publish { message, queues: vec![target] });
            }
        };
        self.ready.page_out(bytes, &mut on_paged);
        if let Some(rare) = &mut self.rare {
            let paged = before - self.ready.memory_bytes();
            rare.holds.page_out(bytes.saturating_sub(paged), &mut on_paged);
        }
    }

    /// Asks for the messages that are needed next, unless they are on their way already.
    pub(super) fn request_load(&mut self, handle: &Arc<QueueHandle>) {
        let has_missing = || self.rare.as_ref().is_some_and(|rare| rare.has_missing());
        if !self.is_loading && (self.wanted().is_some() || has_missing()) {
            self.is_loading = true;
            self.pager.request(handle);
        }
    }

    pub(super) fn wanted(&self) -> Option<(Chunk, Option<PriorityLevel>)> {
        let has_consumers = self.has_consumers();
        let is_needed = has_consumers || self.is_awaited() || self.has_excess();
        if is_needed { self.ready.wanted(has_consumers) } else { None }
    }

    /// What is to be loaded for the queue, after it was requested; `None` if it needs nothing any more.
    pub fn next_load(&mut self) -> Option<Load> {
        let count_max = CHUNK_COUNT_MAX as usize;
        let missing = self.rare.as_ref().map_or_else(Vec::new, |rare| rare.missing());
        if let (Some(first), Some(last)) = (missing.first().copied(), missing.last().copied()) {
            let (priorities, bytes_max) = (None, CHUNK_BYTES_MAX as usize);
            return Some(Load {
                queue: self.id,
                first,
                last,
                priorities,
                count_max,
                bytes_max,
                only: missing,
            });
        }
        let Some((chunk, priorities)) = self.wanted() else {
            self.is_loading = false;
            return None;
        };
        self.ready.begin_load(&chunk, priorities);
        let Chunk { first, last, .. } = chunk;
        let bytes_max = if chunk.is_recovered() { CHUNK_BYTES_MAX as usize } else { usize::MAX };
        Some(Load { queue: self.id, first, last, priorities, count_max, bytes_max, only: Vec::new() })
    }

    /// What [`Queue::next_load`] asked for has come. Nothing happens if the queue was purged or deleted meanwhile. The
    /// caller calls [`Queue::deliver`] next. False if some of it is still on its way to the log: then it is to be tried
    /// again once that has written more.
    pub fn loaded(
        &mut self,
        load: &Load,
        loaded: Loaded,
        handle: &Arc<QueueHandle>,
        effects: &mut Effects,
    ) -> bool {
        if !load.only.is_empty() {
            return self.loaded_missing(load, loaded, handle, effects);
        }
        if !self.ready.fill(load.first, load.priorities, loaded, self.redelivered_up_to) {
            return false;
        }
        self.is_loading = false;
        true
    }

    /// Single messages have come that were paged out: dead ones go on, and what was put off comes back.
    pub(super) fn loaded_missing(
        &mut self,
        load: &Load,
        loaded: Loaded,
        handle: &Arc<QueueHandle>,
        effects: &mut Effects,
    ) -> bool {
        let redelivered_up_to = self.redelivered_up_to;
        let Some(rare) = &mut self.rare else {
            self.is_loading = false;
            return true;
        };
        let is_asked_for = |message: &&LoadedMessage| load.only.binary_search(&message.sequence).is_ok();
        let found = loaded.messages.iter().filter(is_asked_for).count();
        // Then the others were not looked for. They are asked for again, and not more than that at a time: those that
        // come first are not the first ones that leave, and until then all are in memory.
        let bytes: usize = loaded.messages.iter().map(|loaded| loaded.message.memory_bytes()).sum();
        let is_full = bytes >= load.bytes_max;
        if !is_full && (found as u64) + loaded.damaged < load.only.len() as u64 {
            return false;
        }
        let load_max = if is_full { found.max(1) } else { 2 * rare.load_max };
        rare.load_max = load_max.min(CHUNK_COUNT_MAX as usize);
        for message in loaded.messages {
            rare.found(Entry::loaded(message, redelivered_up_to), &self.arguments);
        }
        if !is_full {
            // What was asked for and has not come is damaged, and has been reported.
            load.only.iter().for_each(|sequence| rare.lost(*sequence));
        }
        self.is_loading = false;
        while let Some(entry) = self.rare.as_mut().and_then(|rare| rare.dying.pop()) {
            self.discard(entry, Reason::Expired, handle, effects);
        }
        self.wake_waiting(effects);
        true
    }

    /// Wakes the connection once the head is in memory, or the queue empty: for a basic.get that found it paged.
    pub fn await_head(&mut self, outbox: &Arc<Outbox>, handle: &Arc<QueueHandle>) {
        // Bounded by the connections: each waits with one basic.get.
        let waiting = &mut self.activity().waiting;
        if !waiting.iter().any(|known| Arc::ptr_eq(known, outbox)) {
            waiting.push(Arc::clone(outbox));
        }
        self.request_load(handle);
    }

    /// Wakes those who wait with basic.get.
    pub(super) fn wake_waiting(&mut self, effects: &mut Effects) {
        let waiting = self.activity.as_mut().map(|activity| std::mem::take(&mut activity.waiting));
        waiting.into_iter().flatten().for_each(|outbox| effects.wakes.add(&outbox));
    }
}
