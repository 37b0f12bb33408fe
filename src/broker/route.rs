//! Routing: from an exchange and a routing key to queues.

use std::{collections::HashSet, sync::Arc};

use super::{
    queue::QueueHandle,
    vhost::{Destination, Exchange, VirtualHost},
};

/// Where a message goes.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// The queues, each once.
    pub queues: Vec<Arc<QueueHandle>>,
    /// Whether the headers had a say, so that the route holds for this message only.
    pub depends_on_headers: bool,
}

impl Route {
    /// Finds the queues for a message published to `exchange` with these routing keys (more than one with the CC and
    /// BCC headers). `headers` is the raw header table, without its length.
    ///
    /// An exchange without a destination for the message hands it to its alternate exchange. Each exchange is visited
    /// once, so bindings in a circle end, and each queue gets one copy.
    pub fn find(
        host: &VirtualHost,
        exchange: &Arc<Exchange>,
        routing_keys: &[&str],
        headers: Option<&[u8]>,
    ) -> Self {
        let mut route = Self::default();
        if exchange.is_default() {
            route.queues.extend(routing_keys.iter().filter_map(|key| host.queue(key)));
            route.remove_duplicates();
            return route;
        }
        let mut visit = Visit::default();
        visit.later(exchange);
        while let Some(exchange) = visit.waiting.pop() {
            route.visit(host, &exchange, routing_keys, headers, &mut visit);
        }
        route.remove_duplicates();
        route
    }

    fn visit(
        &mut self,
        host: &VirtualHost,
        exchange: &Exchange,
        routing_keys: &[&str],
        headers: Option<&[u8]>,
        visit: &mut Visit,
    ) {
        let mut found = false;
        let bindings = exchange.bindings.read().expect("invariant: no panic under a lock of bindings");
        self.depends_on_headers |= bindings.depends_on_headers();
        for key in routing_keys {
            bindings.route(key, headers, &mut |destination| {
                found = true;
                match destination {
                    Destination::Queue(queue) => self.queues.push(Arc::clone(queue)),
                    Destination::Exchange(exchange) => visit.later(exchange),
                }
            });
        }
        drop(bindings);
        let alternate = exchange.properties.alternate.as_deref();
        if !found && let Some(alternate) = alternate.and_then(|name| host.exchange(name)) {
            if alternate.is_default() {
                self.queues.extend(routing_keys.iter().filter_map(|key| host.queue(key)));
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

/// The exchanges that a message comes through, each once.
#[derive(Default)]
struct Visit {
    waiting: Vec<Arc<Exchange>>,
    seen: HashSet<u64>,
}

impl Visit {
    fn later(&mut self, exchange: &Arc<Exchange>) {
        if self.seen.insert(exchange.id) {
            self.waiting.push(Arc::clone(exchange));
        }
    }
}
