//! Deliveries that are not acknowledged in time, on a clock made of numbers.

use super::*;
use crate::broker::ConsumerTimeout;

/// A broker where deliveries may take that long, and consumers that are late are cancelled or not.
fn timed(default_ms: u64, cancels: bool) -> Arc<Broker> {
    let mut broker = Arc::into_inner(broker(limits())).expect("nobody else has it");
    broker.consumer_timeout = ConsumerTimeout { default_ms, cancels };
    Arc::new(broker)
}

fn timeout_field(ms: u32) -> Vec<u8> {
    wire::field("x-consumer-timeout", b'I', &ms.to_be_bytes())
}

fn consume(queue: &str, tag: &str, timeout_ms: Option<u32>) -> Method {
    let arguments = timeout_ms.map_or_else(Vec::new, timeout_field);
    Method::new(60, 20).u16(0).short(queue).short(tag).u8(0).long(&arguments)
}

/// A consumer `c` on channel 1 of a new queue `q`.
fn consuming(broker: &Arc<Broker>, of_queue: Option<u32>, of_consumer: Option<u32>) -> Script {
    let mut script = Script::with_channel(broker);
    declare(&mut script, "q", of_queue);
    script.send(1, consume("q", "c", of_consumer));
    script.expect_ids(1, (60, 21));
    script
}

fn declare(script: &mut Script, queue: &str, timeout_ms: Option<u32>) {
    let arguments = timeout_ms.map_or_else(Vec::new, timeout_field);
    script.send(1, wire::declare_queue_with(queue, 0, &arguments));
    script.expect_ids_of_declare();
}

fn publish(script: &mut Script, queue: &str, body: &str) {
    script.publish(1, "", queue, 0, wire::TRANSIENT, body.as_bytes());
}

/// Deliveries of one queue, and the first tag of them.
fn deliver(script: &mut Script, queue: &str, bodies: &[&str]) -> Vec<u64> {
    bodies.iter().for_each(|body| publish(script, queue, body));
    script.expect_deliveries(&bodies.iter().map(|body| (*body, false)).collect::<Vec<_>>())
}

fn text(channel: u16, ms: u64) -> String {
    format!(
        "PRECONDITION_FAILED - delivery acknowledgement on channel {channel} timed out. Timeout value used: {ms} ms. \
         This timeout value can be configured, see consumers doc guide to learn more"
    )
}

impl Script {
    fn expect_ids_of_declare(&mut self) {
        assert!(matches!(self.next(), Some(Event::DeclareOk { .. })));
    }
}

#[test]
fn a6_a_late_acknowledgement_closes_the_channel() {
    let broker = timed(1500, false);
    let mut script = consuming(&broker, None, None);
    script.open_channel(2);
    deliver(&mut script, "q", &["1", "2"]);
    script.wait_ms(1499);
    script.expect_nothing();
    script.wait_ms(1);
    assert_eq!(script.expect_channel_close(1, 406, &text(1, 1500)), (0, 0));
    script.send(1, wire::channel_close_ok());
    script.send(2, wire::get("q", false));
    match script.next() {
        Some(Event::GetOk { redelivered: true, left: 1, body, .. }) => assert_eq!(body, b"1"),
        event => panic!("{event:?}"),
    }
    assert_eq!(script.session.deadline_ms(), Some(script.now_ms + 1500), "basic.get has to be in time too");
    script.wait_ms(1500);
    script.expect_channel_close(2, 406, &text(2, 1500));
}

#[test]
fn a6_what_is_acknowledged_in_time_is_not_late() {
    let mut script = consuming(&timed(1000, false), None, None);
    for body in ["1", "2", "3"] {
        let tags = deliver(&mut script, "q", &[body]);
        script.wait_ms(900);
        script.send(1, wire::ack(tags[0], false));
    }
    script.wait_ms(10_000);
    script.expect_nothing();
    assert_eq!(script.session.deadline_ms(), None, "there is nothing to wait for");
}

#[test]
fn a6_the_oldest_delivery_that_is_left_counts() {
    let mut script = consuming(&timed(1000, false), None, None);
    let first = deliver(&mut script, "q", &["1", "2"]);
    script.wait_ms(500);
    deliver(&mut script, "q", &["3"]);
    script.wait_ms(400);
    script.send(1, wire::ack(first[1], true));
    script.wait_ms(599);
    script.expect_nothing();
    script.wait_ms(1);
    script.expect_channel_close(1, 406, &text(1, 1000));
}

