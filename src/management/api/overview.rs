//! `/api/overview`, `/api/cluster-name` and `/api/version`: the broker as a whole.

use axum::{Json, Router, extract::State, http::StatusCode, response::Response, routing::get};
use serde_json::{Map, Value, json};

use super::connections;
use crate::{
    broker::{exchange::ExchangeKind, stats::MessageCounts, vhost::VirtualHost},
    management::{
        Api, Listening, Shared,
        body::Fields,
        caller::{Administrator, Caller, Tag},
        error::ApiError,
        list::ListQuery,
        rates::{Object, View},
        sampler::churn,
    },
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/overview", get(overview))
        .route("/cluster-name", get(cluster_name).put(set_cluster_name))
        .route("/version", get(version))
}

/// What there is, and how much of it. Who is no monitor is shown what is in the virtual hosts that he may use, and
/// nothing of the node (RabbitMQ).
async fn overview(State(api): State<Shared>, caller: Caller, query: ListQuery) -> Response {
    let mut overview = about(&api, &query);
    if caller.has(Tag::Monitoring) {
        put_totals(&api, &query, &mut overview);
        overview.insert("node".into(), api.node().into());
        overview.insert("listeners".into(), listeners(&api));
        overview.insert("contexts".into(), contexts(&api));
    } else {
        put_own_totals(&api, &caller, &query, &mut overview).await;
    }
    query.one(Value::Object(overview))
}

/// What does not change.
fn about(api: &Api, query: &ListQuery) -> Map<String, Value> {
    let identity = &api.broker.identity;
    let about = json!({
        "management_version": identity.version,
        "rabbitmq_version": identity.version,
        "product_name": identity.product,
        "product_version": identity.version,
        "leveret_version": env!("CARGO_PKG_VERSION"),
        "erlang_version": ERLANG_VERSION,
        "erlang_full_version": concat!("Leveret ", env!("CARGO_PKG_VERSION"), ", which is not written in Erlang"),
        "release_series_support_status": "supported",
        "cluster_name": identity.cluster_name,
        "cluster_tags": {},
        "node_tags": {},
        "rates_mode": "basic",
        "sample_retention_policies": {"global": [600, 3600, 28800, 86400], "basic": [600, 3600], "detailed": [600]},
        "exchange_types": exchange_types(),
        "disable_stats": query.disable_stats,
        "enable_queue_totals": query.enable_queue_totals,
        "statistics_db_event_queue": 0,
    });
    match about {
        Value::Object(about) => about,
        _ => Map::new(),
    }
}

/// Clients that ask for it want one that RabbitMQ's version runs on.
const ERLANG_VERSION: &str = "26.2.5";

fn put_totals(api: &Api, query: &ListQuery, overview: &mut Map<String, Value>) {
    let stats = &api.broker.stats;
    let hosts = api.broker.virtual_hosts();
    let count = |count: fn(&VirtualHost) -> usize| -> usize { hosts.iter().map(|host| count(host)).sum() };
    let totals = json!({
        "connections": stats.connections.get(),
        "channels": stats.channels.get(),
        "consumers": stats.consumers.get(),
        "exchanges": count(|host| host.exchange_count()),
        "queues": hosts.iter().map(|host| host.queue_count()).sum::<u64>(),
    });
    overview.insert("object_totals".into(), totals);
    if query.disable_stats && !query.enable_queue_totals {
        return;
    }
    let view = api.rates.of(Object::Totals, &query.ranges, api.now().unix_ms);
    let mut lengths = Map::new();
    view.put_lengths(&mut lengths, stats.ready.get(), stats.unacked.get());
    overview.insert("queue_totals".into(), lengths.into());
    if query.disable_stats {
        return;
    }
    let mut messages = view.message_stats(&stats.messages.counts()).unwrap_or_default();
    view.put_disk(&mut messages, stats.disk_reads.get(), stats.disk_writes.get());
    overview.insert("message_stats".into(), messages.into());
    overview.insert("churn_rates".into(), view.churn(churn(&api.broker)).into());
}

