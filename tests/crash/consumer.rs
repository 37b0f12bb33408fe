//! Consumers with manual acknowledgement: ack, reject, requeue, hold.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use rand::{Rng, rngs::StdRng};

use crate::{
    client::{CHANNEL, Client, Gone},
    history::{Event, History, Name},
    message::{self, MessageId},
    topology,
    wire::{self, Event as Incoming},
};

/// Settlements after which a consumer asks something, to know that the broker has taken them.
const SETTLEMENTS_TO_ASK: usize = 40;
/// Deliveries that a consumer holds until the end, if it holds any.
const HELD: usize = 10;
/// Readers of one client: more than the channels that it opens.
const READERS_PER_CLIENT: u32 = 10_000;

/// Deliveries by tag, and what was done with them.
pub(crate) struct Deliveries {
    reader: u32,
    open: BTreeMap<u64, (Name, MessageId)>,
    /// Settled since the last question.
    settled: Vec<(Name, MessageId)>,
    /// Settled before the questions that are not answered yet.
    asked: VecDeque<Vec<(Name, MessageId)>>,
}

impl Deliveries {
    /// Nothing delivered yet to the client of that number.
    pub(crate) fn new(number: u32) -> Self {
        let (open, settled, asked) = (BTreeMap::new(), Vec::new(), VecDeque::new());
        Self { reader: number * READERS_PER_CLIENT, open, settled, asked }
    }

    /// How many are not settled.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    /// Takes a delivery that was read.
    pub(crate) fn take(
        &mut self,
        history: &mut History,
        tag: u64,
        queue: &str,
        redelivered: bool,
        body: &[u8],
    ) {
        let queue = Name::from(topology::place(queue));
        match message::decode(body) {
            Ok(message) => {
                let reader = self.reader;
                history.record(Event::Deliver { queue: Arc::clone(&queue), message, redelivered, reader });
                self.open.insert(tag, (queue, message));
            }
            Err(wrong) => history.record(Event::Wrong(format!("{queue}: {wrong}"))),
        }
    }

    /// Those that settling `tag` settles.
    fn up_to(&mut self, tag: u64, multiple: bool) -> Vec<(Name, MessageId)> {
        if !multiple {
            return self.open.remove(&tag).into_iter().collect();
        }
        let left = self.open.split_off(&(tag + 1));
        std::mem::replace(&mut self.open, left).into_values().collect()
    }

    /// They leave their queues for good.
    pub(crate) fn settle(&mut self, history: &mut History, tag: u64, multiple: bool) {
        for (queue, message) in self.up_to(tag, multiple) {
            history.record(Event::Settle { queue: Arc::clone(&queue), message, transaction: None });
            self.settled.push((queue, message));
        }
    }

    /// It leaves its queue with the transaction.
    pub(crate) fn settle_later(&mut self, history: &mut History, tag: u64, transaction: u64) -> Option<()> {
        let (queue, message) = self.open.get(&tag)?.clone();
        history.record(Event::Settle { queue, message, transaction: Some(transaction) });
        Some(())
    }

    /// They go back to their queues.
    pub(crate) fn give_back(&mut self, history: &mut History, tag: u64, multiple: bool) {
        for (queue, message) in self.up_to(tag, multiple) {
            history.record(Event::Return { queue, message });
        }
    }

    /// They are rejected: that is the end of them, unless they go on.
    fn reject(&mut self, history: &mut History, tag: u64, multiple: bool, moves: bool) {
        if moves { self.give_back(history, tag, multiple) } else { self.settle(history, tag, multiple) }
    }

    /// Forgets one that a transaction settled.
    pub(crate) fn forget(&mut self, tag: u64) {
        self.open.remove(&tag);
    }

    /// The lowest open tags, in order.
    pub(crate) fn tags(&self) -> impl Iterator<Item = u64> {
        self.open.keys().copied()
    }

    /// A question follows the settlements so far on their channel.
    pub(crate) fn ask(&mut self) {
        self.asked.push_back(std::mem::take(&mut self.settled));
    }

    /// The first of the questions was answered.
    pub(crate) fn answered(&mut self, history: &mut History) {
        for (queue, message) in self.asked.pop_front().expect("a question was asked") {
            history.record(Event::Processed { queue, message });
        }
    }
}

/// What is peculiar to a consumer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    pub(crate) queues: &'static [&'static str],
    pub(crate) prefetch: u16,
    /// It never settles its first deliveries.
    pub(crate) holds: bool,
    /// What it rejects goes on to another queue of the same place.
    pub(crate) moves: bool,
}

