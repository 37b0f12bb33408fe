//! From the protocol header to `connection.open`, and heartbeats.

use super::*;
use crate::{
    amqp::{Table, Value},
    broker::connections::TlsStatus,
};

/// What `connection.start` says before its mechanisms and locales: the version and the properties.
fn start(arguments: &[u8]) -> ((u8, u8), Table, String) {
    let size = u32::from_be_bytes(arguments[2..6].try_into().expect("four octets")) as usize;
    let properties = Table::decode(&arguments[6..6 + size]).expect("a table");
    ((arguments[0], arguments[1]), properties, String::from_utf8_lossy(&arguments[6 + size..]).into_owned())
}

#[test]
fn a2_start_says_who_we_are_and_what_we_can() {
    let mut script = Script::accepted(&broker(limits()), "127.0.0.1:1");
    script.raw(wire::HEADER);
    let (version, properties, rest) = start(&script.expect_ids(0, (10, 10)));
    assert_eq!(version, (0, 9));
    assert!(rest.contains("PLAIN") && rest.contains("AMQPLAIN") && rest.ends_with("en_US"));
    assert_eq!(properties.get("product").and_then(Value::as_str), Some("RabbitMQ"));
    assert_eq!(properties.get("version").and_then(Value::as_str), Some("3.13.7"));
    let Some(Value::Table(capabilities)) = properties.get("capabilities") else { panic!("no capabilities") };
    for name in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ] {
        assert_eq!(capabilities.get(name).and_then(Value::as_bool), Some(true), "{name}");
    }
}

#[test]
fn a1_1_older_headers_are_served_too() {
    for (header, version) in [(b"AMQP\x01\x01\x00\x09", (0, 9)), (b"AMQP\x01\x01\x08\x00", (8, 0))] {
        let mut script = Script::accepted(&broker(limits()), "127.0.0.1:1");
        script.raw(header);
        assert_eq!(start(&script.expect_ids(0, (10, 10))).0, version);
    }
}

#[test]
fn a1_1_another_protocol_gets_our_header_and_the_end() {
    for header in [
        &b"AMQP\x03\x01\x00\x00"[..],
        b"AMQP\x00\x01\x00\x00",
        b"AMQP\x00\x00\x0a\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"AMQX",
    ] {
        let mut script = Script::accepted(&broker(limits()), "127.0.0.1:1");
        script.raw(header);
        script.expect(Event::ProtocolHeader(*b"AMQP\x00\x00\x09\x01"));
        assert!(script.session.is_closed() && !script.session.wants_input());
        script.expect_nothing();
    }
}

#[test]
fn a_header_may_come_in_pieces() {
    let mut script = Script::accepted(&broker(limits()), "127.0.0.1:1");
    for octet in &wire::HEADER[..7] {
        script.raw(&[*octet]);
        script.expect_nothing();
    }
    script.raw(&wire::HEADER[7..]);
    script.expect_ids(0, (10, 10));
}

/// Steps of a handshake, each with what is sent.
fn steps() -> Vec<Vec<u8>> {
    vec![
        wire::HEADER.to_vec(),
        wire::start_ok("guest", "guest", &[]).on(0),
        wire::tune_ok(0, 0, 0).on(0)[..9].to_vec(),
    ]
}

#[test]
fn a1_2_a_handshake_takes_at_most_ten_seconds() {
    for count in 0..=steps().len() {
        let mut script = Script::accepted(&broker(limits()), "127.0.0.1:1");
        script.wait_ms(5_000);
        for step in &steps()[..count] {
            script.raw(step);
        }
        script.wait_ms(4_999);
        assert!(!script.session.is_closed(), "after {count} steps");
        script.wait_ms(1);
        assert!(script.session.is_closed(), "after {count} steps");
    }
}

#[test]
fn an_open_connection_has_no_deadline_without_heartbeats() {
    let mut script = Script::open(&broker(limits()));
    assert_eq!(script.session.deadline_ms(), None);
    script.wait_ms(3_600_000);
    assert!(!script.session.is_closed());
}

