//! The task that sees to queues when their time has come: one timer for all of them.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::time::{sleep, sleep_until};

use super::clock::Clock;
use crate::broker::Broker;

/// How often to look whether the journal has room again.
const JOURNAL_FULL_RECHECK: Duration = Duration::from_millis(2);

/// Ticks for as long as the broker runs.
pub(super) async fn run(broker: Arc<Broker>, clock: Clock) {
    loop {
        let mut timer = None;
        // Woken by the timer, or by a queue that is due before it: either way the times are looked at again.
        poll_fn(|context| match broker.timers.next_ms(context.waker()) {
            Some(at_ms) => {
                let mut sleep = Box::pin(sleep_until(clock.instant_of_unix(at_ms)));
                let poll = sleep.as_mut().poll(context);
                timer = Some(sleep);
                poll
            }
            None => Poll::Pending,
        })
        .await;
        drop(timer);
        // A million messages may expire at once: others get their turn in between, and the log sets the pace.
        while broker.tick(clock.now()) {
            tokio::task::yield_now().await;
            while broker.journal.is_full() {
                sleep(JOURNAL_FULL_RECHECK).await;
            }
        }
    }
}
