//! Publisher confirms and returned messages (A6, A7).

use std::collections::BTreeSet;

use amq_protocol::{
    protocol::{
        AMQPClass, BasicProperties,
        basic::{AMQPMethod, ConsumeOk, Nack, Publish, Return},
        channel,
        confirm::{Select, SelectOk},
        queue::{Declare, DeclareOk},
    },
    types::FieldArray,
};

use crate::{
    broker::{is_external, shared},
    wire::{
        Incoming, Refusal, Wire, consume, declare, frame, header_payload, int, method_frame, publish, table,
        text, unique,
    },
};

#[test]
fn every_publish_is_confirmed_once() {
    let (mut wire, queue) = confirming();
    for number in 0..500 {
        wire.publish(1, if number % 3 == 0 { "nowhere" } else { &queue }, "m");
    }
    let mut outstanding: BTreeSet<u64> = (1..=500).collect();
    while !outstanding.is_empty() {
        let Incoming::Method(1, AMQPClass::Basic(AMQPMethod::Ack(ack))) = wire.next() else {
            panic!("an ack")
        };
        if ack.multiple {
            let later = outstanding.split_off(&(ack.delivery_tag + 1));
            assert!(outstanding.contains(&ack.delivery_tag), "{ack:?} confirms again");
            outstanding = later;
        } else {
            assert!(outstanding.remove(&ack.delivery_tag), "{ack:?} confirms again");
        }
    }
}

#[test]
fn numbers_start_at_the_selection() {
    let mut wire = Wire::open(&shared());
    wire.publish(1, "nowhere", "before");
    wire.call::<SelectOk>(1, Select { nowait: false });
    wire.publish(1, "nowhere", "after");
    assert_eq!(wire.next_events(1), ["ack 1"]);
}

#[test]
fn nowait_has_no_answer() {
    let mut wire = Wire::open(&shared());
    wire.send(1, Select { nowait: true });
    wire.publish(1, "nowhere", "m");
    assert_eq!(wire.next_events(1), ["ack 1"]);
}

#[test]
fn a_message_returns_before_its_confirm() {
    let (mut wire, queue) = confirming();
    let mandatory = |routing_key: &str| Publish { mandatory: true, ..publish("", routing_key) };
    wire.publish_with(1, mandatory("nowhere"), &BasicProperties::default(), b"lost");
    assert_eq!(wire.next_events(2), ["return lost", "ack 1"]);
    wire.publish_with(1, mandatory(&queue), &BasicProperties::default(), b"kept");
    assert_eq!(wire.next_events(1), ["ack 2"]);
}

#[test]
fn a_message_returns_whole_but_for_bcc() {
    let mut wire = Wire::open(&shared());
    let keys = |key: &str| FieldArray::from(vec![text(key)]).into();
    let headers = table([("a", int(1)), ("CC", keys("nowhere-else")), ("BCC", keys("secret"))]);
    let properties = BasicProperties::default()
        .with_content_type("text/plain".into())
        .with_delivery_mode(2)
        .with_message_id("id".into())
        .with_headers(headers);
    wire.publish_with(
        1,
        Publish { mandatory: true, ..publish("amq.direct", "nowhere") },
        &properties,
        b"hello",
    );
    let returned = wire.expect_content::<Return>(1);
    assert_eq!((returned.method.reply_code, returned.method.reply_text.as_str()), (312, "NO_ROUTE"));
    assert_eq!(
        (returned.method.exchange.as_str(), returned.method.routing_key.as_str()),
        ("amq.direct", "nowhere")
    );
    assert_eq!(returned.body, b"hello");
    let without_bcc = table([("a", int(1)), ("CC", keys("nowhere-else"))]);
    assert_eq!(returned.properties, properties.with_headers(without_bcc));
}

#[test]
fn an_empty_message_returns() {
    let mut wire = Wire::open(&shared());
    wire.publish_with(
        1,
        Publish { mandatory: true, ..publish("", "nowhere") },
        &BasicProperties::default(),
        b"",
    );
    assert_eq!(wire.next_events(1), ["return "]);
}

