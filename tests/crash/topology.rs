//! The queues and exchanges that are there from the first start on, and where publishes to them go.

use std::sync::Arc;

use rand::{Rng, rngs::StdRng};

use crate::{
    client::{self, Client, Gone},
    history::{Event, History, Name, Thing},
    wire,
};

/// Queues with consumers, reached through the exchange [`DIRECT`].
pub(crate) const WORK: [&str; 2] = ["work-a", "work-b"];
/// Durable queues that are bound to [`FAN`].
pub(crate) const FANNED: [&str; 3] = ["fan-a", "fan-b", "fan-c"];
/// A queue that nobody reads before the broker ends.
pub(crate) const KEPT: &str = "kept";
/// A queue that is only purged.
pub(crate) const PURGED: &str = "purged";
/// A queue for `basic.get`.
pub(crate) const GOT: &str = "got";
/// A queue that is not durable, bound to both exchanges.
pub(crate) const PASSING: &str = "passing";
/// A queue whose messages expire after [`TTL_MS`], and where they go then.
pub(crate) const EXPIRING: [&str; 2] = ["expiring", "expired"];
/// A queue that puts off what comes back ([`RETRY_DELAYS`]), and where it goes in the end.
pub(crate) const RETRIED: [&str; 2] = ["retried", "retried-out"];
/// A queue behind [`DELAYED`].
pub(crate) const DUE: &str = "due";
/// An exchange that delays each message, by at most [`DELAY_MS_MAX`].
pub(crate) const DELAYED: &str = "crash-delayed";
/// Where the messages are that it delays.
pub(crate) const DELAYING: &str = "amq.delayed.crash-delayed";
const TTL_MS: u32 = 150;
const RETRY_DELAYS: &str = "10ms,30ms,90ms";
/// The last of them.
pub(crate) const RETRY_MS_MAX: u64 = 90;
const DELAY_MS_MAX: i32 = 200;
/// The queues of each client with transactions.
pub(crate) const TRANSACTIONAL: [[&str; 3]; 2] = [
    ["transaction-a-0", "transaction-a-1", "transaction-a-2"],
    ["transaction-b-0", "transaction-b-1", "transaction-b-2"],
];
pub(crate) const DIRECT: &str = "crash-direct";
pub(crate) const FAN: &str = "crash-fan";
/// What the bindings that come and go are made to.
pub(crate) const CHURN: &str = "crash-churn";

/// Where a publish goes.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) exchange: &'static str,
    pub(crate) key: &'static str,
    pub(crate) queues: Arc<[Name]>,
}

impl Target {
    /// A publish to there.
    pub(crate) fn publish(&self, random: &mut StdRng, persistent: bool, body: &[u8]) -> Vec<u8> {
        if self.exchange != DELAYED {
            return client::publish(self.exchange, self.key, 0, persistent, body);
        }
        let delay_ms: i32 = random.random_range(0..=DELAY_MS_MAX);
        let header = wire::field("x-delay", b'I', &delay_ms.to_be_bytes());
        let properties = wire::mode_and_headers(if persistent { 2 } else { 1 }, &header);
        client::publish_with(self.exchange, self.key, 0, &properties, body)
    }
}

/// Messages that go from one of these queues to the other by themselves: a copy is in one of both, so both are one
/// place to the ledger, which has the name of the first. They come in another order than they were published, and
/// begin anew in the second as far as redelivery goes.
pub(crate) fn place(queue: &str) -> &str {
    match queue {
        _ if queue == EXPIRING[1] => EXPIRING[0],
        _ if queue == RETRIED[1] => RETRIED[0],
        _ => queue,
    }
}

/// Whether messages come to that place, or leave it, by themselves.
pub(crate) fn moves(place: &str) -> bool {
    [EXPIRING[0], RETRIED[0], DUE].contains(&place)
}

/// All ways for a publish but those to queues that somebody has for himself.
pub(crate) fn targets() -> Vec<Target> {
    let target = |exchange, key, queues: &[&str]| {
        let queues = queues.iter().map(|name| Name::from(*name)).collect();
        Target { exchange, key, queues }
    };
    let direct = [WORK[0], WORK[1], KEPT, PURGED, PASSING];
    let mut targets: Vec<Target> = direct.iter().map(|name| target(DIRECT, name, &[name])).collect();
    targets.extend(WORK.map(|name| target("", name, &[name])));
    targets.extend([EXPIRING[0], RETRIED[0]].map(|name| target("", name, &[name])));
    targets.push(target(DELAYED, "", &[DUE]));
    targets.push(target(FAN, "", &[FANNED[0], FANNED[1], FANNED[2], PASSING]));
    targets
}

