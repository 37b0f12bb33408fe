//! From the protocol header to `connection.open`: one state for each thing that may come next.

use std::{collections::HashSet, sync::Arc};

use bytes::{Buf, BytesMut};
use tracing::info;

use super::Peer;
use crate::{
    amqp::{
        ClientMethod, Encoder, FrameKind, ReplyCode, ServerMethod, Table, Value,
        frame::{FRAME_MIN_SIZE, Frame},
        sasl::{self, Credentials},
    },
    broker::{
        Broker, Identity,
        event::{Ends, Event},
        limit::ConnectionPermit,
        refusal::Refusal,
        user::User,
        vhost::VirtualHost,
    },
};

/// A connection that is not open yet.
#[derive(Debug)]
pub(super) struct Handshake {
    /// What waits to be written.
    pub(super) out: Encoder,
    /// When the client must be through.
    pub(super) deadline_ms: u64,
    state: State,
}

/// What the client must send next.
#[derive(Debug)]
enum State {
    Header,
    StartOk,
    TuneOk(Client),
    Open(Client, Tuned),
}

/// Who has logged in.
#[derive(Debug)]
struct Client {
    user: Arc<User>,
    capabilities: Capabilities,
    name: Option<String>,
    /// What the client says of itself, if events are to tell of it.
    properties: Table,
    mechanism: &'static str,
}

#[derive(Debug)]
struct Tuned {
    channel_max: u16,
    frame_max: u32,
    heartbeat_secs: u16,
}

/// What the client says that it understands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Capabilities {
    /// `basic.cancel` from the server.
    pub(super) consumer_cancel_notify: bool,
    /// `connection.blocked` and `connection.unblocked`.
    pub(super) connection_blocked: bool,
    /// `connection.close` for a failed login.
    authentication_failure_close: bool,
}

/// A connection that is open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) user: Arc<User>,
    pub(super) virtual_host: Arc<VirtualHost>,
    pub(super) capabilities: Capabilities,
    pub(super) channel_max: u16,
    pub(super) frame_max: u32,
    pub(super) heartbeat_secs: u16,
    pub(super) permit: ConnectionPermit,
    pub(super) ends: Ends,
    pub(super) client_properties: Table,
    pub(super) mechanism: &'static str,
}

/// What a frame leads to.
#[derive(Debug)]
pub(super) enum Step {
    /// The next frame.
    Stay,
    /// An open connection.
    Open(Opened),
    /// The end, without a word.
    Close,
}

/// A refusal, and the class and method ids of what is refused.
pub(super) type RefusedMethod = (Refusal, (u16, u16));

const HEADER_LEN: usize = 8;
/// What the server answers to a header that it can't serve.
const HEADER: &[u8; HEADER_LEN] = b"AMQP\x00\x00\x09\x01";
/// What AMQP 0-9 sent; RabbitMQ serves it as 0-9-1.
const HEADER_0_9: &[u8; HEADER_LEN] = b"AMQP\x01\x01\x00\x09";
/// What AMQP 0-8 sent; RabbitMQ serves it, and announces itself as 8-0.
const HEADER_0_8: &[u8; HEADER_LEN] = b"AMQP\x01\x01\x08\x00";

impl Handshake {
    pub(super) fn new(deadline_ms: u64) -> Self {
        Self { out: Encoder::new(), deadline_ms, state: State::Header }
    }

    /// Takes the protocol header off the input: `Some(true)` once it is through, `Some(false)` if it is another
    /// protocol's, `None` if more is needed.
    pub(super) fn handle_header(&mut self, input: &mut BytesMut, identity: &Identity) -> Option<bool> {
        if !matches!(self.state, State::Header) {
            return Some(true);
        }
        let known = input.len().min(4);
        if input.len() < HEADER_LEN && input[..known] == HEADER[..known] {
            return None;
        }
        let version = match input.get(..HEADER_LEN) {
            Some(header) if header == HEADER || header == HEADER_0_9 => (0, 9),
            Some(header) if header == HEADER_0_8 => (8, 0),
            _ => {
                self.out.protocol_header(HEADER);
                return Some(false);
            }
        };
        input.advance(HEADER_LEN);
        self.out.method(
            0,
            &ServerMethod::ConnectionStart {
                version,
                server_properties: server_properties(identity),
                mechanisms: "AMQPLAIN PLAIN".to_owned(),
                locales: "en_US".to_owned(),
            },
        );
        self.state = State::StartOk;
        Some(true)
    }