#[test]
fn a2_tune_proposes_the_limits() {
    let mut script = Script::accepted(&broker(limits()), "127.0.0.1:1");
    script.raw(wire::HEADER);
    script.send(0, wire::start_ok("guest", "guest", &[]));
    script.next();
    let tune = script.expect_ids(0, (10, 30));
    assert_eq!(Method([&[0, 10, 0, 31], &tune[..]].concat()), wire::tune_ok(2047, 131_072, 60));
}

#[test]
fn a2_tune_ok_may_lower_and_not_raise() {
    for (channel_max, frame_max, refused) in [
        (
            0,
            131_072,
            Some("negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)"),
        ),
        (
            2048,
            131_072,
            Some("negotiated channel_max = 2048 is higher than the maximum allowed value (2047)"),
        ),
        (
            2047,
            0,
            Some("negotiated frame_max = 0 (no limit) is higher than the maximum allowed value (131072)"),
        ),
        (1, 131_073, Some("negotiated frame_max = 131073 is higher than the maximum allowed value (131072)")),
        (1, 4095, Some("negotiated frame_max = 4095 is lower than the minimum allowed value (4096)")),
        (1, 4096, None),
        (2047, 131_072, None),
    ] {
        let mut script = Script::accepted(&broker(limits()), "127.0.0.1:1");
        script.raw(wire::HEADER);
        script.send(0, wire::start_ok("guest", "guest", &[]));
        script.events.clear();
        script.send(0, wire::tune_ok(channel_max, frame_max, 0));
        match refused {
            Some(text) => {
                let method = script.expect_connection_close(530, &format!("NOT_ALLOWED - {text}"));
                assert_eq!(method, (10, 31));
            }
            None => {
                script.expect_nothing();
                script.send(0, wire::open("/"));
                script.expect_ids(0, (10, 41));
            }
        }
    }
}

#[test]
fn a2_a_login_is_refused_in_words_only_to_those_who_understand() {
    let refusal = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the \
                   broker logfile.";
    for (address, user, password) in
        [("127.0.0.1:1", "guest", "wrong"), ("127.0.0.1:1", "nobody", "x"), ("192.0.2.1:1", "guest", "guest")]
    {
        for understands in [false, true] {
            let mut script = Script::accepted(&broker(limits()), address);
            script.raw(wire::HEADER);
            script.next();
            let capabilities: &[&str] = if understands { &["authentication_failure_close"] } else { &[] };
            script.send(0, wire::start_ok(user, password, capabilities));
            if understands {
                script.expect_connection_close(403, refusal);
            } else {
                script.expect_nothing();
                assert!(script.session.is_closed());
            }
        }
    }
}

#[test]
fn a2_a_user_without_loopback_only_may_come_from_afar() {
    let mut script = Script::accepted(&broker(limits()), "192.0.2.1:1");
    script.raw(wire::HEADER);
    script.next();
    let amqplain = [wire::text_field("LOGIN", "ann"), wire::text_field("PASSWORD", "ann")].concat();
    script.send(0, wire::start_ok_with(&[], "AMQPLAIN", &amqplain));
    script.expect_ids(0, (10, 30));
}

#[test]
fn a2_a_bad_mechanism_or_response_is_refused() {
    for (mechanism, response, code, text) in [
        ("EXTERNAL", &b""[..], 503, "COMMAND_INVALID - unknown authentication mechanism 'EXTERNAL'"),
        ("PLAIN", b"guest", 502, "SYNTAX_ERROR - malformed response of mechanism PLAIN"),
        ("AMQPLAIN", b"\x05", 502, "SYNTAX_ERROR"),
    ] {
        let mut script = Script::accepted(&broker(limits()), "127.0.0.1:1");
        script.raw(wire::HEADER);
        script.next();
        script.send(0, wire::start_ok_with(&[], mechanism, response));
        let Some(Event::ConnectionClose { code: got, text: said, .. }) = script.next() else { panic!() };
        assert!(got == code && said.starts_with(text), "{got} {said}");
    }
}

