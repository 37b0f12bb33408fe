//! Dead-lettering: what it makes of a message's headers and routing (RabbitMQ: `x-death` and what goes with it).
//!
//! Pure functions of the message and of what has happened to it. Where the result goes, and whether it may enter the
//! queues that it is routed to ([`is_cycle`]), is for the caller to find out.

use std::{borrow::Cow, collections::HashSet};

use bytes::Bytes;

use super::message::{Message, PublishedBody};
use crate::amqp::{
    Body, Properties, RawValue, Value,
    table::{find_raw, raw_fields, short},
};

/// Why a message left its queue without being acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A consumer refused it, and did not want it back in the queue.
    Rejected,
    /// Its time to live was over.
    Expired,
    /// The queue was full.
    MaxLength,
    /// Its deliveries have failed too often.
    DeliveryLimit,
}

impl Reason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Rejected, Self::Expired, Self::MaxLength, Self::DeliveryLimit];

    /// Its name in the headers, which is RabbitMQ's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLength => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }

    /// Its number in the log, from 1 up: it may not change.
    pub fn code(self) -> u8 {
        match self {
            Self::Rejected => 1,
            Self::Expired => 2,
            Self::MaxLength => 3,
            Self::DeliveryLimit => 4,
        }
    }

    /// The reason whose [`Reason::code`] this is.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }
}

/// What has happened to a message.
#[derive(Clone, Copy, Debug)]
pub struct Death<'a> {
    /// The queue that it was in. Only 255 octets of the name count.
    pub queue: &'a str,
    /// Why it is there no longer.
    pub reason: Reason,
    /// When, in seconds since 1970.
    pub time_secs: u64,
    /// Whether an `x-death` header that a client sent is continued. If not, that is replaced, as if this were the first
    /// death. RabbitMQ 3 continues what a client sent, RabbitMQ 4 only what comes from the broker.
    pub interprets_x_death: bool,
}

/// A message on its way to a dead letter exchange.
#[derive(Clone, Debug)]
pub struct DeadLettered {
    /// The message as it is published there.
    pub message: Message,
    /// The keys to route it by, at least one; the first is the message's own.
    ///
    /// Without a new key they are those that it was published with: its routing key, and those of its CC and BCC headers.
    pub routing_keys: Vec<String>,
}

/// What the entries of the `x-death` header take at most, in octets.
///
/// Deviation: RabbitMQ has no limit. Here the oldest entries go when it is reached, so a circle of more queues than there
/// are entries is not seen by [`is_cycle`]: with names of 255 octets these are about sixty. An entry that is too large
/// by itself keeps its count, and is otherwise written anew, without the keys of the CC header.
pub const X_DEATH_BYTES_MAX: usize = 64 << 10;

/// What all headers take at most, in octets, if they did not take more before: with the other properties they fit into
/// one frame of 128 KiB even if those are as long as they can be.
///
/// Deviation: RabbitMQ has no limit, and sends a frame that is too large. Here, if the other headers do not leave 4 KiB
/// for those of dead-lettering, the largest ones go.
pub const HEADERS_BYTES_MAX: usize = 124 << 10;

/// Octets that are kept for what dead-lettering adds: an entry with names of 255 octets, and six headers with one each.
const ADDED_BYTES_MIN: usize = 4 << 10;

/// The message as it goes to a dead letter exchange: published to `exchange`, with the routing key of the queue's
/// arguments or else its own, without its expiration, and with headers that tell of its death. Everything else stays.
///
/// As in RabbitMQ, the headers come out sorted by name. Names beyond 255 octets are cut. `scratch` is a buffer to put the
/// message together in, whose content does not matter.
pub fn dead_letter(
    message: &Message,
    exchange: &str,
    routing_key: Option<&str>,
    death: &Death<'_>,
    scratch: &mut Vec<u8>,
) -> DeadLettered {
    // They were checked when they came.
    let properties = Properties::parse(message.properties()).unwrap_or_default();
    let dead = Dead { message, properties, death: Death { queue: short(death.queue), ..*death } };
    let headers = dead.headers(routing_key.is_some());
    let raw = Properties { headers: Some(&headers), expiration: None, ..properties }.encode();
    let routing_keys = routing_key.map_or_else(|| dead.routing_keys(), |key| vec![short(key).to_owned()]);
    let body = match message.body() {
        Body::Small(body) => PublishedBody::Small(body),
        Body::Large(body) => PublishedBody::Large(body.clone()),
    };
    let names = (short(exchange), routing_keys[0].as_str());
    let has_bcc = message.has_bcc() && routing_key.is_none();
    let message = Message::new(names, &raw, body, message.is_persistent(), message.priority(), scratch);
    let message = if has_bcc { message.with_bcc() } else { message }.with_death();
    DeadLettered { message, routing_keys }
}

