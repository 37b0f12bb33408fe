//! In which order messages come, come again, and to whom (A6, A9, A10).

use amq_protocol::protocol::{
    basic::{
        Cancel, CancelOk, Consume, ConsumeOk, Deliver, Get, GetOk, Nack, QosOk, Recover, RecoverOk, Reject,
    },
    channel,
    queue::{Declare, DeclareOk, DeleteOk, Purge, PurgeOk},
};

use crate::{
    broker::shared,
    wire::{Wire, ack, consume, declare, delete, get, int, prefetch, requeue, table, unique},
};

#[test]
fn consumer_gets_what_waits_in_the_order_of_publishing() {
    let (mut wire, queue) = queue_with(3);
    wire.send(1, consume(&queue, "a"));
    assert_eq!(wire.events(1, &queue), ["Basic.ConsumeOk", "deliver a m1", "deliver a m2", "deliver a m3"]);
}

#[test]
fn recover_answers_before_it_delivers_again() {
    let (mut wire, queue) = queue_with(3);
    wire.send(1, consume(&queue, "a"));
    wire.events(1, &queue);
    wire.send(1, Recover { requeue: true });
    assert_eq!(
        wire.events(1, &queue),
        ["Basic.RecoverOk", "deliver a m1*", "deliver a m2*", "deliver a m3*"]
    );
}

#[test]
fn recover_after_cancel_makes_messages_ready() {
    let (mut wire, queue) = queue_with(3);
    wire.send(1, consume(&queue, "a"));
    wire.events(1, &queue);
    wire.call::<CancelOk>(1, Cancel { consumer_tag: "a".into(), nowait: false });
    wire.call::<RecoverOk>(1, Recover { requeue: true });
    assert_eq!(wire.ready(1, &queue), 3);
    wire.send(1, get(&queue));
    assert_eq!(wire.next_events(1), ["get m1*"]);
}

#[test]
fn a_requeued_message_returns_to_its_place() {
    let (mut wire, queue) = queue_with(5);
    (0..5).for_each(|_| wire.send(1, get(&queue)));
    wire.next_events(5);
    for delivery_tag in [4, 2] {
        wire.send(1, Reject { delivery_tag, requeue: true });
    }
    wire.send(1, consume(&queue, "a"));
    assert_eq!(wire.events(1, &queue), ["Basic.ConsumeOk", "deliver a m2*", "deliver a m4*"]);
    wire.send(1, requeue(5));
    wire.send(1, requeue(1));
    assert_eq!(wire.events(1, &queue), ["deliver a m5*", "deliver a m1*"]);
}

#[test]
fn nack_of_several_keeps_their_order_over_consumers() {
    let (mut wire, queue) = queue_with(5);
    for tag in ["a", "b"] {
        wire.call::<QosOk>(1, prefetch(2));
        wire.send(1, consume(&queue, tag));
        wire.next_events(3);
    }
    wire.send(1, Nack { delivery_tag: 4, multiple: true, requeue: true });
    let mut events = wire.events(1, &queue);
    // Who gets which half is the broker's choice; RabbitMQ serves `a` first.
    for event in &mut events {
        *event = event.replace("deliver a ", "").replace("deliver b ", "");
    }
    assert_eq!(events, ["m1*", "m2*", "m3*", "m4*"]);
}

#[test]
fn nack_of_all_makes_them_ready_in_order() {
    let (mut wire, queue) = queue_with(3);
    (0..3).for_each(|_| wire.send(1, get(&queue)));
    wire.next_events(3);
    wire.send(1, Nack { delivery_tag: 0, multiple: true, requeue: true });
    (0..3).for_each(|_| wire.send(1, get(&queue)));
    assert_eq!(wire.next_events(3), ["get m1*", "get m2*", "get m3*"]);
}

#[test]
fn get_says_how_many_are_left() {
    let (mut wire, queue) = queue_with(2);
    for left in [1, 0] {
        wire.send(1, get(&queue));
        let content = wire.expect_content::<GetOk>(1);
        assert_eq!(content.method.message_count, left);
    }
    wire.send(1, get(&queue));
    assert_eq!(wire.next_events(1), ["Basic.GetEmpty"]);
}

#[test]
fn reject_and_nack_without_requeue_drop() {
    let (mut wire, queue) = queue_with(3);
    wire.send(1, consume(&queue, "a"));
    wire.next_events(4);
    wire.send(1, Reject { delivery_tag: 1, requeue: false });
    wire.send(1, Nack { delivery_tag: 2, multiple: false, requeue: false });
    wire.call::<RecoverOk>(1, Recover { requeue: true });
    assert_eq!(wire.events(1, &queue), ["deliver a m3*"]);
}

