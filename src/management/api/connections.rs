//! `/api/connections` and `/api/vhosts/{vhost}/connections`: who is connected, and how to end it.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::get,
};
use serde_json::{Map, Value, json};

use super::channels;
use crate::{
    amqp::Value as Field,
    broker::connections::ConnectionStatus,
    json::from_table,
    management::{
        Api, Shared,
        caller::{Caller, Tag},
        error::ApiError,
        list::{ListQuery, Row},
        path::Names,
        rates::Object,
    },
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/connections", get(list))
        .route("/connections/{name}", get(one).delete(close))
        .route("/connections/{name}/channels", get(channels_of))
        .route("/connections/username/{user}", get(of_user).delete(close_all_of_user))
        .route("/vhosts/{vhost}/connections", get(in_virtual_host))
}

/// What a client is told if nobody says why (RabbitMQ).
const CLOSE_REASON: &str = "Closed via management plugin";
/// The longest reason that is passed on, in octets: it has to fit into a short string with RabbitMQ's words before it.
const REASON_BYTES_MAX: usize = 200;

impl Row for Arc<ConnectionStatus> {
    fn virtual_host(&self) -> &str {
        ""
    }

    fn name(&self) -> Cow<'_, str> {
        ConnectionStatus::name(self).into()
    }

    fn column(&self, column: &str) -> Option<Value> {
        Some(match column {
            "user" => self.user.as_ref().into(),
            "connected_at" => self.connected_ms.into(),
            "recv_oct" => self.received_bytes.get().into(),
            "send_oct" => self.sent_bytes.get().into(),
            "channels" => self.channel_count().into(),
            _ => return None,
        })
    }
}

/// The connections that a user is shown: all to one who monitors, else the own ones.
pub(super) fn visible(api: &Api, caller: &Caller) -> Vec<Arc<ConnectionStatus>> {
    let mut connections = api.broker.connections.list();
    if !caller.has(Tag::Monitoring) {
        connections.retain(|connection| connection.user == caller.user.name);
    }
    connections
}

async fn list(State(api): State<Shared>, caller: Caller, query: ListQuery) -> Result<Response, ApiError> {
    answer(api, visible, caller, query, |_| true).await
}

async fn in_virtual_host(
    State(api): State<Shared>,
    caller: Caller,
    Names(name): Names<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let host = caller.visible_host(&api, &name)?;
    answer(api, visible, caller, query, move |connection| connection.virtual_host == host.name).await
}

async fn of_user(
    State(api): State<Shared>,
    caller: Caller,
    Names(user): Names<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    require_self_or_monitor(&caller, &user)?;
    answer(api, visible, caller, query, move |connection| *connection.user == *user).await
}

async fn answer(
    api: Shared,
    visible: impl FnOnce(&Api, &Caller) -> Vec<Arc<ConnectionStatus>>,
    caller: Caller,
    query: ListQuery,
    belongs: impl Fn(&ConnectionStatus) -> bool,
) -> Result<Response, ApiError> {
    let mut connections = visible(&api, &caller);
    connections.retain(|connection| belongs(connection));
    let ranges = query.clone();
    query.list(connections, move |connection| rendered(&api, connection, &ranges)).await
}

async fn one(
    State(api): State<Shared>,
    caller: Caller,
    Names(name): Names<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let connection = expect(&api, &caller, &name)?;
    let connection = rendered(&api, &connection, &query);
    Ok(query.one(connection))
}

async fn channels_of(
    State(api): State<Shared>,
    caller: Caller,
    Names(name): Names<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let connection = expect(&api, &caller, &name)?;
    channels::answer_whole(api, channels::of(&connection), query).await
}

/// Ends a connection. The client is told 320 with the reason in the header `X-Reason`. Administrators may, and whose
/// connection it is; who monitors may only look.
async fn close(
    State(api): State<Shared>,
    caller: Caller,
    Names(name): Names<String>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let connection = expect(&api, &caller, &name)?;
    require_self_or_administrator(&caller, &connection.user)?;
    connection.close(&reason(&headers));
    Ok(StatusCode::NO_CONTENT)
}

