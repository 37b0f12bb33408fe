//! Dead letters that may not be lost, and deadlines and priorities that outlive a restart (A.8, A.9, B.1).

use std::time::{Duration, Instant};

use lapin::{BasicProperties, Confirmation, types::AMQPValue};
use tokio::time::sleep;

use crate::{
    broker::TestBroker,
    program::{
        Fields, Program, ack, body, deaths, header, next, ours, persistent, reject, restart, restartable,
        silent,
    },
    wire::{int, text, unique},
};

/// A quorum queue whose dead letters go to `key` of `exchange`, and stay until they have arrived.
async fn at_least_once(program: &Program, exchange: &str, key: &str, arguments: Fields<'_>) -> String {
    let queue = unique("source");
    let mut all = vec![
        ("x-queue-type", text("quorum")),
        ("x-overflow", text("reject-publish")),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-dead-letter-exchange", text(exchange)),
        ("x-dead-letter-routing-key", text(key)),
    ];
    all.extend_from_slice(arguments);
    program.queue(&queue, &all).await;
    queue
}

/// How often a message died in the queue, for the reason.
fn death(queue: &str, reason: &str, count: i64) -> Vec<(String, String, i64)> {
    vec![(queue.to_owned(), reason.to_owned(), count)]
}

/// Deviation: RabbitMQ 3.10 offers them again only after three minutes.
#[tokio::test]
async fn a8_at_least_once_waits_for_room() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    let target = unique("target");
    program.queue(&target, &[("x-max-length", int(2)), ("x-overflow", text("reject-publish"))]).await;
    let source = at_least_once(&program, "", &target, &[]).await;
    program.fill(&source, &["1", "2", "3", "4", "5"]).await;
    let mut consumer = program.consume(&source, 10).await;
    for _ in 0..5 {
        reject(&next(&mut consumer).await, false).await;
    }
    program.wait_for_count(&target, 2).await;
    assert_eq!(program.count(&source).await, 0, "dead is not ready");
    silent(&mut consumer).await;
    let mut arrived = Vec::new();
    for _ in 0..5 {
        let letter = program.take(&target).await;
        assert_eq!(
            deaths(&letter),
            death(&source, "rejected", 1),
            "each time it is offered is the same death"
        );
        arrived.push(body(&letter));
    }
    assert_eq!(arrived[..2], ["1", "2"]);
    arrived.sort_unstable();
    assert_eq!(arrived, ["1", "2", "3", "4", "5"]);
    silent(&mut program.consume(&target, 1).await).await;
}

#[tokio::test]
async fn a8_at_least_once_waits_for_an_exchange_and_a_queue() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    let (exchange, target) = (unique("missing"), unique("target"));
    let source = at_least_once(&program, &exchange, "key", &[("x-message-ttl", int(30))]).await;
    program.fill(&source, &["m"]).await;
    program.wait_for_count(&source, 0).await;
    program.exchange(&exchange, "direct", &[]).await;
    program.queue(&target, &[]).await;
    sleep(Duration::from_millis(1200)).await;
    assert_eq!(program.count(&target).await, 0, "the exchange has no queue for it");
    program.bind(&target, &exchange, "key").await;
    let letter = program.take(&target).await;
    assert_eq!(deaths(&letter), death(&source, "expired", 1));
    silent(&mut program.consume(&target, 1).await).await;
}

/// All targets have to take it; those that have may get it again, those that have not get it in the end.
#[tokio::test]
async fn a8_at_least_once_reaches_all_targets() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    let (exchange, roomy, narrow) = (unique("fan"), unique("roomy"), unique("narrow"));
    program.exchange(&exchange, "fanout", &[]).await;
    program.queue(&roomy, &[]).await;
    program.queue(&narrow, &[("x-max-length", int(1)), ("x-overflow", text("reject-publish"))]).await;
    program.bind(&roomy, &exchange, "").await;
    program.bind(&narrow, &exchange, "").await;
    let source = at_least_once(&program, &exchange, "", &[("x-message-ttl", int(20))]).await;
    program.fill(&source, &["1"]).await;
    program.wait_for_count(&narrow, 1).await;
    program.fill(&source, &["2"]).await;
    assert_eq!(program.take_bodies(&narrow, 2).await, ["1", "2"]);
    let mut arrived = program.take_bodies(&roomy, 2).await;
    arrived.dedup();
    assert_eq!(arrived, ["1", "2"]);
}

