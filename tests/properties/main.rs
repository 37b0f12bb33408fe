//! Octets of strangers, clients and vandals: whatever comes, no panic, and bounded memory. The checks are the ones that
//! the fuzz targets of `tests/fuzz/` call; here they run on stable Rust.
//!
//! `FUZZ_SECONDS=60` runs for that long; without it each property takes `PROPTEST_CASES` cases, or 256.

mod checks;
#[path = "../wire/mod.rs"]
mod wire;

use std::time::{Duration, Instant};

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};

/// Any conversation of a client that knows AMQP, one element a frame or a content.
fn conversation() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(frames(), 0..40)
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let channel = prop_oneof![8 => Just(1_u16), 2 => Just(2), 1 => 0..25_u16];
    let queue =
        prop_oneof![6 => Just("q"), 1 => Just("r"), 1 => Just(""), 1 => Just("amq.rabbitmq.reply-to")];
    let method = (method(queue.clone()), channel.clone()).prop_map(|(method, channel)| method.on(channel));
    let exchange =
        prop_oneof![Just(""), Just("amq.fanout"), Just("amq.headers"), Just("amq.topic"), Just("x")];
    let body = prop_oneof![prop::collection::vec(any::<u8>(), 0..20), Just(vec![7; 3000])];
    let properties = prop_oneof![
        3 => Just(wire::TRANSIENT.to_vec()),
        3 => Just(wire::PERSISTENT.to_vec()),
        1 => (any::<u16>(), prop::collection::vec(any::<u8>(), 0..60)).prop_map(|(flags, list)| {
            [&flags.to_be_bytes()[..], &list].concat()
        }),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(|table| {
            [&[0x20, 0][..], &(table.len() as u32).to_be_bytes(), &table].concat()
        }),
    ];
    let publish = (channel, exchange, queue, 0..2_u8, properties, body).prop_map(
        |(channel, exchange, key, bits, properties, body)| {
            wire::publish(channel, exchange, key, bits, &properties, &body)
        },
    );
    prop_oneof![4 => method, 4 => publish, 1 => Just(wire::heartbeat())]
}

fn method(
    queue: impl Strategy<Value = &'static str> + Clone + 'static,
) -> impl Strategy<Value = wire::Method> {
    let tag = || prop_oneof![6 => 0..6_u64, 1 => any::<u64>()];
    let table = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(any::<u8>(), 0..30)];
    prop_oneof![
        2 => Just(wire::channel_open()),
        1 => Just(wire::channel_close()),
        1 => Just(wire::channel_close_ok()),
        2 => (queue.clone(), 0..32_u8, table).prop_map(|(queue, bits, table)| {
            wire::declare_queue_with(queue, bits, &table)
        }),
        1 => queue.clone().prop_map(|queue| wire::bind_queue(queue, "amq.fanout", "")),
        1 => queue.clone().prop_map(|queue| wire::unbind_queue(queue, "amq.fanout", "")),
        1 => queue.clone().prop_map(wire::purge),
        1 => queue.clone().prop_map(wire::delete_queue),
        4 => (queue.clone(), 0..8_u8, "[ab]?").prop_map(|(queue, bits, tag)| wire::consume(queue, &tag, bits)),
        1 => "[ab]".prop_map(|tag| wire::cancel(&tag)),
        4 => (queue, any::<bool>()).prop_map(|(queue, no_ack)| wire::get(queue, no_ack)),
        2 => (0..4_u16, any::<bool>()).prop_map(|(count, global)| wire::qos(count, global)),
        4 => (tag(), any::<bool>()).prop_map(|(tag, multiple)| wire::ack(tag, multiple)),
        3 => (tag(), any::<bool>(), any::<bool>()).prop_map(|(tag, multiple, requeue)| wire::nack(tag, multiple, requeue)),
        1 => Just(wire::recover(true)),
        1 => Just(wire::confirm_select()),
        1 => Just(wire::tx_select()),
        1 => Just(wire::tx_commit()),
        1 => Just(wire::tx_rollback()),
        1 => (any::<u16>(), any::<u16>(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(class, id, arguments)| {
            let mut method = wire::Method::new(class % 100, id % 130);
            method.0.extend(arguments);
            method
        }),
    ]
}

/// A handshake that may go wrong.
fn handshake() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let start_ok = prop::collection::vec(any::<u8>(), 0..30)
        .prop_map(|table| wire::start_ok_with(&table, "PLAIN", b"\0guest\0guest").on(0));
    let step = prop_oneof![
        2 => Just(wire::start_ok("guest", "guest", &["authentication_failure_close"]).on(0)),
        1 => start_ok,
        2 => (0..30_u16, prop_oneof![Just(4096), 0..9000_u32], 0..5_u16)
            .prop_map(|(channels, frame, heartbeat)| wire::tune_ok(channels, frame, heartbeat).on(0)),
        2 => Just(wire::open("/").on(0)),
        1 => frames(),
    ];
    prop::collection::vec(step, 0..6).prop_map(|mut steps| {
        steps.insert(0, wire::HEADER.to_vec());
        steps
    })
}

/// Octets of those, with a few of them changed, left out or put in.
fn damaged(whole: impl Strategy<Value = Vec<Vec<u8>>>) -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, any::<u8>()), 0..4);
    (whole, prop::bool::weighted(0.6), damage).prop_map(|(pieces, is_sound, damage)| {
        let mut octets = pieces.concat();
        for (place, how, octet) in damage {
            if is_sound || octets.is_empty() {
                break;
            }
            let place = place.index(octets.len());
            match how {
                0 => octets[place] = octet,
                1 => drop(octets.remove(place)),
                2 => octets.insert(place, octet),
                _ => octets.truncate(place),
            }
        }
        octets
    })
}

/// Runs a property for its cases, or its share of `FUZZ_SECONDS`.
fn run(strategy: impl Strategy<Value = Vec<u8>>, check: fn(&[u8])) {
    let seconds =
        std::env::var("FUZZ_SECONDS").ok().map(|text| text.parse().expect("FUZZ_SECONDS is a number"));
    let end = seconds.map(|seconds: u64| Instant::now() + Duration::from_secs(seconds));
    loop {
        let config = Config { failure_persistence: None, ..Config::default() };
        let outcome = TestRunner::new(config).run(&strategy, |octets| {
            check(&octets);
            Ok::<(), TestCaseError>(())
        });
        outcome.unwrap_or_else(|error| panic!("{error}"));
        if end.is_none_or(|end| Instant::now() >= end) {
            return;
        }
    }
}

#[test]
fn frames_are_found_in_any_octets() {
    run(damaged(conversation()), checks::check_frames);
    run(prop::collection::vec(any::<u8>(), 0..200), checks::check_frames);
}

#[test]
fn tables_are_read_or_refused() {
    run(
        prop::collection::vec(prop_oneof![0..6_u8, Just(b'F'), Just(b'A'), any::<u8>()], 0..100),
        checks::check_table,
    );
}

#[test]
fn strangers_do_no_harm() {
    run(damaged(handshake()), checks::check_stranger);
}

#[test]
fn clients_do_no_harm() {
    run(damaged(conversation()), checks::check_client);
}
