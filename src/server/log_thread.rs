//! The log thread: takes facts from the journal in batches, writes and syncs them, and says that they are durable.
//!
//! What somebody waits for is synced at once, without a timer: the sync under way is the window in which the next batch
//! gathers. What nobody waits for, such as settlements, may stay unsynced for a moment, so that it goes with something
//! else: see [`Pace`]. The first failure is the last thing the thread does. Nothing is durable any more then, and the
//! broker ends.

use std::{io, sync::Arc, time::Duration};

use super::{clock::Clock, thread::Thread};
use crate::{
    broker::{
        journal::{Batch, Fact, Journal, Lsn, Work},
        stats::Stats,
    },
    config::SyncPolicy,
    storage::{Log, StorageError},
};

/// When facts are synced, and when they count as durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Whether they count as durable once the operating system has them: nobody waits for a sync then.
    trusts_system: bool,
    /// How long what nobody waits for may stay unsynced, in milliseconds.
    delay_ms: u64,
    /// How many octets of it may stay unsynced.
    unsynced_bytes_max: u64,
}

impl From<SyncPolicy> for Pace {
    fn from(policy: SyncPolicy) -> Self {
        let unsynced_bytes_max = u64::MAX;
        match policy {
            SyncPolicy::Always => Self { trusts_system: false, delay_ms: 100, unsynced_bytes_max: 8 << 20 },
            SyncPolicy::IntervalMs(delay_ms) => Self { trusts_system: true, delay_ms, unsynced_bytes_max },
            SyncPolicy::Never => Self { trusts_system: true, delay_ms: u64::MAX, unsynced_bytes_max },
        }
    }
}

/// How long nothing must come after a sync until the log notes how far it is durable, in milliseconds.
const IDLE_MS: u64 = 100;

/// Starts the log thread. It ends when the journal is closed, or the log fails.
///
/// # Errors
/// If the system gives no thread.
pub(super) fn spawn(
    journal: Arc<Journal>,
    stats: Arc<Stats>,
    log: Log,
    pace: Pace,
    clock: Clock,
) -> io::Result<Thread> {
    let writer = Writer::new(journal, stats, log, pace, clock);
    Thread::spawn("log", || writer.run())
}

/// The log, or what a test puts in its place. See [`Log`] for what the functions do.
trait Write {
    fn write(&mut self, facts: &[Fact], now_ms: u64) -> Result<(), StorageError>;
    fn sync(&mut self) -> Result<(), StorageError>;
    fn unsynced_bytes(&self) -> u64;
    fn idle(&mut self) -> Result<(), StorageError>;
    fn tidy(&mut self) -> Result<bool, StorageError>;
    fn close(self) -> Result<(), StorageError>;
}

impl Write for Log {
    fn write(&mut self, facts: &[Fact], now_ms: u64) -> Result<(), StorageError> {
        self.write(facts, now_ms)
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.sync()
    }

    fn unsynced_bytes(&self) -> u64 {
        self.unsynced_bytes()
    }

    fn idle(&mut self) -> Result<(), StorageError> {
        self.idle()
    }

    fn tidy(&mut self) -> Result<bool, StorageError> {
        self.tidy()
    }

    fn close(self) -> Result<(), StorageError> {
        self.close()
    }
}

/// What the thread has.
struct Writer<L> {
    journal: Arc<Journal>,
    stats: Arc<Stats>,
    log: L,
    pace: Pace,
    clock: Clock,
    written: Lsn,
    /// When the oldest of what is not synced has to be, on the clock; `None` if all is synced.
    sync_due_ms: Option<u64>,
    /// When to note how far the log is durable; `None` if that is noted, or something is not synced.
    note_due_ms: Option<u64>,
    /// Whether the log has something to put in order as soon as there is nothing else to do.
    is_untidy: bool,
}

impl<L: Write> Writer<L> {
    fn new(journal: Arc<Journal>, stats: Arc<Stats>, log: L, pace: Pace, clock: Clock) -> Self {
        Self {
            journal,
            stats,
            log,
            pace,
            clock,
            written: Lsn::default(),
            sync_due_ms: None,
            note_due_ms: None,
            is_untidy: false,
        }
    }

