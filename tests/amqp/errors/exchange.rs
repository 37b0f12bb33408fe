//! Class exchange.

use amq_protocol::protocol::exchange::{Bind, Declare, Delete, Unbind};

use super::Table;
use crate::wire::{Method, bind, declare, declare_exchange, frame, int, method_frame, table, text};

const DEFAULT: &str = "ACCESS_REFUSED - operation not permitted on the default exchange";

#[test]
fn exchange_declare() {
    let mut rows = Table::default();
    rows.connection(
        "A4 unknown exchange type",
        (503, "COMMAND_INVALID - unknown exchange type 'nope'", 40, 10),
        |s| s.send(declare_exchange(&s.name, "nope")),
    );
    rows.connection(
        "A4 unknown exchange type with nowait",
        (503, "COMMAND_INVALID - unknown exchange type 'nope'", 40, 10),
        |s| s.send(Declare { nowait: true, ..declare_exchange(&s.name, "nope") }),
    );
    rows.connection(
        "A4 unknown type of an exchange that exists",
        (503, "COMMAND_INVALID - unknown exchange type 'nope'", 40, 10),
        |s| s.send(declare_exchange("amq.direct", "nope")),
    );
    rows.connection(
        "A4 empty exchange type",
        (503, "COMMAND_INVALID - invalid exchange type ''", 40, 10),
        |s| s.send(declare_exchange(&s.name, "")),
    );
    for (property, change) in [
        ("durable", (|again| Declare { durable: true, ..again }) as fn(Declare) -> Declare),
        ("auto_delete", |again| Declare { auto_delete: true, ..again }),
        ("internal", |again| Declare { internal: true, ..again }),
    ] {
        let text = format!(
            "PRECONDITION_FAILED - inequivalent arg '{property}' for exchange '{{n}}' in vhost '/': received 'true' but \
             current is 'false'"
        );
        rows.channel(&format!("A4 redeclared with another {property}"), (406, &text, 40, 10), move |s| {
            s.done(declare_exchange(&s.name, "direct"));
            s.send(change(declare_exchange(&s.name, "direct")));
        });
    }
    rows.channel(
        "A4 redeclared not durable",
        (
            406,
            "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'amq.direct' in vhost '/': received 'false' \
             but current is 'true'",
            40,
            10,
        ),
        |s| s.send(declare_exchange("amq.direct", "direct")),
    );
    rows.channel(
        "A4 redeclared with another type, which is looked at first",
        (
            406,
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{n}' in vhost '/': received 'fanout' but \
             current is 'direct'",
            40,
            10,
        ),
        |s| {
            s.done(declare_exchange(&s.name, "direct"));
            s.send(Declare { durable: true, nowait: true, ..declare_exchange(&s.name, "fanout") });
        },
    );
    rows.answer("A4 redeclared with an unknown argument", "Exchange.DeclareOk", |s| {
        s.done(declare_exchange(&s.name, "direct"));
        s.send(Declare { arguments: table([("x-foo", int(1))]), ..declare_exchange(&s.name, "direct") });
    });
    rows.channel(
        "A4 reserved prefix",
        (403, "ACCESS_REFUSED - exchange name 'amq.foo' contains reserved prefix 'amq.*'", 40, 10),
        |s| s.send(declare_exchange("amq.foo", "direct")),
    );
    rows.channel(
        "A4 reserved prefix, passive",
        (404, "NOT_FOUND - no exchange 'amq.foo' in vhost '/'", 40, 10),
        |s| {
            s.send(Declare { passive: true, ..declare_exchange("amq.foo", "direct") });
        },
    );
    rows.answer("A4 predeclared exchange declared as it is", "Exchange.DeclareOk", |s| {
        s.send(Declare { durable: true, ..declare_exchange("amq.direct", "direct") });
    });
    rows.channel("A4 default exchange", (403, DEFAULT, 40, 10), |s| {
        s.send(Declare { durable: true, ..declare_exchange("", "direct") });
    });
    rows.channel("A4 default exchange, passive", (403, DEFAULT, 40, 10), |s| {
        s.send(Declare { passive: true, ..declare_exchange("", "direct") });
    });
    rows.channel("A4 passive, missing", (404, "NOT_FOUND - no exchange '{n}' in vhost '/'", 40, 10), |s| {
        s.send(Declare { passive: true, ..declare_exchange(&s.name, "nope") });
    });
    rows.answer("A4 passive looks at nothing but the name", "Exchange.DeclareOk", |s| {
        s.send(Declare { passive: true, ..declare_exchange("amq.direct", "nope") });
    });
    rows.answer("A4 CR and LF do not belong to a name", "Exchange.DeclareOk", |s| {
        s.send(Declare { passive: true, ..declare_exchange("amq.\r\ndirect", "direct") });
    });
    rows.channel(
        "A0.1 a reply text has 255 bytes at most",
        (404, &format!("NOT_FOUND - no exchange '{}...", "e".repeat(227)), 40, 10),
        |s| s.send(Declare { passive: true, ..declare_exchange(&"e".repeat(255), "direct") }),
    );
    rows.connection(
        "A1.7 exchange name that is not UTF-8",
        (501, "FRAME_ERROR - Malformed UTF-8 in shortstr", 0, 0),
        |s| {
            let sound = method_frame(1, declare_exchange("ab", "direct"));
            let mut payload = sound[7..sound.len() - 1].to_vec();
            payload[7] = 0xFF;
            s.wire.raw(&frame(1, 1, &payload));
        },
    );
    rows.check();
}

