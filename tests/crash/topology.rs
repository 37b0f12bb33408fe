//! The queues and exchanges that are there from the first start on, and where publishes to them go.

use std::sync::Arc;

use crate::{
    client::{Client, Gone},
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

/// All ways for a publish but those to queues that somebody has for himself.
pub(crate) fn targets() -> Vec<Target> {
    let target = |exchange, key, queues: &[&str]| {
        let queues = queues.iter().map(|name| Name::from(*name)).collect();
        Target { exchange, key, queues }
    };
    let direct = [WORK[0], WORK[1], KEPT, PURGED, PASSING];
    let mut targets: Vec<Target> = direct.iter().map(|name| target(DIRECT, name, &[name])).collect();
    targets.extend(WORK.map(|name| target("", name, &[name])));
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
    let thing = Thing::Queue(name.into());
    let bits = if durable { wire::DURABLE } else { 0 };
    history.record(Event::Declare { thing: thing.clone(), durable });
    client.call(&wire::declare_queue(name, bits), (50, 11))?;
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
    // The third and the fourth bit are auto-delete and internal here.
    let thing = Thing::Exchange { name: name.into(), auto_delete: bits & EXCHANGE_AUTO_DELETE != 0 };
    history.record(Event::Declare { thing: thing.clone(), durable: bits & wire::DURABLE != 0 });
    client.call(&wire::declare_exchange(name, kind, bits), (40, 11))?;
    history.record(Event::Declared(thing));
    Ok(())
}

/// The bit of `exchange.declare` that has an exchange go with its last binding.
pub(crate) const EXCHANGE_AUTO_DELETE: u8 = 4;
