//! The port for metrics, as Prometheus and RabbitMQ's dashboards read it.

use std::collections::HashMap;

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};

use super::broker::{Answer, TestBroker, wait_until};

/// What the dashboard RabbitMQ-Overview (10991) reads.
const OVERVIEW: [&str; 42] = [
    "rabbitmq_build_info",
    "rabbitmq_identity_info",
    "rabbitmq_erlang_uptime_seconds",
    "rabbitmq_resident_memory_limit_bytes",
    "rabbitmq_process_resident_memory_bytes",
    "rabbitmq_process_max_fds",
    "rabbitmq_process_open_fds",
    "rabbitmq_disk_space_available_bytes",
    "rabbitmq_disk_space_available_limit_bytes",
    "rabbitmq_connections",
    "rabbitmq_connections_opened_total",
    "rabbitmq_connections_closed_total",
    "rabbitmq_channels",
    "rabbitmq_channels_opened_total",
    "rabbitmq_channels_closed_total",
    "rabbitmq_queues",
    "rabbitmq_queues_declared_total",
    "rabbitmq_queues_created_total",
    "rabbitmq_queues_deleted_total",
    "rabbitmq_queue_messages_ready",
    "rabbitmq_queue_messages_unacked",
    "rabbitmq_global_publishers",
    "rabbitmq_global_consumers",
    "rabbitmq_global_messages_received_total",
    "rabbitmq_global_messages_received_confirm_total",
    "rabbitmq_global_messages_confirmed_total",
    "rabbitmq_global_messages_routed_total",
    "rabbitmq_global_messages_unroutable_dropped_total",
    "rabbitmq_global_messages_unroutable_returned_total",
    "rabbitmq_global_messages_delivered_total",
    "rabbitmq_global_messages_delivered_consume_auto_ack_total",
    "rabbitmq_global_messages_delivered_consume_manual_ack_total",
    "rabbitmq_global_messages_delivered_get_auto_ack_total",
    "rabbitmq_global_messages_delivered_get_manual_ack_total",
    "rabbitmq_global_messages_get_empty_total",
    "rabbitmq_global_messages_redelivered_total",
    "rabbitmq_global_messages_acknowledged_total",
    "rabbitmq_message_size_bytes_bucket",
    "rabbitmq_message_size_bytes_sum",
    "rabbitmq_message_size_bytes_count",
    "rabbitmq_consumers",
    "rabbitmq_queue_messages",
];

/// The samples of an answer: by what stands before the value.
fn samples(answer: &Answer) -> HashMap<String, f64> {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4")));
    let lines = answer.body.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
    });
    let samples: Vec<_> = samples.collect();
    let (count, samples) = (samples.len(), samples.into_iter().collect::<HashMap<_, _>>());
    assert_eq!(samples.len(), count, "no series comes twice");
    samples
}

fn channel(runtime: &tokio::runtime::Runtime, broker: &TestBroker) -> (Connection, Channel) {
    runtime.block_on(async {
        let connection =
            Connection::connect(&broker.uri(), ConnectionProperties::default()).await.expect("connected");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        (connection, channel)
    })
}

async fn declare(channel: &Channel, name: &str) {
    let declared =
        channel.queue_declare(name.into(), QueueDeclareOptions::default(), FieldTable::default()).await;
    declared.expect("declared");
}

async fn publish(channel: &Channel, key: &str, body: &[u8]) {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let confirm =
        channel.basic_publish("".into(), key.into(), options, body, properties).await.expect("published");
    confirm.await.expect("confirmed");
}

#[test]
fn d4_the_overview_dashboard_finds_all_that_it_reads() {
    let broker = TestBroker::start("");
    let samples = samples(&broker.metrics("metrics"));
    for name in OVERVIEW {
        let has = |series: &String| series == name || series.starts_with(&format!("{name}{{"));
        assert!(samples.keys().any(has), "{name}");
    }
    let identity = samples.keys().find(|series| series.starts_with("rabbitmq_identity_info{")).expect("it");
    assert!(identity.contains("rabbitmq_endpoint=\"aggregated\""), "{identity}");
    assert!(samples["rabbitmq_process_resident_memory_bytes"] > 1e6);
    assert!(samples["rabbitmq_process_open_fds"] > 3.0);
    assert!(
        samples["rabbitmq_disk_space_available_bytes"] > samples["rabbitmq_disk_space_available_limit_bytes"]
    );
}

