//! Class basic: consuming, settling and publishing.

use amq_protocol::{
    protocol::{
        BasicProperties,
        basic::{Ack, Cancel, Consume, Nack, Publish, Qos, Recover, RecoverAsync, Reject},
        exchange,
        queue::Declare,
    },
    types::{AMQPValue, FieldArray, FieldTable},
};

use super::{Scene, Table};
use crate::wire::{
    HEADER, Method, ack, consume, declare, declare_exchange, get, int, method_frame, prefetch, publish,
    requeue, table, text,
};

const EXCLUSIVE_USE: &str = "ACCESS_REFUSED - queue '{n}' in vhost '/' in exclusive use";
const DUPLICATE: &str = "NOT_ALLOWED - attempt to reuse consumer tag 't'";

#[test]
fn consume_and_cancel() {
    let mut rows = Table::default();
    for nowait in [false, true] {
        rows.connection(
            &format!("A6 consumer tag in use, nowait {nowait}"),
            (530, DUPLICATE, 60, 20),
            move |s| {
                own_queue(s);
                s.done(consume(&s.name, "t"));
                s.send(Consume { nowait, ..consume(&s.name, "t") });
            },
        );
    }
    rows.connection(
        "A6 consumer tag in use, before the queue is looked for",
        (530, DUPLICATE, 60, 20),
        |s| {
            own_queue(s);
            s.done(consume(&s.name, "t"));
            s.send(consume("missing", "t"));
        },
    );
    rows.answer("A6 consumer tag used again after its cancel", "Basic.ConsumeOk", |s| {
        own_queue(s);
        s.done(consume(&s.name, "t"));
        s.done(Cancel { consumer_tag: "t".into(), nowait: false });
        s.send(consume(&s.name, "t"));
    });
    for (first, second) in [(true, false), (true, true), (false, true)] {
        let name = format!("A6 exclusive consumer: {first} first, then {second}");
        rows.channel(&name, (403, EXCLUSIVE_USE, 60, 20), move |s| {
            s.done(Declare { auto_delete: true, ..declare(&s.name) });
            s.elsewhere(Consume { exclusive: first, ..consume(&s.name, "t") });
            s.send(Consume { exclusive: second, ..consume(&s.name, "t") });
        });
    }
    rows.channel(
        "A9 exclusive consumer on a queue with a single active one",
        (403, EXCLUSIVE_USE, 60, 20),
        |s| {
            let arguments = table([("x-single-active-consumer", true.into())]);
            s.done(Declare { exclusive: true, arguments, ..declare(&s.name) });
            s.send(Consume { exclusive: true, ..consume(&s.name, "t") });
        },
    );
    rows.answer("A6 get beside an exclusive consumer", "Basic.GetEmpty", |s| {
        own_queue(s);
        s.done(Consume { exclusive: true, ..consume(&s.name, "t") });
        s.send(get(&s.name));
    });
    rows.answer("A0.7 cancel of an unknown tag", "Basic.CancelOk", |s| {
        s.send(Cancel { consumer_tag: "nobody".into(), nowait: false });
    });
    rows.answer("A6 no_local is ignored", "Basic.ConsumeOk", |s| {
        own_queue(s);
        s.send(Consume { no_local: true, ..consume(&s.name, "t") });
    });
    rows.channel(
        "A8 direct reply-to consumed with acknowledgements",
        (406, "PRECONDITION_FAILED - reply consumer cannot acknowledge", 60, 20),
        |s| s.send(consume("amq.rabbitmq.reply-to", "t")),
    );
    rows.channel(
        "A8 direct reply-to consumed twice",
        (406, "PRECONDITION_FAILED - reply consumer already set", 60, 20),
        |s| {
            s.done(Consume { no_ack: true, ..consume("amq.rabbitmq.reply-to", "t") });
            s.send(Consume { no_ack: true, ..consume("amq.rabbitmq.reply-to", "u") });
        },
    );
    rows.connection("A8 direct reply-to consumed with a tag in use", (530, DUPLICATE, 60, 20), |s| {
        own_queue(s);
        s.done(consume(&s.name, "t"));
        s.send(Consume { no_ack: true, ..consume("amq.rabbitmq.reply-to", "t") });
    });
    rows.check();
}

