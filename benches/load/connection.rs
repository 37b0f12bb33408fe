//! One connection with one channel, over a blocking socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::options::Options;
use super::wire::{self, Arguments, Fields, Frame, id};

/// The only channel.
pub(crate) const CHANNEL: u16 = 1;

/// A broker that answers nothing, or takes nothing, for this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Frames above this are not worth asking for.
const FRAME_MAX: u32 = 131_072;

/// An open connection with channel 1 open on it.
pub(crate) struct Connection {
    stream: TcpStream,
    inbox: Inbox,
    /// What was negotiated: no frame is longer.
    pub(crate) frame_max: usize,
    /// Product and version, as the broker says.
    pub(crate) server: String,
}

impl Connection {
    /// Connects, logs in, and opens a channel. `buffer` is the size of the receive buffer in bytes; it grows for
    /// a frame that does not fit.
    pub(crate) fn open(options: &Options, address: &str, buffer: usize) -> Result<Connection> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let inbox = Inbox { bytes: vec![0; buffer], start: 0, end: 0 };
        let mut connection =
            Connection { stream, inbox, frame_max: FRAME_MAX as usize, server: String::new() };
        connection.shake_hands(options).with_context(|| format!("no AMQP connection to {address}"))?;
        Ok(connection)
    }

    /// Sends bytes, however long the broker takes (up to half a minute without progress).
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("cannot send")
    }

    /// Sends a method on the channel and returns the fields of the answer, which has to be `answer`.
    pub(crate) fn call(
        &mut self,
        method: u32,
        answer: u32,
        arguments: impl FnOnce(&mut Arguments<'_>),
    ) -> Result<Vec<u8>> {
        self.call_on(CHANNEL, method, answer, arguments)
    }

    /// Waits for the answer to a method sent before; returns its fields.
    pub(crate) fn wait_for(&mut self, answer: u32) -> Result<Vec<u8>> {
        loop {
            if let Some(frame) = self.inbox.next_frame()? {
                let mut fields = Fields(frame.payload);
                match fields.u32() {
                    Some(id) if frame.kind == wire::METHOD && id == answer => return Ok(fields.0.to_vec()),
                    Some(id) if frame.kind == wire::METHOD => unexpected(id, fields)?,
                    _ => {}
                }
            } else if !self.receive()? {
                bail!("no answer from the broker");
            }
        }
    }

    /// From now on `receive` waits no longer than this.
    pub(crate) fn set_read_timeout(&mut self, timeout: Duration) -> Result<()> {
        Ok(self.stream.set_read_timeout(Some(timeout))?)
    }

    /// Waits for bytes and takes them; false if none came within the read timeout.
    pub(crate) fn receive(&mut self) -> Result<bool> {
        use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        match self.stream.read(self.inbox.room()) {
            Ok(n) => self.inbox.filled(n),
            Err(e) if matches!(e.kind(), Interrupted | TimedOut | WouldBlock) => Ok(false),
            Err(e) => Err(anyhow!(e).context("cannot receive")),
        }
    }

    /// Takes bytes that have arrived, or that arrive within `timeout`; false if there are none.
    pub(crate) fn receive_within(&mut self, timeout: Duration) -> Result<bool> {
        if !timeout.is_zero() {
            let timeout = Timespec::try_from(timeout)?;
            match poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => return Ok(false),
                Ok(_) => {}
                Err(e) => return Err(e.into()),
            }
        }
        match recv(&self.stream, self.inbox.room(), RecvFlags::DONTWAIT) {
            Ok((n, _)) => self.inbox.filled(n),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(e) => Err(e).context("cannot receive"),
        }
    }

    /// The next whole frame among the bytes received.
    #[inline]
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame<'_>>> {
        self.inbox.next_frame()
    }

    /// Closes the connection, passing the frames that still arrive to `each`.
    pub(crate) fn close(mut self, mut each: impl FnMut(Frame<'_>) -> Result<()>) -> Result<()> {
        let mut out = Vec::new();
        wire::method(&mut out, 0, id::CONNECTION_CLOSE, |a| {
            a.u16(200).short("done").u32(0);
        });
        self.send(&out)?;
        self.stream.set_read_timeout(Some(PATIENCE))?;
        loop {
            while let Some(frame) = self.inbox.next_frame()? {
                if frame.kind == wire::METHOD && Fields(frame.payload).u32() == Some(id::CONNECTION_CLOSE_OK)
                {
                    return Ok(());
                }
                each(frame)?;
            }
            if !self.receive()? {
                bail!("connection.close was not answered");
            }
        }
    }

    fn shake_hands(&mut self, options: &Options) -> Result<()> {
        self.send(b"AMQP\0\0\x09\x01")?;
        let start = self.wait_for(id::CONNECTION_START)?;
        self.server = server(&start);
        let login = format!("\0{}\0{}", options.user, options.password);
        let tune = self.call_on(0, id::CONNECTION_START_OK, id::CONNECTION_TUNE, |a| {
            a.empty_table().short("PLAIN").long(&login).short("en_US");
        })?;
        let mut fields = Fields(&tune);
        let (Some(channel_max), Some(frame_max)) = (fields.u16(), fields.u32()) else {
            bail!("bad connection.tune");
        };
        let frame_max = if frame_max == 0 { FRAME_MAX } else { frame_max.min(FRAME_MAX) };
        self.frame_max = frame_max as usize;
        let mut out = Vec::new();
        wire::method(&mut out, 0, id::CONNECTION_TUNE_OK, |a| {
            a.u16(channel_max).u32(frame_max).u16(0);
        });
        self.send(&out)?;
        self.call_on(0, id::CONNECTION_OPEN, id::CONNECTION_OPEN_OK, |a| {
            a.short(&options.vhost).short("").u8(0);
        })?;
        self.call(id::CHANNEL_OPEN, id::CHANNEL_OPEN_OK, |a| {
            a.short("");
        })?;
        Ok(())
    }

    fn call_on(
        &mut self,
        channel: u16,
        method: u32,
        answer: u32,
        arguments: impl FnOnce(&mut Arguments<'_>),
    ) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        wire::method(&mut out, channel, method, arguments);
        self.send(&out)?;
        self.wait_for(answer)
    }
}

