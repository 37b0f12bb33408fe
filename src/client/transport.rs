//! The stream of a connection: its handshake, and the task that reads and writes from then on.

use std::{collections::HashMap, future::pending, sync::Arc, sync::atomic::Ordering, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::{
    io::{
        AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufWriter, ReadHalf, WriteHalf, split,
    },
    sync::mpsc,
    time::timeout,
};

use super::{
    ClientError, Options, Shared, client_properties,
    wire::{
        self, Content, ContentMethod, Decoded, HEARTBEAT, Incoming, Method, PROTOCOL_HEADER, ServerMethod,
    },
};
use crate::amqp::{
    ContentHeader, FrameKind, Frames,
    frame::{self, FRAME_MIN_SIZE, Frame},
};

/// Room that a read has at least, in octets.
const READ_BYTES: usize = 16 << 10;
/// Memory that is taken for a body before any of it has come, in octets.
const BODY_BYTES_AHEAD: u64 = 1 << 20;
/// How long the server may take to say goodbye to a connection that nobody uses any more.
const GOODBYE: Duration = Duration::from_secs(5);

/// What both ends have agreed on.
#[derive(Debug)]
pub(super) struct Tuned {
    pub(super) channel_max: u16,
    pub(super) frame_max: u32,
    pub(super) heartbeat_secs: u16,
}

/// From the protocol header to `connection.open-ok`; also what was read beyond it.
pub(super) async fn handshake<S>(stream: &mut S, options: &Options) -> Result<(BytesMut, Tuned), ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = BytesMut::new();
    write(stream, PROTOCOL_HEADER).await?;
    let ServerMethod::ConnectionStart { mechanisms } = next_method(stream, &mut input, options).await? else {
        return Err(unexpected("connection.start"));
    };
    write(stream, &start_ok(&mechanisms, options)?).await?;
    let tune = next_method(stream, &mut input, options).await?;
    let ServerMethod::ConnectionTune { channel_max, frame_max, heartbeat_secs } = tune else {
        return Err(unexpected("connection.tune"));
    };
    let tuned = Tuned {
        channel_max: negotiated(channel_max.into(), options.channel_max.into(), u16::MAX.into()) as u16,
        frame_max: negotiated(frame_max, options.frame_max, u32::MAX),
        heartbeat_secs: heartbeat_secs.min(options.heartbeat_secs),
    };
    if tuned.frame_max < FRAME_MIN_SIZE {
        return Err(ClientError::Protocol(format!("frame_max {} is too small", tuned.frame_max)));
    }
    let tune_ok = Method::new(10, 31).u16(tuned.channel_max).u32(tuned.frame_max).u16(tuned.heartbeat_secs);
    let open = Method::new(10, 40).short(&options.virtual_host).short("").u8(0);
    if !open.fits(FRAME_MIN_SIZE) {
        return Err(ClientError::TooLong("the name of the virtual host"));
    }
    write(stream, &[tune_ok.frame(0), open.frame(0)].concat()).await?;
    match next_method(stream, &mut input, options).await?.ids() {
        (10, 41) => Ok((input, tuned)),
        _ => Err(unexpected("connection.open-ok")),
    }
}

fn start_ok(mechanisms: &str, options: &Options) -> Result<Bytes, ClientError> {
    let Options { user, password, .. } = options;
    let wanted = if options.external { "EXTERNAL" } else { "PLAIN" };
    if !mechanisms.split(' ').any(|mechanism| mechanism == wanted) {
        let text = format!("it does not take the mechanism {wanted}, but {mechanisms}");
        return Err(ClientError::Protocol(text));
    }
    let response = if options.external { String::new() } else { format!("\0{user}\0{password}") };
    let properties = client_properties(&options.name);
    let method =
        Method::new(10, 11).table(&properties).short(wanted).long(response.as_bytes()).short("en_US");
    if method.fits(FRAME_MIN_SIZE) { Ok(method.frame(0)) } else { Err(ClientError::TooLong("the login")) }
}