#[test]
fn qos_and_recover() {
    let mut rows = Table::default();
    for global in [false, true] {
        let name = format!("A6 qos with a prefetch size, global {global}");
        rows.connection(&name, (540, "NOT_IMPLEMENTED - prefetch_size!=0 (7)", 60, 10), move |s| {
            // The size is no field of the structure: it is always 0 there.
            let mut bytes = method_frame(1, Qos { prefetch_count: 1, global });
            bytes[14] = 7;
            s.wire.raw(&bytes);
        });
    }
    rows.connection("A6 recover requeue=false", (540, "NOT_IMPLEMENTED - requeue=false", 60, 110), |s| {
        s.send(Recover { requeue: false });
    });
    rows.connection(
        "A6 recover-async requeue=false",
        (540, "NOT_IMPLEMENTED - requeue=false", 60, 100),
        |s| {
            s.send(RecoverAsync { requeue: false });
        },
    );
    rows.answer("A6 recover with nothing delivered", "Basic.RecoverOk", |s| {
        s.send(Recover { requeue: true })
    });
    rows.answer("A6 recover-async has no answer", "Basic.QosOk", |s| {
        s.send(RecoverAsync { requeue: true });
        s.send(prefetch(0));
    });
    rows.check();
}

#[test]
fn unknown_delivery_tags() {
    let mut rows = Table::default();
    for tag in [0, 1, 99, 1 << 63] {
        unknown(&mut rows, "nothing delivered", tag, 80, move |s| s.send(ack(tag)));
        for requeue in [false, true] {
            unknown(&mut rows, "nothing delivered", tag, 90, move |s| {
                s.send(Reject { delivery_tag: tag, requeue })
            });
            unknown(&mut rows, "nothing delivered", tag, 120, move |s| {
                s.send(Nack { delivery_tag: tag, multiple: false, requeue });
            });
        }
    }
    for tag in [1, 99] {
        unknown(&mut rows, "nothing delivered, multiple", tag, 80, move |s| s.send(up_to(tag)));
        unknown(&mut rows, "nothing delivered, multiple", tag, 120, move |s| {
            s.send(Nack { delivery_tag: tag, multiple: true, requeue: true });
        });
    }
    settled_before(&mut rows, "ack 1, ack", 1, 80, ack(1), ack(1));
    settled_before(&mut rows, "ack 1, nack", 1, 120, ack(1), requeue(1));
    settled_before(&mut rows, "ack 1, reject", 1, 90, ack(1), Reject { delivery_tag: 1, requeue: true });
    settled_before(&mut rows, "ack 2 multiple, ack", 1, 80, up_to(2), ack(1));
    settled_before(&mut rows, "ack 2 multiple, ack multiple", 2, 80, up_to(2), up_to(2));
    settled_before(&mut rows, "ack 2, ack multiple", 2, 80, ack(2), up_to(2));
    settled_before(&mut rows, "ack 1, ack multiple above the last", 4, 80, ack(1), up_to(4));
    unknown(&mut rows, "got with no_ack", 1, 80, |s| {
        own_queue(s);
        s.wire.publish(1, &s.name.clone(), "m");
        s.done(amq_protocol::protocol::basic::Get { no_ack: true, ..get(&s.name) });
        s.send(ack(1));
    });
    for multiple_of_all in ["ack", "nack"] {
        let name = format!("A6 {multiple_of_all} 0 multiple with nothing delivered");
        rows.answer(&name, "Basic.QosOk", move |s| {
            match multiple_of_all {
                "ack" => s.send(up_to(0)),
                _ => s.send(Nack { delivery_tag: 0, multiple: true, requeue: true }),
            }
            s.send(prefetch(0));
        });
    }
    rows.check();
}

