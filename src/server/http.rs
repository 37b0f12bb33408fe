//! HTTP listeners: sockets in, axum's routers out, and the bounds that hold for every request.

use std::{
    future::Future as _,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, DefaultBodyLimit, Request},
    http::{HeaderName, HeaderValue, header},
    middleware::{self, Next},
    response::Response,
};
use bytes::Bytes;
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Sleep, sleep, timeout},
};
use tracing::debug;

use super::{
    arrival::Arrived,
    listener::{Listener, stopped},
    stream::Stream,
};

/// What a listener puts up with.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Connections; others wait to be accepted.
    connections_max: usize,
    /// How long the headers of a request may take, and how long a connection may idle before them.
    header_timeout: Duration,
    /// How long the body of a request may take.
    body_timeout: Duration,
}

const BOUNDS: Bounds = Bounds {
    connections_max: 1000,
    header_timeout: Duration::from_secs(30),
    body_timeout: Duration::from_secs(60),
};
/// Octets of a request's line and headers.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Octets of a request's body, as in RabbitMQ. A path may have a bound of its own.
const BODY_BYTES_MAX: usize = 20_000_000;
/// How long a client may not take any of its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long open requests have to end when the broker stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What browsers are told with every answer: the page consists of its own files, no other site may use any of this, and
/// nothing is what it does not say it is.
const SECURITY: [(HeaderName, HeaderValue); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; \
             frame-ancestors 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

/// Serves HTTP until the broker stops, and a little longer what has been asked for.
pub(super) async fn serve(listener: Listener, router: Router, stopping: watch::Receiver<bool>) {
    serve_within(BOUNDS, listener, router, stopping).await;
}

async fn serve_within(
    bounds: Bounds,
    listener: Listener,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let router = bounded(router);
    let permits = Arc::new(Semaphore::new(bounds.connections_max));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.next().await)
        };
        tokio::select! {
            (permit, (stream, address, arriving)) = next => {
                let (gate, router, stopping) = (listener.gate().clone(), router.clone(), stopping.clone());
                connections.spawn(async move {
                    let _permit = permit;
                    let Ok(local) = prepare(&stream) else { return };
                    let arrived = Box::pin(gate.pass(stream, (address, local))).await;
                    drop(arriving);
                    if let Some(arrived) = arrived {
                        start(bounds, arrived, router, stopping).await;
                    }
                });
            }
            Some(_) = connections.join_next() => {}
            () = stopped(&mut stopping) => break,
        }
    }
    drop(listener);
    // Who takes longer is cut off.
    let _ = timeout(STOP_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
}

/// The broker's end of a connection, made ready.
fn prepare(stream: &TcpStream) -> std::io::Result<SocketAddr> {
    stream.set_nodelay(true)?;
    set_tcp_user_timeout(stream, u32::try_from(WRITE_TIMEOUT.as_millis()).unwrap_or(u32::MAX))?;
    stream.local_addr()
}

async fn start(bounds: Bounds, arrived: Arrived, router: Router, stopping: watch::Receiver<bool>) {
    match arrived.stream {
        Stream::Tcp(stream) => serve_connection(bounds, stream, arrived.address, router, stopping).await,
        Stream::Tls(stream) => serve_connection(bounds, stream, arrived.address, router, stopping).await,
        Stream::Unix(_) | Stream::Pipe(_) => {}
    }
}

async fn serve_connection(
    bounds: Bounds,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    address: SocketAddr,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(|body| Body::new(Timed::new(body, bounds.body_timeout)));
        request.extensions_mut().insert(ConnectInfo(address));
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_timeout)
        .max_header_size(HEADER_BYTES_MAX)
        .max_buf_size(2 * HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(peer = %address, "HTTP connection closed: {error}");
    }
}

/// A router whose requests are bounded, and whose answers browsers can rely on.
fn bounded(router: Router) -> Router {
    router.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).layer(middleware::from_fn(add_security))
}

/// Adds the headers of [`SECURITY`] that an answer does not have already.
async fn add_security(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in SECURITY {
        response.headers_mut().entry(name).or_insert(value);
    }
    response
}

/// A body that must be there in time.
struct Timed {
    body: Incoming,
    deadline: Pin<Box<Sleep>>,
}

impl Timed {
    fn new(body: Incoming, timeout: Duration) -> Self {
        Self { body, deadline: Box::pin(sleep(timeout)) }
    }
}

