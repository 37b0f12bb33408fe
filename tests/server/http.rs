//! HTTP as such: what every answer has, and how it ends.

use std::io::{Read as _, Write as _};

use rustix::process::Signal;

use super::{broker::Place, client::tcp};

/// The head of an answer, in lower case.
fn head(stream: &mut std::net::TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        stream.read_exact(&mut octet).expect("an answer");
        head.push(octet[0]);
    }
    String::from_utf8_lossy(&head).to_lowercase()
}

#[test]
fn every_answer_tells_browsers_what_it_is_not() {
    let broker = Place::new("").start();
    for (kind, path) in
        [("management", "/"), ("management", "/api/x"), ("management", "/x"), ("prometheus", "/x")]
    {
        let mut stream = tcp(broker.address(kind));
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\norigin: http://elsewhere\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("written");
        let head = head(&mut stream);
        for header in [
            "content-security-policy: default-src 'self'",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
        ] {
            assert!(head.contains(header), "{kind} {path}: {header}\n{head}");
        }
        assert!(!head.contains("access-control"), "no other site may read answers: {head}");
    }
}

#[test]
fn large_headers_are_refused() {
    let broker = Place::new("").start();
    let mut stream = tcp(broker.address("management"));
    let request = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(100_000));
    // It may be closed before it has been read.
    let _ = stream.write_all(request.as_bytes());
    assert!(head(&mut stream).starts_with("http/1.1 431 "));
}

#[test]
fn a_connection_that_is_kept_alive_does_not_hold_the_end_up() {
    let mut broker = Place::new("").start();
    let mut stream = tcp(broker.address("management"));
    stream.write_all(b"GET /api/x HTTP/1.1\r\nhost: x\r\n\r\n").expect("written");
    assert!(head(&mut stream).starts_with("http/1.1 404 "));
    broker.signal(Signal::TERM);
    assert!(broker.wait().success());
    stream.read_to_end(&mut Vec::new()).expect("the body and the end");
}
