//! Bounds: what a client may not do to the broker's memory, and how it is made to wait.

use super::*;
use crate::broker::alarm::Resource;

#[test]
fn channel_max_is_a_number_of_channels() {
    let mut script = Script::open_with(&broker(limits()), wire::tune_ok(2, 131_072, 0));
    script.open_channel(1);
    script.open_channel(9);
    script.send(1, wire::channel_close());
    script.expect(Event::bare(1, 20, 41));
    script.open_channel(5);
    script.send(6, wire::channel_open());
    let text = "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)";
    script.expect_connection_close(530, text);
}

#[test]
fn limits_of_the_node_and_of_a_channel_are_kept() {
    let few = Limits {
        connections_max: Some(1),
        consumers_per_channel_max: Some(1),
        queues_max: Some(1),
        ..limits()
    };
    let broker = broker(few);
    let mut script = Script::with_channel(&broker);
    script.declare("q", 0);
    script.send(1, wire::declare_queue("r", 0));
    let text = "PRECONDITION_FAILED - cannot declare queue 'r': queue limit in cluster (1) is reached";
    script.expect_channel_close(1, 406, text);
    script.send(1, wire::channel_close_ok());
    script.open_channel(1);
    let mut second = Script::accepted(&broker, "127.0.0.1:1");
    second.raw(wire::HEADER);
    for method in [wire::start_ok("guest", "guest", &[]), wire::tune_ok(1, 4096, 0), wire::open("/")] {
        second.events.clear();
        second.send(0, method);
    }
    let text = "NOT_ALLOWED - connection refused: node connection limit (1) is reached";
    second.expect_connection_close(530, text);
    script.send(1, wire::consume("q", "c", 0));
    script.expect_ids(1, (60, 21));
    script.send(1, wire::consume("q", "d", 0));
    script.expect_connection_close(530, "NOT_ALLOWED - reached maximum (1) of consumers per channel");
    drop(script);
    let mut third = Script::with_channel(&broker);
    third.send(1, wire::delete_queue("q"));
    third.expect_ids(1, (50, 41));
    third.declare("r", 0);
}

#[test]
fn a1_3_a_frame_before_login_is_small() {
    let mut script = Script::accepted(&broker(limits()), "127.0.0.1:1");
    script.raw(wire::HEADER);
    script.next();
    script.raw(&[1, 0, 0, 0, 0, 0x20, 1]);
    script
        .expect_connection_close(501, "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,8193,8184}");
}

#[test]
fn nested_tables_and_forged_sizes_before_login_are_refused() {
    let mut nested = Vec::new();
    for _ in 0..1000 {
        let len = u32::try_from(nested.len()).expect("small");
        nested = wire::field("", b'F', &[&len.to_be_bytes()[..], &nested].concat());
    }
    let forged = [&1000_u32.to_be_bytes()[..], b"\x01aS"].concat();
    for (payload, code) in [
        (wire::start_ok_with(&nested, "PLAIN", b"\0guest\0guest").0, 502),
        (wire::start_ok_with(b"\x01aS\xFF\xFF\xFF\xFF", "PLAIN", b"\0guest\0guest").0, 502),
        (wire::start_ok_with(b"\x01aA\x00\x00\x00\xFF", "PLAIN", b"\0guest\0guest").0, 502),
        ([&Method::new(10, 11).0[..], &forged].concat(), 501),
        (wire::start_ok_with(&[], "AMQPLAIN", &nested).0, 502),
    ] {
        let mut script = Script::accepted(&broker(limits()), "127.0.0.1:1");
        script.raw(wire::HEADER);
        script.next();
        script.raw(&wire::frame(1, 0, &payload));
        let event = script.next();
        assert!(
            matches!(&event, Some(Event::ConnectionClose { code: got, .. }) if *got == code || *got == 502),
            "{event:?}"
        );
    }
}

#[test]
fn nested_headers_are_refused() {
    let mut nested = Vec::new();
    for _ in 0..1000 {
        let len = u32::try_from(nested.len()).expect("small");
        nested = wire::field("", b'F', &[&len.to_be_bytes()[..], &nested].concat());
    }
    let properties = [&[0x20, 0][..], &(nested.len() as u32).to_be_bytes(), &nested].concat();
    let mut script = Script::with_channel(&broker(limits()));
    script.publish(1, "", "q", 0, &properties, b"x");
    assert!(matches!(script.next(), Some(Event::ConnectionClose { code: 502, .. })));
}

#[test]
fn an_announced_body_takes_memory_only_as_it_comes() {
    let mut script = Script::with_channel(&broker(limits()));
    for channel in 2..=500 {
        script.open_channel(channel);
        script.send(channel, wire::publish_method("", "q", 0));
        script.raw(&wire::frame(2, channel, &wire::content_header(4 << 20, wire::TRANSIENT)));
    }
    script.expect_nothing();
    assert_eq!(script.session.input().len(), 0);
}

#[test]
fn a_client_that_asks_and_does_not_read_is_not_heard_any_more() {
    let mut script = Script::with_channel(&broker(limits()));
    script.declare("q", 0);
    let body = vec![7; 100_000];
    for _ in 0..40 {
        script.publish(1, "", "q", 0, wire::TRANSIENT, &body);
    }
    let asked = wire::get("q", false).on(1).repeat(40);
    script.feed(&asked);
    assert!(!script.session.wants_input());
    for _ in 0..40 {
        script.session.handle_wake(script.now());
    }
    let len = script.session.output().len();
    assert!((1 << 20..(1 << 20) + 300_000).contains(&len), "{len}");
    for _ in 0..10 {
        script.read();
        script.session.handle_wake(script.now());
    }
    assert_eq!(script.events.len(), 40, "all of it, once it reads");
    assert!(script.session.wants_input());
}

