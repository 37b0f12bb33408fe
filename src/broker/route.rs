//! Routing: from an exchange and a routing key to queues.

use std::{collections::HashSet, sync::Arc};

use super::{
    dedup::{Claim, Duplicate},
    delay,
    exchange::{Destination, Exchange, Kept, Routing},
    message::Message,
    queue::QueueHandle,
    vhost::VirtualHost,
};
use crate::amqp::Properties;

/// Where a message goes.
#[derive(Debug, Default)]
pub struct Route {
    /// The queues, each once.
    pub queues: Vec<Arc<QueueHandle>>,
    /// The queues of exchanges that delay the message, and for how many milliseconds.
    pub delayed: Vec<(Arc<QueueHandle>, u64)>,
    /// The keys that exchanges have taken with the message, until it is in its queues.
    pub claims: Vec<Claim>,
    /// Whether an exchange has seen its key before. Then it goes no further there, and yet it is not unroutable: what it
    /// repeats has been routed.
    pub is_duplicate: bool,
    /// Whether more than the routing keys had a say, or an exchange has to see each message: then the route holds for this
    /// message only.
    pub depends_on_message: bool,
}

impl Route {
    /// Finds the queues for a message published to `exchange`. `message` is the one for which they are asked, so that
    /// exchanges may keep it; without one they do not see any.
    ///
    /// An exchange without a destination for the message hands it to its alternate exchange. Each exchange is visited
    /// once, so bindings in a circle end, and each queue gets one copy.
    pub fn find(
        host: &VirtualHost,
        exchange: &Arc<Exchange>,
        routing: &Routing<'_>,
        message: Option<&Message>,
    ) -> Self {
        Self::find_from(host, exchange, routing, message, None)
    }

    /// The same for a message whose delay is over: `exchange` has kept it, and looked for duplicates before.
    pub fn find_delayed(
        host: &VirtualHost,
        exchange: &Arc<Exchange>,
        routing: &Routing<'_>,
        message: &Message,
    ) -> Self {
        Self::find_from(host, exchange, routing, Some(message), Some(exchange.id))
    }

    fn find_from(
        host: &VirtualHost,
        exchange: &Arc<Exchange>,
        routing: &Routing<'_>,
        message: Option<&Message>,
        knows_it: Option<u64>,
    ) -> Self {
        let mut route = Self::default();
        if exchange.is_default() {
            route.queues.extend(by_name(host, routing));
            route.remove_duplicates();
            return route;
        }
        let mut visit = Visit { knows_it, ..Visit::default() };
        visit.later(exchange);
        while let Some(exchange) = visit.waiting.pop() {
            route.visit(host, &exchange, routing, message, &mut visit);
        }
        route.remove_duplicates();
        route
    }

    /// Finds the queues for a message that another exchange has kept, on its way through `exchange`.
    pub fn find_for_kept(host: &VirtualHost, exchange: &Arc<Exchange>, kept: &Kept, now_ms: u64) -> Self {
        let properties = Properties::parse(kept.message.properties()).unwrap_or_default();
        let mut keys = vec![kept.message.routing_key_str()];
        keys.extend(kept.copies.iter().map(|key| &**key));
        Self::find(host, exchange, &Routing { keys: &keys, properties, now_ms }, Some(&kept.message))
    }

    /// Whether no queue gets the message.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.delayed.is_empty()
    }

    fn visit(
        &mut self,
        host: &VirtualHost,
        exchange: &Arc<Exchange>,
        routing: &Routing<'_>,
        message: Option<&Message>,
        visit: &mut Visit,
    ) {
        if let Some(message) = message
            && exchange.deduplication().is_some()
            && visit.knows_it != Some(exchange.id)
        {
            self.depends_on_message = true;
            match Claim::take(exchange, &routing.properties, message.is_persistent(), routing.now_ms) {
                Ok(claim) => self.claims.extend(claim),
                Err(Duplicate) => {
                    self.is_duplicate = true;
                    return;
                }
            }
        }
        if let (Some(queue), Some(_)) = (exchange.delay_queue(), message)
            && let Some(delay_ms) = delay::delay_ms(&routing.properties)
        {
            self.depends_on_message = true;
            self.delayed.push((Arc::clone(queue), delay_ms));
            return;
        }
        let mut found = false;
        let bindings = exchange.bindings.read().expect("invariant: no panic under a lock of bindings");
        self.depends_on_message |= bindings.depends_on_message() || exchange.sees_messages();
        bindings.route(routing, &mut |destination| {
            found = true;
            match destination {
                Destination::Queue(queue) => self.queues.push(Arc::clone(queue)),
                Destination::Exchange(exchange) => visit.later(exchange),
            }
        });
        if let (Some(history), Some(message)) = (&exchange.history, message) {
            history.keep(message, routing);
        }
        drop(bindings);
        if !found && let Some(alternate) = exchange.alternate().and_then(|name| host.exchange(&name)) {
            if alternate.is_default() {
                self.queues.extend(by_name(host, routing));
            } else {
                visit.later(&alternate);
            }
        }
    }

    fn remove_duplicates(&mut self) {
        if self.queues.len() > 1 {
            self.queues.sort_unstable_by_key(|queue| queue.id);
            self.queues.dedup_by_key(|queue| queue.id);
        }
    }
}

/// The queues of these names, but for those that no client may use.
fn by_name<'a>(
    host: &'a VirtualHost,
    routing: &'a Routing<'_>,
) -> impl Iterator<Item = Arc<QueueHandle>> + 'a {
    routing.keys.iter().filter_map(|key| host.queue(key)).filter(|queue| !queue.delays)
}

/// The exchanges that a message comes through, each once.
#[derive(Default)]
struct Visit {
    waiting: Vec<Arc<Exchange>>,
    seen: HashSet<u64>,
    /// The exchange that has looked for duplicates of the message before.
    knows_it: Option<u64>,
}

impl Visit {
    fn later(&mut self, exchange: &Arc<Exchange>) {
        if self.seen.insert(exchange.id) {
            self.waiting.push(Arc::clone(exchange));
        }
    }
}
