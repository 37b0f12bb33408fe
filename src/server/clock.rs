//! The only place that reads the clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::broker::Now;

/// Milliseconds ahead beyond which a timer is set anew.
const FAR_MS: u64 = 24 * 60 * 60 * 1000;

/// Where the broker's time comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    start_unix_ms: u64,
}

impl Clock {
    /// A clock that starts at zero.
    pub(crate) fn start() -> Self {
        Self { start: Instant::now(), start_unix_ms: unix_ms() }
    }

    /// The time.
    pub(crate) fn now(&self) -> Now {
        let monotonic_ms = millis(self.start.elapsed());
        Now { monotonic_ms, unix_ms: self.start_unix_ms + monotonic_ms }
    }

    /// Milliseconds since 1970, on the clock on the wall, which may go back; 0 before 1970.
    pub(crate) fn unix_ms(&self) -> u64 {
        unix_ms()
    }

    /// The instant at which [`Now::unix_ms`] is that; one that is not too far ahead to be told.
    pub(super) fn instant_of_unix(&self, unix_ms: u64) -> tokio::time::Instant {
        let ahead_ms = unix_ms.saturating_sub(self.start_unix_ms);
        self.instant(ahead_ms.min(self.now().monotonic_ms + FAR_MS))
    }

    /// The instant at which the monotonic clock shows that time.
    pub(super) fn instant(&self, monotonic_ms: u64) -> tokio::time::Instant {
        (self.start + Duration::from_millis(monotonic_ms)).into()
    }
}

/// See [`Clock::unix_ms`].
pub(super) fn unix_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
