//! How channels and connections end, and what they give back.

use super::*;

/// A queue with these messages, the first `unacked` of them delivered to the script.
fn with_unacked(broker: &Arc<Broker>, bodies: &[&str], unacked: u16) -> Script {
    let mut script = Script::with_channel(broker);
    script.declare("q", 0);
    for body in bodies {
        script.publish(1, "", "q", 0, wire::TRANSIENT, body.as_bytes());
    }
    script.send(1, wire::qos(unacked, false));
    script.send(1, wire::consume("q", "c", 0));
    script.expect(Event::bare(1, 60, 11));
    script.expect_ids(1, (60, 21));
    let expected: Vec<_> = bodies.iter().take(unacked.into()).map(|body| (*body, false)).collect();
    script.expect_deliveries(&expected);
    script
}

#[test]
fn a2_close_is_answered_and_everything_goes_back() {
    let broker = broker(limits());
    let mut script = with_unacked(&broker, &["one", "two", "three"], 2);
    script.send(1, wire::declare_queue("mine", wire::EXCLUSIVE));
    script.next();
    script.send(0, wire::connection_close());
    script.expect(Event::bare(0, 10, 51));
    assert!(script.session.is_closed());
    let mut other = Script::with_channel(&broker);
    other.send(1, wire::consume("q", "c", 0));
    other.expect_ids(1, (60, 21));
    other.expect_deliveries(&[("one", true), ("two", true), ("three", false)]);
    other.send(1, wire::declare_queue("mine", wire::PASSIVE));
    other.expect_channel_close(1, 404, "NOT_FOUND - no queue 'mine' in vhost '/'");
}

#[test]
fn a_disconnect_gives_everything_back_too() {
    for drops in [false, true] {
        let broker = broker(limits());
        let mut script = with_unacked(&broker, &["one", "two"], 1);
        script.send(1, wire::declare_queue("mine", wire::EXCLUSIVE));
        if drops {
            drop(script);
        } else {
            let now = script.now();
            script.session.handle_disconnect(now);
        }
        let mut other = Script::with_channel(&broker);
        other.send(1, wire::get("q", true));
        assert!(matches!(other.next(), Some(Event::GetOk { redelivered: true, body, .. }) if body == b"one"));
        other.send(1, wire::get("q", true));
        assert!(
            matches!(other.next(), Some(Event::GetOk { redelivered: false, body, .. }) if body == b"two")
        );
        other.send(1, wire::declare_queue("mine", wire::PASSIVE));
        other.expect_channel_close(1, 404, "NOT_FOUND - no queue 'mine' in vhost '/'");
    }
}

#[test]
fn a_channel_that_closes_gives_its_deliveries_back() {
    let broker = broker(limits());
    let mut script = with_unacked(&broker, &["one", "two"], 1);
    script.send(1, wire::channel_close());
    script.expect(Event::bare(1, 20, 41));
    script.open_channel(1);
    assert_eq!(script.count("q"), 2);
}

#[test]
fn deliveries_that_were_never_read_go_back_as_well() {
    let broker = broker(limits());
    let mut publisher = Script::with_channel(&broker);
    publisher.declare("q", 0);
    for no_ack in [0, wire::NO_ACK] {
        let mut script = Script::with_channel(&broker);
        script.send(1, wire::consume("q", "c", no_ack));
        script.expect_ids(1, (60, 21));
        // They wait in the outbox: the session does not wake up any more.
        publisher.publish(1, "", "q", 0, wire::TRANSIENT, b"one");
        publisher.publish(1, "", "q", 0, wire::TRANSIENT, b"two");
        assert_eq!(publisher.count("q"), 0);
        let now = script.now();
        script.session.handle_disconnect(now);
        assert_eq!(publisher.count("q"), 2);
        for expected in [&b"one"[..], b"two"] {
            publisher.send(1, wire::get("q", true));
            assert!(matches!(publisher.next(), Some(Event::GetOk { body, .. }) if body == expected));
        }
    }
}

