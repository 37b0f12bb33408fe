//! What a connection goes through before its protocol begins: the header of a proxy, then the handshake of TLS.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tracing::{debug, info};

use super::{
    proxy::{self, Addresses, Header, ProxyError},
    stream::Stream,
    tls::{Protocol, Tls},
};
use crate::broker::connections::TlsStatus;

/// What the connections of a listener go through.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    /// Whether a proxy speaks first.
    pub(super) is_proxied: bool,
    /// What is spoken over TLS, and with which certificates.
    pub(super) tls: Option<(Arc<Tls>, Protocol)>,
    /// How many may be on their way through.
    permits: Arc<Semaphore>,
}

/// A connection whose protocol may begin.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) stream: Stream,
    /// The client's end: what the proxy says, if there is one.
    pub(super) address: SocketAddr,
    /// The broker's end, or the proxy's.
    pub(super) local: SocketAddr,
    pub(super) tls: Option<Arc<TlsStatus>>,
}

/// Why a connection does not come through.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("no complete {0} within {secs} s", secs = TIMEOUT.as_secs())]
    TimedOut(&'static str),
    #[error("{0}")]
    Proxy(#[from] ProxyError),
    #[error("TLS handshake failed: {0}")]
    Tls(io::Error),
    #[error("the client is gone")]
    Gone,
}

/// How long all of it may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of one listener that may be on their way at a time; others wait to be accepted.
const ARRIVING_MAX: usize = 1024;

impl Gate {
    /// For a listener.
    pub(super) fn new(is_proxied: bool, tls: Option<(Arc<Tls>, Protocol)>) -> Self {
        Self { is_proxied, tls, permits: Arc::new(Semaphore::new(ARRIVING_MAX)) }
    }

    /// Whether connections go right through.
    pub(super) fn is_open(&self) -> bool {
        !self.is_proxied && self.tls.is_none()
    }

    /// Waits until one more may be on its way. `None` if they go right through.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if self.is_open() { None } else { Arc::clone(&self.permits).acquire_owned().await.ok() }
    }

    /// Takes a connection through; `None` if it has to end, which is logged.
    pub(super) async fn pass(&self, stream: TcpStream, ends: (SocketAddr, SocketAddr)) -> Option<Arrived> {
        let mut stage = if self.is_proxied { "PROXY header" } else { "TLS handshake" };
        let passed = tokio::time::timeout(TIMEOUT, self.try_pass(stream, ends, &mut stage)).await;
        match passed.unwrap_or(Err(Refused::TimedOut(stage))) {
            Ok(arrived) => Some(arrived),
            // Whoever only looks whether the port is open does so often.
            Err(Refused::Gone) => {
                debug!(peer = %ends.0, "closed: the client is gone before its {stage}");
                None
            }
            Err(refused) => {
                info!(peer = %ends.0, "closed: {refused}");
                None
            }
        }
    }

    async fn try_pass(
        &self,
        mut stream: TcpStream,
        (mut address, mut local): (SocketAddr, SocketAddr),
        stage: &mut &'static str,
    ) -> Result<Arrived, Refused> {
        if self.is_proxied
            && let Some(Addresses { client, proxy }) = read_header(&mut stream).await?
        {
            (address, local) = (client, proxy);
        }
        *stage = "TLS handshake";
        let Some((tls, protocol)) = &self.tls else {
            return Ok(Arrived { stream: Stream::Tcp(stream), address, local, tls: None });
        };
        let (stream, status) = tls.accept(stream, *protocol).await.map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof { Refused::Gone } else { Refused::Tls(error) }
        })?;
        let stream = Stream::Tls(Box::new(stream));
        Ok(Arrived { stream, address, local, tls: Some(Arc::new(status)) })
    }
}

/// Reads a proxy's header and not an octet more: what comes after it is the client's.
async fn read_header(stream: &mut TcpStream) -> Result<Option<Addresses>, Refused> {
    let mut header = Vec::with_capacity(128);
    loop {
        match proxy::parse(&header)? {
            Header::Complete(addresses) => return Ok(addresses),
            Header::More(missing) => {
                let count = stream.take(missing as u64).read_buf(&mut header).await;
                if count.map_err(|_| Refused::Gone)? == 0 {
                    return Err(Refused::Gone);
                }
            }
        }
    }
}
