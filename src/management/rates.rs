//! Rates and samples: what RabbitMQ's `*_details` say of a figure.
//!
//! The message path only counts ([`crate::broker::stats`]). Every five seconds the counters are read here and compared
//! with what they were. Those of the node as a whole are always read, which costs next to nothing; those of queues,
//! exchanges, connections and channels only while somebody asks for figures, and for some minutes afterwards. So the
//! first answer after a long silence knows no rates.
//!
//! Memory: of an object that has counted anything its last figures and, while they change, its rates, a few hundred
//! octets; none of the others. What a figure was over time is kept of the node, and of the [`WATCHED_MAX`] objects that
//! somebody has asked the history of.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use dashmap::DashMap;
use serde_json::{Map, Value, json};

use super::{error::ApiError, list::parameter};
use crate::broker::{
    outbox::ConnectionId,
    queue::QueueId,
    stats::{Counter, MessageCounts},
};

/// How often figures are read, in milliseconds (RabbitMQ: `collect_statistics_interval`).
pub(super) const INTERVAL_MS: u64 = 5_000;
/// For how long after a request the figures of all objects are read, in milliseconds.
const ASKED_MS: u64 = 10 * 60 * 1000;
/// Of how many objects what their figures were over time is kept.
const WATCHED_MAX: usize = 256;
/// How many samples a request may ask for (RabbitMQ has such a bound too).
const SAMPLES_MAX: u64 = 1_000;

/// How often and how many samples are kept of the node: ten minutes, an hour, eight hours and a day back (RabbitMQ).
const RINGS_OF_NODE: [(u64, usize); 4] = [(INTERVAL_MS, 122), (60_000, 62), (600_000, 50), (1_800_000, 50)];
/// And of an object that is watched: ten minutes and an hour.
const RINGS_OF_OBJECT: [(u64, usize); 2] = [(INTERVAL_MS, 122), (60_000, 62)];

/// What has figures that are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Object {
    /// All messages, and what comes and goes: `/api/overview`.
    Totals,
    /// The process: `/api/nodes`.
    Node,
    /// A queue.
    Queue(QueueId),
    /// An exchange, by its identity.
    Exchange(u64),
    /// A connection.
    Connection(ConnectionId),
    /// A channel of it.
    Channel(ConnectionId, u16),
}

/// The figures in `message_stats`, in the order of [`message_figures`].
const MESSAGES: [&str; 12] = [
    "publish",
    "confirm",
    "return_unroutable",
    "drop_unroutable",
    "deliver",
    "deliver_no_ack",
    "deliver_get",
    "get",
    "get_no_ack",
    "get_empty",
    "redeliver",
    "ack",
];
/// Those that tell of publishing.
const PUBLISHING: usize = 4;
const DISK: [&str; 2] = ["disk_reads", "disk_writes"];
const LENGTHS: [&str; 3] = ["messages", "messages_ready", "messages_unacknowledged"];
const CHURN: [&str; 7] = [
    "connection_created",
    "connection_closed",
    "channel_created",
    "channel_closed",
    "queue_declared",
    "queue_created",
    "queue_deleted",
];
const PROCESS: [&str; 6] =
    ["mem_used", "fd_used", "sockets_used", "proc_used", "disk_free", "context_switches"];
const ROUTED: [&str; 2] = ["publish_in", "publish_out"];
const OCTETS: [&str; 4] = ["recv_oct", "send_oct", "recv_cnt", "send_cnt"];

/// The query parameters that ask for the samples of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `msg_rates_age` and `_incr`.
    Messages,
    /// `lengths_age` and `_incr`.
    Lengths,
    /// `data_rates_age` and `_incr`.
    Data,
    /// `node_stats_age` and `_incr`.
    Node,
}

impl Object {
    /// The names of its figures, in the order in which they are sampled.
    fn groups(self) -> &'static [(Kind, &'static [&'static str])] {
        match self {
            Self::Totals => &[
                (Kind::Messages, &MESSAGES),
                (Kind::Messages, &DISK),
                (Kind::Lengths, &LENGTHS),
                (Kind::Messages, &CHURN),
            ],
            Self::Node => &[(Kind::Node, &PROCESS)],
            Self::Queue(_) => &[(Kind::Messages, &MESSAGES), (Kind::Lengths, &LENGTHS)],
            Self::Exchange(_) => &[(Kind::Messages, &ROUTED)],
            Self::Connection(_) => &[(Kind::Data, &OCTETS)],
            Self::Channel(..) => &[(Kind::Messages, &MESSAGES)],
        }
    }

