//! Key order: `x-group-by` (B.1). Messages of one key one at a time and in order, different keys in parallel.
//! Deviation: RabbitMQ has nothing of the kind.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use lapin::{BasicProperties, Consumer, message::Delivery, types::AMQPValue};
use tokio::time::{sleep, timeout};

use crate::{
    broker::DEADLINE,
    program::{
        Program, ack, body, fields, nack, next, ours, persistent, reject, restart, restartable, silent,
    },
    wire::{text, unique},
};

/// What the tests group by, and how a message says its key.
#[derive(Clone, Copy, Debug)]
enum Form {
    Header,
    RoutingKey,
    CorrelationId,
}

const FORMS: [Form; 3] = [Form::Header, Form::RoutingKey, Form::CorrelationId];

impl Form {
    fn argument(self) -> AMQPValue {
        text(match self {
            Self::Header => "header:key",
            Self::RoutingKey => "routing-key",
            Self::CorrelationId => "property:correlation-id",
        })
    }

    fn properties(self, key: &str) -> BasicProperties {
        match self {
            Self::Header => persistent().with_headers(fields(&[("key", text(key))])),
            Self::RoutingKey => persistent(),
            Self::CorrelationId => persistent().with_correlation_id(key.into()),
        }
    }
}

/// A queue with keys behind a fanout exchange, so that any routing key leads to it.
struct Grouped {
    form: Form,
    queue: String,
    exchange: String,
}

impl Grouped {
    async fn new(program: &Program, form: Form, arguments: &[(&str, AMQPValue)]) -> Self {
        let (queue, exchange) = (unique("grouped"), unique("grouping"));
        let mut all = vec![("x-group-by", form.argument())];
        all.extend_from_slice(arguments);
        program.queue(&queue, &all).await;
        program.exchange(&exchange, "fanout", &[]).await;
        program.bind(&queue, &exchange, "").await;
        Self { form, queue, exchange }
    }

    /// Publishes messages: the key of each is what comes before its digits.
    async fn publish(&self, program: &Program, bodies: &[&str]) {
        for body in bodies {
            let key = key(body);
            program.publish(&self.exchange, key, self.form.properties(key), body).await;
        }
    }
}

fn key(body: &str) -> &str {
    body.trim_end_matches(|character: char| character.is_ascii_digit())
}

/// The next so many deliveries, whatever their order, by their bodies.
async fn gather(consumer: &mut Consumer, count: usize) -> HashMap<String, Delivery> {
    let mut deliveries = HashMap::new();
    for _ in 0..count {
        let delivery = next(consumer).await;
        deliveries.insert(body(&delivery), delivery);
    }
    deliveries
}

fn bodies(deliveries: &HashMap<String, Delivery>) -> Vec<&str> {
    let mut bodies: Vec<&str> = deliveries.keys().map(String::as_str).collect();
    bodies.sort_unstable();
    bodies
}

/// What workers have in hand and have done, by key.
#[derive(Debug, Default)]
struct Work {
    in_hand: HashMap<String, usize>,
    most_in_hand: usize,
    done: HashMap<String, Vec<usize>>,
    count: usize,
    again: usize,
}

/// Takes messages, gives some back the first time, and notes in which order they are done.
async fn work(mut consumer: Consumer, work: Arc<Mutex<Work>>, pace_ms: u64) {
    loop {
        let delivery = next(&mut consumer).await;
        let work = Arc::clone(&work);
        tokio::spawn(async move {
            let text = body(&delivery);
            let key = key(&text).to_owned();
            let number: usize = text[key.len()..].parse().expect("a number");
            {
                let mut work = work.lock().expect("no panic under it");
                assert!(!work.in_hand.contains_key(&key), "two of {key} at once: {work:?}");
                work.in_hand.insert(key.clone(), number);
                work.most_in_hand = work.most_in_hand.max(work.in_hand.len());
            }
            sleep(Duration::from_millis((number as u64 * 7 + pace_ms) % 5)).await;
            let gives_back = number.is_multiple_of(5) && !delivery.redelivered;
            {
                let mut work = work.lock().expect("no panic under it");
                work.in_hand.remove(&key);
                if gives_back {
                    work.again += 1;
                } else {
                    work.done.entry(key).or_default().push(number);
                    work.count += 1;
                }
            }
            if gives_back { nack(&delivery).await } else { ack(&delivery).await }
        });
    }
}

