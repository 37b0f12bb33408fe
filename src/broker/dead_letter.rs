//! Messages that leave one queue for others: dead letters, and those whose delay is over.
//!
//! A queue never takes another one's lock. It leaves what it has to forward in [`Effects::letters`], and whoever has called
//! it forwards that once the lock is released. A letter enters its new queues and leaves its old one in facts that are
//! appended to the journal together, so after a crash it is in the old queue or in the new ones.

use std::{collections::HashMap, sync::Arc};

use tracing::debug;

use super::{
    Broker, NEVER,
    batch::{Origin, PublishBatch},
    death::{self, DeadLettered, Death, Reason},
    dedup::Claim,
    delay,
    effects::{Cause, Effects, Letter},
    exchange::{Exchange, Routing},
    message::Message,
    queue::{DeadLetterStrategy, QueueHandle},
    route::Route,
    vhost::VirtualHost,
};
use crate::amqp::Properties;

/// Where letters with the same exchange and routing keys go, while some are forwarded.
type Routes = HashMap<(Arc<str>, Arc<str>, Vec<String>), Arc<[Arc<QueueHandle>]>>;

/// Where a letter goes: at once, and after a delay.
struct Found {
    queues: Arc<[Arc<QueueHandle>]>,
    delayed: Vec<(Arc<QueueHandle>, u64)>,
    claims: Vec<Claim>,
    is_duplicate: bool,
}

impl Found {
    fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.delayed.is_empty()
    }
}

/// A letter as it goes on.
struct Forwarded {
    message: Message,
    ttl_ms: u64,
    found: Found,
}

impl Forwarded {
    /// Puts it into the batch for its queues; `origin` is asked for if it matters whether they took it.
    fn publish(self, origin: Option<Origin>, publishes: &mut PublishBatch, effects: &mut Effects) {
        let Self { message, ttl_ms, found } = self;
        if found.is_empty() {
            return;
        }
        let Found { queues, delayed, claims, .. } = found;
        let claims = publishes.claim(claims);
        let mut is_full = false;
        for (queue, delay_ms) in delayed {
            let is_durable = queue.properties.durable;
            is_full |= publishes.push(message.clone(), delay_ms, origin, &[queue], is_durable, claims);
        }
        if !queues.is_empty() {
            is_full |= publishes.push(message, ttl_ms, origin, &queues, any_durable(&queues), claims);
        }
        if is_full {
            publishes.flush(effects);
        }
    }
}

/// Queues that a letter goes through in one go. What goes further goes round: a history that is cut short does not tell
/// ([`death::X_DEATH_BYTES_MAX`]).
const HOPS_MAX: usize = 256;

/// How many more letters than there were the letters of one call may lead to at a time: queues that drop all they get to
/// several queues each would fill the memory.
const LETTERS_MAX: usize = 1 << 10;

/// Asked for when it matters whether all queues took a letter.
const ORIGIN: Origin = Origin { channel: 0, number: 0 };

impl Broker {
    /// Brings the letters to their queues, and those that this leads to, until there are none or they go round.
    pub fn forward(&self, effects: &mut Effects) {
        let (mut publishes, mut routes) = (PublishBatch::default(), Routes::new());
        let letters_max = LETTERS_MAX + effects.letters.len();
        for _ in 0..HOPS_MAX {
            if effects.letters.is_empty() {
                return;
            }
            for letter in std::mem::take(&mut effects.letters) {
                if effects.letters.len() > letters_max {
                    end_circle(letter, effects);
                } else {
                    self.forward_one(letter, &mut publishes, &mut routes, effects);
                }
            }
            publishes.flush(effects);
        }
        for letter in std::mem::take(&mut effects.letters) {
            end_circle(letter, effects);
        }
    }

    fn forward_one(
        &self,
        letter: Letter,
        publishes: &mut PublishBatch,
        routes: &mut Routes,
        effects: &mut Effects,
    ) {
        let forwarded = self.virtual_host(&letter.queue.virtual_host).and_then(|host| match letter.cause {
            Cause::Death(reason) => self.dead_letter(&host, &letter, reason, routes, effects),
            Cause::Delay => delayed(&host, &letter, routes, effects),
        });
        match letter.cause {
            Cause::Death(reason) if is_kept(&letter) => {
                let is_taken = forwarded.is_some_and(|forwarded| try_publish(forwarded, publishes, effects));
                if !is_taken {
                    let Letter { queue, entry, .. } = letter;
                    queue.lock().retain(entry, reason, &queue, effects);
                    return;
                }
                let kind = letter.queue.properties.arguments.kind as usize;
                self.stats.dead[kind].of(reason, true).add(1);
                self.stats.dead_confirmed[kind].add(1);
            }
            _ => {
                if let Cause::Death(reason) = letter.cause {
                    let kind = letter.queue.properties.arguments.kind as usize;
                    self.stats.dead[kind].of(reason, false).add(1);
                }
                if let Some(forwarded) = forwarded {
                    forwarded.publish(None, publishes, effects);
                }
            }
        }
        let Letter { queue, entry, .. } = letter;
        if entry.stored {
            effects.settled(queue.id, entry.sequence, entry.body_bytes);
        }
    }