#[test]
fn prefetch_zero_is_bounded_by_the_outbox() {
    let broker = broker(limits());
    let mut publisher = Script::with_channel(&broker);
    publisher.declare("q", 0);
    let mut slow = Script::with_channel(&broker);
    slow.send(1, wire::consume("q", "c", wire::NO_ACK));
    slow.expect_ids(1, (60, 21));
    for _ in 0..500 {
        publisher.publish(1, "", "q", 0, wire::TRANSIENT, &[7; 10_000]);
        slow.session.handle_wake(slow.now());
    }
    let ready = publisher.count("q");
    assert!(ready > 440, "only {} went out of the queue", 500 - ready);
    assert!(slow.session.output().len() < 300_000);
    // Another consumer is not held up by it.
    let mut quick = Script::with_channel(&broker);
    quick.send(1, wire::consume("q", "c", wire::NO_ACK));
    quick.expect_ids(1, (60, 21));
    for _ in 0..1000 {
        quick.wake();
    }
    assert_eq!(quick.events.len() as u32, ready);
    for _ in 0..10 {
        slow.wake();
    }
    assert_eq!(slow.events.len() as u32, 500 - ready, "and nothing is lost");
}

#[test]
fn a2_a_publisher_is_blocked_by_an_alarm_and_others_are_not() {
    let broker = broker(limits());
    let mut publisher = Script::with_channel(&broker);
    publisher.declare("q", 0);
    let mut idle = Script::with_channel(&broker);
    broker.alarms.set(Resource::Memory, true);
    publisher.publish(1, "", "q", 0, wire::TRANSIENT, b"x");
    assert_eq!(publisher.expect_ids(0, (10, 60)), b"\x0dlow on memory");
    assert!(!publisher.session.wants_input());
    assert!(idle.session.wants_input());
    idle.send(1, wire::get("q", true));
    idle.events.retain(|event| matches!(event, Event::GetOk { .. }));
    assert_eq!(idle.events.len(), 1, "what was sent before it stopped reading counts");
    broker.alarms.set(Resource::Disk, true);
    publisher.wake();
    assert_eq!(publisher.expect_ids(0, (10, 60)), b"\x14low on memory & disk");
    broker.alarms.set(Resource::Memory, false);
    broker.alarms.set(Resource::Disk, false);
    publisher.wake();
    publisher.expect(Event::bare(0, 10, 61));
    assert!(publisher.session.wants_input());
}

#[test]
fn a2_a_publisher_of_before_the_alarm_is_read_from_until_it_publishes_again() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    script.publish(1, "", "q", 0, wire::TRANSIENT, b"x");
    broker.alarms.set(Resource::Memory, true);
    script.wake();
    script.expect_nothing();
    assert!(script.session.wants_input(), "its acknowledgements are what frees memory");
}

#[test]
fn a2_an_alarm_stops_bodies_that_began_before_it() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    script.send(1, wire::publish_method("", "q", 0));
    script.raw(&wire::frame(2, 1, &wire::content_header(1 << 20, wire::TRANSIENT)));
    broker.alarms.set(Resource::Memory, true);
    script.wake();
    script.expect_nothing();
    script.raw(&wire::frame(3, 1, &[0; 1000]));
    assert_eq!(script.expect_ids(0, (10, 60)), b"\x0dlow on memory");
    assert!(!script.session.wants_input());
}

#[test]
fn a2_a_connection_that_opens_during_an_alarm_is_told() {
    let broker = broker(limits());
    broker.alarms.set(Resource::Disk, true);
    let mut script = Script::open(&broker);
    assert_eq!(script.expect_ids(0, (10, 60)), b"\x0blow on disk");
    assert!(script.session.wants_input(), "until it publishes");
}

#[test]
fn a_blocked_publisher_is_not_taken_for_dead() {
    let broker = broker(limits());
    let mut script = Script::open_with(&broker, wire::tune_ok(1, 131_072, 10));
    script.open_channel(1);
    broker.alarms.set(Resource::Memory, true);
    script.publish(1, "", "q", 0, wire::TRANSIENT, b"x");
    script.wait_ms(100_000);
    assert!(!script.session.is_closed());
    broker.alarms.set(Resource::Memory, false);
    script.wake();
    script.wait_ms(20_000);
    assert!(script.session.is_closed());
}

#[test]
fn publishers_wait_for_a_log_that_is_behind() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    script.declare("q", wire::DURABLE);
    script.syncs = false;
    let mut consumer = Script::with_channel(&broker);
    for _ in 0..2 {
        assert!(script.session.wants_input());
        let mut octets = wire::publish_method("", "q", 0).on(1);
        octets.extend(wire::frame(2, 1, &wire::content_header(4 << 20, wire::PERSISTENT)));
        octets.extend([7; 4 << 20].chunks(1 << 16).flat_map(|piece| wire::frame(3, 1, piece)));
        script.raw(&octets);
    }
    assert!(!script.session.wants_input());
    assert!(consumer.session.wants_input());
    consumer.wake();
    script.sync();
    script.wake();
    assert!(script.session.wants_input());
}
