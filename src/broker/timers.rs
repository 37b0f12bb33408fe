//! What is to be done to queues at certain times: one timer for all of them, and for each queue at most one entry of each
//! kind that counts.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, Weak},
    task::Waker,
};

use super::{
    Broker, Now,
    effects::Effects,
    queue::{QueueHandle, QueueId},
    vhost::DeleteIf,
};

/// A queue that something is to be done about.
#[derive(Debug)]
pub struct Timer {
    /// The queue.
    pub queue: Arc<QueueHandle>,
    /// When, in [`Now::unix_ms`].
    pub at_ms: u64,
    /// What.
    pub what: TimerKind,
}

/// What a timer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TimerKind {
    /// The time of some of its messages has come.
    Messages,
    /// Nobody may have used it for too long (RabbitMQ: `x-expires`).
    Unused,
}

/// The timers of all queues, by time.
#[derive(Debug, Default)]
pub struct Timers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    by_time: BTreeMap<(u64, QueueId, TimerKind), Weak<QueueHandle>>,
    /// When each of them is.
    times: HashMap<(QueueId, TimerKind), u64>,
    /// Whether there are events to be published.
    has_events: bool,
    /// How many there may be before those of queues that are gone are looked for.
    len_max: usize,
    waker: Option<Waker>,
}

/// How soon a queue that is in use is looked at again, at the earliest, in milliseconds.
const RECHECK_MS: u64 = 100;
/// Timers among which those of queues that are gone are never looked for.
const LEN_MAX_MIN: usize = 1024;
/// Queues that are seen to in one go.
const QUEUES_AT_A_TIME: usize = 16;

impl State {
    /// Forgets queues that are gone, if there may be many: a timer may be years ahead.
    fn clean(&mut self) {
        if self.by_time.len() <= self.len_max.max(LEN_MAX_MIN) {
            return;
        }
        let Self { by_time, times, .. } = self;
        by_time.retain(|(_, id, what), queue| {
            let is_there = queue.strong_count() > 0;
            if !is_there {
                times.remove(&(*id, *what));
            }
            is_there
        });
        self.len_max = 2 * self.by_time.len();
    }
}

impl Timers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("invariant: no panic under the timers' lock")
    }

    /// Adds them, and leaves the vector empty. Of several for the same, the earliest counts.
    pub fn add(&self, timers: &mut Vec<Timer>) {
        let mut state = self.lock();
        let first = state.by_time.first_key_value().map(|(key, _)| key.0);
        for Timer { queue, at_ms, what } in timers.drain(..) {
            match state.times.insert((queue.id, what), at_ms) {
                Some(before_ms) if before_ms <= at_ms => {
                    state.times.insert((queue.id, what), before_ms);
                    continue;
                }
                Some(before_ms) => drop(state.by_time.remove(&(before_ms, queue.id, what))),
                None => {}
            }
            state.by_time.insert((at_ms, queue.id, what), Arc::downgrade(&queue));
        }
        state.clean();
        let is_earlier = state.by_time.first_key_value().map(|(key, _)| key.0) != first;
        if is_earlier && let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Has [`Broker::tick`] called at once, to publish events.
    pub(super) fn call(&self) {
        let mut state = self.lock();
        state.has_events = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    fn take_call(&self) -> bool {
        std::mem::take(&mut self.lock().has_events)
    }

    /// When to call [`Broker::tick`] next, in [`Now::unix_ms`]; the waker is woken when that becomes earlier.
    pub fn next_ms(&self, waker: &Waker) -> Option<u64> {
        let mut state = self.lock();
        state.waker = Some(waker.clone());
        if state.has_events {
            return Some(0);
        }
        state.by_time.first_key_value().map(|((at_ms, ..), _)| *at_ms)
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().by_time.len()
    }

    fn take_due(&self, now: Now) -> Option<(Weak<QueueHandle>, TimerKind)> {
        let mut state = self.lock();
        let first = state.by_time.first_entry().filter(|first| first.key().0 <= now.unix_ms)?;
        let ((_, id, what), queue) = first.remove_entry();
        state.times.remove(&(id, what));
        Some((queue, what))
    }
}

impl Broker {
    /// Does what is due, for some queues and not too many messages. Returns whether there may be more.
    pub fn tick(&self, now: Now) -> bool {
        if self.timers.take_call() {
            self.conclude(Effects { now, has_events: true, ..Effects::default() });
        }
        for _ in 0..QUEUES_AT_A_TIME {
            let Some((queue, what)) = self.timers.take_due(now) else { return false };
            let Some(queue) = queue.upgrade() else { continue };
            let mut effects = Effects { now, ..Effects::default() };
            match what {
                TimerKind::Messages => {
                    let mut locked = queue.lock();
                    locked.timer_is_off();
                    locked.deliver(&queue, &mut effects);
                }
                TimerKind::Unused => self.expire_queue(&queue, &mut effects),
            }
            self.conclude(effects);
        }
        true
    }

    /// Sees that a queue goes when nobody uses it, if it was declared like that or a policy says so.
    pub fn watch_use(&self, queue: &Arc<QueueHandle>, now: Now) {
        let Some(expires_ms) = queue.arguments().expires_ms else { return };
        let at_ms = now.unix_ms + expires_ms;
        self.timers.add(&mut vec![Timer { queue: Arc::clone(queue), at_ms, what: TimerKind::Unused }]);
    }

    /// Deletes a queue that was not used for long enough, or looks again later. Declaring a queue, consuming from it and
    /// getting from it is use; publishing to it is not, and a consumer keeps it for as long as it is there.
    fn expire_queue(&self, queue: &Arc<QueueHandle>, effects: &mut Effects) {
        let Some(expires_ms) = queue.arguments().expires_ms else { return };
        let Some(host) = self.virtual_host(&queue.virtual_host) else { return };
        let (is_deleted, has_consumers) = {
            let locked = queue.lock();
            (locked.is_deleted(), locked.consumer_count() > 0)
        };
        if is_deleted {
            return;
        }
        let now_ms = effects.now.unix_ms;
        let unused_since_ms = if has_consumers { now_ms } else { queue.used_ms() };
        let mut at_ms = unused_since_ms + expires_ms;
        if at_ms <= now_ms {
            let unused = DeleteIf { unused: true, empty: false };
            if host.delete_queue(queue, unused, effects).is_ok() {
                return;
            }
            // A consumer has come just now: the queue is in use again.
            at_ms = now_ms + expires_ms;
        }
        let at_ms = at_ms.max(now_ms + RECHECK_MS.min(expires_ms));
        effects.timers.push(Timer { queue: Arc::clone(queue), at_ms, what: TimerKind::Unused });
    }
}