#[test]
fn publish_to_exchanges() {
    let mut rows = Table::default();
    rows.channel(
        "A6 publish to a missing exchange",
        (404, "NOT_FOUND - no exchange '{n}' in vhost '/'", 60, 40),
        |s| {
            publish_to(s, "{n}", BasicProperties::default());
        },
    );
    rows.channel(
        "A4 publish to an internal exchange",
        (403, "ACCESS_REFUSED - cannot publish to internal exchange '{n}' in vhost '/'", 60, 40),
        |s| {
            s.done(exchange::Declare { internal: true, ..declare_exchange(&s.name, "fanout") });
            publish_to(s, "{n}", BasicProperties::default());
        },
    );
    rows.channel(
        "A4 publish to amq.rabbitmq.trace",
        (
            403,
            "ACCESS_REFUSED - cannot publish to internal exchange 'amq.rabbitmq.trace' in vhost '/'",
            60,
            40,
        ),
        |s| publish_to(s, "amq.rabbitmq.trace", BasicProperties::default()),
    );
    for exchange in ["", "missing"] {
        let name = format!("A6 immediate, exchange {exchange:?}");
        rows.connection(&name, (540, "NOT_IMPLEMENTED - immediate=true", 60, 40), move |s| {
            let publish = Publish { immediate: true, ..publish(exchange, "k") };
            s.wire.publish_with(1, publish, &BasicProperties::default(), b"m");
        });
    }
    rows.channel(
        "A6 publish refused, its content and what follows it is passed over",
        (404, "NOT_FOUND - no exchange '{n}' in vhost '/'", 60, 40),
        |s| {
            publish_to(s, "{n}", BasicProperties::default());
            publish_to(s, "{n}", BasicProperties::default());
            s.send(declare("amq.rabbitmq.never"));
        },
    );
    rows.check();
}

#[test]
fn publish_with_wrong_properties() {
    let mut rows = Table::default();
    for (expiration, reason) in [
        ("", "no_integer"),
        (" 5", "no_integer"),
        ("abc", "no_integer"),
        ("٣", "no_integer"),
        ("5 ", "{leftover_string,\" \"}"),
        ("1.5", "{leftover_string,\".5\"}"),
        ("5abc", "{leftover_string,\"abc\"}"),
        ("0x10", "{leftover_string,\"x10\"}"),
        ("-1", "{value_negative,-1}"),
        ("315360000001", "{value_too_large,315360000001}"),
        ("99999999999999999999999", "{value_too_large,99999999999999999999999}"),
    ] {
        let text = format!("PRECONDITION_FAILED - invalid expiration '{expiration}': {reason}");
        wrong_property(&mut rows, &format!("expiration {expiration:?}"), &text, expiring(expiration));
    }
    for expiration in ["0", "5", "+5", "00005", "4294967296", "315360000000"] {
        right_property(&mut rows, &format!("expiration {expiration:?}"), expiring(expiration));
    }
    for mode in [0, 3, 9, 255] {
        let text = format!("PRECONDITION_FAILED - invalid message: {{delivery_mode_unknown,{mode}}}");
        let properties = BasicProperties::default().with_delivery_mode(mode);
        wrong_property(&mut rows, &format!("delivery_mode {mode}"), &text, properties);
    }
    right_property(&mut rows, "priority 255", BasicProperties::default().with_priority(255));
    for (header, value, name) in [
        ("CC", text("a"), "longstr"),
        ("BCC", text("a"), "longstr"),
        ("CC", int(5), "signedint"),
        ("CC", true.into(), "bool"),
        ("CC", AMQPValue::Void, "void"),
        ("CC", FieldTable::default().into(), "table"),
        ("BCC", AMQPValue::ByteArray(b"a".to_vec().into()), "binary"),
    ] {
        let reply = format!(
            "PRECONDITION_FAILED - invalid message: {{unacceptable_type_in_header,\"{header}\",{name}}}"
        );
        wrong_property(&mut rows, &format!("{header} of type {name}"), &reply, with_header(header, value));
    }
    let mixed = AMQPValue::FieldArray(FieldArray::from(vec![int(1), text("x")]));
    right_property(&mut rows, "CC whose elements are not all strings", with_header("CC", mixed));
    for user in ["bob", ""] {
        let text = format!(
            "PRECONDITION_FAILED - user_id property set to '{user}' but authenticated user was 'guest'"
        );
        wrong_property(
            &mut rows,
            "user_id of another",
            &text,
            BasicProperties::default().with_user_id(user.into()),
        );
    }
    right_property(&mut rows, "user_id", BasicProperties::default().with_user_id("guest".into()));
    let no_consumer = "PRECONDITION_FAILED - fast reply consumer does not exist";
    wrong_property(
        &mut rows,
        "reply_to without its consumer",
        no_consumer,
        replying("amq.rabbitmq.reply-to"),
    );
    right_property(&mut rows, "reply_to of another kind", replying("amq.rabbitmq.reply-to.foo"));
    rows.check();
}