    fn run(mut self) -> Result<(), StorageError> {
        loop {
            match self.journal.next_work(self.patience()) {
                Work::Write(batch) => self.write(batch)?,
                Work::Sync => self.sync()?,
                Work::Nothing if self.is_untidy => {}
                Work::Nothing if self.sync_due_ms.is_some() => self.sync()?,
                Work::Nothing => self.note()?,
                Work::End => break,
            }
            // After whoever waited has been told.
            self.is_untidy = self.log.tidy()?;
        }
        self.log.close()?;
        self.journal.mark_durable(self.written);
        Ok(())
    }

    /// How long to wait for something to do.
    fn patience(&self) -> Duration {
        if self.is_untidy {
            return Duration::ZERO;
        }
        let due_ms = self.sync_due_ms.or(self.note_due_ms).unwrap_or(u64::MAX);
        Duration::from_millis(due_ms.saturating_sub(self.now_ms()))
    }

    fn now_ms(&self) -> u64 {
        self.clock.now().monotonic_ms
    }

    fn write(&mut self, batch: Batch) -> Result<(), StorageError> {
        self.log.write(&batch.facts, self.clock.unix_ms())?;
        self.written = batch.last;
        let is_message = |fact: &&Fact| matches!(fact, Fact::Publish { .. });
        self.stats.disk_writes.add_some(batch.facts.iter().filter(is_message).count() as u64);
        self.note_due_ms = None;
        let mut is_due = self.journal.mark_written(&batch);
        if self.pace.trusts_system {
            self.journal.mark_durable(self.written);
        } else {
            is_due |= batch.facts.iter().any(Fact::is_awaited);
        }
        // The memory of its messages is not needed while the disk is.
        drop(batch);
        let now_ms = self.now_ms();
        let due_ms = *self.sync_due_ms.get_or_insert(now_ms.saturating_add(self.pace.delay_ms));
        if is_due || due_ms <= now_ms || self.log.unsynced_bytes() > self.pace.unsynced_bytes_max {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.log.sync()?;
        self.journal.mark_durable(self.written);
        self.sync_due_ms = None;
        self.note_due_ms = Some(self.now_ms() + IDLE_MS);
        Ok(())
    }

    fn note(&mut self) -> Result<(), StorageError> {
        self.note_due_ms = None;
        self.log.idle()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        path::PathBuf,
        sync::mpsc::{Receiver, SyncSender, sync_channel},
        task::{Wake, Waker},
    };

    use super::{super::RunError, *};
    use crate::broker::{
        outbox::{ConnectionId, Outbox},
        queue::QueueId,
    };

    /// Long enough never to be the reason for anything.
    const NEVER_MS: u64 = 1_000_000_000;
    /// How long anything may take before a test gives up on it.
    const DEADLINE: Duration = Duration::from_secs(20);

    /// What a log is told to do.
    #[derive(Debug, PartialEq)]
    enum Call {
        Write(usize),
        Sync,
        Idle,
        Close,
    }

    /// A log that tells what it is called for. A sync takes until the test lets it succeed or fail.
    struct FakeLog {
        calls: SyncSender<Call>,
        syncs: Receiver<bool>,
        unsynced: u64,
        /// Where one more fact comes during each write, if that is wanted.
        busy: Option<Arc<Journal>>,
    }

    impl FakeLog {
        fn tell(&self, call: Call) -> Result<(), StorageError> {
            // A test that has seen enough does not listen any more.
            self.calls.send(call).map_err(|_| failed())
        }
    }

    impl Write for FakeLog {
        fn write(&mut self, facts: &[Fact], now_ms: u64) -> Result<(), StorageError> {
            assert!(now_ms > 1_600_000_000_000, "{now_ms} is long ago");
            self.unsynced += facts.len() as u64;
            if let Some(journal) = &self.busy {
                journal.append(&mut vec![fact(false)]);
            }
            self.tell(Call::Write(facts.len()))
        }

        fn sync(&mut self) -> Result<(), StorageError> {
            self.tell(Call::Sync)?;
            self.unsynced = 0;
            if self.syncs.recv() == Ok(true) { Ok(()) } else { Err(failed()) }
        }

        fn unsynced_bytes(&self) -> u64 {
            self.unsynced
        }

        fn tidy(&mut self) -> Result<bool, StorageError> {
            Ok(false)
        }

        fn idle(&mut self) -> Result<(), StorageError> {
            self.tell(Call::Idle)
        }

        fn close(self) -> Result<(), StorageError> {
            self.tell(Call::Close)
        }
    }

    fn failed() -> StorageError {
        StorageError::Io { action: "sync", path: PathBuf::from("log"), source: io::Error::other("broken") }
    }

    /// A log thread, its journal and its log.
    struct Run {
        journal: Arc<Journal>,
        calls: Receiver<Call>,
        syncs: SyncSender<bool>,
        thread: Thread,
    }

    impl Run {
        fn start(pace: Pace) -> Self {
            Self::start_with(pace, false)
        }

        fn start_with(pace: Pace, is_busy: bool) -> Self {
            let journal = Arc::new(Journal::new());
            let (calls, received) = sync_channel(100);
            let (syncs, allowed) = sync_channel(100);
            let busy = is_busy.then(|| Arc::clone(&journal));
            let log = FakeLog { calls, syncs: allowed, unsynced: 0, busy };
            let writer = Writer::new(Arc::clone(&journal), Arc::default(), log, pace, Clock::start());
            let thread = Thread::spawn("log", || writer.run()).expect("a thread");
            Self { journal, calls: received, syncs, thread }
        }

        /// Appends one fact, that is waited for or not.
        fn append(&self, is_awaited: bool) -> Lsn {
            self.journal.append(&mut vec![fact(is_awaited)])
        }

        #[track_caller]
        fn expect(&self, call: Call) {
            assert_eq!(self.calls.recv_timeout(DEADLINE), Ok(call));
        }

        /// Lets a sync that was begun come to its end.
        fn let_sync(&self, succeeds: bool) {
            self.syncs.send(succeeds).expect("a log thread");
        }

        /// Waits until the log thread has ended.
        fn end(self) -> Result<(), RunError> {
            self.thread.join()
        }
    }

    fn fact(is_awaited: bool) -> Fact {
        let queue = QueueId(1);
        let fact = if is_awaited {
            Fact::Purge { queue, before: 1, unsettled: Vec::new(), unsettled_body_bytes: 0 }
        } else {
            Fact::Settle { queue, sequences: vec![1], body_bytes: 0 }
        };
        assert_eq!(fact.is_awaited(), is_awaited);
        fact
    }

    const LAZY: Pace = Pace { trusts_system: false, delay_ms: NEVER_MS, unsynced_bytes_max: u64::MAX };

    #[test]
    fn a_sync_is_the_window_in_which_the_next_batch_gathers() {
        let run = Run::start(LAZY);
        run.append(true);
        run.expect(Call::Write(1));
        run.expect(Call::Sync);
        run.append(true);
        run.append(false);
        let last = run.append(true);
        assert_eq!(run.journal.durable(), Lsn(0));
        run.let_sync(true);
        run.expect(Call::Write(3));
        assert_eq!(run.journal.durable(), Lsn(1));
        run.expect(Call::Sync);
        run.let_sync(true);
        run.expect(Call::Idle);
        assert_eq!(run.journal.durable(), last);
    }

    #[test]
    fn what_nobody_waits_for_stays_unsynced_until_something_else_needs_it() {
        let run = Run::start(LAZY);
        for _ in 0..3 {
            run.append(false);
            run.expect(Call::Write(1));
        }
        assert_eq!(run.journal.durable(), Lsn(0));
        let last = run.append(true);
        run.expect(Call::Write(1));
        run.expect(Call::Sync);
        run.let_sync(true);
        run.expect(Call::Idle);
        assert_eq!(run.journal.durable(), last);
    }

    /// Such as `tx.commit` with acknowledgements only.
    #[test]
    fn whoever_waits_for_what_is_written_has_it_synced_at_once() {
        struct Woken(SyncSender<()>);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.send(()).expect("somebody who listens");
            }
        }
        let run = Run::start(LAZY);
        run.append(false);
        run.expect(Call::Write(1));
        let lsn = run.append(false);
        run.expect(Call::Write(1));
        // So the first is marked as written, the second perhaps not yet: both ways lead to a sync.
        let (woken, wakes) = sync_channel(1);
        let outbox = Arc::new(Outbox::new(ConnectionId(1), 1 << 20));
        outbox.set_waker(&Waker::from(Arc::new(Woken(woken))));
        assert!(run.journal.wake_when_durable(lsn, &outbox));
        run.expect(Call::Sync);
        run.let_sync(true);
        wakes.recv_timeout(DEADLINE).expect("a wake-up");
        assert_eq!(run.journal.durable(), lsn);
        assert!(!run.journal.wake_when_durable(lsn, &outbox));
    }

    #[test]
    fn what_nobody_waits_for_is_synced_when_its_time_is_up() {
        let run = Run::start(SyncPolicy::Always.into());
        run.append(false);
        run.expect(Call::Write(1));
        run.expect(Call::Sync);
    }

    #[test]
    fn writes_do_not_put_a_sync_off_that_is_due() {
        let run = Run::start_with(Pace { delay_ms: 0, ..LAZY }, true);
        run.append(false);
        for _ in 0..3 {
            run.expect(Call::Write(1));
            run.expect(Call::Sync);
            run.let_sync(true);
        }
    }

    #[test]
    fn what_nobody_waits_for_is_synced_when_it_is_much() {
        let run = Run::start(Pace { unsynced_bytes_max: 2, ..LAZY });
        for _ in 0..2 {
            run.append(false);
            run.expect(Call::Write(1));
        }
        run.append(false);
        run.expect(Call::Write(1));
        run.expect(Call::Sync);
    }

    #[test]
    fn what_is_written_makes_room_before_it_is_synced() {
        let run = Run::start(LAZY);
        let much = Fact::Return { queue: QueueId(1), sequences: vec![1; 3 << 20] };
        run.journal.append(&mut vec![much, fact(true)]);
        run.expect(Call::Write(2));
        run.expect(Call::Sync);
        assert!(!run.journal.is_full());
        assert_eq!(run.journal.durable(), Lsn(0));
    }

    #[test]
    fn with_an_interval_what_is_written_counts_and_the_sync_comes_in_time() {
        let run = Run::start(SyncPolicy::IntervalMs(1).into());
        let lsn = run.append(true);
        run.expect(Call::Write(1));
        run.expect(Call::Sync);
        assert_eq!(run.journal.durable(), lsn);
    }

    #[test]
    fn without_syncs_what_is_written_counts_and_the_end_is_orderly() {
        let run = Run::start(SyncPolicy::Never.into());
        for _ in 0..3 {
            run.append(true);
            run.expect(Call::Write(1));
        }
        assert!(run.journal.durable() >= Lsn(2));
        run.journal.close();
        run.expect(Call::Close);
        run.end().expect("a good end");
    }

    #[test]
    fn the_end_makes_everything_durable() {
        let run = Run::start(LAZY);
        let last = run.append(false);
        run.journal.close();
        run.expect(Call::Write(1));
        run.expect(Call::Close);
        let journal = Arc::clone(&run.journal);
        run.end().expect("a good end");
        assert_eq!(journal.durable(), last);
    }

    #[test]
    fn the_log_is_told_once_that_it_is_idle() {
        let run = Run::start(LAZY);
        run.append(true);
        run.expect(Call::Write(1));
        run.expect(Call::Sync);
        run.let_sync(true);
        run.expect(Call::Idle);
        run.append(false);
        run.expect(Call::Write(1));
    }

    #[test]
    fn a_failure_is_the_end_and_nothing_more_is_durable() {
        let run = Run::start(LAZY);
        run.append(true);
        run.expect(Call::Write(1));
        run.expect(Call::Sync);
        run.append(true);
        run.let_sync(false);
        let (journal, calls) = (Arc::clone(&run.journal), run.calls);
        let error = run.thread.join().expect_err("a failure");
        assert_eq!((error.to_string().as_str(), error.exit_code()), ("cannot sync log: broken", 74));
        assert_eq!(calls.try_recv().ok(), None, "nothing is tried again");
        assert_eq!(journal.durable(), Lsn(0));
    }
}
