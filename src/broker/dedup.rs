//! Deduplication: a message whose key was seen before goes no further (`x-message-deduplication`).
//!
//! The key is the value of a header. An exchange takes a key when it routes the message, by a [`Claim`]: if a queue rejects
//! the message, or none gets it, its publisher will send it again, so the key is given back. A queue takes it together
//! with the message, under its lock. Whoever is durable tells the log the keys of persistent messages, with the facts of
//! the message, so that after a crash both are there or neither.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
};

use sha2::{Digest as _, Sha256};

use super::{
    NEVER,
    exchange::Exchange,
    journal::{Fact, cache_of_exchange},
    message::Message,
    restore::RecoveredCache,
};
use crate::amqp::{
    Properties, Value,
    table::{RawValue, find_raw},
};

/// The most keys that a cache keeps.
pub const CACHE_SIZE_MAX: u32 = 1_000_000;
/// The `x-deduplication-header` of a queue or an exchange that has none.
pub const HEADER: &str = "x-deduplication-header";
/// The header by which a message says for how many milliseconds its key is known.
const TTL_HEADER: &str = "x-cache-ttl";

/// How duplicates are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deduplication {
    /// `x-cache-size`: how many keys are known.
    pub cache_size: u32,
    /// `x-cache-ttl`: for how many milliseconds; `None` for as long as there is room.
    pub ttl_ms: Option<u64>,
    /// `x-deduplication-header`: the header that has the key.
    pub header: Arc<str>,
    /// Whether a key is known when its message has left. A queue that says neither size nor time compares with the
    /// messages that it holds.
    pub remembers: bool,
}

/// A key, and when it is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The key.
    pub key: u128,
    /// When it is forgotten, in [`Now::unix_ms`](super::Now::unix_ms); [`NEVER`] for as late as possible.
    pub until_ms: u64,
}

impl Deduplication {
    /// The key of a message with these properties; `None` if it has none, and is never a duplicate.
    pub fn key(&self, properties: &Properties<'_>, now_ms: u64) -> Option<Key> {
        let headers = properties.headers?;
        let key = hash(&find_raw(headers, &self.header)?)?;
        let ttl_ms = find_raw(headers, TTL_HEADER).and_then(|value| milliseconds(&value.decode()));
        let until_ms = ttl_ms.or(self.ttl_ms).map_or(NEVER, |ttl_ms| now_ms.saturating_add(ttl_ms));
        Some(Key { key, until_ms })
    }

    /// The key of that message.
    pub fn key_of(&self, message: &Message, now_ms: u64) -> Option<Key> {
        self.key(&Properties::parse(message.properties()).ok()?, now_ms)
    }

    /// Whether keys that were taken by these rules can be looked up by those.
    pub fn has_same_keys(&self, other: &Self) -> bool {
        self.header == other.header && self.remembers == other.remembers
    }
}

/// A number of milliseconds, also as text.
fn milliseconds(value: &Value) -> Option<u64> {
    let number = value.as_int().or_else(|| value.as_str()?.trim().parse().ok())?;
    u64::try_from(number).ok()
}

/// Half of the SHA-256 of a string or a number and which of them it is. It is in the log: it may not change.
fn hash(value: &RawValue<'_>) -> Option<u128> {
    let of = |kind: &[u8], octets: &[u8]| {
        let digest = Sha256::new().chain_update(kind).chain_update(octets).finalize();
        let half = digest.first_chunk::<16>().expect("invariant: a digest of 32 octets");
        Some(u128::from_le_bytes(*half))
    };
    if matches!(value.kind, b'S' | b'x') {
        return of(b"S", value.bytes);
    }
    match value.decode() {
        Value::F32(number) => of(b"F", &f64::from(number).to_le_bytes()),
        Value::F64(number) => of(b"F", &number.to_le_bytes()),
        Value::Decimal { .. } => of(b"D", value.bytes),
        // Clients choose the width by the value.
        integer => of(b"I", &integer.as_int()?.to_le_bytes()),
    }
}

/// Keys in the order in which they were seen first: so many of them, and the oldest are forgotten.
#[derive(Debug, Default)]
pub struct Cache {
    /// By numbers that rise.
    keys: BTreeMap<u64, Key>,
    numbers: HashMap<u128, u64>,
}

impl Cache {
    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether the key was seen and is not forgotten.
    pub fn knows(&self, key: u128, now_ms: u64) -> bool {
        let known = self.numbers.get(&key).and_then(|number| self.keys.get(number));
        known.is_some_and(|known| now_ms < known.until_ms)
    }

    /// Adds a key that is not known, as the one of that number, and forgets the oldest beyond `size`.
    pub fn insert(&mut self, number: u64, key: Key, size: u32, now_ms: u64) {
        if let Some(before) = self.numbers.insert(key.key, number) {
            self.keys.remove(&before);
        }
        self.keys.insert(number, key);
        while let Some(oldest) = self.keys.first_entry()
            && (self.numbers.len() > size as usize || oldest.get().until_ms <= now_ms)
        {
            self.numbers.remove(&oldest.remove().key);
        }
    }

