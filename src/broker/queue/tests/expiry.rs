//! Messages that leave by themselves: when, from where, in which order, and what the log hears of it.

use super::{paging::*, *};
use crate::broker::{
    death::Reason::{Expired, MaxLength},
    restore::{Backlog, RecoveredHold, RecoveredQueue},
};

/// A queue whose messages go to an exchange when they are dead.
pub(super) fn dead_lettering() -> QueueArguments {
    QueueArguments { dead_letter_exchange: Some("".into()), ..QueueArguments::default() }
}

fn with_letters() -> Bench {
    Bench::new(dead_lettering(), 1, 1 << 20)
}

/// A queue that keeps nothing in memory, and dead-letters.
fn all_paged(arguments: QueueArguments) -> Bench {
    let bench = paging(false, arguments);
    bench.pager.set_window_bytes(0);
    bench
}

/// A queue that was there before the start: messages from sequence number 1 on, each with a deadline or [`NEVER`].
fn recovered(deadlines_ms: &[u64], held: Vec<RecoveredHold>, arguments: QueueArguments) -> Bench {
    let mut bench = paging(true, arguments);
    let mut calendar = Deadlines::default();
    for (sequence, deadline_ms) in (1..).zip(deadlines_ms.iter().copied()) {
        bench.stored.insert(sequence, LoadedMessage { sequence, deadline_ms, ..stored(true, 0) });
        if deadline_ms != NEVER && held.iter().all(|hold| hold.sequence != sequence) {
            calendar.insert(deadline_ms, sequence);
        }
    }
    let last = deadlines_ms.len() as u64;
    let range = Backlog { first: 1, last, count: last - held.len() as u64, priority: None };
    let recovered = what_was_there(0, vec![range]);
    let deadlines = vec![(None, calendar)];
    bench.handle.lock().restore(RecoveredQueue { held, deadlines, ..recovered });
    bench.deliver();
    bench
}

#[test]
fn a9_a_ttl_of_0_is_enough_for_who_waits() {
    let arguments = QueueArguments { message_ttl_ms: Some(0), ..dead_lettering() };
    let mut bench = Bench::new(arguments, 1, 1 << 20);
    bench.set_now(1000);
    bench.consume(0, spec(2)).expect("a consumer");
    bench.publish(3);
    assert_eq!(bench.sequences(0), [1, 2]);
    assert_eq!((bench.letters_for(Expired), bench.ready()), (vec![3], 0));
    bench.cancel(0);
    bench.publish_dated([NEVER, 50]);
    assert_eq!(bench.letters_for(Expired), [4, 5]);
    assert!(bench.get().is_none());
}

#[test]
fn a9_the_shorter_of_both_ttls_counts() {
    let arguments = QueueArguments { message_ttl_ms: Some(100), ..QueueArguments::default() };
    let mut bench = Bench::new(arguments, 1, 1 << 20);
    bench.set_now(1000);
    let deadlines = [50, 200, NEVER].map(|ttl_ms| bench.publish_for(ttl_ms, message(false, 0)).deadline_ms);
    assert_eq!(deadlines, [1050, 1100, 1100]);
    let mut bench = Bench::classic(1);
    bench.set_now(1000);
    let deadlines =
        [50, NEVER, NEVER - 1].map(|ttl_ms| bench.publish_for(ttl_ms, message(false, 0)).deadline_ms);
    assert_eq!(deadlines, [1050, NEVER, NEVER]);
}

#[test]
fn a9_a_message_is_there_until_its_time_has_come() {
    let mut bench = with_letters();
    bench.publish_dated([10]);
    assert_eq!((bench.wait_until(9), bench.ready()), (0, 1));
    assert_eq!((bench.wait_until(10), bench.ready()), (1, 0));
    assert_eq!(bench.letters_for(Expired), [1]);
    assert_eq!(bench.wait_until(1000), 0, "nothing is left to wait for");
}

