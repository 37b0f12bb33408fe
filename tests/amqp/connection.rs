//! From the first octet to the last: handshake, limits, heartbeats, closing (A1, A2).

use std::time::{Duration, Instant};

use amq_protocol::{
    protocol::{
        basic::{Publish, Return},
        connection::{Close, CloseOk, OpenOk, StartOk, Tune, TuneOk, UpdateSecret, UpdateSecretOk},
        queue::{Declare, DeclareOk},
    },
    types::{AMQPValue, FieldTable},
};

use crate::{
    broker::{TestBroker, is_external, shared},
    wire::{
        HEARTBEAT, Incoming, Login, PROTOCOL_HEADER, Refusal, Wire, ack, declare, method_frame, prefetch,
        publish, text,
    },
};

const LOGIN_REFUSED: &str = "ACCESS_REFUSED - Login was refused using authentication mechanism";

#[test]
fn start_says_what_the_broker_can_do() {
    let broker = shared();
    let (_wire, start) = Wire::started(&broker);
    assert_eq!((start.version_major, start.version_minor), (0, 9));
    assert_eq!(start.locales.to_string(), "en_US");
    let mechanisms = start.mechanisms.to_string();
    let mut mechanisms: Vec<&str> = mechanisms.split(' ').collect();
    mechanisms.sort_unstable();
    assert_eq!(mechanisms, ["AMQPLAIN", "PLAIN"]);
    let properties = start.server_properties.inner();
    for name in ["product", "version", "cluster_name", "platform", "copyright", "information"] {
        assert!(matches!(properties.get(name), Some(AMQPValue::LongString(_))), "{name}");
    }
    assert_eq!(properties.get("product"), Some(&text("RabbitMQ")));
    let Some(AMQPValue::FieldTable(capabilities)) = properties.get("capabilities") else {
        panic!("capabilities")
    };
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
        assert_eq!(capabilities.inner().get(name), Some(&AMQPValue::Boolean(true)), "{name}");
    }
}

#[test]
fn tune_offers_the_defaults() {
    let broker = shared();
    let (_wire, tune) = Wire::tuned(&broker, &Login::default());
    assert_eq!((tune.channel_max, tune.frame_max, tune.heartbeat), (2047, 131_072, 60));
}

#[test]
fn the_header_of_0_9_is_understood() {
    let broker = shared();
    let mut wire = Wire::tcp(&broker);
    wire.raw(b"AMQP\x01\x01\x00\x09");
    let start = wire.expect::<amq_protocol::protocol::connection::Start>(0);
    assert_eq!((start.version_major, start.version_minor), (0, 9));
}

#[test]
fn any_other_header_is_answered_with_ours() {
    let broker = shared();
    for header in [
        b"AMQP\x00\x00\x09\x00",
        b"AMQP\x00\x00\x0A\x00",
        b"AMQP\x00\x01\x00\x00",
        b"AMQP\x03\x01\x00\x00",
        b"AMQP\x02\x01\x00\x00",
        b"GET / HT",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"AMQX\x00\x00\x09\x01",
        b"\0\0\0\0\0\0\0\0",
    ] {
        let mut wire = Wire::tcp(&broker);
        wire.raw(header);
        assert_eq!(wire.next(), Incoming::ProtocolHeader(*PROTOCOL_HEADER), "{header:?}");
        assert_eq!(wire.next(), Incoming::End, "{header:?}");
    }
}

#[test]
fn both_mechanisms_log_in() {
    let broker = shared();
    for (mechanism, response) in
        [("PLAIN", "\0guest\0guest".to_owned()), ("AMQPLAIN", amqplain("guest", "guest"))]
    {
        let (mut wire, _) = Wire::started(&broker);
        wire.start_ok(&[], mechanism, &response);
        wire.expect::<Tune>(0);
    }
}

#[test]
fn any_locale_will_do() {
    let broker = shared();
    for locale in ["", "xx"] {
        let (mut wire, _) = Wire::started(&broker);
        let start_ok = StartOk {
            client_properties: FieldTable::default(),
            mechanism: "PLAIN".into(),
            response: "\0guest\0guest".into(),
            locale: locale.into(),
        };
        wire.send(0, start_ok);
        wire.expect::<Tune>(0);
    }
}