#[test]
fn b1_the_consumer_says_or_else_the_queue_or_else_the_node() {
    type Case = (u64, Option<u32>, Option<u32>, Option<u64>);
    let cases: [Case; 9] = [
        (0, None, None, None),
        (1000, None, None, Some(1000)),
        (1000, Some(500), None, Some(500)),
        (1000, Some(2000), None, Some(2000)),
        (1000, Some(0), None, None),
        (1000, Some(500), Some(700), Some(700)),
        (1000, Some(500), Some(0), None),
        (0, Some(0), Some(300), Some(300)),
        (0, Some(800), None, Some(800)),
    ];
    for (of_node, of_queue, of_consumer, expected) in cases {
        let mut script = consuming(&timed(of_node, false), of_queue, of_consumer);
        deliver(&mut script, "q", &["1"]);
        let left_ms = script.session.deadline_ms().map(|deadline_ms| deadline_ms - script.now_ms);
        assert_eq!(left_ms, expected, "{of_node} {of_queue:?} {of_consumer:?}");
    }
}

#[test]
fn b2_a_timeout_that_is_none_is_refused() {
    let mut script = Script::with_channel(&timed(0, false));
    script.declare("q", 0);
    for (field, reason) in [
        (wire::text_field("x-consumer-timeout", "1"), "\"expected integer, got longstr\""),
        (wire::field("x-consumer-timeout", b'I', &(-1_i32).to_be_bytes()), "{value_negative,-1}"),
    ] {
        script.send(1, Method::new(60, 20).u16(0).short("q").short("c").u8(0).long(&field));
        let text = format!(
            "PRECONDITION_FAILED - invalid arg 'x-consumer-timeout' for queue 'q' in vhost '/': {reason}"
        );
        script.expect_channel_close(1, 406, &text);
        script.send(1, wire::channel_close_ok());
        script.open_channel(1);
    }
}

#[test]
fn a6_timeouts_of_several_lengths_are_each_kept() {
    let mut script = consuming(&timed(0, false), None, Some(3000));
    declare(&mut script, "r", Some(1000));
    script.send(1, consume("r", "d", None));
    script.expect_ids(1, (60, 21));
    deliver(&mut script, "q", &["q1"]);
    let tags = deliver(&mut script, "r", &["r1"]);
    script.wait_ms(999);
    script.send(1, wire::ack(tags[0], false));
    script.wait_ms(2000);
    script.expect_nothing();
    script.wait_ms(1);
    script.expect_channel_close(1, 406, &text(1, 3000));
}

#[test]
fn a6_deliveries_that_need_no_acknowledgement_are_never_late() {
    let mut script = Script::with_channel(&timed(100, false));
    script.declare("q", 0);
    script.send(1, wire::consume("q", "c", wire::NO_ACK));
    script.expect_ids(1, (60, 21));
    deliver(&mut script, "q", &["1"]);
    assert_eq!(script.session.deadline_ms(), None);
}

#[test]
fn a7_what_a_transaction_gives_back_is_late_as_before() {
    let mut script = consuming(&timed(1000, false), None, None);
    script.send(1, wire::tx_select());
    script.expect(Event::bare(1, 90, 11));
    script.publish(1, "", "q", 0, wire::TRANSIENT, b"1");
    script.send(1, wire::tx_commit());
    let tags = script.expect_deliveries(&[("1", false)]);
    script.expect(Event::bare(1, 90, 21));
    script.send(1, wire::ack(tags[0], false));
    script.wait_ms(1500);
    script.expect_nothing();
    script.send(1, wire::tx_rollback());
    script.expect(Event::bare(1, 90, 31));
    script.wait_ms(0);
    script.expect_channel_close(1, 406, &text(1, 1000));
}

