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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::amqp::{PropertiesBuilder, Table};

    const TIME: u64 = 1_750_000_000;

    fn fields<const N: usize>(fields: [(&str, Value); N]) -> Table {
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn texts<const N: usize>(texts: [&str; N]) -> Value {
        Value::Array(texts.into_iter().map(Value::from).collect())
    }

    fn message(builder: &PropertiesBuilder) -> Message {
        let body = PublishedBody::Small(b"body");
        let persistent = builder.delivery_mode == Some(2);
        let priority = builder.priority.unwrap_or(0);
        Message::new(("x", "key"), &builder.encode(), body, persistent, Some(priority), &mut Vec::new())
    }

    fn with_headers<const N: usize>(headers: [(&str, Value); N]) -> Message {
        message(&PropertiesBuilder { headers: Some(fields(headers)), ..PropertiesBuilder::default() })
    }

    fn death(queue: &str, reason: Reason) -> Death<'_> {
        Death { queue, reason, time_secs: TIME, interprets_x_death: true }
    }

    /// To the exchange `dlx`, without a new key.
    fn die(message: &Message, queue: &str, reason: Reason) -> Message {
        die_at(message, queue, reason, TIME)
    }

    fn die_at(message: &Message, queue: &str, reason: Reason, time_secs: u64) -> Message {
        let death = Death { time_secs, ..death(queue, reason) };
        dead_letter(message, "dlx", None, &death, &mut Vec::new()).message
    }

    fn headers(message: &Message) -> Table {
        let properties = Properties::parse(message.properties()).unwrap();
        Table::decode(properties.headers.unwrap()).unwrap()
    }

    fn names(table: &Table) -> Vec<&str> {
        table.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn x_death(message: &Message) -> Vec<Table> {
        let headers = headers(message);
        let Some(Value::Array(deaths)) = headers.get("x-death") else { panic!("{headers}") };
        deaths
            .iter()
            .map(|death| match death {
                Value::Table(table) => table.clone(),
                other => panic!("{other}"),
            })
            .collect()
    }

    /// Queue, reason and count of each death.
    fn summary(message: &Message) -> Vec<String> {
        let text = |death: &Table, name| death.get(name).map_or("-".to_owned(), Value::to_string);
        let line = |death: &Table| ["queue", "reason", "count"].map(|name| text(death, name)).join(" ");
        x_death(message).iter().map(line).collect()
    }

    fn cycles(message: &Message, queue: &str, reason: Reason) -> bool {
        is_cycle(&Properties::parse(message.properties()).unwrap(), queue, reason)
    }

    fn client_death(queue: &str, reason: &str, count: Value) -> Value {
        Value::Table(fields([("queue", queue.into()), ("reason", reason.into()), ("count", count)]))
    }

    #[test]
    fn reasons_have_names_and_numbers() {
        let names = Reason::ALL.map(Reason::name);
        assert_eq!(names, ["rejected", "expired", "maxlen", "delivery_limit"]);
        assert_eq!(Reason::ALL.map(Reason::code), [1, 2, 3, 4]);
        assert_eq!(Reason::ALL.map(|reason| Reason::from_code(reason.code())), Reason::ALL.map(Some));
        assert_eq!((Reason::from_code(0), Reason::from_code(5)), (None, None));
    }

    #[test]
    fn a8_the_first_death_is_told_in_rabbitmqs_order() {
        let builder = PropertiesBuilder { expiration: Some("100".into()), ..PropertiesBuilder::default() };
        for reason in Reason::ALL {
            let dead = die(&message(&builder), "q", reason);
            let expected = fields([
                ("count", Value::I64(1)),
                ("reason", reason.name().into()),
                ("queue", "q".into()),
                ("time", Value::Timestamp(TIME)),
                ("exchange", "x".into()),
                ("routing-keys", texts(["key"])),
                ("original-expiration", "100".into()),
            ]);
            assert_eq!(x_death(&dead), [expected]);
        }
    }

    #[test]
    fn a8_original_expiration_is_there_only_if_it_was() {
        let dead = die(&message(&PropertiesBuilder::default()), "q", Reason::Expired);
        let expected = ["count", "reason", "queue", "time", "exchange", "routing-keys"];
        assert_eq!(names(&x_death(&dead)[0]), expected);
    }

    #[test]
    fn a8_the_expiration_goes_and_everything_else_stays() {
        let builder = PropertiesBuilder {
            content_type: Some("text/plain".into()),
            delivery_mode: Some(2),
            priority: Some(3),
            expiration: Some("100".into()),
            timestamp: Some(7),
            user_id: Some("ann".into()),
            cluster_id: Some("c".into()),
            ..PropertiesBuilder::default()
        };
        let dead = die(&message(&builder), "q", Reason::Rejected);
        let expected = PropertiesBuilder { expiration: None, headers: Some(headers(&dead)), ..builder };
        assert_eq!(dead.properties(), expected.encode());
        assert!(dead.is_persistent());
        assert_eq!((dead.priority(), dead.body().as_slice()), (Some(3), &b"body"[..]));
    }

    #[test]
    fn a8_a_large_body_is_shared() {
        let body = Bytes::from(vec![7; 10_000]);
        let published = PublishedBody::Large(body.clone());
        let message = Message::new(("x", "key"), &[0, 0], published, false, None, &mut Vec::new());
        let dead = die(&message, "q", Reason::Expired);
        assert_eq!(dead.large_body().unwrap().as_ptr(), body.as_ptr());
    }

    #[test]
    fn a8_exchange_and_key_are_the_new_ones_and_x_death_has_the_old_ones() {
        let message = message(&PropertiesBuilder::default());
        let death = death("q", Reason::Expired);
        let dead = dead_letter(&message, "dlx", Some("other"), &death, &mut vec![1, 2, 3]);
        assert_eq!((dead.message.exchange(), dead.message.routing_key()), (&b"dlx"[..], &b"other"[..]));
        assert_eq!(dead.routing_keys, ["other"]);
        let again = die(&dead.message, "q2", Reason::Expired);
        assert_eq!(again.routing_key(), b"other");
        assert_eq!(x_death(&again)[0].get("exchange"), Some(&"dlx".into()));
        assert_eq!(x_death(&again)[0].get("routing-keys"), Some(&texts(["other"])));
        assert_eq!(x_death(&again)[1].get("exchange"), Some(&"x".into()));
        assert_eq!(x_death(&again)[1].get("routing-keys"), Some(&texts(["key"])));
    }

    #[test]
    fn a8_without_a_new_key_it_is_routed_by_all_old_ones() {
        let message = with_headers([("CC", texts(["a", "b"]))]);
        let dead = dead_letter(&message, "dlx", None, &death("q", Reason::Expired), &mut Vec::new());
        assert_eq!(dead.routing_keys, ["key", "a", "b"]);
        assert_eq!(headers(&dead.message).get("CC"), Some(&texts(["a", "b"])));
        assert_eq!(x_death(&dead.message)[0].get("routing-keys"), Some(&texts(["key", "a", "b"])));
    }

    #[test]
    fn a10_a_new_key_drops_the_cc_header() {
        let message = with_headers([("CC", texts(["a"])), ("b", Value::Void), ("CC", texts(["c"]))]);
        let dead = dead_letter(&message, "dlx", Some("k"), &death("q", Reason::Expired), &mut Vec::new());
        assert_eq!(dead.routing_keys, ["k"]);
        assert_eq!(headers(&dead.message).get("CC"), None);
        assert_eq!(x_death(&dead.message)[0].get("routing-keys"), Some(&texts(["key", "a"])));
    }

    #[test]
    fn a8_the_same_queue_and_reason_count_up_and_come_first() {
        let mut dead = die_at(&message(&PropertiesBuilder::default()), "a", Reason::Expired, 1);
        dead = die_at(&dead, "b", Reason::Rejected, 2);
        dead = die_at(&dead, "a", Reason::Rejected, 3);
        assert_eq!(summary(&dead), ["a rejected 1", "b rejected 1", "a expired 1"]);
        dead = die_at(&dead, "a", Reason::Expired, 4);
        assert_eq!(summary(&dead), ["a expired 2", "a rejected 1", "b rejected 1"]);
        // What was first stays.
        assert_eq!(x_death(&dead)[0].get("time"), Some(&Value::Timestamp(1)));
        assert_eq!(x_death(&dead)[0].get("exchange"), Some(&"x".into()));
    }

    #[test]
    fn a8_every_further_entry_is_sorted() {
        let sorted = ["count", "exchange", "queue", "reason", "routing-keys", "time"];
        let first = die(&message(&PropertiesBuilder::default()), "a", Reason::Expired);
        let second = die(&first, "b", Reason::Expired);
        assert_eq!(names(&x_death(&second)[0]), sorted);
        assert_eq!(x_death(&second)[1], x_death(&first)[0]);
        assert_eq!(names(&x_death(&die(&second, "a", Reason::Expired))[0]), sorted);
    }

    #[test]
    fn a8_the_headers_are_sorted() {
        let message = with_headers([
            ("zz", Value::Void),
            ("x-z", Value::Void),
            ("aa", Value::Table(fields([("b", Value::Void), ("a", Value::Void)]))),
            ("CC", texts(["a"])),
            ("x-e", Value::Void),
        ]);
        let dead = headers(&die(&message, "q", Reason::Expired));
        let expected = [
            "CC",
            "aa",
            "x-death",
            "x-e",
            "x-first-death-exchange",
            "x-first-death-queue",
            "x-first-death-reason",
            "x-last-death-exchange",
            "x-last-death-queue",
            "x-last-death-reason",
            "x-z",
            "zz",
        ];
        assert_eq!(names(&dead), expected);
        assert_eq!(dead.get("aa").unwrap().to_string(), "{b: undefined, a: undefined}");
    }

    #[test]
    fn a8_the_first_death_stays_and_the_last_one_changes() {
        let first = die(&message(&PropertiesBuilder::default()), "a", Reason::Expired);
        let dead = headers(&die(&first, "b", Reason::MaxLength));
        for (name, value) in [
            ("x-first-death-reason", "expired"),
            ("x-first-death-queue", "a"),
            ("x-first-death-exchange", "x"),
            ("x-last-death-reason", "maxlen"),
            ("x-last-death-queue", "b"),
            ("x-last-death-exchange", "dlx"),
        ] {
            assert_eq!(dead.get(name), Some(&value.into()), "{name}");
        }
    }

    #[test]
    fn a10_a_clients_history_is_continued_without_a_first_death() {
        let theirs = Value::Table(fields([
            ("reason", "expired".into()),
            ("queue", "q".into()),
            ("foo", Value::Bool(true)),
            ("count", Value::I32(7)),
        ]));
        let message =
            with_headers([("x-death", Value::Array(vec![theirs])), ("x-first-death-queue", "f".into())]);
        let dead = die(&message, "q", Reason::Expired);
        let expected = fields([
            ("count", Value::I64(8)),
            ("foo", Value::Bool(true)),
            ("queue", "q".into()),
            ("reason", "expired".into()),
        ]);
        assert_eq!(x_death(&dead), [expected]);
        assert_eq!(headers(&dead).get("x-first-death-queue"), Some(&"f".into()));
        assert_eq!(headers(&dead).get("x-first-death-reason"), None);
    }

    #[test]
    fn a10_a_clients_other_deaths_come_behind() {
        let theirs = Value::Array(vec![client_death("p", "expired", Value::I32(7))]);
        let dead = die(&with_headers([("x-death", theirs)]), "q", Reason::Expired);
        assert_eq!(summary(&dead), ["q expired 1", "p expired 7"]);
        assert_eq!(x_death(&dead)[1].get("count"), Some(&Value::I32(7)));
        let dead = die(&with_headers([("x-death", Value::Array(vec![]))]), "q", Reason::Expired);
        assert_eq!(names(&x_death(&dead)[0])[..2], ["count", "exchange"]);
        assert_eq!(headers(&dead).get("x-first-death-queue"), None);
    }

    #[test]
    fn a10_deaths_told_twice_are_one() {
        let theirs = Value::Array(vec![
            client_death("p", "expired", Value::I64(1)),
            client_death("q", "expired", Value::I64(7)),
            client_death("q", "expired", Value::I64(2)),
            client_death("p", "expired", Value::I64(5)),
        ]);
        let dead = die(&with_headers([("x-death", theirs)]), "q", Reason::Expired);
        assert_eq!(summary(&dead), ["q expired 8", "p expired 1"]);
    }

    #[test]
    fn a10_junk_is_replaced_without_a_first_death() {
        for junk in ["junk".into(), Value::Void, Value::Table(Table::default())] {
            let dead = die(&with_headers([("x-death", junk)]), "q", Reason::Expired);
            assert_eq!(summary(&dead), ["q expired 1"]);
            assert_eq!(headers(&dead).get("x-first-death-queue"), None);
            assert_eq!(headers(&dead).get("x-last-death-queue"), Some(&"q".into()));
        }
    }

    /// RabbitMQ's queue crashes on these.
    #[test]
    fn a10_junk_in_the_history_does_no_harm() {
        let theirs = Value::Array(vec![
            "junk".into(),
            client_death("q", "expired", "many".into()),
            Value::Table(Table::default()),
            Value::Void,
        ]);
        let dead = die(&with_headers([("x-death", theirs)]), "q", Reason::Expired);
        assert_eq!(summary(&dead), ["q expired 1", "- - -"]);
        for (count, next) in [(i64::MAX, i64::MAX), (-1, 0), (i64::MIN, i64::MIN + 1)] {
            let theirs = Value::Array(vec![client_death("q", "expired", Value::I64(count))]);
            let dead = die(&with_headers([("x-death", theirs)]), "q", Reason::Expired);
            assert_eq!(x_death(&dead)[0].get("count"), Some(&Value::I64(next)));
        }
    }

    #[test]
    fn a10_a_clients_first_death_alone_is_overwritten() {
        let message =
            with_headers([("x-first-death-queue", Value::Void), ("x-first-death-foo", Value::Void)]);
        let dead = headers(&die(&message, "q", Reason::Expired));
        assert_eq!(dead.get("x-first-death-queue"), Some(&"q".into()));
        assert_eq!(dead.get("x-first-death-foo"), Some(&Value::Void));
    }

    #[test]
    fn a_history_that_is_not_interpreted_is_replaced() {
        let theirs = Value::Array(vec![client_death("q", "expired", Value::I64(7))]);
        let message = with_headers([("x-death", theirs), ("x-first-death-queue", "f".into())]);
        let death = Death { interprets_x_death: false, ..death("q", Reason::Expired) };
        let dead = dead_letter(&message, "dlx", None, &death, &mut Vec::new()).message;
        assert_eq!(summary(&dead), ["q expired 1"]);
        assert_eq!(headers(&dead).get("x-first-death-queue"), Some(&"q".into()));
        let death = Death { queue: "r", ..death };
        let dead = dead_letter(&dead, "dlx", None, &death, &mut Vec::new()).message;
        assert_eq!(summary(&dead), ["r expired 1", "q expired 1"], "it is the broker's own");
        assert_eq!(headers(&dead).get("x-first-death-queue"), Some(&"q".into()));
    }

    #[test]
    fn a8_a_cycle_without_a_rejection_is_one() {
        let a = die(&message(&PropertiesBuilder::default()), "a", Reason::Expired);
        assert!(cycles(&a, "a", Reason::Expired));
        assert!(!cycles(&a, "b", Reason::Expired));
        let b = die(&a, "b", Reason::MaxLength);
        assert!(cycles(&b, "a", Reason::MaxLength));
        assert!(cycles(&b, "b", Reason::MaxLength));
    }

    #[test]
    fn a8_a_rejection_never_closes_a_cycle() {
        let a = die(&message(&PropertiesBuilder::default()), "a", Reason::Expired);
        let b = die(&a, "b", Reason::Rejected);
        assert!(!cycles(&b, "a", Reason::Rejected));
        // Nor does what has come since.
        let c = die(&b, "c", Reason::Expired);
        assert!(!cycles(&c, "a", Reason::Expired));
        assert!(!cycles(&c, "b", Reason::Expired));
        assert!(cycles(&c, "c", Reason::Expired));
        // But one that is older than the entry does not count.
        let a = die(&c, "a", Reason::Expired);
        assert_eq!(summary(&a), ["a expired 2", "c expired 1", "b rejected 1"]);
        assert!(cycles(&a, "a", Reason::Expired));
        assert!(cycles(&a, "c", Reason::Expired));
    }

    /// Deviation: 3.10.8 has `[D B A C]` here.
    #[test]
    fn a8_the_newest_comes_first_however_many_there_are() {
        let mut dead = message(&PropertiesBuilder::default());
        for queue in ["A", "B", "C", "D"] {
            dead = die(&dead, queue, Reason::Expired);
        }
        assert_eq!(summary(&dead), ["D expired 1", "C expired 1", "B expired 1", "A expired 1"]);
    }

    /// RabbitMQ drops it, though a rejection is behind the entry.
    #[test]
    fn a8_a_queue_that_is_its_own_dead_letter_queue_may_only_reject() {
        let rejected = die(&message(&PropertiesBuilder::default()), "q", Reason::Rejected);
        assert!(!cycles(&rejected, "q", Reason::Rejected));
        assert!(cycles(&die(&rejected, "q", Reason::Expired), "q", Reason::Expired));
    }

    #[test]
    fn a8_junk_before_the_entry_is_no_automatic_cycle() {
        let entry = || client_death("a", "expired", Value::I64(1));
        let before = with_headers([("x-death", Value::Array(vec!["junk".into(), entry()]))]);
        assert!(!cycles(&before, "a", Reason::Expired));
        let behind = with_headers([("x-death", Value::Array(vec![entry(), "junk".into()]))]);
        assert!(cycles(&behind, "a", Reason::Expired));
        assert!(!cycles(&with_headers([("x-death", "a".into())]), "a", Reason::Expired));
        assert!(!cycles(&message(&PropertiesBuilder::default()), "a", Reason::Expired));
    }

    #[test]
    fn names_that_are_too_long_are_cut() {
        let long = "é".repeat(200);
        let death = death(&long, Reason::Expired);
        let message = message(&PropertiesBuilder::default());
        let dead = dead_letter(&message, &long, Some(&long), &death, &mut Vec::new());
        assert_eq!((dead.message.exchange().len(), dead.message.routing_key().len()), (254, 254));
        assert_eq!(dead.routing_keys, [short(&long)]);
        assert_eq!(x_death(&dead.message)[0].get("queue"), Some(&short(&long).into()));
    }

    #[test]
    fn octets_that_are_no_text_are_kept_where_they_are() {
        let copies = Value::Array(vec![long_string(&[0xff]), Value::I32(1), "a".into()]);
        let message = with_headers([("CC", copies)]);
        let dead = dead_letter(&message, "dlx", None, &death("q", Reason::Expired), &mut Vec::new());
        assert_eq!(dead.routing_keys, ["key", "a"]);
        let expected = Value::Array(vec!["key".into(), long_string(&[0xff]), "a".into()]);
        assert_eq!(x_death(&dead.message)[0].get("routing-keys"), Some(&expected));
        let raw = b"\x20\0\0\0\0\x04\x02\xff\xfeV";
        let body = PublishedBody::Small(b"");
        let message = Message::new(("x", "key"), raw, body, false, None, &mut Vec::new());
        let dead = die(&message, "q", Reason::Expired);
        let properties = Properties::parse(dead.properties()).unwrap();
        assert_eq!(raw_fields(properties.headers.unwrap()).last().unwrap().0, b"\xff\xfe");
    }

    #[test]
    fn damaged_properties_become_sound_ones() {
        let body = PublishedBody::Small(b"");
        let message = Message::new(("x", "key"), &[0xff], body, false, None, &mut Vec::new());
        assert_eq!(summary(&die(&message, "q", Reason::Expired)), ["q expired 1"]);
    }

    /// A name that is short for every other number.
    fn numbered(number: usize) -> String {
        format!("{number:0width$}", width = if number.is_multiple_of(2) { 5 } else { 255 })
    }

    #[test]
    fn the_oldest_deaths_go_when_there_are_too_many() {
        let mut dead = message(&PropertiesBuilder::default());
        for number in 0..400 {
            dead = die(&dead, &numbered(number), Reason::Expired);
        }
        let deaths = x_death(&dead);
        assert!((100..400).contains(&deaths.len()), "{}", deaths.len());
        for (death, number) in deaths.iter().zip((0..400).rev()) {
            assert_eq!(death.get("queue"), Some(&numbered(number).into()));
        }
        let properties = Properties::parse(dead.properties()).unwrap();
        assert!(find_raw(properties.headers.unwrap(), "x-death").unwrap().bytes.len() <= X_DEATH_BYTES_MAX);
    }

    #[test]
    fn the_oldest_deaths_go_when_the_headers_are_large() {
        let theirs = (0..800).map(|number| client_death(&format!("{number:04}"), "expired", Value::Void));
        let theirs = Value::Array(theirs.collect());
        for length in 90_000..90_060 {
            let large = long_string(&vec![b'a'; length]);
            let dead = die(&with_headers([("a", large), ("x-death", theirs.clone())]), "q", Reason::Expired);
            let length = Properties::parse(dead.properties()).unwrap().headers.unwrap().len();
            assert!((HEADERS_BYTES_MAX - 50..=HEADERS_BYTES_MAX).contains(&length), "{length}");
            assert!(headers(&dead).get("a").is_some());
        }
    }

    #[test]
    fn a_death_that_is_too_large_keeps_its_count() {
        let theirs = Value::Table(fields([
            ("queue", "q".into()),
            ("reason", "expired".into()),
            ("count", Value::I64(7)),
            ("large", long_string(&vec![b'a'; 70_000])),
        ]));
        let dead = die(&with_headers([("x-death", Value::Array(vec![theirs]))]), "q", Reason::Expired);
        assert_eq!(summary(&dead), ["q expired 8"]);
        assert_eq!(x_death(&dead)[0].get("routing-keys"), Some(&texts(["key"])));
        let copies = Value::Array(vec![long_string(&vec![b'a'; 70_000])]);
        let dead = die(&with_headers([("CC", copies)]), "q", Reason::Expired);
        assert_eq!(x_death(&dead)[0].get("routing-keys"), Some(&texts(["key"])));
        assert!(headers(&dead).get("CC").is_some());
    }

    #[test]
    fn headers_that_leave_no_room_lose_the_largest() {
        let large = |len| long_string(&vec![b'a'; len]);
        let message = with_headers([("a", large(40_000)), ("b", large(85_000)), ("c", Value::Void)]);
        let dead = headers(&die(&message, "q", Reason::Expired));
        assert_eq!((dead.get("a").is_some(), dead.get("b"), dead.get("c")), (true, None, Some(&Value::Void)));
        // Those of a larger frame may stay as large.
        let message = with_headers([("a", large(200_000)), ("b", large(10_000))]);
        let before = Properties::parse(message.properties()).unwrap().headers.unwrap().len();
        let dead = die(&message, "q", Reason::Expired);
        assert!(Properties::parse(dead.properties()).unwrap().headers.unwrap().len() <= before);
        assert!(headers(&dead).get("b").is_some());
    }

    /// Names that mean something here, and any others.
    fn name() -> impl Strategy<Value = String> {
        let known = ["x-death", "CC", "queue", "reason", "count", "time", "x-first-death-queue", "a", ""];
        prop_oneof![4 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => ".{0,5}"]
    }

    fn value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            prop::sample::select(vec!["q", "p", "expired", "rejected", ""]).prop_map(Value::from),
            any::<Vec<u8>>().prop_map(|octets| Value::LongStr(octets.into())),
            (0..200_000_usize).prop_map(|length| Value::LongStr(vec![0xff; length].into())),
            any::<i64>().prop_map(Value::I64),
            any::<i32>().prop_map(Value::I32),
            any::<u64>().prop_map(Value::Timestamp),
            Just(Value::Void),
        ];
        scalar.prop_recursive(4, 60, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
                prop::collection::vec((name(), inner), 0..8).prop_map(|fields| Value::Table(Table(fields))),
            ]
        })
    }

    /// Property flags and lists, most of them sound: a few octets are not what they were.
    fn raw_properties() -> impl Strategy<Value = Vec<u8>> {
        let headers = prop::collection::vec((name(), value()), 0..8);
        let expiration = prop::option::of(".{0,20}");
        let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
        (headers, expiration, changes).prop_map(|(headers, expiration, changes)| {
            let headers = Some(Table(headers));
            let mut raw = PropertiesBuilder { headers, expiration, ..PropertiesBuilder::default() }.encode();
            for (index, octet) in changes {
                let index = index.index(raw.len());
                raw[index] = octet;
            }
            raw
        })
    }

    fn reason() -> impl Strategy<Value = Reason> {
        prop::sample::select(Reason::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn whatever_the_headers_are_a_dead_letter_is_sound(
            raw in raw_properties(),
            deaths in prop::collection::vec((".{0,300}|q|p", reason(), any::<u64>(), prop::option::of(".{0,300}"), any::<bool>()), 1..5),
        ) {
            let before = Properties::parse(&raw).map_or(0, |properties| properties.headers.map_or(0, <[u8]>::len));
            let body = PublishedBody::Small(b"body");
            let mut message = Message::new(("x", "key"), &raw, body, true, Some(1), &mut Vec::new());
            let mut scratch = Vec::new();
            for (queue, reason, time_secs, key, interprets_x_death) in &deaths {
                let death = Death { queue, reason: *reason, time_secs: *time_secs, interprets_x_death: *interprets_x_death };
                let dead = dead_letter(&message, "dlx", key.as_deref(), &death, &mut scratch);
                message = dead.message;
                let properties = Properties::parse(message.properties()).expect("sound properties");
                prop_assert_eq!(properties.expiration, None);
                prop_assert_eq!(dead.routing_keys[0].as_bytes(), message.routing_key());
                let headers = properties.headers.expect("headers");
                prop_assert!(headers.len() <= HEADERS_BYTES_MAX.max(before));
                prop_assert!(raw_fields(headers).map(|(name, ..)| name).is_sorted());
                let x_death = find_raw(headers, "x-death").expect("a history");
                prop_assert!(x_death.bytes.len() <= X_DEATH_BYTES_MAX);
                let elements: Vec<_> = x_death.elements().collect();
                prop_assert!(elements.iter().all(|element| element.kind == b'F'));
                let pairs: HashSet<_> = elements.iter().map(|element| pair(element.bytes)).collect();
                prop_assert_eq!(pairs.len(), elements.len());
                prop_assert!(has_text(elements[0].bytes, "reason", reason.name()));
                prop_assert_eq!(is_cycle(&properties, short(queue), *reason), *reason != Reason::Rejected);
                prop_assert_eq!(message.body().as_slice(), b"body");
            }
        }
    }
}
