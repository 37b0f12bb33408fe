//! How many unacknowledged messages a consumer, or a channel, may hold (A6).

use amq_protocol::protocol::{
    basic::{Ack, Consume, Qos, QosOk},
    queue::{Declare, DeclareOk},
};

use crate::{
    broker::shared,
    wire::{Wire, ack, consume, declare, get, prefetch, unique},
};

#[test]
fn consumers_have_the_limit_of_when_they_were_made() {
    let (mut wire, queue) = queue_with(6);
    wire.call::<QosOk>(1, prefetch(1));
    wire.send(1, consume(&queue, "a"));
    assert_eq!(wire.events(1, &queue), ["Basic.ConsumeOk", "deliver a m1"]);
    wire.call::<QosOk>(1, prefetch(3));
    assert_eq!(wire.events(1, &queue), [""; 0], "an existing consumer keeps its limit");
    wire.send(1, consume(&queue, "b"));
    assert_eq!(wire.events(1, &queue), ["Basic.ConsumeOk", "deliver b m2", "deliver b m3", "deliver b m4"]);
}

#[test]
fn no_ack_consumers_have_no_limit() {
    let (mut wire, queue) = queue_with(3);
    wire.call::<QosOk>(1, prefetch(1));
    wire.send(1, Consume { no_ack: true, ..consume(&queue, "a") });
    assert_eq!(wire.events(1, &queue), ["Basic.ConsumeOk", "deliver a m1", "deliver a m2", "deliver a m3"]);
}

#[test]
fn a_channel_may_have_a_limit_beside_those_of_its_consumers() {
    let (mut wire, queue) = queue_with(10);
    wire.call::<QosOk>(1, prefetch(2));
    wire.call::<QosOk>(1, whole_channel(3));
    wire.send(1, consume(&queue, "a"));
    assert_eq!(wire.events(1, &queue), ["Basic.ConsumeOk", "deliver a m1", "deliver a m2"]);
    wire.send(1, consume(&queue, "b"));
    assert_eq!(wire.events(1, &queue), ["Basic.ConsumeOk", "deliver b m3"]);
    wire.send(1, ack(1));
    assert_eq!(wire.events(1, &queue), ["deliver a m4"]);
    wire.call::<QosOk>(1, whole_channel(5));
    assert_eq!(wire.events(1, &queue), ["deliver b m5"], "a raised limit acts at once");
}

#[test]
fn a_lowered_limit_waits_for_acknowledgements() {
    let (mut wire, queue) = queue_with(6);
    wire.send(1, consume(&queue, "a"));
    wire.next_events(7);
    wire.call::<QosOk>(1, whole_channel(2));
    wire.publish(1, &queue, "m7");
    assert_eq!(wire.events(1, &queue), [""; 0]);
    wire.send(1, Ack { delivery_tag: 5, multiple: true });
    assert_eq!(wire.events(1, &queue), ["deliver a m7"]);
}

#[test]
fn a_limit_of_zero_is_none() {
    let (mut wire, queue) = queue_with(4);
    wire.call::<QosOk>(1, whole_channel(1));
    wire.send(1, consume(&queue, "a"));
    assert_eq!(wire.events(1, &queue), ["Basic.ConsumeOk", "deliver a m1"]);
    wire.call::<QosOk>(1, whole_channel(0));
    assert_eq!(wire.events(1, &queue), ["deliver a m2", "deliver a m3", "deliver a m4"]);
}

/// RabbitMQ 3.10.8: a limit for the consumers to come lifts the one of the channel.
#[test]
fn a_consumer_limit_lifts_the_one_of_the_channel() {
    let (mut wire, queue) = queue_with(4);
    wire.call::<QosOk>(1, whole_channel(2));
    wire.send(1, consume(&queue, "a"));
    assert_eq!(wire.events(1, &queue), ["Basic.ConsumeOk", "deliver a m1", "deliver a m2"]);
    wire.call::<QosOk>(1, prefetch(0));
    assert_eq!(wire.events(1, &queue), ["deliver a m3", "deliver a m4"]);
}

/// RabbitMQ 3.10.8: what `basic.get` fetched neither uses nor gives back the room of the channel's consumers.
#[test]
fn got_messages_do_not_count() {
    let (mut wire, queue) = queue_with(4);
    wire.call::<QosOk>(1, whole_channel(1));
    (0..2).for_each(|_| wire.send(1, get(&queue)));
    assert_eq!(wire.events(1, &queue), ["get m1", "get m2"]);
    wire.send(1, consume(&queue, "a"));
    assert_eq!(wire.events(1, &queue), ["Basic.ConsumeOk", "deliver a m3"]);
    wire.send(1, ack(1));
    wire.send(1, ack(2));
    assert_eq!(wire.events(1, &queue), [""; 0]);
    wire.send(1, ack(3));
    assert_eq!(wire.events(1, &queue), ["deliver a m4"]);
}

fn whole_channel(prefetch_count: u16) -> Qos {
    Qos { prefetch_count, global: true }
}

/// A connection and an exclusive queue with `m1`, `m2`, ...
fn queue_with(count: usize) -> (Wire, String) {
    let mut wire = Wire::open(&shared());
    let queue = unique("prefetch");
    wire.call::<DeclareOk>(1, Declare { exclusive: true, ..declare(&queue) });
    for number in 1..=count {
        wire.publish(1, &queue, &format!("m{number}"));
    }
    (wire, queue)
}