/// Three workers with different prefetch over twelve keys: each key in order and one at a time, several keys at once.
#[tokio::test]
async fn group_by_keeps_each_key_in_order_and_keys_parallel() {
    const KEYS: usize = 12;
    const EACH: usize = 15;
    let Some(broker) = ours() else { return };
    for (form, kind) in FORMS.into_iter().zip(["classic", "quorum", "classic"]) {
        let program = Program::open(&broker).await;
        let grouped = Grouped::new(&program, form, &[("x-queue-type", text(kind))]).await;
        let done = Arc::new(Mutex::new(Work::default()));
        let mut workers = Vec::new();
        for prefetch in [1, 3, 8] {
            let program = Program::open(&broker).await;
            let consumer = program.consume(&grouped.queue, prefetch).await;
            let worker = work(consumer, Arc::clone(&done), prefetch.into());
            workers.push((tokio::spawn(worker), program));
        }
        for number in 0..EACH {
            let bodies: Vec<String> = (0..KEYS).map(|key| format!("k{}-{number}", letter(key))).collect();
            grouped.publish(&program, &bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
        }
        let all = async {
            while done.lock().expect("no panic under it").count < KEYS * EACH {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, all).await.expect("all are done");
        for (worker, _) in workers {
            worker.abort();
        }
        let done = done.lock().expect("no panic under it");
        assert_eq!(done.done.len(), KEYS, "{form:?}");
        for (key, numbers) in &done.done {
            assert!(numbers.iter().copied().eq(0..EACH), "{form:?}, {key}: {numbers:?}");
        }
        assert_eq!(done.again, KEYS * EACH / 5);
        assert!(done.most_in_hand > 1, "keys are done in parallel");
    }
}

fn letter(number: usize) -> char {
    char::from(b'a' + number as u8)
}

#[tokio::test]
async fn group_by_one_of_a_key_at_a_time_however_large_the_prefetch() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    for form in FORMS {
        let grouped = Grouped::new(&program, form, &[]).await;
        grouped.publish(&program, &["a1", "a2", "b1", "a3", "c1", "b2"]).await;
        let mut consumer = program.consume(&grouped.queue, 10).await;
        let mut taken = gather(&mut consumer, 3).await;
        assert_eq!(bodies(&taken), ["a1", "b1", "c1"]);
        silent(&mut consumer).await;
        assert_eq!(program.count(&grouped.queue).await, 3, "who waits for another one is ready");
        ack(&taken.remove("a1").expect("it came")).await;
        assert_eq!(body(&next(&mut consumer).await), "a2");
        // Rejected for good is done, too.
        reject(&taken.remove("b1").expect("it came"), false).await;
        assert_eq!(body(&next(&mut consumer).await), "b2");
        silent(&mut consumer).await;
    }
}

#[tokio::test]
async fn group_by_lets_messages_without_a_key_go_at_once() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    for form in [Form::Header, Form::CorrelationId] {
        let grouped = Grouped::new(&program, form, &[]).await;
        grouped.publish(&program, &["a1", "a2"]).await;
        for body in ["x1", "x2"] {
            program.publish(&grouped.exchange, "a", persistent(), body).await;
        }
        let mut consumer = program.consume(&grouped.queue, 10).await;
        assert_eq!(bodies(&gather(&mut consumer, 3).await), ["a1", "x1", "x2"]);
        silent(&mut consumer).await;
    }
}

/// What comes back stays before the others of its key, in a quorum queue, too; and other keys do not wait for it.
#[tokio::test]
async fn group_by_a_nack_comes_again_before_its_successors() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    for kind in ["classic", "quorum"] {
        let grouped = Grouped::new(&program, Form::Header, &[("x-queue-type", text(kind))]).await;
        grouped.publish(&program, &["a1", "a2", "b1"]).await;
        let mut consumer = program.consume(&grouped.queue, 10).await;
        let taken = gather(&mut consumer, 2).await;
        for back in [nack(&taken["a1"]).await, reject(&taken["b1"], true).await] {
            let () = back;
        }
        let mut again = gather(&mut consumer, 2).await;
        assert_eq!(bodies(&again), ["a1", "b1"], "{kind}");
        assert!(again.values().all(|delivery| delivery.redelivered));
        ack(&again.remove("a1").expect("it came")).await;
        assert_eq!(body(&next(&mut consumer).await), "a2");
    }
}

#[tokio::test]
async fn group_by_who_is_put_off_holds_back_its_key_only() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    for (form, kind) in FORMS.into_iter().zip(["classic", "quorum", "classic"]) {
        let arguments = [("x-retry-delays", text("300ms,10ms")), ("x-queue-type", text(kind))];
        let grouped = Grouped::new(&program, form, &arguments).await;
        grouped.publish(&program, &["a1", "b1", "a2", "b2", "c1"]).await;
        let mut consumer = program.consume(&grouped.queue, 10).await;
        let taken = gather(&mut consumer, 3).await;
        let start = Instant::now();
        nack(&taken["a1"]).await;
        ack(&taken["b1"]).await;
        let b2 = next(&mut consumer).await;
        assert_eq!(body(&b2), "b2");
        grouped.publish(&program, &["a3", "c2", "d1"]).await;
        assert_eq!(body(&next(&mut consumer).await), "d1");
        let again = next(&mut consumer).await;
        assert_eq!((body(&again), again.redelivered), ("a1".to_owned(), true));
        assert!(start.elapsed() >= Duration::from_millis(299));
        silent(&mut consumer).await;
        ack(&again).await;
        for expected in ["a2", "a3"] {
            let delivery = next(&mut consumer).await;
            assert_eq!(body(&delivery), expected);
            ack(&delivery).await;
        }
    }
}

