//! `/api/consumers`: who consumes from which queue.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::Response,
    routing::{delete, get},
};
use serde_json::{Value, json};

use super::channels::Channel;
use crate::{
    broker::{
        connections::ConnectionStatus,
        queue::{ConsumerFigures, ConsumerKey, QueueHandle},
        vhost::VirtualHost,
    },
    json::from_table,
    management::{
        Api, Shared,
        caller::{Caller, Tag},
        error::ApiError,
        list::{ListQuery, Row},
        path::Names,
    },
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/consumers", get(list))
        .route("/consumers/{vhost}", get(in_virtual_host))
        .route("/consumers/{vhost}/{connection}/{channel}/{tag}", delete(cancel))
}

/// A consumer, with its queue and its connection.
struct Consumer {
    queue: Arc<QueueHandle>,
    connection: Arc<ConnectionStatus>,
    figures: ConsumerFigures,
}

impl Row for Consumer {
    fn virtual_host(&self) -> &str {
        &self.queue.virtual_host
    }

    fn name(&self) -> Cow<'_, str> {
        self.figures.tag.as_ref().into()
    }
}

async fn list(State(api): State<Shared>, caller: Caller, query: ListQuery) -> Result<Response, ApiError> {
    let hosts = api.broker.virtual_hosts();
    answer(api, caller, hosts, query).await
}

async fn in_virtual_host(
    State(api): State<Shared>,
    caller: Caller,
    Names(name): Names<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let host = caller.visible_host(&api, &name)?;
    answer(api, caller, vec![host], query).await
}

/// Who does not monitor is shown the own consumers (RabbitMQ).
async fn answer(
    api: Shared,
    caller: Caller,
    hosts: Vec<Arc<VirtualHost>>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let sees_all = caller.has(Tag::Monitoring);
    let mut consumers = consumers_in(&api, hosts).await;
    consumers.retain(|consumer| sees_all || consumer.connection.user == caller.user.name);
    query.whole_list(consumers, move |consumer| rendered(&api, consumer)).await
}

/// Ends a consumer (LavinMQ). Administrators may, and whose connection it is.
async fn cancel(
    State(api): State<Shared>,
    caller: Caller,
    Names((host, connection, channel, tag)): Names<(String, String, u16, String)>,
) -> Result<StatusCode, ApiError> {
    let host = caller.visible_host(&api, &host)?;
    let consumers = consumers_in(&api, vec![Arc::clone(&host)]).await;
    let is_meant = |consumer: &&Consumer| {
        let Consumer { connection: of, figures, .. } = consumer;
        figures.channel == channel && *figures.tag == *tag && of.name() == connection
    };
    let consumer = consumers.iter().find(is_meant).ok_or(ApiError::NotFound)?;
    if consumer.connection.user != caller.user.name {
        caller.require(Tag::Administrator)?;
    }
    let ConsumerFigures { connection, id, .. } = consumer.figures;
    api.broker.cancel_consumer(&host, &consumer.queue, ConsumerKey { connection, id }, api.now());
    Ok(StatusCode::NO_CONTENT)
}

/// The consumers of a channel, as they are shown.
pub(super) async fn of_channel(api: &Shared, channel: &Channel) -> Vec<Value> {
    let host = api.broker.virtual_host(&channel.connection.virtual_host);
    let mut consumers = consumers_in(api, host.into_iter().collect()).await;
    consumers.retain(|consumer| {
        consumer.figures.connection == channel.connection.id() && consumer.figures.channel == channel.number
    });
    consumers.iter().map(|consumer| rendered(api, consumer)).collect()
}

/// All consumers in these virtual hosts. Each queue is looked at, which takes a moment where there are many.
async fn consumers_in(api: &Shared, hosts: Vec<Arc<VirtualHost>>) -> Vec<Consumer> {
    let api = Arc::clone(api);
    let found = tokio::task::spawn_blocking(move || {
        let queues = hosts.iter().flat_map(|host| host.queues());
        queues.flat_map(|queue| consumers_of(&api, &queue)).collect()
    });
    found.await.unwrap_or_default()
}

/// Consumers whose connection has just ended are left out.
fn consumers_of(api: &Api, queue: &Arc<QueueHandle>) -> Vec<Consumer> {
    let consumers = queue.lock().consumer_list().into_iter();
    let consumer = |figures: ConsumerFigures| {
        let connection = api.broker.connections.get(figures.connection)?;
        Some(Consumer { queue: Arc::clone(queue), connection, figures })
    };
    consumers.filter_map(consumer).collect()
}

/// The consumers of a queue, as they are shown: its `consumer_details`.
pub(super) fn of_queue(api: &Api, queue: &Arc<QueueHandle>) -> Vec<Value> {
    consumers_of(api, queue).iter().map(|consumer| rendered(api, consumer)).collect()
}

fn rendered(api: &Api, consumer: &Consumer) -> Value {
    let Consumer { queue, connection, figures } = consumer;
    let peer = connection.ends.peer;
    let activity = match (figures.is_active, queue.arguments().single_active_consumer) {
        (true, true) => "single_active",
        (true, false) => "up",
        (false, _) => "waiting",
    };
    json!({
        "consumer_tag": figures.tag.as_ref(),
        "exclusive": figures.exclusive,
        "ack_required": figures.ack_required,
        "prefetch_count": figures.prefetch,
        "active": figures.is_active,
        "activity_status": activity,
        "arguments": from_table(&figures.arguments),
        "queue": {"name": queue.name.as_ref(), "vhost": queue.virtual_host.as_ref()},
        "channel_details": {
            "name": format!("{} ({})", connection.ends, figures.channel),
            "number": figures.channel,
            "node": api.node(),
            "user": connection.user.as_ref(),
            "connection_name": connection.name(),
            "peer_host": peer.ip().to_canonical().to_string(),
            "peer_port": peer.port(),
        },
    })
}
