//! What an operator changes while the broker runs, until its next start.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Settings that act at once and are forgotten at a stop.
#[derive(Debug)]
pub struct Runtime {
    memory_watermark_bytes: AtomicU64,
    turns_away: AtomicBool,
}

impl Default for Runtime {
    /// No watermark, and clients are taken.
    fn default() -> Self {
        Self { memory_watermark_bytes: AtomicU64::new(u64::MAX), turns_away: AtomicBool::new(false) }
    }
}

impl Runtime {
    /// The memory in use above which publishers are blocked, in octets.
    pub fn memory_watermark_bytes(&self) -> u64 {
        self.memory_watermark_bytes.load(Ordering::Relaxed)
    }

    /// Changes it. It acts when memory is looked at next, within a second.
    pub fn set_memory_watermark_bytes(&self, bytes: u64) {
        self.memory_watermark_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether new connections of AMQP clients are closed at once.
    pub fn turns_away(&self) -> bool {
        self.turns_away.load(Ordering::Relaxed)
    }

    /// Turns new connections away, or takes them again. Those that are open stay.
    pub fn set_turns_away(&self, turns_away: bool) {
        self.turns_away.store(turns_away, Ordering::Relaxed);
    }
}