    /// The place of a figure, and what asks for its samples.
    fn place(self, name: &str) -> Option<(usize, Kind)> {
        let mut start = 0;
        for (kind, names) in self.groups() {
            if let Some(place) = names.iter().position(|known| *known == name) {
                return Some((start + place, *kind));
            }
            start += names.len();
        }
        None
    }

    fn is_of_node(self) -> bool {
        matches!(self, Self::Totals | Self::Node)
    }
}

/// The figures of messages in the order of their names.
pub(super) fn message_figures(counts: &MessageCounts) -> [u64; 12] {
    [
        counts.publish,
        counts.confirm,
        counts.return_unroutable,
        counts.drop_unroutable,
        counts.deliver,
        counts.deliver_no_ack,
        counts.deliver_get(),
        counts.get,
        counts.get_no_ack,
        counts.get_empty,
        counts.redeliver,
        counts.ack,
    ]
}

/// The samples that a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    messages: Option<SampleRange>,
    lengths: Option<SampleRange>,
    data: Option<SampleRange>,
    node: Option<SampleRange>,
}

/// From now back to `age_ms` ago, every `step_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SampleRange {
    age_ms: u64,
    step_ms: u64,
}

impl Ranges {
    /// What these parameters ask for.
    ///
    /// # Errors
    /// 400 if a range has no length, or too many samples.
    pub(super) fn parse(parameters: &[(String, String)]) -> Result<Self, ApiError> {
        let range = |name: &str| {
            let number = |of: &str| parameter(parameters, &format!("{name}_{of}"))?.parse::<i64>().ok();
            let (Some(age), Some(step)) = (number("age"), number("incr")) else { return Ok(None) };
            match (u64::try_from(age), u64::try_from(step)) {
                (Ok(age_secs @ 1..), Ok(step_secs @ 1..)) if age_secs / step_secs <= SAMPLES_MAX => {
                    let ms = |secs: u64| secs.saturating_mul(1000);
                    Ok(Some(SampleRange { age_ms: ms(age_secs), step_ms: ms(step_secs) }))
                }
                _ => {
                    let reason = format!("Invalid range parameters: age {age}, incr {step}");
                    Err(ApiError::bad_request(reason))
                }
            }
        };
        Ok(Self {
            messages: range("msg_rates")?,
            lengths: range("lengths")?,
            data: range("data_rates")?,
            node: range("node_stats")?,
        })
    }

    fn of(&self, kind: Kind) -> Option<SampleRange> {
        match kind {
            Kind::Messages => self.messages,
            Kind::Lengths => self.lengths,
            Kind::Data => self.data,
            Kind::Node => self.node,
        }
    }
}

/// What is known of how figures change. See the module's text.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// When somebody asked last, in [`crate::broker::Now::unix_ms`]; 0 if nobody has.
    asked_ms: AtomicU64,
    /// When the figures of all objects were read last; 0 if not since somebody asked.
    swept_ms: AtomicU64,
    last: DashMap<Object, Last>,
    watched: DashMap<Object, History>,
}

/// What an object's figures were when they were read last.
#[derive(Debug)]
struct Last {
    at_ms: u64,
    figures: Box<[u64]>,
    /// What a second changed, if it changed anything.
    rates: Option<Box<[f64]>>,
}

