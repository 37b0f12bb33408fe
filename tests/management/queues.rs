//! `/api/queues`.

use lapin::{BasicProperties, types::ShortString};
use serde_json::{Value, json};

use crate::{
    broker::TestBroker,
    client::{Client, wait_for},
};

/// A second virtual host, and a user who may do little in `/`.
const CONFIGURATION: &str = r#"
[[vhosts]]
name = "/"
[[vhosts]]
name = "a/b é%2F"

[[users]]
name = "guest"
password = "guest"
tags = ["administrator"]
permissions = [
    { vhost = "/", configure = ".*", write = ".*", read = ".*" },
    { vhost = "a/b é%2F", configure = ".*", write = ".*", read = ".*" },
]

[[users]]
name = "bob"
password = "bob"
tags = ["management"]
permissions = [{ vhost = "/", configure = "^bob-", write = "^bob-", read = "^bob-" }]

[[users]]
name = "watcher"
password = "watcher"
tags = ["monitoring"]
permissions = []
"#;

fn put(broker: &TestBroker, queue: &str, body: Value) -> (u16, Value) {
    let answer = broker.request("PUT", &format!("queues/%2F/{queue}"), Some(body));
    let reason = serde_json::from_str(&answer.body).unwrap_or(Value::Null);
    (answer.status, reason)
}

fn delete(broker: &TestBroker, path: &str) -> (u16, Value) {
    let answer = broker.request("DELETE", path, None);
    (answer.status, serde_json::from_str(&answer.body).unwrap_or(Value::Null))
}

fn publish(broker: &TestBroker, queue: &str, payload: &str) {
    let body = json!({"properties": {"delivery_mode": 2}, "routing_key": queue, "payload": payload,
        "payload_encoding": "string"});
    let answer = broker.request("POST", "exchanges/%2F/amq.default/publish", Some(body));
    assert_eq!(answer.json(), json!({"routed": true}));
}

#[test]
fn a_queue_is_declared_once_and_refused_if_it_is_another() {
    let broker = TestBroker::start("");
    assert_eq!(put(&broker, "q", json!({"durable": true})), (201, Value::Null));
    assert_eq!(put(&broker, "q", json!({"durable": "true"})), (204, Value::Null));
    let reason =
        "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'";
    assert_eq!(put(&broker, "q", json!({})), (400, json!({"error": "bad_request", "reason": reason})));
    let reason = "inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received the value '5' of type \
                  'long' but current is none";
    assert_eq!(
        put(&broker, "q", json!({"durable": true, "arguments": {"x-max-length": 5}})),
        (400, json!({"error": "bad_request", "reason": reason}))
    );
}