#[test]
fn round_robin_over_equal_consumers() {
    let (mut wire, queue) = queue_with(0);
    for tag in ["a", "b", "c"] {
        wire.send(1, Consume { no_ack: true, ..consume(&queue, tag) });
    }
    wire.next_events(3);
    publish_numbered(&mut wire, &queue, 1..=7);
    let expected =
        ["a m1", "b m2", "c m3", "a m4", "b m5", "c m6", "a m7"].map(|event| format!("deliver {event}"));
    assert_eq!(wire.events(1, &queue), expected);
}

#[test]
fn a_cancelled_consumer_is_passed_over() {
    let (mut wire, queue) = queue_with(0);
    for tag in ["a", "b"] {
        wire.send(1, Consume { no_ack: true, ..consume(&queue, tag) });
    }
    wire.next_events(2);
    wire.call::<CancelOk>(1, Cancel { consumer_tag: "a".into(), nowait: false });
    publish_numbered(&mut wire, &queue, 1..=2);
    assert_eq!(wire.events(1, &queue), ["deliver b m1", "deliver b m2"]);
}

#[test]
fn the_next_message_goes_to_whoever_has_room() {
    let (mut wire, queue) = queue_with(0);
    wire.call::<QosOk>(1, prefetch(1));
    for tag in ["a", "b", "c"] {
        wire.send(1, consume(&queue, tag));
    }
    wire.next_events(3);
    publish_numbered(&mut wire, &queue, 1..=7);
    assert_eq!(wire.events(1, &queue), ["deliver a m1", "deliver b m2", "deliver c m3"]);
    wire.send(1, ack(2));
    assert_eq!(wire.events(1, &queue), ["deliver b m4"]);
    wire.send(1, ack(1));
    assert_eq!(wire.events(1, &queue), ["deliver a m5"]);
    wire.send(1, requeue(3));
    assert_eq!(wire.events(1, &queue), ["deliver c m3*"]);
}

#[test]
fn higher_priority_consumers_are_served_until_they_are_full() {
    let (mut wire, queue) = queue_with(0);
    wire.call::<QosOk>(1, prefetch(2));
    for (tag, priority) in [("low", -1), ("middle", 0), ("high", 5), ("also-high", 5)] {
        let arguments = table([("x-priority", int(priority))]);
        wire.send(1, Consume { arguments, ..consume(&queue, tag) });
    }
    wire.next_events(4);
    publish_numbered(&mut wire, &queue, 1..=9);
    let expected =
        ["high m1", "also-high m2", "high m3", "also-high m4", "middle m5", "middle m6", "low m7", "low m8"];
    assert_eq!(wire.events(1, &queue), expected.map(|event| format!("deliver {event}")));
    wire.send(1, ack(1));
    assert_eq!(wire.events(1, &queue), ["deliver high m9"]);
}

#[test]
fn closing_a_channel_gives_its_messages_back() {
    let (mut wire, queue) = queue_with(3);
    wire.open_channel(2);
    wire.send(2, consume(&queue, "a"));
    wire.next_events(4);
    wire.send(2, channel::Close { reply_code: 200, ..channel::Close::default() });
    wire.expect::<channel::CloseOk>(2);
    wire.send(1, consume(&queue, "b"));
    assert_eq!(
        wire.events(1, &queue),
        ["Basic.ConsumeOk", "deliver b m1*", "deliver b m2*", "deliver b m3*"]
    );
}

#[test]
fn losing_a_connection_gives_its_messages_back_before_newer_ones() {
    let (mut wire, queue) = shared_queue_with(4);
    let mut lost = Wire::open(&shared());
    lost.call::<QosOk>(1, prefetch(2));
    lost.send(1, consume(&queue, "lost"));
    lost.next_events(3);
    drop(lost);
    while wire.ready(1, &queue) < 4 {
        std::thread::yield_now();
    }
    wire.send(1, consume(&queue, "a"));
    let expected = ["Basic.ConsumeOk", "deliver a m1*", "deliver a m2*", "deliver a m3", "deliver a m4"];
    assert_eq!(wire.events(1, &queue), expected);
    wire.send(1, delete(&queue));
}

#[test]
fn cancelled_consumers_may_still_settle() {
    let (mut wire, queue) = queue_with(3);
    wire.send(1, consume(&queue, "a"));
    wire.next_events(4);
    wire.call::<CancelOk>(1, Cancel { consumer_tag: "a".into(), nowait: false });
    wire.send(1, requeue(2));
    assert_eq!(wire.ready(1, &queue), 1);
    wire.send(1, ack(1));
    wire.send(1, ack(3));
    assert_eq!(wire.ready(1, &queue), 1);
}