    /// Forgets the key of that number.
    pub fn forget(&mut self, number: u64) {
        if let Some(key) = self.keys.remove(&number) {
            self.numbers.remove(&key.key);
        }
    }

    /// Forgets the keys whose numbers are not to stay.
    pub fn retain(&mut self, stays: impl Fn(u64) -> bool) {
        let numbers = &mut self.numbers;
        self.keys.retain(|number, key| {
            let stays = stays(*number);
            if !stays {
                numbers.remove(&key.key);
            }
            stays
        });
    }

    /// Takes over the keys that there were before the start, under the numbers below `next`, of which there are enough.
    pub fn restore(&mut self, recovered: &RecoveredCache, next: u64, size: u32, now_ms: u64) {
        let first = next.saturating_sub(recovered.keys.len() as u64);
        for (number, (key, until_ms)) in (first..next).zip(&recovered.keys) {
            self.insert(number, Key { key: *key, until_ms: *until_ms }, size, now_ms);
        }
    }
}

/// The keys that an exchange knows.
#[derive(Debug, Default)]
pub struct ExchangeKeys(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    cache: Cache,
    /// The number of the next key in the cache.
    next: u64,
    /// Keys of messages that are on their way to their queues. What is given back has not driven out others.
    claimed: HashSet<u128>,
}

impl ExchangeKeys {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().expect("invariant: no panic under a lock of keys")
    }

    /// Takes over the keys that there were before the start.
    pub fn restore(&self, recovered: &RecoveredCache, size: u32, now_ms: u64) {
        let Known { cache, next, .. } = &mut *self.lock();
        *next += recovered.keys.len() as u64;
        cache.restore(recovered, *next, size, now_ms);
    }
}

/// A message has come to an exchange whose key was seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duplicate;

/// A key that an exchange has taken with a message that is not in its queues yet. Dropped, it is given back.
#[derive(Debug)]
pub struct Claim {
    exchange: Arc<Exchange>,
    key: Key,
    is_persistent: bool,
    now_ms: u64,
}

impl Claim {
    /// Takes the key of a message that has come to the exchange, if there are duplicates to be told and it has one.
    ///
    /// # Errors
    /// If the key is known.
    ///
    /// # Locking
    /// Nothing is locked under the lock of an exchange's keys; a claim may be given back under a queue's.
    pub fn take(
        exchange: &Arc<Exchange>,
        properties: &Properties<'_>,
        is_persistent: bool,
        now_ms: u64,
    ) -> Result<Option<Self>, Duplicate> {
        let Some((deduplication, keys)) = exchange.deduplication() else { return Ok(None) };
        let Some(key) = deduplication.key(properties, now_ms) else { return Ok(None) };
        let Known { cache, claimed, .. } = &mut *keys.lock();
        if cache.knows(key.key, now_ms) || !claimed.insert(key.key) {
            return Err(Duplicate);
        }
        Ok(Some(Self { exchange: Arc::clone(exchange), key, is_persistent, now_ms }))
    }

