//! The arguments of `queue.declare` (B1) and `basic.consume` (B2).

use amq_protocol::{
    protocol::{basic::Consume, queue::Declare},
    types::{AMQPValue, DecimalValue, FieldArray, FieldTable},
};

use super::Table;
use crate::wire::{consume, declare, int, prefetch, table, text};

/// The highest number of milliseconds: ten years.
const TEN_YEARS: i64 = 315_360_000_000;

#[test]
fn integers_of_the_wrong_type() {
    let mut rows = Table::default();
    let types = [
        (text("5"), "longstr"),
        (true.into(), "bool"),
        (AMQPValue::Void, "void"),
        (FieldTable::default().into(), "table"),
        (AMQPValue::FieldArray(FieldArray::default()), "array"),
        (AMQPValue::Double(1.0), "double"),
        (AMQPValue::Float(1.0), "float"),
        (AMQPValue::DecimalValue(DecimalValue { scale: 0, value: 5 }), "decimal"),
        (AMQPValue::Timestamp(5), "timestamp"),
        (AMQPValue::ByteArray(b"ab".to_vec().into()), "binary"),
    ];
    for argument in ["x-message-ttl", "x-expires", "x-max-length", "x-max-length-bytes", "x-max-priority"] {
        for (value, name) in &types {
            refused(&mut rows, argument, value, &format!("\"expected integer, got {name}\""));
        }
    }
    rows.check();
}

#[test]
fn integers_out_of_range() {
    let mut rows = Table::default();
    for argument in ["x-message-ttl", "x-expires", "x-max-length", "x-max-length-bytes", "x-max-priority"] {
        refused(&mut rows, argument, &int(-1), "{value_negative,-1}");
    }
    refused(&mut rows, "x-expires", &int(0), "{value_zero,0}");
    for argument in ["x-message-ttl", "x-expires"] {
        let value = AMQPValue::LongLongInt(TEN_YEARS + 1);
        refused(&mut rows, argument, &value, "{value_too_large,315360000001}");
        accepted(&mut rows, argument, AMQPValue::LongLongInt(TEN_YEARS));
    }
    for value in [256, i32::MAX] {
        refused(&mut rows, "x-max-priority", &int(value), &format!("{{max_value_exceeded,{value}}}"));
    }
    for argument in ["x-message-ttl", "x-max-length", "x-max-length-bytes", "x-max-priority"] {
        accepted(&mut rows, argument, int(0));
    }
    accepted(&mut rows, "x-max-priority", int(255));
    for argument in ["x-max-length", "x-max-length-bytes"] {
        accepted(&mut rows, argument, AMQPValue::LongLongInt(1 << 62));
    }
    for value in [
        AMQPValue::ShortShortInt(1),
        AMQPValue::ShortShortUInt(1),
        AMQPValue::ShortInt(1),
        AMQPValue::ShortUInt(1),
        AMQPValue::LongUInt(1),
        AMQPValue::LongLongInt(1),
    ] {
        accepted(&mut rows, "x-message-ttl", value);
    }
    rows.check();
}

