//! Nothing is answered before the log has it: the log is driven by hand here.

use super::*;
use crate::broker::journal::Fact;

/// An open channel; facts become durable only by `sync`.
fn by_hand(broker: &Arc<Broker>) -> Script {
    let mut script = Script::with_channel(broker);
    script.declare("durable", wire::DURABLE);
    script.syncs = false;
    script
}

/// Makes the facts so far durable, and lets the session notice.
fn sync(script: &mut Script) {
    script.sync();
    script.wake();
}

#[test]
fn a_durable_declaration_is_answered_once_it_is_durable() {
    let exchange = wire::declare_exchange("x", "direct", wire::DURABLE);
    for (method, answer) in [
        (wire::declare_queue("new", wire::DURABLE), (50, 11)),
        (exchange, (40, 11)),
        (wire::bind_queue("durable", "amq.topic", "k"), (50, 21)),
        (wire::purge("durable"), (50, 31)),
        (wire::delete_queue("durable"), (50, 41)),
    ] {
        let broker = broker(limits());
        let mut script = by_hand(&broker);
        script.send(1, method);
        script.expect_nothing();
        script.wake();
        script.expect_nothing();
        assert!(!script.session.wants_input(), "what comes next must wait");
        let batch = script.facts().expect("a fact");
        script.wake();
        script.expect_nothing();
        script.mark_durable(&batch);
        script.wake();
        match script.next() {
            Some(Event::Method { ids, .. }) => assert_eq!(ids, answer),
            Some(Event::DeclareOk { .. }) => assert_eq!((50, 11), answer),
            event => panic!("{event:?}"),
        }
        assert!(script.session.wants_input());
    }
}

/// Who does the same again is told no sooner: else a crash could take what was confirmed.
#[test]
fn what_another_has_declared_is_confirmed_once_it_is_durable() {
    for method in [
        wire::declare_queue("new", wire::DURABLE),
        wire::declare_exchange("x", "direct", wire::DURABLE),
        wire::bind_queue("durable", "amq.topic", "k"),
        wire::unbind_queue("bound", "amq.topic", "k"),
        wire::delete_queue("bound"),
    ] {
        let broker = broker(limits());
        let mut first = by_hand(&broker);
        first.syncs = true;
        first.declare("bound", wire::DURABLE);
        first.send(1, wire::bind_queue("bound", "amq.topic", "k"));
        first.expect(Event::bare(1, 50, 21));
        first.syncs = false;
        let mut second = Script::with_channel(&broker);
        second.syncs = false;
        first.send(1, method.clone());
        first.expect_nothing();
        second.send(1, method);
        second.expect_nothing();
        sync(&mut first);
        second.wake();
        assert!(second.next().is_some());
    }
}

#[test]
fn what_is_not_durable_is_answered_at_once() {
    let mut script = by_hand(&broker(limits()));
    script.declare("transient", 0);
    script.declare("mine", wire::DURABLE | wire::EXCLUSIVE);
    script.send(1, wire::bind_queue("transient", "amq.topic", "k"));
    script.expect(Event::bare(1, 50, 21));
    script.send(1, wire::confirm_select());
    script.expect(Event::bare(1, 85, 11));
    script.publish(1, "", "durable", 0, wire::TRANSIENT, b"x");
    script.publish(1, "", "transient", 0, wire::PERSISTENT, b"x");
    script.expect(Event::Ack { channel: 1, tag: 1, multiple: false });
    script.expect(Event::Ack { channel: 1, tag: 2, multiple: false });
    assert!(script.facts().is_none());
}

#[test]
fn a_wake_up_in_between_changes_nothing() {
    let mut script = by_hand(&broker(limits()));
    script.raw(
        &[wire::declare_queue("a", wire::DURABLE).on(1), wire::declare_queue("b", wire::DURABLE).on(1)]
            .concat(),
    );
    for _ in 0..3 {
        script.wake();
        script.expect_nothing();
    }
    sync(&mut script);
    sync(&mut script);
    for queue in ["a", "b"] {
        script.expect(Event::DeclareOk { channel: 1, queue: queue.into(), messages: 0, consumers: 0 });
    }
    script.expect_nothing();
}

