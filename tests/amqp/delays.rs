//! Delayed messages: exchanges of type `x-delayed-message` (B.4, B.5).
//! Deviation: RabbitMQ has them in a plugin that it does not ship.

use std::time::{Duration, Instant};

use lapin::{
    BasicProperties, Confirmation,
    options::{
        BasicConsumeOptions, BasicGetOptions, ExchangeBindOptions, ExchangeDeleteOptions, QueueBindOptions,
        QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::time::sleep;

use crate::{
    program::{
        Fields, Program, array, body, fields, header, next, ours, persistent, restart, restartable, silent,
    },
    wire::{int, text, unique},
};

const DELAY: &str = "x-delay";

/// An exchange that delays, and a queue that is bound to it with the key `key`: both names.
async fn delayed(program: &Program) -> (String, String) {
    let (exchange, queue) = (unique("delayed"), unique("due"));
    program.exchange(&exchange, "x-delayed-message", &[("x-delayed-type", text("direct"))]).await;
    program.queue(&queue, &[]).await;
    program.bind(&queue, &exchange, "key").await;
    (exchange, queue)
}

fn with_headers(headers: Fields<'_>) -> BasicProperties {
    persistent().with_headers(fields(headers))
}

/// How many messages an exchange delays.
async fn delaying(program: &Program, exchange: &str) -> u32 {
    program.count(&format!("amq.delayed.{exchange}")).await
}

fn code(error: &lapin::Error) -> u16 {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => error.get_id(),
        other => panic!("a refusal: {other:?}"),
    }
}

#[tokio::test]
async fn b4_delayed_messages_outlive_a_restart() {
    let Some(broker) = restartable("") else { return };
    let program = Program::open(&broker).await;
    let (exchange, queue) = delayed(&program).await;
    let start = Instant::now();
    for (delay_ms, body) in [(2500, "late"), (1, "at once"), (2000, "later"), (3_600_000, "much later")] {
        program
            .publish(&exchange, "key", with_headers(&[(DELAY, int(delay_ms)), ("mine", int(7))]), body)
            .await;
    }
    let transient = BasicProperties::default().with_headers(fields(&[(DELAY, int(2000))]));
    program.publish(&exchange, "key", transient, "transient").await;
    assert_eq!(program.take_bodies(&queue, 1).await, ["at once"]);
    assert_eq!(delaying(&program, &exchange).await, 4);
    let broker = restart(broker).await;
    let program = Program::open(&broker).await;
    let count = delaying(&program, &exchange).await;
    assert!(count == 3 || start.elapsed() > Duration::from_millis(2000), "{count}");
    for (expected, delay_ms) in [("later", 2000), ("late", 2500)] {
        let message = program.take(&queue).await;
        assert!(start.elapsed() >= Duration::from_millis(delay_ms - 1), "{expected}");
        assert_eq!(body(&message), expected);
        assert_eq!(header(&message, DELAY), Some(&AMQPValue::LongLongInt(-(delay_ms as i64))));
        assert_eq!(header(&message, "mine"), Some(&int(7)));
        assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), (exchange.as_str(), "key"));
        assert_eq!(message.properties.delivery_mode(), &Some(2));
        assert!(!message.redelivered);
    }
    assert_eq!(delaying(&program, &exchange).await, 1);
    assert_eq!(program.count(&queue).await, 0);
}

#[tokio::test]
async fn b4_delayed_messages_that_were_due_meanwhile_come_after_the_restart() {
    let Some(broker) = restartable("") else { return };
    let program = Program::open(&broker).await;
    let (exchange, queue) = delayed(&program).await;
    for number in 0..100 {
        let body = format!("{number:03}");
        program.publish(&exchange, "key", with_headers(&[(DELAY, int(3000))]), &body).await;
    }
    let start = Instant::now();
    let broker = tokio::task::spawn_blocking(move || {
        broker.terminate();
        broker.wait();
        broker
    });
    let broker = broker.await.expect("an end");
    sleep(Duration::from_millis(3000).saturating_sub(start.elapsed())).await;
    let broker = tokio::task::spawn_blocking(move || broker.start_again()).await.expect("a start");
    let start = Instant::now();
    let program = Program::open(&broker).await;
    let bodies = program.take_bodies(&queue, 100).await;
    assert!(start.elapsed() < Duration::from_millis(2900), "{:?}", start.elapsed());
    assert!(bodies.is_sorted() && bodies.len() == 100);
    assert_eq!(delaying(&program, &exchange).await, 0);
    // They have arrived for good.
    let broker = restart(broker).await;
    let program = Program::open(&broker).await;
    assert_eq!((delaying(&program, &exchange).await, program.count(&queue).await), (0, 0));
}

#[tokio::test]
async fn b4_delayed_messages_that_arrived_are_durable() {
    let Some(broker) = restartable("") else { return };
    let program = Program::open(&broker).await;
    let (exchange, queue) = delayed(&program).await;
    program.publish(&exchange, "key", with_headers(&[(DELAY, int(20))]), "m").await;
    program.wait_for_count(&queue, 1).await;
    let broker = restart(broker).await;
    let program = Program::open(&broker).await;
    assert_eq!(delaying(&program, &exchange).await, 0);
    let message = program.take(&queue).await;
    assert_eq!(
        (body(&message), header(&message, DELAY)),
        ("m".to_owned(), Some(&AMQPValue::LongLongInt(-20)))
    );
}

