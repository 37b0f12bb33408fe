//! What a session refuses: every reply code once, and what is left standing.

use super::*;

/// Refusals that close the connection: what is sent on channel 1, code, text, class and method.
#[test]
fn connection_errors() {
    let header = |class: u8, weight: u8| {
        let mut payload = wire::content_header(1, wire::TRANSIENT);
        (payload[1], payload[3]) = (class, weight);
        wire::frame(2, 1, &payload)
    };
    let publish = wire::publish_method("", "q", 0).on(1);
    let bad_end = {
        let mut frame = wire::channel_close().on(1);
        *frame.last_mut().expect("an end") = 0;
        frame
    };
    for (octets, code, text, method) in [
        (
            bad_end,
            501,
            "FRAME_ERROR - type 1, all octets = <<0,20,0,40,0,200,3,98,121,101,0,0,0,0>>: {invalid_frame_end_marker,0}",
            (0, 0),
        ),
        (wire::frame(4, 1, b"x"), 501, "FRAME_ERROR - type 4, all octets = <<\"x\">>: unknown_frame", (0, 0)),
        (
            vec![1, 0, 1, 0, 2, 0, 1],
            501,
            "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,131073,131064}",
            (0, 0),
        ),
        (
            [&publish[..], &wire::frame(2, 1, &wire::content_header(1 << 30, &[0, 0]))].concat(),
            501,
            "FRAME_ERROR - content body size 1073741824 exceeds maximum allowed size 536870912",
            (60, 40),
        ),
        (
            [&publish[..], &header(60, 0), &wire::frame(3, 1, b"xy")].concat(),
            501,
            "FRAME_ERROR - content body frame exceeds remaining content size",
            (60, 40),
        ),
        (
            [&publish[..], &wire::frame(2, 1, &wire::content_header(0, &[0x10, 0]))].concat(),
            502,
            "SYNTAX_ERROR - malformed content header",
            (60, 40),
        ),
        (wire::declare_queue_with("q", 0, b"\x01a?").on(1), 502, "SYNTAX_ERROR", (50, 10)),
        (Method::new(99, 1).on(1), 503, "COMMAND_INVALID", (99, 1)),
        (
            wire::declare_exchange("x", "x-nothing", 0).on(1),
            503,
            "COMMAND_INVALID - unknown exchange type 'x-nothing'",
            (40, 10),
        ),
        (wire::channel_close_ok().on(1), 503, "COMMAND_INVALID", (20, 41)),
        (wire::channel_open().on(1), 504, "CHANNEL_ERROR - second 'channel.open' seen", (20, 10)),
        (wire::qos(1, false).on(2), 504, "CHANNEL_ERROR - expected 'channel.open'", (60, 10)),
        (
            wire::frame(3, 2, b""),
            505,
            "UNEXPECTED_FRAME - expected method frame, got non method frame instead",
            (0, 0),
        ),
        (
            wire::open("/").on(0),
            504,
            "CHANNEL_ERROR - unexpected method in connection state running",
            (10, 40),
        ),
        (
            header(60, 0),
            505,
            "UNEXPECTED_FRAME - expected method frame, got non method frame instead",
            (0, 0),
        ),
        (
            wire::frame(3, 1, b"x"),
            505,
            "UNEXPECTED_FRAME - expected method frame, got non method frame instead",
            (0, 0),
        ),
        (
            [&publish[..], &header(50, 0)].concat(),
            505,
            "UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead",
            (60, 40),
        ),
        (
            [&publish[..], &header(60, 1)].concat(),
            505,
            "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead",
            (60, 40),
        ),
        (
            [&publish[..], &publish].concat(),
            505,
            "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead",
            (60, 40),
        ),
        (
            [&publish[..], &wire::frame(3, 1, b"x")].concat(),
            505,
            "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead",
            (60, 40),
        ),
        (
            [&publish[..], &header(60, 0), &publish].concat(),
            505,
            "UNEXPECTED_FRAME - expected content body, got non content body frame instead",
            (60, 40),
        ),
        (
            [&publish[..], &header(60, 0), &header(60, 0)].concat(),
            505,
            "UNEXPECTED_FRAME - expected content body, got non content body frame instead",
            (60, 40),
        ),
        (wire::frame(3, 0, b"x"), 505, "UNEXPECTED_FRAME - type 3", (0, 0)),
        (
            [
                wire::consume("amq.rabbitmq.reply-to", "t", wire::NO_ACK).on(1),
                wire::consume("q", "t", 0).on(1),
            ]
            .concat(),
            530,
            "NOT_ALLOWED - attempt to reuse consumer tag 't'",
            (60, 20),
        ),
        (wire::recover(false).on(1), 540, "NOT_IMPLEMENTED - requeue=false", (60, 110)),
        (
            Method::new(60, 10).u32(5).u16(0).u8(0).on(1),
            540,
            "NOT_IMPLEMENTED - prefetch_size!=0 (5)",
            (60, 10),
        ),
        (Method::new(20, 20).u8(0).on(1), 540, "NOT_IMPLEMENTED - active=false", (20, 20)),
        (
            wire::publish(1, "", "q", 2, wire::TRANSIENT, b""),
            540,
            "NOT_IMPLEMENTED - immediate=true",
            (60, 40),
        ),
    ] {
        let mut script = Script::with_channel(&broker(limits()));
        script.raw(&octets);
        while matches!(script.events.front(), Some(Event::Method { .. })) {
            script.next();
        }
        match script.next() {
            Some(Event::ConnectionClose { code: got, text: said, method: of }) => {
                assert!(got == code && said.starts_with(text), "{got} {said}\ninstead of {text}");
                assert_eq!(of, method, "{text}");
            }
            event => panic!("{event:?} instead of {code} {text}"),
        }
        script.expect_nothing();
        assert!(!script.session.is_closed(), "it waits for close-ok");
        script.send(0, wire::connection_close_ok());
        assert!(script.session.is_closed());
    }
}

