//! Nobody can make the broker hold more than it must, nor slow others down.

use std::{
    thread,
    time::{Duration, Instant},
};

use amq_protocol::protocol::{
    BasicProperties,
    basic::{Ack, Consume, ConsumeOk, QosOk},
    confirm,
    connection::Blocked,
    queue::{Declare, DeclareOk},
};

use crate::{
    broker::{DEADLINE, TestBroker, is_external, shared},
    wire::{Login, Wire, consume, declare, frame, header_payload, method_frame, prefetch, publish, unique},
};

const MIB: u64 = 1 << 20;

/// A consumer without limit that never reads leaves its messages in the queue, not in buffers, and others go on.
#[test]
fn a_consumer_that_stops_reading_holds_nobody_up() {
    if is_external() {
        return;
    }
    let broker = TestBroker::start("");
    let mut publisher = Wire::open(&broker);
    let (slow_queue, quick_queue) = (unique("slow"), unique("quick"));
    for queue in [&slow_queue, &quick_queue] {
        publisher.call::<DeclareOk>(1, declare(queue));
    }
    let mut stuck = Wire::open(&broker);
    stuck.call::<ConsumeOk>(1, consume(&slow_queue, "stuck"));
    let mut quick = Wire::open(&broker);
    quick.call::<ConsumeOk>(1, Consume { no_ack: true, ..consume(&quick_queue, "quick") });

    let body = "x".repeat(10_000);
    for number in 0..5_000 {
        publisher.publish(1, &slow_queue, &body);
        if number % 100 == 0 {
            publisher.publish(1, &quick_queue, "m");
            assert_eq!(quick.next_events(1), ["deliver quick m"]);
        }
    }
    // All of it is in the queue or given to the consumer; the sum of the bodies is 48 MiB.
    publisher.call::<DeclareOk>(1, Declare { passive: true, ..declare(&slow_queue) });
    let resident = broker.resident_bytes();
    assert!(resident < 140 * MIB, "{} MiB resident for 48 MiB of messages", resident / MIB);

    // What the stuck consumer has not read goes to the next one in order once it is gone.
    drop(stuck);
    let mut next = Wire::open(&broker);
    next.call::<QosOk>(1, prefetch(500));
    next.call::<ConsumeOk>(1, consume(&slow_queue, "next"));
    for number in 1..=5_000 {
        let delivered = next.expect_content::<amq_protocol::protocol::basic::Deliver>(1);
        assert_eq!((delivered.method.delivery_tag, delivered.body.len()), (number, body.len()));
        if number % 100 == 0 {
            next.send(1, Ack { delivery_tag: number, multiple: true });
        }
    }
}

/// A disk that is too full, seen by a limit that no disk has.
#[test]
fn a_full_disk_blocks_publishers_and_lets_consumers_go_on() {
    if is_external() {
        return;
    }
    let broker = TestBroker::start("[limits]\ndisk_free_limit = 1000000000000000000");
    let queue = unique("q");
    let mut consumer = Wire::open(&broker);
    consumer.call::<DeclareOk>(1, declare(&queue));
    consumer.call::<ConsumeOk>(1, consume(&queue, "c"));

    let login = Login { capabilities: &["connection.blocked"], ..Login::default() };
    let mut publisher = Wire::login(&broker, &login);
    assert_eq!(publisher.expect::<Blocked>(0).reason.as_str(), "low on disk");
    publisher.open_channel(1);
    publisher.publish(1, &queue, "m");
    assert_eq!(consumer.next_events(1), ["deliver c m"]);
    consumer.send(1, Ack { delivery_tag: 1, multiple: false });
    consumer.call::<DeclareOk>(1, Declare { passive: true, ..declare(&queue) });

    let mut more = method_frame(1, publish("", "nowhere"));
    more.extend(frame(2, 1, &header_payload(100_000, &BasicProperties::default())));
    more.extend(frame(3, 1, &[0; 100_000]));
    let mut sent = 0;
    while sent < 64 * MIB && publisher.try_raw(&more, Duration::from_millis(500)) {
        sent += more.len() as u64;
    }
    assert!(sent < 64 * MIB, "the publisher is still read from");
    consumer.call::<DeclareOk>(1, Declare { passive: true, ..declare(&queue) });
}

