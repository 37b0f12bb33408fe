//! Deep queues, with a log and a loader that are driven by hand.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::atomic::{AtomicBool, Ordering},
    task::{Wake, Waker},
};

use super::*;
use crate::broker::{
    journal::Fact,
    pager::{Load, Loaded, LoadedMessage, Served},
    queue::QueueId,
};

/// Messages of which the window holds less than half.
const COUNT: usize = 1000;

/// What a log would have.
#[derive(Default)]
struct Log(BTreeMap<(QueueId, u64), LoadedMessage>);

impl Log {
    /// Writes what there is to write, and says nothing of it.
    fn write(&mut self, broker: &Broker) {
        for fact in broker.journal.try_take_batch().into_iter().flat_map(|batch| batch.facts) {
            let Fact::Publish { message, queues } = fact else { continue };
            for target in queues {
                let (sequence, message) = (target.sequence, message.clone());
                let stored =
                    LoadedMessage { sequence, delivery_count: 0, deadline_ms: crate::broker::NEVER, message };
                self.0.insert((target.queue, target.sequence), stored);
            }
        }
    }

    fn load(&self, load: &Load) -> Result<Loaded, Infallible> {
        let range = self.0.range((load.queue, load.first)..=(load.queue, load.last));
        let messages = range.map(|(_, stored)| stored.clone()).take(load.count_max).collect();
        Ok(Loaded { messages, damaged: 0 })
    }

    /// Serves the queue that asks; whether it has all it asked for.
    fn serve(&self, broker: &Broker) -> bool {
        let queue = broker.pager.try_take().expect("a queue that asks");
        let Ok(served) = broker.serve(&queue, Now::default(), |load| self.load(load));
        served == Served::Whole
    }
}

/// A broker that keeps nothing in memory but windows, and a connection to it whose facts are not written.
fn script() -> Script {
    let broker = broker(limits());
    broker.pager.set_resident_bytes_max(0);
    let mut script = Script::with_channel(&broker);
    script.declare("q", 0);
    script.syncs = false;
    script
}

fn publish_all(script: &mut Script) {
    let publish =
        |number: usize| wire::publish(1, "", "q", 0, wire::TRANSIENT, number.to_string().as_bytes());
    script.raw(&(0..COUNT).flat_map(publish).collect::<Vec<u8>>());
}

/// Expects that many answers to basic.get, from this number on.
#[track_caller]
fn expect_gets(script: &mut Script, numbers: std::ops::Range<usize>) {
    for number in numbers {
        match script.next() {
            Some(Event::GetOk { body, left, .. }) => {
                assert_eq!(String::from_utf8_lossy(&body), number.to_string());
                assert_eq!(left as usize, COUNT - number - 1);
            }
            event => panic!("{event:?} instead of {number}"),
        }
    }
}

/// Takes all that is in memory of the queue by basic.get, and sends one more that has to wait, with something behind it.
fn get_until_held(script: &mut Script) -> usize {
    publish_all(script);
    assert_eq!(script.count("q") as usize, COUNT);
    let mut got = 0;
    while script.session.wants_input() {
        script.send(1, wire::get("q", true));
        got += 1;
    }
    got -= 1;
    assert!((300..600).contains(&got), "{got}");
    expect_gets(script, 0..got);
    script.expect_nothing();
    script.feed(&[wire::get("q", true).on(1), wire::qos(1, false).on(1)].concat());
    got
}

#[test]
fn a_get_of_what_is_on_disk_waits_and_the_rest_of_the_connection_with_it() {
    let mut script = script();
    let mut log = Log::default();
    let got = get_until_held(&mut script);
    script.wake();
    script.expect_nothing();
    log.write(&script.broker);
    assert!(log.serve(&script.broker));
    assert!(script.broker.pager.try_take().is_none(), "it asked once");
    script.wake();
    expect_gets(&mut script, got..got + 2);
    script.expect(Event::bare(1, 60, 11));
    assert!(script.session.wants_input());
}

