//! What events and the trace tell. Keys, headers and their order are what RabbitMQ 3.10.8 sends, but for the names of
//! processes and nodes.

use super::*;
use crate::{
    amqp::{Properties, Table, Value},
    broker::{
        alarm, event,
        policy::{ApplyTo, Policy, PolicyKind},
    },
};

/// A message as a watcher gets it: its routing key, its headers in a line each, and its body.
type Told = (String, Vec<String>, Vec<u8>);

/// A client whose queue `watch` is bound to one of the exchanges that tell.
fn watching(broker: &Arc<Broker>, exchange: &str) -> Script {
    let mut script = Script::with_channel(broker);
    script.declare("watch", 0);
    script.send(1, wire::bind_queue("watch", exchange, "#"));
    script.expect(Event::bare(1, 50, 21));
    script
}

/// Everything that was told since the last call.
fn told(script: &mut Script) -> Vec<Told> {
    let mut told = Vec::new();
    loop {
        script.send(1, wire::get("watch", true));
        match script.next() {
            Some(Event::GetOk { key, properties, body, .. }) => told.push((key, headers(&properties), body)),
            Some(Event::Method { ids: (60, 72), .. }) => return told,
            event => panic!("{event:?}"),
        }
    }
}

/// The bit of `exchange.declare`.
const AUTO_DELETE_EXCHANGE: u8 = 4;

fn keys(told: &[Told]) -> Vec<&str> {
    told.iter().map(|(key, ..)| key.as_str()).collect()
}

fn headers(raw: &[u8]) -> Vec<String> {
    let properties = Properties::parse(raw).expect("sound");
    let table = Table::decode(properties.headers.expect("headers")).expect("sound");
    table.0.iter().map(|(name, value)| format!("{name}:{}", shown(value))).collect()
}

/// A value with its type.
fn shown(value: &Value) -> String {
    match value {
        Value::LongStr(text) => format!("S {}", String::from_utf8_lossy(text)),
        Value::Array(values) => format!("A [{}]", values.iter().map(shown).collect::<Vec<_>>().join("; ")),
        Value::Table(table) => {
            let fields = table.0.iter().map(|(name, value)| format!("{name}:{}", shown(value)));
            format!("F {{{}}}", fields.collect::<Vec<_>>().join("; "))
        }
        value => format!("{} {value}", value.type_name()),
    }
}

fn told_as(told: &Told, key: &str, headers: &[&str]) {
    assert_eq!(
        (told.0.as_str(), told.1.iter().map(String::as_str).collect::<Vec<_>>()),
        (key, headers.to_vec())
    );
}

#[test]
fn a8_a_queue_its_binding_and_its_consumer_are_told() {
    let broker = broker(limits());
    let mut watcher = watching(&broker, event::EXCHANGE);
    let told_first = told(&mut watcher);
    assert_eq!(keys(&told_first), ["binding.created"], "of the binding itself");
    let mut client = Script::with_channel(&broker);
    told(&mut watcher);
    let arguments = wire::field("x-max-length", b'I', &5_i32.to_be_bytes());
    client.send(1, wire::declare_queue_with("q", wire::AUTO_DELETE, &arguments));
    client.send(1, wire::declare_queue_with("q", wire::AUTO_DELETE, &arguments));
    client.send(1, wire::bind_queue("q", "amq.direct", "k"));
    client.send(1, wire::bind_queue("q", "amq.direct", "k"));
    client.send(1, wire::consume("q", "c", 0));
    client.send(1, wire::cancel("c"));
    let told = told(&mut watcher);
    let time = format!("timestamp_in_ms:long {}", client.now_ms);
    let time = time.as_str();
    let [queue, binding, consumer, cancelled, unbound, deleted] = &told[..] else { panic!("{told:?}") };
    let by = "user_who_performed_action:S guest";
    let by_itself = "user_who_performed_action:S rmq-internal";
    told_as(
        queue,
        "queue.created",
        &[
            by,
            "exclusive:bool false",
            "owner_pid:S ",
            "arguments:A [S {<<\"x-max-length\">>,signedint,5}]",
            "auto_delete:bool true",
            "durable:bool false",
            "name:S q",
            "vhost:S /",
            time,
        ],
    );
    let ends = [
        "vhost:S /",
        "arguments:A []",
        "routing_key:S k",
        "destination_kind:S queue",
        "destination_name:S q",
        "source_kind:S exchange",
        "source_name:S amq.direct",
        time,
    ];
    told_as(binding, "binding.created", &[&[by][..], &ends].concat());
    let channel = format!("channel:S <leveret@test.{}.1.0>", client.session.outbox().connection.0);
    told_as(
        consumer,
        "consumer.created",
        &[
            by,
            "arguments:A []",
            "prefetch_count:long 0",
            "queue:S q",
            "vhost:S /",
            &channel,
            "ack_required:bool true",
            "exclusive:bool false",
            "consumer_tag:S c",
            time,
        ],
    );
    let of_consumer = [by, "queue:S q", "vhost:S /", &channel, "consumer_tag:S c", time];
    told_as(cancelled, "consumer.deleted", &of_consumer);
    told_as(unbound, "binding.deleted", &[&[by_itself][..], &ends].concat());
    told_as(deleted, "queue.deleted", &[by_itself, "name:S q", "vhost:S /", time]);
    assert!(queue.2.is_empty(), "no body");
}

