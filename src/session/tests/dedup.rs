//! Duplicates as publishers notice them, and across a restart.

use std::path::Path;

use super::*;
use crate::{
    amqp::{PropertiesBuilder, Table, Value},
    broker::{effects::Effects, journal::Fact},
    storage::{Log, Options, disk::FileDisk, open},
};

fn fields(fields: &[(&str, Value)]) -> Vec<u8> {
    let table: Table = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let mut encoded = Vec::new();
    table.encode(&mut encoded);
    encoded.split_off(4)
}

/// Declares a queue and, unless its name is empty, an exchange with these arguments that leads there.
fn declare(script: &mut Script, exchange: (&str, &str, &[(&str, Value)]), queue: (&str, &[(&str, Value)])) {
    let declared = wire::declare_queue_with(queue.0, wire::DURABLE, &fields(queue.1));
    script.send(1, declared);
    assert!(matches!(script.next(), Some(Event::DeclareOk { .. })));
    let (name, kind, arguments) = exchange;
    if !name.is_empty() {
        let method = Method::new(40, 10).u16(0).short(name).short(kind).u8(wire::DURABLE);
        script.send(1, method.long(&fields(arguments)));
        script.expect_ids(1, (40, 11));
        script.send(1, wire::bind_queue(queue.0, name, ""));
        script.expect_ids(1, (50, 21));
    }
}

const SIZE: &str = "x-cache-size";
const UNIQUE: &str = "x-message-deduplication";

fn unique(script: &mut Script) {
    declare(script, ("x", UNIQUE, &[(SIZE, Value::I32(9))]), ("q", &[]));
}

fn with_headers(headers: &[(&str, Value)], delivery_mode: u8) -> Vec<u8> {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let (headers, delivery_mode) = (Some(headers), Some(delivery_mode));
    PropertiesBuilder { headers, delivery_mode, ..PropertiesBuilder::default() }.encode()
}

/// A persistent message with that key, which is its body, too.
fn keyed(exchange: &str, bits: u8, key: &str) -> Vec<u8> {
    let properties = with_headers(&[("x-deduplication-header", key.into())], 2);
    wire::publish(1, exchange, "q", bits, &properties, key.as_bytes())
}

fn publish(script: &mut Script, exchange: &str, keys: &[&str]) {
    script.raw(&keys.iter().flat_map(|key| keyed(exchange, 0, key)).collect::<Vec<_>>());
}

fn confirm(script: &mut Script) {
    script.send(1, wire::confirm_select());
    script.expect_ids(1, (85, 11));
}

/// The bodies in the queue, from the head on.
fn drain(script: &mut Script, queue: &str) -> Vec<String> {
    let mut bodies = Vec::new();
    loop {
        script.send(1, wire::get(queue, true));
        match script.next() {
            Some(Event::GetOk { body, .. }) => bodies.push(String::from_utf8_lossy(&body).into_owned()),
            _ => return bodies,
        }
    }
}

#[test]
fn b4_a_duplicate_is_confirmed_and_not_returned() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    declare(&mut script, ("alternate", "fanout", &[]), ("unrouted", &[]));
    let arguments = [(SIZE, Value::I32(9)), ("alternate-exchange", "alternate".into())];
    declare(&mut script, ("x", UNIQUE, &arguments), ("q", &[]));
    confirm(&mut script);
    let twice = [keyed("x", wire::MANDATORY, "a"), keyed("x", wire::MANDATORY, "a")].concat();
    script.raw(&twice);
    script.expect(Event::Ack { channel: 1, tag: 2, multiple: true });
    script.raw(&keyed("x", wire::MANDATORY, "a"));
    script.expect(Event::Ack { channel: 1, tag: 3, multiple: false });
    assert_eq!(drain(&mut script, "q"), ["a"]);
    assert_eq!(script.count("unrouted"), 0, "it is not unroutable");
    publish(&mut script, "x", &["a"]);
    script.expect(Event::Ack { channel: 1, tag: 4, multiple: false });
    assert_eq!(script.count("q"), 0, "the exchange remembers");
}

