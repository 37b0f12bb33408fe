//! One run: publishers and consumers at work on one broker, and what came of it.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;

use super::broker::Broker;
use super::consumer::{Consumed, Consumer};
use super::options::Options;
use super::process::{Cpu, Process, pause};
use super::publisher::{Published, Publisher};
use super::stream::{STAMP, Stream};
use super::table::Row;
use super::topology::Topology;

/// How often the counters are looked at.
const LOOK: Duration = Duration::from_millis(2);
/// A run in which nothing moves for this many seconds has failed.
const STALL: f64 = 20.0;

/// A histogram of nanoseconds, up to an hour.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("invariant: these bounds are valid")
}

/// What the threads of a run share.
pub(crate) struct Shared {
    begun: Instant,
    /// Publish no more.
    pub(crate) stop: AtomicBool,
    /// All has been delivered.
    pub(crate) finish: AtomicBool,
    /// Something failed.
    pub(crate) abort: AtomicBool,
    /// Latencies count for messages sent from this time on.
    pub(crate) measure_from: AtomicU64,
    pub(crate) published: AtomicU64,
    pub(crate) delivered: AtomicU64,
    /// When publishing ends, in seconds; `None` if each publisher has a number of messages to publish.
    until: Option<f64>,
    copies: u64,
    max_lag: u64,
}

impl Shared {
    pub(crate) fn new(options: &Options) -> Shared {
        Shared {
            begun: Instant::now(),
            until: options.backlog.is_none().then_some(options.warmup + options.seconds),
            stop: AtomicBool::new(false),
            finish: AtomicBool::new(false),
            abort: AtomicBool::new(false),
            measure_from: AtomicU64::new(0),
            published: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            copies: options.copies(),
            max_lag: if options.max_lag == 0 { u64::MAX } else { options.max_lag },
        }
    }

    /// Nanoseconds since the run began.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// How many more messages may be published before the consumers have to catch up.
    pub(crate) fn lag_room(&self) -> u64 {
        let lag = self.published.load(Relaxed).saturating_sub(self.delivered.load(Relaxed) / self.copies);
        self.max_lag.saturating_sub(lag)
    }

    fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}

/// Counters and clocks at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    /// Seconds since the run began.
    pub(crate) at: f64,
    published: u64,
    delivered: u64,
    broker: Option<Cpu>,
    client: Cpu,
}

impl Mark {
    pub(crate) fn take(shared: &Shared, broker: Option<Process>) -> Result<Mark> {
        Ok(Mark {
            at: shared.seconds(),
            published: shared.published.load(Relaxed),
            delivered: shared.delivered.load(Relaxed),
            broker: broker.map(Process::cpu).transpose()?,
            client: Process::own().cpu()?,
        })
    }

    /// What the broker has used since an earlier mark, if its process is known.
    pub(crate) fn broker_cpu(&self, from: &Mark) -> Option<Cpu> {
        from.broker.zip(self.broker).map(|(from, to)| to.since(from))
    }

    /// What `messages` have cost since an earlier mark.
    pub(crate) fn cost(&self, from: &Mark, messages: f64) -> Vec<Row> {
        let broker = self.broker_cpu(from);
        let per_message = |seconds: f64| seconds * 1e6 / messages;
        vec![
            Row::new("broker CPU, us/message", broker.map(|cpu| per_message(cpu.total())), 3),
            Row::new("  of it user", broker.map(|cpu| per_message(cpu.user)), 3),
            Row::new("  of it system", broker.map(|cpu| per_message(cpu.system)), 3),
            Row::new("client CPU, us/message", Some(per_message(self.client.since(from.client).total())), 3),
        ]
    }
}

/// What is left when all threads have ended.
pub(crate) struct Outcome {
    published: Vec<Published>,
    consumed: Vec<Consumed>,
    /// When measuring began.
    pub(crate) from: Mark,
    /// When the last message had been delivered, or confirmed if none was to be delivered.
    pub(crate) to: Mark,
}

/// What the publishers did.
pub(crate) struct Sent {
    /// Messages sent, by publisher and queue.
    pub(crate) sequences: Vec<Vec<u64>>,
    pub(crate) confirms: Histogram<u64>,
    lateness: Histogram<u64>,
}

