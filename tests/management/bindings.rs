//! `/api/bindings`, and the bindings of a queue or an exchange.

use serde_json::{Value, json};

use crate::broker::{Answer, TestBroker};

/// A broker with the exchanges `x` (topic) and `y` (fanout) and the queue `q`.
fn start() -> TestBroker {
    let broker = TestBroker::start("");
    broker.request("PUT", "exchanges/%2F/x", Some(json!({"type": "topic", "durable": true})));
    broker.request("PUT", "exchanges/%2F/y", Some(json!({"type": "fanout", "durable": true})));
    broker.request("PUT", "queues/%2F/q", Some(json!({"durable": true})));
    broker
}

fn bind(broker: &TestBroker, path: &str, body: Value) -> Answer {
    broker.request("POST", &format!("bindings/%2F/{path}"), Some(body))
}

fn bound(source: &str, kind: &str, destination: &str, key: &str, properties_key: &str) -> Value {
    json!({
        "source": source, "vhost": "/", "destination": destination, "destination_type": kind, "routing_key": key,
        "arguments": {}, "properties_key": properties_key,
    })
}

#[test]
fn a_binding_is_where_its_location_says_until_it_is_deleted() {
    let broker = start();
    for (body, key, location) in [
        (json!({"routing_key": "a.b"}), "a.b", "q/a.b"),
        (json!({}), "", "q/~"),
        (json!({"routing_key": "~"}), "~", "q/%257E"),
        (json!({"routing_key": "a/b c%~é+#*-_"}), "a/b c%~é+#*-_", ""),
        (json!({"routing_key": 5}), "5", "q/5"),
        (json!({"routing_key": "h", "arguments": {"x": 1, "t": {"a": [1, 2.5]}}}), "h", ""),
        (json!({"routing_key": "", "arguments": {"x": 1}}), "", ""),
    ] {
        let answer = bind(&broker, "e/x/q/q", body.clone());
        assert_eq!(answer.status, 201, "{body}");
        let made = answer.header("location").expect("a location").to_owned();
        assert!(location.is_empty() || location == made, "{made}");
        assert_eq!(bind(&broker, "e/x/q/q", body).header("location"), Some(made.as_str()));
        let path = format!("bindings/%2F/e/x/q/{made}");
        assert_eq!(broker.get(&path).json()["routing_key"], key);
        assert_eq!(broker.request("DELETE", &path, None).status, 204, "{path}");
        assert_eq!(broker.get(&path).status, 404, "{path}");
    }
    assert_eq!(broker.get("bindings/%2F/e/x/q/q").json(), json!([]));
}

#[test]
fn bindings_with_different_arguments_are_told_apart() {
    let broker = start();
    for number in 1..=2 {
        bind(&broker, "e/x/q/q", json!({"routing_key": "k", "arguments": {"x": number}}));
    }
    bind(&broker, "e/x/q/q", json!({"routing_key": "k"}));
    let keys = |broker: &TestBroker| -> Vec<(String, Value)> {
        let bindings = broker.get("bindings/%2F/e/x/q/q").json();
        let bindings = bindings.as_array().expect("a list").clone().into_iter();
        let key = |binding: &Value| binding["properties_key"].as_str().expect("a key").to_owned();
        bindings.map(|binding| (key(&binding), binding["arguments"].clone())).collect()
    };
    let all = keys(&broker);
    assert_eq!(all.len(), 3);
    let (second, _) = all.iter().find(|(_, arguments)| arguments["x"] == 2).expect("bound");
    assert!(second.starts_with("k~"));
    assert_eq!(broker.request("DELETE", &format!("bindings/%2F/e/x/q/q/{second}"), None).status, 204);
    let left = keys(&broker);
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|(_, arguments)| arguments["x"] != 2));
}