impl Rates {
    /// Notes that somebody asks for figures, for that long the rates of all objects are known.
    pub(super) fn asked(&self, now_ms: u64) {
        self.asked_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Whether somebody has asked within the last minutes.
    pub(super) fn is_asked(&self, now_ms: u64) -> bool {
        let asked_ms = self.asked_ms.load(Ordering::Relaxed);
        asked_ms > 0 && now_ms < asked_ms + ASKED_MS
    }

    /// Takes the figures of the node, read at that time.
    pub(super) fn record_node(&self, at_ms: u64, object: Object, figures: &[u64]) {
        self.record(at_ms, None, object, figures);
    }

    /// Takes the figures of all objects, which `each` gives; those that it does not give are forgotten.
    pub(super) fn sweep(&self, at_ms: u64, each: impl FnOnce(&mut dyn FnMut(Object, &[u64]))) {
        let before_ms = Some(self.swept_ms.swap(at_ms, Ordering::Relaxed)).filter(|ms| *ms > 0);
        each(&mut |object, figures| self.record(at_ms, before_ms, object, figures));
        self.last.retain(|object, last| object.is_of_node() || last.at_ms == at_ms);
        self.watched.retain(|object, history| {
            object.is_of_node() || (history.newest_ms() == at_ms && at_ms < history.asked_ms + ASKED_MS)
        });
    }

    /// Forgets everything (RabbitMQ: `reset`).
    pub(super) fn reset(&self) {
        self.swept_ms.store(0, Ordering::Relaxed);
        self.last.clear();
        self.watched.clear();
    }

    /// Forgets all objects, as nobody asks.
    pub(super) fn rest(&self) {
        if self.swept_ms.swap(0, Ordering::Relaxed) > 0 {
            self.last.retain(|object, _| object.is_of_node());
            self.watched.retain(|object, _| object.is_of_node());
            self.last.shrink_to_fit();
        }
    }

    /// `before_ms` is when an object that is not known had nothing but zeros.
    fn record(&self, at_ms: u64, before_ms: Option<u64>, object: Object, figures: &[u64]) {
        if let Some(mut history) = self.watched.get_mut(&object) {
            history.record(at_ms, figures);
        } else if object.is_of_node() {
            self.watched.entry(object).or_insert(History::new(&RINGS_OF_NODE, 0)).record(at_ms, figures);
        }
        if let Some(mut last) = self.last.get_mut(&object) {
            last.rates = rates(&last.figures, figures, at_ms.saturating_sub(last.at_ms));
            last.figures.copy_from_slice(figures);
            last.at_ms = at_ms;
            return;
        }
        // Nothing has ever happened to it.
        if figures.iter().all(|figure| *figure == 0) {
            return;
        }
        let zeros = vec![0; figures.len()];
        let rates = before_ms.and_then(|before| rates(&zeros, figures, at_ms.saturating_sub(before)));
        self.last.insert(object, Last { at_ms, figures: figures.into(), rates });
    }

    /// What is known of an object, for a request that asks for these samples.
    pub(super) fn of(&self, object: Object, ranges: &Ranges, now_ms: u64) -> View {
        let rates = self.last.get(&object).and_then(|last| last.rates.clone());
        let wants_history = *ranges != Ranges::default();
        View { object, rates, ranges: *ranges, history: wants_history.then(|| self.watch(object, now_ms)) }
    }

    /// What an object's figures were; from now on it is kept, if it was not.
    fn watch(&self, object: Object, now_ms: u64) -> History {
        if let Some(mut history) = self.watched.get_mut(&object) {
            history.asked_ms = now_ms;
            return history.clone();
        }
        let history = History::new(&RINGS_OF_OBJECT, now_ms);
        if object.is_of_node() {
            return history;
        }
        if self.watched.len() >= WATCHED_MAX {
            let asked = self.watched.iter().filter(|watched| !watched.key().is_of_node());
            let longest_ago = asked.min_by_key(|watched| watched.asked_ms).map(|watched| *watched.key());
            if let Some(object) = longest_ago {
                self.watched.remove(&object);
            }
        }
        let mut begun = history;
        if let Some(last) = self.last.get(&object) {
            begun.record(last.at_ms, &last.figures);
        }
        self.watched.insert(object, begun.clone());
        begun
    }
}

/// What a second changed, on average; `None` if nothing.
fn rates(before: &[u64], after: &[u64], elapsed_ms: u64) -> Option<Box<[f64]>> {
    if elapsed_ms == 0 || before == after {
        return None;
    }
    let pairs = before.iter().zip(after);
    Some(pairs.map(|(before, after)| difference(*before, *after) * 1000.0 / elapsed_ms as f64).collect())
}

fn difference(before: u64, after: u64) -> f64 {
    if after >= before { (after - before) as f64 } else { -((before - after) as f64) }
}

/// What is known of how the figures of an object change.
#[derive(Debug)]
pub(super) struct View {
    object: Object,
    rates: Option<Box<[f64]>>,
    ranges: Ranges,
    history: Option<History>,
}

impl View {
    /// Nothing is known.
    pub(super) fn unknown(object: Object) -> Self {
        Self { object, rates: None, ranges: Ranges::default(), history: None }
    }