    /// Handles a frame on its way to `connection.open`.
    pub(super) fn handle_frame(
        &mut self,
        frame: &Frame<'_>,
        broker: &Broker,
        peer: &Peer,
    ) -> Result<Step, RefusedMethod> {
        match FrameKind::from_octet(frame.kind) {
            Some(FrameKind::Heartbeat) if frame.channel == 0 => return Ok(Step::Stay),
            Some(FrameKind::Method) if frame.channel == 0 => {}
            _ => return Err((super::running::unexpected_frame(frame), (0, 0))),
        }
        let method = ClientMethod::decode(frame.payload).map_err(|error| (error.into(), (0, 0)))?;
        let ids = method.ids();
        self.handle_method(method, broker, peer).map_err(|refusal| (refusal, ids))
    }

    fn handle_method(
        &mut self,
        method: ClientMethod<'_>,
        broker: &Broker,
        peer: &Peer,
    ) -> Result<Step, Refusal> {
        match (std::mem::replace(&mut self.state, State::StartOk), method) {
            (
                State::StartOk,
                ClientMethod::ConnectionStartOk { client_properties, mechanism, response, .. },
            ) => self.start_ok(&client_properties, &mechanism, &response, broker, peer),
            (State::TuneOk(client), ClientMethod::ConnectionTuneOk { channel_max, frame_max, heartbeat }) => {
                let channel_max =
                    negotiated("channel_max", channel_max.into(), broker.limits.channel_max.into(), 1)?;
                let frame_max = negotiated("frame_max", frame_max, broker.limits.frame_max, FRAME_MIN_SIZE)?;
                let channel_max = u16::try_from(channel_max).unwrap_or(u16::MAX);
                self.state = State::Open(client, Tuned { channel_max, frame_max, heartbeat_secs: heartbeat });
                Ok(Step::Stay)
            }
            (State::Open(client, tuned), ClientMethod::ConnectionOpen { virtual_host }) => {
                self.open(client, tuned, &virtual_host, broker, peer)
            }
            (State::StartOk | State::TuneOk(_), ClientMethod::ConnectionClose { .. }) => {
                self.out.method(0, &ServerMethod::ConnectionCloseOk);
                Ok(Step::Close)
            }
            (state, _) => Err(Refusal::new(
                ReplyCode::ChannelError,
                format!("unexpected method in connection state {}", state.name()),
            )),
        }
    }

    fn start_ok(
        &mut self,
        client_properties: &Table,
        mechanism: &str,
        response: &[u8],
        broker: &Broker,
        peer: &Peer,
    ) -> Result<Step, Refusal> {
        let capabilities = capabilities(client_properties);
        let (mechanism, credentials) = match mechanism {
            "PLAIN" => ("PLAIN", sasl::plain(response)?),
            "AMQPLAIN" => ("AMQPLAIN", sasl::amqplain(response)?),
            _ => {
                let text = format!("unknown authentication mechanism '{mechanism}'");
                return Err(Refusal::new(ReplyCode::CommandInvalid, text));
            }
        };
        let Credentials { user, password } = credentials;
        let authenticated = broker.users.authenticate(&user, &password, peer.is_loopback());
        let failure = authenticated.as_ref().err().map(ToString::to_string);
        broker.tell(|_| Event::authentication(&user, mechanism, peer.ends(), failure.as_deref()));
        let user = match authenticated {
            Ok(user) => user,
            Err(failure) => return self.refuse_login(&failure.to_string(), mechanism, capabilities, peer),
        };
        let limits = &broker.limits;
        self.out.method(
            0,
            &ServerMethod::ConnectionTune {
                channel_max: limits.channel_max,
                frame_max: limits.frame_max,
                heartbeat: limits.heartbeat_secs,
            },
        );
        let name = client_properties.get("connection_name").and_then(Value::as_str).map(str::to_owned);
        let properties =
            if broker.events.is_watched() { client_properties.clone() } else { Table::default() };
        self.state = State::TuneOk(Client { user, capabilities, name, properties, mechanism });
        Ok(Step::Stay)
    }

