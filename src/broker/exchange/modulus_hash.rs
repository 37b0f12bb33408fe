//! `x-modulus-hash` exchanges: each message goes to one destination, the one at the hash of its routing keys modulo their
//! number. The binding key does not count.
//!
//! As in RabbitMQ each binding is a place, so a queue that is bound twice gets two shares. The places are in the order of
//! the destinations' names (RabbitMQ 4.3), so the order of bindings does not matter.

use super::Routing;

/// Destinations in their order, each as often as it is bound.
#[derive(Debug)]
pub(super) struct ModulusHash<D>(Vec<D>);

impl<D> Default for ModulusHash<D> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<D: Ord> ModulusHash<D> {
    pub(super) fn insert(&mut self, destination: D) {
        let position = self.0.partition_point(|other| *other < destination);
        self.0.insert(position, destination);
    }

    pub(super) fn remove(&mut self, destination: &D) {
        match self.0.binary_search(destination) {
            Ok(position) => drop(self.0.remove(position)),
            Err(_) => debug_assert!(false, "invariant: only what was inserted is removed"),
        }
    }

    pub(super) fn route(&self, routing: &Routing<'_>, visit: &mut impl FnMut(&D)) {
        let places = self.0.len() as u64;
        let place = routing.hash_of_keys().checked_rem(places);
        if let Some(destination) = place.and_then(|place| self.0.get(usize::try_from(place).ok()?)) {
            visit(destination);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(table: &ModulusHash<u32>, key: &str) -> Vec<u32> {
        let mut found = Vec::new();
        table.route(&Routing::by_keys(&[key]), &mut |to| found.push(*to));
        found
    }

    #[test]
    fn b4_the_order_of_bindings_does_not_matter() {
        let (mut one, mut two) = (ModulusHash::default(), ModulusHash::default());
        [3, 1, 2, 2].into_iter().for_each(|to| one.insert(to));
        [2, 9, 2, 1, 3].into_iter().for_each(|to| two.insert(to));
        two.remove(&9);
        let mut shares = [0; 4];
        for number in 0..4000 {
            let found = route(&one, &number.to_string());
            assert_eq!(found, route(&two, &number.to_string()));
            let [to] = found[..] else { panic!("one destination, not {found:?}") };
            shares[to as usize] += 1;
        }
        for (share, expected) in shares.into_iter().zip([0, 1000, 2000, 1000_i32]) {
            assert!((share - expected).abs() < 150, "{shares:?}");
        }
    }

    #[test]
    fn b4_without_bindings_there_is_no_place() {
        let mut table = ModulusHash::default();
        table.insert(1);
        table.remove(&1);
        assert!(route(&table, "k").is_empty());
    }
}