/// A reader of many queues' answers that does not read them is not served for ever.
#[test]
fn a_client_that_asks_and_never_reads_is_bounded() {
    if is_external() {
        return;
    }
    let broker = TestBroker::start("");
    let before = broker.resident_bytes();
    let mut deaf = Wire::open(&broker);
    // 64 MiB of questions whose answers are no smaller.
    let question = method_frame(1, Declare { passive: true, ..declare("amq.rabbitmq.reply-to") });
    let questions = question.repeat(1000);
    let mut sent = 0;
    while sent < 64 * MIB && deaf.try_raw(&questions, Duration::from_millis(500)) {
        sent += questions.len() as u64;
    }
    let after = broker.resident_bytes();
    assert!(after.saturating_sub(before) < 40 * MIB, "{} MiB more", after.saturating_sub(before) / MIB);
    Wire::open(&broker).call::<DeclareOk>(1, Declare { exclusive: true, ..declare("") });
}

/// Many publishers at full speed: everything arrives, in order for each, and a small conversation goes on beside.
#[test]
fn a_flood_of_publishers_leaves_others_in_peace() {
    let broker = shared();
    let queue = unique("flood");
    let mut owner = Wire::open(&broker);
    owner.call::<DeclareOk>(1, Declare { exclusive: false, auto_delete: true, ..declare(&queue) });
    let floods = [0, 1, 2, 3].map(|publisher| {
        let (mut wire, queue) = (Wire::open(&broker), queue.clone());
        thread::spawn(move || flood(&mut wire, &queue, publisher, 5_000))
    });
    let start = Instant::now();
    let mut other = Wire::open(&broker);
    for _ in 0..50 {
        other.call::<DeclareOk>(1, Declare { exclusive: true, ..declare("") });
    }
    assert!(start.elapsed() < DEADLINE, "50 declarations took {:?}", start.elapsed());
    owner.call::<QosOk>(1, prefetch(0));
    owner.call::<ConsumeOk>(1, Consume { no_ack: true, ..consume(&queue, "all") });
    let mut next = [0; 4];
    for _ in 0..20_000 {
        let event = owner.event().1;
        let mut words = event.strip_prefix("deliver all ").expect("a delivery").split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<usize>().ok()).expect("a number");
        let (publisher, count) = (number(), number());
        assert_eq!(count, next[publisher], "messages of publisher {publisher} in order");
        next[publisher] += 1;
    }
    for flood in floods {
        flood.join().expect("a publisher");
    }
}

/// Publishes `count` messages as fast as the socket takes them, and waits for their confirms.
fn flood(wire: &mut Wire, queue: &str, publisher: usize, count: usize) {
    wire.call::<confirm::SelectOk>(1, confirm::Select { nowait: false });
    for start in (0..count).step_by(500) {
        let mut bytes = Vec::new();
        for number in start..start + 500 {
            let body = format!("{publisher} {number}");
            bytes.extend(method_frame(1, publish("", queue)));
            bytes.extend(frame(2, 1, &header_payload(body.len() as u64, &BasicProperties::default())));
            bytes.extend(frame(3, 1, body.as_bytes()));
        }
        wire.raw(&bytes);
    }
    let mut confirmed = 0;
    while confirmed < count {
        let event = wire.event().1;
        let ack = event.strip_prefix("ack ").expect("a confirm");
        confirmed = match ack.strip_suffix(" multiple") {
            Some(tag) => tag.parse().expect("a tag"),
            None => confirmed + 1,
        };
    }
}
