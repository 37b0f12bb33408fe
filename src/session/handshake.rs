//! From the protocol header to `connection.open`: one state for each thing that may come next.

use std::{collections::HashSet, sync::Arc};

use bytes::{Buf, BytesMut};
use tracing::{debug, info, warn};

use super::{Login, Peer};
use crate::{
    amqp::{
        ClientMethod, Encoder, FrameKind, ReplyCode, ServerMethod, Table, Value,
        frame::{FRAME_MIN_SIZE, Frame},
        sasl::{self, Credentials},
    },
    broker::{
        Broker, Identity, Now,
        connections::TlsStatus,
        event::{Ends, Event},
        limit::ConnectionPermit,
        login::LoginRefused,
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
    /// How a login that was refused ends, once the deadline has come.
    pub(super) refused: Option<Result<Step, Refusal>>,
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
    /// What the client says of itself.
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
    /// None for the broker's own.
    pub(super) permit: Option<ConnectionPermit>,
    pub(super) ends: Ends,
    pub(super) is_internal: bool,
    pub(super) tls: Option<Arc<TlsStatus>>,
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
        Self { out: Encoder::new(), deadline_ms, refused: None, state: State::Header }
    }

    /// Takes the protocol header off the input: `Some(true)` once it is through, `Some(false)` if it is another
    /// protocol's, `None` if more is needed.
    pub(super) fn handle_header(
        &mut self,
        input: &mut BytesMut,
        identity: &Identity,
        peer: &Peer,
    ) -> Option<bool> {
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
                mechanisms: mechanisms(peer).to_owned(),
                locales: "en_US".to_owned(),
            },
        );
        self.state = State::StartOk;
        Some(true)
    }

    /// Whether the client has sent its protocol header.
    pub(super) fn has_begun(&self) -> bool {
        !matches!(self.state, State::Header)
    }

    /// Handles a frame on its way to `connection.open`.
    pub(super) fn handle_frame(
        &mut self,
        frame: &Frame<'_>,
        broker: &Broker,
        peer: &Peer,
        now: Now,
    ) -> Result<Step, RefusedMethod> {
        if self.refused.is_some() {
            return Ok(Step::Stay);
        }
        match FrameKind::from_octet(frame.kind) {
            Some(FrameKind::Heartbeat) if frame.channel == 0 => return Ok(Step::Stay),
            Some(FrameKind::Method) if frame.channel == 0 => {}
            _ => return Err((super::running::unexpected_frame(frame), (0, 0))),
        }
        let method = ClientMethod::decode(frame.payload).map_err(|error| (error.into(), (0, 0)))?;
        let ids = method.ids();
        self.handle_method(method, broker, peer, now).map_err(|refusal| (refusal, ids))
    }

    fn handle_method(
        &mut self,
        method: ClientMethod<'_>,
        broker: &Broker,
        peer: &Peer,
        now: Now,
    ) -> Result<Step, Refusal> {
        match (std::mem::replace(&mut self.state, State::StartOk), method) {
            (
                State::StartOk,
                ClientMethod::ConnectionStartOk { client_properties, mechanism, response, .. },
            ) => self.start_ok(&client_properties, &mechanism, &response, (broker, peer, now)),
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
        (broker, peer, now): (&Broker, &Peer, Now),
    ) -> Result<Step, Refusal> {
        let capabilities = capabilities(client_properties);
        if let Login::Internal(user) = &peer.login {
            self.log_in(Arc::clone(user), capabilities, client_properties, "INTERNAL", broker);
            return Ok(Step::Stay);
        }
        let by_password = |Credentials { user, password }: Credentials| {
            let authenticated = broker.log_in(&user, &password, peer.address.ip(), now);
            (user, authenticated)
        };
        let certified = peer.tls.as_ref().and_then(|tls| tls.peer_login.as_deref());
        let (mechanism, (user, authenticated)) = match (mechanism, certified) {
            ("PLAIN", _) => ("PLAIN", by_password(sasl::plain(response)?)),
            ("AMQPLAIN", _) => ("AMQPLAIN", by_password(sasl::amqplain(response)?)),
            // Whom the response names does not matter, as in RabbitMQ: it is whom the certificate stands for.
            ("EXTERNAL", Some(name)) => {
                let admitted = broker.users.admit(name, peer.is_loopback());
                let stats = &broker.stats;
                if admitted.is_ok() { &stats.logins_succeeded } else { &stats.logins_failed }.add(1);
                let admitted = admitted.map_err(|failure| LoginRefused { failure, wait_ms: 0 });
                ("EXTERNAL", (name.to_owned(), admitted))
            }
            _ => {
                let text = format!("unknown authentication mechanism '{mechanism}'");
                return Err(Refusal::new(ReplyCode::CommandInvalid, text));
            }
        };
        let failure = authenticated.as_ref().err().map(|refused| refused.failure.to_string());
        let is_over_tls = peer.tls.is_some();
        broker
            .tell(|_| Event::authentication(&user, mechanism, peer.ends(), is_over_tls, failure.as_deref()));
        let user = match authenticated {
            Ok(user) => user,
            Err(LoginRefused { failure, wait_ms }) => {
                let refused = self.refuse_login(&failure.to_string(), mechanism, capabilities, peer);
                if wait_ms == 0 {
                    return refused;
                }
                // Who guesses has to wait for the answer, at most until the handshake has taken too long anyway.
                self.deadline_ms = self.deadline_ms.min(now.monotonic_ms + wait_ms);
                self.refused = Some(refused);
                return Ok(Step::Stay);
            }
        };
        self.log_in(user, capabilities, client_properties, mechanism, broker);
        Ok(Step::Stay)
    }

    /// Goes on with a user who has logged in.
    fn log_in(
        &mut self,
        user: Arc<User>,
        capabilities: Capabilities,
        client_properties: &Table,
        mechanism: &'static str,
        broker: &Broker,
    ) {
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
        let properties = client_properties.clone();
        self.state = State::TuneOk(Client { user, capabilities, name, properties, mechanism });
    }

    /// A client that says it understands gets the reason, another the end of the stream; the log gets the cause.
    fn refuse_login(
        &self,
        cause: &str,
        mechanism: &str,
        capabilities: Capabilities,
        peer: &Peer,
    ) -> Result<Step, Refusal> {
        warn!(peer = %peer.address, mechanism, "login refused: {cause}");
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
        let is_internal = matches!(peer.login, Login::Internal(_));
        let permit =
            (!is_internal).then(|| broker.counts.open_connection(&user, virtual_host)).transpose()?;
        let host = broker
            .virtual_host(virtual_host)
            .ok_or_else(|| Refusal::not_allowed(format!("vhost {virtual_host} not found")))?;
        if !broker.permissions.vhost_access(&user.name, virtual_host) {
            let text = format!("access to vhost '{virtual_host}' refused for user '{}'", user.name);
            return Err(Refusal::not_allowed(text));
        }
        self.out.method(0, &ServerMethod::ConnectionOpenOk);
        let (user_name, name) = (&*user.name, name.as_deref());
        if is_internal {
            debug!(user = user_name, virtual_host, "internal connection open");
        } else {
            info!(peer = %peer.address, user = user_name, virtual_host, name, "connection open");
        }
        Ok(Step::Open(Opened {
            user,
            virtual_host: host,
            capabilities,
            channel_max: tuned.channel_max,
            frame_max: tuned.frame_max,
            heartbeat_secs: tuned.heartbeat_secs,
            permit,
            ends: peer.ends(),
            is_internal,
            tls: peer.tls.clone(),
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

/// The ways to log in.
fn mechanisms(peer: &Peer) -> &'static str {
    match &peer.tls {
        Some(tls) if tls.peer_login.is_some() => "AMQPLAIN PLAIN EXTERNAL",
        _ => "AMQPLAIN PLAIN",
    }
}

/// What a client speaks that does not speak AMQP 0-9-1, and what may help it.
pub(super) fn foreign_protocol(input: &[u8]) -> &'static str {
    const PROXY_2: &[u8] = b"\r\n\r\n\x00\r\nQUIT\n";
    const HTTP: [&[u8]; 7] = [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PRI "];
    match input {
        [0x16, 0x03, ..] => "TLS, which has a port of its own (listeners.amqp_tls_port)",
        _ if HTTP.iter().any(|method| input.starts_with(method)) => {
            "HTTP, which has a port of its own (listeners.management_port)"
        }
        _ if input.starts_with(b"PROXY ") || input.starts_with(PROXY_2) => {
            "the PROXY protocol, which listeners.proxy_protocol turns on"
        }
        [b'A', b'M', b'Q', b'P', 0 | 3, 1, 0, 0, ..] => "AMQP 1.0, which is not supported",
        [b'A', b'M', b'Q', b'P', ..] => "another version of AMQP",
        [0x10, ..] => "what may be MQTT, which is not supported",
        _ if input.starts_with(b"CONNECT") || input.starts_with(b"STOMP") => {
            "what may be STOMP, which is not supported"
        }
        _ => "something else",
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
