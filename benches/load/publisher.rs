//! A publisher: messages encoded once, stamped in place, and written many at a time.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;

use super::connection::{CHANNEL, Connection, unexpected};
use super::options::Options;
use super::run::{Shared, latencies};
use super::stream::{STAMP, Stamp, TAIL};
use super::topology::{Route, Topology};
use super::wire::{self, FRAME_OVERHEAD, Fields, id};

/// How much is encoded ahead, unless the routes need more, and written at once, unless one message is larger.
const WRITE_BYTES: usize = 1 << 17;
/// How often a publisher looks again whether the consumers have caught up.
const LAG_LOOK: Duration = Duration::from_micros(500);
/// How often it looks whether the run has ended.
const STOP_LOOK: Duration = Duration::from_millis(50);
/// How long confirms may fail to come after the last publish, in nanoseconds.
const CONFIRM_PATIENCE: u64 = 10_000_000_000;

/// One publishing connection.
pub(crate) struct Publisher {
    connection: Connection,
    ring: Ring,
    window: Option<Window>,
    pace: Option<Pace>,
    batch: u64,
    sent: u64,
    /// Messages to publish in all.
    quota: u64,
}

/// What a publisher did.
pub(crate) struct Published {
    /// Kept open until the broker's CPU time has been read.
    pub(crate) connection: Connection,
    /// Messages sent, by queue.
    pub(crate) sequences: Vec<u64>,
    /// From write to confirm, in nanoseconds.
    pub(crate) confirms: Histogram<u64>,
    /// How much later than planned a write began, in nanoseconds.
    pub(crate) lateness: Histogram<u64>,
}

impl Publisher {
    pub(crate) fn open(
        options: &Options,
        topology: &Topology,
        address: &str,
        index: u16,
    ) -> Result<Publisher> {
        let mut connection = Connection::open(options, address, 1 << 16)?;
        if options.confirm.is_some() {
            connection.call(id::CONFIRM_SELECT, id::CONFIRM_SELECT_OK, |a| {
                a.u8(0);
            })?;
        }
        let encoder = Encoder {
            exchange: topology.exchange(),
            size: options.size as usize,
            piece: connection.frame_max - FRAME_OVERHEAD,
            persistent: options.persistent,
        };
        let ring = Ring::new(&encoder, &topology.routes_of(index), options.queues, index);
        Ok(Publisher {
            connection,
            ring,
            window: options.confirm.map(Window::new),
            pace: options.rate.map(|rate| Pace::new(rate, options.publishers, index)),
            batch: options.batch.into(),
            sent: 0,
            quota: options.quota(index),
        })
    }

    /// Publishes all it has to, or until told to stop, and waits for the last confirms.
    pub(crate) fn run(mut self, shared: &Shared) -> Result<Published> {
        if let Some(pace) = &mut self.pace {
            pace.begin(shared.now())?;
        }
        while self.sent < self.quota && !shared.stop.load(Relaxed) {
            let allowed = self.allowed(shared);
            let wait = if allowed > 0 {
                self.publish(allowed, shared)?;
                Duration::ZERO
            } else {
                self.wait(shared)
            };
            if self.connection.receive_within(wait)? {
                self.take_answers(shared)?;
            }
        }
        self.take_last_confirms(shared)?;
        Ok(Published {
            connection: self.connection,
            sequences: self.ring.sequences,
            confirms: self.window.map_or_else(latencies, |window| window.latency),
            lateness: self.pace.map_or_else(latencies, |pace| pace.lateness),
        })
    }

    fn allowed(&self, shared: &Shared) -> u64 {
        let window = self.window.as_ref().map_or(u64::MAX, Window::room);
        let due = self.pace.as_ref().map_or(u64::MAX, |pace| pace.due(shared.now(), self.sent));
        self.batch.min(self.quota - self.sent).min(window).min(due).min(shared.lag_room())
    }

    /// How long to wait for an answer when nothing may be published.
    fn wait(&self, shared: &Shared) -> Duration {
        if self.window.as_ref().is_some_and(|window| window.room() == 0) {
            return STOP_LOOK;
        }
        match &self.pace {
            Some(pace) if shared.lag_room() > 0 => pace.until_next(shared.now(), self.sent).min(STOP_LOOK),
            _ => LAG_LOOK,
        }
    }