/// Refusals that close the channel: what is sent on it, code, text, class and method.
#[test]
fn channel_errors() {
    for (octets, code, text, method) in [
        (
            wire::declare_queue("amq.mine", 0).on(1),
            403,
            "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
            (50, 10),
        ),
        (
            wire::bind_queue("q", "", "k").on(1),
            403,
            "ACCESS_REFUSED - operation not permitted on the default exchange",
            (50, 20),
        ),
        (wire::get("missing", true).on(1), 404, "NOT_FOUND - no queue 'missing' in vhost '/'", (60, 70)),
        (
            wire::publish(1, "missing", "", 0, wire::TRANSIENT, b"x"),
            404,
            "NOT_FOUND - no exchange 'missing' in vhost '/'",
            (60, 40),
        ),
        (wire::purge("").on(1), 404, "NOT_FOUND - no previously declared queue", (50, 30)),
        (
            wire::get("theirs", true).on(1),
            405,
            "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'theirs' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.",
            (60, 70),
        ),
        (wire::ack(7, false).on(1), 406, "PRECONDITION_FAILED - unknown delivery tag 7", (60, 80)),
        (wire::nack(7, true, true).on(1), 406, "PRECONDITION_FAILED - unknown delivery tag 7", (60, 120)),
        (wire::tx_commit().on(1), 406, "PRECONDITION_FAILED - channel is not transactional", (90, 20)),
        (
            wire::publish(1, "", "q", 0, &[0x10, 0, 9], b"x"),
            406,
            "PRECONDITION_FAILED - invalid message: {delivery_mode_unknown,9}",
            (60, 40),
        ),
        (
            [
                wire::publish_method("", "q", 0).on(1),
                wire::frame(2, 1, &wire::content_header(5 << 20, &[0, 0])),
            ]
            .concat(),
            406,
            "PRECONDITION_FAILED - message size 5242880 is larger than configured max size 4194304",
            (60, 40),
        ),
        (
            wire::declare_queue("q", wire::DURABLE).on(1),
            406,
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'",
            (50, 10),
        ),
    ] {
        let broker = broker(limits());
        let mut other = Script::with_channel(&broker);
        other.declare("theirs", wire::EXCLUSIVE);
        other.declare("q", 0);
        let mut script = Script::with_channel(&broker);
        script.raw(&octets);
        // A text longer than a short string is cut.
        let text = if text.len() > 255 { format!("{}...", &text[..252]) } else { text.to_owned() };
        assert_eq!(script.expect_channel_close(1, code, &text), method);
        script.expect_nothing();
        script.send(1, wire::channel_close_ok());
        script.open_channel(1);
        assert_eq!(script.count("q"), 0);
    }
}

#[test]
fn a_user_is_kept_to_what_is_granted() {
    let mut script = Script::accepted(&broker(limits()), "127.0.0.1:1");
    script.raw(wire::HEADER);
    for method in [wire::start_ok("ann", "ann", &[]), wire::tune_ok(2047, 131_072, 0), wire::open("/")] {
        script.send(0, method);
    }
    script.events.clear();
    script.open_channel(1);
    script.declare("ann's", 0);
    for (octets, what) in [
        (wire::declare_queue("bob's", 0).on(1), "queue 'bob's' in vhost '/'"),
        (wire::purge("bob's").on(1), "queue 'bob's' in vhost '/'"),
        (wire::declare_exchange("bob's", "direct", 0).on(1), "exchange 'bob's' in vhost '/'"),
        (wire::publish(1, "", "ann's", 0, wire::TRANSIENT, b"x"), "exchange 'amq.default' in vhost '/'"),
        (wire::bind_queue("ann's", "amq.direct", "k").on(1), "exchange 'amq.direct' in vhost '/'"),
    ] {
        script.raw(&octets);
        script.expect_channel_close(
            1,
            403,
            &format!("ACCESS_REFUSED - access to {what} refused for user 'ann'"),
        );
        script.send(1, wire::channel_close_ok());
        script.open_channel(1);
    }
}