#[test]
fn texts_and_flags() {
    let mut rows = Table::default();
    for argument in ["x-overflow", "x-single-active-consumer", "x-queue-mode", "x-queue-type"] {
        refused(&mut rows, argument, &int(1), "{unacceptable_type,signedint}");
        refused(&mut rows, argument, &AMQPValue::Void, "{unacceptable_type,void}");
    }
    refused(&mut rows, "x-single-active-consumer", &text("true"), "{unacceptable_type,longstr}");
    refused(&mut rows, "x-overflow", &text("foo"), "invalid_overflow");
    refused(&mut rows, "x-overflow", &text("Drop-Head"), "invalid_overflow");
    refused(&mut rows, "x-queue-mode", &text("foo"), "\"unsupported queue mode 'foo'\"");
    refused(&mut rows, "x-queue-version", &text("2"), "\"expected integer, got longstr\"");
    refused(&mut rows, "x-queue-version", &int(3), "\"unsupported queue version '3'\"");
    refused(&mut rows, "x-queue-type", &text("foo"), "\"unsupported queue type 'foo'\"");
    refused(&mut rows, "x-queue-type", &text("Classic"), "\"unsupported queue type 'Classic'\"");
    refused(&mut rows, "x-queue-type", &text(""), "\"unsupported queue type ''\"");
    refused(&mut rows, "x-dead-letter-routing-key", &text("k"), "routing_key_but_no_dlx_defined");
    refused(&mut rows, "x-dead-letter-routing-key", &int(1), "{unacceptable_type,signedint}");
    for (value, name) in [(int(1), "signedint"), (true.into(), "bool"), (AMQPValue::Void, "void")] {
        let reply = format!(
            "PRECONDITION_FAILED - invalid type '{name}' for arg 'x-dead-letter-exchange' in queue '{{n}}' in vhost '/'"
        );
        rows.channel(&format!("B1 x-dead-letter-exchange {name}"), (406, &reply, 50, 10), move |s| {
            s.send(with(&s.name, table([("x-dead-letter-exchange", value.clone())])));
        });
    }
    for (argument, value) in [
        ("x-overflow", "drop-head"),
        ("x-overflow", "reject-publish"),
        ("x-overflow", "reject-publish-dlx"),
        ("x-queue-mode", "lazy"),
        ("x-queue-mode", "default"),
        ("x-queue-type", "classic"),
        ("x-dead-letter-exchange", ""),
        ("x-dead-letter-exchange", "missing"),
        ("x-ha-policy", "all"),
        ("x-foo", "bar"),
        ("x-queue-master-locator", "min-masters"),
    ] {
        accepted(&mut rows, argument, text(value));
    }
    for value in [1, 2] {
        accepted(&mut rows, "x-queue-version", int(value));
    }
    accepted(&mut rows, "x-consumer-timeout", int(1000));
    rows.check();
}

/// Deviation: RabbitMQ refuses on a classic queue what it knows for another type only, and ends the connection with 541
/// for an unknown locator.
#[test]
fn arguments_of_other_queue_types_are_accepted() {
    let mut rows = Table::default();
    for (argument, value) in [
        ("x-delivery-limit", int(3)),
        ("x-max-in-memory-length", int(3)),
        ("x-max-in-memory-bytes", int(3)),
        ("x-quorum-initial-group-size", int(1)),
        ("x-initial-cluster-size", int(1)),
        ("x-max-age", text("1h")),
        ("x-dead-letter-strategy", text("at-most-once")),
        ("x-queue-leader-locator", text("balanced")),
        ("x-queue-master-locator", text("foo")),
    ] {
        accepted(&mut rows, argument, value);
        rows.mark_deviation();
    }
    rows.check();
}

/// Checked in RabbitMQ's order, not in that of the table.
#[test]
fn the_first_wrong_argument() {
    let mut rows = Table::default();
    for (arguments, argument, reason) in [
        ([("x-message-ttl", text("a")), ("x-expires", int(0))], "x-expires", "{value_zero,0}"),
        ([("x-max-length", int(-1)), ("x-overflow", text("a"))], "x-max-length", "{value_negative,-1}"),
        ([("x-max-priority", int(256)), ("x-message-ttl", int(-1))], "x-message-ttl", "{value_negative,-1}"),
        (
            [("x-queue-type", text("foo")), ("x-message-ttl", int(-1))],
            "x-queue-type",
            "\"unsupported queue type 'foo'\"",
        ),
    ] {
        let reply = invalid(argument, reason);
        rows.channel(&format!("B1 {argument} is checked first"), (406, &reply, 50, 10), move |s| {
            s.send(with(&s.name, table(arguments.clone())));
        });
    }
    rows.check();
}

