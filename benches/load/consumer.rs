//! A consumer: reads as much as there is, and parses of it no more than the checks need.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;

use super::connection::{CHANNEL, Connection, unexpected};
use super::options::Options;
use super::run::{Shared, latencies};
use super::stream::{STAMP, Stamp, Stream};
use super::topology::Topology;
use super::wire::{self, Fields, Frame, id};

/// Size of the receive buffer: what a busy socket holds.
const BUFFER_BYTES: usize = 1 << 18;
/// How often a consumer without deliveries looks whether the run has ended.
const FINISH_LOOK: Duration = Duration::from_millis(20);
/// How long the broker may take to cancel the consumers, in nanoseconds.
const CANCEL_PATIENCE: u64 = 30_000_000_000;

/// One consuming connection.
pub(crate) struct Consumer {
    connection: Connection,
    queues: Vec<u32>,
    inbound: Inbound,
}

/// What a consumer saw.
pub(crate) struct Consumed {
    connection: Connection,
    inbound: Inbound,
}

impl Consumer {
    /// Connects and subscribes. The consumer tag is the number of the queue.
    pub(crate) fn open(
        options: &Options,
        topology: &Topology,
        address: &str,
        index: u16,
    ) -> Result<Consumer> {
        let mut connection = Connection::open(options, address, BUFFER_BYTES)?;
        if options.prefetch > 0 {
            connection.call(id::BASIC_QOS, id::BASIC_QOS_OK, |a| {
                a.u32(0).u16(options.prefetch).u8(0);
            })?;
        }
        let no_ack = if options.ack_every.is_none() { 0b10 } else { 0 };
        let queues = options.queues_of(index);
        let mut inbound = Inbound::new(options);
        for (subscribed, &queue) in queues.iter().enumerate() {
            let mut out = Vec::new();
            wire::method(&mut out, CHANNEL, id::BASIC_CONSUME, |a| {
                a.u16(0).short(&topology.queue(queue)).short(&queue.to_string()).u8(no_ack).empty_table();
            });
            connection.send(&out)?;
            inbound.await_subscription(&mut connection, subscribed)?;
        }
        connection.set_read_timeout(FINISH_LOOK)?;
        Ok(Consumer { connection, queues, inbound })
    }

    /// Consumes until told to finish; then acknowledges the rest and cancels.
    pub(crate) fn run(mut self, shared: &Shared) -> Result<Consumed> {
        let mut cancelled_at = None;
        // A queue that was not empty has delivered already.
        shared.delivered.fetch_add(self.inbound.count, Relaxed);
        self.take_frames(shared)?;
        while self.inbound.cancelled < self.queues.len() && !shared.abort.load(Relaxed) {
            if self.connection.receive()? {
                self.take_frames(shared)?;
            }
            if let Some(at) = cancelled_at {
                if shared.now() - at > CANCEL_PATIENCE {
                    bail!("basic.cancel was not answered");
                }
            } else if shared.finish.load(Relaxed) {
                self.cancel()?;
                cancelled_at = Some(shared.now());
            }
        }
        Ok(Consumed { connection: self.connection, inbound: self.inbound })
    }

    fn take_frames(&mut self, shared: &Shared) -> Result<()> {
        let before = self.inbound.count;
        self.inbound.now = shared.now();
        self.inbound.measure_from = shared.measure_from.load(Relaxed);
        while let Some(frame) = self.connection.next_frame()? {
            self.inbound.take(frame)?;
        }
        shared.delivered.fetch_add(self.inbound.count - before, Relaxed);
        if !self.inbound.acks.is_empty() {
            self.connection.send(&self.inbound.acks)?;
            self.inbound.acks.clear();
        }
        Ok(())
    }

    fn cancel(&mut self) -> Result<()> {
        self.inbound.acknowledge();
        let mut out = std::mem::take(&mut self.inbound.acks);
        for queue in &self.queues {
            wire::method(&mut out, CHANNEL, id::BASIC_CANCEL, |a| {
                a.short(&queue.to_string()).u8(0);
            });
        }
        self.connection.send(&out)
    }
}

impl Consumed {
    /// Closes the connection. Returns the streams seen, by queue and publisher, and the times from write to
    /// arrival, in nanoseconds.
    pub(crate) fn close(mut self) -> Result<(Vec<Vec<Stream>>, Histogram<u64>)> {
        self.connection.close(|frame| self.inbound.take(frame))?;
        Ok((self.inbound.streams, self.inbound.latency))
    }
}

/// What arrives on the channel.
struct Inbound {
    size: u64,
    ack_every: Option<u64>,
    /// Queues that nobody else consumes.
    alone: Vec<bool>,
    delivery: Option<Delivery>,
    /// By queue and publisher.
    streams: Vec<Vec<Stream>>,
    publishers: usize,
    count: u64,
    last_tag: u64,
    acked_tag: u64,
    acks: Vec<u8>,
    subscribed: usize,
    cancelled: usize,
    now: u64,
    measure_from: u64,
    latency: Histogram<u64>,
}

/// A delivery whose body is not complete.
struct Delivery {
    queue: usize,
    missing: u64,
    stamp: Option<Stamp>,
}

