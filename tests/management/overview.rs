//! The broker as a whole: the overview, the node, and who may see what of it. The lists of fields are those that tools
//! read: the page, rabbitmqadmin, Datadog, Terraform, and exporters.

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use serde_json::{Value, json};

use super::broker::{Answer, TestBroker, wait_until};

/// A user who sees what is his own, one who sees everything, and one who is not let in.
pub(crate) const USERS: &str = r#"
[[users]]
name = "guest"
password = "guest"
tags = ["administrator"]
permissions = [{ vhost = "/", configure = ".*", write = ".*", read = ".*" }]

[[users]]
name = "own"
password = "own"
tags = ["management"]
permissions = [{ vhost = "/", configure = ".*", write = ".*", read = ".*" }]

[[users]]
name = "monitor"
password = "monitor"
tags = ["monitoring"]

[[users]]
name = "none"
password = "none"
permissions = [{ vhost = "/", configure = ".*", write = ".*", read = ".*" }]
"#;

/// What RabbitMQ counts of messages.
const MESSAGE_STATS: [&str; 14] = [
    "ack",
    "confirm",
    "deliver",
    "deliver_get",
    "deliver_no_ack",
    "disk_reads",
    "disk_writes",
    "drop_unroutable",
    "get",
    "get_empty",
    "get_no_ack",
    "publish",
    "redeliver",
    "return_unroutable",
];
const CHURN: [&str; 7] = [
    "channel_closed",
    "channel_created",
    "connection_closed",
    "connection_created",
    "queue_created",
    "queue_declared",
    "queue_deleted",
];

/// Checks that an object has these fields with values of these types.
pub(crate) fn check_fields(object: &Value, fields: &[(&str, &str)]) {
    for (path, expected) in fields {
        let value = path.split('.').try_fold(object, |value, key| value.get(key));
        let kind = match value {
            None => "missing",
            Some(Value::Null) => "null",
            Some(Value::Bool(_)) => "flag",
            Some(Value::Number(number)) if number.is_f64() => "float",
            Some(Value::Number(_)) => "number",
            Some(Value::String(_)) => "text",
            Some(Value::Array(_)) => "list",
            Some(Value::Object(_)) => "object",
        };
        assert_eq!(kind, *expected, "{path} of {object:#}");
    }
}

/// Checks figures that come with their details.
fn check_figures(object: &Value, names: &[&str]) {
    for name in names {
        let rate = format!("{name}_details.rate");
        check_fields(object, &[(name, "number"), (&rate, "float")]);
    }
}

/// A connection with a queue, `q`, and a channel that confirms.
async fn connect(broker: &TestBroker) -> (Connection, Channel) {
    let connection = Connection::connect(&broker.uri(), ConnectionProperties::default()).await.expect("open");
    let channel = connection.create_channel().await.expect("a channel");
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("q".into(), durable, FieldTable::default()).await.expect("a queue");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    (connection, channel)
}

async fn publish(channel: &Channel, key: &str) {
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default().with_delivery_mode(2);
    let confirm = channel.basic_publish("".into(), key.into(), options, b"x", properties);
    confirm.await.expect("published").await.expect("confirmed");
}

