//! Class queue, but for the arguments of `queue.declare`.

use amq_protocol::protocol::queue::{Bind, Declare, Delete, Purge, Unbind};

use super::{Table, exchange::bad_x_match};
use crate::wire::{Method, bind, consume, declare, delete, frame, get, method_frame, prefetch};

const DEFAULT: &str = "ACCESS_REFUSED - operation not permitted on the default exchange";
const MISSING: &str = "NOT_FOUND - no queue '{n}' in vhost '/'";
const NONE_DECLARED: &str = "NOT_FOUND - no previously declared queue";
const LOCKED: &str = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{n}' in vhost '/'. It could be \
                      originally declared on another connection or the exclusive property value does not match that of \
                      the original declaration.";

#[test]
fn queue_declare() {
    let mut rows = Table::default();
    rows.channel("A5 passive, missing", (404, MISSING, 50, 10), |s| s.send(passive(&s.name)));
    rows.channel("A5 passive and nowait, missing", (404, MISSING, 50, 10), |s| {
        s.send(Declare { nowait: true, ..passive(&s.name) });
    });
    rows.channel("A5 passive, no name", (404, "NOT_FOUND - no queue '' in vhost '/'", 50, 10), |s| {
        s.send(passive(""));
    });
    for name in ["amq.foo", "amq.gen-foo"] {
        let text = format!("ACCESS_REFUSED - queue name '{name}' contains reserved prefix 'amq.*'");
        rows.channel(&format!("A5 reserved prefix: {name}"), (403, &text, 50, 10), move |s| {
            s.send(declare(name))
        });
    }
    rows.channel(
        "A5 reserved prefix, passive",
        (404, "NOT_FOUND - no queue 'amq.foo' in vhost '/'", 50, 10),
        |s| s.send(passive("amq.foo")),
    );
    inequivalent(&mut rows, "durable", ("true", "false"), transient, |again| Declare {
        durable: true,
        ..again
    });
    inequivalent(&mut rows, "auto_delete", ("true", "false"), transient, |again| Declare {
        auto_delete: true,
        ..again
    });
    inequivalent(
        &mut rows,
        "durable",
        ("false", "true"),
        |first| Declare { durable: true, ..first },
        transient,
    );
    inequivalent(&mut rows, "durable", ("true", "false"), transient, |again| Declare {
        durable: true,
        auto_delete: true,
        nowait: true,
        ..again
    });
    for (mine, again) in [(false, true), (true, false)] {
        rows.channel(
            &format!("A5 exclusive {mine} redeclared {again} by its own connection"),
            (405, LOCKED, 50, 10),
            move |s| {
                s.done(Declare { exclusive: mine, ..declare(&s.name) });
                s.send(Declare { exclusive: again, durable: true, ..declare(&s.name) });
            },
        );
    }
    rows.answer("A5 an exclusive queue is never durable", "Basic.QosOk", |s| {
        s.done(Declare { exclusive: true, durable: true, ..declare(&s.name) });
        s.done(Declare { exclusive: true, ..declare(&s.name) });
        s.send(prefetch(0));
    });
    rows.connection(
        "A1.7 queue name that is not UTF-8",
        (501, "FRAME_ERROR - Malformed UTF-8 in shortstr", 0, 0),
        |s| {
            let sound = method_frame(1, declare("ab"));
            let mut payload = sound[7..sound.len() - 1].to_vec();
            payload[8] = 0xFE;
            s.wire.raw(&frame(1, 1, &payload));
        },
    );
    rows.check();
}

#[test]
fn exclusive_queue_of_another_connection() {
    let mut rows = Table::default();
    locked(&mut rows, "declare", (50, 10), declare);
    locked(&mut rows, "declare exclusive", (50, 10), |name| Declare { exclusive: true, ..declare(name) });
    locked(&mut rows, "declare passive", (50, 10), passive);
    locked(&mut rows, "bind", (50, 20), |name| bind(name, "amq.direct", "k"));
    locked(&mut rows, "purge", (50, 30), purge);
    locked(&mut rows, "delete", (50, 40), delete);
    locked(&mut rows, "delete if-unused if-empty", (50, 40), |name| Delete {
        if_unused: true,
        if_empty: true,
        ..delete(name)
    });
    locked(&mut rows, "consume", (60, 20), |name| consume(name, "t"));
    locked(&mut rows, "get", (60, 70), get);
    rows.answer("A5 exclusive elsewhere: unbind", "Queue.UnbindOk", |s| {
        s.elsewhere(Declare { exclusive: true, ..declare(&s.name) });
        s.send(unbind(&s.name, "amq.direct"));
    });
    rows.check();
}