#[test]
fn d4_what_clients_do_is_counted() {
    let broker = TestBroker::start("");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (_connection, channel) = channel(&runtime, &broker);
    runtime.block_on(async {
        declare(&channel, "q").await;
        for _ in 0..3 {
            publish(&channel, "q", &[7; 500]).await;
        }
        publish(&channel, "nowhere", b"x").await;
        let got = channel
            .basic_get("q".into(), BasicGetOptions { no_ack: false })
            .await
            .expect("got")
            .expect("one");
        got.ack(BasicAckOptions::default()).await.expect("acked");
        channel
            .basic_get("q".into(), BasicGetOptions { no_ack: false })
            .await
            .expect("got")
            .expect("another");
    });
    let kind = "{protocol=\"amqp091\",queue_type=\"rabbit_classic_queue\"}";
    let expected = [
        ("rabbitmq_connections".to_owned(), 1.0),
        ("rabbitmq_channels".to_owned(), 1.0),
        ("rabbitmq_queues".to_owned(), 1.0),
        ("rabbitmq_queues_created_total".to_owned(), 1.0),
        ("rabbitmq_queue_messages_ready".to_owned(), 1.0),
        ("rabbitmq_queue_messages_unacked".to_owned(), 1.0),
        ("rabbitmq_global_publishers{protocol=\"amqp091\"}".to_owned(), 1.0),
        ("rabbitmq_global_messages_received_total{protocol=\"amqp091\"}".to_owned(), 4.0),
        ("rabbitmq_global_messages_received_confirm_total{protocol=\"amqp091\"}".to_owned(), 4.0),
        ("rabbitmq_global_messages_confirmed_total{protocol=\"amqp091\"}".to_owned(), 4.0),
        ("rabbitmq_global_messages_routed_total{protocol=\"amqp091\"}".to_owned(), 3.0),
        ("rabbitmq_global_messages_unroutable_dropped_total{protocol=\"amqp091\"}".to_owned(), 1.0),
        (format!("rabbitmq_global_messages_delivered_get_manual_ack_total{kind}"), 2.0),
        (format!("rabbitmq_global_messages_acknowledged_total{kind}"), 1.0),
        ("rabbitmq_message_size_bytes_sum{protocol=\"amqp091\"}".to_owned(), 1501.0),
        ("rabbitmq_message_size_bytes_bucket{protocol=\"amqp091\",le=\"100\"}".to_owned(), 1.0),
        ("rabbitmq_message_size_bytes_bucket{protocol=\"amqp091\",le=\"1000\"}".to_owned(), 4.0),
        ("rabbitmq_message_size_bytes_count{protocol=\"amqp091\"}".to_owned(), 4.0),
    ];
    // An acknowledgement is answered by nothing.
    wait_until("it is counted", || {
        let samples = samples(&broker.metrics("metrics"));
        let differs = expected.iter().find(|(series, value)| samples.get(series) != Some(value));
        differs.map_or(Ok(()), |(series, value)| {
            Err(format!("{series}: {:?}, not {value}", samples.get(series)))
        })
    });
}

#[test]
fn d4_each_object_has_its_own_series_whatever_its_name() {
    let broker = TestBroker::start("");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (_connection, channel) = channel(&runtime, &broker);
    let hostile = "a\"}\\ 1\u{e4}{";
    runtime.block_on(async {
        for name in ["plain", hostile] {
            declare(&channel, name).await;
        }
        publish(&channel, hostile, b"body").await;
    });
    let all = samples(&broker.metrics("metrics/per-object"));
    let series = r#"rabbitmq_queue_messages_ready{vhost="/",queue="a\"}\\ 1ä{"}"#;
    assert_eq!(
        all.get(series),
        Some(&1.0),
        "{:?}",
        all.keys().filter(|key| key.contains("ready")).collect::<Vec<_>>()
    );
    assert_eq!(all[r#"rabbitmq_queue_messages_ready{vhost="/",queue="plain"}"#], 0.0);
    assert!(
        all.keys()
            .any(|key| key.starts_with("rabbitmq_connection_incoming_bytes_total{connection=\"127.0.0.1:"))
    );
    assert!(
        all.keys()
            .any(|key| key.starts_with("rabbitmq_channel_messages_published_total{channel=\"127.0.0.1:"))
    );

    let asked =
        samples(&broker.metrics(
            "metrics/detailed?family=queue_coarse_metrics&family=no_such_thing&vhost=%2F&queue=plain",
        ));
    let queues = asked.keys().filter(|key| key.contains("queue=")).collect::<Vec<_>>();
    assert_eq!(queues.len(), 3, "{queues:?}");
    assert!(
        queues
            .iter()
            .all(|key| key.starts_with("rabbitmq_detailed_queue_") && key.contains("queue=\"plain\""))
    );
    let elsewhere = samples(&broker.metrics("metrics/detailed?family=queue_coarse_metrics&vhost=elsewhere"));
    assert!(!elsewhere.keys().any(|key| key.contains("queue=")));
}

#[test]
fn d4_nothing_else_is_there() {
    let broker = TestBroker::start("");
    assert_eq!(broker.metrics("").status, 404);
    assert_eq!(broker.metrics("api/overview").status, 404);
}