/// Whether a dead letter may not enter that queue, because it would go round for ever: it has died there before, and
/// was not rejected then or since. RabbitMQ drops it for that queue, and tells no client.
///
/// `properties` are those that [`dead_letter`] made, `reason` is that of the same death.
pub fn is_cycle(properties: &Properties<'_>, queue: &str, reason: Reason) -> bool {
    if reason == Reason::Rejected {
        return false;
    }
    let x_death = find_raw(properties.headers.unwrap_or_default(), "x-death");
    for element in x_death.iter().flat_map(RawValue::elements) {
        // What is no table comes from a client, so it was not only the broker that moved the message.
        if element.kind != b'F' || has_text(element.bytes, "reason", Reason::Rejected.name()) {
            return false;
        }
        if has_text(element.bytes, "queue", queue) {
            return true;
        }
    }
    false
}

/// A message that has died.
struct Dead<'a> {
    message: &'a Message,
    properties: Properties<'a>,
    death: Death<'a>,
}

impl Dead<'_> {
    /// The keys that it was published with. Those of the CC and BCC headers that are no UTF-8 match nothing in this broker.
    fn routing_keys(&self) -> Vec<String> {
        let own = String::from_utf8_lossy(self.message.routing_key());
        let copies = self.copies("CC").chain(self.copies("BCC"));
        let copies = copies.filter_map(|key| std::str::from_utf8(key).ok());
        std::iter::once(short(&own)).chain(copies).map(str::to_owned).collect()
    }

    /// The keys of the CC or the BCC header, as they stand there.
    fn copies(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let header = find_raw(self.properties.headers.unwrap_or_default(), name);
        let keys = header.into_iter().flat_map(|header| header.elements());
        keys.filter(|key| key.kind == b'S').map(|key| key.bytes)
    }

    /// The headers, with what this death changes in them.
    fn headers(&self, has_new_key: bool) -> Vec<u8> {
        let before = self.properties.headers.unwrap_or_default();
        let is_continued = self.death.interprets_x_death || self.message.has_died();
        let x_death = find_raw(before, "x-death").filter(|_| is_continued);
        let bytes_max = HEADERS_BYTES_MAX.max(before.len());
        let mut headers = Fields::of(before);
        headers.remove("x-death");
        if has_new_key {
            headers.remove("CC");
            headers.remove("BCC");
        }
        headers.drop_largest(bytes_max - ADDED_BYTES_MIN);
        // An `x-death` of any type hides which death was the first.
        if x_death.is_none() {
            self.name_in(
                &mut headers,
                ["x-first-death-reason", "x-first-death-queue", "x-first-death-exchange"],
            );
        }
        self.name_in(&mut headers, ["x-last-death-reason", "x-last-death-queue", "x-last-death-exchange"]);
        // In its place already, so that what it takes by itself is counted.
        headers.set_array("x-death", &[]);
        let room = X_DEATH_BYTES_MAX.min(bytes_max - headers.len());
        headers.set_array("x-death", &self.deaths(x_death.filter(|header| header.kind == b'A'), room));
        headers.sort();
        headers.concat()
    }

    fn name_in(&self, headers: &mut Fields<'_>, [reason, queue, exchange]: [&str; 3]) {
        headers.set(reason, &self.death.reason.name().into());
        headers.set(queue, &self.death.queue.into());
        headers.set(exchange, &long_string(self.message.exchange()));
    }

    /// The elements of `x-death`, in this many octets: this death, then the older ones in their order. Elements that are
    /// no tables are left out.
    ///
    /// Deviation: RabbitMQ 3.10.8 reverses the older ones at each death, so that its rule for cycles errs from the third
    /// on, and its queue crashes at an element that is no table, or a count that is no integer.
    fn deaths(&self, x_death: Option<RawValue<'_>>, room: usize) -> Vec<u8> {
        let elements = x_death.iter().flat_map(RawValue::elements);
        let older: Vec<_> =
            elements.filter(|element| element.kind == b'F').map(|death| death.bytes).collect();
        let this: Pair<'_> = (Some(self.death.queue.as_bytes()), Some(self.death.reason.name().as_bytes()));
        let same = older.iter().copied().find(|death| pair(death) == this);
        let mut deaths = self.newest(same, x_death.is_some(), room);
        let mut seen = HashSet::from([this]);
        for death in older {
            if !seen.insert(pair(death)) {
                continue;
            }
            let table = table(death);
            if deaths.len() + table.len() > room {
                break;
            }
            deaths.extend_from_slice(&table);
        }
        deaths
    }

    /// This death as an element of `x-death`, in this many octets; `same` is what is known of the same queue and reason.
    /// RabbitMQ sorts it by name unless it is the first one of all.
    fn newest(&self, same: Option<&[u8]>, is_sorted: bool, room: usize) -> Vec<u8> {
        let count = same.and_then(|death| find_raw(death, "count")?.decode().as_int()).unwrap_or(0);
        let count = Value::I64(count.saturating_add(1));
        let write = |mut death: Fields<'_>| {
            death.set("count", &count);
            if is_sorted {
                death.sort();
            }
            table(&death.concat())
        };
        let newest = write(same.map_or_else(|| self.facts(true), Fields::of));
        if newest.len() <= room { newest } else { write(self.facts(false)) }
    }

    /// What `x-death` says of a death that was not known before. The count is there to be set.
    fn facts(&self, with_copies: bool) -> Fields<'static> {
        let copies = self.copies("CC").filter(|_| with_copies);
        let keys = std::iter::once(self.message.routing_key()).chain(copies).map(long_string);
        let mut facts = Fields::default();
        facts.set("count", &Value::I64(0));
        facts.set("reason", &self.death.reason.name().into());
        facts.set("queue", &self.death.queue.into());
        facts.set("time", &Value::Timestamp(self.death.time_secs));
        facts.set("exchange", &long_string(self.message.exchange()));
        facts.set("routing-keys", &Value::Array(keys.collect()));
        if let Some(expiration) = self.properties.expiration {
            facts.set("original-expiration", &long_string(expiration));
        }
        facts
    }
}

