//! Key order: `x-group-by`.

use super::*;
use crate::{amqp::PropertiesBuilder, broker::queue::GroupBy};

/// A queue whose messages are grouped by their correlation ids.
fn grouped(connections: u64) -> Bench {
    let arguments = QueueArguments { group_by: Some(GroupBy::CorrelationId), ..QueueArguments::default() };
    Bench::new(arguments, connections, 1 << 20)
}

fn of_key(key: &str) -> Message {
    let properties = PropertiesBuilder { correlation_id: Some(key.into()), ..PropertiesBuilder::default() };
    Message::new(("", "q"), &properties.encode(), PublishedBody::Small(b"body"), false, None, &mut Vec::new())
}

/// Publishes a message for each key.
fn publish(bench: &mut Bench, keys: &[&str]) {
    bench.publish_all(keys.iter().map(|key| of_key(key)));
}

#[test]
fn group_by_messages_of_one_key_go_one_at_a_time_and_others_pass() {
    let mut bench = grouped(2);
    bench.consume(0, spec(0)).expect("a consumer");
    bench.consume(1, spec(0)).expect("another");
    publish(&mut bench, &["a", "a", "b", "a", "c"]);
    let (mut first, second) = (bench.taken(0), bench.taken(1));
    first.extend(second);
    first.sort_by_key(|delivery| delivery.sequence);
    assert_eq!(first.iter().map(|delivery| delivery.sequence).collect::<Vec<_>>(), [1, 3, 5]);
    assert_eq!(bench.ready(), 2, "the others of the key are ready and wait");
    bench.settle(&first[0]);
    let next: Vec<_> = (0..2).flat_map(|connection| bench.taken(connection)).collect();
    assert_eq!(next.iter().map(|delivery| delivery.sequence).collect::<Vec<_>>(), [2]);
    bench.settle(&next[0]);
    let last: Vec<_> = (0..2).flat_map(|connection| bench.taken(connection)).collect();
    assert_eq!(last.iter().map(|delivery| delivery.sequence).collect::<Vec<_>>(), [4]);
    for delivery in [&first[1], &first[2], &last[0]] {
        bench.settle(delivery);
    }
    assert!(bench.handle.lock().rare.is_none(), "a key that has nothing in flight costs nothing");
}

#[test]
fn group_by_a_nack_holds_back_only_its_key() {
    let mut bench = grouped(1);
    bench.consume(0, spec(0)).expect("a consumer");
    publish(&mut bench, &["a", "a", "b"]);
    let first = bench.taken(0);
    assert_eq!(first.iter().map(|delivery| delivery.sequence).collect::<Vec<_>>(), [1, 3]);
    bench.requeue(&first[..1]);
    bench.deliver();
    let again = bench.taken(0);
    assert_eq!(
        again.iter().map(|delivery| (delivery.sequence, delivery.redelivered)).collect::<Vec<_>>(),
        [(1, true)]
    );
    publish(&mut bench, &["c"]);
    assert_eq!(bench.sequences(0), [4]);
    bench.settle(&again[0]);
    assert_eq!(bench.sequences(0), [2]);
}

#[test]
fn group_by_what_has_no_key_waits_for_nobody() {
    let mut bench = grouped(1);
    bench.consume(0, spec(0)).expect("a consumer");
    publish(&mut bench, &["a"]);
    bench.publish(2);
    assert_eq!(bench.sequences(0), [1, 2, 3]);
}

#[test]
fn group_by_a_get_takes_the_next_free_message() {
    let mut bench = grouped(1);
    publish(&mut bench, &["a", "a", "b"]);
    let first = bench.get().expect("a message");
    assert_eq!(bench.get().expect("of another key").entry.sequence, 3);
    assert!(bench.get().is_none(), "the other one of the key waits");
    assert!(bench.settle_at(first.slot, first.entry.sequence));
    assert_eq!(bench.get().expect("its turn has come").entry.sequence, 2);
}

