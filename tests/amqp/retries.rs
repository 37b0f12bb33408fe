//! Retries that are put off: `x-retry-delays` and its kin, and RabbitMQ 4.3's `x-delayed-retry-*` (B.1).
//! Deviation: RabbitMQ 3.10 has none of them.

use std::time::{Duration, Instant};

use lapin::{message::Delivery, options::BasicGetOptions, types::AMQPValue};

use crate::{
    program::{
        Fields, Program, ack, array, body, deaths, header, nack, next, ours, persistent, reject, restart,
        restartable, silent,
    },
    wire::{int, text, unique},
};

/// A queue of that type whose dead letters go to another one: both names.
async fn with_dead(program: &Program, kind: &str, arguments: Fields<'_>) -> (String, String) {
    let (queue, dead) = (unique("retry"), unique("dead"));
    let mut all = vec![
        ("x-queue-type", text(kind)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&dead)),
    ];
    all.extend_from_slice(arguments);
    program.queue(&dead, &[]).await;
    program.queue(&queue, &all).await;
    (queue, dead)
}

fn retry_count(delivery: &Delivery) -> Option<i64> {
    match header(delivery, "x-retry-count") {
        Some(AMQPValue::LongLongInt(count)) => Some(*count),
        None => None,
        other => panic!("x-retry-count is a long: {other:?}"),
    }
}

/// Gives one message back until it is dead, and checks how long each time took at least, and what it said.
async fn climbs(program: &Program, kind: &str, arguments: Fields<'_>, delays_ms: &[u64]) {
    let (queue, dead) = with_dead(program, kind, arguments).await;
    program.fill(&queue, &["m"]).await;
    let mut consumer = program.consume(&queue, 1).await;
    let mut delivery = next(&mut consumer).await;
    assert_eq!((retry_count(&delivery), delivery.redelivered), (None, false));
    for (attempt, delay_ms) in (1..).zip(delays_ms) {
        let start = Instant::now();
        nack(&delivery).await;
        delivery = next(&mut consumer).await;
        let (took, least) = (start.elapsed(), Duration::from_millis(*delay_ms));
        assert!(took + TICK >= least, "{kind}, {arguments:?}: {took:?} at {attempt}");
        assert_eq!((retry_count(&delivery), delivery.redelivered), (Some(attempt), true));
        assert_eq!(header(&delivery, "x-delivery-count"), None);
    }
    nack(&delivery).await;
    let letter = program.take(&dead).await;
    assert_eq!(deaths(&letter), [(queue.clone(), "delivery_limit".to_owned(), 1)]);
    silent(&mut consumer).await;
    assert_eq!(program.count(&queue).await, 0);
}

#[tokio::test]
async fn b1_a_ladder_of_delays_ends_in_the_dead_letter_exchange() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    let in_array = array(&[int(20), text("60ms"), AMQPValue::LongLongInt(40)]);
    for kind in ["classic", "quorum"] {
        for delays in [text("20ms,60ms, 40ms"), in_array.clone()] {
            climbs(&program, kind, &[("x-retry-delays", delays)], &[20, 60, 40]).await;
        }
    }
}

#[tokio::test]
async fn b1_a_retry_grows_by_its_factor_as_often_as_its_limit_says() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    for kind in ["classic", "quorum"] {
        let arguments = [
            ("x-retry-min", int(20)),
            ("x-retry-max", text("100ms")),
            ("x-retry-factor", int(3)),
            ("x-retry-limit", int(4)),
        ];
        climbs(&program, kind, &arguments, &[20, 60, 100, 100]).await;
        let doubling = [("x-retry-min", int(10)), ("x-retry-limit", int(3))];
        climbs(&program, kind, &doubling, &[10, 20, 40]).await;
    }
}

#[tokio::test]
async fn b1_a_limit_cuts_a_ladder_or_repeats_its_last_rung() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    for (limit, delays_ms) in [(0, &[][..]), (1, &[10]), (4, &[10, 20, 20, 20])] {
        let arguments = [("x-retry-delays", text("10ms,20ms")), ("x-retry-limit", int(limit))];
        climbs(&program, "classic", &arguments, delays_ms).await;
    }
}

