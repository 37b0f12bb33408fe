//! Duplicates: `x-message-deduplication`.

use super::*;
use crate::{
    amqp::{PropertiesBuilder, Value},
    broker::{
        dedup::{Deduplication, HEADER},
        restore::RecoveredCache,
    },
};

/// A queue that compares with what it holds, or, with a size, remembers so many keys.
fn unique(durable: bool, size: Option<u32>) -> Bench {
    Bench::of(durable, arguments(size), 1, 1 << 20)
}

fn arguments(size: Option<u32>) -> QueueArguments {
    let (cache_size, remembers) = (size.unwrap_or(9), size.is_some());
    let deduplication = Deduplication { cache_size, ttl_ms: None, header: HEADER.into(), remembers };
    QueueArguments { deduplication: Some(deduplication), ..QueueArguments::default() }
}

fn of_key(key: &str, persistent: bool) -> Message {
    let headers = Some(Table(vec![(HEADER.into(), Value::from(key))]));
    let properties = PropertiesBuilder { headers, ..PropertiesBuilder::default() };
    let body = PublishedBody::Small(b"body");
    Message::new(("", "q"), &properties.encode(), body, persistent, None, &mut Vec::new())
}

/// Publishes a message for each key.
fn publish(bench: &mut Bench, keys: &[&str]) {
    bench.publish_all(keys.iter().map(|key| of_key(key, true)));
}

fn has_rare(bench: &Bench) -> bool {
    bench.handle.lock().rare.is_some()
}

#[test]
fn b1_a_duplicate_of_what_is_in_the_queue_is_dropped() {
    let mut bench = unique(false, None);
    publish(&mut bench, &["a", "b", "a"]);
    assert!(std::mem::take(&mut bench.effects.has_duplicates));
    let got = bench.get().expect("the first");
    publish(&mut bench, &["a"]);
    assert_eq!(bench.ready(), 1, "it is still there while nobody has acknowledged it");
    bench.settle_at(got.slot, got.entry.sequence);
    bench.effects.has_duplicates = false;
    publish(&mut bench, &["a"]);
    assert!(!bench.effects.has_duplicates);
    bench.publish(2);
    assert_eq!(bench.drain(), [(2, false), (3, false), (4, false), (5, false)]);
    bench.deliver();
    assert!(!has_rare(&bench), "no key of a message is left");
}

#[test]
fn b1_what_leaves_a_queue_in_any_way_may_come_again() {
    let mut bench = unique(false, None);
    let sent = |bench: &mut Bench| {
        let before = bench.ready();
        publish(bench, &["a"]);
        bench.ready() - before
    };
    assert_eq!((sent(&mut bench), sent(&mut bench)), (1, 0));
    let first = bench.get().expect("a message");
    bench.handle.lock().reject(first.slot, first.entry.sequence, &bench.handle, &mut bench.effects);
    assert_eq!((sent(&mut bench), sent(&mut bench)), (1, 0), "rejected");
    assert_eq!(bench.purge(), 1);
    assert_eq!((sent(&mut bench), sent(&mut bench)), (1, 0), "purged");
    let held = bench.get().expect("a message");
    bench.purge();
    assert_eq!(sent(&mut bench), 0, "a purge leaves what was delivered");
    bench.requeue_at(held.slot, held.entry.sequence, true);
    assert_eq!(sent(&mut bench), 0, "put back");
    bench.drain();
    let expiring = bench.handle.lock().publish(of_key("a", true), 50, &bench.handle, &mut bench.effects);
    assert!(expiring.is_ok_and(|placed| placed.is_some()));
    assert_eq!(sent(&mut bench), 0);
    bench.effects.now = Now::made_up(51);
    bench.deliver();
    assert_eq!(sent(&mut bench), 1, "expired");
    bench.drain();
    bench.consume(0, (0, 0, true, false)).expect("a consumer");
    publish(&mut bench, &["a"]);
    publish(&mut bench, &["a", "a"]);
    let taken = bench.taken(0);
    assert_eq!(taken.len(), 2, "what needs no acknowledgement has left when it is delivered");
    bench.cancel(0);
    for delivery in taken {
        bench.handle.lock().give_back(delivery);
    }
    assert_eq!(sent(&mut bench), 0, "what was never sent is there again");
}

