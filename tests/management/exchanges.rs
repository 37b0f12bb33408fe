//! `/api/exchanges`.

use serde_json::{Value, json};

use crate::{broker::TestBroker, client::wait_for};

fn put(broker: &TestBroker, exchange: &str, body: Value) -> (u16, Value) {
    let answer = broker.request("PUT", &format!("exchanges/%2F/{exchange}"), Some(body));
    (answer.status, serde_json::from_str(&answer.body).unwrap_or(Value::Null))
}

fn delete(broker: &TestBroker, path: &str) -> (u16, Value) {
    let answer = broker.request("DELETE", &format!("exchanges/%2F/{path}"), None);
    (answer.status, serde_json::from_str(&answer.body).unwrap_or(Value::Null))
}

fn refused(reason: &str) -> (u16, Value) {
    (400, json!({"error": "bad_request", "reason": reason}))
}

#[test]
fn an_exchange_is_declared_once_and_refused_if_it_is_another() {
    let broker = TestBroker::start("");
    assert_eq!(put(&broker, "x", json!({"type": "topic"})).0, 201);
    assert_eq!(put(&broker, "x", json!({"type": "topic"})).0, 204);
    let inequivalent = |what| format!("inequivalent arg {what}");
    assert_eq!(
        put(&broker, "x", json!({})),
        refused(&inequivalent(
            "'type' for exchange 'x' in vhost '/': received 'direct' but current is 'topic'"
        ))
    );
    assert_eq!(
        put(&broker, "x", json!({"type": "topic", "durable": true})),
        refused(&inequivalent(
            "'durable' for exchange 'x' in vhost '/': received 'true' but current is 'false'"
        ))
    );
    assert_eq!(put(&broker, "y", json!({"type": "none"})), refused("unknown exchange type 'none'"));
    assert_eq!(put(&broker, "y", json!({"type": ""})), refused("invalid exchange type ''"));
    assert_eq!(put(&broker, "amq.y", json!({})).0, 401);
    assert_eq!(put(&broker, "amq.default", json!({})).0, 401);
    assert_eq!(put(&broker, "amq.direct", json!({"durable": true})).0, 204);
    assert_eq!(put(&broker, "bare", json!(null)).0, 201);
    assert_eq!(broker.get("exchanges/%2F/bare").json()["type"], "direct");
    assert_eq!(broker.request("PUT", "exchanges/none/x", None).json()["reason"], "vhost_not_found");
}

#[test]
fn an_exchange_is_shown_with_rabbitmqs_fields() {
    let broker = TestBroker::start("");
    let arguments = json!({"alternate-exchange": "amq.fanout"});
    let body = json!({"type": "fanout", "internal": true, "durable": true, "auto_delete": true, "arguments": arguments});
    put(&broker, "x", body);
    let exchange = json!({
        "name": "x", "vhost": "/", "type": "fanout", "durable": true, "auto_delete": true, "internal": true,
        "arguments": arguments,
    });
    let list = broker.get("exchanges/%2F").json();
    let in_list = list.as_array().expect("a list").iter().find(|exchange| exchange["name"] == "x");
    assert_eq!(*in_list.expect("listed"), exchange);
    let mut alone = exchange;
    alone["incoming"] = json!([]);
    alone["outgoing"] = json!([]);
    assert_eq!(broker.get("exchanges/%2F/x").json(), alone);
    assert_eq!(broker.get("exchanges/%2F/none").status, 404);
    assert_eq!(broker.get("exchanges/none").status, 404);
}

#[test]
fn the_default_exchange_has_a_name_in_paths() {
    let broker = TestBroker::start("");
    let default = broker.get("exchanges/%2F/amq.default").json();
    assert_eq!((&default["name"], &default["type"]), (&json!(""), &json!("direct")));
    assert_eq!(broker.get("exchanges/%2F/").json()[0]["name"], "");
    assert_eq!(delete(&broker, "amq.default").0, 401);
    assert_eq!(delete(&broker, "amq.direct").0, 401);
}

#[test]
fn an_exchange_is_deleted_if_it_is_unused_where_that_is_asked_for() {
    let broker = TestBroker::start("");
    put(&broker, "x", json!({}));
    broker.request("PUT", "queues/%2F/q", None);
    assert_eq!(broker.request("POST", "bindings/%2F/e/x/q/q", None).status, 201);
    assert_eq!(delete(&broker, "x?if-unused=true"), refused("exchange 'x' in vhost '/' in use"));
    assert_eq!(delete(&broker, "x").0, 204);
    assert_eq!(delete(&broker, "x").0, 404);
}

#[test]
fn what_goes_through_an_exchange_is_counted() {
    let broker = TestBroker::start("");
    put(&broker, "x", json!({"type": "fanout"}));
    for queue in ["a", "b"] {
        broker.request("PUT", &format!("queues/%2F/{queue}"), None);
        broker.request("POST", &format!("bindings/%2F/e/x/q/{queue}"), None);
    }
    let message = json!({"properties": {}, "routing_key": "", "payload": "x", "payload_encoding": "string"});
    broker.request("POST", "exchanges/%2F/x/publish", Some(message));
    let exchange = wait_for(&broker, "exchanges/%2F/x", |exchange| exchange.get("message_stats").is_some());
    assert_eq!(exchange["message_stats"]["publish_in"], 1);
    assert_eq!(exchange["message_stats"]["publish_out"], 2);
}

#[test]
fn what_an_exchange_delays_is_told_with_it_and_is_no_queue() {
    let broker = TestBroker::start("");
    put(&broker, "later", json!({"type": "x-delayed-message", "arguments": {"x-delayed-type": "direct"}}));
    assert_eq!(broker.get("exchanges/%2F/later").json()["messages_delayed"], 0);
    broker.request("PUT", "queues/%2F/q", None);
    broker.request("POST", "bindings/%2F/e/later/q/q", Some(json!({"routing_key": "q"})));
    let message = json!({"properties": {"headers": {"x-delay": 3_600_000}}, "routing_key": "q", "payload": "x",
        "payload_encoding": "string"});
    broker.request("POST", "exchanges/%2F/later/publish", Some(message));
    assert_eq!(broker.get("exchanges/%2F/later").json()["messages_delayed"], 1);
    assert_eq!(broker.get("queues/%2F?columns=name").json(), json!([{"name": "q"}]));
    assert_eq!(broker.get("queues/%2F/amq.delayed.later").status, 404);
}