#[test]
fn deleting_a_queue_tells_its_consumers_after_delete_ok() {
    let (mut wire, queue) = shared_queue_with(2);
    let mut other = Wire::open(&shared());
    other.call::<QosOk>(1, prefetch(1));
    other.send(1, consume(&queue, "far"));
    other.next_events(2);
    wire.send(1, Consume { no_ack: true, ..consume(&queue, "near") });
    wire.next_events(2);
    wire.send(1, delete(&queue));
    assert_eq!(wire.next_events(2), ["Queue.DeleteOk", "cancel near"]);
    assert_eq!(other.next_events(1), ["cancel far"]);
    // What was delivered may still be settled, and the consumer cancelled: nothing is wrong with that.
    other.send(1, ack(1));
    other.send(1, Cancel { consumer_tag: "far".into(), nowait: false });
    assert_eq!(other.next_events(1), ["Basic.CancelOk"]);
}

#[test]
fn clients_without_cancel_notifications_hear_nothing() {
    let (mut wire, queue) = shared_queue_with(0);
    let login = crate::wire::Login { capabilities: &["basic.nack"], ..Default::default() };
    let mut other = Wire::login(&shared(), &login);
    other.open_channel(1);
    other.send(1, consume(&queue, "a"));
    other.next_events(1);
    wire.send(1, delete(&queue));
    assert_eq!(wire.next_events(1), ["Queue.DeleteOk"]);
    // A queue of its own answers after anything the deletion could have said.
    other.send(1, Declare { exclusive: true, ..declare("") });
    assert!(other.event().1.starts_with("declared amq.gen-"));
}

#[test]
fn purge_leaves_what_is_delivered() {
    let (mut wire, queue) = queue_with(3);
    wire.send(1, get(&queue));
    wire.next_events(1);
    let purged: PurgeOk = wire.call(1, Purge { queue: queue.as_str().into(), nowait: false });
    assert_eq!(purged.message_count, 2);
    wire.send(1, requeue(1));
    assert_eq!(wire.ready(1, &queue), 1);
}

#[test]
fn delete_counts_what_was_ready() {
    let (mut wire, queue) = queue_with(3);
    wire.send(1, get(&queue));
    wire.next_events(1);
    let deleted: DeleteOk = wire.call(1, delete(&queue));
    assert_eq!(deleted.message_count, 2);
}

#[test]
fn delivery_tags_are_shared_by_get_and_consume() {
    let (mut wire, queue) = queue_with(2);
    wire.send(1, Get { no_ack: true, ..get(&queue) });
    assert_eq!(wire.expect_content::<GetOk>(1).method.delivery_tag, 1);
    wire.send(1, consume(&queue, "a"));
    wire.expect::<ConsumeOk>(1);
    let delivered = wire.expect_content::<Deliver>(1);
    assert_eq!(delivered.method.delivery_tag, 2);
}

#[test]
fn a_single_active_consumer_is_followed_by_the_next() {
    let mut wire = Wire::open(&shared());
    let queue = unique("sac");
    let arguments = table([("x-single-active-consumer", true.into())]);
    wire.call::<DeclareOk>(1, Declare { exclusive: true, arguments, ..declare(&queue) });
    for tag in ["a", "b"] {
        wire.send(1, Consume { no_ack: true, ..consume(&queue, tag) });
    }
    wire.next_events(2);
    publish_numbered(&mut wire, &queue, 1..=2);
    assert_eq!(wire.events(1, &queue), ["deliver a m1", "deliver a m2"]);
    wire.call::<CancelOk>(1, Cancel { consumer_tag: "a".into(), nowait: false });
    publish_numbered(&mut wire, &queue, 3..=3);
    assert_eq!(wire.events(1, &queue), ["deliver b m3"]);
}

/// A connection and an exclusive queue with `m1`, `m2`, ...
fn queue_with(count: usize) -> (Wire, String) {
    declared_with(count, true)
}

/// A connection and a queue for other connections too, with `m1`, `m2`, ...
fn shared_queue_with(count: usize) -> (Wire, String) {
    declared_with(count, false)
}

fn declared_with(count: usize, exclusive: bool) -> (Wire, String) {
    let mut wire = Wire::open(&shared());
    let queue = unique("ordering");
    wire.call::<DeclareOk>(1, Declare { exclusive, ..declare(&queue) });
    publish_numbered(&mut wire, &queue, 1..=count);
    (wire, queue)
}

fn publish_numbered(wire: &mut Wire, queue: &str, numbers: std::ops::RangeInclusive<usize>) {
    for number in numbers {
        wire.publish(1, queue, &format!("m{number}"));
    }
}
