//! `/api/exchanges`: what there is, declaring, deleting and publishing.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    broker::{exchange::Exchange, vhost::VirtualHost},
    client::{ExchangeDeclare, Published},
    json::from_table,
    management::{
        Shared, amqp,
        body::{Fields, MessageFields},
        caller::Caller,
        error::ApiError,
        list::{ListQuery, Row},
        message::{payload_from, properties_from},
        path::{Names, check_name, exchange_name},
        rates::{Object, Ranges},
    },
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/exchanges", get(list_all))
        .route("/exchanges/{vhost}", get(list_in_host))
        .route("/exchanges/{vhost}/", get(list_in_host))
        .route("/exchanges/{vhost}/{exchange}", get(one).put(declare).delete(delete))
        .route("/exchanges/{vhost}/{exchange}/publish", post(publish))
        .route("/exchanges/{vhost}//publish", post(publish_to_default))
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
    let exchanges: Vec<_> = hosts.iter().flat_map(|host| host.exchanges()).collect();
    let (with_stats, ranges) = (!query.disable_stats, query.ranges);
    let render = move |exchange: &Arc<Exchange>| {
        let stats = with_stats.then(|| stats(&api, exchange, &ranges)).flatten();
        Value::Object(shown(exchange, stats))
    };
    query.list(exchanges, render).await
}

async fn one(
    caller: Caller,
    Names((host, name)): Names<(String, String)>,
    query: ListQuery,
    State(api): State<Shared>,
) -> Result<Response, ApiError> {
    let host = caller.visible_host(&api, &host)?;
    let exchange = host.exchange(exchange_name(&name)).ok_or(ApiError::NotFound)?;
    api.rates.asked(api.now().unix_ms);
    let mut object = shown(&exchange, stats(&api, &exchange, &query.ranges));
    // Which channels publish to it is not counted.
    object.insert("incoming".to_owned(), json!([]));
    object.insert("outgoing".to_owned(), json!([]));
    Ok(query.one(Value::Object(object)))
}

fn stats(api: &Shared, exchange: &Exchange, ranges: &Ranges) -> Option<Map<String, Value>> {
    let view = api.rates.of(Object::Exchange(exchange.id), ranges, api.now().unix_ms);
    view.exchange_stats(&exchange.published_in, &exchange.published_out)
}

/// An exchange as RabbitMQ shows it, and how many messages it delays, if it does.
fn shown(exchange: &Exchange, stats: Option<Map<String, Value>>) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| _ = object.insert(name.to_owned(), value);
    let properties = &exchange.properties;
    put("name", (*exchange.name).into());
    put("vhost", (*exchange.virtual_host).into());
    put("type", properties.kind.name().into());
    put("durable", properties.durable.into());
    put("auto_delete", properties.auto_delete.into());
    put("internal", properties.internal.into());
    put("arguments", from_table(&properties.table));
    let policies = exchange.policies();
    // RabbitMQ says so of exchanges that have one.
    if let Some(policy) = &policies.policy {
        put("policy", (*policy.name).into());
    }
    if let Some(operator) = &policies.operator {
        put("operator_policy", (*operator.name).into());
    }
    if let Some(queue) = exchange.delay_queue() {
        put("messages_delayed", queue.lock().ready_count().into());
    }
    if let Some(stats) = stats {
        put("message_stats", Value::Object(stats));
    }
    object
}

impl Row for Arc<Exchange> {
    fn virtual_host(&self) -> &str {
        &self.virtual_host
    }

    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.name)
    }

    fn column(&self, column: &str) -> Option<Value> {
        Some(match column {
            "type" => self.properties.kind.name().into(),
            "durable" => self.properties.durable.into(),
            "message_stats.publish_in" => self.published_in.get().into(),
            "message_stats.publish_out" => self.published_out.get().into(),
            _ => return None,
        })
    }
}

async fn declare(
    caller: Caller,
    Names((host, name)): Names<(String, String)>,
    State(api): State<Shared>,
    fields: Fields,
) -> Result<StatusCode, ApiError> {
    let host = amqp::host(&api, &caller, &host)?;
    check_name("exchange", &name)?;
    let declare = ExchangeDeclare {
        exchange: &name,
        kind: fields.text("type")?.unwrap_or("direct"),
        passive: false,
        durable: fields.flag("durable")?.unwrap_or(false),
        auto_delete: fields.flag("auto_delete")?.unwrap_or(false),
        internal: fields.flag("internal")?.unwrap_or(false),
        arguments: fields.table("arguments")?,
    };
    let is_new = host.exchange(&name).is_none();
    let mut user = amqp::open(&api, &caller, &host).await?;
    user.channel.declare_exchange(&declare).await.map_err(amqp::refused)?;
    user.close().await.map_err(amqp::refused)?;
    Ok(if is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT })
}

/// When an exchange is deleted.
#[derive(Debug, Deserialize)]
struct DeleteQuery {
    /// `true` if only without bindings.
    #[serde(rename = "if-unused")]
    if_unused: Option<String>,
}

async fn delete(
    caller: Caller,
    Names((host, name)): Names<(String, String)>,
    Query(query): Query<DeleteQuery>,
    State(api): State<Shared>,
) -> Result<StatusCode, ApiError> {
    let host = caller.own_host(&api, &host)?;
    let name = exchange_name(&name);
    host.exchange(name).ok_or(ApiError::NotFound)?;
    let mut user = amqp::open(&api, &caller, &host).await?;
    let if_unused = query.if_unused.as_deref() == Some("true");
    user.channel.delete_exchange(name, if_unused).await.map_err(amqp::refused)?;
    user.close().await.map_err(amqp::refused)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn publish_to_default(
    caller: Caller,
    Names(host): Names<String>,
    state: State<Shared>,
    fields: Result<MessageFields, ApiError>,
) -> Result<Json<Value>, ApiError> {
    publish(caller, Names((host, String::new())), state, fields).await
}

async fn publish(
    caller: Caller,
    Names((host, name)): Names<(String, String)>,
    State(api): State<Shared>,
    fields: Result<MessageFields, ApiError>,
) -> Result<Json<Value>, ApiError> {
    let MessageFields(fields) = fields.map_err(|error| match error {
        ApiError::TooLarge(text) => ApiError::TooLarge(format!("{text}: publish such a message over AMQP")),
        other => other,
    })?;
    let host = amqp::host(&api, &caller, &host)?;
    fields.require(&["routing_key", "properties", "payload", "payload_encoding"])?;
    let routing_key = match fields.get("routing_key") {
        Some(Value::String(key)) => key.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => return Err(ApiError::bad_request_of("not_string", &"routing_key".into())),
    };
    check_name("routing_key", &routing_key)?;
    check_name("exchange", &name)?;
    let (payload, properties) = (payload_from(&fields)?, properties_from(&fields.object("properties")?)?);
    drop(fields);
    if let Some(reason) = api.broker.alarms.reason() {
        // Over AMQP, the publisher would wait until the alarm clears.
        return Err(ApiError::Unavailable(format!("Publishing is blocked: {reason}")));
    }
    let mut user = amqp::open(&api, &caller, &host).await?;
    let (exchange, key) = (exchange_name(&name).as_bytes(), routing_key.as_bytes());
    let published = user.channel.publish_confirmed(exchange, key, true, &properties, &payload).await;
    let published = published.map_err(|error| amqp::refused_in_full(&error))?;
    user.close().await.map_err(|error| amqp::refused_in_full(&error))?;
    Ok(Json(json!({"routed": published == Published::Routed})))
}
