//! Where exchanges send messages (A4, A8, A10).

use amq_protocol::{
    protocol::{
        BasicProperties,
        basic::{Get, GetOk, Publish},
        exchange,
        queue::{self, Declare, DeclareOk},
    },
    types::{AMQPValue, DecimalValue, FieldArray, FieldTable},
};

use crate::{
    broker::shared,
    wire::{Wire, bind, declare, declare_exchange, get, int, publish, table, text, unique},
};

#[test]
fn the_default_exchange_knows_every_queue_by_name() {
    let mut routes = Routes::new();
    let (one, two) = (routes.queue(), routes.queue());
    routes.publish("", &one, "m");
    assert_eq!((routes.got(&one), routes.got(&two)), (vec!["m".to_owned()], vec![]));
}

#[test]
fn a_direct_exchange_compares_keys() {
    let mut routes = Routes::new();
    let exchange = routes.exchange("direct", FieldTable::default());
    let (one, two) = (routes.queue(), routes.queue());
    for (queue, key) in [(&one, "a"), (&one, "b"), (&two, "b")] {
        routes.bind(queue, &exchange, key, FieldTable::default());
    }
    for key in ["a", "b", "c", ""] {
        routes.publish(&exchange, key, key);
    }
    assert_eq!(routes.got(&one), ["a", "b"]);
    assert_eq!(routes.got(&two), ["b"]);
}

#[test]
fn a_fanout_exchange_copies_to_all_but_once_to_each() {
    let mut routes = Routes::new();
    let exchange = routes.exchange("fanout", FieldTable::default());
    let (one, two) = (routes.queue(), routes.queue());
    for (queue, key) in [(&one, "a"), (&one, "b"), (&two, "c")] {
        routes.bind(queue, &exchange, key, FieldTable::default());
    }
    routes.publish(&exchange, "whatever", "m");
    assert_eq!((routes.got(&one), routes.got(&two)), (vec!["m".to_owned()], vec!["m".to_owned()]));
}

#[test]
fn unbinding_stops_a_route() {
    let mut routes = Routes::new();
    let exchange = routes.exchange("direct", FieldTable::default());
    let queue = routes.queue();
    // The other binding keeps the exchange, which goes with its last one.
    for key in ["k", "other"] {
        routes.bind(&queue, &exchange, key, FieldTable::default());
    }
    routes.publish(&exchange, "k", "before");
    let unbind = queue::Unbind {
        queue: queue.as_str().into(),
        exchange: exchange.as_str().into(),
        routing_key: "k".into(),
        arguments: FieldTable::default(),
    };
    routes.wire.call::<queue::UnbindOk>(1, unbind);
    routes.publish(&exchange, "k", "after");
    assert_eq!(routes.got(&queue), ["before"]);
}

#[test]
fn topic_patterns() {
    for (pattern, matching, other) in [
        ("a.*.c", &["a.b.c", "a..c"][..], &["a.c", "a.b.b.c"][..]),
        ("#", &["", "a", "a.b", "."], &[]),
        ("*", &["a"], &["", "a.b", "."]),
        ("a.#", &["a", "a.b", "a.b.c", "a."], &["ab", ""]),
        ("#.a", &["a", "b.a"], &["a.b"]),
        ("a.#.b", &["a.b", "a.x.b", "a.x.y.b"], &["a"]),
        ("*.*", &["a.b", "."], &["a", "a.b.c"]),
        ("#.#", &["", "a", "a.b"], &[]),
        ("*.#", &["a", "a.b"], &[""]),
        ("", &[""], &["a"]),
        ("a*", &["a*"], &["ab"]),
    ] {
        let mut routes = Routes::new();
        let exchange = routes.exchange("topic", FieldTable::default());
        let queue = routes.queue();
        routes.bind(&queue, &exchange, pattern, FieldTable::default());
        for key in other.iter().chain(matching) {
            routes.publish(&exchange, key, key);
        }
        assert_eq!(routes.got(&queue), matching, "matched by {pattern:?}");
    }
}

#[test]
fn overlapping_topic_patterns_give_one_copy() {
    let mut routes = Routes::new();
    let queue = routes.queue();
    for pattern in ["a.#", "a.*", "#"] {
        routes.bind(&queue, "amq.topic", &format!("{queue}.{pattern}"), FieldTable::default());
    }
    routes.publish("amq.topic", &format!("{queue}.a.b"), "m");
    assert_eq!(routes.got(&queue), ["m"]);
}