/// The error that a method nobody waits for means; `Ok` if it has no meaning here.
pub(crate) fn unexpected(id: u32, mut fields: Fields<'_>) -> Result<()> {
    if id == id::CONNECTION_CLOSE || id == id::CHANNEL_CLOSE {
        let code = fields.u16().unwrap_or(0);
        let text = String::from_utf8_lossy(fields.short().unwrap_or(b""));
        let what = if id == id::CONNECTION_CLOSE { "connection" } else { "channel" };
        bail!("the broker closed the {what}: {code} {text}");
    }
    Ok(())
}

/// Product and version out of connection.start, found by their names in the table of server properties.
fn server(start: &[u8]) -> String {
    let property = |name: &str| {
        let key: Vec<u8> = [&[name.len() as u8], name.as_bytes(), b"S"].concat();
        let at = start.windows(key.len()).position(|window| window == key)? + key.len();
        let mut fields = Fields(&start[at..]);
        let length = fields.u32()?;
        fields.0.get(..length as usize).map(|text| String::from_utf8_lossy(text).into_owned())
    };
    if let Some(version) = property("leveret_version") {
        return format!("Leveret {version}");
    }
    format!("{} {}", property("product").unwrap_or_default(), property("version").unwrap_or_default())
}

/// Bytes received and not yet taken.
struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// Where to receive more; never empty.
    fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.bytes.len() {
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
        &mut self.bytes[self.end..]
    }

    fn filled(&mut self, n: usize) -> Result<bool> {
        if n == 0 {
            bail!("the broker closed the socket");
        }
        self.end += n;
        Ok(true)
    }

    #[inline]
    fn next_frame(&mut self) -> Result<Option<Frame<'_>>> {
        let Some((frame, length)) = Frame::split(&self.bytes[self.start..self.end])? else { return Ok(None) };
        self.start += length;
        Ok(Some(frame))
    }
}