#[test]
fn a8_an_event_is_persistent_and_has_its_time() {
    let broker = broker(limits());
    let mut watcher = watching(&broker, event::EXCHANGE);
    watcher.send(1, wire::get("watch", true));
    let Some(Event::GetOk { properties, .. }) = watcher.next() else { panic!("an event") };
    let properties = Properties::parse(&properties).expect("sound");
    assert_eq!((properties.delivery_mode, properties.timestamp), (Some(2), Some(watcher.now_ms / 1000)));
    let only = Properties {
        raw: properties.raw,
        headers: properties.headers,
        delivery_mode: Some(2),
        timestamp: properties.timestamp,
        ..Properties::default()
    };
    assert_eq!(properties, only);
}

#[test]
fn a8_exchanges_are_told_and_what_goes_with_them() {
    let broker = broker(limits());
    let mut watcher = watching(&broker, event::EXCHANGE);
    told(&mut watcher);
    let client = &mut watcher;
    client.send(1, wire::declare_exchange("x", "fanout", AUTO_DELETE_EXCHANGE));
    client.send(1, wire::declare_exchange("y", "topic", wire::DURABLE));
    client.send(1, Method::new(40, 30).u16(0).short("y").short("x").short("z").u8(0).long(&[]));
    client.send(1, wire::delete_exchange("y"));
    client.events.clear();
    let told = told(&mut watcher);
    let expected = [
        "exchange.created",
        "exchange.created",
        "binding.created",
        "exchange.deleted",
        "binding.deleted",
        "exchange.deleted",
    ];
    assert_eq!(keys(&told), expected);
    let time = format!("timestamp_in_ms:long {}", watcher.now_ms);
    told_as(
        &told[1],
        "exchange.created",
        &[
            "user_who_performed_action:S guest",
            "policy:S ",
            "arguments:A []",
            "internal:bool false",
            "auto_delete:bool false",
            "durable:bool true",
            "type:S topic",
            "name:S y",
            "vhost:S /",
            &time,
        ],
    );
    let names: Vec<&str> = [3, 5].iter().map(|at| told[*at].1[1].as_str()).collect();
    assert_eq!(names, ["name:S y", "name:S x"]);
}