#[test]
fn headers_match_all_or_any() {
    let all = |value: &str| ("x-match", text(value));
    matches(
        "all, and one more",
        &[all("all"), ("a", int(1)), ("b", int(2))],
        &[("a", int(1)), ("b", int(2)), ("c", int(3))],
    );
    differs("all, one missing", &[all("all"), ("a", int(1)), ("b", int(2))], &[("a", int(1))]);
    matches("all is the default", &[("a", int(1))], &[("a", int(1))]);
    matches("all of nothing", &[all("all")], &[("a", int(1))]);
    matches("nothing at all", &[], &[]);
    differs("any of nothing", &[all("any")], &[("a", int(1))]);
    matches("any", &[all("any"), ("a", int(1)), ("b", int(2))], &[("b", int(2))]);
    differs("any, another value", &[all("any"), ("a", int(1))], &[("a", int(2))]);
    matches("a void asks for the name", &[("a", AMQPValue::Void)], &[("a", text("whatever"))]);
    differs("a void, name missing", &[("a", AMQPValue::Void)], &[("b", int(1))]);
    matches("x- does not count", &[all("all"), ("x-a", int(1)), ("b", int(1))], &[("b", int(1))]);
    differs("x- does not count for any", &[all("any"), ("x-a", int(1))], &[("x-a", int(1))]);
    matches("all-with-x", &[all("all-with-x"), ("x-a", int(1))], &[("x-a", int(1))]);
    differs("all-with-x, another value", &[all("all-with-x"), ("x-a", int(1))], &[("x-a", int(2))]);
    matches("any-with-x", &[all("any-with-x"), ("x-a", int(1))], &[("x-a", int(1))]);
}

#[test]
fn headers_compare_values_not_widths() {
    let long = AMQPValue::LongLongInt;
    matches("int and long", &[("a", int(1))], &[("a", long(1))]);
    matches("int and double", &[("a", int(1))], &[("a", AMQPValue::Double(1.0))]);
    matches("float and double", &[("a", AMQPValue::Float(1.5))], &[("a", AMQPValue::Double(1.5))]);
    matches("int and timestamp", &[("a", int(5))], &[("a", AMQPValue::Timestamp(5))]);
    matches("string and octets", &[("a", text("x"))], &[("a", AMQPValue::ByteArray(b"x".to_vec().into()))]);
    let decimal = || AMQPValue::DecimalValue(DecimalValue { scale: 1, value: 5 });
    matches("decimal", &[("a", decimal())], &[("a", decimal())]);
    differs("int and string", &[("a", int(1))], &[("a", text("1"))]);
    differs("int and bool", &[("a", int(1))], &[("a", true.into())]);
    let array = |value| AMQPValue::FieldArray(FieldArray::from(vec![value]));
    matches("array", &[("a", array(int(1)))], &[("a", array(int(1)))]);
    differs("array of another", &[("a", array(int(1)))], &[("a", array(int(2)))]);
    let nested = |value| AMQPValue::FieldTable(table([("k", value)]));
    matches("table", &[("a", nested(int(1)))], &[("a", nested(int(1)))]);
    differs("table of another type", &[("a", nested(int(1)))], &[("a", nested(long(1)))]);
}

#[test]
fn exchanges_bound_to_each_other_in_a_circle_give_one_copy() {
    let mut routes = Routes::new();
    let (one, two) =
        (routes.exchange("fanout", FieldTable::default()), routes.exchange("fanout", FieldTable::default()));
    let queue = routes.queue();
    routes.bind_exchange(&one, &two);
    routes.bind_exchange(&two, &one);
    for (exchange, key) in [(&one, "a"), (&two, "a"), (&two, "b")] {
        routes.bind(&queue, exchange, key, FieldTable::default());
    }
    routes.publish(&one, "k", "m");
    routes.wire.send(1, get(&queue));
    let got = routes.wire.expect_content::<GetOk>(1);
    assert_eq!((got.method.exchange.as_str(), got.method.routing_key.as_str()), (one.as_str(), "k"));
    assert_eq!(got.method.message_count, 0, "one copy");
}

