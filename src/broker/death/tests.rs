//! Dead letters as RabbitMQ makes them, and whatever headers come.

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
    let message = with_headers([("x-first-death-queue", Value::Void), ("x-first-death-foo", Value::Void)]);
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
