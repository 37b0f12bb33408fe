//! Listeners: sockets that accept connections, and the connections they have accepted.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, watch},
};
use tracing::{debug, warn};

use super::{RunError, clock::Clock, connection::Connection};
use crate::{
    broker::Broker,
    session::{Peer, Session},
};

/// A socket that accepts connections.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

/// How long to wait after the system could not give a connection: it has no descriptors left, most likely.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

impl Listener {
    /// Listens on the address. `::` falls back to `0.0.0.0` where there is no IPv6.
    ///
    /// # Errors
    /// If the address is taken or not this machine's.
    pub(super) fn bind(address: SocketAddr, backlog: u32) -> Result<Self, RunError> {
        let bound = bind(address, backlog).or_else(|source| {
            if address.ip() == std::net::Ipv6Addr::UNSPECIFIED && source.kind() != io::ErrorKind::AddrInUse {
                bind((Ipv4Addr::UNSPECIFIED, address.port()).into(), backlog)
            } else {
                Err(source)
            }
        });
        let socket = bound.map_err(|source| RunError::Listen { address, source })?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// The address that it is bound to, with the port that the system chose.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts connections until the broker stops.
    pub(super) async fn accept(self, connections: Connections) {
        let mut stopping = connections.stopping.clone();
        loop {
            tokio::select! {
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, address)) => connections.start(stream, address),
                    Err(error) => {
                        warn!("cannot accept a connection on {}: {error}", self.address);
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
                () = stopped(&mut stopping) => return,
            }
        }
    }
}

/// Until the broker stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
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
pub(super) struct Connections {
    broker: Arc<Broker>,
    clock: Clock,
    stopping: watch::Receiver<bool>,
    open: Arc<Open>,
}

#[derive(Debug, Default)]
struct Open {
    count: AtomicUsize,
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

    /// Starts the task of a connection.
    fn start(&self, stream: TcpStream, address: SocketAddr) {
        if let Some(max) = self.broker.limits.connections_max
            && self.open() >= 2 * max as usize
        {
            // The handshake refuses what is over the limit in words; this bounds those who never get that far.
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
        self.open.count.fetch_add(1, Ordering::AcqRel);
        let counted = Counted(Arc::clone(&self.open));
        let peer = Peer { address, local };
        let session = Session::new(Arc::clone(&self.broker), peer, self.clock.now());
        let connection = Connection::new(stream, session, self.clock, self.stopping.clone());
        tokio::spawn(async move {
            let _counted = counted;
            connection.run().await;
        });
    }
}