#[test]
fn alternate_exchanges_take_what_finds_no_queue() {
    let mut routes = Routes::new();
    let last = routes.exchange("fanout", FieldTable::default());
    let middle = routes.exchange("direct", alternate(&last));
    let first = routes.exchange("direct", alternate(&middle));
    let (queue, direct) = (routes.queue(), routes.queue());
    routes.bind(&queue, &last, "", FieldTable::default());
    routes.bind(&direct, &first, "known", FieldTable::default());
    routes.mandatory(&first, "known", "found");
    routes.mandatory(&first, "unknown", "strayed");
    assert_eq!(routes.got(&direct), ["found"]);
    routes.wire.send(1, get(&queue));
    let got = routes.wire.expect_content::<GetOk>(1);
    assert_eq!((got.method.exchange.as_str(), got.body.as_slice()), (first.as_str(), &b"strayed"[..]));
}

#[test]
fn alternate_exchanges_end_somewhere() {
    let mut routes = Routes::new();
    let other = unique("routes");
    let one = routes.exchange("direct", alternate(&other));
    let declaration = exchange::Declare {
        arguments: alternate(&one),
        auto_delete: true,
        ..declare_exchange(&other, "direct")
    };
    routes.wire.call::<exchange::DeclareOk>(1, declaration);
    routes.mandatory(&one, "k", "circle");
    assert_eq!(routes.wire.next_events(1), ["return circle"]);
    let missing = routes.exchange("direct", alternate("missing"));
    routes.mandatory(&missing, "k", "missing");
    assert_eq!(routes.wire.next_events(1), ["return missing"]);
}

#[test]
fn an_alternate_exchange_of_a_bound_exchange_acts_too() {
    let mut routes = Routes::new();
    let queue = routes.queue();
    let last = routes.exchange("fanout", FieldTable::default());
    let bound = routes.exchange("direct", alternate(&last));
    let first = routes.exchange("fanout", alternate(&last));
    routes.bind(&queue, &last, "", FieldTable::default());
    routes.bind_exchange(&first, &bound);
    routes.mandatory(&first, "k", "m");
    assert_eq!(routes.got(&queue), ["m"], "once, though both have the alternate");
}

/// RabbitMQ: an exchange that reaches another exchange has found a route, even if that one leads nowhere.
#[test]
fn an_exchange_that_is_bound_needs_no_alternate() {
    let mut routes = Routes::new();
    let queue = routes.queue();
    let last = routes.exchange("fanout", FieldTable::default());
    let first = routes.exchange("fanout", alternate(&last));
    let dead_end = routes.exchange("direct", FieldTable::default());
    routes.bind(&queue, &last, "", FieldTable::default());
    routes.bind_exchange(&first, &dead_end);
    routes.mandatory(&first, "k", "m");
    assert_eq!(routes.wire.next_events(1), ["return m"]);
    assert_eq!(routes.got(&queue), [""; 0]);
}

#[test]
fn cc_and_bcc_are_more_routing_keys() {
    let mut routes = Routes::new();
    let (to, cc, bcc) = (routes.queue(), routes.queue(), routes.queue());
    let keys = |keys: &[&str]| FieldArray::from(keys.iter().map(|key| text(key)).collect::<Vec<_>>()).into();
    let headers = table([("CC", keys(&[&cc, &to, &cc])), ("BCC", keys(&[&bcc])), ("z", int(1))]);
    let properties = BasicProperties::default().with_headers(headers);
    routes.wire.publish_with(1, publish("", &to), &properties, b"m");
    let visible = table([("CC", keys(&[&cc, &to, &cc])), ("z", int(1))]);
    for queue in [&to, &cc, &bcc] {
        routes.wire.send(1, get(queue));
        let got = routes.wire.expect_content::<GetOk>(1);
        assert_eq!(got.method.message_count, 0, "one copy");
        assert_eq!(got.method.routing_key.as_str(), to);
        assert_eq!(got.properties.headers().as_ref(), Some(&visible));
    }
}

#[test]
fn cc_makes_a_message_routed() {
    let mut routes = Routes::new();
    let queue = routes.queue();
    let keys = FieldArray::from(vec![int(1), text(&queue)]);
    let properties = BasicProperties::default().with_headers(table([("CC", keys.into())]));
    let mandatory = Publish { mandatory: true, ..publish("", "nowhere") };
    routes.wire.publish_with(1, mandatory, &properties, b"m");
    assert_eq!(routes.got(&queue), ["m"]);
}