/// The limit of deliveries and that of retries are two: whichever comes first.
#[tokio::test]
async fn b1_a_delivery_limit_ends_a_ladder_early() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    for kind in ["classic", "quorum"] {
        let arguments = [("x-retry-delays", text("10ms,20ms,30ms,40ms")), ("x-delivery-limit", int(2))];
        climbs(&program, kind, &arguments, &[10, 20]).await;
    }
}

#[tokio::test]
async fn b1_who_is_put_off_holds_nobody_back_and_is_not_ready() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    for kind in ["classic", "quorum"] {
        let (queue, dead) = with_dead(&program, kind, &[("x-retry-delays", text("300ms"))]).await;
        program.fill(&queue, &["first", "second", "third"]).await;
        let mut consumer = program.consume(&queue, 1).await;
        let start = Instant::now();
        nack(&next(&mut consumer).await).await;
        for expected in ["second", "third"] {
            let delivery = next(&mut consumer).await;
            assert_eq!(body(&delivery), expected);
            ack(&delivery).await;
        }
        assert_eq!(program.count(&queue).await, 0);
        let again = next(&mut consumer).await;
        assert!(start.elapsed() + TICK >= Duration::from_millis(300));
        assert_eq!((body(&again), retry_count(&again)), ("first".to_owned(), Some(1)));
        // Rejected for good: no retry, however many there might be.
        reject(&again, false).await;
        let letter = program.take(&dead).await;
        assert_eq!(deaths(&letter), [(queue.clone(), "rejected".to_owned(), 1)]);
    }
}

#[tokio::test]
async fn b1_a_lost_channel_puts_its_messages_off_too() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    let (queue, _) = with_dead(&program, "classic", &[("x-retry-delays", text("100ms,200ms"))]).await;
    program.fill(&queue, &["m"]).await;
    let lost = Program::open(&broker).await;
    let mut consumer = lost.consume(&queue, 1).await;
    next(&mut consumer).await;
    let start = Instant::now();
    lost.connection.close(200, "lost".into()).await.expect("close");
    let mut consumer = program.consume(&queue, 1).await;
    let again = next(&mut consumer).await;
    assert!(start.elapsed() + TICK >= Duration::from_millis(100));
    assert_eq!(retry_count(&again), Some(1));
}

/// RabbitMQ 4.3: which of them wait says the type, how long the count.
#[tokio::test]
async fn b1_delayed_retries_by_their_type() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    for kind in ["classic", "quorum"] {
        for (on, nacked_waits, rejected_waits) in [
            ("all", true, true),
            ("failed", false, true),
            ("returned", true, false),
            ("disabled", false, false),
        ] {
            let arguments = [
                ("x-delayed-retry-type", text(on)),
                ("x-delayed-retry-min", int(400)),
                ("x-delayed-retry-max", int(400)),
            ];
            let (queue, _) = with_dead(&program, kind, &arguments).await;
            for (gives_back, waits) in [(true, nacked_waits), (false, rejected_waits)] {
                program.fill(&queue, &["m"]).await;
                let mut consumer = program.consume(&queue, 1).await;
                let delivery = next(&mut consumer).await;
                let start = Instant::now();
                if gives_back {
                    nack(&delivery).await
                } else {
                    reject(&delivery, true).await
                }
                let again = next(&mut consumer).await;
                let took = start.elapsed() + TICK;
                assert_eq!(took >= Duration::from_millis(400), waits, "{kind}, {on}: {took:?}");
                ack(&again).await;
            }
        }
    }
}

/// RabbitMQ 4.3: longer by as much each time, and a quorum queue's own delivery limit at the end.
#[tokio::test]
async fn b1_delayed_retries_grow_and_end_at_the_delivery_limit() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    for kind in ["classic", "quorum"] {
        let arguments = [
            ("x-delayed-retry-type", text("all")),
            ("x-delayed-retry-min", int(20)),
            ("x-delayed-retry-max", int(50)),
            ("x-delivery-limit", int(4)),
        ];
        climbs(&program, kind, &arguments, &[20, 40, 50, 50]).await;
    }
}

