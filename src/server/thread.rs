//! Threads whose end ends the broker.

use std::{io, thread};

use tokio::sync::oneshot;

use super::RunError;

/// A running thread.
#[derive(Debug)]
pub(super) struct Thread {
    name: &'static str,
    thread: thread::JoinHandle<Result<(), RunError>>,
    /// Closed when the thread ends, in whatever way.
    running: oneshot::Receiver<()>,
}

impl Thread {
    /// Starts a thread.
    ///
    /// # Errors
    /// If the system gives none.
    pub(super) fn spawn<E: Into<RunError>>(
        name: &'static str,
        run: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> io::Result<Self> {
        let (alive, running) = oneshot::channel::<()>();
        let run = move || {
            let _alive = alive;
            run().map_err(Into::into)
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { name, thread, running })
    }

    /// Until the thread ends, in whatever way. To be awaited to its end once.
    pub(super) async fn ended(&mut self) {
        // Nothing is ever sent: an error says that the thread is gone.
        let _ = (&mut self.running).await.is_err();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What it failed with, or that it panicked.
    pub(super) fn join(self) -> Result<(), RunError> {
        self.thread.join().unwrap_or(Err(RunError::Panicked { thread: self.name }))
    }
}