#[test]
fn a9_a_message_expires_wherever_it_is() {
    let mut bench = with_letters();
    bench.publish_dated([NEVER, 10, NEVER, 30, 20, NEVER, 10]);
    bench.wait_until(10);
    assert_eq!((bench.letters_for(Expired), bench.ready()), (vec![2, 7], 5));
    bench.wait_until(25);
    assert_eq!((bench.letters_for(Expired), bench.ready()), (vec![5], 4));
    bench.publish(1);
    assert_eq!(bench.drain(), [1, 3, 4, 6, 8].map(|sequence| (sequence, false)));
    assert_eq!((bench.ready(), bench.body_bytes()), (0, 0));
}

#[test]
fn a9_all_but_the_ends_expire() {
    let mut bench = with_letters();
    bench.publish_dated([NEVER]);
    bench.publish_dated((0..2000).map(|number| 10 + number % 7));
    bench.publish_dated([NEVER]);
    bench.wait_until(100);
    assert_eq!((bench.letters_for(Expired).len(), bench.ready()), (2000, 2));
    bench.publish_dated([10, NEVER]);
    bench.wait_until(200);
    assert_eq!(bench.drain(), [(1, false), (2002, false), (2004, false)]);
}

#[test]
fn a9_a_requeued_message_keeps_its_deadline() {
    let mut bench = with_letters();
    bench.publish_dated([100, NEVER, 100]);
    let first = bench.get().expect("a message");
    bench.wait_until(50);
    bench.return_as(Return::Failed, &first);
    bench.wait_until(99);
    assert_eq!(bench.ready(), 3);
    bench.wait_until(100);
    assert_eq!((bench.letters_for(Expired), bench.ready()), (vec![1, 3], 1));
}

#[test]
fn a9_what_a_consumer_has_does_not_expire_before_it_comes_back() {
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let mut bench = Bench::of(false, QueueArguments { kind, ..dead_lettering() }, 1, 1 << 20);
        bench.publish_dated([100, 100, NEVER]);
        let got = [bench.get().expect("the first"), bench.get().expect("the second")];
        bench.wait_until(150);
        assert_eq!((bench.letters(), bench.unacked()), (vec![], 2));
        assert!(bench.settle_at(got[0].slot, 1));
        bench.return_as(Return::Failed, &got[1]);
        assert_eq!((bench.letters_for(Expired), bench.ready()), (vec![2], 1));
    }
}

#[test]
fn a9_what_nobody_saw_expires_when_it_is_given_back() {
    let mut bench = with_letters();
    bench.consume(0, (0, 0, true, false)).expect("a consumer");
    bench.publish_dated([100]);
    let delivery = bench.taken(0).remove(0);
    bench.wait_until(150);
    bench.cancel(0);
    bench.handle.lock().give_back(delivery);
    bench.deliver();
    assert_eq!((bench.letters_for(Expired), bench.ready()), (vec![1], 0));
}

#[test]
fn a9_requeued_messages_of_a_quorum_queue_expire_at_its_tail() {
    let arguments = QueueArguments { kind: QueueKind::Quorum, ..dead_lettering() };
    let mut bench = Bench::new(arguments, 1, 1 << 20);
    bench.publish(6);
    bench.publish_dated([50, 60, NEVER, 70]);
    let got: Vec<_> = (0..8).filter_map(|_| bench.get()).collect();
    for place in [7, 0, 6, 3] {
        bench.return_as(Return::Failed, &got[place]);
    }
    bench.publish_dated([55, NEVER]);
    bench.wait_until(50);
    assert_eq!(bench.letters_for(Expired), [7]);
    bench.wait_until(60);
    assert_eq!(bench.letters_for(Expired), [11, 8]);
    let left: Vec<u64> = bench.drain().into_iter().map(|(sequence, _)| sequence).collect();
    assert_eq!(left, [9, 10, 1, 4, 12]);
}

