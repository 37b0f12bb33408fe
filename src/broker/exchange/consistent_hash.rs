//! `x-consistent-hash` exchanges: each message goes to one destination, and those with the same hash to the same one.
//!
//! A binding's key is its weight: how many buckets its destination gets. The jump consistent hash of Lamping and Veach
//! spreads hashes over the buckets. As in RabbitMQ, one binding of each destination counts, the oldest.
//!
//! Deviations from RabbitMQ 3.10.8, where the buckets behind those of a removed destination move down, so that most
//! messages go elsewhere, and where a destination that has lost one of two bindings gets nothing any more:
//! * The buckets of a removed destination are holes: what falls into one tries further buckets, the same ones each time.
//!   So only its share moves, and comes back when something with as many buckets fills the holes.
//! * When the binding that counts is removed, the next oldest counts.
//!
//! The buckets depend on the order of all that was bound and unbound. After a restart that is the order of the bindings that
//! are left.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;

use super::routing::{below, stirred};
use super::term::Term;
use super::{Binding, InvalidBinding};
use crate::amqp::Value;

/// The highest weight (RabbitMQ 4.x; 3.10 takes any).
const WEIGHT_MAX: u64 = 10_000;
/// Buckets are numbered anew when fewer than one in so many is taken: else most tries would fall into holes.
const SPARSE: u64 = 8;
/// How many buckets are tried before the first that is taken gets the message: so many holes in a row are no accident.
const TRIES: u64 = 256;

/// Refuses a binding key that is no weight, in RabbitMQ's words.
pub(super) fn validate(key: &str) -> Result<(), InvalidBinding> {
    weight(key).map(drop)
}

fn weight(key: &str) -> Result<u64, InvalidBinding> {
    let invalid = |text: String| Err(InvalidBinding { text });
    let digits = key.strip_prefix(['+', '-']).unwrap_or(key);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        let key = Value::from(key);
        return invalid(format!("The binding key must be an integer: {}", Term(&key)));
    }
    // More digits than fit are more than the most, too.
    match digits.parse().unwrap_or(u64::MAX) {
        0 => invalid("The binding key must be greater than 0".to_owned()),
        _ if key.starts_with('-') => invalid("The binding key must be greater than 0".to_owned()),
        weight if weight > WEIGHT_MAX => invalid(format!("The binding key must not exceed {WEIGHT_MAX}")),
        weight => Ok(weight),
    }
}

/// Destinations by buckets.
#[derive(Debug)]
pub(super) struct ConsistentHash<D> {
    /// By its first bucket, how many buckets in a row a destination has.
    runs: BTreeMap<u64, (u64, D)>,
    /// By its first bucket, how many in a row nobody has.
    holes: BTreeMap<u64, u64>,
    /// Taken buckets and holes.
    buckets: u64,
    taken: u64,
    places: HashMap<D, Place>,
}

/// What a destination has.
#[derive(Debug, Default)]
struct Place {
    /// Oldest first: the first one counts.
    bindings: VecDeque<Binding>,
    /// The first buckets of its runs.
    runs: Vec<u64>,
}

impl<D> Default for ConsistentHash<D> {
    fn default() -> Self {
        let (runs, holes) = (BTreeMap::new(), BTreeMap::new());
        Self { runs, holes, buckets: 0, taken: 0, places: HashMap::new() }
    }
}

impl<D: Clone + Eq + Hash> ConsistentHash<D> {
    pub(super) fn insert(&mut self, binding: &Binding, destination: D) {
        let place = self.places.entry(destination.clone()).or_default();
        place.bindings.push_back(binding.clone());
        if place.bindings.len() == 1 {
            self.place(&destination);
        }
    }

    pub(super) fn remove(&mut self, binding: &Binding, destination: &D) {
        let Some(place) = self.places.get_mut(destination) else { return };
        let Some(position) = place.bindings.iter().position(|other| other == binding) else { return };
        place.bindings.remove(position);
        if place.bindings.is_empty() {
            self.remove_destination(destination);
        } else if position == 0 {
            let runs = std::mem::take(&mut place.runs);
            self.free(runs);
            self.place(destination);
            self.close_holes_if_sparse();
        }
    }

    /// Removes all bindings to a destination at once.
    pub(super) fn remove_destination(&mut self, destination: &D) {
        if let Some(place) = self.places.remove(destination) {
            self.free(place.runs);
            self.close_holes_if_sparse();
        }
    }

    pub(super) fn route(&self, hash: u64, visit: &mut impl FnMut(&D)) {
        if self.taken == 0 {
            return;
        }
        let mut bucket = jump(hash, self.buckets);
        for number in 1..=TRIES {
            if let Some(destination) = self.owner(bucket) {
                return visit(destination);
            }
            bucket = below(stirred(hash.wrapping_add(number)), self.buckets);
        }
        if let Some((_, destination)) = self.runs.values().next() {
            visit(destination);
        }
    }

