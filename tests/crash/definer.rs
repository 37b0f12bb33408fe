//! A client that declares, binds, unbinds, purges and deletes.

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    client::{Client, Gone},
    getter::publish_one,
    history::{Event, History, Name, Thing},
    publisher::{Sequence, wait_for_the_end},
    topology::{self, CHURN, EXCHANGE_AUTO_DELETE, PURGED},
    wire,
};

const STEPS_MAX: usize = 400;
/// Queues, exchanges and bindings that come and go, of each; more are deleted.
const THINGS_MAX: usize = 12;

/// What there is of that which comes and goes.
#[derive(Debug, Default)]
pub(crate) struct Churn {
    queues: Vec<Name>,
    exchanges: Vec<(Name, bool)>,
    bindings: Vec<(Name, Name, Name)>,
}

impl Churn {
    /// The things that are known to be there, without those of the topology.
    pub(crate) fn new<'a>(things: impl Iterator<Item = &'a Thing>) -> Self {
        let mut churn = Self::default();
        for thing in things {
            match thing {
                Thing::Queue(name) if name.starts_with("churn-") => churn.queues.push(name.clone()),
                Thing::Exchange { name, auto_delete } if name.starts_with("churn-") => {
                    churn.exchanges.push((name.clone(), *auto_delete));
                }
                Thing::Binding { exchange, queue, key } => {
                    churn.bindings.push((exchange.clone(), queue.clone(), key.clone()));
                }
                _ => {}
            }
        }
        churn
    }
}

/// Makes definitions and takes them back until the broker goes.
pub(crate) fn run(
    client: &mut Client,
    history: &mut History,
    number: u32,
    random: &mut StdRng,
    mut churn: Churn,
) -> Result<(), Gone> {
    let mut sequence = Sequence::new(number);
    client.call(&wire::confirm_select(), (85, 11))?;
    for step in 0..STEPS_MAX {
        let name = format!("churn-{number}-{step}");
        match random.random_range(0..100) {
            0..30 => new_queue(client, history, random, &mut churn, &mut sequence, &name)?,
            30..50 => new_exchange(client, history, random, &mut churn, &name)?,
            50..60 => {
                if let Some(queue) = churn.queues.choose(random).cloned() {
                    bind(client, history, &mut churn, CHURN.into(), queue, name.into())?;
                }
            }
            60..70 => unbind(client, history, random, &mut churn)?,
            70..80 => purge(client, history)?,
            80..90 => delete_queue(client, history, random, &mut churn)?,
            _ => delete_exchange(client, history, random, &mut churn)?,
        }
        while churn.queues.len() > THINGS_MAX {
            delete_queue(client, history, random, &mut churn)?;
        }
        while churn.exchanges.len() > THINGS_MAX {
            delete_exchange(client, history, random, &mut churn)?;
        }
        while churn.bindings.len() > THINGS_MAX {
            unbind(client, history, random, &mut churn)?;
        }
    }
    wait_for_the_end(client)
}

fn new_queue(
    client: &mut Client,
    history: &mut History,
    random: &mut StdRng,
    churn: &mut Churn,
    sequence: &mut Sequence,
    name: &str,
) -> Result<(), Gone> {
    let durable = random.random_bool(0.85);
    topology::declare_queue(client, history, name, durable)?;
    if !durable {
        return Ok(());
    }
    churn.queues.push(name.into());
    let key = format!("{name}-key");
    bind(client, history, churn, CHURN.into(), name.into(), key.as_str().into())?;
    for _ in 0..random.random_range(0..4) {
        let key = if random.random_bool(0.5) { name } else { &key };
        publish_one(client, history, sequence, random, name, key)?;
    }
    Ok(())
}

