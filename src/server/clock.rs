//! The only place that reads the clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::broker::Now;

/// Where the broker's time comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts at zero.
    pub(super) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The time.
    pub(super) fn now(&self) -> Now {
        Now { monotonic_ms: millis(self.start.elapsed()) }
    }

    /// Milliseconds since 1970, on the clock on the wall, which may go back; 0 before 1970.
    pub(super) fn unix_ms(&self) -> u64 {
        millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// The instant at which the monotonic clock shows that time.
    pub(super) fn instant(&self, monotonic_ms: u64) -> tokio::time::Instant {
        (self.start + Duration::from_millis(monotonic_ms)).into()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
