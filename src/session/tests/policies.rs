//! Policies as clients notice them.

use super::*;
use crate::{
    amqp::{Table, Value},
    broker::policy::{ApplyTo, Policy, PolicyKind},
};

fn put(broker: &Broker, pattern: &str, definition: &[(&str, Value)], now: Now) {
    let definition =
        Table(definition.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect());
    let policy =
        Policy::new(PolicyKind::User, "p", pattern, ApplyTo::All, 0, definition).expect("a sound policy");
    broker.put_policy("/", policy, None, now).expect("there is a host");
}

fn publish_each(script: &mut Script, bodies: &[&str]) {
    for body in bodies {
        script.publish(1, "", "q", 0, &[0, 0], body.as_bytes());
    }
}

/// The bodies in the queue, from the head on.
fn drain(script: &mut Script) -> Vec<String> {
    let mut bodies = Vec::new();
    loop {
        script.send(1, wire::get("q", true));
        match script.next() {
            Some(Event::GetOk { body, .. }) => bodies.push(String::from_utf8_lossy(&body).into_owned()),
            _ => return bodies,
        }
    }
}

#[test]
fn b3_a_policy_cuts_a_queue_that_holds_messages_and_says_nothing_to_anybody() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    script.declare("q", 0);
    publish_each(&mut script, &["a", "b", "c", "d"]);
    put(&broker, "^q$", &[("max-length", Value::I64(2))], script.now());
    script.wake();
    publish_each(&mut script, &["e"]);
    assert_eq!(drain(&mut script), ["d", "e"]);
}

#[test]
fn b3_a_policy_rejects_what_is_published_next() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    script.declare("q", 0);
    script.send(1, wire::confirm_select());
    script.expect_ids(1, (85, 11));
    let definition = [("max-length", Value::I64(1)), ("overflow", "reject-publish".into())];
    put(&broker, "^q$", &definition, script.now());
    publish_each(&mut script, &["a"]);
    script.expect(Event::Ack { channel: 1, tag: 1, multiple: false });
    publish_each(&mut script, &["b"]);
    script.expect_ids(1, (60, 120));
    assert_eq!(drain(&mut script), ["a"]);
}

#[test]
fn b1_a_queue_that_a_policy_makes_expire_is_gone() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    script.declare("q", 0);
    put(&broker, "^q$", &[("expires", Value::I64(1000))], script.now());
    script.wait_ms(999);
    while broker.tick(script.now()) {}
    script.declare("q", 0);
    script.wait_ms(999);
    while broker.tick(script.now()) {}
    script.declare("q", 0);
    script.wait_ms(1000);
    while broker.tick(script.now()) {}
    script.send(1, wire::get("q", true));
    script.expect_channel_close(1, 404, "NOT_FOUND - no queue 'q' in vhost '/'");
}

#[test]
fn a4_what_was_unroutable_goes_to_the_alternate_exchange_of_a_policy() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    script.declare("q", 0);
    script.send(1, wire::bind_queue("q", "amq.fanout", ""));
    script.expect_ids(1, (50, 21));
    script.publish(1, "amq.direct", "k", 0, &[0, 0], b"a");
    put(&broker, "^amq\\.direct$", &[("alternate-exchange", "amq.fanout".into())], script.now());
    // The connection has found the route of such a message before.
    script.publish(1, "amq.direct", "k", 0, &[0, 0], b"b");
    broker.delete_policy("/", PolicyKind::User, "p", None, script.now()).expect("there is a host");
    script.publish(1, "amq.direct", "k", 0, &[0, 0], b"c");
    assert_eq!(drain(&mut script), ["b"]);
}