#[test]
fn queue_missing_or_not_named() {
    let mut rows = Table::default();
    rows.channel("A5 purge, missing", (404, MISSING, 50, 30), |s| s.send(purge(&s.name)));
    rows.channel("A6 get, missing", (404, MISSING, 60, 70), |s| s.send(get(&s.name)));
    rows.channel("A6 consume, missing", (404, MISSING, 60, 20), |s| s.send(consume(&s.name, "t")));
    rows.answer("A0.7 delete, missing", "Queue.DeleteOk", |s| s.send(delete(&s.name)));
    rows.answer("A0.7 delete if-unused, missing", "Queue.DeleteOk", |s| {
        s.send(Delete { if_unused: true, ..delete(&s.name) });
    });
    rows.channel("A5 bind, no name", (404, NONE_DECLARED, 50, 20), |s| s.send(bind("", "amq.direct", "k")));
    rows.channel("A5 unbind, no name", (404, NONE_DECLARED, 50, 50), |s| s.send(unbind("", "amq.direct")));
    rows.channel("A5 purge, no name", (404, NONE_DECLARED, 50, 30), |s| s.send(purge("")));
    rows.channel("A5 delete, no name", (404, NONE_DECLARED, 50, 40), |s| s.send(delete("")));
    rows.channel("A6 get, no name", (404, NONE_DECLARED, 60, 70), |s| s.send(get("")));
    rows.channel("A6 consume, no name", (404, NONE_DECLARED, 60, 20), |s| s.send(consume("", "")));
    for operation in ["purge", "get", "bind"] {
        let text = "NOT_FOUND - no queue 'amq.rabbitmq.reply-to' in vhost '/'";
        let ids = match operation {
            "purge" => (50, 30),
            "get" => (60, 70),
            _ => (50, 20),
        };
        rows.channel(&format!("A5 direct reply-to, {operation}"), (404, text, ids.0, ids.1), move |s| {
            let name = "amq.rabbitmq.reply-to";
            match operation {
                "purge" => s.send(purge(name)),
                "get" => s.send(get(name)),
                _ => s.send(bind(name, "amq.direct", "k")),
            }
        });
    }
    rows.check();
}

#[test]
fn queue_delete_on_conditions() {
    let mut rows = Table::default();
    rows.channel(
        "A5 delete if-empty with a message",
        (406, "PRECONDITION_FAILED - queue '{n}' in vhost '/' not empty", 50, 40),
        |s| {
            let name = s.name.clone();
            s.done(declare(&name));
            s.wire.publish(1, &name, "m");
            s.send(Delete { if_empty: true, ..delete(&name) });
        },
    );
    for nowait in [false, true] {
        rows.channel(
            "A5 delete if-unused with a consumer",
            (406, "PRECONDITION_FAILED - queue '{n}' in vhost '/' in use", 50, 40),
            move |s| {
                let name = s.name.clone();
                s.done(Declare { exclusive: true, ..declare(&name) });
                s.done(consume(&name, "t"));
                s.send(Delete { if_unused: true, if_empty: true, nowait, ..delete(&name) });
            },
        );
    }
    rows.check();
}

#[test]
fn queue_bind_and_unbind() {
    let mut rows = Table::default();
    rows.channel("A5 bind a missing queue", (404, MISSING, 50, 20), |s| {
        s.send(bind(&s.name, "amq.direct", "k"))
    });
    rows.channel("A5 bind a missing queue with nowait", (404, MISSING, 50, 20), |s| {
        s.send(Bind { nowait: true, ..bind(&s.name, "amq.direct", "k") });
    });
    rows.channel(
        "A5 bind to a missing exchange, which is named first",
        (404, "NOT_FOUND - no exchange '{n}' in vhost '/'", 50, 20),
        |s| s.send(bind("missing", &s.name, "k")),
    );
    rows.channel("A5 bind to the default exchange", (403, DEFAULT, 50, 20), |s| {
        s.done(Declare { exclusive: true, ..declare(&s.name) });
        s.send(bind(&s.name, "", "k"));
    });
    rows.channel("A5 bind a missing queue to the default exchange", (403, DEFAULT, 50, 20), |s| {
        s.send(bind(&s.name, "", "k"));
    });
    rows.channel("A5 unbind from the default exchange", (403, DEFAULT, 50, 50), |s| {
        s.done(Declare { exclusive: true, ..declare(&s.name) });
        s.send(unbind(&s.name, ""));
    });
    rows.channel("A5 bind after the last declared queue is gone", (404, MISSING, 50, 20), |s| {
        s.done(declare(&s.name));
        s.done(delete(""));
        s.send(bind("", "amq.direct", ""));
    });
    rows.answer("A5 unbind a missing queue from a missing exchange", "Queue.UnbindOk", |s| {
        s.send(unbind(&s.name, &s.name));
    });
    bad_x_match(&mut rows, (50, 20), |arguments| Bind { arguments, ..bind("", "amq.headers", "") });
    rows.check();
}

/// A row: what `operation` says of a queue that another connection declared exclusive.
fn locked<M: Method + 'static>(
    rows: &mut Table,
    name: &str,
    (class_id, method_id): (u16, u16),
    operation: fn(&str) -> M,
) {
    rows.channel(&format!("A5 exclusive elsewhere: {name}"), (405, LOCKED, class_id, method_id), move |s| {
        s.elsewhere(Declare { exclusive: true, ..declare(&s.name) });
        s.send(operation(&s.name));
    });
}

/// A row: a queue declared once like `first` and once like `again`.
fn inequivalent(
    rows: &mut Table,
    property: &str,
    (received, current): (&str, &str),
    first: fn(Declare) -> Declare,
    again: fn(Declare) -> Declare,
) {
    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg '{property}' for queue '{{n}}' in vhost '/': received '{received}' but \
         current is '{current}'"
    );
    rows.channel(&format!("A5 redeclared with {property} {received}"), (406, &text, 50, 10), move |s| {
        s.done(first(declare(&s.name)));
        s.send(again(declare(&s.name)));
    });
}

fn transient(declare: Declare) -> Declare {
    declare
}

fn passive(queue: &str) -> Declare {
    Declare { passive: true, ..declare(queue) }
}

fn purge(queue: &str) -> Purge {
    Purge { queue: queue.into(), nowait: false }
}

fn unbind(queue: &str, exchange: &str) -> Unbind {
    Unbind { queue: queue.into(), exchange: exchange.into(), ..Unbind::default() }
}
