//! A deep queue: what leaves memory comes back in its place, and nothing else changes.

use super::*;
use crate::broker::{
    pager::{LoadedMessage, Served, WINDOW_BYTES},
    restore::{Backlog, RecoveredQueue},
};

/// A bench whose queue may keep its window and no more.
pub(super) fn paging(durable: bool, arguments: QueueArguments) -> Bench {
    let bench = Bench::of(durable, arguments, 1, 1 << 20);
    bench.pager.set_resident_bytes_max(0);
    bench
}

fn transient() -> Bench {
    paging(false, QueueArguments::default())
}

/// A queue that was there before the start, with that many messages from sequence number 1 on.
fn recovered(count: u64, delivered_up_to: u64, arguments: QueueArguments) -> Bench {
    let mut bench = paging(true, arguments);
    let stored = (1..=count).map(|sequence| (sequence, LoadedMessage { sequence, ..stored(true, 0) }));
    bench.stored = stored.collect();
    let backlog = vec![Backlog { first: 1, last: count, count, priority: None }];
    restore(&mut bench, delivered_up_to, backlog);
    bench
}

/// What a message of these tests takes in memory.
pub(super) const MESSAGE_BYTES: u64 = 79;

fn restore(bench: &mut Bench, delivered_up_to: u64, backlog: Vec<Backlog>) {
    let recovered = what_was_there(delivered_up_to, backlog);
    bench.handle.lock().restore(recovered);
}

pub(super) fn what_was_there(delivered_up_to: u64, backlog: Vec<Backlog>) -> RecoveredQueue {
    let count: u64 = backlog.iter().map(|range| range.count).sum();
    let last = backlog.iter().map(|range| range.last).max().unwrap_or(0);
    RecoveredQueue {
        id: QueueId(1),
        next_sequence: last + 1,
        delivered_up_to,
        body_bytes: 4 * count,
        backlog,
        deadlines: Vec::new(),
        held: Vec::new(),
    }
}

pub(super) fn stored(persistent: bool, priority: u8) -> LoadedMessage {
    LoadedMessage {
        sequence: 0,
        delivery_count: 0,
        deadline_ms: NEVER,
        message: message(persistent, priority),
    }
}

impl Bench {
    /// What is ready in memory, in octets.
    fn resident(&self) -> u64 {
        assert_eq!(self.handle.lock().ready.memory_bytes(), self.pager.resident_bytes());
        self.pager.resident_bytes()
    }

    /// Publishes persistent messages, and leaves their facts to `publish_late`.
    fn publish_early(&mut self, count: u64) -> Vec<LoadedMessage> {
        let first = self.handle.lock().next_sequence;
        self.publish_all((0..count).map(|_| message(true, 0)));
        (first..first + count).map(|sequence| LoadedMessage { sequence, ..stored(true, 0) }).collect()
    }

    pub(super) fn publish_late(&mut self, messages: impl IntoIterator<Item = LoadedMessage>) {
        self.stored.extend(messages.into_iter().map(|message| (message.sequence, message)));
    }
}

fn sequences(drained: &[(u64, bool)]) -> Vec<u64> {
    drained.iter().map(|(sequence, _)| *sequence).collect()
}

#[test]
fn what_is_above_the_window_leaves_memory_and_still_counts() {
    let mut bench = transient();
    bench.publish(5000);
    assert_eq!(bench.ready(), 5000);
    assert_eq!(bench.handle.lock().ready.body_bytes(), 20_000);
    let resident = bench.resident();
    assert!((WINDOW_BYTES - 100..=WINDOW_BYTES).contains(&resident), "{resident}");
    let is_paged = |fact: &Fact| matches!(fact, Fact::Publish { queues, .. } if !queues[0].survives);
    assert!(bench.effects.facts.iter().all(is_paged), "none of them is waited for");
    assert!(!bench.effects.facts.iter().any(Fact::is_awaited));
    bench.log();
    assert_eq!(bench.stored.len() as u64, 5000 - resident / MESSAGE_BYTES);
    let drained = bench.drain_paged();
    assert!(drained.into_iter().eq((1..=5000).map(|sequence| (sequence, false))));
    assert_eq!((bench.ready(), bench.resident()), (0, 0));
    assert_eq!(bench.handle.lock().ready.body_bytes(), 0);
    assert!(bench.stored.is_empty(), "the log hears of the end of each");
}

