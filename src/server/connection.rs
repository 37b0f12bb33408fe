//! The task of a connection: drives its [`Session`] with what the socket, the outbox and the clock have.
//!
//! One loop without further tasks or channels. Each turn reads what is there, lets the session handle it, takes what
//! others have put into the outbox, and writes with one vectored write for as long as the socket takes it.

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Sleep, sleep_until},
};

use super::{clock::Clock, stream::Stream};
use crate::session::Session;

/// A connection and its socket.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    session: Session,
    clock: Clock,
    /// The session's next deadline. Set late rather than often: it only ever has to be early enough.
    timer: Option<(u64, Pin<Box<Sleep>>)>,
    /// How much to read at once: grows while reads fill it.
    read_size: usize,
    /// Changes once, when the broker stops, which then wakes every connection.
    stopping: watch::Receiver<bool>,
    is_stopping: bool,
}

/// Why a turn ended the connection.
#[derive(Debug)]
enum End {
    /// The session is through and its output written.
    Closed,
    /// The client is gone.
    Disconnected,
    /// The socket failed.
    Failed(io::Error),
}

const READ_SIZE_MIN: usize = 4 << 10;
const READ_SIZE_MAX: usize = 256 << 10;
/// Turns after which other connections get theirs.
const TURNS_MAX: usize = 8;

impl Connection {
    pub(super) fn new(
        stream: Stream,
        session: Session,
        clock: Clock,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self { stream, session, clock, timer: None, read_size: READ_SIZE_MIN, stopping, is_stopping: false }
    }

    /// Drives the connection to its end. When the broker stops, the client is told and given time to answer.
    pub(super) async fn run(mut self) {
        let end = poll_fn(|context| self.poll(context)).await;
        match &end {
            End::Closed => {}
            End::Disconnected => self.session.log_loss("the client is gone without connection.close"),
            End::Failed(error) => self.session.log_loss(&error.to_string()),
        }
        self.session.handle_disconnect(self.clock.now());
        if matches!(end, End::Closed) {
            self.close_gently().await;
        }
    }

    /// Turns until there is nothing to do but wait.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        for _ in 0..TURNS_MAX {
            match self.turn(context) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(end) => return Poll::Ready(end),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// One turn; whether there may be more to do.
    fn turn(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        self.session.outbox().set_waker(context.waker());
        // Looking costs a load; waiting would take a lock that all connections share, at every wake-up.
        if !self.is_stopping && self.stopping.has_changed().unwrap_or(true) {
            self.is_stopping = true;
            self.session.close_forced("shutdown", self.clock.now());
        }
        let wanted_input = self.session.wants_input();
        let has_read = self.read(context)?;
        let now = self.clock.now();
        if has_read {
            self.session.handle_input(now);
        }
        self.session.handle_wake(now);
        self.handle_deadline(context);
        let has_written = self.write(context)?;
        if self.session.is_closed() && self.session.output().is_empty() {
            return Err(End::Closed);
        }
        // Where nothing was read because nothing was wanted, nobody has asked to be woken for input.
        let may_read = !wanted_input && self.session.wants_input();
        Ok(has_read || has_written || may_read)
    }

    /// Reads once; whether anything came.
    fn read(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        if !self.session.wants_input() {
            return Ok(false);
        }
        // Looked at first, so that no buffer is made where nothing has come.
        match self.stream.poll_read_ready(context) {
            Poll::Pending => return Ok(self.rest()),
            // What TLS says where its end was not announced.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(End::Disconnected);
            }
            Poll::Ready(Err(error)) => return Err(End::Failed(error)),
            Poll::Ready(Ok(())) => {}
        }
        let input = self.session.input();
        input.reserve(self.read_size);
        match self.stream.poll_read(context, input) {
            Poll::Ready(Ok(0)) => Err(End::Disconnected),
            Poll::Ready(Ok(count)) => {
                self.adapt_read_size(count);
                Ok(true)
            }
            Poll::Ready(Err(error)) => Err(End::Failed(error)),
            Poll::Pending => Ok(self.rest()),
        }
    }

    /// Nothing has come, which is what it returns: an idle connection keeps no buffer.
    fn rest(&mut self) -> bool {
        let input = self.session.input();
        if input.is_empty() {
            *input = bytes::BytesMut::new();
        }
        false
    }

    fn adapt_read_size(&mut self, count: usize) {
        if count >= self.read_size {
            self.read_size = (self.read_size * 4).min(READ_SIZE_MAX);
        } else if count < self.read_size / 16 {
            self.read_size = (self.read_size / 4).max(READ_SIZE_MIN);
        }
    }

    /// Writes what the session has; whether any of it was taken.
    fn write(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        let mut has_written = false;
        while !self.session.output().is_empty() {
            match self.poll_write(context) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Err(End::Failed(error)),
                Poll::Ready(Ok(count)) => {
                    self.session.handle_written(count, self.clock.now());
                    has_written = true;
                }
            }
        }
        match self.stream.poll_flush(context) {
            Poll::Ready(Err(error)) => Err(End::Failed(error)),
            _ => Ok(has_written),
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(1);
        self.session.output().io_slices(&mut slices);
        self.stream.poll_write(context, &slices)
    }

    /// Lets the session act on its deadline if that has come, and sees that this task is woken for the next.
    fn handle_deadline(&mut self, context: &mut Context<'_>) {
        loop {
            let Some(deadline_ms) = self.session.deadline_ms() else {
                self.timer = None;
                return;
            };
            match &mut self.timer {
                // The timer is early enough: a deadline that moved away is looked at when it rings.
                Some((set_ms, timer)) if *set_ms <= deadline_ms => {
                    if timer.as_mut().poll(context).is_pending() {
                        return;
                    }
                    self.timer = None;
                    self.session.handle_deadline(self.clock.now());
                }
                _ => {
                    let sleep = Box::pin(sleep_until(self.clock.instant(deadline_ms)));
                    self.timer = Some((deadline_ms, sleep));
                }
            }
        }
    }

    /// Says that nothing more comes, and takes what the client still sends for a short while: closing with unread
    /// input would reset the connection, and the client might lose the last frames.
    async fn close_gently(mut self) {
        const LINGER: Duration = Duration::from_secs(1);
        // Whoever does not close its end in time, or has failed, is left.
        let _ = tokio::time::timeout(LINGER, self.stream.close()).await;
    }
}