#[test]
fn a_wrong_password_is_403_to_who_can_read_it() {
    let broker = shared();
    for (mechanism, response) in [
        ("PLAIN", "\0guest\0wrong".to_owned()),
        ("PLAIN", "\0nobody\0guest".to_owned()),
        ("PLAIN", "\0guest\0".to_owned()),
        ("AMQPLAIN", amqplain("guest", "wrong")),
    ] {
        let (mut wire, _) = Wire::started(&broker);
        wire.start_ok(&["authentication_failure_close"], mechanism, &response);
        let text = format!("{LOGIN_REFUSED} {mechanism}. For details see the broker logfile.");
        refused(&mut wire, 403, &text, 0, 0);
    }
}

#[test]
fn a_wrong_password_ends_the_stream_of_older_clients() {
    let broker = shared();
    let (mut wire, _) = Wire::started(&broker);
    wire.start_ok(&[], "PLAIN", "\0guest\0wrong");
    assert_eq!(wire.refusal(), Refusal::End);
}

/// Deviation: RabbitMQ ends the stream, we may say why first.
#[test]
fn malformed_logins_are_refused() {
    let broker = shared();
    for (mechanism, response) in [
        ("UNKNOWN", "guest".to_owned()),
        ("plain", "\0guest\0guest".to_owned()),
        ("EXTERNAL", String::new()),
        ("PLAIN", String::new()),
        ("PLAIN", "guest".to_owned()),
        ("PLAIN", "guest\0guest\0guest".to_owned()),
        ("AMQPLAIN", "nonsense".to_owned()),
        ("AMQPLAIN", String::new()),
    ] {
        let (mut wire, _) = Wire::started(&broker);
        wire.start_ok(&["authentication_failure_close"], mechanism, &response);
        match wire.refusal() {
            Refusal::End => {}
            Refusal::Connection(close) => assert!(matches!(close.code, 403 | 502 | 503 | 530), "{close:?}"),
            Refusal::Channel(..) => panic!("there is no channel yet"),
        }
    }
}

#[test]
fn virtual_hosts_that_are_missing_or_not_for_the_user() {
    let broker = shared();
    for (user, vhost, text) in [
        ("guest", "nope", "NOT_ALLOWED - vhost nope not found"),
        ("guest", "", "NOT_ALLOWED - vhost  not found"),
        ("guest", "//", "NOT_ALLOWED - vhost // not found"),
        ("bob", "nope", "NOT_ALLOWED - vhost nope not found"),
        ("guest", "limited", "NOT_ALLOWED - access to vhost 'limited' refused for user 'guest'"),
        ("bob", "limited", "NOT_ALLOWED - access to vhost 'limited' refused for user 'bob'"),
    ] {
        let login = Login { user, password: user, vhost, ..Login::default() };
        refused(&mut Wire::opening(&broker, &login), 530, text, 10, 40);
    }
}

#[test]
fn clients_may_ask_for_less() {
    let broker = shared();
    for (channel_max, frame_max, heartbeat) in [(1, 4096, 0), (2047, 8192, 65_535), (10, 131_072, 1)] {
        let login = Login { channel_max, frame_max, heartbeat, ..Login::default() };
        Wire::login(&broker, &login).open_channel(1);
    }
}

/// Deviation: RabbitMQ ends the stream, we may say why first.
#[test]
fn clients_may_not_ask_for_more() {
    let broker = shared();
    for (channel_max, frame_max) in [(0, 131_072), (2048, 131_072), (2047, 0), (2047, 131_073), (2047, 4095)]
    {
        let login = Login { channel_max, frame_max, ..Login::default() };
        match Wire::opening(&broker, &login).refusal() {
            Refusal::End => {}
            Refusal::Connection(close) => {
                assert_eq!(close.code, 530);
                assert!(close.text.starts_with("NOT_ALLOWED - negotiated "), "{}", close.text);
            }
            Refusal::Channel(..) => panic!("there is no channel yet"),
        }
    }
}