    /// What RabbitMQ says in `<name>_details`: the rate, and the samples if they are asked for.
    pub(super) fn details(&self, name: &str) -> Value {
        let Some((place, kind)) = self.object.place(name) else { return json!({"rate": 0.0}) };
        let rate = self.rates.as_ref().and_then(|rates| rates.get(place)).copied().unwrap_or(0.0);
        match (self.ranges.of(kind), &self.history) {
            (Some(range), Some(history)) => sampled(&history.samples(range, place), rate),
            _ => json!({"rate": rate}),
        }
    }

    /// Puts a figure and its details into an object.
    pub(super) fn put(&self, object: &mut Map<String, Value>, name: &str, figure: u64) {
        object.insert(name.to_owned(), figure.into());
        object.insert(format!("{name}_details"), self.details(name));
    }

    /// Puts `messages`, `messages_ready` and `messages_unacknowledged` into an object.
    pub(super) fn put_lengths(&self, object: &mut Map<String, Value>, ready: u64, unacked: u64) {
        for (name, figure) in LENGTHS.iter().zip([ready + unacked, ready, unacked]) {
            self.put(object, name, figure);
        }
    }

    /// The `message_stats` of these counts, for the totals and channels: what tells of publishing if anything was
    /// published, and what tells of delivering if anything was delivered. `None` if nothing has happened (RabbitMQ).
    pub(super) fn message_stats(&self, counts: &MessageCounts) -> Option<Map<String, Value>> {
        let figures = message_figures(counts);
        let mut stats = Map::new();
        for group in [0..PUBLISHING, PUBLISHING..MESSAGES.len()] {
            if figures[group.clone()].iter().any(|figure| *figure > 0) {
                for place in group {
                    self.put(&mut stats, MESSAGES[place], figures[place]);
                }
            }
        }
        (!stats.is_empty()).then_some(stats)
    }

    /// The `message_stats` of a queue: as those of a channel, but that of publishing only `publish` concerns a queue, and
    /// it is always there, for KEDA reads it.
    pub(super) fn queue_stats(&self, counts: &MessageCounts) -> Option<Map<String, Value>> {
        let figures = message_figures(counts);
        if figures.iter().all(|figure| *figure == 0) {
            return None;
        }
        let mut stats = Map::new();
        for place in std::iter::once(0).chain(PUBLISHING..MESSAGES.len()) {
            self.put(&mut stats, MESSAGES[place], figures[place]);
        }
        Some(stats)
    }

    /// The `message_stats` of an exchange; `None` if nothing has happened.
    pub(super) fn exchange_stats(
        &self,
        published_in: &Counter,
        published_out: &Counter,
    ) -> Option<Map<String, Value>> {
        let figures = [published_in.get(), published_out.get()];
        if figures == [0, 0] {
            return None;
        }
        let mut stats = Map::new();
        for (name, figure) in ROUTED.iter().zip(figures) {
            self.put(&mut stats, name, figure);
        }
        Some(stats)
    }

    /// Puts the messages written to and read from disk into the `message_stats` of the totals.
    pub(super) fn put_disk(&self, stats: &mut Map<String, Value>, reads: u64, writes: u64) {
        for (name, figure) in DISK.iter().zip([reads, writes]) {
            self.put(stats, name, figure);
        }
    }