#[tokio::test]
async fn a8_at_least_once_outlives_a_restart() {
    let Some(broker) = restartable("") else { return };
    let program = Program::open(&broker).await;
    let (full, missing) = (unique("full"), unique("missing"));
    program.queue(&full, &[("x-max-length", int(1)), ("x-overflow", text("reject-publish"))]).await;
    program.fill(&full, &["before"]).await;
    let to_full = at_least_once(&program, "", &full, &[("x-message-ttl", int(20))]).await;
    let to_missing = at_least_once(&program, "", &missing, &[]).await;
    program.fill(&to_full, &["expired"]).await;
    program.wait_for_count(&to_full, 0).await;
    program.fill(&to_missing, &["rejected", "ready"]).await;
    let mut consumer = program.consume(&to_missing, 1).await;
    reject(&next(&mut consumer).await, false).await;
    assert_eq!(body(&next(&mut consumer).await), "ready");
    let broker = restart(broker).await;
    let program = Program::open(&broker).await;
    assert_eq!((program.count(&to_full).await, program.count(&to_missing).await), (0, 1));
    program.queue(&missing, &[]).await;
    assert_eq!(program.take_bodies(&full, 1).await, ["before"]);
    let letter = program.take(&full).await;
    assert_eq!((body(&letter), deaths(&letter)), ("expired".to_owned(), death(&to_full, "expired", 1)));
    let letter = program.take(&missing).await;
    assert_eq!((body(&letter), deaths(&letter)), ("rejected".to_owned(), death(&to_missing, "rejected", 1)));
    // What is read from disk only now is what was ready.
    assert_eq!(program.take_bodies(&to_missing, 1).await, ["ready"]);
    // They have left for good.
    let broker = restart(broker).await;
    let program = Program::open(&broker).await;
    sleep(Duration::from_millis(1200)).await;
    for queue in [&to_full, &to_missing, &full, &missing] {
        assert_eq!(program.count(queue).await, 0, "{queue}");
    }
}

/// A source that is purged or deleted has no say in what became a dead letter: it stays, or goes with the queue.
#[tokio::test]
async fn a8_at_least_once_and_a_purge() {
    let Some(broker) = ours() else { return };
    let program = Program::open(&broker).await;
    let missing = unique("missing");
    let source = at_least_once(&program, "", &missing, &[]).await;
    program.fill(&source, &["dead", "ready"]).await;
    let mut consumer = program.consume(&source, 1).await;
    reject(&next(&mut consumer).await, false).await;
    let ready = next(&mut consumer).await;
    reject(&ready, true).await;
    let ready = next(&mut consumer).await;
    assert_eq!(body(&ready), "ready");
    let purged = program.channel.queue_purge(source.as_str().into(), Default::default()).await;
    assert_eq!(purged.expect("queue.purge"), 0);
    program.queue(&missing, &[]).await;
    assert_eq!(program.take_bodies(&missing, 1).await, ["dead"]);
    ack(&ready).await;
}