#[test]
fn properties_arrive_as_they_were_sent() {
    let mut routes = Routes::new();
    let queue = routes.queue();
    let nested = table([("deep", AMQPValue::FieldTable(table([("deeper", AMQPValue::Void)])))]);
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("gzip".into())
        .with_headers(nested)
        .with_delivery_mode(2)
        .with_priority(7)
        .with_correlation_id("correlation".into())
        .with_reply_to("reply".into())
        .with_expiration("600000".into())
        .with_message_id("message".into())
        .with_timestamp(1_700_000_000)
        .with_type("kind".into())
        .with_user_id("guest".into())
        .with_app_id("app".into())
        .with_cluster_id("cluster".into());
    routes.wire.publish_with(1, publish("", &queue), &properties, b"m");
    routes.wire.send(1, get(&queue));
    assert_eq!(routes.wire.expect_content::<GetOk>(1).properties, properties);
}

/// A connection whose queues are its own and whose exchanges go with it.
struct Routes {
    wire: Wire,
}

impl Routes {
    fn new() -> Self {
        Self { wire: Wire::open(&shared()) }
    }

    fn queue(&mut self) -> String {
        self.wire.call::<DeclareOk>(1, Declare { exclusive: true, ..declare("") }).queue.to_string()
    }

    fn exchange(&mut self, kind: &str, arguments: FieldTable) -> String {
        let exchange = unique("routes");
        let declaration =
            exchange::Declare { auto_delete: true, arguments, ..declare_exchange(&exchange, kind) };
        self.wire.call::<exchange::DeclareOk>(1, declaration);
        exchange
    }

    fn bind(&mut self, queue: &str, exchange: &str, routing_key: &str, arguments: FieldTable) {
        self.wire.call::<queue::BindOk>(1, queue::Bind { arguments, ..bind(queue, exchange, routing_key) });
    }

    fn bind_exchange(&mut self, source: &str, destination: &str) {
        let (source, destination) = (source.into(), destination.into());
        self.wire
            .call::<exchange::BindOk>(1, exchange::Bind { source, destination, ..exchange::Bind::default() });
    }

    fn publish(&mut self, exchange: &str, routing_key: &str, body: &str) {
        self.wire.publish_with(
            1,
            publish(exchange, routing_key),
            &BasicProperties::default(),
            body.as_bytes(),
        );
    }

    fn mandatory(&mut self, exchange: &str, routing_key: &str, body: &str) {
        let publish = Publish { mandatory: true, ..publish(exchange, routing_key) };
        self.wire.publish_with(1, publish, &BasicProperties::default(), body.as_bytes());
    }

    /// The bodies that lie in a queue, which is empty then.
    fn got(&mut self, queue: &str) -> Vec<String> {
        self.wire.ready(1, queue);
        let mut bodies = Vec::new();
        loop {
            self.wire.send(1, Get { no_ack: true, ..get(queue) });
            match self.wire.event().1.strip_prefix("get ") {
                Some(body) => bodies.push(body.to_owned()),
                None => return bodies,
            }
        }
    }
}

fn alternate(exchange: &str) -> FieldTable {
    table([("alternate-exchange", text(exchange))])
}

fn matches(name: &str, binding: &[(&'static str, AMQPValue)], headers: &[(&'static str, AMQPValue)]) {
    assert_eq!(routed_by_headers(binding, headers), ["m"], "{name}: must match");
}

fn differs(name: &str, binding: &[(&'static str, AMQPValue)], headers: &[(&'static str, AMQPValue)]) {
    assert_eq!(routed_by_headers(binding, headers), [""; 0], "{name}: must not match");
}

fn routed_by_headers(
    binding: &[(&'static str, AMQPValue)],
    headers: &[(&'static str, AMQPValue)],
) -> Vec<String> {
    let mut routes = Routes::new();
    let exchange = routes.exchange("headers", FieldTable::default());
    let queue = routes.queue();
    routes.bind(&queue, &exchange, "", table(binding.iter().cloned()));
    let properties = BasicProperties::default().with_headers(table(headers.iter().cloned()));
    routes.wire.publish_with(1, publish(&exchange, ""), &properties, b"m");
    routes.got(&queue)
}