impl hyper::body::Body for Timed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(axum::Error::new("the body has not come in time"))));
        }
        Poll::Ready(
            ready!(Pin::new(&mut self.body).poll_frame(context)).map(|frame| frame.map_err(axum::Error::new)),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::any;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::{super::arrival::Gate, *};

    /// A server that says who asks and what for, in answer to the whole request.
    struct Server {
        address: SocketAddr,
        stop: watch::Sender<bool>,
        task: tokio::task::JoinHandle<()>,
    }

    const SHORT: Duration = Duration::from_millis(50);
    const DEADLINE: Duration = Duration::from_secs(20);

    impl Server {
        fn start(bounds: Bounds) -> Self {
            let gate = Gate::new(false, None);
            let listener = Listener::bind(([127, 0, 0, 1], 0).into(), 16, "", gate).expect("a listener");
            let address = listener.address();
            let answer =
                async |ConnectInfo(peer): ConnectInfo<SocketAddr>, body: String| format!("{peer} {body}");
            let (stop, stopping) = watch::channel(false);
            let router = Router::new().route("/", any(answer));
            let task = tokio::spawn(serve_within(bounds, listener, router, stopping));
            Self { address, stop, task }
        }

        async fn send(&self, request: &str) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.expect("a connection");
            stream.write_all(request.as_bytes()).await.expect("written");
            stream
        }
    }

    /// All that comes, until the end.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut octets = Vec::new();
        let read = timeout(DEADLINE, stream.read_to_end(&mut octets)).await.expect("an end in time");
        // An error says that it was reset, with what the server had not read.
        _ = read.is_ok();
        String::from_utf8_lossy(&octets).into_owned()
    }

    #[tokio::test]
    async fn a_handler_knows_who_asks() {
        let server = Server::start(BOUNDS);
        let mut stream =
            server.send("POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: 3\r\n\r\nwho").await;
        let answer = rest(&mut stream).await;
        let expected = format!("{} who", stream.local_addr().expect("an address"));
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&expected), "{answer}");
    }

    #[tokio::test]
    async fn whoever_is_slow_with_headers_or_idles_is_closed() {
        let server = Server::start(Bounds { header_timeout: SHORT, ..BOUNDS });
        for (request, expected) in
            [("", ""), ("GET / HT", "HTTP/1.1 4"), ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 ")]
        {
            let answer = rest(&mut server.send(request).await).await;
            assert!(answer.is_empty() || answer.starts_with(expected), "{request:?}: {answer}");
            assert_eq!(answer.is_empty(), !expected.contains("200"), "{request:?}: {answer}");
        }
    }

    #[tokio::test]
    async fn whoever_is_slow_with_the_body_is_refused() {
        let server = Server::start(Bounds { body_timeout: SHORT, ..BOUNDS });
        let answer = rest(&mut server.send("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nw").await).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }

    #[tokio::test]
    async fn a_body_has_a_bound() {
        let server = Server::start(BOUNDS);
        let length = BODY_BYTES_MAX + 1;
        let head = format!("POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        let mut stream = server.send(&head).await;
        stream.write_all(&vec![b'x'; length]).await.expect("written");
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_wait_for_their_turn() {
        let server = Server::start(Bounds { connections_max: 1, ..BOUNDS });
        let mut first = server.send("GET / HTTP/1.1\r\n\r\n").await;
        first.read_u8().await.expect("an answer");
        let mut second = server.send("GET / HTTP/1.1\r\nconnection: close\r\n\r\n").await;
        assert!(timeout(SHORT, second.read_u8()).await.is_err(), "not while the first is there");
        drop(first);
        assert!(rest(&mut second).await.contains("TTP/1.1 200 "));
    }

    #[tokio::test]
    async fn what_was_asked_for_is_answered_before_the_end() {
        let server = Server::start(BOUNDS);
        let mut idle = server.send("GET / HTTP/1.1\r\n\r\n").await;
        idle.read_u8().await.expect("an answer");
        let mut busy =
            server.send("POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").await;
        busy.read_u8().await.expect("the wish for a body");
        server.stop.send(true).expect("a server");
        rest(&mut idle).await;
        busy.write_all(b"now").await.expect("written");
        assert!(rest(&mut busy).await.ends_with(" now"));
        timeout(DEADLINE, server.task).await.expect("an end in time").expect("no panic");
    }
}