/// The exchange, then user_id, reply_to, expiration, CC and delivery_mode.
#[test]
fn the_first_wrong_property() {
    let mut rows = Table::default();
    let all_wrong = || expiring("x").with_delivery_mode(7).with_headers(table([("CC", int(1))]));
    rows.channel(
        "A6 a missing exchange is found first",
        (404, "NOT_FOUND - no exchange '{n}' in vhost '/'", 60, 40),
        move |s| publish_to(s, "{n}", all_wrong().with_user_id("bob".into())),
    );
    for (text, properties) in [
        (
            "PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user was 'guest'",
            all_wrong().with_user_id("bob".into()),
        ),
        (
            "PRECONDITION_FAILED - fast reply consumer does not exist",
            all_wrong().with_reply_to("amq.rabbitmq.reply-to".into()),
        ),
        ("PRECONDITION_FAILED - invalid expiration 'x': no_integer", all_wrong()),
        (
            "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,\"CC\",signedint}",
            with_header("CC", int(1)).with_delivery_mode(7),
        ),
    ] {
        wrong_property(&mut rows, "of several wrong properties", text, properties);
    }
    rows.check();
}

fn own_queue(s: &mut Scene) {
    s.done(Declare { exclusive: true, ..declare(&s.name) });
}

fn up_to(delivery_tag: u64) -> Ack {
    Ack { delivery_tag, multiple: true }
}

/// A row: a tag that names no delivery.
fn unknown(rows: &mut Table, why: &str, tag: u64, method_id: u16, act: impl Fn(&mut Scene) + 'static) {
    let text = format!("PRECONDITION_FAILED - unknown delivery tag {tag}");
    rows.channel(&format!("A6 {why}: 60.{method_id} of {tag}"), (406, &text, 60, method_id), act);
}

/// A row: three messages got, some settled, and one of those again.
fn settled_before<F: Method + Clone + 'static, G: Method + Clone + 'static>(
    rows: &mut Table,
    why: &str,
    tag: u64,
    method_id: u16,
    first: F,
    again: G,
) {
    unknown(rows, why, tag, method_id, move |s| {
        own_queue(s);
        for body in ["a", "b", "c"] {
            s.wire.publish(1, &s.name.clone(), body);
        }
        for _ in 0..3 {
            s.done(get(&s.name));
        }
        s.send(first.clone());
        s.send(again.clone());
    });
}

/// Publishes to the exchange, in whose name `{n}` is the row's.
fn publish_to(s: &mut Scene, exchange: &str, properties: BasicProperties) {
    let exchange = exchange.replace("{n}", &s.name);
    s.wire.publish_with(1, publish(&exchange, "nowhere"), &properties, b"m");
}

fn wrong_property(rows: &mut Table, name: &str, text: &str, properties: BasicProperties) {
    rows.channel(&format!("A6 {name}"), (406, text, 60, 40), move |s| publish_to(s, "", properties.clone()));
}

fn right_property(rows: &mut Table, name: &str, properties: BasicProperties) {
    rows.answer(&format!("A6 {name}"), "Basic.QosOk", move |s| {
        publish_to(s, "", properties.clone());
        s.send(prefetch(0));
    });
}

fn expiring(expiration: &str) -> BasicProperties {
    BasicProperties::default().with_expiration(expiration.into())
}

