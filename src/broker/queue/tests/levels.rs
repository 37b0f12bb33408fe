//! Priorities: of classic queues that ask for them, and of every quorum queue.

use super::{expiry::dead_lettering, paging::paging, *};
use crate::broker::death::Reason::Expired;

fn quorum() -> QueueArguments {
    QueueArguments { kind: QueueKind::Quorum, ..dead_lettering() }
}

/// A message with that priority, which may be 0 and still be said.
fn of(priority: Option<u8>) -> Message {
    Message::new(("", "q"), &[0, 0], PublishedBody::Small(b"body"), false, priority, &mut Vec::new())
}

fn order(bench: &mut Bench) -> Vec<u64> {
    bench.drain_paged().into_iter().map(|(sequence, _)| sequence).collect()
}

#[test]
fn b1_a_quorum_queue_is_strict_about_32_priorities() {
    let mut bench = Bench::new(quorum(), 1, 1 << 20);
    let priorities = [None, Some(0), Some(31), Some(5), Some(255), Some(4), Some(3), None, Some(30)];
    bench.publish_all(priorities.map(of));
    assert_eq!(order(&mut bench), [3, 5, 9, 4, 1, 6, 8, 7, 2]);
}

#[test]
fn b1_a_quorum_queue_takes_back_within_the_level() {
    let mut bench = Bench::new(quorum(), 1, 1 << 20);
    bench.publish_all([Some(9), Some(9), Some(1), Some(1)].map(of));
    let got: Vec<_> = (0..3).filter_map(|_| bench.get()).collect();
    bench.return_as(Return::Failed, &got[2]);
    bench.return_as(Return::Released, &got[0]);
    bench.return_as(Return::Unseen, &got[1]);
    bench.publish_all([Some(9)].map(of));
    assert_eq!(order(&mut bench), [2, 1, 5, 4, 3]);
}

#[test]
fn b1_a_higher_one_comes_first_to_a_consumer_that_waits() {
    let mut bench = Bench::new(quorum(), 1, 1 << 20);
    bench.consume(0, spec(1)).expect("a consumer");
    for priority in [None, Some(1), Some(8), Some(9)] {
        bench.publish_for(NEVER, of(priority));
    }
    for expected in [1, 4, 3, 2] {
        let delivery = bench.taken(0).remove(0);
        assert_eq!(delivery.sequence, expected);
        bench.settle(&delivery);
    }
}

#[test]
fn b1_a_classic_queue_has_the_levels_that_it_asks_for() {
    let mut bench = Bench::classic(1);
    bench.publish_all([Some(0), Some(9), None].map(of));
    assert_eq!(order(&mut bench), [1, 2, 3], "it asks for none");
    let mut bench =
        Bench::new(QueueArguments { max_priority: Some(255), ..QueueArguments::default() }, 1, 1 << 20);
    bench.publish_all([Some(0), None, Some(254), Some(255), Some(1)].map(of));
    assert_eq!(order(&mut bench), [4, 3, 5, 1, 2]);
}

#[test]
fn b1_levels_expire_by_time_whatever_their_order() {
    let mut bench = Bench::new(quorum(), 1, 1 << 20);
    for (priority, ttl_ms) in [(Some(9), 30), (None, 10), (Some(0), 20), (Some(9), 20), (Some(0), NEVER)] {
        bench.publish_for(ttl_ms, of(priority));
    }
    bench.wait_until(20);
    assert_eq!(bench.letters_for(Expired), [2, 3, 4]);
    bench.wait_until(30);
    assert_eq!(bench.letters_for(Expired), [1]);
    assert_eq!(order(&mut bench), [5]);
}

#[test]
fn b1_levels_page_and_expire() {
    let mut bench = paging(false, quorum());
    bench.pager.set_window_bytes(0);
    for number in 0..300_u64 {
        let ttl_ms = if number.is_multiple_of(2) { NEVER } else { 300 - number };
        bench.publish_for(ttl_ms, of([None, Some(0), Some(31)][number as usize % 3]));
    }
    bench.log();
    bench.wait_until(300);
    bench.serve_all();
    assert!(bench.letters_for(Expired).into_iter().eq((1..=150).rev().map(|half| 2 * half)));
    let of_level = |rest| (1..=300_u64).filter(move |it| it % 2 == 1 && (it - 1) % 3 == rest);
    assert!(order(&mut bench).into_iter().eq(of_level(2).chain(of_level(0)).chain(of_level(1))));
    assert!(bench.stored.is_empty());
}