#[test]
fn a7_a_confirm_comes_after_its_fact_and_all_that_are_due_as_one() {
    let mut script = by_hand(&broker(limits()));
    script.send(1, wire::confirm_select());
    script.expect(Event::bare(1, 85, 11));
    let publish = |body: &[u8]| wire::publish(1, "", "durable", 0, wire::PERSISTENT, body);
    script.raw(&[publish(b"1"), publish(b"2")].concat());
    let first = script.facts().expect("facts");
    assert_eq!(first.facts.len(), 2);
    script.raw(&publish(b"3"));
    script.publish(1, "", "durable", 0, wire::TRANSIENT, b"4");
    script.wake();
    script.expect_nothing();
    script.mark_durable(&first);
    script.wake();
    script.expect(Event::Ack { channel: 1, tag: 2, multiple: true });
    script.expect_nothing();
    sync(&mut script);
    script.expect(Event::Ack { channel: 1, tag: 4, multiple: true });
    script.expect_nothing();
}

#[test]
fn confirms_of_one_channel_do_not_wait_for_another() {
    let mut script = by_hand(&broker(limits()));
    script.open_channel(2);
    for channel in [1, 2] {
        script.send(channel, wire::confirm_select());
        script.expect(Event::bare(channel, 85, 11));
    }
    script.publish(1, "", "durable", 0, wire::PERSISTENT, b"1");
    script.publish(2, "", "durable", 0, wire::TRANSIENT, b"2");
    script.expect(Event::Ack { channel: 2, tag: 1, multiple: false });
    script.expect_nothing();
    sync(&mut script);
    script.expect(Event::Ack { channel: 1, tag: 1, multiple: false });
}

#[test]
fn the_log_wakes_who_waits_for_it() {
    use std::task::{Wake, Waker};
    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let broker = broker(limits());
    for octets in [
        wire::declare_queue("new", wire::DURABLE).on(1),
        wire::publish(1, "", "durable", 0, wire::PERSISTENT, b"x"),
    ] {
        let mut script = by_hand(&broker);
        script.send(1, wire::confirm_select());
        script.expect(Event::bare(1, 85, 11));
        script.raw(&octets);
        let woken = Arc::new(Woken::default());
        script.session.outbox().set_waker(&Waker::from(Arc::clone(&woken)));
        script.sync();
        assert!(woken.0.load(std::sync::atomic::Ordering::Relaxed));
        script.wake();
        assert!(script.next().is_some());
        script.send(1, wire::delete_queue("new"));
        sync(&mut script);
    }
}

/// What the log is told next.
fn told(script: &Script) -> Vec<Fact> {
    let batch = script.facts().expect("facts");
    script.broker.journal.mark_written(&batch);
    script.broker.journal.mark_durable(batch.last);
    batch.facts
}

#[test]
fn what_needs_no_ack_is_settled_when_it_is_sent() {
    let mut script = by_hand(&broker(limits()));
    script.publish(1, "", "durable", 0, wire::PERSISTENT, b"first");
    script.send(1, wire::get("durable", true));
    script.next();
    let facts = told(&script);
    assert!(matches!(&facts[..], [Fact::Publish { .. }, Fact::Settle { body_bytes: 5, .. }]), "{facts:?}");
    script.send(1, wire::consume("durable", "c", wire::NO_ACK));
    script.expect_ids(1, (60, 21));
    script.publish(1, "", "durable", 0, wire::PERSISTENT, b"second");
    script.wake();
    script.expect_deliveries(&[("second", false)]);
    let facts = told(&script);
    assert!(matches!(&facts[..], [Fact::Publish { .. }, Fact::Settle { body_bytes: 6, .. }]), "{facts:?}");
}

