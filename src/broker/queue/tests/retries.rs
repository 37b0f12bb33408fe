//! Retries that are put off: when they come, how often, and what comes after the last.

use super::{expiry::dead_lettering, paging::*, *};
use crate::broker::death::Reason::{DeliveryLimit, Expired};

fn retry(schedule: Schedule) -> Retry {
    Retry { schedule, on: RetryOn::All, jitter: 0.0, limit: None }
}

fn ladder(delays_ms: &[u64]) -> Retry {
    retry(Schedule::Delays(delays_ms.into()))
}

fn retrying(retry: Retry) -> QueueArguments {
    QueueArguments { retry: Some(retry), ..dead_lettering() }
}

fn bench(retry: Retry) -> Bench {
    let mut bench = Bench::of(true, retrying(retry), 1, 1 << 20);
    bench.publish_all([message(true, 0)]);
    bench
}

/// Fails the only message until it does not come back within a day, and says how long it took each time.
fn delays(bench: &mut Bench, how: Return) -> Vec<u64> {
    let mut delays = Vec::new();
    while let Some(got) = bench.get() {
        let failed_ms = bench.now_ms();
        bench.return_as(how, &got);
        while bench.ready() == 0 && bench.now_ms() < failed_ms + 86_400_000 {
            let next_ms = bench.effects.timers.last().map(|timer| timer.at_ms);
            let next_ms = next_ms.or(bench.timers.first().copied()).unwrap_or(NEVER - 1);
            bench.wait_until(next_ms);
        }
        delays.push(bench.now_ms() - failed_ms);
        assert!(delays.len() < 100, "it does not end: {delays:?}");
    }
    delays.pop();
    delays
}

#[test]
fn b1_a_ladder_is_climbed_and_then_the_message_is_dead() {
    for how in [Return::Failed, Return::Released] {
        let mut bench = bench(ladder(&[10, 200, 50]));
        assert_eq!(delays(&mut bench, how), [10, 200, 50]);
        assert_eq!(bench.letters_for(DeliveryLimit), [1]);
        assert_eq!((bench.ready(), bench.unacked()), (0, 0));
    }
}

#[test]
fn b1_a_retry_limit_beyond_the_ladder_repeats_its_last_rung_and_below_it_cuts_it() {
    let with_limit = |limit| Retry { limit: Some(limit), ..ladder(&[10, 20]) };
    assert_eq!(delays(&mut bench(with_limit(4)), Return::Failed), [10, 20, 20, 20]);
    assert_eq!(delays(&mut bench(with_limit(1)), Return::Failed), [10]);
    assert_eq!(delays(&mut bench(with_limit(0)), Return::Failed), [] as [u64; 0]);
}

#[test]
fn b1_a_delay_grows_up_to_the_longest() {
    let exponential = retry(Schedule::Exponential { min_ms: 10, max_ms: 50, factor: 2.0 });
    let limited = Retry { limit: Some(5), ..exponential };
    assert_eq!(delays(&mut bench(limited), Return::Failed), [10, 20, 40, 50, 50]);
    let arguments = QueueArguments {
        delivery_limit: Some(4),
        ..retrying(retry(Schedule::Linear { min_ms: 10, max_ms: 35 }))
    };
    let mut bench = Bench::of(true, arguments, 1, 1 << 20);
    bench.publish_all([message(true, 0)]);
    assert_eq!(delays(&mut bench, Return::Failed), [10, 20, 30, 35]);
    assert_eq!(bench.letters_for(DeliveryLimit), [1]);
}

#[test]
fn b1_only_those_that_are_meant_are_put_off() {
    let rows = [
        (RetryOn::All, Return::Failed, true),
        (RetryOn::All, Return::Released, true),
        (RetryOn::Failed, Return::Failed, true),
        (RetryOn::Failed, Return::Released, false),
        (RetryOn::Returned, Return::Failed, false),
        (RetryOn::Returned, Return::Released, true),
        (RetryOn::All, Return::Unseen, false),
    ];
    for (on, how, is_put_off) in rows {
        let mut bench = bench(Retry { on, ..ladder(&[10]) });
        let got = bench.get().expect("a message");
        bench.return_as(how, &got);
        assert_eq!(bench.ready() == 0, is_put_off, "{on:?} {how:?}");
        bench.wait_until(10);
        assert_eq!(bench.ready(), 1, "{on:?} {how:?}");
    }
}

