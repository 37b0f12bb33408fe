//! When queues and exchanges go away by themselves (A4, A5).

use amq_protocol::protocol::{
    basic::{Cancel, CancelOk, Consume, ConsumeOk},
    channel, exchange,
    queue::{self, Declare, DeclareOk},
};

use crate::{
    broker::shared,
    wire::{Refusal, Wire, bind, consume, declare, declare_exchange, delete, get, unique},
};

#[test]
fn an_auto_delete_queue_goes_with_its_last_consumer() {
    let (mut wire, queue) = auto_delete_queue();
    wire.publish(1, &queue, "m");
    wire.send(1, get(&queue));
    wire.next_events(1);
    assert!(queue_exists(&mut wire, &queue), "get is no consumer");
    for tag in ["a", "b"] {
        wire.call::<ConsumeOk>(1, consume(&queue, tag));
    }
    wire.call::<CancelOk>(1, Cancel { consumer_tag: "a".into(), nowait: false });
    assert!(queue_exists(&mut wire, &queue), "one consumer is left");
    wire.call::<CancelOk>(1, Cancel { consumer_tag: "b".into(), nowait: false });
    assert!(!queue_exists(&mut wire, &queue));
}

#[test]
fn an_auto_delete_queue_goes_with_the_channel_of_its_consumer() {
    let (mut wire, queue) = auto_delete_queue();
    wire.open_channel(2);
    wire.call::<ConsumeOk>(2, Consume { no_ack: true, ..consume(&queue, "a") });
    wire.send(2, channel::Close { reply_code: 200, ..channel::Close::default() });
    wire.expect::<channel::CloseOk>(2);
    assert!(!queue_exists(&mut wire, &queue));
}

#[test]
fn an_auto_delete_queue_goes_with_the_connection_of_its_consumer() {
    let (mut wire, queue) = auto_delete_queue();
    let mut other = Wire::open(&shared());
    other.call::<ConsumeOk>(1, consume(&queue, "a"));
    other.close();
    assert!(!queue_exists(&mut wire, &queue));
}

#[test]
fn an_exclusive_queue_is_gone_when_close_is_answered() {
    let broker = shared();
    let mut owner = Wire::open(&broker);
    let queue = owner.call::<DeclareOk>(1, Declare { exclusive: true, ..declare("") }).queue.to_string();
    owner.send(1, channel::Close { reply_code: 200, ..channel::Close::default() });
    owner.expect::<channel::CloseOk>(1);
    owner.open_channel(1);
    assert!(queue_exists(&mut owner, &queue), "it belongs to the connection, not to the channel");
    owner.close();
    assert!(!queue_exists(&mut Wire::open(&broker), &queue));
}

#[test]
fn an_exclusive_queue_goes_with_a_lost_connection() {
    let broker = shared();
    let mut owner = Wire::open(&broker);
    let queue = owner.call::<DeclareOk>(1, Declare { exclusive: true, ..declare("") }).queue.to_string();
    drop(owner);
    let mut other = Wire::open(&broker);
    loop {
        other.send(1, Declare { passive: true, ..declare(&queue) });
        let Refusal::Channel(1, close) = other.refusal() else { panic!("a refusal") };
        if close.code == 404 {
            return;
        }
        assert_eq!(close.code, 405, "locked until it is gone");
        other.send(1, channel::CloseOk {});
        other.open_channel(1);
    }
}

#[test]
fn server_named_queues_have_names_of_their_own() {
    let mut wire = Wire::open(&shared());
    let mut declare_one =
        || wire.call::<DeclareOk>(1, Declare { exclusive: true, ..declare("") }).queue.to_string();
    let (one, two) = (declare_one(), declare_one());
    assert_ne!(one, two);
    assert!(one.starts_with("amq.gen-") && one.len() == 8 + 22, "{one}");
    // The channel remembers the last: it is what '' means, as a queue and as a routing key.
    wire.call::<queue::BindOk>(1, bind("", "amq.direct", ""));
    wire.publish_with(1, crate::wire::publish("amq.direct", &two), &Default::default(), b"m");
    wire.send(1, get(""));
    assert_eq!(wire.next_events(1), ["get m"]);
}

