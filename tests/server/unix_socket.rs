//! AMQP over a socket within the machine.

use std::os::unix::{fs::PermissionsExt as _, net::UnixStream};

use rustix::process::Signal;

use super::{
    broker::{DEADLINE, Place, TestBroker},
    client::Client,
};

const CONFIGURATION: &str = "[listeners]\nunix_socket = 'amqp.socket'\nunix_socket_mode = '0600'\n";

fn connect(broker: &TestBroker) -> Client<UnixStream> {
    let stream = UnixStream::connect(broker.place.path("amqp.socket")).expect("connect to the broker");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    Client::open(stream, "guest")
}

#[test]
fn clients_are_local_and_told_apart() {
    let broker = Place::new(CONFIGURATION).start();
    let mut clients = [connect(&broker), connect(&broker)];
    for client in &mut clients {
        client.round_trip(&vec![7; 3_000_000]);
    }
    broker.wait_for_line(&["connection open", "127.0.0.1:1 "]);
    broker.wait_for_line(&["connection open", "127.0.0.1:2 "]);
    let [first, second] = clients;
    first.close().expect("the end");
    drop(second);
    broker.wait_for_line(&["127.0.0.1:2 ", "guest", "the client is gone without connection.close"]);
}

#[test]
fn the_file_says_who_may_and_goes_with_the_broker() {
    let broker = Place::new(CONFIGURATION).start();
    assert_eq!(broker.list("unix_socket"), ["amqp.socket"]);
    broker.wait_for_line(&["Server startup complete", "amqp.socket"]);
    let mode = std::fs::metadata(broker.place.path("amqp.socket")).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let place = broker.end(Signal::TERM);
    assert!(!place.path("amqp.socket").exists());
}

#[test]
fn one_that_a_dead_broker_left_is_replaced() {
    let place = Place::new(CONFIGURATION).start().end(Signal::KILL);
    assert!(place.path("amqp.socket").exists());
    connect(&place.start()).round_trip(b"there again");
}

#[test]
fn what_is_no_socket_stays() {
    let place = Place::new(CONFIGURATION);
    place.write("amqp.socket", "precious");
    let output = place.refused();
    assert_eq!(output.status.code(), Some(75));
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains("cannot listen on amqp.socket") && log.contains("--unix-socket"), "{log}");
    assert_eq!(std::fs::read_to_string(place.path("amqp.socket")).expect("the file"), "precious");
}