#[test]
fn alternate_exchange_argument() {
    let mut rows = Table::default();
    for (value, printed) in [
        (int(5), "signedint"),
        (true.into(), "bool"),
        (amq_protocol::types::FieldTable::default().into(), "table"),
    ] {
        let text = format!(
            "PRECONDITION_FAILED - invalid type '{printed}' for arg 'alternate-exchange' in exchange '{{n}}' in vhost '/'"
        );
        rows.channel(&format!("A4 alternate-exchange of type {printed}"), (406, &text, 40, 10), move |s| {
            let arguments = table([("alternate-exchange", value.clone())]);
            s.send(Declare { arguments, ..declare_exchange(&s.name, "direct") });
        });
    }
    for (current, received, difference) in [
        (None, Some("a"), "received the value 'a' of type 'longstr' but current is none"),
        (Some("a"), None, "received none but current is the value 'a' of type 'longstr'"),
        (Some("a"), Some("b"), "received 'b' but current is 'a'"),
    ] {
        let arguments =
            |value: Option<&'static str>| table(value.map(|value| ("alternate-exchange", text(value))));
        let reply = format!(
            "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange '{{n}}' in vhost '/': {difference}"
        );
        let name = format!("A4 alternate-exchange {current:?} redeclared as {received:?}");
        rows.channel(&name, (406, &reply, 40, 10), move |s| {
            s.done(Declare { arguments: arguments(current), ..declare_exchange(&s.name, "direct") });
            s.send(Declare { arguments: arguments(received), ..declare_exchange(&s.name, "direct") });
        });
    }
    rows.check();
}

#[test]
fn exchange_types_of_plugins() {
    let mut rows = Table::default();
    for (kind, arguments, text) in [
        (
            "x-consistent-hash",
            table([("hash-header", text("h")), ("hash-property", text("message_id"))]),
            "hash-header and hash-property are mutually exclusive",
        ),
        ("x-consistent-hash", table([("hash-property", text("app_id"))]), "Unsupported property: app_id"),
        (
            "x-recent-history",
            table([("x-recent-history-length", int(0))]),
            "Invalid argument 0, 'x-recent-history-length' must be a positive integer",
        ),
        (
            "x-recent-history",
            table([("x-recent-history-length", text("5"))]),
            "Invalid argument <<\"5\">>, 'x-recent-history-length' must be a positive integer",
        ),
    ] {
        let refusal = format!("PRECONDITION_FAILED - {text}");
        rows.channel(&format!("B4 {kind}: {text}"), (406, &refusal, 40, 10), move |s| {
            s.send(Declare { arguments: arguments.clone(), ..declare_exchange(&s.name, kind) });
        });
    }
    for kind in ["x-consistent-hash", "x-modulus-hash", "x-random", "x-recent-history"] {
        let refusal = format!(
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{{n}}' in vhost '/': received \
             ''{kind}'' but current is 'direct'"
        );
        rows.channel(&format!("B4 redeclared as {kind}"), (406, &refusal, 40, 10), move |s| {
            s.done(declare_exchange(&s.name, "direct"));
            s.send(declare_exchange(&s.name, kind));
        });
        rows.answer(
            &format!("B4 {kind} redeclared with arguments that are not compared"),
            "Exchange.DeclareOk",
            move |s| {
                s.done(declare_exchange(&s.name, kind));
                let arguments = table([("hash-header", text("h")), ("x-recent-history-length", int(3))]);
                s.send(Declare { arguments, ..declare_exchange(&s.name, kind) });
            },
        );
    }
    rows.check();
}

