//! Waiting until a change is durable: no request that changes something is answered before.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};

use super::Api;
use crate::broker::{
    journal::Lsn,
    outbox::{ConnectionId, Outbox},
};

impl Api {
    /// Until that fact is durable, and all before it.
    pub(super) async fn durable(&self, lsn: Lsn) {
        // No connection has this one: nothing but the journal knows it.
        static WAITING: AtomicU64 = AtomicU64::new(u64::MAX);
        let outbox = Arc::new(Outbox::new(ConnectionId(WAITING.fetch_sub(1, Ordering::Relaxed)), 0));
        poll_fn(|context| {
            outbox.set_waker(context.waker());
            if self.broker.journal.wake_when_durable(lsn, &outbox) { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Until everything is durable that has been recorded so far. Who finds nothing to change is told no sooner than who
    /// changed it.
    pub(super) async fn all_durable(&self) {
        self.durable(self.broker.journal.last()).await;
    }
}