    fn publish(&mut self, allowed: u64, shared: &Shared) -> Result<()> {
        let now = shared.now();
        let (count, bytes) = self.ring.stamp(allowed, now);
        if let Some(pace) = &mut self.pace {
            pace.note(now, self.sent);
        }
        if let Some(window) = &mut self.window {
            window.note(count, now);
        }
        // Counted first: a delivery must not be counted before its publish.
        shared.published.fetch_add(count, Relaxed);
        self.sent += count;
        self.connection.send(&self.ring.bytes[bytes])
    }

    fn take_answers(&mut self, shared: &Shared) -> Result<()> {
        let now = shared.now();
        while let Some(frame) = self.connection.next_frame()? {
            if frame.kind != wire::METHOD {
                continue;
            }
            let mut fields = Fields(frame.payload);
            match (fields.u32(), &mut self.window) {
                (Some(id::BASIC_ACK), Some(window)) => {
                    let tag = fields.u64().context("bad basic.ack")?;
                    let multiple = fields.u8().context("bad basic.ack")? != 0;
                    window.confirm(tag, multiple, now, shared.measure_from.load(Relaxed))?;
                }
                (Some(id::BASIC_NACK), _) => bail!("the broker refused a publish with basic.nack"),
                (Some(id), _) => unexpected(id, fields)?,
                (None, _) => bail!("a method frame without a method"),
            }
        }
        Ok(())
    }

    fn take_last_confirms(&mut self, shared: &Shared) -> Result<()> {
        let mut last = shared.now();
        while let Some(missing) = self.window.as_ref().map(Window::unconfirmed).filter(|n| *n > 0) {
            if shared.abort.load(Relaxed) {
                break;
            }
            if self.connection.receive_within(STOP_LOOK)? {
                self.take_answers(shared)?;
                last = shared.now();
            } else if shared.now() - last > CONFIRM_PATIENCE {
                bail!("{missing} publishes were not confirmed");
            }
        }
        Ok(())
    }
}

/// What all messages of a publisher have in common.
struct Encoder {
    exchange: String,
    size: usize,
    /// Body bytes that fit into a frame.
    piece: usize,
    persistent: bool,
}

impl Encoder {
    /// Appends a publish, its content header and its body; returns where a body in one frame stands.
    fn encode(&self, out: &mut Vec<u8>, key: &str) -> Range<usize> {
        wire::method(out, CHANNEL, id::BASIC_PUBLISH, |a| {
            a.u16(0).short(&self.exchange).short(key).u8(0);
        });
        wire::content_header(out, CHANNEL, self.size as u64, self.persistent);
        let body: Vec<u8> = (0..self.size).map(|i| i as u8).collect();
        let start = out.len() + FRAME_OVERHEAD - 1;
        for piece in body.chunks(self.piece) {
            wire::body(out, CHANNEL, piece);
        }
        start..start + self.size.min(self.piece)
    }
}

/// Messages encoded end to end, written over and over with new stamps.
struct Ring {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    next: usize,
    stamped: bool,
    /// A body in several frames carries its stamp at the start only.
    stamp_length: usize,
    publisher: u16,
    /// The next sequence number, by queue.
    sequences: Vec<u64>,
}

struct Slot {
    /// Where the message begins in the ring.
    start: usize,
    body: usize,
    end: usize,
    queue: u32,
}

impl Ring {
    fn new(encoder: &Encoder, routes: &[Route], queues: u32, publisher: u16) -> Ring {
        let (mut bytes, mut slots) = (Vec::new(), Vec::new());
        while bytes.len() < WRITE_BYTES {
            for route in routes {
                let start = bytes.len();
                let body = encoder.encode(&mut bytes, &route.key).start;
                slots.push(Slot { start, body, end: bytes.len(), queue: route.queue });
            }
        }
        let stamp_length = if encoder.size <= encoder.piece { encoder.size } else { STAMP };
        Ring {
            bytes,
            slots,
            next: 0,
            stamped: encoder.size >= STAMP,
            stamp_length: if stamp_length < TAIL { STAMP } else { stamp_length },
            publisher,
            sequences: vec![0; queues as usize],
        }
    }