/// What RabbitMQ 3.10.8 and the plugins that come with it do not know, or answer by a crash.
#[test]
fn exchange_types_of_others() {
    let mut rows = Table::default();
    let delayed = "Invalid argument, 'x-delayed-type' must be an existing exchange type";
    for (kind, arguments, text) in [
        (
            "x-consistent-hash",
            table([("hash-header", int(1))]),
            "invalid type 'signedint' for arg 'hash-header' in exchange '{n}' in vhost '/'",
        ),
        ("x-delayed-message", table([("x-other", int(1))]), delayed),
        ("x-delayed-message", table([("x-delayed-type", text("nope"))]), delayed),
        (
            "x-delayed-message",
            table([("x-delayed-type", text("x-delayed-message"))]),
            "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'",
        ),
        (
            "x-message-deduplication",
            table([("x-other", int(1))]),
            "Missing or invalid argument, 'x-cache-size' must be an integer greater than 0",
        ),
        (
            "x-message-deduplication",
            table([("x-cache-size", int(1)), ("x-cache-ttl", int(0))]),
            "Invalid argument, 'x-cache-ttl' must be an integer greater than 0",
        ),
        (
            "x-message-deduplication",
            table([("x-cache-size", int(1)), ("x-cache-persistence", text("ram"))]),
            "Invalid argument, 'x-cache-persistence' must be either 'disk' or 'memory'",
        ),
        (
            "direct",
            table([("x-alternate-exchange", int(1))]),
            "invalid type 'signedint' for arg 'x-alternate-exchange' in exchange '{n}' in vhost '/'",
        ),
    ] {
        let refusal = format!("PRECONDITION_FAILED - {text}");
        rows.channel(&format!("B4 {kind}: {text}"), (406, &refusal, 40, 10), move |s| {
            s.send(Declare { arguments: arguments.clone(), ..declare_exchange(&s.name, kind) });
        });
        rows.mark_deviation();
    }
    for (kind, name, current, received) in [
        ("x-delayed-message", "x-delayed-type", text("direct"), text("topic")),
        ("x-message-deduplication", "x-cache-size", int(5), int(6)),
    ] {
        let printed = if kind == "x-delayed-message" { ("topic", "direct") } else { ("6", "5") };
        let refusal = format!(
            "PRECONDITION_FAILED - inequivalent arg '{name}' for exchange '{{n}}' in vhost '/': received '{}' but \
             current is '{}'",
            printed.0, printed.1
        );
        rows.channel(&format!("B4 another {name}"), (406, &refusal, 40, 10), move |s| {
            for value in [&current, &received] {
                let arguments = table([(name, value.clone())]);
                s.send(Declare { arguments, ..declare_exchange(&s.name, kind) });
                if value == &current {
                    s.wire.expect::<amq_protocol::protocol::exchange::DeclareOk>(1);
                }
            }
        });
        rows.mark_deviation();
    }
    rows.check();
}

#[test]
fn bindings_that_a_type_refuses() {
    let mut rows = Table::default();
    for (kind, key, text, is_deviation) in [
        ("x-consistent-hash", "a", "The binding key must be an integer: <<\"a\">>", false),
        ("x-consistent-hash", "", "The binding key must be an integer: <<>>", false),
        ("x-consistent-hash", "1.5", "The binding key must be an integer: <<\"1.5\">>", false),
        ("x-consistent-hash", "0", "The binding key must be greater than 0", false),
        ("x-consistent-hash", "-1", "The binding key must be greater than 0", false),
        // RabbitMQ 3.10.8 has no highest weight.
        ("x-consistent-hash", "10001", "The binding key must not exceed 10000", true),
        ("x-local-random", "k", "Non empty binding 'k' key not permitted", true),
    ] {
        let refusal = format!("PRECONDITION_FAILED - {text}");
        rows.channel(&format!("B4 {kind}: {text}"), (406, &refusal, 40, 30), move |s| {
            s.done(Declare { auto_delete: true, ..declare_exchange(&s.name, kind) });
            s.send(Bind { routing_key: key.into(), ..exchange_bind("amq.fanout", &s.name) });
        });
        if is_deviation {
            rows.mark_deviation();
        }
    }
    rows.check();
}

