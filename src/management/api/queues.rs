//! `/api/queues`: what there is, declaring, deleting and purging, and the messages of a queue.

mod messages;
mod shown;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
    routing::{delete, get, post},
};
use serde::Deserialize;
use serde_json::Value;

use self::shown::{Asked, QueueRow, shown_alone, shown_in_list};
use crate::{
    broker::{queue::QueueHandle, vhost::VirtualHost},
    client::QueueDeclare,
    management::{
        Shared, amqp,
        body::Fields,
        caller::{Administrator, Caller},
        error::ApiError,
        list::ListQuery,
        path::{Names, check_name},
    },
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/queues", get(list_all))
        .route("/queues/detailed", get(list_all))
        .route("/queues/{vhost}", get(list_in_host))
        .route("/queues/{vhost}/", get(list_in_host))
        .route("/queues/{vhost}/{queue}", get(one).put(declare).delete(remove))
        .route("/queues/{vhost}/{queue}/contents", delete(purge))
        .route("/queues/{vhost}/{queue}/actions", post(act))
        .route("/queues/{vhost}/{queue}/get", post(messages::get))
        .route("/queues/{vhost}/{queue}/unacked", get(messages::unacked))
}

async fn list_all(caller: Caller, query: ListQuery, State(api): State<Shared>) -> Result<Response, ApiError> {
    let hosts = caller.visible_hosts(&api);
    listed(api, query, &hosts).await
}

async fn list_in_host(
    caller: Caller,
    Names(host): Names<String>,
    query: ListQuery,
    State(api): State<Shared>,
) -> Result<Response, ApiError> {
    let host = caller.visible_host(&api, &host)?;
    listed(api, query, &[host]).await
}

async fn listed(api: Shared, query: ListQuery, hosts: &[Arc<VirtualHost>]) -> Result<Response, ApiError> {
    api.rates.asked(api.now().unix_ms);
    let queues = hosts.iter().flat_map(|host| host.queues()).filter(|queue| !queue.delays);
    let rows = queues.map(|queue| QueueRow { queue, api: Arc::clone(&api) }).collect();
    let asked = Asked::new(&query);
    let render = move |row: &QueueRow| shown_in_list(row, &asked);
    query.list(rows, render).await
}

async fn one(
    caller: Caller,
    Names((host, name)): Names<(String, String)>,
    query: ListQuery,
    State(api): State<Shared>,
) -> Result<Response, ApiError> {
    let host = caller.visible_host(&api, &host)?;
    let queue = queue(&host, &name)?;
    api.rates.asked(api.now().unix_ms);
    Ok(query.one(shown_alone(&QueueRow { queue, api }, &Asked::new(&query))))
}

/// The queue of that name. Those that keep delayed messages are nobody's: their exchange tells of them.
fn queue(host: &VirtualHost, name: &str) -> Result<Arc<QueueHandle>, ApiError> {
    host.queue(name).filter(|queue| !queue.delays).ok_or(ApiError::NotFound)
}

/// Declares a queue. The node that a request may name is not looked at: there is one.
async fn declare(
    caller: Caller,
    Names((host, name)): Names<(String, String)>,
    State(api): State<Shared>,
    fields: Fields,
) -> Result<StatusCode, ApiError> {
    let host = amqp::host(&api, &caller, &host)?;
    check_name("queue", &name)?;
    let declare = QueueDeclare {
        queue: &name,
        passive: false,
        durable: fields.flag("durable")?.unwrap_or(false),
        // It would go with the request.
        exclusive: false,
        auto_delete: fields.flag("auto_delete")?.unwrap_or(false),
        arguments: fields.table("arguments")?,
    };
    let is_new = host.queue(&name).is_none();
    let mut user = amqp::open(&api, &caller, &host).await?;
    user.channel.declare_queue(&declare).await.map_err(amqp::refused)?;
    user.close().await.map_err(amqp::refused)?;
    Ok(if is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT })
}

/// When a queue is deleted.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct DeleteQuery {
    /// `true` if only without consumers.
    if_unused: Option<String>,
    /// `true` if only without ready messages.
    if_empty: Option<String>,
}

async fn remove(
    caller: Caller,
    Names((host, name)): Names<(String, String)>,
    Query(query): Query<DeleteQuery>,
    State(api): State<Shared>,
) -> Result<StatusCode, ApiError> {
    let host = caller.own_host(&api, &host)?;
    queue(&host, &name)?;
    let is_true = |flag: &Option<String>| flag.as_deref() == Some("true");
    let mut user = amqp::open(&api, &caller, &host).await?;
    let deleted = user.channel.delete_queue(&name, is_true(&query.if_unused), is_true(&query.if_empty)).await;
    deleted.map_err(amqp::refused)?;
    user.close().await.map_err(amqp::refused)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn purge(
    caller: Caller,
    Names((host, name)): Names<(String, String)>,
    State(api): State<Shared>,
) -> Result<StatusCode, ApiError> {
    let host = caller.own_host(&api, &host)?;
    queue(&host, &name)?;
    let mut user = amqp::open(&api, &caller, &host).await?;
    user.channel.purge_queue(&name).await.map_err(amqp::refused)?;
    user.close().await.map_err(amqp::refused)?;
    Ok(StatusCode::NO_CONTENT)
}

/// There are no mirrors that `sync` and `cancel_sync` could be about.
async fn act(
    Administrator(caller): Administrator,
    Names((host, name)): Names<(String, String)>,
    State(api): State<Shared>,
    fields: Fields,
) -> Result<StatusCode, ApiError> {
    queue(&*caller.own_host(&api, &host)?, &name)?;
    fields.require(&["action"])?;
    match fields.get("action") {
        Some(Value::String(action)) if action == "sync" || action == "cancel_sync" => {
            Ok(StatusCode::NO_CONTENT)
        }
        action => Err(ApiError::bad_request_of("unknown", action.unwrap_or(&Value::Null))),
    }
}
