//! What a full queue does, and what becomes of messages whose deliveries fail too often.

use super::{expiry::dead_lettering, *};
use crate::broker::death::Reason::{DeliveryLimit, MaxLength, Rejected};

fn full_at(length: u64, overflow: Overflow, letters: bool) -> Bench {
    let base = if letters { dead_lettering() } else { QueueArguments::default() };
    let arguments = QueueArguments { max_length: Some(length), overflow, ..base };
    Bench::of(true, arguments, 1, 1 << 20)
}

fn try_publish(bench: &mut Bench, body: &[u8]) -> bool {
    let message = with_body(body, true, 0);
    let published = bench.handle.lock().publish(message, NEVER, &bench.handle, &mut bench.effects);
    bench.deliver();
    published.is_ok()
}

/// Numbers of those that left for an exchange, and what is left.
fn outcome(bench: &mut Bench) -> (Vec<u64>, Vec<u64>) {
    let letters = bench.letters_for(MaxLength);
    (letters, bench.drain().into_iter().map(|(sequence, _)| sequence).collect())
}

#[test]
fn b3_a_publish_to_a_full_queue() {
    use Overflow::*;
    let rows = [
        (DropHead, true, true, vec![1], vec![2, 3]),
        (DropHead, false, true, vec![], vec![2, 3]),
        (RejectPublish, true, false, vec![], vec![1, 2]),
        (RejectPublish, false, false, vec![], vec![1, 2]),
        (RejectPublishDlx, true, false, vec![0], vec![1, 2]),
        (RejectPublishDlx, false, false, vec![], vec![1, 2]),
    ];
    for (overflow, letters, is_taken, died, left) in rows {
        let mut bench = full_at(2, overflow, letters);
        assert!(try_publish(&mut bench, b"1") && try_publish(&mut bench, b"2"));
        assert_eq!(try_publish(&mut bench, b"3"), is_taken, "{overflow:?} {letters}");
        assert_eq!(outcome(&mut bench), (died, left), "{overflow:?} {letters}");
    }
}

#[test]
fn b3_a_message_that_is_too_long_by_itself() {
    use Overflow::*;
    for (overflow, is_taken, died) in
        [(DropHead, true, vec![1, 2]), (RejectPublish, false, vec![]), (RejectPublishDlx, false, vec![0])]
    {
        let arguments = QueueArguments { max_length_bytes: Some(4), overflow, ..dead_lettering() };
        let mut bench = Bench::of(true, arguments, 1, 1 << 20);
        assert!(try_publish(&mut bench, b"1234"));
        assert_eq!(try_publish(&mut bench, b"12345"), is_taken, "{overflow:?}");
        let left = if is_taken { vec![] } else { vec![1] };
        assert_eq!(outcome(&mut bench), (died, left), "{overflow:?}");
        assert_eq!(bench.body_bytes(), 0);
    }
}

#[test]
fn b3_a_maximum_of_0_is_enough_for_who_waits() {
    for letters in [false, true] {
        let mut bench = full_at(0, Overflow::DropHead, letters);
        bench.consume(0, spec(1)).expect("a consumer");
        assert!(try_publish(&mut bench, b"1") && try_publish(&mut bench, b"2"));
        assert_eq!(bench.sequences(0), [1]);
        assert_eq!(bench.letters_for(MaxLength), if letters { vec![2] } else { vec![] });
        assert_eq!(bench.ready(), 0);
    }
    for overflow in [Overflow::RejectPublish, Overflow::RejectPublishDlx] {
        let mut bench = full_at(0, overflow, true);
        bench.consume(0, spec(1)).expect("a consumer");
        assert!(!try_publish(&mut bench, b"1"));
        assert!(bench.sequences(0).is_empty());
    }
}

#[test]
fn b3_what_comes_back_to_a_full_queue() {
    for (overflow, died) in [
        (Overflow::DropHead, vec![1]),
        (Overflow::RejectPublish, vec![]),
        (Overflow::RejectPublishDlx, vec![]),
    ] {
        let mut bench = full_at(2, overflow, true);
        try_publish(&mut bench, b"1");
        let got = bench.get().expect("a message");
        assert!(try_publish(&mut bench, b"2") && try_publish(&mut bench, b"3"));
        bench.return_as(Return::Released, &got);
        let left = (1..=3).filter(|sequence| !died.contains(sequence)).collect();
        assert_eq!(outcome(&mut bench), (died, left), "{overflow:?}");
    }
}

#[test]
fn b3_the_head_of_a_queue_with_priorities_is_its_highest() {
    let arguments = QueueArguments { max_length: Some(2), max_priority: Some(5), ..dead_lettering() };
    let mut bench = Bench::new(arguments, 1, 1 << 20);
    for priority in [1, 5, 0] {
        bench.publish_for(NEVER, message(false, priority));
    }
    assert_eq!(outcome(&mut bench), (vec![2], vec![1, 3]));
}

#[test]
fn b3_what_is_out_or_held_or_dead_does_not_count() {
    let retry =
        Retry { schedule: Schedule::Delays([100].into()), on: RetryOn::All, jitter: 0.0, limit: None };
    let base = QueueArguments { retry: Some(retry), ..dead_lettering() };
    let arguments = QueueArguments { max_length: Some(1), overflow: Overflow::RejectPublish, ..base };
    let mut bench = Bench::of(true, arguments, 1, 1 << 20);
    assert!(try_publish(&mut bench, b"1"));
    let first = bench.get().expect("a message");
    assert!(try_publish(&mut bench, b"2"));
    bench.return_as(Return::Failed, &first);
    assert_eq!(bench.ready(), 1);
    let second = bench.get().expect("a message");
    assert!(try_publish(&mut bench, b"3"), "1 is held and 2 is out");
    bench.reject_at(second.slot, 2);
    assert_eq!(bench.letters_for(Rejected), [2]);
    assert!(!try_publish(&mut bench, b"4"));
    bench.wait_until(100);
    assert_eq!(bench.drain(), [(1, true), (3, false)], "it comes back all the same");
}

