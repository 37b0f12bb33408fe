//! What programs on lapin do: publish with confirms, share work, route, ask and answer.

use futures_lite::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ExchangeKind,
    message::Delivery, options::*, types::FieldTable,
};
use tokio::time::timeout;

use crate::{
    broker::{DEADLINE, TestBroker, shared},
    wire::unique,
};

#[tokio::test]
async fn a_publisher_waits_for_its_confirms() {
    let broker = shared();
    let (_connection, channel) = connect(&broker).await;
    let queue = exclusive_queue(&channel).await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirm.select");
    let mut confirms = Vec::new();
    for number in 0..200 {
        confirms.push(publish(&channel, "", &queue, &format!("m{number}"), true).await);
    }
    for confirm in confirms {
        assert!(matches!(confirm.await.expect("a confirm"), Confirmation::Ack(None)));
    }
    let Confirmation::Ack(Some(returned)) =
        publish(&channel, "", "nowhere", "lost", true).await.await.expect("a confirm")
    else {
        panic!("a returned message");
    };
    assert_eq!((returned.reply_code, returned.reply_text.as_str()), (312, "NO_ROUTE"));
    assert_eq!(returned.delivery.data, b"lost");
}

#[tokio::test]
async fn workers_share_a_queue_and_lose_nothing() {
    let broker = shared();
    let (_connection, channel) = connect(&broker).await;
    let queue = unique("work");
    let options = QueueDeclareOptions { auto_delete: true, ..Default::default() };
    channel
        .queue_declare(queue.as_str().into(), options, FieldTable::default())
        .await
        .expect("queue.declare");

    // The first worker takes three and dies.
    let (crashing, crashing_channel) = connect(&broker).await;
    let mut first = worker(&crashing_channel, &queue, 3).await;
    let (_connection_2, steady_channel) = connect(&broker).await;
    for number in 0..10 {
        publish(&channel, "", &queue, &number.to_string(), false).await;
    }
    for _ in 0..3 {
        next(&mut first).await;
    }
    let mut second = worker(&steady_channel, &queue, 1).await;
    crashing.close(200, "crash".into()).await.expect("close");

    let mut seen = Vec::new();
    while seen.len() < 10 {
        let delivery = next(&mut second).await;
        seen.push(
            String::from_utf8(delivery.data.clone()).expect("a number").parse::<u32>().expect("a number"),
        );
        delivery.ack(BasicAckOptions::default()).await.expect("ack");
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn subscribers_get_what_they_asked_for() {
    let broker = shared();
    let (_connection, channel) = connect(&broker).await;
    let exchange = unique("events");
    let options = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
    channel
        .exchange_declare(exchange.as_str().into(), ExchangeKind::Topic, options, FieldTable::default())
        .await
        .expect("exchange.declare");
    let mut subscribers = Vec::new();
    for pattern in ["order.*", "#.paid", "invoice.#"] {
        let queue = exclusive_queue(&channel).await;
        channel
            .queue_bind(
                queue.as_str().into(),
                exchange.as_str().into(),
                pattern.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .expect("queue.bind");
        subscribers.push(worker(&channel, &queue, 0).await);
    }
    for key in ["order.made", "order.paid", "invoice.eu.paid"] {
        publish(&channel, &exchange, key, key, false).await;
    }
    for (subscriber, expected) in subscribers.iter_mut().zip([
        ["order.made", "order.paid"].as_slice(),
        &["order.paid", "invoice.eu.paid"],
        &["invoice.eu.paid"],
    ]) {
        for key in expected {
            assert_eq!(next(subscriber).await.routing_key.as_str(), *key);
        }
    }
}

#[tokio::test]
async fn a_question_is_answered_over_direct_reply_to() {
    let broker = shared();
    let (_connection, client) = connect(&broker).await;
    let (_connection_2, server) = connect(&broker).await;
    let queue = exclusive_queue(&server).await;
    let mut questions = worker(&server, &queue, 0).await;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut answers = client
        .basic_consume("amq.rabbitmq.reply-to".into(), "".into(), options, FieldTable::default())
        .await
        .expect("basic.consume");
    let asking = BasicProperties::default()
        .with_reply_to("amq.rabbitmq.reply-to".into())
        .with_correlation_id("42".into());
    client
        .basic_publish("".into(), queue.as_str().into(), BasicPublishOptions::default(), b"6 x 7", asking)
        .await
        .expect("basic.publish");

    let question = next(&mut questions).await;
    let reply_to = question.properties.reply_to().clone().expect("a reply_to");
    let correlation = question.properties.correlation_id().clone().expect("a correlation_id");
    let answering = BasicProperties::default().with_correlation_id(correlation);
    server
        .basic_publish("".into(), reply_to, BasicPublishOptions::default(), b"42", answering)
        .await
        .expect("basic.publish");
    let answer = next(&mut answers).await;
    assert_eq!(answer.data, b"42");
    assert_eq!(answer.properties.correlation_id().as_ref().map(|id| id.as_str()), Some("42"));
}

#[tokio::test]
async fn a_refused_channel_leaves_the_connection() {
    let broker = shared();
    let (connection, channel) = connect(&broker).await;
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let error = channel
        .queue_declare(unique("missing").as_str().into(), options, FieldTable::default())
        .await
        .expect_err("there is no such queue");
    assert!(error.to_string().contains("NOT_FOUND"), "{error}");
    let again = connection.create_channel().await.expect("another channel");
    exclusive_queue(&again).await;
    connection.close(200, "bye".into()).await.expect("close");
}

#[tokio::test]
async fn a_large_message_arrives_whole() {
    let broker = shared();
    let (_connection, channel) = connect(&broker).await;
    let queue = exclusive_queue(&channel).await;
    let body: Vec<u8> = (0..3_000_000_u32).map(|number| number.wrapping_mul(31) as u8).collect();
    channel
        .basic_publish(
            "".into(),
            queue.as_str().into(),
            BasicPublishOptions::default(),
            &body,
            BasicProperties::default(),
        )
        .await
        .expect("basic.publish");
    let mut consumer = worker(&channel, &queue, 0).await;
    assert!(next(&mut consumer).await.data == body, "the body is another");
}

#[tokio::test]
async fn deleting_a_queue_ends_its_consumer() {
    let broker = shared();
    let (_connection, channel) = connect(&broker).await;
    let queue = exclusive_queue(&channel).await;
    let mut consumer = worker(&channel, &queue, 0).await;
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.expect("queue.delete");
    assert!(timeout(DEADLINE, consumer.next()).await.expect("an end").is_none());
}

async fn connect(broker: &TestBroker) -> (Connection, Channel) {
    let uri = broker.uri();
    let connecting = Connection::connect(&uri, ConnectionProperties::default());
    let connection = timeout(DEADLINE, connecting).await.expect("in time").expect("connect");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

async fn exclusive_queue(channel: &Channel) -> String {
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue =
        channel.queue_declare("".into(), options, FieldTable::default()).await.expect("queue.declare");
    queue.name().to_string()
}

async fn worker(channel: &Channel, queue: &str, prefetch: u16) -> Consumer {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await.expect("basic.qos");
    let options = BasicConsumeOptions::default();
    channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await
        .expect("basic.consume")
}

async fn next(consumer: &mut Consumer) -> Delivery {
    timeout(DEADLINE, consumer.next()).await.expect("in time").expect("a delivery").expect("no error")
}

async fn publish(
    channel: &Channel,
    exchange: &str,
    routing_key: &str,
    body: &str,
    mandatory: bool,
) -> lapin::PublisherConfirm {
    let options = BasicPublishOptions { mandatory, ..Default::default() };
    channel
        .basic_publish(
            exchange.into(),
            routing_key.into(),
            options,
            body.as_bytes(),
            BasicProperties::default(),
        )
        .await
        .expect("basic.publish")
}