#[test]
fn redeclared_with_other_arguments() {
    let mut rows = Table::default();
    let number = |value| Some(int(value));
    for argument in ["x-message-ttl", "x-expires", "x-max-length", "x-max-length-bytes", "x-max-priority"] {
        differ(&mut rows, argument, number(60), number(61), "received '61' but current is '60'");
        differ(
            &mut rows,
            argument,
            number(60),
            None,
            "received none but current is the value '60' of type 'signedint'",
        );
        differ(
            &mut rows,
            argument,
            None,
            Some(AMQPValue::LongLongInt(61)),
            "received the value '61' of type 'long' but current is none",
        );
    }
    let ttl = "x-message-ttl";
    differ(&mut rows, ttl, number(5), Some(AMQPValue::Double(5.0)), "received '5.0' but current is '5'");
    differ(&mut rows, ttl, number(5), Some(text("5")), "received '5' but current is '5'");
    differ(&mut rows, ttl, number(5), Some(true.into()), "received 'true' but current is '5'");
    differ(&mut rows, "x-max-length", number(1), number(-1), "received '-1' but current is '1'");
    differ(&mut rows, "x-queue-version", number(1), number(2), "received '2' but current is '1'");
    for (argument, current, received) in [
        ("x-dead-letter-exchange", "a", "b"),
        ("x-overflow", "drop-head", "reject-publish"),
        ("x-queue-mode", "lazy", "default"),
    ] {
        let difference = format!("received '{received}' but current is '{current}'");
        differ(&mut rows, argument, Some(text(current)), Some(text(received)), &difference);
        let difference = format!("received none but current is the value '{current}' of type 'longstr'");
        differ(&mut rows, argument, Some(text(current)), None, &difference);
    }
    let flag = |value: bool| Some(AMQPValue::Boolean(value));
    let sac = "x-single-active-consumer";
    differ(&mut rows, sac, flag(true), flag(false), "received 'false' but current is 'true'");
    differ(
        &mut rows,
        sac,
        flag(false),
        None,
        "received none but current is the value 'false' of type 'bool'",
    );
    let quorum = Some(text("quorum"));
    differ(
        &mut rows,
        "x-queue-type",
        None,
        quorum.clone(),
        "received the value 'quorum' of type 'longstr' but current is none",
    );
    differ(
        &mut rows,
        "x-queue-type",
        Some(text("classic")),
        quorum,
        "received 'quorum' but current is 'classic'",
    );
    rows.check();
}

#[test]
fn redeclared_with_equal_arguments() {
    let mut rows = Table::default();
    for (argument, current, received) in [
        ("x-message-ttl", Some(int(5)), Some(AMQPValue::ShortShortInt(5))),
        ("x-message-ttl", Some(AMQPValue::LongLongInt(5)), Some(AMQPValue::ShortUInt(5))),
        ("x-queue-type", None, Some(text("classic"))),
        ("x-queue-type", Some(text("classic")), None),
        ("x-foo", Some(int(1)), Some(int(2))),
        ("x-foo", Some(int(1)), None),
    ] {
        let name = format!("B1 {argument} {current:?} redeclared as {received:?}");
        rows.answer(&name, "Basic.QosOk", move |s| {
            let arguments = |value: &Option<AMQPValue>| table(value.clone().map(|value| (argument, value)));
            s.done(with(&s.name, arguments(&current)));
            s.done(with(&s.name, arguments(&received)));
            s.send(prefetch(0));
        });
    }
    rows.check();
}