#[test]
fn a2_open_refuses_virtual_hosts() {
    for (host, text) in [
        ("nowhere", "NOT_ALLOWED - vhost nowhere not found"),
        ("closed", "NOT_ALLOWED - access to vhost 'closed' refused for user 'guest'"),
    ] {
        let mut script = Script::accepted(&broker(limits()), "127.0.0.1:1");
        script.raw(wire::HEADER);
        script.send(0, wire::start_ok("guest", "guest", &[]));
        script.send(0, wire::tune_ok(1, 4096, 0));
        script.events.clear();
        script.send(0, wire::open(host));
        assert_eq!(script.expect_connection_close(530, text), (10, 40));
    }
}

#[test]
fn a2_a_method_out_of_turn_is_a_channel_error() {
    for (sent, state) in [(0, "starting"), (1, "tuning"), (2, "opening")] {
        let mut script = Script::accepted(&broker(limits()), "127.0.0.1:1");
        script.raw(wire::HEADER);
        for step in [wire::start_ok("guest", "guest", &[]), wire::tune_ok(1, 4096, 0)].into_iter().take(sent)
        {
            script.send(0, step);
        }
        script.events.clear();
        script.send(0, Method::new(10, 70).long(b"secret").short("reason"));
        let text = format!("CHANNEL_ERROR - unexpected method in connection state {state}");
        script.expect_connection_close(504, &text);
    }
}

#[test]
fn a2_the_whole_handshake_may_come_at_once() {
    let mut script = Script::accepted(&broker(limits()), "127.0.0.1:1");
    let octets = [
        wire::HEADER,
        &wire::start_ok("guest", "guest", &[]).on(0),
        &wire::tune_ok(10, 131_072, 0).on(0),
        &wire::open("/").on(0),
        &wire::channel_open().on(1),
        &wire::publish(1, "", "nowhere", wire::MANDATORY, wire::TRANSIENT, &[7; 100_000]),
    ]
    .concat();
    script.raw(&octets);
    for ids in [(10, 10), (10, 30), (10, 41)] {
        script.expect_ids(0, ids);
    }
    script.expect_ids(1, (20, 11));
    assert!(matches!(script.next(), Some(Event::Return { body, .. }) if body.len() == 100_000));
}

#[test]
fn a1_5_the_server_sends_a_heartbeat_after_half_an_interval_of_silence() {
    let mut script = Script::open_with(&broker(limits()), wire::tune_ok(1, 4096, 10));
    script.wait_ms(4_999);
    script.expect_nothing();
    script.wait_ms(1);
    script.expect(Event::Heartbeat);
    script.wait_ms(3_000);
    script.raw(&wire::heartbeat());
    script.send(1, wire::channel_open());
    script.expect_ids(1, (20, 11));
    script.wait_ms(4_999);
    script.expect_nothing();
    script.wait_ms(1);
    script.expect(Event::Heartbeat);
}

#[test]
fn a1_5_a_client_that_is_silent_for_two_intervals_is_gone() {
    let broker = broker(limits());
    let mut script = Script::open_with(&broker, wire::tune_ok(1, 4096, 10));
    script.wait_ms(19_000);
    script.raw(&wire::heartbeat());
    script.wait_ms(19_999);
    assert!(!script.session.is_closed());
    script.wait_ms(1);
    assert!(script.session.is_closed());
    assert!(script.events.iter().all(|event| *event == Event::Heartbeat), "no AMQP close");
}

#[test]
fn a1_5_a_dead_client_with_half_a_frame_is_gone_too() {
    let broker = broker(limits());
    let mut script = Script::open_with(&broker, wire::tune_ok(1, 4096, 10));
    script.raw(&wire::channel_open().on(1)[..9]);
    for _ in 0..4 {
        script.wait_ms(4_999);
        script.wake();
    }
    script.wait_ms(1_000);
    assert!(script.session.is_closed());
}

#[test]
fn a1_5_a_dead_client_leaves_no_output_behind() {
    let broker = broker(limits());
    let mut script = Script::open_with(&broker, wire::tune_ok(1, 4096, 10));
    script.feed(&wire::channel_open().on(1));
    assert!(!script.session.output().is_empty(), "which nobody reads");
    script.now_ms += 20_000;
    script.session.handle_deadline(script.now());
    assert!(script.session.is_closed() && script.session.output().is_empty());
}

