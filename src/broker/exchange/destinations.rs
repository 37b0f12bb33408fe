//! Where the bindings of one place in a routing table lead to.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem;

/// From this many destinations on their positions are kept in a map: scanning fewer is quicker, and takes no memory.
const INDEXED_FROM: usize = 32;

/// Destinations, each with the number of bindings that lead to it, in an order that depends only on the inserts and
/// removes so far.
///
/// A place with one destination is by far the most frequent, so it needs no allocation.
#[derive(Debug, Default)]
pub(super) enum Destinations<D> {
    #[default]
    None,
    One(D, u32),
    Many(Box<Many<D>>),
}

impl<D: Clone + Eq + Hash> Destinations<D> {
    /// Counts one more binding to a destination.
    pub(super) fn insert(&mut self, destination: D) {
        match self {
            Self::None => *self = Self::One(destination, 1),
            Self::One(only, bindings) if *only == destination => *bindings += 1,
            Self::One(..) => {
                let Self::One(only, bindings) = mem::take(self) else { unreachable!("matched above") };
                let entries = vec![(only, bindings), (destination, 1)];
                *self = Self::Many(Box::new(Many { entries, positions: None }));
            }
            Self::Many(many) => many.insert(destination),
        }
    }

    /// Counts one binding to a destination less.
    pub(super) fn remove(&mut self, destination: &D) {
        match self {
            Self::None => debug_assert!(false, "invariant: only what was inserted is removed"),
            Self::One(only, bindings) => {
                debug_assert!(only == destination, "invariant: only what was inserted is removed");
                *bindings -= 1;
                if *bindings == 0 {
                    *self = Self::None;
                }
            }
            Self::Many(many) => {
                many.remove(destination);
                if let [(only, bindings)] = &*many.entries {
                    *self = Self::One(only.clone(), *bindings);
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Shows each destination once.
    pub(super) fn visit(&self, visit: &mut impl FnMut(&D)) {
        match self {
            Self::None => {}
            Self::One(only, _) => visit(only),
            Self::Many(many) => many.entries.iter().for_each(|(destination, _)| visit(destination)),
        }
    }
}

/// Two destinations or more.
#[derive(Debug)]
pub(super) struct Many<D> {
    entries: Vec<(D, u32)>,
    positions: Option<HashMap<D, usize>>,
}

impl<D: Clone + Eq + Hash> Many<D> {
    fn insert(&mut self, destination: D) {
        if let Some(position) = self.position(&destination) {
            self.entries[position].1 += 1;
            return;
        }
        if let Some(positions) = &mut self.positions {
            positions.insert(destination.clone(), self.entries.len());
        }
        self.entries.push((destination, 1));
        if self.positions.is_none() && self.entries.len() >= INDEXED_FROM {
            let destinations = self.entries.iter().map(|(destination, _)| destination.clone());
            self.positions = Some(destinations.zip(0..).collect());
        }
    }

    fn remove(&mut self, destination: &D) {
        let Some(position) = self.position(destination) else {
            debug_assert!(false, "invariant: only what was inserted is removed");
            return;
        };
        self.entries[position].1 -= 1;
        if self.entries[position].1 == 0 {
            self.take(position);
        }
    }

    fn take(&mut self, position: usize) {
        let (destination, _) = self.entries.swap_remove(position);
        let Some(positions) = &mut self.positions else { return };
        positions.remove(&destination);
        if let Some((moved, _)) = self.entries.get(position) {
            positions.insert(moved.clone(), position);
        }
        // Half of the threshold, so that a destination coming and going does not rebuild the map each time.
        if self.entries.len() < INDEXED_FROM / 2 {
            self.positions = None;
            self.entries.shrink_to_fit();
        }
    }

    fn position(&self, destination: &D) -> Option<usize> {
        match &self.positions {
            Some(positions) => positions.get(destination).copied(),
            None => self.entries.iter().position(|(entry, _)| entry == destination),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn each_destination_is_shown_once_while_a_binding_leads_to_it(
            steps in prop::collection::vec((any::<bool>(), 0..80_u32), 0..600)
        ) {
            let mut destinations = Destinations::default();
            let mut bindings = BTreeMap::<u32, u32>::new();
            for (insert, destination) in steps {
                if insert {
                    destinations.insert(destination);
                    *bindings.entry(destination).or_default() += 1;
                } else if let Some(count) = bindings.get_mut(&destination) {
                    destinations.remove(&destination);
                    *count -= 1;
                    if *count == 0 {
                        bindings.remove(&destination);
                    }
                }
                let mut shown = Vec::new();
                destinations.visit(&mut |destination| shown.push(*destination));
                shown.sort_unstable();
                prop_assert_eq!(shown, bindings.keys().copied().collect::<Vec<_>>());
                prop_assert_eq!(destinations.is_empty(), bindings.is_empty());
            }
        }
    }
}
