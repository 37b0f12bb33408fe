//! Fanout exchanges: every binding is followed, whatever its key.

use std::hash::Hash;

use super::destinations::Destinations;

/// Every destination.
#[derive(Debug)]
pub(super) struct Fanout<D>(Destinations<D>);

impl<D> Default for Fanout<D> {
    fn default() -> Self {
        Self(Destinations::None)
    }
}

impl<D: Clone + Eq + Hash> Fanout<D> {
    pub(super) fn insert(&mut self, destination: D) {
        self.0.insert(destination);
    }

    pub(super) fn remove(&mut self, destination: &D) {
        self.0.remove(destination);
    }

    pub(super) fn route(&self, visit: &mut impl FnMut(&D)) {
        self.0.visit(visit);
    }
}
