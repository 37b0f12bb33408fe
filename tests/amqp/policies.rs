//! Policies of the configuration: B.1, B.3, A.4.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use amq_protocol::protocol::{BasicProperties, basic, confirm, exchange, queue};

use crate::{
    broker::{DEADLINE, TestBroker, is_external},
    wire::{Wire, ack, bind, consume, declare, declare_exchange, int, prefetch, publish, requeue, table},
};

const POLICIES: &str = r#"
[[policies]]
name = "short"
pattern = '^short\.'
apply_to = "queues"
definition = { max-length = 2 }

[[policies]]
name = "shorter"
pattern = '^short\.er$'
priority = 1
definition = { max-length = 1, overflow = "reject-publish" }

[[policies]]
name = "gone"
pattern = "^gone$"
definition = { expires = 200 }

[[policies]]
name = "unroutable"
pattern = "^orders$"
apply_to = "exchanges"
definition = { alternate-exchange = "amq.fanout" }

[[operator_policies]]
name = "limit"
pattern = '^(short|long)\.'
definition = { max-length = 3 }
"#;

/// A broker of its own. `None` where another broker is tested.
fn with_policies() -> Option<(Arc<TestBroker>, Wire)> {
    if is_external() {
        return None;
    }
    let broker = TestBroker::start(POLICIES);
    let wire = Wire::open(&broker);
    Some((broker, wire))
}

fn declare_with(wire: &mut Wire, name: &str, max_length: Option<i32>) {
    let arguments = table(max_length.map(|length| ("x-max-length", int(length))));
    wire.call::<queue::DeclareOk>(1, queue::Declare { arguments, ..declare(name) });
}

/// How many of ten messages stay.
fn stay(wire: &mut Wire, name: &str) -> u32 {
    for number in 0..10 {
        wire.publish(1, name, &number.to_string());
    }
    wire.ready(1, name)
}

#[test]
fn b1_limits_of_policies_operator_policies_and_arguments() {
    let Some((_broker, mut wire)) = with_policies() else { return };
    for (name, max_length, expected) in [
        ("short.a", None, 2),
        ("short.b", Some(1), 1),
        ("long.a", None, 3),
        ("long.b", Some(9), 3),
        ("other", None, 10),
    ] {
        declare_with(&mut wire, name, max_length);
        assert_eq!(stay(&mut wire, name), expected, "{name}");
    }
}

#[test]
fn b1_the_policy_with_the_highest_priority_counts() {
    let Some((_broker, mut wire)) = with_policies() else { return };
    declare_with(&mut wire, "short.er", None);
    wire.call::<confirm::SelectOk>(1, confirm::Select { nowait: false });
    wire.publish(1, "short.er", "a");
    wire.expect::<basic::Ack>(1);
    wire.publish(1, "short.er", "b");
    wire.expect::<basic::Nack>(1);
}

#[test]
fn b1_a_queue_expires_by_policy() {
    let Some((_broker, mut wire)) = with_policies() else { return };
    declare_with(&mut wire, "gone", None);
    declare_with(&mut wire, "other", None);
    let start = Instant::now();
    // Publishing to a queue is no use of it. What is returned had no queue.
    let returned = loop {
        let publish = basic::Publish { mandatory: true, ..publish("", "gone") };
        wire.publish_with(1, publish, &BasicProperties::default(), b"m");
        let events = wire.events(1, "other");
        if !events.is_empty() || start.elapsed() > DEADLINE {
            break events;
        }
    };
    assert_eq!(returned.len(), 1, "{returned:?}");
    assert!(start.elapsed() >= Duration::from_millis(150), "not before its time");
}

#[test]
fn a4_an_alternate_exchange_by_policy() {
    let Some((_broker, mut wire)) = with_policies() else { return };
    wire.call::<exchange::DeclareOk>(1, declare_exchange("orders", "direct"));
    declare_with(&mut wire, "other", None);
    wire.call::<queue::BindOk>(1, bind("other", "amq.fanout", ""));
    wire.publish_with(1, publish("orders", "nowhere"), &BasicProperties::default(), b"m");
    assert_eq!(wire.ready(1, "other"), 1);
}

fn stopped_and_started(broker: &TestBroker, policies: &str) -> Arc<TestBroker> {
    broker.terminate();
    broker.wait();
    broker.start_again_with(policies)
}

fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

/// Policies that came, changed and went with a restart act on what the queue has: it expires, is dropped, is dead.
#[test]
fn b1_policies_act_on_what_is_there_after_a_restart() {
    if is_external() {
        return;
    }
    let broker = TestBroker::start("");
    let mut wire = Wire::open(&broker);
    for name in ["work", "dead"] {
        wire.call::<queue::DeclareOk>(1, queue::Declare { durable: true, ..declare(name) });
    }
    wire.call::<confirm::SelectOk>(1, confirm::Select { nowait: false });
    for number in 1..=6 {
        wire.publish_with(1, publish("", "work"), &persistent(), format!("m{number}").as_bytes());
        wire.expect::<basic::Ack>(1);
    }
    wire.close();

    let short = r#"
[[policies]]
name = "work"
pattern = "^work$"
definition = { max-length = 4, dead-letter-exchange = "", dead-letter-routing-key = "dead" }
"#;
    let broker = stopped_and_started(&broker, short);
    let mut wire = Wire::open(&broker);
    while wire.ready(1, "dead") < 2 {
        std::thread::yield_now();
    }
    assert_eq!(wire.ready(1, "work"), 4);
    wire.close();

    let brief = r#"
[[policies]]
name = "work"
pattern = "^work$"
definition = { delivery-limit = 1, retry-delays = "10ms,10ms,10ms", dead-letter-exchange = "amq.fanout" }
"#;
    let broker = stopped_and_started(&broker, brief);
    let mut wire = Wire::open(&broker);
    wire.call::<queue::BindOk>(1, bind("dead", "amq.fanout", ""));
    wire.call::<basic::QosOk>(1, prefetch(1));
    wire.send(1, consume("work", "a"));
    wire.expect::<basic::ConsumeOk>(1);
    // The first one twice, and others between.
    let mut bodies = Vec::new();
    for delivery_tag in 1..=5 {
        let body = wire.expect_content::<basic::Deliver>(1).body;
        if body == b"m3" {
            wire.send(1, requeue(delivery_tag))
        } else {
            wire.send(1, ack(delivery_tag))
        }
        bodies.push(String::from_utf8(body).expect("a name"));
    }
    bodies.sort_unstable();
    assert_eq!(bodies, ["m3", "m3", "m4", "m5", "m6"]);
    while wire.ready(1, "dead") < 3 {
        std::thread::yield_now();
    }
    wire.close();

    // Without a policy, nothing of it is left.
    let broker = stopped_and_started(&broker, "");
    let mut wire = Wire::open(&broker);
    assert_eq!((wire.ready(1, "work"), wire.ready(1, "dead")), (0, 3));
    assert_eq!(stay(&mut wire, "work"), 10);
}