fn replying(reply_to: &str) -> BasicProperties {
    BasicProperties::default().with_reply_to(reply_to.into())
}

fn with_header(name: &str, value: AMQPValue) -> BasicProperties {
    BasicProperties::default().with_headers(table([(name, value)]))
}

/// A content header for a message that nobody announced is no method.
#[test]
fn content_out_of_turn() {
    let mut rows = Table::default();
    let no_method = "UNEXPECTED_FRAME - expected method frame, got non method frame instead";
    let no_header =
        "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead";
    let no_body = "UNEXPECTED_FRAME - expected content body, got non content body frame instead";
    rows.connection("A1.6 header without publish", (505, no_method, 0, 0), |s| {
        s.wire.header(1, 1, &BasicProperties::default());
    });
    rows.connection("A1.6 body without publish", (505, no_method, 0, 0), |s| s.wire.frame(3, 1, b"m"));
    rows.connection("A1.6 body without header", (505, no_header, 60, 40), |s| {
        s.send(publish("", "nowhere"));
        s.wire.frame(3, 1, b"m");
    });
    rows.connection("A1.6 method in place of a header", (505, no_header, 60, 40), |s| {
        s.send(publish("", "nowhere"));
        s.send(prefetch(0));
    });
    for class in [0_u16, 50, 99] {
        let text = format!(
            "UNEXPECTED_FRAME - expected content header for class 60, got one for class {class} instead"
        );
        rows.connection(&format!("A1.6 header of class {class}"), (505, &text, 60, 40), move |s| {
            s.send(publish("", "nowhere"));
            let mut payload = class.to_be_bytes().to_vec();
            payload.extend([0; 12]);
            s.wire.frame(HEADER, 1, &payload);
        });
    }
    rows.connection("A1.6 header with a weight", (505, no_header, 60, 40), |s| {
        s.send(publish("", "nowhere"));
        s.wire.frame(HEADER, 1, &[0, 60, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
    });
    rows.connection("A1.6 method in place of a body", (505, no_body, 60, 40), |s| {
        s.send(publish("", "nowhere"));
        s.wire.header(1, 3, &BasicProperties::default());
        s.send(prefetch(0));
    });
    rows.connection("A1.6 header in place of a body", (505, no_body, 60, 40), |s| {
        s.send(publish("", "nowhere"));
        s.wire.header(1, 3, &BasicProperties::default());
        s.wire.header(1, 3, &BasicProperties::default());
    });
    rows.connection("A1.6 channel.close in place of a body", (505, no_body, 60, 40), |s| {
        s.send(publish("", "nowhere"));
        s.wire.header(1, 3, &BasicProperties::default());
        s.send(amq_protocol::protocol::channel::Close::default());
    });
    rows.connection("A1.10 body frame after an empty message", (505, no_method, 0, 0), |s| {
        s.wire.publish(1, "nowhere", "");
        s.wire.frame(3, 1, b"");
    });
    rows.connection("A1.6 body frame after a whole message", (505, no_method, 0, 0), |s| {
        s.wire.publish(1, "nowhere", "m");
        s.wire.frame(3, 1, b"m");
    });
    // Deviation: RabbitMQ waits for ever for the rest of a body that is too long.
    rows.connection(
        "A1.6 body longer than announced",
        (501, "FRAME_ERROR - content body frame exceeds remaining content size", 60, 40),
        |s| {
            s.send(publish("", "nowhere"));
            s.wire.header(1, 1, &BasicProperties::default());
            s.wire.frame(3, 1, b"mm");
        },
    );
    rows.mark_deviation();
    for (name, parts) in [("in parts", ["a", "b"]), ("with an empty part first", ["", "ab"])] {
        rows.answer(&format!("A1.6 body {name}"), "return ab", move |s| {
            s.send(Publish { mandatory: true, ..publish("", "nowhere") });
            s.wire.header(1, 2, &BasicProperties::default());
            for part in parts {
                s.wire.frame(3, 1, part.as_bytes());
            }
        });
    }
    rows.check();
}
