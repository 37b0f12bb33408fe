//! An AMQP 0-9-1 client: for what the broker does as a client of itself (the API, shovels) and of other brokers (shovels).
//!
//! A [`Connection`] speaks over any stream, such as a pipe within the broker, TCP or TLS. Its one task reads and writes;
//! a [`Channel`] belongs to whoever opened it, sends what it is told to, and gets what the server sends in the order in
//! which it came. Content is passed on as it is: properties are never encoded anew.
//!
//! The server is not trusted: sizes are bounded, and what does not fit the protocol ends the connection. Nothing that the
//! server sends is taken from the stream before there is room for it.

mod channel;
mod transport;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

use self::wire::{Incoming, Method};
pub use self::{
    channel::{
        Channel, Consume, Delivery, Event, ExchangeDeclare, Got, Published, QueueDeclare, QueueStatus, Return,
    },
    wire::Closed,
};
use crate::amqp::Table;

/// How a connection is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The user's name. A connection within the broker is its user's, whatever this says.
    pub user: String,
    /// The password.
    pub password: String,
    /// Logs in by EXTERNAL, with the client certificate of TLS, rather than by PLAIN.
    pub external: bool,
    /// The virtual host.
    pub virtual_host: String,
    /// What operators of the server are told that this connection is; empty for nothing.
    pub name: String,
    /// The heartbeat interval to propose, in seconds; 0 for none. The smaller of this and the server's counts.
    pub heartbeat_secs: u16,
    /// The largest frame to propose, in octets: at least 4096.
    pub frame_max: u32,
    /// The most channels to propose; 0 for as many as there are.
    pub channel_max: u16,
    /// The largest body that is taken, in octets.
    pub message_bytes_max: u64,
    /// How long the server may take for each answer.
    pub timeout: Duration,
}

impl Options {
    /// Those for a pipe within the broker.
    pub fn within(virtual_host: &str) -> Self {
        Self { heartbeat_secs: 0, virtual_host: virtual_host.to_owned(), ..Self::default() }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            user: "guest".to_owned(),
            password: "guest".to_owned(),
            external: false,
            virtual_host: "/".to_owned(),
            name: String::new(),
            heartbeat_secs: 10,
            frame_max: 131_072,
            channel_max: 2047,
            message_bytes_max: 512 << 20,
            timeout: Duration::from_secs(30),
        }
    }
}

/// Why something was not done. The connection or channel can't be used any more, but after [`ClientError::TooLong`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The server has closed the channel.
    #[error("{}", .0.text)]
    ChannelClosed(Closed),
    /// The server has closed the connection.
    #[error("{}", .0.text)]
    ConnectionClosed(Closed),
    /// This end has closed it.
    #[error("the connection is closed")]
    Ended,
    /// The server did not answer in time.
    #[error("no answer to {what} in {} s", after.as_secs())]
    Timeout {
        /// What it was to answer.
        what: &'static str,
        /// How long it had.
        after: Duration,
    },
    /// The stream has failed, or ended without a word.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The server does not keep to AMQP 0-9-1, or to this client's bounds.
    #[error("the server sent what it may not: {0}")]
    Protocol(String),
    /// A name or key is longer than 255 octets, or the arguments don't fit a frame. Nothing was sent.
    #[error("{0} is too long")]
    TooLong(&'static str),
    /// All channels of the connection are in use.
    #[error("no channel is free")]
    NoChannel,
}

impl ClientError {
    /// The reply code and text of the server, if it has said something.
    pub fn reply(&self) -> Option<(u16, &str)> {
        match self {
            Self::ChannelClosed(closed) | Self::ConnectionClosed(closed) => {
                Some((closed.code, closed.text.as_str()))
            }
            _ => None,
        }
    }
}

/// An open connection. It is closed once it and all its channels are dropped.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
    out: mpsc::Sender<Bytes>,
}

/// What a connection, its channels and its task share.
#[derive(Debug)]
struct Shared {
    /// Where each open channel gets what is sent to it. Bounded by `channel_max`.
    channels: Mutex<HashMap<u16, mpsc::Sender<Incoming>>>,
    /// Why the connection has ended.
    end: OnceLock<ClientError>,
    /// Whether the server takes no publishes now (RabbitMQ: `connection.blocked`).
    is_blocked: AtomicBool,
    channel_max: u16,
    frame_max: u32,
    message_bytes_max: u64,
    timeout: Duration,
}

/// Pieces of output that may wait for the stream.
const OUT_MAX: usize = 32;
/// What may wait for the owner of a channel: no more is read then.
const INCOMING_MAX: usize = 64;