    fn dead_letter(
        &self,
        host: &VirtualHost,
        letter: &Letter,
        reason: Reason,
        routes: &mut Routes,
        effects: &Effects,
    ) -> Option<Forwarded> {
        let Letter { queue, entry, .. } = letter;
        let arguments = queue.arguments();
        let name = arguments.dead_letter_exchange.as_deref()?;
        let exchange = host.exchange(name)?;
        let death = Death {
            queue: &queue.name,
            reason,
            time_secs: effects.now.unix_ms / 1000,
            interprets_x_death: self.interprets_x_death,
        };
        let key = arguments.dead_letter_routing_key.as_deref();
        let DeadLettered { message, routing_keys } =
            death::dead_letter(&entry.message, name, key, &death, &mut Vec::new());
        let mut found = route(host, &exchange, &message, routing_keys, letter.cause, routes, effects);
        found.queues = without_cycles(&message, reason, found.queues);
        Some(Forwarded { message, ttl_ms: NEVER, found })
    }
}

/// A letter has gone through so many queues, or become so many, that it goes no further, unless it may not be lost: then it
/// does later.
fn end_circle(letter: Letter, effects: &mut Effects) {
    let is_kept = is_kept(&letter);
    let Letter { queue, entry, cause } = letter;
    match cause {
        Cause::Death(reason) if is_kept => queue.lock().retain(entry, reason, &queue, effects),
        _ => {
            debug!("a dead letter goes too far and is dropped: {queue:?}");
            if entry.stored {
                effects.settled(queue.id, entry.sequence, entry.body_bytes);
            }
        }
    }
}

/// Whether a letter stays in its queue until all its new queues have taken it.
fn is_kept(letter: &Letter) -> bool {
    letter.entry.sequence != 0
        && letter.queue.arguments().dead_letter_strategy == DeadLetterStrategy::AtLeastOnce
}

/// Publishes a letter if there are queues for it and all of them have room; says whether all took it.
fn try_publish(forwarded: Forwarded, publishes: &mut PublishBatch, effects: &mut Effects) -> bool {
    // What came before it may take the room.
    publishes.flush(effects);
    let Forwarded { message, found, .. } = &forwarded;
    if found.is_empty() {
        // What it repeats has arrived.
        return found.is_duplicate;
    }
    let now_ms = effects.now.unix_ms;
    if !found.queues.iter().all(|queue| queue.lock().takes(message, now_ms)) {
        return false;
    }
    forwarded.publish(Some(ORIGIN), publishes, effects);
    publishes.flush(effects);
    std::mem::take(&mut publishes.rejected).is_empty()
}

fn any_durable(queues: &[Arc<QueueHandle>]) -> bool {
    queues.iter().any(|queue| queue.properties.durable)
}

fn route(
    host: &VirtualHost,
    exchange: &Arc<Exchange>,
    message: &Message,
    keys: Vec<String>,
    cause: Cause,
    routes: &mut Routes,
    effects: &Effects,
) -> Found {
    let known = (Arc::clone(&host.name), Arc::clone(&exchange.name), keys);
    if let Some(queues) = routes.get(&known) {
        let queues = Arc::clone(queues);
        return Found { queues, delayed: Vec::new(), claims: Vec::new(), is_duplicate: false };
    }
    let properties = Properties::parse(message.properties()).unwrap_or_default();
    let keys: Vec<&str> = known.2.iter().map(String::as_str).collect();
    let routing = Routing { keys: &keys, properties, now_ms: effects.now.unix_ms };
    let route = match cause {
        Cause::Death(_) => Route::find(host, exchange, &routing, Some(message)),
        Cause::Delay => Route::find_delayed(host, exchange, &routing, message),
    };
    let Route { queues, delayed, claims, is_duplicate, depends_on_message } = route;
    let found = Found { queues: queues.into(), delayed, claims, is_duplicate };
    if !depends_on_message {
        routes.insert(known, Arc::clone(&found.queues));
    }
    found
}

/// RabbitMQ's rule against messages that go round without anybody having looked at them.
fn without_cycles(
    message: &Message,
    reason: Reason,
    queues: Arc<[Arc<QueueHandle>]>,
) -> Arc<[Arc<QueueHandle>]> {
    let Ok(properties) = Properties::parse(message.properties()) else { return queues };
    let is_cycle = |queue: &Arc<QueueHandle>| death::is_cycle(&properties, &queue.name, reason);
    if !queues.iter().any(is_cycle) {
        return queues;
    }
    let (dropped, kept): (Vec<_>, Vec<_>) = queues.iter().cloned().partition(is_cycle);
    debug!("dead letters go round and are dropped: {dropped:?}");
    kept.into()
}

/// A message whose delay is over: it goes on as if it had been published to its exchange now.
fn delayed(host: &VirtualHost, letter: &Letter, routes: &mut Routes, effects: &Effects) -> Option<Forwarded> {
    let exchange = host.exchange(delay::exchange_of(&letter.queue.name)?)?;
    let (message, routing_keys) = delay::released(&letter.entry.message);
    let ttl_ms = Properties::parse(message.properties()).map_or(NEVER, |properties| ttl_ms(&properties));
    let found = route(host, &exchange, &message, routing_keys, letter.cause, routes, effects);
    Some(Forwarded { message, ttl_ms, found })
}

/// How long a message says it may wait in a queue (`expiration`), in milliseconds; [`NEVER`] if it does not say, or not in
/// a way that makes sense.
pub fn ttl_ms(properties: &Properties<'_>) -> u64 {
    let expiration = properties.expiration.and_then(|expiration| std::str::from_utf8(expiration).ok());
    expiration.and_then(|expiration| expiration.parse().ok()).unwrap_or(NEVER)
}
