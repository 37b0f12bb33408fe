//! What a connection reads from and writes to: a socket, with TLS or without, or a pipe from within the broker.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncBufRead as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;

/// See the module's text.
#[derive(Debug)]
pub(super) enum Stream {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A TCP connection with TLS.
    Tls(Box<TlsStream<TcpStream>>),
    /// A socket within the machine.
    Unix(UnixStream),
    /// The other end is in the broker itself.
    Pipe(Box<DuplexStream>),
}

impl Stream {
    /// Whether a read is worth making a buffer for. Only a socket knows that nothing has come.
    pub(super) fn poll_read_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => stream.poll_read_ready(context),
            Stream::Unix(stream) => stream.poll_read_ready(context),
            // What is readable may be there already, decrypted, while the socket has nothing; or the socket has only
            // a part of a record.
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_fill_buf(context).map_ok(|_| ()),
            Stream::Pipe(_) => Poll::Ready(Ok(())),
        }
    }

    /// Reads once into what the buffer has reserved; 0 is the end.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        input: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        use std::future::Future as _;
        match self {
            // Tokio knows from a read that did not fill the buffer that there is no more, without another call to the
            // system.
            Stream::Tcp(stream) => pin!(stream.read_buf(input)).poll(context),
            Stream::Unix(stream) => pin!(stream.read_buf(input)).poll(context),
            Stream::Tls(stream) => pin!(stream.read_buf(input)).poll(context),
            Stream::Pipe(pipe) => pin!(pipe.read_buf(input)).poll(context),
        }
    }

    /// Writes once; how much was taken.
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => loop {
                ready!(stream.poll_write_ready(context))?;
                match stream.try_write_vectored(slices) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return Poll::Ready(result),
                }
            },
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(context, slices),
            Stream::Pipe(pipe) => Pin::new(pipe).poll_write_vectored(context, slices),
        }
    }

    /// Passes on to the socket what was taken by [`Stream::poll_write`] and only encrypted.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_flush(context),
            Stream::Tcp(_) | Stream::Unix(_) | Stream::Pipe(_) => Poll::Ready(Ok(())),
        }
    }

    /// Says that nothing more comes, and takes what the client still sends, until it closes its end.
    pub(super) async fn close(&mut self) -> io::Result<()> {
        let mut discarded = BytesMut::with_capacity(1024);
        match self {
            Stream::Tcp(stream) => stream.shutdown().await?,
            Stream::Unix(stream) => stream.shutdown().await?,
            Stream::Tls(stream) => stream.shutdown().await?,
            Stream::Pipe(pipe) => pipe.shutdown().await?,
        }
        loop {
            discarded.clear();
            let count = match self {
                Stream::Tcp(stream) => stream.read_buf(&mut discarded).await?,
                Stream::Unix(stream) => stream.read_buf(&mut discarded).await?,
                Stream::Tls(stream) => stream.read_buf(&mut discarded).await?,
                Stream::Pipe(pipe) => pipe.read_buf(&mut discarded).await?,
            };
            if count == 0 {
                return Ok(());
            }
        }
    }
}
