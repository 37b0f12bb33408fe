//! `/api/channels` and `/api/vhosts/{vhost}/channels`.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use serde_json::{Value, json};

use super::{connections, consumers};
use crate::{
    broker::connections::{ChannelStatus, ConnectionStatus},
    management::{
        Api, Shared,
        caller::Caller,
        error::ApiError,
        list::{ListQuery, Row},
        rates::Object,
        time,
    },
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/channels", get(list))
        .route("/channels/{name}", get(one))
        .route("/vhosts/{vhost}/channels", get(in_virtual_host))
}

/// A channel, with its connection.
pub(super) struct Channel {
    pub(super) connection: Arc<ConnectionStatus>,
    pub(super) number: u16,
    status: Arc<ChannelStatus>,
}

impl Channel {
    /// Its name in the API: that of its connection, and its number.
    pub(super) fn name(&self) -> String {
        format!("{} ({})", self.connection.name(), self.number)
    }
}

impl Row for Channel {
    fn name(&self) -> Cow<'_, str> {
        Channel::name(self).into()
    }

    fn column(&self, column: &str) -> Option<Value> {
        Some(match column {
            "user" => self.connection.user.as_ref().into(),
            "consumer_count" => self.status.consumers.get().into(),
            "messages_unacknowledged" => self.status.unacked.get().into(),
            "messages_unconfirmed" => self.status.unconfirmed.get().into(),
            "prefetch_count" => self.status.prefetch.get().into(),
            _ => return None,
        })
    }
}

/// The channels of a connection.
pub(super) fn of(connection: &Arc<ConnectionStatus>) -> Vec<Channel> {
    let channels = connection.channels().into_iter();
    let channel = |(number, status)| Channel { connection: Arc::clone(connection), number, status };
    channels.map(channel).collect()
}

async fn list(State(api): State<Shared>, caller: Caller, query: ListQuery) -> Result<Response, ApiError> {
    let channels = connections::visible(&api, &caller).iter().flat_map(of).collect();
    let render = render(&api, &query);
    query.list(channels, render).await
}

async fn in_virtual_host(
    State(api): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let host = caller.visible_host(&api, &name)?;
    let connections = connections::visible(&api, &caller);
    let in_host = connections.iter().filter(|connection| connection.virtual_host == host.name);
    let channels = in_host.flat_map(of).collect();
    let render = render(&api, &query);
    query.list(channels, render).await
}

/// Answers with all of these channels.
pub(super) async fn answer_whole(
    api: Shared,
    channels: Vec<Channel>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let render = render(&api, &query);
    query.whole_list(channels, render).await
}

/// A channel, with its consumers.
async fn one(
    State(api): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let connections = api.broker.connections.list();
    let candidates = connections.iter().filter(|connection| name.starts_with(&connection.ends.to_string()));
    let channel = candidates.flat_map(of).find(|channel| channel.name() == name);
    let channel = channel.ok_or(ApiError::NotFound)?;
    connections::require_self_or_monitor(&caller, &channel.connection.user)?;
    let mut object = rendered(&api, &channel, &query);
    let consumers = consumers::of_channel(&api, &channel).await;
    object["consumer_details"] = consumers.into();
    object["publishes"] = json!([]);
    object["deliveries"] = json!([]);
    Ok(query.one(object))
}

fn render(api: &Shared, query: &ListQuery) -> impl Fn(&Channel) -> Value + Send + Sync + 'static {
    let (api, query) = (Arc::clone(api), query.clone());
    move |channel| rendered(&api, channel, &query)
}

/// What other things say of a connection.
pub(super) fn connection_details(connection: &ConnectionStatus) -> Value {
    let peer = connection.ends.peer;
    json!({
        "name": connection.name(),
        "peer_host": peer.ip().to_canonical().to_string(),
        "peer_port": peer.port(),
    })
}

/// A channel as RabbitMQ shows it.
fn rendered(api: &Api, channel: &Channel, query: &ListQuery) -> Value {
    let Channel { connection, number, status } = channel;
    let mut object = json!({
        "name": channel.name(),
        "number": number,
        "node": api.node(),
        "vhost": connection.virtual_host.as_ref(),
        "user": connection.user.as_ref(),
        "user_who_performed_action": connection.user.as_ref(),
        "connection_details": connection_details(connection),
        "confirm": status.confirms.load(Ordering::Relaxed),
        "transactional": status.is_transactional.load(Ordering::Relaxed),
    });
    if query.disable_stats {
        return object;
    }
    let now_ms = api.now().unix_ms;
    let figures = [
        ("prefetch_count", &status.prefetch),
        ("global_prefetch_count", &status.global_prefetch),
        ("consumer_count", &status.consumers),
        ("messages_unacknowledged", &status.unacked),
        ("messages_unconfirmed", &status.unconfirmed),
        ("messages_uncommitted", &status.uncommitted),
        ("acks_uncommitted", &status.uncommitted_acks),
    ];
    for (name, figure) in figures {
        object[name] = figure.get().into();
    }
    let used_ms = status.used_ms.load(Ordering::Relaxed);
    let is_idle = now_ms.saturating_sub(used_ms) >= IDLE_MS;
    object["state"] = if is_idle { "idle" } else { "running" }.into();
    if is_idle && used_ms > 0 {
        object["idle_since"] = time::text(used_ms).into();
    }
    object["client_flow_blocked"] = false.into();
    object["pending_raft_commands"] = 0.into();
    object["reductions"] = 0.into();
    object["reductions_details"] = json!({"rate": 0.0});
    let view = api.rates.of(Object::Channel(connection.id(), *number), &query.ranges, now_ms);
    if let Some(stats) = view.message_stats(&status.messages.counts()) {
        object["message_stats"] = stats.into();
    }
    object
}

/// How long a channel has not been used when it is said to be idle, in milliseconds.
const IDLE_MS: u64 = 5_000;