fn new_exchange(
    client: &mut Client,
    history: &mut History,
    random: &mut StdRng,
    churn: &mut Churn,
    name: &str,
) -> Result<(), Gone> {
    let auto_delete = random.random_bool(0.5);
    let durable = random.random_bool(0.85);
    let bits = if auto_delete { EXCHANGE_AUTO_DELETE } else { 0 } | if durable { wire::DURABLE } else { 0 };
    let kind = ["direct", "topic"].choose(random).expect("two");
    topology::declare_exchange(client, history, name, kind, bits)?;
    if !durable {
        return Ok(());
    }
    churn.exchanges.push((name.into(), auto_delete));
    match churn.queues.choose(random).cloned() {
        Some(queue) => bind(client, history, churn, name.into(), queue, format!("{name}-key").into()),
        None => Ok(()),
    }
}

/// Binds a durable queue to a durable exchange, with a key that no other binding has.
fn bind(
    client: &mut Client,
    history: &mut History,
    churn: &mut Churn,
    exchange: Name,
    queue: Name,
    key: Name,
) -> Result<(), Gone> {
    let thing = Thing::Binding { exchange: exchange.clone(), queue: queue.clone(), key: key.clone() };
    history.record(Event::Declare { thing: thing.clone(), durable: true });
    client.call(&wire::bind_queue(&queue, &exchange, &key), (50, 21))?;
    history.record(Event::Declared(thing));
    churn.bindings.push((exchange, queue, key));
    Ok(())
}

fn unbind(
    client: &mut Client,
    history: &mut History,
    random: &mut StdRng,
    churn: &mut Churn,
) -> Result<(), Gone> {
    if churn.bindings.is_empty() {
        return Ok(());
    }
    let (exchange, queue, key) = churn.bindings.swap_remove(random.random_range(0..churn.bindings.len()));
    // One that deletes itself goes too.
    churn.exchanges.retain(|(name, auto_delete)| !auto_delete || *name != exchange);
    let thing = Thing::Binding { exchange: exchange.clone(), queue: queue.clone(), key: key.clone() };
    history.record(Event::Delete(thing.clone()));
    client.call(&wire::unbind_queue(&queue, &exchange, &key), (50, 51))?;
    history.record(Event::Deleted(thing));
    Ok(())
}

fn delete_queue(
    client: &mut Client,
    history: &mut History,
    random: &mut StdRng,
    churn: &mut Churn,
) -> Result<(), Gone> {
    if churn.queues.is_empty() {
        return Ok(());
    }
    let name = churn.queues.swap_remove(random.random_range(0..churn.queues.len()));
    let is_bound =
        |exchange: &Name| churn.bindings.iter().any(|(from, to, _)| from == exchange && *to == name);
    churn.exchanges.retain(|(exchange, auto_delete)| !auto_delete || !is_bound(exchange));
    churn.bindings.retain(|(_, queue, _)| *queue != name);
    let thing = Thing::Queue(name.clone());
    history.record(Event::Delete(thing.clone()));
    client.call(&wire::delete_queue(&name), (50, 41))?;
    history.record(Event::Deleted(thing));
    Ok(())
}

fn delete_exchange(
    client: &mut Client,
    history: &mut History,
    random: &mut StdRng,
    churn: &mut Churn,
) -> Result<(), Gone> {
    if churn.exchanges.is_empty() {
        return Ok(());
    }
    let (name, auto_delete) = churn.exchanges.swap_remove(random.random_range(0..churn.exchanges.len()));
    churn.bindings.retain(|(exchange, _, _)| *exchange != name);
    let thing = Thing::Exchange { name: name.clone(), auto_delete };
    history.record(Event::Delete(thing.clone()));
    client.call(&wire::delete_exchange(&name), (40, 21))?;
    history.record(Event::Deleted(thing));
    Ok(())
}

fn purge(client: &mut Client, history: &mut History) -> Result<(), Gone> {
    history.record(Event::Purge { queue: PURGED.into() });
    client.call(&wire::purge(PURGED), (50, 31))?;
    history.record(Event::Purged { queue: PURGED.into() });
    Ok(())
}