/// The totals of what a user sees who does not see everything. Nobody samples them, so their rates are not known.
async fn put_own_totals(api: &Shared, caller: &Caller, query: &ListQuery, overview: &mut Map<String, Value>) {
    let hosts = caller.visible_hosts(api);
    let connections = connections::visible(api, caller);
    let channels: Vec<_> = connections.iter().flat_map(|connection| connection.channels()).collect();
    let totals = json!({
        "connections": connections.len(),
        "channels": channels.len(),
        "consumers": channels.iter().map(|(_, channel)| channel.consumers.get()).sum::<u64>(),
        "exchanges": hosts.iter().map(|host| host.exchange_count()).sum::<usize>(),
        "queues": hosts.iter().map(|host| host.queue_count()).sum::<u64>(),
    });
    overview.insert("object_totals".into(), totals);
    let now = api.now();
    let summed = tokio::task::spawn_blocking(move || {
        let queues = hosts.iter().flat_map(|host| host.queues());
        queues.fold((0, 0, MessageCounts::default()), |(ready, unacked, counts), queue| {
            let figures = queue.lock().figures(now);
            (ready + figures.ready, unacked + figures.unacked, add(counts, queue.messages.counts()))
        })
    });
    let (ready, unacked, counts) = summed.await.unwrap_or_default();
    let view = View::unknown(Object::Totals);
    let mut lengths = Map::new();
    view.put_lengths(&mut lengths, ready, unacked);
    overview.insert("queue_totals".into(), lengths.into());
    if !query.disable_stats {
        let messages = view.message_stats(&counts).unwrap_or_default();
        overview.insert("message_stats".into(), messages.into());
        overview.insert("churn_rates".into(), json!({}));
    }
}

fn add(a: MessageCounts, b: MessageCounts) -> MessageCounts {
    MessageCounts {
        publish: a.publish + b.publish,
        confirm: a.confirm + b.confirm,
        return_unroutable: a.return_unroutable + b.return_unroutable,
        drop_unroutable: a.drop_unroutable + b.drop_unroutable,
        deliver: a.deliver + b.deliver,
        deliver_no_ack: a.deliver_no_ack + b.deliver_no_ack,
        get: a.get + b.get,
        get_no_ack: a.get_no_ack + b.get_no_ack,
        get_empty: a.get_empty + b.get_empty,
        redeliver: a.redeliver + b.redeliver,
        ack: a.ack + b.ack,
    }
}

/// Every listener, as RabbitMQ shows it.
fn listeners(api: &Api) -> Value {
    let listener = |listener: &Listening| {
        json!({
            "node": api.node(),
            "protocol": listener.protocol,
            "ip_address": listener.address.ip().to_string(),
            "port": listener.address.port(),
            "socket_opts": {"backlog": api.config.limits.tcp_backlog, "nodelay": true},
        })
    };
    api.listeners.iter().map(listener).collect()
}

/// What is served over HTTP.
pub(super) fn contexts(api: &Api) -> Value {
    let of_http = api.listeners.iter().filter(|listener| listener.protocol.starts_with("http"));
    let context = |listener: &Listening| {
        let is_metrics = listener.protocol.ends_with("/prometheus");
        json!({
            "node": api.node(),
            "description": if is_metrics { "RabbitMQ Prometheus" } else { "RabbitMQ Management" },
            "path": "/",
            "ip": listener.address.ip().to_string(),
            "port": listener.address.port().to_string(),
            "protocol": listener.protocol,
            "ssl_opts": [],
        })
    };
    of_http.map(context).collect()
}

/// Every type of exchange, as RabbitMQ describes it.
pub(super) fn exchange_types() -> Value {
    let kind = |kind: ExchangeKind| {
        let description = match kind {
            ExchangeKind::Direct => "AMQP direct exchange, as per the AMQP specification",
            ExchangeKind::Fanout => "AMQP fanout exchange, as per the AMQP specification",
            ExchangeKind::Topic => "AMQP topic exchange, as per the AMQP specification",
            ExchangeKind::Headers => "AMQP headers exchange, as per the AMQP specification",
            ExchangeKind::ConsistentHash => "Consistent Hashing Exchange",
            ExchangeKind::ModulusHash => "Modulus Hashing Exchange",
            ExchangeKind::Random => "Random Exchange",
            ExchangeKind::LocalRandom => "Local Random Exchange",
            ExchangeKind::RecentHistory => "Recent History Exchange",
            ExchangeKind::DelayedMessage => "Delayed Message Exchange",
            ExchangeKind::MessageDeduplication => "Message Deduplication Exchange",
        };
        json!({"name": kind.name(), "description": description, "enabled": true})
    };
    ExchangeKind::ALL.into_iter().map(kind).collect()
}

async fn cluster_name(State(api): State<Shared>, _: Caller) -> Json<Value> {
    Json(json!({"name": api.broker.identity.cluster_name}))
}

/// Deviation: the name is what the configuration says, which clients have been told already. RabbitMQ changes it.
async fn set_cluster_name(
    State(api): State<Shared>,
    _: Administrator,
    fields: Fields,
) -> Result<StatusCode, ApiError> {
    let own = &api.broker.identity.cluster_name;
    if fields.expect_text("name")? == own {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(ApiError::bad_request(format!(
        "the name of the cluster is '{own}': set compatibility.cluster_name in broker.toml and restart"
    )))
}

/// The version, without a login (RabbitMQ 4.1).
async fn version(State(api): State<Shared>) -> Json<Value> {
    Json(Value::from(api.broker.identity.version.as_str()))
}
