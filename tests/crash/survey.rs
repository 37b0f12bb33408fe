//! What is there after a restart: asks for everything that was ever declared, reads every queue, tries every binding.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, rngs::StdRng};

use crate::{
    client::{self, CHANNEL, Client, Gone},
    history::{Event, History, Name, Thing},
    ledger::{Certainty, Found, Observation},
    message,
    publisher::Sequence,
    topology,
    wire::{self, Event as Incoming},
};

/// A queue with more messages than this is emptied.
const LEFT_MAX: usize = 1500;
const NOT_FOUND: u16 = 404;

/// Looks at these things. Messages are read from their queues, and then acknowledged or given back.
pub(crate) fn observe(
    client: &mut Client,
    history: &mut History,
    things: &[Thing],
    random: &mut StdRng,
) -> Result<Observation, Gone> {
    let mut observation = Observation::default();
    let start = Instant::now();
    // What moves by itself comes last, when it has come to rest.
    let moves =
        |thing: &&Thing| matches!(thing, Thing::Queue(name) if topology::moves(topology::place(name)));
    let (moving, others): (Vec<_>, Vec<_>) = things.iter().partition(moves);
    for thing in others {
        match thing {
            Thing::Exchange { name, .. } => {
                // The type of an exchange is not asked for: passive.
                if exists(client, &wire::declare_exchange(name, "", wire::PASSIVE))?.is_some() {
                    observation.exchanges.insert(Arc::clone(name));
                }
            }
            Thing::Queue(name) => {
                let passive = wire::declare_queue(name, wire::PASSIVE);
                if let Some(messages) = exists(client, &passive)? {
                    let found = read(client, history, name, messages, random)?;
                    observation.queues.insert(Arc::clone(name), found);
                }
            }
            Thing::Binding { .. } => {}
        }
    }
    come_to_rest(client, start)?;
    // The second queue of a place before the first: what is given back to that may go on.
    for thing in moving.into_iter().rev() {
        let Thing::Queue(name) = thing else { continue };
        let passive = wire::declare_queue(name, wire::PASSIVE);
        if let Some(messages) = exists(client, &passive)? {
            let place = Name::from(topology::place(name));
            let found = read(client, history, name, messages, random)?;
            observation.queues.entry(place).or_default().extend(found);
            observation.queues.entry(Arc::clone(name)).or_default();
        }
    }
    Ok(observation)
}

/// Waits until no message is delayed, put off, or will expire.
#[expect(clippy::disallowed_methods, reason = "a queue can only be polled")]
fn come_to_rest(client: &mut Client, start: Instant) -> Result<(), Gone> {
    loop {
        let mut waiting = 0;
        for queue in [topology::DELAYING, topology::EXPIRING[0]] {
            waiting += exists(client, &wire::declare_queue(queue, wire::PASSIVE))?.unwrap_or(0);
        }
        // How many are put off nobody can tell: thrice the time that takes at most has to do.
        if waiting == 0 && start.elapsed() >= Duration::from_millis(3 * topology::RETRY_MS_MAX) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a passive declaration finds something; for a queue with how many messages.
fn exists(client: &mut Client, declare: &wire::Method) -> Result<Option<usize>, Gone> {
    client.send(&declare.on(CHANNEL))?;
    match client.next()? {
        Incoming::DeclareOk { messages, .. } => Ok(Some(messages as usize)),
        Incoming::Method { ids: (40, 11), .. } => Ok(Some(0)),
        Incoming::ChannelClose { code: NOT_FOUND, .. } => {
            client.send(&wire::channel_close_ok().on(CHANNEL))?;
            client.open_channel()?;
            Ok(None)
        }
        other => panic!("expected declare-ok or 404, got {other:?}"),
    }
}

/// Reads a queue to its end.
fn read(
    client: &mut Client,
    history: &mut History,
    queue: &Name,
    messages: usize,
    random: &mut StdRng,
) -> Result<Vec<Found>, Gone> {
    let place = &Name::from(topology::place(queue));
    let mut found = Vec::with_capacity(messages);
    let mut tags = Vec::with_capacity(messages);
    let mut take =
        |history: &mut History, tag: u64, redelivered: bool, body: &[u8]| match message::decode(body) {
            Ok(message) => {
                found.push(Found { message, redelivered });
                tags.push(tag);
            }
            Err(wrong) => history.record(Event::Wrong(format!("{queue}: {wrong}"))),
        };
    client.call(&wire::consume(queue, "survey", 0), (60, 21))?;
    let mut read = 0;
    while read < messages {
        let Incoming::Deliver { tag, redelivered, body, .. } = client.next()? else {
            panic!("expected a delivery")
        };
        take(history, tag, redelivered, &body);
        read += 1;
    }
    client.send(&wire::cancel("survey").on(CHANNEL))?;
    loop {
        match client.next()? {
            Incoming::Deliver { tag, redelivered, body, .. }
            | Incoming::GetOk { tag, redelivered, body, .. } => {
                history.record(Event::Wrong(format!("{queue} has more than {messages} messages")));
                take(history, tag, redelivered, &body);
            }
            Incoming::Method { ids: (60, 31), .. } => {}
            Incoming::Method { ids: (60, 72), .. } => break,
            other => panic!("expected get-empty, got {other:?}"),
        }
        client.send(&wire::get(queue, false).on(CHANNEL))?;
    }
    let share = match random.random_range(0..3) {
        _ if messages > LEFT_MAX => 1.0,
        0 => 1.0,
        1 => 0.0,
        _ => 0.5,
    };
    let mut octets = Vec::new();
    let mut settled = Vec::new();
    for (one, tag) in found.iter().zip(tags) {
        let (queue, message) = (Arc::clone(place), one.message);
        if random.random_bool(share) {
            history.record(Event::Settle { queue, message, transaction: None });
            octets.extend(wire::ack(tag, false).on(CHANNEL));
            settled.push(message);
        } else {
            history.record(Event::Return { queue, message });
        }
    }
    client.send(&octets)?;
    client.call(&wire::channel_close(), (20, 41))?;
    for message in settled {
        history.record(Event::Processed { queue: Arc::clone(place), message });
    }
    client.open_channel()?;
    Ok(found)
}

/// Publishes by each of these bindings: whether it is there.
pub(crate) fn try_bindings(
    client: &mut Client,
    history: &mut History,
    number: u32,
    random: &mut StdRng,
    bindings: Vec<(Thing, Certainty)>,
) -> Result<Vec<(Thing, bool)>, Gone> {
    let mut sequence = Sequence::new(number);
    let mut tried = Vec::new();
    client.call(&wire::confirm_select(), (85, 11))?;
    for (binding, _) in bindings {
        let Thing::Binding { exchange, queue, key } = &binding else { continue };
        let (message, body) = sequence.next(random);
        let queues: Arc<[Name]> = [Arc::clone(queue)].into();
        history.record(Event::Publish {
            message,
            queues: Arc::clone(&queues),
            persistent: true,
            transaction: None,
        });
        client.send(&client::publish(exchange, key, wire::MANDATORY, true, &body))?;
        let mut is_present = true;
        loop {
            match client.next()? {
                Incoming::Return { .. } => is_present = false,
                Incoming::Ack { .. } => break,
                other => panic!("expected a confirm, got {other:?}"),
            }
        }
        history.record(if is_present {
            Event::Confirmed { message, queues }
        } else {
            Event::Unroutable { message, queues }
        });
        tried.push((binding, is_present));
    }
    Ok(tried)
}