#[test]
fn a_refused_publish_is_never_confirmed() {
    let (mut wire, queue) = confirming();
    wire.publish(1, &queue, "good");
    assert_eq!(wire.next_events(1), ["ack 1"]);
    wire.publish_with(1, publish("missing", "k"), &BasicProperties::default(), b"bad");
    wire.publish(1, &queue, "after");
    let Refusal::Channel(1, close) = wire.refusal() else { panic!("channel.close") };
    assert_eq!(close.code, 404);
    wire.send(1, channel::CloseOk {});
    wire.open_channel(1);
    assert_eq!(wire.ready(1, &queue), 1);
    wire.call::<SelectOk>(1, Select { nowait: false });
    wire.publish(1, &queue, "again");
    assert_eq!(wire.next_events(1), ["ack 1"], "a new channel counts from 1");
}

#[test]
fn confirmed_messages_are_in_the_queue() {
    let (mut wire, queue) = confirming();
    wire.publish_with(1, publish("", &queue), &BasicProperties::default().with_delivery_mode(2), b"m");
    wire.next_events(1);
    wire.open_channel(2);
    assert_eq!(wire.ready(2, &queue), 1);
}

#[test]
fn a_consumer_gets_the_message_before_the_publisher_its_confirm() {
    let (mut wire, queue) = confirming();
    wire.send(1, consume(&queue, "a"));
    wire.expect::<ConsumeOk>(1);
    wire.publish(1, &queue, "m");
    assert_eq!(wire.next_events(2), ["deliver a m", "ack 1"]);
}

#[test]
fn a_reply_to_nobody_returns() {
    let (mut wire, _queue) = confirming();
    let reply = Publish { mandatory: true, ..publish("", "amq.rabbitmq.reply-to.nobody") };
    wire.publish_with(1, reply, &BasicProperties::default(), b"reply");
    assert_eq!(wire.next_events(2), ["return reply", "ack 1"]);
}

/// Deviation: RabbitMQ confirms each; we may answer for several at once.
#[test]
fn confirms_may_be_for_several() {
    if is_external() {
        return;
    }
    let (mut wire, queue) = confirming();
    let mut bytes = Vec::new();
    for _ in 0..1000 {
        bytes.extend(method_frame(1, publish("", &queue)));
        bytes.extend(frame(2, 1, &header_payload(0, &BasicProperties::default())));
    }
    wire.raw(&bytes);
    let (mut confirmed, mut acks) = (0, 0);
    while confirmed < 1000 {
        let Incoming::Method(1, AMQPClass::Basic(AMQPMethod::Ack(ack))) = wire.next() else {
            panic!("an ack")
        };
        assert!(ack.delivery_tag > confirmed);
        confirmed = ack.delivery_tag;
        acks += 1;
    }
    assert!(acks < 500, "{acks} acks for 1,000 messages sent at once");
}

/// A channel in confirm mode and an exclusive queue.
fn confirming() -> (Wire, String) {
    let mut wire = Wire::open(&shared());
    let queue = unique("confirms");
    wire.call::<DeclareOk>(1, Declare { exclusive: true, ..declare(&queue) });
    wire.call::<SelectOk>(1, Select { nowait: false });
    (wire, queue)
}

#[test]
fn a_publish_that_was_rejected_before_confirms_were_selected_is_not_counted() {
    let mut wire = Wire::open(&shared());
    let queue = unique("full");
    let arguments = table([("x-max-length", int(0)), ("x-overflow", text("reject-publish"))]);
    wire.call::<DeclareOk>(1, Declare { exclusive: true, arguments, ..declare(&queue) });
    let content = frame(2, 1, &header_payload(0, &BasicProperties::default()));
    // In one write, so that the broker handles them together.
    let publish = [method_frame(1, publish("", &queue)), content].concat();
    wire.raw(&[&publish[..], &method_frame(1, Select { nowait: true }), &publish].concat());
    let nack = wire.expect::<Nack>(1);
    assert_eq!(nack.delivery_tag, 1);
}
