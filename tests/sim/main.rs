//! A seeded simulation: clients that do anything, octets that come in pieces, a broker, and its storage on a disk that
//! crashes; and a plain model of what must be true.
//!
//! `SIM_SEED=n` does the run of that seed again; `SIM_TRACE=1` tells what happens in it, `SIM_STEPS` bounds a run, and
//! `SIM_SECONDS` how long runs are made.

#[path = "../disk/mod.rs"]
mod disk;
mod log;
mod model;
mod operation;
#[path = "../wire/mod.rs"]
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use leveret::{
    broker::{
        Broker, Identity, Now,
        limit::Limits,
        pager::Served,
        permission::{Permission, Permissions},
        queue::{QueueFigures, QueueHandle},
        restore,
        user::{HashingAlgorithm, PasswordHash, User, Users},
    },
    session::{Peer, Session},
    storage::{Options, StorageError},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use self::{
    disk::{Crash, SimDisk},
    log::Log,
    model::{
        Connection, Model, State,
        crash::{Synced, TIME_SURVIVES},
        id_of,
    },
    operation::{DELAYED, DELAYING, Kind, Operation, PRIORITY_SAID_MAX, Settle, UNIQUE},
    wire::{Event, Incoming},
};

const CLIENTS: usize = 6;
const CHANNELS: u16 = 3;
const QUEUES: [(&str, bool); 7] = [
    ("durable-1", true),
    ("durable-2", true),
    ("quorum-1", true),
    ("priority-1", true),
    ("bounded-1", true),
    ("bounded-2", false),
    ("transient-1", false),
];
/// Queues that are there from the start; what dead letters go to comes before what they come from.
const FIXED: [&str; 16] = [
    "last-1",
    "dead-1",
    "narrow-1",
    "expiring-1",
    "retrying-1",
    "limited-1",
    "dropping-1",
    "full-1",
    "refusing-1",
    "strict-1",
    "later-1",
    "later-2",
    "grouped-1",
    "unique-1",
    "deduped-1",
    DELAYED,
];
/// How long messages are delayed at most, in milliseconds.
const DELAY_MAX_MS: u64 = 2000;
/// Runs after which everything that is expected must have happened; some fifty are enough, as a rule.
const RUNS_MAX: u64 = 500;
/// Steps after which everything is brought to rest and checked.
const STEPS_TO_REST: u64 = 150;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn a_broker_keeps_its_promises() {
    let steps = setting("SIM_STEPS").unwrap_or(3000);
    let end = Instant::now() + Duration::from_secs(setting("SIM_SECONDS").unwrap_or(3));
    let only = setting("SIM_SEED");
    let first = only.unwrap_or_else(|| rand::rng().random_range(0..1 << 32));
    let mut seen = BTreeMap::<&str, u64>::new();
    let mut runs = 0;
    for seed in first.. {
        let run = catch_unwind(AssertUnwindSafe(|| Simulation::new(seed).run(steps)));
        let Ok(seen_once) = run else {
            panic!("it went wrong: SIM_SEED={seed} SIM_STEPS={steps} does it again");
        };
        runs += 1;
        seen_once.into_iter().for_each(|(name, count)| *seen.entry(name).or_default() += count);
        // What is rare takes a slow machine longer: it is not how fast the machine is that decides.
        let is_complete = steps < 1000 || EXPECTED.iter().all(|name| seen.contains_key(*name));
        if only.is_some() || (Instant::now() >= end && (is_complete || runs >= RUNS_MAX)) {
            break;
        }
    }
    eprintln!("{runs} runs: {seen:?}");
    let missing: Vec<_> = EXPECTED.iter().filter(|name| !seen.contains_key(**name)).collect();
    assert!(only.is_some() || steps < 1000 || missing.is_empty(), "never done: {missing:?} of {seen:?}");
}

struct Simulation {
    random: StdRng,
    setup: Setup,
    broker: Arc<Broker>,
    clients: Vec<Client>,
    model: Model,
    log: Log,
    /// Queues that asked for more than the log had.
    unserved: Vec<Arc<QueueHandle>>,
    /// Whether a queue is being served: there is one who does that.
    is_serving: bool,
    now_ms: u64,
    next_id: u64,
}

/// How a run differs from others.
#[derive(Clone, Copy, Debug)]
struct Setup {
    options: Options,
    /// What queues may have in memory, over all and each, in octets.
    memory_bytes: Option<(u64, u64)>,
    /// How many of the messages are long.
    long_share: f64,
    /// How many of the crashes come that are thought of.
    crash_share: f64,
}

/// A client and its session.
struct Client {
    session: Session,
    incoming: Incoming,
    /// On its way to the broker: operations with their octets.
    sent: VecDeque<(u16, Operation, Vec<u8>)>,
    /// Octets of the first of `sent` that have arrived.
    arrived: usize,
    /// Tags by channel that a settlement is under way for.
    settling: BTreeSet<(u16, u64)>,
    /// Whether it waits until everything has been done before it does more.
    pauses: bool,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let segment_bytes = *[16 << 10, 16 << 10, 64 << 10].choose(&mut random).expect("some");
        let memory_bytes = [(0, 0), (0, 300), (2000, 0)].choose(&mut random).copied();
        let setup = Setup {
            options: Options { segment_bytes, salvage: false },
            memory_bytes: memory_bytes.filter(|_| random.random_bool(0.5)),
            long_share: *[0.02, 0.1, 0.8].choose(&mut random).expect("some"),
            crash_share: *[0.1, 1.0].choose(&mut random).expect("some"),
        };
        let disk = SimDisk::new(seed);
        let (log, _, recovered) = Log::open(&disk, setup.options, &[]).expect("a new directory");
        let broker = broker(&setup, recovered);
        let mut simulation = Self {
            random,
            setup,
            clients: Vec::new(),
            broker,
            model: Model::default(),
            log,
            unserved: Vec::new(),
            is_serving: false,
            now_ms: 0,
            next_id: 1,
        };
        simulation.model.is_tracing = setting("SIM_TRACE").is_some();
        simulation.model.forgets_time = setup.memory_bytes.is_some() && !TIME_SURVIVES;
        simulation.trace(|| format!("{setup:?}"));
        simulation.connect_all();
        simulation.declare_fixed();
        simulation
    }

    fn connect_all(&mut self) {
        self.clients = (0..CLIENTS).map(|_| Client::connect(&self.broker)).collect();
        self.model.connections = (0..CLIENTS).map(|_| Connection::default()).collect();
    }

    fn declare_fixed(&mut self) {
        self.send(0, 1, Operation::OpenChannel);
        for name in [DELAYING, UNIQUE] {
            self.send(0, 1, Operation::DeclareExchange { name });
        }
        for queue in FIXED.into_iter().filter(|queue| *queue != DELAYED) {
            self.send(0, 1, Operation::Declare { queue: queue.to_owned(), durable: true });
            if !Kind::of(queue).exchange().is_empty() {
                self.send(0, 1, Operation::Bind { queue: queue.to_owned() });
            }
        }
        assert!(self.rest(), "nothing crashes yet");
    }

    fn trace(&self, text: impl FnOnce() -> String) {
        if self.model.is_tracing {
            eprintln!("{}", text());
        }
    }

    fn seen(&mut self, name: &'static str) {
        *self.model.seen.entry(name).or_default() += 1;
    }

    fn run(mut self, steps: u64) -> BTreeMap<&'static str, u64> {
        for step in 1..=steps {
            self.step();
            if step % STEPS_TO_REST == 0 {
                self.rest();
            }
        }
        if self.random.random_bool(0.5) {
            (0..self.random.random_range(0..STEPS_TO_REST)).for_each(|_| self.step());
        } else {
            while !self.rest() {}
        }
        if self.random.random_bool(0.5) {
            self.crash();
        } else {
            self.restart();
        }
        self.check_content();
        self.model.seen
    }

    fn step(&mut self) {
        self.now_ms += 1;
        self.model.set_now(self.now_ms);
        let client = self.random.random_range(0..CLIENTS);
        match self.random.random_range(0..1000) {
            0..450 => self.operate(client),
            450..710 => self.arrive(client),
            710..740 => drop(self.broker.tick(Now::made_up(self.now_ms))),
            740..850 => self.wake(client),
            850..890 => drop(self.take()),
            890..940 => drop(self.sync()),
            940..950 => self.idle(),
            950..990 => drop(self.serve()),
            990..993 => {
                self.disconnect(client);
                self.clients[client] = Client::connect(&self.broker);
                self.model.connections[client] = Connection::default();
            }
            // Not in the midst of a load, whose steps go on with what there was before.
            993..996 if !self.is_serving && self.random.random_bool(self.setup.crash_share) => {
                self.end_somehow();
            }
            _ => {}
        }
        self.check_totals();
    }

    /// The broker's totals are the sum of what there is.
    fn check_totals(&self) {
        let now = Now::made_up(self.now_ms);
        let (stats, connections) = (&self.broker.stats, self.broker.connections.list());
        let queues = self.broker.virtual_hosts().into_iter().flat_map(|host| host.queues());
        let figures: Vec<_> = queues.map(|queue| queue.lock().figures(now)).collect();
        let sum = |of: fn(&QueueFigures) -> u64| figures.iter().map(of).sum::<u64>();
        let channels: usize = connections.iter().map(|connection| connection.channel_count()).sum();
        assert_eq!(stats.ready.get(), sum(|figures| figures.ready), "ready");
        assert_eq!(stats.unacked.get(), sum(|figures| figures.unacked), "unacked");
        assert_eq!(stats.consumers.get(), sum(|figures| figures.consumers), "consumers");
        assert_eq!(stats.connections.get(), connections.len() as u64, "connections");
        assert_eq!(stats.channels.get(), channels as u64, "channels");
    }

    /// The process ends now, or in the midst of what it does soon.
    fn end_somehow(&mut self) {
        match self.random.random_range(0..4) {
            0..2 => {
                let next = self.log.disk().operations();
                self.log.disk().crash_at(next + self.random.random_range(0..20));
            }
            2 => self.crash(),
            _ => self.restart(),
        }
    }

    /// The log writes; whether there was anything.
    fn take(&mut self) -> bool {
        let before = self.log.disk().names();
        let taken = self.log.take(&self.broker.journal, &mut self.random);
        for queue in std::mem::take(&mut self.unserved) {
            self.broker.pager.request(&queue);
        }
        let after = self.log.disk().names();
        for name in after.iter().filter(|name| !before.contains(name)) {
            match name.split('-').next() {
                Some("seg") if name.ends_with(".log") => self.seen("segment"),
                Some("checkpoint") => self.seen("checkpoint"),
                _ => {}
            }
        }
        self.alive(taken)
    }

    /// The log syncs; whether there was anything.
    fn sync(&mut self) -> bool {
        let synced = self.log.sync(&self.broker.journal, &mut self.model.durable);
        self.alive(synced)
    }

    fn idle(&mut self) {
        let noted = self.log.idle();
        self.alive(noted.map(|()| false));
    }

    /// The reader serves a queue, while others go on; whether there was one.
    fn serve(&mut self) -> bool {
        if self.is_serving {
            return false;
        }
        let Some(queue) = self.broker.pager.try_take() else { return false };
        self.is_serving = true;
        let broker = Arc::clone(&self.broker);
        let now = Now::made_up(self.now_ms);
        let served = broker.serve(&queue, now, |load| {
            (0..self.random.random_range(0..4)).for_each(|_| self.step());
            let loaded = self.log.load(load);
            (0..self.random.random_range(0..4)).for_each(|_| self.step());
            loaded
        });
        self.is_serving = false;
        if !Arc::ptr_eq(&broker, &self.broker) {
            return true;
        }
        self.seen("load");
        match served {
            Ok(Served::Whole | Served::Forwarded) => {}
            Ok(Served::Incomplete) => self.unserved.push(queue),
            Err(error) => return self.alive(Err(error)),
        }
        true
    }

    /// Whether something was done; if the disk has crashed meanwhile, everything begins again.
    fn alive(&mut self, done: Result<bool, StorageError>) -> bool {
        done.unwrap_or_else(|error| {
            assert!(self.log.disk().is_crashed(), "{error}");
            self.crash();
            true
        })
    }

    /// The client sends something, which need not arrive at once.
    fn operate(&mut self, client: usize) {
        if self.clients[client].session.is_closed() {
            self.clients[client] = Client::connect(&self.broker);
            self.model.connections[client] = Connection::default();
        }
        if self.clients[client].pauses && !self.is_idle(client) {
            return;
        }
        self.clients[client].pauses = false;
        let channel = self.random.random_range(1..=CHANNELS);
        for operation in self.choose(client, channel) {
            let is_purge = matches!(operation, Operation::Purge { .. });
            self.send(client, channel, operation);
            if is_purge {
                self.arrive_up_to(client, usize::MAX);
            }
        }
    }

    fn is_idle(&self, client: usize) -> bool {
        let connection = &self.model.connections[client];
        self.clients[client].sent.is_empty() && connection.read.is_empty() && connection.waiting.is_none()
    }

    fn send(&mut self, client: usize, channel: u16, operation: Operation) {
        use Operation as O;
        let most = if self.random.random_bool(self.setup.long_share) { 3900 } else { 20 };
        let padding = self.random.random_range(0..most);
        let octets = operation.encode(channel, padding);
        let client = &mut self.clients[client];
        client.pauses |= matches!(
            operation,
            O::Rollback | O::Recover | O::CloseChannel | O::CloseConnection | O::OpenChannel | O::CloseOk
        );
        client.sent.push_back((channel, operation, octets));
    }

    /// What a client does next: anything that is not an error, but for queues that may be missing.
    fn choose(&mut self, client: usize, number: u16) -> Vec<Operation> {
        use Operation as O;
        let Some(channel) = self.model.connections[client].channels.get(&number) else {
            let random = &mut self.random;
            let mode = [O::Confirm, O::Confirm, O::Select, O::Qos { prefetch: 5 }].choose(random).cloned();
            let limit = random.random_bool(0.3).then_some(O::Limit { limit: 4 });
            self.clients[client].settling.retain(|(channel, _)| *channel != number);
            return if self.is_idle(client) {
                [Some(O::OpenChannel), mode, limit].into_iter().flatten().collect()
            } else {
                vec![]
            };
        };
        if channel.is_closing {
            return if self.is_idle(client) { vec![O::CloseOk] } else { vec![] };
        }
        let (name, durable) = if self.random.random_bool(0.5) {
            (*FIXED.choose(&mut self.random).expect("some"), true)
        } else {
            *QUEUES.choose(&mut self.random).expect("some")
        };
        let (queue, kind) = (name.to_owned(), Kind::of(name));
        let is_confirming = channel.is_confirming;
        if !self.model.live.contains_key(name) && self.random.random_bool(0.8) {
            return vec![O::Declare { queue, durable }];
        }
        let consumers = self.model.consumers.iter().filter(|(_, consumer)| consumer.is_of(client, number));
        let tags: Vec<String> = consumers.map(|(tag, _)| tag.clone()).collect();
        self.next_id += 1;
        let random = &mut self.random;
        let id = self.next_id;
        let one = match random.random_range(0..100) {
            0..34 => {
                let to_queue = random.random_bool(0.75) || kind.is_fixed();
                if to_queue
                    && (kind.is_for_letters() || ((kind.refuses() || kind.is_unique()) && !is_confirming))
                {
                    return Vec::new();
                }
                let queue = to_queue.then_some(queue);
                let (persistent, mandatory) = (random.random_bool(0.6), random.random_bool(0.3));
                let ttl_ms = if kind == Kind::Delayed && to_queue {
                    random.random_bool(0.8).then(|| random.random_range(0..DELAY_MAX_MS))
                } else {
                    let is_dated = random.random_bool(0.15)
                        && !kind.refuses()
                        && !kind.is_unique()
                        && kind != Kind::Grouped;
                    is_dated.then(|| random.random_range(0..100))
                };
                let priority = random.random_range(0..=PRIORITY_SAID_MAX);
                O::Publish { queue, id, persistent, mandatory, priority, ttl_ms }
            }
            34..64 => return self.choose_settlement(client, number),
            64..90 if kind == Kind::Delayed => return Vec::new(),
            64..72 => O::Get { queue, no_ack: random.random_bool(0.5) },
            72..79 if tags.len() < 3 && !kind.is_unique() => {
                // What needs no acknowledgement is in flight when nobody knows.
                let no_ack = random.random_bool(0.4) && kind != Kind::Grouped;
                O::Consume { queue, tag: format!("consumer-{id}"), no_ack }
            }
            79..82 => O::Declare { queue, durable },
            82..85 => O::Passive { queue },
            85..90 if kind.is_fixed() => return Vec::new(),
            85..87 => O::Bind { queue },
            87 => O::Unbind { queue },
            88 => O::Purge { queue },
            89 if random.random_bool(0.5) => {
                // What comes after delete-ok may come before or after what the client sends behind the delete.
                self.clients[client].pauses = true;
                O::Delete { queue }
            }
            90..92 if channel.limit == 0 => O::Qos { prefetch: random.random_range(0..6) },
            92..94 => match tags.choose(random) {
                Some(tag) => {
                    self.clients[client].pauses = true;
                    O::Cancel { tag: tag.clone() }
                }
                None => return Vec::new(),
            },
            94..97 if channel.is_transactional => O::Commit,
            97 if channel.is_transactional => O::Rollback,
            98 => O::Recover,
            99 if random.random_bool(0.3) => O::CloseChannel,
            99 if random.random_bool(0.1) => O::CloseConnection,
            _ => return Vec::new(),
        };
        if matches!(one, O::Recover | O::Rollback | O::Cancel { .. }) && !self.is_idle(client) {
            return Vec::new();
        }
        vec![one]
    }

    fn choose_settlement(&mut self, client: usize, number: u16) -> Vec<Operation> {
        let random = &mut self.random;
        let channel = &self.model.connections[client].channels[&number];
        let settling = &mut self.clients[client].settling;
        let open: Vec<u64> =
            channel.unacked.keys().copied().filter(|tag| !settling.contains(&(number, *tag))).collect();
        let Some(tag) = open.choose(random).copied() else { return Vec::new() };
        let multiple = random.random_bool(0.3);
        settling.extend(
            open.iter()
                .filter(|other| **other == tag || (multiple && **other < tag))
                .map(|tag| (number, *tag)),
        );
        let is_ack = random.random_bool(0.7);
        let requeue = !is_ack && random.random_bool(0.7);
        vec![Operation::Settle(Settle { tag, multiple, requeue, is_ack })]
    }

    /// Some of what the client sent arrives, if the broker reads.
    fn arrive(&mut self, number: usize) {
        let most = if self.random.random_bool(0.5) { 40 } else { 4000 };
        let most = self.random.random_range(1..most);
        self.arrive_up_to(number, most);
    }

    fn arrive_up_to(&mut self, number: usize, most: usize) {
        let client = &mut self.clients[number];
        if !client.session.wants_input() {
            return;
        }
        let mut whole = Vec::new();
        let mut left = most;
        while let Some((_, _, octets)) = client.sent.front() {
            let piece = &octets[client.arrived..];
            let piece = &piece[..piece.len().min(left)];
            client.session.input().extend_from_slice(piece);
            (left, client.arrived) = (left - piece.len(), client.arrived + piece.len());
            if client.arrived < octets.len() {
                break;
            }
            client.arrived = 0;
            whole.extend(client.sent.pop_front().map(|(channel, operation, _)| (channel, operation)));
        }
        client.session.handle_input(Now::made_up(self.now_ms));
        for (channel, operation) in whole {
            self.model.read(number, channel, operation);
        }
        self.events(number);
    }

    fn wake(&mut self, number: usize) {
        self.clients[number].session.handle_wake(Now::made_up(self.now_ms));
        self.events(number);
    }

    /// Shows the model what the session has written; whether that was anything.
    fn events(&mut self, number: usize) -> bool {
        let client = &mut self.clients[number];
        let octets = take_output(&mut client.session);
        let events = client.incoming.read(&octets);
        assert_eq!(client.incoming.rest(), 0, "half a frame");
        for event in events {
            self.model.event(number, event);
        }
        self.model.catch_up(number);
        // A rollback or a new channel makes tags free again.
        if self.is_idle(number) {
            self.clients[number].settling.clear();
        }
        !octets.is_empty()
    }

    fn disconnect(&mut self, number: usize) {
        if self.model.is_tracing {
            eprintln!("{number} disconnects");
        }
        self.events(number);
        self.clients[number].session.handle_disconnect(Now::made_up(self.now_ms));
        // Nobody reads any more; what the log had not yet confirmed stays open.
        take_output(&mut self.clients[number].session);
        self.clients[number].sent.clear();
        self.model.end_connection(number);
    }

    /// The process ends in the midst of everything, and what it leaves on the disk depends on how.
    fn crash(&mut self) {
        let mode = *Crash::ALL.choose(&mut self.random).expect("some");
        self.trace(|| format!("crash: {mode:?}"));
        self.seen("crash");
        let (synced, disk) = (self.log.synced(), self.log.disk().crash(mode));
        self.begin(disk, &synced);
    }

    /// A clean end and a new start.
    fn restart(&mut self) {
        self.trace(|| "restart".to_owned());
        for client in 0..CLIENTS {
            self.disconnect(client);
        }
        let taken = self.log.take(&self.broker.journal, &mut self.random);
        let closed = taken.and_then(|_| self.log.close(&self.broker.journal, &mut self.model.durable));
        if let Err(error) = closed {
            assert!(self.log.disk().is_crashed(), "{error}");
            self.crash();
            return;
        }
        self.seen("restart");
        let (synced, disk) = (self.log.synced(), self.log.disk().crash(Crash::Lost));
        self.begin(disk, &synced);
    }

    /// A process begins with what is on the disk, if need be one more after it.
    fn begin(&mut self, mut disk: SimDisk, synced: &Synced) {
        let (log, recovered, to_restore) = loop {
            if self.random.random_bool(0.3) {
                disk.crash_at(self.random.random_range(0..40));
            }
            match Log::open(&disk, self.setup.options, self.log.declared()) {
                Ok(opened) => break opened,
                Err(error) => assert!(disk.is_crashed(), "{error}"),
            }
            let mode = *Crash::ALL.choose(&mut self.random).expect("some");
            self.trace(|| format!("crash while it begins: {mode:?}"));
            self.seen("crash at the start");
            disk = disk.crash(mode);
        };
        self.trace(|| format!("{recovered:?}"));
        self.model.crash(synced, &recovered);
        self.log = log;
        self.unserved.clear();
        // The sessions of the process that ended write nothing any more: nobody takes it from the old journal.
        self.clients.clear();
        self.broker = broker(&self.setup, to_restore);
        self.connect_all();
        self.check_queues();
    }

    /// Lets everything happen that is under way, and looks at the queues. False if it crashed meanwhile.
    fn rest(&mut self) -> bool {
        let broker = Arc::clone(&self.broker);
        for round in 0.. {
            assert!(round < 1000, "it does not come to rest");
            let mut moved = self.take();
            moved |= self.sync();
            while self.broker.tick(Now::made_up(self.now_ms)) {}
            while self.serve() {
                moved = true;
            }
            if !Arc::ptr_eq(&broker, &self.broker) {
                return false;
            }
            for client in 0..CLIENTS {
                let before = self.clients[client].sent.len();
                self.arrive_up_to(client, usize::MAX);
                self.clients[client].session.handle_wake(Now::made_up(self.now_ms));
                moved |= self.events(client) || before != self.clients[client].sent.len();
            }
            if !moved {
                break;
            }
        }
        self.model.settle_time();
        self.model.check_quiet();
        self.check_queues();
        self.model.settle_letters();
        true
    }

    /// The queues hold what the model holds.
    fn check_queues(&mut self) {
        let host = self.broker.virtual_host("/").expect("the virtual host");
        assert_eq!(host.queues().len(), self.model.live.len());
        let mut handles = host.queues();
        // What is known of where dead letters come from says something of where they go.
        handles.sort_by_key(|handle| match Kind::of(&handle.name) {
            Kind::Last => 2,
            kind => u8::from(kind.is_for_letters()),
        });
        for handle in handles {
            let number = self.model.live[&*handle.name];
            let consumers = self.model.consumers.values().filter(|consumer| consumer.queue == number).count();
            let locked = handle.lock();
            self.model.check_ready(number, locked.ready_count() as usize);
            let queue = &self.model.queues[number];
            assert_eq!(locked.unacked_count(), queue.count(State::Unacked), "unacked of {}", handle.name);
            assert_eq!(locked.consumer_count() as usize, consumers, "consumers of {}", handle.name);
        }
    }

    /// Another client gets every message that is left.
    fn check_content(&mut self) {
        if self.random.random_bool(0.5) {
            self.now_ms += DELAY_MAX_MS;
            self.model.set_now(self.now_ms);
        }
        // What is due has left, and what has died is where it goes.
        while !self.rest() {}
        let now = Now::made_up(self.now_ms);
        for (name, queue) in self.model.live.clone().into_iter().filter(|(name, _)| name != DELAYED) {
            let mut client = Client::connect(&self.broker);
            client.session.input().extend(wire::channel_open().on(1));
            let count = self.model.queues[queue].messages.len();
            client.session.input().extend(wire::get(&name, true).on(1).repeat(count + 1));
            let mut got = BTreeSet::new();
            let mut is_empty = false;
            for round in 0.. {
                assert!(round < 1000, "{name} does not give what it has");
                client.session.handle_input(now);
                client.session.handle_wake(now);
                for event in client.incoming.read(&take_output(&mut client.session)) {
                    match event {
                        Event::GetOk { body, .. } => assert!(got.insert(id_of(&body)), "it comes once"),
                        Event::Method { ids: (60, 72), .. } => is_empty = true,
                        _ => {}
                    }
                }
                if is_empty {
                    break;
                }
                let Some(queue) = self.broker.pager.try_take() else { continue };
                let served = self.broker.serve(&queue, now, |load| self.log.load(load));
                if served.is_err() {
                    assert!(self.log.disk().is_crashed());
                    return;
                }
            }
            // What gave way to others may be missing.
            let left = self.model.queues[queue].messages.values().filter(|message| match message.state {
                State::MaybePurged => got.contains(&message.id),
                state => state == State::Available,
            });
            let left: BTreeSet<u64> = left.map(|message| message.id).collect();
            assert_eq!(got, left, "what is left in {name}");
        }
    }
}