#[test]
fn nothing_is_paged_out_while_there_is_room() {
    let mut bench = transient();
    bench.pager.set_resident_bytes_max(1 << 20);
    bench.publish(5000);
    assert!(bench.effects.facts.is_empty() && bench.resident() < 1 << 20);
    bench.publish(20_000);
    let resident = bench.resident();
    assert!(((1 << 20) - 100..=1 << 20).contains(&resident), "{resident}");
    assert_eq!(bench.handle.lock().purge(&mut bench.effects), 25_000);
    assert_eq!(bench.resident(), 0);
}

#[test]
fn a_deleted_queue_gives_its_memory_back_and_is_forgotten() {
    for durable in [false, true] {
        let mut bench = paging(durable, QueueArguments::default());
        bench.publish(2000);
        bench.log();
        assert_eq!(bench.handle.lock().delete(&mut bench.effects).0, 2000);
        assert_eq!(bench.resident(), 0);
        let is_forgotten = matches!(bench.effects.facts[..], [Fact::Forget { queue: QueueId(1) }]);
        assert_eq!(is_forgotten, !durable, "the definition of a durable queue is");
    }
    let mut bench = transient();
    bench.publish(10);
    bench.handle.lock().delete(&mut bench.effects);
    assert!(bench.effects.facts.is_empty(), "the log never heard of it");
}

#[test]
fn a_queue_hands_its_memory_back_when_it_is_dropped() {
    let mut bench = transient();
    bench.publish(10);
    let pager = Arc::clone(&bench.pager);
    assert!(pager.resident_bytes() > 0);
    drop(bench);
    assert_eq!(pager.resident_bytes(), 0);
}

#[test]
fn a_consumer_gets_everything_in_order_with_one_load_at_a_time() {
    let mut bench = transient();
    bench.publish(10_000);
    bench.log();
    bench.consume(0, spec(100)).expect("a consumer");
    let mut next = 1;
    while next <= 10_000 {
        let deliveries = bench.taken(0);
        for delivery in &deliveries {
            assert_eq!((delivery.sequence, delivery.redelivered), (next, false));
            next += 1;
        }
        deliveries.iter().for_each(|delivery| bench.settle(delivery));
        bench.log();
        let loads = bench.serve_all();
        assert!(loads <= 1, "{loads} loads");
        assert!(!deliveries.is_empty() || loads == 1, "stuck before {next}");
        assert!(bench.resident() < 200_000, "{}", bench.resident());
    }
    assert!(bench.stored.is_empty());
}

#[test]
fn the_next_messages_are_loaded_before_they_are_needed() {
    let mut bench = transient();
    bench.publish(3000);
    bench.log();
    bench.consume(0, spec(100)).expect("a consumer");
    assert!(bench.pager.try_take().is_none(), "there is enough in front");
    for _ in 0..2 {
        bench.taken(0).iter().for_each(|delivery| bench.settle(delivery));
    }
    assert!(bench.handle.lock().ready.has_head());
    assert_eq!(bench.serve_all(), 1);
}

#[test]
fn what_was_loaded_stays_until_it_is_delivered() {
    let mut bench = transient();
    bench.publish(1000);
    bench.log();
    bench.consume(0, spec(1)).expect("a consumer");
    for _ in 0..300 {
        bench.taken(0).iter().for_each(|delivery| bench.settle(delivery));
        bench.log();
        bench.serve_all();
    }
    assert!(bench.resident() > WINDOW_BYTES);
    assert_eq!(bench.loads, 1, "it does not go out and come back");
    bench.publish(2000);
    assert!(bench.resident() < 100_000, "but what comes after it goes out");
}

#[test]
fn what_is_on_its_way_to_the_log_is_waited_for() {
    let mut bench = paging(true, QueueArguments::default());
    let early = bench.publish_early(2000);
    assert!(bench.effects.facts.is_empty(), "who published them tells the log");
    let half = early.len() - 1500;
    bench.publish_late(early[..half].to_vec());
    for _ in 0..bench.resident() / MESSAGE_BYTES {
        bench.get().expect("the window");
    }
    let next = bench.handle.lock().get(false, &Arc::clone(&bench.handle), &mut bench.effects);
    assert_eq!(next.expect_err("the window is through"), Paged);
    bench.handle.lock().await_head(&bench.outboxes[0], &bench.handle);
    let queue = bench.pager.try_take().expect("a request");
    assert_eq!(bench.serve(&queue), Served::Incomplete);
    assert_eq!(bench.serve(&queue), Served::Incomplete);
    assert!(bench.pager.try_take().is_none(), "it is not requested again meanwhile");
    let ready = bench.ready();
    bench.publish(5);
    assert_eq!(bench.ready(), ready + 5, "nothing was put in");
    bench.publish_late(early[half..].to_vec());
    assert_eq!(bench.serve(&queue), Served::Whole);
    let first = bench.get().expect("the head");
    assert_eq!(first.entry.sequence, 2001 - u64::from(ready));
}

