//! The task that deletes queues nobody uses, when their time has come: one timer for all of them.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
    task::Poll,
};

use tokio::time::sleep_until;

use super::clock::Clock;
use crate::broker::Broker;

/// Expires queues for as long as the broker runs.
pub(super) async fn expire(broker: Arc<Broker>, clock: Clock) {
    loop {
        let mut timer = None;
        // Woken by the timer, or by a queue that is due before it: either way the deadlines are looked at again.
        poll_fn(|context| match broker.expiry.next_deadline_ms(context.waker()) {
            Some(deadline_ms) => {
                let mut sleep = Box::pin(sleep_until(clock.instant(deadline_ms)));
                let poll = sleep.as_mut().poll(context);
                timer = Some(sleep);
                poll
            }
            None => Poll::Pending,
        })
        .await;
        drop(timer);
        broker.expire_queues(clock.now());
    }
}