    fn owner(&self, bucket: u64) -> Option<&D> {
        let (first, (len, destination)) = self.runs.range(..=bucket).next_back()?;
        (bucket - first < *len).then_some(destination)
    }

    /// Gives a destination as many buckets as its oldest binding says: holes first, then new ones.
    fn place(&mut self, destination: &D) {
        let Some(place) = self.places.get_mut(destination) else { return };
        let oldest = place.bindings.front().map(|binding| weight(&binding.key));
        let mut left = oldest.and_then(Result::ok).expect("invariant: the binding was validated");
        self.taken += left;
        while left > 0 {
            let (first, len) = self.holes.pop_first().unwrap_or((self.buckets, left));
            let used = len.min(left);
            if used < len {
                self.holes.insert(first + used, len - used);
            }
            self.buckets = self.buckets.max(first + used);
            self.runs.insert(first, (used, destination.clone()));
            place.runs.push(first);
            left -= used;
        }
    }

    /// Makes holes of these runs.
    fn free(&mut self, runs: Vec<u64>) {
        let had_holes = !self.holes.is_empty();
        for first in runs {
            let Some((len, _)) = self.runs.remove(&first) else { continue };
            self.taken -= len;
            self.add_hole(first, len);
        }
        // The last buckets may go: the jump hash spreads what was there over the others. But what falls into other holes
        // tries buckets by their number, which must stay the same then.
        if let Some((&first, &len)) = self.holes.last_key_value()
            && !had_holes
            && self.holes.len() == 1
            && first + len == self.buckets
        {
            self.holes.clear();
            self.buckets = first;
        }
    }

    fn add_hole(&mut self, mut first: u64, mut len: u64) {
        if let Some((&before, &before_len)) = self.holes.range(..first).next_back()
            && before + before_len == first
        {
            self.holes.remove(&before);
            (first, len) = (before, before_len + len);
        }
        if let Some(after_len) = self.holes.remove(&(first + len)) {
            len += after_len;
        }
        self.holes.insert(first, len);
    }

    /// Numbers the buckets anew if most are holes. That gives most messages another destination.
    fn close_holes_if_sparse(&mut self) {
        if self.taken * SPARSE >= self.buckets {
            return;
        }
        self.holes.clear();
        self.buckets = 0;
        self.places.values_mut().for_each(|place| place.runs.clear());
        for (len, destination) in std::mem::take(&mut self.runs).into_values() {
            if let Some(place) = self.places.get_mut(&destination) {
                place.runs.push(self.buckets);
            }
            self.runs.insert(self.buckets, (len, destination));
            self.buckets += len;
        }
    }
}

/// The jump consistent hash: with one bucket more, only the hashes that fall into that one move.
fn jump(mut hash: u64, buckets: u64) -> u64 {
    let (mut bucket, mut next) = (0, 0);
    while next < buckets {
        bucket = next;
        hash = hash.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let fraction = (1_u64 << 31) as f64 / ((hash >> 33) + 1) as f64;
        next = ((bucket + 1) as f64 * fraction) as u64;
    }
    bucket
}

#[cfg(test)]
mod tests {
    use super::super::Arguments;
    use super::*;
    use crate::amqp::Table;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const MESSAGES: u64 = 8000;

    fn binding(weight: u64) -> Binding {
        Binding { key: weight.to_string().into(), arguments: Arguments::new(&Table::default()) }
    }

    fn table(weights: &[(u32, u64)]) -> ConsistentHash<u32> {
        let mut table = ConsistentHash::default();
        weights.iter().for_each(|(to, weight)| table.insert(&binding(*weight), *to));
        table
    }

    fn routes(table: &ConsistentHash<u32>) -> Vec<u32> {
        let mut routes = Vec::new();
        (0..MESSAGES).for_each(|message| table.route(stirred(message), &mut |to| routes.push(*to)));
        routes
    }

    fn shares(routes: &[u32]) -> BTreeMap<u32, u64> {
        let mut shares = BTreeMap::new();
        routes.iter().for_each(|to| *shares.entry(*to).or_default() += 1);
        shares
    }

    fn assert_near(got: u64, expected: u64) {
        assert!(got.abs_diff(expected) < MESSAGES / 40, "{got}, expected about {expected}");
    }

    #[test]
    fn b4_weights_are_integers_from_1_to_10000() {
        for key in ["1", "+5", "05", "10000"] {
            assert_eq!(validate(key), Ok(()), "{key}");
        }
        for (key, text) in [
            ("", "The binding key must be an integer: <<>>"),
            ("a", "The binding key must be an integer: <<\"a\">>"),
            ("1.5", "The binding key must be an integer: <<\"1.5\">>"),
            (" 1", "The binding key must be an integer: <<\" 1\">>"),
            ("+", "The binding key must be an integer: <<\"+\">>"),
            ("0", "The binding key must be greater than 0"),
            ("-1", "The binding key must be greater than 0"),
            ("10001", "The binding key must not exceed 10000"),
            ("99999999999999999999999", "The binding key must not exceed 10000"),
        ] {
            assert_eq!(validate(key), Err(InvalidBinding { text: text.to_owned() }), "{key}");
        }
    }