#[test]
fn what_was_published_during_a_load_makes_another_chunk() {
    let mut bench = paging(true, QueueArguments::default());
    let early = bench.publish_early(600);
    bench.handle.lock().await_head(&bench.outboxes[0], &bench.handle);
    bench.consume(0, (0, 0, true, false)).expect("a consumer");
    let queue = bench.pager.try_take().expect("a request");
    assert_eq!(bench.serve(&queue), Served::Incomplete);
    let late = bench.publish_early(600);
    bench.publish_late(early.into_iter().chain(late));
    assert_eq!(bench.serve(&queue), Served::Whole);
    bench.serve_all();
    assert!(bench.sequences(0).into_iter().eq(1..=1200));
}

#[test]
fn what_is_published_while_a_chunk_is_read_does_not_change_it() {
    let mut bench = transient();
    bench.publish(600);
    bench.log();
    bench.consume(0, (0, 0, true, false)).expect("a consumer");
    let queue = bench.pager.try_take().expect("a request");
    let load = queue.lock().next_load().expect("something to load");
    let loaded = bench.find(&load);
    bench.publish(100);
    assert!(queue.lock().loaded(&load, loaded, &queue, &mut bench.effects), "it is all of the chunk");
    bench.deliver();
    bench.serve_all();
    assert!(bench.sequences(0).into_iter().eq(1..=700));
}

#[test]
fn a_backlog_from_before_the_start_comes_in_parts() {
    let mut bench = recovered(5000, 1500, QueueArguments::default());
    assert_eq!((bench.ready(), bench.resident()), (5000, 0));
    bench.publish(10);
    let drained = bench.drain_paged();
    assert!(drained.into_iter().eq((1..=5010).map(|sequence| (sequence, sequence <= 1500))));
    assert_eq!(bench.loads, 6, "the new ones went out meanwhile");
    assert_eq!(bench.handle.lock().ready.body_bytes(), 0);
    assert!(bench.stored.is_empty());
}

#[test]
fn deliveries_before_the_start_are_not_told_again() {
    let mut bench = recovered(2000, 1000, QueueArguments::default());
    bench.consume(0, spec(500)).expect("a consumer");
    assert_eq!(bench.facts(), [] as [&str; 0]);
    bench.serve_all();
    assert_eq!((bench.taken(0).len(), bench.facts().len()), (500, 0));
    bench.handle.lock().resume(ConnectionId(1));
    bench.get().expect("within what was delivered");
    assert_eq!(bench.facts(), [] as [&str; 0]);
    for _ in 0..500 {
        bench.get();
    }
    assert_eq!(bench.facts(), ["delivered 1001"]);
}

#[test]
fn failed_deliveries_before_the_start_count() {
    let arguments =
        QueueArguments { kind: QueueKind::Quorum, delivery_limit: Some(3), ..QueueArguments::default() };
    let mut bench = recovered(1, 0, arguments);
    bench.stored.get_mut(&1).expect("it is there").delivery_count = 3;
    let got = bench.get_paged().expect("a message");
    assert_eq!((got.entry.delivery_count, got.entry.redelivered), (3, true));
    bench.requeue_at(got.slot, 1, true);
    assert_eq!(bench.facts(), ["delivered 1", "settle [1] 4"]);
}

#[test]
fn damaged_messages_count_as_gone() {
    let mut bench = recovered(3000, 0, QueueArguments::default());
    for sequence in [1, 500, 1025, 2500, 3000] {
        bench.stored.remove(&sequence);
    }
    bench.damaged = 1;
    assert_eq!(bench.drain_paged().len(), 2995);
    assert_eq!((bench.ready(), bench.handle.lock().ready.body_bytes()), (0, 0));
    let mut bench = transient();
    bench.publish(1000);
    bench.log();
    let lost = *bench.stored.first_key_value().expect("some are there").0;
    bench.stored.remove(&lost);
    bench.damaged = 1;
    let drained = sequences(&bench.drain_paged());
    assert!(drained.into_iter().eq((1..=1000).filter(|sequence| *sequence != lost)));
}