#[test]
fn group_by_what_waits_expires_in_time() {
    let mut bench = grouped(1);
    bench.consume(0, spec(0)).expect("a consumer");
    bench.effects.now = Now::made_up(1000);
    publish(&mut bench, &["a"]);
    let message = of_key("a");
    let placed = bench.handle.lock().publish(message, 50, &bench.handle, &mut bench.effects);
    assert_eq!(placed.expect("room").expect("there").deadline_ms, 1050);
    bench.deliver();
    assert_eq!((bench.sequences(0), bench.ready()), (vec![1], 1));
    bench.effects.now = Now::made_up(1050);
    bench.deliver();
    assert_eq!(bench.ready(), 0);
}

/// The queue is grouped by another thing, and what is in flight counts.
#[test]
fn group_by_another_key_counts_what_is_in_flight() {
    let mut bench = grouped(1);
    bench.consume(0, spec(0)).expect("a consumer");
    publish(&mut bench, &["a", "a", "b"]);
    let first = bench.taken(0);
    assert_eq!(first.iter().map(|delivery| delivery.sequence).collect::<Vec<_>>(), [1, 3]);
    let mut group_by = |group_by| {
        let arguments = Arc::new(QueueArguments { group_by, ..QueueArguments::default() });
        bench.handle.lock().reconfigure(&arguments, &bench.handle, &mut bench.effects);
        bench.sequences(0)
    };
    // All have one routing key.
    assert_eq!(group_by(Some(GroupBy::RoutingKey)), [0_u64; 0]);
    assert_eq!(group_by(Some(GroupBy::CorrelationId)), [0_u64; 0]);
    bench.settle(&first[1]);
    assert_eq!(bench.sequences(0), [0_u64; 0]);
    bench.settle(&first[0]);
    assert_eq!(bench.sequences(0), [2]);
}

#[test]
fn group_by_counts_what_was_in_flight_before() {
    let mut bench = Bench::classic(1);
    bench.consume(0, spec(1)).expect("a consumer");
    publish(&mut bench, &["a", "a"]);
    let first = bench.taken(0);
    let arguments =
        Arc::new(QueueArguments { group_by: Some(GroupBy::CorrelationId), ..QueueArguments::default() });
    bench.handle.lock().reconfigure(&arguments, &bench.handle, &mut bench.effects);
    assert!(bench.get().is_none(), "it waits for the first one");
    bench.settle(&first[0]);
    assert_eq!(bench.sequences(0), [2]);
}

/// Who takes a message without acknowledgement has nothing in flight, so nothing ends by which the next one's turn comes.
#[test]
fn group_by_a_consumer_without_acknowledgements_gets_all_that_waits() {
    let mut bench = grouped(2);
    bench.consume(0, spec(1)).expect("a consumer");
    publish(&mut bench, &["a", "a", "a", "a"]);
    let first = bench.taken(0);
    bench.consume(1, (0, 0, true, false)).expect("another, without acknowledgements");
    bench.deliver();
    assert_eq!(bench.sequences(1), [0_u64; 0], "they wait");
    bench.cancel(0);
    bench.settle(&first[0]);
    assert_eq!(bench.sequences(1), [2, 3, 4]);
}

#[test]
fn group_by_gets_without_acknowledgements_get_all_that_waits() {
    let mut bench = grouped(1);
    publish(&mut bench, &["a", "a", "a"]);
    let first = bench.get().expect("a message");
    assert!(bench.get().is_none(), "they wait");
    assert!(bench.settle_at(first.slot, first.entry.sequence));
    let mut get = || bench.handle.lock().get(true, &bench.handle, &mut bench.effects).expect("in memory");
    assert_eq!(get().map(|got| got.entry.sequence), Some(2));
    assert_eq!(get().map(|got| got.entry.sequence), Some(3));
}