    /// A client that says it understands gets the reason, another the end of the stream; the log gets the cause.
    fn refuse_login(
        &self,
        cause: &str,
        mechanism: &str,
        capabilities: Capabilities,
        peer: &Peer,
    ) -> Result<Step, Refusal> {
        info!(peer = %peer.address, mechanism, "login refused: {cause}");
        if !capabilities.authentication_failure_close {
            return Ok(Step::Close);
        }
        Err(Refusal::access_refused(format!(
            "Login was refused using authentication mechanism {mechanism}. For details see the broker logfile."
        ))
        .for_method(0, 0))
    }

    fn open(
        &mut self,
        client: Client,
        tuned: Tuned,
        virtual_host: &str,
        broker: &Broker,
        peer: &Peer,
    ) -> Result<Step, Refusal> {
        let Client { user, capabilities, name, properties, mechanism } = client;
        let permit = broker.counts.open_connection(&user, virtual_host)?;
        let host = broker
            .virtual_host(virtual_host)
            .ok_or_else(|| Refusal::not_allowed(format!("vhost {virtual_host} not found")))?;
        if !broker.permissions.vhost_access(&user.name, virtual_host) {
            let text = format!("access to vhost '{virtual_host}' refused for user '{}'", user.name);
            return Err(Refusal::not_allowed(text));
        }
        self.out.method(0, &ServerMethod::ConnectionOpenOk);
        info!(peer = %peer.address, user = %user.name, virtual_host, name = name.as_deref(), "connection open");
        Ok(Step::Open(Opened {
            user,
            virtual_host: host,
            capabilities,
            channel_max: tuned.channel_max,
            frame_max: tuned.frame_max,
            heartbeat_secs: tuned.heartbeat_secs,
            permit,
            ends: peer.ends(),
            client_properties: properties,
            mechanism,
        }))
    }
}

impl State {
    /// RabbitMQ's name for it in reply texts.
    fn name(&self) -> &'static str {
        match self {
            State::Header => "pre_init",
            State::StartOk => "starting",
            State::TuneOk(_) => "tuning",
            State::Open(..) => "opening",
        }
    }
}

/// What the client chose, if the server allows it. 0 stands for no limit, which is more than any.
fn negotiated(name: &str, chosen: u32, max: u32, min: u32) -> Result<u32, Refusal> {
    let refused = |comparison: &str, extreme: &str, bound: u32| {
        let note = if chosen == 0 { " (no limit)" } else { "" };
        Refusal::not_allowed(format!(
            "negotiated {name} = {chosen}{note} is {comparison} than the {extreme} allowed value ({bound})"
        ))
    };
    match chosen {
        0 if max == 0 => Ok(u32::from(u16::MAX)),
        0 => Err(refused("higher", "maximum", max)),
        _ if max > 0 && chosen > max => Err(refused("higher", "maximum", max)),
        _ if chosen < min => Err(refused("lower", "minimum", min)),
        _ => Ok(chosen),
    }
}

fn capabilities(client_properties: &Table) -> Capabilities {
    let Some(Value::Table(table)) = client_properties.get("capabilities") else {
        return Capabilities::default();
    };
    let named: HashSet<&str> = table
        .0
        .iter()
        .filter(|(_, value)| value.as_bool() == Some(true))
        .map(|(name, _)| name.as_str())
        .collect();
    Capabilities {
        consumer_cancel_notify: named.contains("consumer_cancel_notify"),
        connection_blocked: named.contains("connection.blocked"),
        authentication_failure_close: named.contains("authentication_failure_close"),
    }
}

/// What RabbitMQ 3.10 announces, under the configured name and version, and the true version beside it.
fn server_properties(identity: &Identity) -> Table {
    let capabilities = [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ];
    let capabilities = capabilities.map(|name| (name.to_owned(), Value::Bool(true)));
    let text = |text: &str| Value::LongStr(text.as_bytes().to_vec().into());
    Table(vec![
        ("capabilities".into(), Value::Table(Table(capabilities.into()))),
        ("cluster_name".into(), text(&identity.cluster_name)),
        ("copyright".into(), text("The Leveret authors")),
        ("information".into(), text("Leveret, an AMQP 0-9-1 broker")),
        ("leveret_version".into(), text(env!("CARGO_PKG_VERSION"))),
        ("platform".into(), text("Rust")),
        ("product".into(), text(&identity.product)),
        ("version".into(), text(&identity.version)),
    ])
}
