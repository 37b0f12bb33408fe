//! A client's connection, with one channel, frame by frame. Every wait ends after [`DEADLINE`] with a panic.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use crate::{
    broker::DEADLINE,
    wire::{self, Event, Incoming, Method},
};

/// The channel of every client.
pub(crate) const CHANNEL: u16 = 1;
/// The largest frame that a client sends.
const FRAME_BYTES_MAX: usize = 131_072;
/// Octets of a frame around its payload.
const FRAME_OVERHEAD: usize = 8;
/// The reply code of a broker that is told to stop.
const CONNECTION_FORCED: u16 = 320;

/// The broker is gone, or says that it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone;

/// See the module.
pub(crate) struct Client {
    stream: TcpStream,
    incoming: Incoming,
    events: VecDeque<Event>,
    buffer: Vec<u8>,
}

impl Client {
    /// An open connection with an open channel.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self, Gone> {
        let stream = TcpStream::connect(address).map_err(|_| Gone)?;
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a write timeout");
        let (incoming, events) = (Incoming::default(), VecDeque::new());
        let mut client = Self { stream, incoming, events, buffer: vec![0; 1 << 16] };
        client.send(wire::HEADER)?;
        client.answer((10, 10))?;
        client.send(&wire::start_ok("guest", "guest", &["basic.nack"]).on(0))?;
        client.answer((10, 30))?;
        client.send(&wire::tune_ok(2047, FRAME_BYTES_MAX as u32, 0).on(0))?;
        client.send(&wire::open("/").on(0))?;
        client.answer((10, 41))?;
        client.open_channel()?;
        Ok(client)
    }

    /// Opens the channel, at first or after it was closed.
    pub(crate) fn open_channel(&mut self) -> Result<(), Gone> {
        self.call(&wire::channel_open(), (20, 11))
    }

    /// Sends octets.
    pub(crate) fn send(&mut self, octets: &[u8]) -> Result<(), Gone> {
        match self.stream.write_all(octets) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("the broker does not read"),
            // What it said before it went is still to be read.
            Err(_) => {
                while self.read().is_ok() {}
                if self.events.is_empty() { Err(Gone) } else { Ok(()) }
            }
        }
    }

    /// The next thing that the broker sent, but for heartbeats.
    pub(crate) fn next(&mut self) -> Result<Event, Gone> {
        loop {
            match self.events.pop_front() {
                Some(Event::Heartbeat) => {}
                Some(Event::ConnectionClose { code: CONNECTION_FORCED, .. }) => {
                    _ = self.stream.write_all(&wire::connection_close_ok().on(0));
                    return Err(Gone);
                }
                Some(Event::ConnectionClose { code, text, .. }) => {
                    panic!("the broker refuses: {code} {text}")
                }
                Some(event) => return Ok(event),
                None => self.read()?,
            }
        }
    }

    /// What the broker has sent already, without waiting for more.
    pub(crate) fn has_next(&self) -> bool {
        !self.events.is_empty()
    }

    /// Sends a method and waits for its answer, which must be the next that comes.
    pub(crate) fn call(&mut self, method: &Method, answer: (u16, u16)) -> Result<(), Gone> {
        self.send(&method.on(CHANNEL))?;
        self.answer(answer)
    }

    fn answer(&mut self, answer: (u16, u16)) -> Result<(), Gone> {
        match self.next()? {
            Event::Method { ids, .. } if ids == answer => Ok(()),
            Event::DeclareOk { .. } if answer == (50, 11) => Ok(()),
            other => panic!("expected {answer:?}, got {other:?}"),
        }
    }

    fn read(&mut self) -> Result<(), Gone> {
        match self.stream.read(&mut self.buffer) {
            Ok(0) => Err(Gone),
            Ok(length) => {
                self.events.extend(self.incoming.read(&self.buffer[..length]));
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no answer after {DEADLINE:?}"),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(_) => Err(Gone),
        }
    }
}

/// A publish with its content, in as many frames as it takes.
pub(crate) fn publish(exchange: &str, key: &str, bits: u8, persistent: bool, body: &[u8]) -> Vec<u8> {
    let properties = if persistent { wire::PERSISTENT } else { wire::TRANSIENT };
    publish_with(exchange, key, bits, properties, body)
}

/// The same with properties.
pub(crate) fn publish_with(exchange: &str, key: &str, bits: u8, properties: &[u8], body: &[u8]) -> Vec<u8> {
    let mut frames = wire::publish_method(exchange, key, bits).on(CHANNEL);
    frames.extend(wire::frame(2, CHANNEL, &wire::content_header(body.len() as u64, properties)));
    for piece in body.chunks(FRAME_BYTES_MAX - FRAME_OVERHEAD) {
        frames.extend(wire::frame(3, CHANNEL, piece));
    }
    frames
}