#[test]
fn b4_what_a_queue_rejects_may_come_again() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    let full = [("x-max-length", Value::I32(1)), ("x-overflow", "reject-publish".into())];
    declare(&mut script, ("x", UNIQUE, &[(SIZE, Value::I32(9))]), ("q", &full));
    confirm(&mut script);
    publish(&mut script, "x", &["a"]);
    script.expect(Event::Ack { channel: 1, tag: 1, multiple: false });
    publish(&mut script, "x", &["b"]);
    script.expect_ids(1, (60, 120));
    assert_eq!(drain(&mut script, "q"), ["a"]);
    publish(&mut script, "x", &["b"]);
    script.expect(Event::Ack { channel: 1, tag: 3, multiple: false });
    assert_eq!(drain(&mut script, "q"), ["b"]);
}

#[test]
fn b4_what_no_queue_gets_may_come_again() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    unique(&mut script);
    script.send(1, wire::unbind_queue("q", "x", ""));
    script.expect_ids(1, (50, 51));
    script.raw(&keyed("x", wire::MANDATORY, "a"));
    assert!(matches!(script.next(), Some(Event::Return { code: 312, .. })));
    script.send(1, wire::bind_queue("q", "x", ""));
    script.expect_ids(1, (50, 21));
    script.raw(&keyed("x", wire::MANDATORY, "a"));
    script.expect_nothing();
    assert_eq!(drain(&mut script, "q"), ["a"]);
}

#[test]
fn b4_a_transaction_takes_its_keys_when_it_commits() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    unique(&mut script);
    script.send(1, wire::tx_select());
    script.expect_ids(1, (90, 11));
    publish(&mut script, "x", &["a"]);
    script.send(1, wire::tx_rollback());
    script.expect_ids(1, (90, 31));
    publish(&mut script, "x", &["a", "a", "b"]);
    assert_eq!(script.count("q"), 0);
    script.send(1, wire::tx_commit());
    script.expect_ids(1, (90, 21));
    assert_eq!(drain(&mut script, "q"), ["a", "b"]);
}

#[test]
fn b4_any_type_may_tell_duplicates_and_the_message_for_how_long() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    let arguments = [
        (UNIQUE, Value::Bool(true)),
        ("x-cache-ttl", Value::I32(100)),
        ("x-deduplication-header", "id".into()),
    ];
    declare(&mut script, ("x", "direct", &arguments), ("q", &[]));
    script.send(1, wire::bind_queue("q", "x", "q"));
    script.expect_ids(1, (50, 21));
    let send = |script: &mut Script, fields: &[(&str, Value)]| {
        script.raw(&wire::publish(1, "x", "q", 0, &with_headers(fields, 1), b"body"));
    };
    for _ in 0..2 {
        send(&mut script, &[("id", Value::I32(7))]);
        send(&mut script, &[("id", Value::I64(8)), ("x-cache-ttl", Value::I32(1000))]);
        send(&mut script, &[("x-deduplication-header", "a".into())]);
    }
    assert_eq!(drain(&mut script, "q").len(), 4, "two without a key, and 7 and 8 once");
    script.wait_ms(100);
    send(&mut script, &[("id", Value::I32(7))]);
    send(&mut script, &[("id", Value::I32(8))]);
    assert_eq!(drain(&mut script, "q").len(), 1);
}

#[test]
fn b4_dead_letters_are_compared_too() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    unique(&mut script);
    declare(&mut script, ("", "", &[]), ("u", &[(UNIQUE, Value::Bool(true))]));
    for (name, exchange, key) in [("to-x", "x", "q"), ("to-u", "", "u")] {
        let arguments =
            fields(&[("x-dead-letter-exchange", exchange.into()), ("x-dead-letter-routing-key", key.into())]);
        script.send(1, wire::declare_queue_with(name, wire::DURABLE, &arguments));
        assert!(matches!(script.next(), Some(Event::DeclareOk { .. })));
        for tag in 1..=3 {
            let properties =
                with_headers(&[("x-deduplication-header", if tag == 3 { "b" } else { "a" }.into())], 2);
            script.raw(&wire::publish(1, "", name, 0, &properties, b"body"));
        }
        for _ in 0..3 {
            script.send(1, wire::get(name, false));
            let Some(Event::GetOk { tag, .. }) = script.next() else { panic!("a message") };
            script.send(1, wire::reject(tag, false));
        }
        assert_eq!(script.count(name), 0);
    }
    assert_eq!((script.count("q"), script.count("u")), (2, 2));
}