#[test]
fn b1_the_last_keys_are_remembered_whatever_becomes_of_their_messages() {
    let mut bench = unique(true, Some(2));
    publish(&mut bench, &["a", "b"]);
    bench.drain();
    publish(&mut bench, &["a", "b"]);
    bench.purge();
    assert_eq!(bench.ready(), 0);
    publish(&mut bench, &["c", "b", "a"]);
    assert_eq!(bench.ready(), 2, "c and a are new");
    assert!(has_rare(&bench));
}

#[test]
fn b1_the_log_hears_of_the_keys_that_outlive_persistent_messages() {
    for (durable, persistent, size, expected) in [
        (true, true, Some(2), 1),
        (false, true, Some(2), 0),
        (true, false, Some(2), 0),
        (true, true, None, 0),
    ] {
        let mut bench = unique(durable, size);
        bench.publish_all([of_key("a", persistent), of_key("a", persistent)]);
        let seen =
            bench.effects.facts.iter().filter(|fact| {
                matches!(fact, Fact::Seen { cache: QueueId(1), until_ms: NEVER, keep: 2, .. })
            });
        assert_eq!(seen.count(), expected);
    }
}

#[test]
fn b1_a_full_queue_takes_a_duplicate_and_forgets_what_it_rejects() {
    let limits =
        QueueArguments { max_length: Some(1), overflow: Overflow::RejectPublish, ..arguments(Some(9)) };
    let mut bench = Bench::of(false, limits, 1, 1 << 20);
    let mut publish = |key: &str| {
        let message = of_key(key, true);
        let takes = bench.handle.lock().takes(&message, 0);
        let published = bench.handle.lock().publish(message, NEVER, &bench.handle, &mut bench.effects);
        assert_eq!(takes, published.is_ok());
        if key == "b" {
            bench.drain();
        }
        published.map(|placed| placed.is_some())
    };
    assert_eq!(publish("a"), Ok(true));
    assert_eq!(publish("a"), Ok(false), "there is nothing to reject");
    assert_eq!(publish("b"), Err(Full));
    assert_eq!(publish("b"), Ok(true), "its publisher has sent it again");
    assert_eq!(publish("b"), Ok(false));
}

#[test]
fn b1_other_arguments_forget_the_keys_that_they_do_not_mean() {
    let known_after = |after: QueueArguments| {
        let mut bench = unique(false, Some(9));
        publish(&mut bench, &["a"]);
        bench.handle.lock().reconfigure(&Arc::new(after), &bench.handle, &mut bench.effects);
        bench.handle.lock().reconfigure(&Arc::new(arguments(Some(9))), &bench.handle, &mut bench.effects);
        publish(&mut bench, &["a"]);
        bench.ready() == 1
    };
    assert!(known_after(QueueArguments { max_length: Some(5), ..arguments(Some(3)) }));
    assert!(!known_after(QueueArguments::default()));
    let mut other_header = arguments(Some(9));
    other_header.deduplication.as_mut().expect("it has it").header = "other".into();
    assert!(!known_after(other_header));
}

#[test]
fn b1_keys_come_back_after_a_restart() {
    let recovered = |bench: &Bench| {
        let seen = bench.effects.facts.iter().filter_map(|fact| match fact {
            Fact::Seen { cache, key, until_ms, .. } => Some((*cache, (*key, *until_ms))),
            _ => None,
        });
        let keys = seen.filter(|(cache, _)| *cache == QueueId(1)).map(|(_, key)| key).collect();
        RecoveredCache { cache: QueueId(1), keys }
    };
    let mut bench = unique(true, Some(2));
    publish(&mut bench, &["a", "b", "c"]);
    let seen = recovered(&bench);
    let mut bench = unique(true, Some(2));
    bench.handle.lock().restore_keys(&seen, 0);
    publish(&mut bench, &["b", "c", "a"]);
    assert_eq!(bench.ready(), 1);
    publish(&mut bench, &["c", "b"]);
    assert_eq!(bench.ready(), 2, "a was newer than b");
    let mut bench = unique(true, None);
    bench.handle.lock().restore_keys(&seen, 0);
    publish(&mut bench, &["c"]);
    assert_eq!(bench.ready(), 1, "whether it is in the queue, nobody knows");
}