#[test]
fn a7_commit_ok_waits_and_the_facts_are_one_append() {
    let broker = broker(limits());
    let mut script = by_hand(&broker);
    script.publish(1, "", "durable", 0, wire::PERSISTENT, b"old");
    script.send(1, wire::get("durable", false));
    script.next();
    sync(&mut script);
    script.send(1, wire::tx_select());
    script.expect(Event::bare(1, 90, 11));
    script.publish(1, "", "durable", 0, wire::PERSISTENT, b"1");
    script.publish(1, "", "durable", 0, wire::PERSISTENT, b"2");
    script.send(1, wire::ack(1, false));
    assert!(script.facts().is_none(), "nothing before the commit");
    script.send(1, wire::tx_commit());
    script.expect_nothing();
    let batch = script.facts().expect("facts");
    let kinds = batch.facts.iter().map(|fact| match fact {
        Fact::Publish { queues, .. } => ("publish", queues.len()),
        Fact::Settle { sequences, .. } => ("settle", sequences.len()),
        fact => panic!("{fact:?}"),
    });
    assert_eq!(kinds.collect::<Vec<_>>(), [("publish", 1), ("publish", 1), ("settle", 1)]);
    script.mark_durable(&batch);
    script.wake();
    script.expect(Event::bare(1, 90, 21));
}

#[test]
fn a7_commit_ok_waits_however_large_the_transaction_is() {
    for count in [511, 512, 513, 1024] {
        let mut script = by_hand(&broker(limits()));
        script.send(1, wire::tx_select());
        script.expect(Event::bare(1, 90, 11));
        for _ in 0..count {
            script.publish(1, "", "durable", 0, wire::PERSISTENT, b"x");
        }
        script.send(1, wire::tx_commit());
        assert_eq!(script.next(), None, "{count} publishes");
        sync(&mut script);
        script.expect(Event::bare(1, 90, 21));
    }
}

#[test]
fn a7_commit_ok_waits_with_a_limit_on_the_channel() {
    let mut script = by_hand(&broker(limits()));
    script.send(1, wire::qos(10, true));
    script.expect(Event::bare(1, 60, 11));
    script.publish(1, "", "durable", 0, wire::PERSISTENT, b"old");
    script.send(1, wire::get("durable", false));
    script.next();
    sync(&mut script);
    script.send(1, wire::tx_select());
    script.expect(Event::bare(1, 90, 11));
    script.publish(1, "", "durable", 0, wire::PERSISTENT, b"x");
    script.send(1, wire::ack(1, false));
    script.send(1, wire::tx_commit());
    script.expect_nothing();
    sync(&mut script);
    script.expect(Event::bare(1, 90, 21));
}

#[test]
fn a7_commit_ok_waits_when_the_transaction_requeues() {
    let mut script = by_hand(&broker(limits()));
    script.publish(1, "", "durable", 0, wire::PERSISTENT, b"old");
    script.send(1, wire::get("durable", false));
    script.next();
    sync(&mut script);
    script.send(1, wire::tx_select());
    script.expect(Event::bare(1, 90, 11));
    script.publish(1, "", "durable", 0, wire::PERSISTENT, b"x");
    script.send(1, wire::nack(1, false, true));
    script.send(1, wire::tx_commit());
    script.expect_nothing();
    sync(&mut script);
    script.expect(Event::bare(1, 90, 21));
}

#[test]
fn a_client_that_is_gone_gets_nothing_and_breaks_nothing() {
    let broker = broker(limits());
    let mut script = by_hand(&broker);
    script.raw(&[wire::declare_queue("a", wire::DURABLE).on(1), wire::channel_close().on(1)].concat());
    let now = script.now();
    script.session.handle_disconnect(now);
    script.sync();
    script.wake();
    script.expect_nothing();
    let mut other = Script::with_channel(&broker);
    assert_eq!(other.count("a"), 0);
}
