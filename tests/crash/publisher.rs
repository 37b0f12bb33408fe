//! Publishers: one that waits for confirms, a window at a time, and one that never asks for any.

use std::{collections::BTreeMap, sync::Arc};

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    client::{CHANNEL, Client, Gone},
    history::{Event, History, Name},
    message::{self, MessageId},
    topology,
    wire::{self, Event as Incoming},
};

/// Publishes that may be without a confirm.
const WINDOW: usize = 80;
/// Publishes of one publisher: a broker that never waits for a disk must not drown the checker.
const PUBLISHES_MAX: u64 = 6000;
const UNCONFIRMED_PUBLISHES_MAX: u64 = 1500;

/// A client's messages, numbered in the order they are published.
#[derive(Debug)]
pub(crate) struct Sequence {
    publisher: u32,
    last: u64,
}

impl Sequence {
    /// `publisher` is a number that nobody else has.
    pub(crate) fn new(publisher: u32) -> Self {
        Self { publisher, last: 0 }
    }

    /// The next message and its body.
    pub(crate) fn next(&mut self, random: &mut StdRng) -> (MessageId, Vec<u8>) {
        self.last += 1;
        let id = MessageId { publisher: self.publisher, sequence: self.last };
        (id, message::encode(id, random))
    }
}

/// Publishes to everything, with confirms, until the broker goes.
pub(crate) fn confirmed(
    client: &mut Client,
    history: &mut History,
    number: u32,
    random: &mut StdRng,
) -> Result<(), Gone> {
    let targets = topology::targets();
    let mut sequence = Sequence::new(number);
    let mut window = BTreeMap::<u64, (MessageId, Arc<[Name]>)>::new();
    client.call(&wire::confirm_select(), (85, 11))?;
    loop {
        let room = if sequence.last < PUBLISHES_MAX { WINDOW - window.len() } else { 0 };
        let mut octets = Vec::new();
        for _ in 0..random.random_range(0..=room) {
            let target = targets.choose(random).expect("there are some");
            let persistent = random.random_bool(0.85);
            let (message, body) = sequence.next(random);
            let queues = Arc::clone(&target.queues);
            history.record(Event::Publish {
                message,
                queues: Arc::clone(&queues),
                persistent,
                transaction: None,
            });
            octets.extend(target.publish(random, persistent, &body));
            window.insert(sequence.last, (message, queues));
        }
        client.send(&octets)?;
        while client.has_next() || !window.is_empty() || sequence.last >= PUBLISHES_MAX {
            match client.next()? {
                Incoming::Ack { channel: CHANNEL, tag, multiple } => {
                    let left = window.split_off(&(tag + 1));
                    let mut done = std::mem::replace(&mut window, left);
                    if !multiple {
                        let only = done.remove(&tag);
                        window.append(&mut done);
                        done.extend(only.map(|only| (tag, only)));
                    }
                    for (message, queues) in done.into_values() {
                        history.record(Event::Confirmed { message, queues });
                    }
                }
                other => panic!("expected a confirm, got {other:?}"),
            }
            if !client.has_next() && window.len() < WINDOW / 2 && sequence.last < PUBLISHES_MAX {
                break;
            }
        }
    }
}

/// Publishes to everything, without confirms, until the broker goes.
pub(crate) fn unconfirmed(
    client: &mut Client,
    history: &mut History,
    number: u32,
    random: &mut StdRng,
) -> Result<(), Gone> {
    let targets = topology::targets();
    let mut sequence = Sequence::new(number);
    while sequence.last < UNCONFIRMED_PUBLISHES_MAX {
        let mut octets = Vec::new();
        let mut sent = Vec::new();
        for _ in 0..random.random_range(1..10) {
            let target = targets.choose(random).expect("there are some");
            let persistent = random.random_bool(0.85);
            let (message, body) = sequence.next(random);
            let queues = Arc::clone(&target.queues);
            history.record(Event::Publish {
                message,
                queues: Arc::clone(&queues),
                persistent,
                transaction: None,
            });
            octets.extend(target.publish(random, persistent, &body));
            sent.push((message, queues));
        }
        client.send(&octets)?;
        client.call(&wire::declare_queue(topology::KEPT, wire::DURABLE | wire::PASSIVE), (50, 11))?;
        for (message, queues) in sent {
            history.record(Event::Accepted { message, queues });
        }
    }
    wait_for_the_end(client)
}

/// Nothing more to do.
pub(crate) fn wait_for_the_end(client: &mut Client) -> Result<(), Gone> {
    let event = client.next()?;
    panic!("nothing was asked for, got {event:?}");
}