    /// The message is in its queues: the key stays. Returns what the log is to know of it.
    pub fn keep(self) -> Option<Fact> {
        let (deduplication, keys) = self.exchange.deduplication()?;
        let Known { cache, next, .. } = &mut *keys.lock();
        cache.insert(*next, self.key, deduplication.cache_size, self.now_ms);
        *next += 1;
        (self.is_persistent && self.exchange.properties.durable).then(|| Fact::Seen {
            cache: cache_of_exchange(&self.exchange.virtual_host, &self.exchange.name),
            key: self.key.key,
            until_ms: self.key.until_ms,
            keep: deduplication.cache_size,
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some((_, keys)) = self.exchange.deduplication() {
            keys.lock().claimed.remove(&self.key.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::{amqp::Table, broker::queue::QueueId};

    fn deduplication(ttl_ms: Option<u64>) -> Deduplication {
        Deduplication { cache_size: 9, ttl_ms, header: HEADER.into(), remembers: true }
    }

    fn key(ttl_ms: Option<u64>, fields: &[(&str, Value)]) -> Option<Key> {
        let table = Table(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect());
        let mut headers = Vec::new();
        table.encode(&mut headers);
        let properties = Properties { headers: Some(&headers[4..]), ..Properties::default() };
        deduplication(ttl_ms).key(&properties, 1000)
    }

    fn key_of(value: Value) -> Option<u128> {
        key(None, &[(HEADER, value)]).map(|key| key.key)
    }

    #[test]
    fn b2_a_key_is_a_string_or_a_number() {
        assert_eq!(key_of("7".into()), key_of(Value::ByteArray("7".into())));
        assert_eq!(key_of(Value::I8(7)), key_of(Value::I64(7)));
        assert_eq!(key_of(Value::F32(0.5)), key_of(Value::F64(0.5)));
        let keys = [key_of("7".into()), key_of("".into()), key_of(Value::U8(7)), key_of(Value::F64(7.0))];
        assert!(keys.iter().all(Option::is_some));
        assert!((1..keys.len()).all(|end| !keys[..end].contains(&keys[end])), "they are told apart");
        for value in [Value::Void, Value::Bool(true), Value::Timestamp(7), Value::Table(Table::default())] {
            assert_eq!(key_of(value), None);
        }
        assert_eq!(key(None, &[("other", "7".into())]), None);
        assert_eq!(deduplication(None).key(&Properties::default(), 0), None);
    }

    /// Another hash would take what follows an update for something new.
    #[test]
    fn b2_a_key_is_the_same_for_ever() {
        assert_eq!(key_of("a".into()), Some(0x1340_83c3_abda_b2ec_f37f_eb9d_c7ef_51a9));
    }

    #[test]
    fn b2_the_time_of_a_message_wins() {
        let until_ms = |ttl_ms, value: Option<Value>| {
            let mut fields = vec![(HEADER, "a".into())];
            fields.extend(value.map(|value| ("x-cache-ttl", value)));
            key(ttl_ms, &fields).map(|key| key.until_ms)
        };
        assert_eq!(until_ms(None, None), Some(NEVER));
        assert_eq!(until_ms(Some(5), None), Some(1005));
        assert_eq!(until_ms(Some(5), Some(Value::I32(90))), Some(1090));
        assert_eq!(until_ms(Some(5), Some("90".into())), Some(1090));
        assert_eq!(until_ms(Some(5), Some(Value::I32(-1))), Some(1005), "it makes no sense");
        assert_eq!(until_ms(None, Some(Value::I64(i64::MAX))), Some(1000 + i64::MAX as u64));
    }

    #[test]
    fn keys_come_back_in_order() {
        let recovered = RecoveredCache { cache: QueueId(1), keys: vec![(1, NEVER), (2, 10), (3, NEVER)] };
        let mut cache = Cache::default();
        cache.restore(&recovered, 3, 2, 0);
        assert_eq!([1, 2, 3].map(|key| cache.knows(key, 5)), [false, true, true]);
        assert_eq!([1, 2, 3].map(|key| cache.knows(key, 10)), [false, false, true]);
        cache.insert(3, Key { key: 4, until_ms: NEVER }, 2, 5);
        assert_eq!([2, 3, 4].map(|key| cache.knows(key, 5)), [false, true, true]);
    }

    /// What happens to a cache.
    #[derive(Clone, Debug)]
    enum Step {
        See { key: u128, ttl_ms: u64 },
        Forget { number: u64 },
        Retain { parity: u64 },
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..12u128, prop_oneof![Just(NEVER), 0..20u64])
                .prop_map(|(key, ttl_ms)| Step::See { key, ttl_ms }),
            1 => (0..60u64).prop_map(|number| Step::Forget { number }),
            1 => (0..2u64).prop_map(|parity| Step::Retain { parity }),
            1 => (0..10u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// The model is a list, oldest first. What is forgotten may still take up room, unless it is the oldest.
        #[test]
        fn a_cache_is_like_a_list(steps in prop::collection::vec(step(), 0..60), size in 1..6u32) {
            let (mut cache, mut list) = (Cache::default(), VecDeque::<(u64, Key)>::new());
            let mut now_ms = 0;
            for (number, step) in (0u64..).zip(steps) {
                match step {
                    Step::See { key, ttl_ms } => {
                        let key = Key { key, until_ms: ttl_ms.saturating_add(now_ms) };
                        let is_known =
                            list.iter().any(|(_, known)| known.key == key.key && now_ms < known.until_ms);
                        prop_assert_eq!(cache.knows(key.key, now_ms), is_known);
                        if !is_known {
                            cache.insert(number, key, size, now_ms);
                            list.retain(|(_, known)| known.key != key.key);
                            list.push_back((number, key));
                        }
                        while list.front().is_some_and(|(_, oldest)| oldest.until_ms <= now_ms)
                            || list.len() > size as usize
                        {
                            list.pop_front();
                        }
                    }
                    Step::Forget { number } => {
                        cache.forget(number);
                        list.retain(|(other, _)| *other != number);
                    }
                    Step::Retain { parity } => {
                        cache.retain(|number| number % 2 == parity);
                        list.retain(|(number, _)| number % 2 == parity);
                    }
                    Step::Wait(ms) => now_ms += ms,
                }
                for key in 0..12 {
                    let is_known = list.iter().any(|(_, known)| known.key == key && now_ms < known.until_ms);
                    prop_assert_eq!(cache.knows(key, now_ms), is_known);
                }
                prop_assert!(cache.keys.len() <= size as usize && cache.keys.len() == cache.numbers.len());
                prop_assert_eq!(cache.is_empty(), cache.keys.is_empty());
            }
        }
    }
}