/// What may not be lost stays in its queue until its new queue has it: as what it repeats does.
#[test]
fn b4_a_dead_letter_that_may_not_be_lost_has_arrived_with_what_it_repeats() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    unique(&mut script);
    let arguments = [
        ("x-queue-type", "quorum".into()),
        ("x-dead-letter-exchange", "x".into()),
        ("x-dead-letter-strategy", "at-least-once".into()),
        ("x-overflow", "reject-publish".into()),
    ];
    declare(&mut script, ("", "", &[]), ("dying", &arguments));
    let properties = with_headers(&[("x-deduplication-header", "a".into())], 2);
    for _ in 0..2 {
        script.raw(&wire::publish(1, "", "dying", 0, &properties, b"body"));
        script.send(1, wire::get("dying", false));
        let Some(Event::GetOk { tag, .. }) = script.next() else { panic!("a message") };
        script.syncs = false;
        script.send(1, wire::reject(tag, false));
        script.wake();
        let facts = script.facts().expect("it has left").facts;
        assert!(facts.iter().any(|fact| matches!(fact, Fact::Settle { .. })), "{facts:?}");
        script.syncs = true;
    }
    assert_eq!(script.count("q"), 1);
}

#[test]
fn b4_what_an_exchange_has_delayed_is_no_duplicate_of_itself() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    let arguments = [("x-delayed-type", "fanout".into()), (UNIQUE, Value::Bool(true))];
    declare(&mut script, ("x", "x-delayed-message", &arguments), ("q", &[]));
    let headers = [("x-deduplication-header", "a".into()), ("x-delay", Value::I32(100))];
    for _ in 0..2 {
        script.raw(&wire::publish(1, "x", "", 0, &with_headers(&headers, 2), b"a"));
    }
    publish(&mut script, "x", &["a"]);
    assert_eq!(script.count("q"), 0);
    script.wait_ms(100);
    while broker.tick(script.now()) {}
    script.wake();
    assert_eq!(drain(&mut script, "q"), ["a"]);
}

/// A full queue, and publishers that try again and again, do not make an exchange forget what it has taken.
#[test]
fn b4_what_is_rejected_drives_out_no_key() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    let full = [("x-max-length", Value::I32(1)), ("x-overflow", "reject-publish".into())];
    declare(&mut script, ("x", UNIQUE, &[(SIZE, Value::I32(1))]), ("q", &full));
    publish(&mut script, "x", &["a"]);
    for key in ["b", "c", "d", "b"] {
        publish(&mut script, "x", &[key]);
    }
    assert_eq!(drain(&mut script, "q"), ["a"]);
    publish(&mut script, "x", &["a", "b"]);
    assert_eq!(drain(&mut script, "q"), ["b"]);
}

#[test]
fn b4_a_key_is_in_the_log_with_its_message() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    declare(
        &mut script,
        ("x", UNIQUE, &[(SIZE, Value::I32(9))]),
        ("q", &[(UNIQUE, Value::Bool(true)), (SIZE, Value::I32(9))]),
    );
    script.syncs = false;
    publish(&mut script, "x", &["a", "a"]);
    let facts = script.facts().expect("facts").facts;
    let seen = facts.iter().filter(|fact| matches!(fact, Fact::Seen { .. })).count();
    let published = facts.iter().filter(|fact| matches!(fact, Fact::Publish { .. })).count();
    assert_eq!((facts.len(), seen, published), (3, 2, 1), "{facts:?}");
}