#[test]
fn what_no_queue_can_be_is_refused_in_rabbitmqs_words() {
    let broker = TestBroker::start("");
    let refused = |reason: Value| (400, json!({"error": "bad_request", "reason": reason}));
    assert_eq!(put(&broker, "q", json!({"durable": "yes"})), refused(json!(["not_boolean", "yes"])));
    assert_eq!(put(&broker, "q", json!([])), refused(json!("not_json")));
    let doubly = put(&broker, "q", json!("{}")).1;
    assert!(doubly["reason"].as_str().is_some_and(|reason| reason.contains("doubly-JSON-encoded")));
    let wrong_type = put(&broker, "q", json!({"arguments": {"x-max-length": "a"}})).1;
    let reason = wrong_type["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("invalid arg 'x-max-length' for queue 'q' in vhost '/':"), "{reason}");
    assert_eq!(put(&broker, &"q".repeat(256), json!({})).0, 400);
    assert_eq!(put(&broker, "amq.q", json!({})).0, 401);
    assert_eq!(put(&broker, "%FF", json!({})).0, 400);
    let answer = broker.request("PUT", "queues/nowhere/q", Some(json!({})));
    assert_eq!(
        (answer.status, answer.json()),
        (404, json!({"error": "not_found", "reason": "vhost_not_found"}))
    );
    // What does not say anything is left alone.
    assert_eq!(put(&broker, "q", json!({"arguments": [], "node": "x", "exclusive": true})).0, 201);
    assert_eq!(broker.get("queues/%2F/q").json()["exclusive"], false);
    assert_eq!(broker.request("PUT", "queues/%2F/bare", None).status, 201);
    assert_eq!(broker.request("POST", "queues/%2F/q", None).status, 405);
}

#[test]
fn any_name_can_be_reached() {
    let broker = TestBroker::start(CONFIGURATION);
    for host in ["%2F", "a%2Fb%20%C3%A9%252F"] {
        for (path, name) in [("a%2Fb%25c%C3%A9.", "a/b%cé."), ("%2E%2E", ".."), ("x+y%20z%2B", "x+y z+")] {
            let path = format!("queues/{host}/{path}");
            assert_eq!(broker.request("PUT", &path, Some(json!({}))).status, 201, "{path}");
            assert_eq!(broker.get(&path).json()["name"], name);
            assert_eq!(broker.get(&format!("{path}/bindings")).json()[0]["destination"], name);
            assert_eq!(delete(&broker, &path).0, 204, "{path}");
            assert_eq!(broker.get(&path).status, 404);
        }
    }
    assert_eq!(broker.get("queues/%2F/a/b").status, 404);
}

#[test]
fn a_queue_is_deleted_under_its_conditions_only() {
    let broker = TestBroker::start("");
    put(&broker, "q", json!({}));
    publish(&broker, "q", "x");
    let client = Client::connect(&broker, "%2f");
    client.consume("q", "c", 1, false, 0);
    let used = "queue 'q' in vhost '/' in use";
    assert_eq!(
        delete(&broker, "queues/%2F/q?if-unused=true"),
        (400, json!({"error": "bad_request", "reason": used}))
    );
    // The first message is with the consumer, the second one waits.
    publish(&broker, "q", "y");
    let filled = "queue 'q' in vhost '/' not empty";
    assert_eq!(
        delete(&broker, "queues/%2F/q?if-empty=true"),
        (400, json!({"error": "bad_request", "reason": filled}))
    );
    assert_eq!(delete(&broker, "queues/%2F/q?if-empty=false").0, 204);
    assert_eq!(
        delete(&broker, "queues/%2F/q"),
        (404, json!({"error": "Object Not Found", "reason": "Not Found"}))
    );
}

#[test]
fn purging_leaves_nothing_that_is_ready() {
    let broker = TestBroker::start("");
    put(&broker, "q", json!({"durable": true}));
    (0..3).for_each(|_| publish(&broker, "q", "x"));
    assert_eq!(broker.get("queues/%2F/q").json()["messages"], 3);
    assert_eq!(delete(&broker, "queues/%2F/q/contents").0, 204);
    assert_eq!(broker.get("queues/%2F/q").json()["messages"], 0);
    assert_eq!(delete(&broker, "queues/%2F/none/contents").0, 404);
}

#[test]
fn what_is_declared_over_http_survives() {
    let broker = TestBroker::start("");
    put(&broker, "q", json!({"durable": true, "arguments": {"x-max-length": 7, "deep": {"a": [1, "x"]}}}));
    put(&broker, "gone", json!({}));
    publish(&broker, "q", "x");
    let broker = broker.restart();
    let queue = broker.get("queues/%2F/q").json();
    assert_eq!(queue["arguments"], json!({"x-max-length": 7, "deep": {"a": [1, "x"]}}));
    assert_eq!((&queue["messages"], &queue["durable"]), (&json!(1), &json!(true)));
    assert_eq!(broker.get("queues/%2F/gone").status, 404);
}

/// The fields of a classic queue in RabbitMQ 3.10, and a value of their type.
fn rabbitmqs_fields() -> Value {
    json!({
        "arguments": {}, "auto_delete": false, "backing_queue_status": {}, "consumer_capacity": 0,
        "consumer_utilisation": 0, "consumers": 0, "durable": false, "effective_policy_definition": {},
        "exclusive": false, "garbage_collection": {}, "memory": 0, "message_bytes": 0,
        "message_bytes_paged_out": 0, "message_bytes_persistent": 0, "message_bytes_ram": 0,
        "message_bytes_ready": 0, "message_bytes_unacknowledged": 0, "messages": 0, "messages_details": {},
        "messages_paged_out": 0, "messages_persistent": 0, "messages_ram": 0, "messages_ready": 0,
        "messages_ready_details": {}, "messages_ready_ram": 0, "messages_unacknowledged": 0,
        "messages_unacknowledged_details": {}, "messages_unacknowledged_ram": 0, "name": "", "node": "",
        "reductions": 0, "reductions_details": {}, "state": "", "type": "", "vhost": "", "message_stats": {},
        "head_message_timestamp": 0, "oldest_ready_age_ms": 0,
    })
}

#[test]
fn a_queue_is_shown_with_rabbitmqs_fields() {
    let broker = TestBroker::start("");
    put(&broker, "q", json!({"durable": true}));
    let client = Client::connect(&broker, "%2f");
    let properties = BasicProperties::default().with_delivery_mode(2).with_timestamp(1000);
    (0..3).for_each(|_| client.publish("", "q", b"four", properties.clone()));
    client.consume("q", "c", 1, false, 5);
    let queue = wait_for(&broker, "queues/%2F/q", |queue| queue["messages_unacknowledged"] == 1);

    for (name, example) in rabbitmqs_fields().as_object().expect("an object") {
        let has_type = match example {
            Value::Number(_) => queue[name].is_number(),
            Value::Bool(_) => queue[name].is_boolean(),
            Value::String(_) => queue[name].is_string(),
            _ => queue[name].is_object(),
        };
        assert!(has_type, "{name}: {}", queue[name]);
    }
    for name in ["policy", "operator_policy", "exclusive_consumer_tag", "single_active_consumer_tag"] {
        assert_eq!(queue.get(name), Some(&Value::Null), "{name}");
    }
    for (name, value) in [
        ("messages", 3),
        ("messages_ready", 2),
        ("messages_persistent", 3),
        ("message_bytes", 12),
        ("message_bytes_ready", 8),
        ("message_bytes_unacknowledged", 4),
        ("consumers", 1),
        ("head_message_timestamp", 1000),
    ] {
        assert_eq!(queue[name], value, "{name}");
    }
    assert_eq!((&queue["type"], &queue["state"]), (&json!("classic"), &json!("running")));
    assert_eq!(queue["message_stats"]["publish"], 3);
    assert_eq!(queue["message_stats"]["deliver_get"], 1);
    assert!(queue["message_stats"]["publish_details"]["rate"].is_number());
    let consumer = &queue["consumer_details"][0];
    assert_eq!((&consumer["consumer_tag"], &consumer["prefetch_count"]), (&json!("c"), &json!(1)));
    assert_eq!(consumer["arguments"], json!({"x-priority": 5}));
    assert_eq!(consumer["channel_details"]["user"], "guest");
    assert_eq!((&queue["incoming"], &queue["deliveries"]), (&json!([]), &json!([])));

    let in_list = &broker.get("queues/%2F").json()[0];
    assert_eq!(in_list["messages"], 3);
    assert_eq!(in_list.get("consumer_details"), None);
    assert_eq!(broker.get("queues/detailed").json()[0]["messages"], 3);
    assert_eq!(
        broker.get("queues/%2F/q?columns=name,message_stats.publish").json(),
        json!({"name": "q", "message_stats": {"publish": 3}})
    );
}

#[test]
fn whose_a_queue_is_and_who_consumes_is_shown() {
    let broker = TestBroker::start("");
    let client = Client::connect(&broker, "%2f");
    client.declare_exclusive("mine");
    put(&broker, "alone", json!({}));
    put(&broker, "single", json!({"arguments": {"x-single-active-consumer": true}}));
    client.consume("alone", "only", 1, true, 0);
    client.consume("single", "first", 1, false, 0);
    client.consume("single", "second", 1, false, 0);

    let mine = broker.get("queues/%2F/mine").json();
    assert_eq!(mine["exclusive"], true);
    assert_eq!(mine["owner_pid_details"]["peer_host"], "127.0.0.1");
    assert_eq!(broker.get("queues/%2F/alone").json()["exclusive_consumer_tag"], "only");
    let single = broker.get("queues/%2F/single").json();
    assert_eq!(single["single_active_consumer_tag"], "first");
    let statuses = single["consumer_details"].as_array().expect("a list");
    let statuses: Vec<_> = statuses.iter().map(|consumer| &consumer["activity_status"]).collect();
    assert!(statuses.contains(&&json!("single_active")) && statuses.contains(&&json!("waiting")));

    // Nobody else can do anything with a queue that is a connection's own.
    for (status, answer) in [
        put(&broker, "mine", json!({})),
        delete(&broker, "queues/%2F/mine"),
        delete(&broker, "queues/%2F/mine/contents"),
    ] {
        let reason = answer["reason"].as_str().unwrap_or_default();
        assert!(reason.starts_with("cannot obtain exclusive access to locked queue 'mine'"), "{answer}");
        assert_eq!(status, 400);
    }
}

#[test]
fn the_messages_that_clients_have_are_listed() {
    let broker = TestBroker::start("");
    put(&broker, "q", json!({}));
    let client = Client::connect(&broker, "%2f");
    client.publish("", "q", b"four", BasicProperties::default().with_type(ShortString::from("t")));
    client.consume("q", "c", 1, false, 0);
    wait_for(&broker, "queues/%2F/q", |queue| queue["messages_unacknowledged"] == 1);
    let unacked = broker.get("queues/%2F/q/unacked").json();
    assert_eq!(unacked.as_array().map(Vec::len), Some(1));
    assert_eq!((&unacked[0]["consumer_tag"], &unacked[0]["payload_bytes"]), (&json!("c"), &json!(4)));
    assert_eq!(unacked[0]["properties"], json!({"type": "t"}));
    assert_eq!(unacked[0]["channel_details"]["number"], 1);
}

#[test]
fn a_quorum_queue_says_so() {
    let broker = TestBroker::start("");
    put(&broker, "q", json!({"durable": true, "arguments": {"x-queue-type": "quorum"}}));
    let queue = broker.get("queues/%2F/q").json();
    let node = &queue["node"];
    assert_eq!((&queue["type"], &queue["delivery_limit"]), (&json!("quorum"), &json!(20)));
    assert_eq!(
        (&queue["leader"], &queue["members"], &queue["online"]),
        (node, &json!([node]), &json!([node]))
    );
}

#[test]
fn policies_and_what_they_say_are_shown() {
    let broker = TestBroker::start("");
    put(&broker, "q", json!({}));
    let policy = json!({"pattern": "q", "definition": {"max-length": 5}, "apply-to": "queues"});
    assert_eq!(broker.request("PUT", "policies/%2F/p", Some(policy)).status, 201);
    let operator =
        json!({"pattern": "q", "definition": {"max-length": 3, "message-ttl": 9}, "apply-to": "queues"});
    assert_eq!(broker.request("PUT", "operator-policies/%2F/o", Some(operator)).status, 201);
    let queue = broker.get("queues/%2F/q").json();
    assert_eq!((&queue["policy"], &queue["operator_policy"]), (&json!("p"), &json!("o")));
    assert_eq!(queue["effective_policy_definition"], json!({"max-length": 3, "message-ttl": 9}));
}

#[test]
fn lists_are_paged_filtered_sorted_and_cut() {
    let broker = TestBroker::start("");
    for number in 0..25 {
        put(&broker, &format!("q{number:02}"), json!({}));
    }
    publish(&broker, "q07", "x");
    let page = broker.get("queues?page=2&page_size=10").json();
    assert_eq!(
        (&page["total_count"], &page["page_count"], &page["item_count"]),
        (&json!(25), &json!(3), &json!(10))
    );
    assert_eq!(page["items"][0]["name"], "q10");
    let filtered = broker.get("queues?page=1&use_regex=true&pagination=false&name=q1%5B0-4%5D%24").json();
    assert_eq!(filtered["filtered_count"], 5);
    for column in ["messages", "messages_ready", "message_stats.publish", "message_bytes"] {
        let sorted = broker.get(&format!("queues/%2F?sort={column}&sort_reverse=true&columns=name")).json();
        assert_eq!(sorted[0], json!({"name": "q07"}), "{column}");
    }
    let bare = broker.get("queues/%2F?disable_stats=true").json();
    assert_eq!((bare[7].get("messages"), &bare[7]["name"]), (None, &json!("q07")));
    let totals = broker.get("queues/%2F?disable_stats=true&enable_queue_totals=true").json();
    assert_eq!((&totals[7]["messages"], totals[7].get("memory")), (&json!(1), None));
}

#[test]
fn users_see_and_do_what_they_may() {
    let broker = TestBroker::start(CONFIGURATION);
    put(&broker, "q", json!({}));
    broker.request("PUT", "queues/a%2Fb%20%C3%A9%252F/other", Some(json!({})));
    let bob = |method: &str, path: &str, body: Option<&str>| {
        let answer = broker.request_as("bob", "bob", method, path, body);
        (answer.status, serde_json::from_str::<Value>(&answer.body).unwrap_or(Value::Null))
    };
    assert_eq!(bob("PUT", "queues/%2F/bob-q", Some("{}")).0, 201);
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().expect("a list").iter();
        list.map(|queue| queue["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(&bob("GET", "queues", None).1), ["bob-q", "q"]);
    let get = r#"{"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}"#;
    for (method, path, body) in [
        ("PUT", "queues/%2F/x", Some("{}")),
        ("DELETE", "queues/%2F/q", None),
        ("DELETE", "queues/%2F/q/contents", None),
        ("POST", "queues/%2F/q/get", Some(get)),
        ("POST", "queues/%2F/q/actions", Some(r#"{"action": "sync"}"#)),
        ("GET", "queues/a%2Fb%20%C3%A9%252F", None),
        ("GET", "queues/a%2Fb%20%C3%A9%252F/other", None),
        ("PUT", "queues/a%2Fb%20%C3%A9%252F/x", Some("{}")),
    ] {
        let (status, answer) = bob(method, path, body);
        assert_eq!((status, &answer["error"]), (401, &json!("not_authorised")), "{method} {path}: {answer}");
    }
    let watcher = |method: &str, path: &str| broker.request_as("watcher", "watcher", method, path, None);
    assert_eq!(names(&watcher("GET", "queues").json()), ["bob-q", "q", "other"]);
    assert_eq!(watcher("DELETE", "queues/%2F/q").status, 401);
}

#[test]
fn the_actions_that_mirrors_had_do_nothing() {
    let broker = TestBroker::start("");
    put(&broker, "q", json!({}));
    let act = |body: Value| broker.request("POST", "queues/%2F/q/actions", Some(body));
    assert_eq!(act(json!({"action": "sync"})).status, 204);
    assert_eq!(act(json!({"action": "x"})).json()["reason"], json!(["unknown", "x"]));
    assert_eq!(act(json!({})).json()["reason"], "[{key_missing,action}]");
    assert_eq!(broker.request("POST", "queues/%2F/no/actions", Some(json!({"action": "sync"}))).status, 404);
}

#[test]
fn an_operator_ends_a_consumer() {
    let broker = TestBroker::start(CONFIGURATION);
    put(&broker, "q", json!({"auto_delete": false}));
    let client = Client::connect(&broker, "%2f");
    client.consume("q", "c", 1, false, 0);
    let consumers = broker.get("consumers/%2F").json();
    let channel = &consumers[0]["channel_details"];
    let connection = channel["connection_name"].as_str().expect("a name");
    let connection = connection.replace(' ', "%20").replace('>', "%3E");
    let path = |tag: &str| format!("consumers/%2F/{connection}/{}/{tag}", channel["number"]);
    assert_eq!(broker.request_as("bob", "bob", "DELETE", &path("c"), None).status, 401);
    assert_eq!(delete(&broker, &path("none")).0, 404);
    assert_eq!(delete(&broker, &path("c")).0, 204);
    assert_eq!(broker.get("queues/%2F/q").json()["consumers"], 0);
    // What comes now waits: nobody takes it.
    publish(&broker, "q", "x");
    assert_eq!(broker.get("queues/%2F/q").json()["messages_ready"], 1);
    assert_eq!(delete(&broker, &path("c")).0, 404);
}
