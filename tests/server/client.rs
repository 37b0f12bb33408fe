//! An AMQP client over any stream.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
};

use super::{
    broker::DEADLINE,
    wire::{self, Event, Incoming, Method},
};

/// See the module's text.
pub(crate) struct Client<S> {
    pub(crate) stream: S,
    incoming: Incoming,
    events: VecDeque<Event>,
}

/// A TCP connection that does not wait for ever.
pub(crate) fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect to the broker");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

impl<S: Read + Write> Client<S> {
    /// One that has sent nothing yet.
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, incoming: Incoming::default(), events: VecDeque::new() }
    }

    /// Says the protocol header; what the broker offers to log in with.
    pub(crate) fn mechanisms(&mut self) -> String {
        self.write(wire::HEADER);
        let start = self.expect((10, 10));
        // Version and properties come before.
        let properties = u32::from_be_bytes(start[2..6].try_into().expect("four octets")) as usize;
        let text = &start[6 + properties..];
        let length = u32::from_be_bytes(text[..4].try_into().expect("four octets")) as usize;
        String::from_utf8(text[4..4 + length].to_vec()).expect("a text")
    }

    /// Logs in and opens `/` and channel 1.
    pub(crate) fn open(stream: S, user: &str) -> Self {
        Self::open_by(stream, "PLAIN", format!("\0{user}\0{user}").as_bytes())
    }

    /// The same with any mechanism.
    pub(crate) fn open_by(stream: S, mechanism: &str, response: &[u8]) -> Self {
        let mut client = Self::new(stream);
        client.mechanisms();
        client.log_in(mechanism, response);
        client.send(0, &wire::tune_ok(2047, 131_072, 0));
        client.send(0, &wire::open("/"));
        client.expect((10, 30));
        client.expect((10, 41));
        client.send(1, &wire::channel_open());
        client.expect((20, 11));
        client
    }

    /// `connection.start-ok` of a client that wants to be told why it is refused.
    pub(crate) fn log_in(&mut self, mechanism: &str, response: &[u8]) {
        let capability = wire::field("authentication_failure_close", b't', &[1]);
        let length = u32::try_from(capability.len()).expect("short").to_be_bytes();
        let properties = wire::field("capabilities", b'F', &[&length[..], &capability].concat());
        self.send(0, &wire::start_ok_with(&properties, mechanism, response));
    }

    pub(crate) fn send(&mut self, channel: u16, method: &Method) {
        self.write(&method.on(channel));
    }

    pub(crate) fn write(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).expect("written");
        self.stream.flush().expect("flushed");
    }

    /// The next event; an error if the stream ends or fails before it.
    pub(crate) fn next(&mut self) -> io::Result<Event> {
        let mut octets = vec![0; 64 << 10];
        while self.events.is_empty() {
            match self.stream.read(&mut octets)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.events.extend(self.incoming.read(&octets[..count])),
            }
        }
        Ok(self.events.pop_front().expect("an event"))
    }

    /// The arguments of that method, which must come next.
    pub(crate) fn expect(&mut self, expected: (u16, u16)) -> Vec<u8> {
        match self.next() {
            Ok(Event::Method { ids, arguments, .. }) if ids == expected => arguments,
            other => panic!("{other:?} instead of {expected:?}"),
        }
    }

    /// Puts a message into a queue of its own and takes it out again.
    pub(crate) fn round_trip(&mut self, body: &[u8]) {
        self.send(1, &wire::declare_queue("", wire::EXCLUSIVE));
        let Ok(Event::DeclareOk { queue, .. }) = self.next() else { panic!("no queue") };
        let mut frames = wire::publish_method("", &queue, 0).on(1);
        frames.extend(wire::frame(2, 1, &wire::content_header(body.len() as u64, wire::TRANSIENT)));
        frames.extend(body.chunks(131_064).flat_map(|piece| wire::frame(3, 1, piece)));
        self.write(&frames);
        self.send(1, &wire::get(&queue, true));
        match self.next() {
            Ok(Event::GetOk { body: got, .. }) => assert!(got == body, "another body"),
            other => panic!("{other:?} instead of the message"),
        }
    }

    /// Closes the connection, and reads to the end of the stream.
    pub(crate) fn close(mut self) -> io::Result<()> {
        self.send(0, &wire::connection_close());
        self.expect((10, 51));
        self.stream.read(&mut [0; 1]).map(|count| assert_eq!(count, 0, "more after close-ok"))
    }
}
