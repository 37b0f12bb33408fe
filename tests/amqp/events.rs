//! Events and the trace (A8), and the keys of `[compatibility]` that say which RabbitMQ is followed.

use std::{collections::BTreeMap, sync::Arc};

use amq_protocol::{
    protocol::{
        BasicProperties,
        basic::{Cancel, CancelOk, ConsumeOk, Deliver, GetEmpty, GetOk, Reject},
        exchange,
        queue::{self, Declare, DeclareOk},
    },
    types::AMQPValue,
};

use crate::{
    broker::{TestBroker, is_external, shared},
    wire::{
        Content, Login, Refusal, Wire, bind, consume, declare, declare_exchange, delete, get, int, publish,
        requeue, table, text, unique,
    },
};

/// A connection with a queue that is bound to an exchange which tells, and consumes from it.
fn watching(mut wire: Wire, exchange: &str, keys: &[&str]) -> Wire {
    let queue = wire.call::<DeclareOk>(1, Declare { exclusive: true, ..declare("") }).queue.to_string();
    for key in keys {
        wire.call::<queue::BindOk>(1, bind(&queue, exchange, key));
    }
    let consumption = amq_protocol::protocol::basic::Consume { no_ack: true, ..consume(&queue, "watch") };
    wire.call::<ConsumeOk>(1, consumption);
    wire
}

