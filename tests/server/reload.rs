//! SIGHUP, while connections go on.

use rustix::process::Signal;
use rustls_pki_types::CertificateDer;

use super::{
    authority::Authority,
    broker::{Place, TestBroker},
    client::{Client, tcp},
};

const CONFIGURATION: &str = "[tls]\ncertificate = 'server.pem'\nkey = 'server.key'\n";

/// Lines that say how a SIGHUP went. Each test counts them, since they are all alike.
fn hangups(broker: &TestBroker) -> usize {
    broker.log().matches("SIGHUP: ").count()
}

/// Sends SIGHUP, and waits until so many lines tell of how it went.
fn hang_up(broker: &TestBroker, lines: usize) {
    let before = hangups(broker);
    broker.signal(Signal::HUP);
    super::broker::wait_for("a line about SIGHUP", || (hangups(broker) >= before + lines).then_some(()));
}

fn shown(broker: &TestBroker, authority: &Authority) -> CertificateDer<'static> {
    let stream = authority.trusting().connect(tcp(broker.address("amqp_tls"))).expect("a handshake");
    stream.conn.peer_certificates().expect("a certificate")[0].clone()
}

#[test]
fn new_certificates_are_taken_and_bad_ones_are_not() {
    let authority = Authority::new();
    let place = Place::new(CONFIGURATION);
    let (first, second) = (authority.server("localhost"), authority.server("localhost"));
    first.install(&place);
    let broker = place.start();
    let stream = authority.trusting().connect(tcp(broker.address("amqp_tls"))).expect("a handshake");
    let mut client = Client::open(stream, "guest");
    assert_eq!(shown(&broker, &authority), first.der());

    second.install(&broker.place);
    assert_eq!(shown(&broker, &authority), first.der(), "nothing changes before the signal");
    hang_up(&broker, 1);
    assert_eq!(shown(&broker, &authority), second.der());

    broker.place.write("server.pem", &first.certificate);
    hang_up(&broker, 1);
    broker.wait_for_line(&["ERROR", "the certificates stay as they were", "server.key"]);
    assert_eq!(shown(&broker, &authority), second.der());

    client.round_trip(b"the connection goes on");
}

#[test]
fn levels_change_and_the_rest_waits() {
    let broker = Place::new("[log]\nlevel = 'error'\n").start();
    broker.place.write("broker.toml", "[log]\nlevel = 'info'\n[limits]\nframe_max = 8192\n");
    broker.signal(Signal::HUP);
    broker.wait_for_line(&["WARN", "SIGHUP: what else is new", "from the next start"]);
    Client::open(tcp(broker.address("amqp")), "guest");
    broker.wait_for_line(&["INFO", "connection open"]);

    broker.place.write("broker.toml", "[log]\nlevel = 'loud'\n");
    broker.signal(Signal::HUP);
    broker.wait_for_line(&["ERROR", "SIGHUP: nothing changes", "broker.toml:2: log.level"]);
}

#[test]
fn a_log_file_that_was_moved_away_is_made_again() {
    let broker = Place::new("[log]\nfile = 'broker.log'\n").start();
    let read = |name: &str| std::fs::read_to_string(broker.place.path(name)).unwrap_or_default();
    assert!(read("broker.log").contains("Server startup complete"));
    assert_eq!(broker.log(), "", "nothing goes to standard error");
    std::fs::rename(broker.place.path("broker.log"), broker.place.path("old.log")).expect("renamed");
    broker.signal(Signal::HUP);
    super::broker::wait_for("line in the new file", || read("broker.log").contains("SIGHUP").then_some(()));
    assert!(!read("old.log").contains("SIGHUP"));
}