#[test]
fn an_auto_delete_exchange_goes_with_its_last_binding() {
    let (mut wire, exchange) = auto_delete_exchange();
    assert!(exchange_exists(&mut wire, &exchange), "not before its first binding");
    let queue = wire.call::<DeclareOk>(1, Declare { exclusive: true, ..declare("") }).queue.to_string();
    for key in ["1", "2"] {
        wire.call::<queue::BindOk>(1, bind(&queue, &exchange, key));
    }
    for (key, left) in [("1", true), ("2", false)] {
        let unbind = queue::Unbind {
            queue: queue.as_str().into(),
            exchange: exchange.as_str().into(),
            routing_key: key.into(),
            ..queue::Unbind::default()
        };
        wire.call::<queue::UnbindOk>(1, unbind);
        assert_eq!(exchange_exists(&mut wire, &exchange), left, "after the binding {key} went");
    }
}

#[test]
fn an_auto_delete_exchange_goes_with_the_queue_it_is_bound_to() {
    let (mut wire, exchange) = auto_delete_exchange();
    let queue = wire.call::<DeclareOk>(1, Declare { exclusive: true, ..declare("") }).queue.to_string();
    wire.call::<queue::BindOk>(1, bind(&queue, &exchange, "k"));
    wire.call::<queue::DeleteOk>(1, delete(&queue));
    assert!(!exchange_exists(&mut wire, &exchange));
}

#[test]
fn an_auto_delete_exchange_goes_with_the_exchange_it_is_bound_to() {
    let (mut wire, source) = auto_delete_exchange();
    let destination = unique("lifetimes");
    let declaration = exchange::Declare { auto_delete: true, ..declare_exchange(&destination, "fanout") };
    wire.call::<exchange::DeclareOk>(1, declaration);
    let bound = exchange::Bind {
        source: source.as_str().into(),
        destination: destination.as_str().into(),
        ..exchange::Bind::default()
    };
    wire.call::<exchange::BindOk>(1, bound);
    let deletion = exchange::Delete { exchange: destination.as_str().into(), ..exchange::Delete::default() };
    wire.call::<exchange::DeleteOk>(1, deletion);
    assert!(!exchange_exists(&mut wire, &source));
}

fn auto_delete_queue() -> (Wire, String) {
    let mut wire = Wire::open(&shared());
    let queue = unique("lifetimes");
    wire.call::<DeclareOk>(1, Declare { auto_delete: true, ..declare(&queue) });
    (wire, queue)
}

fn auto_delete_exchange() -> (Wire, String) {
    let mut wire = Wire::open(&shared());
    let exchange = unique("lifetimes");
    let declaration = exchange::Declare { auto_delete: true, ..declare_exchange(&exchange, "fanout") };
    wire.call::<exchange::DeclareOk>(1, declaration);
    (wire, exchange)
}

fn queue_exists(wire: &mut Wire, queue: &str) -> bool {
    wire.open_channel(99);
    wire.send(99, Declare { passive: true, ..declare(queue) });
    exists(wire)
}

fn exchange_exists(wire: &mut Wire, exchange: &str) -> bool {
    wire.open_channel(99);
    wire.send(99, exchange::Declare { passive: true, ..declare_exchange(exchange, "fanout") });
    exists(wire)
}

/// What channel 99 hears; it is closed then.
fn exists(wire: &mut Wire) -> bool {
    let (on, event) = wire.event();
    assert_eq!(on, 99, "{event}");
    if event == "Channel.Close" {
        wire.send(99, channel::CloseOk {});
        return false;
    }
    wire.send(99, channel::Close { reply_code: 200, ..channel::Close::default() });
    wire.expect::<channel::CloseOk>(99);
    true
}