/// The smaller of two limits, where 0 is none.
fn negotiated(server: u32, client: u32, none: u32) -> u32 {
    [server, client].into_iter().filter(|limit| *limit != 0).min().unwrap_or(none)
}

/// Reads the next method of a handshake.
async fn next_method<S>(
    stream: &mut S,
    input: &mut BytesMut,
    options: &Options,
) -> Result<ServerMethod, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        if input.starts_with(b"AMQP") {
            return Err(ClientError::Protocol("it speaks another version of AMQP".to_owned()));
        }
        let split = frame::split(input, options.frame_max);
        if let Some(frame) = Frames::new(&input[..split.len]).next() {
            let decoded = match FrameKind::from_octet(frame.kind) {
                Some(FrameKind::Method) if frame.channel == 0 => Some(decode(frame.payload)?),
                Some(FrameKind::Heartbeat) => None,
                _ => return Err(unexpected("a method of the connection")),
            };
            let taken = frame.payload_start + frame.payload.len() + 1;
            _ = input.split_to(taken);
            match decoded {
                None => {}
                Some(Decoded::Plain(ServerMethod::ConnectionClose(closed))) => {
                    // What it has said counts more than whether it hears this.
                    _ = write(stream, &Method::new(10, 51).frame(0)).await;
                    return Err(ClientError::ConnectionClosed(closed));
                }
                Some(Decoded::Plain(method)) => return Ok(method),
                Some(Decoded::WithContent(_)) => return Err(unexpected("a method of the connection")),
            }
            continue;
        }
        if let Some(error) = split.error {
            return Err(ClientError::Protocol(error.to_string()));
        }
        input.reserve(READ_BYTES);
        if stream.read_buf(input).await.map_err(|error| lost(&error))? == 0 {
            return Err(ClientError::Lost("closed by the server during the handshake".to_owned()));
        }
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), octets: &[u8]) -> Result<(), ClientError> {
    stream.write_all(octets).await.map_err(|error| lost(&error))?;
    stream.flush().await.map_err(|error| lost(&error))
}

/// Reads and writes until the connection ends.
pub(super) async fn run<S>(
    stream: S,
    input: BytesMut,
    output: mpsc::Receiver<Bytes>,
    shared: Arc<Shared>,
    heartbeat_secs: u16,
) where
    S: AsyncRead + AsyncWrite + Send,
{
    let (read_half, write_half) = split(stream);
    let (answers, to_answer) = mpsc::channel(1);
    let heartbeat = (heartbeat_secs != 0).then(|| Duration::from_secs(heartbeat_secs.into()));
    let mut reader =
        Reader { stream: read_half, input, answers, shared: Arc::clone(&shared), contents: HashMap::new() };
    let mut writer = Writer { stream: BufWriter::with_capacity(64 << 10, write_half), output, to_answer };
    let end = tokio::select! {
        error = reader.run(heartbeat) => error,
        error = writer.run(heartbeat) => error,
    };
    if let ClientError::ConnectionClosed(_) = end {
        _ = timeout(GOODBYE, writer.write(&Method::new(10, 51).frame(0), true)).await;
    }
    shared.finish(end);
    // Only now do those who wait to write learn that nobody does: the reason is there.
    drop(writer);
}

struct Reader<S> {
    stream: ReadHalf<S>,
    input: BytesMut,
    /// Methods that the protocol answers by itself.
    answers: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
    /// What has come of the contents that are not complete, by channel. Bounded by the open channels.
    contents: HashMap<u16, Partial>,
}

/// A content of which not all has come.
struct Partial {
    method: ContentMethod,
    properties: Bytes,
    /// In octets; `None` until the header has come.
    size: Option<u64>,
    body: BytesMut,
}

