//! Connections, channels and consumers: what is told of them, to whom, and how a connection is ended.

use futures_lite::StreamExt as _;
use lapin::{
    Channel, Connection, ConnectionProperties, ErrorKind, Event,
    options::{BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};

use super::{
    broker::{DEADLINE, TestBroker, basic, wait_until},
    overview::{USERS, check_fields},
};

async fn connect_as(broker: &TestBroker, user: &str) -> (Connection, Channel) {
    let uri = format!("amqp://{user}:{user}@{}/%2f", broker.amqp);
    let properties = ConnectionProperties::default().with_connection_name(format!("of {user}").into());
    let connection = Connection::connect(&uri, properties).await.expect("open");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

async fn consume(channel: &Channel) -> lapin::Consumer {
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("q".into(), exclusive, FieldTable::default()).await.expect("a queue");
    channel.basic_qos(7, BasicQosOptions::default()).await.expect("a prefetch");
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), AMQPValue::LongInt(3));
    let consumer = channel.basic_consume("q".into(), "tag".into(), BasicConsumeOptions::default(), arguments);
    consumer.await.expect("a consumer")
}

/// A name in a path.
fn encoded(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_else(|| panic!("{field} of {object}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_what_tools_read() {
    let broker = TestBroker::start("");
    let (_connection, _channel) = connect_as(&broker, "guest").await;
    let all = broker.get("connections").json();
    let listed = &all[0];
    let texts = [
        "name",
        "node",
        "vhost",
        "user",
        "state",
        "protocol",
        "type",
        "host",
        "peer_host",
        "auth_mechanism",
        "user_provided_name",
        "ssl_protocol",
        "ssl_cipher",
        "peer_cert_subject",
        "last_blocked_by",
    ];
    check_fields(listed, &texts.map(|name| (name, "text")));
    let numbers = [
        "channels",
        "channel_max",
        "frame_max",
        "timeout",
        "port",
        "peer_port",
        "connected_at",
        "recv_oct",
        "send_oct",
        "recv_cnt",
        "send_cnt",
        "send_pend",
    ];
    check_fields(listed, &numbers.map(|name| (name, "number")));
    let others = [
        ("ssl", "flag"),
        ("client_properties.capabilities", "object"),
        ("recv_oct_details.rate", "float"),
        ("send_oct_details.rate", "float"),
    ];
    check_fields(listed, &others);
    assert_eq!((text(listed, "user_provided_name"), text(listed, "state")), ("of guest", "running"));
    assert_eq!((&listed["channels"], &listed["port"]), (&json!(1), &json!(broker.amqp.port())));
    let octets = || {
        let octets = ["recv_oct", "send_oct"].map(|name| broker.get("connections").json()[0][name].as_u64());
        if octets.iter().all(|octets| *octets > Some(100)) { Ok(()) } else { Err(format!("{octets:?}")) }
    };
    wait_until("octets are counted", octets);
    let name = text(listed, "name");
    let expected = format!("{}:{} -> {}", text(listed, "peer_host"), listed["peer_port"], broker.amqp);
    assert_eq!(name, expected);
    let path = format!("connections/{}", encoded(name));
    assert_eq!(broker.get(&path).json()["connected_at"], listed["connected_at"]);
    assert_eq!(broker.get(&format!("{path}?columns=user,client_properties.product")).json()["user"], "guest");
    assert_eq!(broker.get(&format!("{path}/channels")).json()[0]["number"], 1);
    assert_eq!(broker.get("vhosts/%2F/connections").json()[0]["name"], name);
    assert_eq!(broker.get("vhosts/%2F/channels").json()[0]["number"], 1);
    for missing in
        ["connections/nosuch", "connections/nosuch/channels", "vhosts/nosuch/connections", "channels/nosuch"]
    {
        assert_eq!(broker.get(missing).status, 404, "{missing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_and_consumers_have_what_tools_read() {
    let broker = TestBroker::start("");
    let (_connection, channel) = connect_as(&broker, "guest").await;
    let _consumer = consume(&channel).await;
    let all = broker.get("channels").json();
    let listed = &all[0];
    check_fields(listed, &["name", "node", "vhost", "user", "state"].map(|name| (name, "text")));
    let numbers = [
        "number",
        "prefetch_count",
        "global_prefetch_count",
        "consumer_count",
        "messages_unacknowledged",
        "messages_unconfirmed",
        "messages_uncommitted",
        "acks_uncommitted",
    ];
    check_fields(listed, &numbers.map(|name| (name, "number")));
    check_fields(listed, &[("confirm", "flag"), ("transactional", "flag"), ("client_flow_blocked", "flag")]);
    let details = ["name", "peer_host"].map(|name| format!("connection_details.{name}"));
    check_fields(listed, &details.each_ref().map(|name| (name.as_str(), "text")));
    assert_eq!((&listed["consumer_count"], &listed["prefetch_count"]), (&json!(1), &json!(7)));
    let name = text(listed, "name");
    assert_eq!(name, format!("{} (1)", text(&listed["connection_details"], "name")));

    let consumers = broker.get("consumers").json();
    let consumer = &consumers[0];
    let expected = json!({
        "consumer_tag": "tag",
        "exclusive": false,
        "ack_required": true,
        "prefetch_count": 7,
        "active": true,
        "activity_status": "up",
        "arguments": {"x-priority": 3},
        "queue": {"name": "q", "vhost": "/"},
        "channel_details": consumer["channel_details"],
    });
    assert_eq!(*consumer, expected);
    let details = &consumer["channel_details"];
    assert_eq!(
        (text(details, "name"), text(details, "user"), &details["number"]),
        (name, "guest", &json!(1))
    );
    assert_eq!(broker.get("consumers/%2F").json(), consumers);
    assert_eq!(broker.get("consumers/nosuch").status, 404);
    let one = broker.get(&format!("channels/{}", encoded(name))).json();
    assert_eq!(one["consumer_details"], consumers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_sees_the_own_ones_and_a_monitor_all() {
    let broker = TestBroker::start(USERS);
    let (_guest, guests) = connect_as(&broker, "guest").await;
    let (_own, _channel) = connect_as(&broker, "own").await;
    let _consumer = consume(&guests).await;
    let count = |user: &str, path: &str| {
        let answer = broker.request_as(user, user, "GET", path, None);
        answer.json().as_array().map(Vec::len)
    };
    for path in ["connections", "channels"] {
        assert_eq!((count("own", path), count("monitor", path)), (Some(1), Some(2)), "{path}");
    }
    assert_eq!((count("own", "consumers"), count("monitor", "consumers")), (Some(0), Some(1)));
    assert_eq!(count("own", "connections/username/own"), Some(1));
    assert_eq!(count("monitor", "connections/username/guest"), Some(1));
    let all = broker.get("connections").json();
    let guests = all.as_array().expect("a list").iter().find(|one| one["user"] == "guest").expect("one");
    let name = encoded(text(guests, "name"));
    for (method, path) in [
        ("GET", format!("connections/{name}")),
        ("GET", format!("connections/{name}/channels")),
        ("GET", format!("channels/{name}%20%281%29")),
        ("GET", "connections/username/guest".to_owned()),
        ("DELETE", format!("connections/{name}")),
        ("DELETE", "connections/username/guest".to_owned()),
    ] {
        let answer = broker.request_as("own", "own", method, &path, None);
        assert_eq!((answer.status, &answer.json()["error"]), (401, &json!("not_authorised")), "{path}");
    }
    for path in [format!("connections/{name}"), "connections/username/guest".to_owned()] {
        assert_eq!(broker.request_as("monitor", "monitor", "GET", &path, None).status, 200, "{path}");
        let answer = broker.request_as("monitor", "monitor", "DELETE", &path, None);
        assert_eq!((answer.status, &answer.json()["error"]), (401, &json!("not_authorised")), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_closed_with_the_reason_given() {
    let broker = TestBroker::start(USERS);
    let (by_name, _channel) = connect_as(&broker, "guest").await;
    let events = by_name.events_listener();
    let all = broker.get("connections").json();
    let path = format!("connections/{}", encoded(text(&all[0], "name")));
    let headers = [("authorization", basic("guest", "guest")), ("x-reason", "maintenance".to_owned())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(broker.request_with(&headers, "DELETE", &path, None).status, 204);
    assert_eq!(closed(events).await, (320, "CONNECTION_FORCED - maintenance".to_owned()));
    wait_until_gone(&broker);
    assert_eq!(broker.request("DELETE", &path, None).status, 404);

    let (by_user, _channel) = connect_as(&broker, "own").await;
    let events = by_user.events_listener();
    assert_eq!(broker.request_as("own", "own", "DELETE", "connections/username/own", None).status, 204);
    assert_eq!(closed(events).await, (320, "CONNECTION_FORCED - Closed via management plugin".to_owned()));
    wait_until_gone(&broker);
    assert_eq!(broker.request("DELETE", "connections/username/nosuch", None).status, 204);
}

/// What a client was told when its connection was closed.
async fn closed(mut events: impl futures_lite::Stream<Item = Event> + Unpin) -> (u16, String) {
    let told = async {
        loop {
            let Event::Error(error) = events.next().await.expect("an event") else { continue };
            match error.kind() {
                ErrorKind::ProtocolError(error) => {
                    return (error.get_id(), error.get_message().as_str().to_owned());
                }
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(DEADLINE, told).await.expect("told in time")
}

fn wait_until_gone(broker: &TestBroker) {
    wait_until("the connection is gone", || match broker.get("connections").json() {
        Value::Array(rest) if rest.is_empty() => Ok(()),
        rest => Err(rest.to_string()),
    });
}