    #[test]
    fn b4_shares_are_as_large_as_weights() {
        let shares = shares(&routes(&table(&[(1, 1), (2, 2), (3, 5)])));
        assert_eq!(shares.values().sum::<u64>(), MESSAGES, "each message goes to one");
        for (to, expected) in [(1, 1000), (2, 2000), (3, 5000)] {
            assert_near(shares[&to], expected);
        }
    }

    #[test]
    fn b4_a_removed_destination_gives_away_its_share_only() {
        for removed in 1..=4 {
            let mut table = table(&[(1, 10), (2, 10), (3, 10), (4, 10)]);
            let before = routes(&table);
            table.remove(&binding(10), &removed);
            let after = routes(&table);
            assert!(before.iter().zip(&after).all(|(before, after)| before == after || *before == removed));
            shares(&after).values().for_each(|share| assert_near(*share, MESSAGES / 3));
            table.insert(&binding(10), 9);
            let back =
                routes(&table).iter().map(|to| if *to == 9 { removed } else { *to }).collect::<Vec<_>>();
            assert_eq!(back, before, "what takes its place gets its share");
        }
    }

    #[test]
    fn b4_a_new_destination_takes_from_all_alike() {
        let mut table = table(&[(1, 1), (2, 1), (3, 1)]);
        let before = routes(&table);
        table.insert(&binding(1), 4);
        let after = routes(&table);
        assert!(before.iter().zip(&after).all(|(before, after)| before == after || *after == 4));
        shares(&after).values().for_each(|share| assert_near(*share, MESSAGES / 4));
    }

    #[test]
    fn b4_one_binding_of_a_destination_counts_the_oldest() {
        let mut table = table(&[(1, 1), (1, 9), (2, 1)]);
        assert_near(shares(&routes(&table))[&1], MESSAGES / 2);
        table.remove(&binding(1), &1);
        assert_near(shares(&routes(&table))[&1], MESSAGES * 9 / 10);
        table.remove(&binding(9), &1);
        assert_eq!(shares(&routes(&table)), BTreeMap::from([(2, MESSAGES)]));
        table.remove_destination(&2);
        assert!(routes(&table).is_empty());
    }

    #[test]
    fn b4_many_that_go_leave_no_holes_for_ever() {
        let mut table = ConsistentHash::default();
        (0..1000).for_each(|to| table.insert(&binding(7), to));
        (0..990).for_each(|to| table.remove_destination(&to));
        assert!(table.buckets <= table.taken * SPARSE);
        shares(&routes(&table)).values().for_each(|share| assert_near(*share, MESSAGES / 10));
    }

    /// The same sequence makes the same routes.
    #[test]
    fn b4_routes_never_change() {
        let table = table(&[(1, 3), (2, 3), (3, 3)]);
        let first: Vec<_> = routes(&table).into_iter().take(16).collect();
        assert_eq!(first, [3, 2, 1, 2, 3, 2, 2, 3, 2, 3, 2, 3, 3, 3, 3, 1]);
    }

    proptest! {
        #[test]
        fn buckets_and_holes_are_all_there_is(
            steps in prop::collection::vec((any::<bool>(), 0..12_u32, 1..5_u64), 0..200)
        ) {
            let mut table = ConsistentHash::default();
            let mut bound = Vec::new();
            for (insert, to, weight) in steps {
                let position = bound.iter().position(|other| *other == (to, weight));
                match position {
                    None if insert => {
                        table.insert(&binding(weight), to);
                        bound.push((to, weight));
                    }
                    Some(position) if !insert => {
                        table.remove(&binding(weight), &to);
                        bound.remove(position);
                    }
                    _ => {}
                }
                let mut expected = BTreeMap::new();
                bound.iter().for_each(|(to, weight)| _ = expected.entry(*to).or_insert(*weight));
                let mut taken = BTreeMap::new();
                table.runs.values().for_each(|(len, to)| *taken.entry(*to).or_default() += len);
                prop_assert_eq!(&taken, &expected);
                prop_assert_eq!(table.taken, expected.values().sum::<u64>());
                let mut all: Vec<_> = table.runs.iter().map(|(first, (len, _))| (*first, *len)).collect();
                all.extend(table.holes.iter().map(|(first, len)| (*first, *len)));
                all.sort_unstable();
                let end = all.iter().try_fold(0, |end, (first, len)| (end == *first).then_some(first + len));
                prop_assert_eq!(end, Some(table.buckets));
                let mut found = 0;
                table.route(stirred(u64::from(to)), &mut |_| found += 1);
                prop_assert_eq!(found, usize::from(!bound.is_empty()));
            }
        }
    }
}