#[test]
fn a_get_is_woken_when_its_message_has_come() {
    #[derive(Default)]
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let mut script = script();
    get_until_held(&mut script);
    let woken = Arc::new(Woken::default());
    script.session.outbox().set_waker(&Waker::from(Arc::clone(&woken)));
    let mut log = Log::default();
    let queue = script.broker.pager.try_take().expect("a queue that asks");
    let Ok(served) = script.broker.serve(&queue, Now::default(), |load| log.load(load));
    assert_eq!(served, Served::Incomplete, "the log has not written it yet");
    assert!(!woken.0.load(Ordering::Relaxed));
    log.write(&script.broker);
    let Ok(served) = script.broker.serve(&queue, Now::default(), |load| log.load(load));
    assert_eq!(served, Served::Whole);
    assert!(woken.0.load(Ordering::Relaxed));
}

#[test]
fn a_get_that_waits_hears_of_a_purge_and_of_a_deletion() {
    for (method, answer) in [(wire::purge("q"), (50, 31)), (wire::delete_queue("q"), (50, 41))] {
        let mut script = script();
        get_until_held(&mut script);
        let mut other = Script::with_channel(&script.broker);
        other.send(1, method);
        other.expect_ids(1, answer);
        script.wake();
        script.expect_ids(1, (60, 72));
        if answer == (50, 41) {
            script.expect_channel_close(1, 404, "NOT_FOUND - no queue 'q' in vhost '/'");
        } else {
            script.expect_ids(1, (60, 72));
            script.expect(Event::bare(1, 60, 11));
        }
    }
}

#[test]
fn a_connection_may_end_while_it_waits() {
    let mut script = script();
    let got = get_until_held(&mut script);
    let now = script.now();
    script.session.handle_disconnect(now);
    let mut log = Log::default();
    log.write(&script.broker);
    assert!(log.serve(&script.broker));
    let mut other = Script::with_channel(&script.broker);
    assert_eq!(other.count("q") as usize, COUNT - got);
    other.send(1, wire::get("q", true));
    expect_gets(&mut other, got..got + 1);
}

#[test]
fn a_consumer_gets_what_is_on_disk_as_it_comes() {
    let mut script = script();
    publish_all(&mut script);
    script.send(1, wire::consume("q", "c", wire::NO_ACK));
    script.wake();
    script.expect_ids(1, (60, 21));
    let mut log = Log::default();
    log.write(&script.broker);
    while log.serve(&script.broker) {
        script.wake();
        if script.events.len() == COUNT {
            break;
        }
    }
    let bodies: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
    let expected: Vec<_> = bodies.iter().map(|body| (body.as_str(), false)).collect();
    script.expect_deliveries(&expected);
}

#[test]
fn a_confirm_does_not_wait_for_what_is_only_paged() {
    let mut script = script();
    script.send(1, wire::confirm_select());
    script.expect(Event::bare(1, 85, 11));
    publish_all(&mut script);
    let confirmed = std::iter::from_fn(|| script.next()).map(|event| match event {
        Event::Ack { tag, .. } => tag,
        event => panic!("{event:?}"),
    });
    assert_eq!(confirmed.last(), Some(COUNT as u64));
    let batch = script.facts().expect("facts of paging");
    assert!(batch.facts.len() > COUNT / 3);
    assert!(!batch.facts.iter().any(Fact::is_awaited));
}

#[test]
fn what_was_delivered_meanwhile_comes_before_the_answer() {
    let mut script = script();
    script.declare("r", 0);
    script.send(1, wire::consume("r", "c", wire::NO_ACK));
    script.expect_ids(1, (60, 21));
    let mut other = Script::with_channel(&script.broker);
    other.syncs = false;
    let got = get_until_held(&mut script);
    other.publish(1, "", "r", 0, wire::TRANSIENT, b"meanwhile");
    let mut log = Log::default();
    log.write(&script.broker);
    assert!(log.serve(&script.broker));
    script.wake();
    script.expect_deliveries(&[("meanwhile", false)]);
    expect_gets(&mut script, got..got + 2);
}
