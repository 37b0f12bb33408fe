//! The reader thread: brings back what queues have on disk only, one queue after another.
//!
//! Reading blocks, so it has a thread of its own; the queues' owners go on meanwhile.

use std::{io, sync::Arc};

use super::{clock::Clock, thread::Thread};
use crate::{
    broker::{Broker, pager::Served, queue::QueueHandle},
    storage::{Reader, StorageError},
};

/// Starts the reader thread. It ends when the pager is closed and every queue is served, or reading fails.
///
/// # Errors
/// If the system gives no thread.
pub(super) fn spawn(broker: Arc<Broker>, reader: Reader, clock: Clock) -> io::Result<Thread> {
    Thread::spawn("reader", move || {
        while let Some(queue) = broker.pager.take() {
            serve(&broker, &reader, &queue, clock)?;
        }
        Ok::<(), StorageError>(())
    })
}

/// Serves a queue. If some of what it asks for is still on its way to the log, it is served again when more has been
/// written, and the others meanwhile: the facts of a message are appended right after it has entered its queue.
fn serve(
    broker: &Broker,
    reader: &Reader,
    queue: &Arc<QueueHandle>,
    clock: Clock,
) -> Result<(), StorageError> {
    // Counted before it is looked for, so that no write is missed.
    let writes = reader.writes();
    let served = broker.serve(queue, clock.now(), |load| reader.load(load))?;
    if served == Served::Forwarded {
        // A million dead letters may have to be read: the log sets the pace, and publishers have their share.
        broker.journal.wait_while_full();
    }
    if served == Served::Incomplete {
        reader.wait_for_write(writes);
        // If the log is closed nothing will come any more, and nobody is left to have it.
        if reader.writes() > writes {
            broker.pager.request(queue);
        }
    }
    Ok(())
}