/// Ends all connections of a user; none is fine, too.
async fn close_all_of_user(
    State(api): State<Shared>,
    caller: Caller,
    Names(user): Names<String>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    require_self_or_administrator(&caller, &user)?;
    let reason = reason(&headers);
    for connection in api.broker.connections.list() {
        if *connection.user == *user {
            connection.close(&reason);
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

fn reason(headers: &HeaderMap) -> String {
    let given = headers.get("x-reason").map(|reason| String::from_utf8_lossy(reason.as_bytes()));
    let mut reason = given.map_or_else(|| CLOSE_REASON.to_owned(), Cow::into_owned);
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    reason
}

/// The connection of that name, for that user.
///
/// # Errors
/// 404 if there is none, 401 if it is somebody else's and the user does not monitor.
fn expect(api: &Api, caller: &Caller, name: &str) -> Result<Arc<ConnectionStatus>, ApiError> {
    let connections = api.broker.connections.list();
    let found = connections.into_iter().find(|connection| ConnectionStatus::name(connection) == name);
    let connection = found.ok_or(ApiError::NotFound)?;
    require_self_or_monitor(caller, &connection.user)?;
    Ok(connection)
}

pub(super) fn require_self_or_monitor(caller: &Caller, user: &str) -> Result<(), ApiError> {
    if *caller.user.name == *user || caller.has(Tag::Monitoring) {
        return Ok(());
    }
    Err(ApiError::not_authorised("User not authorised to access object"))
}

fn require_self_or_administrator(caller: &Caller, user: &str) -> Result<(), ApiError> {
    if *caller.user.name == *user { Ok(()) } else { caller.require(Tag::Administrator) }
}

/// A connection as RabbitMQ shows it.
fn rendered(api: &Api, connection: &ConnectionStatus, query: &ListQuery) -> Value {
    let client_properties = connection.client_properties();
    let (peer, local) = (connection.ends.peer, connection.ends.local);
    let mut object = fixed(api, connection);
    object.insert("host".into(), local.ip().to_canonical().to_string().into());
    object.insert("port".into(), local.port().into());
    object.insert("peer_host".into(), peer.ip().to_canonical().to_string().into());
    object.insert("peer_port".into(), peer.port().into());
    if let Some(name) = client_properties.get("connection_name").and_then(Field::as_str) {
        object.insert("user_provided_name".into(), name.into());
    }
    object.insert("client_properties".into(), from_table(&client_properties));
    if !query.disable_stats {
        put_figures(api, connection, query, &mut object);
    }
    Value::Object(object)
}

fn fixed(api: &Api, connection: &ConnectionStatus) -> Map<String, Value> {
    let tls = connection.tls.as_deref();
    let of_tls = |value: Option<&str>| Value::from(value.unwrap_or_default());
    let fixed = json!({
        "name": connection.name(),
        "node": api.node(),
        "type": "network",
        "protocol": "AMQP 0-9-1",
        "vhost": connection.virtual_host.as_ref(),
        "user": connection.user.as_ref(),
        "user_who_performed_action": connection.user.as_ref(),
        "auth_mechanism": connection.mechanism,
        "channel_max": connection.channel_max,
        "frame_max": connection.frame_max,
        "timeout": connection.heartbeat_secs,
        "connected_at": connection.connected_ms,
        "ssl": tls.is_some(),
        "ssl_protocol": of_tls(tls.map(|tls| tls.protocol.as_str())),
        "ssl_cipher": of_tls(tls.map(|tls| tls.cipher.as_str())),
        "ssl_key_exchange": "",
        "ssl_hash": "",
        "peer_cert_subject": of_tls(tls.and_then(|tls| tls.peer_subject.as_deref())),
        "peer_cert_issuer": of_tls(tls.and_then(|tls| tls.peer_issuer.as_deref())),
        "peer_cert_validity": of_tls(tls.and_then(|tls| tls.peer_validity.as_deref())),
    });
    match fixed {
        Value::Object(fixed) => fixed,
        _ => Map::new(),
    }
}

fn put_figures(api: &Api, connection: &ConnectionStatus, query: &ListQuery, object: &mut Map<String, Value>) {
    let now_ms = api.now().unix_ms;
    let is_blocked = connection.is_blocked.load(Ordering::Relaxed);
    let last_blocked_ms = connection.last_blocked_ms.load(Ordering::Relaxed);
    object.insert("state".into(), if is_blocked { "blocked" } else { "running" }.into());
    object.insert("channels".into(), connection.channel_count().into());
    object.insert("send_pend".into(), connection.unsent_bytes.get().into());
    object.insert("last_blocked_by".into(), if last_blocked_ms == 0 { "none" } else { "resource" }.into());
    let age_secs = |at_ms: u64| now_ms.saturating_sub(at_ms) as f64 / 1000.0;
    let age = if last_blocked_ms == 0 { "infinity".into() } else { age_secs(last_blocked_ms).into() };
    object.insert("last_blocked_age".into(), age);
    let view = api.rates.of(Object::Connection(connection.id()), &query.ranges, now_ms);
    view.put(object, "recv_oct", connection.received_bytes.get());
    view.put(object, "send_oct", connection.sent_bytes.get());
    view.put(object, "recv_cnt", connection.received_packets.get());
    view.put(object, "send_cnt", connection.sent_packets.get());
    view.put(object, "reductions", 0);
}