#[test]
fn a8_connections_and_channels_are_told() {
    let broker = broker(limits());
    let mut watcher = watching(&broker, event::EXCHANGE);
    told(&mut watcher);
    let mut client = Script::with_channel(&broker);
    let id = client.session.outbox().connection.0;
    client.declare("mine", wire::EXCLUSIVE);
    client.send(1, wire::consume("mine", "c", wire::NO_ACK));
    client.send(1, wire::channel_close());
    client.session.handle_disconnect(client.now());
    // The login is told by the task of the timers if nobody comes before it.
    let told = told(&mut watcher);
    assert_eq!(
        keys(&told),
        [
            "user.authentication.success",
            "connection.created",
            "channel.created",
            "queue.created",
            "consumer.created",
            "consumer.deleted",
            "channel.closed",
            "queue.deleted",
            "connection.closed",
        ]
    );
    let (name, pid) = ("name:S 127.0.0.1:50000 -> 127.0.0.1:5672", format!("pid:S <leveret@test.{id}.0.0>"));
    assert_eq!(told[1].1[2].as_str(), format!("connected_at:long {}", client.now_ms));
    let client_properties = "client_properties:A [S {<<\"capabilities\">>,table,[\
        {<<\"consumer_cancel_notify\">>,bool,true},{<<\"connection.blocked\">>,bool,true},\
        {<<\"authentication_failure_close\">>,bool,true},{<<\"basic.nack\">>,bool,true}]}]";
    assert_eq!(told[1].1[3], client_properties);
    for expected in ["timeout:long 0", "vhost:S /", "user:S guest", name, &pid, "peer_host:S {127,0,0,1}"] {
        assert!(told[1].1.iter().any(|header| header == expected), "{expected}: {:?}", told[1]);
    }
    let time = format!("timestamp_in_ms:long {}", client.now_ms);
    let channel = format!("pid:S <leveret@test.{id}.1.0>");
    told_as(
        &told[2],
        "channel.created",
        &[
            "user_who_performed_action:S guest",
            "vhost:S /",
            "user:S guest",
            "number:long 1",
            &format!("connection:S <leveret@test.{id}.0.0>"),
            "name:S 127.0.0.1:50000 -> 127.0.0.1:5672 (1)",
            &channel,
            &time,
        ],
    );
    assert_eq!(told[3].1[2], format!("owner_pid:S <leveret@test.{id}.0.0>"));
    told_as(&told[6], "channel.closed", &["user_who_performed_action:S guest", &channel, &time]);
    assert_eq!(told[7].1[0], "user_who_performed_action:S rmq-internal");
    told_as(&told[8], "connection.closed", &[client_properties, "node:S leveret@test", &pid, name, &time]);
}

#[test]
fn a8_a_login_that_fails_and_what_operators_do_are_told() {
    let broker = broker(limits());
    let mut watcher = watching(&broker, event::EXCHANGE);
    told(&mut watcher);
    let mut stranger = Script::accepted(&broker, "127.0.0.1:50000");
    stranger.raw(wire::HEADER);
    stranger.send(0, wire::start_ok("guest", "wrong", &[]));
    broker.add_virtual_host("v", None, None);
    broker.add_virtual_host("v", Some(1), None);
    broker.put_user(User {
        tags: vec!["monitoring".into()],
        ..(*broker.users.get("ann").expect("ann")).clone()
    });
    broker.grant("ann", "v", Permission::new("c", "w", "r").expect("patterns"));
    broker.revoke("ann", "v");
    broker.delete_user("ann");
    broker.set_alarm(alarm::Resource::Memory, true);
    broker.set_alarm(alarm::Resource::Memory, true);
    broker.set_alarm(alarm::Resource::Memory, false);
    assert_eq!(told(&mut watcher).len(), 0);
    assert!(broker.timers.next_ms(std::task::Waker::noop()) == Some(0));
    broker.tick(watcher.now());
    let told = told(&mut watcher);
    assert_eq!(
        keys(&told),
        [
            "user.authentication.failure",
            "vhost.created",
            "vhost.limits.set",
            "user.tags.set",
            "permission.created",
            "permission.deleted",
            "user.deleted",
            "alarm.set",
            "alarm.cleared",
        ]
    );
    assert!(told[0].1[0].starts_with("error:A [long 117; long 115; "), "{:?}", told[0]);
    let time = format!("timestamp_in_ms:long {}", watcher.now_ms);
    let by = "user_who_performed_action:S rmq-internal";
    told_as(
        &told[4],
        "permission.created",
        &[by, "read:S r", "write:S w", "configure:S c", "vhost:S v", "user:S ann", &time],
    );
    told_as(&told[7], "alarm.set", &["node:S leveret@test", "source:S memory", &time]);
}