#[test]
fn b4_a_duplicate_is_confirmed_when_what_it_repeats_is_durable() {
    for exchange in ["x", ""] {
        let broker = broker(limits());
        let (mut first, mut second) = (Script::with_channel(&broker), Script::with_channel(&broker));
        declare(&mut first, ("x", UNIQUE, &[(SIZE, Value::I32(9))]), ("q", &[(UNIQUE, Value::Bool(true))]));
        confirm(&mut first);
        confirm(&mut second);
        (first.syncs, second.syncs) = (false, false);
        publish(&mut first, exchange, &["a"]);
        publish(&mut second, exchange, &["a"]);
        second.expect_nothing();
        second.wake();
        second.expect_nothing();
        second.sync();
        second.wake();
        second.expect(Event::Ack { channel: 1, tag: 1, multiple: false });
        first.wake();
        first.expect(Event::Ack { channel: 1, tag: 1, multiple: false });
        assert_eq!(first.count("q"), 1);
    }
}

/// A broker with what the directory holds, and its log.
fn started(directory: &Path) -> (Arc<Broker>, Log) {
    let options = Options { segment_bytes: 1 << 20, salvage: false };
    let opened = open(Arc::new(FileDisk::new(directory)), options).expect("a sound directory");
    let broker = broker(limits());
    broker.restore(opened.recovered, Now::made_up(1_000_000));
    broker.learn_keys(Now::made_up(1_000_000), |load| opened.reader.load(load)).expect("it can be read");
    (broker, opened.log)
}

/// Writes the facts so far, and lets the session notice.
fn write(script: &mut Script, log: &mut Log) {
    while let Some(batch) = script.facts() {
        log.write(&batch.facts, script.now_ms).expect("written");
        log.sync().expect("synced");
        script.mark_durable(&batch);
        script.wake();
    }
}

#[test]
fn b4_keys_are_known_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let sent = |script: &mut Script, log: &mut Log, (exchange, to): (&str, &str), key: &str, mode: u8| {
        let properties = with_headers(&[("x-deduplication-header", key.into())], mode);
        script.feed(&wire::publish(1, exchange, to, 0, &properties, b"body"));
        write(script, log);
    };
    let ways = [("x", "q"), ("", "u"), ("", "held")];
    {
        let (broker, mut log) = started(directory.path());
        let mut script = Script::with_channel(&broker);
        script.syncs = false;
        let declarations = [
            wire::declare_queue("q", wire::DURABLE),
            wire::declare_queue_with(
                "u",
                wire::DURABLE,
                &fields(&[(UNIQUE, Value::Bool(true)), (SIZE, Value::I32(9))]),
            ),
            // This one knows what it holds, no more.
            wire::declare_queue_with("held", wire::DURABLE, &fields(&[(UNIQUE, Value::Bool(true))])),
            Method::new(40, 10)
                .u16(0)
                .short("x")
                .short(UNIQUE)
                .u8(wire::DURABLE)
                .long(&fields(&[(SIZE, Value::I32(9))])),
            wire::bind_queue("q", "x", ""),
        ];
        for declaration in declarations {
            script.feed(&declaration.on(1));
            write(&mut script, &mut log);
        }
        for way in ways {
            sent(&mut script, &mut log, way, "a", 2);
            sent(&mut script, &mut log, way, "transient", 1);
        }
        log.close().expect("closed");
    }
    let (broker, mut log) = started(directory.path());
    let mut script = Script::with_channel(&broker);
    script.syncs = false;
    let ready = |name| {
        broker.virtual_host("/").and_then(|host| host.queue(name)).map(|queue| queue.lock().ready_count())
    };
    for (exchange, queue) in ways {
        let way = (exchange, queue);
        assert_eq!(ready(queue), Some(1), "the persistent one");
        sent(&mut script, &mut log, way, "a", 2);
        assert_eq!(ready(queue), Some(1), "a is known");
        sent(&mut script, &mut log, way, "transient", 1);
        sent(&mut script, &mut log, way, "transient", 1);
        assert_eq!(ready(queue), Some(2), "what was lost may come again, once");
    }
    let held = broker.virtual_host("/").and_then(|host| host.queue("held")).expect("it is there");
    held.lock().purge(&mut Effects::default());
    sent(&mut script, &mut log, ("", "held"), "a", 2);
    assert_eq!(ready("held"), Some(1), "what it does not hold any more may come again");
}