/// Whether each deadline is where it was after a restart, of the queue or of the message: past, soon, and far.
async fn deadlines_persist(kind: &str, of_queue: bool, down: Duration) {
    let Some(broker) = restartable("") else { return };
    let program = Program::open(&broker).await;
    let dead = unique("dead");
    program.queue(&dead, &[]).await;
    let declare = async |ttl_ms: i32| {
        let queue = unique("ttl");
        let mut arguments = vec![
            ("x-queue-type", text(kind)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&dead)),
        ];
        if of_queue {
            arguments.push(("x-message-ttl", int(ttl_ms)));
        }
        program.queue(&queue, &arguments).await;
        let properties =
            if of_queue { persistent() } else { persistent().with_expiration(ttl_ms.to_string().into()) };
        for number in 0..3 {
            program.publish("", &queue, properties.clone(), &format!("{ttl_ms} {number}")).await;
        }
        queue
    };
    let start = Instant::now();
    let down_ms = down.as_millis() as i32;
    let soon_ms = down_ms + 1500;
    let past = declare(down_ms).await;
    let soon = declare(soon_ms).await;
    let far = declare(3_600_000).await;
    let broker = tokio::task::spawn_blocking(move || {
        broker.terminate();
        broker.wait();
        broker
    });
    let broker = broker.await.expect("an end");
    assert!(start.elapsed() < down, "it ends before the first deadline");
    sleep(down.saturating_sub(start.elapsed()) + Duration::from_millis(50)).await;
    let broker = start_again(broker).await;
    let restarted = start.elapsed();
    let program = Program::open(&broker).await;
    for number in 0..3 {
        let letter = program.take(&dead).await;
        assert_eq!(body(&letter), format!("{down_ms} {number}"));
        assert_eq!(deaths(&letter), death(&past, "expired", 1));
        let original = header(&letter, "x-first-death-queue");
        assert_eq!(original, Some(&AMQPValue::LongString(past.as_str().into())));
        assert_eq!(letter.properties.expiration(), &None);
    }
    assert!(start.elapsed() < Duration::from_millis(soon_ms as u64), "right after the start");
    assert_eq!(program.count(&soon).await, 3);
    for number in 0..3 {
        let letter = program.take(&dead).await;
        assert_eq!(
            (body(&letter), deaths(&letter)),
            (format!("{soon_ms} {number}"), death(&soon, "expired", 1))
        );
    }
    let took = start.elapsed() + Duration::from_millis(1);
    assert!(took >= Duration::from_millis(soon_ms as u64), "{took:?}");
    assert!(
        took < restarted + Duration::from_millis(soon_ms as u64),
        "time went on while the broker was down"
    );
    assert_eq!(
        (program.count(&past).await, program.count(&soon).await, program.count(&far).await),
        (0, 0, 3)
    );
    assert_eq!(program.take_bodies(&far, 3).await, ["3600000 0", "3600000 1", "3600000 2"]);
}

async fn start_again(broker: std::sync::Arc<TestBroker>) -> std::sync::Arc<TestBroker> {
    tokio::task::spawn_blocking(move || broker.start_again()).await.expect("a start")
}

/// Deviation: in RabbitMQ only what is at the head expires.
#[tokio::test]
async fn b1_deadlines_of_a_queue_persist() {
    let down = Duration::from_millis(1500);
    tokio::join!(deadlines_persist("classic", true, down), deadlines_persist("quorum", true, down));
}

#[tokio::test]
async fn b1_deadlines_of_messages_persist() {
    let down = Duration::from_millis(1500);
    tokio::join!(deadlines_persist("classic", false, down), deadlines_persist("quorum", false, down));
}

