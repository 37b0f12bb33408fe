//! A client with transactions: publishes to several queues and acks, committed or rolled back together. Nobody else
//! reads its queues, so that it can be told afterwards which parts of a transaction were done.

use std::sync::Arc;

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    client::{self, CHANNEL, Client, Gone},
    consumer::Deliveries,
    getter,
    history::{Event, History, Name},
    publisher::{Sequence, wait_for_the_end},
    wire,
};

const TRANSACTIONS_MAX: u64 = 1000;
/// Deliveries that are held at most.
const OPEN_MAX: usize = 12;

/// Makes transactions over `queues` until the broker goes.
pub(crate) fn run(
    client: &mut Client,
    history: &mut History,
    number: u32,
    random: &mut StdRng,
    queues: &[&'static str],
) -> Result<(), Gone> {
    let mut sequence = Sequence::new(number);
    let mut deliveries = Deliveries::new(number);
    client.call(&wire::tx_select(), (90, 11))?;
    for count in 0..TRANSACTIONS_MAX {
        let transaction = u64::from(number) << 32 | count;
        for _ in 0..random.random_range(0..4) {
            let queue = queues.choose(random).expect("there are some");
            if deliveries.open() < OPEN_MAX
                && let Some((tag, redelivered, body)) = getter::get(client, history, queue, false)?
            {
                deliveries.take(history, tag, queue, redelivered, &body);
            }
        }
        let mut octets = Vec::new();
        for _ in 0..random.random_range(1..6) {
            let queue = queues.choose(random).expect("there are some");
            let persistent = random.random_bool(0.9);
            let (message, body) = sequence.next(random);
            let copies: Arc<[Name]> = [Name::from(*queue)].into();
            history.record(Event::Publish {
                message,
                queues: copies,
                persistent,
                transaction: Some(transaction),
            });
            octets.extend(client::publish("", queue, 0, persistent, &body));
        }
        let most = random.random_range(0..4);
        let tags: Vec<u64> = deliveries.tags().filter(|_| random.random_bool(0.5)).take(most).collect();
        for tag in &tags {
            deliveries.settle_later(history, *tag, transaction).expect("it is open");
            octets.extend(wire::ack(*tag, false).on(CHANNEL));
        }
        client.send(&octets)?;
        if random.random_bool(0.15) {
            client.call(&wire::tx_rollback(), (90, 31))?;
            history.record(Event::RolledBack(transaction));
            continue;
        }
        history.record(Event::Commit(transaction));
        client.call(&wire::tx_commit(), (90, 21))?;
        history.record(Event::Committed(transaction));
        tags.into_iter().for_each(|tag| deliveries.forget(tag));
    }
    wait_for_the_end(client)
}