impl Connection {
    /// Opens a connection over a stream on which nothing was said.
    ///
    /// # Errors
    /// If the server refuses, does not answer in time, or does not speak AMQP 0-9-1.
    pub async fn open<S>(mut stream: S, options: &Options) -> Result<Self, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let handshake = transport::handshake(&mut stream, options);
        let timeout = ClientError::Timeout { what: "connection.open", after: options.timeout };
        let (input, tuned) =
            tokio::time::timeout(options.timeout, handshake).await.map_err(|_| timeout)??;
        let (out, output) = mpsc::channel(OUT_MAX);
        let shared = Arc::new(Shared {
            channels: Mutex::default(),
            end: OnceLock::new(),
            is_blocked: AtomicBool::new(false),
            channel_max: tuned.channel_max,
            frame_max: tuned.frame_max,
            message_bytes_max: options.message_bytes_max,
            timeout: options.timeout,
        });
        let task = transport::run(stream, input, output, Arc::clone(&shared), tuned.heartbeat_secs);
        tokio::spawn(task);
        Ok(Self { shared, out })
    }

    /// Opens a channel. Its number is not used again before it is closed by [`Channel::close`] or by the server.
    ///
    /// # Errors
    /// If no channel is free, or the server refuses.
    pub async fn open_channel(&self) -> Result<Channel, ClientError> {
        let (sender, incoming) = mpsc::channel(INCOMING_MAX);
        let number = self.shared.register(sender)?;
        let mut channel = Channel::new(number, incoming, self.out.clone(), Arc::clone(&self.shared));
        channel.call("channel.open", Method::new(20, 10).short(""), (20, 11)).await?;
        Ok(channel)
    }

    /// Whether the server takes no publishes now, because of an alarm.
    pub fn is_blocked(&self) -> bool {
        self.shared.is_blocked.load(Ordering::Relaxed)
    }

    /// Why it has ended, if it has.
    pub fn end(&self) -> Option<&ClientError> {
        self.shared.end.get()
    }

    /// Closes it, and waits until the server has said that it is. What the server has taken it has done by then.
    ///
    /// # Errors
    /// If the server has closed it before, or does not answer in time.
    pub async fn close(self) -> Result<(), ClientError> {
        let after = self.shared.timeout;
        let close = Method::new(10, 50).u16(200).short("Goodbye").u16(0).u16(0).frame(0);
        let closed = async {
            // If the task has ended, it says why.
            _ = self.out.send(close).await;
            self.out.closed().await;
        };
        let timeout = ClientError::Timeout { what: "connection.close", after };
        tokio::time::timeout(after, closed).await.map_err(|_| timeout)?;
        match self.shared.ended() {
            ClientError::Ended => Ok(()),
            error => Err(error),
        }
    }
}

impl Shared {
    fn channels(&self) -> MutexGuard<'_, HashMap<u16, mpsc::Sender<Incoming>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lowest number that is free for a channel that gets what is sent to it there.
    fn register(&self, incoming: mpsc::Sender<Incoming>) -> Result<u16, ClientError> {
        let mut channels = self.channels();
        if let Some(end) = self.end.get() {
            return Err(end.clone());
        }
        let mut numbers = 1..=self.channel_max;
        let number = numbers.find(|number| !channels.contains_key(number)).ok_or(ClientError::NoChannel)?;
        channels.insert(number, incoming);
        Ok(number)
    }

    /// Ends all channels: they find out why when they have read what came before.
    fn finish(&self, end: ClientError) {
        let mut channels = self.channels();
        // The first reason is the cause of any other.
        _ = self.end.set(end);
        channels.clear();
    }

    /// Why the connection has ended.
    fn ended(&self) -> ClientError {
        self.end.get().cloned().unwrap_or(ClientError::Ended)
    }
}

/// What a client says of itself.
fn client_properties(name: &str) -> Table {
    use crate::amqp::Value;
    let capabilities = [
        "authentication_failure_close",
        "basic.nack",
        "connection.blocked",
        "consumer_cancel_notify",
        "exchange_exchange_bindings",
        "publisher_confirms",
    ];
    let capabilities = capabilities.iter().map(|name| ((*name).to_owned(), Value::Bool(true))).collect();
    let mut properties = vec![
        ("product".to_owned(), "Leveret".into()),
        ("version".to_owned(), env!("CARGO_PKG_VERSION").into()),
        ("platform".to_owned(), "Rust".into()),
        ("capabilities".to_owned(), Value::Table(capabilities)),
    ];
    if !name.is_empty() {
        properties.push(("connection_name".to_owned(), name.into()));
    }
    Table(properties)
}