#[test]
fn a6_a_late_consumer_is_cancelled_where_4_3_is_followed() {
    let broker = timed(1000, true);
    let mut script = consuming(&broker, None, None);
    script.send(1, consume("q", "patient", Some(0)));
    script.expect_ids(1, (60, 21));
    // They take turns.
    let tags = deliver(&mut script, "q", &["1", "2", "3"]);
    script.wait_ms(1000);
    let cancel = script.expect_ids(1, (60, 30));
    assert_eq!(cancel, [1, b'c', 1], "the tag, and no answer is expected");
    let redelivered = script.expect_deliveries(&[("1", true), ("3", true)]);
    // What comes late is still known, once, and does nothing.
    script.send(1, wire::ack(tags[0], false));
    script.send(1, wire::ack(tags[2], true));
    script.expect_nothing();
    script.send(1, wire::ack(tags[2], false));
    script.expect_channel_close(1, 406, &format!("PRECONDITION_FAILED - unknown delivery tag {}", tags[2]));
    assert_eq!(redelivered.len(), 2);
    script.send(1, wire::channel_close_ok());
    script.open_channel(1);
    assert_eq!(script.count("q"), 2, "2 was acknowledged with 3, and what was delivered again was not");
}

#[test]
fn a6_a_cancelled_delivery_has_not_failed() {
    let broker = timed(0, true);
    let mut script = Script::with_channel(&broker);
    let quorum = [wire::text_field("x-queue-type", "quorum"), timeout_field(1000)].concat();
    script.send(1, wire::declare_queue_with("q", wire::DURABLE, &quorum));
    script.expect_ids_of_declare();
    script.send(1, consume("q", "c", None));
    script.expect_ids(1, (60, 21));
    deliver(&mut script, "q", &["1"]);
    script.wait_ms(1000);
    script.expect_ids(1, (60, 30));
    script.send(1, consume("q", "d", None));
    script.expect_ids(1, (60, 21));
    match script.next() {
        Some(Event::Deliver { redelivered: true, properties, .. }) => {
            assert_eq!(properties, wire::TRANSIENT, "no x-delivery-count");
        }
        event => panic!("{event:?}"),
    }
}

#[test]
fn a6_who_can_not_be_told_loses_the_channel() {
    let broker = timed(1000, true);
    let mut script = Script::accepted(&broker, "127.0.0.1:50000");
    script.raw(wire::HEADER);
    script.send(0, wire::start_ok("guest", "guest", &[]));
    script.send(0, wire::tune_ok(2047, 131_072, 0));
    script.send(0, wire::open("/"));
    for ids in [(10, 10), (10, 30), (10, 41)] {
        script.expect_ids(0, ids);
    }
    script.open_channel(1);
    script.declare("q", 0);
    script.send(1, consume("q", "c", None));
    script.expect_ids(1, (60, 21));
    deliver(&mut script, "q", &["1"]);
    script.wait_ms(1000);
    script.expect_channel_close(1, 406, &text(1, 1000));
}

#[test]
fn a6_a_limit_of_the_channel_is_given_back_once() {
    let broker = timed(1000, true);
    let mut script = Script::with_channel(&broker);
    script.declare("q", 0);
    script.send(1, wire::qos(1, true));
    script.expect(Event::bare(1, 60, 11));
    script.send(1, consume("q", "c", None));
    script.expect_ids(1, (60, 21));
    let tags = deliver(&mut script, "q", &["1"]);
    script.wait_ms(1000);
    script.expect_ids(1, (60, 30));
    script.send(1, consume("q", "d", None));
    script.expect_ids(1, (60, 21));
    script.expect_deliveries(&[("1", true)]);
    script.send(1, wire::ack(tags[0], false));
    publish(&mut script, "q", "2");
    script.expect_nothing();
}

#[test]
fn a6_many_late_consumers_are_forgotten() {
    let mut script = Script::with_channel(&timed(0, false));
    script.declare("q", 0);
    for number in 0..1000 {
        let tag = format!("c{number}");
        script.send(1, consume("q", &tag, Some(1000 + number)));
        script.expect_ids(1, (60, 21));
        if number == 500 {
            deliver(&mut script, "q", &["1"]);
        }
        script.send(1, wire::cancel(&tag));
        script.expect_ids(1, (60, 31));
    }
    script.wait_ms(1499);
    script.expect_nothing();
    script.wait_ms(1);
    script.expect_channel_close(1, 406, &text(1, 1500));
}