    /// What comes and goes, in RabbitMQ's order.
    pub(super) fn churn(&self, figures: [u64; 7]) -> Map<String, Value> {
        let mut churn = Map::new();
        for (name, figure) in CHURN.iter().zip(figures) {
            self.put(&mut churn, name, figure);
        }
        churn
    }
}

/// The details of a figure with its samples, the newest first. `rate` is what is known without them.
fn sampled(samples: &[(u64, u64)], rate: f64) -> Value {
    let per_second = |newer: (u64, u64), older: (u64, u64)| {
        let elapsed_ms = newer.0.saturating_sub(older.0);
        if elapsed_ms == 0 { 0.0 } else { difference(older.1, newer.1) * 1000.0 / elapsed_ms as f64 }
    };
    let rate = match samples {
        [newest, before, ..] => per_second(*newest, *before),
        _ => rate,
    };
    let average_rate = match samples {
        [newest, .., oldest] => per_second(*newest, *oldest),
        _ => 0.0,
    };
    let sum: f64 = samples.iter().map(|(_, sample)| *sample as f64).sum();
    let average = if samples.is_empty() { 0.0 } else { sum / samples.len() as f64 };
    let samples = samples.iter().map(|(at_ms, sample)| json!({"sample": sample, "timestamp": at_ms}));
    json!({"rate": rate, "samples": samples.collect::<Vec<_>>(), "avg_rate": average_rate, "avg": average})
}

/// What the figures of an object were.
#[derive(Clone, Debug)]
struct History {
    /// When somebody asked for it last; meaningless for the node.
    asked_ms: u64,
    /// From the finest to the longest.
    rings: Vec<Ring>,
}

#[derive(Clone, Debug)]
struct Ring {
    every_ms: u64,
    size: usize,
    /// When, and the figures; the oldest first.
    samples: VecDeque<(u64, Box<[u64]>)>,
}

impl History {
    fn new(rings: &[(u64, usize)], asked_ms: u64) -> Self {
        let rings = rings.iter().map(|(every_ms, size)| Ring {
            every_ms: *every_ms,
            size: *size,
            samples: VecDeque::new(),
        });
        Self { asked_ms, rings: rings.collect() }
    }

    fn record(&mut self, at_ms: u64, figures: &[u64]) {
        for ring in &mut self.rings {
            let newest = ring.samples.back().map(|(newest_ms, _)| newest_ms / ring.every_ms);
            if newest.is_some_and(|newest| newest >= at_ms / ring.every_ms) {
                continue;
            }
            if ring.samples.len() == ring.size {
                ring.samples.pop_front();
            }
            ring.samples.push_back((at_ms, figures.into()));
        }
    }

    fn newest_ms(&self) -> u64 {
        self.rings.first().and_then(|ring| ring.samples.back()).map_or(0, |(at_ms, _)| *at_ms)
    }