#[test]
fn exchange_delete() {
    let mut rows = Table::default();
    rows.answer("A0.7 delete of a missing exchange", "Exchange.DeleteOk", |s| s.send(named(&s.name)));
    rows.answer("A0.7 delete if-unused of a missing exchange", "Exchange.DeleteOk", |s| {
        s.send(Delete { if_unused: true, ..named(&s.name) });
    });
    for name in ["amq.direct", "amq.missing"] {
        let text = format!("ACCESS_REFUSED - deletion of system exchange '{name}' in vhost '/' not allowed");
        rows.channel(&format!("A4 delete of {name}"), (403, &text, 40, 20), move |s| s.send(named(name)));
    }
    rows.channel("A4 delete of the default exchange", (403, DEFAULT, 40, 20), |s| s.send(named("")));
    for nowait in [false, true] {
        rows.channel(
            "A4 delete if-unused of an exchange with a binding",
            (406, "PRECONDITION_FAILED - exchange '{n}' in vhost '/' in use", 40, 20),
            move |s| {
                let name = s.name.clone();
                s.done(declare_exchange(&name, "direct"));
                s.done(amq_protocol::protocol::queue::Declare { exclusive: true, ..declare(&name) });
                s.done(bind(&name, &name, "k"));
                s.send(Delete { if_unused: true, nowait, ..named(&name) });
            },
        );
    }
    rows.answer(
        "A4 delete if-unused of an exchange that is only bound to another",
        "Exchange.DeleteOk",
        |s| {
            s.done(declare_exchange(&s.name, "direct"));
            s.done(exchange_bind(&s.name, "amq.direct"));
            s.send(Delete { if_unused: true, ..named(&s.name) });
        },
    );
    rows.check();
}

#[test]
fn exchange_bind_and_unbind() {
    let mut rows = Table::default();
    let missing = "NOT_FOUND - no exchange '{n}' in vhost '/'";
    rows.channel("A4 bind from a missing exchange", (404, missing, 40, 30), |s| {
        s.send(exchange_bind("amq.direct", &s.name));
    });
    rows.channel("A4 bind from a missing exchange with nowait", (404, missing, 40, 30), |s| {
        s.send(Bind { nowait: true, ..exchange_bind("amq.direct", &s.name) });
    });
    rows.channel("A4 bind to a missing exchange", (404, missing, 40, 30), |s| {
        s.send(exchange_bind(&s.name, "amq.direct"));
    });
    for (destination, source) in [("", "amq.direct"), ("amq.direct", ""), ("", ""), ("missing", "")] {
        rows.channel(&format!("A4 bind {source:?} to {destination:?}"), (403, DEFAULT, 40, 30), move |s| {
            s.send(exchange_bind(destination, source));
        });
        rows.channel(
            &format!("A4 unbind {source:?} from {destination:?}"),
            (403, DEFAULT, 40, 40),
            move |s| {
                s.send(exchange_unbind(destination, source));
            },
        );
    }
    rows.answer("A4 unbind of missing exchanges", "Exchange.UnbindOk", |s| {
        s.send(exchange_unbind(&s.name, &s.name));
    });
    rows.answer("A0.7 unbind of a missing binding", "Exchange.UnbindOk", |s| {
        s.send(exchange_unbind("amq.direct", "amq.fanout"));
    });
    bad_x_match(&mut rows, (40, 30), |arguments| Bind {
        arguments,
        ..exchange_bind("amq.direct", "amq.headers")
    });
    rows.check();
}

/// The rows for a headers binding with a wrong `x-match`.
pub(super) fn bad_x_match<M: Method + 'static>(
    rows: &mut Table,
    (class_id, method_id): (u16, u16),
    bind: fn(amq_protocol::types::FieldTable) -> M,
) {
    for (value, reason) in [
        (text("foo"), "value <<\"foo\">>; expected all, any, all-with-x, or any-with-x"),
        (int(3), "type signedint (value 3); expected longstr"),
        (true.into(), "type bool (value true); expected longstr"),
    ] {
        let text = format!("PRECONDITION_FAILED - Invalid x-match field {reason}");
        rows.channel(&format!("A5 x-match {value:?}"), (406, &text, class_id, method_id), move |s| {
            s.done(amq_protocol::protocol::queue::Declare { exclusive: true, ..declare(&s.name) });
            s.send(bind(table([("x-match", value.clone())])));
        });
    }
}

fn named(exchange: &str) -> Delete {
    Delete { exchange: exchange.into(), ..Delete::default() }
}

fn exchange_bind(destination: &str, source: &str) -> Bind {
    Bind { destination: destination.into(), source: source.into(), ..Bind::default() }
}

fn exchange_unbind(destination: &str, source: &str) -> Unbind {
    Unbind { destination: destination.into(), source: source.into(), ..Unbind::default() }
}
