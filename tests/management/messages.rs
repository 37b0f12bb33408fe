//! Publishing and getting messages over HTTP.

use lapin::{
    BasicProperties,
    types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, LongString},
};
use serde_json::{Value, json};

use crate::{broker::TestBroker, client::Client};

fn publish(broker: &TestBroker, exchange: &str, message: Value) -> (u16, Value) {
    let answer = broker.request("POST", &format!("exchanges/%2F/{exchange}/publish"), Some(message));
    (answer.status, answer.json())
}

fn text(key: &str, payload: &str) -> Value {
    json!({"properties": {}, "routing_key": key, "payload": payload, "payload_encoding": "string"})
}

fn get(broker: &TestBroker, body: Value) -> Value {
    let answer = broker.request("POST", "queues/%2F/q/get", Some(body));
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

fn take(broker: &TestBroker, count: i64, mode: &str) -> Vec<(String, bool)> {
    let messages = get(broker, json!({"count": count, "ackmode": mode, "encoding": "auto"}));
    let messages = messages.as_array().expect("a list").iter();
    let shown = |message: &Value| {
        (message["payload"].as_str().expect("text").to_owned(), message["redelivered"] == true)
    };
    messages.map(shown).collect()
}

/// A broker with the queue `q`, and these messages in it.
fn start(payloads: &[&str]) -> TestBroker {
    let broker = TestBroker::start("");
    broker.request("PUT", "queues/%2F/q", None);
    for payload in payloads {
        assert_eq!(publish(&broker, "amq.default", text("q", payload)), (200, json!({"routed": true})));
    }
    broker
}

#[test]
fn what_is_published_is_got_as_it_was() {
    let broker = start(&[]);
    let properties = json!({
        "content_type": "text/plain", "content_encoding": "utf8", "priority": 3, "correlation_id": "c",
        "reply_to": "r", "expiration": "60000", "message_id": "m", "timestamp": 123, "type": "t", "app_id": "a",
        "cluster_id": "i", "user_id": "guest", "delivery_mode": 2,
        "headers": {"i": 1, "f": 1.5, "s": "x", "b": true, "n": null, "t": {"a": 1}, "l": [1, "a", {"b": 2}], "neg": -3},
    });
    let message =
        json!({"properties": properties, "routing_key": "q", "payload": "hé", "payload_encoding": "string"});
    assert_eq!(publish(&broker, "amq.default", message).1, json!({"routed": true}));
    let got = get(&broker, json!({"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}));
    let expected = json!([{
        "payload": "hé", "payload_bytes": 3, "payload_encoding": "string", "properties": properties,
        "exchange": "", "routing_key": "q", "redelivered": false, "message_count": 0,
    }]);
    assert_eq!(got, expected);
}

#[test]
fn every_mode_leaves_what_it_says() {
    let broker = start(&["a", "b", "c"]);
    let seen = |payloads: &[&str], redelivered: bool| -> Vec<(String, bool)> {
        payloads.iter().map(|payload| ((*payload).to_owned(), redelivered)).collect()
    };
    assert_eq!(take(&broker, 2, "ack_requeue_true"), seen(&["a", "b"], false));
    assert_eq!(take(&broker, 2, "reject_requeue_true"), seen(&["a", "b"], true));
    assert_eq!(take(&broker, 1, "ack_requeue_false"), seen(&["a"], true));
    assert_eq!(take(&broker, 1, "reject_requeue_false"), seen(&["b"], true));
    assert_eq!(take(&broker, 0, "ack_requeue_false"), []);
    assert_eq!(take(&broker, -1, "ack_requeue_false"), seen(&["c"], false));
    assert_eq!(take(&broker, 5, "ack_requeue_false"), []);
}

#[test]
fn the_old_way_to_say_it_works_too() {
    let broker = start(&["a"]);
    let body = |requeue: bool| json!({"count": 1, "requeue": requeue, "encoding": "auto"});
    assert_eq!(get(&broker, body(true))[0]["payload"], "a");
    assert_eq!(get(&broker, body(false))[0]["payload"], "a");
    assert_eq!(get(&broker, body(false)), json!([]));
}

#[test]
fn rejected_messages_are_dead_lettered() {
    let broker = start(&[]);
    let arguments = json!({"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"});
    broker.request("DELETE", "queues/%2F/q", None);
    broker.request("PUT", "queues/%2F/q", Some(json!({"arguments": arguments})));
    broker.request("PUT", "queues/%2F/dead", None);
    publish(&broker, "amq.default", text("q", "x"));
    take(&broker, 1, "reject_requeue_false");
    let body = json!({"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"});
    let dead = broker.request("POST", "queues/%2F/dead/get", Some(body)).json();
    let death = &dead[0]["properties"]["headers"]["x-death"][0];
    assert_eq!(
        (&death["reason"], &death["count"], &death["queue"]),
        (&json!("rejected"), &json!(1), &json!("q"))
    );
}

#[test]
fn payloads_are_shown_as_asked() {
    let broker = start(&[]);
    let binary =
        json!({"properties": {}, "routing_key": "q", "payload": "/wD+", "payload_encoding": "base64"});
    publish(&broker, "amq.default", binary);
    publish(&broker, "amq.default", text("q", "hé!"));
    let shown = |encoding: &str, truncate: Value| -> Vec<(Value, Value)> {
        let messages = get(
            &broker,
            json!({"count": 2, "ackmode": "ack_requeue_true", "encoding": encoding, "truncate": truncate}),
        );
        let messages = messages.as_array().expect("a list").iter();
        messages.map(|message| (message["payload"].clone(), message["payload_encoding"].clone())).collect()
    };
    let (string, base64) = (json!("string"), json!("base64"));
    let both = |payload: &str, encoding: &Value| (json!(payload), encoding.clone());
    assert_eq!(shown("auto", json!(null)), [both("/wD+", &base64), both("hé!", &string)]);
    assert_eq!(shown("base64", json!(null)), [both("/wD+", &base64), both("aMOpIQ==", &base64)]);
    assert_eq!(shown("auto", json!("2")), [both("/wA=", &base64), both("h", &string)]);
    assert_eq!(shown("auto", json!(0)), [both("", &base64), both("", &string)]);
}

#[test]
fn headers_of_every_type_are_shown() {
    let broker = start(&[]);
    let mut headers = FieldTable::default();
    let mut inner = FieldTable::default();
    inner.insert("a".into(), AMQPValue::ShortShortInt(-1));
    for (name, value) in [
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 125 })),
        ("octets", AMQPValue::LongString(LongString::from(vec![255, 0]))),
        ("binary", AMQPValue::ByteArray(ByteArray::from(vec![104, 105]))),
        ("time", AMQPValue::Timestamp(1_577_836_800)),
        ("float", AMQPValue::Float(1.5)),
        ("unsigned", AMQPValue::LongUInt(4_000_000_000)),
        ("void", AMQPValue::Void),
        ("table", AMQPValue::FieldTable(inner)),
        ("list", AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::Boolean(true), AMQPValue::Void]))),
    ] {
        headers.insert(name.into(), value);
    }
    let client = Client::connect(&broker, "%2f");
    client.publish("", "q", b"x", BasicProperties::default().with_headers(headers));
    let got = loop {
        let got = get(&broker, json!({"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}));
        if got != json!([]) {
            break got;
        }
    };
    let expected = json!({
        "decimal": 1.25, "octets": "Not UTF-8, base64 is: /wA=", "binary": "hi", "time": 1_577_836_800, "float": 1.5,
        "unsigned": 4_000_000_000u32, "void": null, "table": {"a": -1}, "list": [true, null],
    });
    assert_eq!(got[0]["properties"], json!({"headers": expected}));
}

#[test]
fn what_cannot_be_published_is_refused_in_rabbitmqs_words() {
    let broker = start(&[]);
    let with = |name: &str, value: Value| {
        let mut message = text("q", "x");
        message[name] = value;
        publish(&broker, "amq.default", message).1["reason"].clone()
    };
    let without = |name: &str| {
        let mut message = text("q", "x");
        message.as_object_mut().expect("an object").remove(name);
        publish(&broker, "amq.default", message).1["reason"].clone()
    };
    for name in ["routing_key", "properties", "payload", "payload_encoding"] {
        assert_eq!(without(name), format!("[{{key_missing,{name}}}]"));
    }
    assert_eq!(with("payload_encoding", json!("x")), json!(["unsupported_encoding", "x"]));
    assert_eq!(with("payload", json!(5)), "payload_not_string");
    let mut not_base64 = text("q", "h&i");
    not_base64["payload_encoding"] = "base64".into();
    assert_eq!(publish(&broker, "amq.default", not_base64).1["reason"], json!(["not_base64", "h&i"]));
    for (properties, reason) in [
        (json!({"delivery_mode": "2"}), json!(["not_int", "delivery_mode"])),
        (json!({"content_type": 5}), json!(["not_string", "content_type"])),
        (json!({"expiration": "x"}), json!("406 PRECONDITION_FAILED - invalid expiration 'x': no_integer")),
        (
            json!({"user_id": "nobody"}),
            json!(
                "406 PRECONDITION_FAILED - user_id property set to 'nobody' but authenticated user was 'guest'"
            ),
        ),
    ] {
        assert_eq!(with("properties", properties), reason);
    }
    for (exchange, reason) in [
        ("none", "404 NOT_FOUND - no exchange 'none' in vhost '/'"),
        (
            "amq.rabbitmq.trace",
            "403 ACCESS_REFUSED - cannot publish to internal exchange 'amq.rabbitmq.trace' in vhost '/'",
        ),
    ] {
        assert_eq!(publish(&broker, exchange, text("q", "x")).1["reason"], reason);
    }
    assert_eq!(publish(&broker, "amq.default", text("none", "x")), (200, json!({"routed": false})));
    assert_eq!(broker.get("queues/%2F/q").json()["messages"], 0);
}

#[test]
fn what_cannot_be_got_is_refused_in_rabbitmqs_words() {
    let broker = start(&[]);
    let refused = |queue: &str, body: Value| {
        let answer = broker.request("POST", &format!("queues/%2F/{queue}/get"), Some(body));
        (answer.status, answer.json()["reason"].clone())
    };
    let missing = "[{key_missing,ackmode},{key_missing,count},{key_missing,encoding}]";
    assert_eq!(refused("q", json!({})), (400, json!(missing)));
    let ask = |count: Value, mode: &str, encoding: &str| json!({"count": count, "ackmode": mode, "encoding": encoding});
    assert_eq!(refused("q", ask(json!("x"), "ack_requeue_true", "auto")), (400, json!(["not_integer", "x"])));
    assert_eq!(refused("q", ask(json!(1), "none", "auto")).0, 400);
    assert_eq!(
        refused("q", ask(json!(1), "ack_requeue_true", "none")),
        (400, json!("Unsupported encoding. Please use auto or base64."))
    );
    assert_eq!(
        refused("none", ask(json!(1), "ack_requeue_true", "auto")),
        (404, json!("NOT_FOUND - no queue 'none' in vhost '/'"))
    );
    let client = Client::connect(&broker, "%2f");
    client.declare_exclusive("mine");
    let (status, reason) = refused("mine", ask(json!(1), "ack_requeue_true", "auto"));
    let reason = reason.as_str().unwrap_or_default();
    assert!(reason.starts_with("405 RESOURCE_LOCKED - cannot obtain exclusive access"), "{reason}");
    assert_eq!(status, 400);
}

#[test]
fn what_is_too_large_is_refused() {
    let broker = TestBroker::start("[limits]\nmax_message_bytes = 1000\n");
    broker.request("PUT", "queues/%2F/q", None);
    assert_eq!(publish(&broker, "amq.default", text("q", &"x".repeat(1000))).0, 200);
    let (status, answer) = publish(&broker, "amq.default", text("q", &"x".repeat(1001)));
    let reason = answer["reason"].as_str().unwrap_or_default();
    assert!(status == 400 && reason.starts_with("406 PRECONDITION_FAILED - message size 1001"), "{answer}");
    assert_eq!(publish(&broker, "amq.default", text("q", &"x".repeat(20_000_000))).0, 413);
    assert_eq!(broker.get("queues/%2F/q").json()["messages"], 1);
}

#[test]
fn publishing_to_a_full_queue_is_not_routed() {
    let broker = TestBroker::start("");
    let arguments = json!({"x-max-length": 1, "x-overflow": "reject-publish"});
    broker.request("PUT", "queues/%2F/q", Some(json!({"arguments": arguments})));
    assert_eq!(publish(&broker, "amq.default", text("q", "x")).1, json!({"routed": true}));
    assert_eq!(publish(&broker, "amq.default", text("q", "x")).1, json!({"routed": false}));
}
