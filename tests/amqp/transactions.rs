//! Class tx: nothing happens before the commit (A7, A10).

use amq_protocol::protocol::{
    BasicProperties,
    basic::{Consume, ConsumeOk, Publish},
    channel,
    queue::{Declare, DeclareOk},
    tx,
};

use crate::{
    broker::shared,
    wire::{
        Wire, ack, consume, declare, frame, get, header_payload, int, method_frame, publish, requeue, table,
        text, unique,
    },
};

#[test]
fn publishes_and_acks_wait_for_the_commit() {
    let (mut wire, queue) = transaction();
    wire.publish(2, &queue, "before");
    assert_eq!(wire.ready(2, &queue), 1);
    wire.send(1, get(&queue));
    assert_eq!(wire.next_events(1), ["get before"]);
    wire.send(1, ack(1));
    wire.publish(1, &queue, "inside");
    assert_eq!(wire.events(1, &queue), [""; 0]);
    assert_eq!(wire.ready(2, &queue), 0, "not published yet");
    wire.call::<tx::CommitOk>(1, tx::Commit {});
    assert_eq!(wire.ready(2, &queue), 1);
    close_channel_1(&mut wire);
    assert_eq!(wire.ready(2, &queue), 1, "the ack was committed too");
}

#[test]
fn closing_the_channel_undoes_what_was_not_committed() {
    let (mut wire, queue) = transaction();
    wire.publish(2, &queue, "before");
    assert_eq!(wire.ready(2, &queue), 1);
    wire.send(1, get(&queue));
    wire.next_events(1);
    wire.send(1, ack(1));
    wire.publish(1, &queue, "inside");
    close_channel_1(&mut wire);
    wire.send(2, get(&queue));
    assert_eq!(wire.events(2, &queue), ["get before*"]);
}

#[test]
fn rollback_leaves_messages_delivered_and_ackable() {
    let (mut wire, queue) = transaction();
    wire.publish(2, &queue, "m");
    assert_eq!(wire.ready(2, &queue), 1);
    wire.send(1, get(&queue));
    wire.next_events(1);
    wire.publish(1, &queue, "undone");
    wire.send(1, ack(1));
    wire.call::<tx::RollbackOk>(1, tx::Rollback {});
    assert_eq!(wire.ready(2, &queue), 0, "neither published nor given back");
    wire.send(1, ack(1));
    wire.call::<tx::CommitOk>(1, tx::Commit {});
    close_channel_1(&mut wire);
    assert_eq!(wire.ready(2, &queue), 0);
}

#[test]
fn requeues_wait_for_the_commit() {
    let (mut wire, queue) = transaction();
    wire.publish(2, &queue, "m");
    assert_eq!(wire.ready(2, &queue), 1);
    wire.send(1, get(&queue));
    wire.next_events(1);
    wire.send(1, requeue(1));
    assert_eq!(wire.events(1, &queue), [""; 0]);
    assert_eq!(wire.ready(2, &queue), 0);
    wire.call::<tx::CommitOk>(1, tx::Commit {});
    assert_eq!(wire.ready(2, &queue), 1);
}

#[test]
fn returns_come_with_the_commit() {
    let (mut wire, queue) = transaction();
    let mandatory = Publish { mandatory: true, ..publish("", "nowhere") };
    wire.publish_with(1, mandatory, &BasicProperties::default(), b"lost");
    assert_eq!(wire.events(1, &queue), [""; 0]);
    wire.send(1, tx::Commit {});
    assert_eq!(wire.next_events(2), ["return lost", "Tx.CommitOk"]);
}

#[test]
fn routing_is_looked_up_at_the_commit() {
    let (mut wire, _queue) = transaction();
    let late = unique("late");
    let mandatory = Publish { mandatory: true, ..publish("", &late) };
    wire.publish_with(1, mandatory, &BasicProperties::default(), b"m");
    wire.call::<DeclareOk>(2, Declare { exclusive: true, ..declare(&late) });
    wire.call::<tx::CommitOk>(1, tx::Commit {});
    assert_eq!(wire.ready(2, &late), 1);
}

#[test]
fn a_consumer_gets_messages_before_the_commit_is_answered() {
    let (mut wire, queue) = transaction();
    wire.call::<ConsumeOk>(1, Consume { no_ack: true, ..consume(&queue, "a") });
    wire.publish(1, &queue, "m");
    assert_eq!(wire.events(1, &queue), [""; 0]);
    wire.send(1, tx::Commit {});
    assert_eq!(wire.next_events(2), ["deliver a m", "Tx.CommitOk"]);
}

#[test]
fn a_commit_may_be_empty_and_repeated() {
    let (mut wire, queue) = transaction();
    for _ in 0..2 {
        wire.call::<tx::CommitOk>(1, tx::Commit {});
        wire.call::<tx::RollbackOk>(1, tx::Rollback {});
    }
    wire.publish(1, &queue, "m");
    wire.call::<tx::CommitOk>(1, tx::Commit {});
    wire.call::<tx::CommitOk>(1, tx::Commit {});
    assert_eq!(wire.ready(2, &queue), 1, "published once");
}

/// Channel 1 in a transaction, channel 2 without, and an exclusive queue.
fn transaction() -> (Wire, String) {
    let mut wire = Wire::open(&shared());
    wire.open_channel(2);
    let queue = unique("transactions");
    wire.call::<DeclareOk>(1, Declare { exclusive: true, ..declare(&queue) });
    wire.call::<tx::SelectOk>(1, tx::Select {});
    (wire, queue)
}

fn close_channel_1(wire: &mut Wire) {
    wire.send(1, channel::Close { reply_code: 200, ..channel::Close::default() });
    wire.expect::<channel::CloseOk>(1);
}

#[test]
fn a_publish_that_was_rejected_before_the_transaction_does_not_fail_it() {
    let mut wire = Wire::open(&shared());
    let queue = unique("full");
    let arguments = table([("x-max-length", int(0)), ("x-overflow", text("reject-publish"))]);
    wire.call::<DeclareOk>(1, Declare { exclusive: true, arguments, ..declare(&queue) });
    // In one write, so that the broker handles them together.
    let mut bytes = method_frame(1, publish("", &queue));
    bytes.extend(frame(2, 1, &header_payload(0, &BasicProperties::default())));
    bytes.extend(method_frame(1, tx::Select {}));
    bytes.extend(method_frame(1, tx::Commit {}));
    wire.raw(&bytes);
    wire.expect::<tx::SelectOk>(1);
    wire.expect::<tx::CommitOk>(1);
}