#[test]
fn a1_12_a_closing_channel_discards_everything_but_close() {
    let mut script = Script::with_channel(&broker(limits()));
    script.declare("q", 0);
    script.send(1, wire::purge("missing"));
    script.expect_channel_close(1, 404, "NOT_FOUND - no queue 'missing' in vhost '/'");
    script.send(1, wire::declare_queue("never", 0));
    script.publish(1, "", "q", 0, wire::TRANSIENT, b"never");
    script.expect_nothing();
    script.send(1, wire::channel_close());
    script.expect(Event::bare(1, 20, 41));
    script.send(1, wire::channel_close_ok());
    script.expect_nothing();
    script.open_channel(1);
    assert_eq!(script.count("q"), 0);
    script.send(1, wire::declare_queue("never", wire::PASSIVE));
    script.expect_channel_close(1, 404, "NOT_FOUND - no queue 'never' in vhost '/'");
}

#[test]
fn a1_12_a_closing_connection_discards_everything_but_close() {
    let mut script = Script::with_channel(&broker(limits()));
    script.send(2, wire::qos(1, false));
    script.expect_connection_close(504, "CHANNEL_ERROR - expected 'channel.open'");
    script.send(1, wire::declare_queue("never", 0));
    script.raw(&wire::frame(3, 7, &[0; 100_000]));
    script.expect_nothing();
    script.send(0, wire::connection_close());
    script.expect(Event::bare(0, 10, 51));
    script.send(0, wire::connection_close_ok());
    assert!(script.session.is_closed());
}

#[test]
fn a_client_that_does_not_answer_close_is_cut_off_after_ten_seconds() {
    let mut script = Script::with_channel(&broker(limits()));
    script.send(2, wire::qos(1, false));
    script.next();
    script.wait_ms(9_999);
    assert!(!script.session.is_closed());
    script.wait_ms(1);
    assert!(script.session.is_closed());
}

#[test]
fn a_client_that_does_not_read_close_is_cut_off_and_its_output_dropped() {
    let mut script = Script::with_channel(&broker(limits()));
    script.feed(&wire::qos(1, false).on(2));
    script.now_ms += 10_000;
    script.session.handle_deadline(script.now());
    assert!(script.session.is_closed() && script.session.output().is_empty());
}

#[test]
fn a_closing_connection_does_not_wait_for_a_frame_that_is_too_large() {
    let mut script = Script::with_channel(&broker(limits()));
    script.send(2, wire::qos(1, false));
    script.next();
    script.raw(&[3, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF]);
    for _ in 0..64 {
        script.raw(&[0; 65536]);
    }
    assert!(script.session.input().len() <= 131_072 + 65_536, "{}", script.session.input().len());
}

#[test]
fn garbage_does_not_put_the_end_of_a_closing_connection_off() {
    let mut script = Script::with_channel(&broker(limits()));
    script.send(2, wire::qos(1, false));
    script.next();
    for _ in 0..10 {
        script.wait_ms(1_000);
        script.raw(&wire::frame(99, 0, b"garbage"));
    }
    script.expect_nothing();
    assert!(script.session.is_closed());
}

#[test]
fn a_broker_that_stops_says_so() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    script.session.close_forced("shutdown", script.now());
    script.read();
    let text = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";
    assert_eq!(script.expect_connection_close(320, text), (0, 0));
    script.send(0, wire::connection_close_ok());
    assert!(script.session.is_closed());
    let mut early = Script::accepted(&broker, "127.0.0.1:1");
    early.session.close_forced("shutdown", early.now());
    assert!(early.session.is_closed());
}

#[test]
fn a_deleted_queue_cancels_its_consumers_elsewhere() {
    let broker = broker(limits());
    let mut script = with_unacked(&broker, &["one"], 1);
    let mut other = Script::with_channel(&broker);
    other.send(1, wire::delete_queue("q"));
    other.expect_ids(1, (50, 41));
    script.wake();
    assert_eq!(script.expect_ids(1, (60, 30)), [&b"\x01c"[..], &[1]].concat());
    // Its unacked delivery may still be settled.
    script.send(1, wire::ack(1, false));
    script.expect_nothing();
}

#[test]
fn an_auto_delete_queue_goes_with_its_last_consumer() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    script.declare("q", wire::AUTO_DELETE);
    let mut other = Script::with_channel(&broker);
    for client in [&mut script, &mut other] {
        client.send(1, wire::consume("q", "c", 0));
        client.expect_ids(1, (60, 21));
    }
    script.send(1, wire::cancel("c"));
    script.expect_ids(1, (60, 31));
    assert_eq!(script.count("q"), 0);
    drop(other);
    script.send(1, wire::declare_queue("q", wire::PASSIVE));
    script.expect_channel_close(1, 404, "NOT_FOUND - no queue 'q' in vhost '/'");
}