#[test]
fn what_is_only_in_the_log_expires_without_being_loaded() {
    let mut bench = all_paged(QueueArguments::default());
    bench.publish_dated((0..3000).map(|number| 100 + number));
    bench.log();
    bench.wait_until(1600);
    assert_eq!((bench.ready(), bench.loads), (1499, 0));
    bench.log();
    assert_eq!(bench.stored.len(), 1499, "the log hears of it");
    bench.wait_until(10_000);
    bench.log();
    assert_eq!((bench.ready(), bench.body_bytes(), bench.stored.len(), bench.loads), (0, 0, 0, 0));
}

#[test]
fn what_is_only_in_the_log_is_loaded_to_be_dead_lettered() {
    let mut bench = all_paged(dead_lettering());
    bench.publish_dated([30, NEVER, 20, 10, NEVER, 40]);
    bench.log();
    bench.wait_until(35);
    assert_eq!((bench.letters(), bench.ready()), (vec![], 3));
    bench.serve_all();
    assert_eq!(bench.letters_for(Expired), [4, 3, 1]);
    assert_eq!(bench.drain_paged(), [(2, false), (5, false), (6, false)]);
    assert!(bench.stored.is_empty());
}

#[test]
fn what_is_in_memory_waits_for_what_expired_before_it() {
    let mut bench = paging(false, dead_lettering());
    bench.pager.set_window_bytes(2 * MESSAGE_BYTES);
    bench.publish_dated([30, 10, 20, 40]);
    bench.log();
    assert_eq!(bench.stored.len(), 2);
    bench.wait_until(40);
    assert_eq!(bench.letters_for(Expired), [2], "it was first");
    bench.serve_all();
    assert_eq!(bench.letters_for(Expired), [3, 1, 4]);
}

#[test]
fn what_expires_while_it_is_loaded_does_not_come_back() {
    for arguments in [QueueArguments::default(), dead_lettering()] {
        let mut bench = all_paged(arguments);
        bench.publish_dated((0..100).map(|number| if number % 2 == 0 { 10 } else { NEVER }));
        bench.log();
        bench.consume(0, (0, 0, true, false)).expect("a consumer");
        let queue = bench.pager.try_take().expect("a request");
        let load = queue.lock().next_load().expect("something to load");
        let loaded = bench.find(&load);
        assert_eq!(loaded.messages.len(), 100);
        bench.wait_until(10);
        assert!(queue.lock().loaded(&load, loaded, &queue, &mut bench.effects));
        bench.deliver();
        bench.serve_all();
        assert!(bench.sequences(0).into_iter().eq((2..=100).step_by(2)));
        assert_eq!(bench.ready(), 0);
    }
}

#[test]
fn what_has_expired_does_not_come_back_from_a_log_that_is_behind() {
    let mut bench = all_paged(QueueArguments::default());
    bench.publish_dated([10, NEVER, 10, NEVER]);
    bench.log();
    bench.wait_until(10);
    bench.consume(0, (0, 0, true, false)).expect("a consumer");
    let queue = bench.pager.try_take().expect("a request");
    assert_eq!(bench.serve(&queue), Served::Whole);
    assert_eq!((bench.sequences(0), bench.ready()), (vec![2, 4], 0));
}

#[test]
fn too_many_at_once_come_in_parts() {
    let mut bench = with_letters();
    bench.publish_dated((0..2000).map(|_| 10));
    bench.set_now(10);
    bench.deliver();
    let first = bench.letters_for(Expired).len();
    assert!((DUE_AT_A_TIME..=2 * DUE_AT_A_TIME).contains(&first), "{first}");
    assert!(bench.wait_until(10) > 1);
    assert_eq!((bench.letters_for(Expired).len() + first, bench.ready()), (2000, 0));
}

#[test]
fn too_many_that_have_to_be_loaded_come_in_parts() {
    let mut bench = all_paged(dead_lettering());
    bench.publish_dated((0..5000).map(|number| 10 + number % 3));
    bench.log();
    let (mut expired, mut rounds) = (Vec::new(), 0);
    while bench.ready() > 0 || bench.handle.lock().rare.is_some() {
        bench.wait_until(100);
        bench.serve_all();
        expired.extend(bench.letters_for(Expired));
        bench.log();
        rounds += 1;
        assert!(rounds < 100, "it goes on");
    }
    let in_order = (0..3).flat_map(|rest| (1..=5000).filter(move |sequence| (sequence - 1) % 3 == rest));
    assert!(expired.into_iter().eq(in_order));
    assert!(bench.loads > 3 && bench.stored.is_empty());
}

