//! The PROXY protocol before AMQP.

use std::io::{Read as _, Write as _};

use super::{
    authority::Authority,
    broker::{Place, TestBroker},
    client::{Client, tcp},
    wire::{self, Event},
};

const CONFIGURATION: &str = "[listeners]\nproxy_protocol = true\n";

fn version_2(address: [u8; 4]) -> Vec<u8> {
    let addresses =
        [&address[..], &[127, 0, 0, 1], &4321_u16.to_be_bytes(), &5672_u16.to_be_bytes()].concat();
    [&b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"[..], &addresses].concat()
}

/// What guest, who may come from this machine only, is answered after that header.
fn logged_in(broker: &TestBroker, header: &[u8]) -> Event {
    let mut client = Client::new(tcp(broker.address("amqp")));
    // In one write with what is the client's own.
    client.write(&[header, wire::HEADER].concat());
    client.expect((10, 10));
    client.log_in("PLAIN", b"\0guest\0guest");
    client.next().expect("an answer")
}

#[test]
fn a_client_is_where_the_proxy_says() {
    let broker = Place::new(CONFIGURATION).start();
    let v1 = |address: &str| format!("PROXY TCP4 {address} 127.0.0.1 4321 5672\r\n").into_bytes();
    for header in [v1("127.0.0.1"), version_2([127, 0, 0, 1]), b"PROXY UNKNOWN\r\n".to_vec()] {
        let answer = logged_in(&broker, &header);
        assert!(matches!(answer, Event::Method { ids: (10, 30), .. }), "{answer:?}");
    }
    for (header, address) in
        [(v1("192.0.2.1"), "192.0.2.1:4321"), (version_2([192, 0, 2, 2]), "192.0.2.2:4321")]
    {
        let answer = logged_in(&broker, &header);
        assert!(matches!(answer, Event::ConnectionClose { code: 403, .. }), "{answer:?}");
        broker.wait_for_line(&["login refused", "can only connect via localhost", address]);
    }
}

#[test]
fn a_header_may_come_in_pieces() {
    let broker = Place::new(CONFIGURATION).start();
    let mut stream = tcp(broker.address("amqp"));
    for octet in version_2([127, 0, 0, 1]) {
        stream.write_all(&[octet]).expect("written");
    }
    Client::open(stream, "guest").round_trip(b"after the header");
}

#[test]
fn whatever_begins_otherwise_is_closed() {
    let broker = Place::new(CONFIGURATION).start();
    for (input, line) in [
        (&b"AMQP\x00\x00\x09\x01"[..], "closed: no PROXY header"),
        (b"PROXY TCP4 nowhere 127.0.0.1 1 2\r\n", "closed: a malformed PROXY header, version 1"),
        (b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x01x", "closed: a malformed PROXY header, version 2"),
    ] {
        let mut stream = tcp(broker.address("amqp"));
        stream.write_all(input).expect("written");
        // An error says that it was reset, with what it had not read.
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
        broker.wait_for_line(&[line, "127.0.0.1"]);
    }
}

#[test]
fn tls_comes_after_the_header() {
    let authority = Authority::new();
    let place =
        Place::new(&format!("{CONFIGURATION}[tls]\ncertificate = 'server.pem'\nkey = 'server.key'\n"));
    authority.server("localhost").install(&place);
    let broker = place.start();
    let mut stream = tcp(broker.address("amqp_tls"));
    stream.write_all(&version_2([127, 0, 0, 1])).expect("written");
    let stream = authority.trusting().connect(stream).expect("a handshake");
    Client::open(stream, "guest").round_trip(b"through a proxy");
    broker.wait_for_line(&["connection open", "127.0.0.1:4321"]);
}

#[test]
fn without_the_key_a_header_is_no_amqp() {
    let broker = Place::new("").start();
    tcp(broker.address("amqp")).write_all(b"PROXY UNKNOWN\r\n").expect("written");
    broker.wait_for_line(&["the PROXY protocol, which listeners.proxy_protocol turns on"]);
}