#[test]
fn bodies_are_cut_to_the_frame_size_of_the_receiver() {
    let broker = shared();
    for frame_max in [4096, 131_072] {
        let mut wire = Wire::login(&broker, &Login { frame_max, ..Login::default() });
        wire.open_channel(1);
        let limit = frame_max as usize - 8;
        for size in [1, limit - 1, limit, limit + 1, 3 * limit, 3 * limit + 1] {
            wire.send(1, Publish { mandatory: true, ..publish("", "nowhere") });
            let body: Vec<u8> = (0..size).map(|position| position as u8).collect();
            wire.header(1, size as u64, &Default::default());
            body.chunks(limit).for_each(|part| wire.frame(3, 1, part));
            let returned = wire.expect_content::<Return>(1);
            assert!(returned.body == body, "the body of {size} octets is another");
            assert_eq!(returned.frames, body.chunks(limit).map(<[u8]>::len).collect::<Vec<_>>());
        }
    }
}

#[test]
fn channels_are_interleaved_frame_by_frame() {
    let mut wire = Wire::open(&shared());
    wire.open_channel(2);
    for channel in [1, 2] {
        wire.send(channel, Publish { mandatory: true, ..publish("", "nowhere") });
    }
    for channel in [2, 1] {
        wire.header(channel, 2, &Default::default());
    }
    for (channel, part) in [(1, "a"), (2, "c"), (1, "b"), (2, "d")] {
        wire.frame(3, channel, part.as_bytes());
        wire.frame(HEARTBEAT, 0, b"");
    }
    assert_eq!([wire.event(), wire.event()], [(1, "return ab".to_owned()), (2, "return cd".to_owned())]);
}

#[test]
fn octets_may_come_one_by_one() {
    let mut wire = Wire::open(&shared());
    let mut bytes = method_frame(1, Publish { mandatory: true, ..publish("", "nowhere") });
    bytes.extend(crate::wire::frame(2, 1, &crate::wire::header_payload(2, &Default::default())));
    bytes.extend(crate::wire::frame(3, 1, b"ab"));
    for octet in bytes {
        wire.raw(&[octet]);
    }
    assert_eq!(wire.next_events(1), ["return ab"]);
}

#[test]
fn a_silent_peer_is_given_up_and_a_live_one_kept() {
    let broker = shared();
    let login = Login { heartbeat: 1, ..Login::default() };
    let mut alive = Wire::login(&broker, &login);
    alive.open_channel(1);
    let mut silent = Wire::login(&broker, &login);
    let start = Instant::now();
    let mut heartbeats = 0;
    loop {
        match silent.next_or_heartbeat() {
            Incoming::Heartbeat => heartbeats += 1,
            Incoming::End => break,
            other => panic!("expected heartbeats and the end, got {other:?}"),
        }
        alive.frame(HEARTBEAT, 0, b"");
    }
    let silence = start.elapsed();
    assert!(heartbeats >= 2, "{heartbeats} heartbeats");
    assert!(silence > Duration::from_millis(1500), "given up after {silence:?}");
    assert!(silence < Duration::from_secs(10), "given up after {silence:?}");
    alive.call::<DeclareOk>(1, Declare { exclusive: true, ..declare("") });
}

#[test]
fn close_is_answered_and_the_stream_ends() {
    let mut wire = Wire::open(&shared());
    wire.close();
    wire.finish();
    assert_eq!(wire.next(), Incoming::End);
}

#[test]
fn close_is_answered_after_what_came_before() {
    let mut wire = Wire::open(&shared());
    wire.publish_with(1, publish("missing", "k"), &Default::default(), b"m");
    wire.send(0, Close { reply_code: 200, ..Close::default() });
    assert_eq!(wire.next_events(2), ["Channel.Close", "Connection.CloseOk"]);
}

#[test]
fn both_sides_may_close_at_once() {
    let mut wire = Wire::open(&shared());
    wire.send(1, amq_protocol::protocol::basic::Recover { requeue: false });
    assert!(matches!(wire.refusal(), Refusal::Connection(_)));
    wire.send(1, prefetch(0));
    wire.send(0, Close { reply_code: 200, ..Close::default() });
    wire.expect::<CloseOk>(0);
}

#[test]
fn a_secret_may_be_updated() {
    let mut wire = Wire::open(&shared());
    wire.call::<UpdateSecretOk>(0, UpdateSecret { new_secret: "new".into(), reason: "because".into() });
}

#[test]
fn a_connection_may_end_anywhere() {
    let broker = shared();
    let method = method_frame(1, Declare { exclusive: true, ..declare("") });
    for end in [0, 1, 7, 10, method.len() - 1] {
        let mut wire = Wire::open(&broker);
        wire.raw(&method[..end]);
        wire.finish();
        assert_eq!(wire.refusal(), Refusal::End, "after {end} octets of a frame");
    }
    let mut wire = Wire::tcp(&broker);
    wire.raw(b"AMQ");
    wire.finish();
    Wire::open(&broker).send(1, ack(0));
}

