//! Nothing is lost and nothing waits for ever, whatever order reads, wake-ups and syncs come in.

use super::*;
use crate::broker::alarm::Resource;
use crate::broker::journal::Fact;
use crate::broker::outbox::{Delivery, Item};

const DECLARE_OK: Seen = (1, 50, 11);

#[test]
fn replies_to_pipelined_declarations_all_come_and_in_order() {
    let broker = broker();
    let mut client = Client::open(&broker, 0);
    client.declare("a", true);
    client.declare("b", true);
    client.declare("c", false);
    client.send();
    assert_eq!(client.seen(), []);
    sync(&broker);
    client.wake();
    sync(&broker);
    client.wake();
    assert_eq!(client.seen(), [DECLARE_OK; 3]);
}

#[test]
fn a_client_that_falls_silent_within_a_frame_is_taken_for_dead() {
    let broker = broker();
    let mut client = Client::open(&broker, 1);
    client.pending = vec![1, 0, 1, 0];
    client.send();
    for ms in (100..=2000).step_by(100) {
        client.now.monotonic_ms = ms;
        client.wake();
        client.session.handle_deadline(client.now);
        client.frames();
    }
    assert!(client.session.is_closed());
}

#[test]
fn a_client_that_reads_nothing_does_not_keep_its_connection() {
    let broker = broker();
    // One that asked to close, one that is told to, and one that is dead.
    let mut asked = Client::open(&broker, 0);
    asked.method(0, 10, 50, &[0, 200, 0, 0, 0, 0, 0]);
    asked.send();
    let mut told = Client::open(&broker, 0);
    told.session.close_forced("shutdown", told.now);
    let mut dead = Client::open(&broker, 1);
    dead.declare("q", false);
    dead.send();
    for mut client in [asked, told, dead] {
        assert!(!client.session.output().is_empty());
        let mut deadlines = 0;
        while let Some(deadline_ms) = client.session.deadline_ms() {
            deadlines += 1;
            assert!(deadlines < 20);
            client.now.monotonic_ms = deadline_ms;
            client.wake();
            client.session.handle_deadline(client.now);
        }
        assert!(client.session.is_closed());
        assert!(client.session.output().is_empty());
    }
}

#[test]
fn a_client_that_is_told_to_close_cannot_put_it_off() {
    let broker = broker();
    let mut client = Client::open(&broker, 0);
    client.session.close_forced("shutdown", client.now);
    client.frames();
    let deadline = client.session.deadline_ms();
    for ms in 1..5 {
        client.now.monotonic_ms = ms;
        client.pending = vec![b'x'; 100];
        client.send();
        assert_eq!(client.session.input().len(), 0);
    }
    assert_eq!(client.seen(), []);
    assert_eq!(client.session.deadline_ms(), deadline);
}

#[test]
fn an_alarm_stops_a_client_in_the_middle_of_its_first_body() {
    let broker = broker();
    broker.alarms.set(Resource::Memory, true);
    let mut client = Client::open(&broker, 0);
    assert!(client.session.wants_input());
    client.method(1, 60, 40, &[&[0, 0][..], &short(""), &short("q"), &[0]].concat());
    client.frame(2, 1, &[&[0, 60, 0, 0][..], &(100u64 << 20).to_be_bytes(), &[0, 0]].concat());
    client.send();
    assert!(!client.session.wants_input());
    broker.alarms.set(Resource::Memory, false);
    client.wake();
    assert!(client.session.wants_input());
}

#[test]
fn a_delivery_that_needs_no_acknowledgement_is_settled_for_the_log_too() {
    let broker = broker();
    let mut client = Client::open(&broker, 0);
    client.declare("q", true);
    client.consume("q", "t", true);
    client.send();
    sync(&broker);
    client.wake();
    (0..3).for_each(|_| client.publish("", "q", true));
    client.send();
    client.wake();
    let facts = broker.journal.try_take_batch().expect("facts").facts;
    let settled = facts.iter().filter_map(|fact| match fact {
        Fact::Settle { sequences, .. } => Some(sequences.as_slice()),
        _ => None,
    });
    assert_eq!(settled.collect::<Vec<_>>(), [[1, 2, 3]]);
}

