//! Heartbeats, as deadlines instead of timers (AMQP 0-9-1 section 4.2.7).
//!
//! As in RabbitMQ: the server sends one after half an interval without other output, and takes the client for dead
//! after two intervals without input.

use crate::broker::Now;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval_ms: u64,
    received_ms: u64,
    sent_ms: u64,
}

impl Heartbeat {
    /// No heartbeats.
    pub(super) fn off() -> Self {
        Self { interval_ms: 0, received_ms: 0, sent_ms: 0 }
    }

    /// Heartbeats of the negotiated interval; 0 is none.
    pub(super) fn new(interval_secs: u16, now: Now) -> Self {
        let now = now.monotonic_ms;
        Self { interval_ms: u64::from(interval_secs) * 1000, received_ms: now, sent_ms: now }
    }

    /// Something came from the client.
    pub(super) fn received(&mut self, now: Now) {
        self.received_ms = now.monotonic_ms;
    }

    /// Something goes to the client.
    pub(super) fn sent(&mut self, now: Now) {
        self.sent_ms = now.monotonic_ms;
    }

    /// When to look again.
    pub(super) fn deadline_ms(&self) -> Option<u64> {
        let dead = self.received_ms + 2 * self.interval_ms;
        let due = self.sent_ms + self.interval_ms / 2;
        (self.interval_ms > 0).then(|| dead.min(due))
    }

    /// Whether a heartbeat should be sent.
    pub(super) fn is_due(&self, now: Now) -> bool {
        self.interval_ms > 0 && now.monotonic_ms >= self.sent_ms + self.interval_ms / 2
    }

    /// Whether the client has been silent for too long. A client that is not being read from can't be heard, so
    /// its silence does not count.
    pub(super) fn is_peer_dead(&mut self, now: Now, is_reading: bool) -> bool {
        if !is_reading {
            self.received_ms = now.monotonic_ms;
        }
        self.interval_ms > 0 && now.monotonic_ms >= self.received_ms + 2 * self.interval_ms
    }
}