/// What the consumers saw.
pub(crate) struct Seen {
    /// By queue and publisher.
    streams: Vec<Vec<Stream>>,
    latency: Histogram<u64>,
}

impl Outcome {
    /// Closes all connections.
    pub(crate) fn close(self, options: &Options) -> Result<(Sent, Seen)> {
        let streams = vec![vec![Stream::default(); options.publishers.into()]; options.queues as usize];
        let mut seen = Seen { streams, latency: latencies() };
        for consumed in self.consumed {
            let (streams, latency) = consumed.close()?;
            seen.latency.add(latency)?;
            for (sum, stream) in seen.streams.iter_mut().zip(streams) {
                sum.iter_mut().zip(&stream).for_each(|(sum, stream)| sum.merge(stream));
            }
        }
        let mut sent = Sent { sequences: Vec::new(), confirms: latencies(), lateness: latencies() };
        for published in self.published {
            published.connection.close(|_| Ok(()))?;
            sent.confirms.add(published.confirms)?;
            sent.lateness.add(published.lateness)?;
            sent.sequences.push(published.sequences);
        }
        Ok((sent, seen))
    }
}

/// Runs the scenario once and checks it. The rows are the same ones, in the same order, for every broker.
pub(crate) fn run(options: &Options, broker: &Broker, topology: &mut Topology) -> Result<Vec<Row>> {
    let publishers = publishers(options, broker, topology)?;
    let consumers = consumers(options, broker, topology)?;
    if let Some(process) = broker.process {
        process.forget_peak();
    }
    let shared = Shared::new(options);
    let outcome = conduct(options, &shared, broker.process, publishers, consumers)?;
    let memory = broker.process.map(Process::memory).transpose()?;
    let mut rows = cost(options, &outcome.from, &outcome.to);

    let (sent, seen) = outcome.close(options)?;
    check_streams(options, &sent.sequences, &seen)?;
    topology.check_empty()?;

    rows.extend(quantiles("delivery", &seen.latency, true));
    rows.extend(quantiles("confirm", &sent.confirms, options.confirm.is_some()));
    rows.extend(quantiles("sent late", &sent.lateness, options.rate.is_some()));
    rows.push(Row::new("broker memory, MiB", memory.map(|memory| memory.resident / 1024.0), 1));
    rows.push(Row::new("broker memory at most, MiB", memory.map(|memory| memory.peak / 1024.0), 1));
    Ok(rows)
}

/// All publishers, connected.
pub(crate) fn publishers(options: &Options, broker: &Broker, topology: &Topology) -> Result<Vec<Publisher>> {
    (0..options.publishers).map(|index| Publisher::open(options, topology, &broker.address, index)).collect()
}

/// All consumers, subscribed.
pub(crate) fn consumers(options: &Options, broker: &Broker, topology: &Topology) -> Result<Vec<Consumer>> {
    (0..options.consumers).map(|index| Consumer::open(options, topology, &broker.address, index)).collect()
}

/// Lets the threads work until all is published and, if there are consumers, delivered.
pub(crate) fn conduct(
    options: &Options,
    shared: &Shared,
    broker: Option<Process>,
    publishers: Vec<Publisher>,
    consumers: Vec<Consumer>,
) -> Result<Outcome> {
    thread::scope(|scope| {
        let start = Mark::take(shared, broker)?;
        let consumers: Vec<_> =
            consumers.into_iter().map(|consumer| scope.spawn(|| consumer.run(shared))).collect();
        let publishers: Vec<_> =
            publishers.into_iter().map(|publisher| scope.spawn(|| publisher.run(shared))).collect();

        let watched = watch(options, shared, broker, start, &publishers, &consumers);
        shared.abort.store(watched.is_err(), Relaxed);
        shared.stop.store(true, Relaxed);
        shared.finish.store(true, Relaxed);
        let mut errors = Vec::new();
        let published = join("publisher", publishers, &mut errors);
        let consumed = join("consumer", consumers, &mut errors);
        if !errors.is_empty() {
            bail!("{}", errors.join("; "));
        }
        let (from, last) = watched?;
        // The work ends with the last acks; the time of the messages ended with the last delivery.
        let to = Mark { at: last, ..Mark::take(shared, broker)? };
        Ok(Outcome { published, consumed, from, to })
    })
}

