//! Listeners: sockets that accept connections, and the connections they have accepted.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::DuplexStream,
    net::{TcpListener, TcpSocket, TcpStream, UnixStream},
    sync::{Notify, OwnedSemaphorePermit, watch},
};
use tracing::{debug, warn};

use super::{
    RunError,
    arrival::{Arrived, Gate},
    clock::Clock,
    connection::Connection,
    stream::Stream,
};
use crate::{
    broker::{Broker, user::User},
    session::{Login, Peer, Session},
};

/// A socket that accepts connections.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    gate: Gate,
}

/// What a pipe within the broker holds, in octets in each direction.
const PIPE_BYTES: usize = 64 << 10;
/// How long to wait after the system could not give a connection: it has no descriptors left, most likely.
pub(super) const ACCEPT_RETRY: Duration = Duration::from_millis(100);

impl Listener {
    /// Listens on the address. `::` falls back to `0.0.0.0` where there is no IPv6.
    ///
    /// # Errors
    /// If the address is taken or not this machine's.
    pub(super) fn bind(
        address: SocketAddr,
        backlog: u32,
        flag: &'static str,
        gate: Gate,
    ) -> Result<Self, RunError> {
        let bound = bind(address, backlog).or_else(|source| {
            if address.ip() == std::net::Ipv6Addr::UNSPECIFIED && source.kind() != io::ErrorKind::AddrInUse {
                bind((Ipv4Addr::UNSPECIFIED, address.port()).into(), backlog)
            } else {
                Err(source)
            }
        });
        let socket = bound.map_err(|source| RunError::Listen { address, flag, source })?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address, gate })
    }

    /// The address that it is bound to, with the port that the system chose.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its connections go through.
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The next connection, and the permit to go through the gate. What goes wrong is logged, and tried again.
    pub(super) async fn next(&self) -> (TcpStream, SocketAddr, Option<OwnedSemaphorePermit>) {
        let permit = self.gate.permit().await;
        loop {
            match self.socket.accept().await {
                Ok((stream, address)) => return (stream, address, permit),
                Err(error) => {
                    warn!("cannot accept a connection on {}: {error}", self.address);
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Accepts AMQP connections until the broker stops.
    pub(super) async fn accept(self, connections: Connections) {
        loop {
            tokio::select! {
                (stream, address, permit) = self.next() => {
                    connections.start(stream, address, &self.gate, permit);
                }
                () = connections.stopped() => return,
            }
        }
    }
}

/// Until the broker stops.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error says that the sender is gone: the broker has stopped.
    let _ = stopping.wait_for(|stopping| *stopping).await.is_ok();
}

fn bind(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)
}

/// The connections of a broker.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    broker: Arc<Broker>,
    clock: Clock,
    stopping: watch::Receiver<bool>,
    open: Arc<Open>,
}

#[derive(Debug, Default)]
struct Open {
    count: AtomicUsize,
    /// How many there have been from within the machine.
    unix_connections: AtomicU64,
    ended: Notify,
}

/// Counts a connection until its task ends, even by a panic.
struct Counted(Arc<Open>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.notify_waiters();
    }
}

impl Connections {
    pub(super) fn new(broker: Arc<Broker>, clock: Clock, stopping: watch::Receiver<bool>) -> Self {
        Self { broker, clock, stopping, open: Arc::default() }
    }

    /// How many there are.
    pub(super) fn open(&self) -> usize {
        self.open.count.load(Ordering::Acquire)
    }

    /// Until there are none.
    pub(super) async fn closed(&self) {
        loop {
            let ended = self.open.ended.notified();
            if self.open() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Until the broker stops.
    pub(super) async fn stopped(&self) {
        stopped(&mut self.stopping.clone()).await;
    }

    /// Starts a connection that was accepted.
    fn start(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        gate: &Gate,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        if self.broker.runtime.turns_away() {
            debug!(peer = %address, "closed: an operator wants no connections");
            return;
        }
        if self.are_too_many() {
            debug!(peer = %address, "closed: too many connections");
            return;
        }
        let local = match stream.set_nodelay(true).and_then(|()| stream.local_addr()) {
            Ok(local) => local,
            Err(error) => {
                debug!(peer = %address, "closed before it began: {error}");
                return;
            }
        };
        if gate.is_open() {
            self.serve(Stream::Tcp(stream), Peer::new(address, local));
            return;
        }
        let (connections, counted, gate) = (self.clone(), self.count(), gate.clone());
        tokio::spawn(async move {
            let _counted = counted;
            let arrived = tokio::select! {
                arrived = Box::pin(gate.pass(stream, (address, local))) => arrived,
                () = connections.stopped() => None,
            };
            drop(permit);
            if let Some(Arrived { stream, address, local, tls }) = arrived {
                connections.connection(stream, Peer { tls, ..Peer::new(address, local) }).run().await;
            }
        });
    }

    /// Starts a connection from within the machine. Its client is shown by a number of its own, as an address of this
    /// machine, since everything tells connections apart by addresses: 127.0.0.1:1, 127.0.0.1:2 and so on, connected to
    /// port 0.
    pub(super) fn start_unix(&self, stream: UnixStream) {
        if self.broker.runtime.turns_away() {
            debug!("closed: an operator wants no connections");
            return;
        }
        if self.are_too_many() {
            debug!("closed: too many connections");
            return;
        }
        let number = self.open.unix_connections.fetch_add(1, Ordering::Relaxed) + 1;
        let [.., b, c, d, port_high, port_low] = number.to_be_bytes();
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + u32::from_be_bytes([0, b, c, d]));
        let address = SocketAddr::from((address, u16::from_be_bytes([port_high, port_low])));
        self.serve(Stream::Unix(stream), Peer::new(address, (Ipv4Addr::LOCALHOST, 0).into()));
    }

    /// Whether there are twice as many as there may be. The handshake refuses what is over the limit in words; this
    /// bounds those who never get that far.
    fn are_too_many(&self) -> bool {
        self.broker.limits.connections_max.is_some_and(|max| self.open() >= 2 * max as usize)
    }

    /// A connection that the broker has with itself, as that user, whatever it says in `connection.start-ok`. Operators
    /// are not shown it, and it counts against no limit.
    pub(crate) fn connect_internally(&self, user: Arc<User>) -> DuplexStream {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let peer = Peer { address: nowhere, local: nowhere, login: Login::Internal(user), tls: None };
        self.serve(Stream::Pipe(Box::new(far)), peer);
        near
    }

    /// Starts the task of a connection.
    fn serve(&self, stream: Stream, peer: Peer) {
        let counted = self.count();
        let connection = self.connection(stream, peer);
        tokio::spawn(async move {
            let _counted = counted;
            connection.run().await;
        });
    }

    /// One more, as long as that is kept.
    fn count(&self) -> Counted {
        self.open.count.fetch_add(1, Ordering::AcqRel);
        Counted(Arc::clone(&self.open))
    }

    fn connection(&self, stream: Stream, peer: Peer) -> Connection {
        let session = Session::new(Arc::clone(&self.broker), peer, self.clock.now());
        Connection::new(stream, session, self.clock, self.stopping.clone())
    }
}