/// Each message has its own time, whatever is before it, also when it was read from the disk.
/// Deviation: in RabbitMQ only what is at the head expires.
#[tokio::test]
async fn a9_mixed_deadlines_persist() {
    let Some(broker) = restartable("") else { return };
    let program = Program::open(&broker).await;
    let (queue, dead) = (unique("mixed"), unique("dead"));
    program.queue(&dead, &[]).await;
    let arguments = [("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text(&dead))];
    program.queue(&queue, &arguments).await;
    let mut confirms = Vec::new();
    for number in 0..2000_u32 {
        let properties = match number % 4 {
            0 => persistent(),
            1 => persistent().with_expiration("3600000".into()),
            // Earlier ones later.
            _ => persistent().with_expiration((3000 - number).to_string().into()),
        };
        confirms.push(
            program
                .channel
                .basic_publish(
                    "".into(),
                    queue.as_str().into(),
                    Default::default(),
                    number.to_string().as_bytes(),
                    properties,
                )
                .await
                .expect("basic.publish"),
        );
    }
    for confirm in confirms {
        assert!(matches!(confirm.await.expect("a confirm"), Confirmation::Ack(None)));
    }
    let broker = restart(broker).await;
    let program = Program::open(&broker).await;
    program.wait_for_count(&dead, 1000).await;
    assert_eq!(program.count(&queue).await, 1000);
    let mut consumer = program.consume(&queue, 0).await;
    for number in (0..2000).filter(|number| number % 4 < 2) {
        assert_eq!(body(&next(&mut consumer).await), number.to_string());
    }
    let mut letters = program.take_bodies(&dead, 1000).await;
    letters.sort_unstable_by_key(|number| number.parse::<u32>().expect("a number"));
    assert!(
        letters
            .iter()
            .map(|number| number.parse::<u32>().expect("a number"))
            .eq((0..2000).filter(|n| n % 4 > 1))
    );
}

/// What was dropped for being too much, rejected or dead has arrived, and does not come twice.
#[tokio::test]
async fn a8_dead_letters_stay_where_they_went() {
    let Some(broker) = restartable("") else { return };
    let program = Program::open(&broker).await;
    let (queue, dead) = (unique("short"), unique("dead"));
    program.queue(&dead, &[]).await;
    let arguments = [
        ("x-max-length", int(2)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&dead)),
    ];
    program.queue(&queue, &arguments).await;
    program.fill(&queue, &["1", "2", "3", "4"]).await;
    let mut consumer = program.consume(&queue, 1).await;
    reject(&next(&mut consumer).await, false).await;
    let broker = restart(broker).await;
    let program = Program::open(&broker).await;
    assert_eq!((program.count(&queue).await, program.count(&dead).await), (1, 3));
    assert_eq!(program.take_bodies(&queue, 1).await, ["4"]);
    for (expected, reason) in [("1", "maxlen"), ("2", "maxlen"), ("3", "rejected")] {
        let letter = program.take(&dead).await;
        assert_eq!((body(&letter), deaths(&letter)), (expected.to_owned(), death(&queue, reason, 1)));
    }
}

/// RabbitMQ 4.3: 0 to 31, and 4 for those that say none; what was delivered comes back in its place.
/// Deviation: RabbitMQ 3.10's quorum queues know no priorities.
#[tokio::test]
async fn b1_priorities_of_quorum_queues_outlive_a_restart() {
    let Some(broker) = restartable("") else { return };
    let program = Program::open(&broker).await;
    let queues = [("quorum", unique("levels")), ("classic", unique("levels"))];
    for (kind, queue) in &queues {
        let arguments = [("x-queue-type", text(kind)), ("x-max-priority", int(31))];
        program.queue(queue, if *kind == "quorum" { &arguments[..1] } else { &arguments }).await;
        for (name, priority) in PUBLISHED {
            let properties =
                priority.map_or_else(persistent, |priority| persistent().with_priority(priority));
            program.publish("", queue, properties, name).await;
        }
        let mut consumer = program.consume(queue, 1).await;
        assert_eq!(body(&next(&mut consumer).await), "top");
    }
    let broker = restart(broker).await;
    let program = Program::open(&broker).await;
    for (kind, queue) in &queues {
        let expected: [&str; 9] = match *kind {
            "quorum" => ["top", "above", "five", "none", "four", "none-2", "three", "zero", "zero-2"],
            _ => ["top", "above", "five", "four", "three", "none", "zero", "none-2", "zero-2"],
        };
        assert_eq!(program.count(queue).await, 9);
        let mut consumer = program.consume(queue, 1).await;
        for name in expected {
            let delivery = next(&mut consumer).await;
            assert_eq!(body(&delivery), name, "{kind}");
            // RabbitMQ does not say how far in which level; whoever was behind what was delivered is not marked.
            assert!(delivery.redelivered || name != "top");
            ack(&delivery).await;
        }
    }
}

const PUBLISHED: [(&str, Option<u8>); 9] = [
    ("none", None),
    ("zero", Some(0)),
    ("five", Some(5)),
    ("four", Some(4)),
    ("top", Some(31)),
    ("none-2", None),
    ("three", Some(3)),
    ("above", Some(200)),
    ("zero-2", Some(0)),
];

/// A transient message of a durable queue is gone after a restart, and no dead letter.
#[tokio::test]
async fn b1_transient_messages_leave_no_dead_letters() {
    let Some(broker) = restartable("") else { return };
    let program = Program::open(&broker).await;
    let (queue, dead) = (unique("ttl"), unique("dead"));
    program.queue(&dead, &[]).await;
    let arguments = [
        ("x-message-ttl", int(1000)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&dead)),
    ];
    program.queue(&queue, &arguments).await;
    program.publish("", &queue, BasicProperties::default(), "transient").await;
    program.fill(&queue, &["persistent"]).await;
    let broker = restart(broker).await;
    let program = Program::open(&broker).await;
    assert_eq!(program.take_bodies(&dead, 1).await, ["persistent"]);
    silent(&mut program.consume(&dead, 1).await).await;
}