/// Watches a run until all its work is done; returns where measuring began, and when it ended.
fn watch(
    options: &Options,
    shared: &Shared,
    broker: Option<Process>,
    start: Mark,
    publishers: &[ScopedJoinHandle<'_, Result<Published>>],
    consumers: &[ScopedJoinHandle<'_, Result<Consumed>>],
) -> Result<(Mark, f64)> {
    let mut from = start;
    let mut warm = options.warmup == 0.0;
    let mut progress = (0, 0.0);
    loop {
        pause(LOOK);
        let now = shared.seconds();
        if !warm && now >= options.warmup {
            warm = true;
            from = Mark::take(shared, broker)?;
            shared.measure_from.store(shared.now(), Relaxed);
        }
        let stopping = shared.until.is_some_and(|until| now >= until);
        shared.stop.store(stopping, Relaxed);
        let early =
            shared.until.is_some() && !stopping && publishers.iter().any(ScopedJoinHandle::is_finished);
        if early || consumers.iter().any(ScopedJoinHandle::is_finished) {
            bail!("a connection ended early");
        }
        let done = publishers.iter().all(ScopedJoinHandle::is_finished);
        let (published, delivered) = (shared.published.load(Relaxed), shared.delivered.load(Relaxed));
        if done && (consumers.is_empty() || delivered >= published * options.copies()) {
            return Ok((from, now));
        }
        if progress.0 != published + delivered {
            progress = (published + delivered, now);
        } else if now - progress.1 > STALL {
            bail!("nothing moved for {STALL} s: {published} messages published, {delivered} delivered");
        }
    }
}

/// What the threads brought; their errors are added to `errors`.
fn join<T>(what: &str, threads: Vec<ScopedJoinHandle<'_, Result<T>>>, errors: &mut Vec<String>) -> Vec<T> {
    let mut results = Vec::new();
    for (index, thread) in threads.into_iter().enumerate() {
        match thread.join() {
            Ok(Ok(result)) => results.push(result),
            Ok(Err(error)) => errors.push(format!("{what} {index}: {error:#}")),
            Err(_) => errors.push(format!("{what} {index} panicked")),
        }
    }
    results
}

/// Every queue must have delivered each publisher's messages: all, once, in order. `sequences` are the messages sent,
/// by publisher and queue.
pub(crate) fn check_streams(options: &Options, sequences: &[Vec<u64>], seen: &Seen) -> Result<()> {
    if (options.size as usize) < STAMP {
        return Ok(());
    }
    for (queue, streams) in seen.streams.iter().enumerate() {
        for (publisher, stream) in streams.iter().enumerate() {
            // A fanout counts its messages under queue 0, and every queue gets them all.
            let counted = if options.fanout.is_some() { 0 } else { queue };
            if let Some(fault) = stream.fault(sequences[publisher][counted]) {
                bail!("queue {queue}, publisher {publisher}: {fault}");
            }
        }
    }
    Ok(())
}

fn cost(options: &Options, from: &Mark, to: &Mark) -> Vec<Row> {
    let delivered = (to.delivered - from.delivered) as f64 / options.copies() as f64;
    // What was under way when measuring began was published before it and delivered in it: it counts half.
    let messages = ((to.published - from.published) as f64 + delivered) / 2.0;
    let mut rows = vec![Row::new("messages/s", Some(delivered / (to.at - from.at)), 0)];
    rows.extend(to.cost(from, messages));
    rows
}

/// How a latency is spread; no rows unless it is wanted.
pub(crate) fn quantiles(what: &str, latency: &Histogram<u64>, wanted: bool) -> Vec<Row> {
    if !wanted {
        return Vec::new();
    }
    let some = !latency.is_empty();
    [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)]
        .map(|(name, quantile)| {
            let nanoseconds = latency.value_at_quantile(quantile) as f64;
            Row::new(format!("{what} {name}, us"), some.then_some(nanoseconds / 1000.0), 0)
        })
        .into()
}