impl<S: AsyncRead> Reader<S> {
    /// Reads until the connection ends; says why it has.
    async fn run(&mut self, heartbeat: Option<Duration>) -> ClientError {
        loop {
            let split = frame::split(&self.input, self.shared.frame_max);
            let chunk = self.input.split_to(split.len).freeze();
            for frame in Frames::new(&chunk) {
                if let Err(end) = self.handle(&frame).await {
                    return end;
                }
            }
            if let Some(error) = split.error {
                return ClientError::Protocol(error.to_string());
            }
            self.input.reserve(READ_BYTES);
            let read = self.stream.read_buf(&mut self.input);
            let read = match heartbeat {
                Some(interval) => timeout(interval * 2, read).await,
                None => Ok(read.await),
            };
            match read {
                Ok(Ok(0)) => return ClientError::Lost("closed by the server".to_owned()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return lost(&error),
                Err(_) => return ClientError::Lost("no heartbeat from the server".to_owned()),
            }
        }
    }

    async fn handle(&mut self, frame: &Frame<'_>) -> Result<(), ClientError> {
        match FrameKind::from_octet(frame.kind) {
            Some(FrameKind::Heartbeat) => Ok(()),
            Some(FrameKind::Method) => match (frame.channel, decode(frame.payload)?) {
                (0, Decoded::Plain(method)) => self.connection_method(method),
                (channel, Decoded::Plain(method)) => self.channel_method(channel, method).await,
                (0, Decoded::WithContent(_)) => Err(unexpected("a method of the connection")),
                (channel, Decoded::WithContent(method)) => {
                    let partial =
                        Partial { method, properties: Bytes::new(), size: None, body: BytesMut::new() };
                    match self.contents.insert(channel, partial) {
                        None if self.is_open(channel) => Ok(()),
                        _ => Err(unexpected("a content, or a channel that is open")),
                    }
                }
            },
            Some(FrameKind::Header) => self.content_header(frame).await,
            Some(FrameKind::Body) => self.content_body(frame).await,
            None => Err(unexpected("a frame of a known type")),
        }
    }

    fn connection_method(&self, method: ServerMethod) -> Result<(), ClientError> {
        match method {
            ServerMethod::ConnectionClose(closed) => Err(ClientError::ConnectionClosed(closed)),
            ServerMethod::ConnectionBlocked => self.set_blocked(true),
            ServerMethod::ConnectionUnblocked => self.set_blocked(false),
            ServerMethod::Other { ids: (10, 51) } => Err(ClientError::Ended),
            _ => Err(unexpected("a method of an open connection")),
        }
    }

    fn set_blocked(&self, is_blocked: bool) -> Result<(), ClientError> {
        self.shared.is_blocked.store(is_blocked, Ordering::Relaxed);
        Ok(())
    }

    async fn channel_method(&mut self, channel: u16, method: ServerMethod) -> Result<(), ClientError> {
        if self.contents.contains_key(&channel) {
            return Err(unexpected("the rest of a content"));
        }
        let answer = match &method {
            ServerMethod::ChannelClose(_) => Some(Method::new(20, 41)),
            ServerMethod::ChannelFlow { active } => Some(Method::new(20, 21).bits([*active])),
            _ => None,
        };
        if let Some(answer) = answer {
            // It fails if the writer has ended, and then the connection does.
            _ = self.answers.send(answer.frame(channel)).await;
        }
        let is_end = matches!(method.ids(), (20, 40 | 41));
        self.pass(channel, Incoming::Method(method)).await;
        if is_end {
            self.shared.channels().remove(&channel);
        }
        Ok(())
    }

    async fn content_header(&mut self, frame: &Frame<'_>) -> Result<(), ClientError> {
        let partial = self.contents.get_mut(&frame.channel).filter(|partial| partial.size.is_none());
        let partial = partial.ok_or_else(|| unexpected("a method"))?;
        let header =
            ContentHeader::parse(frame.payload).map_err(|error| ClientError::Protocol(error.to_string()))?;
        if header.body_size > self.shared.message_bytes_max {
            let text = format!("a body of {} octets, which is too large", header.body_size);
            return Err(ClientError::Protocol(text));
        }
        partial.properties = Bytes::copy_from_slice(header.properties);
        partial.size = Some(header.body_size);
        partial.body.reserve(header.body_size.min(BODY_BYTES_AHEAD) as usize);
        self.complete(frame.channel).await
    }

    async fn content_body(&mut self, frame: &Frame<'_>) -> Result<(), ClientError> {
        let partial = self.contents.get_mut(&frame.channel);
        let partial = partial.ok_or_else(|| unexpected("a method"))?;
        let size = partial.size.ok_or_else(|| unexpected("a content header"))?;
        if (partial.body.len() + frame.payload.len()) as u64 > size {
            return Err(unexpected("no more than the size that the header says"));
        }
        partial.body.put_slice(frame.payload);
        self.complete(frame.channel).await
    }

    /// Passes a content on if all of it has come.
    async fn complete(&mut self, channel: u16) -> Result<(), ClientError> {
        let is_complete = |partial: &Partial| partial.size == Some(partial.body.len() as u64);
        if self.contents.get(&channel).is_some_and(is_complete)
            && let Some(Partial { method, properties, body, .. }) = self.contents.remove(&channel)
        {
            let content = Content { properties, body: body.freeze() };
            self.pass(channel, Incoming::Content(method, content)).await;
        }
        Ok(())
    }

    fn is_open(&self, channel: u16) -> bool {
        self.shared.channels().contains_key(&channel)
    }

    /// Gives it to the channel, once there is room.
    async fn pass(&mut self, channel: u16, incoming: Incoming) {
        let sender = self.shared.channels().get(&channel).cloned();
        if let Some(sender) = sender {
            // Nobody has the channel any more: so nobody wants it.
            _ = sender.send(incoming).await;
        }
    }
}

struct Writer<S> {
    stream: BufWriter<WriteHalf<S>>,
    output: mpsc::Receiver<Bytes>,
    to_answer: mpsc::Receiver<Bytes>,
}

impl<S: AsyncWrite> Writer<S> {
    /// Writes until that fails, or until some time after nobody is there any more; says which.
    async fn run(&mut self, heartbeat: Option<Duration>) -> ClientError {
        loop {
            let next = async {
                tokio::select! {
                    // A channel's number is used again once its end is answered, and not before.
                    biased;
                    Some(answer) = self.to_answer.recv() => Some(answer),
                    output = self.output.recv() => output,
                }
            };
            let next = match heartbeat {
                Some(interval) => timeout(interval / 2, next).await.unwrap_or(Some(HEARTBEAT.into())),
                None => next.await,
            };
            let Some(octets) = next else { break };
            let is_last = self.output.is_empty();
            if let Err(error) = self.write(&octets, is_last).await {
                return lost(&error);
            }
        }
        let close = Method::new(10, 50).u16(200).short("Goodbye").u16(0).u16(0).frame(0);
        if let Err(error) = self.write(&close, true).await {
            return lost(&error);
        }
        _ = timeout(GOODBYE, pending::<()>()).await;
        ClientError::Ended
    }

    async fn write(&mut self, octets: &[u8], flush: bool) -> std::io::Result<()> {
        self.stream.write_all(octets).await?;
        if flush { self.stream.flush().await } else { Ok(()) }
    }
}

fn decode(payload: &[u8]) -> Result<Decoded, ClientError> {
    wire::decode(payload).map_err(|_| ClientError::Protocol("a method that ends early".to_owned()))
}

fn unexpected(wanted: &str) -> ClientError {
    ClientError::Protocol(format!("something else than {wanted}"))
}

fn lost(error: &std::io::Error) -> ClientError {
    ClientError::Lost(error.to_string())
}
