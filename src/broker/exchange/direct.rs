//! Direct exchanges: the binding key equals the routing key.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::destinations::Destinations;

/// Destinations by binding key.
#[derive(Debug)]
pub(super) struct Direct<D>(HashMap<Arc<str>, Destinations<D>>);

impl<D> Default for Direct<D> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<D: Clone + Eq + Hash> Direct<D> {
    pub(super) fn insert(&mut self, key: &Arc<str>, destination: D) {
        match self.0.get_mut(key) {
            Some(destinations) => destinations.insert(destination),
            None => drop(self.0.insert(Arc::clone(key), Destinations::One(destination, 1))),
        }
    }

    pub(super) fn remove(&mut self, key: &str, destination: &D) {
        let Some(destinations) = self.0.get_mut(key) else { return };
        destinations.remove(destination);
        if destinations.is_empty() {
            self.0.remove(key);
        }
    }

    pub(super) fn route(&self, routing_key: &str, visit: &mut impl FnMut(&D)) {
        if let Some(destinations) = self.0.get(routing_key) {
            destinations.visit(visit);
        }
    }
}
