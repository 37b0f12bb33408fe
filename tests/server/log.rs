//! What is in the log, and that clients can't forge it.

use serde_json::Value;

use super::{
    broker::{Place, wait_for},
    client::{Client, tcp},
    wire::{self, Event},
};

/// A name that tries to be a line of its own.
const FORGED: &str = "x\nINFO \x1b[2Jforged \"{}\\";

/// Says who it is by that name, and asks for a queue of that name.
fn misbehave(address: std::net::SocketAddr) {
    let mut client = Client::new(tcp(address));
    client.mechanisms();
    client.log_in("PLAIN", format!("\0{FORGED}\0wrong").as_bytes());
    assert!(matches!(client.next(), Ok(Event::ConnectionClose { code: 403, .. })));
    let mut client = Client::open(tcp(address), "guest");
    client.send(1, &wire::declare_queue(FORGED, wire::PASSIVE));
    assert!(matches!(client.next(), Ok(Event::ChannelClose { code: 404, .. })));
    client.send(0, &wire::open(FORGED));
    while !matches!(client.next(), Ok(Event::ConnectionClose { .. })) {}
    let mut client = Client::new(tcp(address));
    client.mechanisms();
    client.log_in("PLAIN", b"\0guest\0guest");
    client.send(0, &wire::tune_ok(2047, 131_072, 0));
    client.send(0, &wire::open(FORGED));
    while !matches!(client.next(), Ok(Event::ConnectionClose { .. })) {}
}

#[test]
fn lines_of_text_are_whole_events() {
    let broker = Place::new("").start();
    misbehave(broker.address("amqp"));
    broker.wait_for_line(&["WARN", "login refused", "user 'x\\nINFO", "forged"]);
    broker.wait_for_line(&["channel closed: NOT_FOUND", "xINFO \\x1b[2Jforged"]);
    broker.wait_for_line(&["connection closed: NOT_ALLOWED", "x\\nINFO"]);
    for line in broker.log().lines() {
        assert!(line.starts_with("20") && !line.contains('\x1b'), "{line:?}");
    }
}

#[test]
fn json_is_one_object_a_line() {
    let broker = Place::new("[log]\nformat = 'json'\n").start();
    misbehave(broker.address("amqp"));
    broker.wait_for_line(&["connection closed: NOT_ALLOWED"]);
    let lines: Vec<Value> = broker
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["target"].is_string());
        assert!(line["message"].is_string(), "{line}");
    }
    let refused =
        lines.iter().find(|line| line["message"].as_str().is_some_and(|text| text.contains("refused")));
    let refused = refused.expect("the refused login");
    assert_eq!(refused["level"], "WARN");
    assert!(refused["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{refused}");
    assert_eq!(refused["mechanism"], "PLAIN");
}

#[test]
fn parts_have_levels_of_their_own() {
    let broker = Place::new("[log]\nlevels = { connection = 'off' }\n").start();
    misbehave(broker.address("amqp"));
    drop(Client::open(tcp(broker.address("amqp")), "guest"));
    broker.wait_for_line(&["Server startup complete"]);
    assert!(!broker.log().contains("connection") && !broker.log().contains("refused"), "{}", broker.log());

    let output = Place::new("[log]\nlevels = { conection = 'off' }\n").refused();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("broker.toml:2: log.levels.conection: there is no such part"), "{error}");
}

#[test]
fn every_end_of_a_connection_has_its_line() {
    let broker = Place::new("").start();
    let address = broker.address("amqp");
    Client::open(tcp(address), "guest").close().expect("the end");
    broker.wait_for_line(&["INFO", "connection closed by the client", "guest", "127.0.0.1:"]);
    drop(Client::open(tcp(address), "guest"));
    broker.wait_for_line(&["connection closed: the client is gone without connection.close", "guest"]);
    let mut client = Client::new(tcp(address));
    client.mechanisms();
    drop(client);
    broker.wait_for_line(&["closed before connection.open: the client is gone"]);
    // Looking whether the port is open is nothing to tell of.
    let before = broker.log();
    drop(tcp(address));
    drop(Client::open(tcp(address), "guest"));
    wait_for("the last line", || {
        let after = broker.log().split_off(before.len());
        let gone = after.lines().filter(|line| line.contains("the client is gone")).count();
        (gone == 1).then_some(())
    });
}

#[test]
fn a8_lines_are_published_by_severity_if_that_is_wanted() {
    let broker = Place::new("[log]\nexchange = true\n").start();
    let mut client = Client::open(tcp(broker.address("amqp")), "guest");
    client.send(1, &wire::declare_queue("warnings", 0));
    assert!(matches!(client.next(), Ok(Event::DeclareOk { .. })));
    client.send(1, &wire::bind_queue("warnings", "amq.rabbitmq.log", "warning"));
    client.expect((50, 21));
    misbehave(broker.address("amqp"));
    let body = wait_for("a line", || {
        client.send(1, &wire::get("warnings", true));
        match client.next().expect("an answer") {
            Event::GetOk { body, key, .. } if key == "warning" => Some(body),
            _ => None,
        }
    });
    let text = String::from_utf8(body).expect("UTF-8");
    assert!(text.contains("login refused: user 'x\\nINFO") && !text.contains('\n'), "{text:?}");
}

#[test]
fn a8_there_is_no_log_exchange_unless_it_is_wanted() {
    let broker = Place::new("").start();
    let mut client = Client::open(tcp(broker.address("amqp")), "guest");
    client.send(1, &wire::declare_queue("warnings", 0));
    assert!(matches!(client.next(), Ok(Event::DeclareOk { .. })));
    client.send(1, &wire::bind_queue("warnings", "amq.rabbitmq.log", "#"));
    assert!(matches!(client.next(), Ok(Event::ChannelClose { code: 404, .. })));
}