    /// The samples of the figure at that place, the newest first, as far back as they are known.
    fn samples(&self, range: SampleRange, place: usize) -> Vec<(u64, u64)> {
        let reaches = |ring: &&Ring| ring.every_ms * ring.size as u64 >= range.age_ms;
        let Some(ring) = self.rings.iter().find(reaches).or(self.rings.last()) else { return Vec::new() };
        let newest_ms = ring.samples.back().map_or(0, |(at_ms, _)| *at_ms);
        let first_ms = newest_ms - newest_ms % range.step_ms;
        let times = (0..=range.age_ms / range.step_ms).map_while(|n| first_ms.checked_sub(n * range.step_ms));
        let samples = times.map_while(|at_ms| {
            let after = ring.samples.partition_point(|(sampled_ms, _)| *sampled_ms <= at_ms);
            let (_, figures) = ring.samples.get(after.checked_sub(1)?)?;
            Some((at_ms, *figures.get(place)?))
        });
        samples.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: Object = Object::Queue(QueueId(7));

    fn figures(publish: u64, ready: u64) -> Vec<u64> {
        let counts = MessageCounts { publish, ..MessageCounts::default() };
        [&message_figures(&counts)[..], &[ready, ready, 0]].concat()
    }

    fn ranges(age: &str, step: &str) -> Result<Ranges, ApiError> {
        let parameters = ["msg_rates", "lengths"].iter().flat_map(|name| {
            [(format!("{name}_age"), age.to_owned()), (format!("{name}_incr"), step.to_owned())]
        });
        Ranges::parse(&parameters.collect::<Vec<_>>())
    }

    fn rate(rates: &Rates, name: &str) -> Value {
        rates.of(QUEUE, &Ranges::default(), 0).details(name)["rate"].clone()
    }

    #[test]
    fn a_rate_is_what_a_second_has_changed() {
        let rates = Rates::default();
        rates.sweep(5_000, |each| each(QUEUE, &figures(10, 10)));
        // Nobody knows since when.
        assert_eq!(rate(&rates, "publish"), 0.0);
        rates.sweep(10_000, |each| each(QUEUE, &figures(20, 5)));
        assert_eq!(rate(&rates, "publish"), 2.0);
        assert_eq!(rate(&rates, "messages_ready"), -1.0);
        rates.sweep(15_000, |each| each(QUEUE, &figures(20, 5)));
        assert_eq!(rate(&rates, "publish"), 0.0);
        rates.sweep(20_000, |_| {});
        assert!(rates.last.is_empty());
        // What is new had nothing when all were read before.
        rates.sweep(25_000, |each| each(QUEUE, &figures(50, 0)));
        assert_eq!(rate(&rates, "publish"), 10.0);
    }

    #[test]
    fn an_object_that_has_counted_nothing_takes_no_memory() {
        let rates = Rates::default();
        rates.sweep(5_000, |each| each(QUEUE, &figures(0, 0)));
        assert!(rates.last.is_empty());
        rates.sweep(10_000, |each| each(QUEUE, &figures(1, 0)));
        rates.record_node(10_000, Object::Node, &[1; 6]);
        rates.rest();
        assert_eq!(rates.last.len(), 1);
    }

    #[test]
    fn samples_go_back_as_far_as_they_are_known() {
        let rates = Rates::default();
        let ranges = ranges("60", "10").expect("a range");
        rates.sweep(5_000, |each| each(QUEUE, &figures(5, 1)));
        rates.of(QUEUE, &ranges, 5_000);
        for second in (10..=40).step_by(5) {
            rates.sweep(second * 1000, |each| each(QUEUE, &figures(second, 1)));
        }
        let details = rates.of(QUEUE, &ranges, 40_000).details("publish");
        let samples = [(40_000, 40), (30_000, 30), (20_000, 20), (10_000, 10)];
        let samples = samples.map(|(at, sample)| json!({"sample": sample, "timestamp": at}));
        let expected = json!({"rate": 1.0, "samples": samples, "avg_rate": 1.0, "avg": 25.0});
        assert_eq!(details, expected);
        // It is not watched any longer when nobody has asked for it for a while.
        rates.sweep(ASKED_MS + 40_000, |each| each(QUEUE, &figures(41, 1)));
        assert!(rates.watched.is_empty());
    }

    #[test]
    fn old_samples_are_dropped_and_coarser_ones_kept() {
        let rates = Rates::default();
        for tick in 1..=10_000_u64 {
            rates.record_node(tick * INTERVAL_MS, Object::Node, &[tick, 0, 0, 0, 0, 0]);
        }
        let of = |age: &str, step: &str| {
            let parameters = [("node_stats_age", age), ("node_stats_incr", step)];
            let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let ranges = Ranges::parse(&parameters).expect("a range");
            rates.of(Object::Node, &ranges, 0).details("mem_used")["samples"].as_array().map(Vec::len)
        };
        assert_eq!(of("600", "5"), Some(121));
        assert_eq!(of("3600", "60"), Some(61));
        assert_eq!(of("28800", "600"), Some(49));
        assert_eq!(of("36000", "1800"), Some(21));
        let history = rates.watched.get(&Object::Node).expect("a history");
        assert!(history.rings.iter().all(|ring| ring.samples.len() <= ring.size));
    }

    #[test]
    fn only_so_many_objects_are_watched() {
        let rates = Rates::default();
        let ranges = ranges("60", "5").expect("a range");
        for n in 0..2 * WATCHED_MAX as u64 {
            rates.of(Object::Exchange(n), &ranges, n + 1);
        }
        assert_eq!(rates.watched.len(), WATCHED_MAX);
        assert!(rates.watched.contains_key(&Object::Exchange(2 * WATCHED_MAX as u64 - 1)));
        assert!(!rates.watched.contains_key(&Object::Exchange(0)));
    }

    #[test]
    fn a_range_has_a_length_and_a_bound() {
        assert_eq!(ranges("x", "5"), Ok(Ranges::default()));
        for (age, step) in [("60", "0"), ("-60", "5"), ("600000", "1"), ("0", "1")] {
            let reason = format!("Invalid range parameters: age {age}, incr {step}");
            assert_eq!(ranges(age, step), Err(ApiError::BadRequest(reason)));
        }
    }
}