#[test]
fn b1_jitter_only_makes_delays_shorter_and_not_all_alike() {
    let mut bench = Bench::new(retrying(Retry { jitter: 0.5, ..ladder(&[1000]) }), 1, 1 << 20);
    bench.publish(100);
    let got: Vec<_> = (0..100).filter_map(|_| bench.get()).collect();
    got.iter().for_each(|got| bench.return_as(Return::Failed, got));
    bench.wait_until(499);
    assert_eq!(bench.ready(), 0);
    bench.wait_until(750);
    assert!((20..=80).contains(&bench.ready()), "{}", bench.ready());
    bench.wait_until(1000);
    assert_eq!(bench.ready(), 100);
}

#[test]
fn b1_a_retry_comes_before_what_came_later() {
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let arguments = QueueArguments { kind, ..retrying(ladder(&[10])) };
        let mut bench = Bench::new(arguments, 1, 1 << 20);
        bench.publish(3);
        let got = bench.get().expect("a message");
        bench.return_as(Return::Failed, &got);
        bench.publish(1);
        bench.wait_until(10);
        assert_eq!(bench.drain(), [(1, true), (2, false), (3, false), (4, false)], "{kind:?}");
    }
}

#[test]
fn b1_a_retry_goes_to_who_waits_when_its_time_has_come() {
    let mut bench = bench(ladder(&[10]));
    bench.consume(0, spec(1)).expect("a consumer");
    let first = bench.taken(0);
    bench.requeue(&first);
    bench.deliver();
    assert!(bench.taken(0).is_empty());
    bench.wait_until(9);
    assert!(bench.taken(0).is_empty());
    bench.wait_until(10);
    let again = bench.taken(0);
    assert_eq!((again[0].sequence, again[0].redelivered, again[0].delivery_count), (1, true, 1));
}

#[test]
fn b1_a_message_that_is_put_off_expires_when_it_comes_back() {
    let mut bench = Bench::new(retrying(ladder(&[100])), 1, 1 << 20);
    bench.publish_dated([50]);
    let got = bench.get().expect("a message");
    bench.return_as(Return::Failed, &got);
    bench.wait_until(99);
    assert_eq!(bench.letters(), []);
    bench.wait_until(100);
    assert_eq!((bench.letters_for(Expired), bench.ready()), (vec![1], 0));
}

#[test]
fn the_log_hears_of_what_is_put_off() {
    let mut bench = bench(ladder(&[10]));
    let got = bench.get().expect("a message");
    bench.facts();
    bench.return_as(Return::Failed, &got);
    let is_hold = |fact: &Fact| matches!(fact, Fact::Hold { sequences, until_ms: 10, death: 0, .. } if sequences == &[1]);
    assert_eq!(bench.effects.facts.iter().filter(|fact| is_hold(fact)).count(), 1);
    assert_eq!(bench.facts()[0], "return [1]");
}

#[test]
fn what_is_put_off_counts_for_nothing_and_stays_when_the_queue_is_purged() {
    let mut bench = bench(ladder(&[10]));
    bench.publish_all([message(true, 0)]);
    let got = bench.get().expect("a message");
    bench.return_as(Return::Failed, &got);
    bench.facts();
    assert_eq!((bench.ready(), bench.purge()), (1, 1));
    assert_eq!(bench.facts(), ["purge 3 but [1] 4"]);
    bench.wait_until(10);
    assert_eq!(bench.drain(), [(1, true)]);
}

#[test]
fn what_is_put_off_goes_with_its_queue() {
    let mut bench = paging(false, retrying(ladder(&[10])));
    bench.publish(2);
    let got = bench.get().expect("a message");
    bench.return_as(Return::Failed, &got);
    bench.handle.lock().delete(&mut bench.effects);
    bench.wait_until(10);
    assert_eq!((bench.ready(), bench.pager.resident_bytes()), (0, 0));
}