#[test]
fn b3_a_full_queue_that_expires_has_room() {
    let base = QueueArguments { message_ttl_ms: Some(10), ..dead_lettering() };
    let arguments = QueueArguments { max_length: Some(1), overflow: Overflow::RejectPublish, ..base };
    let mut bench = Bench::new(arguments, 1, 1 << 20);
    assert!(try_publish(&mut bench, b"1"));
    bench.set_now(9);
    assert!(!try_publish(&mut bench, b"2"));
    bench.set_now(10);
    assert!(try_publish(&mut bench, b"3"), "no timer has gone off");
}

#[test]
fn b1_a_rejected_message_is_dead() {
    for letters in [false, true] {
        let mut bench = full_at(9, Overflow::DropHead, letters);
        try_publish(&mut bench, b"1");
        let got = bench.get().expect("a message");
        assert!(bench.reject_at(got.slot, 1) && !bench.reject_at(got.slot, 1), "once");
        assert_eq!(bench.letters(), if letters { vec![(1, Rejected)] } else { vec![] });
        assert_eq!(bench.facts(), ["delivered 1", "settle [1] 1"]);
    }
}

fn limited(kind: QueueKind, limit: Option<u64>) -> Bench {
    let arguments = QueueArguments { kind, delivery_limit: limit, ..dead_lettering() };
    let mut bench = Bench::of(true, arguments, 1, 1 << 20);
    bench.publish_all([message(true, 0)]);
    bench
}

#[test]
fn b1_which_returns_count_as_failed() {
    use QueueKind::*;
    let rows = [
        (Classic, None, Return::Failed, 0),
        (Classic, Some(9), Return::Failed, 1),
        (Classic, Some(9), Return::Released, 0),
        (Classic, Some(9), Return::Unseen, 0),
        (Quorum, None, Return::Failed, 1),
        (Quorum, Some(9), Return::Failed, 1),
        (Quorum, Some(9), Return::Released, 0),
        (Quorum, Some(9), Return::Unseen, 0),
    ];
    for (kind, limit, how, counted) in rows {
        let mut bench = limited(kind, limit);
        let got = bench.get().expect("a message");
        bench.return_as(how, &got);
        let got = bench.get().expect("the message again");
        let row = format!("{kind:?} {limit:?} {how:?}");
        assert_eq!(
            (got.entry.delivery_count, got.entry.redelivered),
            (counted, how != Return::Unseen),
            "{row}"
        );
        let is_told = bench.facts().iter().any(|fact| fact == "return [1]");
        assert_eq!(is_told, counted > 0, "{row}");
    }
}

#[test]
fn b1_one_failure_too_many_is_the_end() {
    for (kind, limit) in
        [(QueueKind::Classic, 0), (QueueKind::Classic, 2), (QueueKind::Quorum, 0), (QueueKind::Quorum, 3)]
    {
        let mut bench = limited(kind, Some(limit));
        for failed in 0..=limit {
            let got = bench.get().expect("within the limit");
            assert_eq!(u64::from(got.entry.delivery_count), failed);
            bench.return_as(Return::Released, &got);
            let got = bench.get().expect("that does not count");
            bench.return_as(Return::Failed, &got);
        }
        assert_eq!((bench.ready(), bench.letters_for(DeliveryLimit)), (0, vec![1]), "{kind:?} {limit}");
    }
}

#[test]
fn a_dead_letter_that_nobody_took_is_kept_and_offered_again() {
    let mut bench = limited(QueueKind::Quorum, Some(0));
    bench.facts();
    let got = bench.get().expect("a message");
    bench.return_as(Return::Failed, &got);
    for round in 1..4 {
        let Letter { entry, cause, .. } = bench.effects.letters.pop().expect("it is dead");
        assert_eq!((entry.sequence, cause), (1, Cause::Death(DeliveryLimit)));
        bench.handle.lock().retain(entry, DeliveryLimit, &bench.handle, &mut bench.effects);
        assert_eq!(bench.ready(), 0);
        assert!(bench.effects.facts.iter().any(
            |fact| matches!(fact, Fact::Hold { until_ms, death: 4, .. } if *until_ms == round * DEAD_LETTER_RETRY_MS)
        ));
        bench.wait_until(round * DEAD_LETTER_RETRY_MS - 1);
        assert!(bench.effects.letters.is_empty());
        bench.wait_until(round * DEAD_LETTER_RETRY_MS);
    }
    assert_eq!(bench.letters_for(DeliveryLimit), [1]);
}

#[test]
fn dead_letters_that_were_kept_are_offered_in_order_even_from_the_log() {
    let arguments = QueueArguments { delivery_limit: Some(0), ..dead_lettering() };
    let mut bench = paging::paging(false, arguments);
    bench.publish(5);
    let got: Vec<_> = (0..5).filter_map(|_| bench.get()).collect();
    got.iter().for_each(|got| bench.return_as(Return::Failed, got));
    bench.pager.set_window_bytes(0);
    for Letter { entry, .. } in std::mem::take(&mut bench.effects.letters) {
        bench.handle.lock().retain(entry, DeliveryLimit, &bench.handle, &mut bench.effects);
    }
    assert_eq!(bench.pager.resident_bytes(), 0);
    bench.wait_until(DEAD_LETTER_RETRY_MS);
    bench.serve_all();
    assert_eq!(bench.letters_for(DeliveryLimit), [1, 2, 3, 4, 5]);
}