#[test]
fn a8_policies_are_told() {
    let broker = broker(limits());
    let mut watcher = watching(&broker, event::EXCHANGE);
    told(&mut watcher);
    let definition = Table(vec![("max-length".into(), Value::I64(9))]);
    let policy = Policy::new(PolicyKind::User, "p", "^q", ApplyTo::Queues, 7, definition).expect("sound");
    for _ in 0..2 {
        broker.put_policy("/", policy.clone(), None, watcher.now()).expect("the virtual host is there");
    }
    for _ in 0..2 {
        broker
            .delete_policy("/", PolicyKind::User, "p", None, watcher.now())
            .expect("the virtual host is there");
    }
    let told = told(&mut watcher);
    let time = format!("timestamp_in_ms:long {}", watcher.now_ms);
    let by = "user_who_performed_action:S rmq-internal";
    let [set, cleared] = &told[..] else { panic!("{told:?}") };
    let expected = [
        "apply-to:S queues",
        "priority:long 7",
        "definition:F {max-length:long 9}",
        "pattern:S ^q",
        by,
        "vhost:S /",
        "name:S p",
        &time,
    ];
    told_as(set, "policy.set", &expected);
    told_as(cleared, "policy.cleared", &[by, "vhost:S /", "name:S p", &time]);
}

#[test]
fn a8_nothing_is_made_for_nobody() {
    let broker = broker(limits());
    let mut watcher = watching(&broker, event::EXCHANGE);
    assert!(broker.events.is_watched());
    watcher.send(1, wire::unbind_queue("watch", event::EXCHANGE, "#"));
    watcher.expect(Event::bare(1, 50, 51));
    assert!(!broker.events.is_watched());
    watcher.send(1, wire::bind_queue("watch", event::EXCHANGE, "#"));
    assert!(broker.events.is_watched());
    watcher.send(1, wire::delete_queue("watch"));
    assert!(!broker.events.is_watched());
}

#[test]
fn a8_the_exchange_of_events_is_internal_and_only_in_one_virtual_host() {
    let broker = broker(limits());
    let hosts = ["/", "closed"].map(|name| broker.virtual_host(name).expect("it is there"));
    let [exchange, other] = hosts.map(|host| host.exchange(event::EXCHANGE));
    let properties = &exchange.expect("predeclared").properties;
    assert!(properties.internal && properties.durable && !properties.auto_delete);
    assert_eq!(properties.kind.name(), "topic");
    assert!(other.is_none());
}

/// A content type, headers with CC and BCC, delivery mode 1 and an expiration.
fn properties() -> Vec<u8> {
    let strings = |text: &str| {
        let text =
            [&[b'S'][..], &u32::try_from(text.len()).expect("short").to_be_bytes(), text.as_bytes()].concat();
        [&u32::try_from(text.len()).expect("short").to_be_bytes()[..], &text].concat()
    };
    let fields = [
        wire::field("a", b'I', &7_i32.to_be_bytes()),
        wire::field("CC", b'A', &strings("copy")),
        wire::field("BCC", b'A', &strings("blind")),
    ];
    let headers = Table::decode(&fields.concat()).expect("sound");
    let builder = crate::amqp::PropertiesBuilder {
        content_type: Some("text/plain".into()),
        headers: Some(headers),
        delivery_mode: Some(1),
        expiration: Some("60000".into()),
        ..Default::default()
    };
    builder.encode()
}