    /// Stamps the next messages, at least one and at most `allowed`; returns how many and where they stand.
    fn stamp(&mut self, allowed: u64, now: u64) -> (u64, Range<usize>) {
        let start = self.slots[self.next].start;
        let mut end = start;
        let mut count = 0;
        for slot in &self.slots[self.next..] {
            if count == allowed || (count > 0 && slot.end - start > WRITE_BYTES) {
                break;
            }
            let sequence = &mut self.sequences[slot.queue as usize];
            if self.stamped {
                let body = &mut self.bytes[slot.body..slot.body + self.stamp_length];
                Stamp::new(now, self.publisher, *sequence).write(body);
            }
            *sequence += 1;
            count += 1;
            end = slot.end;
        }
        self.next = (self.next + count as usize) % self.slots.len();
        (count, start..end)
    }
}

/// The publishes that await their confirm.
struct Window {
    /// When each was written, by delivery tag modulo the length; `CONFIRMED` once it is.
    written: Vec<u64>,
    /// The lowest delivery tag unconfirmed, and the next to be given.
    lowest: u64,
    next: u64,
    latency: Histogram<u64>,
}

const CONFIRMED: u64 = u64::MAX;

impl Window {
    fn new(size: u32) -> Window {
        Window { written: vec![CONFIRMED; size as usize], lowest: 1, next: 1, latency: latencies() }
    }

    fn room(&self) -> u64 {
        self.written.len() as u64 - self.unconfirmed()
    }

    /// The span of delivery tags from the lowest unconfirmed on: later ones may be confirmed already.
    fn unconfirmed(&self) -> u64 {
        self.next - self.lowest
    }

    fn note(&mut self, count: u64, now: u64) {
        for _ in 0..count {
            *self.slot(self.next) = now;
            self.next += 1;
        }
    }

    fn confirm(&mut self, tag: u64, multiple: bool, now: u64, measure_from: u64) -> Result<()> {
        let tag = if tag == 0 && multiple { self.next - 1 } else { tag };
        if tag < self.lowest || tag >= self.next || *self.slot(tag) == CONFIRMED {
            bail!("confirm of delivery tag {tag}, which is confirmed already or was never used");
        }
        for tag in if multiple { self.lowest } else { tag }..=tag {
            let written = std::mem::replace(self.slot(tag), CONFIRMED);
            if written != CONFIRMED && written >= measure_from {
                self.latency.saturating_record(now - written);
            }
        }
        while self.lowest < self.next && *self.slot(self.lowest) == CONFIRMED {
            self.lowest += 1;
        }
        Ok(())
    }

    fn slot(&mut self, tag: u64) -> &mut u64 {
        let at = tag % self.written.len() as u64;
        &mut self.written[at as usize]
    }
}

/// The plan of a publisher that sends at a steady rate.
struct Pace {
    begin: f64,
    /// Nanoseconds between messages.
    interval: f64,
    /// Nanoseconds after which the first one is due, so that publishers take turns.
    offset: f64,
    lateness: Histogram<u64>,
}

impl Pace {
    fn new(rate: u32, publishers: u16, index: u16) -> Pace {
        let turn = 1e9 / f64::from(rate);
        let (interval, offset) = (turn * f64::from(publishers), turn * f64::from(index));
        Pace { begin: 0.0, interval, offset, lateness: latencies() }
    }

    fn begin(&mut self, now: u64) -> Result<()> {
        self.begin = now as f64 + self.offset;
        // Linux lets a thread oversleep by 50 us by default, which is as long as what is measured here.
        Ok(rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1000))?)
    }

    fn due(&self, now: u64, sent: u64) -> u64 {
        let ahead = now as f64 - self.begin;
        if ahead < 0.0 { 0 } else { ((ahead / self.interval) as u64 + 1).saturating_sub(sent) }
    }

    fn planned(&self, message: u64) -> f64 {
        self.begin + message as f64 * self.interval
    }

    fn until_next(&self, now: u64, sent: u64) -> Duration {
        Duration::from_nanos((self.planned(sent) - now as f64).max(0.0) as u64 + 1)
    }

    fn note(&mut self, now: u64, sent: u64) {
        self.lateness.saturating_record((now as f64 - self.planned(sent)).max(0.0) as u64);
    }
}
