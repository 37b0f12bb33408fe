//! The log thread: takes facts from the journal in batches, writes and syncs them, and says they are durable.
//!
//! There is no timer: the sync under way is the window in which the next batch gathers.

use std::{io, sync::Arc, thread};

use tokio::sync::oneshot;

use crate::{broker::Broker, storage::Log};

/// The running log thread.
#[derive(Debug)]
pub(super) struct LogThread {
    thread: thread::JoinHandle<io::Result<()>>,
    /// Closed when the thread ends, in whatever way.
    running: oneshot::Receiver<()>,
}

impl LogThread {
    /// Until the thread ends: while the journal is open, because the log failed.
    pub(super) async fn ended(&mut self) {
        // Nothing is ever sent: an error says that the thread is gone.
        let _ = (&mut self.running).await.is_err();
    }

    /// Waits until everything in the closed journal is written.
    ///
    /// # Errors
    /// What failed in the log.
    pub(super) fn join(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the log thread panicked")))
    }
}

/// Starts the log thread.
///
/// # Errors
/// If the system gives no thread.
pub(super) fn spawn(broker: Arc<Broker>, mut log: impl Log + 'static) -> io::Result<LogThread> {
    let (alive, running) = oneshot::channel::<()>();
    let write = move || {
        let _alive = alive;
        while let Some(batch) = broker.journal.take_batch() {
            log.write(&batch.facts)?;
            log.sync()?;
            broker.journal.mark_durable(&batch);
        }
        Ok(())
    };
    let thread = thread::Builder::new().name("log".to_owned()).spawn(write)?;
    Ok(LogThread { thread, running })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::journal::Fact;
    use crate::{broker::queue::QueueId, config::Config};

    struct FullDisk;

    impl Log for FullDisk {
        fn write(&mut self, _facts: &[Fact]) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_log_that_fails_is_noticed_and_nothing_is_durable() {
        let broker = Arc::new(super::super::broker(&Config::default()));
        let mut log = spawn(Arc::clone(&broker), FullDisk).expect("a thread");
        let lsn = broker.journal.append(&mut vec![Fact::QueueDeleted { id: QueueId(1) }]);
        log.ended().await;
        assert_eq!(log.join().expect_err("failed").kind(), io::ErrorKind::StorageFull);
        assert!(broker.journal.durable() < lsn);
    }
}