/// A message that is dead at the end of its ladder lets the next one of its key go.
#[tokio::test]
async fn group_by_the_end_of_a_ladder_frees_the_key() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    let grouped = Grouped::new(&program, Form::RoutingKey, &[("x-retry-delays", text("10ms"))]).await;
    grouped.publish(&program, &["a1", "a2"]).await;
    let mut consumer = program.consume(&grouped.queue, 10).await;
    for _ in 0..2 {
        let delivery = next(&mut consumer).await;
        assert_eq!(body(&delivery), "a1");
        nack(&delivery).await;
    }
    assert_eq!(body(&next(&mut consumer).await), "a2");
}

#[tokio::test]
async fn group_by_a_lost_consumer_gives_its_keys_to_the_others() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    let grouped = Grouped::new(&program, Form::CorrelationId, &[]).await;
    grouped.publish(&program, &["a1", "a2", "b1", "b2"]).await;
    let lost = Program::open(&broker).await;
    let mut consumer = lost.consume(&grouped.queue, 10).await;
    gather(&mut consumer, 2).await;
    let mut other = program.consume(&grouped.queue, 10).await;
    silent(&mut other).await;
    lost.connection.close(200, "lost".into()).await.expect("close");
    let mut taken = gather(&mut other, 2).await;
    assert_eq!(bodies(&taken), ["a1", "b1"]);
    silent(&mut other).await;
    ack(&taken.remove("b1").expect("it came")).await;
    assert_eq!(body(&next(&mut other).await), "b2");
}

#[tokio::test]
async fn group_by_survives_a_restart() {
    let Some(broker) = restartable("") else { return };
    let program = Program::open(&broker).await;
    let mut queues = Vec::new();
    for form in FORMS {
        let grouped = Grouped::new(&program, form, &[]).await;
        grouped.publish(&program, &["a1", "a2", "b1", "a3", "b2"]).await;
        let mut consumer = program.consume(&grouped.queue, 10).await;
        let taken = gather(&mut consumer, 2).await;
        ack(&taken["b1"]).await;
        assert_eq!(body(&next(&mut consumer).await), "b2");
        queues.push(grouped);
    }
    let broker = restart(broker).await;
    let program = Program::open(&broker).await;
    for grouped in queues {
        let mut consumer = program.consume(&grouped.queue, 10).await;
        let mut taken = gather(&mut consumer, 2).await;
        assert_eq!(bodies(&taken), ["a1", "b2"]);
        assert!(taken.values().all(|delivery| delivery.redelivered));
        silent(&mut consumer).await;
        ack(&taken.remove("a1").expect("it came")).await;
        for expected in ["a2", "a3"] {
            let delivery = next(&mut consumer).await;
            assert_eq!(body(&delivery), expected);
            ack(&delivery).await;
        }
    }
}

/// Who was put off before the restart holds back its key after it, and no other.
#[tokio::test]
async fn group_by_who_is_put_off_holds_back_its_key_after_a_restart() {
    let Some(broker) = restartable("") else { return };
    let program = Program::open(&broker).await;
    let mut queues = Vec::new();
    for form in FORMS {
        let grouped = Grouped::new(&program, form, &[("x-retry-delays", text("2s,1h"))]).await;
        grouped.publish(&program, &["a1", "a2", "b1"]).await;
        let mut consumer = program.consume(&grouped.queue, 10).await;
        let taken = gather(&mut consumer, 2).await;
        nack(&taken["a1"]).await;
        // What came before it on this connection is handled.
        assert_eq!(program.count(&grouped.queue).await, 1);
        queues.push(grouped);
    }
    let broker = restart(broker).await;
    let program = Program::open(&broker).await;
    for grouped in queues {
        let mut consumer = program.consume(&grouped.queue, 10).await;
        let mut order = Vec::new();
        for _ in 0..2 {
            order.push(next(&mut consumer).await);
        }
        let a1 = order.iter().find(|delivery| body(delivery) == "a1");
        let bodies: Vec<String> = order.iter().map(body).collect();
        assert!(a1.is_some_and(|a1| a1.redelivered), "a2 has to wait for a1: {bodies:?}");
        assert!(bodies.contains(&"b1".to_owned()), "{bodies:?}");
        silent(&mut consumer).await;
        ack(a1.expect("it came")).await;
        assert_eq!(body(&next(&mut consumer).await), "a2");
    }
}
