//! The routes that a connection has found: what the publishes with one exchange and routing key need to know.

use std::{collections::HashMap, sync::Arc};

use crate::broker::{exchange::Exchange, queue::QueueHandle};

/// A route that holds for every message with that exchange and routing key, and that the user may take.
#[derive(Debug)]
pub(super) struct CachedRoute {
    pub(super) exchange: Arc<Exchange>,
    /// `None` if the message has a say, and not only its routing key.
    pub(super) queues: Option<Box<[Arc<QueueHandle>]>>,
    /// Whether one of the queues survives a restart.
    pub(super) any_durable: bool,
}

/// What a route depends on: the topology's and the permissions' generations.
pub(super) type Generation = (u64, u64);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct RouteCache {
    generation: Generation,
    by_key: HashMap<Box<str>, Arc<CachedRoute>>,
    /// The publish before this one: most are like it.
    last_key: String,
    last: Option<Arc<CachedRoute>>,
    /// How many routes were given back: tells whether `last` is still the one that somebody knows.
    given_back: u64,
    scratch: String,
}

/// Routes that a connection keeps; beyond it starts anew.
const ROUTES_KEPT: usize = 1024;

impl RouteCache {
    /// The route, if it was found in this generation. It is lent: [`RouteCache::give_back`] keeps it at hand for the
    /// next publish, without a count that goes up and down with each.
    pub(super) fn lend(
        &mut self,
        generation: Generation,
        exchange: &str,
        key: &str,
    ) -> Option<Arc<CachedRoute>> {
        if self.generation != generation {
            *self = Self { generation, given_back: self.given_back, ..Self::default() };
            return None;
        }
        let is_last = |last: &mut Arc<CachedRoute>| self.last_key == key && *last.exchange.name == *exchange;
        if let Some(last) = self.last.take_if(is_last) {
            return Some(last);
        }
        self.last = None;
        join(&mut self.scratch, exchange, key);
        let route = Arc::clone(self.by_key.get(self.scratch.as_str())?);
        self.last_key.clear();
        self.last_key.push_str(key);
        Some(route)
    }

    /// The route that was given back last, if that was the one which [`RouteCache::give_back`] said was number
    /// `given_back`.
    pub(super) fn lend_again(&mut self, generation: Generation, given_back: u64) -> Option<Arc<CachedRoute>> {
        let is_same = self.generation == generation && self.given_back == given_back;
        if is_same { self.last.take() } else { None }
    }

    /// Takes back what [`RouteCache::lend`] or [`RouteCache::insert`] gave.
    pub(super) fn give_back(&mut self, route: Arc<CachedRoute>) -> u64 {
        self.last = Some(route);
        self.given_back += 1;
        self.given_back
    }

    /// Keeps a route that was found in the generation of the last [`RouteCache::lend`].
    pub(super) fn insert(&mut self, exchange: &str, key: &str, route: &Arc<CachedRoute>) {
        self.last = None;
        if self.by_key.len() >= ROUTES_KEPT {
            self.by_key.clear();
        }
        join(&mut self.scratch, exchange, key);
        self.by_key.insert(self.scratch.as_str().into(), Arc::clone(route));
        self.last_key.clear();
        self.last_key.push_str(key);
    }
}

/// Both names as one, with the exchange's length to tell where it ends.
fn join(joined: &mut String, exchange: &str, key: &str) {
    joined.clear();
    joined.push(char::from(u8::try_from(exchange.len()).expect("invariant: a short string")));
    joined.push_str(exchange);
    joined.push_str(key);
}