/// A message that tells something: its routing key, its headers for people, and its body.
#[derive(Debug)]
struct Told {
    key: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn told(wire: &mut Wire) -> Told {
    let Content { method, properties, body, .. } = wire.expect_content::<Deliver>(1);
    let headers = properties.headers().clone().expect("headers");
    let headers = headers.inner().iter().map(|(name, value)| (name.to_string(), shown(value))).collect();
    Told { key: method.routing_key.to_string(), headers, body }
}

fn shown(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => text.to_string(),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::LongInt(number) => number.to_string(),
        AMQPValue::LongLongInt(number) => number.to_string(),
        AMQPValue::FieldArray(values) => {
            format!("[{}]", values.as_slice().iter().map(shown).collect::<Vec<_>>().join(" "))
        }
        AMQPValue::FieldTable(table) => {
            let fields = table.inner().iter().map(|(name, value)| format!("{name}={}", shown(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(" "))
        }
        value => format!("{value:?}"),
    }
}

/// The next event that names this queue.
fn told_of(wire: &mut Wire, queue: &str) -> Told {
    loop {
        let told = told(wire);
        let named = ["name", "queue", "destination_name"].map(|header| told.headers.get(header));
        if named.into_iter().flatten().any(|name| name == queue) {
            return told;
        }
    }
}

/// RabbitMQ has the exchange only with a plugin.
fn has_events(broker: &Arc<TestBroker>) -> bool {
    let mut wire = Wire::open(broker);
    wire.send(1, exchange::Declare { passive: true, ..declare_exchange("amq.rabbitmq.event", "topic") });
    wire.event().1 == "Exchange.DeclareOk"
}

#[test]
fn a8_the_life_of_a_queue_is_told_in_order() {
    let broker = shared();
    if !has_events(&broker) {
        assert!(is_external(), "ours has it always");
        return;
    }
    let mut watcher =
        watching(Wire::open(&broker), "amq.rabbitmq.event", &["queue.*", "binding.*", "consumer.*"]);
    let (mut wire, queue) = (Wire::open(&broker), unique("events"));
    let arguments = table([("x-max-length", int(5))]);
    wire.call::<DeclareOk>(1, Declare { arguments, ..declare(&queue) });
    wire.call::<queue::BindOk>(1, bind(&queue, "amq.topic", "a.*"));
    wire.call::<ConsumeOk>(1, consume(&queue, "c"));
    wire.call::<CancelOk>(1, Cancel { consumer_tag: "c".into(), nowait: false });
    wire.call::<queue::DeleteOk>(1, delete(&queue));
    let binding = [
        ("arguments", "[]"),
        ("destination_kind", "queue"),
        ("destination_name", &queue),
        ("routing_key", "a.*"),
        ("source_kind", "exchange"),
        ("source_name", "amq.topic"),
    ];
    type Expected<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);
    let expected: [Expected<'_>; 6] = [
        (
            "queue.created",
            "guest",
            &[
                ("arguments", "[{<<\"x-max-length\">>,signedint,5}]"),
                ("auto_delete", "false"),
                ("durable", "false"),
                ("exclusive", "false"),
                ("name", &queue),
                ("owner_pid", ""),
            ],
        ),
        ("binding.created", "guest", &binding),
        (
            "consumer.created",
            "guest",
            &[
                ("ack_required", "true"),
                ("arguments", "[]"),
                ("consumer_tag", "c"),
                ("exclusive", "false"),
                ("prefetch_count", "0"),
                ("queue", &queue),
            ],
        ),
        ("consumer.deleted", "guest", &[("consumer_tag", "c"), ("queue", &queue)]),
        ("binding.deleted", "rmq-internal", &binding),
        ("queue.deleted", "guest", &[("name", &queue)]),
    ];
    for (key, user, fields) in expected {
        let Told { key: got, mut headers, body } = told_of(&mut watcher, &queue);
        assert_eq!((got.as_str(), body.len()), (key, 0));
        headers.remove("timestamp_in_ms").expect("a time");
        headers.remove("channel");
        let always = [("user_who_performed_action", user), ("vhost", "/")];
        let all = fields.iter().chain(&always);
        let all = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(headers, all, "{key}");
    }
}

#[test]
fn a8_clients_may_not_publish_events_or_traces() {
    let broker = shared();
    for exchange in ["amq.rabbitmq.event", "amq.rabbitmq.trace"] {
        if exchange == "amq.rabbitmq.event" && !has_events(&broker) {
            continue;
        }
        let mut wire = Wire::open(&broker);
        wire.publish_with(1, publish(exchange, "k"), &BasicProperties::default(), b"x");
        let Refusal::Channel(1, close) = wire.refusal() else { panic!("a channel error") };
        let expected =
            format!("ACCESS_REFUSED - cannot publish to internal exchange '{exchange}' in vhost '/'");
        assert_eq!((close.code, close.text), (403, expected));
    }
}

/// What an operator does to RabbitMQ with `rabbitmqctl trace_on`: only ours is asked.
#[test]
fn a8_a_virtual_host_is_traced_from_the_start() {
    if is_external() {
        return;
    }
    let broker = TestBroker::start(
        "[[vhosts]]\nname = 'traced'\ntracing = true\n[[users]]\nname = 'tracer'\npassword = 'tracer'\n\
         permissions = [{ vhost = 'traced', configure = '.*', write = '.*', read = '.*' }]",
    );
    let login = Login { user: "tracer", password: "tracer", vhost: "traced", ..Login::default() };
    let open = || {
        let mut wire = Wire::login(&broker, &login);
        wire.open_channel(1);
        wire
    };
    let mut watcher = watching(open(), "amq.rabbitmq.trace", &["#"]);
    let mut wire = open();
    wire.call::<DeclareOk>(1, declare("q"));
    wire.publish_with(1, publish("", "q"), &BasicProperties::default().with_priority(3), b"m");
    let traced = told(&mut watcher);
    assert_eq!((traced.key.as_str(), &traced.body[..]), ("publish.", &b"m"[..]));
    let expected = [
        ("channel", "1"),
        ("exchange_name", ""),
        ("properties", "{priority=3}"),
        ("routed_queues", "[q]"),
        ("routing_keys", "[q]"),
        ("user", "tracer"),
        ("vhost", "traced"),
    ];
    for (name, value) in expected {
        assert_eq!(traced.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    wire.send(1, get("q"));
    assert_eq!(wire.next_events(1), ["get m"]);
    let traced = told(&mut watcher);
    assert_eq!((traced.key.as_str(), &traced.body[..]), ("deliver.q", &b"m"[..]));
    assert_eq!(traced.headers.get("redelivered").map(String::as_str), Some("0"));
}

/// RabbitMQ 3.10 knows one timeout for the whole node, and looks once a minute: only ours is asked.
#[test]
fn a6_a_consumer_that_does_not_acknowledge_loses_its_channel_or_is_cancelled() {
    if is_external() {
        return;
    }
    for (configuration, expected) in [
        ("[limits]\nconsumer_timeout_ms = 200", "Channel.Close"),
        ("[limits]\nconsumer_timeout_ms = 200\n[compatibility]\nconsumer_timeout = 'cancel'", "cancel c"),
    ] {
        let broker = TestBroker::start(configuration);
        let mut wire = Wire::open(&broker);
        wire.call::<DeclareOk>(1, declare("q"));
        wire.call::<ConsumeOk>(1, consume("q", "c"));
        wire.publish(1, "q", "m");
        assert_eq!(wire.next_events(2), ["deliver c m", expected]);
        let mut other = Wire::open(&broker);
        other.send(1, get("q"));
        assert_eq!(other.next_events(1), ["get m*"]);
    }
}

/// A message that was put back into a quorum queue, as basic.get gives it.
fn put_back(wire: &mut Wire, rejected: bool) -> i64 {
    let queue = unique("events");
    let arguments = table([("x-queue-type", text("quorum"))]);
    wire.call::<DeclareOk>(1, Declare { durable: true, arguments, ..declare(&queue) });
    wire.publish(1, &queue, "m");
    let tag = got(wire, &queue).method.delivery_tag;
    if rejected {
        wire.send(1, Reject { delivery_tag: tag, requeue: true });
    } else {
        wire.send(1, requeue(tag));
    }
    let again = got(wire, &queue);
    let count =
        again.properties.headers().as_ref().and_then(|headers| headers.inner().get("x-delivery-count"));
    let count = count.map_or(0, |count| shown(count).parse().expect("a number"));
    wire.call::<queue::DeleteOk>(1, delete(&queue));
    count
}

/// The next message of a queue, once it is there.
fn got(wire: &mut Wire, queue: &str) -> Content<GetOk> {
    use amq_protocol::protocol::{AMQPClass, basic::AMQPMethod};
    loop {
        wire.send(1, get(queue));
        match wire.next() {
            crate::wire::Incoming::Method(1, AMQPClass::Basic(AMQPMethod::GetOk(method))) => {
                return wire.content(1, method);
            }
            crate::wire::Incoming::Method(1, AMQPClass::Basic(AMQPMethod::GetEmpty(GetEmpty {}))) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// RabbitMQ 3.10 counts every return.
#[test]
fn a6_what_counts_against_the_delivery_limit_is_configured() {
    let broker = if is_external() {
        shared()
    } else {
        TestBroker::start("[compatibility]\ndelivery_limit_counts = 'returns'")
    };
    let mut wire = Wire::open(&broker);
    assert_eq!((put_back(&mut wire, false), put_back(&mut wire, true)), (1, 1));
    if !is_external() {
        // Deviation: as RabbitMQ 4.3.
        let mut wire = Wire::open(&shared());
        assert_eq!((put_back(&mut wire, false), put_back(&mut wire, true)), (0, 1));
    }
}

/// The queues that an `x-death` names, of a message that brought one along and was rejected.
fn deaths(wire: &mut Wire) -> Vec<String> {
    let (queue, dead) = (unique("events"), unique("events"));
    wire.call::<DeclareOk>(1, declare(&dead));
    let arguments = table([("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text(&dead))]);
    wire.call::<DeclareOk>(1, Declare { arguments, ..declare(&queue) });
    let before = table([("queue", text("before")), ("reason", text("expired"))]);
    let before = AMQPValue::FieldArray(vec![AMQPValue::FieldTable(before)].into());
    let properties = BasicProperties::default().with_headers(table([("x-death", before)]));
    wire.publish_with(1, publish("", &queue), &properties, b"m");
    let tag = got(wire, &queue).method.delivery_tag;
    wire.send(1, Reject { delivery_tag: tag, requeue: false });
    let headers = got(wire, &dead).properties.headers().clone().expect("headers");
    let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get("x-death") else { panic!("{headers:?}") };
    let queue_of = |death: &AMQPValue| match death {
        AMQPValue::FieldTable(death) => shown(death.inner().get("queue").expect("a queue")),
        other => panic!("{other:?}"),
    };
    let named = deaths.as_slice().iter().map(queue_of);
    named.map(|name| if name == queue { "own".to_owned() } else { name }).collect()
}

#[test]
fn a8_what_an_x_death_of_a_client_means_is_configured() {
    assert_eq!(deaths(&mut Wire::open(&shared())), ["own", "before"]);
    if !is_external() {
        let broker = TestBroker::start("[compatibility]\nx_death = '4'");
        assert_eq!(deaths(&mut Wire::open(&broker)), ["own"]);
    }
}
