//! Queues that are deleted when nobody uses them (RabbitMQ: `x-expires`).
//!
//! Declaring a queue, consuming from it and getting from it is use; publishing to it is not, and a consumer keeps it
//! for as long as it is there. Use only stores the time. A deadline that comes is looked at, and moved if the
//! queue was used meanwhile: one entry for each such queue, whatever happens to it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, Weak},
    task::Waker,
};

use super::{
    Now,
    queue::{QueueHandle, QueueId},
    vhost::{DeleteIf, Effects, VirtualHost},
};

/// The queues with an expiry, by the time at which to look at them.
#[derive(Debug, Default)]
pub struct Expiry {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By milliseconds on the monotonic clock.
    deadlines: BTreeMap<(u64, QueueId), Watched>,
    waker: Option<Waker>,
}

#[derive(Clone, Debug)]
struct Watched {
    host: Weak<VirtualHost>,
    queue: Weak<QueueHandle>,
}

/// How soon a queue that is in use is looked at again, at the earliest.
const RECHECK_MS: u64 = 100;

impl Expiry {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("invariant: no panic under the expiry's lock")
    }

    /// Watches a queue that was just declared, if it has an expiry.
    pub fn watch(&self, host: &Arc<VirtualHost>, queue: &Arc<QueueHandle>, now: Now) {
        let Some(expires_ms) = queue.properties.arguments.expires_ms else { return };
        let watched = Watched { host: Arc::downgrade(host), queue: Arc::downgrade(queue) };
        let deadline_ms = now.monotonic_ms + expires_ms;
        let mut state = self.lock();
        let is_first = state.deadlines.first_key_value().is_none_or(|((first, _), _)| deadline_ms < *first);
        state.deadlines.insert((deadline_ms, queue.id), watched);
        if is_first && let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// When to call [`Expiry::expire`] next; the waker is woken when that becomes earlier.
    pub fn next_deadline_ms(&self, waker: &Waker) -> Option<u64> {
        let mut state = self.lock();
        state.waker = Some(waker.clone());
        state.deadlines.first_key_value().map(|((deadline_ms, _), _)| *deadline_ms)
    }

    /// Deletes the queues whose time has come.
    pub fn expire(&self, now: Now, effects: &mut Effects) {
        while let Some((id, watched)) = self.take_due(now) {
            let (Some(host), Some(queue)) = (watched.host.upgrade(), watched.queue.upgrade()) else {
                continue;
            };
            if let Some(deadline_ms) = expire(&host, &queue, now, effects) {
                self.lock().deadlines.insert((deadline_ms, id), watched);
            }
        }
    }

    fn take_due(&self, now: Now) -> Option<(QueueId, Watched)> {
        let mut state = self.lock();
        let first = state.deadlines.first_entry().filter(|first| first.key().0 <= now.monotonic_ms)?;
        let ((_, id), watched) = first.remove_entry();
        Some((id, watched))
    }
}

/// Deletes a queue that was not used for long enough, or says when to look again.
fn expire(host: &VirtualHost, queue: &Arc<QueueHandle>, now: Now, effects: &mut Effects) -> Option<u64> {
    let expires_ms = queue.properties.arguments.expires_ms?;
    let (is_deleted, has_consumers) = {
        let locked = queue.lock();
        (locked.is_deleted(), locked.consumer_count() > 0)
    };
    let unused_since_ms = if has_consumers { now.monotonic_ms } else { queue.used_ms() };
    let deadline_ms = unused_since_ms + expires_ms;
    if is_deleted {
        None
    } else if deadline_ms > now.monotonic_ms {
        Some(deadline_ms.max(now.monotonic_ms + RECHECK_MS.min(expires_ms)))
    } else {
        // Refused only if a consumer has come just now: the queue is in use again.
        let unused = DeleteIf { unused: true, empty: false };
        let refused = host.delete_queue(queue, unused, effects).is_err();
        refused.then_some(now.monotonic_ms + expires_ms)
    }
}