fn ask(broker: &TestBroker, user: &str, path: &str) -> Answer {
    broker.request_as(user, user, "GET", path, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_has_what_tools_read() {
    let broker = TestBroker::start("");
    let (_connection, channel) = connect(&broker).await;
    publish(&channel, "q").await;
    publish(&channel, "q").await;
    publish(&channel, "nowhere").await;
    let got = channel.basic_get("q".into(), BasicGetOptions::default()).await.expect("asked").expect("one");
    got.ack(BasicAckOptions::default()).await.expect("acknowledged");
    let acked = || match broker.get("overview").json()["message_stats"]["ack"].as_u64() {
        Some(1) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    wait_until("the ack is counted", acked);
    let overview = broker.get("overview").json();
    check_fields(
        &overview,
        &[
            ("management_version", "text"),
            ("rabbitmq_version", "text"),
            ("product_name", "text"),
            ("product_version", "text"),
            ("erlang_version", "text"),
            ("erlang_full_version", "text"),
            ("cluster_name", "text"),
            ("cluster_tags", "object"),
            ("node_tags", "object"),
            ("node", "text"),
            ("rates_mode", "text"),
            ("statistics_db_event_queue", "number"),
            ("sample_retention_policies.global", "list"),
            ("disable_stats", "flag"),
            ("enable_queue_totals", "flag"),
        ],
    );
    check_figures(&overview["message_stats"], &MESSAGE_STATS);
    check_figures(&overview["churn_rates"], &CHURN);
    check_figures(&overview["queue_totals"], &["messages", "messages_ready", "messages_unacknowledged"]);
    let stats = &overview["message_stats"];
    let counts =
        ["publish", "confirm", "drop_unroutable", "get", "deliver_get", "ack"].map(|name| &stats[name]);
    assert_eq!(counts, [3, 3, 1, 1, 1, 1]);
    assert_eq!(overview["queue_totals"]["messages_ready"], 1);
    let totals = json!({"channels": 1, "connections": 1, "consumers": 0, "exchanges": 8, "queues": 1});
    assert_eq!(overview["object_totals"], totals);
    let amqp = overview["listeners"].as_array().expect("listeners").iter();
    let amqp = amqp.filter(|listener| listener["protocol"] == "amqp").collect::<Vec<_>>();
    assert_eq!(amqp[0]["port"], broker.amqp.port());
    check_fields(amqp[0], &[("ip_address", "text"), ("node", "text"), ("socket_opts", "object")]);
    check_fields(&overview["contexts"][0], &[("port", "text"), ("path", "text"), ("description", "text")]);
    check_fields(
        &overview["exchange_types"][0],
        &[("name", "text"), ("description", "text"), ("enabled", "flag")],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_and_samples_follow_what_happens() {
    let broker = TestBroker::start("");
    let (_connection, channel) = connect(&broker).await;
    let path = "overview?msg_rates_age=60&msg_rates_incr=5&lengths_age=60&lengths_incr=5";
    let mut published = 0;
    let seen = loop {
        publish(&channel, "q").await;
        published += 1;
        let details = broker.get(path).json()["message_stats"]["publish_details"].clone();
        let is_sampled = details["samples"].as_array().is_some_and(|samples| samples.len() >= 2);
        if is_sampled && details["rate"].as_f64() > Some(0.0) {
            break details;
        }
        assert!(published < 1_000_000, "{details}");
    };
    check_fields(&seen, &[("rate", "float"), ("avg", "float"), ("avg_rate", "float"), ("samples", "list")]);
    let samples = seen["samples"].as_array().expect("samples");
    check_fields(&samples[0], &[("sample", "number"), ("timestamp", "number")]);
    let at = |place: usize| samples[place]["timestamp"].as_u64().expect("a time");
    assert_eq!((at(0) % 5000, at(0) - at(1)), (0, 5000), "the newest first, at multiples of five seconds");
    let lengths = &broker.get(path).json()["queue_totals"]["messages_details"];
    check_fields(lengths, &[("samples", "list"), ("avg", "float")]);
}

#[test]
fn the_node_has_what_tools_read() {
    let broker = TestBroker::start("");
    let nodes = broker.get("nodes").json();
    let node = &nodes[0];
    check_fields(
        node,
        &[
            ("name", "text"),
            ("type", "text"),
            ("running", "flag"),
            ("being_drained", "flag"),
            ("uptime", "number"),
            ("os_pid", "text"),
            ("mem_limit", "number"),
            ("mem_alarm", "flag"),
            ("disk_free_limit", "number"),
            ("disk_free_alarm", "flag"),
            ("fd_total", "number"),
            ("sockets_total", "number"),
            ("proc_total", "number"),
            ("run_queue", "number"),
            ("processors", "number"),
            ("rates_mode", "text"),
            ("net_ticktime", "number"),
            ("partitions", "list"),
            ("applications", "list"),
            ("auth_mechanisms", "list"),
            ("exchange_types", "list"),
            ("contexts", "list"),
            ("log_files", "list"),
            ("db_dir", "text"),
            ("config_files", "list"),
            ("enabled_plugins", "list"),
            ("cluster_links", "list"),
            ("io_read_avg_time", "float"),
        ],
    );
    let used =
        ["mem_used", "fd_used", "sockets_used", "proc_used", "disk_free", "context_switches", "gc_num"];
    check_figures(node, &used);
    check_figures(node, &["io_read_count", "io_sync_count", "mnesia_disk_tx_count", "connection_created"]);
    let figure = |name: &str| node[name].as_u64().expect("a number");
    assert!(figure("mem_used") > 1 << 20 && figure("mem_used") < figure("mem_limit"), "{node}");
    assert!(figure("fd_used") > 5 && figure("fd_used") < figure("fd_total"), "{node}");
    assert!(figure("disk_free") > 0 && figure("processors") > 0, "{node}");
    let name = node["name"].as_str().expect("a name");
    assert_eq!(broker.get(&format!("nodes/{name}")).json()["os_pid"], node["os_pid"]);
    assert_eq!(broker.get("nodes/nosuch").status, 404);
    assert_eq!(broker.get("nodes?columns=name").json(), json!([{"name": name}]));
    let memory = broker.get(&format!("nodes/{name}/memory")).json();
    let fields = ["binary", "code", "other_proc", "total.rss", "total.erlang", "total.allocated"];
    check_fields(&memory["memory"], &fields.map(|field| (field, "number")));
    let relative = broker.get(&format!("nodes/{name}/memory/relative")).json();
    assert_eq!(relative["memory"]["total"], 100);
}

#[test]
fn who_sees_what() {
    let broker = TestBroker::start(USERS);
    let node = broker.get("nodes").json()[0]["name"].as_str().expect("a name").to_owned();
    for path in
        ["nodes", &format!("nodes/{node}"), &format!("nodes/{node}/memory"), &format!("auth/attempts/{node}")]
    {
        assert_eq!(ask(&broker, "monitor", path).status, 200, "{path}");
        let answer = ask(&broker, "own", path);
        let refused = json!({"error": "not_authorised", "reason": "Not monitor user"});
        assert_eq!((answer.status, answer.json()), (401, refused), "{path}");
    }
    for path in ["feature-flags", "deprecated-features", "config/effective"] {
        assert_eq!(broker.get(path).status, 200, "{path}");
        let answer = ask(&broker, "monitor", path);
        let refused = json!({"error": "not_authorised", "reason": "Not administrator user"});
        assert_eq!((answer.status, answer.json()), (401, refused), "{path}");
    }
    for path in ["overview", "whoami", "extensions", "cluster-name", "health/checks/alarms"] {
        assert_eq!(ask(&broker, "own", path).status, 200, "{path}");
        let answer = ask(&broker, "none", path);
        let refused = json!({"error": "not_authorised", "reason": "Not management user"});
        assert_eq!((answer.status, answer.json()), (401, refused), "{path}");
    }
    // What a page asks before anybody has logged in.
    assert_eq!(broker.request_with(&[], "GET", "auth", None).status, 200);
    assert_eq!(
        broker.request_with(&[], "GET", "version", None).json(),
        broker.get("overview").json()["rabbitmq_version"]
    );
    assert_eq!(broker.request_with(&[], "GET", "whoami", None).status, 401);
    // The node is none of a user's business who does not monitor.
    let own = ask(&broker, "own", "overview").json();
    assert!(own.get("listeners").is_none() && own.get("node").is_none(), "{own}");
    assert_eq!(ask(&broker, "own", "whoami").json(), json!({"name": "own", "tags": ["management"]}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_overview_is_of_what_the_user_sees() {
    let broker = TestBroker::start(&format!("[[vhosts]]\nname = '/'\n[[vhosts]]\nname = 'other'\n{USERS}"));
    let (_connection, channel) = connect(&broker).await;
    publish(&channel, "q").await;
    let own = ask(&broker, "own", "overview").json();
    assert_eq!(own["queue_totals"]["messages"], 1);
    let totals = json!({"channels": 0, "connections": 0, "consumers": 0, "exchanges": 8, "queues": 1});
    assert_eq!(own["object_totals"], totals);
    assert_eq!(broker.get("overview").json()["object_totals"]["exchanges"], 15, "two virtual hosts");
}

#[test]
fn smaller_things_are_answered() {
    let broker = TestBroker::start("");
    let name = broker.get("cluster-name").json()["name"].clone();
    assert_eq!(broker.request("PUT", "cluster-name", Some(json!({"name": name}))).status, 204);
    let answer = broker.request("PUT", "cluster-name", Some(json!({})));
    assert_eq!((answer.status, &answer.json()["reason"]), (400, &json!("[{key_missing,name}]")));
    assert_eq!(broker.request("POST", "rebalance/queues", None).status, 204);
    assert_eq!(broker.request("DELETE", "reset", None).status, 204);
    assert_eq!(broker.get("federation-links").json(), json!([]));
    assert_eq!(broker.get("federation-links/%2F").json(), json!([]));
    let flags = broker.get("feature-flags").json();
    let flags = flags.as_array().expect("flags");
    assert!(flags.iter().all(|flag| flag["state"] == "enabled"));
    assert!(flags.iter().any(|flag| flag["name"] == "quorum_queue"));
    assert_eq!(broker.request("PUT", "feature-flags/quorum_queue/enable", None).status, 204);
    assert_eq!(broker.request("PUT", "feature-flags/nosuch/enable", None).status, 400);
    assert_eq!(broker.get("deprecated-features/used").json(), json!([]));
    let hash = broker.request("POST", "auth/hash_password", Some(json!({"password": "secret"}))).json();
    assert_eq!(hash["ok"].as_str().map(str::len), Some(48), "four bytes of salt and 32 of hash: {hash}");
    let node = broker.get("nodes").json()[0]["name"].as_str().expect("a name").to_owned();
    let attempts = broker.get(&format!("auth/attempts/{node}")).json();
    let fields = ["auth_attempts", "auth_attempts_failed", "auth_attempts_succeeded"];
    check_fields(&attempts[0], &fields.map(|field| (field, "number")));
    assert_eq!(broker.get("auth/attempts/nosuch").status, 404);
}