#[test]
fn what_is_put_off_leaves_memory_and_comes_back() {
    for durable in [false, true] {
        let mut bench = paging(durable, retrying(ladder(&[10, 20])));
        bench.pager.set_window_bytes(0);
        bench.publish(3);
        bench.log();
        let got: Vec<_> = (0..3).filter_map(|_| bench.get_paged()).collect();
        got.iter().for_each(|got| bench.return_as(Return::Failed, got));
        assert_eq!((bench.ready(), bench.pager.resident_bytes()), (0, 0));
        bench.wait_until(10);
        assert_eq!(bench.ready(), 0, "they have to be loaded");
        bench.serve_all();
        assert_eq!(bench.ready(), 3);
        let got: Vec<_> = (0..3).filter_map(|_| bench.get()).collect();
        let found =
            got.iter().map(|got| (got.entry.sequence, got.entry.redelivered, got.entry.delivery_count));
        assert!(found.eq([(1, true, 1), (2, true, 1), (3, true, 1)]), "their rung is known");
    }
}

#[test]
fn what_the_log_never_had_climbs_on_after_it_left_memory() {
    let mut bench = paging(true, retrying(ladder(&[10, 20, 30])));
    bench.publish(1);
    bench.pager.set_window_bytes(0);
    for (rung, at_ms) in [(1, 10), (2, 30), (3, 60)] {
        let got = bench.get().expect("in memory");
        bench.return_as(Return::Failed, &got);
        assert_eq!(bench.pager.resident_bytes(), 0);
        bench.wait_until(at_ms);
        bench.serve_all();
        let got = bench.get().expect("it has come back");
        assert_eq!(got.entry.delivery_count, rung);
        bench.return_as(Return::Unseen, &got);
    }
    let got = bench.get().expect("the last time");
    bench.return_as(Return::Failed, &got);
    assert_eq!(bench.letters_for(DeliveryLimit), [1]);
}

#[test]
fn a_retry_that_is_damaged_does_not_stop_the_others() {
    let mut bench = paging(false, retrying(ladder(&[10])));
    bench.pager.set_window_bytes(0);
    bench.publish(3);
    let got: Vec<_> = (0..3).filter_map(|_| bench.get_paged()).collect();
    got.iter().for_each(|got| bench.return_as(Return::Failed, got));
    bench.log();
    bench.stored.remove(&2);
    bench.damaged = 1;
    bench.wait_until(10);
    bench.serve_all();
    bench.damaged = 0;
    assert_eq!(bench.drain(), [(1, true), (3, true)]);
}

#[test]
fn many_retries_at_once_come_in_parts() {
    let mut bench = Bench::new(retrying(ladder(&[10])), 1, 1 << 20);
    bench.publish(2000);
    let got: Vec<_> = (0..2000).filter_map(|_| bench.get()).collect();
    got.iter().for_each(|got| bench.requeue_at(got.slot, got.entry.sequence, true));
    bench.deliver();
    assert!(bench.wait_until(10) >= 4);
    assert!(bench.drain().into_iter().eq((1..=2000).map(|sequence| (sequence, true))));
}

#[test]
fn large_retries_are_loaded_a_few_at_a_time() {
    let mut bench = paging(false, retrying(ladder(&[10])));
    bench.pager.set_window_bytes(0);
    bench.publish_all((0..20).map(|_| with_body(&vec![0; 1 << 20], false, 0)));
    let got: Vec<_> = (0..20).filter_map(|_| bench.get_paged()).collect();
    got.iter().for_each(|got| bench.return_as(Return::Failed, got));
    bench.wait_until(10);
    bench.log();
    let load = bench.handle.lock().next_load().expect("they have to be loaded");
    let bytes: usize = bench.find(&load).messages.iter().map(|loaded| loaded.message.memory_bytes()).sum();
    assert!(bytes < 4 << 20, "{bytes}");
    bench.pager.set_window_bytes(1 << 30);
    bench.serve_all();
    assert!(bench.drain().into_iter().eq((1..=20).map(|sequence| (sequence, true))));
}
