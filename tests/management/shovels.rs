//! Shovels and parameters: set over HTTP, judged by lapin.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::*,
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::broker::{Answer, DEADLINE, TestBroker};

const SHOVEL: &str = "parameters/shovel/%2F/s";

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_moved_in_order_and_the_shovel_deletes_itself() {
    let broker = TestBroker::start("");
    let channel = connect(&broker.uri()).await;
    declare(&channel, "from").await;
    let mut headers = FieldTable::default();
    headers.insert("n".into(), AMQPValue::ShortUInt(7));
    let properties = BasicProperties::default().with_headers(headers).with_delivery_mode(2).with_priority(3);
    for number in 0..250 {
        publish(&channel, "from", &format!("m{number}"), properties.clone()).await;
    }
    let answer = put(&broker, &json!({"src-delete-after": "queue-length"}));
    assert_eq!(answer.status, 201, "{answer:?}");
    eventually("the shovel is gone", || broker.get(SHOVEL).status == 404);
    eventually("it is not listed", || broker.get("shovels").json() == json!([]));
    for number in 0..250 {
        let message = get(&channel, "to").await.expect("a message");
        assert_eq!(message.1, format!("m{number}"));
        assert_eq!(message.0, properties, "as it was");
    }
    assert_eq!((count(&channel, "from").await, count(&channel, "to").await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_asked_for_is_moved() {
    let broker = TestBroker::start("");
    let channel = connect(&broker.uri()).await;
    for mode in ["on-confirm", "on-publish"] {
        declare(&channel, "from").await;
        for number in 0..20 {
            publish(&channel, "from", &number.to_string(), BasicProperties::default()).await;
        }
        put(&broker, &json!({"src-delete-after": 7, "src-prefetch-count": 3, "ack-mode": mode}));
        eventually("the shovel is gone", || broker.get(SHOVEL).status == 404);
        for number in 0..7 {
            assert_eq!(get(&channel, "to").await.expect("a message").1, number.to_string());
        }
        assert!(get(&channel, "to").await.is_none());
        for number in 7..20 {
            assert_eq!(get(&channel, "from").await.expect("a message").1, number.to_string(), "{mode}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_may_tell_what_they_went_through() {
    let broker = TestBroker::start("");
    let channel = connect(&broker.uri()).await;
    declare(&channel, "to").await;
    let bind = QueueBindOptions::default();
    let bound =
        channel.queue_bind("to".into(), "amq.fanout".into(), "".into(), bind, FieldTable::default()).await;
    bound.expect("bound");
    let uri = format!("amqp://guest:guest@{}", broker.amqp);
    let answer = put(
        &broker,
        &json!({
            "src-queue": null, "src-exchange": "amq.topic", "src-exchange-key": "a.#",
            "dest-queue": null, "dest-exchange": "amq.fanout", "dest-exchange-key": "k", "dest-uri": [uri],
            "dest-add-forward-headers": true, "dest-add-timestamp-header": true,
            "dest-publish-properties": {"app_id": "x"},
        }),
    );
    assert_eq!(answer.status, 201, "{answer:?}");
    running(&broker);
    let publish = BasicPublishOptions::default();
    for key in ["b", "a.b"] {
        let sent =
            channel.basic_publish("amq.topic".into(), key.into(), publish, b"m", BasicProperties::default());
        sent.await.expect("sent").await.expect("confirmed");
    }
    let (properties, body, key) = loop {
        if let Some(message) = get_with_key(&channel, "to").await {
            break message;
        }
    };
    assert_eq!((body.as_str(), key.as_str()), ("m", "k"));
    assert_eq!(properties.app_id().as_ref().map(|id| id.as_str()), Some("x"));
    let headers = properties.headers().clone().expect("headers");
    assert!(matches!(headers.inner().get("x-shovelled-timestamp"), Some(AMQPValue::LongLongInt(_))));
    let Some(AMQPValue::FieldArray(list)) = headers.inner().get("x-shovelled") else { panic!("{headers:?}") };
    let [AMQPValue::FieldTable(entry)] = list.as_slice() else { panic!("{list:?}") };
    let text = |name: &str| match entry.inner().get(name) {
        Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!((text("shovel-name"), text("shovel-type")), ("s".into(), "dynamic".into()));
    assert_eq!((text("src-exchange"), text("src-exchange-key")), ("amq.topic".into(), "a.#".into()));
    assert_eq!(text("dest-uri"), format!("amqp://{}", broker.amqp), "no password");
    let answer = broker.get("shovels/vhost/%2F/s").json();
    assert_eq!(
        (&answer[0]["src_exchange_key"], &answer[0]["dest_exchange"]),
        (&json!("a.#"), &json!("amq.fanout"))
    );
    assert!(!answer.to_string().contains("guest"), "{answer}");
}

/// Kills and cuts whatever can be while messages are moved: each arrives at least once, and none stays behind.
#[tokio::test(flavor = "multi_thread")]
async fn none_is_lost_whatever_breaks() {
    const MESSAGES: usize = 10_000;
    let broker = TestBroker::start("");
    let mut other = TestBroker::start("");
    let (source, destination) = (Line::to(broker.amqp).await, Line::to(other.amqp).await);
    let channel = connect(&broker.uri()).await;
    declare(&channel, "from").await;
    let durable = BasicProperties::default().with_delivery_mode(2);
    let mut confirms = Vec::new();
    for number in 0..MESSAGES {
        let body = format!("{number} {}", "x".repeat(500));
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish("".into(), "from".into(), options, body.as_bytes(), durable.clone());
        confirms.push(sent.await.expect("sent"));
    }
    for confirm in confirms {
        confirm.await.expect("confirmed");
    }
    put(
        &broker,
        &json!({"src-uri": source.uri(), "dest-uri": destination.uri(), "reconnect-delay": 0.05, "src-prefetch-count": 100}),
    );
    let forwarded = |broker: &TestBroker| {
        broker.get("shovels").json()[0]["forwarded"].as_u64().unwrap_or_default() as usize
    };
    for round in 1..=6 {
        // Always in the midst of it.
        eventually("it goes on", || forwarded(&broker) > MESSAGES * round / 10);
        match round % 3 {
            0 => source.cut(),
            1 => destination.cut(),
            _ => {
                destination.lead_to(None);
                other.kill();
                other = other.restart();
                destination.lead_to(Some(other.amqp));
            }
        }
    }
    let mut seen = BTreeSet::new();
    let arrived = connect(&other.uri()).await;
    let started = Instant::now();
    while seen.len() < MESSAGES {
        match get(&arrived, "to").await {
            Some((_, body)) => {
                seen.insert(body.split(' ').next().and_then(|number| number.parse::<usize>().ok()));
            }
            None => assert!(started.elapsed() < 3 * DEADLINE, "{} of {MESSAGES} have come", seen.len()),
        }
    }
    assert!(forwarded(&broker) >= MESSAGES);
    eventually("nothing is left", || broker.get("shovels").json()[0]["pending"] == 0);
    broker.request("DELETE", SHOVEL, None);
    assert_eq!(count(&channel, "from").await, 0);
}

/// Messages for a queue that is deleted meanwhile are not swallowed.
#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_goes_is_made_again() {
    let broker = TestBroker::start("");
    let channel = connect(&broker.uri()).await;
    declare(&channel, "from").await;
    put(&broker, &json!({"reconnect-delay": 0.05}));
    running(&broker);
    channel.queue_delete("to".into(), QueueDeleteOptions::default()).await.expect("deleted");
    publish(&channel, "from", "m", BasicProperties::default()).await;
    eventually("it failed and runs again", || broker.get("shovels").json()[0]["forwarded"] == 2);
    running(&broker);
    assert_eq!(get(&channel, "to").await.expect("a message").1, "m");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_there_again_after_a_restart() {
    let mut broker = TestBroker::start("");
    put(&broker, &json!({}));
    broker.request("PUT", "global-parameters/g", Some(json!({"value": {"a": [1, "x"]}})));
    let value = broker.get(SHOVEL).json();
    broker.kill();
    let broker = broker.restart();
    assert_eq!(broker.get(SHOVEL).json(), value);
    assert_eq!(broker.get("global-parameters/g").json(), json!({"name": "g", "value": {"a": [1, "x"]}}));
    running(&broker);
    let channel = connect(&broker.uri()).await;
    publish(&channel, "from", "m", BasicProperties::default()).await;
    wait_for(&channel, "to", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_says_why_and_is_restarted_or_deleted() {
    let broker = TestBroker::start("");
    let nobody = format!("amqp://guest:wrong-password@{}", broker.amqp);
    put(&broker, &json!({"src-uri": nobody, "reconnect-delay": 0}));
    eventually("it says why", || {
        let shovel = &broker.get("shovels/%2F").json()[0];
        let reason = shovel["reason"].as_str().unwrap_or_default().to_owned();
        assert!(!reason.contains("wrong-password"), "{reason}");
        shovel["state"] == "terminated" && reason.contains("ACCESS_REFUSED")
    });
    let answer = broker.request("DELETE", "shovels/vhost/%2F/s/restart", None);
    assert_eq!(answer.status, 204, "{answer:?}");
    // Another definition takes its place at once.
    assert_eq!(put(&broker, &json!({})).status, 204);
    running(&broker);
    let since = broker.get("shovels").json()[0]["timestamp"].clone();
    assert_eq!(put(&broker, &json!({})).status, 204, "the same again, as Terraform does");
    assert_eq!(broker.get("shovels").json()[0]["timestamp"], since, "which changes nothing");
    assert_eq!(broker.request("DELETE", "shovels/vhost/%2F/s", None).status, 204);
    assert_eq!(broker.get(SHOVEL).status, 404);
    eventually("no consumer is left", || broker.get("shovels").json() == json!([]));
    for path in ["shovels/nowhere", "shovels/vhost/%2F/s", "shovels/vhost/nowhere/s"] {
        assert_eq!(broker.get(path).status, 404, "{path}");
    }
    assert_eq!(broker.request("DELETE", "shovels/vhost/%2F/s/restart", None).status, 404);
}

const USERS: &str = r#"
[[vhosts]]
name = "/"
[[vhosts]]
name = "other"
[[users]]
name = "guest"
password = "guest"
tags = ["administrator"]
permissions = [{ vhost = "/", configure = ".*", write = ".*", read = ".*" }]
[[users]]
name = "ann"
password = "ann"
tags = ["policymaker"]
permissions = [{ vhost = "/", configure = "", write = "^to$", read = "^from$" }]
[[users]]
name = "bob"
password = "bob"
tags = ["management"]
permissions = [{ vhost = "/", configure = ".*", write = ".*", read = ".*" }]
[[users]]
name = "eve"
password = "eve"
tags = ["monitoring"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_shovel_may_what_its_user_may() {
    let broker = TestBroker::start(USERS);
    let as_ann = |value: &Value| {
        let body = json!({"value": value}).to_string();
        broker.request_as("ann", "ann", "PUT", SHOVEL, Some(&body))
    };
    let answer = as_ann(&definition(&json!({"dest-uri": "amqp:///other"})));
    assert_eq!(
        (answer.status, answer.json()["reason"].as_str().unwrap()),
        (400, "Validation failed\n\nuser \"ann\" may not connect to vhost \"other\"\n")
    );
    let forbidden = definition(&json!({"dest-queue": "secret", "reconnect-delay": 0}));
    assert_eq!(as_ann(&forbidden).status, 201);
    eventually("it is refused", || {
        let shovel = &broker.get("shovels").json()[0];
        shovel["reason"].as_str().is_some_and(|reason| reason.contains("ACCESS_REFUSED"))
    });
    // By another user's name only with that user's password.
    let as_bob = definition(&json!({"dest-queue": "secret", "reconnect-delay": 0, "src-uri": "amqp://bob@"}));
    assert_eq!(as_ann(&as_bob).status, 204);
    eventually("it is refused", || {
        let shovel = &broker.get("shovels").json()[0];
        shovel["reason"].as_str().is_some_and(|reason| reason.contains("needs the password"))
    });
    let with_password = json!({"src-uri": "amqp://bob:bob@", "dest-uri": "amqp://bob:bob@"});
    assert_eq!(as_ann(&definition(&with_password)).status, 204);
    running(&broker);
}

/// Who may connect from this machine only does not get in by a shovel that somebody else has set; and passwords can't be
/// guessed at any speed.
#[tokio::test(flavor = "multi_thread")]
async fn shovels_do_not_get_round_the_rules_for_logins() {
    let broker =
        TestBroker::start(&USERS.replace("password = \"bob\"", "password = \"bob\"\nloopback_only = true"));
    // Whether a new shovel gets in like that, whatever it may do then.
    let gets_in = |login: &str| {
        broker.request("DELETE", SHOVEL, None);
        eventually("the last one is gone", || broker.get("shovels").json() == json!([]));
        let uri = format!("amqp://{login}@");
        put(&broker, &json!({"src-uri": uri, "dest-uri": uri, "reconnect-delay": 0}));
        let mut gets_in = false;
        eventually("it has tried", || {
            let shovel = &broker.get("shovels").json()[0];
            let reason = shovel["reason"].as_str();
            gets_in = reason.is_none_or(|reason| !reason.contains("can't log in"));
            shovel["state"] == "running" || reason.is_some()
        });
        gets_in
    };
    assert!(!gets_in("bob:bob"), "from this machine only");
    assert!(gets_in("ann:ann"));
    // The right password is refused after enough wrong ones, for a while. That may be over by the time it is tried: then again.
    eventually("the right password has to wait", || {
        (0..8).for_each(|number| assert!(!gets_in(&format!("ann:wrong{number}"))));
        !gets_in("ann:ann")
    });
}

/// Of "all" messages some go elsewhere while it can't move them: it waits for a while, for they could come back, and ends.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_moves_all_ends_though_others_have_taken_some() {
    let broker = TestBroker::start("");
    let channel = connect(&broker.uri()).await;
    declare(&channel, "from").await;
    for number in 0..4 {
        publish(&channel, "from", &number.to_string(), BasicProperties::default()).await;
    }
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("to".into(), options, arguments).await.expect("declared");
    publish(&channel, "to", "full", BasicProperties::default()).await;
    let uri = format!("amqp://guest:guest@{}/%2f?heartbeat=1", broker.amqp);
    put(&broker, &json!({"src-uri": uri, "src-delete-after": "queue-length", "src-prefetch-count": 1}));
    eventually("the first one is refused", || {
        broker.get("shovels").json()[0]["forwarded"].as_u64().is_some_and(|forwarded| forwarded > 0)
    });
    for _ in 0..3 {
        get(&channel, "from").await.expect("a message");
    }
    channel.queue_purge("to".into(), QueuePurgeOptions::default()).await.expect("purged");
    let purged = Instant::now();
    eventually("the shovel is gone", || broker.get(SHOVEL).status == 404);
    assert!(purged.elapsed().as_secs() >= 3, "it waits");
    assert_eq!((count(&channel, "from").await, count(&channel, "to").await), (0, 1));
}

#[test]
fn who_may_set_what() {
    let broker = TestBroker::start(USERS);
    let body = json!({"value": definition(&json!({}))}).to_string();
    let ask = |user: &str, method: &str, path: &str| {
        let body = (method == "PUT").then_some(body.as_str());
        broker.request_as(user, user, method, path, body).status
    };
    for path in ["parameters", "parameters/shovel", "parameters/shovel/%2F", "global-parameters"] {
        let statuses = ["guest", "ann", "bob", "eve"].map(|user| ask(user, "GET", path));
        assert_eq!(statuses, [200, 200, 401, 401], "{path}");
    }
    assert_eq!(["guest", "ann", "bob", "eve"].map(|user| ask(user, "GET", "shovels")), [200, 200, 401, 200]);
    let statuses = ["guest", "ann", "bob", "eve"].map(|user| ask(user, "GET", "shovels/other"));
    assert_eq!(statuses, [200, 401, 401, 200]);
    let elsewhere = "parameters/shovel/other/s";
    assert_eq!((ask("guest", "PUT", SHOVEL), ask("guest", "PUT", elsewhere)), (201, 201));
    for (user, seen) in [("guest", vec!["/", "other"]), ("ann", vec!["/"]), ("eve", vec!["/", "other"])] {
        let shovels = broker.request_as(user, user, "GET", "shovels", None).json();
        let shovels = shovels.as_array().expect("a list");
        let hosts: BTreeSet<&str> = shovels.iter().filter_map(|shovel| shovel["vhost"].as_str()).collect();
        assert_eq!(hosts, seen.into_iter().collect(), "{user}");
    }
    assert_eq!((ask("guest", "DELETE", SHOVEL), ask("guest", "DELETE", elsewhere)), (204, 204));
    for user in ["bob", "eve"] {
        assert_eq!((ask(user, "PUT", SHOVEL), ask(user, "DELETE", SHOVEL)), (401, 401), "{user}");
        assert_eq!(ask(user, "PUT", "global-parameters/g"), 401, "{user}");
    }
    assert_eq!(ask("ann", "PUT", "parameters/shovel/other/s"), 401, "not her virtual host");
    assert_eq!(ask("ann", "PUT", "global-parameters/g"), 201);
    assert_eq!(ask("ann", "DELETE", "global-parameters/g"), 204);
}

/// Statuses and texts of RabbitMQ 3.10.8.
#[test]
fn bad_parameters_are_refused_in_rabbitmqs_words() {
    let broker = TestBroker::start("");
    let good = json!({"value": definition(&json!({}))});
    for (path, body, status, reason) in [
        (SHOVEL, json!({}), 400, "[{key_missing,value}]"),
        (SHOVEL, json!([]), 400, "not_json"),
        ("parameters/shovel/nowhere/s", good.clone(), 404, "vhost_not_found"),
        ("parameters/nosuch/nowhere/s", good.clone(), 404, "vhost_not_found"),
        ("parameters/nosuch/%2F/s", good.clone(), 400, "Validation failed\n\ncomponent nosuch not found\n"),
        ("parameters/policy/%2F/s", good, 400, "policies may not be set using this method"),
        (
            SHOVEL,
            json!({"value": {}}),
            400,
            "Validation failed\n\nMust specify 'src-exchange' or 'src-queue'\nKey \"dest-uri\" not found in s\nKey \
             \"src-uri\" not found in s\n",
        ),
        (
            SHOVEL,
            json!({"value": definition(&json!({"bogus": 1}))}),
            400,
            "Validation failed\n\nUnrecognised terms [{&lt;&lt;\"bogus\"&gt;&gt;,1}] in s\n",
        ),
        ("global-parameters/g", json!({}), 400, "[{key_missing,value}]"),
    ] {
        let answer = broker.request("PUT", path, Some(body));
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (status, Some(reason)), "{path}");
    }
    let long = format!("parameters/shovel/%2F/{}", "n".repeat(256));
    assert_eq!(broker.request("PUT", &long, Some(json!({"value": definition(&json!({}))}))).status, 400);
    assert_eq!(broker.get("parameters").json(), json!([]));
    for path in [SHOVEL, "parameters/shovel/nowhere", "parameters/nosuch/%2F/s", "global-parameters/g"] {
        assert_eq!(broker.get(path).status, 404, "{path}");
    }
    assert_eq!(broker.request("DELETE", SHOVEL, None).status, 404);
    assert_eq!(broker.request("DELETE", "global-parameters/g", None).status, 404);
    assert_eq!(broker.request("PUT", "global-parameters/g", Some(json!({"value": 5}))).status, 201);
    assert_eq!(broker.request("PUT", "global-parameters/g", Some(json!({"value": null}))).status, 204);
    assert_eq!(broker.get("global-parameters").json(), json!([{"name": "g", "value": null}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_broker_is_reached_over_tls_if_its_certificate_is_good() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let directory = tempfile::TempDir::new().expect("a directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("cert.pem"), certified.cert.pem()).expect("written");
    std::fs::write(path("key.pem"), certified.signing_key.serialize_pem()).expect("written");
    let other = TestBroker::start(&format!(
        "[listeners]\namqp_tls_port = 0\nmanagement_tls_port = \"off\"\nprometheus_tls_port = \"off\"\n[tls]\ncertificate = \"{}\"\nkey = \"{}\"\n",
        path("cert.pem"),
        path("key.pem")
    ));
    let port = other.tls_port();
    let broker = TestBroker::start("");
    let to = |options: &str| {
        let uri = format!("amqps://guest:guest@localhost:{port}/%2f?{options}");
        put(&broker, &json!({"dest-uri": uri, "reconnect-delay": 0}));
    };
    to("");
    eventually("a certificate that nobody vouches for is refused", || {
        let shovel = &broker.get("shovels").json()[0];
        shovel["reason"].as_str().is_some_and(|reason| reason.contains("TLS"))
    });
    let channel = connect(&broker.uri()).await;
    let arrived = connect(&other.uri()).await;
    declare(&channel, "from").await;
    for (number, options) in
        [format!("cacertfile={}", path("cert.pem")), "verify=verify_none".into()].iter().enumerate()
    {
        to(options);
        running(&broker);
        publish(&channel, "from", "m", BasicProperties::default()).await;
        wait_for(&arrived, "to", number as u32 + 1).await;
    }
}

/// A definition that moves from one queue of this broker to another; `null` takes a field away.
fn definition(more: &Value) -> Value {
    let mut value =
        json!({"src-uri": "amqp://", "src-queue": "from", "dest-uri": "amqp://", "dest-queue": "to"});
    let fields = value.as_object_mut().expect("an object");
    let more = more.as_object().expect("an object");
    fields.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
    fields.retain(|_, value| !value.is_null());
    value
}

fn put(broker: &TestBroker, more: &Value) -> Answer {
    broker.request("PUT", SHOVEL, Some(json!({"value": definition(more)})))
}

fn running(broker: &TestBroker) {
    eventually("it runs", || {
        let shovels = broker.get("shovels").json();
        shovels[0]["state"] == "running"
    });
}

#[track_caller]
#[expect(clippy::disallowed_methods, reason = "a broker can only be polled over HTTP")]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// A channel of a connection that stays open with it, with confirms.
async fn connect(uri: &str) -> Channel {
    let connection = Connection::connect(uri, ConnectionProperties::default()).await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    // The channel does not keep it.
    std::mem::forget(connection);
    channel
}

async fn declare(channel: &Channel, queue: &str) {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.expect("declared");
}

async fn publish(channel: &Channel, queue: &str, body: &str, properties: BasicProperties) {
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties);
    sent.await.expect("sent").await.expect("confirmed");
}

async fn get(channel: &Channel, queue: &str) -> Option<(BasicProperties, String)> {
    get_with_key(channel, queue).await.map(|(properties, body, _)| (properties, body))
}

async fn get_with_key(channel: &Channel, queue: &str) -> Option<(BasicProperties, String, String)> {
    let got = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.expect("got");
    let delivery = got?.delivery;
    let body = String::from_utf8(delivery.data).expect("text");
    Some((delivery.properties, body, delivery.routing_key.to_string()))
}

async fn count(channel: &Channel, queue: &str) -> u32 {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
    queue.expect("a queue").message_count()
}

async fn wait_for(channel: &Channel, queue: &str, messages: u32) {
    let started = Instant::now();
    while count(channel, queue).await < messages {
        assert!(started.elapsed() < DEADLINE, "the messages do not come");
    }
}

/// A line to a broker that can be cut, and led elsewhere. It ends with the test's runtime.
struct Line {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    cuts: watch::Sender<u32>,
}

impl Line {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let target = Arc::new(Mutex::new(Some(target)));
        let cuts = watch::Sender::new(0);
        tokio::spawn(Self::accept(listener, Arc::clone(&target), cuts.subscribe()));
        Self { address, target, cuts }
    }

    async fn accept(
        listener: TcpListener,
        target: Arc<Mutex<Option<SocketAddr>>>,
        cuts: watch::Receiver<u32>,
    ) {
        while let Ok((mut near, _)) = listener.accept().await {
            let target = *target.lock().expect("a lock");
            let mut cuts = cuts.clone();
            cuts.mark_unchanged();
            tokio::spawn(async move {
                let Some(target) = target else { return };
                let Ok(mut far) = TcpStream::connect(target).await else { return };
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    _ = cuts.changed() => {}
                }
            });
        }
    }

    fn uri(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.address)
    }

    /// Cuts the connections that there are.
    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Leads new connections there, or nowhere.
    fn lead_to(&self, target: Option<SocketAddr>) {
        *self.target.lock().expect("a lock") = target;
    }
}