#[test]
fn group_by_what_expires_before_its_delivery_lets_the_next_one_go() {
    let mut bench = grouped(1);
    bench.set_now(1000);
    publish(&mut bench, &["a"]);
    let first = bench.get().expect("a message");
    for ttl_ms in [50, 1000] {
        let message = of_key("a");
        bench.publish_for(ttl_ms, message);
    }
    assert!(bench.get().is_none(), "they wait");
    assert!(bench.settle_at(first.slot, first.entry.sequence));
    bench.wait_until(1100);
    assert_eq!(bench.get().map(|got| got.entry.sequence), Some(3));
}

#[test]
fn group_by_deadlines_of_what_waited_do_not_pile_up() {
    let mut bench = grouped(1);
    bench.set_now(1000);
    publish(&mut bench, &["a"]);
    let mut got = bench.get().expect("a message");
    for _ in 0..20_000 {
        let message = of_key("a");
        bench.publish_for(1_000_000_000, message);
        assert!(bench.get().is_none(), "it waits");
        assert!(bench.settle_at(got.slot, got.entry.sequence));
        got = bench.get().expect("its turn");
    }
    let locked = bench.handle.lock();
    let kept = locked.rare.as_ref().expect("one in flight").groups.deadline_count();
    assert!(kept < 10_000, "{kept}");
}

/// A message of that size and priority.
fn large(key: &str, kib: usize, priority: u8) -> Message {
    let properties = PropertiesBuilder { correlation_id: Some(key.into()), ..PropertiesBuilder::default() };
    let (body, priority) = (vec![0; kib << 10], (priority > 0).then_some(priority));
    let body = PublishedBody::Small(&body);
    Message::new(("", "q"), &properties.encode(), body, false, priority, &mut Vec::new())
}

#[test]
fn group_by_a_large_message_that_waits_does_not_hold_back_the_one_before_it() {
    let mut bench = grouped(1);
    bench.consume(0, spec(0)).expect("a consumer");
    bench.publish_all([large("a", 0, 0), large("a", 0, 0), large("a", 17 << 10, 0)]);
    let first = bench.taken(0);
    assert_eq!(first.len(), 1);
    bench.settle(&first[0]);
    let second = bench.taken(0);
    assert_eq!(second.iter().map(|delivery| delivery.sequence).collect::<Vec<_>>(), [2]);
    bench.settle(&second[0]);
    assert_eq!(bench.sequences(0), [3]);
}

#[test]
fn group_by_higher_priorities_do_not_keep_a_turn_from_being_taken() {
    let arguments = QueueArguments {
        group_by: Some(GroupBy::CorrelationId),
        max_priority: Some(9),
        ..QueueArguments::default()
    };
    let mut bench = Bench::new(arguments, 1, 1 << 30);
    bench.pager.set_resident_bytes_max(1 << 30);
    bench.consume(0, spec(0)).expect("a consumer");
    bench.publish_all((0..17).map(|_| large("a", 1 << 10, 1)));
    bench.publish_all((0..3).map(|_| large("a", 1 << 10, 9)));
    let mut order = Vec::new();
    while let Some(delivery) = bench.taken(0).pop() {
        order.push(delivery.sequence);
        bench.settle(&delivery);
    }
    order.sort_unstable();
    assert_eq!(order, (1..=20).collect::<Vec<_>>());
}

#[test]
fn group_by_the_oldest_message_is_dropped_even_if_it_waits() {
    let arguments = QueueArguments {
        group_by: Some(GroupBy::CorrelationId),
        max_length: Some(2),
        dead_letter_exchange: Some("".into()),
        ..QueueArguments::default()
    };
    let mut bench = Bench::new(arguments, 1, 1 << 20);
    publish(&mut bench, &["a", "a"]);
    let first = bench.get().expect("a message");
    assert!(bench.get().is_none(), "it waits");
    publish(&mut bench, &["b", "c", "d"]);
    assert_eq!(bench.letters_for(Reason::MaxLength), [2, 3]);
    assert!(bench.settle_at(first.slot, first.entry.sequence));
    assert_eq!(bench.drain(), [(4, false), (5, false)]);
}