#[test]
fn a8_what_is_published_and_delivered_is_traced() {
    let broker = broker(limits());
    let mut watcher = watching(&broker, "amq.rabbitmq.trace");
    let mut client = Script::with_channel(&broker);
    client.declare("q", 0);
    client.publish(1, "", "q", 0, wire::TRANSIENT, b"before");
    assert!(broker.set_tracing("/", true) && !broker.set_tracing("nowhere", true));
    client.send(1, wire::bind_queue("q", "amq.direct", "k"));
    client.publish(1, "amq.direct", "k", 0, &properties(), b"body");
    client.publish(1, "", "nowhere", 0, wire::TRANSIENT, b"lost");
    client.send(1, wire::purge("q"));
    client.publish(1, "amq.direct", "k", 0, wire::TRANSIENT, b"got");
    client.send(1, wire::get("q", false));
    client.send(1, wire::reject(1, true));
    client.send(1, wire::consume("q", "c", wire::NO_ACK));
    broker.set_tracing("/", false);
    client.publish(1, "", "q", 0, wire::TRANSIENT, b"after");
    let told = told(&mut watcher);
    let expected = ["publish.amq.direct", "publish.", "publish.amq.direct", "deliver.q", "deliver.q"];
    assert_eq!(keys(&told), expected);
    let bodies: Vec<&[u8]> = told.iter().map(|(.., body)| &body[..]).collect();
    assert_eq!(bodies, [&b"body"[..], b"lost", b"got", b"got", b"got"]);
    let place = [
        "vhost:S /",
        "connection:S 127.0.0.1:50000 -> 127.0.0.1:5672",
        "channel:signedint 1",
        "user:S guest",
    ];
    let published = [
        "exchange_name:S amq.direct",
        "routing_keys:A [S k; S copy; S blind]",
        "properties:F {expiration:S 60000; delivery_mode:signedint 1; \
         headers:F {a:signedint 7; CC:A [S copy]}; content_type:S text/plain}",
        "node:S leveret@test",
    ];
    let routed = "routed_queues:A [S q]";
    told_as(&told[0], "publish.amq.direct", &[&published[..], &place, &[routed]].concat());
    let lost = ["exchange_name:S ", "routing_keys:A [S nowhere]", "properties:F {}", "node:S leveret@test"];
    told_as(&told[1], "publish.", &[&lost[..], &place, &["routed_queues:A [S nowhere]"]].concat());
    let got =
        ["exchange_name:S amq.direct", "routing_keys:A [S k]", "properties:F {}", "node:S leveret@test"];
    told_as(&told[3], "deliver.q", &[&got[..], &["redelivered:signedint 0"], &place].concat());
    told_as(&told[4], "deliver.q", &[&got[..], &["redelivered:signedint 1"], &place].concat());
}

#[test]
fn a8_the_trace_is_not_traced() {
    let broker = broker(limits());
    let mut watcher = watching(&broker, "amq.rabbitmq.trace");
    broker.set_tracing("/", true);
    watcher.publish(1, "", "nowhere", 0, wire::TRANSIENT, b"x");
    assert_eq!(keys(&told(&mut watcher)), ["publish."]);
    assert_eq!(told(&mut watcher).len(), 0);
    // Nor do headers do harm that nest as deep as they may.
    let deepest = (0..99).fold(Vec::new(), |inner: Vec<u8>, _| {
        wire::field(
            "t",
            b'F',
            &[&u32::try_from(inner.len()).expect("short").to_be_bytes()[..], &inner].concat(),
        )
    });
    let len = u32::try_from(deepest.len()).expect("short").to_be_bytes();
    let properties = [&[0x20, 0][..], &len, &deepest].concat();
    watcher.publish(1, "", "watch", 0, &properties, b"deep");
    watcher.send(1, wire::get("watch", true));
    assert!(matches!(watcher.next(), Some(Event::GetOk { body, .. }) if body == b"deep"));
    // Nor those that fill a frame.
    let longest = wire::text_field("x", &"x".repeat(131_000));
    let len = u32::try_from(longest.len()).expect("short").to_be_bytes();
    watcher.publish(1, "", "nowhere", 0, &[&[0x20, 0][..], &len, &longest].concat(), b"long");
    assert_eq!(told(&mut watcher).len(), 0);
}

#[test]
fn a8_a_delivery_to_a_publisher_is_traced_before_its_confirm() {
    let broker = broker(limits());
    let mut watcher = watching(&broker, "amq.rabbitmq.trace");
    broker.set_tracing("/", true);
    let mut client = Script::with_channel(&broker);
    client.declare("q", 0);
    client.send(1, wire::confirm_select());
    client.send(1, wire::consume("q", "c", wire::NO_ACK));
    client.publish(1, "", "q", 0, wire::TRANSIENT, b"x");
    assert_eq!(keys(&told(&mut watcher)), ["publish.", "deliver.q"]);
}