#[test]
fn purge_leaves_what_is_dead_and_what_is_held() {
    let mut bench = paging(true, dead_lettering());
    bench.pager.set_window_bytes(0);
    for _ in 0..2 {
        let placed = bench.publish_for(10, message(true, 0));
        let stored = LoadedMessage { sequence: placed.sequence, deadline_ms: 10, ..stored(true, 0) };
        bench.publish_late([stored]);
    }
    bench.wait_until(10);
    bench.publish_for(NEVER, message(true, 0));
    assert_eq!(bench.purge(), 1);
    let purges = bench.facts();
    assert_eq!(purges, ["purge 4 but [1, 2] 0"], "what they take is not known");
    bench.serve_all();
    assert_eq!(bench.letters_for(Expired), [1, 2]);
}

#[test]
fn delete_drops_what_is_dead_and_what_is_held() {
    let mut bench = all_paged(dead_lettering());
    bench.publish_dated([10, 10]);
    bench.log();
    bench.wait_until(10);
    let queue = bench.pager.try_take().expect("a request");
    let load = queue.lock().next_load().expect("something to load");
    let loaded = bench.find(&load);
    bench.handle.lock().delete(&mut bench.effects);
    assert!(queue.lock().loaded(&load, loaded, &queue, &mut bench.effects));
    bench.deliver();
    assert_eq!((bench.letters(), bench.wait_until(1 << 40), bench.pager.resident_bytes()), (vec![], 0, 0));
}

#[test]
fn a_purge_forgets_deadlines() {
    let mut bench = with_letters();
    bench.publish_dated([10, 10]);
    assert_eq!(bench.purge(), 2);
    bench.publish_dated([20]);
    assert_eq!(bench.deadlines(), 1);
    bench.wait_until(20);
    assert_eq!(bench.letters_for(Expired), [3]);
}

#[test]
fn deadlines_of_what_was_consumed_are_forgotten_long_before() {
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let arguments =
            QueueArguments { kind, message_ttl_ms: Some(86_400_000), ..QueueArguments::default() };
        let mut bench = Bench::new(arguments, 1, 1 << 20);
        bench.publish(100);
        let first = bench.get().expect("a message");
        bench.return_as(Return::Failed, &first);
        for _ in 0..200 {
            bench.publish(200);
            for _ in 0..200 {
                let got = bench.get().expect("a message");
                bench.settle_at(got.slot, got.entry.sequence);
            }
        }
        let count = bench.deadlines();
        assert!(count < 10_000, "{count} deadlines of {} messages", bench.ready());
        assert_eq!(bench.ready(), 100);
        bench.wait_until(86_400_000);
        assert_eq!(bench.ready(), 0, "none that is there was forgotten");
    }
}

#[test]
fn deadlines_of_what_is_only_in_the_log_are_not_forgotten() {
    let mut bench = paging(false, QueueArguments { message_ttl_ms: Some(1000), ..QueueArguments::default() });
    bench.publish(20_000);
    bench.log();
    for _ in 0..15_000 {
        bench.take_paged(true);
    }
    bench.log();
    for _ in 0..20 {
        bench.handle.lock().timer_is_off();
    }
    let count = bench.deadlines();
    assert!((5000..=15_000).contains(&count), "{count}");
    bench.wait_until(1000);
    bench.log();
    assert_eq!((bench.ready(), bench.stored.len()), (0, 0));
}