#[tokio::test]
async fn b1_retries_go_on_where_they_were_after_a_restart() {
    let Some(broker) = restartable("") else { return };
    let program = Program::open(&broker).await;
    let mut queues = Vec::new();
    for kind in ["classic", "quorum"] {
        let arguments = [("x-retry-delays", text("10ms,3s,30ms")), ("x-max-priority", int(5))];
        let arguments = if kind == "classic" { &arguments[..] } else { &arguments[..1] };
        let (queue, dead) = with_dead(&program, kind, arguments).await;
        program.publish("", &queue, persistent().with_priority(3), "m").await;
        program.publish("", &queue, persistent().with_priority(3), "ready").await;
        let mut consumer = program.consume(&queue, 2).await;
        let first = next(&mut consumer).await;
        nack(&first).await;
        assert_eq!(body(&next(&mut consumer).await), "ready");
        let again = next(&mut consumer).await;
        assert_eq!(retry_count(&again), Some(1));
        let start = Instant::now();
        nack(&again).await;
        // Confirmed after it, so what came before it is durable.
        program.fill(&dead, &["mark"]).await;
        queues.push((queue, dead, start));
    }
    let broker = restart(broker).await;
    let program = Program::open(&broker).await;
    for (queue, dead, _) in &queues {
        assert_eq!(program.take_bodies(dead, 1).await, ["mark"]);
        assert_eq!(program.count(queue).await, 1, "who is put off is not ready");
        assert_eq!(program.take_bodies(queue, 1).await, ["ready"]);
    }
    for (queue, dead, start) in queues {
        let mut consumer = program.consume(&queue, 1).await;
        let again = next(&mut consumer).await;
        let took = start.elapsed() + TICK;
        assert!(took >= Duration::from_secs(3), "{took:?}");
        assert_eq!((body(&again), retry_count(&again), again.redelivered), ("m".to_owned(), Some(2), true));
        nack(&again).await;
        let again = next(&mut consumer).await;
        assert_eq!(retry_count(&again), Some(3));
        nack(&again).await;
        assert_eq!(deaths(&program.take(&dead).await), [(queue, "delivery_limit".to_owned(), 1)]);
    }
}

/// It is put back before the rest of the queue is read from disk, and is not read with that again.
#[tokio::test]
async fn b1_a_retry_that_was_due_meanwhile_comes_once_after_the_restart() {
    let Some(broker) = restartable("") else { return };
    let program = Program::open(&broker).await;
    let mut queues = Vec::new();
    for kind in ["classic", "quorum"] {
        let (queue, dead) = with_dead(&program, kind, &[("x-retry-delays", text("100ms,1h"))]).await;
        program.fill(&queue, &["first", "m", "last"]).await;
        // Nobody consumes, so that nobody has it again before the end.
        for expected in ["first", "m"] {
            let got = program.channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await;
            let delivery = got.expect("basic.get").expect("a message").delivery;
            assert_eq!(body(&delivery), expected);
            if expected == "m" { nack(&delivery).await } else { ack(&delivery).await }
        }
        program.fill(&queue, &["new"]).await;
        program.fill(&dead, &["mark"]).await;
        queues.push(queue);
    }
    let broker = restart(broker).await;
    let program = Program::open(&broker).await;
    for queue in queues {
        program.wait_for_count(&queue, 3).await;
        let mut consumer = program.consume(&queue, 10).await;
        let mut bodies = Vec::new();
        for _ in 0..3 {
            let delivery = next(&mut consumer).await;
            assert_eq!(retry_count(&delivery), (body(&delivery) == "m").then_some(1));
            bodies.push(body(&delivery));
            ack(&delivery).await;
        }
        assert_eq!(bodies, ["m", "last", "new"]);
        silent(&mut consumer).await;
        assert_eq!(program.count(&queue).await, 0);
    }
}

/// As close as the broker's clock and ours are.
const TICK: Duration = Duration::from_millis(1);
