//! Durability: the log that the broker's facts go to.
//!
//! Synchronous; the log thread of `server` drives it. The only log yet keeps nothing.

pub mod disk;

use std::io;

use crate::broker::journal::Fact;

/// Where facts go, a batch at a time.
pub trait Log: Send {
    /// Appends the facts of one batch.
    ///
    /// # Errors
    /// If they can't be written. Nothing of the batch may be called durable then.
    fn write(&mut self, facts: &[Fact]) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// If that failed. It must not be tried again: the system may have dropped what it could not write.
    fn sync(&mut self) -> io::Result<()>;
}

/// A log that keeps nothing: messages and definitions live in memory.
#[derive(Debug, Default)]
pub struct NullLog;

impl Log for NullLog {
    fn write(&mut self, _facts: &[Fact]) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}