/// Consumes until the broker goes.
pub(crate) fn run(
    client: &mut Client,
    history: &mut History,
    number: u32,
    random: &mut StdRng,
    habits: Habits,
) -> Result<(), Gone> {
    let mut deliveries = Deliveries::new(number);
    loop {
        client.call(&wire::qos(habits.prefetch, false), (60, 11))?;
        for queue in habits.queues {
            let place = topology::place(queue).into();
            history.record(Event::Consume { queue: place, prefetch: habits.prefetch.into() });
            client.send(&wire::consume(queue, queue, 0).on(CHANNEL))?;
        }
        let left = if habits.holds { usize::MAX } else { random.random_range(200..2000) };
        consume(client, history, random, habits, &mut deliveries, left)?;
        leave(client, history, habits, &mut deliveries)?;
        client.open_channel()?;
        deliveries.reader += 1;
    }
}

/// Works until so many more were delivered.
fn consume(
    client: &mut Client,
    history: &mut History,
    random: &mut StdRng,
    habits: Habits,
    deliveries: &mut Deliveries,
    mut left: usize,
) -> Result<(), Gone> {
    let mut octets = Vec::new();
    while left > 0 {
        match client.next()? {
            Incoming::Deliver { consumer, tag, redelivered, body, .. } => {
                left -= 1;
                deliveries.take(history, tag, &consumer, redelivered, &body);
                if !habits.holds || deliveries.open() > HELD {
                    octets.extend(choose(history, random, habits, deliveries, tag));
                }
            }
            Incoming::Method { ids: (60, 11), .. } => deliveries.answered(history),
            Incoming::Method { ids: (60, 21), .. } => {}
            other => panic!("expected a delivery, got {other:?}"),
        }
        if deliveries.settled.len() >= SETTLEMENTS_TO_ASK {
            deliveries.ask();
            octets.extend(wire::qos(habits.prefetch, false).on(CHANNEL));
        }
        if !client.has_next() || octets.len() > 1000 {
            client.send(&octets)?;
            octets.clear();
        }
    }
    client.send(&octets)
}

/// What to do about a delivery; the octets that do it.
fn choose(
    history: &mut History,
    random: &mut StdRng,
    habits: Habits,
    deliveries: &mut Deliveries,
    tag: u64,
) -> Vec<u8> {
    let may_be_multiple = !habits.holds;
    let multiple = may_be_multiple && random.random_bool(0.1);
    let is_full = deliveries.open() * 2 >= usize::from(habits.prefetch);
    match random.random_range(0..100) {
        _ if may_be_multiple && is_full => {
            deliveries.settle(history, tag, true);
            wire::ack(tag, true).on(CHANNEL)
        }
        0..60 => {
            deliveries.settle(history, tag, multiple);
            wire::ack(tag, multiple).on(CHANNEL)
        }
        60..65 => {
            deliveries.reject(history, tag, false, habits.moves);
            wire::reject(tag, false).on(CHANNEL)
        }
        65..68 => {
            deliveries.reject(history, tag, multiple, habits.moves);
            wire::nack(tag, multiple, false).on(CHANNEL)
        }
        68..74 => {
            deliveries.give_back(history, tag, multiple);
            wire::nack(tag, multiple, true).on(CHANNEL)
        }
        74..77 => {
            deliveries.give_back(history, tag, false);
            wire::reject(tag, true).on(CHANNEL)
        }
        // One that holds its first deliveries has no room for more.
        _ if habits.holds => {
            deliveries.settle(history, tag, false);
            wire::ack(tag, false).on(CHANNEL)
        }
        _ => Vec::new(),
    }
}

/// Cancels the consumers, and closes the channel once it is known what was delivered: what is open goes back.
fn leave(
    client: &mut Client,
    history: &mut History,
    habits: Habits,
    deliveries: &mut Deliveries,
) -> Result<(), Gone> {
    for queue in habits.queues {
        client.send(&wire::cancel(queue).on(CHANNEL))?;
    }
    deliveries.ask();
    client.send(&wire::qos(habits.prefetch, false).on(CHANNEL))?;
    // A cancel-ok may come after the answer: nothing is delivered only after it.
    let mut cancelled = 0;
    while cancelled < habits.queues.len() || !deliveries.asked.is_empty() {
        match client.next()? {
            Incoming::Deliver { consumer, tag, redelivered, body, .. } => {
                deliveries.take(history, tag, &consumer, redelivered, &body);
            }
            Incoming::Method { ids: (60, 11), .. } => deliveries.answered(history),
            Incoming::Method { ids: (60, 21), .. } => {}
            Incoming::Method { ids: (60, 31), .. } => cancelled += 1,
            other => panic!("expected cancel-ok, got {other:?}"),
        }
    }
    for queue in habits.queues {
        let place = topology::place(queue).into();
        history.record(Event::Left { queue: place, prefetch: habits.prefetch.into() });
    }
    deliveries.give_back(history, u64::MAX - 1, true);
    client.call(&wire::channel_close(), (20, 41))
}
