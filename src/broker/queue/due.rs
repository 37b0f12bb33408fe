//! What a queue does when the time has come: messages expire, and what was put off comes back.

use std::sync::Arc;

use super::{DEAD_LETTER_RETRY_MS, DUE_AT_A_TIME, Entry, Queue, QueueHandle, holds::Hold, ready::Expired};
use crate::broker::{
    NEVER,
    death::Reason,
    effects::{Cause, Effects, Letter},
    journal::Fact,
    timers::{Timer, TimerKind},
};

impl Queue {
    /// Takes messages out whose time has come and that are next to be delivered: there may be more of them than expire at
    /// a time. Returns whether a message may be delivered now.
    #[inline]
    pub(super) fn expire_head(&mut self, handle: &Arc<QueueHandle>, effects: &mut Effects) -> bool {
        self.ready.due_ms() >= effects.now.unix_ms || self.expire_head_if_due(handle, effects)
    }

    #[inline(never)]
    pub(super) fn expire_head_if_due(&mut self, handle: &Arc<QueueHandle>, effects: &mut Effects) -> bool {
        let now_ms = effects.now.unix_ms;
        for _ in 0..DUE_AT_A_TIME {
            let has_expired = |head: &Entry| head.deadline_ms < now_ms;
            if self.ready.due_ms() >= now_ms || !self.ready.peek().is_some_and(has_expired) {
                return true;
            }
            let Some(entry) = self.ready.pop() else { return true };
            self.expired(entry, handle, effects);
        }
        false
    }

    /// A message has expired. Those that have to be loaded first are not overtaken.
    pub(super) fn expired(&mut self, entry: Entry, handle: &Arc<QueueHandle>, effects: &mut Effects) {
        let has_letters = self.cause(Reason::Expired).is_some();
        self.pass_turn(&entry);
        match &mut self.rare {
            Some(rare) if has_letters && !rare.dying.is_empty() => {
                rare.dying.push(entry.sequence, Some(entry))
            }
            _ => self.discard(entry, Reason::Expired, handle, effects),
        }
    }

    /// When something is to be done at the latest.
    pub(super) fn due_ms(&self) -> u64 {
        let rare_ms = self.rare.as_ref().map_or(NEVER, |rare| rare.holds.due_ms().min(rare.groups.due_ms()));
        self.ready.due_ms().min(rare_ms)
    }

    /// Sees that somebody calls [`Queue::deliver`] when something is due.
    pub(super) fn set_timer(&mut self, handle: &Arc<QueueHandle>, effects: &mut Effects) {
        let due_ms = if self.has_excess() && self.ready.has_head() { 0 } else { self.due_ms() };
        // Those that have expired and are being loaded come first; whoever brings them calls again.
        let is_waiting = self.rare.as_ref().is_some_and(|rare| rare.dying.is_full());
        if due_ms < self.timer_ms && !is_waiting {
            self.timer_ms = due_ms;
            effects.timers.push(Timer {
                queue: Arc::clone(handle),
                at_ms: due_ms,
                what: TimerKind::Messages,
            });
        }
    }

    /// The timer has gone off. The caller calls [`Queue::deliver`] next.
    pub fn timer_is_off(&mut self) {
        self.timer_ms = NEVER;
        self.ready.clean_deadlines();
    }

    /// Takes messages out whose deadline is not after that, in order of their deadlines, but not too many at a time.
    pub(super) fn expire(&mut self, up_to_ms: u64, handle: &Arc<QueueHandle>, effects: &mut Effects) {
        let has_letters = self.cause(Reason::Expired).is_some();
        for _ in 0..DUE_AT_A_TIME {
            if self.rare.as_ref().is_some_and(|rare| rare.dying.is_full()) {
                // Loading them comes first.
                return;
            }
            let mut parked = || self.rare.as_mut().and_then(|rare| rare.groups.pop_expired(up_to_ms));
            let expired = self.ready.pop_expired(up_to_ms).or_else(|| parked().map(Expired::Entry));
            let Some(expired) = expired else { break };
            match expired {
                Expired::Entry(entry) => self.expired(entry, handle, effects),
                Expired::Paged { sequence, .. } if has_letters => self.rare().dying.push(sequence, None),
                Expired::Paged { sequence, body_bytes } => {
                    self.left(sequence);
                    self.note_persistent_left(body_bytes.into());
                    self.pager.stats.dead[self.arguments.kind as usize].disabled(Reason::Expired).add(1);
                    effects.settled(self.id, sequence, body_bytes);
                }
            }
        }
        self.ready.clean_deadlines();
    }

    /// Puts messages back whose delay is over, and offers dead letters again, but not too many at a time.
    pub(super) fn release_held(&mut self, handle: &Arc<QueueHandle>, effects: &mut Effects) {
        for _ in 0..DUE_AT_A_TIME {
            let due = self.rare.as_mut().and_then(|rare| rare.holds.pop_due(effects.now.unix_ms));
            let Some((entry, death)) = due else { break };
            if let Some(reason) = death {
                let (queue, cause) = (Arc::clone(handle), Cause::Death(reason));
                effects.letters.push(Letter { queue, entry, cause });
            } else {
                self.end_flight(&entry);
                self.note_entered(&entry);
                self.ready.put_back(entry);
            }
        }
    }

    /// A dead letter that may not be lost was not taken by all its queues: it is kept, and offered again.
    pub fn retain(&mut self, entry: Entry, reason: Reason, handle: &Arc<QueueHandle>, effects: &mut Effects) {
        if self.deleted {
            return;
        }
        let until_ms = effects.now.unix_ms + DEAD_LETTER_RETRY_MS;
        self.hold(entry, until_ms, Some(reason), effects);
        self.set_timer(handle, effects);
        self.page(handle, effects);
    }

    pub(super) fn hold(&mut self, entry: Entry, until_ms: u64, death: Option<Reason>, effects: &mut Effects) {
        if entry.stored {
            effects.facts.push(Fact::Hold {
                queue: self.id,
                sequences: vec![entry.sequence],
                until_ms,
                death: death.map_or(0, Reason::code),
            });
        }
        self.rare().holds.insert(Hold { entry, until_ms, death });
    }
}
