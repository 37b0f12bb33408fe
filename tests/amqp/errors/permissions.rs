//! What bob may not do: he may configure what starts with `bob-`, write to and read from that and `amq.topic`, where he
//! may use routing keys that start with `ok`.

use amq_protocol::{
    protocol::{BasicProperties, basic, exchange, queue},
    types::FieldArray,
};

use super::{Scene, Table};
use crate::wire::{
    Login, Method, bind, consume, declare, declare_exchange, delete, get, prefetch, publish, table, text,
};

/// An exchange or queue that bob has no business with.
const OTHER: &str = "other";

#[test]
fn queues() {
    let mut rows = Table::default();
    refused(&mut rows, "queue 'other'", (50, 10), |_| declare(OTHER));
    refused(&mut rows, "queue 'other'", (50, 40), |_| delete(OTHER));
    refused(&mut rows, "queue 'other'", (50, 30), |_| queue::Purge { queue: OTHER.into(), nowait: false });
    refused(&mut rows, "queue 'other'", (60, 70), |_| get(OTHER));
    refused(&mut rows, "queue 'other'", (60, 20), |_| consume(OTHER, "t"));
    refused(&mut rows, "queue 'other'", (50, 20), |_| bind(OTHER, "also-other", "k"));
    refused(&mut rows, "queue 'other'", (50, 50), |_| unbind(OTHER, "also-other", "k"));
    refused(&mut rows, "queue 'other'", (50, 20), |_| bind(OTHER, "", "k"));
    refused(&mut rows, "exchange 'other'", (50, 20), |_| bind("", OTHER, "k"));
    refused(&mut rows, "exchange 'other'", (50, 50), |_| unbind("", OTHER, "k"));
    refused(&mut rows, "exchange 'other'", (50, 10), |s| dead_lettering(&s.name, OTHER));
    refused(&mut rows, "exchange 'amq.default'", (50, 10), |s| dead_lettering(&s.name, ""));
    allowed(&mut rows, "Queue.BindOk", |_| bind("", "amq.topic", "ok.#"));
    refused(&mut rows, "topic 'no.#' in exchange 'amq.topic'", (50, 20), |_| bind("", "amq.topic", "no.#"));
    refused(&mut rows, "topic 'no.#' in exchange 'amq.topic'", (50, 50), |_| unbind("", "amq.topic", "no.#"));
    rows.check();
}

#[test]
fn exchanges() {
    let mut rows = Table::default();
    refused(&mut rows, "exchange 'other'", (40, 10), |_| declare_exchange(OTHER, "direct"));
    refused(&mut rows, "exchange 'amq.foo'", (40, 10), |_| declare_exchange("amq.foo", "direct"));
    refused(&mut rows, "exchange 'other'", (40, 20), |_| exchange::Delete {
        exchange: OTHER.into(),
        ..exchange::Delete::default()
    });
    refused(&mut rows, "exchange 'other'", (40, 30), |_| exchange_bind(OTHER, "amq.topic", "k"));
    refused(&mut rows, "exchange 'other'", (40, 30), |_| exchange_bind("amq.topic", OTHER, "k"));
    refused(&mut rows, "topic 'no.#' in exchange 'amq.topic'", (40, 30), |_| {
        exchange_bind("amq.topic", "amq.topic", "no.#")
    });
    refused(&mut rows, "exchange 'other'", (40, 10), |s| exchange::Declare {
        arguments: table([("alternate-exchange", text(OTHER))]),
        ..declare_exchange(&s.name, "direct")
    });
    allowed(&mut rows, "Exchange.DeclareOk", |_| exchange::Declare {
        passive: true,
        ..declare_exchange("amq.direct", "direct")
    });
    rows.check();
}

#[test]
fn publishing() {
    let mut rows = Table::default();
    for (exchange, routing_key, resource) in [
        ("other", "k", "exchange 'other'"),
        ("", "k", "exchange 'amq.default'"),
        ("amq.rabbitmq.trace", "k", "exchange 'amq.rabbitmq.trace'"),
        ("amq.topic", "no.a", "topic 'no.a' in exchange 'amq.topic'"),
    ] {
        let name = format!("P publish to {exchange:?} with {routing_key:?}");
        rows.channel(&name, (403, &access_refused(resource), 60, 40), move |s| {
            s.wire.publish_with(1, publish(exchange, routing_key), &BasicProperties::default(), b"m");
        });
        rows.login(bob());
    }
    rows.answer("P topic permissions look at the routing key only, not at CC", "Basic.QosOk", |s| {
        let keys = FieldArray::from(vec![text("no.a")]);
        let properties = BasicProperties::default().with_headers(table([("CC", keys.into())]));
        s.wire.publish_with(1, publish("amq.topic", "ok.a"), &properties, b"m");
        s.send(prefetch(0));
    });
    rows.login(bob());
    rows.answer("P direct reply-to needs no permission", "Basic.ConsumeOk", |s| {
        s.send(basic::Consume { no_ack: true, ..consume("amq.rabbitmq.reply-to", "t") });
    });
    rows.login(bob());
    rows.check();
}

fn bob() -> Login {
    Login { user: "bob", password: "bob", ..Login::default() }
}

fn access_refused(resource: &str) -> String {
    format!("ACCESS_REFUSED - access to {resource} in vhost '/' refused for user 'bob'")
}

/// A row: bob, who has declared a queue of his own, may not.
fn refused<M: Method + 'static>(
    rows: &mut Table,
    resource: &str,
    (class_id, method_id): (u16, u16),
    method: fn(&Scene) -> M,
) {
    let name = format!("P {class_id}.{method_id} of {resource}");
    rows.channel(&name, (403, &access_refused(resource), class_id, method_id), move |s| {
        s.done(queue::Declare { exclusive: true, ..declare(&s.name) });
        s.send(method(s));
    });
    rows.login(bob());
}

/// A row: bob, who has declared a queue of his own, may.
fn allowed<M: Method + 'static>(rows: &mut Table, answer: &'static str, method: fn(&Scene) -> M) {
    rows.answer(&format!("P {answer}"), answer, move |s| {
        s.done(queue::Declare { exclusive: true, ..declare(&s.name) });
        s.send(method(s));
    });
    rows.login(bob());
}

fn dead_lettering(queue: &str, exchange: &str) -> queue::Declare {
    let arguments = table([("x-dead-letter-exchange", text(exchange))]);
    queue::Declare { arguments, ..declare(&format!("{queue}-dead")) }
}

fn unbind(queue: &str, exchange: &str, routing_key: &str) -> queue::Unbind {
    let (queue, exchange, routing_key) = (queue.into(), exchange.into(), routing_key.into());
    queue::Unbind { queue, exchange, routing_key, ..queue::Unbind::default() }
}

fn exchange_bind(destination: &str, source: &str, routing_key: &str) -> exchange::Bind {
    let (destination, source, routing_key) = (destination.into(), source.into(), routing_key.into());
    exchange::Bind { destination, source, routing_key, ..exchange::Bind::default() }
}