#[test]
fn a_key_may_be_given_without_its_escapes() {
    let broker = start();
    bind(&broker, "e/x/q/q", json!({"routing_key": "a.#"}));
    assert_eq!(broker.get("bindings/%2F/e/x/q/q").json()[0]["properties_key"], "a.%23");
    assert_eq!(broker.request("DELETE", "bindings/%2F/e/x/q/q/a.%23", None).status, 204);
    bind(&broker, "e/x/q/q", json!({"routing_key": "a.#"}));
    assert_eq!(broker.request("DELETE", "bindings/%2F/e/x/q/q/a.%2523", None).status, 204);
}

#[test]
fn bindings_are_listed_from_every_side() {
    let broker = start();
    bind(&broker, "e/x/q/q", json!({"routing_key": "a"}));
    bind(&broker, "e/x/e/y", json!({"routing_key": "b"}));
    let by_default = bound("", "queue", "q", "q", "q");
    let to_queue = bound("x", "queue", "q", "a", "a");
    let to_exchange = bound("x", "exchange", "y", "b", "b");
    for (path, expected) in [
        ("bindings", json!([by_default, to_exchange, to_queue])),
        ("bindings/%2F", json!([by_default, to_exchange, to_queue])),
        ("bindings/%2F/e/x/q/q", json!([to_queue])),
        ("bindings/%2F/e/x/e/y", json!([to_exchange])),
        ("bindings/%2F/e/amq.default/q/q", json!([by_default])),
        ("bindings/%2F/e/x/q/none", json!([])),
        ("bindings/%2F/e/none/q/q", json!([])),
        ("queues/%2F/q/bindings", json!([by_default, to_queue])),
        ("exchanges/%2F/x/bindings/source", json!([to_exchange, to_queue])),
        ("exchanges/%2F/y/bindings/destination", json!([to_exchange])),
        ("exchanges/%2F/amq.default/bindings/source", json!([by_default])),
        ("exchanges/%2F/none/bindings/source", json!([])),
        ("bindings/%2F/e/amq.default/q/q/q", by_default),
    ] {
        assert_eq!(broker.get(path).json(), expected, "{path}");
    }
    for path in ["bindings/none", "exchanges/%2F/x/bindings/z", "bindings/%2F/e/x", "bindings/%2F/e/x/z/q"] {
        assert_eq!(broker.get(path).status, 404, "{path}");
    }
}

#[test]
fn what_cannot_be_bound_is_refused() {
    let broker = start();
    let refused = |path: &str| {
        let answer = bind(&broker, path, json!({"routing_key": "k"}));
        (answer.status, answer.json()["reason"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(refused("e/none/q/q"), (404, "no exchange 'none' in vhost '/'".to_owned()));
    assert_eq!(refused("e/x/q/none"), (404, "no queue 'none' in vhost '/'".to_owned()));
    assert_eq!(refused("e/x/e/none"), (404, "no exchange 'none' in vhost '/'".to_owned()));
    assert_eq!(refused("e/amq.default/q/q").0, 401);
    let default = broker.request("DELETE", "bindings/%2F/e/amq.default/q/q/q", None);
    assert_eq!(default.status, 401);
    assert_eq!(bind(&broker, "e/x/q/q", json!({"arguments": 5})).status, 400);
    assert_eq!(bind(&broker, "e/x/q/q", json!({"routing_key": "k".repeat(256)})).status, 400);
    assert_eq!(broker.request("DELETE", "bindings/%2F/e/x/q/q/none", None).status, 404);
    assert_eq!(broker.request("DELETE", "bindings/%2F/e/x/q/q", None).status, 405);
}

#[test]
fn messages_follow_bindings_that_were_made_over_http_also_after_a_restart() {
    let broker = start();
    bind(&broker, "e/x/q/q", json!({"routing_key": "a.#"}));
    let broker = broker.restart();
    let publish = |key: &str| {
        let message =
            json!({"properties": {}, "routing_key": key, "payload": "x", "payload_encoding": "string"});
        broker.request("POST", "exchanges/%2F/x/publish", Some(message)).json()["routed"].clone()
    };
    assert_eq!((publish("a.b"), publish("b")), (json!(true), json!(false)));
}