/// Deviation: RabbitMQ ends the stream of who sends the wrong thing before it has logged in.
#[test]
fn methods_out_of_turn_in_the_handshake() {
    let broker = shared();
    let open = amq_protocol::protocol::connection::Open { virtual_host: "/".into() };
    let tune_ok = TuneOk { channel_max: 1, frame_max: 4096, heartbeat: 0 };
    type Step<'a> = (&'a str, &'a dyn Fn() -> Wire, Vec<u8>);
    let steps: [Step<'_>; 6] = [
        ("open before start-ok", &|| Wire::started(&broker).0, method_frame(0, open.clone())),
        ("tune-ok before start-ok", &|| Wire::started(&broker).0, method_frame(0, tune_ok)),
        ("channel.open before start-ok", &|| Wire::started(&broker).0, method_frame(1, channel_open())),
        ("body before start-ok", &|| Wire::started(&broker).0, crate::wire::frame(3, 0, b"m")),
        ("open before tune-ok", &|| Wire::tuned(&broker, &Login::default()).0, method_frame(0, open)),
        ("too large before start-ok", &|| Wire::started(&broker).0, vec![1, 0, 0, 0, 1, 0, 1]),
    ];
    for (name, wire, bytes) in steps {
        let mut wire = wire();
        wire.raw(&bytes);
        match wire.refusal() {
            Refusal::End => {}
            Refusal::Connection(close) => assert!(matches!(close.code, 501..=505), "{name}: {close:?}"),
            Refusal::Channel(..) => panic!("{name}: there is no channel yet"),
        }
    }
}

#[test]
fn a_channel_before_the_connection_is_open() {
    let (mut wire, _) = Wire::tuned(&shared(), &Login::default());
    wire.send(0, TuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 0 });
    wire.send(1, channel_open());
    refused(&mut wire, 505, "UNEXPECTED_FRAME - type 1, all octets = <<0,20,0,10,0>>", 0, 0);
}

#[test]
fn a_thousand_idle_connections() {
    let broker = if is_external() { shared() } else { TestBroker::start("") };
    let before = if is_external() { 0 } else { broker.resident_bytes() };
    let mut idle: Vec<Wire> = (0..1000).map(|_| Wire::login(&broker, &Login::default())).collect();
    for wire in &mut idle {
        wire.open_channel(1);
    }
    if !is_external() {
        let each = broker.resident_bytes().saturating_sub(before) / 1000;
        assert!(each < 64 * 1024, "{each} octets for an idle connection with a channel");
    }
}

#[test]
fn a_slow_handshake_is_given_up() {
    if is_external() {
        return;
    }
    let broker = TestBroker::start("[limits]\nhandshake_timeout_secs = 1");
    let mut silent = Wire::tcp(&broker);
    let (mut started, _) = Wire::started(&broker);
    let (mut tuned, _) = Wire::tuned(&broker, &Login::default());
    let mut open = Wire::opening(&broker, &Login::default());
    open.expect::<OpenOk>(0);
    for wire in [&mut silent, &mut started, &mut tuned] {
        assert_eq!(wire.refusal(), Refusal::End);
    }
    open.open_channel(1);
}

fn refused(wire: &mut Wire, code: u16, text: &str, class_id: u16, method_id: u16) {
    let close = crate::wire::Close { code, text: text.to_owned(), class_id, method_id };
    assert_eq!(wire.refusal(), Refusal::Connection(close));
}

/// The SASL response of AMQPLAIN: a table without its length.
fn amqplain(login: &str, password: &str) -> String {
    let mut response = String::new();
    for (name, value) in [("LOGIN", login), ("PASSWORD", password)] {
        response.push(char::from(u8::try_from(name.len()).expect("a short name")));
        response.push_str(name);
        response.push_str("S\0\0\0");
        response.push(char::from(u8::try_from(value.len()).expect("a short value")));
        response.push_str(value);
    }
    response
}

fn channel_open() -> amq_protocol::protocol::channel::Open {
    amq_protocol::protocol::channel::Open {}
}