#[tokio::test]
async fn b4_delayed_messages_go_with_their_exchange() {
    let Some(broker) = restartable("") else { return };
    let program = Program::open(&broker).await;
    let (exchange, queue) = delayed(&program).await;
    program.publish(&exchange, "key", with_headers(&[(DELAY, int(500))]), "gone").await;
    let deleted =
        program.channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await;
    deleted.expect("exchange.delete");
    let missing = program.try_count(&format!("amq.delayed.{exchange}")).await.expect_err("it is gone");
    assert_eq!(code(&missing), 404);
    // Another one of that name begins anew, and so after a restart.
    program.exchange(&exchange, "x-delayed-message", &[("x-delayed-type", text("direct"))]).await;
    program.bind(&queue, &exchange, "key").await;
    assert_eq!(delaying(&program, &exchange).await, 0);
    program.publish(&exchange, "key", with_headers(&[(DELAY, int(600))]), "new").await;
    let broker = restart(broker).await;
    let program = Program::open(&broker).await;
    assert_eq!(program.take_bodies(&queue, 1).await, ["new"]);
    sleep(Duration::from_millis(100)).await;
    assert_eq!((program.count(&queue).await, delaying(&program, &exchange).await), (0, 0));
}

#[tokio::test]
async fn b4_delays_of_years() {
    let Some(broker) = restartable("") else { return };
    let program = Program::open(&broker).await;
    let (exchange, queue) = delayed(&program).await;
    let year_ms = 365 * 86_400_000_i64;
    for delay_ms in [i64::from(i32::MAX), 1 << 32, year_ms, 100 * year_ms, i64::MAX] {
        let delay = AMQPValue::LongLongInt(delay_ms);
        program.publish(&exchange, "key", with_headers(&[(DELAY, delay)]), "m").await;
    }
    let unsigned = AMQPValue::LongUInt(u32::MAX);
    program.publish(&exchange, "key", with_headers(&[(DELAY, unsigned)]), "m").await;
    assert_eq!(delaying(&program, &exchange).await, 6);
    program.publish(&exchange, "key", with_headers(&[(DELAY, int(10))]), "soon").await;
    assert_eq!(program.take_bodies(&queue, 1).await, ["soon"]);
    let broker = restart(broker).await;
    let program = Program::open(&broker).await;
    program.publish(&exchange, "key", with_headers(&[(DELAY, int(10))]), "soon").await;
    assert_eq!(program.take_bodies(&queue, 1).await, ["soon"]);
    assert_eq!((delaying(&program, &exchange).await, program.count(&queue).await), (6, 0));
}

/// Integers of any width and texts of them are delays; nothing else is, nor what is not positive.
#[tokio::test]
async fn b4_delays_of_other_types() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    let (exchange, queue) = delayed(&program).await;
    let at_once = [
        text(""),
        text("soon"),
        text("1.5"),
        text("-60000"),
        text("99999999999999999999999999"),
        AMQPValue::Double(60_000.5),
        AMQPValue::Float(60_000.0),
        AMQPValue::Boolean(true),
        AMQPValue::Timestamp(60_000),
        AMQPValue::Void,
        AMQPValue::FieldTable(FieldTable::default()),
        array(&[int(60_000)]),
        int(0),
        int(-60_000),
        AMQPValue::LongLongInt(i64::MIN),
    ];
    for delay in at_once {
        program.publish(&exchange, "key", with_headers(&[(DELAY, delay.clone())]), "m").await;
        assert_eq!(program.count(&queue).await, 1, "{delay:?} is no delay");
        program.take(&queue).await;
    }
    let delays = [
        AMQPValue::ShortShortInt(100),
        AMQPValue::ShortShortUInt(200),
        AMQPValue::ShortInt(300),
        AMQPValue::ShortUInt(300),
        AMQPValue::LongUInt(300),
        AMQPValue::LongLongInt(300),
        text("300"),
        text(" 300 "),
    ];
    let count = delays.len();
    let mut consumer = program.consume(&queue, 0).await;
    for delay in delays {
        let start = Instant::now();
        program.publish(&exchange, "key", with_headers(&[(DELAY, delay.clone())]), "m").await;
        let message = next(&mut consumer).await;
        assert!(start.elapsed() >= Duration::from_millis(99), "{delay:?} is a delay");
        assert!(matches!(header(&message, DELAY), Some(AMQPValue::LongLongInt(..-99))));
    }
    assert_eq!(count, 8);
}