/// The queue and the reason that a death is counted by.
type Pair<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

fn pair(death: &[u8]) -> Pair<'_> {
    let text = |name| find_raw(death, name).filter(|value| value.kind == b'S').map(|value| value.bytes);
    (text("queue"), text("reason"))
}

/// Whether the field of that name is this text.
fn has_text(table: &[u8], name: &str, text: &str) -> bool {
    find_raw(table, name).is_some_and(|value| value.as_str() == Some(text))
}

fn long_string(octets: &[u8]) -> Value {
    Value::LongStr(Bytes::copy_from_slice(octets))
}

/// A table with these fields, as an element of an array.
fn table(fields: &[u8]) -> Vec<u8> {
    [b"F", &length(fields)[..], fields].concat()
}

fn length(octets: &[u8]) -> [u8; 4] {
    u32::try_from(octets.len()).expect("invariant: headers are far smaller than 4 GiB").to_be_bytes()
}

/// The fields of a table, each as it is on the wire: what is not changed keeps its octets.
#[derive(Default)]
struct Fields<'a>(Vec<Cow<'a, [u8]>>);

impl<'a> Fields<'a> {
    fn of(table: &'a [u8]) -> Self {
        Self(raw_fields(table).map(|(_, _, whole)| Cow::Borrowed(whole)).collect())
    }

    fn set(&mut self, name: &str, value: &Value) {
        let mut field = start_of_field(name);
        value.encode(&mut field);
        self.put(name, field);
    }

    fn set_array(&mut self, name: &str, elements: &[u8]) {
        let field = [&start_of_field(name), &b"A"[..], &length(elements), elements].concat();
        self.put(name, field);
    }

    /// Replaces the first field of that name, or adds one.
    fn put(&mut self, name: &str, field: Vec<u8>) {
        match self.0.iter_mut().find(|other| name_of(other) == name.as_bytes()) {
            Some(other) => *other = Cow::Owned(field),
            None => self.0.push(Cow::Owned(field)),
        }
    }

    fn remove(&mut self, name: &str) {
        self.0.retain(|field| name_of(field) != name.as_bytes());
    }

    /// Removes the largest fields until the rest takes no more than this many octets.
    fn drop_largest(&mut self, bytes_max: usize) {
        let mut excess = self.len().saturating_sub(bytes_max);
        let mut by_size: Vec<_> = (0..self.0.len()).collect();
        by_size.sort_by_key(|index| self.0[*index].len());
        while excess > 0
            && let Some(index) = by_size.pop()
        {
            excess = excess.saturating_sub(std::mem::take(&mut self.0[index]).len());
        }
        self.0.retain(|field| !field.is_empty());
    }

    /// Sorts by name, in the order of the octets.
    fn sort(&mut self) {
        self.0.sort_by(|one, other| name_of(one).cmp(name_of(other)));
    }

    /// Octets on the wire.
    fn len(&self) -> usize {
        self.0.iter().map(|field| field.len()).sum()
    }

    fn concat(&self) -> Vec<u8> {
        self.0.concat()
    }
}

fn start_of_field(name: &str) -> Vec<u8> {
    let length = u8::try_from(name.len()).expect("invariant: a name of this file");
    [&[length], name.as_bytes()].concat()
}

fn name_of(field: &[u8]) -> &[u8] {
    let length = usize::from(field[0]);
    &field[1..=length]
}

#[cfg(test)]
mod tests;