#[test]
fn octets_come_out_even_when_some_expired_unseen() {
    let mut bench = all_paged(QueueArguments::default());
    bench.is_estimated = true;
    for round in 0..20 {
        let sizes = [10, 0, 3000, 7, 500];
        for (number, size) in (0_u64..).zip(sizes) {
            let ttl_ms = if number == round % 5 { 10 } else { NEVER };
            bench.publish_for(ttl_ms, with_body(&vec![7; size], false, 0));
        }
        bench.log();
        bench.wait_until(round * 100 + 50);
        bench.set_now(round * 100 + 100);
        let left = bench.handle.lock().ready_count();
        assert_eq!(left, 4);
        while bench.ready() > 0 {
            bench.get_paged().map(|got| bench.settle_at(got.slot, got.entry.sequence));
            let body_bytes = bench.body_bytes();
            assert!(body_bytes <= 4000, "{body_bytes}");
        }
        assert_eq!(bench.body_bytes(), 0, "round {round}");
        bench.log();
    }
    assert!(bench.stored.is_empty());
}

#[test]
fn octets_are_exact_again_once_the_rest_is_loaded() {
    let mut bench = all_paged(QueueArguments::default());
    bench.is_estimated = true;
    for (size, ttl_ms) in [(0, NEVER), (1000, 10), (0, NEVER), (1, NEVER)] {
        bench.publish_for(ttl_ms, with_body(&vec![7; size], false, 0));
    }
    bench.log();
    bench.wait_until(10);
    bench.get_paged().expect("a message");
    assert_eq!((bench.ready(), bench.body_bytes()), (2, 1));
}

#[test]
fn who_waits_for_a_head_that_expires_is_told() {
    for arguments in [QueueArguments::default(), dead_lettering()] {
        let mut bench = all_paged(arguments);
        bench.publish_dated([10, 10]);
        bench.handle.lock().await_head(&bench.outboxes[0], &bench.handle);
        bench.wait_until(10);
        assert!(!bench.handle.lock().is_awaited(), "nothing is there to wait for");
    }
}

#[test]
fn who_waits_is_told_when_something_else_becomes_the_head() {
    let mut bench = all_paged(QueueArguments::default());
    bench.publish_dated([NEVER, 10, 10]);
    bench.log();
    let got = bench.get_paged().expect("a message");
    bench.handle.lock().await_head(&bench.outboxes[0], &bench.handle);
    bench.return_as(Return::Failed, &got);
    assert!(!bench.handle.lock().is_awaited());
}

#[test]
fn a_backlog_from_before_the_start_expires_unseen() {
    let deadlines: Vec<u64> = (0..3000).map(|number| [NEVER, 10, 20][number % 3]).collect();
    let mut bench = recovered(&deadlines, vec![], QueueArguments::default());
    bench.wait_until(10);
    assert_eq!((bench.ready(), bench.loads), (2000, 0));
    bench.log();
    let drained = bench.drain_paged();
    assert!(drained.into_iter().eq((1..=3000).filter(|sequence| sequence % 3 != 2).map(|it| (it, false))));
    assert_eq!((bench.ready(), bench.body_bytes(), bench.stored.len()), (0, 0, 0));
}

#[test]
fn a_backlog_from_before_the_start_is_dead_lettered() {
    let mut bench = recovered(&[30, NEVER, 20, 10], vec![], dead_lettering());
    bench.wait_until(30);
    bench.serve_all();
    assert_eq!(bench.letters_for(Expired), [4, 3, 1]);
    assert_eq!(bench.drain_paged(), [(2, false)]);
}

#[test]
fn what_was_held_before_the_start_comes_once() {
    let hold = |sequence, until_ms, death| RecoveredHold { sequence, until_ms, death };
    let held = vec![hold(2, 50, 0), hold(4, 60, 0), hold(5, 60, MaxLength.code())];
    let mut bench = recovered(&[NEVER; 6], held, dead_lettering());
    assert_eq!(bench.ready(), 3);
    bench.wait_until(60);
    bench.serve_all();
    assert_eq!(bench.letters_for(MaxLength), [5]);
    let got = std::iter::from_fn(|| bench.get_paged()).map(|got| (got.entry.sequence, got.entry.redelivered));
    assert!(
        got.eq([(2, true), (4, true), (1, false), (3, false), (6, false)]),
        "each once, though none is settled"
    );
    assert_eq!((bench.ready(), bench.body_bytes()), (0, 0));
}

