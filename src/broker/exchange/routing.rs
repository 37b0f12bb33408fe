//! What of a message decides where it goes, and the hashes that are made of it.

use std::borrow::Cow;

use crate::amqp::{Properties, Value, table::find_raw};

/// What of a message decides where it goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Routing<'a> {
    /// The routing key, and behind it those of the CC and BCC headers.
    pub keys: &'a [&'a str],
    /// The message's properties; none if only the keys are known.
    pub properties: Properties<'a>,
    /// When it comes, in [`Now::unix_ms`](crate::broker::Now::unix_ms).
    pub now_ms: u64,
}

impl<'a> Routing<'a> {
    /// A message of which only the routing keys are known.
    pub fn by_keys(keys: &'a [&'a str]) -> Self {
        Self { keys, ..Self::default() }
    }

    /// A hash of all routing keys.
    pub(super) fn hash_of_keys(&self) -> u64 {
        let mut hash = Hash::default();
        for key in self.keys {
            // With its length, so that ("ab", "c") is not ("a", "bc").
            hash.write(&(key.len() as u64).to_le_bytes());
            hash.write(key.as_bytes());
        }
        hash.finish()
    }
}

/// What an `x-consistent-hash` exchange makes its hash of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashOn {
    /// The routing key; those of CC and BCC do not count.
    #[default]
    RoutingKey,
    /// `hash-header`: the header of that name.
    Header(Box<str>),
    /// `hash-property`: `correlation_id`.
    CorrelationId,
    /// `hash-property`: `message_id`.
    MessageId,
    /// `hash-property`: `timestamp`.
    Timestamp,
}

impl HashOn {
    /// The property that `hash-property` names; `None` for one that can't be hashed on.
    pub(super) fn property(name: &[u8]) -> Option<Self> {
        match name {
            b"correlation_id" => Some(Self::CorrelationId),
            b"message_id" => Some(Self::MessageId),
            b"timestamp" => Some(Self::Timestamp),
            _ => None,
        }
    }

    /// The hash of a message, the same one for all that lack what it is made of.
    pub(super) fn hash(&self, routing: &Routing<'_>) -> u64 {
        let mut hash = Hash::default();
        match self.value(routing) {
            None => hash.write(&[0]),
            Some(value) => {
                hash.write(&[1]);
                hash.write(&value);
            }
        }
        hash.finish()
    }

    fn value<'a>(&self, routing: &Routing<'a>) -> Option<Cow<'a, [u8]>> {
        let properties = &routing.properties;
        match self {
            Self::RoutingKey => routing.keys.first().map(|key| Cow::Borrowed(key.as_bytes())),
            Self::Header(name) => header(properties.headers?, name),
            Self::CorrelationId => properties.correlation_id.map(Cow::Borrowed),
            Self::MessageId => properties.message_id.map(Cow::Borrowed),
            Self::Timestamp => properties.timestamp.map(|seconds| seconds.to_string().into_bytes().into()),
        }
    }
}

/// A header's value as octets. A number is the same whatever its width.
fn header<'a>(headers: &'a [u8], name: &str) -> Option<Cow<'a, [u8]>> {
    let value = find_raw(headers, name)?;
    if matches!(value.kind, b'S' | b'x') {
        return Some(Cow::Borrowed(value.bytes));
    }
    Some(match value.decode() {
        Value::Void => return None,
        Value::Timestamp(seconds) => seconds.to_string().into_bytes().into(),
        decoded => match decoded.as_int() {
            Some(number) => number.to_string().into_bytes().into(),
            None => Cow::Borrowed(value.bytes),
        },
    })
}

/// FNV-1a of 64 bits with a last stir. Routes must be the same after a restart and on every machine, so nothing here is
/// seeded at random.
struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    fn write(&mut self, octets: &[u8]) {
        for octet in octets {
            self.0 = (self.0 ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        stirred(self.0)
    }
}

/// A number whose every bit depends on every bit of this one (the last step of `SplitMix64`). Of 0, 1, 2 and so on it
/// makes a sequence that looks like chance.
pub(super) fn stirred(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A number below `bound`, evenly spread if `number` is.
pub(super) fn below(number: u64, bound: u64) -> u64 {
    let product = u128::from(number) * u128::from(bound);
    u64::try_from(product >> 64).expect("invariant: the product of two halves")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::Table;

    fn hash_of_header(value: Option<Value>) -> u64 {
        let table: Table = value.into_iter().map(|value| ("h".to_owned(), value)).collect();
        let mut headers = Vec::new();
        table.encode(&mut headers);
        let properties = Properties { headers: Some(&headers[4..]), ..Properties::default() };
        HashOn::Header("h".into()).hash(&Routing { keys: &["k"], properties, now_ms: 0 })
    }

    /// Another hash would send what follows a restart to another queue.
    #[test]
    fn b4_hashes_never_change() {
        assert_eq!(HashOn::RoutingKey.hash(&Routing::by_keys(&["key"])), 0xc313_758b_72a1_aa47);
        assert_eq!(Routing::by_keys(&["key"]).hash_of_keys(), 0xbc0b_a715_0b88_4702);
    }

    #[test]
    fn b4_a_header_counts_by_value_and_a_missing_one_is_like_any_other() {
        let number = hash_of_header(Some(Value::I32(7)));
        assert_eq!(number, hash_of_header(Some(Value::I64(7))));
        assert_ne!(number, hash_of_header(Some(Value::I32(8))));
        let missing = HashOn::Header("h".into()).hash(&Routing::by_keys(&["k"]));
        assert_eq!(missing, hash_of_header(None));
        assert_eq!(missing, hash_of_header(Some(Value::Void)));
        assert_eq!(missing, HashOn::MessageId.hash(&Routing::by_keys(&["other"])));
        assert_ne!(missing, hash_of_header(Some("".into())));
        assert_ne!(hash_of_header(Some(Value::Bool(true))), hash_of_header(Some(Value::Bool(false))));
    }

    #[test]
    fn b4_properties_are_hashed_on() {
        let properties = |id| Properties {
            message_id: Some(id),
            correlation_id: Some(b"c"),
            timestamp: Some(7),
            ..Properties::default()
        };
        let hash =
            |on: &HashOn, id| on.hash(&Routing { keys: &["k"], properties: properties(id), now_ms: 0 });
        let on = HashOn::property(b"message_id").expect("known");
        assert_ne!(hash(&on, b"a"), hash(&on, b"b"));
        for name in [&b"correlation_id"[..], b"timestamp"] {
            let on = HashOn::property(name).expect("known");
            assert_eq!(hash(&on, b"a"), hash(&on, b"b"));
        }
        assert_eq!(HashOn::property(b"app_id"), None);
    }

    #[test]
    fn keys_are_told_apart() {
        let hash = |keys: &[&str]| Routing::by_keys(keys).hash_of_keys();
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_ne!(hash(&["a"]), hash(&["a", ""]));
    }
}