/// What is published to an exchange before it is delayed on its way, and routed by the key it had.
#[tokio::test]
async fn b4_a_delayed_exchange_behind_another_one() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    let (exchange, queue) = delayed(&program).await;
    let (source, direct) = (unique("source"), unique("direct"));
    program.exchange(&source, "topic", &[]).await;
    program.queue(&direct, &[]).await;
    program.bind(&direct, &source, "#").await;
    let options = ExchangeBindOptions::default();
    let bound = program
        .channel
        .exchange_bind(
            exchange.as_str().into(),
            source.as_str().into(),
            "k*".into(),
            options,
            FieldTable::default(),
        )
        .await;
    bound.expect("exchange.bind");
    let options = ExchangeBindOptions::default();
    program
        .channel
        .exchange_bind(
            exchange.as_str().into(),
            source.as_str().into(),
            "key".into(),
            options,
            FieldTable::default(),
        )
        .await
        .expect("exchange.bind");
    let start = Instant::now();
    program.publish(&source, "key", with_headers(&[(DELAY, int(300))]), "m").await;
    // The queue beside it has it at once, as it was.
    let message = program.take(&direct).await;
    assert_eq!(header(&message, DELAY), Some(&int(300)));
    assert_eq!(delaying(&program, &exchange).await, 1);
    let message = program.take(&queue).await;
    assert!(start.elapsed() >= Duration::from_millis(299));
    assert_eq!(header(&message, DELAY), Some(&AMQPValue::LongLongInt(-300)));
    assert_eq!(message.routing_key.as_str(), "key");
    program.publish(&source, "key", persistent(), "not delayed").await;
    assert_eq!(program.take_bodies(&queue, 1).await, ["not delayed"]);
}

/// Two delays one after the other: the second exchange sees a delay that is spent.
#[tokio::test]
async fn b4_a_delay_counts_once() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    let (first, second, queue) = (unique("delayed"), unique("delayed"), unique("due"));
    for exchange in [&first, &second] {
        program.exchange(exchange, "x-delayed-message", &[("x-delayed-type", text("fanout"))]).await;
    }
    program.queue(&queue, &[]).await;
    program.bind(&queue, &second, "").await;
    let options = ExchangeBindOptions::default();
    let (source, destination) = (first.as_str().into(), second.as_str().into());
    let bound = program.channel.exchange_bind(destination, source, "".into(), options, FieldTable::default());
    bound.await.expect("exchange.bind");
    program.publish(&first, "", with_headers(&[(DELAY, int(100))]), "m").await;
    program.wait_for_count(&queue, 1).await;
    assert_eq!((delaying(&program, &first).await, delaying(&program, &second).await), (0, 0));
}

/// A message that is delayed is taken, whatever becomes of it; one that is not is routed or returned.
#[tokio::test]
async fn b4_delayed_messages_are_never_returned() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    let (exchange, _) = delayed(&program).await;
    let nowhere = with_headers(&[(DELAY, int(50))]);
    assert_eq!(program.confirmed(&exchange, "nowhere", nowhere, "m").await, Confirmation::Ack(None));
    let confirmation = program.confirmed(&exchange, "nowhere", persistent(), "m").await;
    let Confirmation::Ack(Some(returned)) = confirmation else { panic!("returned: {confirmation:?}") };
    assert_eq!(returned.reply_code, 312);
    // And what found no queue when it was due is gone.
    program.wait_for_count(&format!("amq.delayed.{exchange}"), 0).await;
}

#[tokio::test]
async fn b4_the_queue_of_delayed_messages_can_only_be_counted() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    let (exchange, _) = delayed(&program).await;
    program.publish(&exchange, "key", with_headers(&[(DELAY, int(3_600_000))]), "m").await;
    let queue = format!("amq.delayed.{exchange}");
    let channel = async || program.connection.create_channel().await.expect("a channel");
    let got = channel().await.basic_get(queue.as_str().into(), BasicGetOptions::default()).await;
    assert_eq!(code(&got.expect_err("nobody may get it")), 403);
    let consuming = channel().await;
    let options = BasicConsumeOptions::default();
    let consumed = consuming.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default());
    assert_eq!(code(&consumed.await.expect_err("nobody may consume it")), 403);
    let purged = channel().await.queue_purge(queue.as_str().into(), Default::default()).await;
    assert_eq!(code(&purged.expect_err("nobody may purge it")), 403);
    let deleted = channel().await.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await;
    assert_eq!(code(&deleted.expect_err("nobody may delete it")), 403);
    let binding = channel().await;
    let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
    let bound = binding.queue_bind(queue.as_str().into(), "amq.fanout".into(), "".into(), options, arguments);
    assert_eq!(code(&bound.await.expect_err("nobody may bind it")), 403);
    assert_eq!(delaying(&program, &exchange).await, 1);
}

/// Through the default exchange its queue would be within reach.
#[tokio::test]
async fn b4_nobody_publishes_past_a_delayed_exchange() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    let (exchange, queue) = delayed(&program).await;
    let confirmation = program.confirmed("", &format!("amq.delayed.{exchange}"), persistent(), "m").await;
    assert!(matches!(confirmation, Confirmation::Ack(Some(_))), "returned: {confirmation:?}");
    assert_eq!(delaying(&program, &exchange).await, 0);
    silent(&mut program.consume(&queue, 1).await).await;
}