impl Inbound {
    fn new(options: &Options) -> Inbound {
        Inbound {
            size: options.size.into(),
            ack_every: options.ack_every,
            alone: (0..options.queues).map(|queue| options.one_consumer(queue)).collect(),
            delivery: None,
            streams: vec![Vec::new(); options.queues as usize],
            publishers: options.publishers.into(),
            count: 0,
            last_tag: 0,
            acked_tag: 0,
            acks: Vec::new(),
            subscribed: 0,
            cancelled: 0,
            now: 0,
            measure_from: 0,
            latency: latencies(),
        }
    }

    /// Waits for a basic.consume-ok after the first `subscribed`, among deliveries of the consumers before it.
    fn await_subscription(&mut self, connection: &mut Connection, subscribed: usize) -> Result<()> {
        loop {
            while let Some(frame) = connection.next_frame()? {
                self.take(frame)?;
                if self.subscribed > subscribed {
                    return Ok(());
                }
            }
            if !connection.receive()? {
                bail!("basic.consume was not answered");
            }
        }
    }

    #[inline]
    fn take(&mut self, frame: Frame<'_>) -> Result<()> {
        match frame.kind {
            wire::METHOD => self.method(Fields(frame.payload)),
            wire::HEADER => self.header(Fields(frame.payload)),
            wire::BODY => self.body(frame.payload),
            _ => Ok(()),
        }
    }

    #[inline]
    fn method(&mut self, mut fields: Fields<'_>) -> Result<()> {
        match fields.u32() {
            Some(id::BASIC_DELIVER) => self.deliver(fields).context("bad basic.deliver"),
            Some(id::BASIC_CONSUME_OK) => {
                self.subscribed += 1;
                Ok(())
            }
            Some(id::BASIC_CANCEL_OK) => {
                self.cancelled += 1;
                Ok(())
            }
            Some(id::BASIC_CANCEL) => bail!("the broker cancelled a consumer"),
            Some(id) => unexpected(id, fields),
            None => bail!("a method frame without a method"),
        }
    }

    #[inline]
    fn deliver(&mut self, mut fields: Fields<'_>) -> Option<()> {
        let digits = fields.short()?;
        let queue =
            digits.iter().fold(0, |number, digit| number * 10 + usize::from(digit.wrapping_sub(b'0')));
        let tag = fields.u64()?;
        if queue >= self.streams.len() || tag != self.last_tag + 1 || self.delivery.is_some() {
            return None;
        }
        self.last_tag = tag;
        self.delivery = Some(Delivery { queue, missing: self.size, stamp: None });
        Some(())
    }

    #[inline]
    fn header(&mut self, mut fields: Fields<'_>) -> Result<()> {
        let size = fields.u32().and_then(|_class_and_weight| fields.u64()).context("bad content header")?;
        if self.delivery.is_none() || size != self.size {
            bail!("a content header of {size} bytes out of place");
        }
        if size == 0 { self.complete() } else { Ok(()) }
    }

    #[inline]
    fn body(&mut self, piece: &[u8]) -> Result<()> {
        let Some(delivery) = &mut self.delivery else { bail!("a body frame out of place") };
        let first = delivery.missing == self.size;
        if first && self.size >= STAMP as u64 {
            let stamp = Stamp::read(piece).context("a body without its stamp")?;
            if piece.len() as u64 == self.size && !stamp.ends(piece) {
                bail!("a body whose end belongs to another message");
            }
            delivery.stamp = Some(stamp);
        }
        delivery.missing = delivery.missing.checked_sub(piece.len() as u64).context("a body too long")?;
        if delivery.missing == 0 { self.complete() } else { Ok(()) }
    }

    #[inline]
    fn complete(&mut self) -> Result<()> {
        let delivery = self.delivery.take().expect("invariant: called with a delivery");
        self.count += 1;
        if let Some(stamp) = delivery.stamp {
            self.note(delivery.queue, stamp)?;
        }
        if self.ack_every.is_some_and(|every| self.last_tag - self.acked_tag >= every) {
            self.acknowledge();
        }
        Ok(())
    }

    #[inline]
    fn note(&mut self, queue: usize, stamp: Stamp) -> Result<()> {
        let streams = &mut self.streams[queue];
        let publisher = stamp.publisher();
        if publisher >= self.publishers {
            bail!("a body whose stamp is not ours");
        }
        if streams.is_empty() {
            streams.resize(self.publishers, Stream::default());
        }
        streams[publisher].note(stamp.sequence(), self.alone[queue]);
        if stamp.sent >= self.measure_from {
            self.latency.saturating_record(self.now.saturating_sub(stamp.sent));
        }
        Ok(())
    }

    /// Acknowledges all deliveries so far.
    fn acknowledge(&mut self) {
        if self.ack_every.is_some() && self.last_tag > self.acked_tag {
            let multiple = u8::from(self.last_tag - self.acked_tag > 1);
            wire::method(&mut self.acks, CHANNEL, id::BASIC_ACK, |a| {
                a.u64(self.last_tag).u8(multiple);
            });
            self.acked_tag = self.last_tag;
        }
    }
}