#[test]
fn quorum_queues() {
    let mut rows = Table::default();
    let quorum = || table([("x-queue-type", text("quorum"))]);
    type Shape = (&'static str, fn(Declare) -> Declare);
    let shapes: [Shape; 4] = [
        ("non-durable", |declare| declare),
        ("exclusive-owner", |declare| Declare { durable: true, exclusive: true, ..declare }),
        ("auto-delete", |declare| Declare { durable: true, auto_delete: true, ..declare }),
        ("auto-delete", |declare| Declare { exclusive: true, auto_delete: true, ..declare }),
    ];
    for (property, shape) in shapes {
        let reply =
            format!("PRECONDITION_FAILED - invalid property '{property}' for queue '{{n}}' in vhost '/'");
        rows.channel(&format!("B1 quorum queue, {property}"), (406, &reply, 50, 10), move |s| {
            s.send(shape(Declare { arguments: quorum(), ..declare(&s.name) }));
        });
    }
    rows.channel(
        "B1 quorum queue without a name",
        (
            406,
            "PRECONDITION_FAILED - Cannot declare a server-named queue for type rabbit_quorum_queue",
            50,
            10,
        ),
        move |s| s.send(Declare { durable: true, arguments: quorum(), ..declare("") }),
    );
    for (argument, value, reason) in [
        ("x-quorum-initial-group-size", int(0), "{value_zero,0}"),
        ("x-quorum-initial-group-size", text("a"), "\"expected integer, got longstr\""),
        ("x-dead-letter-strategy", text("foo"), "invalid_dlx_strategy"),
        ("x-max-in-memory-length", int(-1), "{value_negative,-1}"),
        ("x-queue-leader-locator", text("foo"), "invalid_queue_locator_arg"),
        ("x-queue-leader-locator", int(5), "{unacceptable_type,signedint}"),
    ] {
        let reply = invalid(argument, reason);
        rows.channel(&format!("B1 quorum queue, {argument} {value:?}"), (406, &reply, 50, 10), move |s| {
            let arguments = table([("x-queue-type", text("quorum")), (argument, value.clone())]);
            s.send(Declare { durable: true, arguments, ..declare(&s.name) });
        });
    }
    rows.check();
}

#[test]
fn consumer_arguments() {
    let mut rows = Table::default();
    for nowait in [false, true] {
        for (value, name) in [
            (text("5"), "longstr"),
            (AMQPValue::Double(1.5), "double"),
            (true.into(), "bool"),
            (AMQPValue::Void, "void"),
        ] {
            let reply = format!(
                "PRECONDITION_FAILED - invalid arg 'x-priority' for queue '{{n}}' in vhost '/': \"expected integer, got \
                 {name}\""
            );
            rows.channel(
                &format!("B2 x-priority {name}, nowait {nowait}"),
                (406, &reply, 60, 20),
                move |s| {
                    s.done(Declare { exclusive: true, ..declare(&s.name) });
                    let arguments = table([("x-priority", value.clone())]);
                    s.send(Consume { nowait, arguments, ..consume(&s.name, "t") });
                },
            );
        }
    }
    for (argument, value) in [
        ("x-priority", int(-5)),
        ("x-priority", AMQPValue::LongLongInt(1 << 40)),
        ("x-priority", AMQPValue::ShortShortInt(3)),
        ("x-foo", int(1)),
        ("x-cancel-on-ha-failover", true.into()),
    ] {
        rows.answer(&format!("B2 {argument} {value:?}"), "Basic.ConsumeOk", move |s| {
            s.done(Declare { exclusive: true, ..declare(&s.name) });
            s.send(Consume { arguments: table([(argument, value.clone())]), ..consume(&s.name, "t") });
        });
    }
    rows.check();
}

fn invalid(argument: &str, reason: &str) -> String {
    format!("PRECONDITION_FAILED - invalid arg '{argument}' for queue '{{n}}' in vhost '/': {reason}")
}

fn refused(rows: &mut Table, argument: &'static str, value: &AMQPValue, reason: &str) {
    let value = value.clone();
    rows.channel(&format!("B1 {argument} {value:?}"), (406, &invalid(argument, reason), 50, 10), move |s| {
        s.send(with(&s.name, table([(argument, value.clone())])));
    });
}

fn accepted(rows: &mut Table, argument: &'static str, value: AMQPValue) {
    rows.answer(&format!("B1 {argument} {value:?}"), "Basic.QosOk", move |s| {
        s.done(with(&s.name, table([(argument, value.clone())])));
        s.send(prefetch(0));
    });
}

/// A row: a queue declared with and without, or with another value.
fn differ(
    rows: &mut Table,
    argument: &'static str,
    current: Option<AMQPValue>,
    received: Option<AMQPValue>,
    difference: &str,
) {
    let reply = format!(
        "PRECONDITION_FAILED - inequivalent arg '{argument}' for queue '{{n}}' in vhost '/': {difference}"
    );
    let name = format!("B1 {argument} {current:?} redeclared as {received:?}");
    rows.channel(&name, (406, &reply, 50, 10), move |s| {
        let arguments = |value: &Option<AMQPValue>| table(value.clone().map(|value| (argument, value)));
        // It must outlive the refusal, and a quorum queue must be durable to be refused for its type.
        let shared = |arguments| Declare { durable: true, exclusive: false, ..with(&s.name, arguments) };
        let (first, again) = (shared(arguments(&current)), shared(arguments(&received)));
        s.done(first);
        s.send(again);
    });
}

fn with(queue: &str, arguments: FieldTable) -> Declare {
    Declare { exclusive: true, arguments, ..declare(queue) }
}