#[test]
fn a_backlog_that_is_not_there_does_not_stop_the_queue() {
    let mut bench = recovered(3000, 0, QueueArguments::default());
    bench.stored.retain(|sequence, _| *sequence <= 100);
    bench.publish(1);
    let drained = sequences(&bench.drain_paged());
    assert!(drained.into_iter().eq((1..=100).chain([3001])));
}

#[test]
fn ranges_that_overlap_are_one() {
    let mut bench = recovered(400, 0, QueueArguments::default());
    let range = |first, last, count| Backlog { first, last, count, priority: None };
    bench.handle.lock().purge(&mut Effects::default());
    restore(&mut bench, 0, vec![range(1, 300, 200), range(101, 400, 200), range(401, 400, 0)]);
    let got = std::iter::from_fn(|| bench.get_paged()).map(|got| got.entry.sequence);
    assert!(got.eq(1..=400), "each once, though none is settled");
}

#[test]
fn returned_messages_come_before_what_is_loaded() {
    let mut bench = transient();
    bench.publish(1000);
    bench.log();
    let got: Vec<_> = (0..3).filter_map(|_| bench.get()).collect();
    bench.requeue_at(got[2].slot, 3, true);
    bench.requeue_at(got[0].slot, 1, true);
    bench.deliver();
    let drained = bench.drain_paged();
    assert_eq!(drained[..3], [(1, true), (3, true), (4, false)]);
    assert_eq!(drained.len(), 999);
    bench.requeue_at(got[1].slot, 2, true);
    bench.deliver();
    assert_eq!(bench.drain_paged(), [(2, true)]);
}

#[test]
fn a_quorum_queue_keeps_what_it_took_back_at_its_place() {
    let mut bench = paging(true, QueueArguments { kind: QueueKind::Quorum, ..QueueArguments::default() });
    let mut early = bench.publish_early(1000);
    let got: Vec<_> = (0..3).filter_map(|_| bench.get()).collect();
    bench.pager.set_window_bytes(0);
    for place in [0, 2] {
        bench.requeue_at(got[place].slot, got[place].entry.sequence, true);
        bench.deliver();
        early.extend(bench.publish_early(1000));
    }
    bench.publish_late(early);
    assert!(bench.resident() > 0, "they are out of sequence");
    let expected = (4..=1000).chain([1]).chain(1001..=2000).chain([3]).chain(2001..=3000);
    assert!(sequences(&bench.drain_paged()).into_iter().eq(expected));
}

#[test]
fn each_priority_has_its_chunks_and_the_lowest_goes_first() {
    let arguments = QueueArguments { max_priority: Some(2), ..QueueArguments::default() };
    let mut bench = paging(false, arguments);
    bench.publish_with(300, 2);
    bench.publish_all((0..2000).map(|number| message(false, u8::from(number % 2 == 1))));
    assert_eq!(bench.ready(), 2300);
    bench.log();
    assert!(bench.stored.values().all(|stored| stored.message.priority() < Some(2)), "the highest stays");
    bench.publish_with(500, 9);
    bench.log();
    let drained = sequences(&bench.drain_paged());
    let expected = (1..=300).chain(2301..=2800).chain((302..=2300).step_by(2)).chain((301..=2300).step_by(2));
    assert!(drained.into_iter().eq(expected));
    assert!(bench.stored.is_empty());
}

#[test]
fn a_backlog_with_priorities_comes_back_by_level() {
    let arguments = QueueArguments { max_priority: Some(1), ..QueueArguments::default() };
    let mut bench = paging(true, arguments);
    let stored = |sequence| LoadedMessage { sequence, ..stored(true, (sequence % 3) as u8) };
    bench.stored = (1..=3000).map(|sequence| (sequence, stored(sequence))).collect();
    let range = |first, last, priority| Backlog { first, last, count: 1000, priority: Some(priority) };
    restore(&mut bench, 0, vec![range(1, 2998, 1), range(2, 2999, 2), range(3, 3000, 0)]);
    let (high, low): (Vec<u64>, Vec<u64>) = (1..=3000).partition(|sequence| sequence % 3 > 0);
    assert_eq!(sequences(&bench.drain_paged()), [high, low].concat());
}

