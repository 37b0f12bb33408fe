//! Limits on connections, channels, queues and consumers: A.2 open, A.3 open, A.5 declare, A.6 consume.

use std::sync::Arc;

use amq_protocol::protocol::{
    channel,
    queue::{Declare, DeclareOk},
};

use crate::{
    broker::{TestBroker, is_external},
    wire::{Close, Login, Refusal, Wire, consume, declare},
};

/// A user and a virtual host with one of each, on a broker with three connections and one consumer for a channel.
const LIMITS: &str = r#"
[limits]
connections_max = 3
channels_max = 3
consumers_per_channel_max = 1
queues_max = 2

[[vhosts]]
name = "small"
connections_max = 1
queues_max = 1

[[users]]
name = "ann"
password = "ann"
connections_max = 1
channels_max = 1
permissions = [
    { vhost = "/", configure = ".*", write = ".*", read = ".*" },
    { vhost = "small", configure = ".*", write = ".*", read = ".*" },
]

[[users]]
name = "eve"
password = "eve"
permissions = [{ vhost = "small", configure = ".*", write = ".*", read = ".*" }]
"#;

const ANN: Login = Login {
    user: "ann",
    password: "ann",
    vhost: "/",
    channel_max: 2047,
    frame_max: 131_072,
    heartbeat: 0,
    capabilities: &[],
};

/// A broker of its own: other tests would count against its limits. `None` where another broker is tested.
fn limited() -> Option<Arc<TestBroker>> {
    (!is_external()).then(|| TestBroker::start(LIMITS))
}

fn connection_refusal(text: &str, method: (u16, u16)) -> Refusal {
    let text = format!("NOT_ALLOWED - {text}");
    Refusal::Connection(Close { code: 530, text, class_id: method.0, method_id: method.1 })
}

#[test]
fn a_user_has_a_limit_of_connections() {
    let Some(broker) = limited() else { return };
    let first = Wire::login(&broker, &ANN);
    let refused = connection_refusal(
        "connection refused for user 'ann': user connection limit (1) is reached",
        (10, 40),
    );
    assert_eq!(Wire::opening(&broker, &ANN).refusal(), refused);
    let mut first = first;
    first.close();
    Wire::login(&broker, &ANN);
}

#[test]
fn a_virtual_host_has_a_limit_of_connections() {
    let Some(broker) = limited() else { return };
    let _first = Wire::login(&broker, &Login { vhost: "small", ..ANN });
    let eve = Login { user: "eve", password: "eve", vhost: "small", ..ANN };
    let text = "access to vhost 'small' refused for user 'eve': connection limit (1) is reached";
    assert_eq!(Wire::opening(&broker, &eve).refusal(), connection_refusal(text, (10, 40)));
}

#[test]
fn a_node_has_a_limit_of_connections() {
    let Some(broker) = limited() else { return };
    let _connections: Vec<Wire> = (0..3).map(|_| Wire::login(&broker, &Login::default())).collect();
    let text = "connection refused: node connection limit (3) is reached";
    let refusal = Wire::opening(&broker, &Login::default()).refusal();
    assert_eq!(refusal, connection_refusal(text, (10, 40)));
}

#[test]
fn a_user_has_a_limit_of_channels() {
    let Some(broker) = limited() else { return };
    let mut wire = Wire::login(&broker, &ANN);
    wire.open_channel(1);
    wire.send(2, channel::Open {});
    let text = "number of channels opened for user 'ann' has reached the maximum allowed user limit of (1)";
    assert_eq!(wire.refusal(), connection_refusal(text, (0, 0)));
}

#[test]
fn a_node_has_a_limit_of_channels() {
    let Some(broker) = limited() else { return };
    let mut wire = Wire::login(&broker, &Login::default());
    (1..=3).for_each(|channel| wire.open_channel(channel));
    wire.send(4, channel::Open {});
    let Refusal::Connection(close) = wire.refusal() else { panic!("the connection is refused") };
    assert_eq!(close.code, 530);
    assert!(
        close.text.starts_with("NOT_ALLOWED - number of channels opened on node 'leveret@"),
        "{}",
        close.text
    );
    assert!(close.text.ends_with("' has reached the maximum allowed limit of (3)"), "{}", close.text);
}

#[test]
fn a_virtual_host_has_a_limit_of_queues() {
    let Some(broker) = limited() else { return };
    let mut wire = Wire::login(&broker, &Login { vhost: "small", ..ANN });
    wire.open_channel(1);
    wire.call::<DeclareOk>(1, declare("first"));
    wire.call::<DeclareOk>(1, declare("first"));
    wire.send(1, declare("second"));
    let text = "cannot declare queue 'second': queue limit in vhost 'small' (1) is reached";
    assert_eq!(wire.refusal(), channel_refusal(text, (50, 10)));
}

#[test]
fn a_node_has_a_limit_of_queues_and_a_deleted_one_does_not_count() {
    let Some(broker) = limited() else { return };
    let mut wire = Wire::open(&broker);
    wire.call::<DeclareOk>(1, declare("first"));
    let mut other = Wire::open(&broker);
    other.call::<DeclareOk>(1, Declare { exclusive: true, ..declare("second") });
    // A connection that keeps its route to the queue does not keep its place.
    wire.publish(1, "second", "message");
    wire.call::<DeclareOk>(1, declare("first"));
    other.close();
    wire.call::<DeclareOk>(1, declare("third"));
    wire.send(1, declare("fourth"));
    let text = "cannot declare queue 'fourth': queue limit in cluster (2) is reached";
    assert_eq!(wire.refusal(), channel_refusal(text, (50, 10)));
}

#[test]
fn a_channel_has_a_limit_of_consumers() {
    let Some(broker) = limited() else { return };
    let mut wire = Wire::open(&broker);
    wire.call::<DeclareOk>(1, declare("q"));
    wire.call::<amq_protocol::protocol::basic::ConsumeOk>(1, consume("q", "a"));
    wire.send(1, consume("q", "b"));
    let text = "reached maximum (1) of consumers per channel";
    assert_eq!(wire.refusal(), connection_refusal(text, (60, 20)));
}

fn channel_refusal(text: &str, method: (u16, u16)) -> Refusal {
    let text = format!("PRECONDITION_FAILED - {text}");
    Refusal::Channel(1, Close { code: 406, text, class_id: method.0, method_id: method.1 })
}
