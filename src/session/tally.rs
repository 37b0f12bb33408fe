//! What a connection has to add to the counters of the whole broker, and of exchanges, at the end of a batch.

use std::sync::Arc;

use crate::broker::{
    exchange::Exchange,
    stats::{MessageCounts, SizeCounts, Stats},
};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// All but those that are published.
    pub(super) messages: MessageCounts,
    /// The exchange that was published to last: most are published to the same as the one before.
    exchange: Option<Arc<Exchange>>,
    /// Messages that were published to it.
    published_in: u64,
    /// What went into queues of them.
    published_out: u64,
    /// Of all that was published, what found no queue.
    pub(super) unrouted: u64,
    /// Of all that was published, what wants a confirm.
    pub(super) confirm: u64,
    /// Of all bodies that have come.
    pub(super) sizes: SizeCounts,
}

impl Tally {
    /// A message was published, for so many queues.
    #[inline(always)]
    pub(super) fn publish(&mut self, exchange: &Arc<Exchange>, queue_count: usize, stats: &Stats) {
        if self.exchange.as_ref().is_none_or(|last| !Arc::ptr_eq(last, exchange)) {
            self.begin(exchange, stats);
        }
        self.published_in += 1;
        self.published_out += queue_count as u64;
    }

    #[inline(never)]
    fn begin(&mut self, exchange: &Arc<Exchange>, stats: &Stats) {
        self.flush_exchange(stats);
        self.exchange = Some(Arc::clone(exchange));
    }

    /// Adds all of it.
    pub(super) fn flush(&mut self, stats: &Stats) {
        self.flush_exchange(stats);
        if self.messages != MessageCounts::default() {
            stats.messages.add(&std::mem::take(&mut self.messages));
        }
    }

    #[inline(never)]
    fn flush_exchange(&mut self, stats: &Stats) {
        let published = std::mem::take(&mut self.published_in);
        let Some(exchange) = self.exchange.as_ref().filter(|_| published > 0) else { return };
        exchange.published_in.add(published);
        exchange.published_out.add_some(std::mem::take(&mut self.published_out));
        stats.messages.publish.add(published);
        stats.publish_confirm.add_some(std::mem::take(&mut self.confirm));
        stats.routed.add_some(published - std::mem::take(&mut self.unrouted));
        stats.message_bytes.add(&mut self.sizes);
    }
}