#[test]
fn a1_5_a_heartbeat_belongs_to_the_connection() {
    let mut script = Script::with_channel(&broker(limits()));
    script.raw(&wire::frame(8, 1, &[]));
    script.expect_connection_close(505, "UNEXPECTED_FRAME - type 8, all octets = <<>>");
}

#[test]
fn a2_a_secret_is_updated() {
    let mut script = Script::open(&broker(limits()));
    script.send(0, Method::new(10, 70).long(b"secret").short("it was time"));
    script.expect(Event::bare(0, 10, 71));
}

/// A client that has shown a certificate, or none.
fn over_tls(address: &str, login: Option<&str>) -> Script {
    let tls = TlsStatus { peer_login: login.map(str::to_owned), ..TlsStatus::default() };
    let peer = Peer::new(address.parse().expect("an address"), ([127, 0, 0, 1], 5671).into());
    let peer = Peer { tls: Some(Arc::new(tls)), ..peer };
    let mut script = Script::accepted_from(&broker(limits()), peer);
    script.raw(wire::HEADER);
    script
}

#[test]
fn a_certificate_stands_for_its_user() {
    let mut script = over_tls("127.0.0.1:1", Some("guest"));
    assert!(start(&script.expect_ids(0, (10, 10))).2.contains(" EXTERNAL"));
    script.send(0, wire::start_ok_with(&[], "EXTERNAL", b"somebody else"));
    script.expect_ids(0, (10, 30));
    script.send(0, wire::tune_ok(2047, 131_072, 0));
    script.send(0, wire::open("/"));
    script.expect_ids(0, (10, 41));
}

#[test]
fn a_certificate_of_nobody_or_from_the_wrong_place_is_refused() {
    for (address, login) in [("127.0.0.1:1", "CN=nobody"), ("192.0.2.1:1", "guest")] {
        let mut script = over_tls(address, Some(login));
        script.expect_ids(0, (10, 10));
        let properties = wire::start_ok("", "", &["authentication_failure_close"]).0;
        let length = u32::from_be_bytes(properties[4..8].try_into().expect("four octets")) as usize;
        script.send(0, wire::start_ok_with(&properties[8..8 + length], "EXTERNAL", b""));
        let text = "ACCESS_REFUSED - Login was refused using authentication mechanism EXTERNAL. For details see the broker logfile.";
        let text = text.to_owned();
        script.expect(Event::ConnectionClose { code: 403, text, method: (0, 0) });
    }
}

#[test]
fn external_needs_a_certificate() {
    let mut plain = Script::accepted(&broker(limits()), "127.0.0.1:1");
    plain.raw(wire::HEADER);
    for mut script in [plain, over_tls("127.0.0.1:1", None)] {
        assert!(!start(&script.expect_ids(0, (10, 10))).2.contains("EXTERNAL"));
        script.send(0, wire::start_ok_with(&[], "EXTERNAL", b""));
        let text = "COMMAND_INVALID - unknown authentication mechanism 'EXTERNAL'".to_owned();
        script.expect(Event::ConnectionClose { code: 503, text, method: (10, 11) });
    }
}

#[test]
fn a_client_of_another_protocol_is_recognised() {
    use super::super::handshake::foreign_protocol;
    for (input, expected) in [
        (&b"\x16\x03\x01\x02\x00\x01"[..], "TLS, "),
        (b"GET / HTTP/1.1\r\n", "HTTP, "),
        (b"PROXY TCP4 1.2.3.4", "the PROXY protocol, "),
        (b"\r\n\r\n\x00\r\nQUIT\n", "the PROXY protocol, "),
        (b"AMQP\x03\x01\x00\x00", "AMQP 1.0, "),
        (b"AMQP\x00\x01\x00\x00", "AMQP 1.0, "),
        (b"AMQP\x00\x00\x0a\x00", "another version"),
        (b"\x10\x20\x00\x04MQTT", "what may be MQTT"),
        (b"CONNECT\n", "what may be STOMP"),
        (b"SSH-2.0-x", "something else"),
        (b"", "something else"),
    ] {
        assert!(foreign_protocol(input).starts_with(expected), "{input:?}");
    }
}