#[test]
fn a_refused_channel_leaves_the_others_and_their_order_untouched() {
    let mut script = Script::with_channel(&broker(limits()));
    script.open_channel(2);
    script.declare("q", 0);
    script.send(2, wire::consume("q", "c", wire::NO_ACK));
    script.expect_ids(2, (60, 21));
    script.send(2, wire::confirm_select());
    script.expect(Event::bare(2, 85, 11));
    let publish = |body: &[u8]| wire::publish(2, "", "q", 0, wire::TRANSIENT, body);
    // Channel 2 has a content under way while channel 1 is refused.
    let (first, second) = (publish(b"first"), publish(b"second"));
    let cut = second.len() - 4;
    script.raw(&[&first, &second[..cut - 10], &wire::purge("missing").on(1)[..]].concat());
    assert!(
        script.events.iter().any(|event| matches!(event, Event::ChannelClose { channel: 1, code: 404, .. }))
    );
    script.events.retain(|event| !matches!(event, Event::ChannelClose { .. }));
    script.raw(&second[cut - 10..]);
    // What else comes on channel 1 is discarded: no error and no effect.
    script.raw(&wire::publish(1, "", "q", 0, wire::TRANSIENT, b"discarded"));
    script.raw(&publish(b"third"));
    let bodies = script.events.iter().filter_map(|event| match event {
        Event::Deliver { channel: 2, body, .. } => Some(body.as_slice()),
        _ => None,
    });
    assert_eq!(bodies.collect::<Vec<_>>(), [&b"first"[..], b"second", b"third"]);
    let last_confirm = script.events.iter().rev().find_map(|event| match event {
        Event::Ack { channel: 2, tag, .. } => Some(*tag),
        _ => None,
    });
    assert_eq!(last_confirm, Some(3));
}

#[test]
fn publishes_before_a_refusal_count_and_those_after_do_not() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    script.declare("q", 0);
    script.send(1, wire::confirm_select());
    script.next();
    let publish = |exchange, body: &[u8]| wire::publish(1, exchange, "q", 0, wire::TRANSIENT, body);
    script.raw(&[publish("", b"before"), publish("missing", b"bad"), publish("", b"after")].concat());
    script.expect(Event::Ack { channel: 1, tag: 1, multiple: false });
    script.expect_channel_close(1, 404, "NOT_FOUND - no exchange 'missing' in vhost '/'");
    script.expect_nothing();
    script.send(1, wire::channel_close_ok());
    script.open_channel(1);
    script.send(1, wire::get("q", true));
    assert!(matches!(script.next(), Some(Event::GetOk { body, left: 0, .. }) if body == b"before"));
}

#[test]
fn a5_who_names_a_dead_letter_exchange_must_read_the_queue_and_write_to_the_exchange() {
    let all = ("^ann", "^ann", "^ann");
    let arguments = wire::text_field("x-dead-letter-exchange", "ann-x");
    for ((configure, write, read), refused) in [
        (("^none", "^none", "^none"), Some("queue 'ann-q'")),
        (("^ann", "^none", "^none"), Some("queue 'ann-q'")),
        (("^ann", "^none", "^ann"), Some("exchange 'ann-x'")),
        (all, None),
    ] {
        let broker = broker(limits());
        broker.grant("ann", "/", Permission::new(configure, write, read).expect("patterns"));
        let mut script = Script::accepted(&broker, "127.0.0.1:50000");
        script.raw(wire::HEADER);
        script.send(0, wire::start_ok("ann", "ann", &[]));
        script.send(0, wire::tune_ok(2047, 131_072, 0));
        script.send(0, wire::open("/"));
        for ids in [(10, 10), (10, 30), (10, 41)] {
            script.expect_ids(0, ids);
        }
        script.open_channel(1);
        script.send(1, wire::declare_queue_with("ann-q", 0, &arguments));
        match refused {
            Some(resource) => {
                let text =
                    format!("ACCESS_REFUSED - access to {resource} in vhost '/' refused for user 'ann'");
                assert_eq!(script.expect_channel_close(1, 403, &text), (50, 10));
            }
            None => assert!(matches!(script.next(), Some(Event::DeclareOk { .. }))),
        }
    }
}