/// Declares what is missing: everything at first, then only what is not durable.
pub(crate) fn declare(client: &mut Client, history: &mut History, is_first: bool) -> Result<(), Gone> {
    if is_first {
        for (name, kind) in [(DIRECT, "direct"), (FAN, "fanout"), (CHURN, "direct")] {
            declare_exchange(client, history, name, kind, wire::DURABLE)?;
        }
        let queues = [KEPT, PURGED, GOT];
        for name in queues.iter().chain(&WORK).chain(&FANNED).chain(TRANSACTIONAL.as_flattened()) {
            declare_queue(client, history, name, true)?;
        }
        let after = |queue| {
            let exchange = wire::text_field("x-dead-letter-exchange", "");
            [exchange, wire::text_field("x-dead-letter-routing-key", queue)].concat()
        };
        let ttl = wire::field("x-message-ttl", b'i', &TTL_MS.to_be_bytes());
        let delays = wire::text_field("x-retry-delays", RETRY_DELAYS);
        let fanout = wire::text_field("x-delayed-type", "fanout");
        declare_queue_with(client, history, EXPIRING[0], true, &[ttl, after(EXPIRING[1])].concat())?;
        declare_queue_with(client, history, RETRIED[0], true, &[delays, after(RETRIED[1])].concat())?;
        for name in [EXPIRING[1], RETRIED[1], DUE] {
            declare_queue(client, history, name, true)?;
        }
        let kind = "x-delayed-message";
        declare_exchange_with(client, history, DELAYED, kind, wire::DURABLE, &fanout)?;
        client.call(&wire::bind_queue(DUE, DELAYED, ""), (50, 21))?;
        for name in [WORK[0], WORK[1], KEPT, PURGED] {
            client.call(&wire::bind_queue(name, DIRECT, name), (50, 21))?;
        }
        for name in FANNED {
            client.call(&wire::bind_queue(name, FAN, ""), (50, 21))?;
        }
    }
    declare_queue(client, history, PASSING, false)?;
    client.call(&wire::bind_queue(PASSING, DIRECT, PASSING), (50, 21))?;
    client.call(&wire::bind_queue(PASSING, FAN, ""), (50, 21))
}

/// Declares a queue; its channel must have no consumers.
pub(crate) fn declare_queue(
    client: &mut Client,
    history: &mut History,
    name: &str,
    durable: bool,
) -> Result<(), Gone> {
    declare_queue_with(client, history, name, durable, &[])
}

fn declare_queue_with(
    client: &mut Client,
    history: &mut History,
    name: &str,
    durable: bool,
    arguments: &[u8],
) -> Result<(), Gone> {
    let thing = Thing::Queue(name.into());
    let bits = if durable { wire::DURABLE } else { 0 };
    history.record(Event::Declare { thing: thing.clone(), durable });
    client.call(&wire::declare_queue_with(name, bits, arguments), (50, 11))?;
    history.record(Event::Declared(thing));
    Ok(())
}

/// Declares an exchange; its channel must have no consumers.
pub(crate) fn declare_exchange(
    client: &mut Client,
    history: &mut History,
    name: &str,
    kind: &str,
    bits: u8,
) -> Result<(), Gone> {
    declare_exchange_with(client, history, name, kind, bits, &[])
}

fn declare_exchange_with(
    client: &mut Client,
    history: &mut History,
    name: &str,
    kind: &str,
    bits: u8,
    arguments: &[u8],
) -> Result<(), Gone> {
    // The third and the fourth bit are auto-delete and internal here.
    let thing = Thing::Exchange { name: name.into(), auto_delete: bits & EXCHANGE_AUTO_DELETE != 0 };
    history.record(Event::Declare { thing: thing.clone(), durable: bits & wire::DURABLE != 0 });
    client.call(&wire::declare_exchange_with(name, kind, bits, arguments), (40, 11))?;
    history.record(Event::Declared(thing));
    Ok(())
}

/// The bit of `exchange.declare` that has an exchange go with its last binding.
pub(crate) const EXCHANGE_AUTO_DELETE: u8 = 4;