/// What must have been seen at the end.
const EXPECTED: [&str; 30] = [
    "publish",
    "deliver",
    "redelivered",
    "confirm",
    "nack",
    "dead letter",
    "delayed",
    "wait for the group",
    "duplicate",
    "refused, to come again",
    "settle",
    "settle multiple",
    "get",
    "commit",
    "recover",
    "purge",
    "delete",
    "cancel",
    "bind",
    "passive",
    "qos",
    "global qos",
    "channel refused",
    "close channel",
    "load",
    "segment",
    "checkpoint",
    "crash",
    "crash at the start",
    "restart",
];

impl Client {
    fn connect(broker: &Arc<Broker>) -> Self {
        let peer = Peer::new(([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into());
        let mut session = Session::new(Arc::clone(broker), peer, Now::default());
        let handshake = [
            wire::start_ok("guest", "guest", &["consumer_cancel_notify"]),
            wire::tune_ok(100, 4096, 0),
            wire::open("/"),
        ];
        session.input().extend_from_slice(wire::HEADER);
        handshake.iter().for_each(|method| session.input().extend_from_slice(&method.on(0)));
        session.handle_input(Now::default());
        take_output(&mut session);
        let (incoming, sent, settling) = (Incoming::default(), VecDeque::new(), BTreeSet::new());
        Self { session, incoming, sent, arrived: 0, settling, pauses: false }
    }
}

fn take_output(session: &mut Session) -> Vec<u8> {
    let mut octets = Vec::new();
    while !session.output().is_empty() {
        let mut slices = Vec::new();
        session.output().io_slices(&mut slices);
        let start = octets.len();
        slices.iter().for_each(|slice| octets.extend_from_slice(slice));
        let taken = octets.len() - start;
        session.output().advance(taken);
    }
    octets
}

/// A broker whose outboxes are small, so that they fill up, with what was recovered.
fn broker(setup: &Setup, recovered: restore::Recovered) -> Arc<Broker> {
    let (users, permissions) = (Users::new([9; 4]), Permissions::new());
    users.put(User {
        name: "guest".into(),
        password: PasswordHash::new(HashingAlgorithm::Sha256, [1; 4], b"guest"),
        tags: Vec::new(),
        loopback_only: true,
        connections_max: None,
        channels_max: None,
    });
    permissions.grant("guest", "/", Permission::new(".*", ".*", ".*").expect("patterns"));
    let limits = Limits {
        frame_max: 131_072,
        channel_max: 2047,
        heartbeat_secs: 0,
        handshake_timeout_ms: 10_000,
        message_bytes_max: 1 << 20,
        connections_max: None,
        channels_max: None,
        consumers_per_channel_max: None,
        queues_max: None,
        unsent_bytes_per_connection: 1500,
    };
    let identity =
        Identity { product: "RabbitMQ".into(), version: "3.13.7".into(), cluster_name: "leveret@sim".into() };
    let broker = Broker::new(users, permissions, limits, identity);
    if let Some((resident_bytes_max, window_bytes)) = setup.memory_bytes {
        broker.pager.set_resident_bytes_max(resident_bytes_max);
        broker.pager.set_window_bytes(window_bytes);
    }
    broker.restore(recovered, Now::default());
    broker.add_virtual_host("/", None, None);
    Arc::new(broker)
}
