//! Virtual hosts, and the limits of virtual hosts and users.

use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicPublishOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::json;

use crate::{
    broker::{DEADLINE, TestBroker},
    rows::{check, make_users},
};

#[test]
fn virtual_hosts_are_made_changed_and_deleted_as_in_rabbitmq() {
    let broker = TestBroker::start("");
    let body = r#"{"description": "d", "tags": "a,b", "tracing": true, "unknown": 1}"#;
    check(
        &broker,
        &[
            ("guest", "PUT", "vhosts/v", body, 201, ""),
            ("guest", "PUT", "vhosts/v", "{", 400, "not_json"),
            ("guest", "PUT", "vhosts/v", "[1]", 400, "not_json"),
            ("guest", "PUT", "vhosts/v", r#"{"tracing": "yes"}"#, 400, r#"["not_boolean", "yes"]"#),
            ("guest", "PUT", "vhosts/v", r#"{"default_queue_type": "nope"}"#, 400, ""),
            ("guest", "PUT", &format!("vhosts/{}", "v".repeat(256)), "", 400, ""),
        ],
    );
    let shown = broker.get("vhosts/v").json();
    assert_eq!(
        (&shown["description"], &shown["tags"], &shown["tracing"]),
        (&json!("d"), &json!(["a", "b"]), &json!(true))
    );
    assert_eq!(shown["metadata"], json!({"description": "d", "tags": ["a", "b"]}));
    assert_eq!(shown["default_queue_type"], "undefined");
    let own = json!([{"user": "guest", "vhost": "v", "configure": ".*", "write": ".*", "read": ".*"}]);
    assert_eq!(broker.get("vhosts/v/permissions").json(), own, "who makes it may use it");
    check(&broker, &[("guest", "PUT", "vhosts/v", r#"{"default_queue_type": "quorum"}"#, 204, "")]);
    let node = broker.get("vhosts/v").json()["cluster_state"].as_object().expect("an object").clone();
    let node = node.keys().next().expect("the node").clone();
    let failed = "Request to node x failed with nodedown";
    let no_host = format!("Request to node {node} failed with {{no_such_vhost,<<\"nope\">>}}");
    let protected = "Refusing to delete virtual host 'v' because it is protected from deletion";
    check(
        &broker,
        &[
            ("guest", "POST", &format!("vhosts/v/start/{node}"), "", 204, ""),
            ("guest", "POST", "vhosts/v/start/x", "", 400, failed),
            ("guest", "POST", &format!("vhosts/nope/start/{node}"), "", 400, &no_host),
            ("guest", "POST", "vhosts/v/deletion/protection", "", 204, ""),
            ("guest", "DELETE", "vhosts/v", "", 412, protected),
        ],
    );
    let broker = broker.restart();
    let shown = broker.get("vhosts/v").json();
    assert_eq!((&shown["default_queue_type"], &shown["tracing"]), (&json!("quorum"), &json!(false)));
    check(
        &broker,
        &[
            ("guest", "DELETE", "vhosts/v", "", 412, protected),
            ("guest", "DELETE", "vhosts/v/deletion/protection", "", 204, ""),
            ("guest", "DELETE", "vhosts/v", "", 204, ""),
            ("guest", "DELETE", "vhosts/v", "", 404, "Not Found"),
            ("guest", "GET", "vhosts/v/permissions", "", 404, "Not Found"),
            ("guest", "GET", "permissions/v/guest", "", 404, "Not Found"),
        ],
    );
    let broker = broker.restart();
    check(&broker, &[("guest", "GET", "vhosts/v", "", 404, "")]);
}

#[test]
fn a_user_is_shown_the_virtual_hosts_it_may_enter() {
    let broker = TestBroker::start("");
    make_users(&broker);
    let nothing = r#"{"configure": "", "write": "", "read": ""}"#;
    let elsewhere = "User not authorised to access virtual host";
    check(
        &broker,
        &[
            ("guest", "PUT", "vhosts/v", "", 201, ""),
            ("guest", "PUT", "permissions/v/management", nothing, 201, ""),
            ("management", "GET", "policies/v", "", 200, ""),
            ("management", "GET", "policies/%2F", "", 401, elsewhere),
            ("management", "GET", "vhost-limits/%2F", "", 401, elsewhere),
            ("management", "GET", "policies/nope", "", 404, "Not Found"),
            ("management", "PUT", "vhosts/w", "", 401, "Not administrator user"),
            ("management", "DELETE", "vhosts/v", "", 401, "Not administrator user"),
        ],
    );
    let names = |user: &str| {
        let list = broker.request_as(user, "x", "GET", "vhosts", None).json();
        let list = list.as_array().expect("a list").clone();
        list.iter().map(|host| host["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("management"), ["v"]);
    assert_eq!(names("policymaker"), [""; 0]);
    assert_eq!(names("monitoring"), ["/", "v"]);
}

#[test]
fn limits_are_set_and_told_as_in_rabbitmq() {
    let broker = TestBroker::start("");
    make_users(&broker);
    check(
        &broker,
        &[
            ("guest", "PUT", "vhost-limits/%2F/max-connections", r#"{"value": 5}"#, 204, ""),
            ("guest", "PUT", "vhost-limits/%2F/max-queues", r#"{"value": 0}"#, 204, ""),
            ("guest", "PUT", "vhost-limits/%2F/max-queues", r#"{"value": -1}"#, 204, ""),
            ("guest", "GET", "vhost-limits/%2F/max-queues", "", 405, ""),
            (
                "guest",
                "PUT",
                "vhost-limits/%2F/max-queues",
                r#"{"value": "5"}"#,
                400,
                "Validation failed\n\nmax-queues should be a number, actually was <<\"5\">>\n",
            ),
            (
                "guest",
                "PUT",
                "vhost-limits/%2F/nope",
                r#"{"value": 1}"#,
                400,
                "Validation failed\n\nUnrecognised terms [{<<\"nope\">>,1}] in limits\n",
            ),
            ("guest", "PUT", "vhost-limits/%2F/max-queues", "{}", 400, "[{key_missing,value}]"),
            ("guest", "PUT", "vhost-limits/nope/max-queues", r#"{"value": 1}"#, 404, "vhost_not_found"),
            ("guest", "DELETE", "vhost-limits/%2F/nope", "", 204, ""),
            ("guest", "GET", "vhost-limits/nope", "", 404, "Not Found"),
            ("guest", "PUT", "user-limits/management/max-channels", r#"{"value": 6}"#, 204, ""),
            (
                "guest",
                "PUT",
                "user-limits/management/max-channels",
                r#"{"value": 1.5}"#,
                400,
                "max-channels should be a number, actually was 1.5",
            ),
            (
                "guest",
                "PUT",
                "user-limits/management/nope",
                r#"{"value": 1}"#,
                400,
                "Unrecognised terms [{<<\"nope\">>,1}] in user-limits",
            ),
            (
                "guest",
                "PUT",
                "user-limits/nope/max-channels",
                r#"{"value": 1}"#,
                400,
                r#"["no_such_user", "nope"]"#,
            ),
            ("guest", "GET", "user-limits/nope", "", 404, "Not Found"),
            ("management", "PUT", "user-limits/management/max-channels", r#"{"value": 9}"#, 401, ""),
        ],
    );
    assert_eq!(broker.get("vhost-limits").json(), json!([{"vhost": "/", "value": {"max-connections": 5}}]));
    let own = json!([{"user": "management", "value": {"max-channels": 6}}]);
    assert_eq!(broker.get("user-limits").json(), own);
    assert_eq!(broker.request_as("management", "x", "GET", "user-limits", None).json(), own);
    assert_eq!(broker.request_as("policymaker", "x", "GET", "user-limits", None).json(), json!([]));
    let broker = broker.restart();
    assert_eq!(broker.get("vhost-limits/%2F").json()[0]["value"], json!({"max-connections": 5}));
    check(&broker, &[("guest", "DELETE", "vhost-limits/%2F/max-connections", "", 204, "")]);
    assert_eq!(broker.get("vhost-limits/%2F").json(), json!([]));
}

/// The limits of broker.toml are those that a virtual host is made with.
#[test]
fn a_limit_that_was_set_at_run_time_survives_a_restart_with_another_one_in_the_configuration() {
    let broker = TestBroker::start("[[vhosts]]\nname = '/'\nqueues_max = 3");
    check(&broker, &[("guest", "PUT", "vhost-limits/%2F/max-queues", r#"{"value": 9}"#, 204, "")]);
    let broker = broker.restart();
    assert_eq!(broker.get("vhost-limits/%2F").json()[0]["value"], json!({"max-queues": 9}));
}

#[tokio::test]
async fn queues_get_the_default_type_and_go_with_their_virtual_host() {
    let broker = TestBroker::start("");
    check(&broker, &[("guest", "PUT", "vhosts/v", r#"{"default_queue_type": "quorum"}"#, 201, "")]);
    let uri = format!("amqp://guest:guest@{}/v", broker.amqp);
    let connection = Connection::connect(&uri, ConnectionProperties::default()).await.expect("connected");
    let channel = connection.create_channel().await.expect("a channel");
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare("q".into(), durable, FieldTable::default());
    declared.await.expect("declared");
    let exported = broker.get("definitions/v").json();
    assert_eq!(exported["queues"][0]["arguments"], json!({"x-queue-type": "quorum"}));
    let publish = channel.basic_publish(
        "".into(),
        "q".into(),
        BasicPublishOptions::default(),
        b"x",
        BasicProperties::default(),
    );
    publish.await.expect("published");
    let count = || {
        let hosts = broker.get("vhosts").json();
        let host = hosts.as_array().expect("a list").iter().find(|host| host["name"] == "v").cloned();
        host.expect("v")["messages_ready"].as_u64()
    };
    let asked = std::time::Instant::now();
    while count() != Some(1) {
        assert!(asked.elapsed() < DEADLINE, "{:?}", count());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    check(&broker, &[("guest", "DELETE", "vhosts/v", "", 204, "")]);
    let closed = tokio::time::timeout(DEADLINE, async {
        while connection.status().connected() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    closed.await.expect("the connections of a virtual host that is deleted are closed");
    check(&broker, &[("guest", "PUT", "vhosts/v", "", 201, "")]);
    assert_eq!(broker.get("definitions/v").json()["queues"], json!([]), "a new one is empty");
}
