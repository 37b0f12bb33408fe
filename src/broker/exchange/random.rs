//! `x-random` and `x-local-random` exchanges: each message goes to one destination, drawn anew for each. The binding key
//! does not count.
//!
//! As in RabbitMQ each binding is a ticket, so a queue that is bound twice gets two shares. Chance comes in as a number.

use std::collections::HashMap;
use std::hash::Hash;

use super::routing::below;
use super::{Endpoint, InvalidBinding};

/// Refuses a binding to an `x-local-random` exchange that has a key, in RabbitMQ's words.
pub(super) fn validate_local(key: &str) -> Result<(), InvalidBinding> {
    if key.is_empty() {
        return Ok(());
    }
    Err(InvalidBinding { text: format!("Non empty binding '{key}' key not permitted") })
}

/// Destinations to draw from.
#[derive(Debug)]
pub(super) struct Random<D> {
    /// Each destination's tickets are numbered.
    tickets: Vec<(D, u32)>,
    positions: HashMap<(D, u32), usize>,
    counts: HashMap<D, u32>,
}

impl<D> Default for Random<D> {
    fn default() -> Self {
        Self { tickets: Vec::new(), positions: HashMap::new(), counts: HashMap::new() }
    }
}

impl<D: Clone + Eq + Hash> Random<D> {
    pub(super) fn insert(&mut self, destination: D) {
        let count = self.counts.entry(destination.clone()).or_default();
        let ticket = (destination, *count);
        *count += 1;
        self.positions.insert(ticket.clone(), self.tickets.len());
        self.tickets.push(ticket);
    }

    pub(super) fn remove(&mut self, destination: &D) {
        let Some(count) = self.counts.get_mut(destination) else { return };
        *count -= 1;
        let ticket = (destination.clone(), *count);
        if *count == 0 {
            self.counts.remove(destination);
        }
        let Some(position) = self.positions.remove(&ticket) else { return };
        self.tickets.swap_remove(position);
        if let Some(moved) = self.tickets.get(position) {
            self.positions.insert(moved.clone(), position);
        }
    }

    /// `chance` is evenly spread over all numbers.
    pub(super) fn route(&self, chance: u64, visit: &mut impl FnMut(&D)) {
        let drawn = usize::try_from(below(chance, self.tickets.len() as u64));
        if let Some((destination, _)) = drawn.ok().and_then(|drawn| self.tickets.get(drawn)) {
            visit(destination);
        }
    }

    fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }
}

/// The same of an `x-local-random` exchange, where exchanges are drawn only if no queue is bound. All queues are local: there
/// is one node.
#[derive(Debug)]
pub(super) struct LocalRandom<D> {
    queues: Random<D>,
    exchanges: Random<D>,
}

impl<D> Default for LocalRandom<D> {
    fn default() -> Self {
        Self { queues: Random::default(), exchanges: Random::default() }
    }
}

impl<D: Endpoint> LocalRandom<D> {
    pub(super) fn insert(&mut self, destination: D) {
        self.of(&destination).insert(destination);
    }

    pub(super) fn remove(&mut self, destination: &D) {
        self.of(destination).remove(destination);
    }

    pub(super) fn route(&self, chance: u64, visit: &mut impl FnMut(&D)) {
        let preferred = if self.queues.is_empty() { &self.exchanges } else { &self.queues };
        preferred.route(chance, visit);
    }

    fn of(&mut self, destination: &D) -> &mut Random<D> {
        if destination.is_queue() { &mut self.queues } else { &mut self.exchanges }
    }
}

#[cfg(test)]
mod tests {
    use super::super::routing::stirred;
    use super::*;
    use std::collections::BTreeMap;

    fn shares(route: impl Fn(u64, &mut dyn FnMut(&Place))) -> BTreeMap<u32, u32> {
        let mut shares = BTreeMap::new();
        for number in 0..3000 {
            route(stirred(number), &mut |to| *shares.entry(to.0).or_default() += 1);
        }
        shares
    }

    /// Even ones are queues.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    struct Place(u32);

    impl Endpoint for Place {
        fn is_queue(&self) -> bool {
            self.0.is_multiple_of(2)
        }
    }

    #[test]
    fn b4_each_binding_is_a_ticket() {
        let mut random = Random::default();
        for to in [1, 2, 3, 4, 1, 3] {
            random.insert(Place(to));
        }
        for to in [2, 3, 4] {
            random.remove(&Place(to));
        }
        let shares = shares(|chance, mut visit| random.route(chance, &mut visit));
        assert_eq!(shares.keys().collect::<Vec<_>>(), [&1, &3]);
        assert_eq!(shares.values().sum::<u32>(), 3000, "each message goes to one");
        assert!(shares[&1].abs_diff(2000) < 100, "{shares:?}");
        for to in [1, 1, 3] {
            random.remove(&Place(to));
        }
        assert!(random.is_empty() && random.positions.is_empty() && random.counts.is_empty());
        random.route(7, &mut |_| panic!("nothing is bound"));
    }

    #[test]
    fn b4_queues_are_drawn_before_exchanges() {
        let mut random = LocalRandom::default();
        [1, 2, 3, 4].into_iter().for_each(|to| random.insert(Place(to)));
        let drawn = |random: &LocalRandom<_>| {
            shares(|chance, mut visit| random.route(chance, &mut visit)).into_keys().collect::<Vec<_>>()
        };
        assert_eq!(drawn(&random), [2, 4]);
        [2, 4].into_iter().for_each(|to| random.remove(&Place(to)));
        assert_eq!(drawn(&random), [1, 3]);
    }

    #[test]
    fn b4_a_local_random_binding_has_no_key() {
        assert_eq!(validate_local(""), Ok(()));
        let text = "Non empty binding 'k' key not permitted".to_owned();
        assert_eq!(validate_local("k"), Err(InvalidBinding { text }));
    }
}
