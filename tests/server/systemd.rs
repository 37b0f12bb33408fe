//! What systemd is told.

use std::os::unix::net::UnixDatagram;

use rustix::process::Signal;

use super::broker::{DEADLINE, Place};

#[test]
fn it_is_told_of_the_start_and_the_stop() {
    let place = Place::new("");
    let socket = UnixDatagram::bind(place.path("notify")).expect("a socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let received = || {
        let mut octets = [0; 64];
        let count = socket.recv(&mut octets).expect("a datagram");
        String::from_utf8_lossy(&octets[..count]).into_owned()
    };
    let mut command = place.command();
    command.env("NOTIFY_SOCKET", place.path("notify"));
    let broker = place.start_as(command);
    assert_eq!(received(), "READY=1");
    broker.signal(Signal::TERM);
    assert_eq!(received(), "STOPPING=1");
}
