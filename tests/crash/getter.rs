//! A client that publishes a little and gets a little, with and without acknowledgements.

use std::sync::Arc;

use rand::{Rng, rngs::StdRng};

use crate::{
    client::{self, CHANNEL, Client, Gone},
    consumer::Deliveries,
    history::{Event, History, Name},
    publisher::{Sequence, wait_for_the_end},
    topology::GOT,
    wire::{self, Event as Incoming},
};

const PUBLISHES_MAX: usize = 2000;
/// Open deliveries at which all are acknowledged.
const OPEN_MAX: usize = 20;

/// What `basic.get` gave: a tag, whether it is redelivered, and the body.
pub(crate) type Got = Option<(u64, bool, Vec<u8>)>;

/// Publishes and gets until the broker goes.
pub(crate) fn run(
    client: &mut Client,
    history: &mut History,
    number: u32,
    random: &mut StdRng,
) -> Result<(), Gone> {
    let mut sequence = Sequence::new(number);
    let mut deliveries = Deliveries::new(number);
    let mut published = 0;
    client.call(&wire::confirm_select(), (85, 11))?;
    while published < PUBLISHES_MAX {
        let count = random.random_range(1..5);
        for _ in 0..count {
            publish_one(client, history, &mut sequence, random, GOT, GOT)?;
        }
        published += count;
        for _ in 0..random.random_range(0..5) {
            get_one(client, history, random, &mut deliveries)?;
        }
        if deliveries.open() >= OPEN_MAX {
            let last = deliveries.tags().last().expect("there are some");
            deliveries.settle(history, last, true);
            client.send(&wire::ack(last, true).on(CHANNEL))?;
        }
        deliveries.ask();
        client.call(&wire::qos(0, false), (60, 11))?;
        deliveries.answered(history);
    }
    wait_for_the_end(client)
}

/// Publishes a persistent message to the durable queue, through the default exchange or another, and waits until it
/// is confirmed. Nothing else may be awaited on the channel.
pub(crate) fn publish_one(
    client: &mut Client,
    history: &mut History,
    sequence: &mut Sequence,
    random: &mut StdRng,
    queue: &str,
    key: &str,
) -> Result<(), Gone> {
    let exchange = if queue == key { "" } else { crate::topology::CHURN };
    let (message, body) = sequence.next(random);
    let queues: Arc<[Name]> = [Name::from(queue)].into();
    history.record(Event::Publish {
        message,
        queues: Arc::clone(&queues),
        persistent: true,
        transaction: None,
    });
    client.send(&client::publish(exchange, key, 0, true, &body))?;
    match client.next()? {
        Incoming::Ack { .. } => history.record(Event::Confirmed { message, queues }),
        other => panic!("expected a confirm, got {other:?}"),
    }
    Ok(())
}

fn get_one(
    client: &mut Client,
    history: &mut History,
    random: &mut StdRng,
    deliveries: &mut Deliveries,
) -> Result<(), Gone> {
    let no_ack = random.random_bool(0.25);
    let Some((tag, redelivered, body)) = get(client, history, GOT, no_ack)? else { return Ok(()) };
    deliveries.take(history, tag, GOT, redelivered, &body);
    if no_ack {
        deliveries.settle(history, tag, false);
        return Ok(());
    }
    match random.random_range(0..10) {
        0..6 => {
            deliveries.settle(history, tag, false);
            client.send(&wire::ack(tag, false).on(CHANNEL))
        }
        6 => {
            deliveries.settle(history, tag, false);
            client.send(&wire::reject(tag, false).on(CHANNEL))
        }
        7 => {
            deliveries.give_back(history, tag, false);
            client.send(&wire::nack(tag, false, true).on(CHANNEL))
        }
        _ => Ok(()),
    }
}

/// Gets a message. Nothing else may be awaited on the channel.
pub(crate) fn get(
    client: &mut Client,
    history: &mut History,
    queue: &str,
    no_ack: bool,
) -> Result<Got, Gone> {
    let answer = client.send(&wire::get(queue, no_ack).on(CHANNEL)).and_then(|()| client.next());
    match answer {
        Ok(Incoming::GetOk { tag, redelivered, body, .. }) => Ok(Some((tag, redelivered, body))),
        Ok(Incoming::Method { ids: (60, 72), .. }) => Ok(None),
        Ok(other) => panic!("expected a message, got {other:?}"),
        Err(gone) => {
            history.record(Event::Unanswered { queue: queue.into(), removes: no_ack });
            Err(gone)
        }
    }
}