#[test]
fn what_was_held_before_the_start_expires_as_itself() {
    let hold = |sequence, until_ms| RecoveredHold { sequence, until_ms, death: 0 };
    let mut bench =
        recovered(&[NEVER, 100, NEVER, 100, NEVER], vec![hold(2, 50), hold(4, 50)], dead_lettering());
    bench.wait_until(50);
    bench.serve_all();
    let got = bench.get().expect("a message that was held");
    assert_eq!(got.entry.sequence, 2);
    bench.wait_until(100);
    assert_eq!((bench.letters_for(Expired), bench.ready()), (vec![4], 3), "what is out does not count");
    bench.return_as(Return::Failed, &got);
    assert_eq!((bench.letters_for(Expired), bench.ready()), (vec![2], 3));
    assert_eq!(bench.drain_paged(), [(1, false), (3, false), (5, false)]);
    assert!(bench.stored.is_empty());
}

#[test]
fn a_dead_message_that_is_damaged_does_not_stop_the_others() {
    let mut bench = all_paged(dead_lettering());
    bench.publish_dated([10, 20, 30]);
    bench.log();
    bench.stored.remove(&2);
    bench.damaged = 1;
    bench.wait_until(30);
    bench.serve_all();
    assert_eq!(bench.letters_for(Expired), [1, 3]);
    assert!(bench.handle.lock().rare.is_none());
}

#[test]
fn a_dead_message_is_waited_for_when_the_log_finds_others_instead() {
    let mut bench = all_paged(dead_lettering());
    bench.publish_dated([10, NEVER, 10]);
    bench.log();
    bench.wait_until(10);
    let queue = bench.pager.try_take().expect("a request");
    let load = queue.lock().next_load().expect("something to load");
    let found = Load { only: vec![1, 2], ..load.clone() };
    let loaded = bench.find(&found);
    assert!(!queue.lock().loaded(&load, loaded, &queue, &mut bench.effects), "3 is not there yet");
    assert_eq!(bench.serve(&queue), Served::Whole);
    assert_eq!(bench.letters_for(Expired), [1, 3]);
}

#[test]
fn a_get_never_takes_what_has_expired_however_much_there_is() {
    let mut bench = Bench::new(dead_lettering(), 1, 1 << 20);
    bench.set_now(1000);
    bench.publish_dated(std::iter::repeat_n(10, 5000));
    bench.publish_dated([NEVER]);
    bench.set_now(2000);
    let got = loop {
        let mut locked = bench.handle.lock();
        match locked.get(false, &bench.handle, &mut bench.effects) {
            Ok(got) => break got,
            Err(Paged) => locked.await_head(&bench.outboxes[0], &bench.handle),
        }
        drop(locked);
        assert!(bench.wait_until(2000) > 0, "the timer sees to the others");
    };
    assert_eq!(got.map(|got| got.entry.sequence), Some(5001));
    assert_eq!(bench.letters_for(Expired).len(), 5000);
}

/// What comes in one load is at the end of what waits for it.
#[test]
fn large_dead_letters_are_loaded_a_few_at_a_time() {
    let mut bench = all_paged(dead_lettering());
    bench.set_now(1000);
    for ttl_ms in (1..=20).rev() {
        bench.publish_for(ttl_ms, with_body(&vec![0; 1 << 20], false, 0));
    }
    bench.set_now(2000);
    bench.deliver();
    bench.log();
    let mut waiting_max = 0;
    while let Some(queue) = bench.pager.try_take() {
        assert_eq!(bench.serve(&queue), Served::Whole);
        let locked = queue.lock();
        let waiting = locked.rare.as_ref().map_or(0, |rare| rare.dying.entries().count());
        waiting_max = waiting_max.max(waiting);
    }
    assert!(waiting_max <= 2, "{waiting_max}");
    let letters = bench.letters_for(Expired);
    assert!(letters.into_iter().eq((1..=20).rev()), "in the order of their deadlines");
}