#[test]
fn what_is_purged_during_a_load_stays_away() {
    let mut bench = transient();
    bench.publish(2000);
    bench.log();
    bench.consume(0, (0, 0, true, false)).expect("a consumer");
    bench.taken(0);
    let queue = bench.pager.try_take().expect("a request");
    let load = queue.lock().next_load().expect("something to load");
    let loaded = bench.find(&load);
    assert!(bench.purge() > 0);
    bench.publish(3);
    assert_eq!(bench.sequences(0), [2001, 2002, 2003]);
    assert!(queue.lock().loaded(&load, loaded, &queue, &mut bench.effects), "there is nothing to wait for");
    bench.deliver();
    assert_eq!((bench.ready(), bench.resident()), (0, 0));
    assert!(bench.taken(0).is_empty());
    assert!(bench.pager.try_take().is_none());
    assert!(bench.effects.facts.iter().any(|fact| matches!(fact, Fact::Purge { .. })), "the log forgets too");
}

#[test]
fn what_is_purged_during_a_load_does_not_come_for_what_is_there_now() {
    let mut bench = transient();
    bench.publish(2000);
    bench.log();
    bench.consume(0, (0, 0, true, false)).expect("a consumer");
    bench.taken(0);
    let queue = bench.pager.try_take().expect("a request");
    let load = queue.lock().next_load().expect("something to load");
    let loaded = bench.find(&load);
    bench.purge();
    bench.cancel(0);
    bench.publish(2000);
    assert!(queue.lock().loaded(&load, loaded, &queue, &mut bench.effects));
    assert_eq!(bench.ready(), 2000);
    assert!(sequences(&bench.drain_paged()).into_iter().eq(2001..=4000));
}

#[test]
fn what_is_purged_before_a_load_is_not_asked_for() {
    let mut bench = transient();
    bench.publish(2000);
    bench.log();
    bench.consume(0, (0, 0, true, false)).expect("a consumer");
    bench.taken(0);
    bench.purge();
    assert_eq!((bench.serve_all(), bench.loads), (1, 0));
    bench.cancel(0);
    bench.publish(2000);
    bench.log();
    bench.consume(0, (0, 0, true, false)).expect("a consumer");
    assert!(bench.serve_all() > 0, "it is requested again");
    assert!(bench.sequences(0).into_iter().eq(2001..=4000));
}

#[test]
fn a_queue_that_is_deleted_during_a_load_stays_empty() {
    let mut bench = transient();
    bench.publish(2000);
    bench.log();
    bench.handle.lock().await_head(&bench.outboxes[0], &bench.handle);
    for _ in 0..WINDOW_BYTES / MESSAGE_BYTES {
        bench.get();
    }
    bench.handle.lock().await_head(&bench.outboxes[0], &bench.handle);
    let queue = bench.pager.try_take().expect("a request");
    let load = queue.lock().next_load().expect("something to load");
    let loaded = bench.find(&load);
    queue.lock().delete(&mut bench.effects);
    assert!(queue.lock().loaded(&load, loaded, &queue, &mut bench.effects));
    assert_eq!((bench.ready(), bench.resident()), (0, 0));
    assert!(
        bench
            .handle
            .lock()
            .get(true, &Arc::clone(&bench.handle), &mut bench.effects)
            .expect("nothing to wait for")
            .is_none()
    );
}

#[test]
fn a_full_queue_drops_its_head_from_the_log() {
    let arguments = QueueArguments { max_length: Some(1000), ..QueueArguments::default() };
    let mut bench = paging(false, arguments);
    for _ in 0..10 {
        bench.publish(500);
        bench.log();
        bench.serve_all();
        bench.log();
    }
    assert_eq!(bench.ready(), 1000);
    assert!(sequences(&bench.drain_paged()).into_iter().eq(4001..=5000));
    assert!(bench.stored.is_empty());
}

#[test]
fn a_full_queue_rejects_by_all_that_it_has() {
    let arguments = QueueArguments {
        max_length: Some(1000),
        overflow: Overflow::RejectPublish,
        ..QueueArguments::default()
    };
    let mut bench = paging(false, arguments);
    bench.publish(1000);
    let refused = bench.handle.lock().publish(message(false, 0), NEVER, &bench.handle, &mut bench.effects);
    assert_eq!(refused, Err(Full));
}

#[test]
fn a_chunk_is_not_larger_than_a_load() {
    let mut bench = transient();
    let body = vec![7; 100_000];
    bench.publish_all((0..100).map(|_| with_body(&body, false, 0)));
    bench.log();
    bench.handle.lock().await_head(&bench.outboxes[0], &bench.handle);
    let queue = bench.pager.try_take().expect("a request");
    bench.serve(&queue);
    assert!(bench.resident() <= 11 * 101_000, "{}", bench.resident());
    assert!(sequences(&bench.drain_paged()).into_iter().eq(1..=100));
}