#[test]
fn a_purge_says_to_the_log_what_stays() {
    let broker = broker();
    let mut client = Client::open(&broker, 0);
    client.declare("q", true);
    client.send();
    sync(&broker);
    client.wake();
    (0..3).for_each(|_| client.publish("", "q", true));
    client.method(1, 60, 70, &[&[0, 0][..], &short("q"), &[0]].concat());
    client.method(1, 50, 30, &[&[0, 0][..], &short("q"), &[0]].concat());
    client.send();
    let facts = broker.journal.try_take_batch().expect("facts").facts;
    let purge = facts.iter().find_map(|fact| match fact {
        Fact::Purge { before, unsettled, .. } => Some((*before, unsettled.as_slice())),
        _ => None,
    });
    assert_eq!(purge, Some((4, &[1][..])));
}

#[test]
fn what_was_never_sent_is_there_again_after_a_disconnect() {
    let broker = broker();
    let mut client = Client::open(&broker, 0);
    client.declare("q", false);
    client.open_channel(2);
    client.method(2, 60, 20, &[&[0, 0][..], &short("q"), &short("t"), &[2, 0, 0, 0, 0]].concat());
    client.publish("", "q", false);
    // The message is in the outbox of its own connection now.
    client.session.input().extend_from_slice(&std::mem::take(&mut client.pending));
    client.session.handle_input(client.now);
    client.session.handle_disconnect(Now::default());
    let host = broker.virtual_host("/").expect("there");
    assert_eq!(host.queue("q").expect("there").lock().ready_count(), 1);
}

#[test]
fn a_panic_under_a_lock_does_not_end_the_process() {
    let broker = broker();
    let mut client = Client::open(&broker, 0);
    client.declare("q", false);
    client.consume("q", "t", true);
    client.send();
    let queue = broker.virtual_host("/").expect("there").queue("q").expect("there");
    let ended = std::thread::spawn(move || {
        let _client = client;
        let _locked = queue.lock();
        panic!("as a defect would");
    });
    assert!(ended.join().is_err());
}

#[test]
fn a_commit_is_answered_once_all_of_it_is_durable() {
    for count in [1, 511, 512, 513, 1024] {
        let broker = broker();
        let mut client = Client::open(&broker, 0);
        client.declare("q", true);
        client.send();
        sync(&broker);
        client.wake();
        client.method(1, 90, 10, &[]);
        for _ in 0..count {
            client.publish("", "q", true);
        }
        client.method(1, 90, 20, &[]);
        client.send();
        assert_eq!(client.seen(), [DECLARE_OK, (1, 90, 11)]);
        sync(&broker);
        client.wake();
        assert_eq!(client.seen(), [(1, 90, 21)]);
    }
}

#[test]
fn what_was_on_its_way_to_a_consumer_does_not_reach_the_next() {
    let broker = broker();
    let mut client = Client::open(&broker, 0);
    client.declare("q", false);
    client.consume("q", "a", true);
    client.publish("", "q", false);
    client.session.input().extend_from_slice(&std::mem::take(&mut client.pending));
    client.session.handle_input(client.now);
    // As a thread does that deletes the queue, or sends a reply, and is slower than the client's cancel.
    let mut late = std::collections::VecDeque::new();
    client.session.outbox().take(&mut late, usize::MAX);
    let Item::Delivery(Delivery { consumer, .. }) = late[0] else { panic!("a delivery") };
    late.push_back(Item::Cancelled(consumer));
    client.method(1, 60, 30, &[&short("a")[..], &[0]].concat());
    client.consume("q", "b", true);
    client.send();
    client.seen();
    late.into_iter().for_each(|item| client.session.outbox().push(item));
    client.wake();
    assert_eq!(client.seen(), []);
    client.publish("", "q", false);
    client.send();
    assert_eq!(client.seen(), [(1, 60, 60)]);
}
